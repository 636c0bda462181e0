//! Each verb, once, on the simulated machine: what it promises, and that `check` agrees.

mod discards;
mod host;
mod kit;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bough_blockstore::sim::{CrashKind, Sim};
use bough_blockstore::{Device, Runtime};
use bough_radix::{DeleteOptions, DeleteReport, Engine, EngineError, VersionName};

use kit::*;

#[test]
fn what_is_written_is_read_at_any_sector() {
    let sim = Sim::new(1);
    sim.run(async {
        let (engine, disk) = new_store(&sim).await;
        assert_eq!(bytes(&disk, 0, 8192).await, vec![0; 8192]);
        fill(&disk, 4096, 12288, 7).await;
        fill(&disk, 4096 + 512, 512, 9).await;
        let read = bytes(&disk, 4096, 2048).await;
        assert!(read[..512].iter().all(|b| *b == 7));
        assert!(read[512..1024].iter().all(|b| *b == 9));
        assert!(read[1024..].iter().all(|b| *b == 7));
        disk.discard(8192, 4096).await.unwrap();
        assert_eq!(bytes(&disk, 8192, 4096).await, vec![0; 4096]);
        disk.flush().await.unwrap();
        engine.close().await.unwrap();
    });
}

#[test]
fn a_snapshot_keeps_what_the_head_overwrites_and_clones_branch_from_it() {
    let sim = Sim::new(2);
    sim.run(async {
        let (engine, disk) = new_store(&sim).await;
        fill(&disk, 0, 65536, 1).await;
        engine.snapshot(&[snap_name("web@one")]).await.unwrap();
        fill(&disk, 0, 4096, 2).await;
        engine.clone_disks(&version("web@one"), &[disk_name("copy")]).await.unwrap();
        let copy = engine.disk(&disk_name("copy")).await.unwrap();
        assert_eq!(bytes(&copy, 0, 8192).await, vec![1; 8192]);
        fill(&copy, 4096, 4096, 3).await;
        assert_eq!(bytes(&copy, 0, 4096).await, vec![1; 4096]);
        assert_eq!(bytes(&disk, 0, 4096).await, vec![2; 4096]);
        assert_eq!(bytes(&disk, 4096, 4096).await, vec![1; 4096]);
        assert_clean(&engine).await;
        engine.close().await.unwrap();
    });
}

#[test]
fn a_rollback_drops_changes_and_deletes_release_all_space() {
    let sim = Sim::new(3);
    sim.run(async {
        let (engine, disk) = new_store(&sim).await;
        let before = engine.status().await.unwrap().used_bytes;
        fill(&disk, 0, 65536, 1).await;
        engine.snapshot(&[snap_name("web@one")]).await.unwrap();
        fill(&disk, 0, 65536, 2).await;
        let report = engine.rollback(&snap_name("web@one"), false).await.unwrap();
        assert_eq!(report.dropped_bytes, 65536);
        assert_eq!(bytes(&disk, 0, 65536).await, vec![1; 65536]);
        engine.drain_reclaim().await.unwrap();
        assert_clean(&engine).await;
        let options = DeleteOptions { recursive: false, dry_run: false };
        let refused = engine.delete(&[version("web")], options).await.unwrap_err();
        assert!(matches!(refused, EngineError::HasSnapshots { .. }), "{refused}");
        let options = DeleteOptions { recursive: true, dry_run: false };
        engine.delete(&[version("web")], options).await.unwrap();
        engine.drain_reclaim().await.unwrap();
        assert_clean(&engine).await;
        assert_eq!(engine.status().await.unwrap().used_bytes, before);
        assert!(engine.list().await.unwrap().is_empty());
        engine.close().await.unwrap();
    });
}

