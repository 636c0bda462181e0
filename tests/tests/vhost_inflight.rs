//! A server may be killed under a running guest: what it had taken and not answered, its
//! successor carries out again, in order and before anything new.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bough_tests::vhost::{Done, Driver, FrontEnd, READ, Rig, WRITE, features, protocol, request};

/// Fewer than the ring has: QEMU 10 does that.
const ASKED: u16 = 8;
/// What every queue's part has at least.
const ENTRIES: u16 = 1024;
const QUEUE_BYTES: u64 = 16448; // 16 + 16 × 1024, in units of 64

/// What the region says of a queue: for each descriptor whether it is under way, and in what
/// order; and where the used ring stood.
fn region(file: &File, queue: u64) -> (Vec<(u16, u64)>, u16) {
    let mut bytes = vec![0; 16 + 16 * usize::from(ENTRIES)];
    file.read_exact_at(&mut bytes, queue * QUEUE_BYTES).unwrap();
    assert_eq!(bytes[8..12], [1, 0, 0, 4], "version and size");
    let entries = bytes[16..].chunks(16).zip(0..).filter(|(entry, _)| entry[0] != 0);
    let under_way = entries
        .map(|(entry, head)| (head, u64::from_ne_bytes(entry[8..].try_into().unwrap())))
        .collect();
    (under_way, u16::from_ne_bytes([bytes[14], bytes[15]]))
}

/// Writes an entry as a killed server may have left it.
fn put_entry(file: &File, head: u64, under_way: u8, next: u16, counter: u64) {
    let mut entry = [0; 16];
    entry[0] = under_way;
    entry[6..8].copy_from_slice(&next.to_ne_bytes());
    entry[8..].copy_from_slice(&counter.to_ne_bytes());
    file.write_all_at(&entry, 16 + head * 16).unwrap();
}

fn put_header(file: &File, last_batch: u16, used: u16) {
    let words = [1, ENTRIES, last_batch, used].map(u16::to_ne_bytes).concat();
    file.write_all_at(&words, 8).unwrap();
}

/// A front end with a region and a queue that is ready to be enabled.
fn prepared(rig: &Rig) -> (FrontEnd, Driver, Vec<u8>, File) {
    let front = rig.front_end(1);
    front.negotiate(features::USUAL, protocol::ALL);
    let (description, file) = front.new_inflight(1, ASKED);
    front.set_inflight(&description, &file);
    front.share(0, Driver::memory_bytes(1));
    let driver = Driver::new(0);
    driver.describe(&front, 0);
    driver.start(&front);
    (front, driver, description, file)
}

fn enable(front: &FrontEnd) {
    front.set(request::SET_VRING_ENABLE, 0, 1);
}

fn write_request(front: &FrontEnd, driver: &Driver, slot: u16) {
    let mark = u8::try_from(0x10 + slot).unwrap();
    front.poke(driver.data_at(slot), &[mark; 512]);
    driver.prepare(front, slot, WRITE, 100 + u64::from(slot), 512);
}

fn write_of(slot: u16) -> Done {
    let mark = u8::try_from(0x10 + slot).unwrap();
    Done::Write((100 + u64::from(slot)) * 512, 512, mark)
}

#[test]
fn the_region_follows_every_request() {
    let rig = Rig::new(1, false);
    let (front, mut driver, _, file) = prepared(&rig);
    enable(&front);
    rig.disk.hold(true);
    for slot in [2, 0, 4] {
        write_request(&front, &driver, slot);
        driver.offer(&front, slot);
    }
    driver.ring();
    rig.disk.wait_for_arrivals(3);
    assert_eq!(region(&file, 0), (vec![(0, 1), (6, 0), (12, 2)], 0), "heads and their order");
    rig.disk.hold(false);
    for _ in 0..3 {
        driver.wait_for_answer(&front);
    }
    front.stop(0);
    assert_eq!(region(&file, 0), (vec![], 3));
}

#[test]
fn unanswered_requests_are_carried_out_again_in_order_and_before_new_ones() {
    let rig = Rig::new(1, false);
    let (front, mut driver, _, file) = prepared(&rig);
    // Taken by the dead server: slots 3, 1, 2. Offered since: slot 0.
    for slot in [3, 1, 2, 0] {
        write_request(&front, &driver, slot);
        driver.offer(&front, slot);
    }
    put_header(&file, 0, 0);
    put_entry(&file, 9, 1, 0, 70);
    put_entry(&file, 3, 1, 0, 71);
    put_entry(&file, 6, 1, 0, 72);
    enable(&front);
    let mut answered: Vec<_> = (0..4).map(|_| driver.wait_for_answer(&front).0).collect();
    assert_eq!(rig.disk.done(), [3, 1, 2, 0].map(write_of));
    answered.sort_unstable();
    assert_eq!(answered, [0, 1, 2, 3]);
    front.stop(0);
    assert_eq!(region(&file, 0).0, []);
}

