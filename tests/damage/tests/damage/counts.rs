//! Numbers that commits keep, forged: `check` names whose they are, and what it found instead.
//!
//! A number too high is a leak, one too low is corruption.

use bough_blockstore::sim::{Sim, SimImage};
use bough_damage::{Layout, rewrite_catalogue_page, rewrite_row};
use bough_radix::{Finding, Severity};

use crate::kit::{open, store};

/// Where page 0 has its fields, and how large each is.
const META_AT: usize = 16;
const FIELD_BYTES: usize = 8;

fn check(image: SimImage) -> Vec<Finding> {
    let sim = Sim::new(3);
    let device = sim.open_device(image);
    sim.run(async {
        let engine = open(&sim, device).await.unwrap();
        engine.check().await.unwrap().findings
    })
}

/// Adds to a little-endian number.
fn add(field: &mut [u8], by: i64) {
    let number = i64::from_le_bytes((&*field).try_into().unwrap()) + by;
    field.copy_from_slice(&number.to_le_bytes());
}

/// A version's row with one of the three numbers at its end changed.
fn forge_version(name: &str, from_end: usize, by: i64) -> SimImage {
    let mut image = store();
    let layout = Layout::read(&image);
    rewrite_row(&mut image, &layout, &layout.rows.version(name).key(), |row| {
        let at = row.len() - from_end * FIELD_BYTES;
        add(&mut row[at..at + FIELD_BYTES], by);
    });
    image
}

/// Page 0 with one field changed.
fn forge_store(field: usize, by: i64) -> SimImage {
    let mut image = store();
    let layout = Layout::read(&image);
    rewrite_catalogue_page(&mut image, &layout, 0, |page| {
        add(&mut page[META_AT + field * FIELD_BYTES..][..FIELD_BYTES], by);
    });
    image
}

/// Checks that exactly one number is found wrong, `kept` by `whose` row.
fn assert_told(findings: &[Finding], whose: Option<&str>, what: &str, kept: i64, found: i64) {
    let severity = if kept > found { Severity::Leak } else { Severity::Corruption };
    let message = format!("{what}: {kept} counted, {found} found");
    let version = whose.map(str::to_owned);
    assert_eq!(findings, [Finding { severity, version, block: None, message }]);
}

#[test]
fn a_wrong_count_of_blocks_referred_to_is_told_of_its_version_and_no_other() {
    // Two others began from it: what they refer to is counted from what it really refers to.
    for (name, found) in [("web@one", 40), ("web", 40), ("copy", 40), ("db", 30)] {
        for by in [-3, 1] {
            let findings = check(forge_version(name, 3, by));
            assert_told(&findings, Some(name), "blocks referred to", found + by, found);
        }
    }
}

#[test]
fn a_wrong_count_of_a_versions_own_blocks_is_told() {
    for (name, found) in [("web@one", 40), ("web", 10), ("copy", 5), ("db", 30)] {
        for by in [-3, 1] {
            let findings = check(forge_version(name, 2, by));
            assert_told(&findings, Some(name), "blocks of its own", found + by, found);
        }
    }
}

#[test]
fn a_wrong_count_of_what_began_from_a_version_is_told() {
    for by in [-1, 1] {
        let findings = check(forge_version("web@one", 1, by));
        assert_told(&findings, Some("web@one"), "versions that began from it", 2 + by, 2);
    }
}

#[test]
fn a_wrong_count_of_a_disks_snapshots_is_told() {
    for by in [-1, 1] {
        let mut image = store();
        let layout = Layout::read(&image);
        let disk = layout.rows.version("web").disk;
        let key = [b"D".as_slice(), &disk.to_be_bytes()].concat();
        rewrite_row(&mut image, &layout, &key, |row| {
            let at = row.len() - FIELD_BYTES;
            add(&mut row[at..], by);
        });
        assert_told(&check(image), Some("web"), "snapshots", 1 + by, 1);
    }
}

#[test]
fn wrong_sums_of_the_store_are_told() {
    let used = i64::try_from(Layout::read(&store()).rows.meta[9]).unwrap();
    let sums = [(9, "blocks used", used), (11, "disks", 3), (12, "snapshots", 1)];
    for (field, what, found) in sums {
        for by in [-1, 1] {
            assert_told(&check(forge_store(field, by)), None, what, found + by, found);
        }
    }
    assert_told(&check(forge_store(13, 1)), None, "versions being reclaimed", 1, 0);
}

/// What would be given out a second time.
fn assert_given_twice(findings: &[Finding], what: &str) {
    let [finding] = findings else { panic!("{findings:?}") };
    assert_eq!((finding.severity, &finding.version), (Severity::Corruption, &None));
    assert!(finding.message.starts_with(what), "{finding:?}");
}

#[test]
fn numbers_that_would_be_given_out_twice_are_corruption() {
    let fields =
        [(6, "numbers of disks: 3 is to come next, and 3 is"), (7, "numbers of versions: 4 is")];
    for (field, what) in fields {
        assert_given_twice(&check(forge_store(field, -1)), what);
    }
    let meta = Layout::read(&store()).rows.meta;
    let virgin = i64::try_from(meta[10]).unwrap();
    assert_given_twice(&check(forge_store(10, 300 - virgin)), "blocks never granted: 300 is");
}

#[test]
fn an_epoch_beyond_those_leased_is_corruption() {
    let mut image = store();
    let late = 1_u64 << 40;
    let layout = Layout::read(&image);
    let version = layout.rows.version("db");
    rewrite_row(&mut image, &layout, &version.timeline_key(), |row| {
        row[5..13].copy_from_slice(&late.to_be_bytes());
    });
    let layout = Layout::read(&image);
    let key = version.key();
    // A head's: after version, number, disk, and the flags of a snapshot and of a label.
    let at = key.len() + 1 + 8 + 4 + 1 + 1;
    rewrite_row(&mut image, &layout, &key, |row| {
        row[at..at + 8].copy_from_slice(&late.to_le_bytes());
    });
    assert_given_twice(&check(image), "epochs: ");
}

#[test]
fn a_version_that_its_disk_or_its_parent_does_not_list_is_corruption_and_keeps_its_blocks() {
    let whole = store();
    let layout = Layout::read(&whole);
    let copy = layout.rows.version("copy");
    let mut image = whole.clone();
    // Another epoch than the row says.
    rewrite_row(&mut image, &layout, &copy.timeline_key(), |row| row[12] ^= 0x40);
    let unlisted = check(image);
    let tells = |findings: &[Finding], what: &str| {
        findings.iter().any(|finding| {
            finding.severity == Severity::Corruption
                && finding.version.as_deref() == Some("copy")
                && finding.message.contains(what)
        })
    };
    assert!(tells(&unlisted, "its disk's list of versions"), "{unlisted:?}");
    assert!(unlisted.iter().all(|finding| finding.message != "marked used, and used by nobody"));
    let mut image = whole;
    // Another child than there is.
    rewrite_row(&mut image, &layout, &copy.child_key().unwrap(), |row| row[16] ^= 0x40);
    let orphaned = check(image);
    assert!(tells(&orphaned, "what began from its parent"), "{orphaned:?}");
}
