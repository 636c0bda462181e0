//! How other threads start a reactor, give it work and end it.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::oneshot;

use super::executor;
use super::shared::{Remote, Shared};
use crate::device::Task;

/// What becomes of a process in which a task has panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnPanic {
    /// It ends at once, as by `kill -9`, which loses no acknowledged write. Serving on, with a
    /// disk's state half changed, might.
    #[default]
    Abort,
    /// The reactor ends and [`ReactorHandle::join`] says why. For tests.
    StopReactor,
}

/// How a reactor behaves.
#[derive(Clone, Debug)]
pub struct ReactorConfig {
    /// How long it looks for work before it sleeps, at most, while that pays: waking up costs
    /// more. Nothing where nobody calls.
    pub poll_before_sleep: Duration,
    /// Submissions that fit into one system call; more are possible, in several.
    pub ring_entries: u32,
    /// What a task's panic does.
    pub on_panic: OnPanic,
    /// The only processor that it may run on.
    pub cpu: Option<usize>,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self {
            poll_before_sleep: if one_processor() { Duration::ZERO } else { LONGEST_LOOK },
            ring_entries: 256,
            on_panic: OnPanic::default(),
            cpu: None,
        }
    }
}

/// Longer than fast media and guests take to answer.
const LONGEST_LOOK: Duration = Duration::from_micros(200);

/// Whoever has work for us could not get to it while we look for it.
fn one_processor() -> bool {
    thread::available_parallelism().is_ok_and(|count| count.get() == 1)
}

/// A thread that runs tasks around an io_uring. See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub struct Reactor;

impl Reactor {
    /// Starts a thread of this name.
    ///
    /// # Errors
    /// Where the kernel refuses the thread or the ring (no io_uring, or forbidden:
    /// `kernel.io_uring_disabled`, a container's seccomp filter, RLIMIT_MEMLOCK).
    pub fn start(name: &str, config: ReactorConfig) -> io::Result<ReactorHandle> {
        let shared = Arc::new(Shared::new()?);
        let (sender, started) = mpsc::channel();
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let pinned = pin_to(config.cpu);
            executor::run(&own, config, |outcome| {
                // The starter waits for exactly this.
                let _ = sender.send(pinned.and(outcome));
            });
        })?;
        let thread = Mutex::new(Some(thread));
        // Before anything that may fail: it stops the thread when it is dropped.
        let mut owner = Owner { shared, thread, is_restricted: false };
        match started.recv() {
            Ok(outcome) => owner.is_restricted = outcome?,
            Err(_) => return Err(io::Error::other("the reactor's thread died at birth")),
        }
        Ok(ReactorHandle(Arc::new(owner)))
    }
}

fn pin_to(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Reaches a reactor from any thread. When the last one is dropped, the reactor stops.
#[derive(Clone)]
pub struct ReactorHandle(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    is_restricted: bool,
}

impl ReactorHandle {
    /// Whether its ring refuses what a reactor never asks for: opening, connecting, reading from
    /// sockets, and registering anything.
    pub fn is_restricted(&self) -> bool {
        self.0.is_restricted
    }

    /// Has the reactor make a task and run it. Where it has ended, nothing happens.
    pub fn spawn(&self, make: impl FnOnce() -> Task + Send + 'static) {
        drop(self.0.shared.send(Remote::Spawn(Box::new(make))));
    }

    /// Has the reactor make a future and run it; what it returns comes back. A panic in there
    /// comes back, too, and leaves the reactor alone. The future runs to its end even where
    /// nobody waits for it.
    pub fn call<T, F>(&self, make: impl FnOnce() -> F + Send + 'static) -> Called<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.spawn(move || {
            Box::pin(async move {
                let outcome = match catch_unwind(AssertUnwindSafe(make)) {
                    Ok(future) => CatchUnwind(Box::pin(future)).await,
                    Err(panic) => Err(panic),
                };
                if let Err(Err(unheard)) = sender.send(outcome) {
                    // Nobody listens, so it is the task's own panic.
                    resume_unwind(unheard);
                }
            })
        });
        Called(receiver)
    }

    /// As [`Self::call`], for a thread that can do nothing but wait.
    ///
    /// # Errors
    /// Where the reactor ends first.
    ///
    /// # Panics
    /// Where the future does, with the same payload, and on a reactor's or a tokio thread.
    pub fn block_on<T, F>(
        &self,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, ReactorGone>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        assert!(!executor::is_reactor_thread(), "a reactor that blocks serves nobody");
        let Called(receiver) = self.call(make);
        unwind_or(receiver.blocking_recv())
    }

    /// Asks the reactor to end: its tasks are dropped where they are; I/O under way is waited
    /// for. Returns at once.
    pub fn stop(&self) {
        self.0.shared.stop();
    }

    /// Waits until the reactor has ended; does not ask it to.
    ///
    /// # Errors
    /// The panic that ended it.
    pub fn join(&self) -> thread::Result<()> {
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.map_or(Ok(()), JoinHandle::join)
    }
}

impl fmt::Debug for ReactorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReactorHandle")
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// The reactor ended before it could answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the reactor has stopped")]
pub struct ReactorGone;

/// The answer to a [`ReactorHandle::call`]; await it on any thread.
#[derive(Debug)]
pub struct Called<T>(oneshot::Receiver<thread::Result<T>>);

impl<T> Future for Called<T> {
    type Output = Result<T, ReactorGone>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(unwind_or)
    }
}

fn unwind_or<T, E>(answer: Result<thread::Result<T>, E>) -> Result<T, ReactorGone> {
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => Err(ReactorGone),
    }
}

/// Turns a panic of the future into its result.
struct CatchUnwind<T>(Pin<Box<dyn Future<Output = T>>>);

impl<T> Future for CatchUnwind<T> {
    type Output = Result<T, Box<dyn Any + Send>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}
