//! Reading a chain back after a crash.
//!
//! Owns the decision where a chain ends. Never writes, never interprets entries. The invariant: a
//! record that anybody was told is durable is returned, or its loss is reported as damage; what is
//! returned is a prefix of the chain that ends between groups.

use std::sync::Arc;

use crate::addr::{BlockAddr, BlockRun, Epoch, Sequence};
use crate::chain::ChainStart;
use crate::device::{Device, DeviceError};
use crate::record::ChainEntry;

/// Bounds of a scan.
#[derive(Clone, Copy, Debug)]
pub struct ScanLimits {
    /// Records, at most; checkpoints keep a chain far shorter.
    pub max_records: u64,
    /// Blocks of the extents to search for headers beyond the end, at most.
    pub max_beyond_blocks: u64,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { max_records: 1 << 22, max_beyond_blocks: 1 << 18 }
    }
}

/// A record found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedRecord {
    /// Its place in the chain.
    pub sequence: Sequence,
    /// The epoch it was sealed in.
    pub epoch: Epoch,
    /// What it says, in order.
    pub entries: Vec<ChainEntry>,
    /// Where its header lies.
    pub header_at: BlockAddr,
    /// That header's CRC.
    pub header_crc: u32,
    /// The highest record known synced when this one was sealed.
    pub synced_upto: Sequence,
}

/// How a chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Nothing beyond the last record was ever promised.
    Clean,
    /// A record is missing or damaged that a later header says was synced.
    Damaged {
        /// The header of the first missing record (its place, where the header itself is bad).
        at: BlockAddr,
        /// The first missing record.
        sequence: Sequence,
    },
}

/// A chain read back.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The records that count, in order.
    pub records: Vec<ScannedRecord>,
    /// The highest record that some valid header says was synced. A requirement of a record up
    /// to here needs no check: its commit was completed.
    pub known_synced: Sequence,
    /// How it ended.
    pub end: ScanEnd,
}

/// Why a chain could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScanError {
    /// The medium failed; nothing was decided.
    #[error("a chain could not be read")]
    Device(#[from] DeviceError),
    /// More records than a chain can have.
    #[error("a chain has more than {max_records} records")]
    TooLong {
        /// The bound.
        max_records: u64,
    },
}

/// Reads the chain that begins at `start`; `extents` is where its records may lie.
///
/// # Errors
/// Where the medium fails, or the chain has no end.
pub async fn scan(
    device: &Arc<dyn Device>,
    start: &ChainStart,
    limits: ScanLimits,
    extents: &[BlockRun],
) -> Result<Scan, ScanError> {
    let _ = (device, start, limits, extents);
    todo!()
}
