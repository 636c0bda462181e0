//! The reuse rule: when a block that the chain no longer needs may be written again.
//!
//! Pure bookkeeping. A replaced block is released once a header that says that its replacement is
//! synced is itself synced, or once a commit has made its replacement's record needless. Releasing
//! it after its replacement's own sync would be too early: recovery may not yet know of that sync,
//! would check the replaced record's data, find it overwritten, and take a flushed record for the
//! end of the chain.

use std::collections::{BTreeMap, VecDeque};

use crate::addr::{BLOCK_BYTES_U64, BlockAddr, Sequence};
use crate::chain::config::Sabotage;

/// A published record's header.
pub(super) struct Header {
    pub sequence: Sequence,
    pub at: BlockAddr,
    /// The highest record it says was synced.
    pub synced_upto: Sequence,
    /// The record's blocks, its header included.
    pub blocks: u64,
}

/// What the chain's blocks wait for.
pub(super) struct Reuse {
    /// Published since the chain's start, without gaps.
    headers: VecDeque<Header>,
    blocks: u64,
    /// What recovery is certain to know was synced.
    durable_watermark: Sequence,
    /// Replaced blocks, by the record that replaced them.
    retired: BTreeMap<Sequence, Vec<BlockAddr>>,
    retired_blocks: u64,
    /// Blocks of records that were sealed and never published.
    lost: Vec<BlockAddr>,
}

impl Reuse {
    pub fn new() -> Self {
        Self {
            headers: VecDeque::new(),
            blocks: 0,
            durable_watermark: Sequence::ZERO,
            retired: BTreeMap::new(),
            retired_blocks: 0,
            lost: Vec::new(),
        }
    }

    pub fn note_published(&mut self, header: Header) {
        self.blocks += header.blocks;
        self.headers.push_back(header);
    }

    pub fn note_lost(&mut self, blocks: impl IntoIterator<Item = BlockAddr>) {
        self.lost.extend(blocks);
    }

    /// Records up to `upto` are synced, so what the last of their headers says will be read by
    /// any recovery. Returns what may be reused.
    pub fn note_synced(&mut self, upto: Sequence, sabotage: Sabotage) -> Vec<BlockAddr> {
        let said = self.header(upto).map_or(Sequence::ZERO, |header| header.synced_upto);
        let known = if sabotage == Sabotage::ReuseAfterOneSync { upto } else { said };
        self.raise(known)
    }

    /// `blocks` were replaced by `replaced_by`. Returns what may be reused at once.
    pub fn retire(&mut self, blocks: &[BlockAddr], replaced_by: Sequence) -> Vec<BlockAddr> {
        if replaced_by <= self.durable_watermark {
            return blocks.to_vec();
        }
        self.retired.entry(replaced_by).or_default().extend_from_slice(blocks);
        self.retired_blocks += crate::addr::to_u64(blocks.len());
        Vec::new()
    }

    /// Records before `first` are needless. Returns what may be reused.
    pub fn truncate(&mut self, first: Sequence) -> Vec<BlockAddr> {
        let mut free = Vec::new();
        while let Some(header) = self.headers.pop_front_if(|header| header.sequence < first) {
            self.blocks -= header.blocks;
            free.push(header.at);
        }
        free.extend(self.raise(Sequence(first.0.saturating_sub(1))));
        free
    }

    pub fn records(&self) -> u64 {
        crate::addr::to_u64(self.headers.len())
    }

    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES_U64
    }

    pub fn retired_blocks(&self) -> u64 {
        self.retired_blocks
    }

    /// Every block that only the chain keeps, but for the one reserved for the next header.
    pub fn remains(&self) -> Vec<BlockAddr> {
        let headers = self.headers.iter().map(|header| header.at);
        let retired = self.retired.values().flatten().copied();
        headers.chain(retired).chain(self.lost.iter().copied()).collect()
    }

    fn header(&self, sequence: Sequence) -> Option<&Header> {
        let first = self.headers.front()?.sequence;
        let index = sequence.0.checked_sub(first.0)?;
        self.headers.get(crate::addr::to_usize(index))
    }

    fn raise(&mut self, watermark: Sequence) -> Vec<BlockAddr> {
        self.durable_watermark = self.durable_watermark.max(watermark);
        let mut free = Vec::new();
        while let Some(oldest) = self.retired.first_entry() {
            if *oldest.key() > self.durable_watermark {
                break;
            }
            free.extend(oldest.remove());
        }
        self.retired_blocks -= crate::addr::to_u64(free.len());
        free
    }
}
