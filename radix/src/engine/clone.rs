//! Clones: new disks whose first parent is a snapshot. No data is copied, however large it is.

use std::collections::BTreeSet;

use super::create::{Beginning, put_new_disk};
use super::find::{disk_row, snapshot_row};
use super::{Engine, EngineError};
use crate::catalogue::{DiskRow, Rows, VersionRow};
use crate::disk0::Need as PoolNeed;
use crate::info::DiskInfo;
use crate::names::{DiskName, VersionName};

impl Engine {
    /// Makes a disk of each name from `source`: a snapshot, or a disk's newest sealed snapshot.
    /// All or none, in one commit.
    ///
    /// # Errors
    /// Where the source is missing (or has nothing sealed) or a name is taken.
    pub async fn clone_disks(
        &self,
        source: &VersionName,
        names: &[DiskName],
    ) -> Result<Vec<DiskInfo>, EngineError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(EngineError::NamedTwice { name: twice.to_string() });
        }
        let _verbs = self.inner.verbs.lock().await;
        let (disk, origin) = self.clone_source(source).await?;
        self.materialise(&disk, &origin).await?;
        self.put_clones(&origin, names).await?;
        let mut infos = Vec::with_capacity(names.len());
        for name in names {
            infos.push(self.disk_info(name).await?);
        }
        Ok(infos)
    }

    /// The commit of new disks that begin as `origin`, which has a tree and cannot go away.
    pub(super) async fn put_clones(
        &self,
        origin: &VersionRow,
        names: &[DiskName],
    ) -> Result<(), EngineError> {
        let mut epoch = self.new_epochs(u64::try_from(names.len()).unwrap_or(1)).await?;
        let created_unix = self.store().runtime.unix_seconds();
        let mut commit = self.store().catalogue.begin(PoolNeed::Ordinary).await?;
        let origin = Rows::new(&mut commit).version(origin.id).await?;
        for name in names {
            let beginning = Beginning {
                name: name.clone(),
                epoch,
                uuid: self.new_uuid(),
                head_uuid: self.new_uuid(),
                size_bytes: origin.size_bytes,
                root: origin.root,
                parent: Some((origin.id, origin.uuid)),
                referenced_blocks: origin.referenced_blocks,
                created_unix,
            };
            put_new_disk(&mut commit, &beginning).await?;
            epoch = epoch.next();
        }
        commit.stage(&[]).await?.durable().await?;
        Ok(())
    }

    async fn clone_source(
        &self,
        source: &VersionName,
    ) -> Result<(DiskRow, VersionRow), EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        match source {
            VersionName::Snapshot(snapshot) => snapshot_row(&rows, snapshot).await,
            VersionName::Head(name) => {
                let disk = disk_row(&rows, name).await?;
                let Some(sealed) = disk.newest_sealed else {
                    return Err(EngineError::NoSealedSnapshot { disk: name.to_string() });
                };
                let version = rows.version(sealed).await?;
                Ok((disk, version))
            }
        }
    }
}
