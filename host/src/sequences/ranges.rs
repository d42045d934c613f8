//! Who goes on where, so that no two sequences of a class hand out one number. Pure: numbers in, the next step out.
//!
//! ```text
//!   blue   1 ......... 700 |                     3,000,000 ...        a range goes from where a sequence was set to the
//!   green                  | 1,000,700 ....                           next one's start; who has used 90 % of it leaps
//! ```
//!
//! The first time, one sequence goes on where it stands and every other one is set past it by a gap. From then on they
//! leapfrog: whoever has used nine tenths of its range gets another one, past everything that any of them has handed out.
//! A range ends where the next one began that was given out after it, also when that one's sequence has leapt away since.
//! Nothing is ever set back.

/// Percent of its range after which a sequence leaps.
const LEAPS_AT: i128 = 90;
/// Percent of its range that must be left, or the links stop.
const LEAST_LEFT: i128 = 2;
/// Below so many numbers a range is not worth a leap.
const LEAST_GAP: i128 = 100;
/// A gap takes no more than one part in so many of what the type has left: small types are leapfrogged in smaller leaps.
const SHARE_OF_ROOM: i128 = 4;

/// Where one sequence of a class stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// The number that was handed out last.
    pub last: i128,
    /// The numbers that are its own; `None` before it has any.
    pub range: Option<Range>,
    /// It may go on where it stands, if nothing is known of the class yet: nobody else has used the numbers after it.
    pub may_stay: bool,
    /// How far one draw takes it: its increment, as often as a session takes numbers at once (CACHE).
    pub stride: i128,
}

/// The numbers that one sequence may hand out, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// They begin after this number.
    pub start: i128,
    /// The last of them: where the next one that leapt has its start. `None`: nobody has yet, and only the type ends it.
    pub end: Option<i128>,
}

/// What the ranges of a class have to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many numbers a range has, where there is room.
    pub gap: i128,
    /// The largest number that all of them may hand out.
    pub most: i128,
}

/// What is to be done about one class. Sequences go by their positions in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is room enough everywhere.
    Nothing,
    /// This one's range starts where it stands.
    Stay(usize),
    /// This one gets a range after this number, and goes on there.
    Leap(usize, i128),
    /// This one goes on at the start of its range.
    Set(usize, i128),
    /// This one is about to hand out what another one has, and cannot leap: nothing may be written any more.
    Exhausted(usize),
}

impl Step {
    /// What is known of the ranges from then on. To be remembered before anything is set: a range that nobody uses yet
    /// does no harm.
    pub fn note(self, stands: &mut [Stand]) {
        let (at, start) = match self {
            Step::Stay(at) => (at, stands[at].last),
            Step::Leap(at, to) => (at, to),
            Step::Nothing | Step::Set(..) | Step::Exhausted(_) => return,
        };
        stands.iter_mut().filter_map(|stand| stand.range.as_mut()).for_each(|range| {
            range.end.get_or_insert(start);
        });
        stands[at].range = Some(Range { start, end: None });
    }
}

/// How much a sequence has left of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// So many numbers; none or fewer where it has run past the end.
    pub numbers: i128,
    /// So many it had.
    of: i128,
    /// Numbers of another one follow, not the end of its type.
    pub meets_another: bool,
}

impl Left {
    fn is_at_most(&self, percent: i128) -> bool {
        self.numbers * 100 <= self.of * percent
    }

    /// In percent of what it had.
    pub fn percent(&self) -> i128 {
        (self.numbers.max(0) * 100 / self.of.max(1)).min(100)
    }

    /// So little that it is to leap.
    pub fn is_little(&self) -> bool {
        self.is_at_most(100 - LEAPS_AT)
    }
}

impl Stand {
    /// What it has left; `None` before it has a range.
    pub fn left(&self, bounds: &Bounds) -> Option<Left> {
        let Range { start, end } = self.range?;
        let last = end.unwrap_or(bounds.most);
        // Its last draw must not take it past the end.
        let numbers = last - self.last - (self.stride - 1);
        Some(Left { numbers, of: last - start, meets_another: end.is_some() })
    }

