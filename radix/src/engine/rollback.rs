//! Rolling a disk back: its head begins anew from one of its snapshots.

use super::find::snapshot_row;
use super::hide::queue_reclaim;
use super::{Engine, EngineError, bytes_of};
use crate::catalogue::{DiskRow, Rows, VersionKind, VersionRow};
use crate::disk::Mode;
use crate::disk0::Need as PoolNeed;
use crate::info::RollbackReport;
use crate::names::SnapshotName;

impl Engine {
    /// Drops what the head has changed since the snapshot; newer snapshots stay, as branches.
    /// The disk has the snapshot's size afterwards.
    ///
    /// # Errors
    /// Where there is no such snapshot, or a client is connected.
    pub async fn rollback(
        &self,
        name: &SnapshotName,
        dry_run: bool,
    ) -> Result<RollbackReport, EngineError> {
        let _verbs = self.inner.verbs.lock().await;
        let disk = self.disk(&name.disk).await?;
        let users = disk.clients();
        if !users.is_empty() {
            let remedy = "disconnect it before rolling back";
            return Err(EngineError::InUse { name: name.disk.to_string(), users, remedy });
        }
        let _maintenance = disk.maintenance.lock().await;
        disk.checkpoint_held(if dry_run { Mode::Keep } else { Mode::Park }).await?;
        let (row, snapshot, head) = {
            let mut view = self.store().catalogue.read().await;
            let rows = Rows::new(&mut view);
            let (row, snapshot) = snapshot_row(&rows, name).await?;
            let head = rows.head_of(&row).await?;
            (row, snapshot, head)
        };
        let report = RollbackReport {
            disk: name.disk.to_string(),
            snapshot: name.to_string(),
            dropped_bytes: bytes_of(head.owned_blocks),
            size_bytes: snapshot.size_bytes,
        };
        if !dry_run {
            let new_head = self.replace_head(&row, &snapshot).await?;
            let mut state = disk.lock();
            state.head = new_head.id;
            state.epoch = new_head.epoch;
            state.base = new_head.root;
            drop(state);
            disk.set_size(new_head.size_bytes);
            self.store().backlog.ask();
        }
        Ok(report)
    }

    /// One commit: the old head is hidden, the new one has the snapshot's tree.
    async fn replace_head(
        &self,
        disk: &DiskRow,
        snapshot: &VersionRow,
    ) -> Result<VersionRow, EngineError> {
        let epoch = self.new_epochs(1).await?;
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        let snapshot = rows.version(snapshot.id).await?;
        let old = rows.head_of(disk).await?;
        let new = VersionRow {
            id: rows.new_version_id().await?,
            kind: VersionKind::Head,
            label: None,
            epoch,
            parent: Some(snapshot.id),
            uuid: self.new_uuid(),
            parent_uuid: Some(snapshot.uuid),
            sealed: false,
            hidden: false,
            created_unix: self.store().runtime.unix_seconds(),
            owned_blocks: 0,
            child_count: 0,
            ..snapshot
        };
        rows.put_version(&new).await?;
        rows.put_version(&VersionRow { kind: VersionKind::Snapshot, hidden: true, ..old.clone() })
            .await?;
        let row = rows.get_disk(disk.id).await?.unwrap_or_else(|| disk.clone());
        rows.put_disk(&DiskRow { head: new.id, ..row }).await?;
        queue_reclaim(&mut commit, old.id).await?;
        commit.stage(&[]).await?.durable().await?;
        Ok(new)
    }
}
