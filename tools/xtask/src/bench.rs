//! The benchmark: built with optimisation, run beside its peer.

use std::ffi::OsString;

use anyhow::Result;

use crate::cargo::{self, Profile};
use crate::packages;

/// Runs the benchmark with `arguments` of its own; true if it came to an end.
pub fn run(arguments: &[OsString]) -> Result<bool> {
    packages::install(packages::BENCH)?;
    let bough = cargo::build_bough(Profile::Release)?;
    cargo::run_released("bough-bench", &bough, arguments)
}
