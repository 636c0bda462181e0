//! Large discards and shrinks: what is done at once is bounded, whatever is freed; a crash between
//! two pieces changes nothing that anybody sees.

use std::sync::{Arc, Mutex};

use bough_blockstore::sim::{CrashKind, Sim, SimDevice};
use bough_blockstore::{
    BlockAddr, BlockBuf, BlockCount, BlockRun, BlockSlice, Device, IoFuture, to_u64,
};
use bough_radix::{DeleteOptions, Disk, Engine, EngineConfig, VersionName};

use crate::kit::*;

const TIB: u64 = 1 << 40;
/// Nodes of the disks here, from the root down.
const HEIGHT: u64 = 4;
/// Nodes read ahead, on each of two levels, beyond what a piece then comes to.
const READ_AHEAD: u64 = 2 * 64;
const PIECE_BLOCKS: u64 = 256;

/// Counts what is read and written between two syncs: every piece has one of its own.
struct Counting {
    device: Arc<SimDevice>,
    now: Mutex<Counts>,
    most: Mutex<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    syncs: u64,
}

impl Counting {
    fn new(device: Arc<SimDevice>) -> Arc<Self> {
        Arc::new(Self { device, now: Mutex::default(), most: Mutex::default() })
    }

    /// The most since the last call; and how many syncs there were.
    fn take(&self) -> Counts {
        self.end_piece();
        std::mem::take(&mut *self.most.lock().unwrap())
    }

    fn end_piece(&self) {
        let now = std::mem::take(&mut *self.now.lock().unwrap());
        let mut most = self.most.lock().unwrap();
        most.reads = most.reads.max(now.reads);
        most.writes = most.writes.max(now.writes);
        most.syncs += 1;
    }
}

impl Device for Counting {
    fn block_count(&self) -> BlockCount {
        self.device.block_count()
    }

    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf> {
        self.now.lock().unwrap().reads += to_u64(count);
        self.device.read(at, count)
    }

    fn write(&self, at: BlockAddr, data: BlockSlice) -> IoFuture<()> {
        self.now.lock().unwrap().writes += to_u64(data.block_count());
        self.device.write(at, data)
    }

    fn sync(&self) -> IoFuture<()> {
        self.end_piece();
        self.device.sync()
    }

    fn discard(&self, run: BlockRun) -> IoFuture<()> {
        self.device.discard(run)
    }

    fn reserve(&self, run: BlockRun) -> IoFuture<()> {
        self.device.reserve(run)
    }

    fn is_sparse(&self) -> bool {
        self.device.is_sparse()
    }

    fn grow(&self, to: BlockCount) -> IoFuture<()> {
        self.device.grow(to)
    }
}

fn small_pieces(piece_blocks: u64) -> EngineConfig {
    EngineConfig {
        // Nodes are read from the device, so that reading is counted.
        cache_bytes: 4 << 20,
        reclaim_step_blocks: piece_blocks,
        ..EngineConfig::default()
    }
}

async fn open_with(sim: &Sim, device: Arc<dyn Device>, piece_blocks: u64) -> Engine {
    Engine::open(device, sim.runtime(), small_pieces(piece_blocks)).await.unwrap()
}

/// A disk of 4 TiB, `big`: 64 MiB of it in one piece, and 2,000 blocks all over it, each with two
/// nodes of its own.
async fn much_data(sim: &Sim) -> (Engine, Arc<Disk>, Arc<Counting>) {
    let device = Counting::new(sim.create_device(BlockCount::covering(256 * MIB)));
    let as_device: Arc<dyn Device> = Arc::clone(&device) as Arc<dyn Device>;
    Engine::format(Arc::clone(&as_device), sim.runtime()).await.unwrap();
    let engine = open_with(sim, as_device, PIECE_BLOCKS).await;
    engine.create_disk(&disk_name("big"), 4 * TIB).await.unwrap();
    let disk = engine.disk(&disk_name("big")).await.unwrap();
    for at in 0..64 {
        fill(&disk, at * MIB, 1 << 20, 1).await;
    }
    for at in 1..2000 {
        fill(&disk, at * (4 * TIB / 2000) / 4096 * 4096, 4096, 2).await;
    }
    merge(&engine, "big").await;
    (engine, disk, device)
}

