//! After a crash: what a disk's chain holds becomes tree, and the chain ends.
//!
//! The disk needs no other disk for it, only rows. Nothing that the chain may be read from again is
//! reused before the commit that unnames it is durable.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bough_blockstore::{
    BlockAddr, BlockRun, ChainEntry, ChainStart, Device, DeviceError, Epoch, Scan, ScanEnd,
    ScanError, ScanLimits, Sequence, scan,
};

use super::checkpoint::Frozen;
use super::{Disk, Pending, Slot};
use crate::beyond::{Beyond, first_beyond};
use crate::catalogue::{ChainRow, Rows, VersionRow};
use crate::concurrent::all;
use crate::disk0::CatalogueError;
use crate::engine::{BrokenRule, EngineError};
use crate::overlay::{Overlay, Point};

/// Blocks written again with one operation: 1 MiB...
const REWRITE_BLOCKS: usize = 256;
/// ...and side by side, at most, for as long as operations are that large or smaller.
const REWRITES_AT_ONCE: usize = 8;

/// Reads the chain that a row names; its disk's extents are `extents`.
pub(crate) async fn scan_chain_from(
    device: &Arc<dyn Device>,
    row: &ChainRow,
    limits: ScanLimits,
    extents: &[BlockRun],
) -> Result<Scan, ScanError> {
    scan(device, &chain_start(row), limits, extents).await
}

impl Disk {
    /// Merges what the chain of `row` holds. The store has been synced since it was opened, and
    /// the disk's extents are registered, not adopted.
    ///
    /// # Errors
    /// Where the chain has lost records that were durable or has blocks that the disk has not
    /// (nothing is changed then), or the merge cannot be committed.
    pub(crate) async fn recover(self: &Arc<Self>, row: &ChainRow) -> Result<(), EngineError> {
        self.lock().slot = Slot::Closing;
        let extents = self.store.space().extents_of(self.id);
        let left = self.store.config.tails.as_ref().and_then(|tails| tails.left(row.nonce));
        let mut limits = ScanLimits { published: left, ..ScanLimits::default() };
        if self.store.config.breaks(BrokenRule::RotEndsReplay) {
            limits.max_beyond_blocks = 0;
        }
        let found = scan_chain_from(&self.store.device, row, limits, &extents).await?;
        if let ScanEnd::Damaged { at, sequence } = found.end {
            let disk = self.name().to_string();
            return Err(EngineError::LostRecords { disk, at, sequence: sequence.0 });
        }
        let end = self.lock().base.capacity();
        if let Some(Beyond { sequence, at, block }) = first_beyond(&found, end) {
            let disk = self.name().to_string();
            return Err(EngineError::BeyondDisk { disk, at, sequence: sequence.0, block });
        }
        let overlay = replay(&found);
        let taken = still_taken(row, &found, &overlay);
        self.adopt_extents(&taken).await?;
        let live: BTreeSet<BlockAddr> = overlay.addresses().collect();
        self.rewrite_unsynced(&found, &live).await?;
        let pending = self.pending_versions().await?;
        let newest = found.records.last().map_or(Epoch::ZERO, |record| record.epoch);
        let frozen = {
            let mut state = self.lock();
            state.epoch = state.epoch.max(newest);
            state.pending.clone_from(&pending);
            Frozen {
                overlay: Arc::new(overlay),
                start: chain_start(row),
                complete: pending,
                rest: state.epoch,
                promised_nodes: std::sync::Mutex::new(0),
                nodes_under_way: 0,
                clearing: std::sync::Mutex::default(),
                failed_reads: AtomicU32::new(0),
            }
        };
        self.merge_and_commit(&frozen, None).await?;
        let done: Vec<BlockAddr> = taken.difference(&live).copied().collect();
        self.store.free_taken(&done);
        self.lock().slot = Slot::Idle;
        self.drop_extents().await?;
        tracing::info!(
            disk = %self.name(),
            records = found.records.len(),
            blocks = blocks_of(&found),
            searched = found.searched,
            "recovered what the chain held"
        );
        Ok(())
    }

