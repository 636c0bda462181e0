//! The plain model: what disks and snapshots there are, and what each may hold.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use bough_blockstore::sim::SimRng;
use bough_radix::{Disk, DiskName, SnapshotName, VersionName};

use crate::content::Stamp;
use crate::delete::Deletion;
use crate::layout::dense_len;
use crate::oracle::{Log, Tick, Verdict};
use crate::shape::pick;

/// A disk, for the model: never used again once deleted.
pub type DiskKey = u32;
/// A snapshot, likewise.
pub type SnapKey = u32;

/// A disk.
pub struct ModelDisk {
    pub name: String,
    pub size_sectors: u64,
    pub log: Log,
    /// Changes when the head is replaced.
    pub lineage: u32,
    pub snaps: BTreeMap<SnapKey, Snap>,
    /// Disks that it comes from, through whatever was cloned.
    pub ancestors: BTreeSet<DiskKey>,
    /// The snapshot that it was cloned from.
    pub origin: Option<SnapKey>,
    /// Whether a verb is under way.
    pub verb: bool,
    /// Whether a verb keeps I/O away.
    pub exclusive: bool,
    pub io_under_way: u64,
    /// Readers held open of it, or of a snapshot of it.
    pub readers: u64,
    /// The engine's disk, in this life.
    pub handle: Option<Arc<Disk>>,
}

/// A snapshot.
#[derive(Clone)]
pub struct Snap {
    pub label: String,
    pub size_sectors: u64,
    pub sealed: bool,
    pub content: Content,
}

/// What a snapshot holds.
#[derive(Clone)]
pub enum Content {
    /// It has been read.
    Known(Rc<Vec<Stamp>>),
    /// Writes were under way when it was taken.
    Open(Rc<OpenContent>),
}

/// What a snapshot that nobody has read may hold.
pub struct OpenContent {
    pub log: Log,
    /// Everything answered by then is in it.
    pub must: Tick,
    /// Nothing asked for after that is in it.
    pub before: Tick,
    pub lineage: u32,
    /// What is known of the instant, by all that were taken at it.
    pub instant: Rc<Cell<Verdict>>,
}

/// A verb that has been asked for and not answered.
#[derive(Clone, Debug)]
pub enum Verb {
    Create {
        name: String,
        size_sectors: u64,
    },
    Snapshot {
        targets: Vec<(DiskKey, String)>,
    },
    Clone {
        disk: DiskKey,
        snap: SnapKey,
        names: Vec<String>,
    },
    /// The first disk is the one named; the others may go along.
    Delete(Deletion),
    Rollback {
        disk: DiskKey,
        snap: SnapKey,
    },
    RenameDisk {
        disk: DiskKey,
        to: String,
    },
    RenameSnap {
        disk: DiskKey,
        snap: SnapKey,
        to: String,
    },
    Resize {
        disk: DiskKey,
        to_sectors: u64,
    },
    Seal {
        disk: DiskKey,
        snap: SnapKey,
        sealed: bool,
    },
}

/// A verb under way, or answered and not yet in the model.
#[derive(Clone, Debug)]
pub struct Asked {
    pub verb: Verb,
    pub answered: bool,
}

/// Everything.
#[derive(Default)]
pub struct World {
    tick: Tick,
    next_stamp: Stamp,
    next_key: u32,
    pub disks: BTreeMap<DiskKey, ModelDisk>,
    /// By the moment of asking.
    pub verbs: BTreeMap<Tick, Asked>,
    /// What was done, and how often.
    pub mix: BTreeMap<&'static str, u64>,
    /// Something failed that halts a disk or the store: only reopening helps.
    pub halted: bool,
    /// A disk that does nothing but fill the store.
    pub ballast: Option<String>,
    /// Operations that this life may still begin.
    pub ops_left: u64,
}

/// Tells what happens, where `BOUGH_MODEL_TRACE` asks for it.
pub fn trace(what: impl FnOnce() -> String) {
    static WANTED: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("BOUGH_MODEL_TRACE").is_some());
    if *WANTED {
        eprintln!("{}", what());
    }
}

pub type Shared = Rc<RefCell<World>>;

impl World {
    pub fn tick(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    pub fn stamp(&mut self) -> Stamp {
        self.next_stamp += 1;
        self.next_stamp
    }

    pub fn key(&mut self) -> u32 {
        self.next_key += 1;
        self.next_key
    }

    pub fn name(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.key())
    }

    pub fn count(&mut self, what: &'static str) {
        *self.mix.entry(what).or_default() += 1;
    }

    pub fn disk(&mut self, key: DiskKey) -> &mut ModelDisk {
        self.disks.get_mut(&key).expect("whoever names a disk keeps it")
    }

