//! A small store of every released format version is kept, as a `kill -9` left it, and must open
//! in every later version.
//!
//! A new format version gets its own, once: `BOUGH_GOLDEN=write cargo test -p bough-damage --test
//! golden`, and the file is committed. What is there is never written again: it is what somebody's
//! store looks like.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bough_blockstore::sim::{CrashKind, Sim, SimImage};
use bough_blockstore::{BlockAddr, BlockCount, Device, FORMAT_VERSION};
use bough_damage::{
    GOLDEN_BLOCKS, GOLDEN_DISK_BLOCKS, GOLDEN_VERSIONS, golden_byte, golden_path, golden_store,
};
use bough_radix::{Attachment, Engine, EngineConfig, EngineError, ScrubOptions, VersionName};
use flate2::Compression;
use flate2::write::GzEncoder;

const NEVER: Duration = Duration::from_secs(1 << 30);

/// Two disks, two snapshots, a clone, an attachment; chains that were never merged, a discard in
/// one of them; killed.
fn make() -> SimImage {
    let sim = Sim::new(1);
    let device: Arc<dyn Device> = sim.create_device(BlockCount(GOLDEN_BLOCKS));
    let made: Result<(), EngineError> = sim.run(async {
        Engine::format(Arc::clone(&device), sim.runtime()).await?;
        let config = EngineConfig { checkpoint_every: NEVER, ..EngineConfig::default() };
        let engine = Engine::open(device, sim.runtime(), config).await?;
        for name in ["web", "db"] {
            engine.create_disk(&name.parse().expect("a name"), GOLDEN_DISK_BLOCKS * 4096).await?;
        }
        fill(&engine, "web", 0..40, 0x11).await?;
        engine.snapshot(&["web@one".parse().expect("a name")]).await?;
        engine.set_sealed(&"web@one".parse().expect("a name"), true).await?;
        engine
            .clone_disks(&"web@one".parse().expect("a name"), &["copy".parse().expect("a name")])
            .await?;
        fill(&engine, "web", 290..300, 0x22).await?;
        engine.snapshot(&["web@two".parse().expect("a name")]).await?;
        fill(&engine, "web", 3..12, 0x33).await?;
        let web = engine.disk(&"web".parse().expect("a name")).await?;
        web.discard(7 * 4096, 4096).await?;
        web.flush().await?;
        fill(&engine, "db", 100..140, 0x44).await?;
        fill(&engine, "copy", 599..600, 0x55).await?;
        let offered = Attachment { queues: 2, read_only: false };
        engine.attach(&"db".parse().expect("a name"), offered).await?;
        Ok(())
    });
    made.expect("a healthy store");
    sim.crash(CrashKind::Kill)
}

async fn fill(
    engine: &Engine,
    disk: &str,
    blocks: std::ops::Range<u64>,
    byte: u8,
) -> Result<(), EngineError> {
    let disk = engine.disk(&disk.parse().expect("a name")).await?;
    for block in blocks {
        disk.write(block * 4096, 4096, &mut |_, piece| piece.fill(byte)).await?;
    }
    Ok(disk.flush().await?)
}

fn save(version: u32) {
    let file =
        std::fs::File::create_new(golden_path(version)).expect("a kept store is never replaced");
    let image = make();
    let mut out = GzEncoder::new(file, Compression::best());
    for block in 0..image.block_count().0 {
        out.write_all(&image.read(BlockAddr::of(block))[..]).expect("the store is written");
    }
    out.finish().expect("the store is written");
}

#[test]
fn a_killed_store_of_every_format_version_opens_recovers_and_holds_what_it_held() {
    if std::env::var_os("BOUGH_GOLDEN").is_some_and(|word| word == "write") {
        save(FORMAT_VERSION);
    }
    for version in 1..=FORMAT_VERSION {
        let image = golden_store(version);
        let headers = |image: &SimImage| {
            let header = |at: &u64| image.read(BlockAddr::of(*at)).starts_with(b"BchR");
            (258..GOLDEN_BLOCKS).filter(header).count()
        };
        assert!(headers(&image) > 10, "the kept store has no chain to recover");
        // Twice: what the first opening wrote must open as well.
        let image = verify(image);
        verify(image);
    }
}

fn verify(image: SimImage) -> SimImage {
    let sim = Sim::new(2);
    let device = sim.open_device(image);
    let medium: Arc<dyn Device> = device.clone();
    let done: Result<(), EngineError> = sim.run(async {
        let engine = Engine::open(medium, sim.runtime(), EngineConfig::default()).await?;
        for name in GOLDEN_VERSIONS {
            verify_version(&engine, name).await?;
        }
        let names: Vec<String> = engine.list().await?.into_iter().map(|disk| disk.name).collect();
        assert_eq!(names, ["copy", "db", "web"]);
        let (attached, how) = engine.attachments().await?.swap_remove(0);
        assert_eq!((attached.to_string(), how.queues), ("db".to_owned(), 2));
        let shown = engine.show(&"web".parse().expect("a name")).await?;
        let sealed: Vec<bool> = shown.snapshots.iter().map(|s| s.sealed).collect();
        assert_eq!(sealed, [true, false]);
        engine.drain_reclaim().await?;
        let check = engine.check().await?;
        assert!(check.findings.is_empty(), "{check:#?}");
        let scrub = engine.scrub(ScrubOptions::default(), &mut |_| {}).await?;
        assert!(scrub.findings.is_empty(), "{scrub:#?}");
        engine.close().await
    });
    done.expect("a kept store opens");
    device.image()
}

async fn verify_version(engine: &Engine, name: &str) -> Result<(), EngineError> {
    let version: VersionName = name.parse().expect("a name");
    let reader = engine.reader(&version).await?;
    assert_eq!(reader.size_bytes(), GOLDEN_DISK_BLOCKS * 4096);
    for block in 0..GOLDEN_DISK_BLOCKS {
        let mut out = [0xEE; 4096];
        reader.read(block * 4096, &mut out).await?;
        let byte = golden_byte(name, block).unwrap_or(0);
        assert!(out.iter().all(|found| *found == byte), "block {block} of {name}");
    }
    Ok(())
}
