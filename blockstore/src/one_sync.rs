//! One sync at a time for a whole store, and nothing after one has failed.
//!
//! A kernel tells of a lost write once, to whichever sync comes first, and may have dropped what
//! it could not write. So no two syncs overlap: whoever asks while one runs waits for the next,
//! and shares it with all who ask meanwhile. And once one has failed, nothing is written or
//! synced any more: what completed before it may be gone, whosever it was.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::addr::{BlockAddr, BlockCount, BlockRun};
use crate::buffer::{BlockBuf, BlockSlice};
use crate::device::{Device, DeviceError, IoFuture, Runtime, WriteDone};

/// A device whose users share their syncs; see the module's documentation.
pub struct OneSync {
    inner: Arc<dyn Device>,
    runtime: Arc<dyn Runtime>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A sync has ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// Syncs asked for.
    asked: u64,
    /// Those that have been answered: a sync that began after them has ended well.
    answered: u64,
    running: bool,
    failed: Option<DeviceError>,
}

impl OneSync {
    /// Everything on `inner`; syncs run as tasks of `runtime`, so that nobody who goes away
    /// leaves one without an answer.
    pub fn new(inner: Arc<dyn Device>, runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self { inner, runtime, shared: Arc::default() })
    }

    fn failure(&self) -> Option<DeviceError> {
        self.shared.lock().failed.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> u64 {
        let mut state = self.lock();
        state.running = true;
        state.asked
    }

    fn end(&self, upto: u64, done: Result<(), DeviceError>) {
        {
            let mut state = self.lock();
            state.running = false;
            match done {
                Ok(()) => state.answered = upto,
                Err(error) => state.failed = Some(error),
            }
        }
        self.ended.notify_waiters();
    }
}

impl Device for OneSync {
    fn block_count(&self) -> BlockCount {
        self.inner.block_count()
    }

    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf> {
        self.inner.read(at, count)
    }

    fn read_mirror(&self, at: BlockAddr, count: usize) -> Option<IoFuture<BlockBuf>> {
        self.inner.read_mirror(at, count)
    }

    fn write(&self, at: BlockAddr, data: BlockSlice) -> IoFuture<()> {
        match self.failure() {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => self.inner.write(at, data),
        }
    }

    fn write_then(&self, runtime: &dyn Runtime, at: BlockAddr, data: BlockSlice, done: WriteDone) {
        match self.failure() {
            Some(error) => runtime.defer(Box::new(move || done(Err(error)))),
            None => self.inner.write_then(runtime, at, data, done),
        }
    }

    fn sync(&self) -> IoFuture<()> {
        let mine = {
            let mut state = self.shared.lock();
            state.asked += 1;
            state.asked
        };
        let (inner, runtime) = (Arc::clone(&self.inner), Arc::clone(&self.runtime));
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            loop {
                let mut ended = std::pin::pin!(shared.ended.notified());
                ended.as_mut().enable();
                let runs = {
                    let state = shared.lock();
                    if state.answered >= mine {
                        return Ok(());
                    }
                    if let Some(error) = &state.failed {
                        return Err(error.clone());
                    }
                    state.running
                };
                if !runs {
                    let (upto, shared, sync) = (shared.begin(), Arc::clone(&shared), inner.sync());
                    runtime.spawn(Box::pin(async move { shared.end(upto, sync.await) }));
                }
                ended.await;
            }
        })
    }

    fn discard(&self, run: BlockRun) -> IoFuture<()> {
        self.inner.discard(run)
    }

    fn reserve(&self, run: BlockRun) -> IoFuture<()> {
        self.inner.reserve(run)
    }

    fn is_sparse(&self) -> bool {
        self.inner.is_sparse()
    }

    fn grow(&self, to: BlockCount) -> IoFuture<()> {
        self.inner.grow(to)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::device::Operation;
    use crate::sim::{CrashKind, Mishap, Sim, SimDevice};

    fn filled(byte: u8) -> BlockSlice {
        let mut buf = BlockBuf::zeroed(1);
        buf.fill(byte);
        buf.share()
    }

    fn store(sim: &Sim) -> (Arc<SimDevice>, Arc<OneSync>) {
        let device = sim.create_device(BlockCount(64));
        let shared = OneSync::new(Arc::clone(&device) as Arc<dyn Device>, sim.runtime());
        (device, shared)
    }

    /// Everybody writes a block of their own and syncs, side by side; what each was told.
    fn side_by_side(sim: &Sim, device: &Arc<OneSync>, writers: u64) -> Vec<bool> {
        let told = Rc::new(RefCell::new(Vec::new()));
        let runtime = sim.runtime();
        for number in 0..writers {
            let (device, told) = (Arc::clone(device), Rc::clone(&told));
            runtime.spawn(Box::pin(async move {
                let written = device.write(BlockAddr::of(number), filled(7)).await;
                let synced = device.sync().await;
                told.borrow_mut().push(written.is_ok() && synced.is_ok());
            }));
        }
        sim.run(async {
            while told.borrow().len() < usize::try_from(writers).unwrap() {
                runtime.sleep(std::time::Duration::from_millis(1)).await;
            }
        });
        told.take()
    }

    #[test]
    fn what_is_answered_survives_a_power_cut() {
        for seed in 0..50 {
            let sim = Sim::new(seed);
            let (_, device) = store(&sim);
            assert_eq!(side_by_side(&sim, &device, 20), vec![true; 20]);
            let image = sim.crash(CrashKind::PowerCut);
            for number in 0..20 {
                assert!(image.read(BlockAddr::of(number)).iter().all(|byte| *byte == 7));
            }
        }
    }

    #[test]
    fn after_one_failure_nobody_is_told_that_anything_is_safe() {
        for seed in 0..50 {
            let sim = Sim::new(seed);
            let (below, device) = store(&sim);
            below.plan(Operation::Sync, 0, Mishap::Error);
            assert_eq!(side_by_side(&sim, &device, 20), vec![false; 20]);
            assert!(sim.run(device.write(BlockAddr::of(40), filled(1))).is_err());
            assert!(sim.run(device.sync()).is_err());
            assert!(sim.run(device.read(BlockAddr::of(0), 1)).is_ok());
        }
    }

    #[test]
    fn who_asks_and_goes_away_leaves_the_sync_to_the_others() {
        let sim = Sim::new(3);
        let (_, device) = store(&sim);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut abandoned = device.sync();
        assert!(abandoned.as_mut().poll(&mut context).is_pending());
        drop(abandoned);
        sim.run(device.sync()).unwrap();
    }
}
