//! A server that is killed again and again under load.

use std::process::Command;
use std::thread;
use std::time::Duration;

use bough_tests::model::{Model, SLOTS, read_back, submit, take_answer};
use bough_tests::stamp::Dice;
use bough_tests::vhost::{Driver, FrontEnd};

use super::Rig;

/// How often to kill a server, and when.
#[derive(Clone, Copy)]
pub struct Kills {
    pub seed: u64,
    pub count: u64,
}

/// Kills the server again and again under load, on one connection that is never made again; `restart`
/// has to bring another server about. No request may be lost, or answered twice. Returns how many
/// writes were acknowledged.
pub fn survive_kills(
    rig: &mut Rig,
    front: &FrontEnd,
    driver: &mut Driver,
    kills: Kills,
    mut restart: impl FnMut(&mut Rig),
) -> u64 {
    let (mut dice, mut model) = (Dice(kills.seed), Model::default());
    for slot in 0..SLOTS {
        submit(front, driver, &mut model, &mut dice, slot);
    }
    let take_one = |driver: &mut Driver, model: &mut Model, dice: &mut Dice| {
        let slot = take_answer(front, driver, model);
        submit(front, driver, model, dice, slot);
    };
    for _ in 0..kills.count {
        let pid = rig.server_pid().to_string();
        let delay = Duration::from_micros(dice.roll(60_000));
        let killer = thread::spawn(move || {
            thread::sleep(delay);
            assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
        });
        while !killer.is_finished() {
            if driver.answers_waiting(front) > 0 {
                take_one(driver, &mut model, &mut dice);
            } else {
                thread::yield_now();
            }
        }
        killer.join().unwrap();
        restart(rig);
        for _ in 0..30 {
            take_one(driver, &mut model, &mut dice);
        }
    }
    while model.under_way() > 0 {
        model.answered(driver.wait_for_answer(front).0);
    }
    read_back(front, driver, &mut model);
    model.acknowledged
}
