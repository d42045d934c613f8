//! Numbering: which bits the columns of both sides have had since the first start (`plan::parts`).
//!
//! Notes of changes outlive the plan that they were made under. They are kept with the checkpoint until the other link's
//! application has heard of them, and a link that was stopped for long asks for old ones. So a column keeps its bits for
//! ever, whatever revision runs and whatever columns come beside it (L8):
//!
//! ```text
//!   a part of new columns            gets a bit of its own
//!   a part that became two           both have its bits: more conflicts than there need be, which is sound
//!   two parts that became one        it has the bits of both
//! ```
//!
//! The last one is taken only while nothing has to be decided. A change that was noted with one part and is written with
//! two would undo what the other side wrote of the second one meanwhile, on the word of that note.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::TableName;

/// The bits of columns and what notes of rows are about, by side and table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Numbering {
    blue: BTreeMap<String, Table>,
    green: BTreeMap<String, Table>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct Table {
    /// How its rows belong to records of several tables (`plan::records`); empty if each is one by itself.
    record: String,
    /// By name.
    columns: BTreeMap<String, u64>,
}

impl Numbering {
    fn side(&self, green: bool) -> &BTreeMap<String, Table> {
        if green { &self.green } else { &self.blue }
    }

    fn table(&mut self, (green, table): (bool, &TableName)) -> &mut Table {
        let side = if green { &mut self.green } else { &mut self.blue };
        side.entry(table.to_string()).or_default()
    }

    /// The bits of a column; none if it has been in no part so far.
    pub(super) fn bits(&self, (green, table, column): (bool, &TableName, &str)) -> u64 {
        let table = self.side(green).get(&table.to_string());
        table.and_then(|table| table.columns.get(column)).copied().unwrap_or_default()
    }

    /// All bits of a table.
    pub(super) fn bits_of_table(&self, (green, table): (bool, &TableName)) -> u64 {
        let table = self.side(green).get(&table.to_string());
        table.map_or(0, |table| table.columns.values().fold(0, |all, bits| all | bits))
    }

    pub(super) fn set_bits(&mut self, (green, table, column): (bool, &TableName, &str), bits: u64) {
        self.table((green, table)).columns.insert(column.to_owned(), bits);
    }

    pub(super) fn set_record(&mut self, table: (bool, &TableName), record: String) {
        self.table(table).record = record;
    }

    /// A table, and a column if it is one, of which notes under this numbering mean something else under the next one.
    pub fn redefined_by<'n>(&self, next: &'n Numbering) -> Option<(&'n str, Option<&'n str>)> {
        [false, true].into_iter().find_map(|green| {
            next.side(green).iter().find_map(|(name, table)| {
                let known = self.side(green).get(name)?;
                let grown = |(column, bits): &(&String, &u64)| {
                    known.columns.get(*column).is_some_and(|known| *known != 0 && known != *bits)
                };
                match known.record == table.record {
                    false => Some((name.as_str(), None)),
                    true => table.columns.iter().find(grown).map(|(column, _)| (name.as_str(), Some(column.as_str()))),
                }
            })
        })
    }
}
