//! What a disk must hold when its server is killed again and again: every write that was acknowledged,
//! or a later one that was under way.
//!
//! Every sector is stamped with its place and the number of the write.

use std::collections::BTreeMap;

use crate::stamp::{Dice, SECTOR_BYTES, stamp};
use crate::vhost::{Driver, FLUSH, FrontEnd, READ, WRITE};

/// The disk's size.
pub const DISK_SECTORS: u64 = 8192;
/// Requests under way at once.
pub const SLOTS: u16 = 5;
const WRITE_MAX_SECTORS: u64 = 20;
const READ_SECTORS: u64 = 16;

#[derive(Clone, Copy)]
struct Write {
    number: u64,
    first: u64,
    count: u64,
}

/// What the disk must hold.
pub struct Model {
    /// By sector: the write that was acknowledged last, or read back since.
    held: Vec<u64>,
    /// Under way: nothing, or everything, of each sector.
    under_way: BTreeMap<u16, Option<Write>>,
    next: u64,
    /// How many requests were answered.
    pub acknowledged: u64,
}

impl Default for Model {
    /// Of a disk that nobody has written.
    fn default() -> Self {
        let held = vec![0; usize::try_from(DISK_SECTORS).unwrap()];
        Self { held, under_way: BTreeMap::new(), next: 1, acknowledged: 0 }
    }
}

impl Model {
    /// By sector, the number of the write that was acknowledged last.
    pub fn held(&self) -> &[u64] {
        &self.held
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn is_free(&self, first: u64, count: u64) -> bool {
        let apart =
            |write: &Write| first + count <= write.first || write.first + write.count <= first;
        self.under_way.values().flatten().all(apart)
    }

    /// A request was answered, which it is once.
    pub fn answered(&mut self, slot: u16) {
        let was_under_way = self.under_way.remove(&slot);
        let Some(write) = was_under_way.expect("a request was answered twice") else { return };
        for sector in write.first..write.first + write.count {
            self.held[usize::try_from(sector).unwrap()] = write.number;
        }
        self.acknowledged += 1;
    }

    /// Compares a sector read back after a kill.
    fn check(&mut self, sector: u64, bytes: &[u8]) {
        let held = &mut self.held[usize::try_from(sector).unwrap()];
        let covers = |write: &&Write| (write.first..write.first + write.count).contains(&sector);
        let later = self.under_way.values().flatten().find(covers).map(|write| write.number);
        let is = |number: u64| {
            if number == 0 {
                bytes.iter().all(|byte| *byte == 0)
            } else {
                bytes == stamp(sector, number)
            }
        };
        if let Some(number) = later.filter(|number| is(*number)) {
            *held = number;
            return;
        }
        let found = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(is(*held), "sector {sector}: write {held} was acknowledged, {found} is there");
    }
}

/// Puts one more request under way: mostly a write, now and then a flush.
pub fn submit(
    front: &FrontEnd,
    driver: &mut Driver,
    model: &mut Model,
    dice: &mut Dice,
    slot: u16,
) {
    if dice.roll(40) == 0 {
        model.under_way.insert(slot, None);
        return driver.submit(front, slot, FLUSH, 0, 0);
    }
    // Writes under way do not overlap: which of two is the later one nobody has promised.
    let (first, count) = loop {
        let count = 1 + dice.roll(WRITE_MAX_SECTORS);
        let first = dice.roll(DISK_SECTORS - count);
        if model.is_free(first, count) {
            break (first, count);
        }
    };
    let number = model.next;
    model.next += 1;
    let data: Vec<u8> = (first..first + count).flat_map(|sector| stamp(sector, number)).collect();
    front.poke(driver.data_at(slot), &data);
    model.under_way.insert(slot, Some(Write { number, first, count }));
    driver.submit(front, slot, WRITE, first, u32::try_from(data.len()).unwrap());
}

/// Waits for the next answer, which must be a good one; says which slot is free now.
pub fn take_answer(front: &FrontEnd, driver: &mut Driver, model: &mut Model) -> u16 {
    let slot = driver.wait_for_answer(front).0;
    assert_eq!(driver.status(front, slot), 0, "a request failed");
    model.answered(slot);
    slot
}

/// Writes until so many requests were answered, keeping all slots busy to the end.
pub fn load(
    front: &FrontEnd,
    driver: &mut Driver,
    model: &mut Model,
    dice: &mut Dice,
    answers: u64,
) {
    for slot in 0..SLOTS {
        submit(front, driver, model, dice, slot);
    }
    for _ in 0..answers {
        let slot = take_answer(front, driver, model);
        submit(front, driver, model, dice, slot);
    }
}

/// Compares the whole disk with the model.
pub fn read_back(front: &FrontEnd, driver: &mut Driver, model: &mut Model) {
    for first in (0..DISK_SECTORS).step_by(usize::try_from(READ_SECTORS).unwrap()) {
        let room = vec![0xaa; usize::try_from(READ_SECTORS).unwrap() * SECTOR_BYTES];
        let (status, data) = driver.carry_out(front, READ, first, &room);
        assert_eq!(status, 0);
        for (sector, bytes) in (first..).zip(data.chunks(SECTOR_BYTES)) {
            model.check(sector, bytes);
        }
    }
    model.under_way.clear();
}
