//! Repair: what redundancy allows is whole again, what it does not is told and left alone, and a
//! crash in the middle leaves a store that can be repaired again. Salvage: a clone of the rest.

use std::collections::BTreeSet;
use std::sync::Arc;

use bough_blockstore::Device;
use bough_blockstore::sim::{CrashKind, Sim, SimImage};
use bough_damage::{Layout, Position, flip_bitmap_bit, rewrite_catalogue_page, rot};
use bough_radix::{
    Engine, EngineConfig, EngineError, ErrorKind, RepairMode, RepairReport, SalvageReport, Severity,
};

use crate::counts::{forge_store, forge_version};
use crate::kit::{BLOCK, DISK_BLOCKS, disk_name, expected, findings, look, open, store};
use crate::trees::below;

/// The page of the space bitmap.
const BITMAP: Position = Position { level: 0, index: 1 << 30 };

fn repair_with(image: SimImage, mode: RepairMode) -> (Result<RepairReport, EngineError>, SimImage) {
    let sim = Sim::new(51);
    let device: Arc<dyn Device> = sim.open_device(image);
    let config = EngineConfig::default();
    let done = sim.run(Engine::repair(device, sim.runtime(), config, mode, &mut |_| {}));
    (done, sim.crash(CrashKind::PowerCut))
}

fn repair(image: SimImage) -> (RepairReport, SimImage) {
    let (report, image) = repair_with(image, RepairMode::Mend);
    (report.unwrap(), image)
}

/// Everything that a repair puts right, by name.
fn mendable() -> Vec<(String, SimImage)> {
    let whole = store();
    let layout = Layout::read(&whole);
    let mut all = Vec::new();
    let mut add = |what: &str, image: SimImage| all.push((what.to_owned(), image));
    let rotten = |blocks: &[u64]| {
        let mut image = whole.clone();
        blocks.iter().for_each(|at| rot(&mut image, *at));
        image
    };
    add("first superblock", rotten(&[0]));
    add("second superblock", rotten(&[1]));
    for pointer in layout.catalogue.blocks.values() {
        add("first copy", rotten(&[pointer.addr]));
        add("second copy", rotten(&[layout.mirror(pointer.addr)]));
    }
    let page = layout.catalogue.blocks[&BITMAP].addr;
    add("both copies of the bitmap", rotten(&[page, layout.mirror(page)]));
    let used = layout.tree(&whole, "db").data().nth(7).unwrap().1.addr;
    for (what, block) in [("a leak", 4000), ("a used block marked free", used)] {
        let mut image = whole.clone();
        flip_bitmap_bit(&mut image, &layout, block);
        add(what, image);
    }
    let mut image = whole.clone();
    rewrite_catalogue_page(&mut image, &layout, BITMAP.index, |bytes| bytes.fill(0));
    add("an empty bitmap", image);
    for (name, from_end) in [("web@one", 3), ("web", 2), ("web@one", 1)] {
        for by in [-1, 1] {
            add("a number of a version", forge_version(name, from_end, by));
        }
    }
    for field in [9, 11, 12, 13] {
        add("a sum", forge_store(field, 1));
    }
    for field in [6, 7] {
        add("a number to come", forge_store(field, -1));
    }
    all
}

#[test]
fn whatever_can_be_known_again_is_whole_after_a_repair() {
    for (what, image) in mendable() {
        let (report, image) = repair(image);
        assert!(!report.is_dry_run && report.left.findings.is_empty(), "{what}: {report:#?}");
        // An opening of the catalogue may have replaced what a copy was damaged of.
        assert!(!report.mended.is_empty() || what.ends_with("copy"), "{what}: {report:#?}");
        Layout::read(&image);
        look(image).unwrap().assert_clean();
    }
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    for (what, image) in mendable() {
        let (shown, after) = repair_with(image, RepairMode::Show);
        let shown = shown.unwrap();
        assert!(shown.is_dry_run, "{what}");
        let (done, _) = repair(after);
        let told = |report: &RepairReport| -> BTreeSet<String> {
            let all = report.mended.iter().filter(|finding| finding.message != "one superblock");
            all.map(|finding| format!("{finding:?}")).collect()
        };
        assert_eq!(told(&shown), told(&done), "{what}");
        assert_eq!(shown.left.findings, done.left.findings, "{what}");
    }
}

