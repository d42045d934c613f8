//! Keeping the keys that both sides hand out apart (design, section 3; counter-example 24).
//!
//! ```text
//!   blue   1 ......... 700 |                     3,000,000 ...        a range is what lies between a side's start and
//!   green                  | 1,000,700 ....                           the other one's; who has used 90 % of it leaps
//! ```
//!
//! Before a side may write, its sequence is set past the other's by a gap. From then on the two leapfrog: whoever has
//! used nine tenths of the room up to the other's start is set past everything that either has handed out. The starts
//! are remembered in the target of the migration's forward link, so that a restart knows them. Nothing is ever set back.

use std::collections::BTreeMap;

use crate::config::Settings;
use crate::marker::Link;
use crate::names::quote_text;
use crate::pg::sequences::{self, Sequence};
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};

/// Percent of its range after which a side leaps.
const LEAPS_AT: i128 = 90;
/// Percent of its range that must be left, or the links stop.
const LEAST_LEFT: i128 = 2;

/// A side: `Forward` for blue, which that link reads, `Backward` for green.
pub type Side = Link;

/// Where each side's range starts.
pub type Starts = BTreeMap<Side, i128>;

/// A sequence of both sides.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The column that draws from it, or its own name: the same on both sides.
    pub what: String,
    /// Blue's and green's.
    pub of: BTreeMap<Side, Sequence>,
}

/// What is to be done about one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is room enough on both sides.
    Nothing,
    /// This side goes on after this number.
    Leap(Side, i128),
    /// A side is about to hand out what the other has: nothing may be written any more.
    Exhausted(Side),
}

/// What the keeper found.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// For `check` and `status`: what, blue's last number, green's, room left in percent of the tighter side.
    pub pairs: Vec<(String, i128, i128, i128)>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

/// The pairs: by owning column where there is one, otherwise by name.
pub fn pairs(blue: Vec<Sequence>, green: Vec<Sequence>) -> Vec<Pair> {
    let mut found: BTreeMap<String, BTreeMap<Side, Sequence>> = BTreeMap::new();
    for (side, list) in [(Link::Forward, blue), (Link::Backward, green)] {
        for sequence in list {
            let what = match &sequence.owner {
                Some((table, column)) => format!("{table}.{column}"),
                None => sequence.name.to_string(),
            };
            found.entry(what).or_default().insert(side, sequence);
        }
    }
    let both = found.into_iter().filter(|(_, of)| of.len() == 2);
    both.map(|(what, of)| Pair { what, of }).collect()
}

/// The next step for one pair. `gap` is how many numbers a range has at least.
pub fn step(last: &BTreeMap<Side, i128>, starts: &Starts, most: &BTreeMap<Side, i128>, gap: i128) -> Step {
    let far = |side: Side| last[&side].max(starts.get(&side).copied().unwrap_or(last[&side]));
    let beyond = far(Link::Forward).max(far(Link::Backward)) + gap;
    let (Some(blue), Some(green)) = (starts.get(&Link::Forward), starts.get(&Link::Backward)) else {
        // The first time: green has written nothing yet, or as little as blue's copy did.
        return leap(Link::Backward, beyond, most);
    };
    // Who stands behind runs into the start of who stands before.
    let (behind, wall) = if blue <= green { (Link::Forward, *green) } else { (Link::Backward, *blue) };
    let range = wall - starts[&behind];
    let left = wall - 1 - last[&behind];
    if left * 100 > range * (100 - LEAPS_AT) {
        return Step::Nothing;
    }
    match leap(behind, beyond, most) {
        Step::Exhausted(_) if left * 100 > range * LEAST_LEFT => Step::Nothing,
        step => step,
    }
}

fn leap(side: Side, to: i128, most: &BTreeMap<Side, i128>) -> Step {
    if to < most[&side] { Step::Leap(side, to) } else { Step::Exhausted(side) }
}

