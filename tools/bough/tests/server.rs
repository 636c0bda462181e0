//! A server's life: its sockets, its death, its successors, and what strangers send it.

mod rig;

use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use rig::{Rig, write_sample};

fn mode(rig: &Rig, name: &str) -> u32 {
    std::fs::metadata(rig.path(name)).unwrap().permissions().mode() & 0o777
}

fn is_socket(rig: &Rig, name: &str) -> bool {
    std::fs::metadata(rig.path(name)).is_ok_and(|file| file.file_type().is_socket())
}

#[test]
fn status_tells_by_its_exit_status_whether_a_server_serves() {
    let mut rig = Rig::new();
    assert_eq!(rig.bough(&["status"]).code, 1);
    rig.serve();
    let status = rig.json(&["status"]);
    assert_eq!(status["server"]["pid"], rig.server_pid());
    assert!(status["host_bytes"].as_u64().unwrap() > 0);
    rig.stop();
    let done = rig.bough(&["--json", "status"]);
    assert_eq!(done.code, 1);
    let status: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert!(status["server"].is_null());
}

/// A number that the kernel tells of each of a process's threads.
fn of_threads(pid: &serde_json::Value, field: &str) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tell = |thread: std::io::Result<std::fs::DirEntry>| -> u32 {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().parse().unwrap()
    };
    threads.map(tell).collect()
}

#[test]
fn a_server_confines_all_its_threads_and_tells_how_far_unless_told_not_to() {
    let mut rig = Rig::new();
    rig.serve();
    let status = rig.json(&["status"]);
    let (pid, level) = (&status["server"]["pid"], &status["server"]["sandbox"]);
    assert_eq!(level["no_new_privileges"], true);
    assert_eq!(level["seccomp"], true);
    assert!(of_threads(pid, "Seccomp:").iter().all(|mode| *mode == 2));
    assert!(of_threads(pid, "NoNewPrivs:").iter().all(|flag| *flag == 1));
    assert!(rig.ok(&["status"]).contains("sandbox    no new privileges, seccomp"));
    rig.stop();
    rig.serve_with(&["--sandbox", "off"]);
    let status = rig.json(&["status"]);
    assert!(status["server"]["sandbox"].is_null());
    assert!(of_threads(&status["server"]["pid"], "Seccomp:").iter().all(|mode| *mode == 0));
    assert!(rig.ok(&["status"]).contains("sandbox    off"));
}

#[test]
fn attachments_are_remembered_with_a_server_without_and_across_kills() {
    let mut rig = Rig::new();
    rig.ok(&["create", "before", "1M"]);
    rig.ok(&["create", "while", "1M"]);
    let socket = rig.ok(&["attach", "before"]);
    assert_eq!(socket.trim(), rig.text("run/before.sock"));
    assert!(!is_socket(&rig, "run/before.sock"), "no server yet");
    rig.serve();
    assert!(is_socket(&rig, "run/before.sock"));
    assert_eq!(rig.ok(&["attach", "while", "--queues", "2"]).trim(), rig.text("run/while.sock"));
    assert_eq!(rig.ok(&["attach", "while", "--queues", "2"]).trim(), rig.text("run/while.sock"));
    rig.kill();
    rig.serve();
    for name in ["run/before.sock", "run/while.sock"] {
        UnixStream::connect(rig.path(name)).unwrap();
    }
    rig.ok(&["detach", "before"]);
    assert!(!is_socket(&rig, "run/before.sock"));
    rig.stop();
    assert!(!is_socket(&rig, "run/while.sock"), "a clean stop leaves no socket");
    assert!(!is_socket(&rig, "run/control"));
    let shown = rig.json(&["show", "while"]);
    assert_eq!(shown["disk"]["attachment"]["queues"], 2);
}

