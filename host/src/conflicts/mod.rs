//! Conflicts as an operator sees them: what was decided or is open on either side, what it means, and another decision.
//!
//! They are read from the databases; the running host is not asked. A record lies in the side that kept its value. Keys
//! and values of rows are shown only to those who ask for them.

mod resolve;
mod whole;

use serde::Serialize;

pub use resolve::{Resolved, Take, resolve};
use whole::RecordRow;

use crate::config::Settings;
use crate::marker::Link;
use crate::names::{TableName, quote_name, quote_text};
use crate::pg::session::{Row, Session};
use crate::problem::{Blame, Outcome, Problem};

/// JSON with the columns of a row.
pub type Columns = serde_json::Map<String, serde_json::Value>;

/// Which conflicts are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this table, on the side that holds the record.
    pub table: Option<TableName>,
    /// Only in this state.
    pub state: Option<String>,
}

/// One conflict.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its name: the side that holds the record, and a number.
    pub id: String,
    /// The table on that side.
    pub table: String,
    /// The row: a digest, or its key if it was asked for.
    pub key: serde_json::Value,
    /// `update`, `insert`, `delete`, `unique` for one value under two keys, or `parent` for a row that refers to such a one.
    pub kind: String,
    /// `decided`, `open` or `resolved`.
    pub state: String,
    /// The side whose value stands, or stood first.
    pub winner: Option<String>,
    /// The side that an operator took.
    pub taken: Option<String>,
    /// Who that was.
    pub resolved_by: Option<String>,
    /// When it was recorded.
    pub at: String,
    /// The commit position of the change that was not written, on the other side.
    pub position: String,
    /// Since when it holds no key and no value of the row any more (`[retention] conflict_values_days`).
    pub erased_at: Option<String>,
    /// How many rows hold the unique value, or their keys if they were asked for.
    pub held_by: serde_json::Value,
}

/// Everything about one conflict.
#[derive(Clone, Debug, Serialize)]
pub struct Detail {
    /// What the list shows.
    #[serde(flatten)]
    pub entry: Entry,
    /// The side that changed the row and was not heard.
    pub lost_side: &'static str,
    /// The side that holds the record.
    pub kept_side: &'static str,
    /// By column: what would have been written, what stood there then, what stands there now.
    pub columns: Vec<ColumnDetail>,
    /// What happened.
    pub means: String,
    /// What to do, and what that does.
    pub next: Vec<String>,
}

/// One column of a conflict. Values are `null` unless they were asked for.
#[derive(Clone, Debug, Serialize)]
pub struct ColumnDetail {
    /// The column.
    pub column: String,
    /// What the change would have written.
    pub lost: serde_json::Value,
    /// What the row held when it was decided.
    pub kept: serde_json::Value,
    /// What the row holds now.
    pub now: serde_json::Value,
    /// Whether the row still holds what it held.
    pub unchanged: bool,
}

/// A record as it lies in a database.
struct Record {
    number: i64,
    /// The link whose change was not written.
    link: Link,
    table: TableName,
    key: Columns,
    digest: String,
    kind: String,
    state: String,
    winner: Option<String>,
    taken: Option<String>,
    resolved_by: Option<String>,
    at: String,
    position: String,
    erased_at: Option<String>,
    lost: Option<Columns>,
    /// The row was there.
    was_there: bool,
    source_table: Option<TableName>,
    source_key: Option<Columns>,
    source_digest: Option<String>,
    held_by: Vec<Columns>,
    /// The rows of which one stands for the record, if they are several; itself among them.
    rows: Vec<RecordRow>,
}

/// A record made by an older version has fewer columns: it is read as JSON.
const SELECT: &str = "SELECT c.id, c.target_table, c.key::text, encode(c.key_digest, 'hex'), c.kind, c.state, c.winner, \
    c.j ->> 'taken', c.resolved_by, to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), c.position, \
    c.lost::text, c.kept IS NOT NULL, c.j ->> 'source_table', c.j ->> 'source_key', ltrim(c.j ->> 'source_digest', '\\x'), \
    c.j ->> 'held_by', c.j ->> 'erased_at', c.j ->> 'record' FROM (SELECT *, to_jsonb(o) AS j FROM falkirk.conflict AS o) AS c";

fn record(row: &Row, link: Link) -> Outcome<Record> {
    let name = |index: usize| -> Outcome<Option<TableName>> { Ok(row.get(index).and_then(|text| text.parse().ok())) };
    let own = |index: usize| row.get(index).filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(Record {
        number: row.number(0)?,
        link,
        table: name(1)?.unwrap_or_else(|| TableName::new("", "")),
        key: row.json(2)?,
        digest: row.text(3)?,
        kind: row.text(4)?,
        state: row.text(5)?,
        winner: own(6),
        taken: own(7),
        resolved_by: own(8),
        at: row.text(9)?,
        position: row.text(10)?,
        erased_at: own(17),
        lost: row.json(11)?,
        was_there: row.flag(12)?,
        source_table: name(13)?,
        source_key: row.json(14)?,
        source_digest: own(15),
        held_by: row.json::<Option<Vec<Columns>>>(16)?.unwrap_or_default(),
        rows: row.json::<Option<Vec<RecordRow>>>(18)?.unwrap_or_default(),
    })
}

