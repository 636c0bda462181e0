//! `kill -9` of the real server under load: every acknowledged write is there afterwards, flushed or
//! not, in a server started again.
//!
//! A client over vhost-user writes with several requests under way and stamps every sector with its
//! place and the number of the write. After each kill every sector must hold the last write to it that
//! was acknowledged, or a later one that was under way.

mod rig;

use std::collections::BTreeMap;

use bough_tests::vhost::{Driver, FLUSH, FrontEnd, READ, WRITE};
use rig::Rig;
use rig::client::{Dice, SECTOR_BYTES, connect, stamp};

const KILLS: u64 = 20;
const DISK_SECTORS: u64 = 8192;
const SLOTS: u16 = 5;
const WRITE_MAX_SECTORS: u64 = 20;
const READ_SECTORS: u64 = 16;

#[derive(Clone, Copy)]
struct Write {
    number: u64,
    first: u64,
    count: u64,
}

/// What the disk must hold.
struct Model {
    /// By sector: the write that was acknowledged last, or read back since.
    held: Vec<u64>,
    /// Under way: nothing, or everything, of each sector.
    under_way: BTreeMap<u16, Option<Write>>,
    next: u64,
    acknowledged: u64,
}

impl Model {
    fn is_free(&self, first: u64, count: u64) -> bool {
        let apart =
            |write: &Write| first + count <= write.first || write.first + write.count <= first;
        self.under_way.values().flatten().all(apart)
    }

    fn answered(&mut self, slot: u16) {
        let Some(Some(write)) = self.under_way.remove(&slot) else { return };
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
fn submit(front: &FrontEnd, driver: &mut Driver, model: &mut Model, dice: &mut Dice, slot: u16) {
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

/// Writes until so many requests were answered, keeping all slots busy to the end.
fn load(front: &FrontEnd, driver: &mut Driver, model: &mut Model, dice: &mut Dice, answers: u64) {
    for slot in 0..SLOTS {
        submit(front, driver, model, dice, slot);
    }
    for _ in 0..answers {
        let slot = driver.wait_for_answer(front).0;
        assert_eq!(driver.status(front, slot), 0, "a request failed");
        model.answered(slot);
        submit(front, driver, model, dice, slot);
    }
}

fn read_back(front: &FrontEnd, driver: &mut Driver, model: &mut Model) {
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

#[test]
fn every_acknowledged_write_survives_twenty_kills_of_the_server() {
    let mut rig = Rig::new();
    let size = (DISK_SECTORS * 512).to_string();
    rig.ok(&["create", "web", &size]);
    rig.ok(&["attach", "web"]);
    rig.serve();
    let (mut dice, held) = (Dice(42), vec![0; usize::try_from(DISK_SECTORS).unwrap()]);
    let mut model = Model { held, under_way: BTreeMap::new(), next: 1, acknowledged: 0 };
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
