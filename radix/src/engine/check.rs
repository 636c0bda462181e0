//! Checking: what all trees use, added up, must be what the space bitmaps say.
//!
//! Each version is asked for what it owns alone; what it shares is its ancestors' to show, and
//! must be what its parent has at the same place. Nothing stops at the first fault.

use std::collections::BTreeMap;

use bough_blockstore::{BlockAddr, Epoch, VirtualBlock};

use super::{Engine, EngineError, lock};
use crate::btree::Pages;
use crate::catalogue::{ReclaimRow, Rows, VersionId, VersionKind, VersionRow};
use crate::diff::diff;
use crate::disk0::Snapshot;
use crate::info::{CheckReport, Finding, Severity};
use crate::merge::{Ownership, ReclaimedBelow};
use crate::node::{Entry, Root};
use crate::path::Position;
use crate::space::bitmap_page_of;
use crate::walk::{Found, Onward, walk};

const PAGE_ROWS: usize = 256;
/// Findings of each severity that are told; more are only counted.
const FINDINGS_MAX: u64 = 1000;
const PAGE_BLOCKS: u64 = 32_768;

/// What a check has come upon.
#[derive(Default)]
struct Tally {
    used: BTreeMap<u64, Box<[u8; 4096]>>,
    report: CheckReport,
    leaks: u64,
    corruptions: u64,
}

/// A version, and how it owns.
struct Subject {
    row: VersionRow,
    name: String,
    root: Root,
    ownership: Ownership,
    parent_root: Option<Root>,
    /// Below it the version has been reclaimed: what stands there is void.
    void_below: u64,
}

