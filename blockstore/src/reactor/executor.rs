//! The tasks of one thread and the loop that runs them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::handle::{OnPanic, ReactorConfig};
use super::lull::{Idlers, Lull};
use super::mailbox::Queued;
use super::patience::Patience;
use super::ring::{Arrivals, Ring};
use super::runtime::monotonic_now;
use super::shared::{Remote, Shared, TaskWaker};
use super::timers::Timers;
use crate::device::Task;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// The reactor of this thread.
///
/// # Panics
/// Where there is none: a bug of the caller's.
pub(super) fn current() -> Rc<Local> {
    let current = CURRENT.with_borrow(|current| current.as_ref().map(Rc::clone));
    current.expect("this thread runs no reactor")
}

pub(super) fn is_reactor_thread() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Makes a task ready if it belongs to this very thread.
pub(super) fn make_ready_here(shared: &Arc<Shared>, task: usize) -> bool {
    // While the thread itself ends there is no current reactor, nor any task.
    let own = CURRENT.try_with(|current| {
        let current = current.borrow();
        let own = current.as_ref().filter(|local| Arc::ptr_eq(&local.shared, shared));
        own.is_some_and(|local| {
            local.ready.borrow_mut().push_back(task);
            true
        })
    });
    own.unwrap_or(false)
}

/// What a reactor keeps on its own thread.
pub(super) struct Local {
    pub(super) ring: RefCell<Ring>,
    pub(super) timers: RefCell<Timers>,
    pub(super) idlers: Idlers,
    shared: Arc<Shared>,
    tasks: RefCell<Tasks>,
    ready: RefCell<VecDeque<usize>>,
    /// To be called when whoever is ready has had its turn.
    deferred: RefCell<VecDeque<Box<dyn FnOnce()>>>,
    config: ReactorConfig,
    panic: Cell<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
struct Tasks {
    slots: Vec<Slot>,
    vacant: Vec<usize>,
}

/// A place for one task after the other.
struct Slot {
    /// Away while it is being polled.
    task: Option<Task>,
    waker: Arc<TaskWaker>,
}

/// Makes this thread a reactor, tells `started` how that went (whether its ring is restricted),
/// and runs until stopped.
pub(super) fn run(
    shared: &Arc<Shared>,
    config: ReactorConfig,
    started: impl FnOnce(io::Result<bool>),
) {
    let ring = match Ring::new(config.ring_entries, Arc::clone(&shared.wake)) {
        Ok(ring) => ring,
        Err(error) => return started(Err(error)),
    };
    let is_restricted = ring.is_restricted();
    let local = Rc::new(Local {
        ring: RefCell::new(ring),
        timers: RefCell::default(),
        idlers: Idlers::default(),
        shared: Arc::clone(shared),
        tasks: RefCell::default(),
        ready: RefCell::default(),
        deferred: RefCell::default(),
        config,
        panic: Cell::new(None),
    });
    CURRENT.set(Some(Rc::clone(&local)));
    started(Ok(is_restricted));
    let outcome = local.turn_until_stopped();
    local.end();
    CURRENT.set(None);
    if let Err(error) = outcome {
        // Without its ring a reactor can neither serve nor say so to those who wait for it.
        tracing::error!(%error, "io_uring_enter fails; the reactor ends");
        std::panic::panic_any(error);
    }
    if let Some(panic) = local.panic.take() {
        std::panic::resume_unwind(panic);
    }
}

/// How often a turn polls who is ready, before it looks at the ring and the clock again.
const ROUNDS_PER_TURN: usize = 4;
/// How often a turn that found nothing pauses before the next: half a microsecond or so, in which
/// whoever shares the core (a sibling thread, the host's own I/O) gets on.
const PAUSES_PER_LOOK: usize = 10;

impl Local {
    fn turn_until_stopped(&self) -> io::Result<()> {
        let mut arrivals = Arrivals::default();
        let mut patience = Patience::new(self.config.poll_before_sleep);
        let mut last_work = monotonic_now();
        while !self.shared.mailbox.is_stopping() {
            let idlers = self.idlers.wake(Lull::Awake);
            let mut worked = self.poll_ready()? > idlers;
            // What these have made ready often belongs to the same request: not worth a whole
            // turn each.
            for _ in 1..ROUNDS_PER_TURN {
                worked |= self.poll_ready()? > 0;
            }
            worked |= self.call_deferred();
            worked |= self.take_messages();
            self.ring.borrow_mut().submit()?;
            worked |= self.ring.borrow_mut().reap(&mut arrivals);
            self.tell(&mut arrivals);
            let now = monotonic_now();
            worked |= self.wake_sleepers(now);
            if worked || self.has_work() {
                last_work = now;
            } else if now.saturating_sub(last_work) < patience.look() {
                (0..PAUSES_PER_LOOK).for_each(|_| std::hint::spin_loop());
            } else {
                self.sleep(now, &mut patience)?;
                last_work = monotonic_now();
            }
        }
        Ok(())
    }

    fn has_work(&self) -> bool {
        !self.ready.borrow().is_empty() || !self.deferred.borrow().is_empty()
    }

