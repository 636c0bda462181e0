//! What goes wrong around a real server: its device, its file, its descriptors, its clients, its
//! processor. After each, nothing that was acknowledged is lost, `bough check` finds nothing, other
//! disks have not noticed, and whoever is told of it is told what to do.
//!
//! Elsewhere: a full store (`full.rs`), kills (`kill.rs`, `spare.rs`), memory (`memory.rs`), and clients
//! that vanish in an import or a comparison (`server.rs`).

mod rig;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bough_tests::model::{DISK_SECTORS, Model, load, read_back, submit};
use bough_tests::stamp::Dice;
use bough_tests::vhost::WRITE;
use rig::Rig;
use rig::client::{Client, FAILED, GOOD, connect};

/// Two served disks, each written and with a client; nothing goes wrong yet.
fn two_disks() -> (Rig, Client, Client) {
    let mut rig = Rig::new();
    rig.goes_wrong("");
    for disk in ["web", "db"] {
        rig.ok(&["create", disk, &(DISK_SECTORS * 512).to_string()]);
        rig.ok(&["attach", disk]);
    }
    rig.serve();
    let (mut web, mut db) = (Client::of(&rig, "web"), Client::of(&rig, "db"));
    assert_eq!((web.write(0, 1), db.write(0, 2)), (GOOD, GOOD));
    (rig, web, db)
}

/// The server is started again; both disks hold what was acknowledged, and serve.
fn is_whole_after_a_restart(mut rig: Rig, web: Client, db: Client) {
    rig.goes_wrong("");
    rig.kill();
    drop((web, db));
    rig.serve();
    let (mut web, mut db) = (Client::of(&rig, "web"), Client::of(&rig, "db"));
    web.holds(0, 1);
    db.holds(0, 2);
    assert_eq!((web.write(8, 3), web.flush(), db.write(8, 4), db.flush()), (0, 0, 0, 0));
    assert!(!rig.ok(&["status"]).contains("FAULT"));
    rig.stop();
    assert_eq!(rig.bough(&["check"]).code, 0);
}

#[test]
fn a_write_error_halts_its_disk_alone_and_a_restart_recovers_it() {
    let (rig, mut web, mut db) = two_disks();
    rig.goes_wrong("write error");
    assert_eq!(web.write(24, 7), FAILED);
    rig.goes_wrong("");
    assert_eq!((web.write(16, 8), web.flush()), (FAILED, FAILED), "it stays halted");
    assert_eq!((db.write(16, 9), db.flush()), (GOOD, GOOD));
    db.holds(16, 9);
    let status = rig.ok(&["status"]);
    let line = status.lines().find(|line| line.contains("web")).unwrap();
    assert!(line.contains("FAULT") && line.contains("could not be written"), "{status}");
    let refused = rig.fails(&["snapshot", "web@now"]);
    assert!(refused.contains("disk 'web'") && refused.contains("restart"), "{refused}");
    assert!(rig.log().contains("disk 'web' has halted"), "{}", rig.log());
    is_whole_after_a_restart(rig, web, db);
}

#[test]
fn a_read_error_fails_the_request_alone_and_names_its_disk() {
    let (rig, mut web, mut db) = two_disks();
    rig.goes_wrong("read error");
    assert_eq!(web.read(0).0, FAILED);
    assert_eq!(web.read(0).1, vec![0; 4096], "what was not read is not for the guest");
    assert_eq!((web.write(16, 7), db.write(16, 8)), (GOOD, GOOD), "writes read nothing");
    rig.goes_wrong("");
    web.holds(16, 7);
    web.holds(0, 1);
    db.holds(0, 2);
    let log = rig.log();
    assert!(log.contains("disk 'web': read of 1 blocks at block"), "{log}");
    is_whole_after_a_restart(rig, web, db);
}

