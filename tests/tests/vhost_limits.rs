//! Guests that ask for more than they may, and guests that ask for all there is.

use std::sync::atomic::{AtomicBool, Ordering};

use bough_radix::Limits;
use bough_tests::vhost::{Driver, FLUSH, FrontEnd, READ, Rig, WRITE, features};

const OK: u8 = 0;
/// After one request of a sector, more than eight minutes for the next.
const NEARLY_NOTHING: Limits = Limits { iops: None, bandwidth_bytes: Some(1), burst_seconds: 1 };

fn read_often(front: &FrontEnd, driver: &mut Driver, times: u64) {
    for time in 0..times {
        assert_eq!(driver.carry_out(front, READ, time % 2048, &[0; 512]).0, OK);
    }
}

#[test]
fn what_a_limit_holds_back_waits_in_its_ring_and_keeps_nobody_else_waiting() {
    // With room for one request only: one held back must not have it.
    let limited = Rig::cramped();
    limited.limit(NEARLY_NOTHING);
    let other = Rig::beside(&limited, 1, false);
    let (front, mut driver) = limited.running(features::USUAL);
    let (other_front, mut other_driver) = other.running(features::USUAL);
    driver.submit(&front, 0, READ, 0, 512);
    assert_eq!(driver.wait_for_answer(&front).0, 0);
    driver.submit(&front, 1, WRITE, 8, 512);
    driver.submit(&front, 2, FLUSH, 0, 0);
    read_often(&other_front, &mut other_driver, 300);
    assert_eq!(limited.disk.done().len(), 1, "{:?}", limited.disk.done());
    assert_eq!(driver.answers_waiting(&front), 0);
    // Without limits all goes on at once.
    limited.limit(Limits::NONE);
    for slot in [1, 2] {
        assert_eq!(driver.wait_for_answer(&front).0, slot);
        assert_eq!(driver.status(&front, slot), OK);
    }
}

#[test]
fn flushes_are_free() {
    let rig = Rig::new(1, false);
    rig.limit(Limits { iops: Some(1), bandwidth_bytes: None, burst_seconds: 86_400 });
    let (front, mut driver) = rig.running(features::USUAL);
    for _ in 0..100 {
        driver.submit(&front, 0, FLUSH, 0, 0);
        driver.wait_for_answer(&front);
        assert_eq!(driver.status(&front, 0), OK);
    }
    rig.limit(NEARLY_NOTHING);
    for _ in 0..100 {
        driver.submit(&front, 0, FLUSH, 0, 0);
        driver.wait_for_answer(&front);
        assert_eq!(driver.status(&front, 0), OK);
    }
}

#[test]
fn a_disk_whose_guest_is_held_back_stops_at_once() {
    let mut rig = Rig::new(1, false);
    rig.limit(NEARLY_NOTHING);
    let (front, mut driver) = rig.running(features::USUAL);
    driver.submit(&front, 0, READ, 0, 512);
    driver.wait_for_answer(&front);
    driver.submit(&front, 1, READ, 0, 512);
    let other = Rig::beside(&rig, 1, false);
    let (other_front, mut other_driver) = other.running(features::USUAL);
    read_often(&other_front, &mut other_driver, 10);
    rig.withdraw();
    assert_eq!(rig.disk.done().len(), 1);
}

/// Keeps its ring full until it is told to stop; how many requests were answered.
fn flood(front: &FrontEnd, driver: &mut Driver, stop: &AtomicBool) -> u64 {
    const SLOTS: u16 = 5;
    (0..SLOTS).for_each(|slot| driver.submit(front, slot, READ, 0, 0x2000));
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let (slot, _) = driver.wait_for_answer(front);
        answered += 1;
        driver.submit(front, slot, READ, 0, 0x2000);
    }
    for _ in 0..SLOTS {
        driver.wait_for_answer(front);
    }
    answered
}

#[test]
fn a_guest_that_always_asks_for_more_starves_nobody_on_its_reactor() {
    for (what, flooded) in [("roomy", Rig::new(1, false)), ("cramped", Rig::cramped())] {
        let other = Rig::beside(&flooded, 1, false);
        let (front, mut driver) = flooded.running(features::USUAL);
        let (other_front, mut other_driver) = other.running(features::USUAL);
        let stop = AtomicBool::new(false);
        let answered = std::thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&front, &mut driver, &stop));
            flooded.disk.wait_for_arrivals(100);
            // Each would wait for ever, if a full ring went first.
            read_often(&other_front, &mut other_driver, 500);
            stop.store(true, Ordering::Relaxed);
            flooding.join().unwrap()
        });
        assert!(answered >= 100, "{what}: {answered}");
    }
}
