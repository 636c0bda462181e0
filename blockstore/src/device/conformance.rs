//! What every device and every runtime promises, checked on all of them.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Device, DeviceFault, OpenMode, Operation, Runtime, UringDevice};
use crate::addr::{BLOCK_BYTES, BlockAddr, BlockCount, BlockRun, to_u64, to_usize};
use crate::buffer::{BlockBuf, BlockSlice};
use crate::reactor::{Reactor, ReactorConfig, UringRuntime};
use crate::sim::Sim;

const BLOCKS: BlockCount = BlockCount(64);

/// A device of [`BLOCKS`] blocks of zeros and the machine that it is in.
#[derive(Clone)]
struct Rig {
    device: Arc<dyn Device>,
    runtime: Arc<dyn Runtime>,
}

type Story = Pin<Box<dyn Future<Output = ()>>>;

fn simulated(story: fn(Rig) -> Story) {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let rig = Rig { device: sim.create_device(BLOCKS), runtime: sim.runtime() };
        sim.run(story(rig));
    }
}

fn real(story: fn(Rig) -> Story) {
    let folder = tempfile::tempdir().unwrap();
    let (path, holder) = (folder.path().join("blocks"), folder.path().join("lock"));
    let device: Arc<dyn Device> = Arc::new(UringDevice::create(&path, BLOCKS, &holder).unwrap());
    let reactor = Reactor::start("conformance", ReactorConfig::default()).unwrap();
    let rig = move || story(Rig { device, runtime: Arc::new(UringRuntime) });
    reactor.block_on(rig).unwrap();
    reactor.stop();
    reactor.join().unwrap();
    UringDevice::open(&path, OpenMode::ReadWrite, &holder).expect("nobody holds it any more");
}

