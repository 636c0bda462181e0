//! A store, opened: its reactors, its device and its engine.
//!
//! I own the order in which these come and go. One process holds a store: the device's own lock
//! decides, and the lock file only says who.

use std::future::Future;
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bough_blockstore::{
    BLOCK_BYTES_U64, BlockCount, Device, Holder, OpenError, OpenMode, Reactor, ReactorConfig,
    ReactorHandle, UringDevice, UringRuntime,
};
use bough_radix::{
    DiskName, Engine, EngineConfig, EngineError, Progress, RepairMode, RepairReport, SalvageReport,
    Tails, VersionName,
};
use rustix::fs::OFlags;

use crate::folder::{FolderError, StoreFolder};

/// Of a device, what `init` looks at before it overwrites it.
const PROBE_BYTES: u64 = 1 << 20;

/// Why a store could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its blocks, or who holds them.
    #[error(transparent)]
    Device(#[from] OpenError),
    /// The engine.
    #[error("the store in '{folder}': {source}")]
    Engine {
        /// The folder.
        folder: PathBuf,
        /// What the engine found.
        source: EngineError,
    },
    /// A device that has something on it.
    #[error(
        "'{device}' is not empty; if nothing on it is needed, run \
         `bough init --device {device} --force`"
    )]
    NotEmpty {
        /// The device.
        device: PathBuf,
    },
    /// Not a device.
    #[error("'{device}' is not a block device; for a file, run `bough init --size SIZE`")]
    NotADevice {
        /// As given.
        device: PathBuf,
    },
    /// A file or device that does not answer.
    #[error("'{path}': {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No reactor thread.
    #[error("no io_uring here ({0}); a Linux with io_uring, not forbidden to this user, is needed")]
    Reactor(#[source] std::io::Error),
    /// A reactor ended under us.
    #[error("a reactor thread ended; report the panic that the log shows")]
    ReactorGone,
}

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Bound on overlay, caches and buffers.
    pub memory_bytes: u64,
    /// Reactor threads.
    pub reactor_count: usize,
}

/// Where a new store keeps its blocks.
#[derive(Clone, Debug)]
pub enum NewBlocks {
    /// In a file in its folder.
    File {
        /// How large, at most.
        size_bytes: u64,
    },
    /// On a device.
    Device {
        /// Its path.
        path: PathBuf,
        /// Whatever is on it.
        force: bool,
    },
}

/// A store, opened and recovered. It must be [closed](OpenStore::close); just dropping it is what a
/// crash is.
pub struct OpenStore {
    folder: StoreFolder,
    blocks: PathBuf,
    identity: Option<Identity>,
    engine: Engine,
    reactors: Reactors,
}

/// Which file or device a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Identity {
    File { device: u64, inode: u64 },
    Device(u64),
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(if metadata.file_type().is_block_device() {
            // Device nodes may be made anew.
            Self::Device(metadata.rdev())
        } else {
            Self::File { device: metadata.dev(), inode: metadata.ino() }
        })
    }
}

/// What opening a store needs and the store does not: it can be there before.
pub struct Warm {
    reactors: Reactors,
    options: OpenOptions,
    tails: Option<Arc<dyn Tails>>,
}

impl Warm {
    /// Starts the reactors.
    pub fn up(options: OpenOptions) -> Result<Self, StoreError> {
        Ok(Self { reactors: Reactors::start(options.reactor_count)?, options, tails: None })
    }

    /// With what a successor is to know of logs, and what we know of a dead server's.
    pub fn with_tails(self, tails: Arc<dyn Tails>) -> Self {
        Self { tails: Some(tails), ..self }
    }

    /// The reactors.
    pub fn reactors(&self) -> &[ReactorHandle] {
        &self.reactors.0
    }
}

/// Locks the store in `folder`.
pub fn lock(folder: &StoreFolder) -> Result<UringDevice, StoreError> {
    Ok(UringDevice::open(&folder.blocks()?, OpenMode::ReadWrite, &folder.lock_path())?)
}

/// Waits until nobody has the store in `folder`, and locks it. Blocks its thread.
pub fn lock_when_free(folder: &StoreFolder) -> Result<UringDevice, StoreError> {
    Ok(UringDevice::open_when_free(&folder.blocks()?, &folder.lock_path())?)
}

/// The threads that do all I/O.
struct Reactors(Vec<ReactorHandle>);

