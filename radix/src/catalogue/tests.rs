//! The rows' bytes, and their indexes against what a plain map of rows says.

use std::collections::BTreeMap;
use std::sync::Arc;

use bough_blockstore::{BlockAddr, BlockRun, DiskId, Epoch, Nonce, Sequence, VirtualBlock};
use proptest::prelude::*;
use uuid::Uuid;

use super::codec::Coded;
use super::*;
use crate::btree::{Counters, Page, PageFault, Pages, Totals};
use crate::node::Root;
use crate::testing::ready;

#[derive(Debug, PartialEq, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Page(#[from] PageFault),
    #[error(transparent)]
    Row(#[from] RowFault),
}

#[derive(Default)]
struct Memory(BTreeMap<u64, Page>);

impl Pages for Memory {
    type Error = Fault;

    async fn get(&self, page: VirtualBlock) -> Result<Arc<Page>, Fault> {
        Ok(Arc::new(self.0.get(&page.raw()).cloned().unwrap_or_else(Page::zeroed)))
    }

    fn put(&mut self, page: VirtualBlock, content: Page) {
        self.0.insert(page.raw(), content);
    }
}

const COUNTERS: Counters = Counters {
    next_disk: 1,
    next_version: 1,
    epoch_lease_end: Epoch::of(1),
    used_blocks: 0,
    virgin_from: BlockAddr::of(100),
};

fn empty() -> Memory {
    let mut pages = Memory::default();
    Rows::new(&mut pages).format(COUNTERS);
    pages
}

fn disk(id: u32, name: &str) -> DiskRow {
    DiskRow {
        id: DiskId(id),
        name: name.parse().unwrap(),
        uuid: Uuid::from_u128(u128::from(id)),
        head: VersionId(u64::from(id)),
        newest_sealed: None,
        created_unix: 7,
        deleting: false,
        snapshot_count: 0,
    }
}

fn version(id: u64, disk: u32, epoch: u64) -> VersionRow {
    VersionRow {
        id: VersionId(id),
        disk: DiskId(disk),
        kind: VersionKind::Head,
        label: None,
        epoch: Epoch::of(epoch),
        parent: None,
        uuid: Uuid::from_u128(u128::from(id)),
        parent_uuid: None,
        key_id: 0,
        size_bytes: 1 << 30,
        root: Root::empty(2),
        pending: false,
        sealed: false,
        hidden: false,
        created_unix: 7,
        referenced_blocks: 0,
        owned_blocks: 0,
        child_count: 0,
    }
}

fn snapshot(id: u64, disk: u32, epoch: u64, label: &str) -> VersionRow {
    let label = Some(label.to_owned());
    VersionRow { kind: VersionKind::Snapshot, label, ..version(id, disk, epoch) }
}

fn labels(rows: &Rows<'_, Memory>, disk: u32) -> Vec<String> {
    let versions = ready(rows.list_versions(DiskId(disk), Epoch::ZERO, 99)).unwrap();
    versions.into_iter().map(|row| row.label.unwrap_or_else(|| "head".into())).collect()
}

#[test]
fn taking_a_snapshot_puts_it_between_parent_and_head() {
    let mut pages = empty();
    let mut rows = Rows::new(&mut pages);
    ready(rows.put_disk(&disk(1, "web"))).unwrap();
    ready(rows.put_version(&version(1, 1, 10))).unwrap();
    for n in 0..3_u64 {
        // The snapshot takes over the head's epoch and parent; the head goes on behind it.
        let head = ready(rows.version(VersionId(1))).unwrap();
        let taken = snapshot(n + 2, 1, head.epoch.raw(), &format!("s{n}"));
        ready(rows.put_version(&VersionRow { parent: head.parent, ..taken.clone() })).unwrap();
        let (epoch, parent) = (head.epoch.next(), Some(taken.id));
        ready(rows.put_version(&VersionRow { epoch, parent, ..head })).unwrap();
    }
    assert_eq!(labels(&rows, 1), ["s0", "s1", "s2", "head"]);
    assert_eq!(ready(rows.get_disk(DiskId(1))).unwrap().unwrap().snapshot_count, 3);
    let newest = ready(rows.find_snapshot(DiskId(1), "s2")).unwrap().unwrap();
    assert_eq!((newest.id, newest.child_count), (VersionId(4), 1));
    let children = ready(rows.list_children(VersionId(2), VersionId(0), 9)).unwrap();
    assert_eq!(children, [VersionId(3)]);
    let before = ready(rows.version_before(DiskId(1), Epoch::of(12))).unwrap().unwrap();
    assert_eq!(before.label.as_deref(), Some("s1"));
    assert!(ready(rows.version_before(DiskId(1), Epoch::of(10))).unwrap().is_none());
}

