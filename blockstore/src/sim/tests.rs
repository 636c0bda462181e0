//! The simulator keeps its own promises.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{CrashKind, Faults, Mishap, Odds, Sim, SimDevice, SimImage, Stopped};
use crate::addr::{BlockAddr, BlockCount, BlockRun, to_usize};
use crate::buffer::{BlockBuf, BlockSlice};
use crate::device::{Device, DeviceFault, Operation, Runtime};

fn filled(count: usize, byte: u8) -> BlockSlice {
    let mut buf = BlockBuf::zeroed(count);
    buf.fill(byte);
    buf.share()
}

fn at(block: u64) -> BlockAddr {
    BlockAddr::of(block)
}

/// The distinct bytes of a block.
fn bytes_in(image: &SimImage, block: u64) -> BTreeSet<u8> {
    image.read(at(block)).iter().copied().collect()
}

fn write(sim: &Sim, device: &SimDevice, block: u64, byte: u8) {
    sim.run(device.write(at(block), filled(1, byte))).unwrap();
}

/// Several tasks at once, each reading, writing and syncing a part of its own.
fn bustle(sim: &Sim) -> u64 {
    let device = sim.create_device(BlockCount(256));
    device.set_faults(Faults {
        write_error: Odds::once_in(50),
        read_error: Odds::once_in(50),
        rotten_read: Odds::once_in(20),
        ..Faults::default()
    });
    let (runtime, left) = (sim.runtime(), Rc::new(Cell::new(8)));
    for part in 0..8 {
        let (device, left, mut rng) = (Arc::clone(&device), Rc::clone(&left), sim.fork_rng());
        let own = Arc::clone(&runtime);
        runtime.spawn(Box::pin(async move {
            for step in 0..50 {
                let block = at(part * 32 + rng.below(32));
                let _ = match rng.below(4) {
                    0 => device.read(block, 1).await.map(drop),
                    1 => device.sync().await,
                    2 => {
                        own.sleep(Duration::from_micros(rng.below(100))).await;
                        Ok(())
                    }
                    _ => device.write(block, filled(1, step)).await,
                };
            }
            left.set(left.get() - 1);
        }));
    }
    let runtime = sim.runtime();
    sim.run(async move {
        while left.get() > 0 {
            runtime.sleep(Duration::from_millis(1)).await;
        }
    });
    sim.digest()
}

#[test]
fn equal_seeds_give_equal_histories() {
    for seed in 0..20 {
        assert_eq!(bustle(&Sim::new(seed)), bustle(&Sim::new(seed)), "seed {seed}");
    }
    let digests: BTreeSet<u64> = (0..20).map(|seed| bustle(&Sim::new(seed))).collect();
    assert_eq!(digests.len(), 20, "different seeds differ");
}

#[test]
fn equal_seeds_give_equal_crash_images() {
    let image = |seed| {
        let sim = Sim::new(seed);
        let device = sim.create_device(BlockCount(64));
        for block in 0..32 {
            write(&sim, &device, block, 1);
        }
        let image = sim.crash(CrashKind::PowerCut);
        (0..64).map(|block| image.read(at(block)).to_vec()).collect::<Vec<_>>()
    };
    for seed in 0..10 {
        assert!(image(seed) == image(seed));
    }
}

#[test]
fn completed_writes_survive_a_kill_and_those_under_way_may_be_torn() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let device = sim.create_device(BlockCount(16));
        write(&sim, &device, 3, 7);
        drop(device.write(at(5), filled(1, 9)));
        let image = sim.crash(CrashKind::Kill);
        assert_eq!(bytes_in(&image, 3), BTreeSet::from([7]));
        outcomes.insert(bytes_in(&image, 5));
    }
    let [nothing, whole, torn] = [vec![0], vec![9], vec![0, 9]].map(BTreeSet::from_iter);
    assert_eq!(outcomes, BTreeSet::from([nothing, whole, torn]));
}

#[test]
fn synced_writes_survive_a_power_cut_and_others_may_be_torn() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let device = sim.create_device(BlockCount(16));
        write(&sim, &device, 3, 7);
        sim.run(device.sync()).unwrap();
        write(&sim, &device, 5, 9);
        let image = sim.crash(CrashKind::PowerCut);
        assert_eq!(bytes_in(&image, 3), BTreeSet::from([7]));
        outcomes.insert(bytes_in(&image, 5));
    }
    assert_eq!(outcomes.len(), 3);
}

#[test]
fn a_sync_promises_nothing_about_writes_that_complete_after_it_began() {
    let lost = (0..100).filter(|seed| {
        let sim = Sim::new(*seed);
        let device = sim.create_device(BlockCount(16));
        let sync = device.sync();
        write(&sim, &device, 5, 9);
        sim.run(sync).unwrap();
        bytes_in(&sim.crash(CrashKind::PowerCut), 5) == BTreeSet::from([0])
    });
    assert!(lost.count() > 10);
}

