//! Cargo, as the other words use it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use bough_guests::{Programs, Tally};

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quickly, with assertions.
    Dev,
    /// As it is delivered.
    Release,
}

/// Cargo, in the project's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// The project's root.
pub fn root() -> &'static Path {
    // tools/xtask lies two folders below.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."))
}

/// Whether this cargo command ends well.
pub fn succeeds(arguments: &[&str]) -> Result<bool> {
    eprintln!("$ cargo {}", arguments.join(" "));
    Ok(cargo(arguments).status()?.success())
}

/// Runs a program of this workspace, optimised, on that `bough`; whether it ended well.
pub fn run_released(package: &str, bough: &Path, arguments: &[OsString]) -> Result<bool> {
    let mut command = cargo(&["run", "--quiet", "--release", "--package", package, "--"]);
    Ok(command.arg("--bough").arg(bough).args(arguments).status()?.success())
}

/// Builds the `bough` command; returns its path.
pub fn build_bough(profile: Profile) -> Result<PathBuf> {
    build(&["bough"], profile)?;
    Ok(built("bough", profile))
}

/// Builds what the stories with guests play with, where it is not given.
pub fn build_for_guests(bough: Option<PathBuf>) -> Result<Programs> {
    let packages = ["bough-tests", "bough"];
    build(if bough.is_some() { &packages[..1] } else { &packages }, Profile::Dev)?;
    let built = built_for_guests();
    Ok(Programs { bough: bough.unwrap_or(built.bough), ..built })
}

/// Where that is once it was built. `cargo test` builds it too, for the tests of its packages;
/// building it again by itself would change the features of what it depends on, and so build half
/// of that a second time.
pub fn built_for_guests() -> Programs {
    let [bough, client] = ["bough", "steady-client"].map(|name| built(name, Profile::Dev));
    Programs { bough, client }
}

fn build(packages: &[&str], profile: Profile) -> Result<()> {
    let mut arguments = vec!["build", "--bins", "--profile", profile.name()];
    arguments.extend(packages.iter().flat_map(|package| ["--package", package]));
    if succeeds(&arguments)? { Ok(()) } else { bail!("{} could not be built", packages.join(", ")) }
}

fn built(program: &str, profile: Profile) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir));
    target.join(profile.folder()).join(program)
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Runs `cargo test`, shows what it prints, and adds up its summaries. A run that failed without
/// any failed test, for instance because it did not build, counts as one failure.
pub fn test(arguments: &[&str]) -> Result<Tally> {
    println!("$ cargo {}", arguments.join(" "));
    let mut child = cargo(arguments).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
    let mut tally = Tally::default();
    for line in lines {
        let line = line?;
        match summary(&line) {
            Some(of_one) => tally.add(of_one),
            None => println!("{line}"),
        }
    }
    if !child.wait()?.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// `test result: ok. 5 passed; 0 failed; ...` of one test binary.
fn summary(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| {
        counts.split(';').find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_counted_and_other_lines_are_not() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(summary(line), Some(Tally { passed: 12, failed: 3 }));
        assert_eq!(summary("test units::a_test ... ok"), None);
    }
}
