//! From names to rows, and from rows to open disks.

use std::sync::Arc;

use bough_blockstore::DiskId;

use super::{Engine, EngineError};
use crate::btree::Pages;
use crate::catalogue::{DiskRow, RowFault, Rows, VersionRow};
use crate::disk::{Disk, Mode};
use crate::disk0::CatalogueError;
use crate::names::{DiskName, SnapshotName, VersionName};

/// The row of a disk.
pub(super) async fn disk_row<P: Pages<Error = CatalogueError>>(
    rows: &Rows<'_, P>,
    name: &DiskName,
) -> Result<DiskRow, EngineError> {
    let found = rows.find_disk(name.as_str()).await?;
    found.ok_or_else(|| EngineError::NoSuchDisk { name: name.to_string() })
}

/// The rows of a snapshot and its disk.
pub(super) async fn snapshot_row<P: Pages<Error = CatalogueError>>(
    rows: &Rows<'_, P>,
    name: &SnapshotName,
) -> Result<(DiskRow, VersionRow), EngineError> {
    let disk = disk_row(rows, &name.disk).await?;
    let found = rows.find_snapshot(disk.id, name.label()).await?;
    let row = found.ok_or_else(|| EngineError::NoSuchSnapshot { name: name.to_string() })?;
    Ok((disk, row))
}

/// The rows of a head or snapshot and its disk.
pub(super) async fn version_row<P: Pages<Error = CatalogueError>>(
    rows: &Rows<'_, P>,
    name: &VersionName,
) -> Result<(DiskRow, VersionRow), EngineError> {
    match name {
        VersionName::Snapshot(snapshot) => snapshot_row(rows, snapshot).await,
        VersionName::Head(disk) => {
            let disk = disk_row(rows, disk).await?;
            let head = rows.head_of(&disk).await?;
            Ok((disk, head))
        }
    }
}

impl Engine {
    /// The live head of a disk.
    ///
    /// # Errors
    /// Where there is no such disk.
    pub async fn disk(&self, name: &DiskName) -> Result<Arc<Disk>, EngineError> {
        let row = {
            let mut view = self.store().catalogue.read().await;
            disk_row(&Rows::new(&mut view), name).await?
        };
        self.disk_by_row(&row).await
    }

    pub(super) async fn disk_by_row(&self, row: &DiskRow) -> Result<Arc<Disk>, EngineError> {
        let found = self.living_disk(row.id).await?;
        found.ok_or_else(|| EngineError::NoSuchDisk { name: row.name.to_string() })
    }

    /// The live head of a disk; `None` where it is deleted.
    pub(super) async fn living_disk(&self, id: DiskId) -> Result<Option<Arc<Disk>>, EngineError> {
        if let Some(disk) = self.disks().get(&id) {
            return Ok(Some(Arc::clone(disk)));
        }
        // Until the disk is among the others no verb can commit, so none can miss it.
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let Some(row) = rows.get_disk(id).await?.filter(|row| !row.deleting) else {
            return Ok(None);
        };
        let head = rows.head_of(&row).await?;
        let new = || Disk::new(Arc::clone(self.store()), &row, &head);
        Ok(Some(Arc::clone(self.disks().entry(id).or_insert_with(new))))
    }

    pub(super) async fn disk_by_id(&self, id: DiskId) -> Result<Arc<Disk>, EngineError> {
        let found = self.living_disk(id).await?;
        Ok(found.ok_or(CatalogueError::Row(RowFault::MissingDisk(id)))?)
    }

    /// Sees to it that a version has a tree of its own.
    pub(super) async fn materialise(
        &self,
        disk: &DiskRow,
        version: &VersionRow,
    ) -> Result<(), EngineError> {
        if !version.pending {
            return Ok(());
        }
        self.disk_by_row(disk).await?.checkpoint(Mode::Keep).await
    }
}
