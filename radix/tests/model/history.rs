//! One history: several lives of one store, each ended by a crash or by closing it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bough_blockstore::sim::{CrashKind, Faults, Mishap, Sim, SimDevice, SimImage, SimRng};
use bough_blockstore::{Device, Operation, Runtime};
use bough_radix::{DeleteOptions, Engine, Tails, VersionName};

use crate::io::Life;
use crate::memory::Memory;
use crate::reconcile::Promise;
use crate::shape::{Shape, Trouble};
use crate::world::Shared;

const OPS_MIN: u64 = 200;
const CRASHES_MIN: u64 = 3;
const LIVES_MAX: u64 = 40;

/// What a history came to.
#[derive(Debug, Default)]
pub struct Summary {
    pub ops: u64,
    pub crashes: u64,
    /// One if a write was refused because the store, not its host, was full.
    pub full: u64,
    pub mix: BTreeMap<&'static str, u64>,
}

/// See the module's documentation.
struct History {
    sim: Sim,
    rng: SimRng,
    shape: Shape,
    memory: Arc<Memory>,
    world: Shared,
    summary: Summary,
    /// What the end of the last life promises.
    promise: Promise,
    used_at_start: u64,
}

/// Runs the history of `seed`; panics where the engine breaks a promise.
pub fn run(seed: u64) -> Summary {
    run_with(seed, |_| {})
}

/// As [`run`], of an engine that somebody has meddled with.
pub fn run_with(seed: u64, meddle: impl Fn(&mut Shape)) -> Summary {
    let sim = Sim::new(seed);
    let mut rng = sim.fork_rng();
    let mut shape = Shape::of(seed, &mut rng);
    meddle(&mut shape);
    let memory = Arc::<Memory>::default();
    if shape.keeps_memory {
        shape.config.tails = Some(Arc::clone(&memory) as Arc<dyn Tails>);
    }
    let mut history = History {
        sim,
        rng,
        shape,
        memory,
        world: Shared::default(),
        summary: Summary::default(),
        promise: Promise::Answered,
        used_at_start: 0,
    };
    let mut image = history.begin();
    for _ in 0..LIVES_MAX {
        image = history.live(image);
        let Summary { ops, crashes, .. } = history.summary;
        if ops >= OPS_MIN && crashes >= CRASHES_MIN {
            break;
        }
    }
    history.end(image);
    history.summary.mix = std::mem::take(&mut history.world.borrow_mut().mix);
    let refused = history.summary.mix.contains_key("refused: no space");
    history.summary.full = u64::from(refused && history.shape.trouble == Trouble::FullStore);
    std::mem::take(&mut history.summary)
}

impl History {
    /// A new store.
    fn begin(&mut self) -> SimImage {
        let image = if self.shape.used_before {
            SimImage::used_before(self.shape.store, self.sim.seed())
        } else {
            SimImage::zeroed(self.shape.store)
        };
        let device: Arc<dyn Device> = self.sim.open_device(image);
        let runtime: Arc<dyn Runtime> = self.sim.runtime();
        let config = self.shape.config.clone();
        self.used_at_start = self.sim.run(async {
            Engine::format(Arc::clone(&device), Arc::clone(&runtime)).await.unwrap();
            let engine = Engine::open(device, runtime, config).await.unwrap();
            let used = engine.status().await.unwrap().used_bytes;
            engine.close().await.unwrap();
            used
        });
        self.end_process(CrashKind::PowerCut)
    }

    fn end_process(&self, kind: CrashKind) -> SimImage {
        if kind == CrashKind::PowerCut {
            self.memory.clear();
        }
        self.sim.crash(kind)
    }

    fn crash(&mut self) -> SimImage {
        let kind = if self.rng.chance(1, 2) { CrashKind::Kill } else { CrashKind::PowerCut };
        if kind == CrashKind::PowerCut {
            self.promise = Promise::Flushed;
        }
        self.summary.crashes += 1;
        self.world.borrow_mut().count(match kind {
            CrashKind::Kill => "kill",
            CrashKind::PowerCut => "power cut",
        });
        self.end_process(kind)
    }

