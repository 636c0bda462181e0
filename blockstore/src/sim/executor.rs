//! Runs a simulated machine: polls what is ready, in an order of the seed's choosing, and moves
//! the clock when nothing is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::core::{Core, NothingToDo, lock};
use super::device::{DeviceState, SimDevice};
use super::image::{CrashKind, SimImage};
use super::rng::SimRng;
use super::runtime::{SimRuntime, take_all_spawned, take_spawned};
use crate::addr::BlockCount;
use crate::device::Task;

/// The number of the future that [`Sim::run`] drives.
const MAIN: u64 = 0;
/// A turn takes about a microsecond: more than this is a program that does not end.
const TURNS_MAX: u64 = 20_000_000;

/// The clock never runs further than this ahead of tasks that are ready.
const RUSH_MAX: Duration = Duration::from_micros(500);

/// Numbers simulations, to tell apart those of one thread. Never reaches their behaviour.
static SIMULATIONS: AtomicU64 = AtomicU64::new(0);

/// The device has reached the operation at which [`Sim::stop_after`] stops the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped;

/// A simulated machine. It lives through any number of crashes; its clock, its dice and its
/// trace go on.
///
/// ```ignore
/// let sim = Sim::new(seed);
/// let device = sim.create_device(BlockCount(1024));
/// sim.run(use_it(device, sim.runtime()));
/// let device = sim.open_device(sim.crash(CrashKind::PowerCut));
/// sim.run(recover_it(device, sim.runtime()));
/// ```
pub struct Sim {
    seed: u64,
    number: u64,
    core: Arc<Mutex<Core>>,
    ready: Arc<ReadyQueue>,
    tasks: RefCell<BTreeMap<u64, (Task, Arc<TaskWaker>)>>,
    running: Cell<bool>,
}

impl Sim {
    /// A machine whose every choice follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            number: SIMULATIONS.fetch_add(1, Ordering::Relaxed),
            core: Arc::new(Mutex::new(Core::new(seed))),
            ready: Arc::new(ReadyQueue::new()),
            tasks: RefCell::default(),
            running: Cell::new(false),
        }
    }

    /// What it was made from.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// A stream of random numbers for the test itself.
    pub fn fork_rng(&self) -> SimRng {
        lock(&self.core).rng.fork()
    }

    /// The runtime of this life of the machine.
    pub fn runtime(&self) -> Arc<SimRuntime> {
        let life = lock(&self.core).life;
        let (core, ready) = (Arc::clone(&self.core), Arc::clone(&self.ready));
        Arc::new(SimRuntime::new(core, ready, self.number, life))
    }

    /// A new sparse file.
    pub fn create_device(&self, blocks: BlockCount) -> Arc<SimDevice> {
        self.open_device(SimImage::zeroed(blocks))
    }

    /// A device that holds `image`.
    pub fn open_device(&self, image: SimImage) -> Arc<SimDevice> {
        let mut core = lock(&self.core);
        let rng = core.rng.fork();
        core.devices.push(DeviceState::new(image, rng));
        let index = core.devices.len() - 1;
        Arc::new(SimDevice::new(Arc::clone(&self.core), core.life, index))
    }

    /// Runs the machine until `future` completes. Other tasks stay where they are then.
    ///
    /// # Panics
    /// Where `future` waits for what never happens, or the machine stops before it completes.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.run_until_stop(future).expect("the machine was told to stop before the end")
    }

    /// As [`Self::run`], but ends early, `future` dropped, where [`Self::stop_after`] says so.
    ///
    /// # Errors
    /// [`Stopped`] in that case.
    ///
    /// # Panics
    /// Where `future` waits for what never happens.
    pub fn run_until_stop<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        assert!(!self.running.replace(true), "a simulation does not run inside itself");
        let epitaph = Epitaph { sim: self };
        let outcome = self.drive(pin!(future));
        drop(epitaph);
        outcome
    }

    fn drive<F: Future>(&self, mut main: Pin<&mut F>) -> Result<F::Output, Stopped> {
        let waker = self.ready.waker(MAIN);
        waker.wake_by_ref();
        for _ in 0..TURNS_MAX {
            let turn = Turn::begin(self);
            for task in turn.batch() {
                if task != MAIN {
                    self.poll_task(task);
                } else if let Poll::Ready(output) = poll(main.as_mut(), &waker) {
                    return Ok(output);
                }
                if lock(&self.core).stopped() {
                    return Err(Stopped);
                }
            }
            drop(turn);
            self.let_time_pass()?;
        }
        panic!("no end in sight after {TURNS_MAX} turns");
    }

    fn poll_task(&self, number: u64) {
        let known = self.tasks.borrow_mut().remove(&number);
        let known = known.or_else(|| {
            take_spawned(self.number, number).map(|task| (task, self.ready.waker(number)))
        });
        // A waker may outlive its task.
        let Some((mut task, waker)) = known else { return };
        if poll(task.as_mut(), &waker).is_pending() {
            self.tasks.borrow_mut().insert(number, (task, waker));
        }
    }

    /// When nobody is ready the next event happens; sometimes it does not wait for that.
    fn let_time_pass(&self) -> Result<(), Stopped> {
        let mut core = lock(&self.core);
        let idle = self.ready.is_empty() && core.yielded.is_empty();
        let rushes = core.rng.chance(1, 8) && core.next_in() <= Some(RUSH_MAX);
        if !idle && !rushes {
            return Ok(());
        }
        let woken = core.advance();
        let stopped = core.stopped();
        drop(core);
        match woken {
            Ok(waker) => waker.into_iter().for_each(Waker::wake),
            Err(NothingToDo) => assert!(!idle, "deadlock: {}", self.what_waits()),
        }
        if stopped { Err(Stopped) } else { Ok(()) }
    }

    fn what_waits(&self) -> String {
        let core = lock(&self.core);
        let frozen: usize = core.devices.iter().map(DeviceState::frozen_operations).sum();
        let tasks = self.tasks.borrow().len();
        format!("{tasks} tasks wait, no timer runs, {frozen} operations are held by a freeze")
    }

    /// Stops the machine for [`Self::run_until_stop`] after `events` more beginnings and
    /// completions of device operations: what is begun afterwards in the same breath never
    /// reaches the device.
    ///
    /// # Panics
    /// Where `events` is zero.
    pub fn stop_after(&self, events: u64) {
        assert!(events > 0, "to stop at once, crash");
        lock(&self.core).stop_after = Some(events);
    }

    /// Takes back [`Self::stop_after`].
    pub fn never_stop(&self) {
        lock(&self.core).stop_after = None;
    }

    /// Ends this life of the machine: every task is dropped, every handle is dead.
    ///
    /// # Panics
    /// Where the machine has not exactly one device.
    pub fn crash(&self, kind: CrashKind) -> SimImage {
        let mut images = self.crash_all(kind);
        assert_eq!(images.len(), 1, "with several devices use crash_all");
        images.remove(0)
    }

    /// As [`Self::crash`], for any number of devices, in the order in which they were opened.
    ///
    /// # Panics
    /// From inside a task.
    pub fn crash_all(&self, kind: CrashKind) -> Vec<SimImage> {
        assert!(!self.running.get(), "a task cannot survive its own machine's crash");
        self.end_life().into_iter().map(|device| device.crashed(kind)).collect()
    }

    fn end_life(&self) -> Vec<DeviceState> {
        let (devices, wakers) = lock(&self.core).end_life();
        // The devices are gone already: what the tasks ask for as they are dropped never happens.
        drop(wakers);
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        drop(take_all_spawned(self.number));
        self.ready.take();
        devices
    }

    /// A digest of every operation and of every byte read so far: equal for equal runs.
    pub fn digest(&self) -> u64 {
        lock(&self.core).trace.digest()
    }

    /// How many device operations have begun or completed so far, as [`Self::stop_after`] counts.
    pub fn events(&self) -> u64 {
        lock(&self.core).trace.events()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        drop(self.end_life());
    }
}

