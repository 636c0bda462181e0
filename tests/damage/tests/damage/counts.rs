//! Numbers that commits keep, forged: `check` names whose they are, and what it found instead.
//!
//! A number too high is a leak, one too low is corruption.

use bough_blockstore::sim::{Sim, SimImage};
use bough_damage::{Layout, rewrite_catalogue_page, rewrite_row};
use bough_radix::{DeleteOptions, ErrorKind, Finding, ScrubOptions, Severity};

use crate::kit::{open, store};

/// Where page 0 has its fields, and how large each is.
const META_AT: usize = 16;
const FIELD_BYTES: usize = 8;
/// Where a head's row, with its key, has its epoch: after the key, version, number, disk, and the
/// flags of a snapshot and of a label.
const HEAD_EPOCH_AT: usize = 9 + 1 + 8 + 4 + 1 + 1;
const RECURSIVE: DeleteOptions = DeleteOptions { recursive: true, dry_run: false };

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
pub fn forge_version(name: &str, from_end: usize, by: i64) -> SimImage {
    let mut image = store();
    let layout = Layout::read(&image);
    rewrite_row(&mut image, &layout, &layout.rows.version(name).key(), |row| {
        let at = row.len() - from_end * FIELD_BYTES;
        add(&mut row[at..at + FIELD_BYTES], by);
    });
    image
}

/// Page 0 with one field changed.
pub fn forge_store(field: usize, by: i64) -> SimImage {
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

/// The head of `db` moved to another epoch, in its disk's list and in its row.
fn forge_epoch(epoch: u64) -> SimImage {
    let mut image = store();
    let layout = Layout::read(&image);
    let version = layout.rows.version("db");
    rewrite_row(&mut image, &layout, &version.timeline_key(), |row| {
        row[5..13].copy_from_slice(&epoch.to_be_bytes());
    });
    let layout = Layout::read(&image);
    rewrite_row(&mut image, &layout, &version.key(), |row| {
        row[HEAD_EPOCH_AT..][..8].copy_from_slice(&epoch.to_le_bytes());
    });
    image
}

#[test]
fn an_epoch_beyond_those_leased_is_corruption() {
    assert_given_twice(&check(forge_epoch(1 << 40)), "epochs: ");
}

#[test]
fn the_highest_epoch_of_all_is_refused_after_which_none_could_come() {
    let sim = Sim::new(3);
    let device = sim.open_device(forge_epoch(bough_blockstore::MAX_44));
    sim.run(async {
        let engine = open(&sim, device).await.unwrap();
        let db = "db".parse().unwrap();
        assert_eq!(engine.show(&db).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(engine.delete(&[db], RECURSIVE).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(engine.show(&"web".parse().unwrap()).await.is_ok());
    });
}

#[test]
fn a_store_with_no_epochs_left_is_refused() {
    let end = i64::try_from(Layout::read(&store()).rows.meta[8]).unwrap();
    let most = i64::try_from(bough_blockstore::MAX_44).unwrap();
    let sim = Sim::new(3);
    let device = sim.open_device(forge_store(8, most - end));
    let refused = sim.run(open(&sim, device)).err().expect("none can be leased");
    assert!(refused.to_string().contains("no more numbers"), "{refused}");
}

#[test]
fn versions_that_began_from_each_other_are_told_of_and_nothing_goes_round_for_ever() {
    let whole = store();
    let layout = Layout::read(&whole);
    let (head, snapshot) = (layout.rows.version("web"), layout.rows.version("web@one"));
    assert_eq!(head.parent, Some(snapshot.id));
    // The head itself; and a version cloned from what began from it.
    for parent in [head.id, layout.rows.version("copy").id] {
        let mut image = whole.clone();
        rewrite_row(&mut image, &layout, &head.key(), |row| {
            let at = HEAD_EPOCH_AT + 8 + 1;
            row[at..at + 8].copy_from_slice(&parent.to_le_bytes());
        });
        let found = check(image.clone());
        let is_told = |finding: &Finding| finding.severity == Severity::Corruption;
        assert!(found.iter().any(is_told), "{found:?}");
        let sim = Sim::new(3);
        let device = sim.open_device(image);
        sim.run(async {
            let engine = open(&sim, device).await.unwrap();
            engine.tree().await.unwrap();
            drop(engine.scrub(ScrubOptions::default(), &mut |_| {}).await);
            drop(engine.delete(&["web".parse().unwrap()], RECURSIVE).await);
            drop(engine.drain_reclaim().await);
        });
    }
}

#[test]
fn a_count_of_more_blocks_than_there_can_be_is_refused() {
    for field in [2, 3] {
        let sim = Sim::new(3);
        let device = sim.open_device(forge_version("db", field, 1 << 50));
        sim.run(async {
            let engine = open(&sim, device).await.unwrap();
            let refused = engine.show(&"db".parse().unwrap()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
            assert!(engine.show(&"web".parse().unwrap()).await.is_ok());
        });
    }
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
