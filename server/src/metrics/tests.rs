//! Buckets cover all durations, and what is told of them adds up.

use std::time::Duration;

use proptest::prelude::*;

use super::activity::{Activity, CacheActivity, LatencyBucket, OperationActivity};
use super::latency::{BUCKETS, bucket_of, end_of};
use super::{Facts, Meters, exposition};

proptest! {
    #[test]
    fn a_duration_lies_in_its_bucket(bits in 0_u32..64, low in any::<u64>()) {
        let nanos = low >> bits;
        let bucket = bucket_of(Duration::from_nanos(nanos));
        prop_assert!(bucket < BUCKETS);
        prop_assert!(nanos < end_of(bucket) || bucket == BUCKETS - 1);
        prop_assert!(bucket == 0 || nanos >= end_of(bucket - 1));
    }
}

#[test]
fn a_bucket_ends_at_most_a_quarter_beyond_its_beginning() {
    for bucket in 1..BUCKETS {
        let (begin, end) = (end_of(bucket - 1), end_of(bucket));
        assert!(begin < end && end - begin <= begin / 4, "{begin}..{end}");
    }
}

/// However requests spread over the buckets, Prometheus is told of each once.
#[test]
fn octaves_add_up_to_all_requests() {
    let meters = Meters::default();
    meters.begin("web");
    let mut disks = meters.read();
    let latency: Vec<_> =
        (0..BUCKETS).map(|bucket| LatencyBucket { upto_ns: end_of(bucket), requests: 1 }).collect();
    let requests = bough_blockstore::to_u64(BUCKETS);
    disks[0].read = OperationActivity { requests, latency, ..OperationActivity::default() };
    let cache = CacheActivity { held_bytes: 0, budget_bytes: 0, hits: 0, misses: 0 };
    let facts = Facts {
        version: "1".into(),
        started_unix: 0,
        store: crate::control::sample_store(),
        activity: Activity { at_ns: 0, cache, disks },
    };
    let text = exposition(facts).unwrap();
    let of_reads = r#"{disk="web",operation="read"}"#;
    assert!(text.contains(&format!("duration_seconds_count{of_reads} {requests}\n")), "{text}");
    let last =
        format!(r#"duration_seconds_bucket{{le="+Inf",disk="web",operation="read"}} {requests}"#);
    assert!(text.contains(&last), "{text}");
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("operation=\"write\""), "what nobody asked for has no line");
}
