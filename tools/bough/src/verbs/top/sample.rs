//! What happened between two answers of the server.

use std::collections::HashMap;

use bough_server::{Activity, DiskActivity, LatencyBucket, OperationActivity};
use serde::Serialize;

use crate::output::{Align, Output, Table};

/// One sample, as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// How long it lasted.
    pub seconds: f64,
    /// Nodes of trees in memory.
    pub cache: CacheSample,
    /// The disks that are attached, the busiest first.
    pub disks: Vec<DiskSample>,
}

/// How often a node of a tree was in memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CacheSample {
    pub hits: u64,
    pub misses: u64,
    pub held_bytes: u64,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiskSample {
    pub name: String,
    /// Requests that wait for room in a full store, now.
    pub waiting: u64,
    pub read: OperationSample,
    pub write: OperationSample,
    pub flush: OperationSample,
    pub discard: OperationSample,
    pub write_zeroes: OperationSample,
    pub other: OperationSample,
}

/// One sort of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OperationSample {
    pub requests: u64,
    pub failed: u64,
    pub bytes: u64,
    pub requests_per_second: f64,
    pub bytes_per_second: f64,
    /// None where there were no requests.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
}

/// Headings of the table.
pub const COLUMNS: [(&str, Align); 11] = [
    ("DISK", Align::Left),
    ("READS/s", Align::Right),
    ("WRITES/s", Align::Right),
    ("OTHERS/s", Align::Right),
    ("READ/s", Align::Right),
    ("WRITTEN/s", Align::Right),
    ("READ p50", Align::Right),
    ("p99 µs", Align::Right),
    ("WRITE p50", Align::Right),
    ("p99 µs", Align::Right),
    ("TROUBLE", Align::Left),
];

impl Sample {
    /// What happened from `before` to `now`. A disk that was attached anew counts from zero.
    pub fn between(before: &Activity, now: &Activity) -> Self {
        let nanos = now.at_ns.saturating_sub(before.at_ns);
        let seconds = std::time::Duration::from_nanos(nanos.max(1)).as_secs_f64();
        let before_by_name: HashMap<_, _> =
            before.disks.iter().map(|old| (old.name.as_str(), old)).collect();
        let mut disks: Vec<_> = now
            .disks
            .iter()
            .map(|disk| {
                let old = before_by_name.get(disk.name.as_str()).copied();
                DiskSample::between(old, disk, seconds)
            })
            .collect();
        disks.sort_by(|a, b| b.requests().cmp(&a.requests()).then(a.name.cmp(&b.name)));
        let cache = CacheSample {
            hits: since(before.cache.hits, now.cache.hits),
            misses: since(before.cache.misses, now.cache.misses),
            held_bytes: now.cache.held_bytes,
        };
        Self { seconds, cache, disks }
    }

    /// For people.
    pub fn table(&self, output: Output) -> String {
        let mut table = Table::new(&COLUMNS);
        self.disks.iter().for_each(|disk| table.row(disk.cells(output)));
        table.text()
    }

    /// For people, too.
    pub fn cache_line(&self) -> String {
        let CacheSample { hits, misses, .. } = self.cache;
        let all = hits + misses;
        if all == 0 {
            return "nodes of trees: none was looked for".to_owned();
        }
        format!("nodes of trees: {hits} of {all} were in memory")
    }
}

impl DiskSample {
    fn between(old: Option<&DiskActivity>, new: &DiskActivity, seconds: f64) -> Self {
        let nothing = OperationActivity::default();
        let sample = |choose: fn(&DiskActivity) -> &OperationActivity| {
            OperationSample::between(old.map_or(&nothing, choose), choose(new), seconds)
        };
        Self {
            name: new.name.clone(),
            waiting: new.waiting,
            read: sample(|disk| &disk.read),
            write: sample(|disk| &disk.write),
            flush: sample(|disk| &disk.flush),
            discard: sample(|disk| &disk.discard),
            write_zeroes: sample(|disk| &disk.write_zeroes),
            other: sample(|disk| &disk.other),
        }
    }

    fn operations(&self) -> [&OperationSample; 6] {
        [&self.read, &self.write, &self.flush, &self.discard, &self.write_zeroes, &self.other]
    }

    fn requests(&self) -> u64 {
        self.operations().iter().map(|operation| operation.requests).sum()
    }