#[test]
fn what_a_kill_left_unsynced_a_later_power_cut_may_take() {
    let lost = (0..100).filter(|seed| {
        let sim = Sim::new(*seed);
        let device = sim.create_device(BlockCount(16));
        write(&sim, &device, 5, 9);
        let device = sim.open_device(sim.crash(CrashKind::Kill));
        assert_eq!(bytes_in(&device.image(), 5), BTreeSet::from([9]));
        bytes_in(&sim.crash(CrashKind::PowerCut), 5) == BTreeSet::from([0])
    });
    assert!(lost.count() > 10);
}

#[test]
fn a_failed_sync_loses_writes_for_good_though_reads_still_see_them() {
    let lost = (0..100).filter(|seed| {
        let sim = Sim::new(*seed);
        let device = sim.create_device(BlockCount(16));
        write(&sim, &device, 5, 9);
        device.plan(Operation::Sync, 0, Mishap::Error);
        assert!(sim.run(device.sync()).is_err());
        sim.run(device.sync()).unwrap();
        assert_eq!(bytes_in(&device.image(), 5), BTreeSet::from([9]));
        bytes_in(&sim.crash(CrashKind::PowerCut), 5) == BTreeSet::from([0])
    });
    assert!(lost.count() > 10);
}

#[test]
fn growth_is_durable_once_synced() {
    let mut lengths = BTreeSet::new();
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let device = sim.create_device(BlockCount(16));
        sim.run(device.grow(BlockCount(32))).unwrap();
        sim.run(device.sync()).unwrap();
        sim.run(device.grow(BlockCount(64))).unwrap();
        assert_eq!(device.block_count(), BlockCount(64));
        lengths.insert(sim.crash(CrashKind::PowerCut).block_count().0);
    }
    assert_eq!(lengths, BTreeSet::from([32, 64]));
}

#[test]
fn discarded_blocks_read_as_anything_and_give_room_back() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let device = sim.create_device(BlockCount(16));
        write(&sim, &device, 5, 9);
        assert_eq!(device.image().allocated(), BlockCount(1));
        sim.run(device.discard(BlockRun { start: at(5), count: 1 })).unwrap();
        assert_eq!(device.image().allocated(), BlockCount(0));
        let bytes = bytes_in(&device.image(), 5);
        let noise = bytes.len() > 2;
        outcomes.insert(if noise { BTreeSet::new() } else { bytes });
    }
    assert_eq!(outcomes.len(), 3, "noise, what it held, zeros");
}

#[test]
fn a_full_host_refuses_new_blocks_and_takes_overwrites() {
    let sim = Sim::new(1);
    let device = sim.create_device(BlockCount(64));
    device.set_faults(Faults { host_blocks: Some(4), ..Faults::default() });
    sim.run(device.write(at(0), filled(3, 1))).unwrap();
    let error = sim.run(device.write(at(10), filled(3, 1))).unwrap_err();
    assert!(matches!(error.kind, DeviceFault::NoSpace));
    assert_eq!(device.image().allocated(), BlockCount(4));
    sim.run(device.write(at(0), filled(3, 2))).unwrap();
}

#[test]
fn beyond_the_end_is_refused() {
    let sim = Sim::new(1);
    let device = sim.create_device(BlockCount(8));
    let error = sim.run(device.read(at(7), 2)).unwrap_err();
    assert!(matches!(error.kind, DeviceFault::OutOfRange));
    assert!(sim.run(device.write(BlockAddr::MAX, filled(1, 1))).is_err());
}

#[test]
fn mishaps_happen_when_planned() {
    let sim = Sim::new(4);
    let device = sim.create_device(BlockCount(8));
    device.plan(Operation::Write, 1, Mishap::Lost);
    device.plan(Operation::Write, 2, Mishap::Rot);
    for block in 0..4 {
        write(&sim, &device, block, 5);
    }
    let image = device.image();
    let whole = BTreeSet::from([5]);
    assert_eq!(bytes_in(&image, 0), whole);
    assert_eq!(bytes_in(&image, 1), BTreeSet::from([0]), "lost");
    assert_eq!(bytes_in(&image, 2).len(), 2, "one byte rotten");
    assert_eq!(bytes_in(&image, 3), whole);

    device.plan(Operation::Read, 0, Mishap::Rot);
    assert!(sim.run(device.read(at(0), 1)).unwrap().iter().any(|byte| *byte != 5));
    assert!(sim.run(device.read(at(0), 1)).unwrap().iter().all(|byte| *byte == 5));

    device.make_unreadable(at(0));
    assert!(sim.run(device.read(at(0), 1)).is_err());
    write(&sim, &device, 0, 6);
    assert!(sim.run(device.read(at(0), 1)).is_ok());
}

#[test]
fn misdirected_writes_land_elsewhere() {
    let sim = Sim::new(3);
    let device = sim.create_device(BlockCount(1000));
    device.plan(Operation::Write, 0, Mishap::Misdirected);
    write(&sim, &device, 1, 5);
    let image = device.image();
    assert_eq!(bytes_in(&image, 1), BTreeSet::from([0]));
    assert_eq!(image.allocated(), BlockCount(1));
}

