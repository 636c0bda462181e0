//! `bough repair` on a store whose file was damaged.

mod rig;

use std::os::unix::fs::FileExt;

use rig::Rig;

const BLOCK: usize = 4096;
const BLOCKS: u8 = 64;

/// A store with one disk, each of whose blocks is filled with its number, from 1.
fn store() -> Rig {
    let rig = Rig::new();
    let image: Vec<u8> = (1..=BLOCKS).flat_map(|number| [number; BLOCK]).collect();
    std::fs::write(rig.path("disk.raw"), image).unwrap();
    rig.ok(&["import", &rig.text("disk.raw"), "web"]);
    rig
}

/// Changes a byte of the store's file.
fn damage(rig: &Rig, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(rig.path("store/blocks"));
    let (file, mut byte) = (file.unwrap(), [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Where the disk's block of this number lies.
fn find(rig: &Rig, number: u8) -> u64 {
    let store = std::fs::read(rig.path("store/blocks")).unwrap();
    let is_it = |block: &[u8]| block.iter().all(|byte| *byte == number);
    u64::try_from(store.chunks(BLOCK).position(is_it).unwrap() * BLOCK).unwrap()
}

#[test]
fn a_served_store_is_not_repaired() {
    let mut rig = store();
    rig.serve();
    for args in [&["repair"][..], &["repair", "-n"], &["repair", "--salvage", "web", "rest"]] {
        let refused = rig.fails(args);
        assert!(refused.contains("stop its server"), "{refused}");
    }
}

#[test]
fn a_damaged_superblock_is_written_again_and_told_of() {
    let rig = store();
    assert_eq!(rig.ok(&["repair"]).lines().next(), Some("mended 0"));
    damage(&rig, 100);
    let report = rig.json(&["repair"]);
    assert_eq!(report["mended"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["left"]["findings"].as_array().unwrap().len(), 0, "{report}");
    assert_eq!(rig.json(&["repair", "-n"])["mended"].as_array().unwrap().len(), 0);
    rig.ok(&["check"]);
}

#[test]
fn what_is_left_of_a_damaged_disk_is_salvaged_and_the_rest_listed() {
    let rig = store();
    for number in [7, 8, 30] {
        damage(&rig, find(&rig, number) + 17);
    }
    let done = rig.bough(&["--json", "repair", "--salvage", "web", "rest"]);
    assert_eq!(done.code, 2, "{done:?}");
    let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let lost: Vec<(u64, u64)> = report["lost"]
        .as_array()
        .unwrap()
        .iter()
        .map(|range| (range["start_bytes"].as_u64(), range["length_bytes"].as_u64()))
        .map(|(start, length)| (start.unwrap(), length.unwrap()))
        .collect();
    assert_eq!(lost, [(6 * 4096, 2 * 4096), (29 * 4096, 4096)]);
    assert_eq!(report["lost_bytes"], 3 * 4096);
    assert_eq!(report["data_bytes"], 61 * 4096);
    // The clone is without fault; reading what was lost is an error.
    rig.ok(&["check"]);
    let told = rig.json(&["check"]);
    assert_eq!(told["lost_blocks"], 3, "{told}");
    let refused = rig.fails(&["export", "rest", &rig.text("rest.raw")]);
    assert!(refused.contains("lost"), "{refused}");
    assert!(rig.fails(&["repair", "--salvage", "web", "rest"]).contains("exists"));
}
