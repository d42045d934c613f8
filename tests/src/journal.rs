//! What applications and links did on each side, written down by triggers; and what follows from it alone: which changes
//! of the losing side were left out, and have to be recorded (L3).
//!
//! ```text
//!   a removal by the loser's application  =  one by its link on the winner's side  or  a record of a delete
//!   a value that an application wrote last  arrived on the other side  or  is in a record
//!   a record  is about something that the loser's application did to that row in that very transaction
//! ```
//!
//! The first is exact for rows that the winner had and its own application never removed; of others there may be fewer, for
//! delete against delete is agreement. On each side one application writes at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};

use crate::{Side, Stage};

/// The journal of one side; its tables need the triggers.
const HISTORY: &str = "
    CREATE TABLE history (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, by_link boolean NOT NULL, at pg_lsn NOT NULL,
        xid text NOT NULL, of_table text NOT NULL, old_row jsonb, new_row jsonb);
    CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$ BEGIN
        INSERT INTO history (by_link, at, xid, of_table, old_row, new_row) VALUES (session_user LIKE 'falkirk%',
            pg_current_wal_insert_lsn(), pg_current_xact_id()::text, TG_TABLE_NAME,
            (SELECT jsonb_object_agg(cell.key, cell.value) FROM jsonb_each_text(to_jsonb(OLD)) AS cell),
            (SELECT jsonb_object_agg(cell.key, cell.value) FROM jsonb_each_text(to_jsonb(NEW)) AS cell));
        RETURN NULL; END $$;";

/// What the journal is about.
#[derive(Clone, Copy)]
pub struct Tables {
    /// The tables of each family, of both sides: those that hold the row, then those that describe it.
    pub families: &'static [(&'static [&'static str], &'static [&'static str])],
    /// The column that tells a row from a later one under its key; without one no key is used twice.
    pub born: Option<&'static str>,
    /// The columns whose values are written once.
    pub tokens: &'static [&'static str],
}

/// A row by family and key.
type Place = (usize, String);

/// Something that happened to a row.
struct Event {
    by_link: bool,
    at: u64,
    xid: String,
    table: String,
    rows: [Option<Map<String, Value>>; 2],
}

/// The rows of one side: by place, which tables hold it and since which birth.
type Standing = BTreeMap<Place, BTreeMap<String, String>>;

/// A row was there before a transaction and not after it.
#[derive(Debug)]
struct Removal {
    place: Place,
    born: String,
    xid: String,
    by_link: bool,
}

/// A record of a conflict, on the winner's side.
struct Recorded {
    at: u64,
    kind: String,
    place: Place,
    lost: Map<String, Value>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Records.
    pub conflicts: u64,
    /// Rows whose removal lost.
    pub removals_lost: u64,
}

/// The journals of both sides from one quiet moment on.
pub struct Journal<'s> {
    stage: &'s Stage,
    tables: Tables,
    green_wins: bool,
    began: [Standing; 2],
}

impl Tables {
    fn all(&self) -> impl Iterator<Item = &'static str> {
        self.families.iter().flat_map(|(rows, details)| rows.iter().chain(details.iter()).copied())
    }

    fn family(&self, table: &str) -> Option<usize> {
        self.families.iter().position(|(rows, details)| rows.contains(&table) || details.contains(&table))
    }

    fn holds_rows(&self, table: &str) -> bool {
        self.families.iter().any(|(rows, _)| rows.contains(&table))
    }

    fn place(&self, table: &str, row: &Map<String, Value>) -> Place {
        (self.family(table).expect("the table is of a family"), text(&row["id"]))
    }

    fn born(&self, row: &Map<String, Value>) -> String {
        text(&row[self.born.unwrap_or("id")])
    }

    /// The journal, as a schema of one side that has `of` these tables.
    pub fn schema(&self, of: &str) -> String {
        let has = |table: &&str| of.contains(&format!("CREATE TABLE {table} "));
        let trigger = |table: &str| {
            format!(
                "CREATE TRIGGER remember AFTER INSERT OR UPDATE OR DELETE ON {table}
                 FOR EACH ROW EXECUTE FUNCTION remember();"
            )
        };
        std::iter::once(HISTORY.to_owned()).chain(self.all().filter(has).map(trigger)).collect()
    }

    /// What the configuration needs so that the journal may be kept.
    pub fn config(&self) -> String {
        let tables: Vec<String> = self.all().map(|table| format!("\"public.{table}\"")).collect();
        format!("[tables]\nexclude = [\"public.history\"]\nallow_triggers = [{}]\n", tables.join(", "))
    }
}

