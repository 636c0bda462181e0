//! A disk far larger than the memory that the server may use.

mod rig;

use bough_tests::stamp::{Dice, SECTOR_BYTES, stamp};
use bough_tests::vhost::{READ, WRITE};
use rig::Rig;
use rig::client::connect;

const DISK_SECTORS: u64 = (1 << 40) / 512;
const BLOCK_SECTORS: u64 = 8;
const WRITES: u64 = 6_000;
const BUDGET_KIB: u64 = 16 << 10;

/// The most that a process ever had in memory, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What write `number` leaves in the block at `first`.
fn block(first: u64, number: u64) -> Vec<u8> {
    (first..first + BLOCK_SECTORS).flat_map(|sector| stamp(sector, number)).collect()
}

#[test]
fn a_tebibyte_is_written_and_read_with_16_mebibytes_of_memory() {
    let mut rig = Rig::bare();
    rig.ok(&["init", "--size", "4G"]);
    rig.ok(&["create", "huge", "1T"]);
    rig.ok(&["attach", "huge"]);
    rig.serve_with(&["--memory", "16M"]);
    let (front, mut driver) = connect(&rig, "huge");
    let at_start = peak_kib(rig.server_pid());
    let places = || {
        let mut dice = Dice(7);
        (0..WRITES).map(move |_| dice.roll(DISK_SECTORS / BLOCK_SECTORS) * BLOCK_SECTORS)
    };
    for (number, first) in (1..).zip(places()) {
        let (status, _) = driver.carry_out(&front, WRITE, first, &block(first, number));
        assert_eq!(status, 0);
        if number == WRITES / 2 {
            rig.ok(&["snapshot", "huge@half"]);
        }
    }
    for (number, first) in (1..).zip(places()) {
        let room = vec![0; block(first, number).len()];
        let (status, data) = driver.carry_out(&front, READ, first, &room);
        assert_eq!(status, 0);
        assert!(data == block(first, number), "block at sector {first}");
        assert_eq!(data.len() / SECTOR_BYTES, 8);
    }
    let grown = peak_kib(rig.server_pid()) - at_start;
    assert!(grown < 2 * BUDGET_KIB, "grew by {grown} KiB");
    eprintln!("at start {at_start} KiB, grew by {grown} KiB");
    drop(front);
    rig.ok(&["check"]);
}
