//! Writing: admitted against the store's room, staged into the chain, answered when published.
//!
//! Whole blocks read nothing. Parts of blocks are read, merged and written as whole blocks, with
//! everybody else kept off that block meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bough_blockstore::{
    BLOCK_BYTES, BLOCK_BYTES_U64, Chain, ChainFault, Ticket, VirtualBlock, VirtualRange, either,
    to_u64, to_usize,
};

use super::lifecycle::ChainNow;
use super::read::{ByteRange, Piece, Source, deliver};
use super::{Disk, Mode};
use crate::error::DiskError;
use crate::space::{Need, Room};

/// How often a write that waits for room looks for it in any case.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// What is discarded with one request from here on is large: 256 MiB, a node of the second level.
const LARGE_BLOCKS: u64 = 1 << 16;

/// A write's claim on answers: one for each record that its blocks went into. A full store may
/// refuse one and take the next.
#[derive(Default)]
struct Claim {
    earlier: Vec<Ticket>,
    last: Option<Ticket>,
}

/// Room promised to one request; see [`Disk::admit`].
struct Admitted<'a> {
    disk: &'a Disk,
    room: Room,
}

impl Disk {
    /// Writes `length` bytes at `offset`. `fill` is given each piece of the record's own buffer
    /// with its place relative to `offset`, and copies the bytes there: once, before this
    /// future is first suspended, unless the write has to wait for space, for a chain to begin,
    /// or touches parts of blocks.
    ///
    /// Returns when the write survives the death of the server. A power cut may undo it until
    /// the next [`Disk::flush`]; a block of 4 KiB is never torn.
    ///
    /// # Errors
    /// Where the range is not inside the disk, the store is full, or the disk has halted.
    pub async fn write(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), DiskError> {
        self.check_range(offset, to_u64(length))?;
        if length == 0 {
            return Ok(());
        }
        self.write_range(ByteRange { offset, length }, fill).await
    }

    /// Zeros what the last block still holds beyond the disk's end, from when the disk was
    /// larger: before the end moves on.
    pub(crate) async fn zero_tail(self: &Arc<Self>) -> Result<(), DiskError> {
        let end = self.size_bytes();
        let within = to_usize(end % BLOCK_BYTES_U64);
        if within == 0 {
            return Ok(());
        }
        let mut old = Box::new([0; BLOCK_BYTES]);
        self.read_block(end / BLOCK_BYTES_U64, &mut old).await?;
        if old[within..].iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let range = ByteRange { offset: end, length: BLOCK_BYTES - within };
        self.write_range(range, &mut |_, piece| piece.fill(0)).await
    }

    async fn write_range(
        self: &Arc<Self>,
        range: ByteRange,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), DiskError> {
        self.publish(range.blocks(), to_u64(range.length), async |chain| {
            self.stage(chain, range, fill).await
        })
        .await
    }

    /// Has `stage` put changes of `blocks` into the live chain; returns once they are published.
    async fn publish(
        self: &Arc<Self>,
        blocks: VirtualRange,
        data_bytes: u64,
        mut stage: impl AsyncFnMut(&Arc<Chain>) -> Result<Result<Claim, ChainFault>, DiskError>,
    ) -> Result<(), DiskError> {
        loop {
            let (chain, admitted) = self.ready(blocks.clone(), data_bytes).await?;
            let done = match stage(&chain).await? {
                Ok(claim) => claim.published(&chain).await,
                Err(fault) => Err(fault),
            };
            drop(admitted);
            match done {
                Ok(()) => return Ok(()),
                // The chain ended between our looking and our staging: the next one takes it.
                Err(ChainFault::Stopped) => {}
                Err(fault) => return Err(self.chain_error(fault)),
            }
        }
    }

    /// Makes bytes read as zeros; takes no space for whole blocks.
    ///
    /// # Errors
    /// As [`Disk::write`].
    pub async fn write_zeroes(self: &Arc<Self>, offset: u64, length: u64) -> Result<(), DiskError> {
        self.check_range(offset, length)?;
        let end = offset + length;
        let whole_start = offset.next_multiple_of(BLOCK_BYTES_U64);
        let whole_end = end - end % BLOCK_BYTES_U64;
        if whole_start > whole_end {
            return self.write(offset, to_usize(length), &mut |_, piece| piece.fill(0)).await;
        }
        let (head, tail) = (whole_start - offset, end - whole_end);
        if head > 0 {
            self.write(offset, to_usize(head), &mut |_, piece| piece.fill(0)).await?;
        }
        if tail > 0 {
            self.zero_end(whole_end, tail).await?;
        }
        if whole_start == whole_end {
            return Ok(());
        }
        self.zero_blocks(whole_start / BLOCK_BYTES_U64..whole_end / BLOCK_BYTES_U64).await
    }

