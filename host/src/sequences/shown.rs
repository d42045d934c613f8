//! How the sequences stand: for `check`, and from the databases alone for `status`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::Settings;
use crate::pg::sequences::{self, Sequence};
use crate::problem::Outcome;

use super::keep::{Known, bounds, known, stand};
use super::ranges::{self, Bounds, Stand};
use super::{Class, Side, Sides, side_name};

/// One sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// `blue` or `green`.
    pub side: &'static str,
    /// Its name.
    pub sequence: String,
    /// The columns that draw from it.
    pub columns: Vec<String>,
    /// The number that was handed out last.
    pub stands_at: i64,
    /// The first number of its range; `None` before it is set apart.
    pub first: Option<i64>,
    /// The last one.
    pub last: Option<i64>,
    /// How many of them are left.
    pub left: Option<i64>,
    /// The same in percent.
    pub left_percent: Option<i64>,
    /// What should be done, if anything.
    pub warning: Option<String>,
}

/// The members of a class.
pub(super) fn class_shown(class: &Class, stands: &[Stand], bounds: &Bounds) -> Vec<Shown> {
    let number = |number: i128| i64::try_from(number).unwrap_or(i64::MAX);
    let one = |(at, (side, sequence)): (usize, &(Side, Sequence))| {
        let (range, left) = (stands[at].range, stands[at].left(bounds));
        Shown {
            side: side_name(*side),
            sequence: sequence.name.to_string(),
            columns: sequence.feeds.iter().map(|(table, column)| format!("{table}.{column}")).collect(),
            stands_at: number(stands[at].last),
            first: range.map(|range| number(range.start + 1)),
            last: range.map(|range| number(range.end.unwrap_or(bounds.most))),
            left: left.map(|left| number(left.numbers.max(0))),
            left_percent: left.map(|left| number(left.percent())),
            warning: warning(class, stands, at, bounds),
        }
    };
    class.members.iter().enumerate().map(one).collect()
}

fn warning(class: &Class, stands: &[Stand], at: usize, bounds: &Bounds) -> Option<String> {
    let left = stands[at].left(bounds)?;
    let (side, sequence) = &class.members[at];
    let (name, other) = (format!("sequence {} of {}", sequence.name, side_name(*side)), side_name(side.other()));
    if stands[at].is_behind() {
        return Some(format!(
            "{name} stands before its range, at numbers that others hand out: let the host run, which sets it past them"
        ));
    }
    let next = match (left.meets_another, ranges::leap(stands, at, bounds).is_some()) {
        _ if !left.is_little() => return None,
        (true, true) => format!("let the host run, which sets it past {other}'s"),
        (true, false) => {
            "there is no room for another range, and below 2 % links that both apply stop: make the column and its \
                          sequence bigint on both sides, or let one side's application alone make rows"
                .to_owned()
        }
        (false, _) => "then its type ends: make the column and its sequence bigint on both sides".to_owned(),
    };
    Some(format!("{name} has {} % of its range left, {} numbers: {next}", left.percent(), left.numbers.max(0)))
}

/// What the databases alone say: the sequences that a host has set apart.
pub async fn shown(settings: &Settings) -> Outcome<Vec<Shown>> {
    let sides = Sides::connect(settings).await?;
    let known = known(settings, &sides.green).await?;
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let lists =
        [(Side::Forward, sequences::read(&sides.blue).await?), (Side::Backward, sequences::read(&sides.green).await?)];
    let mut classes: BTreeMap<&String, Vec<(Side, Sequence)>> = BTreeMap::new();
    for (side, list) in lists {
        for sequence in list {
            // One that the role may not read is named by `check`.
            let name = known.get(&(side, sequence.name.to_string())).filter(|_| sequence.last.is_some());
            if let Some((class, _)) = name {
                classes.entry(class).or_default().push((side, sequence));
            }
        }
    }
    let classes = classes.into_values().map(|members| Class { members });
    Ok(classes.flat_map(|class| stood(settings, &class, &known)).collect())
}

fn stood(settings: &Settings, class: &Class, known: &Known) -> Vec<Shown> {
    let stands = class.members.iter().map(|(side, sequence)| stand(*side, sequence, known, true));
    let Some(stands) = stands.collect::<Option<Vec<Stand>>>() else { return Vec::new() };
    class_shown(class, &stands, &bounds(settings, class))
}
