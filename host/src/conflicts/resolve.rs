//! Another decision about a conflict.
//!
//! ```text
//!   decided   take the winner: noted                take the loser: its values are written where they were not
//!   open      noted; the stopped link goes on at exactly this change with it, as long as neither side has changed the
//!             row since
//!   unique    one of the two rows gives way on its own side; the links do the rest
//! ```
//!
//! A row is written as the application of its side would, unsigned, so that the other link carries it; never one that
//! has changed since it was recorded.

use super::{Columns, Record, find, found, literal, of_link, record, recorded_at, side};
use crate::apply::conflict::PARKED;
use crate::config::Settings;
use crate::marker::Link;
use crate::names::{TableName, quote_name, quote_text};
use crate::pg::session::Session;
use crate::problem::{Action, Blame, Outcome, Problem};

/// Whose word is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Blue's.
    Blue,
    /// Green's.
    Green,
}

impl Take {
    /// The side, as tables and messages write it.
    pub fn name(self) -> &'static str {
        match self {
            Take::Blue => "blue",
            Take::Green => "green",
        }
    }
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The conflict.
    pub id: String,
    /// In words.
    pub what: String,
}

/// Decides a conflict; `who` is noted beside it, with the role of the session.
pub async fn resolve(settings: &Settings, id: &str, take: Take, who: &str) -> Outcome<Resolved> {
    let (record, session) = find(settings, id).await?;
    if record.state == "resolved" {
        let by = record.resolved_by.clone().unwrap_or_default();
        return Err(Problem::refuse(Blame::Config, "ALREADY_RESOLVED", format!("{id} is resolved already, by {by}"))
            .remedy("change the row in the application if it is to be otherwise"));
    }
    let deed = Deed { settings, record: &record, session: &session, take, who };
    let what = match (record.state.as_str(), record.kind.as_str()) {
        (_, "unique") => deed.unique().await?,
        (_, "parent") => {
            let what = format!("{id} is about a row that only waits for the row that it refers to");
            return Err(Problem::refuse(Blame::Config, "ROW_WAITS", what).table(&record.table).remedy(
                "resolve the conflict of that row (kind unique in `falkirk conflicts list`): this one closes by itself",
            ));
        }
        ("open", _) => deed.open().await?,
        _ => deed.decided().await?,
    };
    Ok(Resolved { id: record.id(), what })
}

/// What to do about a row that is no longer what a decided conflict was about.
pub(super) const ROW_MOVED_ON: &str =
    "change the row in the application if it is to be otherwise, and take the side that won";

pub(super) struct Deed<'d> {
    pub(super) settings: &'d Settings,
    pub(super) record: &'d Record,
    pub(super) session: &'d Session,
    take: Take,
    who: &'d str,
}

