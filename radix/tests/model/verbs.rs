//! Somebody at the command line: every verb of the engine, while guests do I/O.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use bough_blockstore::sim::SimRng;
use bough_radix::{EngineError, ErrorKind};

use crate::io::Life;
use crate::layout::{BLOCK_SECTORS, dense_len};
use crate::observe::observe_snap;
use crate::oracle::{Log, Tick, Verdict};
use crate::shape::pick;
use crate::world::{Asked, Content, DiskKey, OpenContent, Snap, SnapKey, Taken, Verb, trace};

const SECTOR: u64 = 512;
const DISKS_MAX: usize = 6;
const SNAPS_MAX: usize = 12;

/// A size that ends in, at or after a window, rarely on a block.
pub fn any_size(rng: &mut SimRng) -> u64 {
    let blocks = match rng.below(8) {
        0 => rng.below(4),
        1..4 => rng.below(64),
        4 | 5 => 200 + rng.below(100),
        6 => 65_520 + rng.below(32),
        _ => 300 + rng.below(70_000),
    };
    let tail = if rng.chance(1, 2) { 0 } else { rng.below(BLOCK_SECTORS) };
    (blocks * BLOCK_SECTORS + tail).max(1)
}

impl Life {
    /// An operator's life.
    pub async fn operator(self: Rc<Self>, mut rng: SimRng) {
        while self.begin_op() {
            self.pause(&mut rng).await;
            self.any_verb(&mut rng).await;
        }
    }

    async fn any_verb(&self, rng: &mut SimRng) {
        let (disks, snaps) = {
            let world = self.world.borrow();
            (world.disks.len(), world.snap_count())
        };
        if disks == 0 {
            return self.create(rng).await;
        }
        match rng.below(37) {
            0..2 if disks < DISKS_MAX => self.create(rng).await,
            2..9 if snaps < SNAPS_MAX => self.snapshot(rng).await,
            9..12 if disks < DISKS_MAX => self.clone_snap(rng).await,
            12..14 => self.rollback(rng).await,
            14..19 => self.delete_any(rng).await,
            19..22 => self.resize(rng).await,
            22 => self.rename(rng).await,
            23 | 24 => self.seal(rng).await,
            25..28 => self.read_snap(rng).await,
            28..30 => self.compare(rng).await,
            30 => self.read_head(rng).await,
            31 => self.check().await,
            32..35 => self.hold(rng).await,
            _ => self.look().await,
        }
    }

    pub fn ask(&self, verb: Verb) -> Tick {
        let mut world = self.world.borrow_mut();
        let asked = world.tick();
        trace(|| format!("{asked}: {verb:?}"));
        world.verbs.insert(asked, Asked { verb, answered: false });
        asked
    }

    pub fn answered(&self, asked: Tick) {
        let mut world = self.world.borrow_mut();
        world.verbs.get_mut(&asked).expect("it was asked").answered = true;
    }

    pub fn forget(&self, asked: Tick) {
        trace(|| format!("{asked} is settled"));
        self.world.borrow_mut().verbs.remove(&asked);
    }

    /// After a failure that is no bug, whether the verb happened may be open.
    pub async fn refused(&self, asked: Tick, what: &str, error: &EngineError) {
        self.excuse(what, error.kind(), error).await;
        if error.kind() == ErrorKind::Full {
            self.forget(asked);
        }
    }

    pub fn count(&self, what: &'static str) {
        self.world.borrow_mut().count(what);
    }

    pub async fn exclusively(&self, rng: &mut SimRng, keys: &[DiskKey]) -> Option<Taken> {
        let taken = Taken::take(&self.world, keys)?;
        taken.exclude_io();
        while !taken.is_quiet() {
            self.pause(rng).await;
        }
        (!self.world.borrow().halted).then_some(taken)
    }

    /// Opens a disk that the model has just been told of.
    pub async fn open_handle(&self, key: DiskKey) {
        let name = self.world.borrow_mut().disk(key).disk_name();
        match self.engine.disk(&name).await {
            Ok(disk) => self.world.borrow_mut().disk(key).handle = Some(disk),
            Err(error) => self.excuse("open disk", error.kind(), &error).await,
        }
    }

