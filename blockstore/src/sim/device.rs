//! A disk that takes its time, mixes up the order and fails on request.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::core::{Core, Event, Moment, TraceEntry, lock};
use super::faults::{Faults, Mishap, Planned};
use super::image::{Change, ChangeOrder, SimImage};
use super::pages::Page;
use super::rng::SimRng;
use crate::addr::{BLOCK_BYTES, BlockAddr, BlockCount, BlockRun, to_u64};
use crate::buffer::{BlockBuf, BlockSlice};
use crate::device::{Device, DeviceError, DeviceFault, IoFuture, Operation};

/// What a device has been asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceStats {
    /// Reads begun.
    pub reads: u64,
    /// Writes begun.
    pub writes: u64,
    /// Syncs begun.
    pub syncs: u64,
    /// Discards begun.
    pub discards: u64,
    /// Blocks in those reads.
    pub blocks_read: u64,
    /// Blocks in those writes.
    pub blocks_written: u64,
}

/// A simulated medium. Of the handles, those made before a crash are dead: what they are asked
/// never happens and is never answered.
#[derive(Clone)]
pub struct SimDevice {
    core: Arc<Mutex<Core>>,
    life: u64,
    index: usize,
}

/// A device as the simulation sees it.
pub(super) struct DeviceState {
    pub(super) image: SimImage,
    pub(super) rng: SimRng,
    pub(super) faults: Faults,
    pub(super) planned: Vec<Planned>,
    pub(super) unreadable: BTreeSet<u64>,
    pub(super) under_way: BTreeMap<u64, UnderWay>,
    frozen: bool,
    /// Due, but frozen.
    held: Vec<u64>,
    next_operation: u64,
    stats: DeviceStats,
}

/// An operation that has not been answered.
pub(super) struct UnderWay {
    pub(super) work: Work,
    pub(super) mishap: Option<Mishap>,
    answer: Arc<Mutex<Answer>>,
}

/// What an operation is to do.
pub(super) enum Work {
    /// `early` is what the blocks held when the read began.
    Read { at: u64, early: Vec<Page> },
    /// `data` goes to the blocks from `at` on.
    Write { at: u64, data: BlockSlice },
    /// Everything before `mark` becomes durable.
    Sync { mark: ChangeOrder },
    /// These blocks are nobody's.
    Discard { at: u64, count: u64 },
    /// So many blocks.
    Grow { to: u64 },
}

/// Outcome of an operation; only reads bring a buffer.
pub(super) type Outcome = Result<Option<BlockBuf>, DeviceFault>;

#[derive(Default)]
struct Answer {
    outcome: Option<Result<Option<BlockBuf>, DeviceError>>,
    waker: Option<Waker>,
}

impl Work {
    pub(super) const fn operation(&self) -> Operation {
        match self {
            Self::Read { .. } => Operation::Read,
            Self::Write { .. } => Operation::Write,
            Self::Sync { .. } => Operation::Sync,
            Self::Discard { .. } => Operation::Discard,
            Self::Grow { .. } => Operation::Grow,
        }
    }

    /// First block and number of blocks.
    pub(super) fn span(&self) -> (u64, u64) {
        match self {
            Self::Read { at, early } => (*at, to_u64(early.len())),
            Self::Write { at, data } => (*at, to_u64(data.block_count())),
            Self::Discard { at, count } => (*at, *count),
            Self::Sync { .. } => (0, 0),
            Self::Grow { to } => (*to, 0),
        }
    }

    const fn changes_blocks(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Discard { .. })
    }
}

impl DeviceState {
    pub(super) fn new(image: SimImage, rng: SimRng) -> Self {
        Self {
            image,
            rng,
            faults: Faults::default(),
            planned: Vec::new(),
            unreadable: BTreeSet::new(),
            under_way: BTreeMap::new(),
            frozen: false,
            held: Vec::new(),
            next_operation: 0,
            stats: DeviceStats::default(),
        }
    }

    pub(super) fn frozen_operations(&self) -> usize {
        self.held.len()
    }

    /// What a crash at this moment leaves.
    pub(super) fn crashed(mut self, kind: super::CrashKind) -> SimImage {
        let mut changes = Vec::new();
        for operation in std::mem::take(&mut self.under_way).into_values() {
            changes.extend(self.change_of(&operation.work));
        }
        self.image.crashed(kind, changes, &mut self.rng)
    }

    /// What an operation does to the medium when all goes well.
    pub(super) fn change_of(&mut self, work: &Work) -> Option<Change> {
        match work {
            Work::Write { at, data } => {
                let blocks = data.chunks(BLOCK_BYTES);
                let pages = blocks.map(Page::copy_of).collect();
                Some(Change::Pages { at: *at, pages })
            }
            Work::Discard { at, count } => {
                let (image, rng) = (&self.image, &mut self.rng);
                let left = |block| image.page(block).discarded(rng);
                Some(Change::Pages { at: *at, pages: (*at..at + count).map(left).collect() })
            }
            Work::Grow { to } => Some(Change::Length(*to)),
            Work::Read { .. } | Work::Sync { .. } => None,
        }
    }