#[test]
fn a_whole_store_needs_no_repair() {
    let (report, image) = repair(store());
    assert!(report.mended.is_empty() && report.left.findings.is_empty(), "{report:#?}");
    look(image).unwrap().assert_clean();
}

#[test]
fn a_crash_in_a_repair_leaves_a_store_that_can_be_repaired() {
    let mut crashes = 0;
    for (_, image) in mendable().into_iter().rev().step_by(5) {
        let mut events = 1;
        loop {
            let sim = Sim::new(events);
            let device: Arc<dyn Device> = sim.open_device(image.clone());
            sim.stop_after(events);
            let (config, runtime) = (EngineConfig::default(), sim.runtime());
            let mode = RepairMode::Mend;
            let mut silent = |_| {};
            let done =
                sim.run_until_stop(Engine::repair(device, runtime, config, mode, &mut silent));
            let Err(_) = done else { break };
            crashes += 1;
            sim.never_stop();
            let kind = if events % 2 == 0 { CrashKind::Kill } else { CrashKind::PowerCut };
            let (report, image) = repair(sim.crash(kind));
            assert!(report.left.findings.is_empty(), "after {events} events: {report:#?}");
            look(image).unwrap().assert_clean();
            events += 19;
        }
    }
    assert!(crashes > 50, "{crashes} crashes");
}

#[test]
fn what_cannot_be_known_is_left_alone_and_named() {
    let whole = store();
    let layout = Layout::read(&whole);
    // Rows have nothing but their two copies.
    let rows = layout.catalogue.blocks[&Position { level: 0, index: 1 }].addr;
    let mut image = whole.clone();
    [rows, layout.mirror(rows)].iter().for_each(|at| rot(&mut image, *at));
    let (refused, _) = repair_with(image, RepairMode::Mend);
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.to_string().contains(&format!("block {rows}")), "{refused}");
    // Below a damaged node nobody knows what is used: nothing of it is marked free.
    let leaf = layout.tree(&whole, "db").nodes().find(|(at, _)| at.level == 1).unwrap().1.addr;
    let mut image = whole.clone();
    rot(&mut image, leaf);
    flip_bitmap_bit(&mut image, &layout, leaf);
    let (report, image) = repair(image);
    assert_eq!(findings_of(&report), [(Severity::Corruption, Some(leaf))]);
    let left = findings(&report.left);
    assert_eq!(left[0], (Severity::Corruption, Some("db"), Some(leaf)));
    assert!(left[1..].iter().all(|finding| finding.0 == Severity::Leak));
    assert_eq!(left.len(), 1 + 30);
    let (again, _) = repair(image);
    assert!(again.mended.is_empty(), "{again:#?}");
}

fn findings_of(report: &RepairReport) -> Vec<(Severity, Option<u64>)> {
    let of_blocks = report.mended.iter().filter(|finding| finding.block.is_some());
    of_blocks.map(|finding| (finding.severity, finding.block)).collect()
}

/// Salvages a version as `rest`.
fn salvage(image: SimImage, source: &str) -> (SalvageReport, SimImage) {
    let sim = Sim::new(52);
    let device: Arc<dyn Device> = sim.open_device(image);
    let report = sim.run(async {
        let engine = open(&sim, device).await.unwrap();
        let version = source.parse().unwrap();
        let salvaged = engine.salvage(&version, &disk_name("rest"), &mut |_| {}).await.unwrap();
        engine.close().await.unwrap();
        salvaged
    });
    (report, sim.crash(CrashKind::PowerCut))
}

