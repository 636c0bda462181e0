//! The engine's view of a simulated machine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use super::core::{Core, Event, EventKey, lock};
use super::executor::ReadyQueue;
use crate::device::{Runtime, Task};

thread_local! {
    /// Tasks spawned and not yet fetched by their simulation, by simulation and task number.
    /// Apart from the shared state since tasks may not leave the thread and runtimes may.
    static INBOX: RefCell<BTreeMap<(u64, u64), Task>> = const { RefCell::new(BTreeMap::new()) };
}

pub(super) fn take_spawned(simulation: u64, task: u64) -> Option<Task> {
    INBOX.with_borrow_mut(|inbox| inbox.remove(&(simulation, task)))
}

/// Everything spawned that has never run.
pub(super) fn take_all_spawned(simulation: u64) -> Vec<Task> {
    INBOX.with_borrow_mut(|inbox| {
        let own = inbox.extract_if((simulation, 0)..=(simulation, u64::MAX), |_, _| true);
        own.map(|(_, task)| task).collect()
    })
}

/// One life of a simulated machine, from a start to a crash.
#[derive(Clone)]
struct Life {
    core: Arc<Mutex<Core>>,
    number: u64,
}

impl Life {
    /// The machine's state; `None` once this life is over.
    fn lock(&self) -> Option<MutexGuard<'_, Core>> {
        let core = lock(&self.core);
        (core.life == self.number).then_some(core)
    }
}

/// The runtime of one life. After that it is dead: what it is asked never happens.
pub struct SimRuntime {
    life: Life,
    ready: Arc<ReadyQueue>,
    simulation: u64,
}

impl SimRuntime {
    pub(super) const fn new(
        core: Arc<Mutex<Core>>,
        ready: Arc<ReadyQueue>,
        simulation: u64,
        life: u64,
    ) -> Self {
        Self { life: Life { core, number: life }, ready, simulation }
    }
}

impl Runtime for SimRuntime {
    /// # Panics
    /// On any thread but the simulation's.
    fn spawn(&self, task: Task) {
        if self.life.lock().is_none() {
            return;
        }
        assert!(self.ready.is_own_thread(), "a simulation runs on one thread");
        let number = self.ready.admit();
        INBOX.with_borrow_mut(|inbox| inbox.insert((self.simulation, number), task));
    }

    fn now(&self) -> Duration {
        lock(&self.life.core).now
    }

    fn sleep(&self, duration: Duration) -> Task {
        let deadline = self.now() + duration;
        Box::pin(Sleep { life: self.life.clone(), deadline, key: None })
    }

    fn yield_now(&self) -> Task {
        Box::pin(Yield { life: self.life.clone(), until: None })
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        lock(&self.life.core).secrets.fill(&mut bytes);
        bytes
    }

    fn unix_seconds(&self) -> u64 {
        const START: u64 = 1_700_000_000;
        START + lock(&self.life.core).now.as_secs()
    }
}

struct Sleep {
    life: Life,
    deadline: Duration,
    key: Option<EventKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(mut core) = this.life.lock() else { return Poll::Pending };
        if core.now >= this.deadline {
            return Poll::Ready(());
        }
        let replaced = this.key.and_then(|key| core.rewake(key, context.waker()));
        if replaced.is_none() {
            let waker = context.waker().clone();
            this.key = Some(core.schedule(this.deadline, Event::Timer(waker)));
        }
        // A waker may run foreign code when dropped: not under the lock.
        drop(core);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let cancelled = lock(&self.life.core).cancel(key);
            drop(cancelled);
        }
    }
}

struct Yield {
    life: Life,
    /// The turn that resumes it.
    until: Option<u64>,
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(mut core) = this.life.lock() else { return Poll::Pending };
        // All who are ready now have had a turn by the end of the turn after this one.
        let until = *this.until.get_or_insert(core.turn + 2);
        if core.turn >= until {
            return Poll::Ready(());
        }
        core.yielded.push(context.waker().clone());
        Poll::Pending
    }
}
