//! What a disk's chain says beyond its committed tree.
//!
//! Owns the mapping from blocks to what the newest published records wrote there, and the older
//! mappings that snapshots taken since the last checkpoint still need. Does no I/O.
//!
//! Invariant: within one epoch a block has at most one mapping; a mapping of an older epoch is
//! never lost while it is needed, it moves to the history.

use std::collections::BTreeMap;

use bough_blockstore::{BlockAddr, Epoch, VirtualRange};

use crate::points::Points;
use crate::range_set::RangeSet;

/// Where the newest data of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The block in the store.
    pub addr: BlockAddr,
    /// CRC-32 of its bytes.
    pub crc: u32,
    /// The epoch it was written in: its birth.
    pub epoch: Epoch,
}

/// What the overlay knows of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Data.
    Data(Point),
    /// Discarded: reads as zeros.
    Zero,
    /// Nothing: ask the tree.
    Miss,
}

/// One change that a checkpoint merges into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A block has new data.
    Data(u64, Point),
    /// A range reads as zeros.
    Zero(VirtualRange),
}

/// The changes of one version, ascending and disjoint.
#[derive(Debug, Default)]
pub struct Layer {
    /// The changes.
    pub changes: Vec<Change>,
    /// Blocks that no surviving version sees.
    pub dropped: Vec<BlockAddr>,
}

/// The mappings; see the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    points: Points,
    history: Vec<(u64, Point)>,
    zeros: BTreeMap<Epoch, RangeSet>,
}

impl Overlay {
    /// What the head has at `block`.
    pub fn get(&self, block: u64) -> Found {
        let point = self.points.get(block);
        for (&epoch, ranges) in self.zeros.iter().rev() {
            // Within one epoch a point is newer than the range: `zero` removes what it covers.
            if point.is_some_and(|p| p.epoch >= epoch) {
                break;
            }
            if ranges.contains(block) {
                return Found::Zero;
            }
        }
        point.map_or(Found::Miss, Found::Data)
    }

    /// Maps `block` to `point`; gives the block that this replaces within its epoch.
    pub fn put(&mut self, block: u64, point: Point) -> Option<BlockAddr> {
        let old = self.points.insert(block, point)?;
        if old.epoch == point.epoch {
            return Some(old.addr);
        }
        self.history.push((block, old));
        None
    }

    /// Makes `range` read as zeros; gives the blocks that this replaces within `epoch`.
    pub fn zero(&mut self, range: VirtualRange, epoch: Epoch) -> Vec<BlockAddr> {
        let replaced = self.points.remove_within(range.clone(), epoch);
        self.zeros.entry(epoch).or_default().insert(range);
        replaced
    }

    /// How many mappings there are: what the overlay costs in memory.
    pub fn entry_count(&self) -> usize {
        let ranges: usize = self.zeros.values().map(RangeSet::range_count).sum();
        self.points.len() + self.history.len() + ranges
    }

    /// How many blocks read as zeros in one epoch or another.
    pub fn zeroed_blocks(&self) -> u64 {
        self.zeros.values().flat_map(RangeSet::iter).map(|range| range.end - range.start).sum()
    }

    /// Whether there is nothing to merge.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.history.is_empty() && self.zeros.is_empty()
    }

    /// The newest data of every block, with the block's number, ascending.
    pub fn newest(&self) -> Vec<(u64, Point)> {
        let mut all: Vec<_> = self.points.iter().collect();
        all.sort_unstable_by_key(|(block, _)| *block);
        all
    }

    /// Every block of the store that the overlay refers to.
    pub fn addresses(&self) -> impl Iterator<Item = BlockAddr> + '_ {
        self.points.iter().chain(self.history.iter().copied()).map(|(_, point)| point.addr)
    }

    /// The changes of each version, oldest first. `epochs` are those of the surviving versions,
    /// ascending; the last is the head, which also takes everything newer.
    ///
    /// A mapping belongs to the first surviving version of its own epoch or a later one.
    pub fn layers(&self, epochs: &[Epoch]) -> Vec<Layer> {
        let mut flat: Vec<FlatLayer> = epochs.iter().map(|_| FlatLayer::default()).collect();
        let last = epochs.len() - 1;
        let owner = |epoch: Epoch| epochs.iter().position(|&e| epoch <= e).unwrap_or(last);
        for (epoch, points) in self.points_by_epoch() {
            flat[owner(epoch)].steps.entry(epoch).or_default().0 = points;
        }
        for (&epoch, ranges) in &self.zeros {
            flat[owner(epoch)].steps.entry(epoch).or_default().1 = Some(ranges);
        }
        flat.into_iter().map(FlatLayer::flatten).collect()
    }

    fn points_by_epoch(&self) -> BTreeMap<Epoch, Vec<(u64, Point)>> {
        let mut by_epoch: BTreeMap<Epoch, Vec<(u64, Point)>> = BTreeMap::new();
        for (block, point) in self.history.iter().copied().chain(self.points.iter()) {
            by_epoch.entry(point.epoch).or_default().push((block, point));
        }
        by_epoch
    }
}

/// One epoch's points, and its zeroed ranges.
type Step<'a> = (Vec<(u64, Point)>, Option<&'a RangeSet>);

