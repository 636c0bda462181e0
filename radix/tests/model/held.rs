//! Readers that stay open while everything around what they read is deleted, rolled back,
//! overwritten and reclaimed: what they have read once they read again.

use std::rc::Rc;

use bough_blockstore::sim::SimRng;
use bough_radix::{Reader, VersionName};

use crate::content::Stamp;
use crate::io::Life;
use crate::observe::read_version;
use crate::shape::pick;
use crate::world::{Content, DiskKey, Shared, Taken};

const HELD_MAX: usize = 4;
const SECTOR: u64 = 512;

/// See the module's documentation.
pub struct Held {
    reader: Reader,
    size_sectors: u64,
    seen: Vec<Stamp>,
    name: String,
    /// Dropped after the reader: as long as it is there a deletion may be refused.
    _mark: Mark,
}

/// That somebody reads a version of a disk.
struct Mark {
    world: Shared,
    disk: DiskKey,
}

impl Mark {
    fn new(world: &Shared, disk: DiskKey) -> Self {
        world.borrow_mut().disk(disk).readers += 1;
        Self { world: Rc::clone(world), disk }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let Ok(mut world) = self.world.try_borrow_mut() else { return };
        if let Some(disk) = world.disks.get_mut(&self.disk) {
            disk.readers = disk.readers.saturating_sub(1);
        }
    }
}

impl Life {
    /// Opens one more reader, or looks once more through one that is open.
    pub async fn hold(&self, rng: &mut SimRng) {
        let open = self.held.borrow().len();
        if open > 0 && (open == HELD_MAX || rng.chance(2, 3)) {
            return self.look_again(rng).await;
        }
        let snap = self.world.borrow().any_snap(rng).filter(|_| rng.chance(2, 3));
        let head = self.world.borrow().any_disk(rng, |disk| !disk.verb);
        let Some(disk) = snap.map(|(disk, _)| disk).or(head) else { return };
        let Some(_taken) = Taken::take(&self.world, &[disk]) else { return };
        let name: VersionName = match snap {
            Some((disk, snap)) => {
                if !self.observe(disk, snap).await {
                    return;
                }
                self.world.borrow_mut().disk(disk).version_of(snap)
            }
            None => self.world.borrow_mut().disk(disk).disk_name().into(),
        };
        self.count("readers held open");
        let mark = Mark::new(&self.world, disk);
        let opened = async {
            let reader = self.engine.reader(&name).await?;
            let size_sectors = reader.size_bytes() / SECTOR;
            let seen = read_version(&reader, size_sectors).await?;
            Ok((reader, size_sectors, seen))
        };
        let (reader, size_sectors, seen) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                let error: bough_radix::EngineError = error;
                return self.excuse("hold a reader", error.kind(), &error).await;
            }
        };
        if let Some((disk, snap)) = snap {
            let known = self.world.borrow_mut().snap(disk, snap).content.clone();
            let Content::Known(known) = known else { panic!("it has been read") };
            assert!(seen == *known, "{name}: read twice, it is not the same");
        }
        let held = Held { reader, size_sectors, seen, name: name.to_string(), _mark: mark };
        self.held.borrow_mut().push(Rc::new(held));
    }

    async fn look_again(&self, rng: &mut SimRng) {
        let held = {
            let all = self.held.borrow();
            Rc::clone(&all[pick(rng, all.len())])
        };
        self.count("looks through held readers");
        match read_version(&held.reader, held.size_sectors).await {
            Ok(seen) => {
                let name = &held.name;
                assert!(seen == held.seen, "{name}: a held reader reads something else");
            }
            Err(error) => return self.excuse("read held", error.kind(), &error).await,
        }
        if rng.chance(1, 3) {
            self.held.borrow_mut().retain(|other| !Rc::ptr_eq(other, &held));
        }
    }
}
