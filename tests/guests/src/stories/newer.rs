//! The QEMU of the next Debian: a guest in it goes on on a disk that connects again, and on one that
//! never does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{kill, spare};
use crate::image::debian_qemu;
use crate::machine::Machine;
use crate::process::tied;
use crate::scene::Scene;

const SUITE: &str = "trixie";
/// The guest's own disk, which connects again, and one that does not.
const DISKS: [&str; 2] = ["newer", "newer-data"];
const KILLS: u32 = 2;
const FIO_ENDS: Duration = Duration::from_secs(300);

pub fn goes_on(scene: &mut Scene) -> Result<()> {
    let qemu = debian_qemu(SUITE)?;
    print!("[{}] ", version(&qemu)?);
    scene.bough.run(&["clone", "debian", DISKS[0]])?;
    scene.bough.run(&["create", DISKS[1], "64M"])?;
    for disk in DISKS {
        scene.bough.run(&["attach", disk])?;
    }
    let args = spare::lonely(scene.bough.qemu_args(&DISKS)?, DISKS[1])?;
    let mut guest = Machine::boot_in(&qemu, "newer", &args, scene.scratch.folder())?;
    let never = guest.start(&load("/dev/vdb", 14))?;
    for _ in 0..KILLS {
        spare::kill_beside_a_spare(scene, &never)?;
    }
    never.succeed(FIO_ENDS)?;
    // What comes now is the end of the disk that never connects again.
    let again = guest.start(&load("/root/load", 16))?;
    for _ in 0..KILLS {
        again.check_running()?;
        kill::kill_and_restart(scene)?;
        guest.run("sync /root/load")?;
    }
    again.succeed(FIO_ENDS)?;
    guest.check_health()?;
    guest.pull_plug()?;
    for disk in DISKS {
        scene.bough.run(&["detach", disk])?;
        scene.bough.run(&["delete", disk])?;
    }
    Ok(())
}

/// Paced, so that it is still writing at the last kill; every block is read back.
fn load(file: &str, mebibytes: u32) -> String {
    format!(
        "fio --name=load --filename={file} --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
         --bsrange=4k-16k --size={mebibytes}M --rate_iops=100 --verify=crc32c --verify_fatal=1 \
         --verify_dump=0"
    )
}

fn version(qemu: &Path) -> Result<String> {
    let out = tied(qemu).arg("--version").output()?;
    let text = String::from_utf8(out.stdout)?;
    match text.lines().next() {
        Some(line) if out.status.success() => Ok(line.to_owned()),
        _ => bail!("{} does not run:\n{}", qemu.display(), String::from_utf8_lossy(&out.stderr)),
    }
}
