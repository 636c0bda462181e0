//! Stores that lie: the kept store with one structure changed and every checksum above it mended, so
//! that what it says is all that is wrong.
//!
//! Whatever is in it, opening, reading, checking, writing and deleting end, with an error where
//! nothing else is possible.

use std::sync::{Arc, OnceLock};

use bough_blockstore::sim::{Sim, SimImage};
use bough_blockstore::{BlockAddr, Device, FORMAT_VERSION};
use bough_damage::{
    GOLDEN_DISK_BLOCKS, GOLDEN_VERSIONS, Layout, Position, forge_node, golden_byte, golden_store,
    rewrite_catalogue_page,
};
use bough_fuzz::{Script, Trial, bolero};
use bough_radix::{DeleteOptions, DiskName, Engine, EngineConfig, EngineError, ScrubOptions};

/// Device operations of one execution, far more than an honest store needs.
const EVENTS_MAX: u64 = 200_000;
/// What a store whose numbers are its only fault may need.
const MEMORY_BYTES: u64 = 4 << 20;
/// Versions and disks that are looked at, of however many it claims to have.
const LOOKS: usize = 8;
/// An input's decisions.
const INPUT_MAX_BYTES: usize = 256;

/// The kept store, as it was killed and as a clean stop leaves it.
struct Originals {
    killed: SimImage,
    closed: SimImage,
    layout: Layout,
    /// Blocks that hold headers of records.
    headers: Vec<u64>,
    /// Nodes of one family of versions; the other disks share nothing with it.
    nodes: Vec<(&'static str, Position)>,
}

fn originals() -> &'static Originals {
    static ORIGINALS: OnceLock<Originals> = OnceLock::new();
    ORIGINALS.get_or_init(|| {
        let killed = golden_store(FORMAT_VERSION);
        let closed = reopened(killed.clone());
        let layout = Layout::read(&closed);
        let is_header = |at: &u64| killed.read(BlockAddr::of(*at)).starts_with(b"BchR");
        let headers = (2..killed.block_count().0).filter(is_header).collect();
        let mut nodes = Vec::new();
        for version in ["web", "web@one", "web@two", "copy"] {
            let tree = layout.tree(&closed, version);
            nodes.extend(tree.nodes().map(|(position, _)| (version, position)));
        }
        Originals { killed, closed, layout, headers, nodes }
    })
}

fn reopened(image: SimImage) -> SimImage {
    let sim = Sim::new(2);
    let device = sim.open_device(image);
    let medium: Arc<dyn Device> = device.clone();
    sim.run(async {
        let engine = Engine::open(medium, sim.runtime(), EngineConfig::default()).await.unwrap();
        engine.drain_reclaim().await.unwrap();
        engine.close().await.unwrap();
    });
    device.image()
}

/// Whether one structure's lies may show in the disks that it does not belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Untouched,
    Concerned,
}

/// Opens the store and does everything with it.
fn exercise(image: SimImage, others: Others) {
    let sim = Sim::new(3);
    let device: Arc<dyn Device> = sim.open_device(image);
    sim.stop_after(EVENTS_MAX);
    let done = sim.run_until_stop(async {
        let config = EngineConfig::with_memory(MEMORY_BYTES);
        let Ok(engine) = Engine::open(device, sim.runtime(), config).await else { return };
        if others == Others::Untouched {
            read_all(&engine, "db").await.expect("it concerns another disk");
        }
        look(&engine).await;
        // One that halted refuses, each time; nobody has to stop for that.
        let _ = change(&engine).await;
        let _ = engine.scrub(ScrubOptions::default(), &mut |_| {}).await;
        look(&engine).await;
        let _ = engine.close().await;
    });
    assert!(done.is_ok(), "no end after {EVENTS_MAX} device operations");
}

async fn read_all(engine: &Engine, version: &str) -> Result<(), EngineError> {
    let reader = engine.reader(&version.parse().unwrap()).await?;
    for block in 0..GOLDEN_DISK_BLOCKS {
        let mut out = [0xEE; 4096];
        reader.read(block * 4096, &mut out).await?;
        let byte = golden_byte(version, block).unwrap_or(0);
        assert!(out.iter().all(|found| *found == byte), "block {block} of {version}");
    }
    Ok(())
}

/// Everything that only reads.
async fn look(engine: &Engine) {
    let _ = engine.status().await;
    let _ = engine.tree().await;
    let _ = engine.attachments().await;
    let _ = engine.check().await;
    for disk in engine.list().await.unwrap_or_default().into_iter().take(LOOKS) {
        let Ok(name) = disk.name.parse() else { continue };
        let _ = engine.show(&name).await;
    }
    for version in GOLDEN_VERSIONS {
        let Ok(reader) = engine.reader(&version.parse().unwrap()).await else { continue };
        let size_bytes = reader.size_bytes();
        for from in [0, 290 * 4096, size_bytes.saturating_sub(4096) / 4096 * 4096] {
            let mut out = [0; 4096];
            let _ = reader.read(from, &mut out).await;
        }
        let _ = reader.extents(0..size_bytes.min(1 << 30), &mut |_| {}).await;
    }
    if let Ok(mut walk) = engine.diff(&"web@one".parse().unwrap(), &"web".parse().unwrap()).await {
        while let Ok(Some(_)) = walk.next().await {}
    }
}

