//! `bough rename A B`

use std::process::ExitCode;

use bough_server::Rename as Request;

use crate::cli::Rename;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Rename, session: &mut Session) -> Result<ExitCode, Failure> {
    let request = Request { from: args.from, to: args.to };
    session.backend.post::<_, ()>("/v1/rename", &request).await?;
    session
        .output
        .print(&request, |request| format!("renamed {} to {}", request.from, request.to))?;
    Ok(ExitCode::SUCCESS)
}
