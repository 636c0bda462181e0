//! Deleting disks and snapshots: names go at once, blocks when the reclaimer comes to them.

use std::collections::BTreeMap;

use bough_blockstore::{DiskId, Epoch};

use super::find::{disk_row, snapshot_row};
use super::{Engine, EngineError, bytes_of};
use crate::btree::Pages;
use crate::catalogue::{DiskRow, ReclaimRow, Rows, VersionId, VersionRow};
use crate::disk0::{CatalogueError, Commit, Need as PoolNeed};
use crate::info::DeleteReport;
use crate::names::{DiskName, SnapshotName, VersionName};

const PAGE_ROWS: usize = 512;
/// Versions hidden in one commit.
const HIDE_AT_ONCE: usize = 512;

/// How to delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteOptions {
    /// Take a disk's snapshots, and the disks cloned from them, along.
    pub recursive: bool,
    /// Change nothing; tell what would happen.
    pub dry_run: bool,
}

/// What is to go, in the order in which it goes: clones before what they were cloned from.
#[derive(Default)]
struct Doomed {
    disks: Vec<DiskRow>,
    snapshots: Vec<(DiskRow, VersionRow)>,
    report: DeleteReport,
}

/// A disk that is to go.
struct Inspected {
    row: DiskRow,
    /// The disks cloned from it.
    dependents: Vec<DiskName>,
    /// What its versions own.
    owned_bytes: u64,
    /// What forbids it, with `-r` too.
    obstacle: Option<EngineError>,
}

impl Engine {
    /// Deletes disks and snapshots. A snapshot that several versions began from stays, hidden,
    /// until one of them is left.
    ///
    /// # Errors
    /// Where something is missing, sealed, in use, or has dependents and `recursive` was not
    /// asked for. Nothing has been deleted then.
    pub async fn delete(
        &self,
        targets: &[VersionName],
        options: DeleteOptions,
    ) -> Result<DeleteReport, EngineError> {
        let _verbs = self.inner.verbs.lock().await;
        let doomed = self.doomed(targets, options).await?;
        if options.dry_run {
            return Ok(doomed.report);
        }
        for (disk, version) in &doomed.snapshots {
            self.materialise(disk, version).await?;
        }
        if !doomed.snapshots.is_empty() {
            self.hide_snapshots(&doomed.snapshots).await?;
        }
        for disk in &doomed.disks {
            self.end_disk(disk).await?;
        }
        self.store().backlog.ask();
        Ok(doomed.report)
    }

    async fn doomed(
        &self,
        targets: &[VersionName],
        options: DeleteOptions,
    ) -> Result<Doomed, EngineError> {
        let mut doomed = Doomed::default();
        for target in targets {
            match target {
                VersionName::Head(disk) => self.doom_disk(disk, options, &mut doomed).await?,
                VersionName::Snapshot(name) => self.doom_snapshot(name, &mut doomed).await?,
            }
        }
        doomed.report.deleted.extend(doomed.disks.iter().map(|disk| disk.name.to_string()));
        Ok(doomed)
    }

    async fn doom_snapshot(
        &self,
        name: &SnapshotName,
        doomed: &mut Doomed,
    ) -> Result<(), EngineError> {
        let (disk, version) = {
            let mut view = self.store().catalogue.read().await;
            snapshot_row(&Rows::new(&mut view), name).await?
        };
        if version.sealed {
            return Err(EngineError::Sealed { name: name.to_string() });
        }
        self.check_unpinned(version.id, &name.to_string())?;
        if doomed.snapshots.iter().any(|(_, other)| other.id == version.id) {
            return Err(EngineError::NamedTwice { name: name.to_string() });
        }
        doomed.report.released_bytes += bytes_of(version.owned_blocks);
        doomed.report.deleted.push(name.to_string());
        doomed.snapshots.push((disk, version));
        Ok(())
    }

    /// The disk and, with `-r`, everything cloned from it, those first.
    async fn doom_disk(
        &self,
        name: &DiskName,
        options: DeleteOptions,
        doomed: &mut Doomed,
    ) -> Result<(), EngineError> {
        let mut waiting = vec![name.clone()];
        let mut found: Vec<DiskRow> = Vec::new();
        while let Some(name) = waiting.pop() {
            let Inspected { row, dependents, owned_bytes, obstacle } =
                self.inspect_disk(&name).await?;
            if found.iter().chain(&doomed.disks).any(|other| other.id == row.id) {
                continue;
            }
            if !dependents.is_empty() && !options.recursive {
                let dependents = dependents.iter().map(ToString::to_string).collect();
                return Err(EngineError::HasDependents { name: name.to_string(), dependents });
            }
            if row.snapshot_count > 0 && !options.recursive {
                let (disk, snapshot_count) = (name.to_string(), row.snapshot_count);
                return Err(EngineError::HasSnapshots { disk, snapshot_count });
            }
            obstacle.map_or(Ok(()), Err)?;
            waiting.extend(dependents);
            doomed.report.released_bytes += owned_bytes;
            found.push(row);
        }
        doomed.disks.extend(found.into_iter().rev());
        Ok(())
    }

