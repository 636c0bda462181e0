//! Opening, locking and sizing the file or block device that a store lives on.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, SeekFrom, flock, seek};

use crate::addr::{BLOCK_BYTES_U64, BlockCount, to_u64};
use crate::buffer::BlockBuf;
use crate::lock::Holder;

/// What the opener means to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Everything; nobody else may have it open.
    ReadWrite,
    /// Reading, together with others who only read.
    ReadOnly,
}

/// Why a medium could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it.
    #[error("{} is in use by {}", path.display(), Holder::describe(holder.as_ref()))]
    InUse {
        /// The medium.
        path: PathBuf,
        /// Who, where that can be told.
        holder: Option<Holder>,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is neither a regular file nor a block device", path.display())]
    NotAMedium {
        /// What was named.
        path: PathBuf,
    },
    /// A new file was asked for and there is one already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was being done.
        step: OpenStep,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What opening consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenStep {
    /// Looking it up.
    Inspect,
    /// Getting a descriptor.
    Open,
    /// Locking that.
    Lock,
    /// Giving a new file its size.
    Size,
}

impl std::fmt::Display for OpenStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inspect => "inspect",
            Self::Open => "open",
            Self::Lock => "lock",
            Self::Size => "set the size of",
        })
    }
}

/// An open, locked medium.
pub(super) struct Medium {
    pub(super) file: Arc<OwnedFd>,
    pub(super) is_device: bool,
}

/// Opens what is there. The lock is on the very descriptor that I/O goes through, so that a
/// dying process's last writes end before it is free for a successor.
pub(super) fn open(path: &Path, mode: OpenMode, holder: &Path) -> Result<Medium, OpenError> {
    let is_device = inspect(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(mode == OpenMode::ReadWrite);
    // On a block device, refuses one that is mounted or part of a volume.
    let exclusive = mode == OpenMode::ReadWrite && is_device;
    let flags = if exclusive { libc::O_EXCL } else { 0 };
    let file = open_unbuffered(&mut options, path, flags, holder)?;
    lock(&file, path, mode, holder)?;
    Ok(Medium { file: Arc::new(file.into()), is_device })
}

/// As [`open`], after whoever has it now. A device may be opened exclusively by one alone, so the
/// waiting is done on another descriptor; in between somebody else may be faster.
pub(super) fn open_when_free(path: &Path, holder: &Path) -> Result<Medium, OpenError> {
    const PAUSE: Duration = Duration::from_millis(1);
    loop {
        inspect(path)?;
        let watched = File::open(path).map_err(failed(OpenStep::Open, path))?;
        match flock(&watched, FlockOperation::LockExclusive) {
            Ok(()) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(OpenStep::Lock, path)(errno.into())),
        }
        drop(watched);
        match open(path, OpenMode::ReadWrite, holder) {
            Err(OpenError::InUse { .. }) => std::thread::sleep(PAUSE),
            opened => return opened,
        }
    }
}

/// Makes a sparse file of this size and locks it.
pub(super) fn create(path: &Path, size: BlockCount, holder: &Path) -> Result<Medium, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let made = options.open(path);
    drop(made.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => OpenError::Exists { path: path.into() },
        _ => failed(OpenStep::Open, path)(source),
    })?);
    let medium = open(path, OpenMode::ReadWrite, holder)?;
    set_size(&medium, path, size).map_err(failed(OpenStep::Size, path))?;
    Ok(medium)
}

fn set_size(medium: &Medium, path: &Path, size: BlockCount) -> io::Result<()> {
    rustix::fs::ftruncate(&medium.file, size.bytes())?;
    rustix::fs::fsync(&medium.file)?;
    // Without this a power cut may take the name away, and the store with it.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn failed(step: OpenStep, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { step, path: path.into(), source }
}

/// Whether it is a block device.
fn inspect(path: &Path) -> Result<bool, OpenError> {
    let kind = fs::metadata(path).map_err(failed(OpenStep::Inspect, path))?.file_type();
    if kind.is_file() || kind.is_block_device() {
        Ok(kind.is_block_device())
    } else {
        Err(OpenError::NotAMedium { path: path.into() })
    }
}

/// With O_DIRECT where the file system takes it.
fn open_unbuffered(
    options: &mut OpenOptions,
    path: &Path,
    flags: i32,
    holder: &Path,
) -> Result<File, OpenError> {
    let opened = options.custom_flags(flags | libc::O_DIRECT).open(path).and_then(probed);
    let opened = match opened {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!(
                path = %path.display(),
                "the file system does not take O_DIRECT; going through the page cache, slower"
            );
            options.custom_flags(flags).open(path)
        }
        opened => opened,
    };
    opened.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => OpenError::InUse { path: path.into(), holder: Holder::read(holder) },
        _ => failed(OpenStep::Open, path)(source),
    })
}

/// Some file systems take the flag and then refuse the reads.
fn probed(file: File) -> io::Result<File> {
    let mut block = BlockBuf::zeroed(1);
    rustix::io::pread(&file, &mut block[..], 0)?;
    Ok(file)
}

fn lock(file: &File, path: &Path, mode: OpenMode, holder: &Path) -> Result<(), OpenError> {
    let operation = match mode {
        OpenMode::ReadWrite => FlockOperation::NonBlockingLockExclusive,
        OpenMode::ReadOnly => FlockOperation::NonBlockingLockShared,
    };
    flock(file, operation).map_err(|errno| match errno {
        rustix::io::Errno::WOULDBLOCK => {
            OpenError::InUse { path: path.into(), holder: Holder::read(holder) }
        }
        _ => failed(OpenStep::Lock, path)(errno.into()),
    })
}

/// Whole blocks only: what is left over at the end is nobody's.
pub(super) fn measure(file: &impl AsFd) -> io::Result<BlockCount> {
    // For a device `stat` knows no size; nobody uses the descriptor's position.
    Ok(BlockCount(seek(file, SeekFrom::End(0))? / BLOCK_BYTES_U64))
}

/// Makes a file larger. A device is as large as it is.
pub(super) fn enlarge(medium: &Medium, to: BlockCount) -> io::Result<BlockCount> {
    let now = measure(&medium.file)?;
    if now < to && !medium.is_device {
        rustix::fs::ftruncate(&medium.file, to.bytes())?;
    }
    measure(&medium.file)
}

/// Gives a range of a device back to it.
pub(super) fn discard_device_range(file: &OwnedFd, offset: u64, bytes: u64) -> io::Result<()> {
    const BLKDISCARD: libc::Ioctl = 0x1277;
    let range: [u64; 2] = [offset, bytes];
    // SAFETY: BLKDISCARD reads two 64-bit numbers through its argument, which `range` provides
    // for the length of the call; the descriptor is open as long as `file` is borrowed.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that the host keeps for the medium.
pub(super) fn allocated_bytes(file: &impl AsFd) -> io::Result<u64> {
    let stat = rustix::fs::fstat(file)?;
    Ok(u64::try_from(stat.st_blocks).unwrap_or(0) * to_u64(512))
}
