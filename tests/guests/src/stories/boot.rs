//! The beginning and the end: from template to guest, from guest to a clean store.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Result, bail};

use crate::image::debian_image;
use crate::scene::Scene;

pub fn boots(scene: &mut Scene) -> Result<()> {
    scene.boot()?;
    let guest = scene.guest()?;
    print!("[{:.1} s to boot] ", guest.booted_in().as_secs_f32());
    let state = guest.run("systemctl is-system-running --wait || systemctl --failed")?;
    if state.trim() != "running" {
        bail!("systemd says: {state}");
    }
    let root = guest.run("findmnt -n -o SOURCE /")?;
    if root.trim() != "/dev/vda2" {
        bail!("the root lies on {root}");
    }
    guest.check_health()
}

pub fn template_unchanged(scene: &mut Scene) -> Result<()> {
    let exported = scene.bough.export("debian@base")?;
    if !same_bytes(&exported, &debian_image()?)? {
        bail!("debian@base is not what was imported");
    }
    Ok(std::fs::remove_file(exported)?)
}

pub fn ends_clean(scene: &mut Scene) -> Result<()> {
    scene.guest()?.check_health()?;
    scene.take_guest()?.power_off()?;
    scene.bough.check()?;
    scene.bough.stop_server()?;
    scene.bough.check()
}

fn same_bytes(a: &Path, b: &Path) -> Result<bool> {
    const PIECE: usize = 1 << 20;
    let (a, b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let mut left = a.metadata()?.len();
    let (mut a, mut b) = (BufReader::with_capacity(PIECE, a), BufReader::with_capacity(PIECE, b));
    let (mut x, mut y) = (vec![0; PIECE], vec![0; PIECE]);
    while left > 0 {
        let count = usize::try_from(left.min(1 << 20))?;
        a.read_exact(&mut x[..count])?;
        b.read_exact(&mut y[..count])?;
        if x[..count] != y[..count] {
            return Ok(false);
        }
        left -= u64::try_from(count)?;
    }
    Ok(true)
}
