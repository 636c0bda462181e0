//! `bough scrub`: exit status 0 all well, 1 could not, 2 damaged.

use std::process::ExitCode;

use axum::body::Body;
use axum::http::Method;
use bough_radix::CheckReport;
use bough_server::{Scrub as Request, ScrubEvent};

use super::check;
use crate::backend::{CommandError, Ndjson};
use crate::cli::Scrub;
use crate::failure::Failure;
use crate::output::Progress;
use crate::session::Session;

pub async fn run(args: Scrub, session: &mut Session) -> Result<ExitCode, Failure> {
    let request = Request { bytes_per_second: args.rate.map(|rate| rate.0) };
    let body = serde_json::to_vec(&request).map_err(std::io::Error::other)?;
    let response = session.backend.request(Method::POST, "/v1/scrub", Body::from(body)).await?;
    let report = follow(Ndjson::new(response)).await?;
    session.output.print(&report, |report| check::text(report, "read and verified"))?;
    Ok(check::exit_code(&report))
}

async fn follow(mut events: Ndjson) -> Result<CheckReport, CommandError> {
    let mut progress: Option<Progress> = None;
    loop {
        match events.next::<ScrubEvent>().await? {
            ScrubEvent::Progress { done_bytes, total_bytes } => {
                progress.get_or_insert_with(|| Progress::new(total_bytes)).at(done_bytes);
            }
            ScrubEvent::Report(report) => return Ok(report),
            ScrubEvent::Error(detail) => return Err(CommandError::Refused(detail)),
        }
    }
}