#[test]
#[should_panic(expected = "overlaps a write")]
fn overlapping_writes_are_a_bug() {
    let sim = Sim::new(1);
    let device = sim.create_device(BlockCount(8));
    drop(device.write(at(1), filled(2, 1)));
    drop(device.write(at(2), filled(1, 1)));
}

#[test]
fn a_read_beside_a_write_under_way_sees_any_mixture() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let device = sim.create_device(BlockCount(8));
        let (read, write) = (device.read(at(1), 1), device.write(at(1), filled(1, 9)));
        let seen = sim.run(read).unwrap();
        outcomes.insert(seen.iter().copied().collect::<BTreeSet<u8>>());
        sim.run(write).unwrap();
    }
    assert_eq!(outcomes.len(), 3);
}

#[test]
fn operations_complete_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let device = sim.create_device(BlockCount(8));
        let order = Rc::new(RefCell::new(Vec::new()));
        for block in 0..3 {
            let (order, write) = (Rc::clone(&order), device.write(at(block), filled(1, 1)));
            sim.runtime().spawn(Box::pin(async move {
                write.await.unwrap();
                order.borrow_mut().push(block);
            }));
        }
        let runtime = sim.runtime();
        sim.run(async { runtime.sleep(Duration::from_secs(1)).await });
        orders.insert(order.take());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn giving_way_resumes_after_all_that_were_ready() {
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let (runtime, ran) = (sim.runtime(), Rc::new(Cell::new(0)));
        let (own, counted) = (sim.runtime(), Rc::clone(&ran));
        sim.run(async move {
            own.yield_now().await;
            for _ in 0..20 {
                let ran = Rc::clone(&counted);
                runtime.spawn(Box::pin(async move { ran.set(ran.get() + 1) }));
            }
            own.yield_now().await;
            assert_eq!(counted.get(), 20);
        });
    }
}

#[test]
fn the_machine_stops_at_the_event_it_is_told() {
    for stop in 1..8 {
        let sim = Sim::new(stop);
        let device = sim.create_device(BlockCount(8));
        sim.stop_after(stop);
        let own = Arc::clone(&device);
        let outcome = sim.run_until_stop(async move {
            for block in 0..4 {
                own.write(at(block), filled(1, 1)).await.unwrap();
            }
        });
        assert_eq!(outcome, Err(Stopped));
        assert_eq!(sim.events(), stop);
        let written = sim.crash(CrashKind::Kill);
        let whole = (0..4).filter(|block| bytes_in(&written, *block) == BTreeSet::from([1]));
        assert!(whole.count() >= to_usize(stop / 2), "each write is two events");
    }
}

#[test]
fn a_crash_drops_every_task_and_kills_every_handle() {
    let sim = Sim::new(1);
    let (device, runtime) = (sim.create_device(BlockCount(8)), sim.runtime());
    let alive = Rc::new(());
    let (held, own) = (Rc::clone(&alive), sim.runtime());
    runtime.spawn(Box::pin(async move {
        own.sleep(Duration::from_secs(1)).await;
        drop(held);
    }));
    sim.run(async { runtime.yield_now().await });
    sim.crash(CrashKind::Kill);
    assert_eq!(Rc::strong_count(&alive), 1);

    let late = device.write(at(0), filled(1, 1));
    runtime.spawn(Box::pin(async { panic!("a dead machine runs nothing") }));
    let next = sim.open_device(SimImage::zeroed(BlockCount(8)));
    sim.runtime().spawn(Box::pin(async move { late.await.unwrap_or_else(|_| unreachable!()) }));
    sim.run(next.sync()).unwrap();
    assert_eq!(next.stats().writes, 0);
}

#[test]
fn a_dropped_future_abandons_the_answer_and_not_the_write() {
    let sim = Sim::new(1);
    let device = sim.create_device(BlockCount(8));
    drop(device.write(at(1), filled(1, 3)));
    let runtime = sim.runtime();
    sim.run(async { runtime.sleep(Duration::from_secs(1)).await });
    assert_eq!(bytes_in(&device.image(), 1), BTreeSet::from([3]));
}

#[test]
#[should_panic(expected = "deadlock")]
fn waiting_for_nothing_is_a_deadlock() {
    Sim::new(1).run(std::future::pending::<()>());
}

#[test]
#[should_panic(expected = "1 operations are held by a freeze")]
fn a_frozen_device_answers_nothing() {
    let sim = Sim::new(1);
    let device = sim.create_device(BlockCount(8));
    device.freeze();
    let _ = sim.run(device.sync());
}

#[test]
fn a_thawed_device_answers_what_it_held_back() {
    let sim = Sim::new(1);
    let device = sim.create_device(BlockCount(8));
    device.freeze();
    let (sync, runtime) = (device.sync(), sim.runtime());
    sim.run(async { runtime.sleep(Duration::from_secs(9)).await });
    device.thaw();
    sim.run(sync).unwrap();
}
