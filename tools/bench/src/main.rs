//! `cargo xtask bench`: how fast Bough is, beside a peer and against its own scale.

mod bed;
mod client;
mod data_path;
mod dice;
mod figures;
mod peers;
mod recovery;
mod report;
mod restart;
mod scale;
mod snapshots;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use bough_blockstore::{Reactor, ReactorConfig};
use clap::{Parser, ValueEnum};

use crate::bed::Bed;
use crate::report::{Machine, Report};

/// Measure Bough.
#[derive(Debug, Parser)]
struct Options {
    /// The `bough` to measure, built with optimisation
    #[arg(long, value_name = "FILE")]
    bough: PathBuf,
    /// Measure the data path beside this `bough` instead of qemu-storage-daemon
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Where the stores and images go, and are removed again
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    folder: PathBuf,
    /// Smaller disks, fewer rounds
    #[arg(long)]
    quick: bool,
    /// Print one JSON value instead of tables
    #[arg(long)]
    json: bool,
    /// Only these parts [default: all]
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Of the data path only the rows whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    row: String,
    /// Seconds of each measurement
    #[arg(long, value_name = "SECONDS")]
    each: Option<f64>,
    /// Rounds of each row
    #[arg(long)]
    rounds: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    DataPath,
    Snapshots,
    Scale,
    Restart,
    Recovery,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn each(&self) -> Duration {
        Duration::from_secs_f64(self.each.unwrap_or(if self.quick { 1.0 } else { 3.0 }))
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let folder = tempfile::Builder::new().prefix("bough-bench-").tempdir_in(&options.folder)?;
    let mut report = Report { machine: machine(folder.path()), ..Report::default() };
    if options.wants(Part::DataPath) {
        let extent = data_path::Extent {
            disk_bytes: if options.quick { 1 << 30 } else { 4 << 30 },
            rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 5 }),
            each: options.each(),
        };
        let (bough, against) = (&options.bough, options.against.as_deref());
        let measured = data_path::measure(bough, against, folder.path(), &options.row, extent)?;
        report.data_path = Some(measured);
    }
    let bed = |name: &str| -> Result<Bed> {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder)?;
        Ok(Bed { folder })
    };
    let reactor = Reactor::start("bench", ReactorConfig::default())?;
    if options.wants(Part::Snapshots) {
        let (bed, each) = (bed("snapshots")?, options.each());
        let rows = reactor.block_on(move || async move { snapshots::measure(&bed, each).await })?;
        report.snapshots = Some(rows?);
    }
    if options.wants(Part::Scale) {
        let beds = [bed("many")?, bed("clones")?, bed("deep")?];
        let limits = if options.quick {
            scale::Limits { snapshots: 10_000, clones: 1_000, depth: 100 }
        } else {
            scale::Limits { snapshots: 100_000, clones: 10_000, depth: 1_000 }
        };
        let scale = reactor.block_on(move || async move { scale::measure(beds, limits).await })?;
        report.scale = Some(scale?);
    }
    if options.wants(Part::Restart) {
        let kills = options.rounds.unwrap_or(if options.quick { 20 } else { 100 });
        report.restart = Some(restart::measure(&options.bough, folder.path(), kills)?);
    }
    if options.wants(Part::Recovery) {
        let rounds = options.rounds.unwrap_or(if options.quick { 3 } else { 5 });
        report.recovery = Some(recovery::measure(&options.bough, folder.path(), rounds)?);
        let crowd = if options.quick {
            recovery::Crowd { disks: 1_000, snapshots: 10_000 }
        } else {
            recovery::Crowd { disks: 10_000, snapshots: 100_000 }
        };
        let bed = bed("crowd")?;
        let opening = reactor.block_on(move || async move { recovery::open(&bed, crowd).await })?;
        report.opening = Some(opening?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report::render(&report));
    }
    Ok(())
}

fn machine(folder: &Path) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        processor: processor.unwrap_or("?").trim_start_matches(['\t', ' ', ':']).to_owned(),
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        qemu: first_line(Command::new("qemu-storage-daemon").arg("--version")),
        folder: folder.parent().unwrap_or(folder).display().to_string(),
        file_system: first_line(Command::new("stat").args(["-f", "-c", "%T"]).arg(folder)),
    }
}

fn first_line(command: &mut Command) -> String {
    let out = command.output().map(|out| out.stdout).unwrap_or_default();
    String::from_utf8_lossy(&out).lines().next().unwrap_or("?").to_owned()
}