#[test]
fn an_answer_that_went_out_is_not_given_twice() {
    let rig = Rig::new(1, false);
    let (front, mut driver, _, file) = prepared(&rig);
    for slot in [0, 1] {
        write_request(&front, &driver, slot);
        driver.offer(&front, slot);
    }
    // The dead server had answered slot 0 in the used ring, and not yet struck it off.
    front.poke(0x2000, &[0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    put_header(&file, 0, 0);
    put_entry(&file, 0, 1, 0, 0);
    put_entry(&file, 3, 1, 0, 1);
    enable(&front);
    assert_eq!(driver.wait_for_answer(&front).0, 0, "by the dead server");
    assert_eq!(driver.wait_for_answer(&front).0, 1, "by its successor");
    assert_eq!(rig.disk.done(), [write_of(1)]);
    front.stop(0);
    assert_eq!(driver.answers_waiting(&front), 0);
}

#[test]
fn requests_that_were_under_way_when_the_front_end_left_are_answered_to_its_successor() {
    let mut rig = Rig::new(1, false);
    let (front, mut driver, description, file) = prepared(&rig);
    enable(&front);
    rig.disk.hold(true);
    for slot in [1, 0] {
        write_request(&front, &driver, slot);
        driver.offer(&front, slot);
    }
    driver.ring();
    rig.disk.wait_for_arrivals(2);
    let memory = front.memory();
    drop(front);
    rig.disk.wait_until_unwatched(); // from here on nothing is answered
    rig.disk.hold(false);
    rig.withdraw();
    assert_eq!(region(&file, 0).0.len(), 2, "both are still marked");
    assert_eq!(driver.answers_waiting(&FrontEnd::offline(memory.try_clone().unwrap())), 0);

    rig.offer();
    let front = FrontEnd::connect_with(&rig.path, memory);
    front.negotiate(features::USUAL, protocol::ALL);
    front.set_inflight(&description, &file);
    front.share(0, Driver::memory_bytes(1));
    driver.describe(&front, 0); // QEMU sets the used index as base; the region knows better
    driver.start(&front);
    enable(&front);
    assert_eq!(driver.wait_for_answer(&front).0, 1);
    assert_eq!(driver.wait_for_answer(&front).0, 0);
    let done = rig.disk.done();
    assert_eq!(done.len(), 4, "each was carried out twice: {done:?}");
    assert_eq!(done[2..], [write_of(1), write_of(0)], "again, in the order of taking");
}

/// Run by the test below in a process of its own, to be killed.
#[test]
#[ignore = "a part of another test"]
fn serve_until_killed() {
    let Ok(path) = std::env::var("BOUGH_TEST_SOCKET") else { return };
    let _rig = Rig::at(path.into(), std::env::var("BOUGH_TEST_HOLD").is_ok());
    loop {
        std::thread::park();
    }
}

fn server(path: &std::path::Path, hold: bool) -> std::process::Child {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "serve_until_killed"]).env("BOUGH_TEST_SOCKET", path);
    if hold {
        command.env("BOUGH_TEST_HOLD", "1");
    }
    let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    while std::os::unix::net::UnixStream::connect(path).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child
}

#[test]
fn a_killed_servers_requests_are_answered_by_its_successor() {
    let folder = std::env::temp_dir().join(format!("bough-kill-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("disk.sock");
    let mut first = server(&path, true);

    let front = FrontEnd::connect(&path, Driver::memory_bytes(1));
    front.negotiate(features::USUAL, protocol::ALL);
    let (description, file) = front.new_inflight(1, ASKED);
    front.set_inflight(&description, &file);
    front.share(0, Driver::memory_bytes(1));
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    for slot in 0..4 {
        driver.prepare(&front, slot, READ, u64::from(slot), 512);
        driver.offer(&front, slot);
    }
    driver.ring();
    while region(&file, 0).0.len() < 4 {
        std::thread::yield_now();
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let memory = front.memory();
    drop(front);

    let mut second = server(&path, false);
    let front = FrontEnd::connect_with(&path, memory);
    front.negotiate(features::USUAL, protocol::ALL);
    front.set_inflight(&description, &file);
    front.share(0, Driver::memory_bytes(1));
    driver.set_up(&front);
    let mut answered: Vec<_> = (0..4).map(|_| driver.wait_for_answer(&front).0).collect();
    answered.sort_unstable();
    assert_eq!(answered, [0, 1, 2, 3]);
    for slot in 0..4 {
        assert_eq!(driver.status(&front, slot), 0);
        let expected = [u8::try_from(slot).unwrap(); 512];
        assert_eq!(front.peek(driver.data_at(slot), 512), expected);
    }
    second.kill().unwrap();
    second.wait().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
