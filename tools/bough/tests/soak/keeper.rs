//! Who takes snapshots of guests' disks while they are written, looks at them again later, compares
//! and deletes them, and runs the checks.

use std::fmt;

use bough_tests::stamp::{Dice, SECTOR_BYTES, writer_of};

use super::guest::{Floor, disk_name};
use super::rig::Rig;
use super::{GUESTS, Life};

/// More are not kept.
const KEPT_MAX: usize = 24;

/// A snapshot that was answered, and so is there until its deletion is asked for.
#[derive(Clone)]
struct Kept {
    disk: usize,
    label: String,
    /// By sector, the write that it holds.
    writers: Vec<u64>,
}

impl Kept {
    fn name(&self) -> String {
        name(self.disk, &self.label)
    }
}

fn name(disk: usize, label: &str) -> String {
    format!("{}@{label}", disk_name(disk))
}

/// See the module's documentation.
pub struct Keeper {
    dice: Dice,
    kept: Vec<Kept>,
    next: u64,
    taken: u64,
    looks: u64,
    deleted: u64,
    checks: u64,
    /// Snapshots whose deletion, or taking, was cut off.
    unsure: Vec<String>,
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { taken, looks, deleted, checks, .. } = self;
        write!(f, "{taken} snapshots taken, {looks} read again, {deleted} deleted, {checks} checks")
    }
}

impl Keeper {
    pub fn new() -> Self {
        let (kept, unsure) = (Vec::new(), Vec::new());
        Self { dice: Dice(1), kept, next: 0, taken: 0, looks: 0, deleted: 0, checks: 0, unsure }
    }

    /// Finds what it keeps as it left it, then goes on until the server's life ends.
    pub fn work(&mut self, rig: &Rig, life: &Life, floors: &[Floor]) {
        let _watch = life.watch();
        self.clear_up(rig);
        life.settle();
        while !life.is_ending() {
            match self.dice.roll(12) {
                0..3 if self.kept.len() < KEPT_MAX => self.take_one(rig, life, floors),
                3 if self.kept.len() + GUESTS <= KEPT_MAX => self.take_all(rig, life, floors),
                4..6 => self.look_again(rig, life),
                6 => self.compare(rig, life),
                7 => self.check(rig, life),
                8 => self.tell(rig, life),
                _ => self.delete_one(rig, life),
            }
        }
    }

    /// At the end of everything.
    pub fn throw_all_away(&mut self, rig: &Rig) {
        self.clear_up(rig);
        for kept in std::mem::take(&mut self.kept) {
            rig.ok(&["delete", &kept.name()]);
        }
    }

    /// What was answered is there and what was deleted is not; of what was cut off nothing is kept.
    fn clear_up(&mut self, rig: &Rig) {
        for index in 0..GUESTS {
            let there = labels(rig, index);
            let kept = || self.kept.iter().filter(|kept| kept.disk == index);
            for kept in kept() {
                assert!(there.contains(&kept.label), "{} is gone", kept.name());
            }
            let surplus = there.iter().filter(|label| kept().all(|kept| kept.label != **label));
            for label in surplus {
                let name = name(index, label);
                assert!(self.unsure.contains(&name), "{name} was deleted, and is there");
                rig.ok(&["delete", &name]);
            }
        }
        self.unsure.clear();
    }

    fn take_one(&mut self, rig: &Rig, life: &Life, floors: &[Floor]) {
        let index = self.roll(GUESTS);
        self.take(rig, life, floors, &[index]);
    }

    fn take_all(&mut self, rig: &Rig, life: &Life, floors: &[Floor]) {
        let all: Vec<usize> = (0..GUESTS).collect();
        self.take(rig, life, floors, &all);
    }

    /// A snapshot holds every write that was acknowledged before it was asked for.
    fn take(&mut self, rig: &Rig, life: &Life, floors: &[Floor], disks: &[usize]) {
        self.next += 1;
        let label = format!("s{}", self.next);
        let names: Vec<String> = disks.iter().map(|disk| name(*disk, &label)).collect();
        let before: Vec<Vec<u64>> = disks.iter().map(|disk| floors[*disk].now()).collect();
        let words: Vec<&str> =
            std::iter::once("snapshot").chain(names.iter().map(String::as_str)).collect();
        if !done(rig, life, &words) {
            return self.unsure.extend(names);
        }
        for (disk, floor) in disks.iter().zip(before) {
            let kept = Kept { disk: *disk, label: label.clone(), writers: floor };
            self.examine(rig, life, kept);
        }
    }