impl<'s> Journal<'s> {
    /// Both sides are quiet and agree: from here on.
    pub fn begin(stage: &'s Stage, tables: Tables, green_wins: bool) -> Journal<'s> {
        let began = [&stage.blue, &stage.green].map(|side| {
            side.sql("TRUNCATE history");
            side.admin("TRUNCATE falkirk.conflict");
            standing(side, &tables)
        });
        Journal { stage, tables, green_wins, began }
    }

    /// Both sides are quiet and agree: what was left out since has to be recorded, and nothing else.
    pub fn end(self, what: &str) -> Found {
        let Journal { stage, tables, green_wins, began } = &self;
        let sides = [&stage.blue, &stage.green];
        let events = sides.map(|side| events(side, tables));
        let (loser, winner) = if *green_wins { (0, 1) } else { (1, 0) };
        // Only a deletion loses whoever wins, where rows of the other side refer to the row.
        let spared = sides[loser].admin("SELECT * FROM falkirk.conflict WHERE kind <> 'delete' OR held_by IS NULL");
        assert!(spared.is_empty(), "L3: {what}: nothing else of the winner's loses: {spared:?}");
        let records = recorded(sides[winner], tables);
        let by_record: Vec<&str> = records.iter().map(|record| self.explained(record, &events[loser], what)).collect();
        for (from, to) in [(0, 1), (1, 0)] {
            let lost: &[Recorded] = if from == loser { &records } else { &[] };
            self.tokens_arrived(&events[from], (&events[to], lost), sides[from].name, what);
        }
        let [(own, _), (others, known)] =
            [loser, winner].map(|side| removals(&events[side], began[side].clone(), tables));
        let counted = self.removals_add_up(&own, (&others, &known), &events, (&records, &by_record), what);
        Found { conflicts: records.len() as u64, removals_lost: counted }
    }

    /// The transaction that a record is about.
    fn explained<'e>(&self, record: &Recorded, events: &'e [Event], what: &str) -> &'e str {
        let own = || events.iter().filter(|event| !event.by_link);
        let Some(last) = own().filter(|event| event.at < record.at).max_by_key(|event| event.at) else {
            panic!("L3: {what}: a {} is recorded of a side that did nothing", record.kind)
        };
        let concerns = |event: &&Event| {
            let there = event
                .rows
                .each_ref()
                .map(|row| row.as_ref().is_some_and(|row| self.tables.place(&event.table, row) == record.place));
            // One table's row may be two tables' on the other side: then an update can be either of them.
            let alone = self.tables.families[record.place.0].0.len() == 1;
            event.xid == last.xid
                && match record.kind.as_str() {
                    "delete" if alone => there[0],
                    "insert" if alone => there[1],
                    _ => there[0] || there[1],
                }
        };
        assert!(
            own().any(|event| concerns(&event)),
            "L3: {what}: a {} of {:?} is recorded that nobody asked for",
            record.kind,
            record.place
        );
        &last.xid
    }

    /// What an application wrote last has arrived on the other side or stands in a record.
    fn tokens_arrived(&self, own: &[Event], (others, records): (&[Event], &[Recorded]), side: &str, what: &str) {
        let mut found: HashSet<(&str, String)> = HashSet::new();
        let rows = others.iter().filter_map(|event| event.rows[1].as_ref());
        for row in rows.chain(records.iter().map(|record| &record.lost)) {
            let tokens = self.tables.tokens.iter();
            found.extend(tokens.filter_map(|token| Some((*token, text(row.get(*token)?)))));
        }
        for ((place, column), token) in last_tokens(own, &self.tables) {
            assert!(
                found.contains(&(column, token.clone())),
                "L3: {what}: what {side} wrote as {token} into {column} of {place:?} has neither arrived nor is it recorded"
            );
        }
    }

    /// Each removal by the loser's application was carried out or is recorded. How many were recorded.
    fn removals_add_up(
        &self,
        own: &[Removal],
        (others, known): (&[Removal], &HashSet<String>),
        events: &[Vec<Event>; 2],
        (records, transactions): (&[Recorded], &[&str]),
        what: &str,
    ) -> u64 {
        let mut places: HashMap<String, BTreeSet<Place>> = HashMap::new();
        for (place, born) in events.iter().flatten().flat_map(|event| self.births(event)) {
            places.entry(born).or_default().insert(place);
        }
        let mut counted = 0;
        let rows: BTreeSet<(&Place, &String)> =
            own.iter().filter(|removal| !removal.by_link).map(|removal| (&removal.place, &removal.born)).collect();
        for (place, born) in rows {
            let is_it = |removal: &&Removal| removal.place == *place && removal.born == *born;
            let asked: HashSet<&str> = own
                .iter()
                .filter(|removal| !removal.by_link)
                .filter(is_it)
                .map(|removal| removal.xid.as_str())
                .collect();
            let lost: HashSet<&str> = records
                .iter()
                .zip(transactions)
                .filter(|(record, xid)| record.kind == "delete" && record.place == *place && asked.contains(**xid))
                .map(|(_, xid)| *xid)
                .collect();
            let done = others.iter().filter(is_it).filter(|removal| removal.by_link).count();
            let agreed = others.iter().filter(is_it).any(|removal| !removal.by_link);
            let moved = places.get(born).is_some_and(|places| places.len() > 1);
            let exact = known.contains(born) && !agreed && !moved;
            counted += lost.len() as u64;
            let told = format!("{} asked for, {done} done, {} recorded", asked.len(), lost.len());
            assert!(!exact || asked.len() == done + lost.len(), "L3: {what}: removals of {born} at {place:?}: {told}");
            assert!(moved || asked.len() >= done + lost.len(), "L3: {what}: removals of {born} at {place:?}: {told}");
        }
        counted
    }

    fn births(&self, event: &Event) -> Vec<(Place, String)> {
        let holds = self.tables.holds_rows(&event.table);
        let rows = event.rows.iter().flatten().filter(|_| holds);
        rows.map(|row| (self.tables.place(&event.table, row), self.tables.born(row))).collect()
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

fn standing(side: &Side, tables: &Tables) -> Standing {
    let mut standing = Standing::new();
    for table in tables.all().filter(|table| tables.holds_rows(table)) {
        if side.value(&format!("SELECT to_regclass('{table}') IS NULL")) == "t" {
            continue;
        }
        for row in side.rows(&format!("SELECT to_jsonb(whole_row.*) FROM {table} AS whole_row")) {
            let row = object(&row[0]).expect("a row is an object");
            standing.entry(tables.place(table, &row)).or_default().insert(table.to_owned(), tables.born(&row));
        }
    }
    standing
}

fn events(side: &Side, tables: &Tables) -> Vec<Event> {
    let select = "SELECT by_link, at - '0/0'::pg_lsn, xid, of_table, old_row, new_row FROM history ORDER BY n";
    let event = |row: Vec<String>| Event {
        by_link: row[0] == "t",
        at: row[1].parse().expect("a position is a number"),
        xid: row[2].clone(),
        table: row[3].clone(),
        rows: [object(&row[4]), object(&row[5])],
    };
    let events = side.rows(select).into_iter().map(event);
    events.filter(|event| tables.family(&event.table).is_some()).collect()
}

fn recorded(side: &Side, tables: &Tables) -> Vec<Recorded> {
    let select =
        "SELECT position - '0/0'::pg_lsn, kind, target_table, key, lost, state FROM falkirk.conflict ORDER BY id";
    let record = |row: Vec<String>| {
        assert_eq!(row[5], "decided", "the policy decides: {row:?}");
        let table = row[2].trim_start_matches("public.");
        let key = object(&row[3]).expect("a key is an object");
        let (at, kind) = (row[0].parse().expect("a position is a number"), row[1].clone());
        tables.family(table).map(|_| Recorded {
            at,
            kind,
            place: tables.place(table, &key),
            lost: object(&row[4]).unwrap_or_default(),
        })
    };
    side.admin(select).into_iter().filter_map(record).collect()
}

/// The tokens that an application wrote last, by row and column, as far as it has not removed them itself.
fn last_tokens(events: &[Event], tables: &Tables) -> HashMap<(Place, &'static str), String> {
    let mut last = HashMap::new();
    for event in events.iter().filter(|event| !event.by_link) {
        let [old, new] = event.rows.each_ref().map(Option::as_ref);
        for column in tables.tokens {
            let value = |row: Option<&Map<String, Value>>| row?.get(*column).filter(|value| !value.is_null()).map(text);
            let before = old.and_then(|row| last.remove(&(tables.place(&event.table, row), *column)));
            let written = value(new).filter(|_| value(new) != value(old));
            let token = written.or(before.filter(|_| value(new).is_some()));
            if let (Some(token), Some(row)) = (token, new) {
                last.insert((tables.place(&event.table, row), *column), token);
            }
        }
    }
    last
}

/// The rows that transactions of one side removed, each transaction as a whole; and all rows that stood between two.
fn removals(events: &[Event], mut standing: Standing, tables: &Tables) -> (Vec<Removal>, HashSet<String>) {
    let mut removals: Vec<Removal> = Vec::new();
    let mut stood: HashSet<String> = standing.values().flat_map(BTreeMap::values).cloned().collect();
    let mut by_place: BTreeMap<Place, Vec<(&Event, bool)>> = BTreeMap::new();
    for event in events.iter().filter(|event| tables.holds_rows(&event.table)) {
        let places = event.rows.each_ref().map(|row| row.as_ref().map(|row| tables.place(&event.table, row)));
        let [old, new] = places;
        let goes = old.clone().filter(|place| Some(place) != new.as_ref());
        for (place, comes) in goes.map(|place| (place, false)).into_iter().chain(new.map(|place| (place, true))) {
            by_place.entry(place).or_default().push((event, comes));
        }
    }
    for (place, events) in by_place {
        let tables_of = standing.entry(place.clone()).or_default();
        for transaction in events.chunk_by(|(one, _), (other, _)| one.xid == other.xid) {
            let before = tables_of.values().next().cloned();
            for (event, comes) in transaction {
                match event.rows[1].as_ref().filter(|_| *comes) {
                    Some(row) => tables_of.insert(event.table.clone(), tables.born(row)),
                    None => tables_of.remove(&event.table),
                };
            }
            stood.extend(tables_of.values().cloned());
            let (event, _) = transaction[0];
            let gone = before.filter(|born| tables_of.values().next() != Some(born));
            removals.extend(gone.map(|born| Removal {
                place: place.clone(),
                born,
                xid: event.xid.clone(),
                by_link: event.by_link,
            }));
        }
    }
    (removals, stood)
}
