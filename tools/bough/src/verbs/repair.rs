//! `bough repair`: what a store needs that nobody serves; and salvage.

use std::process::ExitCode;

use bough_blockstore::OpenError;
use bough_radix::{
    DiskName, Progress as Done, RepairMode, RepairReport, SalvageReport, VersionName,
};
use bough_server::{OpenOptions, OpenStore, StoreError, repair_store};

use super::check;
use crate::cli::{Global, Repair};
use crate::failure::Failure;
use crate::output::{Output, Progress};
use crate::session;

/// Something could not be read.
const LOST: u8 = 2;
const MEMORY_BYTES: u64 = 256 << 20;

pub async fn run(args: Repair, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    match (args.salvage, args.name) {
        (Some(source), Some(name)) => salvage(source, name, global, output).await,
        _ => {
            let mode = if args.dry_run { RepairMode::Show } else { RepairMode::Mend };
            repair(mode, global, output).await
        }
    }
}

async fn repair(mode: RepairMode, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let done = repair_store(&session::folder(global), options(), mode, bar()).await;
    let report = done.map_err(while_served)?;
    output.print(&report, text)?;
    Ok(check::exit_code(&report.left))
}

async fn salvage(
    source: VersionName,
    name: DiskName,
    global: &Global,
    output: Output,
) -> Result<ExitCode, Failure> {
    let store = OpenStore::open(session::folder(global), options()).await.map_err(while_served)?;
    let salvaged = store.salvage(source.clone(), name, bar()).await;
    let closed = store.close().await;
    let report = salvaged?;
    closed?;
    output.print(&report, |report| salvage_text(&source, report, output))?;
    Ok(if report.lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LOST) })
}

fn options() -> OpenOptions {
    OpenOptions { memory_bytes: MEMORY_BYTES, reactor_count: 1 }
}

fn bar() -> impl FnMut(Done) + Send + 'static {
    let mut bar: Option<Progress> = None;
    move |done: Done| {
        bar.get_or_insert_with(|| Progress::new(done.total_bytes)).at(done.done_bytes);
    }
}

fn while_served(error: StoreError) -> Failure {
    match error {
        StoreError::Device(source @ OpenError::InUse { .. }) => Failure::Served { source },
        other => other.into(),
    }
}

fn text(report: &RepairReport) -> String {
    let verb = if report.is_dry_run { "would mend" } else { "mended" };
    let mut lines: Vec<String> =
        report.mended.iter().map(|finding| format!("{verb}: {}", check::line(finding))).collect();
    lines.push(format!("{verb} {}", report.mended.len()));
    lines.push(check::text(&report.left, "accounted for"));
    lines.join("\n")
}

fn salvage_text(source: &VersionName, report: &SalvageReport, output: Output) -> String {
    let mut lines: Vec<String> = report.lost.iter().map(check::lost_line).collect();
    lines.push(format!(
        "salvaged {} of {source} as {}: {} lost",
        output.size(report.data_bytes),
        report.disk.name,
        output.size(report.lost_bytes)
    ));
    lines.join("\n")
}
