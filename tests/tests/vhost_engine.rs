//! The engine's disks, as a guest sees them: a store in a file, the io_uring reactor, a driver.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bough_blockstore::{
    BlockCount, Reactor, ReactorConfig, ReactorHandle, UringDevice, UringRuntime,
};
use bough_radix::{Disk, Engine, EngineConfig, Limits, VersionName};
use bough_server::{Buffers, Doors, Export, ExportOptions, Throttle};
use bough_tests::vhost::{
    DISCARD, Driver, FLUSH, FrontEnd, READ, WRITE, features, protocol, request,
};

const DISK_BYTES: u64 = 8 << 20;

struct Store {
    engine: Engine,
    disk: Arc<Disk>,
    reactor: ReactorHandle,
    folder: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let reactor = Reactor::start("test", ReactorConfig::default()).unwrap();
        let blocks = folder.path().join("blocks");
        let lock = folder.path().join("lock");
        let device = UringDevice::create(&blocks, BlockCount::covering(512 << 20), &lock).unwrap();
        let device: Arc<UringDevice> = Arc::new(device);
        let (engine, disk) = reactor
            .block_on(move || async move {
                let runtime = Arc::new(UringRuntime);
                Engine::format(device.clone(), runtime.clone()).await.unwrap();
                let engine = Engine::open(device, runtime, EngineConfig::default()).await.unwrap();
                let name = "web".parse().unwrap();
                engine.create_disk(&name, DISK_BYTES).await.unwrap();
                let disk = engine.disk(&name).await.unwrap();
                (engine, disk)
            })
            .unwrap();
        Self { engine, disk, reactor, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("web.sock")
    }

    fn offer(&self) -> Export {
        let path = self.socket();
        let listener = UnixListener::bind(&path).unwrap();
        let options = ExportOptions {
            name: "web".into(),
            queues: 1,
            read_only: false,
            serial: [0; 20],
            buffers: Arc::new(Buffers::new(1 << 20)),
            waiting: None,
            throttle: Arc::new(Throttle::new(Limits::NONE)),
            meter: Arc::default(),
            vault: Arc::default(),
            doors: Doors::new().expect("a thread"),
        };
        let disk = Arc::clone(&self.disk);
        Export::start(disk, listener, path, options, self.reactor.clone()).unwrap()
    }

    /// Has the engine do something, on its reactor.
    fn engine<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(&Engine) -> T + Send + 'static,
    ) -> T {
        let engine = self.engine.clone();
        self.reactor.block_on(move || async move { work(&engine).await }).unwrap()
    }
}

fn running(path: &Path) -> (FrontEnd, Driver) {
    let front = FrontEnd::connect(path, Driver::memory_bytes(1));
    front.negotiate(features::USUAL, protocol::ALL);
    front.share(0, Driver::memory_bytes(1));
    let driver = Driver::new(0);
    driver.set_up(&front);
    (front, driver)
}

#[test]
fn a_guest_reads_back_what_it_wrote_discarded_and_never_touched() {
    let store = Store::new();
    let _export = store.offer();
    let (front, mut driver) = running(&store.socket());
    let data: Vec<u8> = (0..4096u32).map(|at| u8::try_from(at % 253).unwrap()).collect();
    assert_eq!(driver.carry_out(&front, READ, 0, &[7; 512]), (0, vec![0; 512]));
    assert_eq!(driver.carry_out(&front, WRITE, 3, &data).0, 0, "across two blocks");
    assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
    assert_eq!(driver.carry_out(&front, READ, 3, &[0; 4096]), (0, data));
    let mut range = 3u64.to_le_bytes().to_vec();
    range.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.carry_out(&front, DISCARD, 0, &range).0, 0);
    assert_eq!(driver.carry_out(&front, READ, 3, &[9; 1024]), (0, vec![0; 1024]));
    assert_eq!(driver.carry_out(&front, WRITE, DISK_BYTES / 512, &[1; 512]).0, 1);
}

#[test]
fn a_snapshot_holds_what_was_answered_and_the_guest_goes_on() {
    let store = Store::new();
    let _export = store.offer();
    let (front, mut driver) = running(&store.socket());
    assert_eq!(driver.carry_out(&front, WRITE, 8, &[1; 4096]).0, 0);
    store.engine(async |engine| {
        engine.snapshot(&["web@then".parse().unwrap()]).await.unwrap();
    });
    assert_eq!(driver.carry_out(&front, WRITE, 8, &[2; 4096]).0, 0);
    let then = store.engine(async |engine| {
        let version: VersionName = "web@then".parse().unwrap();
        let mut bytes = vec![0; 4096];
        engine.reader(&version).await.unwrap().read(4096, &mut bytes).await.unwrap();
        bytes
    });
    assert_eq!(then, [1; 4096]);
    assert_eq!(driver.carry_out(&front, READ, 8, &[0; 4096]), (0, vec![2; 4096]));
}

#[test]
fn a_resize_is_seen_by_the_guest_while_it_runs() {
    let store = Store::new();
    let _export = store.offer();
    let (front, mut driver) = running(&store.socket());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    front.must(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]);
    store.engine(async |engine| {
        engine.resize(&"web".parse().unwrap(), DISK_BYTES * 2, false).await.unwrap();
    });
    ours.read_exact(&mut [0; 12]).unwrap();
    assert_eq!(front.config(8), (DISK_BYTES * 2 / 512).to_le_bytes());
    assert_eq!(driver.carry_out(&front, WRITE, DISK_BYTES / 512, &[1; 512]).0, 0);
}

#[test]
fn a_second_writer_is_refused_by_name_wherever_it_comes_from() {
    let store = Store::new();
    let export = store.offer();
    let (front, mut driver) = running(&store.socket());
    let second = FrontEnd::connect(&store.socket(), 4096);
    assert!(second.is_cut_off());
    let fault = export.last_fault().expect("a refusal").to_string();
    assert!(fault.contains("is in use by"), "{fault}");
    assert!(fault.contains(&std::process::id().to_string()), "names the holder: {fault}");
    assert_eq!(driver.carry_out(&front, FLUSH, 0, &[]).0, 0);
}
