//! The fuzz targets: as many at once as there are cores, each for its time.

use std::io::{BufRead, BufReader};
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bough_guests::Tally;
use clap::Args;

use crate::cargo::{cargo, root};

/// What every run of all tests gives each target.
pub const USUAL_SECONDS: u64 = 60;

/// A target: an ordinary test, found by its name.
struct Target {
    name: &'static str,
    package: &'static [&'static str],
    test: &'static str,
}

const fn target(name: &'static str, package: &'static [&'static str]) -> Target {
    Target { name, package, test: name }
}

const STORE: &[&str] = &["--package", "bough-fuzz", "--test", "store"];
const VHOST: &[&str] = &["--package", "bough-fuzz", "--test", "vhost"];
const CONTROL: &[&str] = &["--package", "bough-fuzz", "--test", "control"];
const BOUGH: &[&str] = &["--package", "bough", "--bin", "bough"];

/// Each boundary that strangers' bytes cross.
const TARGETS: [Target; 9] = [
    target("superblock", STORE),
    target("record", STORE),
    target("row", STORE),
    target("node", STORE),
    target("session", VHOST),
    target("rings", VHOST),
    target("control", CONTROL),
    Target { name: "qcow2", package: BOUGH, test: "image::fuzz_tests::qcow2_import" },
    Target { name: "vmdk", package: BOUGH, test: "image::fuzz_tests::vmdk_import" },
];

/// Which targets, how long, and how.
#[derive(Debug, Args)]
pub struct Fuzz {
    /// Only this one: superblock, record, row, node, session, rings, control, qcow2 or vmdk
    target: Option<String>,
    /// How long each runs
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Let libFuzzer follow the code's branches: needs a nightly toolchain and cargo-bolero
    #[arg(long)]
    guided: bool,
}

impl Fuzz {
    /// Runs them; true if none found anything.
    pub fn run(&self) -> Result<bool> {
        let chosen = self.chosen()?;
        if self.guided {
            return self.run_guided(&chosen);
        }
        let tally = run(&chosen, Duration::from_secs(self.minutes * 60))?;
        Ok(tally.failed == 0)
    }

    fn chosen(&self) -> Result<Vec<&'static Target>> {
        let wanted = |target: &&Target| self.target.as_ref().is_none_or(|name| target.name == name);
        let chosen: Vec<_> = TARGETS.iter().filter(wanted).collect();
        if chosen.is_empty() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            bail!("there is no such target; there are: {}", names.join(", "));
        }
        Ok(chosen)
    }

    /// One after the other: libFuzzer uses all that there is.
    fn run_guided(&self, targets: &[&Target]) -> Result<bool> {
        let time = format!("{}m", self.minutes);
        let mut ask = nightly(&["bolero", "--help"]);
        let answer = ask.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !answer.is_ok_and(|status| status.success()) {
            let missing = "rustup toolchain install nightly && cargo install cargo-bolero";
            bail!("a nightly toolchain or cargo-bolero is missing: run `{missing}`");
        }
        let mut good = true;
        for target in targets {
            let mut guided = nightly(&["bolero", "test", "--engine", "libfuzzer", "--time", &time]);
            good &= guided.args(target.package).arg(target.test).status()?.success();
        }
        Ok(good)
    }
}

/// The nightly toolchain's cargo, in the project's root: our own cargo would not change over.
fn nightly(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(arguments);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs every target for the usual time.
pub fn run_all() -> Result<Tally> {
    let all: Vec<&Target> = TARGETS.iter().collect();
    run(&all, Duration::from_secs(USUAL_SECONDS))
}

/// Random inputs on a stable toolchain.
fn run(targets: &[&Target], time: Duration) -> Result<Tally> {
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let one_after_the_other = || -> Result<()> {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            let good = run_one(target, time)?;
            let counted = Tally { passed: u64::from(good), failed: u64::from(!good) };
            tally.lock().expect("nobody panics with it").add(counted);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(one_after_the_other)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(tally.into_inner().expect("nobody panics with it"))
}

/// Shows how many inputs there were; of a failure, everything.
fn run_one(target: &Target, time: Duration) -> Result<bool> {
    let mut command = cargo(&["test", "--quiet"]);
    command.args(target.package).args(["--", "--exact", "--nocapture", target.test]);
    command.env("BOLERO_RANDOM_TEST_TIME_MS", time.as_millis().to_string());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let told = BufReader::new(child.stderr.take().context("its output is a pipe")?).lines();
    let told: Vec<String> = told.collect::<Result<_, _>>()?;
    let good = child.wait()?.success();
    let count = told.iter().find_map(|line| executions(line));
    match (good, count) {
        (true, Some(count)) => println!("fuzz {} ... {count} executions, ok", target.name),
        (true, None) => println!("fuzz {} ... FAILED: it told of no execution", target.name),
        (false, _) => println!("fuzz {} ... FAILED\n{}", target.name, told.join("\n")),
    }
    Ok(good && count.is_some())
}

/// Of `test NAME ... run time: 1s | iterations/s: 5 | corpus inputs: 2 | rng inputs: 3 | ...`.
fn executions(line: &str) -> Option<u64> {
    let counts = line.strip_prefix("test ")?.split(" | ").filter_map(|part| {
        let count = part.strip_prefix("rng inputs: ").or(part.strip_prefix("corpus inputs: "))?;
        count.parse::<u64>().ok()
    });
    Some(counts.sum()).filter(|sum| *sum > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_counted_and_other_lines_are_not() {
        let line = "test node ...\trun time: 8s | iterations/s: 16 | corpus inputs: 4 | rng inputs: 127 | exit reason: max duration (8s) exceeded";
        assert_eq!(executions(line), Some(131));
        assert_eq!(executions("test node ... ok"), None);
    }
}
