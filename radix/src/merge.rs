//! Merging updates into new nodes: what a checkpoint does.
//!
//! I read old nodes, hand new ones to a sink and tell which blocks the version no longer needs. I
//! overwrite nothing and commit nothing. One path of nodes is in memory at a time, since updates
//! come in order of blocks: a node is written when the updates have gone past it.
//! Invariants: a block is freed only if the version alone owned it, and only once; a node is at
//! least as young as all below it; a node of holes is a hole.

use bough_blockstore::{BlockAddr, Epoch, VirtualBlock, VirtualRange};

use crate::cache::NodeCache;
use crate::merger::Merger;
use crate::node::{Entry, Node, Root};
use crate::path::{Position, height_for};
use crate::tree_error::{OnDamage, TreeError, Unreadable};

/// A change to a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Update {
    /// A block was written.
    Data {
        /// Which.
        vba: VirtualBlock,
        /// Where it is now.
        addr: BlockAddr,
        /// The CRC-32 of its bytes.
        crc: u32,
        /// The epoch that it was written in; not above [`MergeContext::birth`].
        birth: Epoch,
    },
    /// A range is lost: reading it is an error from now on. Not beyond the tree.
    Lost {
        /// Which blocks.
        range: VirtualRange,
    },
    /// A range reads as zeros from now on. May reach beyond the tree.
    Zero {
        /// Which blocks.
        range: VirtualRange,
    },
}

impl Update {
    /// The first block whose node a merge will have to open.
    pub(crate) fn block(&self) -> Option<u64> {
        match self {
            Self::Data { vba, .. } => Some(vba.raw()),
            Self::Zero { range } | Self::Lost { range } => {
                (!range.is_empty()).then_some(range.start)
            }
        }
    }
}

/// Which entries belong to a version alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ownership {
    /// The epoch of the nearest version before this one that is still in the tree (hidden ones
    /// count); [`Epoch::ZERO`] where there is none.
    pub parent_epoch: Epoch,
    /// Set while the parent is being reclaimed into this version.
    pub below: Option<ReclaimedBelow>,
}

/// How far the parent has been reclaimed: positions that end at or before the cursor are judged
/// by the grandparent's epoch already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReclaimedBelow {
    /// [`Step::next`](crate::Step::next) of the last committed step.
    pub cursor: u64,
    /// The epoch of the parent's parent.
    pub grandparent_epoch: Epoch,
}

impl Ownership {
    /// The usual case: nothing is being reclaimed.
    pub fn after(parent_epoch: Epoch) -> Self {
        Self { parent_epoch, below: None }
    }

    /// Whether `entry` at `position` belongs to the version alone.
    pub fn owns(&self, position: Position, entry: &Entry) -> bool {
        entry.is_data() && entry.birth() > self.judged_by(position)
    }

    fn judged_by(&self, position: Position) -> Epoch {
        match self.below {
            Some(below) if position.span().end <= below.cursor => below.grandparent_epoch,
            _ => self.parent_epoch,
        }
    }
}

/// What a merge has to know about the version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MergeContext {
    /// The version's epoch: the birth of new nodes.
    pub birth: Epoch,
    /// Which blocks it may free.
    pub ownership: Ownership,
    /// What to do about unreadable nodes.
    pub on_damage: OnDamage,
}

/// What a merge did. Nothing of it counts before a commit says so.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The new tree.
    pub root: Root,
    /// Blocks (data and nodes) that nothing will refer to once the new root is committed.
    pub freed: Vec<BlockAddr>,
    /// How many nodes went to the sink.
    pub nodes_written: u64,
    /// By how many more data blocks the version refers to.
    pub referenced_delta: i64,
    /// By how many more data blocks it owns.
    pub owned_delta: i64,
    /// Subtrees given up; always empty with [`OnDamage::Fail`].
    pub unreadable: Vec<Unreadable>,
}

/// Where new nodes go.
#[allow(async_fn_in_trait)] // Futures stay on their reactor: no `Send` bound is wanted.
pub trait NodeSink {
    /// The caller's error.
    type Error: From<TreeError>;

    /// Stores a node somewhere and says where. A merge never reads back what it wrote: the node has
    /// to be readable when the new root is first used, and durable when it is committed.
    async fn put(&mut self, position: Position, node: &Node) -> Result<BlockAddr, Self::Error>;
}

/// Merges `updates` (ascending, not overlapping) into a new tree of the same height.
///
/// # Errors
/// Where the sink fails, or a node cannot be read. The old tree is as it was.
///
/// # Panics
/// Where updates are out of order, or data lies beyond the tree: bugs of ours.
pub async fn merge<S: NodeSink>(
    cache: &NodeCache,
    sink: &mut S,
    root: Root,
    updates: impl IntoIterator<Item = Update>,
    context: MergeContext,
) -> Result<Merged, S::Error> {
    let mut merger = Merger::new(cache, sink, root, root.height, context);
    merger.apply_all(root, updates.into_iter()).await?;
    merger.finish().await
}

/// A piece of a large discard; see [`clear`].
#[derive(Clone, Debug)]
pub struct Cleared {
    /// What it did to the tree.
    pub merged: Merged,
    /// Where the next piece begins; none where all is done.
    pub next: Option<u64>,
}

/// Makes holes of as much of `ranges` (ascending, disjoint) from block `from` on as about
/// `budget_blocks` of reading and freeing allow. Every piece makes progress, however small its
/// budget.
///
/// # Errors
/// As [`merge`].
pub async fn clear<S: NodeSink>(
    cache: &NodeCache,
    sink: &mut S,
    root: Root,
    ranges: &[VirtualRange],
    from: u64,
    budget_blocks: u64,
    context: MergeContext,
) -> Result<Cleared, S::Error> {
    let mut merger = Merger::new(cache, sink, root, root.height, context);
    let left = ranges.iter().filter(|range| range.end > from);
    let mut next = None;
    for range in left.map(|range| range.start.max(from)..range.end) {
        let upto = match merger.has_spent(budget_blocks) {
            true => range.start,
            false => merger.zero(range.clone(), budget_blocks).await?,
        };
        if upto < range.end {
            next = Some(upto);
            break;
        }
    }
    Ok(Cleared { merged: merger.finish().await?, next })
}

/// Fits the tree to a disk of `blocks`: makes zeros of what lies beyond, adds or drops levels.
/// What lies beyond is neither read, nor counted in the outcome, nor freed: the version must own
/// none of it.
///
/// # Errors
/// As [`merge`].
pub async fn reheight<S: NodeSink>(
    cache: &NodeCache,
    sink: &mut S,
    root: Root,
    blocks: u64,
    context: MergeContext,
) -> Result<Merged, S::Error> {
    let mut merger = Merger::new(cache, sink, root, height_for(blocks), context);
    merger.cut(blocks).await?;
    merger.finish().await
}
