//! Finding blocks: from the root down, one node a level.
//!
//! I change nothing. Each verb comes twice: `try_` for straight-line code, from cached nodes
//! alone; without, reading what is missing. Invariant: what lies beyond a tree is a hole.

use std::sync::Arc;

use bough_blockstore::{VirtualBlock, VirtualRange};

use crate::cache::NodeCache;
use crate::node::{Entry, Node, Root};
use crate::path::Position;
use crate::tree_error::TreeError;

/// A node that a straight-line lookup needs and the cache has not: fetch it, then try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Miss {
    /// The pointer to the node.
    pub pointer: Entry,
    /// Which node it is.
    pub position: Position,
}

/// A piece of a range: one block of data, or a run of holes or of lost blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Which blocks; one where `entry` is data.
    pub range: VirtualRange,
    /// What they are.
    pub entry: Entry,
}

#[cfg(test)]
/// The entry of one block, from cached nodes alone.
///
/// # Errors
/// The node that is missing.
pub fn try_lookup(cache: &NodeCache, root: Root, vba: VirtualBlock) -> Result<Entry, Miss> {
    Ok(try_leaf(cache, root, vba.raw())?.entry(vba.raw()))
}

/// The entry of one block.
///
/// # Errors
/// Where a node on the way cannot be read.
pub async fn lookup(cache: &NodeCache, root: Root, vba: VirtualBlock) -> Result<Entry, TreeError> {
    Ok(leaf(cache, root, vba.raw()).await?.entry(vba.raw()))
}

/// The pieces of `range`, ascending and without gaps, from cached nodes alone.
///
/// # Errors
/// The first node that is missing.
pub fn try_lookup_range(
    cache: &NodeCache,
    root: Root,
    range: VirtualRange,
) -> Result<Vec<Mapping>, Miss> {
    let mut pieces = Pieces::of(range);
    while let Some(vba) = pieces.next {
        pieces.take(&try_leaf(cache, root, vba)?);
    }
    Ok(pieces.found)
}

/// The pieces of `range`, ascending and without gaps; what lies beyond the tree is a hole.
/// The caller bounds the range: every block of data is one piece.
///
/// # Errors
/// Where a node on the way cannot be read.
pub async fn lookup_range(
    cache: &NodeCache,
    root: Root,
    range: VirtualRange,
) -> Result<Vec<Mapping>, TreeError> {
    let mut pieces = Pieces::of(range);
    while let Some(vba) = pieces.next {
        pieces.take(&leaf(cache, root, vba).await?);
    }
    Ok(pieces.found)
}

/// Where a way down ends.
enum Leaf {
    /// At a node of level 1.
    Node { node: Arc<Node>, position: Position },
    /// At an entry that speaks for a whole span.
    Span { entry: Entry, span: VirtualRange },
}

impl Leaf {
    fn entry(&self, vba: u64) -> Entry {
        match self {
            Self::Node { node, position } => node.entry(position.slot_of(vba)),
            Self::Span { entry, .. } => *entry,
        }
    }

    fn span(&self) -> VirtualRange {
        match self {
            Self::Node { position, .. } => position.span(),
            Self::Span { span, .. } => span.clone(),
        }
    }
}

/// One step of the way down: where it is, or how it ended.
enum Way {
    At { pointer: Entry, position: Position },
    Ended(Leaf),
}

impl Way {
    fn from_root(root: Root, vba: u64) -> Self {
        if vba >= root.capacity() {
            return Self::Ended(Leaf::Span { entry: Entry::HOLE, span: root.capacity()..u64::MAX });
        }
        Self::at(root.top, Position::top(root.height))
    }

    fn at(entry: Entry, position: Position) -> Self {
        if entry.is_data() && position.level > 0 {
            Self::At { pointer: entry, position }
        } else {
            Self::Ended(Leaf::Span { entry, span: position.span() })
        }
    }

    fn through(node: Arc<Node>, position: Position, vba: u64) -> Self {
        if position.level == 1 {
            return Self::Ended(Leaf::Node { node, position });
        }
        let slot = position.slot_of(vba);
        Self::at(node.entry(slot), position.child(slot))
    }
}

fn try_leaf(cache: &NodeCache, root: Root, vba: u64) -> Result<Leaf, Miss> {
    let mut way = Way::from_root(root, vba);
    loop {
        match way {
            Way::Ended(leaf) => return Ok(leaf),
            Way::At { pointer, position } => {
                let node = cache.try_get(&pointer, position);
                way = Way::through(node.ok_or(Miss { pointer, position })?, position, vba);
            }
        }
    }
}

async fn leaf(cache: &NodeCache, root: Root, vba: u64) -> Result<Leaf, TreeError> {
    let mut way = Way::from_root(root, vba);
    loop {
        match way {
            Way::Ended(leaf) => return Ok(leaf),
            Way::At { pointer, position } => {
                way = Way::through(cache.fetch(&pointer, position).await?, position, vba);
            }
        }
    }
}

/// A range being cut into pieces.
struct Pieces {
    found: Vec<Mapping>,
    next: Option<u64>,
    end: u64,
}

impl Pieces {
    fn of(range: VirtualRange) -> Self {
        let next = (!range.is_empty()).then_some(range.start);
        Self { found: Vec::new(), next, end: range.end }
    }

    /// Cuts off what `leaf` knows about.
    fn take(&mut self, leaf: &Leaf) {
        let Some(start) = self.next else { return };
        let end = self.end.min(leaf.span().end);
        match leaf {
            Leaf::Span { entry, .. } => self.push(start..end, *entry),
            Leaf::Node { .. } => {
                for vba in start..end {
                    self.push(vba..vba + 1, leaf.entry(vba));
                }
            }
        }
        self.next = (end < self.end).then_some(end);
    }

    /// Holes that touch become one, and so do lost blocks.
    fn push(&mut self, range: VirtualRange, entry: Entry) {
        match self.found.last_mut() {
            Some(last) if last.entry == entry && !entry.is_data() => last.range.end = range.end,
            _ => self.found.push(Mapping { range, entry }),
        }
    }
}
