//! What a guest's requests do.

use std::os::fd::AsRawFd;

use bough_tests::vhost::{
    DISCARD, Done, Driver, FLUSH, FrontEnd, GET_ID, INDIRECT, NEXT, READ, Rig, WRITE, WRITE_ZEROES,
    WRITEABLE, descriptor, features, protocol, request,
};

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
const SECTORS: u64 = 2048;

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn what_is_written_is_read_back_at_sector_grain() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    let data: Vec<u8> = (0..1536u32).map(|at| u8::try_from(at * 7 % 256).unwrap()).collect();
    assert_eq!(driver.carry_out(&front, WRITE, 5, &data).0, OK);
    assert_eq!(rig.disk.bytes(5 * 512, 1536), data);
    assert_eq!(driver.carry_out(&front, READ, 5, &[0; 1536]), (OK, data));
    let (status, before) = driver.carry_out(&front, READ, 4, &[0; 512]);
    assert_eq!((status, before), (OK, vec![4; 512]), "the neighbour is untouched");
}

#[test]
fn the_device_says_how_much_it_wrote() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    for (kind, bytes, written) in [(READ, 1024, 1025), (WRITE, 1024, 1), (GET_ID, 20, 21)] {
        driver.submit(&front, 0, kind, 0, bytes);
        assert_eq!(driver.wait_for_answer(&front), (0, written), "request type {kind}");
    }
}

#[test]
fn discard_and_write_zeroes_read_back_as_zeros() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    assert_eq!(driver.carry_out(&front, DISCARD, 0, &range(8, 8, 0)).0, OK);
    assert_eq!(driver.carry_out(&front, WRITE_ZEROES, 0, &range(32, 1, 1)).0, OK);
    assert_eq!(driver.carry_out(&front, READ, 8, &[9; 4096]), (OK, vec![0; 4096]));
    assert_eq!(driver.carry_out(&front, READ, 32, &[9; 512]), (OK, vec![0; 512]));
    let several = [range(64, 1, 0), range(66, 2, 0)].concat();
    assert_eq!(driver.carry_out(&front, DISCARD, 0, &several).0, OK);
    let done = rig.disk.done();
    assert!(done.contains(&Done::Discard(64 * 512, 512)), "{done:?}");
    assert!(done.contains(&Done::Discard(66 * 512, 1024)), "{done:?}");
}

#[test]
fn the_serial_number_is_twenty_bytes() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    let (status, data) = driver.carry_out(&front, GET_ID, 0, &[0xff; 24]);
    assert_eq!(status, OK);
    assert_eq!(data, b"a-serial-number\0\0\0\0\0\xff\xff\xff\xff");
}

#[test]
fn requests_beyond_the_end_fail_and_touch_nothing() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    for sector in [SECTORS - 1, SECTORS, u64::MAX / 512, u64::MAX] {
        assert_eq!(driver.carry_out(&front, WRITE, sector, &[1; 1024]).0, IO_ERROR);
        assert_eq!(driver.carry_out(&front, READ, sector, &[1; 1024]), (IO_ERROR, vec![0; 1024]));
        assert_eq!(driver.carry_out(&front, DISCARD, 0, &range(sector, 2, 0)).0, IO_ERROR);
    }
    let half_there = [range(0, 1, 0), range(SECTORS, 1, 0)].concat();
    assert_eq!(driver.carry_out(&front, DISCARD, 0, &half_there).0, IO_ERROR);
    assert_eq!(rig.disk.done(), []);
    assert_eq!(driver.carry_out(&front, WRITE, SECTORS - 2, &[1; 1024]).0, OK);
}

#[test]
fn a_failed_read_leaves_zeros_and_the_next_request_is_served() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    rig.disk.fail(true);
    assert_eq!(driver.carry_out(&front, READ, 3, &[7; 2048]), (IO_ERROR, vec![0; 2048]));
    assert_eq!(driver.carry_out(&front, WRITE, 3, &[7; 512]).0, IO_ERROR);
    assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, IO_ERROR);
    rig.disk.fail(false);
    assert_eq!(driver.carry_out(&front, READ, 3, &[7; 512]), (OK, vec![3; 512]));
}

#[test]
fn unknown_requests_are_answered_as_such() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    for kind in [2, 3, 7, 10, 14, 99, u32::MAX] {
        assert_eq!(driver.carry_out(&front, kind, 0, &[0; 512]).0, UNSUPPORTED, "type {kind}");
    }
}

#[test]
fn a_driver_that_did_not_take_discard_does_not_get_it() {
    let rig = Rig::new(1, false);
    let (front, mut driver) =
        rig.running(features::VERSION_1 | features::PROTOCOL | features::FLUSH);
    assert_eq!(driver.carry_out(&front, DISCARD, 0, &range(8, 8, 0)).0, UNSUPPORTED);
    assert_eq!(driver.carry_out(&front, WRITE_ZEROES, 0, &range(8, 8, 0)).0, UNSUPPORTED);
    assert_eq!(rig.disk.done(), []);
}

