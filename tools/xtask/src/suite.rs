//! Every test, one count.

use anyhow::Result;
use bough_guests::Tally;

use crate::{cargo, fuzz, packages};

/// Runs all tests; true if none failed. Goes on after a failure: one run shows them all.
pub fn test() -> Result<bool> {
    packages::install(packages::TESTS)?;
    packages::install(packages::GUESTS)?;
    let mut tally = Tally::default();
    tally.add(check("format", &["fmt", "--all", "--check"])?);
    let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    tally.add(check("lints", &lints)?);
    tally.add(cargo::test(&["test", "--workspace", "--no-fail-fast"])?);
    tally.add(fuzz::run_all()?);
    tally.add(bough_guests::play(&cargo::built_for_guests())?);
    report(tally)
}

/// Runs the soak test for so long; true if no promise was broken.
pub fn soak(minutes: u64) -> Result<bool> {
    let mut command = cargo::cargo(&["test", "--package", "bough", "--test", "soak"]);
    command.args(["--", "--nocapture"]).env("BOUGH_SOAK_SECONDS", (minutes * 60).to_string());
    Ok(command.status()?.success())
}

fn check(name: &str, arguments: &[&str]) -> Result<Tally> {
    let good = cargo::succeeds(arguments)?;
    println!("{name}: {}", if good { "ok" } else { "FAILED" });
    Ok(Tally { passed: u64::from(good), failed: u64::from(!good) })
}

/// Prints the closing line; true if nothing failed.
pub fn report(tally: Tally) -> Result<bool> {
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}
