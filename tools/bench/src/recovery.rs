//! How long a killed server's successor takes to replay what no checkpoint has merged, by how much
//! that is; and how long a store with very many disks and snapshots takes to open.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bough_radix::{DiskName, Engine, SnapshotName};
use serde::Serialize;

use crate::bed::{Bed, write_block};
use crate::client::{Client, Kind, Length, Order, Workload};
use crate::figures::{median, micros};
use crate::peers::Store;

/// What is written, and how: every block of the disk once. With the 64 MiB of memory that the
/// benchmark gives a server, 512 MiB are as much as it leaves unmerged.
const LOADS: [(&str, u64, Workload); 4] = [
    ("4 KiB at depth 1", 64 << 20, writes(4096, 1, Order::Random)),
    ("4 KiB at depth 32", 256 << 20, writes(4096, 32, Order::Random)),
    ("1 MiB at depth 8", 256 << 20, writes(1 << 20, 8, Order::Sequential)),
    ("1 MiB at depth 8", 448 << 20, writes(1 << 20, 8, Order::Sequential)),
];
const PATIENCE: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 64;

const fn writes(block_bytes: usize, depth: usize, order: Order) -> Workload {
    Workload { kind: Kind::Write, order, block_bytes, depth, flush_every: None }
}

/// One row: medians of the rounds.
#[derive(Debug, Serialize)]
pub struct Row {
    pub load: &'static str,
    pub written_bytes: u64,
    /// What was replayed of it; the rest a checkpoint had merged.
    pub records: u64,
    pub log_bytes: u64,
    /// From the start of the process to the first answer to a guest...
    pub served_ms: f64,
    /// ...and where there was nothing to replay.
    pub nothing_ms: f64,
    pub seconds_per_gib: f64,
}

/// How many of each there are in the store that is opened.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Crowd {
    pub disks: usize,
    pub snapshots: usize,
}

/// A store with a crowd in it.
#[derive(Debug, Serialize)]
pub struct Opening {
    pub crowd: Crowd,
    pub open_ms: f64,
}

/// Measures every load, each in a store of its own in `folder`.
pub fn measure(binary: &Path, folder: &Path, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (number, (load, written_bytes, workload)) in LOADS.into_iter().enumerate() {
        let (mut served, mut nothing) = (Vec::new(), Vec::new());
        let (mut records, mut log_bytes) = (0, 0);
        for round in 0..rounds {
            let folder = folder.join(format!("recovery-{number}-{round}"));
            std::fs::create_dir(&folder)?;
            let store = Store::create(binary, &folder, written_bytes, 4)?;
            nothing.push(Life::begin(&store, &folder)?.1);
            let (life, _) = Life::begin(&store, &folder)?;
            let mut client = Client::connect(&store.socket())?;
            client.run(workload, Length::WholeDisk)?;
            drop(life);
            let (life, took) = Life::begin(&store, &folder)?;
            served.push(took);
            records = life.replayed("records")?;
            log_bytes = life.replayed("blocks")? * 4096;
            drop(life);
            std::fs::remove_dir_all(&folder)?;
        }
        let (served_ms, nothing_ms) = (median(&mut served), median(&mut nothing));
        let gib = f64::from(u32::try_from(log_bytes >> 20)?) / 1024.0;
        let seconds_per_gib = (served_ms - nothing_ms) / 1e3 / gib;
        let row =
            Row { load, written_bytes, records, log_bytes, served_ms, nothing_ms, seconds_per_gib };
        eprintln!("{row:?}");
        rows.push(row);
    }
    Ok(rows)
}

/// A server; dropping it is `kill -9`.
struct Life {
    server: Child,
    log: PathBuf,
}

impl Life {
    /// Starts one; how long it takes until a guest is answered, in milliseconds.
    fn begin(store: &Store, folder: &Path) -> Result<(Self, f64)> {
        let log = folder.join("log");
        let begun = Instant::now();
        let server = store.serve().stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        let life = Self { server, log };
        loop {
            // Its predecessor's socket may lie there still.
            let answered = Client::connect(&store.socket()).and_then(|mut client| client.flush());
            match answered {
                Ok(()) => return Ok((life, micros(begun.elapsed()) / 1e3)),
                Err(error) if begun.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    }

    /// How much of something it replayed, by its log.
    fn replayed(&self, what: &str) -> Result<u64> {
        let log = std::fs::read_to_string(&self.log)?;
        let field = format!(" {what}=");
        let count = log.lines().find_map(|line| line.split_once(field.as_str()));
        let count = count.and_then(|(_, count)| count.split_whitespace().next());
        let Some(count) = count else { bail!("the server replayed nothing: {log}") };
        count.parse().context("a number in the server's log")
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Makes a crowd, each disk with data of its own, and opens the store anew. Runs on a reactor.
pub async fn open(bed: &Bed, crowd: Crowd) -> Result<Opening> {
    let engine = bed.create(256 << 30).await?;
    let names: Vec<DiskName> = (0..crowd.disks)
        .map(|number| format!("d{number}").parse())
        .collect::<Result<_, _>>()
        .context("a disk's name")?;
    for name in &names {
        engine.create_disk(name, 1 << 30).await?;
        write_block(&engine.disk(name).await?, 0, 1).await?;
    }
    snapshot_all(&engine, &names, crowd.snapshots).await?;
    engine.close().await?;
    drop(engine);
    let (engine, took) = bed.reopen().await?;
    engine.close().await?;
    let opening = Opening { crowd, open_ms: micros(took) / 1e3 };
    eprintln!("{opening:?}");
    Ok(opening)
}

async fn snapshot_all(engine: &Engine, names: &[DiskName], count: usize) -> Result<()> {
    for round in 0..count.div_ceil(names.len()) {
        let due = names.len().min(count - round * names.len());
        for some in names[..due].chunks(AT_ONCE) {
            let labels: Vec<SnapshotName> = some
                .iter()
                .map(|name| format!("{name}@s{round}").parse())
                .collect::<Result<_, _>>()
                .context("a snapshot's name")?;
            engine.snapshot(&labels).await?;
        }
    }
    Ok(())
}