#[test]
fn a_read_only_disk_refuses_to_change() {
    let rig = Rig::new(1, true);
    let (front, mut driver) =
        rig.running(features::VERSION_1 | features::PROTOCOL | features::FLUSH);
    assert_eq!(driver.carry_out(&front, WRITE, 0, &[1; 512]).0, IO_ERROR);
    assert_eq!(driver.carry_out(&front, READ, 9, &[1; 512]), (OK, vec![9; 512]));
    assert_eq!(rig.disk.done(), [Done::Read(9 * 512, 512)]);
}

#[test]
fn a_driver_that_cannot_flush_gets_every_write_durable_before_its_answer() {
    let rig = Rig::new(1, false);
    let wanted =
        features::VERSION_1 | features::PROTOCOL | features::DISCARD | features::WRITE_ZEROES;
    let (front, mut driver) = rig.running(wanted);
    driver.carry_out(&front, WRITE, 0, &[1; 512]);
    driver.carry_out(&front, DISCARD, 0, &range(8, 8, 0));
    driver.carry_out(&front, WRITE_ZEROES, 0, &range(16, 8, 0));
    let expected = [
        Done::Write(0, 512, 1),
        Done::Flush,
        Done::Discard(4096, 4096),
        Done::Flush,
        Done::Zero(8192, 4096),
        Done::Flush,
    ];
    assert_eq!(rig.disk.done(), expected);
}

#[test]
fn a_driver_that_flushes_decides_itself() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    driver.carry_out(&front, WRITE, 0, &[1; 512]);
    assert_eq!(rig.disk.done(), [Done::Write(0, 512, 1)]);
    driver.carry_out(&front, FLUSH, 0, &[]);
    assert_eq!(rig.disk.done()[1], Done::Flush);
}

#[test]
fn a_kick_before_the_queue_is_enabled_is_not_lost() {
    let rig = Rig::new(1, false);
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    front.share(0, Driver::memory_bytes(1));
    let mut driver = Driver::new(0);
    driver.describe(&front, 0);
    driver.submit(&front, 0, FLUSH, 0, 0); // kicked before the server knows the bell
    driver.start(&front);
    driver.submit(&front, 1, FLUSH, 0, 0); // and before the queue is enabled
    front.set(request::SET_VRING_ENABLE, 0, 1);
    assert_eq!(driver.wait_for_answer(&front).0, 0);
    assert_eq!(driver.wait_for_answer(&front).0, 1);
}

#[test]
fn a_disabled_queue_rests_until_it_is_enabled_again() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    driver.carry_out(&front, FLUSH, 0, &[]);
    front.set(request::SET_VRING_ENABLE, 0, 0);
    driver.submit(&front, 1, WRITE, 0, 512);
    // A message in between: whatever the server did by then, it did not take the request.
    front.must(request::SET_OWNER, &[], &[]);
    assert_eq!(rig.disk.done(), [Done::Flush]);
    front.set(request::SET_VRING_ENABLE, 0, 1);
    assert_eq!(driver.wait_for_answer(&front).0, 1);
}

#[test]
fn memory_may_be_added_and_removed_while_the_queue_runs() {
    let rig = Rig::new(1, false);
    let front = FrontEnd::connect(&rig.path, 0x10_0000);
    front.negotiate(features::USUAL, protocol::ALL);
    front.share(0, Driver::memory_bytes(1));
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    driver.carry_out(&front, FLUSH, 0, &[]);

    let (buffers, bytes) = (0x8_0000, 0x1234); // a length that is no multiple of a page
    front.share(buffers, bytes);
    let read_into = |driver: &mut Driver, at: u64| {
        driver.prepare(&front, 0, READ, 6, 512);
        let into = descriptor(FrontEnd::guest(at), 512, NEXT | WRITEABLE, 2);
        driver.put_descriptors(&front, 1, &into);
        driver.offer(&front, 0);
        driver.ring();
    };
    let last = buffers + bytes - 512;
    read_into(&mut driver, last);
    driver.wait_for_answer(&front);
    assert_eq!(driver.status(&front, 0), OK);
    assert_eq!(front.peek(last, 512), [6; 512]);

    front.must(request::REM_MEM_REG, &FrontEnd::region(buffers, bytes), &[]);
    driver.carry_out(&front, FLUSH, 0, &[]);
    read_into(&mut driver, last);
    assert!(front.is_cut_off(), "a buffer that is shared no more");
}

#[test]
fn a_removed_region_may_come_with_a_descriptor() {
    let rig = Rig::new(1, false);
    let front = FrontEnd::connect(&rig.path, 0x10_0000);
    front.negotiate(features::USUAL, protocol::ALL);
    front.share(0, 0x1000);
    let memory = front.memory();
    front.must(request::REM_MEM_REG, &FrontEnd::region(0, 0x1000), &[memory.as_raw_fd()]);
}