#[test]
fn a_power_cut_keeps_everything_that_was_flushed() {
    let sim = Sim::new(4);
    sim.run(async {
        let (engine, disk) = new_store(&sim).await;
        fill(&disk, 0, 65536, 1).await;
        engine.snapshot(&[snap_name("web@one")]).await.unwrap();
        fill(&disk, 0, 4096, 2).await;
        disk.flush().await.unwrap();
    });
    let image = sim.crash(CrashKind::PowerCut);
    let device: Arc<dyn Device> = sim.open_device(image);
    sim.run(async {
        let engine = open(&sim, device).await;
        let disk = engine.disk(&disk_name("web")).await.unwrap();
        assert_eq!(bytes(&disk, 0, 4096).await, vec![2; 4096]);
        assert_eq!(bytes(&disk, 4096, 4096).await, vec![1; 4096]);
        let reader = engine.reader(&version("web@one")).await.unwrap();
        let mut out = vec![0; 8192];
        reader.read(0, &mut out).await.unwrap();
        assert_eq!(out, vec![1; 8192]);
        assert_clean(&engine).await;
    });
}

#[test]
fn a_disk_cut_short_reads_zeros_when_it_grows_again() {
    let sim = Sim::new(5);
    sim.run(async {
        let (engine, disk) = new_store(&sim).await;
        fill(&disk, 0, 65536, 1).await;
        let refused = engine.resize(&disk_name("web"), 6144, false).await.unwrap_err();
        assert!(matches!(refused, EngineError::WouldShrink { .. }), "{refused}");
        engine.resize(&disk_name("web"), 6144, true).await.unwrap();
        assert_eq!(disk.size_bytes(), 6144);
        engine.resize(&disk_name("web"), 16 * MIB, false).await.unwrap();
        let read = bytes(&disk, 0, 65536).await;
        assert!(read[..6144].iter().all(|b| *b == 1));
        assert!(read[6144..].iter().all(|b| *b == 0));
        assert_clean(&engine).await;
        engine.close().await.unwrap();
    });
}

const RECURSIVE: DeleteOptions = DeleteOptions { recursive: true, dry_run: false };

/// `web` with two snapshots and a clone of the first, `data`, and `other` with one: all but
/// `other` have something in their logs.
async fn family(sim: &Sim) -> Engine {
    let (engine, web) = new_store(sim).await;
    for name in ["data", "other"] {
        engine.create_disk(&disk_name(name), MIB).await.unwrap();
    }
    fill(&web, 0, 65536, 1).await;
    engine.snapshot(&["web@one", "other@kept"].map(snap_name)).await.unwrap();
    fill(&web, 0, 65536, 2).await;
    engine.snapshot(&["web@two", "other@gone"].map(snap_name)).await.unwrap();
    engine.clone_disks(&version("web@one"), &[disk_name("copy")]).await.unwrap();
    for name in ["web", "copy", "data"] {
        fill(&engine.disk(&disk_name(name)).await.unwrap(), 0, 16384, 3).await;
    }
    engine
}

async fn delete_family(engine: &Engine) -> DeleteReport {
    let names = ["data", "other@gone", "web"].map(version);
    engine.delete(&names, RECURSIVE).await.unwrap()
}

/// Everything that has a name.
async fn names(engine: &Engine) -> Vec<String> {
    let mut names = Vec::new();
    for disk in engine.list().await.unwrap() {
        let detail = engine.show(&version(&disk.name)).await.unwrap();
        names.push(disk.name);
        names.extend(detail.snapshots.into_iter().map(|snapshot| snapshot.name));
    }
    names.sort();
    names
}

#[test]
fn a_delete_tells_everything_that_goes_and_takes_nothing_else() {
    let sim = Sim::new(6);
    sim.run(async {
        let engine = family(&sim).await;
        let report = delete_family(&engine).await;
        assert_eq!(report.deleted, ["other@gone", "data", "copy", "web@one", "web@two", "web"]);
        assert_eq!(names(&engine).await, ["other", "other@kept"]);
        engine.drain_reclaim().await.unwrap();
        assert_eq!(engine.status().await.unwrap().snapshot_count, 1);
        assert_clean(&engine).await;
        engine.close().await.unwrap();
    });
}

