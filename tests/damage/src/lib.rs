//! A second reader of closed stores, made from the format's description, and the damage tool.

mod damage;
mod layout;
mod medium;
mod rows;

pub use damage::{
    flip_bitmap_bit, replace_root_crc, repoint, rewrite_catalogue_page, rewrite_row, rot,
    swap_superblock_version,
};
pub use layout::{Layout, Pointer, Position, Root, Tree};
pub use medium::{BLOCK_BYTES, Block, FileMedium, Medium};
pub use rows::{Chain, Extent, Meta, Rows, Version};
