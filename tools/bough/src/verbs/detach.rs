//! `bough detach DISK`

use std::process::ExitCode;

use axum::body::Body;
use axum::http::Method;
use serde::Serialize;

use crate::cli::Detach;
use crate::failure::Failure;
use crate::session::Session;

#[derive(Serialize)]
struct Detached {
    disk: String,
}

pub async fn run(args: Detach, session: &mut Session) -> Result<ExitCode, Failure> {
    let path = format!("/v1/disks/{}/attachment?force={}", args.disk, args.force);
    session.backend.request(Method::DELETE, &path, Body::empty()).await?;
    let detached = Detached { disk: args.disk.to_string() };
    session.output.print(&detached, |detached| format!("detached {}", detached.disk))?;
    Ok(ExitCode::SUCCESS)
}