    /// It stands before its range, among the numbers of others: the host ended before it was set, or somebody has set it
    /// back.
    pub fn is_behind(&self) -> bool {
        self.range.is_some_and(|range| range.start > self.last)
    }
}

/// The next step for a class. To be asked again after each.
pub fn step(stands: &[Stand], bounds: &Bounds) -> Step {
    let behind = stands.iter().enumerate().find(|(_, stand)| stand.is_behind());
    if let Some((at, range)) = behind.and_then(|(at, stand)| Some((at, stand.range?))) {
        return Step::Set(at, range.start);
    }
    if stands.iter().all(|stand| stand.range.is_none()) {
        let stays = stands.iter().enumerate().filter(|(_, stand)| stand.may_stay).rev();
        if let Some((at, _)) = stays.max_by_key(|(_, stand)| stand.last) {
            return Step::Stay(at);
        }
    }
    let mut exhausted = None;
    for (at, stand) in stands.iter().enumerate() {
        let left = stand.left(bounds);
        if left.is_some_and(|left| !left.meets_another || !left.is_little()) {
            continue;
        }
        match leap(stands, at, bounds) {
            Some(to) => return Step::Leap(at, to),
            None if left.is_none_or(|left| left.is_at_most(LEAST_LEFT)) => exhausted = exhausted.or(Some(at)),
            None => {}
        }
    }
    exhausted.map_or(Step::Nothing, Step::Exhausted)
}

/// Past everything that any of them has handed out, by the gap; `None` if there is no room for one.
pub fn leap(stands: &[Stand], at: usize, bounds: &Bounds) -> Option<i128> {
    let far = stands.iter().map(|stand| stand.range.map_or(stand.last, |range| range.start.max(stand.last))).max()?;
    let gap = bounds.gap.min((bounds.most - far) / SHARE_OF_ROOM);
    // Numbers that a session has taken at once are handed out later without the sequence's knowing.
    let to = far + gap + stands.iter().map(|stand| stand.stride).max()?;
    (gap >= LEAST_GAP && to + stands[at].stride < bounds.most).then_some(to)
}

