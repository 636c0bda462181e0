//! The guest's disk image: built once by the script `debian-image`, then kept.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::process::tied;

/// Builds the Debian image if it is not there yet; returns its path. Never write to it.
pub fn debian_image() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian-image");
    let out = tied(&script)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    if !out.status.success() {
        bail!("{} failed ({})", script.display(), out.status);
    }
    let path = PathBuf::from(String::from_utf8(out.stdout)?.trim());
    if !path.is_file() {
        bail!("{} names {}, which is not there", script.display(), path.display());
    }
    Ok(path)
}
