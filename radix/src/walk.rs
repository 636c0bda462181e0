//! Visiting a whole tree: for the checker, and for disk 0, whose free space is found this way.
//!
//! I change nothing, and damage does not stop me: I report it and go on.

use crate::cache::NodeCache;
use crate::node::{Entry, Node, Root};
use crate::path::Position;
use crate::read_ahead::warm_next;
use crate::tree_error::TreeError;

/// What a walk comes upon: parents before their children, the entries of one node together.
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

/// Visits every entry that is no hole. All entries of a node are asked about before the first of
/// them is gone into, so that only what is wanted is read, and side by side.
pub async fn walk(cache: &NodeCache, root: Root, mut visit: impl FnMut(Found) -> Onward) {
    let mut ahead = Vec::new();
    let top = (Position::top(root.height), root.top);
    if !root.top.is_hole() && !choose(&mut ahead, vec![top], &mut visit) {
        return;
    }
    while let Some((position, entry)) = ahead.pop() {
        let going_on = match cache.fetch(&entry, position).await {
            Ok(node) => {
                let mut children = Vec::new();
                push_children(&mut children, position, &node);
                children.reverse();
                choose(&mut ahead, children, &mut visit)
            }
            Err(error) => visit(Found::Unreadable { position, entry, error }) != Onward::Stop,
        };
        if !going_on {
            return;
        }
        warm_next(cache, &ahead, position.level - 1).await;
    }
}

/// Asks about each entry and stacks those to go into; false where the walk is over.
fn choose(
    ahead: &mut Vec<(Position, Entry)>,
    entries: Vec<(Position, Entry)>,
    visit: &mut impl FnMut(Found) -> Onward,
) -> bool {
    let before = ahead.len();
    for (position, entry) in entries {
        match visit(Found::Entry { position, entry }) {
            Onward::Stop => return false,
            Onward::Down if position.level > 0 && entry.is_data() => ahead.push((position, entry)),
            Onward::Down | Onward::Past => {}
        }
    }
    ahead[before..].reverse();
    true
}

/// Last first, so that the first is taken next.
pub(crate) fn push_children(ahead: &mut Vec<(Position, Entry)>, position: Position, node: &Node) {
    let slots = node.entries().enumerate().filter(|(_, entry)| !entry.is_hole());
    let before = ahead.len();
    ahead.extend(slots.map(|(slot, entry)| (position.child(slot), entry)));
    ahead[before..].reverse();
}
