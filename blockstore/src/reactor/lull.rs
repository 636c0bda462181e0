//! Looking for work that nothing announces, for as long as the reactor is awake anyway.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::executor::current;

/// What the reactor does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lull {
    /// Another turn: look now, and then again.
    Awake,
    /// Sleep, unless there turns out to be work: see to it that the next work wakes it.
    Asleep,
}

/// Completes in the reactor's next turn, or before it sleeps. Unlike work, waiting for this does
/// not keep it awake.
///
/// # Panics
/// Where the thread runs no reactor.
pub fn lull() -> impl Future<Output = Lull> {
    Looking { waits: false }
}

struct Looking {
    waits: bool,
}

impl Future for Looking {
    type Output = Lull;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Lull> {
        let local = current();
        if self.waits {
            return Poll::Ready(local.idlers.lull());
        }
        self.waits = true;
        local.idlers.join(context.waker().clone());
        Poll::Pending
    }
}

/// Who waits for [`lull`].
#[derive(Default)]
pub(super) struct Idlers(std::cell::RefCell<State>);

struct State {
    waiting: Vec<Waker>,
    lull: Lull,
}

impl Default for State {
    fn default() -> Self {
        Self { waiting: Vec::new(), lull: Lull::Awake }
    }
}

impl Idlers {
    fn join(&self, waker: Waker) {
        self.0.borrow_mut().waiting.push(waker);
    }

    fn lull(&self) -> Lull {
        self.0.borrow().lull
    }

    /// Wakes all; says how many.
    pub(super) fn wake(&self, lull: Lull) -> usize {
        let mut waiting = {
            let mut state = self.0.borrow_mut();
            state.lull = lull;
            std::mem::take(&mut state.waiting)
        };
        let count = waiting.len();
        waiting.drain(..).for_each(Waker::wake);
        // Nobody has joined meanwhile: waking polls nobody. Keeps the memory.
        let mut state = self.0.borrow_mut();
        if state.waiting.is_empty() {
            state.waiting = waiting;
        }
        count
    }
}