    async fn create(&self, rng: &mut SimRng) {
        let (name, size_sectors) = (self.world.borrow_mut().name("disk"), any_size(rng));
        self.count("create");
        let asked = self.ask(Verb::Create { name: name.clone(), size_sectors });
        match self.engine.create_disk(&name.parse().unwrap(), size_sectors * SECTOR).await {
            Ok(_) => {
                self.forget(asked);
                let values = Rc::new(vec![0; dense_len(size_sectors)]);
                let key = self.world.borrow_mut().add_disk(&name, size_sectors, values);
                self.open_handle(key).await;
            }
            Err(error) => self.refused(asked, "create", &error).await,
        }
    }

    async fn snapshot(&self, rng: &mut SimRng) {
        let mut keys = BTreeSet::new();
        for _ in 0..[1, 1, 2, 3][pick(rng, 4)] {
            keys.extend(self.world.borrow().any_disk(rng, |disk| !disk.verb));
        }
        let keys: Vec<DiskKey> = keys.into_iter().collect();
        let Some(_taken) = Taken::take(&self.world, &keys) else { return };
        let mut targets = Vec::new();
        for key in &keys {
            for _ in 0..if rng.chance(1, 6) { 2 } else { 1 } {
                targets.push((*key, self.world.borrow_mut().name("snap")));
            }
        }
        if targets.is_empty() {
            return;
        }
        self.count(if targets.len() > 1 { "group snapshot" } else { "snapshot" });
        let names: Vec<_> = {
            let mut world = self.world.borrow_mut();
            for key in &keys {
                world.disk(*key).log.pins += 1;
            }
            targets.iter().map(|(key, label)| world.disk(*key).snap_name(label)).collect()
        };
        let asked = self.ask(Verb::Snapshot { targets: targets.clone() });
        let done = self.engine.snapshot(&names).await;
        match &done {
            Ok(infos) => {
                assert_eq!(infos.len(), names.len());
                self.forget(asked);
                let now = self.world.borrow_mut().tick();
                self.add_snaps(&targets, asked, now);
            }
            Err(error) => self.refused(asked, "snapshot", error).await,
        }
        let mut world = self.world.borrow_mut();
        for key in &keys {
            let log = &mut world.disk(*key).log;
            log.pins -= 1;
            if done.is_ok() {
                // The chain up to the cut is durable with it.
                log.flushed = log.flushed.max(asked);
            }
            log.fold();
        }
    }

    pub fn add_snaps(&self, targets: &[(DiskKey, String)], asked: Tick, answered: Tick) {
        let instant = Rc::new(Cell::new(Verdict::default()));
        let mut world = self.world.borrow_mut();
        for (key, label) in targets {
            let snap_key = world.key();
            let disk = world.disk(*key);
            let content = Content::Open(Rc::new(OpenContent {
                log: disk.log.clone(),
                must: asked,
                before: answered,
                lineage: disk.lineage,
                instant: Rc::clone(&instant),
            }));
            let (label, size_sectors) = (label.clone(), disk.size_sectors);
            disk.snaps.insert(snap_key, Snap { label, size_sectors, sealed: false, content });
        }
    }

    async fn clone_snap(&self, rng: &mut SimRng) {
        let Some((disk, snap)) = self.world.borrow().any_snap(rng) else { return };
        let Some(_taken) = Taken::take(&self.world, &[disk]) else { return };
        let mut names = vec![self.world.borrow_mut().name("clone")];
        if rng.chance(1, 4) {
            names.push(self.world.borrow_mut().name("clone"));
        }
        self.count("clone");
        let source = self.world.borrow_mut().disk(disk).version_of(snap);
        let asked = self.ask(Verb::Clone { disk, snap, names: names.clone() });
        let parsed: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
        match self.engine.clone_disks(&source, &parsed).await {
            Ok(_) => {
                self.answered(asked);
                if self.observe(disk, snap).await {
                    self.forget(asked);
                    for name in &names {
                        let key = self.add_clone(disk, snap, name);
                        self.open_handle(key).await;
                    }
                }
            }
            Err(error) => self.refused(asked, "clone", &error).await,
        }
    }

