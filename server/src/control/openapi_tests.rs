//! The document and the API agree.

use std::collections::BTreeSet;

use serde_json::Value;

use super::router::{OPENAPI_DOCUMENT, ROUTES};
use super::wire;

fn document() -> Value {
    serde_json::from_str(OPENAPI_DOCUMENT).unwrap()
}

#[test]
fn every_route_is_described_and_every_description_has_a_route() {
    let document = document();
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    let routed: BTreeSet<String> =
        ROUTES.iter().map(|(method, path)| format!("{method} {path}")).collect();
    assert_eq!(described, routed);
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut todo = vec![&document];
    while let Some(value) = todo.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                }
                todo.extend(fields.values());
            }
            Value::Array(items) => todo.extend(items),
            _ => {}
        }
    }
}

/// Every field that is sent is described, and every one that is described as required is sent.
fn assert_described<T: serde::Serialize>(schema: &str, value: &T) {
    let document = document();
    let schema = &document["components"]["schemas"][schema];
    let sent = serde_json::to_value(value).unwrap();
    let sent: BTreeSet<&String> = sent.as_object().unwrap().keys().collect();
    let described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(sent, described, "{schema}");
}

#[test]
fn fields_are_those_of_the_document() {
    let version = sample_version();
    let status = sample_store();
    assert_described("VersionInfo", &version);
    assert_described("StoreStatus", &status);
    let disk = sample_disk(version.clone());
    assert_described("DiskInfo", &disk);
    assert_described("TreeNode", &bough_radix::TreeNode { version: version.clone(), depth: 1 });
    let detail = bough_radix::DiskDetail { disk: disk.clone(), snapshots: vec![] };
    assert_described("DiskDetail", &detail);
    assert_described("CheckReport", &bough_radix::CheckReport::default());
    assert_described("Limits", &bough_radix::Limits::NONE);
    assert_described("LimitsChange", &bough_radix::LimitsChange::default());
    assert_described("DeleteReport", &bough_radix::DeleteReport::default());
    let imported = wire::Imported { disk, template: Some(version), data_bytes: 0 };
    assert_described("Imported", &imported);
    let waiting = crate::Waiting { requests: 1, since_unix: 0 };
    assert_described("Waiting", &waiting);
    let state = wire::DiskState {
        name: "web".into(),
        socket: None,
        clients: vec![],
        fault: None,
        waiting: Some(waiting),
    };
    assert_described("DiskState", &state);
    let report = wire::StatusReport {
        server: None,
        folder: "/s".into(),
        blocks: "/s/blocks".into(),
        host_bytes: None,
        store: status,
        disks: vec![state],
    };
    assert_described("StatusReport", &report);
    let (no_new_privileges, seccomp, landlock_abi, io_uring) = (true, true, 7, true);
    let sandbox = crate::SandboxLevel { no_new_privileges, seccomp, landlock_abi, io_uring };
    assert_described("SandboxLevel", &sandbox);
    let server = wire::ServerInfo {
        pid: 1,
        version: "1".into(),
        store: "/s".into(),
        socket_dir: "/r".into(),
        control_socket: "/r/control".into(),
        started_unix: 0,
        sandbox: Some(sandbox),
        keepers: vec!["x".into()],
        metrics_address: None,
    };
    assert_described("ServerInfo", &server);
    let operation = crate::metrics::OperationActivity::default();
    assert_described("OperationActivity", &operation);
    let bucket = crate::metrics::LatencyBucket { upto_ns: 1, requests: 1 };
    assert_described("LatencyBucket", &bucket);
    let cache =
        crate::metrics::CacheActivity { held_bytes: 0, budget_bytes: 0, hits: 0, misses: 0 };
    assert_described("CacheActivity", &cache);
    let meters = crate::metrics::Meters::default();
    meters.begin("web");
    let disks = meters.read();
    assert_described("DiskActivity", &disks[0]);
    assert_described("Activity", &crate::metrics::Activity { at_ns: 0, cache, disks });
    let detail = wire::ErrorDetail { kind: "io".into(), message: "x".into() };
    assert_described("ErrorDetail", &detail);
    assert_described("ErrorBody", &wire::ErrorBody { error: detail });
}

fn sample_version() -> bough_radix::VersionInfo {
    bough_radix::VersionInfo {
        name: "web@1".into(),
        uuid: uuid::Uuid::nil(),
        parent: None,
        parent_uuid: None,
        size_bytes: 512,
        referenced_bytes: 0,
        owned_bytes: 0,
        created_unix: 0,
        sealed: false,
        head: false,
        hidden: false,
        child_count: 0,
    }
}

fn sample_disk(head: bough_radix::VersionInfo) -> bough_radix::DiskInfo {
    bough_radix::DiskInfo {
        name: "web".into(),
        id: 1,
        uuid: uuid::Uuid::nil(),
        head,
        snapshot_count: 0,
        origin: None,
        attachment: None,
        limits: None,
        clients: vec![],
        fault: None,
    }
}

pub fn sample_store() -> bough_radix::StoreStatus {
    bough_radix::StoreStatus {
        uuid: uuid::Uuid::nil(),
        size_bytes: 0,
        free_bytes: 0,
        used_bytes: 0,
        reserved_bytes: 0,
        catalogue_bytes: 0,
        catalogue_used_bytes: 0,
        cache_bytes: 0,
        cache_budget_bytes: 0,
        cache_hits: 0,
        cache_misses: 0,
        reclaiming: 0,
        disk_count: 0,
        snapshot_count: 0,
        warnings: vec![],
    }
}
