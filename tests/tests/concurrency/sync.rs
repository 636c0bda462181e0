//! `loom`'s models of what the product's files take from their own `sync` modules.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// As tokio's, as far as it is used: whoever waits is notified first come, first served, and a
/// notification that nobody waits for is kept for the next.
#[derive(Debug)]
pub(crate) struct Notify(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    is_kept: bool,
    next: usize,
    waiting: VecDeque<(usize, Option<Waker>)>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Line::default()))
    }

    pub(crate) fn notify_one(&self) {
        let first = {
            let mut line = self.0.lock().unwrap();
            let first = line.waiting.pop_front();
            line.is_kept |= first.is_none();
            first
        };
        if let Some((_, Some(waker))) = first {
            waker.wake();
        }
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, state: State::New }
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    New,
    Waiting(usize),
    Over,
}

impl Notified<'_> {
    /// Stands in line; whether it was notified at once.
    pub(crate) fn enable(mut self: Pin<&mut Self>) -> bool {
        let mut line = self.notify.0.lock().unwrap();
        if std::mem::take(&mut line.is_kept) {
            drop(line);
            self.state = State::Over;
            return true;
        }
        let number = line.next;
        line.next += 1;
        line.waiting.push_back((number, None));
        drop(line);
        self.state = State::Waiting(number);
        false
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let State::New = self.state {
            self.as_mut().enable();
        }
        let State::Waiting(number) = self.state else { return Poll::Ready(()) };
        let mut line = self.notify.0.lock().unwrap();
        if let Some((_, waker)) = line.waiting.iter_mut().find(|(other, _)| *other == number) {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        drop(line);
        self.state = State::Over;
        Poll::Ready(())
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let State::Waiting(number) = self.state else { return };
        let was_notified = {
            let mut line = self.notify.0.lock().unwrap();
            let before = line.waiting.len();
            line.waiting.retain(|(other, _)| *other != number);
            line.waiting.len() == before
        };
        // What it was told and did not hear is the next one's.
        if was_notified {
            self.notify.notify_one();
        }
    }
}
