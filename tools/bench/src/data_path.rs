//! Guest I/O, Bough beside qemu-storage-daemon's qcow2 export (or another build of itself), in
//! interleaved rounds.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::client::{Client, Kind, Length, Order, Workload};
use crate::figures::median;
use crate::peers::Peer;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub disk_bytes: u64,
    pub rounds: usize,
    pub each: Duration,
}

/// One row of the table: medians.
#[derive(Debug, Serialize)]
pub struct Row {
    pub workload: String,
    pub unit: &'static str,
    pub bough: f64,
    pub peer: f64,
    /// The median of the rounds' ratios.
    pub ratio: f64,
    /// Processor time of the server for each operation, in microseconds.
    pub bough_cpu_us: f64,
    pub peer_cpu_us: f64,
}

/// Random writes before and after a snapshot.
#[derive(Debug, Serialize)]
pub struct AfterSnapshot {
    pub before_iops: f64,
    pub after_iops: f64,
    pub ratio: f64,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct DataPath {
    pub disk_bytes: u64,
    pub rounds: usize,
    pub seconds_each: f64,
    pub bough_command: String,
    pub peer_command: String,
    pub rows: Vec<Row>,
    /// Where all rows were asked for.
    pub after_snapshot: Option<AfterSnapshot>,
}

const fn small(kind: Kind, depth: usize, flush_every: Option<u64>) -> Workload {
    Workload { kind, order: Order::Random, block_bytes: 4096, depth, flush_every }
}

const fn large(kind: Kind) -> Workload {
    let order = Order::Sequential;
    Workload { kind, order, block_bytes: 1 << 20, depth: 8, flush_every: None }
}

/// The sequential rows come first, on disks that were filled from end to end; random writes
/// then scatter the blocks of a log, which the last row shows.
const ROWS: [(&str, Workload); 8] = [
    ("read 1M QD8", large(Kind::Read)),
    ("write 1M QD8", large(Kind::Write)),
    ("randread 4k QD1", small(Kind::Read, 1, None)),
    ("randread 4k QD32", small(Kind::Read, 32, None)),
    ("randwrite 4k QD1", small(Kind::Write, 1, None)),
    ("randwrite 4k QD32", small(Kind::Write, 32, None)),
    ("randwrite 4k QD32, flush every 32", small(Kind::Write, 32, Some(32))),
    ("read 1M QD8, overwritten at random", large(Kind::Read)),
];

struct Sample {
    rate: f64,
    cpu_us: f64,
}

struct Subject {
    peer: Peer,
    client: Client,
}

impl Subject {
    fn of(peer: Peer) -> Result<Self> {
        let client = Client::connect(&peer.socket)?;
        Ok(Self { peer, client })
    }

