//! Looking at the sequences of both sides, and setting them. What is known of their ranges lies in green.

use std::collections::BTreeMap;

use crate::config::Settings;
use crate::names::{quote_name, quote_text};
use crate::pg::sequences::{self, Sequence};
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};

use super::ranges::{self, Bounds, Range, Stand, Step};
use super::shown::{Shown, class_shown};
use super::{Class, Classes, Given, Side, Sides, classes, side_name};

/// The ranges, by side and name of the sequence, each with the name of the class as it was then.
pub(super) type Known = BTreeMap<(Side, String), (String, Range)>;

/// What the keeper found.
#[derive(Debug, Default)]
pub struct Kept {
    /// Every sequence that is kept apart from others, those that belong together side by side.
    pub shown: Vec<Shown>,
    /// What should be known: sequences that nobody keeps apart.
    pub notes: Vec<String>,
    /// Tables whose keys no sequence keeps apart: both sides' applications must not make the same ones.
    pub unprotected: Vec<String>,
    /// What a start would refuse or stop at.
    pub problems: Vec<Problem>,
}

/// Looks, and changes nothing.
pub async fn look(given: &Given<'_>) -> Outcome<Kept> {
    let sides = Sides::connect(given.settings).await?;
    let (Classes { kept, notes, unprotected }, known) = read(given, &sides).await?;
    let mut found = Kept { notes, ..Kept::default() };
    // With one link alone one side makes keys at a time.
    if given.settings.two_way() {
        found.unprotected = unprotected.iter().map(ToString::to_string).collect();
    }
    for class in &kept {
        let lacks = lacks(given, class, &sides);
        match given.settings.two_way() {
            true => found.problems.extend(lacks),
            false => found.notes.extend(lacks.iter().map(ToString::to_string)),
        }
        let Some(mut stands) = stands(given, class, &known) else { continue };
        let bounds = bounds(given.settings, class);
        if given.settings.two_way() {
            found.shown.extend(class_shown(class, &stands, &bounds));
            match foreseen(&mut stands, &bounds) {
                Some(at) if given.settings.direction_is_both() => found.problems.push(exhausted(class, at)),
                Some(at) => found.notes.push(no_room(&class.members[at])),
                None => {}
            }
        }
    }
    Ok(found)
}

/// Whether a start would come to an end with this class, and at whom.
fn foreseen(stands: &mut [Stand], bounds: &Bounds) -> Option<usize> {
    loop {
        let step = ranges::step(stands, bounds);
        step.note(stands);
        match step {
            Step::Nothing => return None,
            Step::Exhausted(at) => return Some(at),
            Step::Stay(_) => {}
            Step::Leap(at, to) | Step::Set(at, to) => stands[at].last = to.max(stands[at].last),
        }
    }
}

/// Carries out what is to be done. To be called before either side may write what the other one could hand out, and again
/// and again while a host runs. A problem: what a start must be refused for, or why nothing may be written any more.
pub async fn keep(given: &Given<'_>) -> Result<Kept, Vec<Problem>> {
    let one = |problem| vec![problem];
    let sides = Sides::connect(given.settings).await.map_err(one)?;
    let (Classes { kept, notes, .. }, known) = read(given, &sides).await.map_err(one)?;
    let mut done = Kept { notes, ..Kept::default() };
    for class in &kept {
        let lacks = lacks(given, class, &sides);
        match given.settings.two_way() {
            true if !lacks.is_empty() => done.problems.extend(lacks),
            true => leapfrog(given, class, (&known, &sides), &mut done).await.map_err(one)?,
            false if lacks.is_empty() => follow(given, class, &sides, &mut done).await.map_err(one)?,
            false => done.notes.extend(lacks.iter().map(ToString::to_string)),
        }
    }
    if done.problems.is_empty() { Ok(done) } else { Err(done.problems) }
}

async fn read(given: &Given<'_>, sides: &Sides) -> Outcome<(Classes, Known)> {
    let (blue, green) = (sequences::read(&sides.blue).await?, sequences::read(&sides.green).await?);
    let classes = classes(&blue, &green, &given.plans());
    Ok((classes, known(given.settings, &sides.green).await?))
}

