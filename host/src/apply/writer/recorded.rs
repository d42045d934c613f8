//! Records of changes that were not written (L3): decided by the policy, or open until somebody decides.
//!
//! The row's key and content are read where they are, so that no value of the row passes through the host.

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::locked::keys_of;
use super::{Writer, number};
use crate::apply::conflict::PARKED;
use crate::apply::encode::Ready;
use crate::apply::fault;
use crate::apply::statement::{self, Parameter};
use crate::delta::Key;
use crate::lsn::Lsn;
use crate::names::quote_text;
use crate::plan::Target;
use crate::problem::{Blame, Outcome, Problem};

/// A change that was not written, for people to look at.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// The row.
    pub key: Key,
    /// A digest of table and key.
    pub digest: [u8; 16],
    /// `update`, `insert`, `delete`, `unique` or `parent`.
    pub kind: &'static str,
    /// The commit position of the change.
    pub position: Lsn,
    /// What it would have written, as JSON; `None` for a delete.
    pub values: Option<String>,
    /// The side that won.
    pub winner: Option<&'static str>,
    /// The source row, if the other link ever writes it.
    pub source: Option<LostFrom>,
    /// The keys of the rows that hold the unique value, or of the parent that waits, as JSON.
    pub held_by: Option<String>,
    /// The rows of which one stands for the record, if they are several.
    pub record: Vec<LostRow>,
}

/// One of the rows that stand for the record of a change that was not written.
#[derive(Clone, Debug)]
pub struct LostRow {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// The row.
    pub key: Key,
    /// What the host knows of it, as a JSON object: table, digest, whether it is a detail, what the change makes of it.
    pub told: String,
}

/// The source row of a change that was not written.
#[derive(Clone, Debug)]
pub struct LostFrom {
    /// Its table.
    pub table: String,
    /// Its key, as JSON.
    pub key: String,
    /// The digest by which the other link knows it.
    pub digest: [u8; 16],
}

impl Writer<'_> {
    /// Records changes that lost, with what their rows hold instead, in the open transaction.
    pub async fn record(&mut self, lost: &[Lost]) -> Outcome<()> {
        for lost in lost {
            self.keep(lost, false).await?;
        }
        Ok(())
    }

    /// Records a change that nobody has decided, in the open transaction or, without one, in its own; once, however often
    /// the link comes to it. The record's number.
    pub async fn record_open(&mut self, lost: &Lost) -> Outcome<i64> {
        self.keep(lost, true).await?.ok_or_else(|| {
            Problem::retry(Blame::Target, "CONFLICT_UNRECORDED", "the record of a conflict went away while it was made")
        })
    }

    async fn keep(&mut self, lost: &Lost, open: bool) -> Outcome<Option<i64>> {
        match self.try_keep(lost, open).await {
            Ok(id) => Ok(id),
            Err(error) => {
                let problem = fault::written(&error, self.strict, Some(&self.plan.targets[lost.target]));
                Err(self.give_up(problem).await)
            }
        }
    }

    async fn try_keep(&mut self, lost: &Lost, open: bool) -> Result<Option<i64>, tokio_postgres::Error> {
        let target = &self.plan.targets[lost.target];
        let (described, mut ready) = keys_of(target, std::slice::from_ref(&lost.key));
        let sql = sql(target, &described, ready.len(), open);
        let bytes = |bytes: &[u8]| Ready(Bytes::copy_from_slice(bytes));
        let text = |text: Option<&str>| bytes(text.unwrap_or_default().as_bytes());
        let source = lost.source.as_ref();
        ready.extend([
            text(Some(&self.identity.migration)),
            text(Some(self.identity.link.name())),
            number(lost.position.0 as i64),
            text(Some(lost.kind)),
            text(Some(&target.name.to_string())),
            bytes(&lost.digest),
            text(lost.values.as_deref()),
            text(lost.winner),
            text(source.map(|source| source.table.as_str())),
            text(source.map(|source| source.key.as_str())),
            bytes(source.map_or(&[], |source| source.digest.as_slice())),
            text(lost.held_by.as_deref()),
        ]);
        let statement = self.statements.get(self.client, sql).await?;
        let rows = self.client.query_raw(&statement, ready).await?;
        let ids: Vec<i64> = rows.map_ok(|row| row.get::<_, i64>(0)).try_collect().await?;
        if let Some(id) = ids.first() {
            for row in &lost.record {
                self.add_row(*id, row).await?;
            }
        }
        Ok(ids.first().copied())
    }

    /// Adds a row, as it stands now, to what a record is about.
    async fn add_row(&mut self, id: i64, row: &LostRow) -> Result<(), tokio_postgres::Error> {
        let target = &self.plan.targets[row.target];
        let (described, mut ready) = keys_of(target, std::slice::from_ref(&row.key));
        let (rows, found) = statement::keyed(target, &described);
        let sql = format!(
            "UPDATE falkirk.conflict AS c SET record = coalesce(c.record, '[]') || jsonb_build_array(${}::text::jsonb \
             || jsonb_build_object('key', jsonb_build_object({}), 'kept', to_jsonb(t.*))) \
             FROM {rows} LEFT JOIN {} AS t ON {found} WHERE c.id = ${}::bigint",
            ready.len() + 1,
            key_of(target),
            target.name.sql(),
            ready.len() + 2,
        );
        ready.extend([Ready(Bytes::copy_from_slice(row.told.as_bytes())), number(id)]);
        let statement = self.statements.get(self.client, sql).await?;
        self.client.query_raw(&statement, ready).await?.try_collect::<Vec<_>>().await.map(drop)
    }
}

