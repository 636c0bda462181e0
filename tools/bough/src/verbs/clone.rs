//! `bough clone SRC[@SNAP] NAME...`

use std::process::ExitCode;

use bough_radix::DiskInfo;
use bough_server::CloneDisks;

use crate::cli::Clone;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Clone, session: &mut Session) -> Result<ExitCode, Failure> {
    let request = CloneDisks { source: args.source, names: args.names };
    let made: Vec<DiskInfo> = session.backend.post("/v1/clones", &request).await?;
    let line = |disk: &DiskInfo| {
        let origin = disk.origin.as_deref().unwrap_or("(deleted)");
        format!("cloned {origin} to {}", disk.name)
    };
    session.output.print(&made, |made| made.iter().map(line).collect::<Vec<_>>().join("\n"))?;
    Ok(ExitCode::SUCCESS)
}