#[test]
fn qemu_gets_options_that_name_the_socket() {
    let rig = Rig::in_mode(true);
    rig.ok(&["create", "web", "1M"]);
    assert!(rig.fails(&["qemu-args", "web"]).contains("bough attach web"));
    rig.ok(&["attach", "web", "--queues", "2"]);
    let options = rig.ok(&["qemu-args", "web", "--memory", "2G"]);
    assert!(
        options.contains(&format!("path={},reconnect=1", rig.text("run/web.sock"))),
        "{options}"
    );
    assert!(options.contains("num-queues=2") && options.contains("share=on"), "{options}");
}

#[test]
fn a_renamed_or_deleted_disk_takes_its_socket_along() {
    let rig = Rig::in_mode(true);
    rig.ok(&["create", "web", "1M"]);
    rig.ok(&["attach", "web"]);
    rig.ok(&["rename", "web", "www"]);
    assert!(!is_socket(&rig, "run/web.sock"));
    UnixStream::connect(rig.path("run/www.sock")).unwrap();
    rig.ok(&["detach", "www"]);
    rig.ok(&["delete", "www"]);
    assert!(!is_socket(&rig, "run/www.sock"));
}

#[test]
fn sockets_are_open_to_whom_they_should_be() {
    let mut rig = Rig::new();
    rig.ok(&["create", "web", "1M"]);
    rig.ok(&["attach", "web"]);
    rig.serve();
    assert_eq!((mode(&rig, "run/control"), mode(&rig, "run/web.sock")), (0o600, 0o660));
    rig.stop();
    rig.serve_with(&["--socket-mode", "600", "--control-group", "0"]);
    assert_eq!((mode(&rig, "run/control"), mode(&rig, "run/web.sock")), (0o660, 0o600));
    rig.stop();
    let error = rig.fails(&["serve", "--socket-group", "no-such-group"]);
    assert!(error.contains("no-such-group"), "{error}");
}

#[test]
fn a_second_server_is_refused_and_told_who_holds_the_store() {
    let rig = Rig::in_mode(true);
    let error = rig.fails(&["serve", "--socket-dir", &rig.text("elsewhere")]);
    assert!(error.contains(&rig.server_pid().to_string()), "{error}");
    rig.ok(&["list"]);
}

#[test]
fn two_stores_cannot_share_a_folder_of_sockets() {
    let rig = Rig::in_mode(true);
    let (store, run) = (rig.text("other"), rig.text("run"));
    rig.ok(&["--store", &store, "init", "--size", "64M"]);
    let error = rig.fails(&["--store", &store, "serve", "--socket-dir", &run]);
    assert!(error.contains("--socket-dir"), "{error}");
    // And a command for the one is never sent to the server of the other.
    rig.ok(&["create", "web", "1M"]);
    assert_eq!(rig.ok(&["--store", &store, "--json", "list"]).trim(), "[]");
}

#[test]
fn a_killed_servers_lock_is_no_obstacle() {
    let mut rig = Rig::in_mode(true);
    rig.ok(&["create", "web", "1M"]);
    rig.kill();
    assert_eq!(rig.disks(), ["web"], "a command opens the store itself");
    rig.serve();
    assert_eq!(rig.disks(), ["web"]);
}

#[test]
fn nonsense_on_the_control_socket_ends_that_connection_only() {
    let rig = Rig::in_mode(true);
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let cases = [
        ("\0\u{1}garbage\r\n\r\n".to_owned(), "400"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)), "4"),
        ("GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), "404"),
        ("DELETE /v1/disks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), "405"),
        (post("/v1/disks", "{"), "400"),
        (post("/v1/disks", "{\"name\": \"../../etc\", \"size_bytes\": 512}"), "400"),
        (post("/v1/disks", "{\"name\": \"web\", \"size_bytes\": -1}"), "400"),
        (post("/v1/disks", "{\"name\": \"web\", \"size_bytes\": 18446744073709551615}"), "400"),
        (post("/v1/disks", "{\"name\": \"web\", \"size\": 512}"), "400"),
        (post("/v1/imports?name=web&size_bytes=512", "frames these are not ......"), "400"),
        (post("/v1/imports?name=web", ""), "400"),
        (post("/v1/snapshots", "{\"names\": []}"), ""),
        (post("/v1/disks", &"[".repeat(100_000)), "400"),
    ];
    for (request, status) in &cases {
        let answer = rig.control_raw(request.as_bytes());
        let start = &request[..request.len().min(60)];
        let head = answer.lines().next().unwrap_or_default();
        assert!(head.contains(status), "{start:?} was answered {head:?}");
    }
    assert_eq!(rig.disks(), Vec::<String>::new());
    assert!(rig.control_raw(b"GET /openapi.json HTTP/1.0\r\n\r\n").contains("openapi"));
}

