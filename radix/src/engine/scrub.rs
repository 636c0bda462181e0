//! Scrubbing: every block of every version is read and verified, at a bounded rate.

use std::time::Duration;

use bough_blockstore::BlockAddr;

use super::{Engine, EngineError};
use crate::catalogue::{Rows, VersionId, VersionKind, VersionRow};
use crate::info::{CheckReport, Finding, Severity};
use crate::node::Entry;
use crate::walk::{Found, Onward, walk};

const PAGE_ROWS: usize = 64;

/// How to scrub.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubOptions {
    /// At most so many bytes are read in a second.
    pub bytes_per_second: Option<u64>,
}

/// How far something has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes to do, as far as is known now.
    pub total_bytes: u64,
}

impl Engine {
    /// Reads and verifies all data. Guests go on; what is written meanwhile may be left out.
    ///
    /// # Errors
    /// Where the catalogue cannot be read: damage is in the report.
    pub async fn scrub(
        &self,
        options: ScrubOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CheckReport, EngineError> {
        let mut report = CheckReport::default();
        let mut from = VersionId(0);
        let mut pace = Pace::new(self, options);
        loop {
            let page = {
                let mut view = self.store().catalogue.read().await;
                Rows::new(&mut view).list_all_versions(from, PAGE_ROWS).await?
            };
            for row in page.iter().filter(|row| !row.hidden && !row.pending) {
                self.scrub_version(row, &mut report, &mut pace, progress).await?;
                report.versions += 1;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_ROWS => from = VersionId(last.id.0 + 1),
                _ => return Ok(report),
            }
        }
    }

    async fn scrub_version(
        &self,
        row: &VersionRow,
        report: &mut CheckReport,
        pace: &mut Pace<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), EngineError> {
        let (name, parent_epoch) = self.scrub_subject(row).await?;
        // What stands in the tree now stays readable until the gate is left.
        let _reading = self.store().gate.enter();
        let (mut owned, mut findings): (Vec<Entry>, Vec<Finding>) = (Vec::new(), Vec::new());
        walk(&self.store().cache, row.root, |found| match found {
            Found::Entry { entry, .. } if entry.birth() <= parent_epoch => Onward::Past,
            Found::Entry { position, entry } => {
                if position.level == 0 {
                    owned.push(entry);
                } else {
                    report.nodes += 1;
                }
                Onward::Down
            }
            Found::Unreadable { position, entry, error } => {
                let message = format!("its node at {position} cannot be read: {error}");
                findings.push(finding(&name, entry.pointer(), message));
                Onward::Past
            }
        })
        .await;
        let total_bytes = self.store().space().counts().used * 4096;
        for entry in owned {
            if let Some(addr) = entry.pointer()
                && let Err(message) = self.verify(addr, entry.crc()).await
            {
                findings.push(finding(&name, Some(addr), message));
            }
            report.blocks += 1;
            pace.spent(4096).await;
            if report.blocks.is_multiple_of(1024) {
                progress(Progress { done_bytes: report.blocks * 4096, total_bytes });
            }
        }
        report.findings.extend(findings);
        Ok(())
    }

    async fn verify(&self, addr: BlockAddr, crc: u32) -> Result<(), String> {
        let read = self.store().device.read(addr, 1).await;
        match read {
            Ok(buf) if crc32fast::hash(buf.block(0)) == crc => Ok(()),
            Ok(_) => Err("its data is not what was written".to_owned()),
            Err(error) => Err(format!("its data cannot be read: {error}")),
        }
    }

    async fn scrub_subject(
        &self,
        row: &VersionRow,
    ) -> Result<(String, bough_blockstore::Epoch), EngineError> {
        let mut view = self.store().catalogue.read().await;
        let rows = Rows::new(&mut view);
        let disk = rows.get_disk(row.disk).await?;
        let disk = disk.map_or_else(|| format!("disk {}", row.disk), |disk| disk.name.to_string());
        let name = match (&row.label, row.kind) {
            (Some(label), VersionKind::Snapshot) => format!("{disk}@{label}"),
            _ => disk,
        };
        // Hidden versions are not scrubbed for themselves: what they hold that others read is
        // read with the first that is not hidden.
        let mut parent = row.parent;
        while let Some(id) = parent {
            let version = rows.version(id).await?;
            if !version.hidden && !version.pending {
                return Ok((name, version.epoch));
            }
            parent = version.parent;
        }
        Ok((name, bough_blockstore::Epoch::ZERO))
    }
}

fn finding(version: &str, block: Option<BlockAddr>, message: String) -> Finding {
    Finding {
        severity: Severity::Corruption,
        version: Some(version.to_owned()),
        block: block.map(BlockAddr::raw),
        message,
    }
}

/// Keeps to a rate.
struct Pace<'a> {
    engine: &'a Engine,
    options: ScrubOptions,
    began: Duration,
    bytes: u64,
}

impl<'a> Pace<'a> {
    fn new(engine: &'a Engine, options: ScrubOptions) -> Self {
        let began = engine.store().runtime.now();
        Self { engine, options, began, bytes: 0 }
    }

    async fn spent(&mut self, bytes: u64) {
        self.bytes += bytes;
        let Some(rate) = self.options.bytes_per_second else { return };
        let due = Duration::from_secs_f64(to_f64(self.bytes) / to_f64(rate.max(1)));
        let runtime = &self.engine.store().runtime;
        let elapsed = runtime.now().saturating_sub(self.began);
        // A sleep for every block would be a wake-up for every block.
        if due > elapsed + Duration::from_millis(20) {
            runtime.sleep(due - elapsed).await;
        }
    }
}

#[allow(clippy::cast_precision_loss)] // a rate, not an account
fn to_f64(value: u64) -> f64 {
    value as f64
}
