//! `kill -9` of the real server under load: every acknowledged write is there afterwards, flushed or
//! not, in a server started again.
//!
//! A client over vhost-user writes with several requests under way and stamps every sector with its
//! place and the number of the write. After each kill every sector must hold the last write to it that
//! was acknowledged, or a later one that was under way.

mod rig;

use bough_tests::model::{DISK_SECTORS, Model, load, read_back};
use bough_tests::stamp::Dice;
use rig::Rig;
use rig::client::connect;

const KILLS: u64 = 20;

#[test]
fn every_acknowledged_write_survives_twenty_kills_of_the_server() {
    let mut rig = Rig::new();
    let size = (DISK_SECTORS * 512).to_string();
    rig.ok(&["create", "web", &size]);
    rig.ok(&["attach", "web"]);
    rig.serve();
    let (mut dice, mut model) = (Dice(42), Model::default());
    for kill in 0..KILLS {
        let (front, mut driver) = connect(&rig, "web");
        load(&front, &mut driver, &mut model, &mut dice, 50 + kill * 37 % 400);
        if kill % 3 == 0 {
            rig.ok(&["snapshot", &format!("web@kill-{kill}")]);
        }
        rig.kill();
        // What the server had answered before it died counts, seen in time or not.
        for _ in 0..driver.answers_waiting(&front) {
            let slot = driver.wait_for_answer(&front).0;
            model.answered(slot);
        }
        drop(front);
        rig.serve();
        let (front, mut driver) = connect(&rig, "web");
        read_back(&front, &mut driver, &mut model);
    }
    rig.stop();
    assert_eq!(rig.bough(&["check"]).code, 0);
    println!("{} acknowledged writes survived {KILLS} kills", model.acknowledged);
}
