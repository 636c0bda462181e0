//! A second reader of closed stores, made from the format's description, and the damage tool.

mod damage;
mod golden;
mod layout;
mod medium;
mod rows;

pub use damage::{
    flip_bitmap_bit, forge_node, replace_root_crc, replace_root_height, repoint,
    rewrite_catalogue_page, rewrite_row, rot, swap_superblock_version,
};
pub use golden::{
    GOLDEN_BLOCKS, GOLDEN_DISK_BLOCKS, GOLDEN_VERSIONS, golden_byte, golden_path, golden_store,
};
pub use layout::{Layout, Pointer, Position, Root, Tree};
pub use medium::{BLOCK_BYTES, Block, FileMedium, Medium};
pub use rows::{Chain, Extent, Meta, Rows, Version};
