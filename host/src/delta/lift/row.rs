//! The rows that one image of a source row stands for, out of the guest's answer.

use crate::change::{Datum, Image};
use crate::delta::Key;
use crate::delta::ask::exists;
use crate::plan::{Answer, Filling, Output, Source};

use super::LiftError;

/// One row of one output on one side of a change.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) image: &'a Image,
    pub(super) values: &'a [Datum],
}

impl Row<'_> {
    pub(super) fn datum(&self, filling: Filling) -> Datum {
        match filling {
            Filling::Copied(cell) | Filling::Mapped(cell) => self.image.datum(cell),
            Filling::Computed(value) => self.values.get(value).cloned().unwrap_or(Datum::Unset),
        }
    }
}

/// The rows of one output for one image, out of the guest's answer.
pub(super) fn rows<'a>(
    source: &Source,
    index: usize,
    image: &'a Image,
    answer: Option<&'a Answer>,
) -> Result<Vec<Row<'a>>, LiftError> {
    let output = &source.rule.outputs[index];
    if !exists(output, image) {
        return Ok(Vec::new());
    }
    let Some(answer) = answer.filter(|_| output.needs_guest()) else {
        return Ok(vec![Row { image, values: &[] }]);
    };
    let found: Vec<Row<'a>> =
        answer.iter().filter(|row| row.output == index).map(|row| Row { image, values: &row.values }).collect();
    if found.is_empty() && output.when.is_none() && !output.many {
        return Err(LiftError::Missing(index));
    }
    Ok(found)
}

/// The row of an output that is not `many`.
pub(super) fn one(rows: Vec<Row<'_>>) -> Option<Row<'_>> {
    debug_assert!(rows.len() < 2, "the transform stage refuses two rows of an output that is not many");
    rows.into_iter().next()
}

/// The key of an output's row.
pub(super) fn key(output: &Output, index: usize, row: Row<'_>) -> Result<Key, LiftError> {
    let part = |filling: &Filling| match row.datum(*filling) {
        Datum::Null | Datum::Unset => Err(LiftError::NoKey(index)),
        text => Ok(text),
    };
    output.key.iter().map(part).collect()
}
