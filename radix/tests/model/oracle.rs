//! What a disk may hold, given what was asked of it and what was answered.
//!
//! Operations on one sector never overlap in time, so each sector has one order of values. The
//! order of operations elsewhere is known only where one was answered before another was asked
//! for. That is enough to hold the engine to its promises.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use crate::content::{ALIEN, Stamp};
use crate::layout::{BLOCK_SECTORS, sector_at};

/// A moment of a history.
pub type Tick = u64;

/// A write, or a discard.
#[derive(Clone, Debug)]
pub struct Op {
    pub submitted: Tick,
    /// `None` while it is under way, and for ever where it failed.
    pub acked: Option<Tick>,
    pub under_way: bool,
    pub stamp: Stamp,
    pub sectors: Vec<Range<usize>>,
}

/// A disk's contents at some moment, and what happened since.
#[derive(Clone, Debug, Default)]
pub struct Log {
    values: Rc<Vec<Stamp>>,
    /// Who wrote each value.
    since: Rc<Vec<Tick>>,
    ops: Vec<Op>,
    /// Whatever was answered by then survives a power cut.
    pub flushed: Tick,
    /// Somebody still has to judge by the operations as they are: nothing is folded meanwhile.
    pub pins: usize,
}

/// What an observation says about the order of operations.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// When the youngest operation that is there was asked for.
    pub newest_there: Tick,
    /// When the first operation that is missing was answered.
    pub oldest_missing: Tick,
}

impl Default for Verdict {
    fn default() -> Self {
        Self { newest_there: 0, oldest_missing: Tick::MAX }
    }
}

impl Verdict {
    /// Of two observations at one instant.
    pub fn and(self, other: Self) -> Self {
        Self {
            newest_there: self.newest_there.max(other.newest_there),
            oldest_missing: self.oldest_missing.min(other.oldest_missing),
        }
    }

    /// Nothing is missing that was answered before something that is there was asked for.
    pub fn check_order(self) -> Result<(), String> {
        if self.oldest_missing < self.newest_there {
            return Err(format!("not a prefix: {self:?}"));
        }
        Ok(())
    }
}

impl Log {
    /// Contents that are durable.
    pub fn settled(values: Rc<Vec<Stamp>>, now: Tick) -> Self {
        let since = Rc::new(vec![now; values.len()]);
        Self { values, since, flushed: now, ..Self::default() }
    }

