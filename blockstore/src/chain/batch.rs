//! What has been staged and not yet sealed: one record's worth, in the buffer it is written from.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use crate::addr::{BLOCK_BYTES, DiskId, Sequence, VirtualBlock, VirtualRange};
use crate::buffer::BlockBuf;
use crate::chain::ticket::Answer;
use crate::chain::{ChainConfig, Group};
use crate::record::MAX_ENTRIES;

/// Blocks a fresh buffer has room for; the next size holds a whole record.
const SMALL_BLOCKS: usize = 16;

/// An entry whose address is not decided yet.
#[derive(Clone, Debug)]
pub(super) enum StagedEntry {
    /// The bytes are the buffer's next data block.
    Data {
        vba: VirtualBlock,
        crc: u32,
    },
    Zero {
        range: VirtualRange,
    },
    Require {
        disk: DiskId,
        sequence: Sequence,
    },
}

/// A record to be: block 0 of the buffer is its header's, the others are its data, in order.
pub(super) struct Batch {
    pub buf: BlockBuf,
    pub entries: Vec<StagedEntry>,
}

impl Batch {
    pub fn new(capacity: usize) -> Self {
        let mut buf = BlockBuf::with_capacity(capacity);
        // The header's, which is encoded over all of it.
        buf.push_stale();
        Self { buf, entries: Vec::new() }
    }

    pub fn data_blocks(&self) -> usize {
        self.buf.block_count() - 1
    }

    /// Whether so much fits in a record at all.
    pub fn would_fit(entries: usize, data_blocks: usize, config: &ChainConfig) -> bool {
        entries <= MAX_ENTRIES && data_blocks <= config.record_blocks
    }

    /// Whether so much more still fits.
    pub fn has_room(&self, entries: usize, data_blocks: usize, config: &ChainConfig) -> bool {
        Self::would_fit(self.entries.len() + entries, self.data_blocks() + data_blocks, config)
    }

    /// Copies a block in, by `fill`, which writes all of it, and checksums the copy: what the
    /// caller's memory does afterwards no longer matters.
    pub fn push_block(
        &mut self,
        vba: VirtualBlock,
        fill: &mut dyn FnMut(&mut [u8; BLOCK_BYTES]),
        config: &ChainConfig,
    ) {
        if self.buf.is_full() {
            self.buf.reserve(config.record_blocks + 1);
        }
        let block = self.buf.push_stale();
        fill(block);
        let crc = crc32fast::hash(block);
        self.entries.push(StagedEntry::Data { vba, crc });
    }
}

/// Whether what is staged counts by itself, or only if other chains hold what it requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    Plain,
    Requiring,
}

/// Records that are sealed and answered together: one, or a group.
pub(super) struct Staged {
    pub answer: Arc<Answer>,
    pub batches: SmallVec<[Batch; 1]>,
    pub terms: Terms,
}

impl Staged {
    pub fn new(terms: Terms, expected_blocks: usize) -> Self {
        let batches = smallvec![Batch::new(expected_blocks.max(SMALL_BLOCKS))];
        Self { answer: Arc::default(), batches, terms }
    }

    /// Whether it is one record, which requires nothing of other chains.
    pub fn is_simple(&self) -> bool {
        self.terms == Terms::Plain && self.batches.len() == 1
    }

    /// The batch that is being filled.
    pub fn last(&mut self) -> &mut Batch {
        self.batches.last_mut().expect("there is always one")
    }

    /// Adds a group, in as many records as it takes.
    pub fn put(&mut self, group: &Group<'_>, config: &ChainConfig) {
        for range in group.zeros {
            self.batch_with_room(0, config)
                .entries
                .push(StagedEntry::Zero { range: range.clone() });
        }
        for (vba, bytes) in group.blocks {
            let batch = self.batch_with_room(1, config);
            batch.push_block(*vba, &mut |block| block.copy_from_slice(*bytes), config);
        }
        for (disk, sequence) in group.requires {
            let entry = StagedEntry::Require { disk: *disk, sequence: *sequence };
            self.batch_with_room(0, config).entries.push(entry);
        }
    }

    fn batch_with_room(&mut self, data_blocks: usize, config: &ChainConfig) -> &mut Batch {
        if !self.last().has_room(1, data_blocks, config) {
            self.batches.push(Batch::new(config.record_blocks + 1));
        }
        self.last()
    }

    /// Blocks of data staged so far.
    pub fn data_blocks(&self) -> usize {
        self.batches.iter().map(Batch::data_blocks).sum()
    }

    /// Blocks it takes from the store: all data, and a header to follow each record.
    pub fn blocks_needed(&self) -> u64 {
        let blocks = self.batches.iter().map(|batch| batch.buf.block_count()).sum();
        crate::addr::to_u64(blocks)
    }
}
