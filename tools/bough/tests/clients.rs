//! What a connected front end forbids, and what goes on under it.

mod rig;

use std::io::Read;
use std::os::unix::net::UnixStream;

use bough_tests::vhost::{Driver, FrontEnd, READ, WRITE, features, protocol};
use rig::Rig;

fn clients(rig: &Rig) -> usize {
    rig.json(&["show", "web"])["disk"]["clients"].as_array().unwrap().len()
}

/// A front end that has connected, and been let in.
fn connected(rig: &Rig) -> UnixStream {
    let socket = UnixStream::connect(rig.path("run/web.sock")).unwrap();
    while clients(rig) == 0 {
        std::thread::yield_now();
    }
    socket
}

fn rig_with_disk() -> Rig {
    let rig = Rig::in_mode(true);
    rig.ok(&["create", "web", "4M"]);
    rig.ok(&["snapshot", "web@a"]);
    rig.ok(&["attach", "web"]);
    rig
}

#[test]
fn a_disk_in_use_is_neither_rolled_back_nor_detached_renamed_or_deleted() {
    let rig = rig_with_disk();
    let mut socket = connected(&rig);
    for args in [
        &["rollback", "web@a"][..],
        &["detach", "web"],
        &["rename", "web", "www"],
        &["delete", "-r", "web"],
        &["attach", "web", "--queues", "3"],
    ] {
        let error = rig.fails(args);
        assert!(error.contains("in use"), "{args:?}: {error}");
    }
    let status = rig.ok(&["status"]);
    assert!(status.contains("web") && status.contains("in use by"), "{status}");
    rig.ok(&["detach", "--force", "web"]);
    assert_eq!(socket.read(&mut [0; 1]).unwrap_or(0), 0, "the front end was cut off");
    rig.ok(&["rollback", "web@a"]);
    rig.ok(&["delete", "-r", "web"]);
}

#[test]
fn a_front_end_that_leaves_makes_way() {
    let rig = rig_with_disk();
    drop(connected(&rig));
    while clients(&rig) > 0 {
        std::thread::yield_now();
    }
    rig.ok(&["rollback", "web@a"]);
}

fn write(front: &FrontEnd, driver: &mut Driver, sector: u64, byte: u8) {
    assert_eq!(driver.carry_out(front, WRITE, sector, &[byte; 4096]).0, 0);
}

#[test]
fn what_a_guest_writes_is_snapshotted_compared_exported_rolled_back_and_cut_off() {
    let rig = rig_with_disk();
    let front = FrontEnd::connect(&rig.path("run/web.sock"), Driver::memory_bytes(1));
    front.negotiate(features::USUAL, protocol::ALL);
    front.share(0, Driver::memory_bytes(1));
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    write(&front, &mut driver, 8, 1);
    rig.ok(&["snapshot", "web@b"]);
    write(&front, &mut driver, 8, 2);
    write(&front, &mut driver, 80, 3);
    rig.ok(&["export", "web@b", &rig.text("b.raw")]);
    rig.ok(&["export", "web", &rig.text("head.raw")]);
    let (b, head) =
        (std::fs::read(rig.path("b.raw")).unwrap(), std::fs::read(rig.path("head.raw")).unwrap());
    assert!(b[4096..8192] == [1; 4096] && b[40960..45056] == [0; 4096]);
    assert!(head[4096..8192] == [2; 4096] && head[40960..45056] == [3; 4096]);
    let starts = |a: &str, b: &str| -> Vec<u64> {
        let extents = rig.json(&["diff", a, b]);
        extents.as_array().unwrap().iter().map(|e| e["start_bytes"].as_u64().unwrap()).collect()
    };
    assert_eq!(starts("web@a", "web@b"), [4096]);
    assert_eq!(starts("web@b", "web"), [4096, 40960]);
    rig.ok(&["resize", "web", "8M"]);
    assert_eq!(driver.carry_out(&front, READ, 16000, &[9; 512]), (0, vec![0; 512]));
    let error = rig.fails(&["resize", "--shrink", "web", "4M"]);
    assert!(error.contains("in use"), "not smaller under a guest: {error}");
    drop(front);
    while clients(&rig) > 0 {
        std::thread::yield_now();
    }
    let planned = rig.json(&["rollback", "-n", "web@b"]);
    assert_eq!(planned["dropped_bytes"], 8192);
    rig.ok(&["rollback", "web@b"]);
    rig.ok(&["export", "web", &rig.text("back.raw")]);
    assert!(rig::same_bytes(&rig.path("b.raw"), &rig.path("back.raw")));
    // What was cut off does not come back.
    rig.ok(&["resize", "--shrink", "web", "4K"]);
    rig.ok(&["resize", "web", "4M"]);
    rig.ok(&["export", "web", &rig.text("cut.raw")]);
    assert!(std::fs::read(rig.path("cut.raw")).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(rig.bough(&["check"]).code, 0);
}