impl Deed<'_> {
    /// The side that holds the record, and the other one.
    fn sides(&self) -> (&'static str, &'static str) {
        (side(self.record.link), side(self.record.link.other()))
    }

    fn takes_kept(&self) -> bool {
        self.take.name() == self.sides().0
    }

    pub(super) fn changed_since(&self, then: &str) -> Problem {
        let what = format!("the row has changed on {} since {} was recorded", self.sides().0, self.record.id());
        Problem::refuse(Blame::Config, "ROW_CHANGED", what).table(&self.record.table).remedy(then)
    }

    async fn decided(&self) -> Outcome<String> {
        let (kept, lost) = self.sides();
        if self.takes_kept() {
            self.note(self.session, "state = 'resolved'").await?;
            return Ok(format!("confirmed: {kept} keeps what it has"));
        }
        self.carried_by(self.record.link.other())?;
        if let Some(at) = &self.record.erased_at {
            let what = format!(
                "the values of {} were erased at {at}: what {lost} would have written is not known",
                self.record.id()
            );
            return Err(Problem::refuse(Blame::Config, "VALUES_ERASED", what).table(&self.record.table).remedy(
                "change the row in the application; [retention] conflict_values_days says how long values are kept",
            ));
        }
        let records = self.of_one_change().await?;
        if records.is_empty() {
            self.within(self.session, self.write_lost()).await?;
            let carries = format!("the {} link carries them on", self.record.link.other());
            return Ok(format!("{lost}'s values are written to {kept}; {carries}"));
        }
        let what = self.within(self.session, self.write_whole(&records)).await?;
        Ok(format!("{what}; the {} link carries that on", self.record.link.other()))
    }

    async fn open(&self) -> Outcome<String> {
        let changed = self.within(self.session, self.note_word()).await?;
        if changed {
            let then =
                "the record holds by now what the row holds: look with `falkirk conflicts show`, then resolve again";
            return Err(self.changed_since(then));
        }
        self.note_mirror().await?;
        Ok(format!(
            "{} is taken: start the links again with `falkirk run`, they go on at this change",
            self.take.name()
        ))
    }

    async fn unique(&self) -> Outcome<String> {
        let (kept, lost) = self.sides();
        if self.takes_kept() {
            self.give_way(self.record, self.session).await?;
            // A row that was there has been asserted; one that was not waits for its own side's delete to arrive.
            let state = if self.record.was_there { "state = 'resolved'" } else { "state = state" };
            self.note(self.session, state).await?;
            return Ok(format!("the row of {lost} gives way; the links do the rest"));
        }
        let link = self.record.link.other();
        let other = recorded_at(self.settings, link).await?;
        let mirror = match &other {
            Some(session) => self.mirror_of_holder(session).await?,
            None => None,
        };
        let (Some(session), Some(mirror)) = (&other, mirror) else {
            let what =
                format!("the row that holds the value on {kept} came there otherwise than by a change of its own");
            return Err(Problem::refuse(Blame::Config, "UNIQUE_HELD", what).table(&self.record.table).remedy(format!(
                "change or delete one of the two rows in its application: `falkirk conflicts show {} --values` names them",
                self.record.id()
            )));
        };
        self.give_way(&mirror, session).await?;
        let state = if mirror.was_there { "state = 'resolved'" } else { "state = state" };
        let of_mirror = Deed { record: &mirror, session, ..*self };
        of_mirror.note(session, state).await?;
        self.note(self.session, "state = state").await?;
        Ok(format!("the row that holds the value on {kept} gives way; the links do the rest"))
    }

    /// The record about the row that holds the value here: there it could not be written because of ours.
    async fn mirror_of_holder(&self, session: &Session) -> Outcome<Option<Record>> {
        let link = self.record.link.other();
        let held: serde_json::Value = self.record.held_by.iter().cloned().map(serde_json::Value::Object).collect();
        let select = format!(
            "{} WHERE {} AND c.state = 'open' AND c.kind = 'unique' AND c.j ->> 'source_table' = {} \
             AND c.j -> 'source_key' IN (SELECT jsonb_array_elements({}::jsonb)) ORDER BY c.id LIMIT 1",
            super::SELECT,
            of_link(self.settings, link),
            quote_text(&self.record.table.to_string()),
            quote_text(&held.to_string())
        );
        session.rows(&select).await?.first().map(|row| record(row, link)).transpose()
    }

    /// Makes the row behind a parked record give way on the side that it came from.
    async fn give_way(&self, parked: &Record, kept_at: &Session) -> Outcome<()> {
        if parked.was_there {
            // What stands here is asserted, so that it goes to the other side as a whole; the loser's link would not carry
            // a row that has not changed.
            self.carried_by(parked.link.other())?;
            let tables = std::iter::once(&parked.table).chain(&parked.source_table);
            if self.settings.winner(tables)? != Some(parked.link.other()) {
                return Err(changed_by_hand(parked));
            }
            return self.within(kept_at, touch(parked, kept_at)).await;
        }
        self.carried_by(parked.link)?;
        let settings = self.settings.seen_from(parked.link);
        let source = Session::connect_blaming(&settings.source().address, Blame::Source, "conflicts").await?;
        self.within(&source, delete_source(parked, &source)).await
    }

    fn carried_by(&self, link: Link) -> Outcome<()> {
        if self.settings.applies(link) {
            return Ok(());
        }
        Err(Problem::refuse(
            Blame::Config,
            "NOT_CARRIED",
            format!("the {link} link does not apply, so the other side would not hear of the decision"),
        )
        .remedy("set direction = \"both\" again, or change the rows in their application"))
    }

    /// Everything or nothing.
    async fn within<T>(&self, session: &Session, deed: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        session.run("BEGIN; SET LOCAL lock_timeout = '10s'").await?;
        let done = deed.await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = session.run(end).await;
        let done = done.map_err(|problem| in_the_way(problem).table(&self.record.table))?;
        ended.map(|()| done)
    }

    /// Writes what lost, if the row still is what it was recorded to be.
    async fn write_lost(&self) -> Outcome<()> {
        let (record, session) = (self.record, self.session);
        let (table, found) = (record.table.sql(), record.found());
        self.lock_rows(std::slice::from_ref(record)).await?;
        let there = !session.rows(&format!("SELECT FROM {table} AS t WHERE {found} FOR UPDATE")).await?.is_empty();
        let compared = match &record.lost {
            None => "to_jsonb(t.*) IS NOT DISTINCT FROM c.kept".to_owned(),
            Some(_) => "NOT EXISTS (SELECT FROM jsonb_object_keys(c.lost) AS k \
                WHERE (to_jsonb(t.*) -> k) IS DISTINCT FROM (c.kept -> k))"
                .to_owned(),
        };
        let same = format!(
            "SELECT {compared} FROM falkirk.conflict AS c LEFT JOIN {table} AS t ON {found} WHERE c.id = {}",
            record.number
        );
        if there != record.was_there || !session.one(&same).await?.flag(0)? || self.has_moved().await? {
            return Err(self.changed_since(ROW_MOVED_ON));
        }
        session.run(&deed_of(record, there)).await?;
        self.note(session, "state = 'resolved'").await
    }

    /// Notes the word for the link that has stopped. `true`: the row has changed since, and the record was brought up to
    /// date instead.
    async fn note_word(&self) -> Outcome<bool> {
        let (record, session) = (self.record, self.session);
        let (table, found, number) = (record.table.sql(), record.found(), record.number);
        // From here on nobody changes the row until this is committed, so whatever comes later commits behind the position.
        session.run(&format!("SELECT FROM {table} AS t WHERE {found} FOR UPDATE")).await?;
        let moved = self.refresh_rows().await?;
        let refresh = format!(
            "UPDATE falkirk.conflict AS c SET kept = n.now FROM (SELECT to_jsonb(t.*) AS now FROM (SELECT) AS one \
             LEFT JOIN {table} AS t ON {found}) AS n WHERE c.id = {number} AND c.kept IS DISTINCT FROM n.now"
        );
        if session.touch(&refresh).await? + moved > 0 {
            return Ok(true);
        }
        self.note(session, "state = 'resolved', resolved_position = pg_current_wal_insert_lsn()").await?;
        Ok(false)
    }

    /// If the other link has stopped at the same row as well, the word is about its change too.
    async fn note_mirror(&self) -> Outcome<()> {
        let Some(digest) = &self.record.source_digest else { return Ok(()) };
        let link = self.record.link.other();
        let Some(session) = recorded_at(self.settings, link).await? else { return Ok(()) };
        let update = self.noted("state = 'resolved'", &session);
        let row = quote_text(&format!("[{{\"digest\": \"{digest}\"}}]"));
        let about = format!("(key_digest = decode({}, 'hex') OR to_jsonb(c) -> 'record' @> {row})", quote_text(digest));
        let open = format!("state = 'open' AND kind NOT IN {PARKED} AND {about}");
        session
            .run(&format!(
                "UPDATE falkirk.conflict AS c SET {update} WHERE {} AND {open}",
                of_link(self.settings, link)
            ))
            .await
    }

    async fn note(&self, session: &Session, state: &str) -> Outcome<()> {
        self.note_all(session, state, &[self.record.number]).await
    }

    pub(super) async fn note_all(&self, session: &Session, state: &str, numbers: &[i64]) -> Outcome<()> {
        let update = self.noted(state, session);
        let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
        session.run(&format!("UPDATE falkirk.conflict SET {update} WHERE id IN ({})", numbers.join(", "))).await
    }

    fn noted(&self, state: &str, session: &Session) -> String {
        let who = quote_text(&format!("{} on {}", session.role(), self.who));
        format!("{state}, taken = '{}', resolved_at = now(), resolved_by = {who}", self.take.name())
    }
}

