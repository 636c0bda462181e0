//! The real binary on a store of its own; whatever is started dies with the test.
#![allow(dead_code, reason = "every story uses another part")]

pub mod client;
pub mod kills;

use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bough_blockstore::FaultRules;
use bough_tests::manager::Manager;
use serde_json::Value;
use tempfile::TempDir;

/// However slow the machine is: this is no measurement.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with a store, sockets, and perhaps a server.
pub struct Rig {
    folder: TempDir,
    server: Option<Child>,
    spare: Option<Child>,
    /// What starts every command: it ends with the thread that started it, however that ends.
    launcher: Vec<String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Rig {
    /// No store yet.
    pub fn bare() -> Self {
        let launcher = ["setpriv", "--pdeathsig", "KILL"].map(str::to_owned).to_vec();
        Self { folder: tempfile::tempdir().unwrap(), server: None, spare: None, launcher }
    }

    /// Commands have at most so many descriptors from now on.
    pub fn limit_descriptors(&mut self, count: u32) {
        let limit = format!("--nofile={count}:{count}");
        self.launcher.extend(["prlimit".to_owned(), limit]);
    }

    /// What goes wrong with the store's device from now on, in servers started after the first
    /// call, too: see `bough_blockstore::FaultyDevice`.
    pub fn goes_wrong(&self, rules: &str) {
        use std::os::unix::fs::FileExt;
        rules.parse::<FaultRules>().unwrap();
        let mut options = std::fs::File::options();
        let file = options.create(true).truncate(false).write(true).open(self.faults()).unwrap();
        // In one go: the server reads it at any time.
        file.write_all_at(format!("{rules:1024}").as_bytes(), 0).unwrap();
    }

    fn faults(&self) -> PathBuf {
        self.path("store/faults")
    }

    /// An empty store.
    pub fn new() -> Self {
        let rig = Self::bare();
        rig.ok(&["init", "--size", "1G"]);
        rig
    }

    /// An empty store, served or not.
    pub fn in_mode(served: bool) -> Self {
        let mut rig = Self::new();
        if served {
            rig.serve();
        }
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn control_socket(&self) -> PathBuf {
        self.path("run/control")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.launcher[0]);
        command.args(&self.launcher[1..]).arg(env!("CARGO_BIN_EXE_bough"));
        if self.faults().exists() {
            command.env("BOUGH_FAULTS", self.faults());
        }
        command.env("BOUGH_STORE", self.path("store"));
        command.env("BOUGH_SOCKET_DIR", self.path("run"));
        command.env_remove("NOTIFY_SOCKET").env_remove("BOUGH_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn bough(&self, args: &[&str]) -> Done {
        let output = self.command().args(args).output().unwrap();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must succeed, and returns what it prints.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.bough(args);
        assert_eq!(done.code, 0, "bough {args:?}: {done:?}");
        done.out
    }

    /// Runs a command that must succeed, and returns its JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], args].concat())).unwrap()
    }

    /// Runs a command that must fail, and returns what it complains of.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> String {
        let done = self.bough(args);
        assert_eq!(done.code, 1, "bough {args:?}: {done:?}");
        assert_eq!(done.out, "", "a command that fails prints nothing on stdout");
        done.err
    }

    /// The names of all disks.
    #[track_caller]
    pub fn disks(&self) -> Vec<String> {
        let disks = self.json(&["list"]);
        let names = disks.as_array().unwrap().iter().map(|disk| disk["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    /// Starts a server and waits until it says that it is ready.
    #[track_caller]
    pub fn serve(&mut self) {
        self.serve_with(&[]);
    }

    #[track_caller]
    pub fn serve_with(&mut self, args: &[&str]) {
        self.server = Some(self.start_server(args, "READY=1"));
    }

    /// Has a double of systemd start the server, with what it holds.
    pub fn serve_under(&mut self, manager: &Manager, args: &[&str]) {
        let mut command = self.command();
        command.args(["serve", "--reactors", "2", "--memory", "64M"]).args(args);
        if let Some(mut dead) = self.server.take() {
            dead.wait().unwrap();
        }
        self.server = Some(manager.start(&command));
    }

    /// Starts a spare and waits until it holds what the server has.
    #[track_caller]
    pub fn stand_by(&mut self) {
        // The server may say that it is ready just now, too: to whoever listens there.
        self.stand_by_with(&[]);
    }

    pub fn stand_by_with(&mut self, args: &[&str]) {
        let args = [&["--spare"], args].concat();
        self.spare = Some(self.start_server(&args, "STATUS=standing by"));
    }

    fn start_server(&self, args: &[&str], awaited: &str) -> Child {
        let notify = self.path("notify");
        let _ = std::fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"));
        let mut command = self.command();
        command.arg("serve").args(["--reactors", "2"]).args(args);
        if !args.contains(&"--memory") {
            command.args(["--memory", "64M"]);
        }
        command.env("NOTIFY_SOCKET", &notify).stderr(log.unwrap());
        let mut server = command.spawn().unwrap();
        let begun = std::time::Instant::now();
        let mut message = [0; 64];
        let mut said = |ready: &UnixDatagram| {
            let count = ready.recv(&mut message).unwrap_or(0);
            String::from_utf8_lossy(&message[..count]).contains(awaited)
        };
        while !said(&ready) {
            let ended = server.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended with {ended:?}: {}", self.log());
            assert!(begun.elapsed() < PATIENCE, "the server is not ready: {}", self.log());
        }
        server
    }

    /// The server was killed or stopped: the spare is the server now.
    pub fn succeed(&mut self) {
        let mut dead = std::mem::replace(&mut self.server, self.spare.take()).unwrap();
        dead.wait().unwrap();
    }

    /// What servers have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.server_pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Stops the server as a service manager does; it must end well.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal("-TERM");
        let status = self.server.take().unwrap().wait().unwrap();
        assert!(status.success(), "the server ended with {status}: {}", self.log());
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.server.take().unwrap().wait().unwrap();
    }

    /// Sends bytes to the control socket and returns what comes back.
    pub fn control_raw(&self, bytes: &[u8]) -> String {
        use std::io::Write;
        let mut socket = UnixStream::connect(self.control_socket()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = socket.write_all(bytes);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // The spare first: it would take over.
        for server in [&mut self.spare, &mut self.server].into_iter().flatten() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Runs another program that must succeed.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program} does not run ({error}); `cargo xtask test` installs what tests need")
    });
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A raw image: some data, some zeros written out, a hole, and data at the very end.
pub fn write_sample(path: &Path, size_bytes: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size_bytes).unwrap();
    for (index, at) in [0, 3 << 20, (9 << 20) + 512, size_bytes - 1024].into_iter().enumerate() {
        let length = if at == size_bytes - 1024 { 1024 } else { 100_000 };
        let byte = |i: usize| u8::try_from((i * 31 + index * 7 + i / 251) % 255 + 1).unwrap();
        let data: Vec<u8> = (0..length).map(byte).collect();
        file.write_all_at(&data, at).unwrap();
    }
    file.write_all_at(&[0; 300_000], 5 << 20).unwrap();
}

/// Bytes that no zero detection makes smaller.
pub fn write_noise(rig: &Rig, name: &str, length: usize) {
    let byte = |i: usize| u8::try_from((i / 4096 * 7 + i * 13) % 251 + 1).unwrap();
    let bytes: Vec<u8> = (0..length).map(byte).collect();
    std::fs::write(rig.path(name), bytes).unwrap();
}

/// Whether two files hold the same bytes.
pub fn same_bytes(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}

/// How much of a file its file system keeps.
pub fn kept_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}
