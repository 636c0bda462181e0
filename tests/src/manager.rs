//! A double of systemd, as far as a service sees it: it hears how the service is, holds descriptors
//! for it, and starts it again with them.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Where the first descriptor goes, as systemd has it.
const FIRST: usize = 3;
/// Where none of them is beforehand.
const ABOVE: i32 = 200;
/// However slow the machine is: this is no measurement.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
pub struct Manager {
    socket: PathBuf,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

/// What the service has said.
#[derive(Default)]
pub struct Heard {
    /// Held, by name.
    pub held: BTreeMap<String, OwnedFd>,
    /// How often it has said that it is ready.
    pub ready: u32,
    /// That it stops.
    pub stopping: u32,
    /// That it is alive.
    pub alive: u32,
}

impl Manager {
    /// Listens on a socket in this folder.
    pub fn new(folder: &Path) -> Self {
        let socket = folder.join("manager");
        let listener = UnixDatagram::bind(&socket).expect("a double works");
        let heard = Arc::new((Mutex::<Heard>::default(), Condvar::new()));
        let hearing = Arc::clone(&heard);
        thread::spawn(move || {
            loop {
                let (words, file) = receive(&listener);
                hearing.0.lock().expect("a double works").note(&words, file);
                hearing.1.notify_all();
            }
        });
        Self { socket, heard }
    }

    /// Waits until the service has said what is asked for.
    pub fn wait_until<T>(&self, mut seen: impl FnMut(&Heard) -> Option<T>) -> T {
        let mut heard = self.heard.0.lock().expect("a double works");
        loop {
            if let Some(found) = seen(&heard) {
                return found;
            }
            let waited = self.heard.1.wait_timeout(heard, PATIENCE).expect("a double works");
            assert!(!waited.1.timed_out(), "the service never said it");
            heard = waited.0;
        }
    }

    /// Loses descriptors whose names contain this.
    pub fn lose(&self, part: &str) {
        self.heard.0.lock().expect("a double works").held.retain(|name, _| !name.contains(part));
    }

    /// Starts the service with what is held for it, and waits until it is ready.
    pub fn start(&self, service: &Command) -> Child {
        let heard = self.heard.0.lock().expect("a double works");
        let before = heard.ready;
        let mut passed = Vec::new();
        for (name, file) in &heard.held {
            let copy = rustix::io::fcntl_dupfd_cloexec(file, ABOVE).expect("a double works");
            rustix::io::fcntl_setfd(&copy, FdFlags::empty()).expect("a double works");
            passed.push((name.clone(), copy));
        }
        drop(heard);
        let mut child = self.command(service, &passed).spawn().expect("a double works");
        drop(passed);
        self.wait_until(|heard| {
            let ended = child.try_wait().expect("a double works");
            assert!(ended.is_none(), "the service ended with {ended:?}");
            (heard.ready > before).then_some(())
        });
        child
    }

    /// The shell puts descriptors where systemd has them, and says its own process's number, which is
    /// the service's later.
    fn command(&self, service: &Command, passed: &[(String, OwnedFd)]) -> Command {
        use std::fmt::Write;
        let mut script = String::new();
        for (number, (_, file)) in passed.iter().enumerate() {
            let from = file.as_raw_fd();
            writeln!(script, "exec {}<&{from} {from}<&-", FIRST + number).expect("a double works");
        }
        script.push_str("export LISTEN_PID=$$; exec \"$@\"");
        let names: Vec<_> = passed.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]).arg(service.get_program()).args(service.get_args());
        for (name, value) in service.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("NOTIFY_SOCKET", &self.socket).env("FDSTORE", "1000");
        command.env("LISTEN_FDS", passed.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command.env("WATCHDOG_USEC", "400000");
        command.stdin(Stdio::null());
        command
    }
}

impl Heard {
    fn note(&mut self, words: &str, file: Option<OwnedFd>) {
        let name = words.lines().find_map(|line| line.strip_prefix("FDNAME=")).map(str::to_owned);
        for line in words.lines() {
            match line {
                "READY=1" => self.ready += 1,
                "STOPPING=1" => self.stopping += 1,
                "WATCHDOG=1" => self.alive += 1,
                "FDSTOREREMOVE=1" => drop(self.held.remove(name.as_ref().expect("a double works"))),
                _ => {}
            }
        }
        if let (Some(file), Some(name)) = (file, name) {
            self.held.entry(name).or_insert(file);
        }
    }
}

fn receive(listener: &UnixDatagram) -> (String, Option<OwnedFd>) {
    let mut bytes = [0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(listener, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        .expect("a double works");
    let mut file = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut rights) = message {
            file = rights.next();
        }
    }
    (String::from_utf8_lossy(&bytes[..received.bytes]).into_owned(), file)
}
