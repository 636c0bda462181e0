//! What differs between two versions, found by going down both trees at once.
//!
//! I change nothing. Invariant: blocks never move within a disk's address space, so equal entries
//! at one position mean equal contents, and end the comparison of the whole subtree.

use std::ops::ControlFlow;

use bough_blockstore::VirtualRange;

use crate::cache::NodeCache;
use crate::node::{Entry, Root};
use crate::path::{FAN_OUT, Position};
use crate::read_ahead::warm_slots;
use crate::side::{At, Below};
use crate::tree_error::TreeError;

/// Blocks that differ. More than one only where neither side is data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Which blocks.
    pub range: VirtualRange,
    /// What the first version has there.
    pub before: Entry,
    /// What the second has.
    pub after: Entry,
}

/// Visits, in order, where `before` and `after` differ within `range`. Equal pointers end the
/// comparison of a whole subtree, so the time is proportional to the difference.
///
/// # Errors
/// Where a node cannot be read.
pub async fn diff(
    cache: &NodeCache,
    before: Root,
    after: Root,
    range: VirtualRange,
    visit: impl FnMut(Difference) -> ControlFlow<()>,
) -> Result<(), TreeError> {
    let height = before.height.max(after.height);
    let mut comparison = Comparison { cache, range, visit, open: Vec::new() };
    let (before, after) = (At::top(before, height), At::top(after, height));
    let mut flow = comparison.compare(Position::top(height), before, after).await?;
    while flow.is_continue() {
        let Some((position, before, after)) = comparison.next_pair().await else { break };
        flow = comparison.compare(position, before, after).await?;
    }
    Ok(())
}

/// A pair of nodes being compared.
struct Pair {
    position: Position,
    before: Below,
    after: Below,
    next_slot: usize,
}

impl Pair {
    async fn warm(&self, cache: &NodeCache, range: &VirtualRange) {
        let wanted = |child| match (self.before.at(child), self.after.at(child)) {
            (before, after) if before == after || overlap(range, child).is_empty() => [None, None],
            (before, after) => [before.pointer(), after.pointer()],
        };
        warm_slots(cache, self.position, self.next_slot, wanted).await;
    }
}

struct Comparison<'a, V> {
    cache: &'a NodeCache,
    range: VirtualRange,
    visit: V,
    open: Vec<Pair>,
}

impl<V: FnMut(Difference) -> ControlFlow<()>> Comparison<'_, V> {
    async fn next_pair(&mut self) -> Option<(Position, At, At)> {
        while let Some(pair) = self.open.last_mut() {
            if pair.next_slot < FAN_OUT {
                pair.warm(self.cache, &self.range).await;
                let child = pair.position.child(pair.next_slot);
                pair.next_slot += 1;
                return Some((child, pair.before.at(child), pair.after.at(child)));
            }
            self.open.pop();
        }
        None
    }

    async fn compare(
        &mut self,
        position: Position,
        before: At,
        after: At,
    ) -> Result<ControlFlow<()>, TreeError> {
        let range = overlap(&self.range, position);
        if range.is_empty() || before == after {
            return Ok(ControlFlow::Continue(()));
        }
        if let Some((before, after)) = whole(position, before, after) {
            return Ok((self.visit)(Difference { range, before, after }));
        }
        let before = before.open(self.cache, position).await?;
        let after = after.open(self.cache, position).await?;
        self.open.push(Pair { position, before, after, next_slot: 0 });
        Ok(ControlFlow::Continue(()))
    }
}

fn overlap(range: &VirtualRange, position: Position) -> VirtualRange {
    let span = position.span();
    span.start.max(range.start)..span.end.min(range.end)
}

/// The two entries, where they say all that there is to say about a position.
fn whole(position: Position, before: At, after: At) -> Option<(Entry, Entry)> {
    match (before, after) {
        (At::Entry(before), At::Entry(after)) if position.level == 0 => Some((before, after)),
        _ => before.uniform().zip(after.uniform()),
    }
}