    /// The snapshot has been read.
    pub fn add_clone(&self, disk: DiskKey, snap: SnapKey, name: &str) -> DiskKey {
        let mut world = self.world.borrow_mut();
        let Snap { size_sectors, content, .. } = world.snap(disk, snap).clone();
        let Content::Known(values) = content else { panic!("a clone's origin is read first") };
        let mut ancestors = world.disk(disk).ancestors.clone();
        ancestors.insert(disk);
        let key = world.add_disk(name, size_sectors, values);
        world.disk(key).ancestors = ancestors;
        world.disk(key).origin = Some(snap);
        key
    }

    async fn rollback(&self, rng: &mut SimRng) {
        let Some((disk, snap)) = self.world.borrow().any_snap(rng) else { return };
        let Some(_taken) = self.exclusively(rng, &[disk]).await else { return };
        self.count("rollback");
        let label = self.world.borrow_mut().snap(disk, snap).label.clone();
        let name = self.world.borrow_mut().disk(disk).snap_name(&label);
        if rng.chance(1, 4)
            && let Err(error) = self.engine.rollback(&name, true).await
        {
            return self.excuse("rollback -n", error.kind(), &error).await;
        }
        let asked = self.ask(Verb::Rollback { disk, snap });
        match self.engine.rollback(&name, false).await {
            Ok(_) => {
                self.answered(asked);
                if self.observe(disk, snap).await {
                    self.forget(asked);
                    self.apply_rollback(disk, snap);
                }
            }
            Err(error) => self.refused(asked, "rollback", &error).await,
        }
    }

    pub fn apply_rollback(&self, disk: DiskKey, snap: SnapKey) {
        let mut world = self.world.borrow_mut();
        let Snap { size_sectors, content, .. } = world.snap(disk, snap).clone();
        let Content::Known(values) = content else { panic!("it is read first") };
        let now = world.tick();
        let disk = world.disk(disk);
        disk.log = Log::settled(values, now);
        disk.size_sectors = size_sectors;
        disk.lineage += 1;
    }

    /// Reads a snapshot; whether that worked.
    pub async fn observe(&self, disk: DiskKey, snap: SnapKey) -> bool {
        let done = observe_snap(&self.engine, &self.world, disk, snap).await;
        if let Err(error) = &done {
            self.excuse("read snapshot", error.kind(), error).await;
        }
        done.is_ok()
    }

    async fn resize(&self, rng: &mut SimRng) {
        let Some(disk) = self.world.borrow().any_disk(rng, |disk| !disk.verb) else { return };
        let (name, from) = {
            let mut world = self.world.borrow_mut();
            let disk = world.disk(disk);
            (disk.disk_name(), disk.size_sectors)
        };
        let to_sectors = if rng.chance(1, 3) { from + 1 + rng.below(64) } else { any_size(rng) };
        let shrinks = to_sectors < from;
        let taken = if shrinks {
            self.exclusively(rng, &[disk]).await
        } else {
            Taken::take(&self.world, &[disk])
        };
        let Some(_taken) = taken else { return };
        self.count(if shrinks { "shrink" } else { "grow" });
        let asked = self.ask(Verb::Resize { disk, to_sectors });
        match self.engine.resize(&name, to_sectors * SECTOR, shrinks).await {
            Ok(info) => {
                assert_eq!(info.head.size_bytes, to_sectors * SECTOR);
                self.forget(asked);
                self.apply_resize(disk, to_sectors);
            }
            Err(error) => self.refused(asked, "resize", &error).await,
        }
    }

    pub fn apply_resize(&self, disk: DiskKey, to_sectors: u64) {
        let mut world = self.world.borrow_mut();
        let now = world.tick();
        let disk = world.disk(disk);
        disk.size_sectors = to_sectors;
        disk.log.resize(dense_len(to_sectors), now);
    }
}