    /// Opens the store, maybe not at the first attempt, and compares it with the model.
    fn open(&mut self, mut image: SimImage) -> (Rc<Life>, Arc<SimDevice>) {
        let mut attempts = 0;
        loop {
            let device = self.sim.open_device(image);
            if attempts < 3 && self.rng.chance(1, 3) {
                self.sim.stop_after(1 + self.rng.below(400));
            }
            attempts += 1;
            let runtime: Arc<dyn Runtime> = self.sim.runtime();
            let as_device: Arc<dyn Device> = Arc::clone(&device) as Arc<dyn Device>;
            let config = self.shape.config.clone();
            let opening = Engine::open(as_device, Arc::clone(&runtime), config);
            match self.sim.run_until_stop(opening) {
                Ok(engine) => {
                    self.sim.never_stop();
                    let engine = engine.unwrap_or_else(|error| panic!("opening: {error}"));
                    self.world.borrow_mut().reset();
                    let world = Rc::clone(&self.world);
                    let shape = self.shape.clone();
                    let held = RefCell::default();
                    let life = Rc::new(Life { engine, world, runtime, shape, held });
                    self.sim.run(life.reconcile(self.promise));
                    self.promise = Promise::Answered;
                    return (life, device);
                }
                Err(_) => {
                    self.world.borrow_mut().count("crash in recovery");
                    image = self.crash();
                }
            }
        }
    }

    /// One life; what it leaves behind.
    fn live(&mut self, image: SimImage) -> SimImage {
        let (life, device) = self.open(image);
        if self.shape.trouble == Trouble::FullStore && self.world.borrow().ballast.is_none() {
            let slack = [0, 40, 150][crate::shape::pick(&mut self.rng, 3)];
            self.sim.run(life.load_ballast(slack));
        }
        self.make_trouble(&device);
        self.world.borrow_mut().ops_left = 30 + self.rng.below(90);
        let budget = self.world.borrow().ops_left;
        if self.rng.chance(3, 4) {
            let longest = [100, 1500, 6000][crate::shape::pick(&mut self.rng, 3)];
            self.sim.stop_after(1 + self.rng.below(longest));
        }
        let (guests, operators) = (self.shape.clients, 1 + self.rng.below(2));
        let mut tasks = Tasks::default();
        for _ in 0..guests {
            tasks.spawn(&life, Rc::clone(&life).guest(self.rng.fork()));
        }
        for _ in 0..operators {
            tasks.spawn(&life, Rc::clone(&life).operator(self.rng.fork()));
        }
        let ended = self.sim.run_until_stop(tasks.join(&life));
        self.sim.never_stop();
        self.summary.ops += budget - self.world.borrow().ops_left;
        let halted = self.world.borrow().halted;
        if halted && self.shape.trouble != Trouble::None {
            // What a failed sync was to make durable may be gone.
            self.promise = Promise::Flushed;
        }
        device_is_well(&device, ended.is_ok());
        if ended.is_ok() && !halted {
            if self.shape.trouble == Trouble::FullStore && self.rng.chance(1, 2) {
                self.sim.run(life.relieve());
            }
            if self.rng.chance(1, 4) {
                return self.close(&life);
            }
        }
        drop((life, device));
        self.crash()
    }

    fn close(&mut self, life: &Rc<Life>) -> SimImage {
        self.world.borrow_mut().count("close");
        life.held.borrow_mut().clear();
        if let Err(error) = self.sim.run(life.engine.close()) {
            // The failure that was to come in this life comes now.
            assert_eq!(self.shape.trouble, Trouble::Failures, "closing: {error}");
            self.promise = Promise::Flushed;
        }
        self.end_process(CrashKind::PowerCut)
    }

    fn make_trouble(&mut self, device: &SimDevice) {
        match self.shape.trouble {
            Trouble::FullHost if self.rng.chance(1, 2) => {
                let room = self.rng.below(200);
                let host_blocks = Some(device.image().allocated().0 + room);
                device.set_faults(Faults { host_blocks, ..Faults::default() });
            }
            Trouble::Failures if self.rng.chance(1, 2) => {
                let operation = [Operation::Write, Operation::Sync, Operation::Write]
                    [crate::shape::pick(&mut self.rng, 3)];
                device.plan(operation, self.rng.below(150), Mishap::Error);
            }
            _ => {}
        }
    }

    /// Everything is deleted, and all space comes back.
    fn end(&mut self, image: SimImage) {
        let (life, _device) = self.open(image);
        let used_at_start = self.used_at_start;
        self.sim.run(async {
            if life.world.borrow().ballast.is_some() {
                life.relieve().await;
            }
            life.engine.drain_reclaim().await.unwrap();
            life.check_counts().await;
            life.check_owned().await;
            life.delete_all().await;
            life.engine.drain_reclaim().await.unwrap();
            life.check_counts().await;
            let status = life.engine.status().await.unwrap();
            assert_eq!(status.used_bytes, used_at_start, "leaked: {status:?}");
            assert_eq!((status.reserved_bytes, status.reclaiming), (0, 0), "{status:?}");
        });
        let image = self.close(&life);
        drop(life);
        let (life, _device) = self.open(image);
        let status = self.sim.run(life.engine.status()).unwrap();
        assert_eq!(status.used_bytes, used_at_start, "leaked: {status:?}");
    }
}