    fn count(&mut self, work: &Work) {
        let (_, blocks) = work.span();
        match work.operation() {
            Operation::Read => {
                self.stats.reads += 1;
                self.stats.blocks_read += blocks;
            }
            Operation::Write => {
                self.stats.writes += 1;
                self.stats.blocks_written += blocks;
            }
            Operation::Sync => self.stats.syncs += 1,
            Operation::Discard => self.stats.discards += 1,
            Operation::Grow | Operation::Reserve => {}
        }
    }

    /// # Panics
    /// Where a write meets another under way: what the blocks hold then is nobody's guess.
    fn refuse_overlap(&self, work: &Work) {
        let (at, count) = work.span();
        for other in self.under_way.values().map(|operation| &operation.work) {
            let (start, blocks) = other.span();
            let apart = at + count <= start || start + blocks <= at;
            assert!(
                apart || !other.changes_blocks(),
                "{} of {at}+{count} overlaps a {} of {start}+{blocks} that is under way",
                work.operation(),
                other.operation(),
            );
        }
    }

    fn delay(&mut self, operation: Operation) -> Duration {
        let micros = match self.rng.below(16) {
            0 => 0,
            1 => self.rng.below(20_000),
            _ => 20 + self.rng.below(200),
        };
        let slower = if operation == Operation::Sync { 3 } else { 1 };
        Duration::from_micros(micros * slower)
    }
}

impl Core {
    /// The state behind a handle; `None` where the handle is from before a crash.
    fn device_of(&mut self, handle: &SimDevice) -> Option<&mut DeviceState> {
        if self.life == handle.life { self.devices.get_mut(handle.index) } else { None }
    }

    /// Begins an operation. `None`: the machine is dead or stopped, and nothing ever comes of it.
    fn begin(&mut self, index: usize, work: Work) -> Option<Arc<Mutex<Answer>>> {
        if self.stopped() {
            return None;
        }
        let device = self.devices.get_mut(index)?;
        if work.changes_blocks() {
            device.refuse_overlap(&work);
        }
        device.count(&work);
        let operation = device.next_operation;
        device.next_operation += 1;
        let due = self.now + device.delay(work.operation());
        let (mishap, answer) = (device.pick_mishap(work.operation()), Arc::default());
        let entry = entry(Moment::Begins, index, operation, &work);
        let under_way = UnderWay { work, mishap, answer: Arc::clone(&answer) };
        device.under_way.insert(operation, under_way);
        self.schedule(due, Event::Io { device: index, operation });
        self.note(entry);
        Some(answer)
    }

    /// An operation is due.
    pub(super) fn complete(&mut self, index: usize, operation: u64) -> Option<Waker> {
        let device = &mut self.devices[index];
        if device.frozen {
            device.held.push(operation);
            return None;
        }
        let UnderWay { work, mishap, answer } = device.under_way.remove(&operation)?;
        let outcome = device.carry_out(&work, mishap);
        let moment = if outcome.is_ok() { Moment::Done } else { Moment::Failed };
        if let Ok(Some(bytes)) = &outcome {
            self.trace.mix(u64::from(crc32fast::hash(bytes)));
        }
        self.note(entry(moment, index, operation, &work));
        let mut answer = lock(&answer);
        answer.outcome = Some(outcome.map_err(|kind| error(&work, kind)));
        answer.waker.take()
    }
}

fn entry(moment: Moment, device: usize, operation: u64, work: &Work) -> TraceEntry {
    let (at, count) = work.span();
    TraceEntry { moment, what: work.operation(), device, operation, at, count }
}

fn error(work: &Work, kind: DeviceFault) -> DeviceError {
    let (at, run_count) = work.span();
    let at = BlockAddr::new(at).unwrap_or(BlockAddr::MAX);
    DeviceError { operation: work.operation(), at, run_count, kind }
}

impl SimDevice {
    pub(super) fn new(core: Arc<Mutex<Core>>, life: u64, index: usize) -> Self {
        Self { core, life, index }
    }

