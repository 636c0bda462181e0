//! The catalogue's rows: what the store knows of its disks besides their trees.
//!
//! Owns: the rows' bytes, their keys, and the agreement between primary and secondary keys and
//! counts. Never decides what a row should say. Invariant: every index entry has its row and
//! every row its index entries, because only [`Rows`] writes either.

mod codec;
mod correct;
mod index;
mod keys;
mod list;
mod rows;
mod table;

#[cfg(test)]
mod tests;

pub use rows::{
    AttachmentRow, ChainRow, DiskRow, ExtentRow, LimitsRow, ReclaimRow, VersionId, VersionKind,
    VersionRow,
};
pub use table::{RowFault, RowKind, Rows};