#[test]
fn a_deleted_disk_frees_its_name_at_once() {
    let mut pages = empty();
    let mut rows = Rows::new(&mut pages);
    ready(rows.put_disk(&disk(1, "web"))).unwrap();
    let taken = ready(rows.put_disk(&disk(2, "web"))).unwrap_err();
    assert_eq!(taken, Fault::Row(RowFault::NameTaken("web".into())));
    ready(rows.put_disk(&DiskRow { deleting: true, ..disk(1, "web") })).unwrap();
    assert_eq!(ready(rows.find_disk("web")).unwrap(), None);
    ready(rows.put_disk(&disk(2, "web"))).unwrap();
    assert_eq!(ready(rows.find_disk("web")).unwrap().unwrap().id, DiskId(2));
    assert!(ready(rows.remove_disk(DiskId(1))).unwrap());
    assert_eq!(ready(rows.find_disk("web")).unwrap().unwrap().id, DiskId(2));
    assert_eq!(ready(rows.totals()).unwrap(), Totals { disks: 1, snapshots: 0, reclaims: 0 });
}

#[test]
fn disks_are_listed_by_name_a_part_at_a_time() {
    let mut pages = empty();
    let mut rows = Rows::new(&mut pages);
    for (id, name) in [(1, "b"), (2, "a"), (3, "ab"), (4, "c")] {
        ready(rows.put_disk(&disk(id, name))).unwrap();
    }
    let mut names = Vec::new();
    while let found = ready(rows.list_disks(names.last().map(String::as_str), 1)).unwrap()
        && let Some(row) = found.first()
    {
        names.push(row.name.as_str().to_owned());
    }
    assert_eq!(names, ["a", "ab", "b", "c"]);
}

#[test]
fn a_version_with_children_is_not_removed() {
    let mut pages = empty();
    let mut rows = Rows::new(&mut pages);
    ready(rows.put_disk(&disk(1, "web"))).unwrap();
    ready(rows.put_version(&snapshot(1, 1, 1, "a"))).unwrap();
    let child = VersionRow { parent: Some(VersionId(1)), ..version(2, 1, 2) };
    ready(rows.put_version(&child)).unwrap();
    let fault = ready(rows.remove_version(VersionId(1))).unwrap_err();
    let expected = RowFault::HasChildren { version: VersionId(1), child_count: 1 };
    assert_eq!(fault, Fault::Row(expected));
    ready(rows.put_version(&VersionRow { parent: None, ..child })).unwrap();
    assert!(ready(rows.remove_version(VersionId(1))).unwrap());
    assert_eq!(labels(&rows, 1), ["head"]);
}

/// What a random history does to versions: everything that the indexes depend on.
#[derive(Clone, Debug)]
struct Change {
    id: u64,
    disk: u32,
    label: Option<u8>,
    hidden: bool,
    parent: Option<u64>,
    remove: bool,
}

fn change() -> impl Strategy<Value = Change> {
    let flags = (any::<bool>(), prop::bool::weighted(0.2));
    let parent = prop::option::of(0_u64..12);
    (0_u64..12, 1_u32..4, prop::option::of(0_u8..6), parent, flags).prop_map(
        |(id, disk, label, parent, (hidden, remove))| Change {
            id,
            disk,
            label,
            hidden,
            parent: parent.filter(|parent| *parent != id),
            remove,
        },
    )
}

/// The row that a change asks for; epochs are unique, since ids are.
fn asked(change: &Change, round: u64) -> VersionRow {
    let row = version(change.id, change.disk, round * 100 + change.id);
    let parent = change.parent.map(VersionId);
    match change.label {
        Some(label) => {
            let row = snapshot(change.id, change.disk, row.epoch.raw(), &format!("s{label}"));
            VersionRow { parent, hidden: change.hidden, ..row }
        }
        None => VersionRow { parent, ..row },
    }
}

fn is_public(row: &VersionRow) -> bool {
    row.label.is_some() && !row.hidden
}

