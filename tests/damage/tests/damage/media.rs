//! Media that lie while the store is in use, and a store in a real file.

use std::sync::Arc;

use bough_blockstore::sim::{CrashKind, Mishap, Sim, SimImage};
use bough_blockstore::{
    BlockCount, Device, OpenMode, Operation, Reactor, ReactorConfig, UringDevice, UringRuntime,
};
use bough_damage::{FileMedium, Layout, rot};
use bough_radix::{Engine, EngineConfig, Severity};

use crate::kit::{fill, findings, inspect, look, open};

/// The history with its `nth` write going wrong, and how many writes there were. What the lie
/// spoilt may be needed again at once: an error is an answer.
fn with_mishap(nth: u64, mishap: Mishap) -> (SimImage, u64) {
    let sim = Sim::new(30);
    let device = sim.create_device(BlockCount(4096));
    let writes = sim.run(async {
        let medium: Arc<dyn Device> = device.clone();
        Engine::format(Arc::clone(&medium), sim.runtime()).await.unwrap();
        let before = device.stats().writes;
        device.plan(Operation::Write, nth, mishap);
        if let Ok(engine) = open(&sim, medium).await {
            drop(fill(&engine).await);
            drop(engine.close().await);
        }
        device.stats().writes - before
    });
    (sim.crash(CrashKind::PowerCut), writes)
}

fn writes() -> u64 {
    let (_, writes) = with_mishap(u64::MAX, Mishap::Lost);
    assert!(writes > 100, "{writes} writes");
    writes
}

#[test]
fn whichever_write_is_lost_the_store_opens_and_reads_only_what_was_written() {
    for nth in (0..writes()).step_by(11) {
        let (image, _) = with_mishap(nth, Mishap::Lost);
        // One lost write is one copy of anything that is kept twice.
        look(image).unwrap_or_else(|error| panic!("write {nth} lost: {error}"));
    }
}

#[test]
fn whichever_write_goes_elsewhere_nothing_is_read_that_was_not_written() {
    for nth in (5..writes()).step_by(11) {
        let (image, _) = with_mishap(nth, Mishap::Misdirected);
        if let Err(error) = look(image) {
            assert!(error.to_string().contains("block"), "write {nth} misdirected: {error}");
        }
    }
}

#[test]
fn damage_in_a_real_file_is_found_at_its_block() {
    let folder = tempfile::tempdir().unwrap();
    let (blocks, lock) = (folder.path().join("blocks"), folder.path().join("lock"));
    let reactor = Reactor::start("damage", ReactorConfig::default()).unwrap();
    let device: Arc<dyn Device> =
        Arc::new(UringDevice::create(&blocks, BlockCount(4096), &lock).unwrap());
    let made = reactor.block_on(move || async move {
        let runtime = Arc::new(UringRuntime);
        Engine::format(Arc::clone(&device), runtime.clone()).await.unwrap();
        let engine = Engine::open(device, runtime, EngineConfig::default()).await.unwrap();
        fill(&engine).await.unwrap();
        engine.close().await.unwrap();
    });
    made.unwrap();
    reactor.stop();
    reactor.join().unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&blocks).unwrap();
    let mut medium = FileMedium(file);
    let layout = Layout::read(&medium);
    let (_, damaged) = layout.tree(&medium, "db").data().nth(3).unwrap();
    rot(&mut medium, damaged.addr);
    medium.0.sync_all().unwrap();
    drop(medium);
    let reactor = Reactor::start("damage", ReactorConfig::default()).unwrap();
    let device: Arc<dyn Device> =
        Arc::new(UringDevice::open(&blocks, OpenMode::ReadWrite, &lock).unwrap());
    let seen = reactor.block_on(move || async move {
        let runtime = Arc::new(UringRuntime);
        let engine = Engine::open(device, runtime, EngineConfig::default()).await.unwrap();
        let seen = inspect(&engine).await.unwrap();
        engine.close().await.unwrap();
        seen
    });
    let seen = seen.unwrap();
    assert_eq!(findings(&seen.scrub), [(Severity::Corruption, Some("db"), Some(damaged.addr))]);
    seen.assert_unreadable([("db", 103)]);
    reactor.stop();
}
