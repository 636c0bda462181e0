//! What the engine tells: lists, trees, single disks, the store's health. Walks no disk's tree.

use std::collections::BTreeMap;

use bough_blockstore::{DiskId, Epoch};

use super::find::version_row;
use super::{Engine, EngineError, bytes_of, lock};
use crate::catalogue::{DiskRow, Rows, VersionId, VersionKind, VersionRow};
use crate::disk0::{CatalogueError, Snapshot};
use crate::info::{Attachment, DiskDetail, DiskInfo, StoreStatus, TreeNode, VersionInfo};
use crate::names::{DiskName, VersionName};

const PAGE_ROWS: usize = 256;
/// How a deleted version that is still needed shows.
const DELETED: &str = "(deleted)";

type View<'v, 'd> = Rows<'v, Snapshot<'d>>;

impl Engine {
    /// All disks, by name.
    ///
    /// # Errors
    /// Where the catalogue cannot be read.
    pub async fn list(&self) -> Result<Vec<DiskInfo>, EngineError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut view = self.store().catalogue.read().await;
            let rows = Rows::new(&mut view);
            let page = rows.list_disks(after.as_deref(), PAGE_ROWS).await?;
            for disk in &page {
                all.push(self.info_of(&rows, disk).await?);
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => after = Some(last.name.to_string()),
                _ => return Ok(all),
            }
        }
    }

    /// One disk with its snapshots (of a snapshot: its disk).
    ///
    /// # Errors
    /// Where there is no such version.
    pub async fn show(&self, name: &VersionName) -> Result<DiskDetail, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let (disk, _) = version_row(&rows, name).await?;
        let mut snapshots = Vec::new();
        let mut from = Epoch::ZERO;
        loop {
            let page = rows.list_versions(disk.id, from, PAGE_ROWS).await?;
            for version in &page {
                if version.kind == VersionKind::Snapshot && !version.hidden {
                    snapshots.push(describe(&rows, &disk, version).await?);
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = last.epoch.next(),
                _ => break,
            }
        }
        let disk = self.info_of(&rows, &disk).await?;
        Ok(DiskDetail { disk, snapshots })
    }

    /// Every version of the store, each after the one it began from.
    ///
    /// # Errors
    /// Where the catalogue cannot be read.
    pub async fn tree(&self) -> Result<Vec<TreeNode>, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let mut disks: BTreeMap<DiskId, DiskRow> = BTreeMap::new();
        let mut children: BTreeMap<Option<VersionId>, Vec<(VersionId, VersionInfo)>> =
            BTreeMap::new();
        let mut from = VersionId(0);
        loop {
            let page = rows.list_all_versions(from, PAGE_ROWS).await?;
            for version in &page {
                if let std::collections::btree_map::Entry::Vacant(slot) = disks.entry(version.disk)
                    && let Some(disk) = rows.get_disk(version.disk).await?
                {
                    slot.insert(disk);
                }
                let Some(disk) = disks.get(&version.disk) else { continue };
                let info = describe(&rows, disk, version).await?;
                children.entry(version.parent).or_default().push((version.id, info));
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = VersionId(last.id.0 + 1),
                _ => break,
            }
        }
        Ok(grow_forest(children))
    }

    /// The store's health.
    ///
    /// # Errors
    /// Where the catalogue cannot be read.
    pub async fn status(&self) -> Result<StoreStatus, EngineError> {
        let totals = {
            let mut view = self.store().catalogue.read().await;
            Rows::new(&mut view).totals().await?
        };
        let counts = self.store().space().counts();
        let pool = self.store().catalogue.pool();
        let cache = self.store().cache.stats();
        Ok(StoreStatus {
            uuid: self.inner.uuid,
            size_bytes: counts.total * 4096,
            free_bytes: counts.free * 4096,
            used_bytes: (counts.used + counts.taken) * 4096,
            reserved_bytes: counts.promised * 4096,
            catalogue_bytes: pool.total() * 4096,
            catalogue_used_bytes: (pool.total() - pool.free_count()) * 4096,
            cache_bytes: cache.held_bytes,
            cache_budget_bytes: cache.budget_bytes,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            reclaiming: totals.reclaims,
            disk_count: totals.disks,
            snapshot_count: totals.snapshots,
            warnings: self.warnings().await,
        })
    }

    async fn warnings(&self) -> Vec<String> {
        let counts = self.store().space().counts();
        let mut warnings = Vec::new();
        if counts.free < (counts.total / 20).max(1) {
            warnings.push(format!(
                "only {} MiB are free; delete disks or snapshots, or run `bough grow`",
                (counts.free * 4096) >> 20
            ));
        }
        let pool = self.store().catalogue.pool();
        if pool.free_count() < pool.total() / 3 {
            warnings.push("the catalogue is nearly full; run `bough grow`".to_owned());
        }
        warnings.extend(self.store().catalogue.fault().map(|fault| fault.to_string()));
        for disk in self.disks().values() {
            if let Some(fault) = disk.fault() {
                warnings.push(format!("disk '{}' is not served: {fault}", disk.name()));
            }
        }
        warnings
    }

    pub(super) async fn disk_info(&self, name: &DiskName) -> Result<DiskInfo, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let disk = super::find::disk_row(&rows, name).await?;
        self.info_of(&rows, &disk).await
    }

    pub(super) async fn version_info(
        &self,
        name: &VersionName,
    ) -> Result<VersionInfo, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let (disk, version) = version_row(&rows, name).await?;
        Ok(describe(&rows, &disk, &version).await?)
    }

    async fn info_of(&self, rows: &View<'_, '_>, disk: &DiskRow) -> Result<DiskInfo, EngineError> {
        let head = rows.head_of(disk).await?;
        let attachment = rows.get_attachment(disk.id).await?;
        let open = self.disks().get(&disk.id).cloned();
        let fault = open.as_ref().and_then(|open| open.fault());
        Ok(DiskInfo {
            name: disk.name.to_string(),
            id: disk.id.0,
            uuid: disk.uuid,
            head: describe(rows, disk, &head).await?,
            snapshot_count: disk.snapshot_count,
            origin: origin(rows, disk).await?,
            attachment: attachment
                .map(|row| Attachment { queues: row.queues, read_only: row.read_only }),
            limits: rows.get_limits(disk.id).await?.map(|row| row.limits),
            clients: open.map(|open| open.clients()).unwrap_or_default(),
            fault: fault
                .or_else(|| lock(&self.inner.faults).get(&disk.id).map(|f| f.message.clone())),
        })
    }
}

