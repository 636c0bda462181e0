//! Clients of the control API that ask for anything, of the real API over a real store.
//!
//! Whatever they ask for is answered, and the store stays clean.

use std::cell::RefCell;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use bough_fuzz::{Script, Trial, bolero};
use bough_server::{Control, NewBlocks, OpenOptions, OpenStore, StoreFolder, create_store, router};
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// An input's decisions.
const INPUT_MAX_BYTES: usize = 1024;
const STORE_BYTES: u64 = 256 << 20;
const MEMORY_BYTES: u64 = 16 << 20;
/// Executions on one store.
const STAGE_EXECUTIONS: u32 = 200;
/// Pieces of an answer that a client takes before it leaves.
const ANSWER_PIECES: usize = 16;

/// Requests as they are made. A store never grows here: that would be the host's space.
const REQUESTS: [(&str, &str, &str); 27] = [
    ("GET", "/openapi.json", ""),
    ("GET", "/v1/server", ""),
    ("GET", "/v1/status", ""),
    ("POST", "/v1/check", ""),
    ("POST", "/v1/scrub", "{}"),
    ("POST", "/v1/scrub", r#"{"bytes_per_second":1000000000}"#),
    ("GET", "/v1/disks", ""),
    ("POST", "/v1/disks", r#"{"name":"new","size_bytes":1048576}"#),
    ("POST", "/v1/disks/web/resize", r#"{"size_bytes":8388608,"shrink":true}"#),
    ("PUT", "/v1/disks/web/attachment", r#"{"queues":2,"read_only":false}"#),
    ("DELETE", "/v1/disks/web/attachment", ""),
    ("POST", "/v1/clones", r#"{"source":"web@one","names":["copy","other"]}"#),
    ("POST", "/v1/rename", r#"{"from":"copy","to":"renamed"}"#),
    ("POST", "/v1/rename", r#"{"from":"web@one","to":"web@two"}"#),
    ("GET", "/v1/tree", ""),
    ("GET", "/v1/versions/web", ""),
    ("GET", "/v1/versions/web@one", ""),
    ("GET", "/v1/versions/web/content", ""),
    ("GET", "/v1/versions/web@one/content", ""),
    ("POST", "/v1/snapshots", r#"{"names":["web@late","copy@late"]}"#),
    ("POST", "/v1/seal", r#"{"snapshot":"web@one","sealed":true}"#),
    ("POST", "/v1/rollback", r#"{"snapshot":"web@one","dry_run":false}"#),
    ("POST", "/v1/delete", r#"{"names":["copy"],"recursive":true,"dry_run":false}"#),
    ("POST", "/v1/delete", r#"{"names":["web@one"],"recursive":false,"dry_run":true}"#),
    ("GET", "/v1/diff?from=web@one&to=web", ""),
    ("POST", "/v1/imports?name=sent&size_bytes=16384&template=base", FRAMES),
    ("POST", "/v1/imports?name=cut&size_bytes=16384", "\u{1}\0\0\0"),
];

/// Data in the first block, a hole, the end.
const FRAMES: &str = "\u{1}\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\u{2}\0\0\0\0\0\0\
    ................................................................................................\
    ................................................................................................\
    ................................................................................................\
    ................................................................................................\
    ................................................................................................\
    ................................\
    \u{2}\0\0\0\0\0\0\0\0\u{2}\0\0\0\0\0\0\0\u{10}\0\0\0\0\0\0\
    \u{3}\0\0\0\0\0\0\0\0@\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A store with a disk and a snapshot of it, behind its API.
struct Stage {
    control: Arc<Control>,
    router: Router,
    executions: u32,
    _folder: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = StoreFolder::at(temporary.path().join("store"));
        create_store(&folder, NewBlocks::File { size_bytes: STORE_BYTES }).await.unwrap();
        let options = OpenOptions { memory_bytes: MEMORY_BYTES, reactor_count: 1 };
        let store = OpenStore::open(folder, options).await.unwrap();
        let control = Arc::new(Control::offline(store, temporary.path().to_owned()));
        let router = router(Arc::clone(&control));
        let stage = Self { control, router, executions: 0, _folder: temporary };
        stage.must("POST", "/v1/disks", r#"{"name":"web","size_bytes":16777216}"#).await;
        stage.must("POST", REQUESTS[25].1, FRAMES).await;
        stage.must("POST", "/v1/snapshots", r#"{"names":["web@one"]}"#).await;
        stage
    }

    async fn must(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let answer = self.ask(method, path, body.as_bytes().to_vec()).await.unwrap();
        let (status, bytes) = answer;
        assert!((200..300).contains(&status), "{path}: {}", String::from_utf8_lossy(&bytes));
        bytes
    }

    /// The status and the beginning of the answer; none where this is no request at all.
    async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Option<(u16, Vec<u8>)> {
        let kind = if path.starts_with("/v1/imports") {
            "application/vnd.bough.frames"
        } else {
            "application/json"
        };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let response = self.router.clone().oneshot(request.body(Body::from(body)).ok()?).await;
        let (parts, mut body) = response.unwrap().into_parts();
        let mut bytes = Vec::new();
        for _ in 0..ANSWER_PIECES {
            let Some(piece) = body.frame().await else { break };
            bytes.extend_from_slice(piece.unwrap().data_ref().unwrap());
        }
        Some((parts.status.as_u16(), bytes))
    }

    async fn end(self) {
        let report = self.must("POST", "/v1/check", "").await;
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["findings"].as_array().unwrap().len(), 0, "{report}");
        self.control.store().close().await.unwrap();
    }
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

#[test]
fn control() {
    let trial = Trial::new("control");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = std::panic::AssertUnwindSafe(runtime);
    bolero::check!().with_max_len(INPUT_MAX_BYTES).for_each(|input| {
        trial.run(input, |input| converse(&runtime, &mut Script::new(input)));
    });
    if let Some(stage) = STAGE.take() {
        runtime.block_on(stage.end());
    }
}

fn converse(runtime: &Runtime, script: &mut Script<'_>) {
    let stage = STAGE.take();
    let stage = runtime.block_on(async {
        let mut stage = match stage {
            Some(stage) if stage.executions >= STAGE_EXECUTIONS => {
                stage.end().await;
                Stage::new().await
            }
            Some(stage) => stage,
            None => Stage::new().await,
        };
        for _ in 0..=script.below(3) {
            request(&stage, script).await;
        }
        stage.must("GET", "/v1/status", "").await;
        stage.executions += 1;
        stage
    });
    STAGE.set(Some(stage));
}

async fn request(stage: &Stage, script: &mut Script<'_>) {
    let (mut method, path, body) = *script.pick(&REQUESTS);
    let (mut path, mut body) = (path.as_bytes().to_vec(), body.as_bytes().to_vec());
    if script.chance(8) {
        method = script.pick(&REQUESTS).0;
    }
    if script.chance(4) {
        script.edit_any(&mut path);
    }
    if script.chance(2) {
        script.edit_any(&mut body);
    }
    let Ok(path) = String::from_utf8(path) else { return };
    if let Some((status, answer)) = stage.ask(method, &path, body).await {
        let told = String::from_utf8_lossy(&answer);
        assert!(status != 500 && status != 503, "{method} {path}: {status} {told}");
    }
}