    /// Polls those who are ready now, and not those who become ready meanwhile; says how many.
    fn poll_ready(&self) -> io::Result<usize> {
        let count = self.ready.borrow().len();
        for _ in 0..count {
            let next = self.ready.borrow_mut().pop_front();
            next.into_iter().for_each(|task| self.poll_task(task));
            self.ring.borrow_mut().submit_batch()?;
        }
        Ok(count)
    }

    fn poll_task(&self, index: usize) {
        // A waker may outlive its task, and so wake the next one in its place: that one is
        // polled for nothing.
        let Some((mut task, waker)) = self.tasks.borrow_mut().borrow_task(index) else { return };
        waker.queued.clear();
        let as_waker = Waker::from(waker);
        let poll = || task.as_mut().poll(&mut Context::from_waker(&as_waker));
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => self.tasks.borrow_mut().give_back(index, task),
            Ok(Poll::Ready(())) => {
                self.tasks.borrow_mut().remove(index);
                drop(task);
            }
            Err(panic) => {
                self.tasks.borrow_mut().remove(index);
                self.panicked(panic);
            }
        }
    }

    /// Calls those deferred by now, and not those deferred meanwhile.
    fn call_deferred(&self) -> bool {
        let count = self.deferred.borrow().len();
        for _ in 0..count {
            let next = self.deferred.borrow_mut().pop_front();
            next.into_iter().for_each(|call| self.run_call(call));
        }
        count > 0
    }

    pub(super) fn defer(&self, call: Box<dyn FnOnce()>) {
        if !self.shared.mailbox.is_stopping() {
            self.deferred.borrow_mut().push_back(call);
        }
    }

    fn tell(&self, arrivals: &mut Arrivals) {
        arrivals.wakers.drain(..).for_each(Waker::wake);
        for (done, result) in arrivals.calls.drain(..) {
            self.run_call(|| done(result));
        }
    }

    fn run_call(&self, call: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            self.panicked(panic);
        }
    }

    pub(super) fn panicked(&self, panic: Box<dyn Any + Send>) {
        tracing::error!("a task has panicked");
        match self.config.on_panic {
            OnPanic::Abort => std::process::abort(),
            OnPanic::StopReactor => {
                self.panic.set(Some(panic));
                self.shared.stop();
            }
        }
    }

    fn take_messages(&self) -> bool {
        let messages = self.shared.mailbox.take();
        let any = !messages.is_empty();
        for message in messages {
            match message {
                Remote::Wake(task) => self.ready.borrow_mut().push_back(task),
                Remote::Spawn(make) => match catch_unwind(AssertUnwindSafe(make)) {
                    Ok(task) => self.spawn(task),
                    Err(panic) => self.panicked(panic),
                },
            }
        }
        any
    }

    pub(super) fn spawn(&self, task: Task) {
        if self.shared.mailbox.is_stopping() {
            return;
        }
        let index = self.tasks.borrow_mut().insert(task, &self.shared);
        self.ready.borrow_mut().push_back(index);
    }

    fn wake_sleepers(&self, now: Duration) -> bool {
        let mut any = false;
        loop {
            let due = self.timers.borrow_mut().pop_due(now);
            let Some(waker) = due else { return any };
            waker.wake();
            any = true;
        }
    }

    fn sleep(&self, now: Duration, patience: &mut Patience) -> io::Result<()> {
        self.idlers.wake(Lull::Asleep);
        self.poll_ready()?;
        if self.has_work() || !self.shared.mailbox.lie_down() {
            return Ok(());
        }
        let due = self.timers.borrow().next_due();
        let timeout = due.map(|due| due.saturating_sub(now));
        let slept = self.ring.borrow_mut().wait(timeout);
        self.shared.mailbox.get_up();
        patience.slept(monotonic_now().saturating_sub(now));
        slept
    }

    /// Drops every task, while the thread is still a reactor: their last wishes may need it.
    fn end(&self) {
        self.shared.stop();
        let mut messages = self.shared.mailbox.close();
        messages.clear();
        let calls = self.ring.borrow_mut().take_calls();
        drop(calls);
        let deferred = std::mem::take(&mut *self.deferred.borrow_mut());
        drop(deferred);
        loop {
            let tasks = std::mem::take(&mut self.tasks.borrow_mut().slots);
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        self.ready.borrow_mut().clear();
    }
}

impl Tasks {
    fn insert(&mut self, task: Task, shared: &Arc<Shared>) -> usize {
        let Some(index) = self.vacant.pop() else {
            // Ready already: whoever inserts it queues it.
            let (queued, shared) = (Queued::new(true), Arc::clone(shared));
            let waker = Arc::new(TaskWaker { task: self.slots.len(), queued, shared });
            self.slots.push(Slot { task: Some(task), waker });
            return self.slots.len() - 1;
        };
        let slot = &mut self.slots[index];
        slot.waker.queued.set();
        slot.task = Some(task);
        index
    }

    fn borrow_task(&mut self, index: usize) -> Option<(Task, Arc<TaskWaker>)> {
        let slot = self.slots.get_mut(index)?;
        Some((slot.task.take()?, Arc::clone(&slot.waker)))
    }

    fn give_back(&mut self, index: usize, task: Task) {
        self.slots[index].task = Some(task);
    }

    /// The task has ended: its place is another's.
    fn remove(&mut self, index: usize) {
        self.vacant.push(index);
    }
}