    /// Reads a new snapshot, and keeps it with what it holds.
    fn examine(&mut self, rig: &Rig, life: &Life, mut kept: Kept) {
        let name = kept.name();
        let Some(writers) = read(rig, life, &name) else { return self.unsure.push(name) };
        for (sector, (there, floor)) in writers.iter().zip(&kept.writers).enumerate() {
            assert!(
                there >= floor,
                "{name}, sector {sector}: write {floor} was acknowledged before"
            );
        }
        kept.writers = writers;
        self.taken += 1;
        self.kept.push(kept);
    }

    fn look_again(&mut self, rig: &Rig, life: &Life) {
        let Some(kept) = self.any() else { return };
        let Some(writers) = read(rig, life, &kept.name()) else { return };
        assert!(writers == kept.writers, "{} has changed", kept.name());
        self.looks += 1;
    }

    /// What `diff` leaves out is the same in both.
    fn compare(&mut self, rig: &Rig, life: &Life) {
        let (Some(a), Some(b)) = (self.any(), self.any()) else { return };
        let Some(out) = answer(rig, life, &["--json", "diff", &a.name(), &b.name()]) else {
            return;
        };
        let ranges: serde_json::Value = serde_json::from_str(&out).unwrap();
        let mut differs = vec![false; a.writers.len()];
        for range in ranges.as_array().unwrap() {
            let sector = |field: &str| -> usize {
                (range[field].as_u64().unwrap() / 512).try_into().unwrap()
            };
            let start = sector("start_bytes");
            differs[start..start + sector("length_bytes")].fill(true);
        }
        for (sector, differs) in differs.into_iter().enumerate() {
            // Guests' stamps say the sector and the number of the write, not the disk.
            let same = a.writers[sector] == b.writers[sector];
            assert!(differs || same, "{} and {}: sector {sector}", a.name(), b.name());
        }
    }

    fn delete_one(&mut self, rig: &Rig, life: &Life) {
        if self.kept.len() < 4 {
            return;
        }
        let index = self.roll(self.kept.len());
        let name = self.kept.swap_remove(index).name();
        if done(rig, life, &["delete", &name]) {
            self.deleted += 1;
        } else {
            self.unsure.push(name);
        }
    }

    fn check(&mut self, rig: &Rig, life: &Life) {
        let word = if self.roll(3) == 0 { "scrub" } else { "check" };
        self.checks += u64::from(done(rig, life, &[word]));
    }

    fn tell(&mut self, rig: &Rig, life: &Life) {
        for words in [&["status"][..], &["list"], &["tree"]] {
            done(rig, life, words);
        }
    }

    fn any(&mut self) -> Option<Kept> {
        let index = self.roll(self.kept.len().max(1));
        self.kept.get(index).cloned()
    }

    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.dice.roll(u64::try_from(sides).unwrap())).unwrap()
    }
}

/// The labels of a guest's snapshots that are the keeper's.
fn labels(rig: &Rig, index: usize) -> Vec<String> {
    let shown = rig.json(&["show", &disk_name(index)]);
    let names = shown["snapshots"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap());
    let labels = names.map(|name| name.split_once('@').unwrap().1.to_owned());
    labels.filter(|label| label.starts_with('s')).collect()
}

/// Carries a command out; whether it was. It has to be, unless the server is about to go.
fn done(rig: &Rig, life: &Life, words: &[&str]) -> bool {
    answer(rig, life, words).is_some()
}

fn answer(rig: &Rig, life: &Life, words: &[&str]) -> Option<String> {
    let done = rig.bough(words);
    assert!(done.code == 0 || life.is_ending(), "bough {words:?}: {done:?}");
    (done.code == 0).then_some(done.out)
}

/// Which write each sector of a version holds.
fn read(rig: &Rig, life: &Life, name: &str) -> Option<Vec<u64>> {
    let image = rig.path("keeper.raw");
    let _ = std::fs::remove_file(&image);
    answer(rig, life, &["export", name, image.to_str().unwrap()])?;
    let bytes = std::fs::read(&image).unwrap();
    let sectors = (0..).zip(bytes.chunks(SECTOR_BYTES));
    let writer = |(sector, bytes)| {
        writer_of(sector, bytes).unwrap_or_else(|| panic!("{name}: sector {sector} is nobody's"))
    };
    Some(sectors.map(writer).collect())
}