macro_rules! promises {
    ($($name:ident),+ $(,)?) => {
        mod on_the_simulator {
            $(#[test] fn $name() { super::simulated(|rig| Box::pin(super::$name(rig))); })+
        }
        mod on_a_file {
            $(#[test] fn $name() { super::real(|rig| Box::pin(super::$name(rig))); })+
        }
    };
}

promises!(
    fresh_blocks_are_zeros,
    what_is_written_is_read,
    parts_of_a_buffer_can_be_written,
    beyond_the_end_is_refused,
    no_blocks_are_nothing_to_do,
    a_dropped_write_is_carried_out_whole,
    a_write_handed_over_is_answered_once_and_later,
    a_dropped_read_harms_nobody,
    operations_run_side_by_side,
    growing_gives_more_blocks_and_keeps_the_old_ones,
    discarding_leaves_the_neighbours_alone,
    discarded_blocks_can_be_written_again,
    there_is_no_second_copy,
    giving_way_resumes_after_all_that_were_ready,
    what_is_put_off_comes_after_all_that_were_ready,
    sleepers_all_wake_and_not_early,
    a_dropped_sleep_wakes_nobody,
    secrets_differ,
);

fn at(block: u64) -> BlockAddr {
    BlockAddr::of(block)
}

/// Blocks of which each starts with its own number and goes on with `byte`.
fn marked(first: u64, count: usize, byte: u8) -> BlockBuf {
    let mut buf = BlockBuf::zeroed(count);
    buf.fill(byte);
    for index in 0..count {
        let number = first + to_u64(index);
        buf.block_mut(index)[..8].copy_from_slice(&number.to_le_bytes());
    }
    buf
}

async fn assert_holds(rig: &Rig, first: u64, count: usize, byte: u8) {
    let read = rig.device.read(at(first), count).await.unwrap();
    assert_eq!(read.block_count(), count);
    assert!(read[..] == marked(first, count, byte)[..], "blocks {first}+{count}");
}

async fn fresh_blocks_are_zeros(rig: Rig) {
    assert_eq!(rig.device.block_count(), BLOCKS);
    let all = rig.device.read(at(0), to_usize(BLOCKS.0)).await.unwrap();
    assert!(all.iter().all(|byte| *byte == 0));
}

async fn what_is_written_is_read(rig: Rig) {
    rig.device.write(at(0), marked(0, 1, 1).share()).await.unwrap();
    rig.device.write(at(7), marked(7, 9, 2).share()).await.unwrap();
    rig.device.write(at(63), marked(63, 1, 3).share()).await.unwrap();
    rig.device.sync().await.unwrap();
    rig.device.write(at(8), marked(8, 2, 4).share()).await.unwrap();
    assert_holds(&rig, 0, 1, 1).await;
    assert_holds(&rig, 7, 1, 2).await;
    assert_holds(&rig, 8, 2, 4).await;
    assert_holds(&rig, 10, 6, 2).await;
    assert_holds(&rig, 63, 1, 3).await;
}

async fn parts_of_a_buffer_can_be_written(rig: Rig) {
    let all: BlockSlice = marked(10, 8, 5).share();
    rig.device.write(at(13), all.slice(3, 2)).await.unwrap();
    assert_holds(&rig, 13, 2, 5).await;
    let before = rig.device.read(at(12), 1).await.unwrap();
    assert!(before.iter().all(|byte| *byte == 0));
}

async fn beyond_the_end_is_refused(rig: Rig) {
    let read = rig.device.read(at(60), 5).await.unwrap_err();
    let write = rig.device.write(BlockAddr::MAX, marked(0, 1, 1).share()).await.unwrap_err();
    let discard = rig.device.discard(BlockRun { start: at(1), count: u64::MAX }).await.unwrap_err();
    for (error, operation) in
        [(read, Operation::Read), (write, Operation::Write), (discard, Operation::Discard)]
    {
        assert!(matches!(error.kind, DeviceFault::OutOfRange), "{error}");
        assert_eq!(error.operation, operation);
    }
}

async fn no_blocks_are_nothing_to_do(rig: Rig) {
    assert_eq!(rig.device.read(at(3), 0).await.unwrap().block_count(), 0);
    rig.device.write(at(3), BlockBuf::zeroed(0).share()).await.unwrap();
    rig.device.discard(BlockRun { start: at(3), count: 0 }).await.unwrap();
}

async fn a_dropped_write_is_carried_out_whole(rig: Rig) {
    drop(rig.device.write(at(4), marked(4, 16, 6).share()));
    // No answer says when; it may take a slow machine long, but not for ever.
    for _ in 0..1000 {
        rig.runtime.sleep(Duration::from_millis(10)).await;
        if rig.device.read(at(4), 16).await.unwrap()[..] == marked(4, 16, 6)[..] {
            return;
        }
    }
    panic!("the write never happened");
}

async fn a_write_handed_over_is_answered_once_and_later(rig: Rig) {
    let answers = Rc::new(std::cell::RefCell::new(Vec::new()));
    for first in [4, 63] {
        let told = Rc::clone(&answers);
        let done = Box::new(move |result: Result<(), _>| {
            told.borrow_mut().push((first, result.is_ok()));
        });
        rig.device.write_then(&*rig.runtime, at(first), marked(first, 2, 6).share(), done);
        assert!(answers.borrow().iter().all(|(answered, _)| *answered != first));
    }
    while answers.borrow().len() < 2 {
        rig.runtime.sleep(Duration::from_millis(1)).await;
    }
    answers.borrow_mut().sort_unstable();
    assert_eq!(*answers.borrow(), [(4, true), (63, false)], "the last lies beyond the end");
    assert_holds(&rig, 4, 2, 6).await;
}

async fn a_dropped_read_harms_nobody(rig: Rig) {
    rig.device.write(at(0), marked(0, 64, 7).share()).await.unwrap();
    for round in 0..50 {
        let mut reads: Vec<_> = (0..8).map(|part| rig.device.read(at(part * 8), 8)).collect();
        drop(reads.swap_remove(round % 8));
        rig.runtime.yield_now().await;
        drop(reads);
        assert_holds(&rig, 0, 64, 7).await;
    }
}

async fn operations_run_side_by_side(rig: Rig) {
    let left = Rc::new(Cell::new(32));
    for block in 0..32_u64 {
        let (own, left) = (rig.clone(), Rc::clone(&left));
        rig.runtime.spawn(Box::pin(async move {
            for byte in 0..10 {
                own.device.write(at(block), marked(block, 1, byte).share()).await.unwrap();
                own.device.sync().await.unwrap();
                assert_holds(&own, block, 1, byte).await;
            }
            left.set(left.get() - 1);
        }));
    }
    while left.get() > 0 {
        rig.runtime.sleep(Duration::from_millis(1)).await;
    }
}

async fn growing_gives_more_blocks_and_keeps_the_old_ones(rig: Rig) {
    rig.device.write(at(63), marked(63, 1, 8).share()).await.unwrap();
    rig.device.grow(BlockCount(100)).await.unwrap();
    assert_eq!(rig.device.block_count(), BlockCount(100));
    rig.device.grow(BlockCount(80)).await.unwrap();
    assert_eq!(rig.device.block_count(), BlockCount(100), "never smaller");
    rig.device.write(at(99), marked(99, 1, 9).share()).await.unwrap();
    assert_holds(&rig, 63, 1, 8).await;
    assert_holds(&rig, 99, 1, 9).await;
    assert!(rig.device.read(at(100), 1).await.is_err());
}

async fn discarding_leaves_the_neighbours_alone(rig: Rig) {
    rig.device.write(at(0), marked(0, 64, 1).share()).await.unwrap();
    rig.device.discard(BlockRun { start: at(8), count: 40 }).await.unwrap();
    assert_holds(&rig, 0, 8, 1).await;
    assert_holds(&rig, 48, 16, 1).await;
    assert_eq!(rig.device.block_count(), BLOCKS);
    assert_eq!(rig.device.read(at(8), 40).await.unwrap().len(), 40 * BLOCK_BYTES);
}

async fn discarded_blocks_can_be_written_again(rig: Rig) {
    rig.device.write(at(0), marked(0, 64, 1).share()).await.unwrap();
    rig.device.discard(BlockRun { start: at(0), count: 64 }).await.unwrap();
    rig.device.write(at(20), marked(20, 4, 2).share()).await.unwrap();
    assert_holds(&rig, 20, 4, 2).await;
}

async fn there_is_no_second_copy(rig: Rig) {
    assert!(rig.device.read_mirror(at(0), 1).is_none());
}

async fn giving_way_resumes_after_all_that_were_ready(rig: Rig) {
    let ran = Rc::new(Cell::new(0));
    for _ in 0..100 {
        let (ran, runtime) = (Rc::clone(&ran), Arc::clone(&rig.runtime));
        runtime.spawn(Box::pin(async move { ran.set(ran.get() + 1) }));
    }
    rig.runtime.yield_now().await;
    assert_eq!(ran.get(), 100);
}

async fn what_is_put_off_comes_after_all_that_were_ready(rig: Rig) {
    let ran = Rc::new(Cell::new(0));
    for _ in 0..100 {
        let (ran, runtime) = (Rc::clone(&ran), Arc::clone(&rig.runtime));
        runtime.spawn(Box::pin(async move { ran.set(ran.get() + 1) }));
    }
    let found = Rc::new(Cell::new(None));
    let (told, seen) = (Rc::clone(&found), Rc::clone(&ran));
    rig.runtime.defer(Box::new(move || told.set(Some(seen.get()))));
    assert_eq!(found.get(), None, "not at once");
    while found.get().is_none() {
        rig.runtime.yield_now().await;
    }
    assert_eq!(found.get(), Some(100));
}

async fn sleepers_all_wake_and_not_early(rig: Rig) {
    let left = Rc::new(Cell::new(4));
    for millis in [20, 0, 40, 1] {
        let (left, runtime) = (Rc::clone(&left), Arc::clone(&rig.runtime));
        rig.runtime.spawn(Box::pin(async move {
            let start = runtime.now();
            runtime.sleep(Duration::from_millis(millis)).await;
            assert!(runtime.now() - start >= Duration::from_millis(millis));
            left.set(left.get() - 1);
        }));
    }
    while left.get() > 0 {
        rig.runtime.sleep(Duration::from_millis(1)).await;
    }
}

async fn a_dropped_sleep_wakes_nobody(rig: Rig) {
    let mut long = rig.runtime.sleep(Duration::from_secs(3600));
    let once = std::future::poll_fn(|context| {
        assert!(long.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    });
    once.await;
    drop(long);
    let start = rig.runtime.now();
    rig.runtime.sleep(Duration::from_millis(1)).await;
    assert!(rig.runtime.now() - start < Duration::from_secs(3600));
}

async fn secrets_differ(rig: Rig) {
    assert_ne!(rig.runtime.random(), rig.runtime.random());
    assert!(rig.runtime.unix_seconds() > 1_600_000_000);
}
