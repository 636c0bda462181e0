//! What the reclaimer goes on with, step by step.

use std::sync::Arc;

use bough_blockstore::sim::{CrashKind, Sim};
use bough_blockstore::{BlockCount, Device};

use super::reclaim::Begun;
use super::{DeleteOptions, Engine, EngineConfig};
use crate::catalogue::{ReclaimRow, Rows, VersionId};
use crate::names::{SnapshotName, VersionName};

const MIB: u64 = 1 << 20;
/// More than one page of rows, all older than what has been begun.
const OLDER: usize = 150;

/// Opened, and its reclaimer sent away: the test makes the steps itself.
async fn open(sim: &Sim, device: Arc<dyn Device>) -> Engine {
    let engine = Engine::open(device, sim.runtime(), EngineConfig::default()).await.unwrap();
    engine.store().backlog.close();
    engine
}

async fn delete(engine: &Engine, names: &[VersionName]) {
    engine.delete(names, DeleteOptions::default()).await.unwrap();
}

async fn reclaims(engine: &Engine) -> Vec<ReclaimRow> {
    let mut view = engine.store().catalogue.read().await;
    Rows::new(&mut view).list_reclaims(VersionId(0), usize::MAX).await.unwrap()
}

/// A disk of which the reclaimer has freed a part, and many snapshots that are to go as well.
async fn begun_behind_many(sim: &Sim) -> Engine {
    let device: Arc<dyn Device> = sim.create_device(BlockCount::covering(128 * MIB));
    Engine::format(Arc::clone(&device), sim.runtime()).await.unwrap();
    let engine = open(sim, device).await;
    engine.create_disk(&"old".parse().unwrap(), MIB).await.unwrap();
    let old: Vec<SnapshotName> = (0..OLDER).map(|n| format!("old@{n}").parse().unwrap()).collect();
    for some in old.chunks(10) {
        engine.snapshot(some).await.unwrap();
    }
    engine.create_disk(&"big".parse().unwrap(), 64 * MIB).await.unwrap();
    let big = engine.disk(&"big".parse().unwrap()).await.unwrap();
    for offset in (0..40 * MIB).step_by(1 << 20) {
        big.write(offset, 1 << 20, &mut |_, piece| piece.fill(1)).await.unwrap();
    }
    big.checkpoint(crate::disk::Mode::Keep).await.unwrap();
    drop(big);
    delete(&engine, &["big".parse().unwrap()]).await;
    assert!(engine.reclaim_once().await.unwrap());
    let old: Vec<VersionName> = old.into_iter().map(Into::into).collect();
    delete(&engine, &old).await;
    engine
}

async fn assert_goes_on(engine: &Engine) {
    let before = reclaims(engine).await;
    assert_eq!(before.len(), OLDER + 1);
    assert!(before[OLDER].cursor > 0, "{before:?}");
    assert!(engine.reclaim_once().await.unwrap());
    assert_eq!(reclaims(engine).await, before[..OLDER], "what was begun is not what was finished");
    assert_eq!(*engine.inner.reclaiming.lock().await, Begun::Nothing);
    while engine.reclaim_once().await.unwrap() {}
    assert_eq!(reclaims(engine).await, []);
    assert_eq!(engine.check().await.unwrap().findings, []);
}

#[test]
fn a_version_begun_is_finished_before_all_that_are_older() {
    let sim = Sim::new(1);
    sim.run(async {
        let engine = begun_behind_many(&sim).await;
        assert_goes_on(&engine).await;
    });
}

#[test]
fn a_version_begun_in_an_earlier_life_is_finished_first() {
    let sim = Sim::new(2);
    sim.run(async { drop(begun_behind_many(&sim).await) });
    let device: Arc<dyn Device> = sim.open_device(sim.crash(CrashKind::PowerCut));
    sim.run(async {
        let engine = open(&sim, device).await;
        assert_goes_on(&engine).await;
    });
}
