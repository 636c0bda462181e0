//! New names for disks and snapshots.

use super::find::{disk_row, snapshot_row};
use super::{Engine, EngineError};
use crate::catalogue::Rows;
use crate::disk0::{Commit, Need as PoolNeed};
use crate::names::{DiskName, SnapshotName, VersionName};

impl Engine {
    /// Gives a disk or a snapshot another name.
    ///
    /// # Errors
    /// Where there is no such thing, the name is taken, or a snapshot would change its disk.
    pub async fn rename(&self, from: &VersionName, to: &VersionName) -> Result<(), EngineError> {
        let _verbs = self.inner.verbs.lock().await;
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let renamed = match (from, to) {
            (VersionName::Head(from), VersionName::Head(to)) => {
                Some((rename_disk(&mut commit, from, to).await?, to))
            }
            (VersionName::Snapshot(from), VersionName::Snapshot(to)) if from.disk == to.disk => {
                rename_snapshot(&mut commit, from, to).await?;
                None
            }
            _ => {
                let (from, to) = (from.to_string(), to.to_string());
                return Err(EngineError::BadRename { from, to });
            }
        };
        commit.stage(&[]).await?.durable().await?;
        if let Some((id, name)) = renamed
            && let Some(disk) = self.disks().get(&id)
        {
            disk.lock().name = name.clone();
        }
        Ok(())
    }
}

async fn rename_disk(
    commit: &mut Commit<'_>,
    from: &DiskName,
    to: &DiskName,
) -> Result<bough_blockstore::DiskId, EngineError> {
    let mut rows = Rows::new(commit);
    let mut row = disk_row(&rows, from).await?;
    if rows.find_disk(to.as_str()).await?.is_some_and(|other| other.id != row.id) {
        return Err(EngineError::Exists { name: to.to_string() });
    }
    row.name = to.clone();
    rows.put_disk(&row).await?;
    Ok(row.id)
}

async fn rename_snapshot(
    commit: &mut Commit<'_>,
    from: &SnapshotName,
    to: &SnapshotName,
) -> Result<(), EngineError> {
    let mut rows = Rows::new(commit);
    let (disk, mut row) = snapshot_row(&rows, from).await?;
    let taken = rows.find_snapshot(disk.id, to.label()).await?;
    if taken.is_some_and(|other| other.id != row.id) {
        return Err(EngineError::Exists { name: to.to_string() });
    }
    row.label = Some(to.label().to_owned());
    rows.put_version(&row).await?;
    Ok(())
}
