//! Bitmap pages in and out, and the changes that commits make to them.

use bough_blockstore::{BLOCK_BYTES, BlockAddr, BlockCount, BlockRun, VirtualBlock};

use super::{Space, SpaceConfig, SpaceFault};
use crate::btree::Page;

impl Space {
    /// The allocator of a store; knows no extents and has no bitmap pages loaded.
    pub fn new(config: SpaceConfig) -> Self {
        let _ = config;
        todo!()
    }

    /// Which bitmap pages [`Space::commit_bits`] of these blocks needs and has not got.
    pub fn missing_for_blocks<'a>(
        &self,
        blocks: impl IntoIterator<Item = &'a BlockAddr>,
    ) -> Vec<VirtualBlock> {
        let _ = blocks.into_iter();
        todo!()
    }

    /// Which bitmap pages [`Space::adopt`] of this extent needs and has not got.
    pub fn missing_for_run(&self, run: BlockRun) -> Vec<VirtualBlock> {
        let _ = run;
        todo!()
    }

    /// Takes in a bitmap page as the catalogue has it now. Ignored where it is loaded already
    /// (two callers may have asked for it; the loaded one may be newer).
    pub fn load(
        &mut self,
        page: VirtualBlock,
        bytes: &[u8; BLOCK_BYTES],
    ) -> Result<(), SpaceFault> {
        let _ = (page, bytes);
        todo!()
    }

    /// What a commit does to the bitmap: `set` are taken blocks that trees hold from now on,
    /// `clear` are blocks that no tree holds any more; they go to limbo. Checks everything
    /// before it changes anything. Returns the changed pages, for the same commit to write;
    /// call it under the commit lock, so that a later image of a page is written later. The
    /// pages stay in memory until [`Space::written`].
    pub fn commit_bits(
        &mut self,
        set: &[BlockAddr],
        clear: &[BlockAddr],
    ) -> Result<Vec<(VirtualBlock, Page)>, SpaceFault> {
        let _ = (set, clear);
        todo!()
    }

    /// The commit of these pages is published: reading the catalogue gives them back.
    pub fn written(&mut self, pages: &[VirtualBlock]) {
        let _ = pages;
        todo!()
    }

    /// Forgets loaded pages, the least recently used first, until `keep` are left (or only such
    /// as wait for [`Space::written`]).
    pub fn trim(&mut self, keep: usize) {
        let _ = keep;
        todo!()
    }

    /// Bits set, for `Counters::used_blocks` in the commit.
    pub fn used_blocks(&self) -> u64 {
        self.used
    }

    /// For `Counters::virgin_from` in the commit of an extent.
    pub fn virgin_from(&self) -> BlockAddr {
        BlockAddr::of(self.virgin_from)
    }

    /// The store has become larger; `reserved` of the new blocks belong to the catalogue.
    pub fn grow(&mut self, total: BlockCount, reserved: &[BlockRun]) {
        let _ = (total, reserved);
        todo!()
    }
}
