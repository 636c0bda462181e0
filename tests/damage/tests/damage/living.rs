//! Damage to the trees of a store that goes on living: nobody else's business, no end of its disk's
//! checkpoints, and never the cause of a block that is freed twice or lost silently.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bough_blockstore::sim::{CrashKind, Sim, SimImage, SimRng};
use bough_blockstore::{BlockAddr, Device, Runtime};
use bough_damage::{Layout, Position, Tree, rot};
use bough_radix::{
    CheckReport, DeleteOptions, Engine, EngineConfig, ErrorKind, Piece, Severity, VersionName,
};

use crate::kit::{BLOCK, DISK_BLOCKS, VERSIONS, disk_name, expected, open, snapshot_name, store};

/// Longer than the engine lets a disk go without a checkpoint.
const A_WHILE: Duration = Duration::from_secs(15);

/// A block's bytes, where they can be read; any other failure than damage is a panic.
async fn read(engine: &Engine, disk: &str, block: u64) -> Option<u8> {
    let disk = engine.disk(&disk_name(disk)).await.unwrap();
    let mut seen = vec![0; 4096];
    let mut sink = |at: usize, piece: Piece<'_>| match piece {
        Piece::Bytes(bytes) => seen[at..at + bytes.len()].copy_from_slice(bytes),
        Piece::Zeros(count) => seen[at..at + count].fill(0),
    };
    match disk.read(block * BLOCK, 4096, &mut sink).await {
        Ok(()) => {
            assert!(seen.iter().all(|byte| *byte == seen[0]), "block {block} is torn");
            Some(seen[0])
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(&format!("disk '{}'", disk.name())), "{error}");
            None
        }
    }
}

async fn write(engine: &Engine, disk: &str, block: u64, byte: u8) {
    let disk = engine.disk(&disk_name(disk)).await.unwrap();
    disk.write(block * BLOCK, 4096, &mut |_, piece| piece.fill(byte)).await.unwrap();
    disk.flush().await.unwrap();
}

/// Where `check` finds corruption.
fn corrupt_blocks(report: &CheckReport) -> BTreeSet<u64> {
    let corrupt = report.findings.iter().filter(|f| f.severity == Severity::Corruption);
    corrupt.map(|finding| finding.block.unwrap_or_else(|| panic!("{finding:?}"))).collect()
}

/// The nodes of a version: block of the store, and the disk's blocks below it.
fn nodes(image: &SimImage, version: &str) -> Vec<(u64, std::ops::Range<u64>)> {
    let layout = Layout::read(image);
    let found = layout.tree(image, version);
    found.nodes().map(|(position, pointer)| (pointer.addr, below(position))).collect()
}

fn below(position: Position) -> std::ops::Range<u64> {
    let shift = 8 * u32::from(position.level);
    position.index << shift..(position.index + 1) << shift
}

#[test]
fn a_damaged_node_does_not_keep_its_disk_from_being_written_down() {
    let whole = store();
    for (at, lost) in nodes(&whole, "web") {
        let mut image = whole.clone();
        rot(&mut image, at);
        let sim = Sim::new(41);
        let device = sim.open_device(image);
        sim.run(async {
            let engine = open(&sim, device).await.unwrap();
            write(&engine, "web", 3, 0xC3).await;
            write(&engine, "web", 300, 0xC4).await;
            sim.runtime().sleep(A_WHILE).await;
            // Whatever is in the log is in the tree: another checkpoint has nothing to do.
            let web = engine.disk(&disk_name("web")).await.unwrap();
            assert_eq!(web.fault(), None);
        });
        // Nothing may hang on the log that the first life has left.
        for kind in [CrashKind::Kill, CrashKind::PowerCut] {
            let device = sim.open_device(sim.crash(kind));
            sim.run(async {
                let engine = open(&sim, device).await.unwrap();
                for block in 0..DISK_BLOCKS {
                    let wanted = match block {
                        3 => Some(0xC3),
                        300 => Some(0xC4),
                        _ if lost.contains(&block) => None,
                        _ => Some(expected("web", block)),
                    };
                    assert_eq!(read(&engine, "web", block).await, wanted, "block {block}");
                    assert_eq!(read(&engine, "db", block).await, Some(expected("db", block)));
                }
            });
        }
        sim.crash(CrashKind::Kill);
    }
}