    fn measure(&mut self, workload: Workload, each: Duration) -> Result<Sample> {
        let cpu = self.peer.cpu_seconds()?;
        let outcome = self.client.run(workload, Length::For(each))?;
        let cpu = self.peer.cpu_seconds()? - cpu;
        let operations = f64::from(u32::try_from(outcome.operations)?);
        Ok(Sample { rate: operations / outcome.seconds, cpu_us: cpu * 1e6 / operations.max(1.0) })
    }
}

/// Fills both disks and measures every row whose name contains `row`, in turns: beside
/// qemu-storage-daemon, or beside the build of Bough that is given as `against`.
pub fn measure(
    bough: &Path,
    against: Option<&Path>,
    folder: &Path,
    row: &str,
    extent: Extent,
) -> Result<DataPath> {
    let mut peer = match against {
        None => better_qemu(folder, extent)?,
        Some(other) => other_build(other, &folder.join("against"), extent)?,
    };
    let mut ours = Subject::of(Peer::bough(bough, folder, extent.disk_bytes, 4)?)?;
    ours.client.fill()?;
    let mut rows = Vec::new();
    for (name, workload) in ROWS.into_iter().filter(|(name, _)| name.contains(row)) {
        rows.push(measure_row(name, workload, &mut ours, &mut peer, extent)?);
    }
    let after_snapshot = row.is_empty().then(|| after_snapshot(&mut ours, extent)).transpose()?;
    Ok(DataPath {
        disk_bytes: extent.disk_bytes,
        rounds: extent.rounds,
        seconds_each: extent.each.as_secs_f64(),
        bough_command: ours.peer.command_line.clone(),
        peer_command: peer.peer.command_line.clone(),
        rows,
        after_snapshot,
    })
}

/// The peer with whichever way of asynchronous I/O does more of the rows at depth 32.
fn better_qemu(folder: &Path, extent: Extent) -> Result<Subject> {
    let mut best: Option<(f64, &str)> = None;
    for aio in ["native", "io_uring"] {
        let mut subject = Subject::of(Peer::qemu(folder, extent.disk_bytes, aio)?)?;
        if best.is_none() {
            subject.client.fill()?;
        }
        let reads = subject.measure(small(Kind::Read, 32, None), extent.each)?.rate;
        let writes = subject.measure(small(Kind::Write, 32, None), extent.each)?.rate;
        eprintln!("qemu-storage-daemon, aio={aio}: {reads:.0} reads/s, {writes:.0} writes/s");
        if best.is_none_or(|(rate, _)| reads * writes > rate) {
            best = Some((reads * writes, aio));
        }
    }
    let aio = best.map_or("native", |(_, aio)| aio);
    Subject::of(Peer::qemu(folder, extent.disk_bytes, aio)?)
}

fn other_build(bough: &Path, folder: &Path, extent: Extent) -> Result<Subject> {
    std::fs::create_dir(folder)?;
    let mut subject = Subject::of(Peer::bough(bough, folder, extent.disk_bytes, 4)?)?;
    subject.client.fill()?;
    Ok(subject)
}

fn measure_row(
    name: &str,
    workload: Workload,
    ours: &mut Subject,
    peer: &mut Subject,
    extent: Extent,
) -> Result<Row> {
    let (mut us, mut them, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut our_cpu, mut their_cpu) = (Vec::new(), Vec::new());
    for _ in 0..extent.rounds {
        let theirs = peer.measure(workload, extent.each)?;
        let own = ours.measure(workload, extent.each)?;
        us.push(own.rate);
        them.push(theirs.rate);
        ratios.push(own.rate / theirs.rate);
        our_cpu.push(own.cpu_us);
        their_cpu.push(theirs.cpu_us);
    }
    // A megabyte an operation: the rate is MiB/s.
    let unit = if workload.block_bytes == 4096 { "IOPS" } else { "MiB/s" };
    let row = Row {
        workload: name.to_owned(),
        unit,
        bough: median(&mut us),
        peer: median(&mut them),
        ratio: median(&mut ratios),
        bough_cpu_us: median(&mut our_cpu),
        peer_cpu_us: median(&mut their_cpu),
    };
    eprintln!("{name}: {:.0} beside {:.0} {unit} ({:.2})", row.bough, row.peer, row.ratio);
    Ok(row)
}

fn after_snapshot(ours: &mut Subject, extent: Extent) -> Result<AfterSnapshot> {
    let writes = small(Kind::Write, 32, None);
    let (mut before, mut after, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..extent.rounds {
        let first = ours.measure(writes, extent.each)?.rate;
        let snapshot = format!("d@s{round}");
        ours.peer.run(&["snapshot", &snapshot])?;
        let second = ours.measure(writes, extent.each)?.rate;
        // Many rounds would fill the store.
        ours.peer.run(&["delete", &snapshot])?;
        before.push(first);
        after.push(second);
        ratios.push(second / first);
    }
    Ok(AfterSnapshot {
        before_iops: median(&mut before),
        after_iops: median(&mut after),
        ratio: median(&mut ratios),
    })
}
