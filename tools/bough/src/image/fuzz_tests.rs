//! Whole imports of images that lie, by the thousand.

use std::path::Path;
use std::sync::OnceLock;

use bough_blockstore::{to_u64, to_usize};
use bough_fuzz::{Script, Trial, bolero};
use bough_server::{Frame, FrameDecoder};
use http_body_util::BodyExt;
use tempfile::TempDir;

use super::hostile_tests::{qcow2, sparse_vmdk};
use super::{Image, ImageError, Mapped, open, upload};

/// An input's decisions.
const INPUT_MAX_BYTES: usize = 256;
/// A file may claim a petabyte of tiny pieces; a reader stops when it has seen enough.
const STEPS: usize = 500;

/// An image of which only so much is read.
struct Cut {
    image: Box<dyn Image>,
    steps: usize,
}

impl Cut {
    fn step(&mut self) -> Result<(), ImageError> {
        let enough = || ImageError::NotAFile { path: "seen enough of it".into() };
        self.steps = self.steps.checked_sub(1).ok_or_else(enough)?;
        Ok(())
    }
}

impl Image for Cut {
    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn map(&mut self, offset_bytes: u64) -> Result<Mapped, ImageError> {
        self.step()?;
        self.image.map(offset_bytes)
    }

    fn read(&mut self, offset_bytes: u64, out: &mut [u8]) -> Result<(), ImageError> {
        self.step()?;
        self.image.read(offset_bytes, out)
    }
}

/// Reads the image as an import does, and its stream as the server does.
fn import(path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let Ok(image) = open(path, None) else { return };
        let sent = upload(Box::new(Cut { image, steps: STEPS }));
        let (mut body, mut decoder, mut last) = (sent.body, FrameDecoder::default(), None);
        while let Some(piece) = body.frame().await {
            decoder.feed(&piece.expect("our own body").into_data().expect("data"));
            while let Some(frame) = decoder.next_frame().expect("our own frames") {
                last = Some(frame);
            }
        }
        let read = sent.ended.await.expect("the reader does not panic");
        let whole = matches!(last, Some(Frame::End { .. }));
        assert_eq!(read.is_ok(), whole, "a stream ends as its reading did: {read:?}");
    });
}

/// Changes the image, mostly among the first bytes, where its tables are.
fn lie(original: &[u8], tables_bytes: usize, script: &mut Script<'_>) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=script.below(3) {
        match script.below(8) {
            0 => script.edit(&mut bytes),
            1..4 => script.edit(&mut bytes[..120]),
            _ => script.edit(&mut bytes[..tables_bytes]),
        }
    }
    if script.chance(16) {
        let end = script.number() % to_u64(bytes.len());
        bytes.truncate(to_usize(end));
    }
    bytes
}

/// Where the lies are kept: in memory, where there is such a place.
fn folder() -> &'static TempDir {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
}

#[test]
fn qcow2_import() {
    let (trial, original) = (Trial::new("qcow2_import"), qcow2(&folder().path().join("good")));
    let path = folder().path().join("lies.qcow2");
    bolero::check!().with_max_len(INPUT_MAX_BYTES).for_each(|input| {
        trial.run(input, |input| {
            let tables_bytes = original.len().min(5 << 16);
            let image = lie(&original, tables_bytes, &mut Script::new(input));
            std::fs::write(&path, image).unwrap();
            import(&path);
        });
    });
}

#[test]
fn vmdk_import() {
    let (trial, original) = (Trial::new("vmdk_import"), sparse_vmdk());
    let path = folder().path().join("lies.vmdk");
    bolero::check!().with_max_len(INPUT_MAX_BYTES).for_each(|input| {
        trial.run(input, |input| {
            let image = lie(&original, 2048, &mut Script::new(input));
            std::fs::write(&path, image).unwrap();
            import(&path);
        });
    });
}
