//! What was written on a raw disk is read back, what was discarded is zeros.

use anyhow::Result;

use crate::scene::Scene;

/// Two jobs on two queues, mixed sizes on 512-byte bounds, so that blocks are shared between
/// requests; each block carries a checksum and its place.
const MIXED: &str = "fio --name=mixed --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=8 \
    --rw=randwrite --bsrange=512-32k --blockalign=512 --verify=crc32c --verify_fatal=1 \
    --verify_dump=0 --numjobs=2 --size=12M --offset_increment=64M --fsync=64 --group_reporting";

pub fn raw_disk(scene: &mut Scene) -> Result<()> {
    let guest = scene.guest()?;
    guest.run(MIXED)?;
    guest.check_health()
}

pub fn discarded(scene: &mut Scene) -> Result<()> {
    let guest = scene.guest()?;
    guest.run(
        "head -c 8M /dev/urandom | dd of=/dev/vdc bs=1M oflag=direct status=none iflag=fullblock",
    )?;
    guest.run("blkdiscard -o 1M -l 4M /dev/vdc && blkdiscard -z -o 6M -l 1M /dev/vdc")?;
    let zeros = |at: u32, count: u32| {
        format!(
            "dd if=/dev/vdc bs=1M skip={at} count={count} iflag=direct status=none | cmp -n $(({count} << 20)) - /dev/zero"
        )
    };
    guest.run(&zeros(1, 4))?;
    guest.run(&zeros(6, 1))?;
    // What lies beside them is still there.
    guest.run(&format!("! ({})", zeros(0, 1)))?;
    guest.run(&format!("! ({})", zeros(5, 1)))?;
    guest.check_health()
}
