//! Whether the reclaimer is still making room: what a writer waits for that finds the store full.
//!
//! Invariant: nobody is refused while something deleted, that nobody reads, is still to be freed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What the reclaimer was asked to do and has done. Shared by it and all writers.
pub struct Backlog {
    state: Mutex<State>,
    /// A step was made, or there is nothing left.
    progress: Notify,
    /// Something was asked for, or it is all over.
    asked: Notify,
}

struct State {
    /// Times that somebody said there may be something to free; opening the store is the first.
    asked: u64,
    /// The last of those after which all was freed that could be.
    answered: u64,
    /// Steps that freed something.
    steps: u64,
    closed: bool,
}

impl Backlog {
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State { asked: 1, answered: 0, steps: 0, closed: false }),
            progress: Notify::const_new(),
            asked: Notify::const_new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be something to free: something was deleted, or a reader has gone.
    pub fn ask(&self) {
        self.lock().asked += 1;
        self.asked.notify_waiters();
    }

    /// The reclaimer is to end; nobody waits for it from now on.
    pub fn close(&self) {
        self.lock().closed = true;
        self.asked.notify_waiters();
        self.progress.notify_waiters();
    }

    /// For the reclaimer: which request it works on; `None` where it is to end. Waits while all
    /// up to `last` is all there is.
    pub async fn next(&self, last: u64) -> Option<u64> {
        loop {
            let mut asked = std::pin::pin!(self.asked.notified());
            asked.as_mut().enable();
            {
                let state = self.lock();
                if state.closed {
                    return None;
                }
                if state.asked != last {
                    return Some(state.asked);
                }
            }
            asked.await;
        }
    }

    /// For the reclaimer: blocks were freed.
    pub fn stepped(&self) {
        self.lock().steps += 1;
        self.progress.notify_waiters();
    }

    /// For the reclaimer: all that was there to free at request `asked` is free, or cannot be.
    pub fn answered(&self, asked: u64) {
        self.lock().answered = asked;
        self.progress.notify_waiters();
    }

    /// How many steps have been made: to be asked before looking for room.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Waits until something is done about it.
    pub async fn progressed(&self) {
        self.progress.notified().await;
    }

    /// Waits for a step after the first `seen`; `false` where none will come.
    pub async fn step_after(&self, seen: u64) -> bool {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            {
                let state = self.lock();
                if state.steps != seen {
                    return true;
                }
                if state.closed || state.answered == state.asked {
                    return false;
                }
            }
            progress.await;
        }
    }
}
