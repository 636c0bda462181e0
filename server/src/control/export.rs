//! Export: a version as a stream of frames, holes kept.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bough_blockstore::{to_u64, to_usize};
use bough_radix::{Extent, ExtentKind, Reader, VersionName};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::context::Control;
use super::error::ApiError;
use super::extract::Place;
use super::frames::{FRAME_MAX_BYTES, FRAMES_MEDIA_TYPE, Frame, SIZE_HEADER};
use super::stream::Gone;

/// How far ahead the map of data and holes is looked up.
const WINDOW_BYTES: u64 = 1 << 30;
/// Reads under way at once.
const READS: usize = 4;

/// The answer begins once the version is found and frozen; a failure after that is its last frame.
pub async fn export(
    State(control): State<Arc<Control>>,
    Place(version): Place<VersionName>,
) -> Result<Response, ApiError> {
    let (frames, receiver) = mpsc::channel(READS);
    let (begun, begin) = oneshot::channel();
    let engine = control.store().engine().clone();
    control.store().reactor().spawn(move || {
        Box::pin(async move {
            match engine.reader(&version).await {
                Err(error) => drop(begun.send(Err(ApiError::from(error)))),
                Ok(reader) => {
                    let _ = begun.send(Ok(reader.size_bytes()));
                    send_all(&reader, &frames).await;
                }
            }
        })
    });
    let size_bytes = begin.await.map_err(|_| ApiError::Stopping)??;
    let headers = [
        (header::CONTENT_TYPE.as_str(), FRAMES_MEDIA_TYPE.to_owned()),
        (SIZE_HEADER, size_bytes.to_string()),
    ];
    Ok((headers, Body::from_stream(body(receiver))).into_response())
}

fn body(
    receiver: mpsc::Receiver<Frame>,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    let frames = stream::unfold(receiver, |mut receiver| async {
        let frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    let pieces = frames.flat_map(|frame| stream::iter(frame.encode()));
    pieces.filter(|piece| std::future::ready(!piece.is_empty())).map(Ok)
}

async fn send_all(reader: &Reader, frames: &mpsc::Sender<Frame>) {
    let size_bytes = reader.size_bytes();
    let mut from = 0;
    while from < size_bytes {
        let window = from..size_bytes.min(from + WINDOW_BYTES);
        from = window.end;
        match send_window(reader, window, frames).await {
            Ok(Ok(())) => {}
            Ok(Err(Gone)) => return,
            Err(error) => {
                let message = ApiError::from(error).detail().message;
                let _ = frames.send(Frame::Failed { message }).await;
                return;
            }
        }
    }
    let _ = frames.send(Frame::End { size_bytes }).await;
}

async fn send_window(
    reader: &Reader,
    window: std::ops::Range<u64>,
    frames: &mpsc::Sender<Frame>,
) -> Result<Result<(), Gone>, bough_radix::EngineError> {
    let mut extents = Vec::new();
    reader.extents(window, &mut |extent| extents.push(extent)).await?;
    let pieces = stream::iter(extents.into_iter().flat_map(pieces));
    let mut read = pieces.map(|piece| read_piece(reader, piece)).buffered(READS);
    while let Some(frame) = read.try_next().await? {
        if frames.send(frame).await.is_err() {
            return Ok(Err(Gone));
        }
    }
    Ok(Ok(()))
}

/// Data in pieces that fit a frame; a hole is one frame however long.
fn pieces(extent: Extent) -> Vec<Extent> {
    if extent.kind == ExtentKind::Zero {
        return vec![extent];
    }
    let step = to_usize(FRAME_MAX_BYTES);
    let starts = (0..extent.length_bytes).step_by(step);
    let piece = |from: u64| Extent {
        start_bytes: extent.start_bytes + from,
        length_bytes: FRAME_MAX_BYTES.min(extent.length_bytes - from),
        kind: extent.kind,
    };
    starts.map(piece).collect()
}

async fn read_piece(reader: &Reader, piece: Extent) -> Result<Frame, bough_radix::EngineError> {
    let offset_bytes = piece.start_bytes;
    if piece.kind == ExtentKind::Zero {
        return Ok(Frame::Zero { offset_bytes, length_bytes: piece.length_bytes });
    }
    let mut data = vec![0; to_usize(piece.length_bytes)];
    reader.read(offset_bytes, &mut data).await?;
    debug_assert_eq!(to_u64(data.len()), piece.length_bytes);
    Ok(Frame::Data { offset_bytes, data: Bytes::from(data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_cut_to_frames_without_a_gap_and_holes_stay_whole() {
        let data = Extent {
            start_bytes: 512,
            length_bytes: 2 * FRAME_MAX_BYTES + 1024,
            kind: ExtentKind::Data,
        };
        let cut = pieces(data);
        assert_eq!(cut.len(), 3);
        assert_eq!(cut[0].start_bytes, 512);
        for pair in cut.windows(2) {
            assert_eq!(pair[0].start_bytes + pair[0].length_bytes, pair[1].start_bytes);
        }
        assert_eq!(cut[2].length_bytes, 1024);
        let hole = Extent { kind: ExtentKind::Zero, length_bytes: 1 << 50, ..data };
        assert_eq!(pieces(hole), [hole]);
    }
}
