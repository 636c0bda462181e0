//! What threads share, in every order in which they can run and with every reordering that the
//! memory model allows.
//!
//! The product's own files are compiled here a second time, with `loom`'s models of atomics and locks in
//! place of the real ones; `loom` then tries all executions. A thread that waits for ever is found as
//! a deadlock. Each protocol is tried with a rule broken, too: such a model must fail, or it shows nothing.

mod sync;

#[path = "../../../blockstore/src/reactor/mailbox.rs"]
mod mailbox;

#[path = "../../../server/src/buffers.rs"]
mod buffers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};

use buffers::Buffers;
use mailbox::{Mailbox, Queued};
use sync::AtomicBool;

/// What a reactor sleeps on: rings are counted, as by an eventfd.
struct Bell {
    rings: Mutex<usize>,
    rung: Condvar,
}

impl Bell {
    fn new() -> Self {
        Self { rings: Mutex::new(0), rung: Condvar::new() }
    }

    fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.rung.notify_one();
    }

    fn wait(&self) {
        let mut rings = self.rings.lock().unwrap();
        while *rings == 0 {
            rings = self.rung.wait(rings).unwrap();
        }
        *rings = 0;
    }
}

/// A reactor's other end.
struct Reactor {
    mailbox: Mailbox<usize>,
    bell: Bell,
}

impl Reactor {
    fn new() -> Arc<Self> {
        Arc::new(Self { mailbox: Mailbox::new(), bell: Bell::new() })
    }

    fn send(&self, message: usize) -> Result<(), usize> {
        self.mailbox.send(message, || self.bell.ring())
    }

    /// One turn: what has come, after a sleep if nothing has.
    fn turn(&self) -> Vec<usize> {
        let messages = self.mailbox.take();
        if messages.is_empty() && self.mailbox.lie_down() {
            self.bell.wait();
            self.mailbox.get_up();
        }
        messages
    }
}

/// So often a thread is taken off at any moment, in each execution. With two all faults known of are found.
const PREEMPTIONS: usize = 2;

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = Some(PREEMPTIONS);
    explorer.check(model);
}

/// Whether an execution is found that ends badly.
fn fails(model: impl Fn() + Sync + Send + 'static) -> bool {
    catch_unwind(AssertUnwindSafe(|| explore(model))).is_err()
}

#[test]
fn every_message_arrives_whatever_the_receiver_is_about_to_do() {
    explore(|| {
        let reactor = Reactor::new();
        let senders = [1, 2].map(|message| {
            let reactor = Arc::clone(&reactor);
            loom::thread::spawn(move || reactor.send(message).unwrap())
        });
        let mut received = Vec::new();
        while received.len() < senders.len() {
            received.extend(reactor.turn());
        }
        received.sort_unstable();
        assert_eq!(received, [1, 2]);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

#[test]
fn a_reactor_that_is_asked_to_stop_does_and_hands_back_what_comes_later() {
    explore(|| {
        let reactor = Reactor::new();
        let sender = {
            let reactor = Arc::clone(&reactor);
            loom::thread::spawn(move || {
                let sent = reactor.send(1);
                reactor.mailbox.stop(|| reactor.bell.ring());
                usize::from(sent.is_ok())
            })
        };
        let mut received = 0;
        while !reactor.mailbox.is_stopping() {
            received += reactor.turn().len();
        }
        received += reactor.mailbox.close().len();
        assert_eq!(received, sender.join().unwrap(), "taken or handed back");
        assert_eq!(reactor.send(2), Err(2));
    });
}

/// A task's flag as the product has it, or with a rule broken.
trait Flag: Send + Sync + 'static {
    fn queued() -> Self;
    fn set(&self) -> bool;
    fn clear(&self);
}

impl Flag for Queued {
    fn queued() -> Self {
        Self::new(true)
    }
    fn set(&self) -> bool {
        Self::set(self)
    }
    fn clear(&self) {
        Self::clear(self);
    }
}

/// Overwrites what wakers have left without reading it.
struct ClearedBlindly(AtomicBool);

impl Flag for ClearedBlindly {
    fn queued() -> Self {
        Self(AtomicBool::new(true))
    }
    fn set(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
    fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A task that is polled until it has seen what two other threads did before they woke it.
fn is_woken<F: Flag>() {
    let reactor = Reactor::new();
    let task = Arc::new((F::queued(), AtomicUsize::new(0)));
    let wakers = [(); 2].map(|()| {
        let (reactor, task) = (Arc::clone(&reactor), Arc::clone(&task));
        loom::thread::spawn(move || {
            task.1.fetch_add(1, Ordering::Relaxed);
            if task.0.set() {
                reactor.send(0).unwrap();
            }
        })
    });
    let mut is_due = true;
    loop {
        if is_due {
            task.0.clear();
            if task.1.load(Ordering::Relaxed) == wakers.len() {
                break;
            }
        }
        is_due = !reactor.turn().is_empty();
    }
    wakers.into_iter().for_each(|waker| waker.join().unwrap());
}

#[test]
fn a_task_that_was_woken_sees_why() {
    explore(is_woken::<Queued>);
}

#[test]
fn a_flag_that_is_cleared_blindly_loses_a_wake_up_and_is_found_out() {
    assert!(fails(is_woken::<ClearedBlindly>));
}

#[test]
fn rings_that_wait_for_memory_all_get_their_turn() {
    explore(|| {
        let buffers = Arc::new(Buffers::new(1));
        buffers.take(1);
        let rings = [(); 2].map(|()| {
            let buffers = Arc::clone(&buffers);
            loom::thread::spawn(move || {
                loom::future::block_on(buffers.turn());
                buffers.take(1);
                buffers.pass_on();
                buffers.give_back(1);
            })
        });
        buffers.give_back(1);
        rings.into_iter().for_each(|ring| ring.join().unwrap());
        assert!(buffers.has_room());
    });
}