/// What is recorded of a change that an operator has decided already stays as it is; an open one is brought up to date.
fn sql(target: &Target, described: &[Parameter], keys: usize, open: bool) -> String {
    let (rows, found) = statement::keyed(target, described);
    let parameter = |at: usize, kind: &str| format!("nullif(${}::{kind}, '')", keys + at);
    let columns = "migration, link, position, kind, target_table, key_digest, lost, winner, source_table, source_key, \
        source_digest, held_by, key, kept";
    let fresh = format!(
        "WITH fresh AS (SELECT {} AS migration, {} AS link, ${}::pg_lsn AS position, {} AS kind, {} AS target_table, \
         {} AS key_digest, {}::jsonb AS lost, {} AS winner, {} AS source_table, {}::jsonb AS source_key, \
         {} AS source_digest, {}::jsonb AS held_by, jsonb_build_object({}) AS key, to_jsonb(t.*) AS kept \
         FROM {rows} LEFT JOIN {} AS t ON {found})",
        parameter(1, "text"),
        parameter(2, "text"),
        keys + 3,
        parameter(4, "text"),
        parameter(5, "text"),
        parameter(6, "bytea"),
        parameter(7, "text"),
        parameter(8, "text"),
        parameter(9, "text"),
        parameter(10, "text"),
        parameter(11, "bytea"),
        parameter(12, "text"),
        key_of(target),
        target.name.sql(),
    );
    let same = "c.migration = f.migration AND c.link = f.link AND c.key_digest = f.key_digest AND c.kind = f.kind";
    match open {
        false => format!(
            "{fresh} INSERT INTO falkirk.conflict ({columns}, state) SELECT {columns}, 'decided' FROM fresh AS f \
             WHERE NOT EXISTS (SELECT FROM falkirk.conflict AS c WHERE {same} AND c.position = f.position \
             AND c.state = 'resolved') RETURNING id"
        ),
        true => format!(
            "{fresh}, known AS (UPDATE falkirk.conflict AS c SET state = 'open', position = f.position, \
             lost = CASE WHEN c.kind IN {PARKED} THEN c.lost || f.lost ELSE f.lost END, kept = f.kept, held_by = f.held_by, \
             record = NULL, winner = NULL, taken = NULL, resolved_at = NULL, resolved_by = NULL, resolved_position = NULL \
             FROM fresh AS f WHERE {same} AND (c.position = f.position OR (c.kind IN {PARKED} AND c.state = 'open')) \
             RETURNING c.id), \
             made AS (INSERT INTO falkirk.conflict ({columns}, state) SELECT {columns}, 'open' FROM fresh \
             WHERE NOT EXISTS (SELECT FROM known) RETURNING id) \
             SELECT id FROM known UNION ALL SELECT id FROM made"
        ),
    }
}

/// The key of a row `s` of keys, by name.
fn key_of(target: &Target) -> String {
    let name = |column: &u16| quote_text(&target.columns[usize::from(*column)].name);
    let key = target.key.iter().enumerate().map(|(at, column)| format!("{}, s.v{at}", name(column)));
    key.collect::<Vec<_>>().join(", ")
}
