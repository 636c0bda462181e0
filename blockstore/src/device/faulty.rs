//! A device of which a test of the whole server says what goes wrong. Only in builds with the
//! feature `faults`, which nothing but tests asks for.
//!
//! The environment variable `BOUGH_FAULTS` names a file, opened with the store. The rules in it
//! hold from the moment on at which they are written there, one a line, in the simulator's words:
//!
//! ```text
//! write error after 3 times 1     three writes go well, one fails having written any part
//! read error                      every read fails
//! sync lost                       every sync succeeds and does nothing
//! write nospace                   the host file system is full
//! write slow 50                   every write takes 50 ms longer
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Device, DeviceError, DeviceFault, IoFuture, Operation, Runtime};
use crate::addr::{BlockAddr, BlockCount, BlockRun, to_u64};
use crate::buffer::{BlockBuf, BlockSlice};
use crate::reactor::UringRuntime;

/// The file of rules is no longer than this.
const RULES_BYTES: usize = 4096;

/// One thing that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mishap {
    /// An I/O error.
    Error,
    /// The host file system is full.
    NoSpace,
    /// It succeeds and does nothing.
    Lost,
    /// It takes so much longer.
    Slow(Duration),
}

/// What happens to which operation, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rule {
    operation: Operation,
    mishap: Mishap,
    /// How many of those still go well.
    after: u64,
    /// How many are struck after that.
    times: u64,
}

/// What goes wrong: see the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FaultRules(Vec<Rule>);

/// A line that is no rule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no rule for faults")]
pub struct NoRule(String);

impl FromStr for FaultRules {
    type Err = NoRule;

    fn from_str(text: &str) -> Result<Self, NoRule> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let rules = lines.map(|line| rule(line).ok_or_else(|| NoRule(line.to_owned())));
        rules.collect::<Result<_, _>>().map(Self)
    }
}

fn rule(line: &str) -> Option<Rule> {
    let mut words = line.split_whitespace();
    let operation = operation(words.next()?)?;
    let mishap = match words.next()? {
        "error" => Mishap::Error,
        "nospace" => Mishap::NoSpace,
        "lost" => Mishap::Lost,
        "slow" => Mishap::Slow(Duration::from_millis(words.next()?.parse().ok()?)),
        _ => return None,
    };
    let mut counts = BTreeMap::new();
    while let Some(word) = words.next() {
        counts.insert(word, words.next()?.parse().ok()?);
    }
    let after = counts.remove("after").unwrap_or(0);
    let times = counts.remove("times").unwrap_or(u64::MAX);
    counts.is_empty().then_some(Rule { operation, mishap, after, times })
}

fn operation(word: &str) -> Option<Operation> {
    use Operation::{Discard, Grow, Read, Reserve, Sync, Write};
    let all = [Read, Write, Sync, Discard, Reserve, Grow];
    all.into_iter().find(|operation| operation.to_string() == word)
}

impl FaultRules {
    /// What happens to the operation that begins now.
    fn strike(&mut self, operation: Operation) -> Option<Mishap> {
        let rule = self.0.iter_mut().find(|rule| rule.operation == operation && rule.times > 0)?;
        if rule.after > 0 {
            rule.after -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.mishap)
    }
}

/// A device, and what goes wrong with it; see the module.
pub struct FaultyDevice {
    device: Arc<dyn Device>,
    file: File,
    /// The file's text, and what is left of the rules in it.
    rules: Mutex<(Vec<u8>, FaultRules)>,
}

impl FaultyDevice {
    /// The device itself where the environment names no file of rules.
    ///
    /// # Panics
    /// Where it names one that cannot be opened.
    pub fn around(device: Arc<dyn Device>) -> Arc<dyn Device> {
        let Some(path) = std::env::var_os("BOUGH_FAULTS") else { return device };
        let file = File::open(path).expect("BOUGH_FAULTS names a file of rules");
        tracing::warn!("a test decides what goes wrong with the store's device");
        Arc::new(Self { device, file, rules: Mutex::default() })
    }

    fn strike(&self, operation: Operation) -> Option<Mishap> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = vec![0; RULES_BYTES];
        let count = self.file.read_at(&mut text, 0).unwrap_or(0);
        text.truncate(count);
        if text != rules.0 {
            // What makes no sense is being written just now.
            if let Ok(new) = String::from_utf8_lossy(&text).parse() {
                *rules = (text, new);
            }
        }
        rules.1.strike(operation)
    }

    /// An operation in which only its failure and its duration matter.
    fn plain(
        &self,
        span: Span,
        begin: impl FnOnce(&dyn Device) -> IoFuture<()> + 'static,
    ) -> IoFuture<()> {
        match self.strike(span.operation) {
            None => begin(&*self.device),
            Some(Mishap::Lost) => Box::pin(async { Ok(()) }),
            Some(mishap) => {
                let device = Arc::clone(&self.device);
                detached(span, async move {
                    span.suffer(mishap).await?;
                    begin(&*device).await
                })
            }
        }
    }
}

/// What an operation is about, for its error.
#[derive(Clone, Copy)]
struct Span {
    operation: Operation,
    at: BlockAddr,
    count: u64,
}

