//! Durable blocks and the chains that write them. Knows no trees.

mod addr;
mod buffer;
mod chain;
mod device;
mod join;
mod lock;
mod mirror;
mod one_sync;
mod reactor;
mod record;
mod scan;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod superblock;
mod sync;

pub use addr::{
    BLOCK_BYTES, BLOCK_BYTES_U64, BlockAddr, BlockCount, BlockRun, DiskId, Epoch, MAX_44, Nonce,
    SEGMENT_BLOCKS, Sequence, VirtualBlock, VirtualRange, to_u64, to_usize,
};
pub use buffer::{BlockBuf, BlockSlice};
pub use chain::{
    Chain, ChainConfig, ChainFault, ChainSpace, ChainStart, ChainStats, Group, Publish,
    PublishedRecord, RefillFuture, Sabotage, SpaceError, Ticket,
};
pub use device::{
    Device, DeviceError, DeviceFault, IoFuture, OpenError, OpenMode, OpenStep, Operation, Runtime,
    Task, UringDevice,
};
#[cfg(feature = "faults")]
pub use device::{FaultRules, FaultyDevice, NoRule};
pub use join::either;
pub use lock::Holder;
pub use mirror::Mirrored;
pub use one_sync::OneSync;
pub use reactor::{
    Called, Lull, OnPanic, Reactor, ReactorConfig, ReactorGone, ReactorHandle, UringRuntime, lull,
    readable,
};
pub use record::ChainEntry;
pub use scan::{Scan, ScanEnd, ScanError, ScanLimits, ScannedRecord, scan};
pub use superblock::{
    FORMAT_VERSION, MAX_POOL_RUNS, PoolRun, SUPERBLOCK_BLOCKS, Superblock, SuperblockError,
    SuperblockPair, read_pair, write_pair,
};
