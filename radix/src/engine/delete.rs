//! Deleting disks and snapshots: names go at once, blocks when the reclaimer comes to them.
//!
//! However much is named, one commit deletes it. Of a disk that commit takes the name and the log
//! and marks its row; hiding its versions, any number of them, follows from the mark and is
//! resumed by whoever opens the store after a crash.

use std::sync::Arc;

use bough_blockstore::BlockAddr;

use super::doomed::Doomed;
use super::hide::hide;
use super::{Engine, EngineError};
use crate::catalogue::{DiskRow, RowFault, Rows};
use crate::disk::Disk;
use crate::disk0::{CatalogueError, Commit, Need as PoolNeed};
use crate::info::DeleteReport;
use crate::names::VersionName;

/// How to delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteOptions {
    /// Take a disk's snapshots, and the disks cloned from them, along.
    pub recursive: bool,
    /// Change nothing; tell what would happen.
    pub dry_run: bool,
}

impl Engine {
    /// Deletes disks and snapshots, all or none of them, a crash in the middle included. A
    /// snapshot that several versions began from stays, hidden, until one of them is left.
    ///
    /// # Errors
    /// Where something is missing, sealed, in use, or has dependents and `recursive` was not
    /// asked for; where so much is named that the catalogue has no room for it at once. Nothing
    /// has been deleted then.
    pub async fn delete(
        &self,
        targets: &[VersionName],
        options: DeleteOptions,
    ) -> Result<DeleteReport, EngineError> {
        let _verbs = self.inner.verbs.lock().await;
        let (doomed, disks, leftovers) = loop {
            let doomed = self.doomed(targets, options).await?;
            if options.dry_run {
                return Ok(doomed.report());
            }
            for (disk, version) in &doomed.snapshots {
                self.materialise(disk, version).await?;
            }
            let disks = self.disks_of(&doomed).await?;
            // Where a snapshot came meanwhile, all is asked anew: it may forbid this.
            if let Some(leftovers) = self.end_disks(&doomed, &disks).await? {
                break (doomed, disks, leftovers);
            }
        };
        let tried_out = !disks.is_empty();
        let need = if tried_out { PoolNeed::TriedOut } else { PoolNeed::Release };
        let mut commit = self.store().catalogue.begin(need).await?;
        try_out(&mut commit, &doomed).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store().free_taken(&leftovers);
        for disk in &disks {
            self.disks().remove(&disk.id());
            super::lock(&self.inner.faults).remove(&disk.id());
        }
        for disk in &disks {
            self.clear_away(disk).await;
        }
        self.store().backlog.ask();
        Ok(doomed.report())
    }

    async fn disks_of(&self, doomed: &Doomed) -> Result<Vec<Arc<Disk>>, EngineError> {
        let mut disks = Vec::with_capacity(doomed.disks.len());
        for disk in &doomed.disks {
            disks.push(self.disk_by_row(&disk.row).await?);
        }
        Ok(disks)
    }

    /// Closes the disks to everybody, and gives the blocks that only their logs held; none where
    /// one of them has got a snapshot since it was looked at.
    async fn end_disks(
        &self,
        doomed: &Doomed,
        disks: &[Arc<Disk>],
    ) -> Result<Option<Vec<BlockAddr>>, EngineError> {
        let mut held = Vec::with_capacity(disks.len());
        for disk in disks {
            held.push(disk.maintenance.lock().await);
        }
        let ended: Vec<_> = {
            // Snapshots are taken under a commit of their own: none comes while this is open.
            let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
            if !doomed.is_all(&Rows::new(&mut commit)).await? {
                return Ok(None);
            }
            try_out(&mut commit, doomed).await?;
            disks.iter().map(|disk| (disk, disk.end())).collect()
        };
        let mut leftovers = Vec::new();
        for (disk, chain) in ended {
            leftovers.extend(disk.leftovers(chain).await);
        }
        Ok(Some(leftovers))
    }

    /// What follows from a disk's deletion. It is deleted whatever happens here: the next opening
    /// does what is left.
    async fn clear_away(&self, disk: &Disk) {
        let done = async {
            disk.drop_extents().await?;
            self.hide_versions(disk.id()).await
        };
        if let Err(error) = done.await {
            let disk = disk.name();
            tracing::warn!(%disk, %error, "a deleted disk is cleared away when the store is opened again");
        }
    }
}

/// Builds the commit, which is then forgotten: whether the catalogue has room is asked before
/// anything has changed.
async fn try_out(commit: &mut Commit<'_>, doomed: &Doomed) -> Result<(), EngineError> {
    put_deleted(commit, doomed).await?;
    match commit.make_room(0).await {
        Err(CatalogueError::Full { .. }) => Err(EngineError::TooMuchAtOnce),
        room => Ok(room?),
    }
}

/// All of a deletion that has to happen at once.
async fn put_deleted(commit: &mut Commit<'_>, doomed: &Doomed) -> Result<(), CatalogueError> {
    for (_, version) in &doomed.snapshots {
        hide(commit, version.id).await?;
    }
    let mut rows = Rows::new(commit);
    for id in doomed.disks.iter().map(|disk| disk.row.id) {
        rows.remove_chain(id).await?;
        rows.remove_attachment(id).await?;
        rows.remove_limits(id).await?;
        let row = rows.get_disk(id).await?.ok_or(RowFault::MissingDisk(id))?;
        rows.put_disk(&DiskRow { deleting: true, ..row }).await?;
    }
    Ok(())
}
