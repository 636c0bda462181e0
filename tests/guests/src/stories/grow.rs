//! A disk grows under a running guest.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::wait_for;
use crate::scene::Scene;

const GIB: u64 = 1 << 30;

pub fn seen(scene: &mut Scene) -> Result<()> {
    if size_in_guest(scene)? != GIB {
        bail!("the disk does not begin with 1 GiB");
    }
    scene.bough.run(&["resize", "data", "2G"])?;
    wait_for("the guest to see the new size", Duration::from_secs(60), || {
        Ok((size_in_guest(scene)? == 2 * GIB).then_some(()))
    })?;
    let guest = scene.guest()?;
    // The file system made before grows into it, and its last block can be written.
    guest.run("mount /dev/vdb /mnt/data && resize2fs /dev/vdb && umount /mnt/data && fsck.ext4 -f -n /dev/vdb")?;
    guest.run("echo end | dd of=/dev/vdb bs=512 seek=$(((2 << 21) - 1)) conv=sync oflag=direct status=none")?;
    guest.check_health()
}

fn size_in_guest(scene: &mut Scene) -> Result<u64> {
    Ok(scene.guest()?.run("blockdev --getsize64 /dev/vdb")?.trim().parse()?)
}
