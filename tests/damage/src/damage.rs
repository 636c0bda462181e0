//! The damage tool: changes to a closed store that a medium, a bug or a stranger could make.
//!
//! Rot leaves checksums wrong; a forged change mends every checksum on the way up to the
//! superblocks, so that only what it says is wrong.

use crate::layout::{Layout, Pointer, Position, Root};
use crate::medium::Medium;

/// Changes a few bits of a block.
pub fn rot(medium: &mut impl Medium, at: u64) {
    let mut block = medium.read(at);
    block[1000] ^= 0x10;
    block[3001] ^= 0x01;
    medium.write(at, &block);
}

/// Claims another format version in one superblock copy, whole otherwise.
pub fn swap_superblock_version(medium: &mut impl Medium, copy: u64, version: u32) {
    rewrite_superblock(medium, copy, |block| {
        block[8..12].copy_from_slice(&version.to_le_bytes());
    });
}

fn rewrite_superblock(medium: &mut impl Medium, copy: u64, change: impl FnOnce(&mut [u8; 4096])) {
    let mut block = medium.read(copy);
    change(&mut block);
    let crc = crc32fast::hash(&block[..4092]);
    block[4092..].copy_from_slice(&crc.to_le_bytes());
    medium.write(copy, &block);
}

/// Forges a page of the catalogue.
///
/// # Panics
/// Where the page was never written.
pub fn rewrite_catalogue_page(
    medium: &mut impl Medium,
    layout: &Layout,
    page: u64,
    change: impl FnOnce(&mut [u8; 4096]),
) {
    let top = layout.root.top.expect("a catalogue is never empty");
    let put = |medium: &mut _, at, block: &_| put_twice(medium, layout, at, block);
    let crc = rewrite(medium, top, layout.root.height, page, change, &put);
    replace_root_crc(medium, crc);
}

/// Names another checksum for the catalogue's root, in both superblocks.
pub fn replace_root_crc(medium: &mut impl Medium, crc: u32) {
    for copy in [0, 1] {
        rewrite_superblock(medium, copy, |block| {
            block[67..71].copy_from_slice(&crc.to_le_bytes());
        });
    }
}

/// Claims another height for the catalogue's tree, in both superblocks.
pub fn replace_root_height(medium: &mut impl Medium, height: u8) {
    for copy in [0, 1] {
        rewrite_superblock(medium, copy, |block| block[72] = height);
    }
}

/// Forges a row, key and value, without changing its length.
///
/// # Panics
/// Where there is no such row.
pub fn rewrite_row(
    medium: &mut impl Medium,
    layout: &Layout,
    key: &[u8],
    change: impl FnOnce(&mut [u8]),
) {
    let row = [key, &layout.rows.raw[key]].concat();
    rewrite_catalogue_page(medium, layout, layout.rows.pages[key], |bytes| {
        let at = bytes.windows(row.len()).position(|window| window == row).expect("the row");
        change(&mut bytes[at..at + row.len()]);
    });
}

/// Flips a block's bit in the space bitmap: a leak where it was clear, and where it was set a
/// block that is used and may be given away again.
pub fn flip_bitmap_bit(medium: &mut impl Medium, layout: &Layout, addr: u64) {
    let page = (1 << 30) + addr / 32_768;
    let bit = usize::try_from(addr % 32_768).expect("small");
    rewrite_catalogue_page(medium, layout, page, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
}

/// Has block `vba` of a version be somebody else's block.
///
/// # Panics
/// Where the version has nothing there.
pub fn repoint(
    medium: &mut impl Medium,
    layout: &Layout,
    version: &str,
    vba: u64,
    stranger: Pointer,
) {
    let leaf = Position { level: 1, index: vba >> 8 };
    forge_node(medium, layout, version, leaf, |bytes| {
        let slot = Position::slot(1, vba) * 16;
        let birth = Pointer::decode(&bytes[slot..slot + 16]).expect("something there").birth;
        bytes[slot..slot + 16].copy_from_slice(&Pointer { birth, ..stranger }.encode());
    });
}

/// Forges a node of a version's tree.
///
/// # Panics
/// Where the version has none there.
pub fn forge_node(
    medium: &mut impl Medium,
    layout: &Layout,
    version: &str,
    node: Position,
    change: impl FnOnce(&mut [u8; 4096]),
) {
    let row = layout.rows.version(version);
    let root = row.root;
    let mut top = root.top.expect("a version that holds something");
    let put = |medium: &mut _, at, block: &_| Medium::write(medium, at, block);
    top.crc = rewrite_node(medium, (top, root.height), node, change, &put);
    let (old, new) = (root.encode(), Root { top: Some(top), ..root }.encode());
    rewrite_row(medium, layout, &row.key(), |bytes| {
        let at = bytes.windows(24).position(|window| window == old).expect("the row's root");
        bytes[at..at + 24].copy_from_slice(&new);
    });
}

fn put_twice(medium: &mut impl Medium, layout: &Layout, at: u64, block: &[u8; 4096]) {
    medium.write(at, block);
    medium.write(layout.mirror(at), block);
}

/// Changes data block `vba` in place, and every checksum above it; gives that of the top.
fn rewrite<M: Medium>(
    medium: &mut M,
    top: Pointer,
    height: u8,
    vba: u64,
    change: impl FnOnce(&mut [u8; 4096]),
    put: &impl Fn(&mut M, u64, &[u8; 4096]),
) -> u32 {
    rewrite_node(medium, (top, height), Position { level: 0, index: vba }, change, put)
}

/// As [`rewrite`], for any position below `(top, level)`.
fn rewrite_node<M: Medium>(
    medium: &mut M,
    (pointer, level): (Pointer, u8),
    target: Position,
    change: impl FnOnce(&mut [u8; 4096]),
    put: &impl Fn(&mut M, u64, &[u8; 4096]),
) -> u32 {
    let mut block = medium.read(pointer.addr);
    let vba = target.index << (8 * u32::from(target.level));
    let position = Position { level, index: vba >> (8 * u32::from(level)) };
    if level == target.level {
        change(&mut block);
    } else {
        let at = Position::slot(level, vba) * 16;
        let mut child = Pointer::decode(&block[at..at + 16]).expect("something there");
        child.crc = rewrite_node(medium, (child, level - 1), target, change, put);
        block[at..at + 16].copy_from_slice(&child.encode());
    }
    put(medium, pointer.addr, &block);
    position.checksum(&block[..])
}
