//! After an opening: what is there must be what the model allows, and then the model knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bough_radix::DiskDetail;

use crate::content::Stamp;
use crate::io::{Life, read_windows};
use crate::layout::dense_len;
use crate::observe::observe_snap;
use crate::oracle::{Log, Tick};
use crate::world::{Asked, Content, DiskKey, Snap, SnapKey, Verb};

const SECTOR: u64 = 512;

/// What the end of the last life left standing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Promise {
    /// Power was lost, or a sync had failed: what was flushed.
    Flushed,
    /// The process died, or was stopped: whatever was answered.
    Answered,
}

impl Life {
    /// Compares everything with the model.
    pub async fn reconcile(&self, promise: Promise) {
        let mut found = self.details().await;
        let verbs: Vec<(Tick, Asked)> = self.world.borrow().verbs.clone().into_iter().collect();
        let mut rollbacks: BTreeMap<DiskKey, (SnapKey, bool)> = BTreeMap::new();
        for (asked, Asked { verb, answered }) in verbs {
            if let Verb::Rollback { disk, snap } = verb {
                rollbacks.insert(disk, (snap, answered));
            } else {
                self.settle_verb(asked, verb, answered, &mut found);
            }
        }
        self.check_names(&found, &rollbacks);
        let snaps: Vec<(DiskKey, SnapKey)> = {
            let world = self.world.borrow();
            let all = world.disks.iter();
            all.flat_map(|(key, disk)| disk.snaps.keys().map(|snap| (*key, *snap))).collect()
        };
        for (disk, snap) in snaps {
            observe_snap(&self.engine, &self.world, disk, snap).await.unwrap();
        }
        self.settle_clones(&found);
        let keys: Vec<DiskKey> = self.world.borrow().disks.keys().copied().collect();
        for key in keys {
            self.settle_head(key, promise, rollbacks.get(&key).copied(), &found).await;
        }
        self.world.borrow_mut().verbs.clear();
        self.check_counts().await;
    }

    async fn details(&self) -> BTreeMap<String, DiskDetail> {
        let mut found = BTreeMap::new();
        for disk in self.engine.list().await.unwrap() {
            let name = disk.name.parse().unwrap();
            found.insert(disk.name, self.engine.show(&name).await.unwrap());
        }
        found
    }

    fn settle_verb(
        &self,
        asked: Tick,
        verb: Verb,
        answered: bool,
        found: &mut BTreeMap<String, DiskDetail>,
    ) {
        match verb {
            Verb::Create { name, size_sectors } => {
                if found.contains_key(&name) {
                    let values = Rc::new(vec![0; dense_len(size_sectors)]);
                    self.world.borrow_mut().add_disk(&name, size_sectors, values);
                }
            }
            Verb::Snapshot { targets } => self.settle_snapshot(asked, &targets, found),
            Verb::Clone { names, .. } => {
                let there = names.iter().filter(|name| found.contains_key(*name)).count();
                assert!(there == 0 || there == names.len(), "half of the clones {names:?}");
                assert!(there > 0 || !answered, "the clones {names:?} are gone");
            }
            Verb::Delete(deletion) => deletion.settle(&mut self.world.borrow_mut(), found),
            Verb::RenameDisk { disk, to } => {
                if found.contains_key(&to) {
                    self.world.borrow_mut().disk(disk).name = to;
                }
            }
            Verb::RenameSnap { disk, snap, to } => {
                let mut world = self.world.borrow_mut();
                if labels_of(found, &world.disk(disk).name).contains(&to) {
                    world.snap(disk, snap).label = to;
                }
            }
            Verb::Resize { disk, to_sectors } => {
                let name = self.world.borrow_mut().disk(disk).name.clone();
                let detail = found.get(&name).unwrap_or_else(|| panic!("{name} is gone"));
                if detail.disk.head.size_bytes == to_sectors * SECTOR {
                    self.apply_resize(disk, to_sectors);
                }
            }
            Verb::Seal { disk, snap, sealed } => {
                let mut world = self.world.borrow_mut();
                let name = world.disk(disk).version_of(snap).to_string();
                let mut infos = found[&world.disk(disk).name].snapshots.iter();
                let is = infos.find(|info| info.name == name);
                if is.is_some_and(|info| info.sealed == sealed) {
                    world.snap(disk, snap).sealed = sealed;
                }
            }
            Verb::Rollback { .. } => {}
        }
    }

    fn settle_snapshot(
        &self,
        asked: Tick,
        targets: &[(DiskKey, String)],
        found: &BTreeMap<String, DiskDetail>,
    ) {
        let there = {
            let world = self.world.borrow();
            let there = |(key, label): &&(DiskKey, String)| {
                labels_of(found, &world.disks[key].name).contains(label)
            };
            targets.iter().filter(there).count()
        };
        assert!(there == 0 || there == targets.len(), "half of a group snapshot: {targets:?}");
        if there > 0 {
            self.world.borrow_mut().count("snapshots that outlived their asker");
            self.add_snaps(targets, asked, Tick::MAX);
            for (key, _) in targets {
                let mut world = self.world.borrow_mut();
                let log = &mut world.disk(*key).log;
                log.flushed = log.flushed.max(asked);
            }
        }
    }