    /// Writes what no sync is known to have kept again, where it is: after a sync that failed, a
    /// medium may show what it has not got, and succeed at the next sync without it.
    async fn rewrite_unsynced(
        &self,
        found: &Scan,
        live: &BTreeSet<BlockAddr>,
    ) -> Result<(), EngineError> {
        let unsynced = found.records.iter().filter(|record| record.sequence > found.known_synced);
        let mut blocks: Vec<BlockAddr> = unsynced
            .flat_map(|record| &record.entries)
            .filter_map(|entry| match entry {
                ChainEntry::Data { addr, .. } => live.get(addr).copied(),
                ChainEntry::Zero { .. } | ChainEntry::Require { .. } => None,
            })
            .collect();
        blocks.sort_unstable();
        let runs =
            blocks.chunk_by(|a, b| a.next() == *b).flat_map(|run| run.chunks(REWRITE_BLOCKS));
        let runs: Vec<&[BlockAddr]> = runs.collect();
        for together in runs.chunks(REWRITES_AT_ONCE) {
            let rewrites = together.iter().map(|run| self.rewrite(run)).collect();
            all(rewrites).await.into_iter().collect::<Result<(), DeviceError>>()?;
        }
        Ok(())
    }

    /// Its checksums were looked at a moment ago; whoever reads it looks again.
    async fn rewrite(&self, run: &[BlockAddr]) -> Result<(), DeviceError> {
        let content = self.store.device.read(run[0], run.len()).await?;
        self.store.device.write(run[0], content.share()).await
    }

    async fn adopt_extents(&self, taken: &BTreeSet<BlockAddr>) -> Result<(), EngineError> {
        let runs = self.store.space().extents_of(self.id);
        for run in runs {
            let inside: Vec<BlockAddr> =
                taken.iter().copied().filter(|block| run.contains(*block)).collect();
            self.store.adopt(run, &inside).await?;
        }
        Ok(())
    }

    /// The snapshots without a tree of their own, oldest first: always the disk's newest.
    async fn pending_versions(&self) -> Result<Vec<Pending>, CatalogueError> {
        let head = self.lock().head;
        let mut view = self.store.catalogue.read().await;
        let rows = Rows::new(&mut view);
        let mut pending = Vec::new();
        let mut version: VersionRow = rows.version(head).await?;
        while let Some(parent) = rows.parent_of(&version).await? {
            version = parent;
            if !version.pending {
                break;
            }
            let cut = Sequence::ZERO;
            pending.push(Pending { version: version.id, epoch: version.epoch, cut });
        }
        pending.reverse();
        Ok(pending)
    }
}

fn chain_start(row: &ChainRow) -> ChainStart {
    ChainStart {
        nonce: row.nonce,
        sequence: row.sequence,
        at: row.at,
        previous_crc: row.previous_crc,
    }
}

fn replay(found: &Scan) -> Overlay {
    let mut overlay = Overlay::default();
    for record in &found.records {
        for entry in &record.entries {
            match entry {
                ChainEntry::Data { vba, addr, crc } => {
                    let point = Point { addr: *addr, crc: *crc, epoch: record.epoch };
                    overlay.put(vba.raw(), point);
                }
                ChainEntry::Zero { range } => {
                    overlay.zero(range.clone(), record.epoch);
                }
                ChainEntry::Require { .. } => {}
            }
        }
    }
    overlay
}

/// What the records took in all, headers included.
fn blocks_of(found: &Scan) -> usize {
    let is_data = |entry: &&ChainEntry| matches!(entry, ChainEntry::Data { .. });
    let data = found.records.iter().map(|record| record.entries.iter().filter(is_data).count());
    data.sum::<usize>() + found.records.len()
}

/// Blocks that a further recovery would read: headers, mapped data, and the data of records whose
/// checksums it would look at again. A replaced block of a synced record is not among them: it
/// may have been reused long ago, even by the tree.
fn still_taken(row: &ChainRow, found: &Scan, overlay: &Overlay) -> BTreeSet<BlockAddr> {
    let headers = found.records.iter().map(|record| record.header_at);
    let unsynced = found.records.iter().filter(|record| record.sequence > found.known_synced);
    let data = unsynced.flat_map(|record| &record.entries).filter_map(|entry| match entry {
        ChainEntry::Data { addr, .. } => Some(*addr),
        ChainEntry::Zero { .. } | ChainEntry::Require { .. } => None,
    });
    headers.chain(data).chain(overlay.addresses()).chain([row.at]).collect()
}
