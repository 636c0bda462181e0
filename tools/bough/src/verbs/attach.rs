//! `bough attach DISK`: prints the socket and nothing else, for scripts.

use std::process::ExitCode;

use axum::http::Method;
use bough_radix::Attachment;
use bough_server::Attached;

use crate::cli::Attach;
use crate::failure::Failure;
use crate::session::Session;

pub async fn run(args: Attach, session: &mut Session) -> Result<ExitCode, Failure> {
    let path = format!("/v1/disks/{}/attachment", args.disk);
    let attachment = Attachment { queues: args.queues, read_only: args.read_only };
    let attached: Attached = session.backend.send(Method::PUT, &path, &attachment).await?;
    session.output.print(&attached, |attached| attached.socket.display().to_string())?;
    if !session.backend.is_served() {
        eprintln!("bough: remembered; no server serves this store yet: run `bough serve`");
    }
    Ok(ExitCode::SUCCESS)
}