#[test]
fn what_is_lost_is_told_by_check_and_cured_by_writing() {
    let mut image = store();
    let (at, _) = nodes(&image, "db").into_iter().find(|(_, below)| *below == (0..256)).unwrap();
    rot(&mut image, at);
    let sim = Sim::new(42);
    let device = sim.open_device(image);
    sim.run(async {
        let engine = open(&sim, device).await.unwrap();
        write(&engine, "db", 100, 1).await;
        sim.runtime().sleep(A_WHILE).await;
        let report = engine.check().await.unwrap();
        let told: Vec<_> =
            report.lost.iter().map(|lost| (lost.start_bytes, lost.length_bytes)).collect();
        assert_eq!(told, [(0, 100 * BLOCK), (101 * BLOCK, 155 * BLOCK)]);
        assert!(report.lost.iter().all(|lost| lost.version == "db"), "{:?}", report.lost);
        assert_eq!(report.lost_blocks, 255);
        // The node itself and what was below it.
        assert!(corrupt_blocks(&report).is_empty(), "{report:#?}");
        assert!(report.findings.iter().any(|f| f.block == Some(at)), "{report:#?}");
        let db = engine.disk(&disk_name("db")).await.unwrap();
        // A part of a block needs the rest of it.
        let part = db.write(7 * BLOCK, 512, &mut |_, piece| piece.fill(9)).await;
        assert_eq!(part.unwrap_err().kind(), ErrorKind::Corrupt);
        for block in 0..128 {
            db.write(block * BLOCK, 4096, &mut |_, piece| piece.fill(5)).await.unwrap();
        }
        db.discard(128 * BLOCK, 128 * BLOCK).await.unwrap();
        sim.runtime().sleep(A_WHILE).await;
        let report = engine.check().await.unwrap();
        assert_eq!((report.lost_blocks, report.lost), (0, Vec::new()));
        for block in 0..256 {
            let wanted = if block < 128 { 5 } else { 0 };
            assert_eq!(read(&engine, "db", block).await, Some(wanted));
        }
    });
}

#[test]
fn a_medium_that_fails_for_a_moment_costs_nothing_and_one_that_fails_for_good_only_what_it_held() {
    let whole = store();
    let (at, _) = nodes(&whole, "db").into_iter().find(|(_, below)| *below == (0..256)).unwrap();
    let sim = Sim::new(43);
    let device = sim.open_device(whole);
    sim.run(async {
        let medium: Arc<dyn Device> = device.clone();
        let engine = open(&sim, medium).await.unwrap();
        write(&engine, "db", 105, 0xC3).await;
        device.make_unreadable(BlockAddr::of(at));
        sim.runtime().sleep(A_WHILE).await;
        // One checkpoint has failed, and nothing is given up.
        assert_eq!(engine.check().await.unwrap().lost_blocks, 0);
        assert_eq!(read(&engine, "db", 105).await, Some(0xC3));
        sim.runtime().sleep(4 * A_WHILE).await;
        assert_eq!(engine.check().await.unwrap().lost_blocks, 255);
        assert_eq!(read(&engine, "db", 105).await, Some(0xC3));
        assert_eq!(read(&engine, "db", 104).await, None);
        engine.close().await.unwrap();
    });
}

/// What a version holds, and which of its blocks may be lost.
#[derive(Clone)]
struct Content {
    bytes: Vec<u8>,
    doubtful: BTreeSet<u64>,
}

/// A store that rots between its lives, beside a plain model of it.
struct Decay {
    sim: Rc<Sim>,
    rng: SimRng,
    versions: BTreeMap<String, Content>,
    rotten: BTreeSet<u64>,
    next_name: u32,
    unreadable: u64,
    cured: u64,
}

const LIVES: u64 = 8;
const OPS: u64 = 40;
/// `BOUGH_ROT_HISTORIES=n` runs more.
const HISTORIES: u64 = 6;

