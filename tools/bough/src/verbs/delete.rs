//! `bough delete DISK[@SNAP]...`

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
        let deleted = report.deleted.iter().map(|name| format!("{verb} {name}\n"));
        let released = output.size(report.released_bytes);
        deleted.chain([format!("{release} {released}")]).collect()
    })?;
    if !dry_run {
        session.backend.free_deleted(report.released_bytes).await?;
    }
    Ok(ExitCode::SUCCESS)
}
