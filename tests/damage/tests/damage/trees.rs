//! Damage to disks' trees and data: one version's loss, and only where it is damaged.

use std::collections::BTreeSet;

use bough_damage::{Layout, Medium, Tree, repoint, rot};
use bough_radix::Severity;

use crate::kit::{VERSIONS, findings, look, store};

/// Which blocks of which versions lie at or below a block of the store.
pub fn below(image: &impl Medium, layout: &Layout, addr: u64) -> BTreeSet<(&'static str, u64)> {
    let mut found = BTreeSet::new();
    for name in VERSIONS {
        let tree: Tree = layout.tree(image, name);
        for (position, pointer) in &tree.blocks {
            if pointer.addr == addr {
                let shift = 8 * u32::from(position.level);
                let span = position.index << shift..(position.index + 1) << shift;
                found.extend(span.filter(|block| *block < 512).map(|block| (name, block)));
            }
        }
    }
    found
}

/// The version that a block belongs to alone: the oldest that has it.
pub fn owner(image: &impl Medium, layout: &Layout, addr: u64) -> &'static str {
    let has = |name: &&&str| layout.tree(image, name).blocks.values().any(|p| p.addr == addr);
    ["db", "web@one", "web", "copy"].iter().find(has).expect("somebody has it")
}

#[test]
fn a_damaged_data_block_is_an_error_where_it_is_read_and_found_by_scrub() {
    let whole = store();
    let layout = Layout::read(&whole);
    let blocks: BTreeSet<u64> = VERSIONS
        .iter()
        .flat_map(|name| layout.tree(&whole, name).data().map(|(_, p)| p.addr).collect::<Vec<_>>())
        .collect();
    for addr in blocks.into_iter().step_by(7) {
        let mut image = whole.clone();
        rot(&mut image, addr);
        let owner = owner(&whole, &layout, addr);
        let seen = look(image).unwrap();
        assert_eq!(findings(&seen.scrub), [(Severity::Corruption, Some(owner), Some(addr))]);
        assert!(seen.check.findings.is_empty(), "check reads no data");
        seen.assert_unreadable(below(&whole, &layout, addr));
    }
}

#[test]
fn a_damaged_node_takes_what_is_below_it_and_no_more() {
    let whole = store();
    let layout = Layout::read(&whole);
    let nodes: BTreeSet<u64> = VERSIONS
        .iter()
        .flat_map(|name| layout.tree(&whole, name).nodes().map(|(_, p)| p.addr).collect::<Vec<_>>())
        .collect();
    assert!(nodes.len() > 6, "{nodes:?}");
    for addr in nodes {
        let mut image = whole.clone();
        rot(&mut image, addr);
        let owner = owner(&whole, &layout, addr);
        let seen = look(image).unwrap();
        assert_eq!(findings(&seen.scrub), [(Severity::Corruption, Some(owner), Some(addr))]);
        let found = findings(&seen.check);
        assert_eq!(found[0], (Severity::Corruption, Some(owner), Some(addr)), "{found:?}");
        // What hangs below it cannot be counted, and is no leak that anybody may repair.
        assert!(found[1..].iter().all(|f| f.0 == Severity::Leak), "{found:?}");
        seen.assert_unreadable(below(&whole, &layout, addr));
    }
}

#[test]
fn a_lost_write_shows_as_damage_and_not_as_the_old_bytes() {
    let whole = store();
    let layout = Layout::read(&whole);
    let (block, new) = layout.tree(&whole, "web").data().find(|(block, _)| *block == 255).unwrap();
    let old = layout.tree(&whole, "web@one").data().find(|(at, _)| *at == block).unwrap().1;
    let mut image = whole.clone();
    // The head's write never reached the medium, which held the block's former contents there.
    let stale = Medium::read(&image, old.addr);
    Medium::write(&mut image, new.addr, &stale);
    let seen = look(image).unwrap();
    assert_eq!(findings(&seen.scrub), [(Severity::Corruption, Some("web"), Some(new.addr))]);
    seen.assert_unreadable([("web", 255)]);
}

#[test]
fn a_misdirected_write_shows_at_both_places() {
    let whole = store();
    let layout = Layout::read(&whole);
    let victim = layout.tree(&whole, "db").data().find(|(block, _)| *block == 110).unwrap().1;
    let meant = layout.tree(&whole, "copy").data().find(|(block, _)| *block == 2).unwrap().1;
    let mut image = whole.clone();
    let bytes = Medium::read(&image, meant.addr);
    Medium::write(&mut image, victim.addr, &bytes);
    Medium::write(&mut image, meant.addr, &[0; 4096]);
    let seen = look(image).unwrap();
    let mut found = findings(&seen.scrub);
    found.sort_by_key(|finding| finding.1);
    let corrupt = |version, addr| (Severity::Corruption, Some(version), Some(addr));
    assert_eq!(found, [corrupt("copy", meant.addr), corrupt("db", victim.addr)]);
    seen.assert_unreadable([("copy", 2), ("db", 110)]);
}

#[test]
fn a_node_of_the_right_kind_in_the_wrong_place_is_no_node() {
    let whole = store();
    let layout = Layout::read(&whole);
    let leaves: Vec<_> =
        layout.tree(&whole, "web").nodes().filter(|(position, _)| position.level == 1).collect();
    let mut image = whole.clone();
    let other = Medium::read(&image, leaves[0].1.addr);
    Medium::write(&mut image, leaves[1].1.addr, &other);
    let seen = look(image).unwrap();
    assert_eq!(findings(&seen.check)[0].2, Some(leaves[1].1.addr));
    seen.assert_unreadable(below(&whole, &layout, leaves[1].1.addr));
}

#[test]
fn a_block_that_two_disks_claim_is_corruption_named_by_version() {
    let mut image = store();
    let layout = Layout::read(&image);
    let tree = layout.tree(&image, "db");
    let (mine, other) = {
        let mut data = tree.data();
        (data.next().unwrap(), data.next().unwrap())
    };
    // Two blocks of `db` that are one: its own bytes are right by checksum, and used twice.
    repoint(&mut image, &layout, "db", mine.0, other.1);
    let seen_check = check_only(image);
    let found = findings(&seen_check);
    assert!(found.contains(&(Severity::Corruption, Some("db"), Some(other.1.addr))), "{found:?}");
    assert!(found.contains(&(Severity::Leak, None, Some(mine.1.addr))), "{found:?}");
    assert_eq!(found.len(), 2);
}

/// Where a forged pointer makes the bytes wrong on purpose.
fn check_only(image: bough_blockstore::sim::SimImage) -> bough_radix::CheckReport {
    use bough_blockstore::sim::Sim;
    let sim = Sim::new(3);
    let device = sim.open_device(image);
    sim.run(async {
        let engine = crate::kit::open(&sim, device).await.unwrap();
        engine.check().await.unwrap()
    })
}