/// What the side that a link writes is called: there its conflicts are recorded.
fn side(link: Link) -> &'static str {
    match link {
        Link::Forward => "green",
        Link::Backward => "blue",
    }
}

impl Record {
    fn id(&self) -> String {
        format!("{}-{}", side(self.link), self.number)
    }

    fn entry(&self, values: bool) -> Entry {
        let short = || format!("#{}", self.digest.get(..8).unwrap_or_default());
        Entry {
            id: self.id(),
            table: self.table.to_string(),
            key: if values && self.erased_at.is_none() {
                serde_json::Value::Object(self.key.clone())
            } else {
                short().into()
            },
            kind: self.kind.clone(),
            state: self.state.clone(),
            winner: self.winner.clone(),
            taken: self.taken.clone(),
            resolved_by: self.resolved_by.clone(),
            at: self.at.clone(),
            position: self.position.clone(),
            erased_at: self.erased_at.clone(),
            held_by: match values {
                true => self.held_by.iter().cloned().map(serde_json::Value::Object).collect(),
                false => self.held_by.len().into(),
            },
        }
    }

    /// The condition that finds the row.
    fn found(&self) -> String {
        found(&self.key)
    }
}

/// The condition that finds a row by its key.
fn found(key: &Columns) -> String {
    let column = |(name, value): (&String, &serde_json::Value)| format!("t.{} = {}", quote_name(name), literal(value));
    key.iter().map(column).collect::<Vec<_>>().join(" AND ")
}

fn literal(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "NULL".to_owned(),
        serde_json::Value::String(text) => quote_text(text),
        other => quote_text(&other.to_string()),
    }
}

/// A session of the side that a link writes; `None` if nothing was ever recorded there.
async fn recorded_at(settings: &Settings, link: Link) -> Outcome<Option<Session>> {
    let settings = settings.seen_from(link);
    let session = Session::connect_blaming(&settings.target().address, Blame::Target, "conflicts").await?;
    let exists = session.one("SELECT to_regclass('falkirk.conflict') IS NOT NULL").await?;
    Ok(exists.flag(0)?.then_some(session))
}

fn of_link(settings: &Settings, link: Link) -> String {
    format!("c.migration = {} AND c.link = '{link}'", quote_text(&settings.name))
}

/// The conflicts of both sides, oldest first.
pub async fn list(settings: &Settings, filter: &Filter, values: bool) -> Outcome<Vec<Entry>> {
    let mut entries = Vec::new();
    for link in [Link::Backward, Link::Forward] {
        let Some(session) = recorded_at(settings, link).await? else { continue };
        let mut wanted = of_link(settings, link);
        if let Some(table) = &filter.table {
            wanted += &format!(" AND c.target_table = {}", quote_text(&table.to_string()));
        }
        if let Some(state) = &filter.state {
            wanted += &format!(" AND c.state = {}", quote_text(state));
        }
        for row in session.rows(&format!("{SELECT} WHERE {wanted} ORDER BY c.id")).await? {
            entries.push(record(&row, link)?.entry(values));
        }
    }
    entries.sort_by(|one, other| one.at.cmp(&other.at));
    Ok(entries)
}

/// The record that an id names, and a session of the side that holds it.
async fn find(settings: &Settings, id: &str) -> Outcome<(Record, Session)> {
    let unknown = || {
        Problem::refuse(Blame::Config, "CONFLICT_UNKNOWN", format!("there is no conflict {id} of this migration"))
            .remedy("`falkirk conflicts list` names those that there are, such as green-12")
    };
    let (side, number) = id.split_once('-').ok_or_else(unknown)?;
    let number: i64 = number.parse().map_err(|_| unknown())?;
    let link = match side {
        "green" => Link::Forward,
        "blue" => Link::Backward,
        _ => return Err(unknown()),
    };
    let session = recorded_at(settings, link).await?.ok_or_else(unknown)?;
    let rows = session.rows(&format!("{SELECT} WHERE {} AND c.id = {number}", of_link(settings, link))).await?;
    let row = rows.first().ok_or_else(unknown)?;
    Ok((record(row, link)?, session))
}

