//! A file or a block device, through the io_uring of whatever reactor asks.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::file::{self, Medium, OpenError, OpenMode};
use super::{Device, DeviceError, DeviceFault, IoFuture, Operation, Runtime, WriteDone};
use crate::addr::{BlockAddr, BlockCount, BlockRun, to_u64};
use crate::buffer::{BlockBuf, BlockSlice};
use crate::reactor::{Request, offload, submit, submit_then};

/// The real device. Its operations must be begun on a reactor's thread, and each is carried
/// out by that thread's ring; the device itself may be shared by all.
pub struct UringDevice {
    medium: Arc<Medium>,
    blocks: Arc<AtomicU64>,
    /// The host has refused a discard, and that has been said.
    keeps_discarded: Arc<AtomicBool>,
}

impl UringDevice {
    /// Opens a medium; `holder` is where its holder leaves word of itself ([`crate::Holder`]).
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, mode: OpenMode, holder: &Path) -> Result<Self, OpenError> {
        Self::of(file::open(path, mode, holder)?, path)
    }

    /// As [`Self::open`] for reading and writing, but waits for as long as somebody else has the
    /// medium. Blocks its thread.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_when_free(path: &Path, holder: &Path) -> Result<Self, OpenError> {
        Self::of(file::open_when_free(path, holder)?, path)
    }

    /// Makes a sparse file that must not exist yet, durably, and opens it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn create(path: &Path, size: BlockCount, holder: &Path) -> Result<Self, OpenError> {
        Self::of(file::create(path, size, holder)?, path)
    }

    fn of(medium: Medium, path: &Path) -> Result<Self, OpenError> {
        let blocks = file::measure(&medium.file).map_err(|source| OpenError::Io {
            step: file::OpenStep::Inspect,
            path: path.into(),
            source,
        })?;
        Ok(Self {
            medium: Arc::new(medium),
            blocks: Arc::new(AtomicU64::new(blocks.0)),
            keeps_discarded: Arc::default(),
        })
    }

    /// Bytes that the host keeps for a file; of a device nobody can tell.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        if self.medium.is_device {
            return Ok(None);
        }
        file::allocated_bytes(&self.medium.file).map(Some)
    }

    fn file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.medium.file)
    }

    fn refusal(&self, span: Span) -> Option<DeviceError> {
        let end = self.blocks.load(Ordering::Acquire);
        let inside = span.at.raw().checked_add(span.count).is_some_and(|last| last <= end);
        if inside { None } else { Some(span.error(DeviceFault::OutOfRange)) }
    }
}

/// What an operation is about, for its error.
#[derive(Clone, Copy)]
struct Span {
    operation: Operation,
    at: BlockAddr,
    count: u64,
}

impl Span {
    fn error(self, kind: DeviceFault) -> DeviceError {
        DeviceError { operation: self.operation, at: self.at, run_count: self.count, kind }
    }

    fn failed(self, error: io::Error) -> DeviceError {
        self.error(match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => DeviceFault::NoSpace,
            _ => DeviceFault::Io(Arc::new(error)),
        })
    }

    fn offset(self) -> u64 {
        BlockCount(self.at.raw()).bytes()
    }
}

impl Device for UringDevice {
    fn block_count(&self) -> BlockCount {
        BlockCount(self.blocks.load(Ordering::Acquire))
    }

    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf> {
        let span = Span { operation: Operation::Read, at, count: to_u64(count) };
        if let Some(error) = self.refusal(span) {
            return Box::pin(async move { Err(error) });
        }
        let buf = BlockBuf::stale(count);
        let op = submit(Request::Read { file: self.file(), offset: span.offset(), buf });
        Box::pin(async move {
            match op.await {
                (Request::Read { buf, .. }, Ok(())) => Ok(buf),
                (_, Ok(())) => unreachable!("a request comes back as it went"),
                (_, Err(error)) => Err(span.failed(error)),
            }
        })
    }

    fn write(&self, at: BlockAddr, data: BlockSlice) -> IoFuture<()> {
        let span = Span { operation: Operation::Write, at, count: to_u64(data.block_count()) };
        if let Some(error) = self.refusal(span) {
            return Box::pin(async move { Err(error) });
        }
        finish(span, submit(Request::Write { file: self.file(), offset: span.offset(), data }))
    }