/// Checks that a disk holds what `source` did, but for what was lost of it.
async fn compare(engine: &Engine, disk: &str, source: &str, lost: &BTreeSet<u64>) {
    let reader = engine.reader(&disk.parse().unwrap()).await.unwrap();
    for block in 0..DISK_BLOCKS {
        let mut seen = [0xEE; 4096];
        match reader.read(block * BLOCK, &mut seen).await {
            Ok(()) => {
                assert!(!lost.contains(&block), "block {block} of {source} was lost");
                assert_eq!(seen, [expected(source, block); 4096], "block {block} of {source}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(lost.contains(&block), "{error}");
            }
        }
    }
}

#[test]
fn salvage_keeps_what_can_be_read_and_lists_exactly_what_cannot() {
    let whole = store();
    let layout = Layout::read(&whole);
    for source in ["db", "web", "web@one", "copy"] {
        for (position, pointer) in layout.tree(&whole, source).blocks.into_iter().step_by(3) {
            let mut image = whole.clone();
            rot(&mut image, pointer.addr);
            let lost: BTreeSet<u64> = below(&whole, &layout, pointer.addr)
                .into_iter()
                .filter_map(|(version, block)| (version == source).then_some(block))
                .collect();
            let (report, image) = salvage(image, source);
            let listed: BTreeSet<u64> = report
                .lost
                .iter()
                .flat_map(|range| range.start_bytes..range.start_bytes + range.length_bytes)
                .step_by(4096)
                .map(|byte| byte / BLOCK)
                .collect();
            assert_eq!(listed, lost, "{source} {position:?}");
            let wanted = (0..DISK_BLOCKS)
                .filter(|block| expected(source, *block) != 0 && !lost.contains(block));
            let wanted = u64::try_from(wanted.count()).unwrap();
            assert_eq!(report.data_bytes, wanted * BLOCK, "{source} {position:?}");
            let sim = Sim::new(53);
            let device: Arc<dyn Device> = sim.open_device(image);
            sim.run(async {
                let engine = open(&sim, device).await.unwrap();
                compare(&engine, "rest", source, &lost).await;
                let found = engine.check().await.unwrap();
                let of_rest = found.findings.iter().any(|f| f.version.as_deref() == Some("rest"));
                assert!(!of_rest, "{found:#?}");
                engine.close().await.unwrap();
            });
        }
    }
}

#[test]
fn a_disk_written_over_a_damaged_node_is_without_fault_after_a_repair() {
    let whole = store();
    let layout = Layout::read(&whole);
    let leaf = layout.tree(&whole, "db").nodes().find(|(at, _)| at.level == 1).unwrap().1.addr;
    let mut image = whole.clone();
    rot(&mut image, leaf);
    let sim = Sim::new(54);
    let device: Arc<dyn Device> = sim.open_device(image);
    sim.run(async {
        let engine = open(&sim, device).await.unwrap();
        let db = engine.disk(&disk_name("db")).await.unwrap();
        let byte = expected("db", 100);
        db.write(100 * BLOCK, 4096, &mut |_, piece| piece.fill(byte)).await.unwrap();
        engine.close().await.unwrap();
    });
    let (report, image) = repair(sim.crash(CrashKind::PowerCut));
    // The node, and the 30 blocks that it led to.
    assert_eq!(findings_of(&report).len(), 31);
    assert!(report.mended.iter().all(|finding| finding.severity == Severity::Leak));
    assert!(report.left.findings.is_empty(), "{report:#?}");
    assert_eq!(report.left.lost_blocks, 255);
    let device: Arc<dyn Device> = sim.open_device(image);
    sim.run(async {
        let engine = open(&sim, device).await.unwrap();
        let lost = (0..256).filter(|block| *block != 100).collect();
        compare(&engine, "db", "db", &lost).await;
        assert_eq!(engine.check().await.unwrap().findings, []);
    });
}