/// Everything that writes, until something fails.
async fn change(engine: &Engine) -> Result<(), EngineError> {
    let mut failed = Ok(());
    for name in ["web", "db"] {
        if let Err(error) = write(engine, name).await {
            failed = Err(error);
        }
    }
    engine.snapshot(&["web@late".parse().unwrap(), "db@late".parse().unwrap()]).await?;
    engine.clone_disks(&"web@late".parse().unwrap(), &["another".parse().unwrap()]).await?;
    engine.rollback(&"db@late".parse().unwrap(), false).await?;
    engine.resize(&"db".parse().unwrap(), GOLDEN_DISK_BLOCKS * 8192, false).await?;
    let options = DeleteOptions { recursive: true, dry_run: false };
    engine.delete(&["copy".parse().unwrap()], options).await?;
    engine.drain_reclaim().await?;
    failed
}

async fn write(engine: &Engine, name: &str) -> Result<(), EngineError> {
    let name: DiskName = name.parse().unwrap();
    let disk = engine.disk(&name).await?;
    disk.write(0, 8192, &mut |_, piece| piece.fill(0x77)).await?;
    disk.discard(4096, 4096).await?;
    Ok(disk.flush().await?)
}

/// A target that changes the store as an input tells, and then uses it.
macro_rules! target {
    ($name:ident, $others:expr) => {
        #[test]
        fn $name() {
            let trial = Trial::new(stringify!($name));
            let originals = originals();
            bolero::check!().with_max_len(INPUT_MAX_BYTES).for_each(|input| {
                trial.run(input, |input| {
                    exercise(forge::$name(originals, &mut Script::new(input)), $others);
                });
            });
        }
    };
}

target!(superblock, Others::Concerned);
target!(record, Others::Concerned);
target!(row, Others::Concerned);
target!(node, Others::Untouched);

mod forge {
    use super::*;

    /// Where a block's own checksum is.
    const CRC_AT: usize = 4092;

    fn seal(block: &mut [u8; 4096]) {
        let crc = crc32fast::hash(&block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }

    /// One copy of the superblock or both, alike or not.
    pub fn superblock(from: &Originals, script: &mut Script<'_>) -> SimImage {
        let mut image = if script.chance(2) { from.killed.clone() } else { from.closed.clone() };
        // The fields and two runs of the pool; sometimes what must be zero.
        let fields = if script.chance(8) { CRC_AT } else { 176 };
        let mut forged = image.read(BlockAddr::of(0));
        script.edit(&mut forged[..fields]);
        for copy in 0..2 {
            if script.chance(4) {
                continue;
            }
            if script.chance(4) {
                script.edit(&mut forged[..fields]);
            }
            seal(&mut forged);
            image.damage(BlockAddr::of(copy), |block| *block = *forged);
        }
        image
    }

    /// Some records' headers.
    pub fn record(from: &Originals, script: &mut Script<'_>) -> SimImage {
        let mut image = from.killed.clone();
        for _ in 0..=script.below(3) {
            let at = BlockAddr::of(*script.pick(&from.headers));
            let mut header = image.read(at);
            // The fields and two entries; sometimes all.
            let fields = if script.chance(8) { CRC_AT } else { 128 };
            script.edit(&mut header[..fields]);
            seal(&mut header);
            image.damage(at, |block| *block = *header);
        }
        image
    }

    /// Rows of the catalogue, the page that leads to all others, or a page as such.
    pub fn row(from: &Originals, script: &mut Script<'_>) -> SimImage {
        let mut image = from.closed.clone();
        let rows: Vec<_> = from.layout.rows.raw.iter().collect();
        for _ in 0..=script.below(3) {
            let (key, value) = script.pick(&rows);
            let page = if script.chance(8) { 0 } else { from.layout.rows.pages[*key] };
            // The catalogue is read anew: the change before this one has moved its checksums.
            let layout = &from.layout;
            let top = image_root_crc(&image);
            rewrite_catalogue_page(&mut image, &with_root_crc(layout, top), page, |bytes| {
                let at = bytes.windows(value.len()).position(|window| window == value.as_slice());
                match at.filter(|_| !script.chance(6)) {
                    Some(at) => script.edit(&mut bytes[at..at + value.len()]),
                    None if page == 0 => script.edit(&mut bytes[..128]),
                    None => script.edit(bytes),
                }
            });
        }
        image
    }

    /// The checksum that the superblock names for the catalogue's top, as it now is.
    fn image_root_crc(image: &SimImage) -> u32 {
        let block = image.read(BlockAddr::of(0));
        u32::from_le_bytes(block[67..71].try_into().unwrap())
    }

    fn with_root_crc(layout: &Layout, crc: u32) -> Layout {
        let mut layout = layout.clone();
        if let Some(top) = &mut layout.root.top {
            top.crc = crc;
        }
        layout
    }

    /// One node.
    pub fn node(from: &Originals, script: &mut Script<'_>) -> SimImage {
        let mut image = from.closed.clone();
        let (version, position) = *script.pick(&from.nodes);
        forge_node(&mut image, &from.layout, version, position, |bytes| {
            let used: Vec<usize> = (0..4096)
                .step_by(16)
                .filter(|at| bytes[*at..at + 16].iter().any(|byte| *byte != 0))
                .collect();
            if used.is_empty() || script.chance(6) {
                return script.edit(bytes);
            }
            let at = *script.pick(&used);
            script.edit(&mut bytes[at..at + 16]);
        });
        image
    }
}