/// The statement that does what a change would have done.
fn deed_of(record: &Record, there: bool) -> String {
    let (table, found) = (record.table.sql(), record.found());
    let Some(lost) = &record.lost else {
        return format!("DELETE FROM {table} AS t WHERE {found}");
    };
    if there {
        let set = |(name, value): (&String, &serde_json::Value)| format!("{} = {}", quote_name(name), literal(value));
        let others = lost.iter().filter(|(name, _)| !record.key.contains_key(*name));
        let others: Vec<String> = others.map(set).collect();
        return match others.is_empty() {
            true => String::new(),
            false => format!("UPDATE {table} AS t SET {} WHERE {found}", others.join(", ")),
        };
    }
    let mut row: Columns = record.key.clone();
    row.extend(lost.clone());
    let names: Vec<String> = row.keys().map(|name| quote_name(name)).collect();
    let values: Vec<String> = row.values().map(literal).collect();
    format!("INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE VALUES ({})", names.join(", "), values.join(", "))
}

/// What the database does not take is nothing that stops a link: the record stays as it is.
fn in_the_way(problem: Problem) -> Problem {
    if problem.action() != Action::Stop {
        return problem;
    }
    let remedy = match problem.code() {
        "FOREIGN_KEY_VIOLATION" => {
            "nothing was changed: rows refer to this one, or it to one that is gone; change those in the application first, \
             or take the other side"
        }
        code if code.ends_with("_VIOLATION") => {
            "nothing was changed: change what is in the way in the application first, or take the other side"
        }
        _ => return problem,
    };
    problem.with_action(Action::Refuse).remedy(remedy)
}

