//! Deleting disks and snapshots, one or several, with what depends on them: all or none of it.

use std::collections::{BTreeMap, BTreeSet};

use bough_blockstore::sim::SimRng;
use bough_radix::{DeleteOptions, DiskDetail, EngineError, ErrorKind, VersionName};

use crate::io::Life;
use crate::oracle::Tick;
use crate::reconcile::labels_of;
use crate::world::{DiskKey, SnapKey, Taken, Verb, World};

/// One deletion: what is named, and all that might go with it.
#[derive(Clone, Debug)]
pub struct Deletion {
    disks: Vec<DiskKey>,
    snaps: Vec<(DiskKey, SnapKey)>,
    /// The disks named, and those that may have come from them.
    candidates: Vec<DiskKey>,
    recursive: bool,
}

impl Deletion {
    fn any(world: &World, rng: &mut SimRng) -> Self {
        // Mostly little: histories without disks and snapshots find nothing.
        let (disk_count, snap_count) = match rng.below(10) {
            0..4 => (0, 1),
            4 | 5 => (0, 3),
            6 | 7 => (1, 0),
            8 => (2, 0),
            _ => (1, 2),
        };
        let pick_disk = |_| world.any_disk(rng, |disk| !disk.verb);
        let disks: BTreeSet<DiskKey> = (0..disk_count).filter_map(pick_disk).collect();
        let snaps: BTreeSet<_> = (0..snap_count).filter_map(|_| world.any_snap(rng)).collect();
        let descendants = disks.iter().flat_map(|key| world.with_descendants(*key));
        let candidates: BTreeSet<DiskKey> = descendants.collect();
        Self {
            disks: disks.into_iter().collect(),
            snaps: snaps.into_iter().collect(),
            candidates: candidates.into_iter().collect(),
            recursive: rng.chance(1, 2),
        }
    }

    fn what(&self) -> &'static str {
        match (self.disks.len(), self.snaps.len(), self.recursive) {
            (0, ..=1, _) => "delete snapshot",
            (0, _, _) => "delete snapshots",
            (1, 0, false) => "delete disk",
            (1, 0, true) => "delete disk -r",
            (_, _, false) => "delete several",
            (_, _, true) => "delete several -r",
        }
    }

    fn names(&self, world: &mut World) -> Vec<VersionName> {
        let disks = self.disks.iter().map(|key| world.disk(*key).disk_name().into());
        let disks: Vec<VersionName> = disks.collect();
        let snaps = self.snaps.iter().map(|(key, snap)| world.disk(*key).version_of(*snap));
        snaps.chain(disks).collect()
    }

    /// Whether a deletion of these may be refused.
    fn is_held(&self, world: &World) -> bool {
        let sealed = |key: &DiskKey| world.disks[key].snaps.values().any(|snap| snap.sealed);
        let has_snaps = |key: &DiskKey| !world.disks[key].snaps.is_empty();
        // Without -r a disk's clones hold it, though they be named beside it.
        let has_clones = |key: &DiskKey| world.with_descendants(*key).len() > 1;
        self.candidates.iter().any(sealed)
            || self.snaps.iter().any(|(key, snap)| world.disks[key].snaps[snap].sealed)
            || !self.recursive && self.disks.iter().any(|key| has_snaps(key) || has_clones(key))
    }

    /// It happened, and took the disks `gone`: what that gives by name.
    fn apply(&self, world: &mut World, gone: &BTreeSet<DiskKey>) -> BTreeSet<String> {
        assert!(self.disks.iter().all(|key| gone.contains(key)), "{self:?} took only {gone:?}");
        assert!(self.recursive || gone.len() == self.disks.len(), "a clone went without -r");
        let mut names = BTreeSet::new();
        for (key, snap) in &self.snaps {
            let disk = world.disk(*key);
            names.insert(disk.version_of(*snap).to_string());
            if !gone.contains(key) {
                disk.snaps.remove(snap);
            }
        }
        for key in gone {
            let disk = world.disks.remove(key).expect("it was there");
            assert!(self.recursive || disk.snaps.is_empty(), "snapshots went without -r");
            let orphan = world.disks.iter().find(|(other, model)| {
                !gone.contains(other)
                    && model.origin.is_some_and(|snap| disk.snaps.contains_key(&snap))
            });
            assert!(orphan.is_none(), "a disk was deleted, and not its clone");
            names.extend(disk.snaps.values().map(|snap| disk.snap_name(&snap.label).to_string()));
            names.insert(disk.name);
        }
        names
    }

    /// After an opening: all of it happened, or nothing.
    pub fn settle(&self, world: &mut World, found: &BTreeMap<String, DiskDetail>) {
        let is_gone = |key: &DiskKey| !found.contains_key(&world.disks[key].name);
        let gone: BTreeSet<DiskKey> = self.candidates.iter().copied().filter(is_gone).collect();
        let snap_is_gone = |(key, snap): &&(DiskKey, SnapKey)| {
            let disk = &world.disks[key];
            !labels_of(found, &disk.name).contains(&disk.snaps[snap].label)
        };
        let snaps_gone = self.snaps.iter().filter(snap_is_gone).count();
        if gone.is_empty() && snaps_gone == 0 {
            return;
        }
        assert_eq!(snaps_gone, self.snaps.len(), "half of {self:?}: {gone:?} are gone");
        self.apply(world, &gone);
        world.count("deletes that outlived their asker");
    }
}

