//! The reactor keeps its promises.

use std::cell::Cell;
use std::future::{Future, pending};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{Notify, oneshot};

use super::{
    OnPanic, Reactor, ReactorConfig, ReactorGone, ReactorHandle, Request, UringRuntime, readable,
    submit,
};
use crate::buffer::BlockBuf;
use crate::device::Runtime;

fn config() -> ReactorConfig {
    // No polling: what is lost between two threads then stays lost, and hangs the test.
    ReactorConfig {
        poll_before_sleep: Duration::ZERO,
        on_panic: OnPanic::StopReactor,
        ..ReactorConfig::default()
    }
}

fn start() -> ReactorHandle {
    Reactor::start("test", config()).unwrap()
}

fn event() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

fn ring_bell(event: &OwnedFd) {
    rustix::io::write(event, &1_u64.to_ne_bytes()).unwrap();
}

#[test]
fn a_call_returns_what_its_future_returns() {
    let reactor = start();
    let answer = reactor.block_on(|| async {
        UringRuntime.sleep(Duration::from_millis(1)).await;
        thread::current().name().map(String::from)
    });
    assert_eq!(answer.unwrap().as_deref(), Some("test"));
}

#[test]
#[should_panic(expected = "on purpose")]
fn a_panic_in_a_call_reaches_the_caller() {
    let _ = start().block_on(|| async { panic!("on purpose") });
}

#[test]
fn a_panic_in_a_call_leaves_the_reactor_alone() {
    let reactor = start();
    let own = reactor.clone();
    let caller = thread::spawn(move || own.block_on(|| async { panic!("on purpose") }));
    assert!(caller.join().is_err());
    assert_eq!(reactor.block_on(|| async { 7 }), Ok(7));
}

#[test]
fn a_panic_in_a_task_ends_the_reactor_and_is_reported() {
    let reactor = start();
    reactor.spawn(|| Box::pin(async { panic!("on purpose") }));
    let panic = reactor.join().unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
    assert_eq!(reactor.block_on(|| async {}), Err(ReactorGone));
}

#[test]
fn stopping_drops_tasks_on_their_own_thread() {
    struct Tell(mpsc::Sender<ThreadId>);
    impl Drop for Tell {
        fn drop(&mut self) {
            // Last wishes that come too late are dropped, too, and harm nobody.
            UringRuntime.spawn(Box::pin(async { unreachable!() }));
            self.0.send(thread::current().id()).unwrap();
        }
    }
    let reactor = start();
    let (sender, dropped) = mpsc::channel();
    reactor.spawn(move || {
        let tell = Tell(sender);
        Box::pin(async move {
            pending::<()>().await;
            drop(tell);
        })
    });
    let own = reactor.block_on(|| async { thread::current().id() }).unwrap();
    reactor.stop();
    reactor.join().unwrap();
    assert_eq!(dropped.recv(), Ok(own));
}

#[test]
fn a_call_to_a_stopped_reactor_fails_and_does_not_hang() {
    let reactor = start();
    let waiting = reactor.call(pending::<()>);
    reactor.stop();
    reactor.join().unwrap();
    assert_eq!(reactor.block_on(|| async {}), Err(ReactorGone));
    let next = start();
    assert_eq!(next.block_on(|| waiting), Ok(Err(ReactorGone)));
}

#[test]
fn the_last_handle_stops_the_reactor() {
    let ended = Arc::new(AtomicBool::new(false));
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (reactor, flag) = (start(), Flag(Arc::clone(&ended)));
    let (sender, gone) = mpsc::channel::<()>();
    reactor.spawn(move || {
        Box::pin(async move {
            pending::<()>().await;
            drop((flag, sender));
        })
    });
    reactor.block_on(|| async {}).unwrap();
    drop(reactor);
    assert!(gone.recv().is_err());
    assert!(ended.load(Ordering::SeqCst));
}

#[test]
fn two_sleeping_reactors_wake_each_other() {
    const ROUNDS: u64 = 20_000;
    let (left, right) = (start(), start());
    let (ping, pong) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let player = |own: Arc<Notify>, other: Arc<Notify>| async move {
        for _ in 0..ROUNDS {
            own.notified().await;
            other.notify_one();
        }
        ROUNDS
    };
    let (a, b) = (Arc::clone(&ping), Arc::clone(&pong));
    let (c, d) = (Arc::clone(&ping), Arc::clone(&pong));
    let first = left.call(move || player(a, b));
    let second = right.call(move || player(d, c));
    ping.notify_one();
    let judge = start();
    let played = judge.block_on(move || async move { (first.await, second.await) });
    assert_eq!(played, Ok((Ok(ROUNDS), Ok(ROUNDS))));
}

