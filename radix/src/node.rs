//! Entries and nodes: the pointers that trees are made of, and their bytes.
//!
//! I own the layout of a node (256 entries of 16 bytes, little-endian) and of a root (24 bytes).
//! I do no I/O. Invariant: whoever holds an [`Entry`] or a [`Node`] holds a well-formed one;
//! bytes become either through a `decode` that checks them.
//!
//! ```text
//! entry, as one 128-bit little-endian number:
//!   bits   0..44   address       where the block is
//!   bits  44..88   birth         epoch of the oldest version that contains it
//!   bits  88..120  CRC-32        of the bytes as stored; a node's is seeded with its position
//!   bits 120..124  kind          0 hole (all other bits zero), 1 data, 2 lost (likewise)
//!   bits 124..127  stored        length in 512-byte units, less one
//!   bit  127       reserved      zero
//! ```

use bough_blockstore::{BLOCK_BYTES, BlockAddr, Epoch, MAX_44};
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::path::{FAN_OUT, MAX_HEIGHT, Position, height_for, span_blocks};

/// A pointer to a block (data at level 0, a node above), or the lack of one.
///
/// Equal entries at one position mean equal contents below it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    low: u64,
    high: u64,
}

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Nothing was ever written, or it was discarded: reads as zeros.
    Hole,
    /// A block.
    Data,
    /// There was a block, and it could not be read when it had to be: reading it is an error,
    /// writing it cures it.
    Lost,
}

const KIND_SHIFT: u32 = 56;
const CRC_SHIFT: u32 = 24;
const BIRTH_SHIFT: u32 = 44;
const BIRTH_LOW_BITS: u32 = 64 - BIRTH_SHIFT;
const BIRTH_HIGH_MASK: u64 = (1 << CRC_SHIFT) - 1;
/// Data, stored in eight units of 512 bytes.
const TAG_DATA: u64 = 0x71;
const TAG_LOST: u64 = 0x02;

impl Entry {
    /// Reads as zeros.
    pub const HOLE: Self = Self { low: 0, high: 0 };
    /// Reads as an error.
    pub const LOST: Self = Self { low: 0, high: TAG_LOST << KIND_SHIFT };
    /// Bytes of an encoded entry.
    pub const BYTES: usize = 16;

    /// A pointer to a whole block.
    pub fn data(addr: BlockAddr, birth: Epoch, crc: u32) -> Self {
        let low = addr.raw() | birth.raw() << BIRTH_SHIFT;
        let high =
            birth.raw() >> BIRTH_LOW_BITS | u64::from(crc) << CRC_SHIFT | TAG_DATA << KIND_SHIFT;
        Self { low, high }
    }

    /// Hole, data or lost.
    pub fn kind(&self) -> Kind {
        match self.high >> KIND_SHIFT {
            0 => Kind::Hole,
            TAG_DATA => Kind::Data,
            _ => Kind::Lost,
        }
    }

    /// Whether there is nothing here.
    pub fn is_hole(&self) -> bool {
        self.kind() == Kind::Hole
    }

    /// Whether this points at a block.
    pub fn is_data(&self) -> bool {
        self.kind() == Kind::Data
    }

    /// The block (zero unless [`is_data`](Self::is_data)).
    pub fn addr(&self) -> BlockAddr {
        BlockAddr::of(self.low & MAX_44)
    }

    /// The block pointed at, if any.
    pub fn pointer(&self) -> Option<BlockAddr> {
        self.is_data().then(|| self.addr())
    }

    /// The epoch of the oldest version that contains the block.
    pub fn birth(&self) -> Epoch {
        let high = (self.high & BIRTH_HIGH_MASK) << BIRTH_LOW_BITS;
        Epoch::of(self.low >> BIRTH_SHIFT | high)
    }

    /// The checksum of the block as stored.
    pub fn crc(&self) -> u32 {
        let bytes = self.high.to_le_bytes();
        u32::from_le_bytes([bytes[3], bytes[4], bytes[5], bytes[6]])
    }

    /// The bytes of this entry.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        zerocopy::transmute!(RawEntry::from(*self))
    }

    /// Checks bytes that came from a store.
    ///
    /// # Errors
    /// Where they are no entry of this format's version.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, NodeFault> {
        let raw: RawEntry = zerocopy::transmute!(*bytes);
        let entry = raw.unchecked();
        entry.check()?;
        Ok(entry)
    }

    fn check(&self) -> Result<(), NodeFault> {
        match self.high >> KIND_SHIFT {
            TAG_DATA => Ok(()),
            _ if *self == Self::HOLE || *self == Self::LOST => Ok(()),
            _ => Err(NodeFault::MalformedEntry),
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind() {
            Kind::Hole => f.write_str("Hole"),
            Kind::Lost => f.write_str("Lost"),
            Kind::Data => {
                write!(f, "Data({}, birth {}, crc {:08x})", self.addr(), self.birth(), self.crc())
            }
        }
    }
}

