//! A snapshot of two disks under load is one instant.
//!
//! A writer puts numbered records on the disks in turn, each after the one before it was
//! acknowledged. The snapshot must hold a prefix of them: what was acknowledged before the
//! command at least, and no record without all before it, across both disks.

use anyhow::{Result, bail};

use super::ordered::{self, records_in};
use crate::scene::Scene;

const SNAPSHOTS: u32 = 3;

pub fn one_instant(scene: &mut Scene) -> Result<()> {
    let writer = ordered::start(scene.guest()?)?;
    let mut least = Vec::new();
    for i in 0..SNAPSHOTS {
        let before = writer.advance(scene.guest()?, 150)?;
        let (a, b) = (format!("log-a@s{i}"), format!("log-b@s{i}"));
        scene.bough.run(&["snapshot", &a, &b])?;
        least.push((before, a, b));
    }
    writer.advance(scene.guest()?, 50)?;
    let all = writer.stop(scene.guest()?)?;
    for (before, a, b) in least {
        let images = [scene.bough.export(&a)?, scene.bough.export(&b)?];
        let held = records_in(&images)?;
        if held < before || held > all {
            bail!("{a}, {b}: {held} records; {before} were acknowledged before, {all} in the end");
        }
        for image in images {
            std::fs::remove_file(image)?;
        }
    }
    scene.guest()?.check_health()
}
