//! `bough set DISK`: limits.

use std::process::ExitCode;

use bough_radix::{DiskInfo, Limits, LimitsChange};

use crate::cli::Set;
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

pub async fn run(args: Set, session: &mut Session) -> Result<ExitCode, Failure> {
    let path = format!("/v1/disks/{}/limits", args.disk);
    let change = LimitsChange {
        iops: args.iops,
        bandwidth_bytes: args.bandwidth,
        burst_seconds: args.burst,
    };
    let disk: DiskInfo = session.backend.post(&path, &change).await?;
    let output = session.output;
    output.print(&disk, |disk| match &disk.limits {
        Some(limits) => format!("{} is limited to {}", disk.name, text(limits, output)),
        None => format!("{} has no limits", disk.name),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Limits in words.
pub fn text(limits: &Limits, output: Output) -> String {
    let iops = limits.iops.map(|iops| format!("{iops} operations"));
    let bandwidth = limits.bandwidth_bytes.map(|bytes| output.size(bytes));
    let rates: Vec<String> = iops.into_iter().chain(bandwidth).collect();
    let seconds = limits.burst_seconds;
    format!("{} a second, saved up for {seconds} s", rates.join(" and "))
}
