//! `bough create NAME SIZE`

use std::process::ExitCode;

use bough_radix::DiskInfo;
use bough_server::CreateDisk;

use crate::cli::Create;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Create, session: &mut Session) -> Result<ExitCode, Failure> {
    let request = CreateDisk { name: args.name, size_bytes: args.size.0 };
    let made: DiskInfo = session.backend.post("/v1/disks", &request).await?;
    let output = session.output;
    output.print(&made, |disk| {
        format!("created {}, {}", disk.name, output.size(disk.head.size_bytes))
    })?;
    Ok(ExitCode::SUCCESS)
}
