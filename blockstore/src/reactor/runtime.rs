//! The engine's view of a real machine.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use rustix::rand::{GetRandomFlags, getrandom};

use super::executor::{Local, current};
use super::timers::TimerKey;
use crate::device::{Runtime, Task};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Since the first call in this process.
pub(super) fn monotonic_now() -> Duration {
    START.elapsed()
}

/// Whatever reactor the calling thread runs; panics on threads that run none.
#[derive(Clone, Copy, Debug, Default)]
pub struct UringRuntime;

impl Runtime for UringRuntime {
    fn spawn(&self, task: Task) {
        current().spawn(task);
    }

    fn defer(&self, call: Box<dyn FnOnce()>) {
        current().defer(call);
    }

    fn now(&self) -> Duration {
        monotonic_now()
    }

    fn sleep(&self, duration: Duration) -> Task {
        Box::pin(Sleep { local: current(), due: monotonic_now() + duration, key: None })
    }

    fn yield_now(&self) -> Task {
        Box::pin(Yield { yielded: false })
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let got = getrandom(&mut bytes[..], GetRandomFlags::empty());
        // Up to 256 bytes come whole, and every kernel with io_uring has the call.
        assert_eq!(got, Ok(bytes.len()), "the kernel has no random numbers");
        bytes
    }

    fn unix_seconds(&self) -> u64 {
        // A clock set before 1970 is only shown to people.
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

struct Sleep {
    local: Rc<Local>,
    due: Duration,
    key: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if monotonic_now() >= self.due {
            return Poll::Ready(());
        }
        let replaced = {
            let mut timers = self.local.timers.borrow_mut();
            self.key.and_then(|key| timers.rewake(key, context.waker()))
        };
        if replaced.is_none() {
            let waker = context.waker().clone();
            let key = self.local.timers.borrow_mut().insert(self.due, waker);
            self.key = Some(key);
        }
        // A waker may run foreign code when dropped: not before the timers are free again.
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.local.timers.borrow_mut().cancel(key);
            drop(waker);
        }
    }
}

/// Tasks run first come first served, so whoever queues anew comes after all that are ready.
struct Yield {
    yielded: bool,
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
