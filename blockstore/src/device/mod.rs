//! The five things the engine asks of a store's medium, and of the machine it runs on.
//!
//! Two implementations each: io_uring on a file or block device, and the simulator.

#[cfg(test)]
mod conformance;
#[cfg(feature = "faults")]
mod faulty;
mod file;
#[cfg(test)]
mod file_tests;
mod uring;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::addr::{BlockAddr, BlockCount, BlockRun};
use crate::buffer::{BlockBuf, BlockSlice};

#[cfg(feature = "faults")]
pub use faulty::{FaultRules, FaultyDevice, NoRule};
pub use file::{OpenError, OpenMode, OpenStep};
pub use uring::UringDevice;

/// An I/O under way. Dropping it abandons the answer, never the I/O: the buffers stay alive
/// until the device is done with them.
pub type IoFuture<T> = Pin<Box<dyn Future<Output = Result<T, DeviceError>>>>;

/// Who is told how a write has ended.
pub type WriteDone = Box<dyn FnOnce(Result<(), DeviceError>)>;

/// What went wrong with one operation on the medium.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {kind}", operation.place(*at, *run_count))]
pub struct DeviceError {
    /// What was asked.
    pub operation: Operation,
    /// First block.
    pub at: BlockAddr,
    /// Blocks.
    pub run_count: u64,
    /// Why it failed.
    pub kind: DeviceFault,
}

/// What can be asked of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading blocks.
    Read,
    /// Writing blocks.
    Write,
    /// Making completed writes durable.
    Sync,
    /// Giving blocks back to the host.
    Discard,
    /// Having the host set blocks aside.
    Reserve,
    /// Making the medium larger.
    Grow,
}

impl Operation {
    /// What it was to do, for people.
    fn place(self, at: BlockAddr, count: u64) -> String {
        match self {
            Self::Sync => "sync".to_owned(),
            Self::Grow => format!("grow to {count} blocks"),
            _ => format!("{self} of {count} blocks at block {at}"),
        }
    }
}

/// Why a device operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceFault {
    /// The host file system is full. Nothing is wrong with the device: freeing space cures it.
    #[error("no space left on the host file system")]
    NoSpace,
    /// Beyond the end of the medium.
    #[error("beyond the end of the store")]
    OutOfRange,
    /// Anything else the kernel said.
    #[error("{0}")]
    Io(Arc<std::io::Error>),
}

/// A medium of 4 KiB blocks. Completed writes survive the death of the process; only synced
/// ones survive a power cut. A write of several blocks is not atomic, nor even one block.
pub trait Device: Send + Sync {
    /// How many blocks there are.
    fn block_count(&self) -> BlockCount;

    /// Reads `count` blocks from `at` on.
    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf>;

    /// Reads the second copy of `count` blocks, where the medium keeps one.
    fn read_mirror(&self, at: BlockAddr, count: usize) -> Option<IoFuture<BlockBuf>> {
        let _ = (at, count);
        None
    }

    /// Writes whole blocks from `at` on. Two writes under way at once may not overlap.
    fn write(&self, at: BlockAddr, data: BlockSlice) -> IoFuture<()>;

    /// As [`Self::write`], for whoever does not wait: `done` is called when it has ended, never
    /// before this returns.
    fn write_then(&self, runtime: &dyn Runtime, at: BlockAddr, data: BlockSlice, done: WriteDone) {
        let written = self.write(at, data);
        runtime.spawn(Box::pin(async move { done(written.await) }));
    }

    /// Makes every write durable that completed before this call. Its failure is final: the
    /// store must halt, since the kernel may have dropped what it could not write.
    fn sync(&self) -> IoFuture<()>;

    /// Gives the blocks back to the host; they may read as anything afterwards.
    fn discard(&self, run: BlockRun) -> IoFuture<()>;

    /// Sees to it that writes to these blocks will not fail for want of space on the host. What
    /// the blocks hold stays. A host that cannot promise that is no error.
    fn reserve(&self, run: BlockRun) -> IoFuture<()>;

    /// Whether the first write to a block costs more than the next, as in a sparse file.
    fn is_sparse(&self) -> bool;

    /// Makes the medium at least `to` blocks large.
    fn grow(&self, to: BlockCount) -> IoFuture<()>;
}

/// A task: never sent to another thread once spawned.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The executor, the clock and the dice: the engine has no others.
pub trait Runtime: Send + Sync {
    /// Runs `task` on the current reactor.
    fn spawn(&self, task: Task);

    /// Calls `call` on the current reactor, outside of any task, once every task that is ready now
    /// has had its turn.
    fn defer(&self, call: Box<dyn FnOnce()>) {
        let turn = self.yield_now();
        self.spawn(Box::pin(async move {
            turn.await;
            call();
        }));
    }

    /// Monotonic time since some moment before the process (or the simulation) began.
    fn now(&self) -> Duration;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> Task;

    /// Completes after every task that is ready now has had its turn.
    fn yield_now(&self) -> Task;

    /// Random bits, good enough for secrets.
    fn random(&self) -> [u8; 16];

    /// Seconds since 1970, for people to read.
    fn unix_seconds(&self) -> u64;
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Discard => "discard",
            Self::Reserve => "reservation",
            Self::Grow => "grow",
        })
    }
}
