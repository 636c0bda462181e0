//! Every verb, with a server and without: the same words, the same output.

mod rig;

use rig::{Rig, write_sample};

/// Sizes, times and identities aside, what a command prints.
fn story(rig: &Rig) -> Vec<String> {
    write_sample(&rig.path("golden.raw"), 64 << 20);
    let golden = rig.text("golden.raw");
    let told = |args: &[&str]| format!("{}\n{}", args.join(" "), rig.ok(args));
    let refused = |args: &[&str]| format!("{}\n{}", args.join(" "), rig.fails(args));
    vec![
        told(&["list"]),
        told(&["create", "data", "1G"]),
        refused(&["create", "data", "1G"]),
        refused(&["create", "odd", "1000"]),
        rig.ok(&["import", &golden, "debian", "--template"]).replace(&golden, "FILE"),
        refused(&["clone", "data", "copy"]),
        told(&["clone", "debian", "web-1", "web-2"]),
        told(&["snapshot", "web-1@monday", "data@monday"]),
        refused(&["snapshot", "web-2@monday", "web-1@monday"]),
        told(&["clone", "web-1@monday", "trial"]),
        refused(&["clone", "web-1@tuesday", "other"]),
        told(&["list", "-p"]),
        told(&["tree", "-p"]),
        told(&["rollback", "-n", "web-1@monday"]),
        told(&["rollback", "web-1@monday"]),
        told(&["diff", "debian@base", "web-1"]),
        told(&["diff", "-p", "data", "debian"]),
        told(&["resize", "data", "2G"]),
        refused(&["resize", "data", "1G"]),
        told(&["resize", "--shrink", "data", "1G"]),
        told(&["rename", "web-2", "www"]),
        told(&["rename", "web-1@monday", "web-1@mon"]),
        refused(&["rename", "web-1", "www"]),
        refused(&["delete", "debian@base"]),
        refused(&["delete", "debian"]),
        told(&["seal", "web-1@mon"]),
        refused(&["delete", "web-1@mon"]),
        told(&["unseal", "web-1@mon"]),
        told(&["delete", "-n", "-r", "web-1"]),
        told(&["delete", "trial"]),
        told(&["delete", "web-1@mon"]),
        refused(&["show", "nobody"]),
        refused(&["detach", "data"]),
        refused(&["qemu-args", "data"]),
        told(&["grow", "2G"]),
        told(&["check"]),
        told(&["scrub"]),
        told(&["list"]),
    ]
}

#[test]
fn every_verb_says_the_same_with_a_server_and_without() {
    let (offline, served) = (Rig::new(), Rig::in_mode(true));
    for (without, with) in story(&offline).iter().zip(story(&served)) {
        // Which heads have been checkpointed meanwhile is a server's own affair.
        assert_eq!(*without, with);
    }
}

#[test]
fn a_snapshot_of_several_disks_is_all_or_nothing() {
    for served in [false, true] {
        let rig = Rig::in_mode(served);
        rig.ok(&["create", "a", "1M"]);
        rig.ok(&["create", "b", "1M"]);
        rig.ok(&["snapshot", "b@x"]);
        let error = rig.fails(&["snapshot", "a@x", "b@x"]);
        assert!(error.contains("b@x"), "{error}");
        let shown = rig.json(&["show", "a"]);
        assert_eq!(shown["snapshots"].as_array().unwrap().len(), 0);
        rig.fails(&["snapshot", "a@y", "c@y"]);
        rig.ok(&["snapshot", "a@y", "b@y"]);
        assert_eq!(rig.json(&["show", "b@y"])["name"], "b@y");
    }
}

#[test]
fn a_deletion_that_is_refused_names_what_depends() {
    let rig = Rig::new();
    rig.ok(&["create", "golden", "1M"]);
    rig.ok(&["snapshot", "golden@base"]);
    rig.ok(&["seal", "golden@base"]);
    rig.ok(&["clone", "golden", "web-1", "web-2"]);
    let error = rig.fails(&["delete", "golden"]);
    assert!(error.contains("web-1") && error.contains("web-2"), "{error}");
    assert!(rig.fails(&["delete", "-r", "golden"]).contains("bough unseal golden@base"));
    rig.ok(&["unseal", "golden@base"]);
    let planned = rig.json(&["delete", "-r", "-n", "golden"]);
    let names: Vec<_> = planned["deleted"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(names[2..], ["golden@base", "golden"], "what is cloned from it goes first");
    assert_eq!(rig.disks().len(), 3, "-n changes nothing");
    let told = rig.ok(&["delete", "-r", "golden"]);
    assert!(told.contains("deleted golden and its snapshot\n"), "{told}");
    assert_eq!(rig.disks(), Vec::<String>::new());
}

#[test]
fn sizes_are_exact_with_p_and_integers_in_json() {
    let rig = Rig::new();
    rig.ok(&["create", "data", "1.5G"]);
    assert!(rig.ok(&["list"]).contains("1.5G"));
    assert!(rig.ok(&["list", "-p"]).contains("1610612736"));
    assert_eq!(rig.json(&["list"])[0]["head"]["size_bytes"], 1_610_612_736_u64);
}

#[test]
fn what_is_not_understood_exits_with_2_and_touches_nothing() {
    let rig = Rig::bare();
    for args in [
        &["frobnicate"][..],
        &["create", "../escape", "1G"],
        &["create", "web", "1X"],
        &["create", "web"],
        &["snapshot", "web"],
        &["clone", "web", "a@b"],
        &["attach", "web", "--queues", "0"],
        &["init", "--size", "1G", "--device", "/dev/null"],
    ] {
        let done = rig.bough(args);
        assert_eq!(done.code, 2, "{args:?}: {done:?}");
        assert!(!done.err.is_empty());
    }
    assert!(!rig.path("store").exists());
}

#[test]
fn without_a_store_every_verb_names_the_remedy() {
    let rig = Rig::bare();
    for args in [&["list"][..], &["status"], &["serve"], &["check"], &["create", "a", "1M"]] {
        let error = rig.fails(args);
        assert!(error.contains("bough init"), "{args:?}: {error}");
    }
    rig.ok(&["init", "--size", "64M"]);
    let error = rig.fails(&["init"]);
    assert!(error.contains("already"), "{error}");
}

#[test]
fn errors_are_json_too_where_json_is_wanted() {
    for served in [false, true] {
        let rig = Rig::in_mode(served);
        let error = rig.fails(&["--json", "show", "nobody"]);
        let error: serde_json::Value = serde_json::from_str(&error).unwrap();
        assert_eq!(error["error"]["kind"], "not_found");
        assert!(error["error"]["message"].as_str().unwrap().contains("nobody"));
    }
}

#[test]
fn manual_and_completions_need_no_store() {
    let rig = Rig::bare();
    assert!(rig.ok(&["man"]).contains(".TH"));
    rig.ok(&["man", "--dir", &rig.text("man")]);
    assert!(rig.path("man/bough-import.1").exists());
    for shell in ["bash", "zsh", "fish"] {
        assert!(rig.ok(&["completions", shell]).contains("bough"));
    }
}
