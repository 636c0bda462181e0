//! Why the catalogue could not be read or changed.

use bough_blockstore::{
    BlockAddr, ChainFault, DeviceError, ScanError, SuperblockError, VirtualBlock,
};

use crate::btree::PageFault;
use crate::catalogue::RowFault;
use crate::disk::error_chain;
use crate::error::ErrorKind;
use crate::space::SpaceFault;
use crate::tree_error::TreeError;

/// Why the catalogue could not be read or changed. Any but [`CatalogueError::Full`] is the
/// store's problem, not one disk's.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A page's contents make no sense.
    #[error(transparent)]
    Page(#[from] PageFault),
    /// A row makes no sense.
    #[error(transparent)]
    Row(#[from] RowFault),
    /// The allocator refuses what a commit wants: the catalogue contradicts itself.
    #[error(transparent)]
    Space(#[from] SpaceFault),
    /// A node of disk 0 cannot be read.
    #[error("the catalogue's tree is damaged: {0}; run `bough check`")]
    Tree(#[from] TreeError),
    /// Both copies of a page are damaged.
    #[error("both copies of catalogue page {page} (block {addr}) are damaged; run `bough check`")]
    Damaged {
        /// The page.
        page: u64,
        /// Its first copy.
        addr: BlockAddr,
    },
    /// The medium failed.
    #[error("the catalogue cannot be read or written: {0}")]
    Device(#[from] DeviceError),
    /// The catalogue's chain has halted: so has the store.
    #[error("the store has halted ({}); restart the server to recover it", error_chain(.0))]
    Halted(#[from] ChainFault),
    /// The pool has no room for this change.
    #[error(
        "the catalogue is full ({total_bytes} bytes); delete snapshots or disks, or run \
         `bough grow`"
    )]
    Full {
        /// The pool's size.
        total_bytes: u64,
    },
    /// The superblock pair.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// The chain could not be read back.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The chain has lost records that were durable.
    #[error(
        "the catalogue's log has lost record {sequence} (block {at}), which was durable; \
         nothing was changed: run `bough check`"
    )]
    LostRecords {
        /// Where the first lost record was.
        at: BlockAddr,
        /// Which it was.
        sequence: u64,
    },
    /// The chain holds what the catalogue has no place for.
    #[error(
        "record {sequence} of the catalogue's log (block {at}) has data for page {page}, which \
         there cannot be; nothing was changed: run `bough check`"
    )]
    BeyondCatalogue {
        /// Where the record is.
        at: BlockAddr,
        /// Which it is.
        sequence: u64,
        /// Which page it has data for.
        page: VirtualBlock,
    },
    /// Two users for one block of the pool, or a pointer out of it.
    #[error("block {addr} of the catalogue's pool is used twice or lies outside it")]
    Misused {
        /// The block.
        addr: BlockAddr,
    },
}

impl CatalogueError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } => ErrorKind::Full,
            Self::Halted(_) => ErrorKind::Faulted,
            Self::Device(_) | Self::Scan(_) => ErrorKind::Io,
            Self::Superblock(SuperblockError::Damaged) => ErrorKind::Corrupt,
            Self::Superblock(_) => ErrorKind::Invalid,
            Self::Page(_)
            | Self::Row(_)
            | Self::Space(_)
            | Self::Tree(_)
            | Self::Damaged { .. }
            | Self::LostRecords { .. }
            | Self::BeyondCatalogue { .. }
            | Self::Misused { .. } => ErrorKind::Corrupt,
        }
    }
}