async fn leapfrog(given: &Given<'_>, class: &Class, (known, sides): (&Known, &Sides), done: &mut Kept) -> Outcome<()> {
    let bounds = bounds(given.settings, class);
    let Some(mut stands) = stands(given, class, known) else { return Ok(()) };
    loop {
        let step = ranges::step(&stands, &bounds);
        step.note(&mut stands);
        match step {
            Step::Exhausted(at) if given.settings.direction_is_both() => return Err(exhausted(class, at)),
            // While one link applies nobody else is to hand out numbers, and whoever takes over can still do so.
            Step::Exhausted(at) => {
                done.notes.push(no_room(&class.members[at]));
                follow(given, class, sides, done).await?;
                break;
            }
            Step::Nothing => break,
            Step::Stay(_) => {}
            Step::Leap(at, to) | Step::Set(at, to) => {
                remember(given.settings, class, &stands, &sides.green).await?;
                let (side, sequence) = &class.members[at];
                sequences::set_past(sides.of(*side), &sequence.name, to).await?;
                stands[at].last = stands[at].last.max(to);
                tracing::info!(sequence = %sequence.name, side = side_name(*side), %to, "sequence set past the other side's");
            }
        }
    }
    let is_known = |((side, sequence), stand): (&(Side, Sequence), &Stand)| {
        let now = stand.range.map(|range| (name(class), range));
        known.get(&(*side, sequence.name.to_string())).cloned() == now
    };
    if !class.members.iter().zip(&stands).all(is_known) {
        remember(given.settings, class, &stands, &sides.green).await?;
    }
    done.shown.extend(class_shown(class, &stands, &bounds));
    Ok(())
}

async fn follow(given: &Given<'_>, class: &Class, sides: &Sides, done: &mut Kept) -> Outcome<()> {
    let Some(stands) = stands(given, class, &Known::new()) else { return Ok(()) };
    let members = || class.members.iter().zip(&stands);
    let of_source = |((side, _), _): &(&(Side, Sequence), &Stand)| *side == given.source();
    let Some((_, source)) = members().filter(of_source).max_by_key(|(_, stand)| stand.last) else { return Ok(()) };
    for ((side, sequence), target) in members().filter(|member| !of_source(member)) {
        let to = ranges::follow(source, target, given.settings.sequence_gap, sequence.most);
        if let Some(to) = to {
            sequences::set_past(sides.of(*side), &sequence.name, to).await?;
            tracing::info!(sequence = %sequence.name, side = side_name(*side), %to, "sequence set past the source's");
        }
        if to.unwrap_or(target.last).max(target.last) < source.last {
            done.notes.push(no_room(&(*side, sequence.clone())));
        }
    }
    Ok(())
}

/// Where the members stand; `None`: the role may not know.
fn stands(given: &Given<'_>, class: &Class, known: &Known) -> Option<Vec<Stand>> {
    let may_stay = |side: Side| !given.is_first_start || side == given.source();
    class.members.iter().map(|(side, sequence)| stand(*side, sequence, known, may_stay(*side))).collect()
}

pub(super) fn stand(side: Side, sequence: &Sequence, known: &Known, may_stay: bool) -> Option<Stand> {
    let range = known.get(&(side, sequence.name.to_string())).map(|(_, range)| *range);
    Some(Stand { last: sequence.last?, range, may_stay, stride: sequence.cache * sequence.increment })
}

pub(super) fn bounds(settings: &Settings, class: &Class) -> Bounds {
    let most = class.members.iter().map(|(_, sequence)| sequence.most).min().unwrap_or_default();
    Bounds { gap: settings.sequence_gap, most }
}

/// The first member's name stands for all of them.
fn name(class: &Class) -> String {
    let first = class.members.first().map(|(side, sequence)| format!("{} {}", side_name(*side), sequence.name));
    first.unwrap_or_default()
}

