//! One record of a chain as it lies on the store: the header block's codec, pure.
//!
//! Owns the bytes of a header and nothing else: it reads no device and keeps no state. What
//! `decode` returns has been checked in every byte; reserved ones are zero. The invariant: a
//! header is accepted only where its CRC, nonce, sequence, own address and (by the caller that
//! walks in order) its predecessor's CRC all agree, so neither a stale record nor a block that a
//! guest wrote can pass for one.

use crate::addr::{BlockAddr, DiskId, Sequence, VirtualBlock, VirtualRange};

/// One thing a record says, in the order in which it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainEntry {
    /// The block now reads as what lies at `addr`.
    Data {
        /// Which block of the disk.
        vba: VirtualBlock,
        /// Where its bytes are.
        addr: BlockAddr,
        /// CRC-32 of those bytes.
        crc: u32,
    },
    /// These blocks now read as zeros.
    Zero {
        /// Which; never empty.
        range: VirtualRange,
    },
    /// This record counts only if that disk's chain reaches that record.
    Require {
        /// Whose chain.
        disk: DiskId,
        /// The last record that must be there.
        sequence: Sequence,
    },
}
