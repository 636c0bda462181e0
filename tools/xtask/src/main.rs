//! The project's words: `cargo xtask test`, `demo`, `guests`, `fuzz`, `soak`, `bench`.
//!
//! Each word installs what it needs beyond the Rust toolchain, says so, and ends with a status
//! that a script can trust.

mod bench;
mod cargo;
mod fuzz;
mod packages;
mod suite;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use cargo::Profile;
use clap::{Args, Parser, Subcommand};

/// What can be done with this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    word: Word,
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Run every test: format, lints, tests of all crates, guests in QEMU
    Test,
    /// Watch a Debian guest live through snapshot, server crash and rollback
    Demo(Subject),
    /// Run only the stories with guests in QEMU
    Guests(Subject),
    /// Feed hostile bytes to everything that decodes, and print how many
    Fuzz(fuzz::Fuzz),
    /// Guests, snapshots, clones, deletes, checks and kills of the server, all at once
    Soak {
        /// How long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Measure speed beside qemu-storage-daemon, snapshots, and scale
    Bench {
        /// `--quick`, `--json`, and what `--help` after `--` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct Subject {
    /// The `bough` to use [default: the one built from here]
    #[arg(long, value_name = "FILE")]
    bough: Option<PathBuf>,
}

fn main() -> ExitCode {
    match play(Xtask::parse().word) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(word: Word) -> Result<bool> {
    match word {
        Word::Test => suite::test(),
        Word::Demo(subject) => {
            packages::install(packages::GUESTS)?;
            let release = || cargo::build_bough(Profile::Release);
            bough_guests::demo(&subject.bough.map_or_else(release, Ok)?)?;
            Ok(true)
        }
        Word::Guests(subject) => {
            packages::install(packages::GUESTS)?;
            suite::report(bough_guests::play(&cargo::build_for_guests(subject.bough)?)?)
        }
        Word::Fuzz(fuzz) => fuzz.run(),
        Word::Soak { minutes } => suite::soak(minutes),
        Word::Bench { arguments } => bench::run(&arguments),
    }
}