/// The rights that are missing, each with what it is for and the statement that grants it.
fn lacks(given: &Given<'_>, class: &Class, sides: &Sides) -> Vec<Problem> {
    let lack = |(side, sequence): &(Side, Sequence)| {
        let is_set = given.settings.two_way() || *side != given.source();
        let rights = [("SELECT", sequence.last.is_none()), ("UPDATE", is_set && !sequence.may_set)];
        let missing: Vec<&str> = rights.iter().filter(|(_, lacks)| *lacks).map(|(right, _)| *right).collect();
        let role = sides.of(*side).role();
        let blame = if *side == given.source() { Blame::Source } else { Blame::Target };
        let what = format!(
            "the role {role} lacks {} on the sequence {} of {}: its numbers cannot be kept apart from {}'s",
            missing.join(" and "),
            sequence.name,
            side_name(*side),
            side_name(side.other())
        );
        let remedy =
            format!("GRANT {} ON SEQUENCE {} TO {};", missing.join(", "), sequence.name.sql(), quote_name(role));
        let problem = placed(Problem::refuse(blame, "PERMISSION_DENIED", what), sequence).remedy(remedy);
        (!missing.is_empty()).then_some(problem)
    };
    class.members.iter().filter_map(lack).collect()
}

fn no_room((side, sequence): &(Side, Sequence)) -> String {
    format!(
        "sequence {} of {}: its type has no room for numbers past {}'s; make the column and its sequence bigint before both \
         sides hand out numbers",
        sequence.name,
        side_name(*side),
        side_name(side.other())
    )
}

fn placed(problem: Problem, sequence: &Sequence) -> Problem {
    match sequence.feeds.first() {
        Some((table, column)) => problem.table(table).column(column),
        None => problem,
    }
}

fn exhausted(class: &Class, at: usize) -> Problem {
    let (side, sequence) = &class.members[at];
    let what = format!(
        "the sequence {} of {} is about to reach numbers that the other side hands out, and its type has no room for \
         another range",
        sequence.name,
        side_name(*side)
    );
    placed(Problem::stop(Blame::Host, "SEQUENCE_EXHAUSTED", what), sequence)
        .remedy("make the column and its sequence bigint on both sides, or end the migration in one direction")
}

pub(super) async fn known(settings: &Settings, green: &Session) -> Outcome<Known> {
    let mut known = Known::new();
    // Before the first start there is no such table, and one of an older host knows classes of another kind.
    let exists =
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('falkirk.range') AND attname = 'class')";
    if !green.one(exists).await?.flag(0)? {
        return Ok(known);
    }
    let select = format!(
        "SELECT side, sequence, class, starts_at, ends_at FROM falkirk.range WHERE migration = {}",
        quote_text(&settings.name)
    );
    for row in green.rows(&select).await? {
        let side = if row.text(0)? == side_name(Side::Forward) { Side::Forward } else { Side::Backward };
        let range = Range { start: row.number(3)?, end: row.number_or_null(4)? };
        known.insert((side, row.text(1)?), (row.text(2)?, range));
    }
    Ok(known)
}

/// In one statement: the end of one range is the start of another one.
async fn remember(settings: &Settings, class: &Class, stands: &[Stand], green: &Session) -> Outcome<()> {
    let row = |((side, sequence), stand): (&(Side, Sequence), &Stand)| {
        let texts = [&settings.name, side_name(*side), &sequence.name.to_string(), &name(class)].map(quote_text);
        let Range { start, end } = stand.range?;
        let end = end.map_or_else(|| "NULL".to_owned(), |end| end.to_string());
        Some(format!("({}, {start}, {end})", texts.join(", ")))
    };
    let rows: Vec<String> = class.members.iter().zip(stands).filter_map(row).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO falkirk.range (migration, side, sequence, class, starts_at, ends_at) VALUES {} \
         ON CONFLICT (migration, side, sequence) DO UPDATE \
         SET class = excluded.class, starts_at = excluded.starts_at, ends_at = excluded.ends_at",
        rows.join(", ")
    );
    green.run(&sql).await
}