impl Life {
    pub async fn delete_any(&self, rng: &mut SimRng) {
        let deletion = Deletion::any(&self.world.borrow(), rng);
        let disks: BTreeSet<DiskKey> = deletion
            .candidates
            .iter()
            .copied()
            .chain(deletion.snaps.iter().map(|(disk, _)| *disk))
            .collect();
        let disks: Vec<DiskKey> = disks.into_iter().collect();
        if disks.is_empty() {
            return;
        }
        // Guests go on writing to disks that only lose snapshots.
        let Some(_taken) = (match deletion.disks.is_empty() {
            true => Taken::take(&self.world, &disks),
            false => self.exclusively(rng, &disks).await,
        }) else {
            return;
        };
        self.count(deletion.what());
        let names = deletion.names(&mut self.world.borrow_mut());
        let held = deletion.is_held(&self.world.borrow());
        let read = disks.iter().any(|disk| self.world.borrow_mut().disk(*disk).readers > 0);
        let options = DeleteOptions { recursive: deletion.recursive, dry_run: false };
        let asked = self.ask(Verb::Delete(deletion.clone()));
        match self.engine.delete(&names, options).await {
            Ok(report) => {
                self.forget(asked);
                self.check_deleted(&deletion, &report.deleted);
            }
            Err(error) if error.kind() == ErrorKind::Refused => {
                assert!(held, "refused without reason: {error}");
                self.forget(asked);
            }
            Err(error) if error.kind() == ErrorKind::InUse => {
                assert!(read, "refused, and nobody reads: {error}");
                self.forget(asked);
            }
            Err(error) => self.delete_refused(asked, &error).await,
        }
    }

    fn check_deleted(&self, deletion: &Deletion, deleted: &[String]) {
        let mut world = self.world.borrow_mut();
        let told: BTreeSet<String> = deleted.iter().cloned().collect();
        assert_eq!(told.len(), deleted.len(), "told twice: {deleted:?}");
        let is_told = |key: &DiskKey| told.contains(&world.disks[key].name);
        let gone: BTreeSet<DiskKey> = deletion.candidates.iter().copied().filter(is_told).collect();
        assert_eq!(deletion.apply(&mut world, &gone), told, "of {deletion:?}");
    }

    async fn delete_refused(&self, asked: Tick, error: &EngineError) {
        assert_ne!(error.kind(), ErrorKind::Full, "a delete was refused for want of space");
        self.refused(asked, "delete", error).await;
    }
}
