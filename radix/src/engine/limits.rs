//! How much guests may ask of a disk: remembered in the catalogue. Keeping to it is the server's.

use super::find::disk_row;
use super::{Engine, EngineError};
use crate::catalogue::{LimitsRow, Rows};
use crate::disk0::Need as PoolNeed;
use crate::info::{DiskInfo, Limits, LimitsChange};
use crate::names::DiskName;

impl Engine {
    /// Changes a disk's limits.
    ///
    /// # Errors
    /// Where there is no such disk, or the limits cannot be.
    pub async fn set_limits(
        &self,
        name: &DiskName,
        change: LimitsChange,
    ) -> Result<DiskInfo, EngineError> {
        let mut commit = self.store().catalogue.begin(PoolNeed::Ordinary).await?;
        let mut rows = Rows::new(&mut commit);
        let disk = disk_row(&rows, name).await?.id;
        let before = rows.get_limits(disk).await?.map_or(Limits::NONE, |row| row.limits);
        let limits = before.with(change);
        if !limits.is_sound() {
            return Err(EngineError::BadBurst { seconds: limits.burst_seconds });
        }
        if limits.is_none() {
            rows.remove_limits(disk).await?;
        } else {
            rows.put_limits(&LimitsRow { disk, limits }).await?;
        }
        commit.stage(&[]).await?.durable().await?;
        self.disk_info(name).await
    }

    /// A disk's limits.
    ///
    /// # Errors
    /// Where there is no such disk.
    pub async fn limits(&self, name: &DiskName) -> Result<Limits, EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let disk = disk_row(&rows, name).await?.id;
        Ok(rows.get_limits(disk).await?.map_or(Limits::NONE, |row| row.limits))
    }
}
