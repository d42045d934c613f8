//! What is known about conflicts before the stream meets them: what operators have decided, and which rows wait for a
//! unique value (counter-examples 21 and 35).

use std::collections::HashMap;

use crate::apply::conflict::{ParkedRow, Resolution};
use crate::delta::decide::Standing;
use crate::lsn::Lsn;
use crate::marker::{Link, RowDigest};

use super::seen::Seen;

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
    /// Rows that are not written because of a unique value.
    pub(super) parked: HashMap<RowDigest, ParkedRow>,
}

impl Settled {
    /// For a link: what was decided of its own conflicts, of the other link's, and its parked rows.
    pub fn new(link: Link, own: &[Resolution], others: &[Resolution], parked: Vec<ParkedRow>) -> Settled {
        let standing = |takes_blue: bool| match takes_blue == (link == Link::Forward) {
            true => Standing::Wins,
            false => Standing::Yields,
        };
        let mut settled = Settled::default();
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

    /// What an operator has decided for the change of `row` that committed at `at`, if neither side's application has
    /// touched the row since in a way that nobody decided about.
    pub(super) fn word(&self, row: RowDigest, at: Lsn, theirs: &Seen) -> Option<Standing> {
        let own = self.own.get(&row).into_iter().flatten();
        let mut own = own.filter(|word| word.position == at && theirs.changed(row, word.before) == 0);
        // The other link's change that was decided about: what this link brings was weighed against it.
        let others = self.others.get(&row).into_iter().flatten();
        let mut others = others.filter(|word| at < word.before && theirs.changed(row, Lsn(word.position.0 + 1)) == 0);
        own.next_back().or_else(|| others.next_back()).map(|word| word.standing)
    }

    /// Whether an operator has said that the change at `at` need not be written.
    pub(super) fn lets_go(&self, row: RowDigest, at: Lsn) -> bool {
        self.parked.get(&row).is_some_and(|parked| parked.decided && parked.position == at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolution(row: RowDigest, source_row: RowDigest, takes_blue: bool) -> Resolution {
        Resolution { row, source_row: Some(source_row), position: Lsn(50), target_position: Some(Lsn(500)), takes_blue }
    }

    #[test]
    fn counter_example_21_a_word_holds_for_exactly_the_change_it_was_about() {
        let forward = Settled::new(Link::Forward, &[resolution(1, 2, true)], &[], Vec::new());
        let seen = Seen::default();
        seen.note(Lsn(400), &[(1, 1)]);
        assert_eq!(forward.word(1, Lsn(50), &seen), Some(Standing::Wins));
        assert_eq!(forward.word(1, Lsn(51), &seen), None, "another change");
        assert_eq!(forward.word(2, Lsn(50), &seen), None, "another row");
        seen.note(Lsn(500), &[(1, 1)]);
        assert_eq!(forward.word(1, Lsn(50), &seen), None, "the target's application has changed the row since");
    }

    #[test]
    fn counter_example_21_the_other_link_hears_the_same_word_about_what_it_was_weighed_against() {
        let backward = Settled::new(Link::Backward, &[], &[resolution(1, 2, true)], Vec::new());
        let seen = Seen::default();
        seen.note(Lsn(50), &[(2, 1)]);
        assert_eq!(backward.word(2, Lsn(400), &seen), Some(Standing::Yields));
        assert_eq!(backward.word(2, Lsn(500), &seen), None, "made after the decision");
        seen.note(Lsn(51), &[(2, 1)]);
        assert_eq!(backward.word(2, Lsn(400), &seen), None, "blue has changed the row again");
    }
}