#[test]
fn queues_work_side_by_side() {
    let rig = Rig::new(4, false);
    let front = rig.front_end(4);
    front.negotiate(features::USUAL | features::MQ, protocol::ALL);
    front.share(0, Driver::memory_bytes(4));
    let mut drivers: Vec<_> = (0..4).map(Driver::new).collect();
    drivers.iter().for_each(|driver| driver.set_up(&front));
    for round in 0..8u64 {
        for (queue, driver) in (0u64..).zip(&mut drivers) {
            front.poke(driver.data_at(0), &[u8::try_from(round).unwrap(); 512]);
            driver.submit(&front, 0, WRITE, queue * 8, 512);
        }
        for driver in &mut drivers {
            driver.wait_for_answer(&front);
            assert_eq!(driver.status(&front, 0), OK);
        }
    }
    (0..4).for_each(|queue| assert_eq!(rig.disk.bytes(queue * 4096, 512), [7; 512]));
}

#[test]
fn requests_are_carried_out_side_by_side_and_answered_as_they_end() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    rig.disk.hold(true);
    for slot in 0..5 {
        driver.prepare(&front, slot, READ, u64::from(slot), 512);
        driver.offer(&front, slot);
    }
    driver.ring();
    rig.disk.wait_for_arrivals(5);
    assert_eq!(driver.answers_waiting(&front), 0);
    rig.disk.hold(false);
    let mut slots: Vec<u16> = (0..5).map(|_| driver.wait_for_answer(&front).0).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3, 4]);
    (0..5).for_each(|slot| {
        let expected = [u8::try_from(slot).unwrap(); 512];
        assert_eq!(front.peek(driver.data_at(slot), 512), expected);
    });
}

#[test]
fn indirect_descriptors_are_followed() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL | features::INDIRECT);
    driver.prepare(&front, 0, READ, 11, 1024);
    // The three descriptors move to a table of their own; the ring's first one names it.
    let table = front.peek(0, 48);
    let at = driver.data_at(3);
    front.poke(at, &table);
    let first = [descriptor(FrontEnd::guest(at), 48, INDIRECT, 0), vec![0; 32]].concat();
    driver.put_descriptors(&front, 0, &first);
    driver.offer(&front, 0);
    driver.ring();
    driver.wait_for_answer(&front);
    assert_eq!(driver.status(&front, 0), OK);
    let expected = [[11; 512], [12; 512]].concat();
    assert_eq!(front.peek(driver.data_at(0), 1024), expected);
}

#[test]
fn a_request_larger_than_a_piece_is_carried_out_whole() {
    let rig = Rig::new(1, false);
    rig.disk.resize(8 << 20);
    let front = FrontEnd::connect(&rig.path, 16 << 20);
    front.negotiate(features::USUAL, protocol::ALL);
    front.share(0, 16 << 20);
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    let bytes = (2 << 20) + 512;
    let pattern: Vec<u8> = (0..bytes).map(|at| u8::try_from(at / 512 % 255).unwrap()).collect();
    front.poke(4 << 20, &pattern);
    for (kind, flags, at) in [(WRITE, NEXT, 4 << 20), (READ, NEXT | WRITEABLE, 8 << 20)] {
        driver.prepare(&front, 0, kind, 1000, 512);
        let data = descriptor(FrontEnd::guest(at), u32::try_from(bytes).unwrap(), flags, 2);
        driver.put_descriptors(&front, 1, &data);
        driver.offer(&front, 0);
        driver.ring();
        driver.wait_for_answer(&front);
        assert_eq!(driver.status(&front, 0), OK);
    }
    assert!(front.peek(8 << 20, bytes) == pattern);
    assert!(rig.disk.done().len() >= 6, "in pieces: {:?}", rig.disk.done());
}

#[test]
fn with_event_indexes_the_server_rings_only_when_asked() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL | features::EVENT_IDX);
    driver.wait_for_bell(); // the ring that comes with the bell itself
    let used_event = 0x1000 + 4 + 16 * 2;
    front.store_index(used_event, 2); // ring when the third answer is there
    for _ in 0..2 {
        driver.submit(&front, 0, FLUSH, 0, 0);
        while driver.answers_waiting(&front) == 0 {
            std::thread::yield_now();
        }
        driver.wait_for_answer(&front);
        front.stop(0); // all that was to be rung has been rung
        assert!(!driver.bell_rings(0));
        let base = rig.disk.done().len();
        driver.describe(&front, u32::try_from(base).unwrap());
        front.set_eventfd(request::SET_VRING_KICK, 0, &driver.kick);
        driver.wait_for_bell();
    }
    driver.submit(&front, 0, FLUSH, 0, 0);
    driver.wait_for_bell();
    assert_eq!(driver.answers_waiting(&front), 1);
}

#[test]
fn without_event_indexes_the_driver_can_ask_for_silence() {
    let rig = Rig::new(1, false);
    let (front, mut driver) = rig.running(features::USUAL);
    driver.wait_for_bell();
    front.poke(0x1000, &1u16.to_le_bytes()); // VRING_AVAIL_F_NO_INTERRUPT
    driver.submit(&front, 0, FLUSH, 0, 0);
    while driver.answers_waiting(&front) == 0 {
        std::thread::yield_now();
    }
    front.stop(0);
    assert!(!driver.bell_rings(0));
}