    pub fn snap(&mut self, disk: DiskKey, snap: SnapKey) -> &mut Snap {
        self.disk(disk).snaps.get_mut(&snap).expect("whoever names a snapshot keeps it")
    }

    /// Any disk that passes.
    pub fn any_disk(
        &self,
        rng: &mut SimRng,
        passes: impl Fn(&ModelDisk) -> bool,
    ) -> Option<DiskKey> {
        let keys: Vec<DiskKey> =
            self.disks.iter().filter(|(_, disk)| passes(disk)).map(|(key, _)| *key).collect();
        (!keys.is_empty()).then(|| keys[pick(rng, keys.len())])
    }

    /// Any snapshot of a disk on which no verb is under way.
    pub fn any_snap(&self, rng: &mut SimRng) -> Option<(DiskKey, SnapKey)> {
        let all: Vec<(DiskKey, SnapKey)> = self
            .disks
            .iter()
            .filter(|(_, disk)| !disk.verb)
            .flat_map(|(key, disk)| disk.snaps.keys().map(|snap| (*key, *snap)))
            .collect();
        (!all.is_empty()).then(|| all[pick(rng, all.len())])
    }

    pub fn snap_count(&self) -> usize {
        self.disks.values().map(|disk| disk.snaps.len()).sum()
    }

    /// A disk that begins with `values`.
    pub fn add_disk(&mut self, name: &str, size_sectors: u64, values: Rc<Vec<Stamp>>) -> DiskKey {
        assert_eq!(values.len(), dense_len(size_sectors));
        let (key, now) = (self.key(), self.tick());
        let disk = ModelDisk {
            name: name.to_owned(),
            size_sectors,
            log: Log::settled(values, now),
            lineage: 0,
            snaps: BTreeMap::new(),
            ancestors: BTreeSet::new(),
            origin: None,
            verb: false,
            exclusive: false,
            io_under_way: 0,
            readers: 0,
            handle: None,
        };
        self.disks.insert(key, disk);
        key
    }

    /// Disks that may come from `key`, and itself.
    pub fn with_descendants(&self, key: DiskKey) -> Vec<DiskKey> {
        let others =
            self.disks.iter().filter(|(_, disk)| disk.ancestors.contains(&key)).map(|(k, _)| *k);
        [key].into_iter().chain(others).collect()
    }

    /// A new life: of what was under way only the verbs are left, whose outcome is open.
    pub fn reset(&mut self) {
        self.halted = false;
        for disk in self.disks.values_mut() {
            disk.verb = false;
            disk.exclusive = false;
            disk.io_under_way = 0;
            disk.readers = 0;
            disk.handle = None;
        }
    }
}

impl ModelDisk {
    pub fn disk_name(&self) -> DiskName {
        self.name.parse().unwrap()
    }

    pub fn snap_name(&self, label: &str) -> SnapshotName {
        SnapshotName::new(self.disk_name(), label).unwrap()
    }

    pub fn version_of(&self, snap: SnapKey) -> VersionName {
        self.snap_name(&self.snaps[&snap].label).into()
    }

    /// Begins an operation, unless another is under way there.
    pub fn may_touch(&self, sectors: &[Range<usize>]) -> bool {
        !self.exclusive && !self.log.is_busy(sectors)
    }
}

/// Takes disks for a verb; gives them back when dropped.
pub struct Taken {
    world: Shared,
    keys: Vec<DiskKey>,
}

impl Taken {
    /// Keeps other verbs from the disks; `None` where one is under way.
    pub fn take(world: &Shared, keys: &[DiskKey]) -> Option<Self> {
        let mut all = world.borrow_mut();
        // On a store that has halted, what the last verbs did is open.
        if all.halted || keys.iter().any(|key| all.disks.get(key).is_none_or(|disk| disk.verb)) {
            return None;
        }
        for key in keys {
            all.disk(*key).verb = true;
        }
        drop(all);
        Some(Self { world: Rc::clone(world), keys: keys.to_vec() })
    }

    /// Keeps I/O away as well.
    pub fn exclude_io(&self) {
        let mut all = self.world.borrow_mut();
        for key in &self.keys {
            all.disk(*key).exclusive = true;
        }
    }

    pub fn is_quiet(&self) -> bool {
        let all = self.world.borrow();
        self.keys.iter().all(|key| all.disks[key].io_under_way == 0)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A test that panics with the model in its hands has reported itself.
        let Ok(mut all) = self.world.try_borrow_mut() else { return };
        for key in &self.keys {
            if let Some(disk) = all.disks.get_mut(key) {
                disk.verb = false;
                disk.exclusive = false;
            }
        }
    }
}