/// The epochs that one surviving version takes, each with its points and zeroed ranges.
#[derive(Default)]
struct FlatLayer<'a> {
    steps: BTreeMap<Epoch, Step<'a>>,
}

impl FlatLayer<'_> {
    fn flatten(self) -> Layer {
        let (mut points, mut zeros) = (Vec::new(), RangeSet::default());
        let mut dropped = Vec::new();
        for (mut step_points, step_zeros) in self.steps.into_values() {
            if let Some(ranges) = step_zeros {
                ranges.iter().for_each(|range| zeros.insert(range));
                points.retain(|(block, old): &(u64, Point)| {
                    let covered = ranges.contains(*block);
                    dropped.extend(covered.then_some(old.addr));
                    !covered
                });
            }
            step_points.sort_unstable_by_key(|(block, _)| *block);
            points = replaced_by(points, step_points, &mut dropped);
        }
        if zeros.range_count() > 0 {
            points.iter().for_each(|(block, _)| zeros.remove(*block..*block + 1));
        }
        Layer { changes: interleave(&points, &zeros), dropped }
    }
}

/// `old` with `new` in place of what it has of the same blocks; all ascending.
fn replaced_by(
    old: Vec<(u64, Point)>,
    new: Vec<(u64, Point)>,
    dropped: &mut Vec<BlockAddr>,
) -> Vec<(u64, Point)> {
    if old.is_empty() {
        return new;
    }
    let mut merged = Vec::with_capacity(old.len() + new.len());
    let mut old = old.into_iter().peekable();
    for (block, point) in new {
        merged.extend(std::iter::from_fn(|| old.next_if(|(b, _)| *b < block)));
        dropped.extend(old.next_if(|(b, _)| *b == block).map(|(_, gone)| gone.addr));
        merged.push((block, point));
    }
    merged.extend(old);
    merged
}

fn interleave(points: &[(u64, Point)], zeros: &RangeSet) -> Vec<Change> {
    let mut changes = Vec::with_capacity(points.len() + zeros.range_count());
    let mut zeros = zeros.iter().peekable();
    for &(block, point) in points {
        while let Some(range) = zeros.next_if(|r| r.start < block) {
            changes.push(Change::Zero(range));
        }
        changes.push(Change::Data(block, point));
    }
    changes.extend(zeros.map(Change::Zero));
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCKS: u64 = 24;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64),
        Zero(u64, u64),
        Cut { keep: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..BLOCKS).prop_map(Step::Write),
            2 => (0..BLOCKS, 1..8u64).prop_map(|(s, n)| Step::Zero(s, (s + n).min(BLOCKS))),
            1 => any::<bool>().prop_map(|keep| Step::Cut { keep }),
        ]
    }

    /// `None` is "ask the tree", `Some(None)` zeros.
    type View = BTreeMap<u64, Option<BlockAddr>>;

    fn apply(view: &mut View, layer: &Layer) {
        for change in &layer.changes {
            match change {
                Change::Data(block, point) => {
                    view.insert(*block, Some(point.addr));
                }
                Change::Zero(range) => view.extend(range.clone().map(|b| (b, None))),
            }
        }
    }

    proptest! {
        #[test]
        fn every_surviving_version_merges_to_what_it_saw(
            steps in proptest::collection::vec(step(), 1..60)
        ) {
            let mut overlay = Overlay::default();
            let mut head = View::new();
            let (mut epoch, mut next_addr) = (Epoch::of(1), 0);
            let mut kept: Vec<(Epoch, View)> = Vec::new();
            let mut released = Vec::new();
            for step in steps {
                match step {
                    Step::Write(block) => {
                        let addr = BlockAddr::of(next_addr);
                        next_addr += 1;
                        released.extend(overlay.put(block, Point { addr, crc: 0, epoch }));
                        head.insert(block, Some(addr));
                    }
                    Step::Zero(start, end) => {
                        released.extend(overlay.zero(start..end, epoch));
                        head.extend((start..end).map(|b| (b, None)));
                    }
                    Step::Cut { keep } => {
                        if keep {
                            kept.push((epoch, head.clone()));
                        }
                        epoch = epoch.next();
                    }
                }
                for block in 0..BLOCKS {
                    let expected = match head.get(&block) {
                        None => Found::Miss,
                        Some(None) => Found::Zero,
                        Some(Some(addr)) => match overlay.get(block) {
                            Found::Data(p) if p.addr == *addr => continue,
                            other => panic!("block {block}: {other:?}, not {addr}"),
                        },
                    };
                    prop_assert_eq!(overlay.get(block), expected);
                }
            }
            kept.push((epoch, head));
            let epochs: Vec<Epoch> = kept.iter().map(|(e, _)| *e).collect();
            let mut view = View::new();
            let mut accounted = released;
            for (layer, (_, expected)) in overlay.layers(&epochs).iter().zip(&kept) {
                apply(&mut view, layer);
                prop_assert_eq!(&view, expected);
                accounted.extend(&layer.dropped);
                accounted.extend(layer.changes.iter().filter_map(|c| match c {
                    Change::Data(_, point) => Some(point.addr),
                    Change::Zero(_) => None,
                }));
            }
            // Each block written is merged, dropped or released, exactly once.
            accounted.sort_unstable();
            prop_assert_eq!(accounted, (0..next_addr).map(BlockAddr::of).collect::<Vec<_>>());
        }
    }
}
