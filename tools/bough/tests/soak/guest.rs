//! A guest that writes and flushes as long as there is a server.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use bough_tests::model::{DISK_SECTORS, Model, SLOTS, read_back, submit, take_answer};
use bough_tests::stamp::Dice;
use bough_tests::vhost::{Driver, FrontEnd};

use super::Life;
use super::rig::Rig;
use super::rig::client::connect;

/// See the module's documentation.
pub struct Guest {
    disk: String,
    model: Arc<Mutex<Model>>,
    dice: Dice,
}

/// What any later snapshot of a guest's disk holds at least.
pub struct Floor(Arc<Mutex<Model>>);

impl Floor {
    /// By sector, the number of the newest write that was acknowledged.
    pub fn now(&self) -> Vec<u64> {
        lock(&self.0).held().to_vec()
    }
}

impl Guest {
    /// With a disk of its own, attached.
    pub fn new(rig: &Rig, index: usize) -> Self {
        let disk = disk_name(index);
        rig.ok(&["create", &disk, &(DISK_SECTORS * 512).to_string()]);
        rig.ok(&["attach", &disk]);
        let seed = u64::try_from(index).unwrap() + 100;
        Self { disk, model: Arc::new(Mutex::new(Model::default())), dice: Dice(seed) }
    }

    pub fn floor(&self) -> Floor {
        Floor(Arc::clone(&self.model))
    }

    pub fn acknowledged(&self) -> u64 {
        lock(&self.model).acknowledged
    }

    /// Compares its disk with what it was told, then writes until the server is gone.
    pub fn work(&mut self, rig: &Rig, life: &Life) -> (FrontEnd, Driver) {
        let _watch = life.watch();
        let (front, mut driver) = connect(rig, &self.disk);
        read_back(&front, &mut driver, &mut lock(&self.model));
        life.settle();
        for slot in 0..SLOTS {
            submit(&front, &mut driver, &mut lock(&self.model), &mut self.dice, slot);
        }
        while !life.is_over() {
            if driver.answers_waiting(&front) == 0 {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            let mut model = lock(&self.model);
            let slot = take_answer(&front, &mut driver, &mut model);
            submit(&front, &mut driver, &mut model, &mut self.dice, slot);
        }
        (front, driver)
    }

    /// What the server had answered before it died counts, seen in time or not.
    pub fn take_what_was_answered(&mut self, (front, mut driver): (FrontEnd, Driver)) {
        let mut model = lock(&self.model);
        for _ in 0..driver.answers_waiting(&front) {
            take_answer(&front, &mut driver, &mut model);
        }
    }
}

/// The disk of the guest with that number.
pub fn disk_name(index: usize) -> String {
    format!("guest-{index}")
}

fn lock(model: &Mutex<Model>) -> MutexGuard<'_, Model> {
    model.lock().unwrap()
}
