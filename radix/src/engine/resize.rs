//! Growing and shrinking disks.

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
            self.prepare_to_shrink(&disk, size_bytes, shrink).await?;
        }
        let _maintenance = disk.maintenance.lock().await;
        // Everything in the tree: no snapshot is pending whose size would change with the head's.
        let mode = if size_bytes < from_bytes { Mode::Park } else { Mode::Keep };
        disk.checkpoint_held(mode).await?;
        self.fit_tree(&disk, size_bytes).await?;
        disk.set_size(size_bytes);
        self.disk_info(name).await
    }

    /// The part of the last block that is cut off must read as zeros if the disk grows again.
    async fn prepare_to_shrink(
        &self,
        disk: &std::sync::Arc<Disk>,
        to_bytes: u64,
        allowed: bool,
    ) -> Result<(), EngineError> {
        let (name, from_bytes) = (disk.name().to_string(), disk.size_bytes());
        if !allowed {
            return Err(EngineError::WouldShrink { disk: name, from_bytes, to_bytes });
        }
        let users = disk.clients();
        if !users.is_empty() {
            let remedy = "disconnect it before making the disk smaller";
            return Err(EngineError::InUse { name, users, remedy });
        }
        let block_end = BlockCount::covering(to_bytes).bytes().min(from_bytes);
        if block_end > to_bytes {
            disk.write_zeroes(to_bytes, block_end - to_bytes).await?;
        }
        Ok(())
    }

    /// The caller holds the disk's maintenance.
    async fn fit_tree(
        &self,
        disk: &std::sync::Arc<Disk>,
        size_bytes: u64,
    ) -> Result<(), EngineError> {
        let head_id = disk.lock().head;
        let head = {
            let mut view = self.store().catalogue.read().await;
            Rows::new(&mut view).version(head_id).await?
        };
        let mut sink = TreeSink::new(self.store(), disk.id(), 0);
        let merged = match self.reheighted(&head, size_bytes, &mut sink).await {
            Ok(merged) => merged,
            Err(error) => {
                sink.undo().await;
                return Err(error);
            }
        };
        let committed = self.commit_fitted(disk, size_bytes, merged, &sink.nodes).await;
        if committed.as_ref().is_err_and(EngineError::is_no_space) {
            self.store().free_taken(&sink.nodes);
        }
        committed
    }

    async fn commit_fitted(
        &self,
        disk: &Disk,
        size_bytes: u64,
        merged: Merged,
        nodes: &[BlockAddr],
    ) -> Result<(), EngineError> {
        let bits = BitChanges { set: nodes.to_vec(), clear: merged.freed };
        let head_id = disk.lock().head;
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        let head = rows.version(head_id).await?;
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
        commit.stage(&[])?.durable().await?;
        self.store().bits_written(&pages);
        disk.lock().base = merged.root;
        self.store().free_committed(&bits.clear);
        Ok(())
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