impl Decay {
    fn new(seed: u64) -> Self {
        let sim = Rc::new(Sim::new(seed));
        let rng = sim.fork_rng();
        let content = |version: &&str| {
            let bytes = (0..DISK_BLOCKS).map(|block| expected(version, block)).collect();
            ((*version).to_owned(), Content { bytes, doubtful: BTreeSet::new() })
        };
        let versions = VERSIONS.iter().map(content).collect();
        let rotten = BTreeSet::new();
        Self { sim, rng, versions, rotten, next_name: 0, unreadable: 0, cured: 0 }
    }

    fn pick(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let all: Vec<String> = self.versions.keys().filter(|name| wanted(name)).cloned().collect();
        let count = u64::try_from(all.len()).unwrap();
        (count > 0).then(|| all[usize::try_from(self.rng.below(count)).unwrap()].clone())
    }

    fn name(&mut self, prefix: &str) -> String {
        self.next_name += 1;
        format!("{prefix}{}", self.next_name)
    }

    async fn step(&mut self, engine: &Engine) {
        let head = self.pick(|name| !name.contains('@')).expect("disks are not deleted");
        match self.rng.below(12) {
            0..6 => self.write(engine, &head).await,
            6 => self.discard(engine, &head).await,
            7 => {
                let label = self.name("s");
                let snapshot = format!("{head}@{label}");
                engine.snapshot(&[snapshot_name(&snapshot)]).await.unwrap();
                self.versions.insert(snapshot, self.versions[&head].clone());
            }
            8 if self.versions.len() < 12 => {
                let Some(from) = self.pick(|name| name.contains('@')) else { return };
                let clone = self.name("c");
                engine.clone_disks(&from.parse().unwrap(), &[disk_name(&clone)]).await.unwrap();
                self.versions.insert(clone, self.versions[&from].clone());
            }
            9 => {
                let Some(goner) = self.pick(|name| name.contains('@')) else { return };
                let name: VersionName = goner.parse().unwrap();
                let plain = DeleteOptions { recursive: false, dry_run: false };
                if engine.delete(&[name], plain).await.is_ok() {
                    self.versions.remove(&goner);
                }
            }
            _ => self.sim.runtime().sleep(A_WHILE).await,
        }
    }

    async fn write(&mut self, engine: &Engine, head: &str) {
        let (first, count) = (self.rng.below(DISK_BLOCKS - 8), 1 + self.rng.below(8));
        let byte = u8::try_from(1 + self.rng.below(250)).unwrap();
        for block in first..first + count {
            write(engine, head, block, byte).await;
            let content = self.versions.get_mut(head).unwrap();
            content.bytes[usize::try_from(block).unwrap()] = byte;
            self.cured += u64::from(content.doubtful.remove(&block));
        }
    }

    async fn discard(&mut self, engine: &Engine, head: &str) {
        let first = self.rng.below(DISK_BLOCKS);
        let count = 1 + self.rng.below(DISK_BLOCKS - first);
        let disk = engine.disk(&disk_name(head)).await.unwrap();
        disk.discard(first * BLOCK, count * BLOCK).await.unwrap();
        disk.flush().await.unwrap();
        let content = self.versions.get_mut(head).unwrap();
        for block in first..first + count {
            content.bytes[usize::try_from(block).unwrap()] = 0;
            self.cured += u64::from(content.doubtful.remove(&block));
        }
    }

    /// Every byte is right, or an error where damage was done; `check` finds nothing else wrong.
    async fn compare(&mut self, engine: &Engine) {
        for (name, content) in &self.versions {
            let reader = engine.reader(&name.parse().unwrap()).await.unwrap();
            for (block, byte) in (0..).zip(&content.bytes) {
                let mut seen = vec![0; 4096];
                match reader.read(block * BLOCK, &mut seen).await {
                    Ok(()) => assert_eq!(seen, [*byte; 4096], "block {block} of {name}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                        assert!(content.doubtful.contains(&block), "{name}: {error}");
                        self.unreadable += 1;
                    }
                }
            }
        }
        let found = corrupt_blocks(&engine.check().await.unwrap());
        assert!(found.is_subset(&self.rotten), "{found:?} beside {:?}", self.rotten);
    }