#[test]
fn no_message_is_lost_however_many_threads_send() {
    let (reactor, count) = (start(), Arc::new(AtomicU64::new(0)));
    let senders = (0..4).map(|_| {
        let (reactor, count) = (reactor.clone(), Arc::clone(&count));
        thread::spawn(move || {
            for _ in 0..5_000 {
                let count = Arc::clone(&count);
                reactor.spawn(move || {
                    Box::pin(async move {
                        count.fetch_add(1, Ordering::Relaxed);
                    })
                });
            }
            reactor.block_on(|| async {}).unwrap();
        })
    });
    senders.collect::<Vec<_>>().into_iter().for_each(|sender| sender.join().unwrap());
    assert_eq!(count.load(Ordering::Relaxed), 20_000);
}

#[test]
fn a_bell_wakes_who_waits_for_it() {
    let (reactor, bell) = (start(), event());
    let own = Arc::clone(&bell);
    let (ready, is_ready) = mpsc::channel();
    let rung = reactor.call(move || {
        let wait = readable(own);
        ready.send(()).unwrap();
        wait
    });
    is_ready.recv().unwrap();
    ring_bell(&bell);
    let judge = start();
    assert!(judge.block_on(|| rung).unwrap().unwrap().is_ok());
}

#[test]
fn a_bell_rung_while_nobody_waits_is_heard_later() {
    let (reactor, bell) = (start(), event());
    let own = Arc::clone(&bell);
    let outcome = reactor.block_on(move || async move {
        let mut dropped = Box::pin(readable(Arc::clone(&own)));
        std::future::poll_fn(|context| {
            assert!(dropped.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        UringRuntime.sleep(Duration::from_millis(1)).await;
        drop(dropped);
        ring_bell(&own);
        readable(own).await
    });
    outcome.unwrap().unwrap();
}

#[test]
fn waiting_for_a_bell_does_not_keep_a_reactor_from_ending() {
    let (reactor, bell) = (start(), event());
    let own = Arc::clone(&bell);
    reactor.spawn(move || {
        Box::pin(async move {
            let _ = readable(own).await;
        })
    });
    reactor.block_on(|| async {}).unwrap();
    reactor.stop();
    reactor.join().unwrap();
    assert_eq!(Arc::strong_count(&bell), 1, "the ring has let go of it");
}

#[test]
fn far_more_operations_than_the_ring_has_room_for_complete() {
    let file: Arc<OwnedFd> = Arc::new(tempfile::tempfile().unwrap().into());
    let reactor = Reactor::start("small", ReactorConfig { ring_entries: 2, ..config() }).unwrap();
    let done = reactor.block_on(move || async move {
        let writes: Vec<_> = (0..500)
            .map(|index| {
                let data = BlockBuf::zeroed(1).share();
                submit(Request::Write { file: Arc::clone(&file), offset: index * 4096, data })
            })
            .collect();
        for write in writes {
            write.await.1.unwrap();
        }
        let buf = BlockBuf::zeroed(500);
        submit(Request::Read { file, offset: 0, buf }).await.1
    });
    done.unwrap().unwrap();
}

#[test]
fn reading_past_the_end_of_a_file_is_an_error() {
    let file: Arc<OwnedFd> = Arc::new(tempfile::tempfile().unwrap().into());
    rustix::fs::ftruncate(&file, 3 * 4096 + 100).unwrap();
    let outcome = start().block_on(move || async move {
        submit(Request::Read { file, offset: 0, buf: BlockBuf::zeroed(4) }).await.1
    });
    let error = outcome.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn io_under_way_ends_before_its_reactor_does() {
    let file: Arc<OwnedFd> = Arc::new(tempfile::tempfile().unwrap().into());
    let (reactor, own) = (start(), Arc::clone(&file));
    reactor.spawn(move || {
        Box::pin(async move {
            let mut data = BlockBuf::zeroed(1024);
            data.fill(9);
            drop(submit(Request::Write { file: own, offset: 0, data: data.share() }));
            pending::<()>().await;
        })
    });
    reactor.block_on(|| async {}).unwrap();
    reactor.stop();
    reactor.join().unwrap();
    assert_eq!(Arc::strong_count(&file), 1);
    let mut last = [0; 1];
    rustix::io::pread(&file, &mut last, 1024 * 4096 - 1).unwrap();
    assert_eq!(last, [9]);
}

#[test]
fn tasks_are_served_first_come_first_served() {
    let order = start().block_on(|| async {
        let (order, next) = (Rc::new(Cell::new(0_u32)), Cell::new(0));
        let in_order = Rc::new(Cell::new(true));
        for number in 0..50 {
            let (order, in_order) = (Rc::clone(&order), Rc::clone(&in_order));
            UringRuntime.spawn(Box::pin(async move {
                in_order.set(in_order.get() && order.replace(number + 1) == number);
            }));
            next.set(number);
        }
        UringRuntime.yield_now().await;
        in_order.get() && order.get() == 50
    });
    assert_eq!(order, Ok(true));
}

#[test]
fn an_answer_may_come_from_any_thread() {
    let reactor = start();
    let (sender, receiver) = oneshot::channel();
    let answer = reactor.call(move || receiver);
    thread::spawn(move || sender.send(5)).join().unwrap().unwrap();
    let judge = start();
    assert_eq!(judge.block_on(|| answer).unwrap().unwrap(), Ok(5));
}