/// An import that has sent some of its data and neither ends nor goes on.
fn begin_import(rig: &Rig) -> UnixStream {
    let mut socket = UnixStream::connect(rig.control_socket()).unwrap();
    let head = "POST /v1/imports?name=web&size_bytes=1048576 HTTP/1.1\r\nhost: x\r\n\
                content-length: 1000000\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut frame = vec![1, 0, 0, 0, 0, 0, 0, 0];
    frame.extend(0_u64.to_le_bytes());
    frame.extend(4096_u64.to_le_bytes());
    frame.extend([7; 4096]);
    socket.write_all(&frame).unwrap();
    while rig.disks().is_empty() {
        std::thread::yield_now();
    }
    socket
}

#[test]
fn an_import_whose_client_vanishes_leaves_no_disk() {
    let rig = Rig::in_mode(true);
    drop(begin_import(&rig));
    while !rig.disks().is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn an_import_whose_server_is_killed_leaves_no_disk() {
    let mut rig = Rig::in_mode(true);
    let _socket = begin_import(&rig);
    rig.kill();
    assert_eq!(rig.disks(), Vec::<String>::new());
    rig.serve();
    assert_eq!(rig.disks(), Vec::<String>::new());
}

#[test]
fn imported_data_survives_a_kill_of_the_server() {
    let mut rig = Rig::in_mode(true);
    write_sample(&rig.path("in.raw"), 32 << 20);
    rig.ok(&["import", &rig.text("in.raw"), "web"]);
    rig.ok(&["snapshot", "web@now"]);
    rig.kill();
    rig.ok(&["export", "web@now", &rig.text("out.raw")]);
    assert!(rig::same_bytes(&rig.path("in.raw"), &rig.path("out.raw")));
    assert_eq!(rig.bough(&["check"]).code, 0);
}

#[test]
fn logs_are_json_where_json_is_wanted() {
    let mut rig = Rig::new();
    rig.serve_with(&["--log-json"]);
    rig.stop();
    let log = rig.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

/// Every second block has data.
fn write_stripes(rig: &Rig, name: &str, stripes: u64) {
    let file = std::fs::File::create(rig.path(name)).unwrap();
    file.set_len(stripes * 8192).unwrap();
    for stripe in 0..stripes {
        file.write_all_at(&[7; 4096], stripe * 8192).unwrap();
    }
}

#[test]
fn a_comparison_waits_for_a_client_that_does_not_read_and_ends_with_it() {
    let rig = Rig::in_mode(true);
    // More to tell than all the buffers on the way hold.
    write_stripes(&rig, "stripes", 20 << 10);
    rig.ok(&["create", "empty", "160M"]);
    rig.ok(&["import", &rig.text("stripes"), "full"]);
    rig.ok(&["snapshot", "full@one"]);
    let mut client = UnixStream::connect(rig.control_socket()).unwrap();
    client.write_all(b"GET /v1/diff?from=empty&to=full@one HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
    client.read_exact(&mut [0; 1024]).unwrap();
    let busy = rig.fails(&["delete", "full@one"]);
    assert!(busy.contains("a reader (an export or a comparison)"), "{busy}");
    drop(client);
    // It ends with the next line that it cannot send.
    while rig.bough(&["delete", "full@one"]).code != 0 {}
    assert_eq!(rig.json(&["diff", "empty", "full"]).as_array().unwrap().len(), 20 << 10);
}
