//! Messages to a thread that may be asleep: the protocol by which none is left lying.
//!
//! All that a reactor shares with other threads is here, small enough to be checked in every
//! order and with every reordering that the memory model allows (`tests/tests/concurrency.rs`).
//!
//! Invariant: once [`Mailbox::send`] or [`Mailbox::stop`] has returned, the receiver either sees it
//! before it sleeps, or the bell has been rung for it.

use std::mem;
use std::sync::PoisonError;

use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, fence};

/// See the module's documentation.
pub(super) struct Mailbox<T> {
    inbox: Mutex<Inbox<T>>,
    /// The inbox may hold something. Saves the receiver a lock each turn.
    pending: AtomicBool,
    /// The receiver sleeps, or is about to.
    sleeping: AtomicBool,
    stopping: AtomicBool,
}

struct Inbox<T> {
    messages: Vec<T>,
    closed: bool,
}

impl<T> Mailbox<T> {
    pub(super) fn new() -> Self {
        Self {
            inbox: Mutex::new(Inbox { messages: Vec::new(), closed: false }),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox<T>> {
        // Nothing in there panics half way.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers a message, and rings where the receiver sleeps; hands it back where nothing is
    /// received any more.
    pub(super) fn send(&self, message: T, ring: impl FnOnce()) -> Result<(), T> {
        {
            let mut inbox = self.inbox();
            if inbox.closed {
                return Err(message);
            }
            inbox.messages.push(message);
        }
        self.pending.store(true, Ordering::Release);
        self.rouse(ring);
        Ok(())
    }

    /// Asks the receiver to end.
    pub(super) fn stop(&self, ring: impl FnOnce()) {
        self.stopping.store(true, Ordering::Release);
        self.rouse(ring);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Of the two fences, here and in [`Self::lie_down`], one comes first: either the receiver sees,
    /// before it sleeps, what was stored before this call, or this call sees that it sleeps. Of
    /// several who see that, one will do; that more may ring does no harm.
    fn rouse(&self, ring: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            self.sleeping.store(false, Ordering::Relaxed);
            ring();
        }
    }

    /// Announces sleep; `false` where something has come up that forbids it.
    pub(super) fn lie_down(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let quiet = !self.pending.load(Ordering::Acquire) && !self.is_stopping();
        if !quiet {
            self.get_up();
        }
        quiet
    }

    pub(super) fn get_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    pub(super) fn take(&self) -> Vec<T> {
        if !self.pending.load(Ordering::Acquire) {
            return Vec::new();
        }
        // Before the messages are taken: one that arrives after that raises it again.
        self.pending.store(false, Ordering::Relaxed);
        mem::take(&mut self.inbox().messages)
    }

    /// Refuses all further messages and returns those not yet taken.
    pub(super) fn close(&self) -> Vec<T> {
        let mut inbox = self.inbox();
        inbox.closed = true;
        mem::take(&mut inbox.messages)
    }
}

/// Whether a task waits to be polled, so that it does so once, however often it is woken.
///
/// Invariant: what a waker's thread did before [`Queued::set`] is seen by a poll that begins after it.
pub(super) struct Queued(AtomicBool);

impl Queued {
    pub(super) fn new(is_queued: bool) -> Self {
        Self(AtomicBool::new(is_queued))
    }

    /// Notes that the task is to be polled. `true`: it is for the caller to queue it.
    pub(super) fn set(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Its poll begins. Reads what it overwrites: a waker who found the task queued already relies on
    /// this very poll to see what it did, and a mere store would see nothing of it.
    pub(super) fn clear(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}