/// Has a disk's log merged: for a reader, of which nothing is left.
async fn merge(engine: &Engine, name: &str) {
    drop(engine.reader(&version(name)).await.unwrap());
    engine.drain_reclaim().await.unwrap();
}

/// A piece frees so much, and writes the nodes on the way to where it ends and a commit: a page of
/// the bitmap or two, and rows, all of it twice and with the catalogue's own log.
fn assert_bounded(most: Counts, pieces_min: u64) {
    assert!(most.reads <= PIECE_BLOCKS + READ_AHEAD + 8 * HEIGHT, "{most:?}");
    assert!(most.writes <= HEIGHT + 64, "{most:?}");
    assert!(most.syncs >= pieces_min, "{most:?}");
}

#[test]
fn a_discard_of_tebibytes_is_merged_in_pieces_of_bounded_size() {
    let sim = Sim::new(1);
    sim.run(async {
        let (engine, disk, device) = much_data(&sim).await;
        disk.discard(0, 4 * TIB).await.unwrap();
        device.take();
        merge(&engine, "big").await;
        assert_bounded(device.take(), (64 * 256 + 6000) / PIECE_BLOCKS);
        assert_eq!(bytes(&disk, 5 * MIB, 8192).await, vec![0; 8192]);
        let info = &engine.show(&version("big")).await.unwrap().disk.head;
        assert_eq!((info.referenced_bytes, info.owned_bytes), (0, 0));
        assert_clean(&engine).await;
    });
}

#[test]
fn a_shrink_by_tebibytes_is_one_small_commit_and_small_steps() {
    let sim = Sim::new(2);
    sim.run(async {
        let (engine, disk, device) = much_data(&sim).await;
        device.take();
        engine.resize(&disk_name("big"), 16 * MIB + 512, true).await.unwrap();
        let info = engine.show(&version("big")).await.unwrap().disk.head;
        assert_eq!(info.referenced_bytes, 16 * MIB + 4096);
        // How much its steps read a test of the tree's tells: nothing comes between two here.
        assert!(device.take().writes <= HEIGHT + 64);
        engine.drain_reclaim().await.unwrap();
        assert_bounded(device.take(), (48 * 256 + 6000) / PIECE_BLOCKS);
        assert_eq!(bytes(&disk, 16 * MIB - 4096, 4096).await, vec![1; 4096]);
        engine.resize(&disk_name("big"), TIB, false).await.unwrap();
        assert_eq!(bytes(&disk, 16 * MIB + 512, 8192).await, vec![0; 8192]);
        assert_clean(&engine).await;
        let info = engine.show(&version("big")).await.unwrap().disk.head;
        assert_eq!(info.referenced_bytes, info.owned_bytes);
        assert_eq!(info.referenced_bytes, 16 * MIB + 4096);
    });
}

/// What `cut_off` begins with: a disk of 600 MiB, `web`, that shares with a snapshot, with data
/// where leaves and their parents begin and end.
const PLACES: [u64; 5] = [0, MIB - 8192, 2 * MIB, 256 * MIB - 8192, 512 * MIB];

async fn shared_disk(sim: &Sim) -> (Engine, Arc<Disk>) {
    let device: Arc<dyn Device> = sim.create_device(BlockCount::covering(64 * MIB));
    Engine::format(Arc::clone(&device), sim.runtime()).await.unwrap();
    let engine = open_with(sim, device, 8).await;
    engine.create_disk(&disk_name("web"), 600 * MIB).await.unwrap();
    let disk = engine.disk(&disk_name("web")).await.unwrap();
    for place in PLACES {
        fill(&disk, place, 65536, 1).await;
    }
    engine.snapshot(&[snap_name("web@kept")]).await.unwrap();
    for place in PLACES {
        fill(&disk, place + 16384, 32768, 2).await;
    }
    merge(&engine, "web").await;
    (engine, disk)
}

/// The bytes at each place.
async fn at_places(disk: &Arc<Disk>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for place in PLACES.into_iter().filter(|place| place + 65536 <= disk.size_bytes()) {
        found.push(bytes(disk, place, 65536).await);
    }
    found
}

async fn assert_snapshot_kept(engine: &Engine) {
    let reader = engine.reader(&version("web@kept")).await.unwrap();
    for place in PLACES {
        let mut out = vec![0; 65536];
        reader.read(place, &mut out).await.unwrap();
        assert_eq!(out, vec![1; 65536], "at {place}");
    }
}

