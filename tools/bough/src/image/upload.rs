//! An image as the stream of frames that an import wants.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use bough_blockstore::{to_u64, to_usize};
use bough_server::{FRAME_MAX_BYTES, Frame};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::{Image, ImageError};

/// Zeros are looked for in pieces as large as a block of the store.
const PIECE_BYTES: usize = 4096;
const SECTOR_BYTES: u64 = 512;
/// Frames read ahead.
const QUEUE_FRAMES: usize = 4;

/// An upload under way.
pub struct Upload {
    /// The body of the request.
    pub body: Body,
    /// How far the image has been read.
    pub done_bytes: Arc<AtomicU64>,
    /// How the reading ended; it may have ended early because nobody wanted the rest.
    pub ended: tokio::task::JoinHandle<Result<(), ImageError>>,
}

/// Begins to read `image` on a thread of its own.
pub fn upload(image: Box<dyn Image>) -> Upload {
    let (frames, receiver) = mpsc::channel(QUEUE_FRAMES);
    let done_bytes = Arc::new(AtomicU64::new(0));
    let reader = Reading { image, frames, done_bytes: Arc::clone(&done_bytes) };
    let ended = tokio::task::spawn_blocking(move || reader.run());
    let frames = stream::unfold(receiver, |mut receiver| async {
        let frame: Frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    let pieces = frames.flat_map(|frame| stream::iter(frame.encode()));
    let pieces = pieces.filter(|piece| std::future::ready(!piece.is_empty()));
    let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
    Upload { body, done_bytes, ended }
}

struct Reading {
    image: Box<dyn Image>,
    frames: mpsc::Sender<Frame>,
    done_bytes: Arc<AtomicU64>,
}

/// Nobody wants the rest.
struct Gone;

impl Reading {
    /// A failure is told to the receiver too, which would otherwise wait for an end that never comes.
    fn run(mut self) -> Result<(), ImageError> {
        match self.send_all() {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = error.to_string();
                let _ = self.frames.blocking_send(Frame::Failed { message });
                Err(error)
            }
        }
    }

    fn send_all(&mut self) -> Result<Result<(), Gone>, ImageError> {
        let size_bytes = self.image.size_bytes();
        let mut at = 0;
        while at < size_bytes {
            let mapped = self.image.map(at)?;
            let end = at.saturating_add(mapped.length_bytes.max(1)).min(size_bytes);
            // Whole sectors travel: zeros give up what they have of another's, data take it.
            let zeros_end = if end == size_bytes { end } else { end - end % SECTOR_BYTES };
            if mapped.zero && zeros_end > at {
                at = zeros_end;
            } else {
                let end = end.next_multiple_of(to_u64(PIECE_BYTES)).min(size_bytes);
                if let Err(Gone) = self.send_data(at, end)? {
                    return Ok(Err(Gone));
                }
                at = end;
            }
            self.done_bytes.store(at, Ordering::Relaxed);
        }
        Ok(self.frames.blocking_send(Frame::End { size_bytes }).map_err(|_| Gone))
    }

    fn send_data(&mut self, from: u64, to: u64) -> Result<Result<(), Gone>, ImageError> {
        let mut at = from;
        while at < to {
            let end = (at + 1).next_multiple_of(FRAME_MAX_BYTES).min(to);
            let mut data = vec![0; to_usize(end - at)];
            self.image.read(at, &mut data)?;
            let data = Bytes::from(data);
            for run in runs_of_data(&data) {
                let offset_bytes = at + to_u64(run.start);
                let frame = Frame::Data { offset_bytes, data: data.slice(run) };
                if self.frames.blocking_send(frame).is_err() {
                    return Ok(Err(Gone));
                }
            }
            at = end;
            self.done_bytes.store(at, Ordering::Relaxed);
        }
        Ok(Ok(()))
    }
}

/// The parts of `data`, in pieces, that are not all zeros.
fn runs_of_data(data: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, piece) in data.chunks(PIECE_BYTES).enumerate() {
        if piece.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = index * PIECE_BYTES;
        let end = start + piece.len();
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Mapped;
    use bough_server::FrameDecoder;

    /// An image that maps in awkward steps.
    struct Awkward {
        bytes: Vec<u8>,
        step: u64,
    }

    impl Image for Awkward {
        fn size_bytes(&self) -> u64 {
            to_u64(self.bytes.len())
        }

        fn map(&mut self, offset_bytes: u64) -> Result<Mapped, ImageError> {
            let end = (offset_bytes + self.step).min(self.size_bytes());
            let zero = self.bytes[to_usize(offset_bytes)..to_usize(end)].iter().all(|b| *b == 0);
            Ok(Mapped { zero, length_bytes: end - offset_bytes })
        }

        fn read(&mut self, offset_bytes: u64, out: &mut [u8]) -> Result<(), ImageError> {
            let from = to_usize(offset_bytes);
            out.copy_from_slice(&self.bytes[from..from + out.len()]);
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_sent_is_the_image_and_zeros_are_left_out() {
        let mut bytes = vec![0; 5 << 20];
        bytes[..100].fill(1);
        bytes[(2 << 20) - 700..(2 << 20) + 9000].fill(2);
        bytes[(5 << 20) - 1] = 3;
        for step in [512, 700, 4096, 65536, 10 << 20] {
            let sent = upload(Box::new(Awkward { bytes: bytes.clone(), step }));
            let mut decoder = FrameDecoder::default();
            decoder.feed(&axum::body::to_bytes(sent.body, usize::MAX).await.unwrap());
            sent.ended.await.unwrap().unwrap();
            let (mut seen, mut sent_bytes) = (vec![0; 5 << 20], 0);
            while let Some(frame) = decoder.next_frame().unwrap() {
                if let Frame::Data { offset_bytes, data } = frame {
                    let from = to_usize(offset_bytes);
                    seen[from..from + data.len()].copy_from_slice(&data);
                    sent_bytes += data.len();
                }
            }
            assert!(seen == bytes, "step {step}");
            assert!(sent_bytes < 64 << 10, "step {step}: {sent_bytes} bytes travelled");
        }
    }
}