    fn settle_clones(&self, found: &BTreeMap<String, DiskDetail>) {
        let verbs = self.world.borrow().verbs.clone();
        for Asked { verb, .. } in verbs.into_values() {
            if let Verb::Clone { disk, snap, names } = verb {
                for name in names.iter().filter(|name| found.contains_key(*name)) {
                    self.add_clone(disk, snap, name);
                }
            }
        }
    }

    /// Exactly the disks and snapshots that the model has, with their sizes and seals.
    fn check_names(
        &self,
        found: &BTreeMap<String, DiskDetail>,
        rollbacks: &BTreeMap<DiskKey, (SnapKey, bool)>,
    ) {
        let world = self.world.borrow();
        let mut expected: BTreeSet<String> =
            world.disks.values().map(|disk| disk.name.clone()).collect();
        for asked in world.verbs.values() {
            if let Verb::Clone { names, .. } = &asked.verb {
                expected.extend(names.iter().filter(|name| found.contains_key(*name)).cloned());
            }
        }
        expected.extend(world.ballast.clone());
        let names: BTreeSet<String> = found.keys().cloned().collect();
        assert_eq!(names, expected, "the disks there are");
        for (key, disk) in &world.disks {
            let detail = &found[&disk.name];
            if !rollbacks.contains_key(key) {
                let size_bytes = detail.disk.head.size_bytes;
                assert_eq!(size_bytes, disk.size_sectors * SECTOR, "size of {}", disk.name);
            }
            let there: BTreeSet<(String, bool, u64)> = detail
                .snapshots
                .iter()
                .map(|info| (info.name.clone(), info.sealed, info.size_bytes))
                .collect();
            let expected: BTreeSet<(String, bool, u64)> = disk
                .snaps
                .values()
                .map(|snap| {
                    let name = disk.snap_name(&snap.label).to_string();
                    (name, snap.sealed, snap.size_sectors * SECTOR)
                })
                .collect();
            assert_eq!(there, expected, "snapshots of {}", disk.name);
        }
    }

    async fn settle_head(
        &self,
        key: DiskKey,
        promise: Promise,
        rollback: Option<(SnapKey, bool)>,
        found: &BTreeMap<String, DiskDetail>,
    ) {
        self.open_handle(key).await;
        let (disk, name, log, size) = {
            let mut world = self.world.borrow_mut();
            let disk = world.disk(key);
            let handle = disk.handle.clone().expect("it has been opened");
            (handle, disk.name.clone(), disk.log.clone(), disk.size_sectors)
        };
        let size_bytes = found[&name].disk.head.size_bytes;
        let seen = read_windows(&disk, size_bytes / SECTOR).await.unwrap();
        if let Some((snap, _)) = rollback
            && self.is_rolled_back(key, snap, size_bytes, &seen)
        {
            self.apply_rollback(key, snap);
            return;
        } else if let Some((_, true)) = rollback {
            panic!("{name}: an answered rollback is undone");
        }
        assert_eq!(size_bytes, size * SECTOR, "size of {name}");
        let must = match promise {
            Promise::Answered => Tick::MAX,
            Promise::Flushed => log.flushed,
        };
        let judged = log.judge(0, &seen, must).and_then(crate::oracle::Verdict::check_order);
        judged.unwrap_or_else(|wrong| panic!("{name} after {promise:?}: {wrong}"));
        let now = self.world.borrow_mut().tick();
        self.world.borrow_mut().disk(key).log = Log::settled(Rc::new(seen), now);
    }

    fn is_rolled_back(
        &self,
        disk: DiskKey,
        snap: SnapKey,
        size_bytes: u64,
        seen: &[Stamp],
    ) -> bool {
        let mut world = self.world.borrow_mut();
        let Snap { size_sectors, content, .. } = world.snap(disk, snap);
        let Content::Known(values) = content else { panic!("snapshots are read first") };
        *size_sectors * SECTOR == size_bytes && **values == *seen
    }

    pub async fn check_counts(&self) {
        let status = self.engine.status().await.unwrap();
        let world = self.world.borrow();
        let disks = world.disks.len() + world.ballast.iter().count();
        assert_eq!(status.disk_count, u64::try_from(disks).unwrap());
        assert_eq!(status.snapshot_count, u64::try_from(world.snap_count()).unwrap());
        drop(world);
        let report = self.engine.check().await.unwrap();
        assert!(report.findings.is_empty(), "check after opening: {:#?}", report.findings);
        self.check_versions().await;
    }
}

pub fn labels_of(found: &BTreeMap<String, DiskDetail>, disk: &str) -> BTreeSet<String> {
    let Some(detail) = found.get(disk) else { return BTreeSet::new() };
    detail
        .snapshots
        .iter()
        .filter_map(|info| info.name.split_once('@').map(|(_, label)| label.to_owned()))
        .collect()
}
