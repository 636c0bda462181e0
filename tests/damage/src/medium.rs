//! Where a closed store's blocks are: a simulated image or a file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bough_blockstore::sim::SimImage;
use bough_blockstore::{BlockAddr, BlockCount};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;

/// One block's bytes.
pub type Block = Box<[u8; BLOCK_BYTES]>;

/// A store that nobody has open.
pub trait Medium {
    /// How many blocks there are.
    fn block_count(&self) -> u64;
    /// One block.
    fn read(&self, at: u64) -> Block;
    /// Replaces one block.
    fn write(&mut self, at: u64, bytes: &[u8; BLOCK_BYTES]);
}

impl Medium for SimImage {
    fn block_count(&self) -> u64 {
        let BlockCount(count) = SimImage::block_count(self);
        count
    }

    fn read(&self, at: u64) -> Block {
        SimImage::read(self, BlockAddr::of(at))
    }

    fn write(&mut self, at: u64, bytes: &[u8; BLOCK_BYTES]) {
        self.damage(BlockAddr::of(at), |block| *block = *bytes);
    }
}

/// A store in a file.
#[derive(Debug)]
pub struct FileMedium(pub File);

impl Medium for FileMedium {
    fn block_count(&self) -> u64 {
        self.0.metadata().expect("an open file has metadata").len() / 4096
    }

    fn read(&self, at: u64) -> Block {
        let mut block = Box::new([0; BLOCK_BYTES]);
        self.0.read_exact_at(&mut block[..], at * 4096).expect("the block is there");
        block
    }

    fn write(&mut self, at: u64, bytes: &[u8; BLOCK_BYTES]) {
        self.0.write_all_at(bytes, at * 4096).expect("the block can be written");
    }
}
