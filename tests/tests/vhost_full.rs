//! Requests that find the disk full wait, and nobody else waits with them.

use bough_tests::vhost::{
    DISCARD, Done, Driver, FLUSH, FrontEnd, READ, Rig, WRITE, WRITE_ZEROES, features, protocol,
    request,
};

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
/// Memory for less than two of the requests here.
const LITTLE: u64 = 4096;

fn write(front: &FrontEnd, driver: &mut Driver, slot: u16) {
    front.poke(driver.data_at(slot), &[0x10 + u8::try_from(slot).unwrap(); 2048]);
    driver.submit(front, slot, WRITE, u64::from(slot) * 8, 2048);
}

#[test]
fn a_write_waits_for_room_and_reads_and_flushes_do_not() {
    let rig = Rig::patient(LITTLE);
    let (front, mut driver) = rig.running(features::USUAL);
    rig.disk.make_room(0);
    for slot in 1..5 {
        write(&front, &mut driver, slot);
    }
    rig.wait_for_waiting(4);
    assert_eq!(driver.carry_out(&front, READ, 5, &[0; 512]), (OK, vec![5; 512]));
    assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, OK);
    // Room for two: the first two in line have it.
    rig.disk.make_room(2);
    for slot in 1..3 {
        assert_eq!(driver.wait_for_answer(&front).0, slot);
        assert_eq!(driver.status(&front, slot), OK);
    }
    rig.wait_for_waiting(2);
    rig.disk.make_room(usize::MAX);
    for slot in 3..5 {
        assert_eq!(driver.wait_for_answer(&front).0, slot);
        assert_eq!(driver.status(&front, slot), OK);
    }
    assert_eq!(rig.waiting(), 0);
    assert_eq!(rig.disk.bytes(3 * 4096, 2048), [0x13; 2048]);
}

#[test]
fn discards_and_write_zeroes_wait_and_go_on_with_the_range_that_they_came_to() {
    let rig = Rig::patient(LITTLE);
    let (front, mut driver) = rig.running(features::USUAL);
    rig.disk.make_room(1);
    let ranges = |sectors: [u64; 2]| -> Vec<u8> {
        let range = |sector: u64| [&sector.to_le_bytes()[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
        sectors.into_iter().flat_map(range).collect()
    };
    for (slot, kind, sectors) in [(1, DISCARD, [8, 16]), (2, WRITE_ZEROES, [24, 32])] {
        front.poke(driver.data_at(slot), &ranges(sectors));
        driver.submit(&front, slot, kind, 0, 32);
        rig.wait_for_waiting(u64::from(slot));
    }
    rig.disk.make_room(3);
    for slot in 1..3 {
        assert_eq!(driver.wait_for_answer(&front).0, slot);
        assert_eq!(driver.status(&front, slot), OK);
    }
    let [one, two, three, four] = [8, 16, 24, 32].map(|sector| sector * 512);
    let done = [
        Done::Discard(one, 512),
        Done::Discard(two, 512),
        Done::Zero(three, 512),
        Done::Zero(four, 512),
    ];
    assert_eq!(rig.disk.done(), done, "each once");
}

#[test]
fn what_waits_takes_no_memory_from_other_disks() {
    let rig = Rig::patient(LITTLE);
    let (front, mut driver) = rig.running(features::USUAL);
    let neighbour = rig.neighbour();
    let (front_there, mut driver_there) = neighbour.running(features::USUAL);
    rig.disk.make_room(0);
    for slot in 1..5 {
        write(&front, &mut driver, slot);
    }
    rig.wait_for_waiting(4);
    for round in 0..20 {
        let data = [round; 2048];
        assert_eq!(driver_there.carry_out(&front_there, WRITE, 0, &data).0, OK);
    }
    assert_eq!((rig.waiting(), neighbour.waiting()), (4, 0));
    rig.disk.make_room(usize::MAX);
    for _ in 1..5 {
        let slot = driver.wait_for_answer(&front).0;
        assert_eq!(driver.status(&front, slot), OK);
    }
}

#[test]
fn a_front_end_that_leaves_takes_its_waiting_requests_along() {
    let rig = Rig::patient(LITTLE);
    let (front, mut driver) = rig.running(features::USUAL);
    rig.disk.make_room(0);
    write(&front, &mut driver, 1);
    rig.wait_for_waiting(1);
    drop(front);
    rig.wait_for_waiting(0);
    rig.disk.wait_until_unwatched();
    rig.disk.make_room(usize::MAX);
    let (front, mut driver) = rig.running(features::USUAL);
    assert_eq!(driver.carry_out(&front, READ, 8, &[0; 512]).0, OK);
    assert_eq!(rig.disk.done(), [Done::Read(4096, 512)], "the write went with its front end");
}

#[test]
fn a_disk_is_withdrawn_though_requests_wait() {
    let mut rig = Rig::patient(LITTLE);
    let (front, mut driver) = rig.running(features::USUAL);
    rig.disk.make_room(0);
    write(&front, &mut driver, 1);
    rig.wait_for_waiting(1);
    rig.withdraw();
    assert!(front.is_cut_off());
    assert_eq!(rig.waiting(), 0);
    assert_eq!(driver.answers_waiting(&front), 0);
}

#[test]
fn a_queue_that_is_stopped_has_its_waiting_requests_answered_with_an_error() {
    let rig = Rig::patient(LITTLE);
    let (front, mut driver) = rig.running(features::USUAL);
    rig.disk.make_room(0);
    write(&front, &mut driver, 1);
    write(&front, &mut driver, 2);
    rig.wait_for_waiting(2);
    assert_eq!(front.stop(0), 2);
    assert_eq!(driver.answers_waiting(&front), 2);
    for _ in 0..2 {
        let slot = driver.wait_for_answer(&front).0;
        assert_eq!(driver.status(&front, slot), IO_ERROR);
    }
}

#[test]
fn what_waited_under_a_dead_server_waits_under_the_next_and_goes_on_there() {
    let mut rig = Rig::patient(LITTLE);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    let (description, file) = front.new_inflight(1, 16);
    front.set_inflight(&description, &file);
    front.share(0, Driver::memory_bytes(1));
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    rig.disk.make_room(0);
    write(&front, &mut driver, 1);
    rig.wait_for_waiting(1);
    rig.withdraw();
    rig.offer();
    let front = FrontEnd::connect_with(&rig.path, front.memory());
    front.negotiate(features::USUAL, protocol::ALL);
    front.set_inflight(&description, &file);
    front.share(0, Driver::memory_bytes(1));
    driver.describe(&front, 1);
    driver.start(&front);
    front.set(request::SET_VRING_ENABLE, 0, 1);
    rig.wait_for_waiting(1);
    rig.disk.make_room(1);
    assert_eq!(driver.wait_for_answer(&front).0, 1);
    assert_eq!(driver.status(&front, 1), OK);
    assert_eq!(rig.disk.done(), [Done::Write(4096, 2048, 0x11)]);
}

#[test]
fn without_a_line_a_full_disk_is_an_error() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    rig.disk.make_room(0);
    assert_eq!(driver.carry_out(&front, WRITE, 0, &[1; 512]).0, IO_ERROR);
    rig.disk.make_room(1);
    assert_eq!(driver.carry_out(&front, WRITE, 0, &[1; 512]).0, OK);
}
