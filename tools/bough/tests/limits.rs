//! `bough set`: limits are remembered, and count for a running server at once.

mod rig;

use rig::Rig;

#[test]
fn limits_are_kept_shown_and_taken_away() {
    for served in [false, true] {
        let mut rig = Rig::in_mode(served);
        rig.ok(&["create", "web", "1G"]);
        assert!(rig.json(&["show", "web"])["disk"]["limits"].is_null());
        let set = rig.json(&["set", "web", "--iops", "500", "--bandwidth", "50M"]);
        let wanted = serde_json::json!(
            {"iops": 500, "bandwidth_bytes": 50 << 20, "burst_seconds": 1}
        );
        assert_eq!(set["limits"], wanted);
        rig.ok(&["set", "web", "--burst", "30"]);
        if served {
            rig.ok(&["attach", "web"]);
            rig.ok(&["set", "web", "--iops", "600"]);
            rig.kill();
            rig.serve();
            rig.ok(&["set", "web", "--iops", "500"]);
        }
        let shown = rig.ok(&["show", "web"]);
        assert!(
            shown.contains("limited to  500 operations and 50M a second, saved up for 30 s"),
            "{shown}"
        );
        rig.ok(&["rename", "web", "www"]);
        assert_eq!(
            rig.json(&["set", "www", "--iops", "none"])["limits"]["iops"],
            serde_json::Value::Null
        );
        assert_eq!(rig.ok(&["set", "www", "--bandwidth", "0"]), "www has no limits\n");
        assert!(rig.json(&["show", "www"])["disk"]["limits"].is_null());
        assert!(rig.fails(&["set", "www", "--burst", "0", "--iops", "1"]).contains("1 to 86400"));
        assert!(rig.fails(&["set", "nobody", "--iops", "1"]).contains("nobody"));
        rig.ok(&["check"]);
    }
}
