//! A client of a served disk, and what it writes.

use std::path::Path;

use bough_tests::vhost::{Driver, FrontEnd, features, protocol};

use super::Rig;

/// What a sector holds.
pub const SECTOR_BYTES: usize = 512;

/// Numbers that anybody can have again.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A sector as write number `number` leaves it: recognised as a whole or not at all.
pub fn stamp(sector: u64, number: u64) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    for (index, chunk) in bytes.chunks_mut(16).enumerate() {
        let index = u64::try_from(index).unwrap();
        chunk[..8].copy_from_slice(&number.to_le_bytes());
        chunk[8..]
            .copy_from_slice(&(sector.wrapping_mul(0x9e37_79b9) ^ index ^ number).to_le_bytes());
    }
    bytes
}

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
