//! `bough grow SIZE`

use std::process::ExitCode;

use bough_radix::StoreStatus;
use bough_server::Grow as Request;

use crate::cli::Grow;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Grow, session: &mut Session) -> Result<ExitCode, Failure> {
    let request = Request { size_bytes: args.size.0 };
    let store: StoreStatus = session.backend.post("/v1/grow", &request).await?;
    let output = session.output;
    output.print(&store, |store| format!("the store is now {}", output.size(store.size_bytes)))?;
    Ok(ExitCode::SUCCESS)
}
