//! One side of a comparison: what a tree has at a position, whatever its height.
//!
//! A comparison goes down two trees position by position. Where one of them is lower than the
//! position, its root is somewhere below, along the first entries, and all else there is a hole.

use std::sync::Arc;

use crate::cache::NodeCache;
use crate::node::{Entry, Node, Root};
use crate::path::Position;
use crate::tree_error::TreeError;

/// What a tree has at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum At {
    /// This entry.
    Entry(Entry),
    /// The whole tree, somewhere below.
    Above(Root),
}

impl At {
    /// What `root`'s tree has at the top of a tree at least as high.
    pub(crate) fn top(root: Root, height: u8) -> Self {
        debug_assert!(root.height <= height, "a top above this tree");
        if root.height == height || root.top.is_hole() {
            Self::Entry(root.top)
        } else {
            Self::Above(root)
        }
    }

    /// The entry, where every block below has the same: a hole, or lost.
    pub(crate) fn uniform(&self) -> Option<Entry> {
        match self {
            Self::Entry(entry) if !entry.is_data() => Some(*entry),
            _ => None,
        }
    }

    /// The block pointed at from here, if any.
    pub(crate) fn pointer(&self) -> Option<Entry> {
        match self {
            Self::Entry(entry) if entry.is_data() => Some(*entry),
            _ => None,
        }
    }

    /// Goes one level down, reading a node where there is one.
    pub(crate) async fn open(
        &self,
        cache: &NodeCache,
        position: Position,
    ) -> Result<Below, TreeError> {
        Ok(match self {
            Self::Above(root) => Below::Above(*root),
            Self::Entry(entry) if entry.is_data() => {
                Below::Node(cache.fetch(entry, position).await?)
            }
            Self::Entry(entry) => Below::Uniform(*entry),
        })
    }
}

/// What a tree has below a position.
#[derive(Clone, Debug)]
pub(crate) enum Below {
    /// The same everywhere.
    Uniform(Entry),
    /// What this node says.
    Node(Arc<Node>),
    /// The whole tree, along the first entries.
    Above(Root),
}

impl Below {
    /// What there is at `child`, one level down.
    pub(crate) fn at(&self, child: Position) -> At {
        match self {
            Self::Uniform(entry) => At::Entry(*entry),
            Self::Node(node) => At::Entry(node.entry(child.slot())),
            Self::Above(root) if child.index == 0 => At::top(*root, child.level),
            Self::Above(_) => At::Entry(Entry::HOLE),
        }
    }
}

/// What `root`'s tree has at the top of a tree of `height`, which may be lower.
pub(crate) async fn at_height(cache: &NodeCache, root: Root, height: u8) -> Result<At, TreeError> {
    let mut at = At::top(root, root.height.max(height));
    for level in (height + 1..=root.height).rev() {
        let position = Position::top(level);
        at = at.open(cache, position).await?.at(position.child(0));
    }
    Ok(at)
}
