//! A store on a block device.

mod rig;

use std::path::{Path, PathBuf};
use std::process::Command;

use rig::Rig;

/// A loop device on a sparse file; detached with the test.
struct Loop(PathBuf);

impl Loop {
    /// `None` where the machine has none for us.
    fn on(file: &Path, bytes: u64) -> Option<Self> {
        std::fs::File::create(file).unwrap().set_len(bytes).unwrap();
        let done = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(done.stdout).unwrap();
        done.status.success().then(|| Self(name.trim().into()))
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_holds_a_store_and_only_one() {
    let mut rig = Rig::bare();
    let Some(device) = Loop::on(&rig.path("disk.img"), 256 << 20) else {
        eprintln!("not tested here: no loop device can be set up");
        return;
    };
    rig.ok(&["init", "--device", device.text()]);
    let image: Vec<u8> = (0..10 << 20).map(|i: u32| i.to_le_bytes()[1] ^ 0x5a).collect();
    std::fs::write(rig.path("image"), &image).unwrap();
    rig.ok(&["import", &rig.text("image"), "web"]);
    let again = rig.fails(&["--store", &rig.text("other"), "init", "--device", device.text()]);
    assert!(again.contains(device.text()) && again.contains("--force"), "{again}");
    rig.serve();
    let held =
        rig.fails(&["--store", &rig.text("other"), "init", "--device", device.text(), "--force"]);
    assert!(held.contains(device.text()), "{held}");
    rig.kill();
    rig.ok(&["export", "web", &rig.text("out")]);
    assert!(rig::same_bytes(&rig.path("image"), &rig.path("out")));
    assert!(rig.bough(&["status"]).out.contains(device.text()));
    assert_eq!(rig.bough(&["check"]).code, 0);
}