impl Span {
    fn error(self, kind: DeviceFault) -> DeviceError {
        DeviceError { operation: self.operation, at: self.at, run_count: self.count, kind }
    }

    /// The delay, or the failure.
    async fn suffer(self, mishap: Mishap) -> Result<(), DeviceError> {
        match mishap {
            Mishap::Slow(delay) => {
                UringRuntime.sleep(delay).await;
                Ok(())
            }
            Mishap::NoSpace => Err(self.error(DeviceFault::NoSpace)),
            Mishap::Error | Mishap::Lost => {
                let error = io::Error::from_raw_os_error(libc::EIO);
                Err(self.error(DeviceFault::Io(Arc::new(error))))
            }
        }
    }
}

/// Carries `work` out whether or not somebody waits for it: as a device does.
fn detached<T: 'static>(
    span: Span,
    work: impl Future<Output = Result<T, DeviceError>> + 'static,
) -> IoFuture<T> {
    let (done, waiting) = oneshot::channel();
    UringRuntime.spawn(Box::pin(async move {
        let _ = done.send(work.await);
    }));
    Box::pin(async move {
        let stopped = |_| span.error(DeviceFault::Io(Arc::new(io::ErrorKind::Interrupted.into())));
        waiting.await.map_err(stopped)?
    })
}

impl Device for FaultyDevice {
    fn block_count(&self) -> BlockCount {
        self.device.block_count()
    }

    fn read(&self, at: BlockAddr, count: usize) -> IoFuture<BlockBuf> {
        let span = Span { operation: Operation::Read, at, count: to_u64(count) };
        let Some(mishap) = self.strike(Operation::Read) else { return self.device.read(at, count) };
        let device = Arc::clone(&self.device);
        detached(span, async move {
            span.suffer(mishap).await?;
            device.read(at, count).await
        })
    }

    fn read_mirror(&self, at: BlockAddr, count: usize) -> Option<IoFuture<BlockBuf>> {
        self.device.read_mirror(at, count)
    }

    fn write(&self, at: BlockAddr, data: BlockSlice) -> IoFuture<()> {
        let count = data.block_count();
        let span = Span { operation: Operation::Write, at, count: to_u64(count) };
        match self.strike(Operation::Write) {
            None => self.device.write(at, data),
            Some(Mishap::Lost) => Box::pin(async { Ok(()) }),
            Some(Mishap::Slow(delay)) => {
                let device = Arc::clone(&self.device);
                detached(span, async move {
                    UringRuntime.sleep(delay).await;
                    device.write(at, data).await
                })
            }
            Some(mishap) => {
                let device = Arc::clone(&self.device);
                detached(span, async move {
                    device.write(at, data.slice(0, count / 2)).await?;
                    span.suffer(mishap).await
                })
            }
        }
    }

    fn sync(&self) -> IoFuture<()> {
        let span = Span { operation: Operation::Sync, at: BlockAddr::ZERO, count: 0 };
        self.plain(span, |device| device.sync())
    }

    fn discard(&self, run: BlockRun) -> IoFuture<()> {
        let span = Span { operation: Operation::Discard, at: run.start, count: run.count };
        self.plain(span, move |device| device.discard(run))
    }

    fn reserve(&self, run: BlockRun) -> IoFuture<()> {
        let span = Span { operation: Operation::Reserve, at: run.start, count: run.count };
        self.plain(span, move |device| device.reserve(run))
    }

    fn is_sparse(&self) -> bool {
        self.device.is_sparse()
    }

    fn grow(&self, to: BlockCount) -> IoFuture<()> {
        let span = Span { operation: Operation::Grow, at: BlockAddr::ZERO, count: to.0 };
        self.plain(span, move |device| device.grow(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_strikes_its_operation_after_so_many_and_so_often() {
        let mut rules: FaultRules = "write error after 2 times 1\n\nsync lost\n".parse().unwrap();
        let mut write = || rules.strike(Operation::Write);
        assert_eq!((write(), write()), (None, None));
        assert_eq!((write(), write()), (Some(Mishap::Error), None));
        for _ in 0..3 {
            assert_eq!(rules.strike(Operation::Sync), Some(Mishap::Lost));
            assert_eq!(rules.strike(Operation::Read), None);
        }
    }

    #[test]
    fn a_later_rule_for_an_operation_follows_the_earlier_one() {
        let mut rules: FaultRules = "write slow 5 times 1\nwrite nospace".parse().unwrap();
        let slow = Mishap::Slow(Duration::from_millis(5));
        assert_eq!(rules.strike(Operation::Write), Some(slow));
        assert_eq!(rules.strike(Operation::Write), Some(Mishap::NoSpace));
    }

    #[test]
    fn what_is_no_rule_is_refused_by_name() {
        for line in [
            "write",
            "write sometimes",
            "eat error",
            "write slow",
            "read error after",
            "read error before 1",
            "sync error times x",
        ] {
            assert_eq!(line.parse::<FaultRules>(), Err(NoRule(line.to_owned())));
        }
        assert_eq!(" \n".parse(), Ok(FaultRules::default()));
    }
}
