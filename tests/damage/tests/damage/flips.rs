//! A bit flipped in each byte of everything that is not data, and in data here and there.
//!
//! Sampled, by a seed; `BOUGH_FLIPS=20` takes more of each block, `BOUGH_FLIPS=all` every byte.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use bough_blockstore::BlockAddr;
use bough_blockstore::sim::{Sim, SimImage, SimRng};
use bough_damage::Layout;
use bough_radix::{ErrorKind, Severity};

use crate::chain::{headers, killed};
use crate::kit::{Seen, VERSIONS, findings, look, store};
use crate::trees::{below, owner};

/// Bytes taken of each block.
const SAMPLED: u64 = 6;

/// Which bits of a block to flip: byte, bit.
fn flips(rng: &mut SimRng) -> Vec<(usize, u8)> {
    let asked = std::env::var("BOUGH_FLIPS").ok();
    let bytes: BTreeSet<usize> = if asked.as_deref() == Some("all") {
        (0..4096).collect()
    } else {
        let count = asked.map_or(SAMPLED, |count| count.parse().expect("a number, or all"));
        (0..count).map(|_| usize::try_from(rng.below(4096)).unwrap()).collect()
    };
    let bit = |rng: &mut SimRng| u8::try_from(rng.below(8)).unwrap();
    bytes.into_iter().map(|byte| (byte, bit(rng))).collect()
}

/// Flips bits of block `at`, each alone, and judges what is seen then. How many there were.
fn flip_each(whole: &SimImage, at: u64, rng: &mut SimRng, judge: impl Fn(Seen, &str)) -> u64 {
    let all = flips(rng);
    for (byte, bit) in &all {
        let mut image = whole.clone();
        image.damage(BlockAddr::of(at), |block| block[*byte] ^= 1 << bit);
        let what = format!("bit {bit} of byte {byte} of block {at}");
        let seen = look(image).unwrap_or_else(|error| panic!("{what}: {error}"));
        judge(seen, &what);
    }
    u64::try_from(all.len()).unwrap()
}

/// Past what the harness keeps to itself of tests that pass.
fn say(flipped: u64, what: &str) {
    let _ = writeln!(std::io::stderr(), "{flipped} bits flipped in {what}");
}

#[test]
fn a_bit_of_anything_that_is_kept_twice_is_survived_and_found() {
    let whole = store();
    let layout = Layout::read(&whole);
    let catalogue = layout.catalogue.blocks.values().map(|pointer| pointer.addr);
    let copies = catalogue.flat_map(|addr| [addr, layout.mirror(addr)]);
    let mut rng = Sim::new(61).fork_rng();
    let mut flipped = 0;
    for at in [0, 1].into_iter().chain(copies) {
        flipped += flip_each(&whole, at, &mut rng, |seen, what| {
            assert!(seen.unreadable.is_empty() && seen.check.findings.is_empty(), "{what}");
            // An opening has written the superblocks again, and may have replaced other blocks.
            let found = findings(&seen.scrub);
            assert!(
                found.is_empty() || found == [(Severity::Corruption, None, Some(at))],
                "{what}"
            );
        });
    }
    say(flipped, "superblocks and both copies of the catalogue: none missed, none did harm");
}

#[test]
fn a_bit_of_a_node_is_found_at_its_block_and_costs_what_is_below_it() {
    let whole = store();
    let layout = Layout::read(&whole);
    let nodes: BTreeSet<u64> = VERSIONS
        .iter()
        .flat_map(|name| layout.tree(&whole, name).nodes().map(|(_, p)| p.addr).collect::<Vec<_>>())
        .collect();
    let mut rng = Sim::new(62).fork_rng();
    let mut flipped = 0;
    for at in nodes {
        let (owner, lost) = (owner(&whole, &layout, at), below(&whole, &layout, at));
        flipped += flip_each(&whole, at, &mut rng, |seen, what| {
            let named = (Severity::Corruption, Some(owner), Some(at));
            assert_eq!(findings(&seen.scrub), [named], "{what}");
            let found = findings(&seen.check);
            assert_eq!(found[0], named, "{what}");
            assert!(found[1..].iter().all(|f| f.0 == Severity::Leak), "{what}: {found:?}");
            seen.assert_unreadable(lost.clone());
        });
    }
    say(flipped, "nodes: each found at its block, and nothing else lost than what is below it");
}

#[test]
fn a_bit_of_data_is_found_at_its_block_and_costs_that() {
    let whole = store();
    let layout = Layout::read(&whole);
    let data: BTreeMap<u64, u64> = VERSIONS
        .iter()
        .flat_map(|name| layout.tree(&whole, name).data().collect::<Vec<_>>())
        .map(|(block, pointer)| (pointer.addr, block))
        .collect();
    let mut rng = Sim::new(63).fork_rng();
    let mut flipped = 0;
    for at in data.into_keys().step_by(9) {
        let (owner, lost) = (owner(&whole, &layout, at), below(&whole, &layout, at));
        flipped += flip_each(&whole, at, &mut rng, |seen, what| {
            let named = (Severity::Corruption, Some(owner), Some(at));
            assert_eq!(findings(&seen.scrub), [named], "{what}");
            assert!(seen.check.findings.is_empty(), "{what}");
            seen.assert_unreadable(lost.clone());
        });
    }
    say(flipped, "data: each found at its block, and nothing else lost");
}

#[test]
fn a_bit_of_a_record_header_stops_its_disk_or_nothing() {
    let whole = killed();
    let mut rng = Sim::new(64).fork_rng();
    let all = headers(&whole);
    let last = |nonce| all.iter().filter(|h| h.0 == nonce).map(|h| h.1).max().unwrap();
    let (mut flipped, stopped) = (0, std::cell::Cell::new(0_u64));
    // Whatever a later one says was synced; the very last looks like a write that never came.
    let synced = all.iter().filter(|(nonce, sequence, _)| sequence + 2 <= last(*nonce));
    for (_, _, at) in synced.step_by(3) {
        flipped += flip_each(&whole, *at, &mut rng, |seen, what| {
            if seen.unreadable.is_empty() {
                return assert!(seen.check.findings.is_empty(), "{what}: {:?}", seen.check);
            }
            let is_known =
                |kind: &ErrorKind| matches!(kind, ErrorKind::Faulted | ErrorKind::Corrupt);
            assert!(seen.unreadable.values().all(is_known), "{what}");
            let disk_of = |name: &str| name.split('@').next().unwrap_or_default().to_owned();
            let dead: BTreeSet<String> =
                seen.unreadable.keys().map(|(name, _)| disk_of(name)).collect();
            assert_eq!(dead.len(), 1, "{what} stopped {dead:?}");
            let disk = dead.first().unwrap().as_str();
            let named = (Severity::Corruption, Some(disk), Some(*at));
            assert!(findings(&seen.check).contains(&named), "{what}: {:?}", seen.check);
            stopped.set(stopped.get() + 1);
        });
    }
    assert!(stopped.get() > 0);
    say(flipped, "headers of synced records: each stopped its disk, named, or was not needed");
}
