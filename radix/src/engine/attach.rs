//! Which disks are offered to guests: remembered in the catalogue, so that a server started again
//! offers them again.

use bough_blockstore::DiskId;

use super::find::disk_row;
use super::{Engine, EngineError};
use crate::catalogue::{AttachmentRow, RowFault, Rows};
use crate::disk0::Need as PoolNeed;
use crate::info::Attachment;
use crate::names::DiskName;

const PAGE_ROWS: usize = 256;
/// The most virtqueues of one disk.
const QUEUES_MAX: u16 = 64;

impl Engine {
    /// Remembers that a disk is to be offered.
    ///
    /// # Errors
    /// Where there is no such disk, or the number of queues cannot be.
    pub async fn attach(&self, name: &DiskName, how: Attachment) -> Result<(), EngineError> {
        if !(1..=QUEUES_MAX).contains(&how.queues) {
            return Err(EngineError::BadQueues { queues: how.queues });
        }
        let mut commit = self.store().catalogue.begin(PoolNeed::Ordinary).await?;
        let mut rows = Rows::new(&mut commit);
        let disk = disk_row(&rows, name).await?.id;
        let Attachment { queues, read_only } = how;
        rows.put_attachment(&AttachmentRow { disk, queues, read_only }).await?;
        commit.stage(&[]).await?.durable().await?;
        Ok(())
    }

    /// Forgets that.
    ///
    /// # Errors
    /// Where there is no such disk, or it is not attached.
    pub async fn detach(&self, name: &DiskName) -> Result<(), EngineError> {
        let mut commit = self.store().catalogue.begin(PoolNeed::Release).await?;
        let mut rows = Rows::new(&mut commit);
        let disk = disk_row(&rows, name).await?.id;
        if !rows.remove_attachment(disk).await? {
            return Err(EngineError::NotAttached { disk: name.to_string() });
        }
        commit.stage(&[]).await?.durable().await?;
        Ok(())
    }

    /// Every disk to be offered.
    ///
    /// # Errors
    /// Where the catalogue cannot be read.
    pub async fn attachments(&self) -> Result<Vec<(DiskName, Attachment)>, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let (mut from, mut all) = (DiskId(0), Vec::new());
        loop {
            let page = rows.list_attachments(from, PAGE_ROWS).await?;
            for row in &page {
                let disk = rows.get_disk(row.disk).await?.ok_or(RowFault::MissingDisk(row.disk))?;
                let how = Attachment { queues: row.queues, read_only: row.read_only };
                all.push((disk.name, how));
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = DiskId(last.disk.0 + 1),
                _ => return Ok(all),
            }
        }
    }
}
