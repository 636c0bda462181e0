//! Where the newest data of blocks is: a hash table that never stops anybody for long.
//!
//! Every write puts something in here, and every read asks. A table that has grown has to move all it
//! holds; so there are many small ones, and growing one takes microseconds. Guests choose the keys:
//! the hash depends on a secret of the process's. Nothing that is told depends on it: what comes out
//! in an order comes sorted.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use bough_blockstore::{BlockAddr, Epoch, VirtualRange, to_u64, to_usize};

use crate::overlay::Point;

/// Tables, in one that holds anything; a power of two.
const SHARDS: usize = 64;

/// Odd, with its bits well spread: 2^64 over the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

static SECRET: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Points {
    /// All of them, or none.
    shards: Vec<HashMap<u64, Point, Keyed>>,
    len: usize,
}

impl Points {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, block: u64) -> Option<Point> {
        self.shards.get(shard_of(block))?.get(&block).copied()
    }

    /// Maps `block` to `point`; gives what it was mapped to.
    pub(crate) fn insert(&mut self, block: u64, point: Point) -> Option<Point> {
        if self.shards.is_empty() {
            self.shards.resize_with(SHARDS, HashMap::default);
        }
        let old = self.shards[shard_of(block)].insert(block, point);
        self.len += usize::from(old.is_none());
        old
    }

    /// Forgets the blocks of `range` that were written in `epoch`; gives where they were, ascending.
    pub(crate) fn remove_within(&mut self, range: VirtualRange, epoch: Epoch) -> Vec<BlockAddr> {
        let is_meant = |block: u64, point: &Point| point.epoch == epoch && range.contains(&block);
        let mut removed = Vec::new();
        if range.end - range.start <= to_u64(self.len) {
            for block in range.clone() {
                let Some(shard) = self.shards.get_mut(shard_of(block)) else { break };
                if shard.get(&block).is_some_and(|point| is_meant(block, point)) {
                    removed.extend(shard.remove(&block));
                }
            }
        } else {
            let gone = self.shards.iter_mut().flat_map(|shard| {
                shard.extract_if(|block, point| is_meant(*block, point)).map(|(_, point)| point)
            });
            removed.extend(gone);
        }
        self.len -= removed.len();
        let mut removed: Vec<BlockAddr> = removed.into_iter().map(|point| point.addr).collect();
        removed.sort_unstable();
        removed
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Point)> + '_ {
        self.shards.iter().flatten().map(|(block, point)| (*block, *point))
    }
}

fn shard_of(block: u64) -> usize {
    // Other bits than the tables look at.
    to_usize(fold(block, *SECRET) >> 32) & (SHARDS - 1)
}

/// Both halves of a product depend on all bits of both factors (as in wyhash and its kin).
fn fold(value: u64, key: u64) -> u64 {
    let product = u128::from(value ^ key) * u128::from(FACTOR);
    let halves = product.to_le_bytes();
    let half = |at: usize| u64::from_le_bytes(halves[at..at + 8].try_into().expect("eight bytes"));
    half(0) ^ half(8)
}

/// Makes hashers that know the secret.
#[derive(Clone, Copy, Debug, Default)]
struct Keyed;

impl BuildHasher for Keyed {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding(*SECRET)
    }
}

struct Folding(u64);

impl Hasher for Folding {
    fn write_u64(&mut self, value: u64) {
        self.0 = fold(value, self.0);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u64),
        Remove(u64, u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..200_u64, 1..3_u64).prop_map(|(block, epoch)| Step::Insert(block, epoch)),
            1 => (0..200_u64, 0..200_u64, 1..3_u64)
                .prop_map(|(start, count, epoch)| Step::Remove(start, count, epoch)),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_a_sorted_map_holds(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut points, mut model) = (Points::default(), BTreeMap::new());
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Insert(block, epoch) => {
                        next += 1;
                        let addr = BlockAddr::of(next);
                        let point = Point { addr, crc: 0, epoch: Epoch::of(epoch) };
                        prop_assert_eq!(points.insert(block, point), model.insert(block, point));
                    }
                    Step::Remove(start, count, epoch) => {
                        let range = start..start + count;
                        let epoch = Epoch::of(epoch);
                        let meant = |(block, point): &(u64, Point)| {
                            range.contains(block) && point.epoch == epoch
                        };
                        let gone: Vec<_> =
                            model.iter().map(|(b, p)| (*b, *p)).filter(meant).collect();
                        model.retain(|block, point| !meant(&(*block, *point)));
                        let mut expected: Vec<_> = gone.iter().map(|(_, p)| p.addr).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(points.remove_within(range.clone(), epoch), expected);
                    }
                }
                prop_assert_eq!(points.len(), model.len());
                prop_assert_eq!(points.is_empty(), model.is_empty());
            }
            for block in 0..200 {
                prop_assert_eq!(points.get(block), model.get(&block).copied());
            }
            prop_assert_eq!(points.iter().collect::<BTreeMap<_, _>>(), model);
        }
    }
}
