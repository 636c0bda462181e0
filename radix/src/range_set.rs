//! A set of blocks as sorted, disjoint, coalesced ranges.

use std::collections::BTreeMap;

use bough_blockstore::VirtualRange;

/// A set of block numbers; memory grows with the number of gaps, not of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ends: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Whether `block` is in the set.
    pub fn contains(&self, block: u64) -> bool {
        self.ends.range(..=block).next_back().is_some_and(|(_, &end)| block < end)
    }

    /// Whether any block of `range` is in the set.
    pub fn overlaps(&self, range: &VirtualRange) -> bool {
        range.start < range.end
            && self.ends.range(..range.end).next_back().is_some_and(|(_, &end)| range.start < end)
    }

    /// Adds every block of `range`.
    pub fn insert(&mut self, range: VirtualRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Everything that touches the new range, from the right end on leftwards.
        while let Some((&s, &e)) = self.ends.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ends.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.ends.insert(start, end);
    }

    /// Removes every block of `range`.
    pub fn remove(&mut self, range: VirtualRange) {
        if range.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.ends.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.ends.remove(&s);
            if range.end < e {
                self.ends.insert(range.end, e);
            }
            if s < range.start {
                self.ends.insert(s, range.start);
                break;
            }
        }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = VirtualRange> + '_ {
        self.ends.iter().map(|(&start, &end)| start..end)
    }

    /// The ranges from the one that holds `block`, or the next, ascending.
    pub fn iter_from(&self, block: u64) -> impl Iterator<Item = VirtualRange> + '_ {
        let within = self.run_from(block);
        let after = within.as_ref().map_or(block, |range| range.end);
        within.into_iter().chain(self.ends.range(after..).map(|(&start, &end)| start..end))
    }

    /// From `block` to the end of the range that holds it.
    pub fn run_from(&self, block: u64) -> Option<VirtualRange> {
        let (_, &end) = self.ends.range(..=block).next_back()?;
        (block < end).then_some(block..end)
    }

    /// How many disjoint ranges there are.
    pub fn range_count(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_set_is_the_set_of_its_blocks(
            steps in proptest::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 0..40)
        ) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (add, start, count) in steps {
                let range = start..start + count;
                prop_assert_eq!(set.overlaps(&range), range.clone().any(|b| model.contains(&b)));
                if add {
                    model.extend(range.clone());
                    set.insert(range);
                } else {
                    model.retain(|b| !range.contains(b));
                    set.remove(range);
                }
                let flat: Vec<u64> = set.iter().flatten().collect();
                prop_assert_eq!(flat, model.iter().copied().collect::<Vec<_>>());
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start), "not coalesced");
                for block in 0..80 {
                    prop_assert_eq!(set.contains(block), model.contains(&block));
                }
            }
        }
    }
}
