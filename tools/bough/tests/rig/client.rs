//! A client of a served disk, and what it writes.

use std::path::Path;

use bough_tests::stamp::stamp;
use bough_tests::vhost::{Driver, FLUSH, FrontEnd, READ, WRITE, features, protocol};

use super::Rig;

/// A front end on a disk's socket, its queue running.
pub fn connect(rig: &Rig, disk: &str) -> (FrontEnd, Driver) {
    connect_to(&rig.path(&format!("run/{disk}.sock")))
}

/// As [`connect`], by the socket's path.
pub fn connect_to(socket: &Path) -> (FrontEnd, Driver) {
    let front = FrontEnd::connect(socket, Driver::memory_bytes(1));
    front.negotiate(features::USUAL, protocol::ALL);
    front.share(0, Driver::memory_bytes(1));
    let driver = Driver::new(0);
    driver.set_up(&front);
    (front, driver)
}

/// A block's sectors.
pub const BLOCK_SECTORS: u64 = 8;
/// How a request is answered that was carried out...
pub const GOOD: u8 = 0;
/// ...and one that was not.
pub const FAILED: u8 = 1;

/// A disk with a client.
pub struct Client {
    pub front: FrontEnd,
    pub driver: Driver,
}

impl Client {
    pub fn of(rig: &Rig, disk: &str) -> Self {
        let (front, driver) = connect(rig, disk);
        Self { front, driver }
    }

    /// Writes the block at `first`; how that was answered.
    pub fn write(&mut self, first: u64, number: u64) -> u8 {
        self.driver.carry_out(&self.front, WRITE, first, &block(first, number)).0
    }

    pub fn read(&mut self, first: u64) -> (u8, Vec<u8>) {
        self.driver.carry_out(&self.front, READ, first, &block(first, 0))
    }

    pub fn flush(&mut self) -> u8 {
        self.driver.carry_out(&self.front, FLUSH, 0, &[]).0
    }

    #[track_caller]
    pub fn holds(&mut self, first: u64, number: u64) {
        assert_eq!(self.read(first), (GOOD, block(first, number)));
    }
}

/// What write `number` leaves in the block at `first`.
pub fn block(first: u64, number: u64) -> Vec<u8> {
    (first..first + BLOCK_SECTORS).flat_map(|sector| stamp(sector, number)).collect()
}
