//! A store with no room left.

mod rig;

use rig::{Rig, write_noise};

#[test]
fn a_full_store_refuses_writes_keeps_what_it_has_and_recovers_by_deletes() {
    for served in [false, true] {
        let mut rig = Rig::bare();
        rig.ok(&["init", "--size", "64M"]);
        if served {
            rig.serve();
        }
        write_noise(&rig, "small", 10 << 20);
        write_noise(&rig, "large", 80 << 20);
        rig.ok(&["import", &rig.text("small"), "first"]);
        let error = rig.fails(&["import", &rig.text("large"), "second"]);
        assert!(error.contains("full"), "{error}");
        assert_eq!(rig.disks(), ["first"], "the import that failed left nothing");
        rig.ok(&["export", "first", &rig.text("out")]);
        assert!(rig::same_bytes(&rig.path("small"), &rig.path("out")));
        rig.ok(&["delete", "first"]);
        rig.ok(&["import", &rig.text("small"), "third"]);
        assert_eq!(rig.bough(&["check"]).code, 0);
    }
}

#[test]
fn deleting_gives_space_back_to_the_host() {
    let rig = Rig::new();
    write_noise(&rig, "noise", 64 << 20);
    rig.ok(&["import", &rig.text("noise"), "web"]);
    let kept = |rig: &Rig| {
        let done = rig.bough(&["--json", "status"]);
        let status: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        status["host_bytes"].as_u64().unwrap()
    };
    assert!(kept(&rig) > 64 << 20);
    rig.ok(&["delete", "web"]);
    assert!(kept(&rig) < 48 << 20, "{} bytes are still kept", kept(&rig));
}
