//! What the scripts beside us make once and keep: the guest's disk image, another release's QEMU.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::process::tied;

/// Builds the Debian image if it is not there yet; returns its path. Never write to it.
pub fn debian_image() -> Result<PathBuf> {
    made_by("debian-image", &[])
}

/// Unpacks the QEMU of this Debian release, beside the host's, if it is not there yet; returns its
/// path.
pub fn debian_qemu(suite: &str) -> Result<PathBuf> {
    made_by("debian-qemu", &[suite])
}

fn made_by(script: &str, arguments: &[&str]) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let out = tied(&script)
        .args(arguments)
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
