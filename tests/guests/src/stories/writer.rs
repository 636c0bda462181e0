//! A program in the guest that writes, and tells in a file how many writes are acknowledged.
//!
//! It is called `PROGRAM PROGRESS ARGUMENTS`, keeps the number in PROGRESS, and ends when
//! `PROGRESS.stop` exists.

use std::time::Duration;

use anyhow::Result;

use crate::agent::Job;
use crate::machine::Machine;
use crate::process::wait_for;

const PROGRESS: &str = "/run/written";
/// A watchdog's time, and what a busy machine adds.
const GETS_ON: Duration = Duration::from_secs(120);

/// The writer at work.
pub struct Writer {
    job: Job,
}

impl Writer {
    /// Starts it.
    pub fn start(guest: &Machine, program: &str, arguments: &str) -> Result<Self> {
        guest.run(&format!("rm -f {PROGRESS} {PROGRESS}.stop"))?;
        Ok(Self { job: guest.start(&format!("{program} {PROGRESS} {arguments}"))? })
    }

    /// How many writes are acknowledged.
    fn acknowledged(&self, guest: &Machine) -> Result<u64> {
        self.job.check_running()?;
        acknowledged(guest)
    }

    /// Waits until `count` more writes are acknowledged; returns how many there are then.
    pub fn advance(&self, guest: &Machine, count: u64) -> Result<u64> {
        let goal = self.acknowledged(guest)? + count;
        wait_for("the writer to get on", GETS_ON, || {
            let now = self.acknowledged(guest)?;
            Ok((now >= goal).then_some(now))
        })
    }

    /// Stops it; returns how many writes were acknowledged in all.
    pub fn stop(self, guest: &Machine) -> Result<u64> {
        guest.run(&format!("touch {PROGRESS}.stop"))?;
        self.job.succeed(GETS_ON)?;
        acknowledged(guest)
    }
}

fn acknowledged(guest: &Machine) -> Result<u64> {
    let text = guest.run(&format!("cat {PROGRESS} 2>/dev/null || true"))?;
    // The file is rewritten in place and may be seen while still empty.
    Ok(text.trim().parse().unwrap_or(0))
}
