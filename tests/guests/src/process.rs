//! Child processes that cannot outlive us.
//!
//! Owns spawning, logging, signalling and reaping. `setpriv` arms the parent-death signal in the
//! child, so that it dies even when we are killed; `Drop` covers errors and panics. The kernel
//! sends that signal when the *thread* that spawned ends: spawn from a thread that stays.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a wait looks again.
pub const POLL: Duration = Duration::from_millis(20);

/// A running program with its output in a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// A command that dies with us, for those who want its output themselves.
pub fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts `program`; stdout and stderr are appended to `log`.
    pub fn start<S: AsRef<OsStr>>(program: &Path, args: &[S], log: &Path) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let out = File::options().create(true).append(true).open(log)?;
        let child = tied(program)
            .args(args)
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {name}: is setpriv (util-linux) there?"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// The process id: `setpriv` execs, so it is the program's own.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, with the last lines of its log, if it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.last_words()),
        }
    }

    /// `kill -9`: no farewell, nothing flushed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end by SIGTERM and waits for that.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id())?;
        let pid = Pid::from_raw(pid).context("a child has a process id")?;
        kill_process(pid, Signal::TERM)?;
        self.wait(limit)
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(&format!("{name} to end"), limit, || self.ended())
    }

    /// The end of its log, for error messages.
    pub fn last_words(&self) -> String {
        tail(&self.log, 30)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks `look` until it answers, at most for `limit`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        std::thread::sleep(POLL);
    }
}

/// The last `count` lines of a file; empty if it cannot be read.
pub fn tail(path: &Path, count: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_is_in_vain_says_what_for() {
        let error = wait_for("rain", Duration::ZERO, || Ok(None::<()>)).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain for rain");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let log = std::env::temp_dir().join(format!("bough-process-{}", std::process::id()));
        let child = Process::start(Path::new("/bin/sleep"), &["1000"], &log).unwrap();
        let id = child.id();
        drop(child);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        std::fs::remove_file(log).unwrap();
    }
}
