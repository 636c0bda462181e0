//! Rows that are whole and say what is not so: what they lead to is refused by name, and `check`
//! says which.

use std::sync::Arc;

use bough_blockstore::Device;
use bough_blockstore::sim::{Sim, SimImage};
use bough_damage::{Layout, rewrite_row};
use bough_radix::{Engine, EngineError, Severity};

use crate::kit::{disk_name, open, snapshot_name, store};

/// The store with one row's key and value changed.
fn forge(key: &[u8], change: impl FnOnce(&mut [u8])) -> SimImage {
    let mut image = store();
    let layout = Layout::read(&image);
    rewrite_row(&mut image, &layout, key, change);
    image
}

fn with<T>(image: SimImage, ask: impl AsyncFnOnce(&Engine) -> T) -> T {
    let sim = Sim::new(3);
    let device: Arc<dyn Device> = sim.open_device(image);
    sim.run(async { ask(&open(&sim, device).await.unwrap()).await })
}

fn assert_refused<T>(done: Result<T, EngineError>, what: &str) {
    let Err(error) = done else { panic!("not refused: {what}") };
    assert!(error.to_string().contains(what), "{error}");
}

/// Whether `check` says this of `version`.
async fn is_told(engine: &Engine, version: &str, what: &str) -> bool {
    let findings = engine.check().await.unwrap().findings;
    findings.iter().any(|finding| {
        finding.severity == Severity::Corruption
            && finding.version.as_deref() == Some(version)
            && finding.message == what
    })
}

#[test]
fn a_name_that_leads_to_another_disk_is_refused_and_a_group_of_both_does_not_wait_for_itself() {
    let web = Layout::read(&store()).rows.version("web").disk;
    let key = b"Ndb";
    let image = forge(key, |row| {
        row[key.len() + 1..].copy_from_slice(&u64::from(web).to_le_bytes());
    });
    with(image, async |engine| {
        let group = [snapshot_name("web@late"), snapshot_name("db@late")];
        assert_refused(engine.snapshot(&group).await, "the name 'db' leads to something else");
        assert_refused(engine.list().await, "the name 'db' leads to something else");
        assert!(engine.disk(&disk_name("web")).await.is_ok());
        assert!(is_told(engine, "db", "is not found by its name").await);
    });
}

#[test]
fn a_label_that_leads_to_another_snapshot_is_refused() {
    let layout = Layout::read(&store());
    let (web, head) = (layout.rows.version("web").disk, layout.rows.version("web").id);
    let key = [b"S".as_slice(), &web.to_be_bytes(), b"one"].concat();
    let image = forge(&key, |row| row[key.len() + 1..].copy_from_slice(&head.to_le_bytes()));
    with(image, async |engine| {
        let read = engine.reader(&"web@one".parse().unwrap()).await;
        assert_refused(read, "the name 'one' leads to something else");
        assert!(is_told(engine, "web@one", "is not found by its name").await);
    });
}

#[test]
fn a_head_that_is_another_disks_is_refused() {
    let layout = Layout::read(&store());
    let (web, db) = (layout.rows.version("web"), layout.rows.version("db"));
    let key = [b"D".as_slice(), &db.disk.to_be_bytes()].concat();
    // After the row's version and number come the name and the identity.
    let at = key.len() + 1 + 4 + (1 + "db".len()) + 16;
    let image = forge(&key, |row| {
        assert_eq!(row[at..at + 8], db.id.to_le_bytes());
        row[at..at + 8].copy_from_slice(&web.id.to_le_bytes());
    });
    with(image, async |engine| {
        let what = format!("the head of disk {}", db.disk);
        assert_refused(engine.disk(&disk_name("db")).await, &what);
        assert!(engine.disk(&disk_name("web")).await.is_ok());
        assert!(is_told(engine, "db", "has a head that is not its own").await);
    });
}

#[test]
fn a_row_with_the_number_of_another_is_refused() {
    let layout = Layout::read(&store());
    let (web, db) = (layout.rows.version("web"), layout.rows.version("db"));
    let key = db.key();
    let image = forge(&key, |row| {
        row[key.len() + 1..][..8].copy_from_slice(&web.id.to_le_bytes());
    });
    with(image, async |engine| {
        let what = "a version row of the catalogue is where another should be";
        assert_refused(engine.disk(&disk_name("db")).await, what);
        assert!(engine.disk(&disk_name("web")).await.is_ok());
    });
}