/// Cuts `act` off after each event in turn, until it comes to its end, and has `look` judge what
/// the next opening finds: it is told whether `act` was answered.
fn cut_off(
    act: impl AsyncFn(&Engine, &Arc<Disk>),
    look: impl AsyncFn(&Engine, &Arc<Disk>, bool) -> usize,
) -> [u64; 2] {
    let mut outcomes = [0, 0];
    for kind in [CrashKind::Kill, CrashKind::PowerCut] {
        for events in 1.. {
            let sim = Sim::new(events);
            let (engine, disk) = sim.run(shared_disk(&sim));
            sim.stop_after(events);
            let done = sim.run_until_stop(act(&engine, &disk)).is_ok();
            sim.never_stop();
            drop((engine, disk));
            let device: Arc<dyn Device> = sim.open_device(sim.crash(kind));
            sim.run(async {
                let engine = open_with(&sim, device, 8).await;
                let disk = engine.disk(&disk_name("web")).await.unwrap();
                outcomes[look(&engine, &disk, done).await] += 1;
                assert_snapshot_kept(&engine).await;
                assert_clean(&engine).await;
                engine.drain_reclaim().await.unwrap();
                assert_clean(&engine).await;
                let all: VersionName = version("web");
                let options = DeleteOptions { recursive: true, dry_run: false };
                engine.delete(&[all], options).await.unwrap();
                engine.drain_reclaim().await.unwrap();
                assert_eq!(engine.check().await.unwrap().blocks, 0, "after {events} events");
            });
            if done {
                break;
            }
        }
    }
    outcomes
}

#[test]
fn a_large_discard_holds_wherever_its_pieces_are_cut_off() {
    let discard = 8192..511 * MIB;
    let act = async |engine: &Engine, disk: &Arc<Disk>| {
        disk.discard(discard.start, discard.end - discard.start).await.unwrap();
        fill(disk, 2 * MIB, 4096, 3).await;
        disk.flush().await.unwrap();
        merge(engine, "web").await;
    };
    // Whether the discard is there, and the write that came after it and was flushed with it.
    let look = async |_: &Engine, disk: &Arc<Disk>, done: bool| {
        let found = at_places(disk).await;
        let discarded = found[1].iter().all(|byte| *byte == 0);
        let written = found[2][..4096] == [3; 4096];
        assert!(discarded || !(written || done), "the discard is lost, not what came after it");
        assert!(written || !done, "an answered flush is undone");
        for (place, bytes) in PLACES.iter().zip(&found) {
            let blocks = bytes.chunks(4096).enumerate();
            for (at, block) in blocks.map(|(index, block)| (place + 4096 * to_u64(index), block)) {
                let before = if (16384..49152).contains(&(at - place)) { 2 } else { 1 };
                let expected = match at {
                    at if at == 2 * MIB && written => 3,
                    at if discard.contains(&at) && discarded => 0,
                    _ => before,
                };
                assert_eq!(block, [expected; 4096], "at {at}, discarded: {discarded}");
            }
        }
        usize::from(discarded)
    };
    let outcomes = cut_off(act, look);
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn a_shrink_has_happened_or_has_not_wherever_it_is_cut_off() {
    let size = MIB + 512;
    let act = async |engine: &Engine, _: &Arc<Disk>| {
        engine.resize(&disk_name("web"), size, true).await.unwrap();
        engine.drain_reclaim().await.unwrap();
    };
    let look = async |engine: &Engine, disk: &Arc<Disk>, done: bool| {
        let shrunk = disk.size_bytes() == size;
        assert!(shrunk || !done, "an answered shrink is undone");
        engine.resize(&disk_name("web"), 600 * MIB, false).await.unwrap();
        for (place, bytes) in PLACES.iter().zip(at_places(disk).await) {
            let end = if shrunk { size } else { 600 * MIB };
            for (at, byte) in (*place..).zip(bytes) {
                let before = if (16384..49152).contains(&(at - place)) { 2 } else { 1 };
                assert_eq!(byte, if at < end { before } else { 0 }, "at {at}, shrunk: {shrunk}");
            }
        }
        usize::from(shrunk)
    };
    let outcomes = cut_off(act, look);
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}
