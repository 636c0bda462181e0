//! A service manager holds the server's connections, starts it again, and watches it; the manager is a
//! double of systemd.

mod rig;

use bough_tests::manager::Manager;
use bough_tests::model::DISK_SECTORS;
use bough_tests::stamp::SECTOR_BYTES;
use bough_tests::vhost::{Driver, READ, WRITE};
use rig::Rig;
use rig::client::connect;
use rig::kills::{Kills, survive_kills};

fn rig() -> (Rig, Manager) {
    let rig = Rig::new();
    rig.ok(&["create", "web", &(DISK_SECTORS * 512).to_string()]);
    rig.ok(&["attach", "web"]);
    let manager = Manager::new(&rig.path(""));
    (rig, manager)
}

#[test]
fn twenty_kills_under_load_are_bridged_by_what_the_manager_holds() {
    let (mut rig, manager) = rig();
    rig.serve_under(&manager, &[]);
    let (front, mut driver) = connect(&rig, "web");
    let kills = Kills { seed: 11, count: 20 };
    let restart = |rig: &mut Rig| rig.serve_under(&manager, &[]);
    let acknowledged = survive_kills(&mut rig, &front, &mut driver, kills, restart);
    println!("{acknowledged} writes survived {} kills and restarts on one connection", kills.count);
}

#[test]
fn a_restart_keeps_connections_and_what_is_over_is_released() {
    let (mut rig, manager) = rig();
    rig.serve_under(&manager, &[]);
    let listening = manager.wait_until(|heard| Some(heard.held.len()));
    let (front, mut driver) = connect(&rig, "web");
    assert_eq!(driver.carry_out(&front, WRITE, 3, &[7; SECTOR_BYTES]).0, 0);
    for round in 1..=3 {
        rig.signal("-TERM");
        rig.serve_under(&manager, &[]);
        manager.wait_until(|heard| (heard.stopping == round).then_some(()));
        let (status, data) = driver.carry_out(&front, READ, 3, &[0; SECTOR_BYTES]);
        assert_eq!((status, data), (0, vec![7; SECTOR_BYTES]));
    }
    let connected = manager.wait_until(|heard| Some(heard.held.len()));
    // Its socket, ledger, memory, and two bells.
    assert_eq!(connected, listening + 5);
    drop(front);
    manager.wait_until(|heard| (heard.held.len() == listening).then_some(()));
}

#[test]
fn a_session_that_was_not_held_whole_is_ended_so_that_its_front_end_connects_again() {
    let (mut rig, manager) = rig();
    rig.serve_under(&manager, &[]);
    let (front, _driver) = connect(&rig, "web");
    rig.signal("-KILL");
    manager.wait_until(|heard| {
        let lost = heard.held.keys().find(|name| name.contains("-event-"))?.clone();
        Some(lost)
    });
    manager.lose("-event-");
    rig.serve_under(&manager, &[]);
    assert!(front.is_cut_off());
    let (front, mut driver): (_, Driver) = connect(&rig, "web");
    assert_eq!(driver.carry_out(&front, READ, 0, &[1; SECTOR_BYTES]).0, 0);
}

#[test]
fn the_watchdog_hears_of_a_server_that_turns() {
    let (mut rig, manager) = rig();
    rig.serve_under(&manager, &["--spare"]);
    manager.wait_until(|heard| (heard.alive > 3).then_some(()));
}
