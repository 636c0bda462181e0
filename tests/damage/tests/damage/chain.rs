//! Damage to the chain of a disk whose server was killed.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bough_blockstore::sim::{CrashKind, Sim, SimImage};
use bough_blockstore::{BlockAddr, BlockCount};
use bough_damage::{Medium, rot};
use bough_radix::{BrokenRule, Engine, EngineConfig, ErrorKind, Severity};

use crate::kit::{VERSIONS, expected, fill, findings, look, look_with, open, snapshot_name};

const NEVER: std::time::Duration = std::time::Duration::from_secs(1 << 20);

/// The store of the other tests, killed instead of closed.
pub fn killed() -> SimImage {
    let sim = Sim::new(21);
    let device: std::sync::Arc<dyn bough_blockstore::Device> = sim.create_device(BlockCount(4096));
    sim.run(async {
        Engine::format(device.clone(), sim.runtime()).await.unwrap();
        let config = EngineConfig { checkpoint_every: NEVER, ..EngineConfig::default() };
        let engine = Engine::open(device, sim.runtime(), config).await.unwrap();
        fill(&engine).await.unwrap();
    });
    sim.crash(CrashKind::Kill)
}

/// Every record header in a store, as `(nonce, sequence, block)`.
pub fn headers(image: &impl Medium) -> Vec<([u8; 16], u64, u64)> {
    let mut found = Vec::new();
    for at in 0..image.block_count() {
        let block = image.read(at);
        let own = u64::from_le_bytes(block[40..48].try_into().unwrap());
        let crc = crc32fast::hash(&block[..4092]).to_le_bytes();
        if &block[..4] == b"BchR" && own == at && block[4092..] == crc {
            let sequence = u64::from_le_bytes(block[24..32].try_into().unwrap());
            found.push((block[8..24].try_into().unwrap(), sequence, at));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn a_killed_server_leaves_nothing_to_find() {
    look(killed()).unwrap().assert_clean();
}

#[test]
fn a_lost_header_of_a_synced_record_stops_its_disk_and_no_other() {
    let whole = killed();
    let all = headers(&whole);
    let mut stopped = 0;
    for (nonce, sequence, at) in &all {
        let last = all.iter().filter(|h| h.0 == *nonce).map(|h| h.1).max().unwrap();
        if *sequence + 2 > last || *at < 258 {
            continue;
        }
        let mut image = whole.clone();
        rot(&mut image, *at);
        let seen = look(image).unwrap();
        if seen.unreadable.is_empty() {
            // Already merged: the chain's start has gone past it.
            seen.assert_clean();
            continue;
        }
        stopped += 1;
        let dead: Vec<&str> = VERSIONS
            .into_iter()
            .filter(|name| seen.unreadable.contains_key(&((*name).to_owned(), 0)))
            .collect();
        assert!(
            seen.unreadable.values().all(|k| matches!(k, ErrorKind::Faulted | ErrorKind::Corrupt))
        );
        let disks: std::collections::BTreeSet<&str> =
            dead.iter().map(|name| name.split('@').next().unwrap()).collect();
        assert_eq!(disks.len(), 1, "{dead:?} stopped by one header");
        let found = findings(&seen.check);
        let named = (Severity::Corruption, Some(*disks.first().unwrap()), Some(*at));
        assert!(found.contains(&named), "{found:?} does not tell of {named:?}");
    }
    assert!(stopped > 5, "only {stopped} headers mattered");
}

/// Two disks with something in their logs, and a snapshot of both as the last thing that happened.
fn killed_after_a_group_snapshot() -> SimImage {
    let sim = Sim::new(22);
    let device: std::sync::Arc<dyn bough_blockstore::Device> = sim.create_device(BlockCount(4096));
    sim.run(async {
        Engine::format(device.clone(), sim.runtime()).await.unwrap();
        let config = EngineConfig { checkpoint_every: NEVER, ..EngineConfig::default() };
        let engine = Engine::open(device, sim.runtime(), config).await.unwrap();
        fill(&engine).await.unwrap();
        engine.snapshot(&["db@both", "copy@both"].map(snapshot_name)).await.unwrap();
    });
    sim.crash(CrashKind::Kill)
}

#[test]
fn damage_in_a_log_takes_no_snapshot_away_that_was_answered() {
    let whole = killed_after_a_group_snapshot();
    let mut stopped = std::collections::BTreeSet::new();
    for (_, _, at) in synced_headers(&whole) {
        let mut image = whole.clone();
        rot(&mut image, at);
        let sim = Sim::new(23);
        let device = sim.open_device(image);
        let faults = sim.run(async {
            let engine = open(&sim, device).await.unwrap();
            let mut faults = Vec::new();
            for disk in ["db", "copy"] {
                let detail = engine.show(&disk.parse().unwrap()).await.unwrap();
                let found = detail.snapshots.iter().any(|s| s.name == format!("{disk}@both"));
                assert!(found, "{disk}@both is gone with block {at}");
                faults.extend(detail.disk.fault.map(|_| disk));
            }
            for disk in ["db", "copy"].into_iter().filter(|disk| !faults.contains(disk)) {
                let snapshot = format!("{disk}@both").parse().unwrap();
                let reader = engine.reader(&snapshot).await.unwrap();
                for block in [3, 101] {
                    let mut bytes = vec![0; 4096];
                    reader.read(block * 4096, &mut bytes).await.unwrap();
                    assert_eq!(bytes, [expected(disk, block); 4096]);
                }
            }
            faults
        });
        assert!(faults.len() <= 1, "{faults:?} for one block");
        stopped.extend(faults);
    }
    assert_eq!(stopped.into_iter().collect::<Vec<_>>(), ["copy", "db"]);
}

/// The first data block that a record header names: place on the disk, block of the store.
fn first_data(header: &[u8; 4096]) -> Option<(u64, u64)> {
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
    let (low, high) = (word(96), word(104));
    (low & 0xff == 1)
        .then_some(((low >> 8) & ((1 << 44) - 1), low >> 52 | (high & 0xffff_ffff) << 12))
}

#[test]
fn data_for_a_block_that_the_disk_has_not_stops_its_disk_and_no_other() {
    let mut image = killed();
    // `db` wrote its blocks in order: its last record is the one with its last block.
    let of_last =
        |at: &u64| first_data(&image.read(BlockAddr::of(*at))).is_some_and(|d| d.0 == 129);
    let at = headers(&image).into_iter().map(|header| header.2).find(of_last).unwrap();
    image.damage(BlockAddr::of(at), |header| {
        // Block 129 becomes block 129 + 2^16: bits 8 to 51 are the block's.
        header[96 + 3] = 1;
        let crc = crc32fast::hash(&header[..4092]);
        header[4092..].copy_from_slice(&crc.to_le_bytes());
    });
    let seen = look(image).unwrap();
    assert!(seen.unreadable.keys().all(|(version, _)| version == "db"), "{:?}", seen.unreadable);
    assert!(seen.unreadable.values().all(|kind| *kind == ErrorKind::Faulted));
    assert_eq!(seen.unreadable.len(), 512);
    assert_eq!(findings(&seen.check)[0], (Severity::Corruption, Some("db"), Some(at)));
    let message = &seen.check.findings[0].message;
    assert!(message.contains("data for block 65665, beyond the disk's end"), "{message}");
}

#[test]
fn damaged_data_of_a_synced_record_is_an_error_when_read_and_not_the_end_of_the_chain() {
    let whole = killed();
    let mut met = 0;
    for (_, sequence, at) in headers(&whole).into_iter().filter(|header| header.2 >= 258) {
        let Some((block, addr)) = first_data(&whole.read(BlockAddr::of(at))) else { continue };
        // `db` writes its blocks in order, from 100 on; its last one is known to nobody as synced.
        if !(100..129).contains(&block) || sequence > 28 {
            continue;
        }
        let mut image = whole.clone();
        rot(&mut image, addr);
        let seen = look(image).unwrap();
        seen.assert_unreadable([("db", block)]);
        assert_eq!(findings(&seen.scrub), [(Severity::Corruption, Some("db"), Some(addr))]);
        met += 1;
    }
    assert!(met > 20, "{met} blocks");
}

/// Headers of disks' records that a later one says were synced, as [`headers`] gives them.
fn synced_headers(image: &impl Medium) -> Vec<([u8; 16], u64, u64)> {
    let all = headers(image);
    let last = |nonce| all.iter().filter(|header| header.0 == nonce).map(|header| header.1).max();
    let is_synced = |header: &&([u8; 16], u64, u64)| {
        header.2 >= 258 && last(header.0).is_some_and(|last| header.1 + 2 <= last)
    };
    all.iter().filter(is_synced).copied().collect()
}

/// How many rotten blocks it takes until an engine that breaks `rule` gives out other bytes than
/// were written.
fn assert_caught(what: &str, rule: BrokenRule, rotten: impl IntoIterator<Item = u64>) {
    let whole = killed();
    let caught = |at: u64| {
        let mut image = whole.clone();
        rot(&mut image, at);
        let config = EngineConfig { broken_rule: rule, ..EngineConfig::default() };
        catch_unwind(AssertUnwindSafe(|| look_with(image, config))).is_err()
    };
    let first = rotten.into_iter().position(caught);
    let cases = first.unwrap_or_else(|| panic!("{what}: never caught")) + 1;
    // Past what the harness keeps to itself of tests that pass.
    let _ = writeln!(std::io::stderr(), "{what}: caught after {cases} rotten blocks");
}

#[test]
fn a_replay_that_takes_rot_for_the_end_is_caught() {
    let rotten = synced_headers(&killed()).into_iter().map(|header| header.2);
    assert_caught("rot taken for the end of a chain", BrokenRule::RotEndsReplay, rotten);
}

#[test]
fn reads_that_verify_no_checksum_are_caught() {
    let whole = killed();
    let rotten: Vec<u64> = synced_headers(&whole)
        .into_iter()
        .filter_map(|header| first_data(&whole.read(BlockAddr::of(header.2))))
        .map(|(_, addr)| addr)
        .collect();
    assert_caught("a checksum not verified", BrokenRule::UnverifiedReads, rotten);
}
