//! A file system of the guest's own, filled, unmounted, read back and checked.

use anyhow::Result;

use crate::scene::Scene;

const FILL: &str = "set -e
mkfs.ext4 -q -F /dev/vdb
mkdir -p /mnt/data
mount /dev/vdb /mnt/data
cp -a /usr/sbin /usr/lib/systemd /mnt/data/
cd /mnt/data
find . -type f -print0 | xargs -0 sha256sum >/root/sums
for i in $(seq 200); do echo $i >small.$i; done
rm -f small.*[05]
sync";

const READ_BACK: &str = "set -e
cd /
umount /mnt/data
fsck.ext4 -f -n /dev/vdb
echo 3 >/proc/sys/vm/drop_caches
mount /dev/vdb /mnt/data
cd /mnt/data
sha256sum --quiet -c /root/sums
test $(ls small.* | wc -l) = 160
rm -r sbin
fstrim -v /mnt/data
cd /
umount /mnt/data
fsck.ext4 -f -n /dev/vdb";

pub fn survive(scene: &mut Scene) -> Result<()> {
    let guest = scene.guest()?;
    guest.run(FILL)?;
    guest.run(READ_BACK)?;
    guest.check_health()
}