#[test]
fn a_snapshot_named_beside_its_disk_goes_once() {
    let sim = Sim::new(7);
    sim.run(async {
        let engine = family(&sim).await;
        let alone = [version("web")];
        let dry_run = DeleteOptions { dry_run: true, ..RECURSIVE };
        let expected = engine.delete(&alone, dry_run).await.unwrap();
        let both = ["web@two", "web"].map(version);
        assert_eq!(engine.delete(&both, RECURSIVE).await.unwrap(), expected);
        assert_eq!(names(&engine).await, ["data", "other", "other@gone", "other@kept"]);
        engine.drain_reclaim().await.unwrap();
        assert_clean(&engine).await;
    });
}

#[test]
fn a_disk_may_go_with_its_clones_if_all_are_named_in_any_order() {
    for names in [["web", "copy"], ["copy", "web"]] {
        let sim = Sim::new(1);
        sim.run(async {
            let (engine, disk) = new_store(&sim).await;
            drop(disk);
            engine.snapshot(&[snap_name("web@one")]).await.unwrap();
            engine.clone_disks(&version("web@one"), &[disk_name("copy")]).await.unwrap();
            let options = DeleteOptions::default();
            engine.delete(&[version("web@one")], options).await.unwrap();
            let refused = engine.delete(&[version("web")], options).await.unwrap_err();
            assert!(matches!(refused, EngineError::HasDependents { .. }), "{refused}");
            let report = engine.delete(&names.map(version), options).await.unwrap();
            assert_eq!(report.deleted, ["copy", "web"]);
            assert_clean(&engine).await;
        });
    }
}

#[test]
fn a_snapshot_taken_while_its_disk_is_deleted_is_told_of_or_refused() {
    let mut outcomes = std::collections::BTreeMap::new();
    for (recursive, delay) in [false, true].into_iter().flat_map(|r| (0..400).map(move |d| (r, d)))
    {
        let sim = Sim::new(delay);
        let (snapshot, delete) = sim.run(async {
            let (engine, disk) = new_store(&sim).await;
            fill(&disk, 0, 65536, 1).await;
            // Has to be given its tree before anything is deleted: that takes a while.
            engine.create_disk(&disk_name("other"), MIB).await.unwrap();
            fill(&engine.disk(&disk_name("other")).await.unwrap(), 0, 65536, 2).await;
            engine.snapshot(&[snap_name("other@gone")]).await.unwrap();
            let taken = Rc::new(Cell::new(None));
            let (other, told) = (engine.clone(), Rc::clone(&taken));
            let runtime = sim.runtime();
            let pause = runtime.sleep(Duration::from_micros(10 * delay));
            runtime.spawn(Box::pin(async move {
                pause.await;
                told.set(Some(other.snapshot(&[snap_name("web@late")]).await.is_ok()));
            }));
            let options = DeleteOptions { recursive, dry_run: false };
            let names = ["other@gone", "web"].map(version);
            let deleted = engine.delete(&names, options).await;
            while taken.get().is_none() {
                runtime.sleep(Duration::from_micros(100)).await;
            }
            engine.drain_reclaim().await.unwrap();
            assert_clean(&engine).await;
            (taken.get().unwrap(), deleted)
        });
        let what = match (snapshot, delete) {
            (true, Ok(report)) => {
                assert!(recursive, "a snapshot went without -r, {delay}");
                assert_eq!(report.deleted, ["other@gone", "web@late", "web"], "after {delay}");
                "went along"
            }
            (true, Err(EngineError::HasSnapshots { .. })) => "forbade it",
            (false, Ok(report)) => {
                // It may have been taken, and be gone before anybody could be told.
                let expected = ["other@gone", "web@late", "web"];
                let went = report.deleted == expected;
                assert!(went && recursive || report.deleted == ["other@gone", "web"], "{report:?}");
                "came too late"
            }
            (snapshot, delete) => panic!("after {delay}: {snapshot}, {delete:?}"),
        };
        *outcomes.entry(what).or_insert(0) += 1;
    }
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
}

