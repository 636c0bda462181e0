//! New disks.

use bough_blockstore::{BlockCount, DiskId, Epoch};
use uuid::Uuid;

use super::{Engine, EngineError};
use crate::catalogue::{DiskRow, Rows, VersionId, VersionKind, VersionRow};
use crate::disk0::{Commit, Need as PoolNeed};
use crate::info::DiskInfo;
use crate::names::DiskName;
use crate::node::Root;

/// The largest disk: 1 PiB.
pub(super) const DISK_MAX_BYTES: u64 = 1 << 50;

/// What a new disk begins with.
pub(super) struct Beginning {
    pub name: DiskName,
    pub epoch: Epoch,
    pub uuid: Uuid,
    pub head_uuid: Uuid,
    pub size_bytes: u64,
    pub root: Root,
    pub parent: Option<(VersionId, Uuid)>,
    pub referenced_blocks: i64,
    pub created_unix: u64,
}

impl Engine {
    /// Makes an empty disk.
    ///
    /// # Errors
    /// Where the name is taken or the size cannot be.
    pub async fn create_disk(
        &self,
        name: &DiskName,
        size_bytes: u64,
    ) -> Result<DiskInfo, EngineError> {
        check_size(size_bytes)?;
        let epoch = self.new_epochs(1).await?;
        let mut commit = self.store().catalogue.begin(PoolNeed::Ordinary).await?;
        let beginning = Beginning {
            name: name.clone(),
            epoch,
            uuid: self.new_uuid(),
            head_uuid: self.new_uuid(),
            size_bytes,
            root: Root::for_blocks(BlockCount::covering(size_bytes).0),
            parent: None,
            referenced_blocks: 0,
            created_unix: self.store().runtime.unix_seconds(),
        };
        put_new_disk(&mut commit, &beginning).await?;
        commit.stage(&[]).await?.durable().await?;
        self.disk_info(name).await
    }
}

/// Puts the rows of a new disk and its head.
pub(super) async fn put_new_disk(
    commit: &mut Commit<'_>,
    new: &Beginning,
) -> Result<DiskId, EngineError> {
    let mut rows = Rows::new(commit);
    if rows.find_disk(new.name.as_str()).await?.is_some() {
        return Err(EngineError::Exists { name: new.name.to_string() });
    }
    let (id, head) = (rows.new_disk_id().await?, rows.new_version_id().await?);
    rows.put_disk(&DiskRow {
        id,
        name: new.name.clone(),
        uuid: new.uuid,
        head,
        newest_sealed: None,
        created_unix: new.created_unix,
        deleting: false,
        snapshot_count: 0,
    })
    .await?;
    rows.put_version(&head_row(id, head, new)).await?;
    Ok(id)
}

fn head_row(disk: DiskId, id: VersionId, new: &Beginning) -> VersionRow {
    VersionRow {
        id,
        disk,
        kind: VersionKind::Head,
        label: None,
        epoch: new.epoch,
        parent: new.parent.map(|(version, _)| version),
        uuid: new.head_uuid,
        parent_uuid: new.parent.map(|(_, uuid)| uuid),
        key_id: 0,
        size_bytes: new.size_bytes,
        root: new.root,
        pending: false,
        sealed: false,
        hidden: false,
        created_unix: new.created_unix,
        referenced_blocks: new.referenced_blocks,
        owned_blocks: 0,
        child_count: 0,
    }
}

/// Sizes are whole sectors, at least one, up to 1 PiB.
pub(super) fn check_size(size_bytes: u64) -> Result<(), EngineError> {
    let fits = (512..=DISK_MAX_BYTES).contains(&size_bytes) && size_bytes.is_multiple_of(512);
    if fits { Ok(()) } else { Err(EngineError::BadSize { size_bytes }) }
}