/// Percent of the range that the tighter side has left.
pub fn left_percent(last: &BTreeMap<Side, i128>, starts: &Starts) -> i128 {
    let (Some(blue), Some(green)) = (starts.get(&Link::Forward), starts.get(&Link::Backward)) else { return 100 };
    let (behind, wall) = if blue <= green { (Link::Forward, *green) } else { (Link::Backward, *blue) };
    let range = (wall - starts[&behind]).max(1);
    ((wall - 1 - last[&behind]).max(0) * 100 / range).min(100)
}

fn behind(starts: &Starts) -> Side {
    match starts.get(&Link::Forward) <= starts.get(&Link::Backward) {
        true => Link::Forward,
        false => Link::Backward,
    }
}

/// Looks at every pair and carries out what is to be done. To be called before both sides may write, and again and again
/// while they do. Without `acts` it only looks.
pub async fn keep(settings: &Settings, blue: &Session, green: &Session, acts: bool) -> Outcome<Kept> {
    let mut kept = Kept::default();
    let both = pairs(sequences::read(blue).await?, sequences::read(green).await?);
    let mut known = starts(settings, green).await?;
    for pair in both {
        let mut known = known.remove(&pair.what).unwrap_or_default();
        let last: BTreeMap<Side, i128> = pair.of.iter().map(|(side, sequence)| (*side, sequence.last)).collect();
        let most: BTreeMap<Side, i128> = pair.of.iter().map(|(side, sequence)| (*side, sequence.most)).collect();
        if let Some(odd) = pair.of.values().find(|sequence| sequence.increment < 1 || sequence.cycles) {
            kept.warnings
                .push(format!("sequence {} counts down or in circles: its numbers are not kept apart", odd.name));
            continue;
        }
        let cache = pair.of.values().map(|sequence| sequence.cache * sequence.increment).max().unwrap_or(1);
        // Numbers that a session holds back are handed out later without the sequence's knowing (CACHE).
        match step(&last, &known, &most, settings.sequence_gap + cache) {
            Step::Leap(side, to) if acts => {
                let (sequence, session) = (&pair.of[&side], if side == Link::Forward { blue } else { green });
                if !sequence.may_set {
                    return Err(may_not_set(sequence, side));
                }
                // Remembered first: a start that nobody uses yet does no harm.
                known.insert(side, to);
                known.entry(side.other()).or_insert(last[&side.other()]);
                remember(settings, green, &pair.what, &known).await?;
                sequences::set_past(session, &sequence.name, to).await?;
                tracing::info!(sequence = pair.what, side = side_name(side), to = %to, "sequence set past the other side's");
            }
            Step::Exhausted(side) => return Err(exhausted(&pair, side)),
            Step::Leap(..) | Step::Nothing => {}
        }
        let left = left_percent(&last, &known);
        if left < 100 - LEAPS_AT {
            kept.warnings.push(format!(
                "sequence {}: {} has {left} % of its range left and no room to leap: make the column wider",
                pair.what,
                side_name(behind(&known))
            ));
        }
        kept.pairs.push((pair.what, last[&Link::Forward], last[&Link::Backward], left));
    }
    Ok(kept)
}

fn side_name(side: Side) -> &'static str {
    if side == Link::Forward { "blue" } else { "green" }
}

fn exhausted(pair: &Pair, side: Side) -> Problem {
    let table = pair.of.get(&side).and_then(|sequence| sequence.owner.as_ref());
    let problem = Problem::stop(
        Blame::Host,
        "SEQUENCE_EXHAUSTED",
        format!(
            "the sequence {} of {} is about to reach numbers that the other side hands out, and its type has no room for \
             another range",
            pair.what,
            side_name(side)
        ),
    )
    .remedy("make the column and its sequence bigint on both sides, or end the migration in one direction");
    match table {
        Some((table, column)) => problem.table(table).column(column),
        None => problem,
    }
}

fn may_not_set(sequence: &Sequence, side: Side) -> Problem {
    let what = format!("the role may not set the sequence {} of {}", sequence.name, side_name(side));
    Problem::refuse(Blame::Target, "PERMISSION_DENIED", what)
        .remedy(format!("GRANT SELECT, USAGE, UPDATE ON SEQUENCE {} TO the role;", sequence.name.sql()))
}

