//! How much data a tree holds in a range, in steps.
//!
//! I change nothing.

use std::ops::ControlFlow;

use bough_blockstore::VirtualRange;

use crate::cache::NodeCache;
use crate::diff::diff;
use crate::node::Root;
use crate::tree_error::TreeError;

/// What a step has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Blocks of data.
    pub blocks: u64,
    /// Where the next step begins; none where all is counted.
    pub next: Option<u64>,
}

/// Counts data blocks from the beginning of `range` on, looking at `budget_blocks` at most. A node
/// that is read leads to one at least: that bounds the reading, too.
///
/// # Errors
/// Where a node cannot be read.
pub async fn count_data(
    cache: &NodeCache,
    root: Root,
    range: VirtualRange,
    budget_blocks: u64,
) -> Result<Counted, TreeError> {
    let mut counted = Counted { blocks: 0, next: None };
    let (end, mut looked_at) = (range.end, 0);
    diff(cache, Root::empty(0), root, range, |found| {
        counted.blocks += u64::from(found.after.is_data());
        looked_at += 1;
        if looked_at < budget_blocks {
            return ControlFlow::Continue(());
        }
        counted.next = Some(found.range.end).filter(|next| *next < end);
        ControlFlow::Break(())
    })
    .await?;
    Ok(counted)
}