impl Reactors {
    fn start(count: usize) -> Result<Self, StoreError> {
        let start = |index| Reactor::start(&format!("reactor-{index}"), ReactorConfig::default());
        let started = (0..count.max(1)).map(start).collect::<Result<_, _>>();
        started.map(Self).map_err(StoreError::Reactor)
    }

    fn first(&self) -> &ReactorHandle {
        &self.0[0]
    }

    async fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.first().call(work).await.map_err(|_| StoreError::ReactorGone)
    }

    /// Ends them all, and with them all I/O.
    fn stop(&self) {
        self.0.iter().for_each(ReactorHandle::stop);
        for reactor in &self.0 {
            if reactor.join().is_err() {
                tracing::error!("a reactor thread ended by a panic");
            }
        }
    }
}

impl OpenStore {
    /// Locks, opens and recovers the store in `folder`.
    pub async fn open(folder: StoreFolder, options: OpenOptions) -> Result<Self, StoreError> {
        let device = lock(&folder)?;
        Self::open_on(device, folder, Warm::up(options)?).await
    }

    /// Opens and recovers the store on a device that is locked already.
    pub async fn open_on(
        device: UringDevice,
        folder: StoreFolder,
        warm: Warm,
    ) -> Result<Self, StoreError> {
        let blocks = folder.blocks()?;
        let identity = Identity::of(&blocks);
        let Warm { reactors, options, tails } = warm;
        Holder::this_process()
            .write(&folder.lock_path())
            .map_err(|source| StoreError::Io { path: folder.lock_path(), source })?;
        let device: Arc<dyn Device> = Arc::new(device);
        #[cfg(feature = "faults")]
        let device = bough_blockstore::FaultyDevice::around(device);
        let config = EngineConfig { tails, ..EngineConfig::with_memory(options.memory_bytes) };
        let opened = reactors
            .run(move || async move { Engine::open(device, Arc::new(UringRuntime), config).await });
        let fault = |source| StoreError::Engine { folder: folder.path().to_owned(), source };
        let engine = opened.await?.map_err(fault)?;
        let store = Self { folder, blocks, identity, engine, reactors };
        crate::control::sweep(&store).await;
        Ok(store)
    }

    /// Tells whoever finds the store held where its server listens.
    pub fn announce(&self, control_socket: PathBuf) -> Result<(), StoreError> {
        let path = self.folder.lock_path();
        let holder = Holder { control_socket: Some(control_socket), ..Holder::this_process() };
        holder.write(&path).map_err(|source| StoreError::Io { path, source })
    }

    /// The engine; its futures run on reactors only.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The reactor for whatever belongs to no disk.
    pub fn reactor(&self) -> &ReactorHandle {
        self.reactors.first()
    }

    /// All reactors.
    pub fn reactors(&self) -> &[ReactorHandle] {
        &self.reactors.0
    }

    /// The folder.
    pub fn folder(&self) -> &StoreFolder {
        &self.folder
    }

    /// The block file or device.
    pub fn blocks(&self) -> &Path {
        &self.blocks
    }

    /// What the block file takes on the host's file system; none for a device.
    pub fn host_bytes(&self) -> Option<u64> {
        let metadata = std::fs::metadata(&self.blocks).ok()?;
        metadata.file_type().is_file().then(|| metadata.blocks() * 512)
    }

    /// What is wrong with the name of the blocks, if anything is. Our descriptor goes on working,
    /// but whoever comes after us would find nothing, or something else.
    pub fn misplaced_blocks(&self) -> Option<String> {
        if Identity::of(&self.blocks) == self.identity {
            return None;
        }
        Some(format!(
            "'{}' was removed or replaced under the server, which goes on with what it was; nobody \
             else can open that: before the server ends, stop the guests, copy the file back from \
             /proc/{}/fd, then restart the server",
            self.blocks.display(),
            std::process::id()
        ))
    }

    /// Frees what was deleted and gives it back to the host, now: for a process that ends too soon
    /// for that to happen by itself. Interrupted, it goes on whenever the store is open.
    pub async fn free_deleted(&self) -> Result<(), StoreError> {
        let engine = self.engine.clone();
        let freed = self.reactors.run(move || async move { engine.drain_reclaim().await }).await?;
        freed.map_err(|source| self.engine_error(source))
    }

