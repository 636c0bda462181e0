//! `bough rollback DISK@SNAP`

use std::process::ExitCode;

use bough_radix::RollbackReport;
use bough_server::RollBack;

use crate::cli::Rollback;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Rollback, session: &mut Session) -> Result<ExitCode, Failure> {
    let request = RollBack { snapshot: args.snapshot, dry_run: args.dry_run };
    let done: RollbackReport = session.backend.post("/v1/rollback", &request).await?;
    let output = session.output;
    output.print(&done, |done| {
        let dropped = output.size(done.dropped_bytes);
        if args.dry_run {
            format!("rolling {} back to {} would drop {dropped}", done.disk, done.snapshot)
        } else {
            format!("rolled {} back to {}; dropped {dropped}", done.disk, done.snapshot)
        }
    })?;
    if !args.dry_run {
        session.backend.free_deleted(done.dropped_bytes).await?;
    }
    Ok(ExitCode::SUCCESS)
}