/// The snapshot of another disk that a disk's oldest version began from.
async fn origin(rows: &View<'_, '_>, disk: &DiskRow) -> Result<Option<String>, CatalogueError> {
    let oldest = rows.list_versions(disk.id, Epoch::ZERO, 1).await?;
    match oldest.first().and_then(|version| version.parent) {
        Some(parent) => name_of(rows, parent).await.map(Some),
        None => Ok(None),
    }
}

async fn name_of(rows: &View<'_, '_>, id: VersionId) -> Result<String, CatalogueError> {
    let version = rows.version(id).await?;
    let disk = rows.get_disk(version.disk).await?;
    Ok(disk.map_or_else(|| DELETED.to_owned(), |disk| display_name(&disk, &version)))
}

fn display_name(disk: &DiskRow, version: &VersionRow) -> String {
    match (&version.label, version.kind) {
        _ if version.hidden => format!("{}@{DELETED}", disk.name),
        (Some(label), _) => format!("{}@{label}", disk.name),
        (None, VersionKind::Head) => disk.name.to_string(),
        (None, VersionKind::Snapshot) => format!("{}@{DELETED}", disk.name),
    }
}

async fn describe(
    rows: &View<'_, '_>,
    disk: &DiskRow,
    version: &VersionRow,
) -> Result<VersionInfo, CatalogueError> {
    let parent = match version.parent {
        Some(parent) => Some(name_of(rows, parent).await?),
        None => None,
    };
    Ok(VersionInfo {
        name: display_name(disk, version),
        uuid: version.uuid,
        parent,
        parent_uuid: version.parent_uuid,
        size_bytes: version.size_bytes,
        referenced_bytes: bytes_of(version.referenced_blocks),
        owned_bytes: bytes_of(version.owned_blocks),
        created_unix: version.created_unix,
        sealed: version.sealed,
        head: version.kind == VersionKind::Head && !version.hidden,
        hidden: version.hidden,
        child_count: version.child_count,
    })
}

/// Depth first. Without recursion: a disk's snapshots hang one below the other, however many.
fn grow_forest(
    mut children: BTreeMap<Option<VersionId>, Vec<(VersionId, VersionInfo)>>,
) -> Vec<TreeNode> {
    let mut forest = Vec::new();
    let roots = children.remove(&None).unwrap_or_default();
    let mut todo: Vec<_> = roots.into_iter().rev().map(|(id, version)| (id, version, 0)).collect();
    while let Some((id, version, depth)) = todo.pop() {
        forest.push(TreeNode { version, depth });
        let below = children.remove(&Some(id)).unwrap_or_default();
        todo.extend(below.into_iter().rev().map(|(id, version)| (id, version, depth + 1)));
    }
    forest
}
