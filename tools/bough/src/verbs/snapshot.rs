//! `bough snapshot DISK@NAME...`

use std::process::ExitCode;

use bough_radix::VersionInfo;
use bough_server::TakeSnapshots;

use crate::cli::Snapshot;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Snapshot, session: &mut Session) -> Result<ExitCode, Failure> {
    let request = TakeSnapshots { names: args.names };
    let taken: Vec<VersionInfo> = session.backend.post("/v1/snapshots", &request).await?;
    session.output.print(&taken, |taken| {
        taken.iter().map(|version| format!("took {}", version.name)).collect::<Vec<_>>().join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}