    async fn inspect_disk(&self, name: &DiskName) -> Result<Inspected, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let row = disk_row(&rows, name).await?;
        self.check_unused(&rows, &row).await?;
        let (mut dependents, mut owned_blocks, mut obstacle) = (BTreeMap::new(), 0, None);
        let mut from = Epoch::ZERO;
        loop {
            let page = rows.list_versions(row.id, from, PAGE_ROWS).await?;
            for version in &page {
                let label = version.label.as_deref().unwrap_or("(head)");
                let full_name = format!("{name}@{label}");
                if let Err(error) = self.check_unpinned(version.id, &full_name) {
                    obstacle.get_or_insert(error);
                }
                if version.sealed {
                    obstacle.get_or_insert(EngineError::Sealed { name: full_name });
                }
                owned_blocks += version.owned_blocks;
                foreign_children(&rows, version, &mut dependents).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = last.epoch.next(),
                _ => break,
            }
        }
        let dependents = dependents.into_values().collect();
        Ok(Inspected { row, dependents, owned_bytes: bytes_of(owned_blocks), obstacle })
    }

    async fn check_unused<P: Pages<Error = CatalogueError>>(
        &self,
        rows: &Rows<'_, P>,
        row: &DiskRow,
    ) -> Result<(), EngineError> {
        let name = row.name.to_string();
        let users = match self.disks().get(&row.id) {
            Some(disk) => disk.clients(),
            None => Vec::new(),
        };
        if !users.is_empty() {
            let remedy = "disconnect it first";
            return Err(EngineError::InUse { name, users, remedy });
        }
        if rows.get_attachment(row.id).await?.is_some() {
            let users = vec!["its attachment".to_owned()];
            let remedy = "run `bough detach` first";
            return Err(EngineError::InUse { name, users, remedy });
        }
        Ok(())
    }

    fn check_unpinned(&self, version: VersionId, name: &str) -> Result<(), EngineError> {
        if !self.pins().contains_key(&version) {
            return Ok(());
        }
        let users = vec!["a reader (an export or a comparison)".to_owned()];
        let remedy = "try again when that is done";
        Err(EngineError::InUse { name: name.to_owned(), users, remedy })
    }

    async fn hide_snapshots(&self, doomed: &[(DiskRow, VersionRow)]) -> Result<(), EngineError> {
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        for (_, version) in doomed {
            hide(&mut commit, version.id).await?;
        }
        commit.stage(&[]).await?.durable().await?;
        Ok(())
    }

    /// First the name and the chain go, in one commit: from then on the disk is deleted. Then its
    /// versions are hidden, a bounded number at a time; an opening goes on where a crash stopped.
    async fn end_disk(&self, row: &DiskRow) -> Result<(), EngineError> {
        let disk = self.disk_by_row(row).await?;
        let leftovers = disk.end().await?;
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        rows.remove_chain(row.id).await?;
        rows.remove_attachment(row.id).await?;
        rows.put_disk(&DiskRow { deleting: true, ..row.clone() }).await?;
        commit.stage(&[]).await?.durable().await?;
        self.store().free_taken(&leftovers);
        disk.drop_extents().await?;
        self.disks().remove(&row.id);
        super::lock(&self.inner.faults).remove(&row.id);
        self.hide_versions(row.id).await
    }

    async fn hide_versions(&self, disk: DiskId) -> Result<(), EngineError> {
        let mut from = Epoch::ZERO;
        loop {
            let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
            let page = Rows::new(&mut commit).list_versions(disk, from, HIDE_AT_ONCE).await?;
            for version in page.iter().filter(|version| !version.hidden) {
                hide(&mut commit, version.id).await?;
            }
            commit.stage(&[]).await?.durable().await?;
            match page.last() {
                Some(last) if page.len() == HIDE_AT_ONCE => from = last.epoch.next(),
                _ => return Ok(()),
            }
        }
    }

    /// Goes on with deletions that a crash interrupted, and with anonymous snapshots whose
    /// readers died with the process.
    pub(super) async fn resume_deletes(&self) -> Result<(), EngineError> {
        let mut from = DiskId(0);
        loop {
            let page = {
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

/// Hides a version and queues it for the reclaimer where at most one version began from it.
pub(super) async fn hide(commit: &mut Commit<'_>, id: VersionId) -> Result<(), CatalogueError> {
    let mut rows = Rows::new(commit);
    let mut row = rows.version(id).await?;
    if row.pending {
        // Only where its whole disk goes: what it would have added was never in a tree.
        if let Some(disk) = rows.get_disk(row.disk).await? {
            row.root = rows.version(disk.head).await?.root;
        }
        row.pending = false;
        row.owned_blocks = 0;
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

/// Adds the disks (by number) of the versions that began from `version` and belong to others.
async fn foreign_children<P: Pages<Error = CatalogueError>>(
    rows: &Rows<'_, P>,
    version: &VersionRow,
    dependents: &mut BTreeMap<DiskId, DiskName>,
) -> Result<(), EngineError> {
    let mut from = VersionId(0);
    loop {
        let children = rows.list_children(version.id, from, PAGE_ROWS).await?;
        for child in &children {
            let child = rows.version(*child).await?;
            if child.disk == version.disk {
                continue;
            }
            if let Some(disk) = rows.get_disk(child.disk).await?.filter(|disk| !disk.deleting) {
                dependents.insert(disk.id, disk.name);
            }
        }
        match children.last() {
            Some(last) if children.len() == PAGE_ROWS => from = VersionId(last.0 + 1),
            _ => return Ok(()),
        }
    }
}
