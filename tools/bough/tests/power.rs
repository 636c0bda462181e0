//! Power cuts of a real kernel's block device: the server on `dm-log-writes`, its device replayed to
//! every flush and to moments between, the store opened as it is then.
//!
//! A machine made by `tests/rig/nested-kvm` records; what it recorded is replayed and checked here.
//! `BOUGH_POWER_WRITES` and `BOUGH_POWER_CUTS` make it longer: writes recorded, cuts tried between two
//! flushes.

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bough_blockstore::sim::{Sim, SimImage};
use bough_blockstore::{BlockAddr, BlockCount, Device};
use bough_radix::{Engine, EngineConfig, VersionName};
use bough_tests::power::{Action, Entry, Event, Found, History, Write, WriteLog};
use bough_tests::stamp::{Dice, SECTOR_BYTES, stamp, writers_of};
use bough_tests::vhost::{FLUSH, WRITE};
use rig::client::{Client, GOOD};
use rig::{Rig, run};

const DEVICE_BYTES: u64 = 96 << 20;
const BLOCK_BYTES: u64 = 4096;
const DISK_SECTORS: u64 = 8192;
const WRITE_MAX_SECTORS: u64 = 20;
const SLOTS: u16 = 5;
/// Snapshots taken, with writes between.
const ROUNDS: u64 = 6;
/// From this mark on there is a store with a disk.
const MADE: &str = "made";
const END: &str = "end";

/// A number from the environment.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// A device whose writes are logged; gone with the test.
struct LoggedDevice {
    name: String,
    loops: Vec<String>,
    log: PathBuf,
}

impl LoggedDevice {
    fn new(rig: &Rig, name: &str) -> Self {
        let lend = |file: &str, bytes: u64| {
            std::fs::File::create(rig.path(file)).unwrap().set_len(bytes).unwrap();
            run("losetup", &["--find", "--show", &rig.text(file)]).trim().to_owned()
        };
        let loops = vec![lend("medium", DEVICE_BYTES), lend("log", 1 << 30)];
        let table = format!("0 {} log-writes {} {}", DEVICE_BYTES / 512, loops[0], loops[1]);
        run("dmsetup", &["create", name, "--noudevsync", "--table", &table]);
        // Nobody else does: there is no udev in the rig.
        run("dmsetup", &["mknodes", name]);
        Self { name: name.to_owned(), loops, log: rig.path("log") }
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    fn mark(&self, text: &str) {
        run("dmsetup", &["message", &self.name, "0", "mark", text]);
    }

    /// Ends the log and copies it.
    fn finish(self, copy: &Path) {
        self.mark(END);
        run("dmsetup", &["remove", "--noudevsync", &self.name]);
        for device in &self.loops {
            run("losetup", &["--detach", device]);
        }
        let copy = copy.to_str().unwrap();
        run("cp", &["--sparse=always", self.log.to_str().unwrap(), copy]);
    }
}

/// A client that writes down what it does.
struct Recorder<'a> {
    device: &'a LoggedDevice,
    history: History,
    client: Client,
    dice: Dice,
    under_way: BTreeMap<u16, Write>,
    next: u64,
}

