//! The part of a reactor that other threads may touch.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;
use std::{io, mem};

use rustix::event::{EventfdFlags, eventfd};

use super::executor;
use crate::device::Task;

/// A message to a reactor.
pub(super) enum Remote {
    /// This task is ready.
    Wake(usize),
    /// Make and run a task.
    Spawn(Box<dyn FnOnce() -> Task + Send>),
}

/// See the module's documentation.
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    /// The inbox may hold something. Saves the reactor a lock each turn.
    pending: AtomicBool,
    /// The reactor sleeps, or is about to.
    sleeping: AtomicBool,
    stopping: AtomicBool,
    pub(super) wake: Arc<OwnedFd>,
}

#[derive(Default)]
struct Inbox {
    messages: Vec<Remote>,
    closed: bool,
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            inbox: Mutex::default(),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            wake: Arc::new(wake),
        })
    }

    fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox> {
        // Nothing in there panics half way.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers a message; hands it back where the reactor has ended.
    pub(super) fn send(&self, message: Remote) -> Result<(), Remote> {
        {
            let mut inbox = self.inbox();
            if inbox.closed {
                return Err(message);
            }
            inbox.messages.push(message);
        }
        self.pending.store(true, Ordering::SeqCst);
        self.rouse();
        Ok(())
    }

    /// Ends the reactor's sleep. Sequentially consistent on both sides: either it sees, before
    /// it sleeps, what was stored before this call, or this call sees that it sleeps.
    fn rouse(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the reactor is being woken already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.rouse();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Announces sleep; `false` where something has come up that forbids it.
    pub(super) fn lie_down(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        let quiet = !self.pending.load(Ordering::SeqCst) && !self.is_stopping();
        if !quiet {
            self.get_up();
        }
        quiet
    }

    pub(super) fn get_up(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    pub(super) fn take_messages(&self) -> Vec<Remote> {
        if !self.pending.load(Ordering::Acquire) {
            return Vec::new();
        }
        // Before the messages are taken: one that arrives after that raises it again.
        self.pending.store(false, Ordering::SeqCst);
        mem::take(&mut self.inbox().messages)
    }

    /// Refuses all further messages and returns those not yet taken.
    pub(super) fn close(&self) -> Vec<Remote> {
        let mut inbox = self.inbox();
        inbox.closed = true;
        mem::take(&mut inbox.messages)
    }
}

/// Makes one task of one reactor ready, from any thread.
pub(super) struct TaskWaker {
    pub(super) task: usize,
    pub(super) queued: AtomicBool,
    pub(super) shared: Arc<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Acquire and release: what the waker's thread did before is seen by the poll after.
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if !executor::make_ready_here(&self.shared, self.task) {
            // A reactor that has ended has no tasks to wake.
            let _ = self.shared.send(Remote::Wake(self.task));
        }
    }
}
