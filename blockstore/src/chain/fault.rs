//! Why a chain refuses.

use std::error::Error;
use std::sync::Arc;

use crate::device::{DeviceError, DeviceFault};

/// Why a write, or the chain, failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChainFault {
    /// No blocks for this write. The chain goes on: free space and try again.
    #[error("the store is full")]
    Full,
    /// No blocks could be granted for another reason. The chain itself goes on.
    #[error("no blocks could be granted")]
    Ungranted(#[source] Arc<dyn Error + Send + Sync>),
    /// The host file system was full when a record was written. What was published is intact;
    /// checkpoint it, then begin a new chain.
    #[error("the host file system is full: the chain is cut at its last published record")]
    Broken(#[source] DeviceError),
    /// A record could not be written: the disk is halted. What was published is intact.
    #[error("a record could not be written: the disk is halted")]
    Halted(#[source] DeviceError),
    /// A sync failed: what the kernel kept is unknown, and the store must halt. Reopen it.
    #[error("a sync failed: the store must be reopened")]
    SyncFailed(#[source] DeviceError),
    /// The chain was stopped by its owner.
    #[error("the chain was stopped")]
    Stopped,
}

/// Why no blocks were to be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpaceError {
    /// The store is full, as far as this kind of write is concerned.
    #[error("the store is full")]
    Full,
    /// The grant could not be made durable, or the like.
    #[error("no blocks could be granted")]
    Failed(#[source] Arc<dyn Error + Send + Sync>),
}

impl ChainFault {
    /// What a failed write of a record means.
    pub(super) fn from_write(error: DeviceError) -> Self {
        match error.kind {
            DeviceFault::NoSpace => Self::Broken(error),
            DeviceFault::OutOfRange | DeviceFault::Io(_) => Self::Halted(error),
        }
    }

    /// Which of two faults tells the owner what to do.
    pub(super) fn gravity(&self) -> u8 {
        match self {
            Self::Full | Self::Ungranted(_) => 0,
            Self::Stopped => 1,
            Self::Broken(_) => 2,
            Self::Halted(_) => 3,
            Self::SyncFailed(_) => 4,
        }
    }

    /// Whether only this write was refused, and the chain goes on.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Full | Self::Ungranted(_))
    }
}

impl From<SpaceError> for ChainFault {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::Full => Self::Full,
            SpaceError::Failed(cause) => Self::Ungranted(cause),
        }
    }
}
