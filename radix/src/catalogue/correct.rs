//! Putting numbers right that rows keep of each other: for a repair, which has counted for itself.
//!
//! Everybody else leaves these numbers to [`Rows`], which changes them with what they count.

use bough_blockstore::DiskId;

use super::keys::{self, Keyed};
use super::rows::VersionId;
use super::table::{RowFault, Rows};
use crate::btree::{Pages, Totals};

impl<P: Pages> Rows<'_, P>
where
    P::Error: From<RowFault>,
{
    /// Says how many versions began from one.
    pub async fn correct_children(&mut self, id: VersionId, count: u64) -> Result<(), P::Error> {
        let mut row = self.version(id).await?;
        row.child_count = count;
        self.write(&row.key(), &row).await
    }

    /// Says how many snapshots a disk has.
    pub async fn correct_snapshots(&mut self, id: DiskId, count: u64) -> Result<(), P::Error> {
        let mut row = self.get_disk(id).await?.ok_or(RowFault::MissingDisk(id))?;
        row.snapshot_count = count;
        self.write(&keys::of_disk(keys::DISK, id), &row).await
    }

    /// Says how many there are of what `status` shows.
    pub async fn correct_totals(&mut self, totals: Totals) -> Result<(), P::Error> {
        self.change_totals(|kept| *kept = totals).await
    }
}
