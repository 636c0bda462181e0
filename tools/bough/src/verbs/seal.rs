//! `bough seal DISK@SNAP` and `bough unseal DISK@SNAP`

use std::process::ExitCode;

use bough_radix::VersionInfo;
use bough_server::SetSealed;

use crate::cli::Seal;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Seal, sealed: bool, session: &mut Session) -> Result<ExitCode, Failure> {
    let request = SetSealed { snapshot: args.snapshot, sealed };
    let version: VersionInfo = session.backend.post("/v1/seal", &request).await?;
    session.output.print(&version, |version| {
        format!("{} {}", if sealed { "sealed" } else { "unsealed" }, version.name)
    })?;
    Ok(ExitCode::SUCCESS)
}
