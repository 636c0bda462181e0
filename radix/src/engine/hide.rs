//! Hiding versions: what is deleted stays in the catalogue, without a name, until the reclaimer
//! has come to it.

use bough_blockstore::{DiskId, Epoch};

use super::{Engine, EngineError};
use crate::catalogue::{DiskRow, ReclaimRow, Rows, VersionId, VersionRow};
use crate::disk0::{CatalogueError, Commit, Need as PoolNeed};

const PAGE_ROWS: usize = 512;
/// Pages of the catalogue that hiding one version may change, and more.
const HIDE_PAGES: usize = 24;

impl Engine {
    /// Hides what is left of a disk that is being deleted, as much in each commit as there is
    /// room for. Interrupted, the next opening goes on.
    pub(super) async fn hide_versions(&self, disk: DiskId) -> Result<(), EngineError> {
        let mut from = Some(Epoch::ZERO);
        while let Some(next) = from {
            let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
            let page = Rows::new(&mut commit).list_versions(disk, next, PAGE_ROWS).await?;
            let hidden = hide_some(&mut commit, &page).await?;
            commit.stage(&[]).await?.durable().await?;
            let all = hidden == page.len();
            from = match page.get(hidden).or(page.last()) {
                Some(rest) if !all => Some(rest.epoch),
                Some(last) if page.len() == PAGE_ROWS => Some(last.epoch.next()),
                _ => None,
            };
        }
        Ok(())
    }

    /// Goes on with deletions that a crash interrupted.
    pub(super) async fn resume_deletes(&self) -> Result<(), EngineError> {
        let mut from = DiskId(0);
        loop {
            let page: Vec<DiskRow> = {
                let mut view = self.store().catalogue.read().await;
                Rows::new(&mut view).list_all_disks(from, PAGE_ROWS).await?
            };
            for disk in page.iter().filter(|disk| disk.deleting) {
                self.hide_versions(disk.id).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = DiskId(last.id.0 + 1),
                _ => return Ok(()),
            }
        }
    }
}

/// Hides versions until the pool has no room for more in one commit; says how many are done,
/// those included that were hidden before.
async fn hide_some(
    commit: &mut Commit<'_>,
    versions: &[VersionRow],
) -> Result<usize, CatalogueError> {
    for (done, version) in versions.iter().enumerate() {
        if version.hidden {
            continue;
        }
        if commit.is_changed() && !commit.has_room(HIDE_PAGES) {
            return Ok(done);
        }
        hide(commit, version.id).await?;
    }
    Ok(versions.len())
}

/// Hides a version and queues it for the reclaimer where at most one version began from it.
pub(super) async fn hide(commit: &mut Commit<'_>, id: VersionId) -> Result<(), CatalogueError> {
    let mut rows = Rows::new(commit);
    let mut row = rows.version(id).await?;
    if row.pending {
        // Only where its whole disk goes: what it would have added was never in a tree. The head
        // has the tree, and the counts, of the oldest pending one; which is hidden first.
        if let Some(disk) = rows.get_disk(row.disk).await? {
            let mut head = rows.head_of(&disk).await?;
            row.root = head.root;
            row.referenced_blocks = head.referenced_blocks;
            row.owned_blocks = std::mem::take(&mut head.owned_blocks);
            rows.put_version(&head).await?;
        }
        row.pending = false;
    }
    row.hidden = true;
    row.sealed = false;
    rows.put_version(&row).await?;
    queue_reclaim(commit, id).await
}

/// Queues a hidden version for the reclaimer, if it is ready for that.
pub(super) async fn queue_reclaim(
    commit: &mut Commit<'_>,
    id: VersionId,
) -> Result<(), CatalogueError> {
    let mut rows = Rows::new(commit);
    let row = rows.version(id).await?;
    if !row.hidden || row.child_count > 1 || rows.get_reclaim(id).await?.is_some() {
        return Ok(());
    }
    rows.put_reclaim(&ReclaimRow { version: id, cursor: 0, freed_data: 0, freed_nodes: 0 }).await
}
