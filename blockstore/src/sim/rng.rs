//! The simulator's dice: small, fast, reproducible; no secrets are kept here.

/// A seeded stream of numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct SimRng(u64);

impl SimRng {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own, so that one consumer's appetite does not shift another's numbers.
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64() ^ 0x5bd1_e995_9d1b_54a5)
    }

    /// 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// Where `bound` is zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// True `times` in `of`.
    pub const fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// Eight independent coins: a choice for each sector of a block.
    pub fn sector_mask(&mut self) -> u8 {
        self.next_u64().to_le_bytes()[0]
    }

    /// As [`Self::sector_mask`], with all and none as likely as anything between.
    pub fn blend_mask(&mut self) -> u8 {
        match self.below(3) {
            0 => 0,
            1 => u8::MAX,
            _ => self.sector_mask(),
        }
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }

    /// Puts `items` in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let pick = crate::addr::to_usize(self.below(crate::addr::to_u64(last) + 1));
            items.swap(last, pick);
        }
    }
}
