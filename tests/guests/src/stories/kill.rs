//! The server is killed under load and started again; the guest notices a pause, no more.

use std::time::Duration;

use anyhow::{Result, bail};

use super::ordered::{self, records_in};
use crate::scene::Scene;

const KILLS: u32 = 3;
/// Long enough for many requests to pile up, short of any time-out of the guest.
const PAUSE: Duration = Duration::from_millis(500);
const FIO_ENDS: Duration = Duration::from_secs(300);

/// Paced, so that it is still writing at the last kill.
const LOAD: &str = "fio --name=load --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16 \
    --rw=randwrite --bsrange=4k-16k --size=40M --rate_iops=200 --verify=crc32c --verify_fatal=1 \
    --verify_dump=0";

pub fn goes_on(scene: &mut Scene) -> Result<()> {
    let load = scene.guest()?.start(LOAD)?;
    let writer = ordered::start(scene.guest()?)?;
    for _ in 0..KILLS {
        writer.advance(scene.guest()?, 100)?;
        load.check_running()?;
        kill_and_restart(scene)?;
    }
    writer.advance(scene.guest()?, 100)?;
    let acknowledged = writer.stop(scene.guest()?)?;
    load.succeed(FIO_ENDS)?;
    let images = [scene.bough.export("log-a")?, scene.bough.export("log-b")?];
    let held = records_in(&images)?;
    if held != acknowledged {
        bail!("{acknowledged} records were acknowledged, {held} are there");
    }
    for image in images {
        std::fs::remove_file(image)?;
    }
    scene.guest()?.check_health()
}

/// Whoever was connected has to connect again.
pub fn kill_and_restart(scene: &mut Scene) -> Result<()> {
    scene.bough.kill_server()?;
    std::thread::sleep(PAUSE);
    scene.bough.serve()
}