impl Recorder<'_> {
    fn note(&mut self, event: Event) {
        if let Some(mark) = self.history.note(event) {
            self.device.mark(&mark);
        }
    }

    /// Asks for a write that overlaps none under way.
    fn submit(&mut self, slot: u16) {
        let (first, count) = loop {
            let count = 1 + self.dice.roll(WRITE_MAX_SECTORS);
            let first = self.dice.roll(DISK_SECTORS - count);
            let apart =
                |write: &Write| first + count <= write.first || write.first + write.count <= first;
            if self.under_way.values().all(apart) {
                break (first, count);
            }
        };
        let write = Write { number: self.next, first, count };
        self.next += 1;
        self.note(Event::Asked(write));
        self.under_way.insert(slot, write);
        let data: Vec<u8> =
            (first..first + count).flat_map(|sector| stamp(sector, write.number)).collect();
        let Client { front, driver } = &mut self.client;
        front.poke(driver.data_at(slot), &data);
        driver.submit(front, slot, WRITE, first, u32::try_from(data.len()).unwrap());
    }

    /// Takes an answer; which slot is free again.
    fn take(&mut self) -> u16 {
        let slot = self.client.driver.wait_for_answer(&self.client.front).0;
        assert_eq!(self.client.driver.status(&self.client.front, slot), GOOD);
        let write = self.under_way.remove(&slot).unwrap();
        self.note(Event::Answered(write.number));
        slot
    }

    /// Flushes, other requests being under way.
    fn flush(&mut self, slot: u16, number: u64) {
        self.note(Event::FlushAsked(number));
        self.client.driver.submit(&self.client.front, slot, FLUSH, 0, 0);
        loop {
            let answered = self.client.driver.wait_for_answer(&self.client.front).0;
            assert_eq!(self.client.driver.status(&self.client.front, answered), GOOD);
            if answered == slot {
                break;
            }
            let write = self.under_way.remove(&answered).unwrap();
            self.note(Event::Answered(write.number));
        }
        self.note(Event::Flushed(number));
    }

    fn settle(&mut self) {
        while !self.under_way.is_empty() {
            self.take();
        }
    }

    /// Writes, and flushes now and then.
    fn load(&mut self, writes: u64) {
        for count in 0..writes {
            let busy: Vec<u16> = self.under_way.keys().copied().collect();
            let free = (0..SLOTS).find(|slot| !busy.contains(slot));
            let slot = free.unwrap_or_else(|| self.take());
            if self.dice.roll(25) == 0 {
                self.flush(slot, self.next * 1000 + count);
            } else {
                self.submit(slot);
            }
        }
        self.settle();
    }

    fn snapshot(&mut self, rig: &Rig, name: &str) {
        self.note(Event::SnapshotAsked(name.to_owned()));
        rig.ok(&["snapshot", &format!("web@{name}")]);
        self.note(Event::Taken(name.to_owned()));
    }

    fn delete(&mut self, rig: &Rig, name: &str) {
        self.note(Event::DeletionAsked(name.to_owned()));
        rig.ok(&["delete", &format!("web@{name}")]);
        self.note(Event::Deleted(name.to_owned()));
    }

    /// The server dies with requests under way, and another takes its place.
    fn kill(&mut self, rig: &mut Rig) {
        (0..SLOTS).for_each(|slot| self.submit(slot));
        rig.kill();
        for _ in 0..self.client.driver.answers_waiting(&self.client.front) {
            self.take();
        }
        self.under_way.clear();
        rig.serve();
        self.client = Client::of(rig, "web");
    }
}

/// Records a history on a device of that name, into that folder.
fn record_on(name: &str, folder: &Path, rules: &str, rounds: u64, writes: u64) {
    let mut rig = Rig::bare();
    let device = LoggedDevice::new(&rig, name);
    rig.ok(&["init", "--device", &device.path()]);
    rig.ok(&["create", "web", &(DISK_SECTORS * 512).to_string()]);
    rig.ok(&["attach", "web"]);
    device.mark(MADE);
    rig.goes_wrong(rules);
    rig.serve();
    let client = Client::of(&rig, "web");
    let (history, under_way) = (History::default(), BTreeMap::new());
    let mut recorder =
        Recorder { device: &device, history, client, dice: Dice(23), under_way, next: 1 };
    for round in 0..rounds {
        recorder.load(writes);
        recorder.snapshot(&rig, &format!("s{round}"));
        if round >= 2 {
            recorder.delete(&rig, &format!("s{}", round - 2));
        }
        if round % 3 == 1 {
            recorder.kill(&mut rig);
        }
    }
    recorder.load(writes);
    let text = recorder.history.to_text();
    drop(recorder);
    // Not stopped: what a stop makes durable is not what we are after.
    rig.kill();
    device.finish(&folder.join(format!("{name}.log")));
    std::fs::write(folder.join(format!("{name}.history")), text).unwrap();
}

/// Runs in the rig's machine.
#[test]
#[ignore = "a part of another test"]
fn record() {
    let Ok(folder) = std::env::var("RIG_POWER_FOLDER") else { return };
    let folder = PathBuf::from(folder);
    let writes = setting("RIG_POWER_WRITES", 100);
    record_on("honest", &folder, "", ROUNDS, writes);
    record_on("lossy", &folder, "sync lost", 1, 30);
}

