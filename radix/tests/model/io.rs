//! Guests: each writes, reads, discards and flushes any disk, at sector grain, at any time.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bough_blockstore::Runtime;
use bough_blockstore::sim::SimRng;
use bough_radix::{Disk, DiskError, Engine, ErrorKind, Piece};

use crate::content::{self, ALIEN, Stamp};
use crate::held::Held;
use crate::layout::{BLOCK_SECTORS, SECTOR_BYTES, dense_ranges, windows};
use crate::oracle::Op;
use crate::shape::{Shape, Trouble, pick};
use crate::world::{DiskKey, Shared, trace};

const SECTOR: u64 = 512;

/// What everybody in one life shares.
pub struct Life {
    pub engine: Engine,
    pub world: Shared,
    pub runtime: Arc<dyn Runtime>,
    pub shape: Shape,
    /// Readers that stay open; they go with this life.
    pub held: RefCell<Vec<Rc<Held>>>,
}

/// One guest's operation on one disk.
struct Guest<'a> {
    life: &'a Life,
    key: DiskKey,
    disk: Arc<Disk>,
}

impl Life {
    /// Takes one operation from this life's budget.
    pub fn begin_op(&self) -> bool {
        let mut world = self.world.borrow_mut();
        if world.ops_left == 0 || world.halted {
            return false;
        }
        world.ops_left -= 1;
        true
    }

    pub async fn pause(&self, rng: &mut SimRng) {
        self.runtime.sleep(Duration::from_micros(rng.below(400))).await;
    }

    /// Judges a failure: those that this history may meet are told apart from bugs.
    pub async fn excuse(&self, what: &str, kind: ErrorKind, error: &dyn std::error::Error) {
        match (kind, self.shape.trouble) {
            (ErrorKind::Full, trouble) => {
                self.world.borrow_mut().count("refused: no space");
                if trouble != Trouble::FullHost {
                    let status = self.engine.status().await.unwrap();
                    let room = status.free_bytes.saturating_sub(status.reserved_bytes);
                    let said = format!("{what}: {error}, with {room} bytes free: {status:?}");
                    // The catalogue is small here, and new rows stop at a quarter of it.
                    let catalogue = status.catalogue_used_bytes * 3 > status.catalogue_bytes;
                    assert!(room < status.size_bytes / 4 || catalogue, "{said}");
                }
            }
            (ErrorKind::Faulted | ErrorKind::Io, Trouble::Failures | Trouble::FullHost) => {
                self.world.borrow_mut().count("refused: halted");
                self.world.borrow_mut().halted = true;
            }
            _ => panic!("{what}: {error} ({error:?})"),
        }
    }

    /// A guest's life.
    pub async fn guest(self: Rc<Self>, mut rng: SimRng) {
        while self.begin_op() {
            if rng.chance(1, 3) {
                self.pause(&mut rng).await;
            }
            let Some(key) = self.world.borrow().any_disk(&mut rng, |disk| !disk.exclusive) else {
                self.pause(&mut rng).await;
                continue;
            };
            let Some(disk) = self.world.borrow_mut().disk(key).handle.clone() else { continue };
            self.world.borrow_mut().disk(key).io_under_way += 1;
            Guest { life: &self, key, disk }.act(&mut rng).await;
            self.world.borrow_mut().disk(key).io_under_way -= 1;
        }
    }
}

