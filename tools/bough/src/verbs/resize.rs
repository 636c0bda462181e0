//! `bough resize DISK SIZE`

use std::process::ExitCode;

use bough_radix::DiskInfo;
use bough_server::Resize as Request;

use crate::cli::Resize;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Resize, session: &mut Session) -> Result<ExitCode, Failure> {
    let path = format!("/v1/disks/{}/resize", args.disk);
    let request = Request { size_bytes: args.size.0, shrink: args.shrink };
    let disk: DiskInfo = session.backend.post(&path, &request).await?;
    let output = session.output;
    output.print(&disk, |disk| {
        format!("{} is now {}", disk.name, output.size(disk.head.size_bytes))
    })?;
    Ok(ExitCode::SUCCESS)
}
