//! The units of the store, a type for each.
//!
//! Blocks become bytes in [`BlockCount::bytes`] and nowhere else.

use std::fmt;
use std::ops::Range;

/// Bytes in a block: the unit of mapping, checksumming and atomicity.
pub const BLOCK_BYTES: usize = 4096;
/// [`BLOCK_BYTES`] as a 64-bit quantity.
pub const BLOCK_BYTES_U64: u64 = 4096;
/// Blocks in a segment (8 MiB of addresses).
pub const SEGMENT_BLOCKS: u64 = 2048;
/// Largest value of a 44-bit field (block addresses, virtual blocks, epochs).
pub const MAX_44: u64 = (1 << 44) - 1;

const _: () = assert!(usize::BITS == 64, "sizes and indexes are 64 bits wide");

/// A 64-bit quantity as an index or length in memory; lossless here, by the assertion above.
#[allow(clippy::cast_possible_truncation)] // asserted above: `usize` has 64 bits here
pub const fn to_usize(value: u64) -> usize {
    value as usize
}

/// A length in memory as a 64-bit quantity.
pub const fn to_u64(value: usize) -> u64 {
    value as u64
}

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(u64);

        impl $name {
            /// The smallest value.
            pub const ZERO: Self = Self(0);
            /// The largest value: 44 bits.
            pub const MAX: Self = Self(MAX_44);

            /// `None` where `raw` needs more than 44 bits.
            pub const fn new(raw: u64) -> Option<Self> {
                if raw <= MAX_44 { Some(Self(raw)) } else { None }
            }

            /// For values that our own code has bounded.
            ///
            /// # Panics
            /// Where `raw` needs more than 44 bits: a bug of ours.
            pub const fn of(raw: u64) -> Self {
                assert!(raw <= MAX_44);
                Self(raw)
            }

            /// The bare number.
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The value `count` further on.
            pub const fn plus(self, count: u64) -> Self {
                Self::of(self.0 + count)
            }

            /// The next value.
            pub const fn next(self) -> Self {
                self.plus(1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit!(
    /// A physical block in the store; never a byte offset.
    BlockAddr
);
unit!(
    /// A block of a disk's own address space.
    VirtualBlock
);
unit!(
    /// A number from the store-wide counter, strictly increasing along every path of the
    /// version tree. Zero is before every version.
    Epoch
);

/// A number of blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BlockCount(pub u64);

impl BlockCount {
    /// How many whole blocks hold `bytes`.
    pub const fn covering(bytes: u64) -> Self {
        Self(bytes.div_ceil(BLOCK_BYTES_U64))
    }

    /// Blocks as bytes.
    pub const fn bytes(self) -> u64 {
        self.0 * BLOCK_BYTES_U64
    }
}

impl fmt::Display for BlockCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `count` blocks from `start` on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockRun {
    /// The first block.
    pub start: BlockAddr,
    /// How many.
    pub count: u64,
}

impl BlockRun {
    /// One past the last block, as a bare number (may be one past [`BlockAddr::MAX`]).
    pub const fn end(self) -> u64 {
        self.start.raw() + self.count
    }

    /// Whether `addr` lies inside.
    pub const fn contains(self, addr: BlockAddr) -> bool {
        self.start.raw() <= addr.raw() && addr.raw() < self.end()
    }

    /// Every block, ascending.
    pub fn blocks(self) -> impl Iterator<Item = BlockAddr> {
        (self.start.raw()..self.end()).map(BlockAddr::of)
    }
}

/// A half-open range of a disk's blocks, as bare numbers.
pub type VirtualRange = Range<u64>;

/// Which disk; zero is the catalogue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DiskId(pub u32);

impl DiskId {
    /// Disk 0.
    pub const CATALOGUE: Self = Self(0);
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record's place in its chain: 48 bits, the first record is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The following record's.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A chain's secret: random, never used by two chains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 16]);

impl fmt::Debug for Nonce {
    /// Secret: whoever knows it could forge a header from inside a guest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}
