//! The live log of one disk: what it is asked, in order, made durable record by record.
//!
//! Owns the order of records, the blocks of their headers, and the moment at which a replaced
//! block may be used again. Never reads, never knows what a tree holds, never decides where blocks
//! come from ([`ChainSpace`]) or what they mean ([`Publish`]). The invariants:
//!
//! 1. records are published, and those who wait are answered, in chain order, each only when it and
//!    all before it have reached the device;
//! 2. a replaced block is given back only when a header (or a committed row) that says that its
//!    replacement is synced is itself synced;
//! 3. nothing depends on a caller's future being polled: all I/O belongs to the chain's own tasks.
//!
//! Locks, outermost first: the chain's publication lock, whatever the caller's [`Publish`] takes,
//! the chain's state lock. So [`Chain::with_published`] may not be called under a lock that
//! `publish` takes; everything else may.

mod config;
mod fault;
mod space;
mod ticket;

use std::sync::Arc;

use crate::addr::{BlockAddr, Epoch, Nonce, Sequence, VirtualBlock, VirtualRange};
use crate::device::{Device, Runtime};

pub use config::{ChainConfig, ChainStats};
pub use fault::{ChainFault, SpaceError};
pub use space::{ChainSpace, Group, Publish, PublishedRecord, RefillFuture};
pub use ticket::Ticket;

/// Where a chain begins: what its row in the catalogue stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainStart {
    /// The chain's secret.
    pub nonce: Nonce,
    /// The next record's.
    pub sequence: Sequence,
    /// Where its header goes.
    pub at: BlockAddr,
    /// The CRC of the header before it; anything for a chain's first record.
    pub previous_crc: u32,
}

/// The live log of one disk.
pub struct Chain {}

impl Chain {
    /// A chain that continues (or begins) at `start`, whose header block it owns from now on.
    pub fn new(
        device: Arc<dyn Device>,
        runtime: Arc<dyn Runtime>,
        start: ChainStart,
        epoch: Epoch,
        space: Arc<dyn ChainSpace>,
        sink: Arc<dyn Publish>,
        config: ChainConfig,
    ) -> Arc<Self> {
        let _ = (device, runtime, start, epoch, space, sink, config);
        todo!()
    }

    /// Stages one block: `fill` writes its bytes into our buffer, which is checksummed there.
    /// Straight-line; call it on a reactor, since the first one staged starts the sealing task.
    ///
    /// # Errors
    /// Where the chain takes no more writes.
    pub fn stage_block(
        self: &Arc<Self>,
        vba: VirtualBlock,
        fill: &mut dyn FnMut(&mut [u8; 4096]),
    ) -> Result<Ticket, ChainFault> {
        let _ = (vba, fill);
        todo!()
    }

    /// Stages blocks that are to read as zeros.
    ///
    /// # Errors
    /// Where the chain takes no more writes.
    pub fn stage_zero(self: &Arc<Self>, range: VirtualRange) -> Result<Ticket, ChainFault> {
        let _ = range;
        todo!()
    }

    /// Stages writes that recovery will find wholly or not at all, however many records they
    /// take. Zeros apply before blocks.
    ///
    /// # Errors
    /// Where the chain takes no more writes.
    pub fn stage_group(self: &Arc<Self>, group: &Group<'_>) -> Result<Ticket, ChainFault> {
        let _ = group;
        todo!()
    }

    /// Waits until it and all before it are on the device and published; returns its record.
    /// Dropping the future withdraws nothing.
    ///
    /// # Errors
    /// Where this write was refused, or the chain halted before it.
    pub async fn published(&self, ticket: Ticket) -> Result<Sequence, ChainFault> {
        let _ = ticket;
        todo!()
    }

    /// Waits until record `upto` and all before it are published.
    ///
    /// # Errors
    /// Where the chain halted before it.
    pub async fn published_upto(&self, upto: Sequence) -> Result<(), ChainFault> {
        let _ = upto;
        todo!()
    }

    /// Waits until everything staged so far survives a power cut (writes refused for want of
    /// space excepted: they were answered so). Concurrent flushes share one sync.
    ///
    /// # Errors
    /// Where the chain halted before that.
    pub async fn flush(self: &Arc<Self>) -> Result<(), ChainFault> {
        todo!()
    }

    /// Waits until it and all before it survive a power cut; returns its record.
    ///
    /// # Errors
    /// Where this write was refused, or the chain halted before it.
    pub async fn durable(self: &Arc<Self>, ticket: Ticket) -> Result<Sequence, ChainFault> {
        let _ = ticket;
        todo!()
    }

    /// The last sealed record; everything sealed later carries `epoch`. Never splits a group.
    /// Under [`Publish`]'s own lock nothing is published (so nothing answered) meanwhile.
    pub fn cut(&self, epoch: Epoch) -> Sequence {
        let _ = epoch;
        todo!()
    }

    /// Runs `f` with nothing being published meanwhile. It is given where the chain would begin
    /// if everything published so far were cut off.
    pub fn with_published<R>(&self, f: impl FnOnce(ChainStart) -> R) -> R {
        let _ = f;
        todo!()
    }

    /// A durable commit has made the records before `start.sequence` needless: gives back their
    /// headers, and the blocks retired by them.
    pub fn truncate(&self, start: &ChainStart) {
        let _ = start;
        todo!()
    }

    /// Blocks that only the chain knows and that record `replaced_by` replaced: given back when
    /// no recovery can want them any more. May be called from inside `publish`.
    pub fn retire(&self, blocks: &[BlockAddr], replaced_by: Sequence) {
        let _ = (blocks, replaced_by);
        todo!()
    }

    /// How long and how busy the chain is.
    pub fn stats(&self) -> ChainStats {
        todo!()
    }

    /// Why the chain takes no more writes, if it does not.
    pub fn fault(&self) -> Option<ChainFault> {
        todo!()
    }

    /// Refuses everything not yet sealed and everything to come, and waits for all I/O under way
    /// to end. Flush first to keep what was staged.
    pub async fn stop(&self) {
        todo!()
    }

    /// Every block that nothing but this chain kept: headers, the one reserved for the next,
    /// retired blocks not yet given back, blocks of records that were never published. For the
    /// owner of a stopped chain, to free once a durable commit no longer names the chain.
    pub fn remains(&self) -> Vec<BlockAddr> {
        todo!()
    }
}