#[test]
fn a_failed_sync_halts_the_store_and_reopening_is_clean() {
    let (rig, mut web, mut db) = two_disks();
    rig.goes_wrong("sync error times 1");
    assert_eq!(web.flush(), FAILED);
    assert_eq!(web.flush(), FAILED, "a failed sync is never retried");
    assert_eq!((db.write(16, 7), db.flush()), (FAILED, FAILED), "of the whole store");
    for args in [&["snapshot", "db@now"][..], &["create", "new", "1M"]] {
        let refused = rig.fails(args);
        assert!(refused.contains("restart the server"), "{args:?}: {refused}");
    }
    is_whole_after_a_restart(rig, web, db);
}

#[test]
fn under_a_slow_device_everything_comes_later_and_the_server_still_answers() {
    let (mut rig, web, mut db) = two_disks();
    let (mut dice, mut model) = (Dice(5), Model::default());
    let Client { front, mut driver } = web;
    // The model does not know the first write.
    let zeros = vec![0; 4096];
    assert_eq!(driver.carry_out(&front, WRITE, 0, &zeros).0, GOOD);
    rig.goes_wrong("write slow 40\nsync slow 40\nread slow 40");
    load(&front, &mut driver, &mut model, &mut dice, 60);
    assert_eq!(rig.json(&["status"])["disks"].as_array().unwrap().len(), 2);
    rig.ok(&["snapshot", "web@slow", "db@slow"]);
    db.holds(0, 2);
    rig.kill();
    for _ in 0..driver.answers_waiting(&front) {
        let slot = driver.wait_for_answer(&front).0;
        model.answered(slot);
    }
    drop((front, db));
    rig.goes_wrong("");
    rig.serve();
    let (front, mut driver) = connect(&rig, "web");
    read_back(&front, &mut driver, &mut model);
    drop(front);
    rig.stop();
    assert_eq!(rig.bough(&["check"]).code, 0);
}

#[test]
fn who_has_hung_up_is_in_nobodys_way() {
    let (rig, web, db) = two_disks();
    rig.ok(&["snapshot", "web@before"]);
    rig.goes_wrong("write slow 200");
    // Connected for as long as the device takes, though nobody is there any more.
    let leave = |mut client: Client| {
        let Client { front, driver } = &mut client;
        driver.submit(front, 0, WRITE, 800, 4096);
    };
    leave(web);
    rig.ok(&["rollback", "web@before"]);
    leave(Client::of(&rig, "web"));
    rig.ok(&["detach", "web"]);
    rig.goes_wrong("");
    rig.ok(&["attach", "web"]);
    let web = Client::of(&rig, "web");
    is_whole_after_a_restart(rig, web, db);
}

#[test]
fn a_store_file_removed_under_the_server_is_told_of_and_can_be_put_back() {
    let (mut rig, mut web, mut db) = two_disks();
    let blocks = rig.path("store/blocks");
    std::fs::remove_file(&blocks).unwrap();
    assert_eq!((web.write(16, 7), db.write(16, 8)), (GOOD, GOOD), "guests notice nothing");
    web.holds(0, 1);
    let status = rig.ok(&["status"]);
    let rescue = format!("/proc/{}/fd", rig.server_pid());
    assert!(status.contains(rig.text("store/blocks").as_str()), "{status}");
    assert!(status.contains("was removed") && status.contains(&rescue), "{status}");
    // As the warning says; the descriptor is among those that `ls -l` shows as deleted.
    let mut copy = std::fs::File::create(rig.path("copy")).unwrap();
    let held = std::fs::read_dir(&rescue).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &std::path::PathBuf| {
        let target = std::fs::read_link(path).unwrap_or_default();
        target.to_string_lossy() == format!("{} (deleted)", rig.text("store/blocks"))
    };
    let held = held.into_iter().find(is_it).expect("the server has it");
    std::io::copy(&mut std::fs::File::open(held).unwrap(), &mut copy).unwrap();
    rig.kill();
    assert!(rig.fails(&["status"]).contains("no store in"));
    std::fs::rename(rig.path("copy"), &blocks).unwrap();
    rig.serve();
    (web, db) = (Client::of(&rig, "web"), Client::of(&rig, "db"));
    web.holds(16, 7);
    db.holds(16, 8);
    assert!(!rig.ok(&["status"]).contains("was removed"));
    is_whole_after_a_restart(rig, web, db);
}

