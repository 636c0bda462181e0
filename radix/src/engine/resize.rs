//! Growing and shrinking disks.
//!
//! A shrink frees nothing itself: the tree is cut at the new end, and what the disk was stays
//! behind, hidden, for the reclaimer. So its commit is as small for many TiB as for nothing. What
//! lies beyond the new end is counted first, in small steps that other verbs come between.

use std::sync::Arc;

use bough_blockstore::BlockCount;

use super::create::check_size;
use super::hide::queue_reclaim;
use super::{Engine, EngineError};
use crate::catalogue::{Rows, VersionKind, VersionRow};
use crate::count::count_data;
use crate::disk::{Disk, Mode, TreeSink, ownership_of};
use crate::disk0::{Commit, Need as PoolNeed};
use crate::info::DiskInfo;
use crate::merge::{MergeContext, Merged, Ownership, reheight};
use crate::names::DiskName;
use crate::node::Root;
use crate::store::BitChanges;
use crate::tree_error::OnDamage;

/// How much data a tree holds beyond an end.
struct Beyond {
    root: Root,
    blocks: u64,
}

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
        let mut beyond = None;
        loop {
            let disk = {
                let _verbs = self.inner.verbs.lock().await;
                let disk = self.disk(name).await?;
                if size_bytes >= disk.size_bytes() {
                    self.grow_disk(&disk, size_bytes).await?;
                    return self.disk_info(name).await;
                }
                may_shrink(&disk, size_bytes, shrink)?;
                if let Some(beyond) = &beyond
                    && self.shrink_disk(&disk, size_bytes, beyond).await?
                {
                    return self.disk_info(name).await;
                }
                disk
            };
            beyond = Some(self.count_beyond(&disk, size_bytes).await?);
        }
    }

    async fn grow_disk(&self, disk: &Arc<Disk>, size_bytes: u64) -> Result<(), EngineError> {
        if size_bytes > disk.size_bytes() {
            // Now, not when it was made smaller: a shrink that fails has changed nothing.
            disk.zero_tail().await?;
        }
        let _maintenance = disk.maintenance.lock().await;
        loop {
            // Everything in the tree: no snapshot is pending whose size would change with the
            // head's.
            disk.checkpoint_held(Mode::Keep).await?;
            if self.fit_tree(disk, size_bytes, None).await? {
                disk.set_size(size_bytes);
                return Ok(());
            }
        }
    }

    /// `false` where the disk has changed since it was counted.
    async fn shrink_disk(
        &self,
        disk: &Arc<Disk>,
        size_bytes: u64,
        beyond: &Beyond,
    ) -> Result<bool, EngineError> {
        let _maintenance = disk.maintenance.lock().await;
        disk.checkpoint_held(Mode::Park).await?;
        if !self.fit_tree(disk, size_bytes, Some(beyond)).await? {
            return Ok(false);
        }
        disk.set_size(size_bytes);
        self.store().backlog.ask();
        Ok(true)
    }

    /// Counts what a disk has beyond `size_bytes`, holding the disk for one step at a time.
    async fn count_beyond(&self, disk: &Arc<Disk>, size_bytes: u64) -> Result<Beyond, EngineError> {
        disk.checkpoint(Mode::Park).await?;
        let first = BlockCount::covering(size_bytes).0;
        let mut beyond = Beyond { root: disk.lock().base, blocks: 0 };
        let mut from = Some(first);
        while let Some(start) = from {
            let _maintenance = disk.maintenance.lock().await;
            let root = disk.served_root()?;
            let start = if root == beyond.root { start } else { first };
            if start == first {
                beyond = Beyond { root, blocks: 0 };
            }
            let budget = self.store().config.reclaim_step_blocks;
            let counted = count_data(&self.store().cache, root, start..u64::MAX, budget).await?;
            beyond.blocks += counted.blocks;
            from = counted.next;
        }
        Ok(beyond)
    }

    /// Gives the head a tree for its new size; `beyond` where that is smaller. The caller holds
    /// the disk's maintenance. `false` where something else has changed the disk.
    async fn fit_tree(
        &self,
        disk: &Arc<Disk>,
        size_bytes: u64,
        beyond: Option<&Beyond>,
    ) -> Result<bool, EngineError> {
        let head_id = disk.lock().head;
        let head = {
            let mut view = self.store().catalogue.read().await;
            Rows::new(&mut view).version(head_id).await?
        };
        if beyond.is_some_and(|beyond| beyond.root != head.root) {
            return Ok(false);
        }
        let (birth, ownership) = match beyond {
            None => (head.epoch, ownership_of(self.store(), &head).await?),
            // It owns nothing of what it was.
            Some(_) => (self.new_epochs(1).await?, Ownership::after(head.epoch)),
        };
        let context = MergeContext { birth, ownership, on_damage: OnDamage::Fail };
        let mut sink = TreeSink::new(self.store(), disk.id(), 0);
        let merged = match self.reheighted(head.root, size_bytes, &mut sink, context).await {
            Ok(merged) => merged,
            Err(error) => {
                let promised = sink.undo().await;
                self.store().space().settle(disk.id(), promised);
                return Err(error);
            }
        };
        let mut fitted = VersionRow {
            epoch: birth,
            size_bytes,
            root: merged.root,
            referenced_blocks: head.referenced_blocks.saturating_add(merged.referenced_delta),
            owned_blocks: head.owned_blocks.saturating_add(merged.owned_delta),
            ..head.clone()
        };
        if let Some(beyond) = beyond {
            fitted.referenced_blocks =
                head.referenced_blocks.saturating_sub_unsigned(beyond.blocks);
        }
        let bits = BitChanges { set: sink.nodes, clear: merged.freed };
        let committed = self.commit_fitted(disk, &head, fitted, &bits).await;
        let unused = match &committed {
            Ok(done) => !done,
            Err(error) => error.is_no_space(),
        };
        if unused {
            self.store().free_taken(&bits.set);
        }
        committed
    }

    async fn commit_fitted(
        &self,
        disk: &Disk,
        seen: &VersionRow,
        fitted: VersionRow,
        bits: &BitChanges,
    ) -> Result<bool, EngineError> {
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let rows = Rows::new(&mut commit);
        let head = rows.version(seen.id).await?;
        // A snapshot taken since then, or one that has no tree but the head's.
        let pending = match head.parent {
            Some(parent) => rows.version(parent).await?.pending,
            None => false,
        };
        if pending || head.epoch != seen.epoch || head.root != seen.root {
            return Ok(false);
        }
        let (epoch, base) = (fitted.epoch, fitted.root);
        if fitted.epoch > head.epoch {
            self.leave_behind(&mut commit, head, fitted).await?;
        } else {
            Rows::new(&mut commit).put_version(&fitted).await?;
        }
        let pages = self.store().put_bits(&mut commit, bits).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store().bits_written(&pages);
        let mut state = disk.lock();
        (state.epoch, state.base) = (state.epoch.max(epoch), base);
        drop(state);
        self.store().free_committed(&bits.clear);
        Ok(true)
    }

    /// What the head was becomes a hidden version that the head goes on from.
    async fn leave_behind(
        &self,
        commit: &mut Commit<'_>,
        head: VersionRow,
        fitted: VersionRow,
    ) -> Result<(), EngineError> {
        let mut rows = Rows::new(commit);
        let past = VersionRow {
            id: rows.new_version_id().await?,
            kind: VersionKind::Snapshot,
            label: None,
            uuid: self.new_uuid(),
            hidden: true,
            created_unix: self.store().runtime.unix_seconds(),
            ..head
        };
        rows.put_version(&past).await?;
        rows.put_version(&VersionRow { parent: Some(past.id), owned_blocks: 0, ..fitted }).await?;
        Ok(queue_reclaim(commit, past.id).await?)
    }

    async fn reheighted(
        &self,
        root: Root,
        size_bytes: u64,
        sink: &mut TreeSink,
        context: MergeContext,
    ) -> Result<Merged, EngineError> {
        let blocks = BlockCount::covering(size_bytes).0;
        let merged = reheight(&self.store().cache, sink, root, blocks, context).await?;
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