fn changed_by_hand(record: &Record) -> Problem {
    let kept = side(record.link);
    let what = format!("only where {kept} wins can {kept}'s row be set against the other side's");
    Problem::refuse(Blame::Config, "UNIQUE_HELD", what)
        .table(&record.table)
        .remedy("change one of the two rows in its application: the links do the rest")
}

fn changed_elsewhere(record: &Record, table: &TableName) -> Problem {
    let what = format!("the row is not what it was when {} was recorded", record.id());
    Problem::refuse(Blame::Config, "ROW_CHANGED", what)
        .table(table)
        .remedy("change one of the two rows in its application: the links do the rest")
}

/// Writes a row with nothing changed, as its application would.
async fn touch(record: &Record, session: &Session) -> Outcome<()> {
    let (table, found) = (record.table.sql(), record.found());
    let Some(column) = record.lost.as_ref().and_then(|lost| lost.keys().next()) else { return Ok(()) };
    let column = quote_name(column);
    let same = "NOT EXISTS (SELECT FROM falkirk.conflict AS c, jsonb_object_keys(c.lost) AS k \
        WHERE c.id = ";
    let update = format!(
        "UPDATE {table} AS t SET {column} = t.{column} WHERE {found} AND {same}{} \
         AND (to_jsonb(t.*) -> k) IS DISTINCT FROM (c.kept -> k))",
        record.number
    );
    match session.touch(&update).await? {
        0 => Err(changed_elsewhere(record, &record.table)),
        _ => Ok(()),
    }
}

/// Deletes the source row of a parked record, if it still is what was to be written, as far as its columns have the same
/// names on both sides.
async fn delete_source(record: &Record, source: &Session) -> Outcome<()> {
    let (Some(table), Some(key), Some(lost)) = (&record.source_table, &record.source_key, &record.lost) else {
        let what = format!("{} does not say which row of the other side it is about", record.id());
        return Err(Problem::refuse(Blame::Config, "UNIQUE_HELD", what)
            .remedy("change one of the two rows in its application: the links do the rest"));
    };
    let columns = source
        .rows(&format!(
            "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped",
            quote_text(&table.sql())
        ))
        .await?;
    let names: Vec<&str> = columns.iter().filter_map(|row| row.get(0)).collect();
    let same = |(name, value): (&String, &serde_json::Value)| {
        format!(" AND t.{}::text IS NOT DISTINCT FROM {}", quote_name(name), literal(value))
    };
    let same: String = lost.iter().filter(|(name, _)| names.contains(&name.as_str())).map(same).collect();
    match source.touch(&format!("DELETE FROM {} AS t WHERE {}{same}", table.sql(), found(key))).await? {
        0 => Err(changed_elsewhere(record, table)),
        _ => Ok(()),
    }
}
