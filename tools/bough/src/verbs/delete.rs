//! `bough delete DISK[@SNAP]...`

use std::collections::BTreeMap;
use std::process::ExitCode;

use bough_radix::DeleteReport;
use bough_server::Delete as Request;

use crate::cli::Delete;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Delete, session: &mut Session) -> Result<ExitCode, Failure> {
    let Delete { names, recursive, dry_run } = args;
    let request = Request { names, recursive, dry_run };
    let report: DeleteReport = session.backend.post("/v1/delete", &request).await?;
    let output = session.output;
    output.print(&report, |report| {
        let (verb, release) =
            if dry_run { ("would delete", "would release") } else { ("deleted", "releases") };
        let deleted = summary(&report.deleted).into_iter().map(|what| format!("{verb} {what}\n"));
        let released = output.size(report.released_bytes);
        deleted.chain([format!("{release} {released}")]).collect()
    })?;
    if !dry_run {
        session.backend.free_deleted(report.released_bytes).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each disk, with how many snapshots it takes along, and for each snapshot of a disk
/// that stays.
fn summary(deleted: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> =
        deleted.iter().filter(|name| !name.contains('@')).map(|disk| (disk.as_str(), 0)).collect();
    for name in deleted {
        if let Some((disk, _)) = name.split_once('@')
            && let Some(count) = counts.get_mut(disk)
        {
            *count += 1;
        }
    }
    let line = |name: &String| match name.split_once('@') {
        Some((disk, _)) => (!counts.contains_key(disk)).then(|| name.clone()),
        None => Some(match counts.get(name.as_str()) {
            None | Some(0) => name.clone(),
            Some(1) => format!("{name} and its snapshot"),
            Some(count) => format!("{name} and its {count} snapshots"),
        }),
    };
    deleted.iter().filter_map(line).collect()
}