    /// Has things go wrong at random from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.with(|device| device.faults = faults);
    }

    /// Has one operation of this kind go wrong, after `after` more that do not.
    pub fn plan(&self, operation: Operation, after: u64, mishap: Mishap) {
        self.with(|device| device.planned.push(Planned { operation, after, mishap }));
    }

    /// Makes a block unreadable until it is written again.
    pub fn make_unreadable(&self, at: BlockAddr) {
        self.with(|device| device.unreadable.insert(at.raw()));
    }

    /// Changes one block behind everybody's back: bit rot.
    pub fn damage(&self, at: BlockAddr, change: impl FnOnce(&mut [u8; BLOCK_BYTES])) {
        self.with(|device| device.image.damage(at, change));
    }

    /// Holds every answer back until [`Self::thaw`].
    pub fn freeze(&self) {
        self.with(|device| device.frozen = true);
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        let mut core = lock(&self.core);
        let now = core.now;
        if let Some(device) = core.device_of(self) {
            device.frozen = false;
            for operation in std::mem::take(&mut device.held) {
                core.schedule(now, Event::Io { device: self.index, operation });
            }
        }
    }

    /// What it holds now, as a process that reads it would see it.
    ///
    /// # Panics
    /// After a crash: the crash has handed the image out.
    pub fn image(&self) -> SimImage {
        self.with(|device| device.image.clone())
    }

    /// What it has been asked so far.
    ///
    /// # Panics
    /// After a crash.
    pub fn stats(&self) -> DeviceStats {
        self.with(|device| device.stats)
    }

    fn with<R>(&self, act: impl FnOnce(&mut DeviceState) -> R) -> R {
        let mut core = lock(&self.core);
        act(core.device_of(self).expect("this device belongs to a machine that has crashed"))
    }

    fn begin(&self, make: impl FnOnce(&DeviceState) -> Result<Work, DeviceError>) -> Begun {
        let mut core = lock(&self.core);
        let Some(device) = core.device_of(self) else { return Begun::Never };
        match make(device) {
            Err(error) => Begun::Refused(Some(error)),
            Ok(work) => core.begin(self.index, work).map_or(Begun::Never, Begun::UnderWay),
        }
    }

    fn begin_unit(
        &self,
        make: impl FnOnce(&DeviceState) -> Result<Work, DeviceError>,
    ) -> IoFuture<()> {
        let begun = self.begin(make);
        Box::pin(async move { begun.await.map(drop) })
    }
}

/// Refuses what lies beyond the end.
fn in_range(device: &DeviceState, work: Work) -> Result<Work, DeviceError> {
    let (at, count) = work.span();
    let end = device.image.block_count().0;
    if at.checked_add(count).is_some_and(|last| last <= end) {
        Ok(work)
    } else {
        Err(error(&work, DeviceFault::OutOfRange))
    }
}

impl Device for SimDevice {
    fn block_count(&self) -> BlockCount {
        let mut core = lock(&self.core);
        core.device_of(self).map_or(BlockCount(0), |device| device.image.block_count())
    }

    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf> {
        let at = at.raw();
        let begun = self.begin(|device| {
            let blocks = at..at.saturating_add(to_u64(count));
            let early = blocks.map(|block| device.image.page(block)).collect();
            in_range(device, Work::Read { at, early })
        });
        Box::pin(async move { begun.await.map(Option::unwrap_or_default) })
    }

    fn write(&self, at: BlockAddr, data: BlockSlice) -> IoFuture<()> {
        self.begin_unit(|device| in_range(device, Work::Write { at: at.raw(), data }))
    }

    fn sync(&self) -> IoFuture<()> {
        self.begin_unit(|device| Ok(Work::Sync { mark: device.image.sync_mark() }))
    }

    fn discard(&self, run: BlockRun) -> IoFuture<()> {
        let (at, count) = (run.start.raw(), run.count);
        self.begin_unit(|device| in_range(device, Work::Discard { at, count }))
    }

    fn is_sparse(&self) -> bool {
        true
    }

    fn reserve(&self, run: BlockRun) -> IoFuture<()> {
        let (at, count) = (run.start.raw(), run.count);
        let room = self.with(|device| device.reserve(at, count));
        let refused = DeviceError {
            operation: Operation::Reserve,
            at: run.start,
            run_count: run.count,
            kind: DeviceFault::NoSpace,
        };
        Box::pin(async move { if room { Ok(()) } else { Err(refused) } })
    }

    fn grow(&self, to: BlockCount) -> IoFuture<()> {
        self.begin_unit(|device| Ok(Work::Grow { to: to.0.max(device.image.block_count().0) }))
    }
}

/// An operation as its caller sees it.
enum Begun {
    UnderWay(Arc<Mutex<Answer>>),
    Refused(Option<DeviceError>),
    /// The machine is dead.
    Never,
}

impl Future for Begun {
    type Output = Result<Option<BlockBuf>, DeviceError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Never => Poll::Pending,
            Self::Refused(error) => {
                Poll::Ready(Err(error.take().expect("polled after it had completed")))
            }
            Self::UnderWay(answer) => {
                let mut answer = lock(answer);
                if let Some(outcome) = answer.outcome.take() {
                    return Poll::Ready(outcome);
                }
                answer.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
