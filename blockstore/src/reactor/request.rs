//! What may be asked of the kernel, with all the memory that it needs meanwhile.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::addr::{BLOCK_BYTES, to_u64};
use crate::buffer::{BlockBuf, BlockSlice};

/// The kernel moves at most 2 GiB less a page at once; the rest follows as after any short
/// transfer.
const TRANSFER_BYTES_MAX: usize = 1 << 30;
/// How often a transfer may make no progress before that is an error.
const FRUITLESS_MAX: u32 = 1000;

/// See the module's documentation.
pub(crate) enum Request {
    /// Fills `buf` from `offset` on.
    Read { file: Arc<OwnedFd>, offset: u64, buf: BlockBuf },
    /// Writes all of `data` from `offset` on.
    Write { file: Arc<OwnedFd>, offset: u64, data: BlockSlice },
    /// fdatasync.
    DataSync { file: Arc<OwnedFd> },
    /// Makes a hole in a file that keeps its size.
    PunchHole { file: Arc<OwnedFd>, offset: u64, bytes: u64 },
    /// Has the host set blocks aside.
    Allocate { file: Arc<OwnedFd>, offset: u64, bytes: u64 },
    /// Waits until something can be read.
    Readable { file: Arc<dyn AsFd + Send + Sync> },
}

/// How far a request has come.
#[derive(Default)]
pub(super) struct Progress {
    moved: usize,
    fruitless: u32,
}

/// What to do after a completion.
pub(super) enum Next {
    /// Submit the request again: it is not complete.
    Again,
    /// It is over.
    Over(io::Result<()>),
}

impl Request {
    /// The submission for what is left to do.
    pub(super) fn entry(&mut self, progress: &Progress) -> squeue::Entry {
        let moved = progress.moved;
        match self {
            Self::Read { file, offset, buf } => {
                let rest = &mut buf[moved..];
                let length = transfer_bytes(rest.len());
                opcode::Read::new(descriptor(file), rest.as_mut_ptr(), length)
                    .offset(*offset + to_u64(moved))
                    .build()
            }
            Self::Write { file, offset, data } => {
                let rest = &data[moved..];
                let length = transfer_bytes(rest.len());
                opcode::Write::new(descriptor(file), rest.as_ptr(), length)
                    .offset(*offset + to_u64(moved))
                    .build()
            }
            Self::DataSync { file } => {
                opcode::Fsync::new(descriptor(file)).flags(types::FsyncFlags::DATASYNC).build()
            }
            Self::PunchHole { file, offset, bytes } => {
                opcode::Fallocate::new(descriptor(file), *bytes)
                    .offset(*offset)
                    .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                    .build()
            }
            Self::Allocate { file, offset, bytes } => {
                opcode::Fallocate::new(descriptor(file), *bytes).offset(*offset).build()
            }
            Self::Readable { file } => {
                let events = u32::from(libc::POLLIN.cast_unsigned());
                opcode::PollAdd::new(types::Fd((**file).as_fd().as_raw_fd()), events).build()
            }
        }
    }

    /// Whether it may wait for ever, so that losing interest has to end it.
    pub(super) const fn is_endless(&self) -> bool {
        matches!(self, Self::Readable { .. })
    }

    /// What it moves, if it is a transfer.
    pub(super) fn bytes(&self) -> Option<usize> {
        match self {
            Self::Read { buf, .. } => Some(buf.block_count() * BLOCK_BYTES),
            Self::Write { data, .. } => Some(data.block_count() * BLOCK_BYTES),
            Self::DataSync { .. }
            | Self::PunchHole { .. }
            | Self::Allocate { .. }
            | Self::Readable { .. } => None,
        }
    }

    /// Judges a completion. Interrupted and short transfers go on, so that whoever drops the
    /// future of a write still gets the whole write.
    pub(super) fn judge(&self, progress: &mut Progress, result: i32) -> Next {
        let Ok(moved) = usize::try_from(result) else {
            return progress.after_error(io::Error::from_raw_os_error(-result));
        };
        let Some(bytes) = self.bytes() else { return Next::Over(Ok(())) };
        if progress.moved + moved >= bytes {
            return Next::Over(Ok(()));
        }
        if moved == 0 {
            return Next::Over(Err(self.end_of_file()));
        }
        progress.after_short_transfer(moved)
    }

    fn end_of_file(&self) -> io::Error {
        match self {
            Self::Write { .. } => io::ErrorKind::WriteZero.into(),
            _ => io::ErrorKind::UnexpectedEof.into(),
        }
    }
}

impl Progress {
    fn after_error(&mut self, error: io::Error) -> Next {
        let transient = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN));
        if transient { self.again_or(error) } else { Next::Over(Err(error)) }
    }

    fn after_short_transfer(&mut self, moved: usize) -> Next {
        // O_DIRECT takes whole blocks only: what came of a broken one comes again.
        let whole = moved - moved % BLOCK_BYTES;
        self.moved += whole;
        if whole > 0 {
            self.fruitless = 0;
            return Next::Again;
        }
        self.again_or(io::ErrorKind::UnexpectedEof.into())
    }

    fn again_or(&mut self, error: io::Error) -> Next {
        self.fruitless += 1;
        if self.fruitless <= FRUITLESS_MAX { Next::Again } else { Next::Over(Err(error)) }
    }
}

fn descriptor(file: &Arc<OwnedFd>) -> types::Fd {
    types::Fd(file.as_raw_fd())
}

fn transfer_bytes(bytes: usize) -> u32 {
    u32::try_from(bytes.min(TRANSFER_BYTES_MAX)).expect("bounded in this line")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_of(blocks: usize) -> Request {
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        Request::Write { file, offset: 0, data: BlockBuf::zeroed(blocks).share() }
    }

    fn is_again(next: &Next) -> bool {
        matches!(next, Next::Again)
    }

    #[test]
    fn a_short_transfer_goes_on_from_its_last_whole_block() {
        let (write, mut progress) = (write_of(4), Progress::default());
        assert!(is_again(&write.judge(&mut progress, 4096 + 512)));
        assert_eq!(progress.moved, 4096);
        assert!(is_again(&write.judge(&mut progress, 8192)));
        assert!(matches!(write.judge(&mut progress, 4096), Next::Over(Ok(()))));
    }

    #[test]
    fn an_interrupted_transfer_is_retried_but_not_for_ever() {
        let (write, mut progress) = (write_of(1), Progress::default());
        for _ in 0..FRUITLESS_MAX {
            assert!(is_again(&write.judge(&mut progress, -libc::EINTR)));
        }
        let last = write.judge(&mut progress, -libc::EAGAIN);
        assert!(
            matches!(last, Next::Over(Err(error)) if error.kind() == io::ErrorKind::WouldBlock)
        );
    }

    #[test]
    fn an_error_after_a_part_is_the_error_of_the_whole() {
        let (write, mut progress) = (write_of(2), Progress::default());
        assert!(is_again(&write.judge(&mut progress, 4096)));
        let next = write.judge(&mut progress, -libc::ENOSPC);
        assert!(
            matches!(next, Next::Over(Err(error)) if error.raw_os_error() == Some(libc::ENOSPC))
        );
    }

    #[test]
    fn a_transfer_that_moves_nothing_is_over() {
        let (write, mut progress) = (write_of(1), Progress::default());
        let next = write.judge(&mut progress, 0);
        assert!(matches!(next, Next::Over(Err(error)) if error.kind() == io::ErrorKind::WriteZero));
    }
}
