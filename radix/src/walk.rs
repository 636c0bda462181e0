//! Visiting a whole tree.

use crate::cache::NodeCache;
use crate::node::{Entry, Root};
use crate::path::Position;
use crate::tree_error::TreeError;

/// What a walk comes upon, parents before their children, in order of blocks.
#[derive(Clone, Debug)]
pub enum Found {
    /// An entry that is no hole.
    Entry {
        /// Where.
        position: Position,
        /// What.
        entry: Entry,
    },
    /// A node, already visited as an entry, that cannot be read.
    Unreadable {
        /// Where.
        position: Position,
        /// The pointer to it.
        entry: Entry,
        /// Why.
        error: TreeError,
    },
}

/// How a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Onward {
    /// Into the subtree, if it is one.
    Down,
    /// Past it.
    Past,
    /// Nowhere.
    Stop,
}

/// Visits every entry that is no hole.
pub async fn walk(cache: &NodeCache, root: Root, visit: impl FnMut(Found) -> Onward) {
    let _ = (cache, root, visit);
    todo!()
}
