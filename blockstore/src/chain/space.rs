//! What a chain asks of its owner: blocks, and somebody to tell.

use std::future::Future;
use std::pin::Pin;

use crate::addr::{
    BLOCK_BYTES, BlockAddr, BlockRun, DiskId, Epoch, Sequence, VirtualBlock, VirtualRange,
};
use crate::chain::{ChainStart, SpaceError};
use crate::record::ChainEntry;

/// More blocks being granted.
pub type RefillFuture = Pin<Box<dyn Future<Output = Result<(), SpaceError>>>>;

/// Where a chain's blocks come from: a disk's extents, or the catalogue's pool.
pub trait ChainSpace: Send + Sync {
    /// Exactly `count` blocks, from `near` on and in one run if possible; `None` where there are
    /// not so many right now. They are the chain's alone until given back or published.
    fn take(&self, near: Option<BlockAddr>, count: u64) -> Option<Vec<BlockRun>>;

    /// Makes at least `count` blocks available to [`Self::take`], or fails.
    fn refill(&self, count: u64) -> RefillFuture;

    /// No recovery wants these blocks any more. Whether a read begun earlier still does, only
    /// the owner knows.
    fn give_back(&self, blocks: &[BlockAddr]);
}

/// A record that has reached the device, as all before it have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedRecord {
    /// Its place in the chain.
    pub sequence: Sequence,
    /// The epoch it was sealed in.
    pub epoch: Epoch,
    /// What it says, in order.
    pub entries: Vec<ChainEntry>,
}

/// Who is told what has been written.
pub trait Publish: Send + Sync {
    /// Called in chain order, exactly once a record; those who wait are answered afterwards.
    /// Straight-line code. It may stage, retire and cut, but not call `with_published`.
    fn publish(&self, record: &PublishedRecord);

    /// Called when all records that are answered together are published, before anybody is answered
    /// and before anything can call them synced. The chain goes on at `next`.
    fn published_before(&self, _next: &ChainStart) {}
}

/// Writes that belong together. Order: zeros, blocks, requirements.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group<'a> {
    /// Blocks that are to read as zeros.
    pub zeros: &'a [VirtualRange],
    /// Blocks and their new bytes.
    pub blocks: &'a [(VirtualBlock, &'a [u8; BLOCK_BYTES])],
    /// What other chains must hold for this group to count.
    pub requires: &'a [(DiskId, Sequence)],
}
