//! Taking what lost where one of several tables holds the row: the record is written as a whole, so that it stands in one
//! of them.
//!
//! | the change made of a row | it was there | it was not |
//! |---|---|---|
//! | a row | gets the change's values | is inserted |
//! | nothing | is deleted | stays away |
//!
//! Everything in one transaction and under locks, and only if each of the rows is what was recorded of it.

use serde::{Deserialize, Deserializer};

use super::resolve::Deed;
use super::{Columns, Record, found, literal, of_link, record, side};
use crate::names::{TableName, quote_name, quote_text};
use crate::problem::{Blame, Outcome, Problem};

/// One of the rows that may stand for a record.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RecordRow {
    pub(super) table: TableName,
    key: Columns,
    /// It only describes the row.
    pub(super) detail: bool,
    /// What it was.
    kept: Option<Columns>,
    /// What the change made of it; without a word on it, nobody knows.
    #[serde(default, deserialize_with = "said")]
    lost: Option<Option<Columns>>,
}

fn said<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<Columns>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// What is done to a row.
#[derive(Debug, PartialEq, Eq)]
enum Act<'r> {
    Insert(&'r Columns),
    Update(&'r Columns),
    Delete,
    Leave,
}

impl RecordRow {
    pub(super) fn was_there(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether the change puts a row there.
    pub(super) fn comes(&self) -> bool {
        matches!(self.lost, Some(Some(_)))
    }

    /// `row_comes`: whether the change puts the row itself anywhere.
    fn act(&self, row_comes: bool) -> Act<'_> {
        match (&self.lost, &self.kept) {
            (Some(Some(values)), None) => Act::Insert(values),
            (Some(Some(values)), Some(_)) => Act::Update(values),
            (Some(None), Some(_)) => Act::Delete,
            // One of the tables holds the row, and another one does.
            (None, Some(_)) if row_comes && !self.detail => Act::Delete,
            (_, _) => Act::Leave,
        }
    }

    fn found(&self) -> String {
        found(&self.key)
    }

    /// Whether the row is what was recorded as the `at`th of a record: what is written over, or all of it.
    fn is_unchanged(&self, act: &Act<'_>, number: i64, at: usize) -> String {
        let kept = format!("nullif(c.record -> {at} -> 'kept', 'null')");
        let same = match act {
            Act::Update(_) => format!(
                "to_jsonb(t.*) IS NOT NULL AND NOT EXISTS (SELECT FROM jsonb_object_keys(c.record -> {at} -> 'lost') AS k \
                 WHERE (to_jsonb(t.*) -> k) IS DISTINCT FROM ({kept} -> k))"
            ),
            Act::Insert(_) | Act::Delete | Act::Leave => format!("to_jsonb(t.*) IS NOT DISTINCT FROM {kept}"),
        };
        let (table, found) = (self.table.sql(), self.found());
        format!("SELECT {same} FROM falkirk.conflict AS c LEFT JOIN {table} AS t ON {found} WHERE c.id = {number}")
    }

    fn deed(&self, act: &Act<'_>) -> Option<String> {
        let (table, found) = (self.table.sql(), self.found());
        match act {
            Act::Insert(values) => {
                let names: Vec<String> = values.keys().map(|name| quote_name(name)).collect();
                let values: Vec<String> = values.values().map(literal).collect();
                let (names, values) = (names.join(", "), values.join(", "));
                Some(format!("INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})"))
            }
            Act::Update(values) => {
                let others = values.iter().filter(|(name, _)| !self.key.contains_key(*name));
                let set = others.map(|(name, value)| format!("{} = {}", quote_name(name), literal(value)));
                let set = set.collect::<Vec<_>>().join(", ");
                (!set.is_empty()).then(|| format!("UPDATE {table} AS t SET {set} WHERE {found}"))
            }
            Act::Delete => Some(format!("DELETE FROM {table} AS t WHERE {found}")),
            Act::Leave => None,
        }
    }
}

impl Record {
    /// Whether the change concerned if, or in which table, the row is there.
    pub(super) fn is_of_existence(&self) -> bool {
        let Some(own) = self.rows.iter().find(|row| row.table == self.table) else { return false };
        match own.detail {
            true => self.rows.iter().all(|row| row.detail || !row.was_there()),
            false => self.kind != "update" || !self.was_there,
        }
    }

    /// The table in which the row itself stood and the one in which the change has it, if those are two.
    pub(super) fn moved(&self) -> Option<[&TableName; 2]> {
        let table = |is: fn(&RecordRow) -> bool| {
            let mut rows = self.rows.iter().filter(|row| !row.detail);
            rows.find(|row| is(row)).map(|row| &row.table)
        };
        let [from, to] = [table(RecordRow::was_there)?, table(RecordRow::comes)?];
        (from != to).then_some([from, to])
    }
}

impl Deed<'_> {
    /// The records of one change of a row, this one among them, if that change is taken or left as a whole.
    pub(super) async fn of_one_change(&self) -> Outcome<Vec<Record>> {
        let own = self.record;
        // Of one row of the other side, or of several that stand for one here.
        let row = quote_text(&format!("[{{\"digest\": \"{}\"}}]", own.digest));
        let same = match &own.source_digest {
            Some(digest) => {
                format!("(ltrim(c.j ->> 'source_digest', '\\x') = {} OR c.j -> 'record' @> {row})", quote_text(digest))
            }
            None => format!("c.j -> 'record' @> {row}"),
        };
        let select = format!(
            "{} WHERE {} AND c.state = 'decided' AND c.j ->> 'record' IS NOT NULL \
             AND (c.id = {} OR (c.position = {}::pg_lsn AND {same})) ORDER BY c.id",
            super::SELECT,
            of_link(self.settings, own.link),
            own.number,
            quote_text(&own.position),
        );
        let rows = self.session.rows(&select).await?;
        let records: Vec<Record> = rows.iter().map(|row| record(row, own.link)).collect::<Outcome<_>>()?;
        Ok(if records.iter().any(Record::is_of_existence) { records } else { Vec::new() })
    }

    /// Writes what one change made of its record. What was done, in words.
    pub(super) async fn write_whole(&self, records: &[Record]) -> Outcome<String> {
        let session = self.session;
        let mut rows: Vec<(&RecordRow, Act<'_>, i64, usize)> = Vec::new();
        for record in records {
            let owners = || record.rows.iter().filter(|row| !row.detail);
            if owners().all(|row| row.lost.is_none()) {
                return Err(self.unknown());
            }
            let row_comes = owners().any(RecordRow::comes);
            for (at, row) in record.rows.iter().enumerate() {
                if !rows.iter().any(|(known, ..)| known.table == row.table && known.key == row.key) {
                    rows.push((row, row.act(row_comes), record.number, at));
                }
            }
        }
        self.lock_rows(records).await?;
        for (row, act, number, at) in &rows {
            if !session.one(&row.is_unchanged(act, *number, *at)).await?.flag(0)? {
                return Err(self.changed_since(super::resolve::ROW_MOVED_ON));
            }
        }
        // Details go before their row, and come after it.
        let deletes = rows.iter().rev().filter(|(_, act, ..)| *act == Act::Delete);
        let writes = rows.iter().filter(|(_, act, ..)| *act != Act::Delete);
        for deed in deletes.chain(writes).filter_map(|(row, act, ..)| row.deed(act)) {
            session.run(&deed).await?;
        }
        let numbers: Vec<i64> = records.iter().map(|record| record.number).collect();
        self.note_all(session, "state = 'resolved'", &numbers).await?;
        let (lost, kept) = (side(self.record.link.other()), side(self.record.link));
        let comes = self.record.rows.iter().any(|row| !row.detail && row.comes());
        Ok(match self.record.moved() {
            Some([from, to]) => format!("the row of {kept} goes from {from} to {to}, as {lost} has it"),
            None if comes => format!("{lost}'s row is written to {kept} as a whole"),
            None => format!("the row of {kept} is deleted, as on {lost}"),
        })
    }

    /// Locks all rows that may stand for records.
    pub(super) async fn lock_rows(&self, records: &[Record]) -> Outcome<()> {
        for row in records.iter().flat_map(|record| &record.rows) {
            let lock = format!("SELECT FROM {} AS t WHERE {} FOR UPDATE", row.table.sql(), row.found());
            self.session.run(&lock).await?;
        }
        Ok(())
    }

    /// Whether the row itself has gone from its table since, or has come to another one.
    pub(super) async fn has_moved(&self) -> Outcome<bool> {
        for row in self.record.rows.iter().filter(|row| !row.detail) {
            let find = format!("SELECT FROM {} AS t WHERE {}", row.table.sql(), row.found());
            if self.session.rows(&find).await?.is_empty() == row.was_there() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings what is recorded of the rows up to date, locked: how many have changed.
    pub(super) async fn refresh_rows(&self) -> Outcome<u64> {
        self.lock_rows(std::slice::from_ref(self.record)).await?;
        let mut changed = 0;
        for (at, row) in self.record.rows.iter().enumerate() {
            let refresh = format!(
                "UPDATE falkirk.conflict AS c SET record = jsonb_set(c.record, '{{{at},kept}}', coalesce(n.now, 'null')) \
                 FROM (SELECT to_jsonb(t.*) AS now FROM (SELECT) AS one LEFT JOIN {} AS t ON {}) AS n \
                 WHERE c.id = {} AND nullif(c.record -> {at} -> 'kept', 'null') IS DISTINCT FROM n.now",
                row.table.sql(),
                row.found(),
                self.record.number
            );
            changed += self.session.touch(&refresh).await?;
        }
        Ok(changed)
    }

    fn unknown(&self) -> Problem {
        let (lost, kept) = (side(self.record.link.other()), side(self.record.link));
        let what =
            format!("{} does not say what {lost} made of the row itself, which is not on {kept}", self.record.id());
        Problem::refuse(Blame::Config, "RECORD_UNKNOWN", what)
            .table(&self.record.table)
            .remedy("change the row in the application if it is to be otherwise, and take the side that won")
    }
}
