//! `bough import FILE NAME`: opens the image with the caller's rights and streams it.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use bough_server::{FRAMES_MEDIA_TYPE, Imported};

use crate::backend::{Backend, CommandError, error_from};
use crate::cli::Import;
use crate::failure::Failure;
use crate::image::{ImageError, Upload, open, upload};
use crate::output::{Output, Progress};
use crate::session::Session;

/// The label of the snapshot that `--template` takes.
const TEMPLATE_LABEL: &str = "base";
const PROGRESS_STEP: Duration = Duration::from_millis(200);
const ANSWER_MAX_BYTES: usize = 1 << 20;

pub async fn run(args: Import, session: &mut Session) -> Result<ExitCode, Failure> {
    let (file, format) = (args.file.clone(), args.format);
    let opened = tokio::task::spawn_blocking(move || open(&file, format)).await;
    let image = opened.map_err(|_| gave_up(&args))??;
    let size_bytes = image.size_bytes();
    let mut path = format!("/v1/imports?name={}&size_bytes={size_bytes}", args.name);
    if args.template {
        path.push_str(&format!("&template={TEMPLATE_LABEL}"));
    }
    let Upload { body, done_bytes, ended } = upload(image);
    let sending = send(&mut session.backend, &path, body);
    tokio::pin!(sending);
    let mut progress = Progress::new(size_bytes);
    let sent = loop {
        tokio::select! {
            sent = &mut sending => break sent,
            () = tokio::time::sleep(PROGRESS_STEP) => {
                progress.at(done_bytes.load(Ordering::Relaxed));
            }
        }
    };
    drop(progress);
    // Our own reader's error is the cause of whatever the server says about a stream that failed.
    if sent.is_err() && ended.is_finished() {
        ended.await.map_err(|_| gave_up(&args))??;
    }
    let imported = sent?;
    let output = session.output;
    output.print(&imported, |imported| text(imported, &args.file.display().to_string(), output))?;
    Ok(ExitCode::SUCCESS)
}

/// A format's driver panicked: no image of ours, then, and no disk.
fn gave_up(args: &Import) -> ImageError {
    let what = "its tables cannot be";
    ImageError::Damaged { path: args.file.clone(), what }
}

async fn send(backend: &mut Backend, path: &str, body: Body) -> Result<Imported, CommandError> {
    let request = Request::post(path)
        .header(header::HOST, "bough")
        .header(header::CONTENT_TYPE, FRAMES_MEDIA_TYPE)
        .body(body)
        .expect("names are safe in paths");
    let response = backend.call(request).await?;
    if !response.status().is_success() {
        return Err(error_from(response).await);
    }
    let body = to_bytes(response.into_body(), ANSWER_MAX_BYTES).await;
    serde_json::from_slice(&body.map_err(CommandError::Body)?).map_err(CommandError::Answer)
}

fn text(imported: &Imported, file: &str, output: Output) -> String {
    let head = &imported.disk.head;
    let mut text = format!(
        "imported {file} as {}: {}, {} of data",
        imported.disk.name,
        output.size(head.size_bytes),
        output.size(imported.data_bytes)
    );
    if let Some(template) = &imported.template {
        text.push_str(&format!("\nsealed {} as a template", template.name));
    }
    text
}
