//! A second reader of a closed store, made from `FORMAT.md` alone.
//!
//! Shares no code with the engine, so that a test which finds the engine's bytes through it also
//! proves the description. Trusts nothing: whatever the description does not allow is a panic.

use std::collections::BTreeMap;

use crate::medium::{Block, Medium};
use crate::rows::Rows;

const MASK_44: u128 = (1 << 44) - 1;
const DATA: u128 = 0x71;
const LOST: u128 = 0x02;
const FAN_OUT_BITS: u32 = 8;

/// An entry of a node that points at a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointer {
    /// The block.
    pub addr: u64,
    /// The epoch of the oldest version that contains it.
    pub birth: u64,
    /// The checksum of its bytes; of a node, with its position before them.
    pub crc: u32,
}

impl Pointer {
    /// Reads 16 bytes; none for a hole or a lost block.
    ///
    /// # Panics
    /// Where they are no entry.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        let bits = u128::from_le_bytes(raw.try_into().expect("an entry has 16 bytes"));
        match bits >> 120 {
            DATA => Some(Self {
                addr: narrow(bits & MASK_44),
                birth: narrow((bits >> 44) & MASK_44),
                crc: u32::try_from((bits >> 88) & 0xffff_ffff).expect("masked"),
            }),
            tag => {
                assert!(bits == 0 || bits == LOST << 120, "an entry of kind {tag:#x}: {bits:#x}");
                None
            }
        }
    }

    /// The 16 bytes.
    pub fn encode(&self) -> [u8; 16] {
        let bits = u128::from(self.addr)
            | u128::from(self.birth) << 44
            | u128::from(self.crc) << 88
            | DATA << 120;
        bits.to_le_bytes()
    }
}

fn narrow(bits: u128) -> u64 {
    u64::try_from(bits).expect("masked")
}

/// A place in a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// 0 for data.
    pub level: u8,
    /// Counted along the level.
    pub index: u64,
}

impl Position {
    /// The checksum that a pointer to `bytes` in this place carries.
    pub fn checksum(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        if self.level > 0 {
            hasher.update(&[self.level]);
            hasher.update(&self.index.to_le_bytes());
        }
        hasher.update(bytes);
        hasher.finalize()
    }

    /// The slot, in a node of `level`, under which block `vba` lies.
    pub fn slot(level: u8, vba: u64) -> usize {
        let slot = (vba >> (FAN_OUT_BITS * u32::from(level - 1))) & 0xff;
        usize::try_from(slot).expect("a byte")
    }
}

/// The 24 bytes of a tree's root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// None for an empty tree.
    pub top: Option<Pointer>,
    /// Levels of nodes.
    pub height: u8,
}

impl Root {
    /// Reads the bytes.
    ///
    /// # Panics
    /// Where they are no root.
    pub fn decode(raw: &[u8]) -> Self {
        assert_eq!(raw.len(), 24);
        assert!(raw[16] <= 6 && raw[17..].iter().all(|byte| *byte == 0), "a root: {raw:?}");
        Self { top: Pointer::decode(&raw[..16]), height: raw[16] }
    }

    /// The bytes.
    pub fn encode(&self) -> [u8; 24] {
        let mut raw = [0; 24];
        if let Some(top) = self.top {
            raw[..16].copy_from_slice(&top.encode());
        }
        raw[16] = self.height;
        raw
    }
}

/// Everything that a root reaches.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Nodes and data blocks, by position.
    pub blocks: BTreeMap<Position, Pointer>,
}

impl Tree {
    /// Walks a tree, verifying nodes and data.
    ///
    /// # Panics
    /// At the first thing that is not as described.
    pub fn read(medium: &impl Medium, root: Root) -> Self {
        Self::collect(medium, root, |position, pointer| panic!("{position:?} {pointer:?}"))
    }

    /// Walks a tree, passing by what is below nodes that are not what they should be, and by data
    /// that is not.
    pub fn read_around(medium: &impl Medium, root: Root) -> Self {
        Self::collect(medium, root, |_, _| {})
    }

