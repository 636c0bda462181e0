//! Guests' writes that find the store full wait, and go on by themselves; nobody else waits.

mod rig;

use std::process::Command;
use std::time::{Duration, Instant};

use bough_tests::vhost::{Driver, FrontEnd, WRITE, WRITE_ZEROES, features, protocol, request};
use rig::client::{BLOCK_SECTORS, Client, FAILED, GOOD, block};
use rig::{Rig, write_noise};

/// The slot of the request that waits; others use the first.
const SLOT: u16 = 4;

/// However slow the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// A nearly full store, and two served disks with room for much more.
fn nearly_full(args: &[&str]) -> Rig {
    let mut rig = Rig::bare();
    rig.ok(&["init", "--size", "64M"]);
    write_noise(&rig, "noise", 54 << 20);
    rig.ok(&["import", &rig.text("noise"), "filler"]);
    for disk in ["web", "db"] {
        rig.ok(&["create", disk, "1G"]);
        rig.ok(&["attach", disk]);
    }
    rig.serve_with(args);
    rig
}

/// What status says of those of a disk's requests that wait.
fn waiting(rig: &Rig, disk: &str) -> Option<(u64, u64)> {
    let status = rig.json(&["status"]);
    let disks = status["disks"].as_array().unwrap();
    let waiting = &disks.iter().find(|state| state["name"] == disk)?["waiting"];
    Some((waiting["requests"].as_u64()?, waiting["since_unix"].as_u64()?))
}

fn wait_for_waiting(rig: &Rig, disk: &str, count: u64) {
    while waiting(rig, disk).map_or(0, |(requests, _)| requests) != count {
        std::thread::yield_now();
    }
}

/// Has the block at `first` written, in the waiting slot.
fn submit(client: &mut Client, first: u64) {
    let Client { front, driver } = client;
    front.poke(driver.data_at(SLOT), &block(first, 1));
    driver.submit(front, SLOT, WRITE, first, 4096);
}

/// Whether the request in the waiting slot is answered; `false` once it waits for room.
fn is_answered(rig: &Rig, disk: &str, client: &mut Client) -> bool {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "neither answered nor waiting: {}", rig.log());
        let soon = Instant::now() + Duration::from_millis(200);
        while Instant::now() < soon {
            if client.driver.answers_waiting(&client.front) > 0 {
                assert_eq!(client.driver.wait_for_answer(&client.front).0, SLOT);
                assert_eq!(client.driver.status(&client.front, SLOT), GOOD);
                return true;
            }
        }
        if waiting(rig, disk).is_some() {
            return false;
        }
    }
}

/// Writes blocks until one waits; returns where.
fn fill(rig: &Rig, disk: &str, client: &mut Client) -> u64 {
    let mut places = (0..).step_by(8);
    let filled = places.find(|first| {
        submit(client, *first);
        !is_answered(rig, disk, client)
    });
    filled.unwrap()
}

/// The request that waited is carried out.
#[track_caller]
fn goes_on(client: &mut Client) {
    assert_eq!(client.driver.wait_for_answer(&client.front).0, SLOT);
    assert_eq!(client.driver.status(&client.front, SLOT), GOOD);
}

#[test]
fn a_write_waits_until_something_is_deleted_and_everything_else_goes_on() {
    let mut rig = nearly_full(&[]);
    let (mut web, mut db) = (Client::of(&rig, "web"), Client::of(&rig, "db"));
    assert_eq!(db.write(0, 5), GOOD);
    let last = fill(&rig, "web", &mut web);
    web.holds(last - BLOCK_SECTORS, 1);
    assert_eq!((web.flush(), db.flush()), (GOOD, GOOD), "what was acknowledged is made durable");
    db.holds(0, 5);
    assert_eq!(db.write(0, 6), GOOD, "overwrites go on for longer");
    // People are told who waits, and the log says it once.
    let status = rig.ok(&["status"]);
    assert!(status.contains("web") && status.contains("WAITS FOR ROOM for"), "{status}");
    assert!(waiting(&rig, "db").is_none());
    assert_eq!(rig.log().matches("writes wait and go on by themselves").count(), 1);
    // Nothing of what people do hangs; there may be no room for it.
    for args in [&["snapshot", "web@full"][..], &["show", "web"], &["list"], &["check"]] {
        let done = rig.bough(args);
        assert!(done.code == 0 || done.err.contains("full"), "{args:?}: {done:?}");
    }
    assert_eq!(waiting(&rig, "web").map(|(requests, _)| requests), Some(1));
    rig.ok(&["delete", "filler"]);
    goes_on(&mut web);
    web.holds(last, 1);
    assert!(waiting(&rig, "web").is_none());
    assert_eq!((web.write(last + 8, 7), web.flush()), (GOOD, GOOD));
    drop((web, db));
    rig.stop();
    assert_eq!(rig.bough(&["check"]).code, 0);
}

#[test]
fn a_write_waits_until_the_store_grows() {
    let rig = nearly_full(&[]);
    let mut web = Client::of(&rig, "web");
    let last = fill(&rig, "web", &mut web);
    rig.ok(&["grow", "128M"]);
    goes_on(&mut web);
    web.holds(last, 1);
}

