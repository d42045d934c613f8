//! What rows depend on besides themselves: key maps and related rows. Only names; the host does the rest.

#![forbid(unsafe_code)]

use std::marker::PhantomData;

use crate::manifest::TableName;

/// Whose missing keys the host may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creates {
    /// Blue's, for green keys without a partner.
    Blue,
    /// Green's, for blue keys without a partner.
    Green,
    /// Either.
    Both,
}

/// A declared key map. Made by [`Step::map`](crate::Step::map).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map(pub(crate) &'static str);

impl Map {
    /// The partner of the value in this source column.
    pub fn of(self, source_column: &str) -> Mapped {
        Mapped { map: self, column: source_column.into() }
    }
}

/// A key found through a map. Made by [`Map::of`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub(crate) map: Map,
    pub(crate) column: String,
}

/// Where a patch finds a value of the key of its row: a source column by name, or a [`Mapped`] key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// In this source column.
    Column(String),
    /// Through a map.
    Mapped(Mapped),
}

impl From<&str> for Matched {
    fn from(column: &str) -> Self {
        Matched::Column(column.into())
    }
}

impl From<Mapped> for Matched {
    fn from(mapped: Mapped) -> Self {
        Matched::Mapped(mapped)
    }
}

/// Rows of another table that a rule asks for. Made by [`Rule::related`](crate::Rule::related).
#[derive(Debug)]
pub struct Related<R> {
    pub(crate) number: usize,
    pub(crate) row: PhantomData<fn() -> R>,
}

impl<R> Clone for Related<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Related<R> {}

pub(crate) struct RelatedTable {
    pub(crate) table: TableName,
    pub(crate) on: Vec<(String, String)>,
    pub(crate) columns: &'static [(&'static str, bool)],
}
