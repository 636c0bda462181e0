//! What a test may have go wrong.

use std::io;
use std::sync::Arc;

use super::device::{DeviceState, Outcome, Work};
use super::image::{Change, Fate};
use super::pages::Page;
use super::rng::SimRng;
use crate::addr::{BLOCK_BYTES, to_u64, to_usize};
use crate::buffer::BlockBuf;
use crate::device::{DeviceFault, Operation};

/// How often something happens, in a million.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Odds(pub u32);

impl Odds {
    /// Not at all.
    pub const NEVER: Self = Self(0);
    /// Every time.
    pub const ALWAYS: Self = Self(1_000_000);

    /// Once in `times`, on average.
    pub const fn once_in(times: u32) -> Self {
        Self(1_000_000 / times)
    }

    fn strikes(self, rng: &mut SimRng) -> bool {
        // No dice for what never happens: a run without faults is the same run before and after
        // somebody adds a fault.
        self.0 > 0 && rng.chance(u64::from(self.0), 1_000_000)
    }
}

/// What goes wrong at random. Nothing does until asked for.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Reads that fail.
    pub read_error: Odds,
    /// Writes that fail, having written any part.
    pub write_error: Odds,
    /// Syncs that fail, having lost any part.
    pub sync_error: Odds,
    /// Writes that succeed and do nothing.
    pub lost_write: Odds,
    /// Writes that succeed, elsewhere.
    pub misdirected_write: Odds,
    /// Writes of which one bit rots, for good.
    pub rotten_write: Odds,
    /// Reads of which one bit is wrong, this once.
    pub rotten_read: Odds,
    /// How many blocks the host has room for; writes that need more fail with `NoSpace`.
    pub host_blocks: Option<u64>,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// An I/O error. A write may have been written in part; a sync loses any part.
    Error,
    /// The host file system is full; a write may have been written in part.
    NoSpace,
    /// A write or discard that succeeds and does nothing.
    Lost,
    /// A write that succeeds, elsewhere.
    Misdirected,
    /// One bit is wrong: for good in what a write wrote, this once in what a read returns.
    Rot,
}

/// A mishap that waits for its operation.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) operation: Operation,
    /// How many of those still go well.
    pub(super) after: u64,
    pub(super) mishap: Mishap,
}

impl DeviceState {
    /// What goes wrong with the operation that begins now.
    pub(super) fn pick_mishap(&mut self, operation: Operation) -> Option<Mishap> {
        self.planned_mishap(operation).or_else(|| self.random_mishap(operation))
    }

    fn planned_mishap(&mut self, operation: Operation) -> Option<Mishap> {
        let due =
            self.planned.iter().position(|plan| plan.operation == operation && plan.after == 0);
        for plan in self.planned.iter_mut().filter(|plan| plan.operation == operation) {
            plan.after = plan.after.saturating_sub(1);
        }
        due.map(|index| self.planned.remove(index).mishap)
    }

    fn random_mishap(&mut self, operation: Operation) -> Option<Mishap> {
        let faults = &self.faults;
        let odds: &[(Odds, Mishap)] = match operation {
            Operation::Read => {
                &[(faults.read_error, Mishap::Error), (faults.rotten_read, Mishap::Rot)]
            }
            Operation::Write => &[
                (faults.write_error, Mishap::Error),
                (faults.lost_write, Mishap::Lost),
                (faults.misdirected_write, Mishap::Misdirected),
                (faults.rotten_write, Mishap::Rot),
            ],
            Operation::Sync => &[(faults.sync_error, Mishap::Error)],
            Operation::Discard | Operation::Grow | Operation::Reserve => &[],
        };
        let rng = &mut self.rng;
        odds.iter().find(|(odds, _)| odds.strikes(rng)).map(|(_, mishap)| *mishap)
    }

    /// Does what was asked, or what the mishap makes of it.
    pub(super) fn carry_out(&mut self, work: &Work, mishap: Option<Mishap>) -> Outcome {
        match work {
            Work::Read { at, early } => self.carry_out_read(*at, early, mishap).map(Some),
            Work::Write { at, .. } => self.carry_out_write(*at, work, mishap).map(|()| None),
            Work::Sync { mark } => {
                if let Some(fault) = failure(mishap) {
                    self.image.fail_sync(*mark, &mut self.rng);
                    return Err(fault);
                }
                self.image.harden(*mark);
                Ok(None)
            }
            Work::Discard { .. } | Work::Grow { .. } => {
                failure(mishap).map_or(Ok(()), Err)?;
                let change = self.change_of(work);
                if mishap != Some(Mishap::Lost) {
                    change.into_iter().for_each(|change| self.image.apply(change));
                }
                Ok(None)
            }
        }
    }