/// Runs [`record`] in the rig; `None`, having said why, where there is no such machine.
fn recorded(folder: &Path) -> Option<()> {
    let rig = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/rig/nested-kvm");
    let mut command = Command::new(rig);
    command.args([
        "--timeout",
        "560",
        "--mem",
        "2048",
        "--module",
        "dm-log-writes",
        "--module",
        "loop",
    ]);
    command.arg("--share").arg(folder).arg("--").arg(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "record", "--nocapture"]);
    let writes = setting("BOUGH_POWER_WRITES", 700) / ROUNDS;
    // Emulated, a backtrace takes minutes.
    command.env("RUST_BACKTRACE", "0");
    command.env("RIG_POWER_FOLDER", folder).env("RIG_POWER_WRITES", writes.to_string());
    let Output { status, stdout, stderr } = match command.output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("not tested here: the rig does not run ({error})");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&stderr);
    if status.code() == Some(125) {
        eprintln!("not tested here: {}", said.lines().last().unwrap_or_default());
        return None;
    }
    assert!(status.success(), "{status}: {}\n{said}", String::from_utf8_lossy(&stdout));
    Some(())
}

/// A device as it is replayed, and the promises that had been given.
struct Replay {
    image: SimImage,
    marks: BTreeSet<String>,
}

impl Replay {
    fn new() -> Self {
        let image = SimImage::zeroed(BlockCount(DEVICE_BYTES / BLOCK_BYTES));
        Self { image, marks: BTreeSet::new() }
    }

    fn apply(&mut self, entry: &Entry) {
        match &entry.action {
            Action::Write { offset, data } => write_at(&mut self.image, *offset, data),
            Action::Mark(text) => drop(self.marks.insert(text.clone())),
            // What is discarded may read as it did.
            Action::Discard { .. } | Action::Nothing => {}
        }
    }
}

fn write_at(image: &mut SimImage, offset: u64, data: &[u8]) {
    let mut rest = data;
    let mut at = offset;
    while !rest.is_empty() {
        let start = usize::try_from(at % BLOCK_BYTES).unwrap();
        let (now, later) = rest.split_at(rest.len().min(4096 - start));
        image.damage(BlockAddr::new(at / BLOCK_BYTES).unwrap(), |block| {
            block[start..start + now.len()].copy_from_slice(now);
        });
        at += u64::try_from(now.len()).unwrap();
        rest = later;
    }
}

/// What a power cut may make of writes that are in the device's cache.
fn cut(image: &mut SimImage, cached: &[Entry], dice: &mut Dice) {
    let upto = usize::try_from(dice.roll(u64::try_from(cached.len()).unwrap() + 1)).unwrap();
    let all = dice.roll(3) == 0;
    for entry in &cached[..upto] {
        let Action::Write { offset, data } = &entry.action else { continue };
        match dice.roll(3) {
            _ if all || entry.is_durable => write_at(image, *offset, data),
            0 => write_at(image, *offset, data),
            1 => {}
            _ => {
                // Torn: any of its sectors.
                for (sector, bytes) in (0..).zip(data.chunks(SECTOR_BYTES)) {
                    if dice.roll(2) == 0 {
                        write_at(image, offset + sector * 512, bytes);
                    }
                }
            }
        }
    }
}

/// Opens the store on what a cut has left, has it checked, and reads everything.
fn recover(image: SimImage) -> Result<Found, String> {
    let sim = Sim::new(1);
    let device: Arc<dyn Device> = sim.open_device(image);
    sim.run(async {
        let engine = Engine::open(device, sim.runtime(), EngineConfig::default()).await;
        let engine = engine.map_err(|error| format!("it does not open: {error}"))?;
        let mut found = Found { head: read(&engine, "web").await?, ..Found::default() };
        let shown =
            engine.show(&"web".parse().unwrap()).await.map_err(|error| error.to_string())?;
        for snapshot in shown.snapshots {
            let label = snapshot.name.trim_start_matches("web@").to_owned();
            found.snapshots.insert(label, read(&engine, &snapshot.name).await?);
        }
        let report = engine.check().await.map_err(|error| error.to_string())?;
        if !report.findings.is_empty() {
            return Err(format!("check finds {:?}", report.findings));
        }
        engine.close().await.map_err(|error| error.to_string())?;
        Ok(found)
    })
}