    /// Makes the first `length` bytes of the block at `offset` read as zeros. The last block of a
    /// disk may be short: reaching its end is reaching the block's, and takes no space.
    async fn zero_end(self: &Arc<Self>, offset: u64, length: u64) -> Result<(), DiskError> {
        let block = offset / BLOCK_BYTES_U64;
        let mut is_last = offset + length == self.size_bytes();
        if is_last {
            self.publish(block..block + 1, 0, async |chain| {
                // Held by us, nobody who has seen a larger disk can have staged anything in it
                // without our seeing that size, too.
                let _held = self.rmw.hold(block..block + 1).await;
                is_last = offset + length == self.size_bytes();
                Ok(if is_last {
                    chain.stage_zero(block..block + 1).map(Claim::from)
                } else {
                    Ok(Claim::default())
                })
            })
            .await?;
        }
        if is_last {
            return Ok(());
        }
        self.write(offset, to_usize(length), &mut |_, piece| piece.fill(0)).await
    }

    /// As [`Disk::write_zeroes`]: discarded bytes read back as zeros.
    ///
    /// # Errors
    /// As [`Disk::write`].
    pub async fn discard(self: &Arc<Self>, offset: u64, length: u64) -> Result<(), DiskError> {
        self.write_zeroes(offset, length).await
    }

    /// Makes every write answered so far survive a power cut.
    ///
    /// # Errors
    /// Where the disk or the store has halted.
    pub async fn flush(self: &Arc<Self>) -> Result<(), DiskError> {
        let chain = match self.chain_now()? {
            // Nothing in a chain: what was written is in the tree, by a durable commit.
            ChainNow::None => return Ok(()),
            // The checkpoint that ends the chain makes everything durable.
            ChainNow::Closing => return self.settled().await,
            ChainNow::Live(chain) | ChainNow::Broken(chain) => chain,
        };
        let flushed = match chain.flush().await {
            Err(ChainFault::Stopped) => return self.settled().await,
            // The host is full: that concerns what is written from now on.
            Err(ChainFault::Broken(_)) => chain.flush_published().await,
            flushed => flushed,
        };
        flushed.map_err(|fault| self.chain_error(fault))
    }

    /// Returns when room may have come to a full store: the reclaimer has got on, or a moment has
    /// passed, in which discards may have been merged or the host's file system cleared.
    pub async fn room(&self) {
        let moment = self.store.runtime.sleep(ROOM_EVERY);
        either(self.store.backlog.progressed(), moment).await;
    }

    async fn zero_blocks(self: &Arc<Self>, blocks: VirtualRange) -> Result<(), DiskError> {
        if blocks.end - blocks.start >= LARGE_BLOCKS {
            Box::pin(self.settle_snapshots()).await;
        }
        self.publish(blocks.clone(), 0, async |chain| {
            self.rmw.wait(&blocks).await;
            Ok(chain.stage_zero(blocks.clone()).map(Claim::from))
        })
        .await
    }

    /// Has snapshots given their trees before a large discard, which cannot be cleared piece by
    /// piece before they have them.
    async fn settle_snapshots(self: &Arc<Self>) {
        if self.lock().pending.is_empty() {
            return;
        }
        if let Err(error) = self.checkpoint(Mode::Keep).await {
            // The discard itself will tell whoever asked, if it cannot be done.
            tracing::debug!(disk = %self.name(), %error, "no checkpoint before a large discard");
        }
    }

    /// A live chain, and room for changing `blocks` with `data_bytes` of data.
    async fn ready(
        self: &Arc<Self>,
        blocks: VirtualRange,
        data_bytes: u64,
    ) -> Result<(Arc<Chain>, Admitted<'_>), DiskError> {
        self.hold_back().await?;
        let admitted = self.admit(&blocks, data_bytes > 0).await?;
        let chain = self.live_chain().await?;
        Ok((chain, admitted))
    }

