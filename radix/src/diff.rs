//! What differs between two versions.

use std::ops::ControlFlow;

use bough_blockstore::VirtualRange;

use crate::cache::NodeCache;
use crate::node::{Entry, Root};
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
    let _ = (cache, before, after, range, visit);
    todo!()
}
