//! The stores that are kept, one of every released format version, as a `kill -9` left them.

use std::io::Read;
use std::path::PathBuf;

use bough_blockstore::sim::SimImage;
use bough_blockstore::{BlockAddr, BlockCount};
use flate2::read::GzDecoder;

/// Blocks of a kept store.
pub const GOLDEN_BLOCKS: u64 = 2048;
/// Blocks of each disk in it.
pub const GOLDEN_DISK_BLOCKS: u64 = 600;
/// The versions in it.
pub const GOLDEN_VERSIONS: [&str; 5] = ["web", "web@one", "web@two", "copy", "db"];

/// The byte that a version's block is filled with. For ever: the stores that are kept were made
/// by it.
pub fn golden_byte(version: &str, block: u64) -> Option<u8> {
    match (version, block) {
        ("web", 7) => None,
        ("web", 3..12) => Some(0x33),
        ("web" | "web@two", 290..300) => Some(0x22),
        ("web" | "web@one" | "web@two" | "copy", 0..40) => Some(0x11),
        ("copy", 599) => Some(0x55),
        ("db", 100..140) => Some(0x44),
        _ => None,
    }
}

/// Where the store of a format version is kept.
pub fn golden_path(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/v{version}.gz"))
}

/// The store of a format version.
///
/// # Panics
/// Where there is none.
pub fn golden_store(version: u32) -> SimImage {
    let file = std::fs::File::open(golden_path(version));
    let mut from = GzDecoder::new(file.expect("a store of every version is kept"));
    let mut image = SimImage::zeroed(BlockCount(GOLDEN_BLOCKS));
    for block in 0..GOLDEN_BLOCKS {
        image.damage(BlockAddr::of(block), |bytes| from.read_exact(bytes).expect("a whole store"));
    }
    image
}