/// While one link alone writes, its target hands out nothing: it only has to stand past the source for whoever takes over.
/// Where to set it, if it is to be set; `most` is its own. As near as its type asks for, and never an end.
pub fn follow(source: &Stand, target: &Stand, gap: i128, most: i128) -> Option<i128> {
    let gap = gap.min((most - source.last).max(0) / SHARE_OF_ROOM);
    let is_ahead = target.last > source.last + gap * (100 - LEAPS_AT) / 100;
    let to = (source.last + gap + source.stride).min(most - 1);
    (!is_ahead && to > target.last).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDE: Bounds = Bounds { gap: 1_000, most: i64::MAX as i128 };

    fn unknown<const N: usize>(lasts: [i128; N]) -> Vec<Stand> {
        lasts.map(|last| Stand { last, range: None, may_stay: true, stride: 1 }).to_vec()
    }

    /// Each `(last, start, end)`.
    fn apart<const N: usize>(all: [(i128, i128, Option<i128>); N]) -> Vec<Stand> {
        let stand = |(last, start, end)| Stand { last, range: Some(Range { start, end }), may_stay: true, stride: 1 };
        all.map(stand).to_vec()
    }

    /// Carries out what is to be done, until nothing is or nothing can be.
    fn settle(stands: &mut [Stand], bounds: &Bounds) -> Step {
        loop {
            let step = step(stands, bounds);
            step.note(stands);
            match step {
                Step::Stay(_) => {}
                Step::Leap(at, to) | Step::Set(at, to) => stands[at].last = to.max(stands[at].last),
                end => return end,
            }
        }
    }

    #[test]
    fn whoever_is_in_front_stays_and_the_others_are_set_past_it() {
        let mut sides = unknown([700, 0]);
        assert_eq!(settle(&mut sides, &WIDE), Step::Nothing);
        assert_eq!(sides, apart([(700, 700, Some(1_701)), (1_701, 1_701, None)]));
        // Both have been in use, and nobody knows where: the one behind would run into what the other one has used.
        let mut sides = unknown([700, 1_705]);
        settle(&mut sides, &WIDE);
        assert_eq!(sides, apart([(2_706, 2_706, None), (1_705, 1_705, Some(2_706))]));
        // At the first start the target has handed out nothing, wherever it stands.
        let mut sides = unknown([700, 5_000]);
        sides[1].may_stay = false;
        settle(&mut sides, &WIDE);
        assert_eq!(sides[0].range, Some(Range { start: 700, end: Some(6_001) }));
    }

    #[test]
    fn whoever_comes_near_the_end_of_its_range_leaps_past_all() {
        let blue = |last| apart([(last, 700, Some(1_700)), (1_900, 1_700, None)]);
        assert_eq!(step(&blue(1_500), &WIDE), Step::Nothing);
        assert_eq!(step(&blue(1_600), &WIDE), Step::Leap(0, 2_901));
        let green = apart([(2_950, 2_901, None), (2_790, 1_700, Some(2_901))]);
        assert_eq!(step(&green, &WIDE), Step::Leap(1, 3_951));
    }

    #[test]
    fn a_range_ends_where_it_ended_when_the_one_behind_its_end_has_leapt_away() {
        let mut three = apart([(10, 0, Some(1_000)), (1_950, 1_000, Some(2_000)), (2_010, 2_000, None)]);
        assert_eq!(settle(&mut three, &WIDE), Step::Nothing);
        assert_eq!(three[0].range, Some(Range { start: 0, end: Some(1_000) }), "the numbers behind it are used");
        assert_eq!(three[1].range, Some(Range { start: 3_011, end: None }));
        assert_eq!(three[2].range, Some(Range { start: 2_000, end: Some(3_011) }));
    }

    #[test]
    fn a_leap_that_was_remembered_and_not_carried_out_is_carried_out_and_what_was_set_back_is_set_again() {
        let remembered = apart([(1_600, 2_901, None), (1_900, 1_700, Some(2_901))]);
        assert_eq!(step(&remembered, &WIDE), Step::Set(0, 2_901));
        assert_eq!(step(&apart([(750, 700, Some(1_700)), (0, 1_700, None)]), &WIDE), Step::Set(1, 1_700));
    }

    #[test]
    fn one_that_comes_later_is_set_past_all() {
        let mut three = apart([(750, 700, Some(1_700)), (1_900, 1_700, None)]);
        three.extend(unknown([800]));
        assert_eq!(settle(&mut three, &WIDE), Step::Nothing);
        assert_eq!(three[2].range, Some(Range { start: 2_901, end: None }));
    }

    #[test]
    fn counter_example_24_below_two_percent_without_room_to_leap_is_the_end() {
        let narrow = Bounds { gap: 1_000, most: 2_000 };
        let at = |blue| apart([(blue, 700, Some(1_700)), (1_800, 1_700, None)]);
        assert_eq!(step(&at(1_620), &narrow), Step::Nothing, "8 % are left");
        assert_eq!(at(1_620)[0].left(&narrow).map(|left| left.percent()), Some(8));
        assert_eq!(step(&at(1_680), &narrow), Step::Exhausted(0));
        let mut full = unknown([1_950, 0]);
        assert_eq!(settle(&mut full, &narrow), Step::Exhausted(1), "there is no room to begin with");
    }

    #[test]
    fn a_small_type_is_leapfrogged_in_smaller_leaps() {
        let small = Bounds { gap: 1_000_000, most: 32_767 };
        let mut sides = unknown([700, 0]);
        assert_eq!(settle(&mut sides, &small), Step::Nothing);
        assert_eq!(sides[1].range, Some(Range { start: 700 + 32_067 / 4 + 1, end: None }));
        for _ in 0..8 {
            let ends = |stand: &Stand| stand.range.is_some_and(|range| range.end.is_some());
            let behind = sides.iter().position(ends).unwrap();
            sides[behind].last += sides[behind].left(&small).unwrap().numbers - 1;
            assert_eq!(settle(&mut sides, &small), Step::Nothing, "{sides:?}");
        }
    }

    #[test]
    fn numbers_that_a_session_takes_at_once_do_not_reach_past_the_end() {
        let mut sides = apart([(1_600, 700, Some(1_720)), (1_720, 1_720, None)]);
        assert_eq!(step(&sides, &WIDE), Step::Nothing, "120 of 1,020 are left");
        sides[0].stride = 20;
        assert_eq!(step(&sides, &WIDE), Step::Leap(0, 2_740), "one draw takes 20 of them");
    }

    #[test]
    fn a_target_that_hands_out_nothing_follows_its_source() {
        let stand = |last| Stand { last, range: None, may_stay: true, stride: 1 };
        let follow = |source, target, most| follow(&stand(source), &stand(target), 1_000, most);
        assert_eq!(follow(700, 0, 1 << 40), Some(1_701));
        assert_eq!(follow(1_500, 1_701, 1 << 40), None, "it is ahead");
        assert_eq!(follow(1_650, 1_701, 1 << 40), Some(2_651));
        assert_eq!(follow(32_700, 0, 32_767), Some(32_717), "as far as the type lets it");
        assert_eq!(follow(32_766, 32_766, 32_767), None, "there is nowhere to go, and no end of the link");
    }

    proptest! {
        /// As long as no more numbers are drawn between two looks than a sequence had left at the first of them, none is
        /// handed out twice: not by any number of sequences, nor where a leap is remembered and the host ends before it
        /// is carried out, nor where a type runs out, which is the end in time.
        #[test]
        fn counter_example_24_no_number_is_handed_out_twice(
            lasts in prop::collection::vec(0..5_000_i128, 2..5),
            stride in 1..4_i128,
            most in prop_oneof![Just(WIDE.most), 3_000..40_000_i128],
            draws in prop::collection::vec((0..5_usize, 0..99_i128, prop::bool::weighted(0.2)), 1..300),
        ) {
            let bounds = Bounds { gap: 1_000, most };
            let mut seen = std::collections::HashSet::new();
            // The one in front has handed out everything up to where it stands.
            let front = lasts.iter().copied().max().unwrap_or(0);
            let mut sides: Vec<Stand> =
                lasts.into_iter().map(|last| Stand { last, range: None, may_stay: last == front, stride }).collect();
            let mut end = settle(&mut sides, &bounds);
            let lefts = |sides: &[Stand]| -> Vec<i128> {
                sides.iter().map(|stand| stand.left(&bounds).unwrap().numbers / stride).collect()
            };
            let mut left = if end == Step::Nothing { lefts(&sides) } else { Vec::new() };
            for (who, count, dies) in draws {
                if end != Step::Nothing {
                    break;
                }
                let at = who % sides.len();
                for _ in 0..count.min(left[at]) {
                    left[at] -= 1;
                    sides[at].last += stride;
                    for number in sides[at].last - stride + 1..=sides[at].last {
                        prop_assert!(number > front && number <= most && seen.insert(number), "{number}");
                    }
                }
                match step(&sides, &bounds) {
                    // Looked at, and not set: the others have what is left before the range that was given out.
                    step @ Step::Leap(leaper, _) if dies => {
                        step.note(&mut sides);
                        let now = lefts(&sides).into_iter().enumerate().filter(|(other, _)| *other != leaper);
                        now.for_each(|(other, now)| left[other] = left[other].min(now));
                    }
                    _ => {
                        end = settle(&mut sides, &bounds);
                        left = lefts(&sides);
                    }
                }
            }
        }
    }
}