    pub fn submit(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// The operation asked for at `submitted` has ended.
    pub fn end(&mut self, submitted: Tick, acked: Option<Tick>) {
        let op = self.ops.iter_mut().find(|op| op.submitted == submitted).expect("it was begun");
        op.under_way = false;
        op.acked = acked;
    }

    pub fn is_busy(&self, sectors: &[Range<usize>]) -> bool {
        let meets = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        self.ops
            .iter()
            .filter(|op| op.under_way)
            .any(|op| op.sectors.iter().any(|a| sectors.iter().any(|b| meets(a, b))))
    }

    /// Forgets the order of what a power cut can no longer take back.
    pub fn fold(&mut self) {
        if self.pins > 0 {
            return;
        }
        let flushed = self.flushed;
        let is_old = |op: &Op| op.acked.is_some_and(|acked| acked <= flushed);
        if !self.ops.iter().any(is_old) {
            return;
        }
        let (values, since) = (Rc::make_mut(&mut self.values), Rc::make_mut(&mut self.since));
        self.ops.retain(|op| {
            let old = is_old(op);
            if old {
                for sector in op.sectors.iter().cloned().flatten() {
                    if since[sector] < op.submitted {
                        (values[sector], since[sector]) = (op.stamp, op.submitted);
                    }
                }
            }
            !old
        });
        self.ops.retain(|op| {
            let buried = |sector: usize| since[sector] > op.submitted;
            op.under_way || op.acked.is_some() || !op.sectors.iter().cloned().flatten().all(buried)
        });
    }

    /// A larger disk reads zeros; of a smaller one the rest is gone.
    pub fn resize(&mut self, len: usize, now: Tick) {
        Rc::make_mut(&mut self.values).resize(len, 0);
        Rc::make_mut(&mut self.since).resize(len, now);
        for op in &mut self.ops {
            op.sectors.retain_mut(|range| {
                range.end = range.end.min(len);
                range.start < range.end
            });
        }
    }

    /// Whether `seen`, from place `first` on, can be what the disk holds, given that everything
    /// answered by `must` has to be there.
    pub fn judge(&self, first: usize, seen: &[Stamp], must: Tick) -> Result<Verdict, String> {
        let range = first..first + seen.len();
        let (oldest, newest) = self.candidates(&range, seen)?;
        let mut verdict = Verdict::default();
        for op in &self.ops {
            for piece in pieces(op, &range) {
                let (mut there, mut missing) = (None, None);
                for sector in piece {
                    // Where another came later, whether a failed one came before it stays open.
                    let own = oldest[sector - first] == op.submitted;
                    if own && newest[sector - first] == op.submitted {
                        there = Some(sector);
                    } else if newest[sector - first] < op.submitted {
                        missing = Some(sector);
                    }
                }
                if let (Some(there), Some(missing)) = (there, missing) {
                    let (there, missing) = (sector_at(there), sector_at(missing));
                    return Err(format!("torn: {op:?} is in sector {there}, not in {missing}"));
                }
                if there.is_some() {
                    verdict.newest_there = verdict.newest_there.max(op.submitted);
                }
                if let (Some(sector), Some(acked)) = (missing, op.acked) {
                    if acked <= must {
                        let sector = sector_at(sector);
                        return Err(format!("lost by {must}: {op:?}, seen at sector {sector}"));
                    }
                    verdict.oldest_missing = verdict.oldest_missing.min(acked);
                }
            }
        }
        Ok(verdict)
    }

    /// Who may have written each value: the oldest and the newest.
    fn candidates(
        &self,
        range: &Range<usize>,
        seen: &[Stamp],
    ) -> Result<(Vec<Tick>, Vec<Tick>), String> {
        let mut found: Vec<Option<(Tick, Tick)>> = range
            .clone()
            .zip(seen)
            .map(|(at, stamp)| {
                (self.values[at] == *stamp).then(|| (self.since[at], self.since[at]))
            })
            .collect();
        for op in &self.ops {
            for at in pieces(op, range).flatten() {
                let place = at - range.start;
                if op.stamp == seen[place] && self.since[at] < op.submitted {
                    let oldest = found[place].map_or(op.submitted, |(oldest, _)| oldest);
                    found[place] = Some((oldest, op.submitted));
                }
            }
        }
        if let Some(place) = found.iter().position(Option::is_none) {
            return Err(self.describe_stranger(range.start + place, seen[place]));
        }
        Ok(found.into_iter().flatten().unzip())
    }

    fn describe_stranger(&self, at: usize, stamp: Stamp) -> String {
        let expected: BTreeMap<Tick, Stamp> = self
            .ops
            .iter()
            .filter(|op| op.sectors.iter().any(|range| range.contains(&at)))
            .map(|op| (op.submitted, op.stamp))
            .chain([(self.since[at], self.values[at])])
            .collect();
        let what = if stamp == ALIEN { "garbage".to_owned() } else { format!("stamp {stamp}") };
        format!("sector {} holds {what}; by tick it was {expected:?}", sector_at(at))
    }
}

/// An operation's sectors inside `range`, block by block.
fn pieces(op: &Op, range: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let block = usize::try_from(BLOCK_SECTORS).unwrap();
    let range = range.clone();
    op.sectors.iter().flat_map(move |sectors| {
        let (start, end) = (sectors.start.max(range.start), sectors.end.min(range.end));
        (start / block..end.div_ceil(block).max(start / block)).filter_map(move |index| {
            let piece = start.max(index * block)..end.min((index + 1) * block);
            (piece.start < piece.end).then_some(piece)
        })
    })
}