    fn carry_out_read(
        &mut self,
        at: u64,
        early: &[Page],
        mishap: Option<Mishap>,
    ) -> Result<BlockBuf, DeviceFault> {
        failure(mishap).map_or(Ok(()), Err)?;
        if self.unreadable.range(at..at + to_u64(early.len())).next().is_some() {
            return Err(io_error());
        }
        let mut buf = BlockBuf::zeroed(early.len());
        for (index, early) in early.iter().enumerate() {
            let block = at + to_u64(index);
            let late = self.image.page(block);
            let seen = early.mixed(&late, self.rng.blend_mask());
            self.with_writes_under_way(block, seen).copy_to(buf.block_mut(index));
        }
        if mishap == Some(Mishap::Rot) && !buf.is_empty() {
            flip_a_bit(&mut buf, &mut self.rng);
        }
        Ok(buf)
    }

    /// A block as read while writes to it are under way: any mixture.
    fn with_writes_under_way(&mut self, block: u64, seen: Page) -> Page {
        let covers = |at: u64, count: u64| at <= block && block < at + count;
        for operation in self.under_way.values() {
            let (at, count) = operation.work.span();
            let newer = match &operation.work {
                Work::Write { data, .. } if covers(at, count) => {
                    let start = to_usize(block - at) * BLOCK_BYTES;
                    Page::copy_of(&data[start..start + BLOCK_BYTES])
                }
                Work::Discard { .. } if covers(at, count) => seen.discarded(&mut self.rng),
                _ => continue,
            };
            // At most one: writes under way do not overlap.
            return seen.mixed(&newer, self.rng.blend_mask());
        }
        seen
    }

    fn carry_out_write(
        &mut self,
        at: u64,
        work: &Work,
        mishap: Option<Mishap>,
    ) -> Result<(), DeviceFault> {
        let Some(Change::Pages { pages, .. }) = self.change_of(work) else { return Ok(()) };
        if let Some(fault) = failure(mishap) {
            let fate = Fate::torn(&mut self.rng);
            self.image.land(Change::Pages { at, pages }, fate, &mut self.rng);
            return Err(fault);
        }
        match mishap {
            Some(Mishap::Lost) => Ok(()),
            Some(Mishap::Misdirected) => {
                let places = self.image.block_count().0 - to_u64(pages.len()) + 1;
                let elsewhere = self.rng.below(places);
                self.image.apply(Change::Pages { at: elsewhere, pages });
                Ok(())
            }
            Some(Mishap::Rot) => {
                let pages = rotten(pages, &mut self.rng);
                self.place(at, pages)
            }
            _ => self.place(at, pages),
        }
    }

    /// Has the host keep these blocks from now on; `false` where it has no room for them all.
    pub(super) fn reserve(&mut self, at: u64, count: u64) -> bool {
        let free = self.faults.host_blocks.unwrap_or(u64::MAX);
        let fits =
            self.image.unallocated(at, count) <= free.saturating_sub(self.image.allocated().0);
        if fits {
            self.image.reserve(at, count);
        }
        fits
    }

    /// Writes as many of the pages as the host has room for.
    fn place(&mut self, at: u64, mut pages: Vec<Page>) -> Result<(), DeviceFault> {
        let count = to_u64(pages.len());
        let fitting = self.blocks_that_fit(at, count);
        pages.truncate(to_usize(fitting));
        for block in at..at + to_u64(pages.len()) {
            self.unreadable.remove(&block);
        }
        self.image.apply(Change::Pages { at, pages });
        if fitting == count { Ok(()) } else { Err(DeviceFault::NoSpace) }
    }

    fn blocks_that_fit(&self, at: u64, count: u64) -> u64 {
        let Some(limit) = self.faults.host_blocks else { return count };
        let free = limit.saturating_sub(self.image.allocated().0);
        let fits = |blocks: &u64| self.image.unallocated(at, blocks + 1) <= free;
        to_u64((0..count).take_while(fits).count())
    }
}

fn failure(mishap: Option<Mishap>) -> Option<DeviceFault> {
    match mishap? {
        Mishap::Error => Some(io_error()),
        Mishap::NoSpace => Some(DeviceFault::NoSpace),
        Mishap::Lost | Mishap::Misdirected | Mishap::Rot => None,
    }
}

fn io_error() -> DeviceFault {
    const EIO: i32 = 5;
    DeviceFault::Io(Arc::new(io::Error::from_raw_os_error(EIO)))
}

fn flip_a_bit(bytes: &mut [u8], rng: &mut SimRng) {
    let index = to_usize(rng.below(to_u64(bytes.len())));
    bytes[index] ^= 1 << rng.below(8);
}

fn rotten(mut pages: Vec<Page>, rng: &mut SimRng) -> Vec<Page> {
    if pages.is_empty() {
        return pages;
    }
    let index = to_usize(rng.below(to_u64(pages.len())));
    let mut bytes = [0; BLOCK_BYTES];
    pages[index].copy_to(&mut bytes);
    flip_a_bit(&mut bytes, rng);
    pages[index] = Page::copy_of(&bytes);
    pages
}