/// Everything about one conflict.
pub async fn show(settings: &Settings, id: &str, values: bool) -> Outcome<Detail> {
    let (record, session) = find(settings, id).await?;
    let now = format!(
        "SELECT k, c.kept -> k, to_jsonb(t.*) -> k, (to_jsonb(t.*) -> k) IS NOT DISTINCT FROM (c.kept -> k) \
         FROM falkirk.conflict AS c LEFT JOIN {} AS t ON {}, \
         jsonb_object_keys(coalesce(c.lost, c.kept, to_jsonb(t.*), '{{}}')) AS k WHERE c.id = {} ORDER BY k",
        record.table.sql(),
        record.found(),
        record.number
    );
    let mut columns = Vec::new();
    // Without its key the row cannot be found.
    let rows = match record.erased_at {
        Some(_) => Vec::new(),
        None => session.rows(&now).await.map_err(|problem| problem.table(&record.table))?,
    };
    for row in rows {
        let column = row.text(0)?;
        let shown = |value: serde_json::Value| if values { value } else { serde_json::Value::Null };
        let lost = record.lost.as_ref().and_then(|lost| lost.get(&column)).cloned().unwrap_or_default();
        columns.push(ColumnDetail {
            lost: shown(lost),
            kept: shown(row.json(1)?),
            now: shown(row.json(2)?),
            unchanged: row.flag(3)?,
            column,
        });
    }
    Ok(Detail {
        entry: record.entry(values),
        lost_side: side(record.link.other()),
        kept_side: side(record.link),
        means: means(&record),
        next: next(&record),
        columns,
    })
}

fn means(record: &Record) -> String {
    let happened = happened(record);
    match &record.erased_at {
        Some(at) => format!("{happened}; key and values were erased at {at}"),
        None => happened,
    }
}

fn happened(record: &Record) -> String {
    let (lost, kept) = (side(record.link.other()), side(record.link));
    if let Some([stood, goes]) = record.moved() {
        return format!(
            "{lost} has a row in {goes} that {kept} has in {stood}, neither knowing of the other; {kept} keeps it there"
        );
    }
    match (record.kind.as_str(), record.was_there) {
        ("unique", false) => {
            format!("a row of {lost} has a unique value that another row holds on {kept}, so it stands on {lost} only")
        }
        ("unique", true) => format!(
            "a row got a unique value on {lost} that another row holds on {kept}, so {kept} keeps the row as it was"
        ),
        ("parent", _) => format!(
            "a row of {lost} refers to one that {kept} does not have, because that waits itself or was removed meanwhile; \
             so it stands on {lost} only and waits with it"
        ),
        ("delete", _) if !record.held_by.is_empty() => {
            format!("{lost} deleted a row that rows of {kept} refer to; {kept} keeps it, and {lost} gets it back")
        }
        ("delete", _) => format!("{lost} deleted a row that {kept} had changed meanwhile; {kept} keeps it"),
        ("insert", true) => format!("both sides made a row with the same key; {kept} keeps its own"),
        ("insert", false) => format!("{lost} made a row with a key that {kept} had made and deleted meanwhile"),
        (_, true) => format!("both sides changed the same columns of a row; {kept} keeps its own"),
        (_, false) => format!("{lost} changed a row that {kept} had deleted meanwhile; {kept} keeps it deleted"),
    }
}

fn next(record: &Record) -> Vec<String> {
    let (lost, kept, id) = (side(record.link.other()), side(record.link), record.id());
    let take = |side: &str, what: String| format!("falkirk conflicts resolve {id} --take {side}: {what}");
    match (record.state.as_str(), record.kind.as_str()) {
        ("resolved", _) => Vec::new(),
        _ if record.erased_at.is_some() => {
            vec![take(kept, "confirms what was decided; the values that lost have been erased".to_owned())]
        }
        (_, "parent") => {
            vec![
                "resolve the conflict of the row that it refers to, or bring that back: this one is written with it, and closes \
                 by itself"
                    .to_owned(),
            ]
        }
        (_, "unique") => {
            let gives_way = match record.was_there {
                false => format!("deletes the row of {lost}"),
                true => format!("sets the row of {lost} back to what {kept} holds; only where {kept} wins"),
            };
            vec![
                take(kept, gives_way),
                take(
                    lost,
                    format!("takes the value away from the row that holds it on {kept}, as that row's own record says"),
                ),
                format!("or change one of the two rows in its application: the links do the rest"),
            ]
        }
        ("open", _) => vec![
            take(lost, format!("{lost}'s change is written to {kept} when the link starts again")),
            take(kept, format!("{lost}'s change is left out, and {kept}'s goes to {lost}, when the link starts again")),
        ],
        _ => vec![
            take(
                lost,
                match record.moved() {
                    Some([from, to]) => format!(
                        "moves {kept}'s row from {from} to {to} now, as {lost} has it, unless it has changed since; the other \
                         link carries that"
                    ),
                    None => format!(
                        "writes {lost}'s values to {kept} now, unless the row has changed since; the other link carries them"
                    ),
                },
            ),
            take(kept, "confirms what was decided; writes nothing".to_owned()),
        ],
    }
}