impl Engine {
    /// Walks every version and compares with the space bitmaps. Commits wait meanwhile; reads and
    /// writes of guests go on.
    ///
    /// # Errors
    /// Where the catalogue cannot be read: what is wrong with disks is in the report.
    pub async fn check(&self) -> Result<CheckReport, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let mut tally = Tally::default();
        let mut from = VersionId(0);
        loop {
            let page = {
                let rows = Rows::new(&mut view);
                rows.list_all_versions(from, PAGE_ROWS).await?
            };
            for row in &page {
                let subject = self.subject(&mut view, row.clone()).await?;
                if let Some(subject) = subject {
                    self.check_version(&subject, &mut tally).await;
                }
                tally.report.versions += 1;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = VersionId(last.id.0 + 1),
                _ => break,
            }
        }
        self.compare_bitmaps(&view, &mut tally).await?;
        self.add_faults(&mut tally).await;
        Ok(tally.finish())
    }

    /// How a version is to be walked; none for a pending snapshot, which has no tree of its own:
    /// its disk's head stands for it.
    async fn subject(
        &self,
        view: &mut Snapshot<'_>,
        row: VersionRow,
    ) -> Result<Option<Subject>, EngineError> {
        let rows = Rows::new(view);
        if row.pending {
            return Ok(None);
        }
        let disk = rows.get_disk(row.disk).await?;
        let disk_name = disk.map_or_else(|| format!("disk {}", row.disk), |d| d.name.to_string());
        let name = match &row.label {
            Some(label) => format!("{disk_name}@{label}"),
            None if row.kind == VersionKind::Head => disk_name,
            None => format!("{disk_name}@(deleted)"),
        };
        // A head with pending snapshots has the tree of the oldest of them.
        let mut owner = row.clone();
        while let Some(parent) = owner.parent {
            let parent = rows.version(parent).await?;
            if !parent.pending {
                break;
            }
            owner = parent;
        }
        let (mut ownership, mut parent_root) = (Ownership::after(Epoch::ZERO), None);
        if let Some(parent) = owner.parent {
            let parent = rows.version(parent).await?;
            ownership.parent_epoch = parent.epoch;
            parent_root = Some(parent.root);
            if let Some(ReclaimRow { cursor, .. }) = rows.get_reclaim(parent.id).await? {
                let grandparent_epoch = match parent.parent {
                    Some(id) => rows.version(id).await?.epoch,
                    None => Epoch::ZERO,
                };
                ownership.below = Some(ReclaimedBelow { cursor, grandparent_epoch });
            }
        }
        let void_below = rows.get_reclaim(row.id).await?.map_or(0, |reclaim| reclaim.cursor);
        let root = row.root;
        Ok(Some(Subject { row, name, root, ownership, parent_root, void_below }))
    }

    async fn check_version(&self, subject: &Subject, tally: &mut Tally) {
        walk(&self.store().cache, subject.root, |found| match found {
            Found::Entry { position, entry } => tally.meet(subject, position, entry),
            Found::Unreadable { position, entry, error } => {
                if !subject.is_void(position) {
                    let message = format!("its node at {position} cannot be read: {error}");
                    tally.find(Severity::Corruption, Some(subject), entry.pointer(), message);
                }
                Onward::Past
            }
        })
        .await;
        self.check_shared(subject, tally).await;
    }

    /// What differs from the parent must be the version's own.
    async fn check_shared(&self, subject: &Subject, tally: &mut Tally) {
        let Some(parent) = subject.parent_root else { return };
        if subject.ownership.below.is_some() || subject.void_below > 0 {
            return;
        }
        let blocks = subject.row.size_bytes.div_ceil(4096);
        let compared = diff(&self.store().cache, parent, subject.root, 0..blocks, |difference| {
            let entry = difference.after;
            let position = Position::leaf(VirtualBlock::of(difference.range.start));
            if entry.is_data() && !subject.ownership.owns(position, &entry) {
                let block = difference.range.start;
                let message = format!("its block {block} is shared with nobody that it may be");
                tally.find(Severity::Corruption, Some(subject), entry.pointer(), message);
            }
            std::ops::ControlFlow::Continue(())
        })
        .await;
        // A node that cannot be read has been found by the walk already.
        drop(compared);
    }

    async fn compare_bitmaps(
        &self,
        view: &Snapshot<'_>,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let total = self.store().space().counts().total;
        for index in 0..total.div_ceil(PAGE_BLOCKS) {
            let first = BlockAddr::of(index * PAGE_BLOCKS);
            let page = view.get(bitmap_page_of(first)).await?;
            let used = tally.used.remove(&index).unwrap_or_else(|| Box::new([0; 4096]));
            if *used == **page {
                continue;
            }
            for bit in 0..PAGE_BLOCKS {
                let addr = first.plus(bit);
                match (is_set(&used, bit), is_set(&page, bit)) {
                    (true, false) => {
                        let message = "used by a version, and marked free".to_owned();
                        tally.find(Severity::Corruption, None, Some(addr), message);
                    }
                    (false, true) => {
                        let message = "marked used, and used by nobody".to_owned();
                        tally.find(Severity::Leak, None, Some(addr), message);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn add_faults(&self, tally: &mut Tally) {
        for (id, disk) in self.disks().iter() {
            if let Some(message) = disk.fault() {
                let opening = lock(&self.inner.faults);
                tally.report.findings.push(Finding {
                    severity: Severity::Corruption,
                    version: Some(disk.name().to_string()),
                    block: opening.get(id).and_then(|fault| fault.block).map(BlockAddr::raw),
                    message,
                });
            }
        }
    }
}

impl Subject {
    fn is_void(&self, position: Position) -> bool {
        position.span().end <= self.void_below
    }

    /// Whether what lies below a position may be the version's though the position is not: the
    /// parent's reclaim cursor stands inside it.
    fn is_split(&self, position: Position) -> bool {
        let span = position.span();
        self.ownership
            .below
            .is_some_and(|below| span.start < below.cursor && below.cursor < span.end)
    }
}

impl Tally {
    fn meet(&mut self, subject: &Subject, position: Position, entry: Entry) -> Onward {
        let Some(addr) = entry.pointer() else { return Onward::Past };
        if subject.is_void(position) {
            return Onward::Past;
        }
        if !subject.ownership.owns(position, &entry) {
            return if subject.is_split(position) { Onward::Down } else { Onward::Past };
        }
        if position.level == 0 {
            self.report.blocks += 1;
        } else {
            self.report.nodes += 1;
        }
        if self.mark(addr) {
            return Onward::Down;
        }
        let message = format!("its block at {position} is used twice");
        self.find(Severity::Corruption, Some(subject), Some(addr), message);
        Onward::Past
    }

    /// `false` where it was marked already.
    fn mark(&mut self, addr: BlockAddr) -> bool {
        let (page, bit) = (addr.raw() / PAGE_BLOCKS, addr.raw() % PAGE_BLOCKS);
        let bytes = self.used.entry(page).or_insert_with(|| Box::new([0; 4096]));
        let fresh = !is_set(bytes, bit);
        bytes[byte_of(bit)] |= 1 << (bit % 8);
        fresh
    }

    fn find(
        &mut self,
        severity: Severity,
        subject: Option<&Subject>,
        block: Option<BlockAddr>,
        message: String,
    ) {
        // Each severity by itself: no number of leaks may hide a corruption.
        let told = match severity {
            Severity::Leak => &mut self.leaks,
            Severity::Corruption => &mut self.corruptions,
        };
        *told += 1;
        if *told <= FINDINGS_MAX {
            self.report.findings.push(Finding {
                severity,
                version: subject.map(|subject| subject.name.clone()),
                block: block.map(BlockAddr::raw),
                message,
            });
        }
    }

    fn finish(mut self) -> CheckReport {
        let counts = [(Severity::Corruption, self.corruptions), (Severity::Leak, self.leaks)];
        for (severity, count) in counts.into_iter().filter(|(_, count)| *count > FINDINGS_MAX) {
            let message = format!("{} more like this are not listed", count - FINDINGS_MAX);
            self.report.findings.push(Finding { severity, version: None, block: None, message });
        }
        self.report
    }
}

fn byte_of(bit: u64) -> usize {
    bough_blockstore::to_usize(bit / 8)
}

fn is_set(bytes: &[u8; 4096], bit: u64) -> bool {
    bytes[byte_of(bit)] & (1 << (bit % 8)) != 0
}