    fn collect(
        medium: &impl Medium,
        root: Root,
        mut damaged: impl FnMut(Position, Pointer),
    ) -> Self {
        let mut tree = Self::default();
        let top = Position { level: root.height, index: 0 };
        let mut ahead: Vec<_> = root.top.map(|pointer| (top, pointer)).into_iter().collect();
        while let Some((position, pointer)) = ahead.pop() {
            let block = medium.read(pointer.addr);
            if position.checksum(&block[..]) != pointer.crc {
                damaged(position, pointer);
                continue;
            }
            tree.blocks.insert(position, pointer);
            if position.level == 0 {
                continue;
            }
            for (slot, raw) in (0..).zip(block.chunks_exact(16)) {
                let Some(child) = Pointer::decode(raw) else { continue };
                assert!(child.birth <= pointer.birth, "a child younger than its node");
                let index = (position.index << FAN_OUT_BITS) + slot;
                ahead.push((Position { level: position.level - 1, index }, child));
            }
        }
        tree
    }

    /// The data blocks, by their place on the disk.
    pub fn data(&self) -> impl Iterator<Item = (u64, Pointer)> {
        let leaves = self.blocks.iter().filter(|(position, _)| position.level == 0);
        leaves.map(|(position, pointer)| (position.index, *pointer))
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (Position, Pointer)> {
        let nodes = self.blocks.iter().filter(|(position, _)| position.level > 0);
        nodes.map(|(position, pointer)| (*position, *pointer))
    }
}

/// A closed store, taken apart.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The catalogue's pool: first block, first block of the mirror, blocks.
    pub pool: Vec<[u64; 3]>,
    /// The root of disk 0.
    pub root: Root,
    /// Where the catalogue's chain goes on.
    pub chain_at: u64,
    /// Disk 0's tree.
    pub catalogue: Tree,
    /// The rows.
    pub rows: Rows,
}

impl Layout {
    /// Takes a store apart that was closed, so that its chains are empty.
    ///
    /// # Panics
    /// At the first thing that is not as described.
    pub fn read(medium: &impl Medium) -> Self {
        let block = superblock(medium);
        let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"));
        let pool_runs = u32::from_le_bytes(block[12..16].try_into().expect("4 bytes"));
        let pool_run = |run: u32| {
            let at = 128 + 24 * usize::try_from(run).expect("at most 64");
            [word(at), word(at + 8), word(at + 16)]
        };
        let pool: Vec<[u64; 3]> = (0..pool_runs).map(pool_run).collect();
        let root = Root::decode(&block[56..80]);
        let catalogue = Tree::read(medium, root);
        for pointer in catalogue.blocks.values() {
            let mirror = mirror_of(&pool, pointer.addr);
            assert_eq!(medium.read(pointer.addr), medium.read(mirror), "two copies differ");
        }
        let page = |page: u64| page_of(medium, &catalogue, page);
        let rows = Rows::read(&page);
        Self { pool, root, chain_at: word(104), catalogue, rows }
    }

    /// The second copy of a block of the pool.
    ///
    /// # Panics
    /// Where the block is none of the pool's.
    pub fn mirror(&self, addr: u64) -> u64 {
        mirror_of(&self.pool, addr)
    }

    /// The tree of a version, by name.
    ///
    /// # Panics
    /// Where there is none, or something in it is not as described.
    pub fn tree(&self, medium: &impl Medium, version: &str) -> Tree {
        Tree::read(medium, self.rows.version(version).root)
    }
}

/// The superblock that counts.
fn superblock(medium: &impl Medium) -> Block {
    let copies = [medium.read(0), medium.read(1)];
    for copy in &copies {
        assert_eq!(&copy[..8], b"BOUGHSB\x1a");
        assert_eq!(copy[8..12], 1u32.to_le_bytes());
        assert_eq!(copy[4092..], crc32fast::hash(&copy[..4092]).to_le_bytes());
    }
    assert_eq!(copies[0], copies[1], "a closed store's superblocks are equal");
    let [first, _] = copies;
    first
}

fn mirror_of(pool: &[[u64; 3]], addr: u64) -> u64 {
    let run = pool.iter().find(|[first, _, count]| (*first..first + count).contains(&addr));
    let [first, mirror, _] = run.expect("a block of the pool");
    mirror + (addr - first)
}

fn page_of(medium: &impl Medium, catalogue: &Tree, page: u64) -> Block {
    match catalogue.blocks.get(&Position { level: 0, index: page }) {
        Some(pointer) => medium.read(pointer.addr),
        None => Box::new([0; 4096]),
    }
}
