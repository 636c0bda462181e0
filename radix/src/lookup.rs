//! Finding blocks.

use bough_blockstore::{VirtualBlock, VirtualRange};

use crate::cache::NodeCache;
use crate::node::{Entry, Root};
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

/// The entry of one block, from cached nodes alone.
///
/// # Errors
/// The node that is missing.
pub fn try_lookup(cache: &NodeCache, root: Root, vba: VirtualBlock) -> Result<Entry, Miss> {
    let _ = (cache, root, vba);
    todo!()
}

/// The entry of one block.
///
/// # Errors
/// Where a node on the way cannot be read.
pub async fn lookup(cache: &NodeCache, root: Root, vba: VirtualBlock) -> Result<Entry, TreeError> {
    let _ = (cache, root, vba);
    todo!()
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
    let _ = (cache, root, range);
    todo!()
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
    let _ = (cache, root, range);
    todo!()
}