    fn write_then(&self, runtime: &dyn Runtime, at: BlockAddr, data: BlockSlice, done: WriteDone) {
        let span = Span { operation: Operation::Write, at, count: to_u64(data.block_count()) };
        if let Some(error) = self.refusal(span) {
            return runtime.defer(Box::new(move || done(Err(error))));
        }
        let request = Request::Write { file: self.file(), offset: span.offset(), data };
        submit_then(request, move |result| done(result.map_err(|error| span.failed(error))));
    }

    fn sync(&self) -> IoFuture<()> {
        let span = Span { operation: Operation::Sync, at: BlockAddr::ZERO, count: 0 };
        finish(span, submit(Request::DataSync { file: self.file() }))
    }

    fn discard(&self, run: BlockRun) -> IoFuture<()> {
        let span = Span { operation: Operation::Discard, at: run.start, count: run.count };
        if let Some(error) = self.refusal(span) {
            return Box::pin(async move { Err(error) });
        }
        if run.count == 0 {
            return Box::pin(async { Ok(()) });
        }
        let (offset, bytes) = (span.offset(), BlockCount(run.count).bytes());
        let keeps = Arc::clone(&self.keeps_discarded);
        if self.medium.is_device {
            let file = self.file();
            let call = offload(move || file::discard_device_range(&file, offset, bytes));
            return Box::pin(async move {
                tolerate_refusal(call.await, &keeps).map_err(|error| span.failed(error))
            });
        }
        let op = submit(Request::PunchHole { file: self.file(), offset, bytes });
        Box::pin(
            async move { tolerate_refusal(op.await.1, &keeps).map_err(|error| span.failed(error)) },
        )
    }

    fn reserve(&self, run: BlockRun) -> IoFuture<()> {
        let span = Span { operation: Operation::Reserve, at: run.start, count: run.count };
        if let Some(error) = self.refusal(span) {
            return Box::pin(async move { Err(error) });
        }
        if self.medium.is_device || run.count == 0 {
            return Box::pin(async { Ok(()) });
        }
        let (offset, bytes) = (span.offset(), BlockCount(run.count).bytes());
        let op = submit(Request::Allocate { file: self.file(), offset, bytes });
        Box::pin(async move {
            match op.await.1 {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
                done => done.map_err(|error| span.failed(error)),
            }
        })
    }

    fn is_sparse(&self) -> bool {
        !self.medium.is_device
    }

    fn grow(&self, to: BlockCount) -> IoFuture<()> {
        let span = Span { operation: Operation::Grow, at: BlockAddr::ZERO, count: to.0 };
        let (medium, blocks) = (Arc::clone(&self.medium), Arc::clone(&self.blocks));
        let call = offload(move || {
            let now = file::enlarge(&medium, to)?;
            blocks.fetch_max(now.0, Ordering::AcqRel);
            Ok(now)
        });
        Box::pin(async move {
            let now = call.await.map_err(|error| span.failed(error))?;
            if now >= to { Ok(()) } else { Err(span.error(DeviceFault::OutOfRange)) }
        })
    }
}

fn finish(
    span: Span,
    op: impl Future<Output = (Request, io::Result<()>)> + 'static,
) -> IoFuture<()> {
    Box::pin(async move { op.await.1.map_err(|error| span.failed(error)) })
}

/// A host that cannot take blocks back keeps them: nothing is lost but room.
fn tolerate_refusal(outcome: io::Result<()>, said: &AtomicBool) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            if !said.swap(true, Ordering::Relaxed) {
                tracing::warn!("the host does not take back discarded blocks; they stay allocated");
            }
            Ok(())
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_host_is_told_from_a_broken_one() {
        let span = Span { operation: Operation::Write, at: BlockAddr::ZERO, count: 1 };
        for full in [libc::ENOSPC, libc::EDQUOT] {
            let error = span.failed(io::Error::from_raw_os_error(full));
            assert!(matches!(error.kind, DeviceFault::NoSpace));
        }
        let broken = span.failed(io::Error::from_raw_os_error(libc::EIO));
        assert!(matches!(broken.kind, DeviceFault::Io(_)));
    }

    #[test]
    fn a_host_that_keeps_discarded_blocks_is_no_error() {
        let said = AtomicBool::new(false);
        let refused = Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        assert!(tolerate_refusal(refused, &said).is_ok());
        assert!(said.load(Ordering::Relaxed));
        assert!(tolerate_refusal(Err(io::Error::from_raw_os_error(libc::EIO)), &said).is_err());
    }
}
