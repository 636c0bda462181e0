//! A folder for one run: stores, sockets and logs, removed at its end.
//!
//! Named by our process id under the system's temporary folder, which keeps socket paths below
//! the 108 bytes that UNIX allows. What a killed run left behind is removed by the next one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const PREFIX: &str = "bough-guests.";

/// The folder; removed when dropped, unless `BOUGH_KEEP` is set.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes the folder of this process.
    pub fn new() -> Result<Self> {
        let base = std::env::temp_dir();
        remove_leftovers(&base)?;
        let path = base.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("BOUGH_KEEP").is_some() {
            eprintln!("kept: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn remove_leftovers(base: &Path) -> Result<()> {
    for entry in fs::read_dir(base)?.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else { continue };
        let alive = Path::new("/proc").join(owner).exists();
        if owner.parse::<u32>().is_ok() && !alive {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}
