//! Growing and shrinking disks.

use std::sync::Arc;

use bough_blockstore::{BlockAddr, BlockCount};

use super::create::check_size;
use super::{Engine, EngineError};
use crate::catalogue::{Rows, VersionRow};
use crate::disk::{Disk, Mode, TreeSink, ownership_of};
use crate::disk0::Need as PoolNeed;
use crate::info::DiskInfo;
use crate::merge::{MergeContext, Merged, reheight};
use crate::names::DiskName;
use crate::store::BitChanges;
use crate::tree_error::OnDamage;

impl Engine {
    /// Changes a disk's size; guests are told. Snapshots keep theirs. What is cut off never
    /// comes back.
    ///
    /// # Errors
    /// Where the size cannot be, or is smaller and `shrink` was not given, or is smaller and a
    /// client is connected.
    pub async fn resize(
        &self,
        name: &DiskName,
        size_bytes: u64,
        shrink: bool,
    ) -> Result<DiskInfo, EngineError> {
        check_size(size_bytes)?;
        let _verbs = self.inner.verbs.lock().await;
        let disk = self.disk(name).await?;
        let from_bytes = disk.size_bytes();
        if size_bytes < from_bytes {
            may_shrink(&disk, size_bytes, shrink)?;
        } else if size_bytes > from_bytes {
            // Now, not when it was made smaller: a shrink that fails has changed nothing.
            disk.zero_tail().await?;
        }
        let _maintenance = disk.maintenance.lock().await;
        // Everything in the tree: no snapshot is pending whose size would change with the head's.
        let mode = if size_bytes < from_bytes { Mode::Park } else { Mode::Keep };
        loop {
            disk.checkpoint_held(mode).await?;
            if self.fit_tree(&disk, size_bytes).await? {
                break;
            }
        }
        disk.set_size(size_bytes);
        self.disk_info(name).await
    }

    /// The caller holds the disk's maintenance. `false` where a snapshot came between.
    async fn fit_tree(&self, disk: &Arc<Disk>, size_bytes: u64) -> Result<bool, EngineError> {
        let head_id = disk.lock().head;
        let head = {
            let mut view = self.store().catalogue.read().await;
            Rows::new(&mut view).version(head_id).await?
        };
        let mut sink = TreeSink::new(self.store(), disk.id(), 0);
        let merged = match self.reheighted(&head, size_bytes, &mut sink).await {
            Ok(merged) => merged,
            Err(error) => {
                let promised = sink.undo().await;
                self.store().space().settle(disk.id(), promised);
                return Err(error);
            }
        };
        let committed = self.commit_fitted(disk, &head, size_bytes, merged, &sink.nodes).await;
        let unused = match &committed {
            Ok(done) => !done,
            Err(error) => error.is_no_space(),
        };
        if unused {
            self.store().free_taken(&sink.nodes);
        }
        committed
    }

    async fn commit_fitted(
        &self,
        disk: &Disk,
        seen: &VersionRow,
        size_bytes: u64,
        merged: Merged,
        nodes: &[BlockAddr],
    ) -> Result<bool, EngineError> {
        let bits = BitChanges { set: nodes.to_vec(), clear: merged.freed };
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        let head = rows.version(seen.id).await?;
        // A snapshot taken since then, or one that has no tree but the head's.
        let pending = match head.parent {
            Some(parent) => rows.version(parent).await?.pending,
            None => false,
        };
        if pending || head.epoch != seen.epoch || head.root != seen.root {
            return Ok(false);
        }
        let (referenced, owned) = (head.referenced_blocks, head.owned_blocks);
        rows.put_version(&VersionRow {
            size_bytes,
            root: merged.root,
            referenced_blocks: referenced.saturating_add(merged.referenced_delta),
            owned_blocks: owned.saturating_add(merged.owned_delta),
            ..head
        })
        .await?;
        let pages = self.store().put_bits(&mut commit, &bits).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store().bits_written(&pages);
        disk.lock().base = merged.root;
        self.store().free_committed(&bits.clear);
        Ok(true)
    }

    async fn reheighted(
        &self,
        head: &VersionRow,
        size_bytes: u64,
        sink: &mut TreeSink,
    ) -> Result<Merged, EngineError> {
        let ownership = ownership_of(self.store(), head).await?;
        let context = MergeContext { birth: head.epoch, ownership, on_damage: OnDamage::Fail };
        let blocks = BlockCount::covering(size_bytes).0;
        let merged = reheight(&self.store().cache, sink, head.root, blocks, context).await?;
        sink.finish().await?;
        self.store().device.sync().await?;
        Ok(merged)
    }
}

fn may_shrink(disk: &Disk, to_bytes: u64, allowed: bool) -> Result<(), EngineError> {
    let (name, from_bytes) = (disk.name().to_string(), disk.size_bytes());
    if !allowed {
        return Err(EngineError::WouldShrink { disk: name, from_bytes, to_bytes });
    }
    let users = disk.clients();
    if !users.is_empty() {
        let remedy = "disconnect it before making the disk smaller";
        return Err(EngineError::InUse { name, users, remedy });
    }
    Ok(())
}
