//! An engine in this process, on a file: what the questions of scale are asked of.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bough_blockstore::{BlockCount, OpenMode, Runtime, UringDevice, UringRuntime};
use bough_radix::{Disk, Engine, EngineConfig};

use crate::figures::{median, micros};

/// What the engine may use for caches and overlays.
const MEMORY_BYTES: u64 = 64 << 20;
/// How long a closed engine may linger.
const PATIENCE: Duration = Duration::from_secs(30);
/// The block size of every read and write here.
pub const BLOCK: usize = 4096;

/// Where a store is.
#[derive(Clone, Debug)]
pub struct Bed {
    pub folder: PathBuf,
}

impl Bed {
    /// Another one in a new folder inside this one.
    pub fn within(&self, name: &str) -> Result<Self> {
        let folder = self.folder.join(name);
        std::fs::create_dir(&folder)?;
        Ok(Self { folder })
    }

    fn blocks(&self) -> PathBuf {
        self.folder.join("blocks")
    }

    fn holder(&self) -> PathBuf {
        self.folder.join("LOCK")
    }

    /// A new store. Runs on a reactor, as all here.
    pub async fn create(&self, bytes: u64) -> Result<Engine> {
        {
            let blocks = BlockCount(bytes / 4096);
            let device = UringDevice::create(&self.blocks(), blocks, &self.holder())?;
            Engine::format(Arc::new(device), Arc::new(UringRuntime)).await?;
        }
        self.open().await
    }

    /// As [`Self::open`], after an engine of this process has been closed: the last of its tasks
    /// may keep the device for a while. Returns how long the opening itself took.
    pub async fn reopen(&self) -> Result<(Engine, Duration)> {
        let first = Instant::now();
        loop {
            let begun = Instant::now();
            match self.open().await {
                Ok(engine) => return Ok((engine, begun.elapsed())),
                Err(error) if first.elapsed() > PATIENCE => return Err(error),
                Err(_) => UringRuntime.sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Opens and recovers the store.
    pub async fn open(&self) -> Result<Engine> {
        let device = UringDevice::open(&self.blocks(), OpenMode::ReadWrite, &self.holder())?;
        let config = EngineConfig::with_memory(MEMORY_BYTES);
        Ok(Engine::open(Arc::new(device), Arc::new(UringRuntime), config).await?)
    }
}

/// Bytes of this process that are in memory.
pub fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Writes one block.
pub async fn write_block(disk: &Arc<Disk>, block: u64, word: u64) -> Result<()> {
    let mark = word.to_le_bytes();
    disk.write(block * 4096, BLOCK, &mut |_, piece| {
        piece.chunks_exact_mut(8).for_each(|to| to.copy_from_slice(&mark));
    })
    .await?;
    Ok(())
}

/// Reads one block and forgets it.
pub async fn read_block(disk: &Arc<Disk>, block: u64) -> Result<()> {
    Ok(disk.read(block * 4096, BLOCK, &mut |_, _| {}).await?)
}

/// The median time of `count` runs of an operation, in microseconds.
pub async fn timed<F>(count: u64, mut operation: impl FnMut(u64) -> F) -> Result<f64>
where
    F: Future<Output = Result<()>>,
{
    let mut times = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        operation(number).await?;
        times.push(micros(begun.elapsed()));
    }
    Ok(median(&mut times))
}