#[test]
fn write_zeroes_that_need_room_wait_for_it_too() {
    let rig = nearly_full(&[]);
    let mut web = Client::of(&rig, "web");
    fill(&rig, "web", &mut web);
    // Another slot's: one sector each of blocks that have nothing yet.
    let mut db = Client::of(&rig, "db");
    let mut places = (0..).step_by(8);
    let waits = |first: &u64| {
        let range = [&(first + 1).to_le_bytes()[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
        db.front.poke(db.driver.data_at(SLOT), &range);
        db.driver.submit(&db.front, SLOT, WRITE_ZEROES, 0, 16);
        !is_answered(&rig, "db", &mut db)
    };
    let first = places.find(waits).unwrap();
    assert_eq!(waiting(&rig, "db").map(|(requests, _)| requests), Some(1));
    rig.ok(&["delete", "filler"]);
    goes_on(&mut web);
    goes_on(&mut db);
    assert_eq!(db.read(first), (GOOD, vec![0; 4096]));
}

#[test]
fn detaching_deleting_and_stopping_work_while_writes_wait() {
    let mut rig = nearly_full(&[]);
    let (mut web, mut db) = (Client::of(&rig, "web"), Client::of(&rig, "db"));
    fill(&rig, "web", &mut web);
    fill(&rig, "db", &mut db);
    rig.ok(&["detach", "--force", "web"]);
    assert!(web.front.is_cut_off());
    assert!(waiting(&rig, "web").is_none());
    rig.ok(&["delete", "-r", "web"]);
    goes_on(&mut db);
    // A client that goes away takes what waits along.
    fill(&rig, "db", &mut db);
    drop((web, db));
    wait_for_waiting(&rig, "db", 0);
    let mut db = Client::of(&rig, "db");
    submit(&mut db, 1 << 20);
    wait_for_waiting(&rig, "db", 1);
    rig.stop();
    assert_eq!(rig.bough(&["check"]).code, 0);
}

#[test]
fn what_waited_when_the_server_was_killed_is_carried_out_under_the_next_one() {
    let mut rig = nearly_full(&[]);
    let socket = rig.path("run/web.sock");
    let front = FrontEnd::connect(&socket, Driver::memory_bytes(1));
    front.negotiate(features::USUAL, protocol::ALL);
    let (description, file) = front.new_inflight(1, 16);
    front.set_inflight(&description, &file);
    front.share(0, Driver::memory_bytes(1));
    let driver = Driver::new(0);
    driver.set_up(&front);
    let mut web = Client { front, driver };
    let last = fill(&rig, "web", &mut web);
    rig.kill();
    rig.serve();
    let front = FrontEnd::connect_with(&socket, web.front.memory());
    front.negotiate(features::USUAL, protocol::ALL);
    front.set_inflight(&description, &file);
    front.share(0, Driver::memory_bytes(1));
    web.driver.describe(&front, 0);
    web.driver.start(&front);
    front.set(request::SET_VRING_ENABLE, 0, 1);
    web.front = front;
    // Recovery may have made room enough for it.
    if !is_answered(&rig, "web", &mut web) {
        rig.ok(&["delete", "filler"]);
        goes_on(&mut web);
    }
    web.holds(last, 1);
    assert_eq!(rig.bough(&["check"]).code, 0);
}

#[test]
fn who_wants_errors_gets_them() {
    let rig = nearly_full(&["--on-full", "error"]);
    let mut web = Client::of(&rig, "web");
    let mut places = (0..).step_by(8);
    let refused = places.find(|first| web.write(*first, 1) == FAILED).unwrap();
    web.holds(refused - BLOCK_SECTORS, 1);
    assert_eq!(web.flush(), GOOD);
    assert!(rig.log().contains("the store is full: a write to disk 'web' was refused"));
    assert!(waiting(&rig, "web").is_none());
    rig.ok(&["delete", "filler"]);
    assert_eq!(web.write(refused, 1), GOOD);
}

/// A small file system of its own under the store's folder, gone with the test.
struct SmallHost(String);

impl SmallHost {
    /// `None` where we may not mount one.
    fn under(rig: &Rig) -> Option<Self> {
        let folder = rig.text("store");
        std::fs::create_dir(&folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=48M", "tmpfs", &folder]);
        mount.stderr(std::process::Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallHost {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", &self.0]).status();
    }
}

#[test]
fn a_write_waits_for_the_file_system_that_the_store_is_on() {
    let mut rig = Rig::bare();
    let Some(_host) = SmallHost::under(&rig) else {
        eprintln!("not tested here: no file system can be mounted");
        return;
    };
    rig.ok(&["init", "--size", "256M"]);
    std::fs::write(rig.path("store/other"), vec![1; 16 << 20]).unwrap();
    for disk in ["web", "db"] {
        rig.ok(&["create", disk, "1G"]);
        rig.ok(&["attach", disk]);
    }
    rig.serve();
    let (mut web, mut db) = (Client::of(&rig, "web"), Client::of(&rig, "db"));
    assert_eq!(db.write(0, 5), GOOD);
    let last = fill(&rig, "web", &mut web);
    web.holds(last - BLOCK_SECTORS, 1);
    assert_eq!((web.flush(), db.flush()), (GOOD, GOOD), "what was acknowledged is made durable");
    db.holds(0, 5);
    rig.ok(&["list"]);
    std::fs::remove_file(rig.path("store/other")).unwrap();
    goes_on(&mut web);
    web.holds(last, 1);
    assert_eq!((web.write(last + 8, 7), web.flush()), (GOOD, GOOD));
    assert_eq!((db.write(8, 9), db.flush()), (GOOD, GOOD));
    drop((web, db));
    rig.kill();
    rig.serve();
    Client::of(&rig, "web").holds(last + 8, 7);
    rig.stop();
    assert_eq!(rig.bough(&["check"]).code, 0);
}
