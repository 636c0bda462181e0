//! `steady-client PROGRESS SOCKET`: writes to a disk over one connection, which is never made again, until
//! `PROGRESS.stop` exists. Then it compares the whole disk with what was acknowledged.
//!
//! PROGRESS holds how many requests were answered so far. Ends badly when the server hangs up, fails a
//! request, answers it twice, or leaves it alone for longer than any pause may be.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bough_tests::model::{Model, SLOTS, read_back, submit, take_answer};
use bough_tests::stamp::Dice;
use bough_tests::vhost::{Driver, FrontEnd, features, protocol};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Leaves the machine to others, too.
const BREATH: Duration = Duration::from_millis(5);
/// A watchdog's time, and that of a restart on a slow machine.
const PATIENCE: Duration = Duration::from_secs(150);

fn main() {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [progress, socket] = &paths[..] else { panic!("steady-client PROGRESS SOCKET") };
    let front = FrontEnd::connect(socket, Driver::memory_bytes(1));
    front.negotiate(features::USUAL, protocol::ALL);
    front.share(0, Driver::memory_bytes(1));
    let mut driver = Driver::new(0);
    driver.set_up(&front);
    let mut model = Model::default();
    write_until_told(&front, &mut driver, &mut model, progress);
    read_back(&front, &mut driver, &mut model);
    assert!(!has_hung_up(&front), "the server hung up");
    println!("{} requests answered on one connection", model.acknowledged);
}

fn write_until_told(front: &FrontEnd, driver: &mut Driver, model: &mut Model, progress: &Path) {
    let told = progress.with_extension("stop");
    let log = File::create(progress).expect("PROGRESS can be written");
    let mut dice = Dice(7);
    for slot in 0..SLOTS {
        submit(front, driver, model, &mut dice, slot);
    }
    while model.under_way() > 0 {
        wait_for_answer(front, driver);
        let slot = take_answer(front, driver, model);
        let line = format!("{:012}\n", model.acknowledged);
        log.write_all_at(line.as_bytes(), 0).expect("PROGRESS can be written");
        if !told.exists() {
            submit(front, driver, model, &mut dice, slot);
        }
        thread::sleep(BREATH);
    }
}

/// Waits for an answer, or for a reason not to.
fn wait_for_answer(front: &FrontEnd, driver: &Driver) {
    let begun = Instant::now();
    while driver.answers_waiting(front) == 0 {
        assert!(!has_hung_up(front), "the server hung up");
        assert!(begun.elapsed() < PATIENCE, "no answer in {} s", PATIENCE.as_secs());
        if driver.bell_rings(1) {
            driver.wait_for_bell();
        }
    }
}

fn has_hung_up(front: &FrontEnd) -> bool {
    let mut polled = [PollFd::new(&front.socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).expect("a poll") > 0
}
