//! The server is killed under load while a spare stands by; a guest whose QEMU would never connect
//! again notices a pause, no more.

use std::time::Duration;

use anyhow::{Result, bail};

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
    let args = scene.bough.qemu_args(&["lone"])?;
    let lonely: Vec<_> = args.iter().map(|arg| arg.replace(",reconnect=1", "")).collect();
    if lonely == args {
        bail!("QEMU was not told to reconnect in the first place: {args:?}");
    }
    let mut guest = Machine::boot("lone", &lonely, scene.scratch.folder())?;
    let load = guest.start(LOAD)?;
    for _ in 0..KILLS {
        scene.bough.stand_by()?;
        std::thread::sleep(BETWEEN);
        load.check_running()?;
        scene.bough.kill_server()?;
        scene.bough.succeed()?;
    }
    load.succeed(FIO_ENDS)?;
    guest.check_health()?;
    guest.power_off()?;
    scene.bough.run(&["detach", "lone"])?;
    scene.bough.run(&["delete", "lone"])?;
    Ok(())
}
