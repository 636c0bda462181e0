//! A disk in memory, offered on a socket, with everything torn down at the end.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bough_blockstore::{Reactor, ReactorConfig, ReactorHandle};
use bough_radix::Limits;
use bough_server::{Buffers, Doors, Export, ExportOptions, SERIAL_BYTES, Throttle};

use crate::vhost::{Driver, FrontEnd, MemoryDisk, protocol};

/// The serial number that rigs give their disks.
pub const SERIAL: [u8; SERIAL_BYTES] = *b"a-serial-number\0\0\0\0\0";

/// See the module.
pub struct Rig {
    /// The disk.
    pub disk: Arc<MemoryDisk>,
    /// Where it is offered.
    pub path: PathBuf,
    export: Option<Export>,
    reactor: ReactorHandle,
    options: ExportOptions,
}

impl Rig {
    /// Offers a disk of 1 MiB.
    pub fn new(queues: u16, read_only: bool) -> Self {
        Self::build(fresh_path(), queues, read_only, start_reactor())
    }

    /// Offers one on this path, its requests held from the first one on, or not.
    pub fn at(path: PathBuf, held: bool) -> Self {
        Self::build_with(path, options(1, false), start_reactor(), held)
    }

    /// Offers one whose requests wait when it is full, with so much memory for all requests.
    pub fn patient(memory_bytes: u64) -> Self {
        let (buffers, waiting) = (Arc::new(Buffers::new(memory_bytes)), Some(Arc::default()));
        let options = ExportOptions { buffers, waiting, ..options(1, false) };
        Self::build_with(fresh_path(), options, start_reactor(), false)
    }

    /// Offers another one of another name, with the same memory and on the same reactor.
    pub fn neighbour(&self) -> Self {
        let options = ExportOptions {
            name: "neighbour".into(),
            throttle: unlimited(),
            ..self.options.clone()
        };
        Self::build_with(fresh_path(), options, self.reactor.clone(), false)
    }

    /// How many of the disk's requests wait for room.
    pub fn waiting(&self) -> u64 {
        let lines = self.options.waiting.as_ref().expect("a patient rig");
        lines.of(&self.options.name).map_or(0, |waiting| waiting.requests)
    }

    /// Returns when so many wait.
    pub fn wait_for_waiting(&self, count: u64) {
        while self.waiting() != count {
            std::thread::yield_now();
        }
    }

    /// Offers another one, served by the same reactor, with the same room for requests.
    pub fn beside(other: &Self, queues: u16, read_only: bool) -> Self {
        let buffers = Arc::clone(&other.options.buffers);
        let options = ExportOptions { buffers, ..options(queues, read_only) };
        Self::build_with(fresh_path(), options, other.reactor.clone(), false)
    }

    /// Offers one with no more room than for one request at a time.
    pub fn cramped() -> Self {
        let options = ExportOptions { buffers: Arc::new(Buffers::new(1)), ..options(1, false) };
        Self::build_with(fresh_path(), options, start_reactor(), false)
    }

    /// Limits what may be asked of the disk from now on.
    pub fn limit(&self, limits: Limits) {
        self.options.throttle.set(limits);
    }

    fn build(path: PathBuf, queues: u16, read_only: bool, reactor: ReactorHandle) -> Self {
        Self::build_with(path, options(queues, read_only), reactor, false)
    }

    fn build_with(
        path: PathBuf,
        options: ExportOptions,
        reactor: ReactorHandle,
        held: bool,
    ) -> Self {
        let disk = Arc::new(MemoryDisk::new(1 << 20));
        disk.hold(held);
        let mut rig = Self { disk, path, export: None, reactor, options };
        rig.offer();
        rig
    }

    /// Offers the disk.
    pub fn offer(&mut self) {
        let _ = std::fs::remove_file(&self.path); // a killed server's
        let listener = UnixListener::bind(&self.path).expect("a socket");
        let (disk, path, options) =
            (Arc::clone(&self.disk), self.path.clone(), self.options.clone());
        let export = Export::start(disk, listener, path, options, self.reactor.clone());
        self.export = Some(export.expect("an export"));
    }

    /// Offers it no more; what is under way has ended when this returns.
    pub fn withdraw(&mut self) {
        self.export = None;
    }

    /// What offers it.
    pub fn export(&self) -> &Export {
        self.export.as_ref().expect("the disk is offered")
    }

    /// A front end with memory for so many queues.
    pub fn front_end(&self, queues: u32) -> FrontEnd {
        FrontEnd::connect(&self.path, Driver::memory_bytes(queues))
    }

    /// A front end and the driver of its only queue, running.
    pub fn running(&self, features: u64) -> (FrontEnd, Driver) {
        let front = self.front_end(1);
        front.negotiate(features, protocol::ALL);
        front.share(0, Driver::memory_bytes(1));
        let driver = Driver::new(0);
        driver.set_up(&front);
        (front, driver)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.disk.hold(false);
        self.withdraw();
    }
}

fn options(queues: u16, read_only: bool) -> ExportOptions {
    ExportOptions {
        name: "disk".into(),
        queues,
        read_only,
        serial: SERIAL,
        buffers: Arc::new(Buffers::new(16 << 20)),
        throttle: unlimited(),
        meter: Arc::default(),
        waiting: None,
        vault: Arc::default(),
        doors: Doors::new().expect("a thread"),
    }
}

fn unlimited() -> Arc<Throttle> {
    Arc::new(Throttle::new(Limits::NONE))
}

fn fresh_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("bough-test-{}-{number}.sock", std::process::id()))
}

fn start_reactor() -> ReactorHandle {
    Reactor::start("test", ReactorConfig::default()).expect("a reactor")
}