/// Of each sector of a version the write that left it.
async fn read(engine: &Engine, version: &str) -> Result<Vec<u64>, String> {
    let name: VersionName = version.parse().unwrap();
    let reader = engine.reader(&name).await.map_err(|error| format!("{version}: {error}"))?;
    let mut bytes = vec![0; usize::try_from(DISK_SECTORS).unwrap() * SECTOR_BYTES];
    for (at, piece) in (0..).zip(bytes.chunks_mut(1 << 20)) {
        let read = reader.read(at << 20, piece).await;
        read.map_err(|error| format!("{version}: {error}"))?;
    }
    writers_of(&bytes).map_err(|sector| format!("{version}: sector {sector} is torn"))
}

/// How many cuts were made, and the first that broke a promise.
struct Verdict {
    cuts: u64,
    broken: Option<String>,
}

/// Whether what a cut has left keeps all promises.
fn look(image: SimImage, history: &History, marks: &BTreeSet<String>) -> Result<(), String> {
    history.check(marks, &recover(image)?).map_err(|broken| broken.to_string())
}

/// Replays a log to every flush, and between each two to some moments more.
fn judge(log: &WriteLog, history: &History, between: u64) -> Verdict {
    let (mut replay, mut dice, mut cuts) = (Replay::new(), Dice(1), 0);
    for part in log.parts() {
        // A cut at any moment of this part comes after the promises given in it.
        let marks = part.iter().filter_map(|entry| match &entry.action {
            Action::Mark(text) => Some(text.clone()),
            _ => None,
        });
        replay.marks.extend(marks);
        let is_made = replay.marks.contains(MADE);
        let variants = if is_made { between } else { 0 };
        let images = (0..=variants).map(|variant| {
            let mut image = replay.image.clone();
            if variant > 0 {
                cut(&mut image, part, &mut dice);
            }
            image
        });
        let images: Vec<SimImage> = images.collect();
        let marks = &replay.marks;
        let verdicts: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let look = |image| scope.spawn(move || look(image, history, marks));
            let looking: Vec<_> = images.into_iter().map(look).collect();
            looking.into_iter().map(|looking| looking.join().unwrap()).collect()
        });
        for kept in verdicts {
            cuts += 1;
            // Before that there may be no store yet, which is an answer, too.
            if let (true, Err(broken)) = (is_made, kept) {
                return Verdict { cuts, broken: Some(format!("cut {cuts}: {broken}")) };
            }
        }
        part.iter().for_each(|entry| replay.apply(entry));
    }
    Verdict { cuts, broken: None }
}

fn read_recording(folder: &Path, name: &str) -> (WriteLog, History) {
    let log = WriteLog::parse(&std::fs::read(folder.join(format!("{name}.log"))).unwrap()).unwrap();
    let is_end = |entry: &Entry| entry.action == Action::Mark(END.to_owned());
    assert!(log.entries.iter().any(is_end), "the log is whole");
    let text = std::fs::read_to_string(folder.join(format!("{name}.history"))).unwrap();
    (log, History::parse(&text).unwrap())
}

#[test]
fn a_power_cut_at_any_moment_leaves_what_was_promised() {
    let temp = tempfile::tempdir().unwrap();
    let Some(()) = recorded(temp.path()) else { return };
    let between = setting("BOUGH_POWER_CUTS", 2);
    let (log, history) = read_recording(temp.path(), "honest");
    let verdict = judge(&log, &history, between);
    assert_eq!(verdict.broken, None);
    let flushes = log.entries.iter().filter(|entry| entry.is_flush).count();
    assert!(flushes > 50, "{flushes} flushes are too few to tell anything");
    println!("{} power cuts around {flushes} flushes kept every promise", verdict.cuts);
    // A server that skips its syncs is found out.
    let (log, history) = read_recording(temp.path(), "lossy");
    let verdict = judge(&log, &history, between);
    let broken = verdict.broken.expect("syncs were skipped, and nothing was missed");
    println!("without syncs: {broken}");
}
