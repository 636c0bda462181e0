//! Visiting a whole tree: for the checker, and for disk 0, whose free space is found this way.
//!
//! I change nothing, and damage does not stop me: I report it and go on.

use crate::cache::NodeCache;
use crate::node::{Entry, Node, Root};
use crate::path::Position;
use crate::read_ahead::warm_next;
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
pub async fn walk(cache: &NodeCache, root: Root, mut visit: impl FnMut(Found) -> Onward) {
    let mut ahead = vec![(Position::top(root.height), root.top)];
    while let Some((position, entry)) = ahead.pop() {
        if entry.is_hole() {
            continue;
        }
        match visit(Found::Entry { position, entry }) {
            Onward::Stop => return,
            Onward::Past => continue,
            Onward::Down if position.level == 0 || !entry.is_data() => continue,
            Onward::Down => {}
        }
        match cache.fetch(&entry, position).await {
            Ok(node) => {
                push_children(&mut ahead, position, &node);
                warm_next(cache, &ahead, position.level - 1).await;
            }
            Err(error) => {
                if visit(Found::Unreadable { position, entry, error }) == Onward::Stop {
                    return;
                }
            }
        }
    }
}

/// Last first, so that the first is taken next.
pub(crate) fn push_children(ahead: &mut Vec<(Position, Entry)>, position: Position, node: &Node) {
    let slots = node.entries().enumerate().filter(|(_, entry)| !entry.is_hole());
    let before = ahead.len();
    ahead.extend(slots.map(|(slot, entry)| (position.child(slot), entry)));
    ahead[before..].reverse();
}
