//! The project's words: `cargo xtask test`, `demo`, `guests`.
//!
//! Each word installs what it needs beyond the Rust toolchain, says so, and ends with a status
//! that a script can trust.

mod cargo;
mod packages;
mod suite;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

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
    Demo,
    /// Run only the stories with guests in QEMU
    Guests {
        /// The `bough` to test [default: the one built from here]
        #[arg(long, value_name = "FILE")]
        bough: Option<std::path::PathBuf>,
    },
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
        Word::Demo => {
            packages::install(packages::GUESTS)?;
            bough_guests::demo(&cargo::build_bough(cargo::Profile::Release)?)?;
            Ok(true)
        }
        Word::Guests { bough } => {
            packages::install(packages::GUESTS)?;
            let binary = bough.map_or_else(|| cargo::build_bough(cargo::Profile::Dev), Ok)?;
            suite::report(bough_guests::play(&binary)?)
        }
    }
}
