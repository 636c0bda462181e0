//! Salvage: a clone of what can be read of a damaged version.
//!
//! Every block is read and verified; what cannot be is marked as lost in the clone, whose tree can
//! then be read to its end. Nothing of the damaged version is changed. Invariant: what the clone
//! does not mark as lost was right when it was read.

use std::sync::Arc;

use bough_blockstore::{BLOCK_BYTES_U64, BlockCount, Epoch, VirtualRange};

use super::{Engine, EngineError, Progress, Reader};
use crate::catalogue::{Rows, VersionRow};
use crate::concurrent::all;
use crate::disk::{Disk, TreeSink};
use crate::disk0::Need as PoolNeed;
use crate::info::{LostRange, SalvageReport};
use crate::lookup::{Mapping, lookup_range};
use crate::merge::{MergeContext, Ownership, Update, merge};
use crate::names::{DiskName, VersionName};
use crate::node::Kind;
use crate::path::Position;
use crate::store::BitChanges;
use crate::tree_error::{OnDamage, TreeError};

/// Blocks looked at together, and read side by side.
const STEP_BLOCKS: u64 = 256;

/// What is there and what is not.
#[derive(Default)]
struct Found {
    data_blocks: u64,
    lost: Vec<VirtualRange>,
}

impl Engine {
    /// Makes a disk of what can be read of `source`, and lists what cannot: that reads as an error
    /// until it is written. Interrupted, it leaves no disk, or one that has to be deleted.
    ///
    /// # Errors
    /// Where there is no such version, its disk is not served, or the name is taken.
    pub async fn salvage(
        &self,
        source: &VersionName,
        name: &DiskName,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<SalvageReport, EngineError> {
        let reader = self.reader(source).await?;
        let found = self.sift(&reader, progress).await?;
        {
            let _verbs = self.inner.verbs.lock().await;
            let origin = {
                let mut view = self.store().catalogue.read().await;
                Rows::new(&mut view).version(reader.version).await?
            };
            self.put_clones(&origin, std::slice::from_ref(name)).await?;
            if !found.lost.is_empty() {
                let disk = self.disk(name).await?;
                self.give_up(&disk, origin.epoch, &found).await?;
            }
        }
        let lost: Vec<LostRange> = found.lost.iter().map(|range| told(name, range)).collect();
        Ok(SalvageReport {
            disk: self.disk_info(name).await?,
            data_bytes: found.data_blocks * BLOCK_BYTES_U64,
            lost_bytes: lost.iter().map(|range| range.length_bytes).sum(),
            lost,
        })
    }

    /// Reads and verifies everything.
    async fn sift(
        &self,
        reader: &Reader,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Found, EngineError> {
        let mut found = Found::default();
        let end = BlockCount::covering(reader.size_bytes()).0;
        let total_bytes = end * BLOCK_BYTES_U64;
        let _reading = self.store().gate.enter();
        let mut at = 0;
        while at < end {
            let upto = end.min((at / STEP_BLOCKS + 1) * STEP_BLOCKS);
            match lookup_range(&self.store().cache, reader.root, at..upto).await {
                Ok(mappings) => {
                    self.sift_mappings(&mappings, &mut found).await;
                    at = upto;
                }
                // No step reaches beyond the blocks of one leaf: the node is above all of it.
                Err(error) => {
                    let upto = position_of(&error).span().end.clamp(upto, end);
                    found.lose(at..upto);
                    at = upto;
                }
            }
            progress(Progress { done_bytes: at * BLOCK_BYTES_U64, total_bytes });
        }
        Ok(found)
    }

    async fn sift_mappings(&self, mappings: &[Mapping], found: &mut Found) {
        let verify = |mapping: &Mapping| {
            let (entry, block) = (mapping.entry, mapping.range.start);
            async move {
                let position = Position { level: 0, index: block };
                entry.is_data() && self.verify(entry.addr(), position, &entry).await.is_ok()
            }
        };
        let whole = all(mappings.iter().map(verify).collect()).await;
        for (mapping, is_whole) in mappings.iter().zip(whole) {
            match mapping.entry.kind() {
                Kind::Data if is_whole => found.data_blocks += 1,
                Kind::Hole => {}
                Kind::Data | Kind::Lost => found.lose(mapping.range.clone()),
            }
        }
    }

    /// Marks what is lost in a new disk's tree.
    async fn give_up(
        &self,
        disk: &Arc<Disk>,
        origin_epoch: Epoch,
        found: &Found,
    ) -> Result<(), EngineError> {
        let _maintenance = disk.maintenance.lock().await;
        let (head, root) = {
            let state = disk.lock();
            (state.head, state.base)
        };
        let birth = disk.lock().epoch;
        let ownership = Ownership::after(origin_epoch);
        let context = MergeContext { birth, ownership, on_damage: OnDamage::GiveUp };
        let updates = found.lost.iter().map(|range| Update::Lost { range: range.clone() });
        let mut sink = TreeSink::new(self.store(), disk.id(), 0);
        let merged = match merge(&self.store().cache, &mut sink, root, updates, context).await {
            Ok(merged) => merged,
            Err(error) => {
                let promised = sink.undo().await;
                self.store().space().settle(disk.id(), promised);
                return Err(error);
            }
        };
        sink.finish().await?;
        self.store().device.sync().await?;
        let bits = BitChanges { set: sink.nodes, clear: merged.freed };
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        let row = rows.version(head).await?;
        let referenced_blocks = i64::try_from(found.data_blocks).unwrap_or(i64::MAX);
        rows.put_version(&VersionRow { root: merged.root, referenced_blocks, ..row }).await?;
        let pages = self.store().put_bits(&mut commit, &bits).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store().bits_written(&pages);
        disk.lock().base = merged.root;
        disk.drop_extents().await
    }
}

impl Found {
    /// Neighbours become one.
    fn lose(&mut self, range: VirtualRange) {
        match self.lost.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.lost.push(range),
        }
    }
}

fn position_of(error: &TreeError) -> Position {
    match error {
        TreeError::Corrupt { position, .. } | TreeError::Device { position, .. } => *position,
    }
}

fn told(name: &DiskName, range: &VirtualRange) -> LostRange {
    LostRange {
        version: name.to_string(),
        start_bytes: range.start * BLOCK_BYTES_U64,
        length_bytes: (range.end - range.start) * BLOCK_BYTES_U64,
    }
}