fn device_is_well(device: &SimDevice, running: bool) {
    if running {
        device.set_faults(Faults::default());
    }
}

/// Tasks, and how many of them still run.
#[derive(Default)]
struct Tasks {
    left: Rc<std::cell::Cell<usize>>,
}

impl Tasks {
    fn spawn(&mut self, life: &Rc<Life>, task: impl Future<Output = ()> + 'static) {
        let left = Rc::clone(&self.left);
        left.set(left.get() + 1);
        life.runtime.spawn(Box::pin(async move {
            task.await;
            left.set(left.get() - 1);
        }));
    }

    async fn join(&self, life: &Rc<Life>) {
        while self.left.get() > 0 {
            life.runtime.sleep(Duration::from_micros(300)).await;
        }
    }
}

impl Life {
    /// Fills the store until no more than `slack` blocks are left for new data.
    async fn load_ballast(&self, slack: u64) {
        const STEP: usize = 16 * 4096;
        let name = self.world.borrow_mut().name("ballast");
        let parsed = name.parse().unwrap();
        let size_bytes = self.engine.status().await.unwrap().size_bytes;
        if let Err(error) = self.engine.create_disk(&parsed, size_bytes).await {
            return self.excuse("create ballast", error.kind(), &error).await;
        }
        self.world.borrow_mut().ballast = Some(name);
        let disk = self.engine.disk(&parsed).await.unwrap();
        for (offset, step) in (0..size_bytes).step_by(STEP).zip(0_u8..) {
            let status = self.engine.status().await.unwrap();
            if status.free_bytes.saturating_sub(status.reserved_bytes) / 4096 < slack {
                break;
            }
            let written = disk.write(offset, STEP, &mut |_, piece| piece.fill(step)).await;
            if let Err(error) = written {
                return self.excuse("write ballast", error.kind(), &error).await;
            }
        }
    }

    /// Deletes the ballast: that works on a full store, and makes writes work again.
    async fn relieve(&self) {
        let Some(name) = self.world.borrow_mut().ballast.take() else { return };
        self.world.borrow_mut().count("relief of a full store");
        self.held.borrow_mut().clear();
        self.delete(&name).await;
        self.engine.drain_reclaim().await.unwrap();
        let name = self.world.borrow_mut().name("relief");
        let parsed = name.parse().unwrap();
        self.engine.create_disk(&parsed, 1 << 20).await.unwrap();
        let disk = self.engine.disk(&parsed).await.unwrap();
        for block in 0..32 {
            let written = disk.write(block * 4096, 4096, &mut |_, piece| piece.fill(9)).await;
            if let Err(error) = written {
                let status = self.engine.status().await.unwrap();
                panic!("after the relief: {error}: {status:#?}");
            }
        }
        drop(disk);
        self.delete(&name).await;
    }

    async fn delete(&self, name: &str) {
        let name: VersionName = name.parse().unwrap();
        let options = DeleteOptions { recursive: true, dry_run: false };
        let deleted = self.engine.delete(&[name], options).await;
        deleted.unwrap_or_else(|error| panic!("deleting: {error}"));
    }

    async fn delete_all(&self) {
        let snaps: Vec<_> = {
            let mut world = self.world.borrow_mut();
            let all = world.disks.values_mut();
            let sealed = |disk: &crate::world::ModelDisk| {
                let sealed = disk.snaps.values().filter(|snap| snap.sealed);
                sealed.map(|snap| disk.snap_name(&snap.label)).collect::<Vec<_>>()
            };
            all.flat_map(|disk| sealed(disk)).collect()
        };
        for name in snaps {
            self.engine.set_sealed(&name, false).await.unwrap();
        }
        for disk in std::mem::take(&mut self.world.borrow_mut().disks).into_values() {
            drop(disk);
        }
        for disk in self.engine.list().await.unwrap() {
            // Another may have taken it along.
            let still = self.engine.list().await.unwrap();
            if still.iter().any(|other| other.name == disk.name) {
                self.delete(&disk.name).await;
            }
        }
    }

    /// Each block of data is owned by one version.
    async fn check_owned(&self) {
        let report = self.engine.check().await.unwrap();
        let tree = self.engine.tree().await.unwrap();
        let owned: u64 = tree.iter().map(|node| node.version.owned_bytes).sum();
        assert_eq!(owned, report.blocks * 4096, "what versions own, in all");
    }
}
