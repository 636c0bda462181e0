//! `bough export DISK[@SNAP] FILE`: receives the stream and writes with the caller's rights.

use std::process::ExitCode;

use axum::body::Body;
use axum::http::{Method, Response};
use bough_server::{ErrorDetail, Frame, FrameDecoder, SIZE_HEADER};
use futures_util::StreamExt;
use serde::Serialize;

use crate::backend::CommandError;
use crate::cli::Export;
use crate::failure::Failure;
use crate::image::{Target, TargetOptions, create};
use crate::output::Progress;
use crate::session::Session;

#[derive(Serialize)]
struct Exported {
    version: String,
    file: String,
    size_bytes: u64,
    data_bytes: u64,
}

pub async fn run(args: Export, session: &mut Session) -> Result<ExitCode, Failure> {
    let path = format!("/v1/versions/{}/content", args.version);
    let response = session.backend.request(Method::GET, &path, Body::empty()).await?;
    let size_bytes = announced_size(&response)?;
    let options = TargetOptions { format: args.format, size_bytes, replace: args.force };
    let mut target = create(&args.file, options)?;
    let data_bytes = receive(response, &mut target, size_bytes).await?;
    target.finish()?;
    let exported = Exported {
        version: args.version.to_string(),
        file: args.file.display().to_string(),
        size_bytes,
        data_bytes,
    };
    let output = session.output;
    output.print(&exported, |exported| {
        let (size, data) = (output.size(size_bytes), output.size(data_bytes));
        format!("exported {} to {}: {size}, {data} of data", exported.version, exported.file)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn announced_size(response: &Response<Body>) -> Result<u64, CommandError> {
    let header = response.headers().get(SIZE_HEADER);
    let size = header.and_then(|value| value.to_str().ok()?.parse().ok());
    size.ok_or(CommandError::CutOff)
}

/// Writes all that comes, and returns how much of it was data.
async fn receive(
    response: Response<Body>,
    target: &mut Target,
    size_bytes: u64,
) -> Result<u64, Failure> {
    let mut body = response.into_body().into_data_stream();
    let mut decoder = FrameDecoder::default();
    let mut progress = Progress::new(size_bytes);
    let mut data_bytes = 0;
    loop {
        while let Some(frame) = decoder.next_frame().map_err(|_| CommandError::CutOff)? {
            match frame {
                Frame::Data { offset_bytes, data } => {
                    target.write(offset_bytes, &data)?;
                    data_bytes += bough_blockstore::to_u64(data.len());
                    progress.at(offset_bytes);
                }
                Frame::Zero { offset_bytes, length_bytes } => {
                    target.write_zeros(offset_bytes, length_bytes)?;
                    progress.at(offset_bytes);
                }
                Frame::End { size_bytes: end } if end == size_bytes => return Ok(data_bytes),
                Frame::End { .. } => return Err(CommandError::CutOff.into()),
                Frame::Failed { message } => {
                    let detail = ErrorDetail { kind: "corrupt".into(), message };
                    return Err(CommandError::Refused(detail).into());
                }
            }
        }
        let bytes = body.next().await.ok_or(CommandError::CutOff)?.map_err(CommandError::Body)?;
        decoder.feed(&bytes);
    }
}