#[test]
fn a_client_gone_in_the_middle_of_a_verb_leaves_it_done_or_not_done() {
    let (rig, web, db) = two_disks();
    rig.goes_wrong("sync slow 200");
    for (path, body) in [
        ("/v1/snapshots", r#"{"names":["web@gone","db@gone"]}"#),
        ("/v1/disks", r#"{"name":"gone","size_bytes":1048576}"#),
    ] {
        let mut client = UnixStream::connect(rig.control_socket()).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        client.write_all(head.as_bytes()).unwrap();
        // Gone before the sync has ended; some of them before anything has begun.
    }
    rig.goes_wrong("");
    let snapshots = |disk: &str| rig.json(&["show", disk])["snapshots"].as_array().unwrap().len();
    // Both or neither, whenever one looks.
    rig.ok(&["snapshot", "web@after", "db@after"]);
    assert_eq!(snapshots("web"), snapshots("db"));
    is_whole_after_a_restart(rig, web, db);
}

#[test]
fn without_descriptors_newcomers_are_refused_and_those_there_are_served() {
    let mut rig = Rig::new();
    for index in 0..30 {
        rig.ok(&["create", &format!("disk-{index}"), "1M"]);
    }
    rig.ok(&["attach", "disk-0"]);
    rig.limit_descriptors(64);
    rig.serve();
    let mut client = Client::of(&rig, "disk-0");
    assert_eq!(client.write(0, 1), GOOD);
    let mut refused = None;
    for index in 1..30 {
        let name = format!("disk-{index}");
        let done = rig.bough(&["attach", &name]);
        if done.code != 0 {
            refused = Some((name, done));
            break;
        }
    }
    let (name, done) = refused.expect("descriptors run out");
    assert!(done.err.contains(&name) && done.err.contains("LimitNOFILE"), "{done:?}");
    assert_eq!((client.write(8, 2), client.flush()), (GOOD, GOOD));
    client.holds(0, 1);
    rig.ok(&["detach", "disk-1"]);
    rig.ok(&["detach", "disk-2"]);
    rig.ok(&["attach", "disk-3"]);
    drop(client);
    rig.stop();
    assert_eq!(rig.bough(&["check"]).code, 0);
}

/// How long a server is stopped.
fn pause() -> Duration {
    let seconds = std::env::var("BOUGH_STOPPED_SECONDS").map_or(2, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

#[test]
fn a_server_that_is_stopped_for_a_while_goes_on_where_it_was() {
    let mut rig = Rig::new();
    rig.ok(&["create", "web", &(DISK_SECTORS * 512).to_string()]);
    rig.ok(&["attach", "web"]);
    rig.serve();
    let (front, mut driver) = connect(&rig, "web");
    let (mut dice, mut model) = (Dice(11), Model::default());
    load(&front, &mut driver, &mut model, &mut dice, 100);
    rig.signal("-STOP");
    let asking = std::thread::scope(|scope| {
        let asking = scope.spawn(|| rig.ok(&["snapshot", "web@stopped"]));
        std::thread::sleep(pause());
        rig.signal("-CONT");
        asking.join().unwrap()
    });
    assert!(asking.contains("took web@stopped"), "{asking}");
    while model.under_way() > 0 {
        let slot = driver.wait_for_answer(&front).0;
        assert_eq!(driver.status(&front, slot), GOOD);
        model.answered(slot);
    }
    submit(&front, &mut driver, &mut model, &mut dice, 0);
    model.answered(driver.wait_for_answer(&front).0);
    read_back(&front, &mut driver, &mut model);
    drop(front);
    rig.stop();
    assert_eq!(rig.bough(&["check"]).code, 0);
}
