//! What all these tests begin with: names, a store, bytes to write and to read.

use std::sync::Arc;

use bough_blockstore::sim::Sim;
use bough_blockstore::{BlockCount, Device, Runtime};
use bough_radix::{Disk, DiskName, Engine, EngineConfig, Piece, SnapshotName, VersionName};

pub const MIB: u64 = 1 << 20;

pub fn disk_name(text: &str) -> DiskName {
    text.parse().unwrap()
}

pub fn snap_name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

pub fn version(text: &str) -> VersionName {
    text.parse().unwrap()
}

pub async fn fill(disk: &Arc<Disk>, offset: u64, length: usize, byte: u8) {
    disk.write(offset, length, &mut |_, piece| piece.fill(byte)).await.unwrap();
}

pub async fn bytes(disk: &Arc<Disk>, offset: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0xEE; length];
    disk.read(offset, length, &mut |at, piece| match piece {
        Piece::Bytes(bytes) => out[at..at + bytes.len()].copy_from_slice(bytes),
        Piece::Zeros(count) => out[at..at + count].fill(0),
    })
    .await
    .unwrap();
    out
}

pub async fn open(sim: &Sim, device: Arc<dyn Device>) -> Engine {
    let runtime: Arc<dyn Runtime> = sim.runtime();
    Engine::open(device, runtime, EngineConfig::default()).await.unwrap()
}

/// A new store with one disk of 8 MiB, `web`.
pub async fn new_store(sim: &Sim) -> (Engine, Arc<Disk>) {
    let device: Arc<dyn Device> = sim.create_device(BlockCount::covering(64 * MIB));
    Engine::format(Arc::clone(&device), sim.runtime()).await.unwrap();
    let engine = open(sim, device).await;
    engine.create_disk(&disk_name("web"), 8 * MIB).await.unwrap();
    let disk = engine.disk(&disk_name("web")).await.unwrap();
    (engine, disk)
}

pub async fn assert_clean(engine: &Engine) {
    let report = engine.check().await.unwrap();
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}