impl Guest<'_> {
    async fn act(&self, rng: &mut SimRng) {
        match rng.below(20) {
            0..10 => self.write(rng).await,
            10..13 => self.zero(rng).await,
            13..17 => self.read(rng).await,
            _ => self.flush().await,
        }
    }

    fn size(&self) -> u64 {
        self.life.world.borrow_mut().disk(self.key).size_sectors
    }

    async fn write(&self, rng: &mut SimRng) {
        let Some(range) = self.any_range(rng) else { return };
        let Some((submitted, stamp)) = self.submit(&range, None) else { return };
        self.life.world.borrow_mut().count("write");
        let bytes = usize::try_from(range.end - range.start).unwrap() * SECTOR_BYTES;
        let mut fill = |at: usize, piece: &mut [u8]| {
            let sector = range.start + u64::try_from(at / SECTOR_BYTES).unwrap();
            content::fill(piece, sector, stamp);
        };
        let done = self.disk.write(range.start * SECTOR, bytes, &mut fill).await;
        self.end("write", submitted, done).await;
    }

    async fn zero(&self, rng: &mut SimRng) {
        let range = if rng.chance(1, 12) {
            let from = rng.below(self.size());
            let end = [self.size(), (from / 8 * 8 + 2048).min(self.size())][pick(rng, 2)];
            Some(from..end)
        } else {
            self.any_range(rng)
        };
        let Some(range) = range.filter(|range| !range.is_empty()) else { return };
        let Some((submitted, _)) = self.submit(&range, Some(0)) else { return };
        let (offset, length) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
        let done = if rng.chance(1, 2) {
            self.life.world.borrow_mut().count("discard");
            self.disk.discard(offset, length).await
        } else {
            self.life.world.borrow_mut().count("write zeroes");
            self.disk.write_zeroes(offset, length).await
        };
        self.end("zero", submitted, done).await;
    }

    async fn read(&self, rng: &mut SimRng) {
        let Some(range) = self.any_range(rng) else { return };
        let places = dense_ranges(&range);
        let asked = {
            let mut world = self.life.world.borrow_mut();
            world.count("read");
            world.disk(self.key).log.pins += 1;
            world.tick()
        };
        let seen = read_sectors(&self.disk, &range).await;
        let mut world = self.life.world.borrow_mut();
        let log = &mut world.disk(self.key).log;
        log.pins -= 1;
        match seen {
            Ok(seen) => {
                let judged = log.judge(places[0].start, &seen, asked);
                judged.unwrap_or_else(|wrong| {
                    panic!("read of {} at {range:?} at tick {asked}: {wrong}", self.disk.name())
                });
            }
            Err(error) => {
                drop(world);
                self.life.excuse("read", error.kind(), &error).await;
                assert_ne!(error.kind(), ErrorKind::Full, "a read was refused for want of space");
            }
        }
    }

    async fn flush(&self) {
        let asked = self.life.world.borrow_mut().tick();
        let done = self.disk.flush().await;
        if let Err(error) = &done {
            self.life.excuse("flush", error.kind(), error).await;
        }
        let mut world = self.life.world.borrow_mut();
        world.count("flush");
        if done.is_ok() {
            let log = &mut world.disk(self.key).log;
            log.flushed = log.flushed.max(asked);
            log.fold();
        }
    }

    /// Some sectors inside one window.
    fn any_range(&self, rng: &mut SimRng) -> Option<Range<u64>> {
        let all: Vec<Range<u64>> = windows(self.size()).collect();
        let window = all.get(pick(rng, all.len().max(1)))?;
        let start = window.start + rng.below(window.end - window.start);
        let most = window.end - start;
        let (start, count) = match rng.below(6) {
            0 | 1 => (start / BLOCK_SECTORS * BLOCK_SECTORS, BLOCK_SECTORS),
            2 => (start / BLOCK_SECTORS * BLOCK_SECTORS, BLOCK_SECTORS * (1 + rng.below(16))),
            3 | 4 => (start, 1 + rng.below(8)),
            _ => (start, 1 + rng.below(most.min(100))),
        };
        Some(start..(start + count).min(window.end))
    }

    fn submit(&self, range: &Range<u64>, stamp: Option<Stamp>) -> Option<(u64, Stamp)> {
        let sectors = dense_ranges(range);
        let mut world = self.life.world.borrow_mut();
        if !world.disk(self.key).may_touch(&sectors) {
            return None;
        }
        let stamp = stamp.unwrap_or_else(|| world.stamp());
        let submitted = world.tick();
        let op = Op { submitted, acked: None, under_way: true, stamp, sectors };
        trace(|| format!("disk {}: {op:?}", self.key));
        world.disk(self.key).log.submit(op);
        Some((submitted, stamp))
    }

    async fn end(&self, what: &str, submitted: u64, done: Result<(), DiskError>) {
        if let Err(error) = &done {
            self.life.excuse(what, error.kind(), error).await;
        }
        let mut world = self.life.world.borrow_mut();
        let now = world.tick();
        trace(|| format!("disk {}: {submitted} ends at {now}: {done:?}", self.key));
        world.disk(self.key).log.end(submitted, done.is_ok().then_some(now));
    }
}

/// The stamps of some sectors.
pub async fn read_sectors(disk: &Arc<Disk>, range: &Range<u64>) -> Result<Vec<Stamp>, DiskError> {
    let sectors = usize::try_from(range.end - range.start).unwrap();
    let mut seen = vec![ALIEN; sectors];
    let mut bytes = vec![0xA5; sectors * SECTOR_BYTES];
    let mut sink = |at: usize, piece: Piece<'_>| match piece {
        Piece::Bytes(found) => bytes[at..at + found.len()].copy_from_slice(found),
        Piece::Zeros(count) => bytes[at..at + count].fill(0),
    };
    disk.read(range.start * SECTOR, sectors * SECTOR_BYTES, &mut sink).await?;
    content::stamps(&bytes, range.start, &mut seen);
    Ok(seen)
}

/// All that a disk holds in its windows.
pub async fn read_windows(disk: &Arc<Disk>, size_sectors: u64) -> Result<Vec<Stamp>, DiskError> {
    let mut all = Vec::new();
    for window in windows(size_sectors) {
        all.extend(read_sectors(disk, &window).await?);
    }
    Ok(all)
}
