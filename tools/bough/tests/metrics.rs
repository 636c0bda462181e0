//! What is told of guests' requests: exactly what a client asked for, in every form.

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bough_tests::vhost::READ;
use rig::client::{Client, FAILED, GOOD, block};
use rig::{PATIENCE, Rig};

/// Any port of this machine.
const ANY: [&str; 2] = ["--metrics", "127.0.0.1:0"];
const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

fn served() -> Rig {
    let mut rig = Rig::new();
    rig.serve_with(&ANY);
    rig.ok(&["create", "web", "64M"]);
    rig.ok(&["create", "idle", "64M"]);
    rig.ok(&["attach", "web"]);
    rig.ok(&["attach", "idle"]);
    rig
}

fn address(rig: &Rig) -> SocketAddr {
    let status = rig.json(&["status"]);
    status["server"]["metrics_address"].as_str().unwrap().parse().unwrap()
}

/// What comes back for these bytes, if anything does.
fn ask(address: SocketAddr, bytes: &[u8]) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The samples of an exposition, by name and labels, once it has been found well-formed.
fn parse(answer: &str) -> BTreeMap<String, f64> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    let body = body.strip_suffix("# EOF\n").unwrap();
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let mut family = "";
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            let [word, name, rest] = words[..] else { panic!("{line}") };
            assert!(["HELP", "TYPE", "UNIT"].contains(&word) && !rest.is_empty(), "{line}");
            assert!(name.starts_with("bough_"), "{line}");
            if word == "TYPE" {
                assert!(types.insert(name, rest).is_none(), "{name} is there twice");
            }
            family = name;
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap();
        let name = key.split('{').next().unwrap();
        let endings: &[&str] = match types[family] {
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let ending = name.strip_prefix(family).unwrap();
        assert!(endings.contains(&ending), "{line} is no {} of {family}", types[family]);
        assert!(samples.insert(key.to_owned(), value.parse().unwrap()).is_none(), "{line} twice");
    }
    samples
}

#[test]
fn counters_say_exactly_what_a_client_did() {
    let rig = served();
    let mut client = Client::of(&rig, "web");
    for number in 0..3 {
        assert_eq!(client.write(number * 8, number), GOOD);
    }
    client.holds(0, 0);
    client.holds(8, 1);
    assert_eq!(client.flush(), GOOD);
    let beyond = 64 << 11;
    assert_eq!(client.driver.carry_out(&client.front, READ, beyond, &block(0, 0)).0, FAILED);
    let told = parse(&ask(address(&rig), GET).unwrap());
    assert_eq!(
        parse(&rig.control_raw(GET)).keys().collect::<Vec<_>>(),
        told.keys().collect::<Vec<_>>()
    );
    let of = |name: &str, operation: &str| {
        told.get(&format!("bough_disk_{name}{{disk=\"web\",operation=\"{operation}\"}}")).copied()
    };
    for (operation, requests, failed, bytes) in
        [("read", 3.0, 1.0, 8192.0), ("write", 3.0, 0.0, 12288.0), ("flush", 1.0, 0.0, 0.0)]
    {
        assert_eq!(of("requests_total", operation), Some(requests), "{operation}");
        assert_eq!(of("failed_requests_total", operation), Some(failed), "{operation}");
        assert_eq!(of("transferred_bytes_total", operation), Some(bytes), "{operation}");
        assert_eq!(of("request_duration_seconds_count", operation), Some(requests), "{operation}");
        assert!(of("request_duration_seconds_sum", operation) > Some(0.0), "{operation}");
    }
    assert_eq!(of("requests_total", "discard"), None, "nobody asked for any");
    assert_eq!(told["bough_disks"], 2.0);
    assert_eq!(told["bough_store_size_bytes"], f64::from(1 << 30));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(told[&format!("bough_build_info{{version=\"{version}\"}}")], 1.0);
    assert_eq!(told["bough_disk_waiting_requests{disk=\"idle\"}"], 0.0);
}

#[test]
fn top_tells_the_same_second_by_second() {
    let rig = served();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::of(&rig, "web");
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.write(0, 1), GOOD);
                assert_eq!(client.flush(), GOOD);
            }
        });
        let told = rig.bough(&["--json", "top", "--count", "3", "--interval", "0.5"]);
        let text = rig.bough(&["top", "--count", "1", "--interval", "0.1"]);
        stop.store(true, Ordering::Relaxed);
        assert_eq!((told.code, text.code), (0, 0), "{told:?} {text:?}");
        let samples: Vec<serde_json::Value> =
            told.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(samples.len(), 3);
        let disks: BTreeSet<&str> = samples[2]["disks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|disk| disk["name"].as_str().unwrap())
            .collect();
        assert_eq!(disks, BTreeSet::from(["idle", "web"]));
        // The last one: the client may take a while to connect.
        let web = samples[2]["disks"].as_array().unwrap().iter().find(|d| d["name"] == "web");
        let write = &web.unwrap()["write"];
        let number = |field: &str| write[field].as_f64().unwrap();
        assert_eq!(number("bytes"), number("requests") * 4096.0);
        assert_eq!(number("failed"), 0.0);
        if number("requests") > 0.0 {
            assert!(number("requests_per_second") > 0.0);
            assert!(number("p50_us") > 0.0 && number("p99_us") >= number("p50_us"));
        }
        assert!(text.out.starts_with("DISK"), "{}", text.out);
        assert!(text.out.contains("nodes of trees"), "{}", text.out);
    });
    let offline = Rig::new();
    assert!(offline.fails(&["top", "--count", "1"]).contains("no server"));
}

#[test]
fn whoever_comes_by_tcp_reads_metrics_and_nothing_else() {
    let rig = served();
    let address = address(&rig);
    let delete = b"POST /v1/delete HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        content-length: 17\r\nconnection: close\r\n\r\n{\"names\":[\"web\"]}";
    for path in ["/v1/status", "/v1/disks", "/openapi.json", "/v1/activity", "/", "/metrics/../v1"]
    {
        let answer = ask(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
        assert!(answer.unwrap().starts_with("HTTP/1.1 404"), "{path}");
    }
    assert!(ask(address, delete).unwrap().starts_with("HTTP/1.1 404"));
    let answer = ask(address, b"DELETE /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    let endless = [b"GET /metrics HTTP/1.1\r\nx: ".as_slice(), &[b'y'; 1 << 20]].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    for nonsense in [&endless[..], preface, b"\0\0\0\0", b"\r\n\r\n\r\n", b"GET", b""] {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = socket.write_all(nonsense);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    // Those who say nothing keep all places, for a while.
    let silent: Vec<TcpStream> = (0..6).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_eq!(parse(&ask(address, GET).unwrap())["bough_disks"], 2.0);
    drop(silent);
    assert_eq!(rig.disks(), ["idle", "web"]);
}

#[test]
fn a_spare_goes_on_where_the_server_told_its_metrics() {
    let mut rig = served();
    let address = address(&rig);
    let at = address.to_string();
    let mut other = Rig::new();
    let done = other.bough(&["serve", "--metrics", &at]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains(&at) && done.err.contains("--metrics"), "{}", done.err);
    rig.stand_by_with(&["--metrics", &at]);
    parse(&ask(address, GET).unwrap());
    rig.signal("-KILL");
    rig.succeed();
    let begun = Instant::now();
    let told = loop {
        match ask(address, GET) {
            Ok(answer) if !answer.is_empty() => break parse(&answer),
            _ => assert!(begun.elapsed() < PATIENCE, "{}", rig.log()),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(told["bough_disks"], 2.0);
    other.serve();
}
