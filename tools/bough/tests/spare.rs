//! A server dies, its spare goes on, and front ends that would never connect again notice nothing.

mod rig;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bough_tests::model::DISK_SECTORS;
use bough_tests::stamp::{Dice, SECTOR_BYTES};
use bough_tests::vhost::{Ask, Driver, FrontEnd, READ, WRITE, features, protocol, request};
use rig::Rig;
use rig::client::{connect, connect_to};
use rig::kills::{self, Kills};

const KILLS: u64 = 20;

/// A served disk, and a spare.
fn served(disks: &[&str]) -> Rig {
    let mut rig = Rig::new();
    for disk in disks {
        rig.ok(&["create", disk, &(DISK_SECTORS * 512).to_string()]);
        rig.ok(&["attach", disk]);
    }
    rig.serve();
    rig.stand_by();
    rig
}

/// Kills the server again and again under load. Returns how many writes were acknowledged.
fn survive_kills(rig: &mut Rig, front: &FrontEnd, driver: &mut Driver, seed: u64) -> u64 {
    kills::survive_kills(rig, front, driver, Kills { seed, count: KILLS }, |rig| {
        rig.succeed();
        rig.stand_by();
    })
}

#[test]
fn twenty_kills_under_load_lose_no_request_and_answer_none_twice() {
    let mut rig = served(&["web"]);
    let (front, mut driver) = connect(&rig, "web");
    let acknowledged = survive_kills(&mut rig, &front, &mut driver, 7);
    println!("{acknowledged} writes survived {KILLS} kills on one connection");
    // The spare had been told where the log ended.
    let log = rig.log();
    assert!(log.contains("searched=false") && !log.contains("searched=true"), "{log}");
}

#[test]
fn a_front_end_that_keeps_its_in_flight_region_stays_connected_too() {
    let mut rig = served(&["web"]);
    let front = FrontEnd::connect(&rig.path("run/web.sock"), Driver::memory_bytes(1));
    front.negotiate(features::USUAL, protocol::ALL);
    let (description, file) = front.new_inflight(1, 16);
    front.set_inflight(&description, &file);
    front.share_table();
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    survive_kills(&mut rig, &front, &mut driver, 8);
}

#[test]
fn status_names_the_spare_that_keeps_connections() {
    let mut rig = Rig::new();
    rig.serve();
    assert_eq!(rig.json(&["status"])["server"]["keepers"], serde_json::json!([]));
    assert!(!rig.ok(&["status"]).contains("kept by"));
    rig.stand_by();
    let keepers = rig.json(&["status"])["server"]["keepers"].clone();
    let [spare] = &keepers.as_array().unwrap()[..] else { panic!("{keepers}") };
    assert!(spare.as_str().unwrap().starts_with("spare (process "), "{spare}");
    assert!(rig.ok(&["status"]).contains("kept by    spare (process "));
}

/// Tells the talker to stop, whatever happens.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks the server things, each with an answer that is known, until told to stop. Returns how often the
/// front end had to connect again.
fn converse(socket: &Path, over: &AtomicBool, connecting: &Mutex<()>) -> u64 {
    let connect = || {
        let _calm = connecting.lock().unwrap();
        connect_to(socket)
    };
    let (mut front, mut driver) = connect();
    let mut reconnected = 0;
    while !over.load(Ordering::Relaxed) {
        let answered = ask_everything(&front, &driver);
        if answered.is_none() {
            // The one case in which it may: killed between an answer and the note of it.
            assert!(front.is_cut_off());
            (front, driver) = connect();
            reconnected += 1;
        }
    }
    assert_eq!(driver.carry_out(&front, READ, 0, &[0xaa; SECTOR_BYTES]).0, 0);
    reconnected
}

/// Stops and starts the ring, and takes memory away and gives it back.
fn ask_everything(front: &FrontEnd, driver: &Driver) -> Option<()> {
    let acknowledged = |request, body: &[u8]| {
        front.send(request, Ask::Reply, body, &[]);
        let reply = front.receive()?;
        assert_eq!((reply.request, reply.number()), (request, 0));
        Some(())
    };
    let word = |value: u32| [0u32.to_ne_bytes(), value.to_ne_bytes()].concat();
    acknowledged(request::SET_VRING_ENABLE, &word(0))?;
    acknowledged(request::SET_VRING_ENABLE, &word(1))?;
    front.send(request::GET_QUEUE_NUM, Ask::Nothing, &[], &[]);
    assert_eq!(front.receive()?.number(), 1);
    front.send(request::GET_VRING_BASE, Ask::Nothing, &word(0), &[]);
    front.receive()?;
    for bell in [(request::SET_VRING_KICK, &driver.kick), (request::SET_VRING_CALL, &driver.call)] {
        use std::os::fd::AsRawFd;
        let body = 0u64.to_ne_bytes();
        front.send(bell.0, Ask::Reply, &body, &[bell.1.as_raw_fd()]);
        assert_eq!(front.receive()?.number(), 0);
    }
    Some(())
}

#[test]
fn kills_in_the_middle_of_messages_lose_none_and_answer_none_twice() {
    let mut rig = served(&["talk"]);
    let mut dice = Dice(9);
    // Nobody promises that a connection survives that is being made.
    let (over, connecting) = (AtomicBool::new(false), Mutex::new(()));
    let socket = rig.path("run/talk.sock");
    let reconnected = thread::scope(|scope| {
        let telling = Over(&over);
        let talking = scope.spawn(|| converse(&socket, &over, &connecting));
        for _ in 0..KILLS {
            thread::sleep(Duration::from_micros(dice.roll(20_000)));
            {
                let _calm = connecting.lock().unwrap();
                rig.signal("-KILL");
            }
            rig.succeed();
            rig.stand_by();
        }
        drop(telling);
        talking.join().unwrap()
    });
    println!("{KILLS} kills in the middle of messages: connected again {reconnected} times");
}

#[test]
fn a_server_that_is_stopped_hands_its_front_ends_to_its_spare() {
    let mut rig = served(&["web", "other"]);
    let (front, mut driver) = connect(&rig, "web");
    assert_eq!(driver.carry_out(&front, WRITE, 5, &[0x5a; SECTOR_BYTES]).0, 0);
    for _ in 0..3 {
        rig.signal("-TERM");
        rig.succeed();
        let (status, data) = driver.carry_out(&front, READ, 5, &[0; SECTOR_BYTES]);
        assert_eq!((status, data), (0, vec![0x5a; SECTOR_BYTES]));
        rig.stand_by();
    }
    // What nobody uses goes on being offered, and commands find their way.
    let (other, mut other_driver) = connect(&rig, "other");
    assert_eq!(other_driver.carry_out(&other, READ, 0, &[1; SECTOR_BYTES]).0, 0);
    rig.ok(&["snapshot", "web@after"]);
    drop(other);
    rig.ok(&["detach", "--force", "web"]);
    assert!(front.is_cut_off(), "a spare that holds a connection does not keep it open");
}