/// Compares every index and count with what the plain rows say.
fn check_indexes(rows: &Rows<'_, Memory>, model: &BTreeMap<u64, VersionRow>) {
    for (id, row) in model {
        let children: Vec<_> = model.values().filter(|c| c.parent == Some(row.id)).collect();
        let found = ready(rows.version(VersionId(*id))).unwrap();
        assert_eq!(
            found,
            VersionRow { child_count: children.len().try_into().unwrap(), ..row.clone() }
        );
        let listed = ready(rows.list_children(row.id, VersionId(0), 99)).unwrap();
        assert_eq!(listed, children.iter().map(|c| c.id).collect::<Vec<_>>());
    }
    let listed = ready(rows.list_all_versions(VersionId(0), 99)).unwrap();
    assert_eq!(listed.len(), model.len());
    for disk in 1..4 {
        let mut timeline: Vec<_> = model.values().filter(|r| r.disk == DiskId(disk)).collect();
        timeline.sort_by_key(|row| row.epoch);
        let listed = ready(rows.list_versions(DiskId(disk), Epoch::ZERO, 99)).unwrap();
        assert!(listed.iter().map(|r| r.id).eq(timeline.iter().map(|r| r.id)));
        let public = timeline.iter().filter(|row| is_public(row)).count();
        let found = ready(rows.get_disk(DiskId(disk))).unwrap().unwrap();
        assert_eq!(found.snapshot_count, u64::try_from(public).unwrap());
        for label in 0..6 {
            let label = format!("s{label}");
            let owner = timeline.iter().find(|r| is_public(r) && r.label.as_ref() == Some(&label));
            let found = ready(rows.find_snapshot(DiskId(disk), &label)).unwrap();
            assert_eq!(found.map(|row| row.id), owner.map(|row| row.id));
        }
    }
    let public = model.values().filter(|row| is_public(row)).count();
    assert_eq!(ready(rows.totals()).unwrap().snapshots, u64::try_from(public).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn indexes_and_counts_follow_the_rows(changes in prop::collection::vec(change(), 1..60)) {
        let mut pages = empty();
        let mut rows = Rows::new(&mut pages);
        for id in 1..4 {
            ready(rows.put_disk(&disk(id, &format!("d{id}")))).unwrap();
        }
        let mut model: BTreeMap<u64, VersionRow> = BTreeMap::new();
        for (round, change) in changes.iter().enumerate() {
            let row = asked(change, u64::try_from(round).unwrap());
            let children = model.values().filter(|other| other.parent == Some(row.id));
            let children: Vec<_> = children.cloned().collect();
            let has_children = !children.is_empty();
            if let ([child], Some(old), true) = (&children[..], model.get(&change.id), change.remove)
                && child.epoch > old.epoch
                && old.parent != Some(child.id)
            {
                let (old, mut heir) = (old.clone(), child.clone());
                let given = ready(rows.give_way(&old)).unwrap();
                prop_assert_eq!(given.map(|row| row.id), Some(heir.id));
                heir.parent = old.parent;
                model.remove(&change.id);
                model.insert(heir.id.0, heir);
                continue;
            }
            if change.remove {
                let removed = ready(rows.remove_version(row.id));
                prop_assert_eq!(removed.is_err(), has_children);
                if !has_children {
                    model.remove(&change.id);
                }
                continue;
            }
            let name_taken = is_public(&row) && model.values().any(|other| {
                is_public(other) && (other.disk, &other.label) == (row.disk, &row.label)
                    && other.id != row.id
            });
            let orphan = row.parent.is_some_and(|parent| !model.contains_key(&parent.0));
            if name_taken || orphan {
                continue; // the engine looks before it asks
            }
            ready(rows.put_version(&row)).unwrap();
            model.insert(change.id, row);
        }
        check_indexes(&rows, &model);
    }

    #[test]
    fn bytes_that_are_no_row_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(DiskRow::decode(&bytes));
        drop(VersionRow::decode(&bytes));
        drop(ExtentRow::decode(&bytes));
        drop(ChainRow::decode(&bytes));
        drop(ReclaimRow::decode(&bytes));
        drop(AttachmentRow::decode(&bytes));
    }
}

fn reads_back<R: Coded + PartialEq + std::fmt::Debug>(row: &R) {
    let bytes = row.encode();
    assert!(bytes.len() <= crate::btree::VALUE_MAX_BYTES);
    assert_eq!(&R::decode(&bytes).unwrap(), row);
    assert!(R::decode(&bytes[..bytes.len() - 1]).is_err(), "cut short");
    assert!(R::decode(&[&bytes[..], &[0]].concat()).is_err(), "too long");
    let newer = [&[bytes[0] + 1], &bytes[1..]].concat();
    assert!(R::decode(&newer).is_err(), "another version of the row");
}

#[test]
fn rows_read_back_as_they_were_written() {
    let longest = "x".repeat(crate::names::NAME_MAX_BYTES);
    let sealed = Some(VersionId(u64::MAX - 1));
    reads_back(&DiskRow { newest_sealed: sealed, deleting: true, ..disk(u32::MAX - 1, &longest) });
    reads_back(&disk(1, "a"));
    reads_back(&version(1, 2, 3));
    let (parent, parent_uuid) = (Some(VersionId(9)), Some(Uuid::from_u128(5)));
    let full = snapshot(u64::MAX - 1, 7, Epoch::MAX.raw() - 1, &longest);
    let full = VersionRow { parent, parent_uuid, pending: true, hidden: true, ..full };
    reads_back(&VersionRow { owned_blocks: -1, referenced_blocks: 1 << 43, ..full });
    let run = BlockRun { start: BlockAddr::MAX, count: 1 };
    reads_back(&ExtentRow { run, disk: DiskId(1) });
    reads_back(&ChainRow {
        disk: DiskId(1),
        nonce: Nonce([7; 16]),
        sequence: Sequence(8),
        at: BlockAddr::of(9),
        previous_crc: 10,
        epoch: Epoch::of(11),
        synced_upto: Sequence(12),
    });
    let version = VersionId(1);
    reads_back(&ReclaimRow { version, cursor: 2, freed_data: 3, freed_nodes: 4 });
    reads_back(&AttachmentRow { disk: DiskId(1), queues: 4, read_only: true });
}

#[test]
fn an_extent_beyond_all_addresses_is_refused() {
    let run = BlockRun { start: BlockAddr::MAX, count: 2 };
    assert!(ExtentRow::decode(&ExtentRow { run, disk: DiskId(1) }.encode()).is_err());
    let run = BlockRun { start: BlockAddr::of(5), count: 0 };
    assert!(ExtentRow::decode(&ExtentRow { run, disk: DiskId(1) }.encode()).is_err());
}