/// One round of everybody who is ready; what it did not come to when it is dropped stays ready.
struct Turn<'a> {
    sim: &'a Sim,
    batch: RefCell<std::vec::IntoIter<u64>>,
    yielded: Vec<Waker>,
}

impl<'a> Turn<'a> {
    fn begin(sim: &'a Sim) -> Self {
        let mut batch = sim.ready.take();
        let mut core = lock(&sim.core);
        core.rng.shuffle(&mut batch);
        let yielded = std::mem::take(&mut core.yielded);
        Self { sim, batch: RefCell::new(batch.into_iter()), yielded }
    }

    fn batch(&self) -> impl Iterator<Item = u64> {
        std::iter::from_fn(|| self.batch.borrow_mut().next())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let left: Vec<u64> = self.batch.get_mut().collect();
        if !left.is_empty() {
            lock(&self.sim.ready.queue).splice(0..0, left);
            lock(&self.sim.core).yielded.append(&mut self.yielded);
            return;
        }
        // Everybody who was ready when these gave way has had a turn.
        lock(&self.sim.core).turn += 1;
        self.yielded.drain(..).for_each(Waker::wake);
    }
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Arc<TaskWaker>) -> Poll<F::Output> {
    waker.queued.store(false, Ordering::Relaxed);
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(waker))))
}

/// Says, when a test fails, how to see it fail again.
struct Epitaph<'a> {
    sim: &'a Sim,
}

impl Drop for Epitaph<'_> {
    fn drop(&mut self) {
        self.sim.running.set(false);
        if thread::panicking() {
            let core = lock(&self.sim.core);
            eprintln!(
                "simulation seed {}; at {:?}, after:\n{}",
                self.sim.seed, core.now, core.trace
            );
        }
    }
}

/// Who is to be polled, first come first.
pub(super) struct ReadyQueue {
    queue: Mutex<Vec<u64>>,
    next_task: AtomicU64,
    thread: ThreadId,
}

impl ReadyQueue {
    fn new() -> Self {
        Self {
            queue: Mutex::default(),
            next_task: AtomicU64::new(MAIN + 1),
            thread: thread::current().id(),
        }
    }

    pub(super) fn is_own_thread(&self) -> bool {
        thread::current().id() == self.thread
    }

    /// A number for a new task, which is ready.
    pub(super) fn admit(&self) -> u64 {
        let number = self.next_task.fetch_add(1, Ordering::Relaxed);
        lock(&self.queue).push(number);
        number
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.queue))
    }

    fn is_empty(&self) -> bool {
        lock(&self.queue).is_empty()
    }

    fn waker(self: &Arc<Self>, task: u64) -> Arc<TaskWaker> {
        // A task admitted is queued already.
        let queued = AtomicBool::new(task != MAIN);
        Arc::new(TaskWaker { task, queued, ready: Arc::clone(self) })
    }
}

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&self.ready.queue).push(self.task);
        }
    }
}
