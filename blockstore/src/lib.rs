//! Durable blocks and the chains that write them. Knows no trees.

mod addr;
mod buffer;
mod device;

pub use addr::{
    BLOCK_BYTES, BLOCK_BYTES_U64, BlockAddr, BlockCount, BlockRun, DiskId, Epoch, MAX_44, Nonce,
    SEGMENT_BLOCKS, Sequence, VirtualBlock, VirtualRange, to_u64, to_usize,
};
pub use buffer::{BlockBuf, BlockSlice};
pub use device::{Device, DeviceError, DeviceFault, IoFuture, Operation, Runtime, Task};