    /// Spoils a node, or sometimes data, of some version.
    fn rot(&mut self, image: &mut SimImage) {
        let layout = Layout::read(image);
        let name = self.pick(|_| true).unwrap();
        let tree = Tree::read_around(image, layout.rows.version(&name).root);
        let least = u8::from(self.rng.below(4) > 0);
        let all: Vec<u64> = tree
            .blocks
            .iter()
            .filter(|(position, _)| position.level >= least)
            .map(|(_, pointer)| pointer.addr)
            .collect();
        let Some(count) = u64::try_from(all.len()).ok().filter(|count| *count > 0) else { return };
        let at = all[usize::try_from(self.rng.below(count)).unwrap()];
        for (name, content) in &mut self.versions {
            let tree = Tree::read_around(image, layout.rows.version(name).root);
            for (position, _) in tree.blocks.iter().filter(|(_, pointer)| pointer.addr == at) {
                content.doubtful.extend(below(*position));
            }
        }
        rot(image, at);
        self.rotten.insert(at);
    }

    fn live(&mut self, image: SimImage, is_last: bool) -> SimImage {
        // As good as no cache: what rotted is met.
        let config = EngineConfig { cache_bytes: 0, reclaim_step_blocks: 20, ..Default::default() };
        let device: Arc<dyn Device> = self.sim.open_device(image);
        let sim = Rc::clone(&self.sim);
        sim.run(async {
            let engine = Engine::open(device, sim.runtime(), config.clone()).await.unwrap();
            for _ in 0..OPS {
                self.step(&engine).await;
            }
        });
        let kind = if self.rng.chance(1, 2) { CrashKind::Kill } else { CrashKind::PowerCut };
        let device: Arc<dyn Device> = self.sim.open_device(self.sim.crash(kind));
        sim.run(async {
            let engine = Engine::open(device, sim.runtime(), config).await.unwrap();
            self.compare(&engine).await;
            if is_last {
                self.end(&engine).await;
            }
            engine.close().await.unwrap();
        });
        self.sim.crash(CrashKind::PowerCut)
    }

    /// With everything deleted, what is still in use has leaked, is known to have, and is no more.
    async fn end(&self, engine: &Engine) {
        let heads = self.versions.keys().filter(|name| !name.contains('@'));
        let heads: Vec<VersionName> = heads.map(|name| name.parse().unwrap()).collect();
        let all = DeleteOptions { recursive: true, dry_run: false };
        engine.delete(&heads, all).await.unwrap();
        engine.drain_reclaim().await.unwrap();
        let report = engine.check().await.unwrap();
        assert!(corrupt_blocks(&report).is_empty(), "{report:#?}");
        assert_eq!(report.blocks + report.nodes, 0);
        let leaked = report.findings.iter().filter(|finding| finding.block.is_some()).count();
        let used = engine.status().await.unwrap().used_bytes / BLOCK;
        assert_eq!(u64::try_from(leaked).unwrap(), used);
    }
}

#[test]
fn a_store_that_rots_again_and_again_loses_what_rotted_and_nothing_else() {
    let (mut unreadable, mut cured, mut rotten) = (0, 0, 0);
    let asked = std::env::var("BOUGH_ROT_HISTORIES").ok();
    let histories = asked.map_or(HISTORIES, |count| count.parse().expect("a number"));
    for seed in 0..histories {
        let mut decay = Decay::new(seed);
        let mut image = store();
        for life in 0..LIVES {
            decay.rot(&mut image);
            image = decay.live(image, life == LIVES - 1);
        }
        unreadable += decay.unreadable;
        cured += decay.cured;
        rotten += decay.rotten.len();
    }
    // Past what the harness keeps to itself of tests that pass.
    let _ = writeln!(
        std::io::stderr(),
        "{histories} histories: {rotten} blocks rotted, {unreadable} reads failed, \
         {cured} lost blocks written again"
    );
    assert!(unreadable > 1000 && cured > 100 && rotten > 20);
}