/// What is wrong with the bytes of a node or a root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NodeFault {
    /// The checksum, which covers the position too, is another.
    #[error("its checksum is {found:08x}, the pointer to it says {expected:08x}")]
    Checksum {
        /// What the pointer says.
        expected: u32,
        /// What the bytes have.
        found: u32,
    },
    /// An entry has an unknown kind or a reserved bit set.
    #[error("an entry of it is malformed")]
    MalformedEntry,
    /// An entry is younger than the node that holds it, so ownership could not be told.
    #[error("entry {slot} of it is younger than the node itself")]
    YoungerThanNode {
        /// Which entry.
        slot: usize,
    },
    /// A root that is higher than any tree.
    #[error("a root of height {height}")]
    Height {
        /// What was found.
        height: u8,
    },
    /// Reserved bytes are in use.
    #[error("its reserved bytes are not zero")]
    Reserved,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    low: U64,
    high: U64,
}

const _: () = assert!(size_of::<RawEntry>() == Entry::BYTES);
const _: () = assert!(size_of::<Node>() == BLOCK_BYTES);

impl RawEntry {
    fn unchecked(self) -> Entry {
        Entry { low: self.low.get(), high: self.high.get() }
    }
}

impl From<Entry> for RawEntry {
    fn from(entry: Entry) -> Self {
        Self { low: U64::new(entry.low), high: U64::new(entry.high) }
    }
}

/// 256 entries: one block of a tree, kept as its bytes.
#[derive(Clone)]
pub struct Node {
    raw: [RawEntry; FAN_OUT],
}

impl Node {
    /// A node whose entries are all `entry`.
    pub fn filled(entry: Entry) -> Self {
        Self { raw: [RawEntry::from(entry); FAN_OUT] }
    }

    /// One entry.
    ///
    /// # Panics
    /// Where `slot` is not below [`FAN_OUT`]: a bug of ours.
    pub fn entry(&self, slot: usize) -> Entry {
        self.raw[slot].unchecked()
    }

    /// Replaces one entry.
    pub(crate) fn set(&mut self, slot: usize, entry: Entry) {
        self.raw[slot] = RawEntry::from(entry);
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.raw.iter().map(|raw| raw.unchecked())
    }

    /// Whether every entry is a hole.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries().all(|entry| entry.is_hole())
    }

    /// The bytes that are stored.
    pub fn bytes(&self) -> &[u8; BLOCK_BYTES] {
        zerocopy::transmute_ref!(&self.raw)
    }

    /// The checksum that a pointer to this node at `position` carries.
    pub fn checksum(&self, position: Position) -> u32 {
        checksum(self.bytes(), position)
    }

    /// Checks bytes read where `pointer` said that the node of `position` is: checksum first (it
    /// says that this is the block asked for), then structure.
    ///
    /// # Errors
    /// The first fault found.
    pub fn decode(
        bytes: &[u8; BLOCK_BYTES],
        position: Position,
        pointer: &Entry,
    ) -> Result<Self, NodeFault> {
        let (expected, found) = (pointer.crc(), checksum(bytes, position));
        if expected != found {
            return Err(NodeFault::Checksum { expected, found });
        }
        let node = Self { raw: zerocopy::transmute!(*bytes) };
        for (slot, entry) in node.entries().enumerate() {
            entry.check()?;
            if entry.birth() > pointer.birth() {
                return Err(NodeFault::YoungerThanNode { slot });
            }
        }
        Ok(node)
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.entries().enumerate().filter(|(_, entry)| !entry.is_hole()))
            .finish()
    }
}

/// A node in the wrong place must fail, so its place is hashed first.
fn checksum(bytes: &[u8; BLOCK_BYTES], position: Position) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[position.level]);
    hasher.update(&position.index.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A whole tree: its top entry, and how many levels of nodes there are.
///
/// Height 0 is a disk of one block, whose entry is `top`; height `h` covers 256ʰ blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Root {
    /// The entry of position (`height`, 0).
    pub top: Entry,
    /// Levels of nodes.
    pub height: u8,
}

impl Root {
    /// Bytes of an encoded root.
    pub const BYTES: usize = 24;

    /// A tree of holes.
    ///
    /// # Panics
    /// Where `height` is beyond [`MAX_HEIGHT`]: a bug of ours.
    pub fn empty(height: u8) -> Self {
        assert!(height <= MAX_HEIGHT, "no tree is that high");
        Self { top: Entry::HOLE, height }
    }

    /// A tree of holes for a disk of `blocks`.
    pub fn for_blocks(blocks: u64) -> Self {
        Self::empty(height_for(blocks))
    }

    /// How many blocks this tree can map.
    pub fn capacity(&self) -> u64 {
        span_blocks(self.height)
    }

    /// The bytes that a row keeps: the entry, the height, seven zeros.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..Entry::BYTES].copy_from_slice(&self.top.encode());
        bytes[Entry::BYTES] = self.height;
        bytes
    }

    /// Checks bytes that came from a row.
    ///
    /// # Errors
    /// Where they are no root of this format's version.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, NodeFault> {
        let (entry, rest) = bytes.split_first_chunk().ok_or(NodeFault::Reserved)?;
        let (height, reserved) = rest.split_first().ok_or(NodeFault::Reserved)?;
        if reserved.iter().any(|&byte| byte != 0) {
            return Err(NodeFault::Reserved);
        }
        if *height > MAX_HEIGHT {
            return Err(NodeFault::Height { height: *height });
        }
        Ok(Self { top: Entry::decode(entry)?, height: *height })
    }
}
