//! What is known about conflicts before the stream meets them: what operators have decided, which rows wait for others and
//! which were kept (counter-examples 21 and 35).

use std::collections::{HashMap, HashSet};

use crate::apply::conflict::{KeptRow, ParkedRow, Resolution};
use crate::delta::decide::Standing;
use crate::lsn::Lsn;
use crate::marker::{Link, RowDigest};

/// One word of an operator, as a link hears it.
#[derive(Clone, Copy, Debug)]
struct Word {
    standing: Standing,
    /// The change of the source that it was about.
    position: Lsn,
    /// It was about everything that the target's application had done to the row before this position of the target.
    before: Lsn,
}

/// What a link knows before it decides.
#[derive(Debug, Default)]
pub struct Settled {
    /// By row of the target: words about changes that this link brings.
    own: HashMap<RowDigest, Vec<Word>>,
    /// By row of the target: words about changes that the other link brings from there.
    others: HashMap<RowDigest, Vec<Word>>,
    /// Rows that are not written because of others.
    pub(super) parked: HashMap<RowDigest, ParkedRow>,
    /// Rows that were not deleted because of others, and go back to the source.
    pub(super) kept: Vec<KeptRow>,
    /// All rows that were ever kept.
    pub(super) known: HashSet<RowDigest>,
}

impl Settled {
    /// For a link: what was decided of its own conflicts, of the other link's, its parked rows and those that it kept.
    pub fn new(
        link: Link,
        (own, others): (&[Resolution], &[Resolution]),
        parked: Vec<ParkedRow>,
        kept: Vec<KeptRow>,
    ) -> Settled {
        let standing = |takes_blue: bool| match takes_blue == (link == Link::Forward) {
            true => Standing::Wins,
            false => Standing::Yields,
        };
        let known = kept.iter().map(|kept| kept.row).collect();
        let kept = kept.into_iter().filter(|kept| kept.is_open).collect();
        let mut settled = Settled { kept, known, ..Settled::default() };
        for resolution in own.iter().chain(others) {
            let Some(before) = resolution.target_position else { continue };
            let Resolution { position, takes_blue, .. } = *resolution;
            let word = Word { standing: standing(takes_blue), position, before };
            let own = own.iter().any(|known| std::ptr::eq(known, resolution));
            match (own, resolution.source_row) {
                (true, _) => settled.own.entry(resolution.row).or_default().push(word),
                (false, Some(row)) => settled.others.entry(row).or_default().push(word),
                (false, None) => {}
            }
        }
        settled.parked = parked.into_iter().map(|parked| (parked.row, parked)).collect();
        settled
    }

    /// What an operator has decided for the change that committed at `at` of a row, or of another of its record, if neither
    /// side's application has touched any of them since in a way that nobody decided about. `rows`: all of them; `changed`:
    /// whether the target's application has changed one after this position.
    pub(super) fn word(&self, rows: &[RowDigest], at: Lsn, changed: impl Fn(Lsn) -> bool) -> Option<Standing> {
        let about = |words: &HashMap<RowDigest, Vec<Word>>| -> Vec<Word> {
            rows.iter().filter_map(|row| words.get(row)).flatten().copied().collect()
        };
        let own = about(&self.own).into_iter().rfind(|word| word.position == at && !changed(word.before));
        // The other link's change that was decided about: what this link brings was weighed against it.
        let weighed = |word: &Word| at < word.before && !changed(Lsn(word.position.0 + 1));
        own.or_else(|| about(&self.others).into_iter().rfind(weighed)).map(|word| word.standing)
    }

    /// Whether an operator has said that the change at `at` need not be written.
    pub(super) fn lets_go(&self, row: RowDigest, at: Lsn) -> bool {
        self.parked.get(&row).is_some_and(|parked| parked.decided && parked.position == at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen::Seen;
    use super::*;

    fn resolution(row: RowDigest, source_row: RowDigest, takes_blue: bool) -> Resolution {
        Resolution { row, source_row: Some(source_row), position: Lsn(50), target_position: Some(Lsn(500)), takes_blue }
    }

    fn word(settled: &Settled, rows: &[RowDigest], at: Lsn, seen: &Seen) -> Option<Standing> {
        settled.word(rows, at, |after| rows.iter().any(|row| seen.changed(*row, after) != 0))
    }

    #[test]
    fn counter_example_21_a_word_holds_for_exactly_the_change_it_was_about() {
        let forward = Settled::new(Link::Forward, (&[resolution(1, 2, true)], &[]), Vec::new(), Vec::new());
        let seen = Seen::default();
        seen.note(Lsn(400), &[(1, 1)]);
        assert_eq!(word(&forward, &[1], Lsn(50), &seen), Some(Standing::Wins));
        assert_eq!(word(&forward, &[1], Lsn(51), &seen), None, "another change");
        assert_eq!(word(&forward, &[2], Lsn(50), &seen), None, "another row");
        assert_eq!(word(&forward, &[3, 1], Lsn(50), &seen), Some(Standing::Wins), "another row of its record");
        seen.note(Lsn(500), &[(3, 1)]);
        assert_eq!(word(&forward, &[3, 1], Lsn(50), &seen), None, "the record has changed since");
        seen.note(Lsn(500), &[(1, 1)]);
        assert_eq!(word(&forward, &[1], Lsn(50), &seen), None, "the target's application has changed the row since");
    }

    #[test]
    fn counter_example_21_the_other_link_hears_the_same_word_about_what_it_was_weighed_against() {
        let backward = Settled::new(Link::Backward, (&[], &[resolution(1, 2, true)]), Vec::new(), Vec::new());
        let seen = Seen::default();
        seen.note(Lsn(50), &[(2, 1)]);
        assert_eq!(word(&backward, &[2], Lsn(400), &seen), Some(Standing::Yields));
        assert_eq!(word(&backward, &[2], Lsn(500), &seen), None, "made after the decision");
        seen.note(Lsn(51), &[(2, 1)]);
        assert_eq!(word(&backward, &[2], Lsn(400), &seen), None, "blue has changed the row again");
    }
}