#[test]
fn a_delete_of_several_is_all_or_nothing_wherever_it_is_cut_off() {
    for kind in [CrashKind::Kill, CrashKind::PowerCut] {
        let mut outcomes = [0, 0];
        for events in 1.. {
            let sim = Sim::new(events);
            let (engine, before) = sim.run(async {
                let engine = family(&sim).await;
                let before = names(&engine).await;
                (engine, before)
            });
            sim.stop_after(events);
            let done = sim.run_until_stop(delete_family(&engine)).is_ok();
            sim.never_stop();
            drop(engine);
            let device: Arc<dyn Device> = sim.open_device(sim.crash(kind));
            sim.run(async {
                let engine = open(&sim, device).await;
                let after = names(&engine).await;
                let gone = after == ["other", "other@kept"];
                assert!(gone || after == before, "cut off after {events} events: {after:?}");
                assert!(gone || !done, "an answered delete is undone");
                outcomes[usize::from(gone)] += 1;
                engine.drain_reclaim().await.unwrap();
                assert_clean(&engine).await;
            });
            if done {
                break;
            }
        }
        assert!(outcomes.iter().all(|count| *count > 0), "{kind:?}: {outcomes:?}");
    }
}

#[test]
fn what_is_too_much_for_one_commit_is_refused_whole_and_a_disk_never_is() {
    let sim = Sim::new(8);
    sim.run(async {
        let (engine, _) = new_store(&sim).await;
        let mut made = Vec::new();
        loop {
            let first = made.len();
            let more: Vec<_> =
                (0..5).map(|n| snap_name(&format!("web@{:060}", first + n))).collect();
            match engine.snapshot(&more).await {
                Ok(_) => made.extend(more),
                Err(error) if error.is_no_space() => break,
                Err(error) => panic!("{error}"),
            }
        }
        let all: Vec<VersionName> = made.into_iter().map(Into::into).collect();
        let before = names(&engine).await;
        let refused = engine.delete(&all, DeleteOptions::default()).await;
        assert!(matches!(refused, Err(EngineError::TooMuchAtOnce)), "of {}", all.len());
        assert_eq!(names(&engine).await, before);
        engine.delete(&all[..20], DeleteOptions::default()).await.unwrap();
        let report = engine.delete(&[version("web")], RECURSIVE).await.unwrap();
        assert_eq!(report.deleted.len(), all.len() - 20 + 1);
        engine.drain_reclaim().await.unwrap();
        assert_eq!(engine.status().await.unwrap().snapshot_count, 0);
        assert_clean(&engine).await;
    });
}

#[test]
fn deleting_a_disk_whose_snapshots_have_no_tree_yet_keeps_every_count_right() {
    let sim = Sim::new(9);
    sim.run(async {
        let (engine, disk) = new_store(&sim).await;
        let before = engine.status().await.unwrap().used_bytes;
        fill(&disk, 0, 65536, 1).await;
        engine.snapshot(&[snap_name("web@one")]).await.unwrap();
        fill(&disk, 0, 16384, 2).await;
        // Has everything so far merged: the head has a tree of its own.
        engine.resize(&disk_name("web"), 16 * MIB, false).await.unwrap();
        engine.snapshot(&[snap_name("web@two")]).await.unwrap();
        fill(&disk, 0, 4096, 3).await;
        engine.snapshot(&[snap_name("web@three")]).await.unwrap();
        engine.delete(&[version("web")], RECURSIVE).await.unwrap();
        assert_clean(&engine).await;
        engine.drain_reclaim().await.unwrap();
        assert_clean(&engine).await;
        assert_eq!(engine.status().await.unwrap().used_bytes, before);
        engine.close().await.unwrap();
    });
}
