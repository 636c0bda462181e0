//! Which bucket a duration falls into: four to an octave, from a microsecond to 17 seconds. Pure.

use std::time::Duration;

use bough_blockstore::to_usize;

/// Octaves of durations told apart.
pub(super) const OCTAVES: usize = 24;
/// Buckets in each: a percentile is known to within an eighth.
pub(super) const PER_OCTAVE: usize = 4;
/// All of them. The first has whatever is shorter, the last whatever is longer.
pub(super) const BUCKETS: usize = OCTAVES * PER_OCTAVE;

/// Durations are told apart in units of 2^8 ns...
const UNIT_BITS: u32 = 8;
/// ...from four of them on: what is shorter has no quarters.
const FIRST_OCTAVE: u32 = 2;

/// The bucket of a duration.
pub(super) fn bucket_of(took: Duration) -> usize {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let units = (nanos >> UNIT_BITS).max(1 << FIRST_OCTAVE);
    let octave = units.ilog2() - FIRST_OCTAVE;
    let quarter = (units >> octave) & 3;
    (octave as usize * PER_OCTAVE + to_usize(quarter)).min(BUCKETS - 1)
}

/// Where a bucket ends, in nanoseconds; the next begins there.
pub(super) fn end_of(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
    (4 + quarter as u64 + 1) << octave << UNIT_BITS
}