    /// Bytes that disks and snapshots use.
    pub async fn used_bytes(&self) -> Result<u64, StoreError> {
        let engine = self.engine.clone();
        let status = self.reactors.run(move || async move { engine.status().await }).await?;
        Ok(status.map_err(|source| self.engine_error(source))?.used_bytes)
    }

    /// Makes the disk `name` of what can be read of `source`.
    pub async fn salvage(
        &self,
        source: VersionName,
        name: DiskName,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<SalvageReport, StoreError> {
        let engine = self.engine.clone();
        let work = move || async move { engine.salvage(&source, &name, &mut progress).await };
        let salvaged = self.reactors.run(work).await?;
        salvaged.map_err(|source| self.engine_error(source))
    }

    fn engine_error(&self, source: EngineError) -> StoreError {
        StoreError::Engine { folder: self.folder.path().to_owned(), source }
    }

    /// Checkpoints and ends all I/O. The store is free for others once this value, or the process, has
    /// gone.
    pub async fn close(&self) -> Result<(), StoreError> {
        let engine = self.engine.clone();
        let closed = self.reactors.run(move || async move { engine.close().await }).await?;
        self.reactors.stop();
        closed.map_err(|source| self.engine_error(source))
    }
}

/// Puts right what can be of a store that nobody else has open, or says what that would be.
pub async fn repair_store(
    folder: &StoreFolder,
    options: OpenOptions,
    mode: RepairMode,
    mut progress: impl FnMut(Progress) + Send + 'static,
) -> Result<RepairReport, StoreError> {
    let device = lock(folder)?;
    let Warm { reactors, options, .. } = Warm::up(options)?;
    Holder::this_process()
        .write(&folder.lock_path())
        .map_err(|source| StoreError::Io { path: folder.lock_path(), source })?;
    let config = EngineConfig::with_memory(options.memory_bytes);
    let work = move || async move {
        let (device, runtime) = (Arc::new(device), Arc::new(UringRuntime));
        Engine::repair(device, runtime, config, mode, &mut progress).await
    };
    let repaired = reactors.run(work).await?;
    reactors.stop();
    let folder = folder.path().to_owned();
    repaired.map_err(|source| StoreError::Engine { folder, source })
}

/// Makes a store in `folder`.
pub async fn create_store(folder: &StoreFolder, blocks: NewBlocks) -> Result<(), StoreError> {
    folder.prepare()?;
    let lock = folder.lock_path();
    let device = match &blocks {
        NewBlocks::File { size_bytes } => {
            let size = BlockCount(size_bytes / BLOCK_BYTES_U64);
            UringDevice::create(&folder.new_blocks()?, size, &lock)?
        }
        NewBlocks::Device { path, force } => {
            clear_device(path, *force)?;
            UringDevice::open(path, OpenMode::ReadWrite, &lock)?
        }
    };
    format(folder, Arc::new(device)).await?;
    match &blocks {
        NewBlocks::File { .. } => folder.adopt_blocks()?,
        NewBlocks::Device { path, .. } => folder.adopt_device(path)?,
    }
    Ok(())
}

async fn format(folder: &StoreFolder, device: Arc<dyn Device>) -> Result<(), StoreError> {
    let reactors = Reactors::start(1)?;
    let formatted =
        reactors.run(move || async move { Engine::format(device, Arc::new(UringRuntime)).await });
    let formatted = formatted.await?;
    reactors.stop();
    let folder = folder.path().to_owned();
    formatted.map_err(|source| StoreError::Engine { folder, source })
}

/// Refuses a device with something at its start, or wipes that when told to: the engine would find an
/// old store there.
fn clear_device(path: &Path, force: bool) -> Result<(), StoreError> {
    let fault = |source| StoreError::Io { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(fault)?;
    if !metadata.file_type().is_block_device() {
        return Err(StoreError::NotADevice { device: path.to_owned() });
    }
    let mut options = std::fs::OpenOptions::new();
    // Exclusive, of a device: not while it is mounted.
    let flags = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
    let device = options.read(true).write(true).custom_flags(flags).open(path).map_err(fault)?;
    let mut start = Vec::new();
    (&device).take(PROBE_BYTES).read_to_end(&mut start).map_err(fault)?;
    if start.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    if !force {
        return Err(StoreError::NotEmpty { device: path.to_owned() });
    }
    start.fill(0);
    device.write_all_at(&start, 0).and_then(|()| device.sync_all()).map_err(fault)
}