    /// Promises the room, or refuses. Nobody is refused while a checkpoint, the reclaimer or the
    /// end of the reads under way could make room.
    async fn admit(
        self: &Arc<Self>,
        blocks: &VirtualRange,
        has_data: bool,
    ) -> Result<Admitted<'_>, DiskError> {
        let data = if has_data { blocks.end - blocks.start } else { 0 };
        // A header for each record, at either end one of its own, and the next one's.
        let headers = data / to_u64(self.store.config.chain.record_blocks.max(1)) + 4;
        let nodes = self.nodes_needed(blocks, has_data);
        let room = Room { blocks: data + headers, nodes };
        let promise = |need| self.store.space().admit(self.id, need, room).map_err(drop);
        let admitted = || Ok(Admitted::new(self, room));
        if promise(Need::Data).is_ok() {
            return admitted();
        }
        let overwrites = !has_data || self.is_all_mapped(blocks.clone()).await?;
        let need = if overwrites { Need::Overwrite } else { Need::Data };
        if promise(need).is_ok() {
            return admitted();
        }
        let mut merged = self.checkpoint(Mode::Keep).await.is_ok();
        loop {
            let steps = self.store.backlog.steps();
            // What was freed may still be read.
            self.store.gate.drained().await;
            if merged && promise(need).is_ok() {
                return admitted();
            }
            if !self.store.backlog.step_after(steps).await {
                return Err(DiskError::NoSpace { disk: self.name().to_string() });
            }
            merged = merged || self.checkpoint(Mode::Keep).await.is_ok();
        }
    }

    /// At most so many nodes change when these blocks do: whole nodes inside the range, and a
    /// path at either end.
    fn nodes_needed(&self, blocks: &VirtualRange, has_data: bool) -> u64 {
        let height = u64::from(self.lock().base.height);
        let inside = if has_data { (blocks.end - blocks.start) / 256 } else { 0 };
        inside + 2 * height
    }

    async fn is_all_mapped(&self, blocks: VirtualRange) -> Result<bool, DiskError> {
        let _reading = self.store.gate.enter();
        let sources = self.locate(blocks).await?;
        Ok(sources.iter().all(|source| matches!(source, Source::Data { .. })))
    }

    /// Stages a write piece by piece.
    async fn stage(
        self: &Arc<Self>,
        chain: &Arc<Chain>,
        range: ByteRange,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<Result<Claim, ChainFault>, DiskError> {
        let mut claim = Claim::default();
        for block in range.blocks() {
            let start = block * BLOCK_BYTES_U64;
            let from = range.offset.max(start);
            let to = (range.offset + to_u64(range.length)).min(start + BLOCK_BYTES_U64);
            let at = to_usize(from - range.offset);
            let within = to_usize(from - start)..to_usize(to - start);
            let ticket = if within.len() == BLOCK_BYTES {
                if self.rmw.is_held(&(block..block + 1)) {
                    self.rmw.wait(&(block..block + 1)).await;
                }
                let mut fill_block = |buf: &mut [u8; BLOCK_BYTES]| fill(at, buf);
                chain.stage_block(VirtualBlock::of(block), &mut fill_block)
            } else {
                let _held = self.rmw.hold(block..block + 1).await;
                let mut old = Box::new([0; BLOCK_BYTES]);
                // All of a disk's last block, which may be short, replaces what was there. Asked
                // while we hold the block: the disk may be growing, see `zero_end`.
                if within.start > 0 || to != self.size_bytes() {
                    if let Err(fault) = chain.settled().await {
                        return Ok(Err(fault));
                    }
                    self.read_block(block, &mut old).await?;
                }
                fill(at, &mut old[within]);
                chain.stage_block(VirtualBlock::of(block), &mut |buf| buf.copy_from_slice(&*old))
            };
            match ticket {
                Ok(ticket) => claim.add(ticket),
                Err(fault) => return Ok(Err(fault)),
            }
        }
        Ok(Ok(claim))
    }

    /// A block as it is now: the caller holds it, and everything staged before is published.
    async fn read_block(&self, block: u64, out: &mut [u8; BLOCK_BYTES]) -> Result<(), DiskError> {
        let _reading = self.store.gate.enter();
        let sources = self.locate(block..block + 1).await?;
        let range = ByteRange { offset: block * BLOCK_BYTES_U64, length: BLOCK_BYTES };
        let name = || self.name().to_string();
        deliver(&self.store, &name, range, &sources, &mut |at, piece| match piece {
            Piece::Bytes(bytes) => out[at..at + bytes.len()].copy_from_slice(bytes),
            Piece::Zeros(count) => out[at..at + count].fill(0),
        })
        .await
    }
}

impl Claim {
    fn add(&mut self, ticket: Ticket) {
        match &mut self.last {
            Some(last) if last.is_with(&ticket) => {}
            last => self.earlier.extend(last.replace(ticket)),
        }
    }

    /// Waits until all of it is published.
    async fn published(self, chain: &Chain) -> Result<(), ChainFault> {
        let mut outcome = Ok(());
        for ticket in self.earlier.into_iter().chain(self.last) {
            let done = chain.published(ticket).await;
            outcome = outcome.and(done.map(drop));
        }
        outcome
    }
}

impl From<Ticket> for Claim {
    fn from(ticket: Ticket) -> Self {
        Self { earlier: Vec::new(), last: Some(ticket) }
    }
}

impl<'a> Admitted<'a> {
    /// The nodes are for whichever checkpoint comes when the request has been published.
    fn new(disk: &'a Disk, room: Room) -> Self {
        let mut state = disk.lock();
        state.promised_nodes += room.nodes;
        state.nodes_under_way += room.nodes;
        drop(state);
        Self { disk, room }
    }
}

impl Drop for Admitted<'_> {
    /// The blocks have been taken, or will not be; the nodes are the next checkpoint's business.
    fn drop(&mut self) {
        self.disk.store.space().dismiss(self.disk.id, self.room.blocks);
        self.disk.lock().nodes_under_way -= self.room.nodes;
    }
}
