//! The part of a reactor that other threads may touch.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Wake;

use rustix::event::{EventfdFlags, eventfd};

use super::executor;
use super::mailbox::{Mailbox, Queued};
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
    pub(super) mailbox: Mailbox<Remote>,
    /// The bell: the ring polls it while the reactor sleeps.
    pub(super) wake: Arc<OwnedFd>,
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { mailbox: Mailbox::new(), wake: Arc::new(wake) })
    }

    /// Delivers a message; hands it back where the reactor has ended.
    pub(super) fn send(&self, message: Remote) -> Result<(), Remote> {
        self.mailbox.send(message, || self.ring())
    }

    pub(super) fn stop(&self) {
        self.mailbox.stop(|| self.ring());
    }

    fn ring(&self) {
        // Fails only when the counter is full, and then the reactor is being woken already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// Makes one task of one reactor ready, from any thread.
pub(super) struct TaskWaker {
    pub(super) task: usize,
    pub(super) queued: Queued,
    pub(super) shared: Arc<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.set() && !executor::make_ready_here(&self.shared, self.task) {
            // A reactor that has ended has no tasks to wake.
            let _ = self.shared.send(Remote::Wake(self.task));
        }
    }
}
