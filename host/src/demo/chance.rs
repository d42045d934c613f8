//! Seeded randomness, so that two demos do the same things: the splitmix64 sequence.

/// A sequence of numbers that look random.
pub struct Chance(u64);

impl Chance {
    /// The sequence of a seed. Neighbouring seeds give unrelated sequences.
    pub fn new(seed: u64) -> Chance {
        let mut chance = Chance(seed);
        Chance(chance.next())
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// One of several.
    pub fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        let place = self.below(choices.len() as u64) as usize;
        choices.get(place).copied().unwrap_or_default()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