    /// A row of the table.
    pub fn cells(&self, output: Output) -> Vec<String> {
        let rate = |rate: f64| format!("{rate:.0}");
        let bytes = |bytes: f64| output.size(format!("{bytes:.0}").parse().unwrap_or(0));
        let micros = |p: Option<f64>| p.map(|micros| format!("{micros:.0}")).unwrap_or_default();
        let [read, write, others @ ..] = self.operations();
        let others: f64 = others.iter().map(|operation| operation.requests_per_second).sum();
        let failed: u64 = self.operations().iter().map(|operation| operation.failed).sum();
        let trouble = match (failed, self.waiting) {
            (0, 0) => String::new(),
            (0, waiting) => format!("{waiting} WAIT FOR ROOM"),
            (failed, _) => format!("{failed} FAILED"),
        };
        vec![
            self.name.clone(),
            rate(read.requests_per_second),
            rate(write.requests_per_second),
            rate(others),
            bytes(read.bytes_per_second),
            bytes(write.bytes_per_second),
            micros(read.p50_us),
            micros(read.p99_us),
            micros(write.p50_us),
            micros(write.p99_us),
            trouble,
        ]
    }
}

impl OperationSample {
    fn between(old: &OperationActivity, new: &OperationActivity, seconds: f64) -> Self {
        let (requests, bytes) = (since(old.requests, new.requests), since(old.bytes, new.bytes));
        let latency = latency_between(old, new);
        Self {
            requests,
            failed: since(old.failed, new.failed),
            bytes,
            requests_per_second: precise(requests) / seconds,
            bytes_per_second: precise(bytes) / seconds,
            p50_us: percentile(&latency, 50),
            p99_us: percentile(&latency, 99),
        }
    }
}

/// Counters only grow, unless they began anew.
fn since(old: u64, new: u64) -> u64 {
    new.checked_sub(old).unwrap_or(new)
}

fn latency_between(old: &OperationActivity, new: &OperationActivity) -> Vec<LatencyBucket> {
    let earlier = |bucket: &LatencyBucket| {
        let same = old.latency.iter().find(|old| old.upto_ns == bucket.upto_ns);
        same.map_or(0, |old| old.requests)
    };
    let since = |bucket: &LatencyBucket| LatencyBucket {
        requests: since(earlier(bucket), bucket.requests),
        ..*bucket
    };
    new.latency.iter().map(since).collect()
}

/// The bucket's end below which `percent` of the requests took, in microseconds.
fn percentile(latency: &[LatencyBucket], percent: u64) -> Option<f64> {
    let all: u64 = latency.iter().map(|bucket| bucket.requests).sum();
    let wanted = (all * percent).div_ceil(100);
    let mut seen = 0;
    let found = latency.iter().filter(|bucket| bucket.requests > 0).find(|bucket| {
        seen += bucket.requests;
        seen >= wanted
    });
    found.map(|bucket| precise(bucket.upto_ns) / 1000.0)
}

/// Exact up to 2^53, and as good as exact beyond.
fn precise(number: u64) -> f64 {
    let (high, low) = ((number >> 32) & 0xffff_ffff, number & 0xffff_ffff);
    let part = |part: u64| f64::from(u32::try_from(part).unwrap_or(u32::MAX));
    part(high) * 4_294_967_296.0 + part(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(requests: &[(u64, u64)], bytes: u64) -> OperationActivity {
        let bucket = |(upto_ns, requests): &(u64, u64)| LatencyBucket {
            upto_ns: *upto_ns,
            requests: *requests,
        };
        OperationActivity {
            requests: requests.iter().map(|(_, requests)| requests).sum(),
            bytes,
            latency: requests.iter().map(bucket).collect(),
            ..OperationActivity::default()
        }
    }

    #[test]
    fn a_sample_is_what_came_between_two_answers() {
        let old = operation(&[(2048, 5)], 4096);
        let new = operation(&[(2048, 15), (65536, 89), (131_072, 1)], 409_600);
        let sample = OperationSample::between(&old, &new, 2.0);
        assert_eq!((sample.requests, sample.bytes), (100, 405_504));
        assert!((sample.requests_per_second - 50.0).abs() < 1e-9);
        assert_eq!((sample.p50_us, sample.p99_us), (Some(65.536), Some(65.536)));
    }

    #[test]
    fn a_counter_that_began_anew_counts_from_zero() {
        let (old, new) = (operation(&[(2048, 50)], 9), operation(&[(2048, 3)], 5));
        let sample = OperationSample::between(&old, &new, 1.0);
        assert_eq!((sample.requests, sample.bytes, sample.p99_us), (3, 5, Some(2.048)));
    }

    #[test]
    fn where_nothing_was_asked_there_is_no_latency() {
        let same = operation(&[(2048, 50)], 9);
        let sample = OperationSample::between(&same, &same, 1.0);
        assert_eq!((sample.requests, sample.p50_us), (0, None));
    }
}
