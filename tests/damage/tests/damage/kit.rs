//! The store that is damaged, and what is asked of it afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bough_blockstore::sim::{CrashKind, Sim, SimImage};
use bough_blockstore::{BlockCount, Device, Runtime};
use bough_radix::{
    CheckReport, DiskName, Engine, EngineConfig, EngineError, ErrorKind, ScrubOptions, Severity,
    SnapshotName, VersionName,
};

pub const BLOCK: u64 = 4096;
/// Blocks of each disk: two leaves, so that one damaged leaf leaves something readable.
pub const DISK_BLOCKS: u64 = 512;
pub const VERSIONS: [&str; 4] = ["db", "web", "web@one", "copy"];

/// The byte that a version's block is filled with.
pub fn expected(version: &str, block: u64) -> u8 {
    let byte = |base: u64| u8::try_from(base + block % 50).unwrap();
    match (version, block) {
        ("db", 100..130) => byte(1),
        ("web", 250..260) => byte(101),
        ("copy", 0..5) => byte(151),
        ("web" | "web@one" | "copy", 0..20 | 250..270) => byte(51),
        _ => 0,
    }
}

pub fn disk_name(text: &str) -> DiskName {
    text.parse().unwrap()
}

pub fn snapshot_name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

/// Two disks, a snapshot and a clone, closed.
pub fn store() -> SimImage {
    let sim = Sim::new(11);
    let device = sim.create_device(BlockCount(4096));
    build(&sim, device);
    sim.crash(CrashKind::PowerCut)
}

pub fn build(sim: &Sim, device: Arc<dyn Device>) {
    sim.run(async {
        Engine::format(Arc::clone(&device), sim.runtime()).await.unwrap();
        let engine = open(sim, device).await.unwrap();
        fill(&engine).await.unwrap();
        engine.close().await.unwrap();
    });
}

/// The history behind [`expected`].
pub async fn fill(engine: &Engine) -> Result<(), EngineError> {
    for name in ["db", "web"] {
        engine.create_disk(&disk_name(name), DISK_BLOCKS * BLOCK).await?;
    }
    write(engine, "db", "db", 100..130).await?;
    write(engine, "web", "web@one", 0..20).await?;
    write(engine, "web", "web@one", 250..270).await?;
    engine.snapshot(&[snapshot_name("web@one")]).await?;
    write(engine, "web", "web", 250..260).await?;
    engine.clone_disks(&"web@one".parse().unwrap(), &[disk_name("copy")]).await?;
    write(engine, "copy", "copy", 0..5).await
}

async fn write(
    engine: &Engine,
    disk: &str,
    version: &str,
    blocks: std::ops::Range<u64>,
) -> Result<(), EngineError> {
    let disk = engine.disk(&disk_name(disk)).await?;
    for block in blocks {
        let byte = expected(version, block);
        disk.write(block * BLOCK, 4096, &mut |_, piece| piece.fill(byte)).await?;
        // One record each, and each tells that the one before is durable.
        disk.flush().await?;
    }
    Ok(())
}

pub async fn open(sim: &Sim, device: Arc<dyn Device>) -> Result<Engine, EngineError> {
    open_with(sim, device, EngineConfig::default()).await
}

async fn open_with(
    sim: &Sim,
    device: Arc<dyn Device>,
    config: EngineConfig,
) -> Result<Engine, EngineError> {
    let runtime: Arc<dyn Runtime> = sim.runtime();
    Engine::open(device, runtime, config).await
}

/// What a damaged store has to say.
#[derive(Debug)]
pub struct Seen {
    pub check: CheckReport,
    pub scrub: CheckReport,
    /// Blocks that could not be read, with the kind of failure.
    pub unreadable: BTreeMap<(String, u64), ErrorKind>,
}

impl Seen {
    /// Checks that nothing was found.
    pub fn assert_clean(&self) {
        assert!(self.check.findings.is_empty(), "{:#?}", self.check);
        assert!(self.scrub.findings.is_empty(), "{:#?}", self.scrub);
        assert!(self.unreadable.is_empty(), "{:?}", self.unreadable);
    }

    /// Checks that exactly these blocks of these versions cannot be read.
    pub fn assert_unreadable(&self, wanted: impl IntoIterator<Item = (&'static str, u64)>) {
        let wanted: BTreeSet<(String, u64)> =
            wanted.into_iter().map(|(name, block)| (name.to_owned(), block)).collect();
        let found: BTreeSet<(String, u64)> = self.unreadable.keys().cloned().collect();
        assert_eq!(found, wanted);
        assert!(self.unreadable.values().all(|kind| *kind == ErrorKind::Corrupt), "{self:?}");
    }
}

/// What a report found: severity, version, block.
pub fn findings(report: &CheckReport) -> Vec<(Severity, Option<&str>, Option<u64>)> {
    report.findings.iter().map(|f| (f.severity, f.version.as_deref(), f.block)).collect()
}

/// Opens a store and asks for everything: all bytes (which must be right, or an error), `check`,
/// `scrub`.
pub fn look(image: SimImage) -> Result<Seen, EngineError> {
    look_with(image, EngineConfig::default())
}

/// As [`look`], with an engine of these bounds.
pub fn look_with(image: SimImage, config: EngineConfig) -> Result<Seen, EngineError> {
    let sim = Sim::new(12);
    let device: Arc<dyn Device> = sim.open_device(image);
    sim.run(async {
        let engine = open_with(&sim, device, config).await?;
        inspect(&engine).await
    })
}

/// As [`look`], of an open store.
pub async fn inspect(engine: &Engine) -> Result<Seen, EngineError> {
    // Before anything is read through a cache.
    let scrub = engine.scrub(ScrubOptions::default(), &mut |_| {}).await?;
    let check = engine.check().await?;
    let mut unreadable = BTreeMap::new();
    for name in VERSIONS {
        read_all(engine, name, &mut unreadable).await?;
    }
    Ok(Seen { check, scrub, unreadable })
}

async fn read_all(
    engine: &Engine,
    name: &str,
    unreadable: &mut BTreeMap<(String, u64), ErrorKind>,
) -> Result<(), EngineError> {
    let version: VersionName = name.parse().unwrap();
    let reader = match engine.reader(&version).await {
        Ok(reader) => reader,
        Err(error) => {
            let kind = error.kind();
            unreadable.extend((0..DISK_BLOCKS).map(|block| ((name.to_owned(), block), kind)));
            return Ok(());
        }
    };
    for block in 0..DISK_BLOCKS {
        let mut out = [0xEE; 4096];
        match reader.read(block * BLOCK, &mut out).await {
            Ok(()) => {
                let byte = expected(name, block);
                assert!(out.iter().all(|b| *b == byte), "garbage in block {block} of {name}");
            }
            Err(error) => drop(unreadable.insert((name.to_owned(), block), error.kind())),
        }
    }
    Ok(())
}
