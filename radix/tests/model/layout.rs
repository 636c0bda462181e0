//! Which parts of a disk the histories touch: a few windows, so that disks of every tree height
//! can be held in a plain array.

use std::ops::Range;

pub const SECTOR_BYTES: usize = 512;
pub const BLOCK_SECTORS: u64 = 8;

/// First block and number of blocks: the beginning, the seam between the first two leaf nodes,
/// and the seam between trees of height two and three.
const WINDOWS: [(u64, u64); 3] = [(0, 64), (224, 64), (65_520, 32)];

/// How many sectors of a disk of that size lie in windows. Windows ascend, so these are the first
/// ones of the array.
pub fn dense_len(size_sectors: u64) -> usize {
    let inside = WINDOWS.iter().map(|&(start, count)| {
        size_sectors.saturating_sub(start * BLOCK_SECTORS).min(count * BLOCK_SECTORS)
    });
    usize::try_from(inside.sum::<u64>()).unwrap()
}

/// Where the sectors of `range` stand in the array.
pub fn dense_ranges(range: &Range<u64>) -> Vec<Range<usize>> {
    let mut first = 0;
    let mut found = Vec::new();
    for (start, count) in WINDOWS {
        let window = start * BLOCK_SECTORS..(start + count) * BLOCK_SECTORS;
        let (from, to) = (range.start.max(window.start), range.end.min(window.end));
        if from < to {
            let place = |sector: u64| usize::try_from(first + sector - window.start).unwrap();
            found.push(place(from)..place(to));
        }
        first += count * BLOCK_SECTORS;
    }
    found
}

/// The windows of a disk, in sectors.
pub fn windows(size_sectors: u64) -> impl Iterator<Item = Range<u64>> {
    WINDOWS.into_iter().filter_map(move |(start, count)| {
        let end = size_sectors.min((start + count) * BLOCK_SECTORS);
        let start = start * BLOCK_SECTORS;
        (start < end).then_some(start..end)
    })
}

/// The sector at a place of the array.
pub fn sector_at(mut dense: usize) -> u64 {
    for (start, count) in WINDOWS {
        let sectors = usize::try_from(count * BLOCK_SECTORS).unwrap();
        if dense < sectors {
            return start * BLOCK_SECTORS + u64::try_from(dense).unwrap();
        }
        dense -= sectors;
    }
    panic!("no such sector");
}
