//! Numbers that need not be secret: which of many are kept, how much later than planned.
//!
//! SplitMix64. Seeded, so that tests are exact. Never inlined: 64-bit arithmetic is long where registers have 32. Holds
//! eight bytes.

/// A small generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number (SplitMix64).
    #[inline(never)]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where `bound` is 0.
    #[inline(never)]
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.draw() % bound).unwrap_or(0)
    }

    /// A number from 0 to `most`.
    #[inline(never)]
    pub fn up_to(&mut self, most: u32) -> u32 {
        u32::try_from(self.draw() % (u64::from(most) + 1)).unwrap_or(0)
    }
}
