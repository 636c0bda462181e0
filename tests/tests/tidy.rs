//! The rules of the house that no compiler checks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files longer than this are to be split.
const LINES_MAX: usize = 600;

/// The only files with `unsafe` in them, each next to a kernel interface.
const UNSAFE_FILES: &[&str] = &[
    "blockstore/src/buffer/",
    "blockstore/src/device/file.rs",
    "blockstore/src/reactor/ring.rs",
    "server/src/keep/service_manager.rs",
    "server/src/vhost/sigbus.rs",
    "tests/tests/vhost_virtio_driver.rs",
    "tools/bench/src/client.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every file that is part of the project, by its path from the root.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut ahead = vec![root()];
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    ahead.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                let short = path.strip_prefix(root()).expect("below the root");
                found.push((short.to_str().expect("UTF-8").to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "where is the project?");
    found
}

fn rust() -> Vec<(String, String)> {
    files().into_iter().filter(|(path, _)| path.ends_with(".rs")).collect()
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Lines of code, without strings' and comments' share being told apart: patterns are chosen so
/// that this does not matter. This file, which names them all, is left out.
fn lines_with(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in rust().iter().filter(|(path, _)| path != "tests/tests/tidy.rs") {
        let hits = (1..).zip(text.lines()).filter(|(_, line)| wanted(line));
        found.extend(hits.map(|(number, line)| format!("{path}:{number}: {}", line.trim())));
    }
    found
}

/// Normal dependencies within the workspace, by crate.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    let of = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().expect("dependencies");
        let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
        normal.map(|dependency| text(&dependency["name"])).collect()
    };
    packages.iter().map(|package| (text(&package["name"]), of(package))).collect()
}

#[test]
fn each_layer_knows_only_those_below_it() {
    let all = dependencies();
    let may: &[(&str, &[&str])] = &[
        ("bough-blockstore", &[]),
        ("bough-radix", &["bough-blockstore"]),
        ("bough-server", &["bough-radix", "bough-blockstore"]),
        ("bough-hypervisor-glue", &[]),
        ("bough", &["bough-server", "bough-radix", "bough-blockstore", "bough-hypervisor-glue"]),
    ];
    for (name, allowed) in may {
        let ours = all[*name].iter().filter(|dependency| dependency.starts_with("bough"));
        let wrong: Vec<String> =
            ours.filter(|dependency| !allowed.contains(&dependency.as_str())).cloned().collect();
        assert_none(&format!("{name} must not depend on"), &wrong);
    }
    let glue = &all["bough-hypervisor-glue"];
    assert!(!glue.iter().any(|name| name == "io-uring"), "the monitor knows no storage");
}

#[test]
fn facades_hold_no_code() {
    let is_facade = |path: &str| path.ends_with("src/lib.rs");
    let mut found = Vec::new();
    for (path, text) in rust().iter().filter(|(path, _)| is_facade(path)) {
        let code =
            ["fn ", "pub fn ", "struct ", "pub struct ", "enum ", "pub enum ", "impl", "trait "];
        let hit = |line: &&str| code.iter().any(|word| line.trim_start().starts_with(word));
        found.extend(text.lines().filter(hit).map(|line| format!("{path}: {line}")));
        if text.contains("::*;") {
            found.push(format!("{path}: a glob"));
        }
    }
    assert_none("lib.rs says only what there is", &found);
}

#[test]
fn files_are_short_enough_to_be_read() {
    let long = |(path, text): &(String, String)| {
        let count = text.lines().count();
        (count > LINES_MAX).then(|| format!("{path}: {count} lines"))
    };
    assert_none("split these", &rust().iter().filter_map(long).collect::<Vec<_>>());
}

#[test]
fn every_module_says_what_it_is() {
    let bare = |(path, text): &(String, String)| {
        let first = text.lines().next().unwrap_or_default();
        (!first.starts_with("//!")).then(|| path.clone())
    };
    assert_none("begin with a `//!`", &rust().iter().filter_map(bare).collect::<Vec<_>>());
}

#[test]
fn unsafe_stays_where_the_kernel_is() {
    let is_unsafe = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
    };
    let mut found = lines_with(is_unsafe);
    found.retain(|hit| !UNSAFE_FILES.iter().any(|allowed| hit.starts_with(allowed)));
    assert_none("unsafe in files that are not named for it", &found);
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("];
    let found = lines_with(|line| words.iter().any(|word| line.contains(word)));
    assert_none("finish or remove", &found);
}

#[test]
fn exceptions_give_their_reason() {
    // `unsafe_code` is named in the list above instead.
    let bare = |line: &str| {
        let line = line.trim();
        let allows = line.starts_with("#[allow(") || line.starts_with("#![allow(");
        allows && !line.contains("//") && !line.contains("reason") && !line.contains("unsafe_code")
    };
    assert_none("an #[allow] without a comment behind it", &lines_with(bare));
    let ignored = lines_with(|line| line.trim() == "#[ignore]");
    assert_none("an #[ignore] without a reason", &ignored);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut found = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = root().join(path);
        let folder = folder.parent().expect("a folder");
        for link in links(text) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !outside && !folder.join(target).exists() {
                found.push(format!("{path}: {link}"));
            }
        }
    }
    assert_none("links that lead nowhere", &found);
}

/// The targets of `[text](target)` outside code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let pieces = line.split("](").skip(1);
        found.extend(pieces.filter_map(|piece| piece.split_once(')')).map(|(l, _)| l.to_owned()));
    }
    found
}

#[test]
fn what_is_delivered_has_no_faults_in_it() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "bough", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p} [{f}]"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("UTF-8");
    let ours: Vec<&str> = tree.lines().filter(|line| line.starts_with("bough")).collect();
    assert!(ours.iter().any(|line| line.starts_with("bough-blockstore")), "{ours:?}");
    let has_features = |line: &&&str| !line.contains(" []");
    let found: Vec<String> = ours.iter().filter(has_features).map(ToString::to_string).collect();
    assert_none("features are for tests only", &found);
}