async fn starts(settings: &Settings, green: &Session) -> Outcome<BTreeMap<String, Starts>> {
    let mut known: BTreeMap<String, Starts> = BTreeMap::new();
    if !green.one("SELECT to_regclass('falkirk.range') IS NOT NULL").await?.flag(0)? {
        return Ok(known);
    }
    let select =
        format!("SELECT sequence, side, starts_at FROM falkirk.range WHERE migration = {}", quote_text(&settings.name));
    for row in green.rows(&select).await? {
        let side = if row.text(1)? == "blue" { Link::Forward } else { Link::Backward };
        known.entry(row.text(0)?).or_default().insert(side, row.number(2)?);
    }
    Ok(known)
}

async fn remember(settings: &Settings, green: &Session, what: &str, starts: &Starts) -> Outcome<()> {
    for (side, start) in starts {
        green
            .run(&format!(
                "INSERT INTO falkirk.range (migration, sequence, side, starts_at) VALUES ({}, {}, {}, {start}) \
                 ON CONFLICT (migration, sequence, side) DO UPDATE SET starts_at = excluded.starts_at",
                quote_text(&settings.name),
                quote_text(what),
                quote_text(side_name(*side))
            ))
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sides(blue: i128, green: i128) -> BTreeMap<Side, i128> {
        BTreeMap::from([(Link::Forward, blue), (Link::Backward, green)])
    }

    #[test]
    fn green_starts_past_blue_by_the_gap_and_whoever_comes_near_leaps() {
        let most = sides(i128::from(i64::MAX), i128::from(i64::MAX));
        assert_eq!(step(&sides(700, 0), &Starts::new(), &most, 1_000), Step::Leap(Link::Backward, 1_700));
        let starts = sides(700, 1_700);
        assert_eq!(step(&sides(1_500, 1_900), &starts, &most, 1_000), Step::Nothing);
        assert_eq!(step(&sides(1_600, 1_900), &starts, &most, 1_000), Step::Leap(Link::Forward, 2_900));
        let starts = sides(2_900, 1_700);
        assert_eq!(step(&sides(2_950, 2_800), &starts, &most, 1_000), Step::Leap(Link::Backward, 3_950));
    }

    #[test]
    fn counter_example_24_below_two_percent_without_room_to_leap_is_the_end() {
        let most = sides(2_000, 2_000);
        let starts = sides(700, 1_700);
        assert_eq!(step(&sides(1_620, 1_800), &starts, &most, 1_000), Step::Nothing, "8 % are left");
        assert_eq!(step(&sides(1_690, 1_800), &starts, &most, 1_000), Step::Exhausted(Link::Forward));
        assert_eq!(left_percent(&sides(1_620, 1_800), &starts), 7);
    }

    proptest! {
        /// As long as a side draws less than a tenth of the gap between two visits, no number is handed out twice.
        #[test]
        fn counter_example_24_no_number_is_handed_out_twice(
            draws in prop::collection::vec((any::<bool>(), 0..99_i128), 1..200),
            blue in 0..5_000_i128,
        ) {
            let gap = 1_000;
            let most = sides(i128::from(i64::MAX), i128::from(i64::MAX));
            let mut last = sides(blue, 0);
            let mut starts = Starts::new();
            let mut seen = std::collections::HashSet::new();
            for (is_blue, count) in draws {
                while let Step::Leap(side, to) = step(&last, &starts, &most, gap) {
                    starts.insert(side, to);
                    starts.entry(side.other()).or_insert(last[&side.other()]);
                    last.insert(side, to.max(last[&side]));
                }
                let side = if is_blue { Link::Forward } else { Link::Backward };
                for _ in 0..count {
                    let number = last[&side] + 1;
                    last.insert(side, number);
                    prop_assert!(seen.insert(number), "{number} was handed out twice");
                }
            }
        }
    }
}
