//! The server is killed under load while a spare stands by; a guest whose QEMU would never connect
//! again notices a pause, no more.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::agent::Job;
use crate::machine::Machine;
use crate::scene::Scene;

const KILLS: u32 = 3;
const FIO_ENDS: Duration = Duration::from_secs(300);
const BETWEEN: Duration = Duration::from_secs(2);

/// Paced, so that it is still writing at the last kill.
const LOAD: &str = "fio --name=load --filename=/root/load --direct=1 --ioengine=libaio --iodepth=16 \
    --rw=randwrite --bsrange=4k-16k --size=20M --rate_iops=100 --verify=crc32c --verify_fatal=1 \
    --verify_dump=0";

pub fn goes_on(scene: &mut Scene) -> Result<()> {
    scene.bough.run(&["clone", "debian", "lone"])?;
    scene.bough.run(&["attach", "lone"])?;
    let args = lonely(scene.bough.qemu_args(&["lone"])?, "lone")?;
    let mut guest = Machine::boot("lone", &args, scene.scratch.folder())?;
    let load = guest.start(LOAD)?;
    for _ in 0..KILLS {
        kill_beside_a_spare(scene, &load)?;
    }
    load.succeed(FIO_ENDS)?;
    guest.check_health()?;
    guest.power_off()?;
    scene.bough.run(&["detach", "lone"])?;
    scene.bough.run(&["delete", "lone"])?;
    Ok(())
}

/// QEMU's options, but for this disk, which never connects again.
pub fn lonely(mut args: Vec<String>, disk: &str) -> Result<Vec<String>> {
    let sign = format!("id=bough-{disk},");
    for arg in &mut args {
        if arg.contains(&sign) && arg.ends_with(",reconnect=1") {
            arg.truncate(arg.len() - ",reconnect=1".len());
            return Ok(args);
        }
    }
    bail!("QEMU was not told to reconnect in the first place: {args:?}");
}

/// Kills the server under this load; the spare goes on.
pub fn kill_beside_a_spare(scene: &mut Scene, load: &Job) -> Result<()> {
    scene.bough.stand_by()?;
    std::thread::sleep(BETWEEN);
    load.check_running()?;
    scene.bough.kill_server()?;
    scene.bough.succeed()
}
