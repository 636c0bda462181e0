//! Reading ahead: whoever goes through a tree knows which nodes come next, so they are fetched
//! side by side and not one after the other.
//!
//! I only ever fill the cache. Damage is left for whoever comes to need the node.

use std::sync::Arc;

use crate::cache::NodeCache;
use crate::node::{Entry, Node, Root};
use crate::path::{FAN_OUT, Position};

/// Enough to keep a medium busy.
const AT_ONCE: usize = 64;

/// How many nodes to read ahead: no more than the cache can keep until they are used.
pub(crate) fn read_ahead_nodes(cache: &NodeCache) -> usize {
    AT_ONCE.min(cache.capacity_nodes() / 8)
}

/// Has the next nodes of a stack read into the cache, as far as they are of one `level`.
pub(crate) async fn warm_next(cache: &NodeCache, stack: &[(Position, Entry)], level: u8) {
    if level == 0 {
        return;
    }
    let next = stack.iter().rev().take(read_ahead_nodes(cache));
    let nodes = next.filter(|(position, entry)| position.level == level && entry.is_data());
    let wanted: Vec<_> = nodes.map(|&(position, entry)| (entry, position)).collect();
    cache.warm(&wanted).await;
}

/// Slots of a node looked at together.
const WINDOW_SLOTS: usize = 32;

/// Where a comparison comes to the next window of a node's slots: has those read into the cache
/// that `wanted` names for a child, on either side.
pub(crate) async fn warm_slots(
    cache: &NodeCache,
    position: Position,
    next_slot: usize,
    wanted: impl Fn(Position) -> [Option<Entry>; 2],
) {
    if position.level < 2 || !next_slot.is_multiple_of(WINDOW_SLOTS) {
        return;
    }
    let window = next_slot..FAN_OUT.min(next_slot + WINDOW_SLOTS);
    let keys = window.flat_map(|slot| {
        let child = position.child(slot);
        wanted(child).into_iter().flatten().map(move |entry| (entry, child))
    });
    cache.warm(&keys.take(read_ahead_nodes(cache)).collect::<Vec<_>>()).await;
}

/// Has the nodes on the way to `blocks` (ascending) read into the cache.
pub(crate) async fn warm_paths(cache: &NodeCache, root: Root, blocks: impl Iterator<Item = u64>) {
    let mut ways: Vec<_> =
        blocks.filter(|&vba| vba < root.capacity()).map(|vba| (vba, root.top)).collect();
    for level in (1..=root.height).rev() {
        let mut wanted: Vec<(Entry, Position)> = Vec::new();
        for &(vba, entry) in ways.iter().filter(|(_, entry)| entry.is_data()) {
            let key = (entry, Position::covering(level, vba));
            if wanted.last() != Some(&key) {
                wanted.push(key);
            }
        }
        cache.warm(&wanted).await;
        ways = step_down(cache, level, ways);
    }
}

/// Follows each way through its node, where that is here. Neighbours go through the same one.
fn step_down(cache: &NodeCache, level: u8, ways: Vec<(u64, Entry)>) -> Vec<(u64, Entry)> {
    let mut last: Option<(Entry, Position, Option<Arc<Node>>)> = None;
    let below = |(vba, entry): (u64, Entry)| {
        let position = Position::covering(level, vba);
        if last.as_ref().is_none_or(|(e, p, _)| (*e, *p) != (entry, position)) {
            let node = entry.is_data().then(|| cache.try_get(&entry, position)).flatten();
            last = Some((entry, position, node));
        }
        let (_, _, node) = last.as_ref()?;
        Some((vba, node.as_ref()?.entry(position.slot_of(vba))))
    };
    ways.into_iter().filter_map(below).collect()
}
