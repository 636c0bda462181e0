//! The same as text for Prometheus, in the OpenMetrics format.

use std::fmt;

use bough_radix::StoreStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::activity::{Activity, DiskActivity, OperationActivity};
use super::latency::{OCTAVES, PER_OCTAVE, end_of};

/// The media type of [`exposition`].
pub const EXPOSITION_MEDIA_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Octaves of latency that Prometheus is told of: from 16 microseconds to 9 seconds. It stores each for
/// each disk and sort of request.
const TOLD: std::ops::Range<usize> = 3..OCTAVES - 1;

/// What a server tells.
#[derive(Debug)]
pub struct Facts {
    /// Its version.
    pub version: String,
    /// Since when it runs.
    pub started_unix: u64,
    /// The store.
    pub store: StoreStatus,
    /// What guests asked for.
    pub activity: Activity,
}

/// The text.
///
/// # Errors
/// None: text goes to memory.
pub fn exposition(facts: Facts) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("bough");
    registry.register_collector(Box::new(facts));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Facts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut build =
            encoder.encode_descriptor("build", "Who this is", None, MetricType::Info)?;
        build.encode_info(&[("version", self.version.as_str())])?;
        self.encode_store(&mut encoder)?;
        encode_disks(&self.activity.disks, &mut encoder)
    }
}

impl Facts {
    fn encode_store(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let store = &self.store;
        let cache = self.activity.cache;
        let bytes = [
            ("store_size", "The store", store.size_bytes),
            ("store_free", "What may still be written", store.free_bytes),
            ("store_used", "What trees hold", store.used_bytes),
            ("store_reserved", "Promised to what is written", store.reserved_bytes),
            ("catalogue_size", "Set aside for the catalogue", store.catalogue_bytes),
            ("catalogue_used", "Of that, in use", store.catalogue_used_bytes),
            ("node_cache", "Nodes of trees in memory", cache.held_bytes),
            ("node_cache_budget", "The most that may be", cache.budget_bytes),
        ];
        for (name, help, value) in bytes {
            gauge(encoder, name, help, Some(&Unit::Bytes), value)?;
        }
        let numbers = [
            ("disks", "Disks", store.disk_count),
            ("snapshots", "Snapshots", store.snapshot_count),
            ("reclaiming_versions", "Deleted, not freed yet", store.reclaiming),
            ("warnings", "Lines that `bough status` warns with", count(store.warnings.len())),
        ];
        for (name, help, value) in numbers {
            gauge(encoder, name, help, None, value)?;
        }
        let started = "When the server started, since 1970";
        gauge(encoder, "start_time", started, Some(&Unit::Seconds), self.started_unix)?;
        for (name, help, value) in [
            ("node_cache_hits", "Nodes that were in memory", cache.hits),
            ("node_cache_misses", "Nodes that had to be read", cache.misses),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
}

fn count(length: usize) -> u64 {
    bough_blockstore::to_u64(length)
}

fn encode_disks(disks: &[DiskActivity], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let help = "Requests that wait for room in a full store";
    let mut metric =
        encoder.encode_descriptor("disk_waiting_requests", help, None, MetricType::Gauge)?;
    for disk in disks {
        let labels = [("disk", disk.name.as_str())];
        let waiting = i64::try_from(disk.waiting).unwrap_or(i64::MAX);
        metric.encode_family(&labels)?.encode_gauge(&waiting)?;
    }
    let help = "Requests of guests answered";
    counters(disks, encoder, ("disk_requests", help, None), |done| done.requests)?;
    let help = "Requests of guests answered with an error";
    counters(disks, encoder, ("disk_failed_requests", help, None), |done| done.failed)?;
    let help = "Read, written, discarded or zeroed for guests";
    counters(disks, encoder, ("disk_transferred", help, Some(&Unit::Bytes)), |done| done.bytes)?;
    let (name, help) = ("disk_request_duration", "From taking a request to answering it");
    let unit = Some(&Unit::Seconds);
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    each(disks, &mut metric, |mut metric, done| {
        let sum = seconds(done.total_ns);
        metric.encode_histogram::<NoLabelSet>(sum, done.requests, &octaves(done), None)
    })
}

fn counters(
    disks: &[DiskActivity],
    encoder: &mut DescriptorEncoder,
    (name, help, unit): (&str, &str, Option<&Unit>),
    value: impl Fn(&OperationActivity) -> u64,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    each(disks, &mut metric, |mut metric, done| {
        metric.encode_counter::<NoLabelSet, _, u64>(&value(done), None)
    })
}

/// What nobody has asked for yet has no line: ten thousand idle disks are nothing to read.
fn each(
    disks: &[DiskActivity],
    metric: &mut MetricEncoder,
    encode: impl Fn(MetricEncoder, &OperationActivity) -> fmt::Result,
) -> fmt::Result {
    for disk in disks {
        for (operation, done) in disk.operations() {
            if done.requests > 0 {
                let labels = [("disk", disk.name.as_str()), ("operation", operation)];
                encode(metric.encode_family(&labels)?, done)?;
            }
        }
    }
    Ok(())
}

/// Bounds in seconds, and how many requests came within each and not within the one before.
fn octaves(done: &OperationActivity) -> Vec<(f64, u64)> {
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let mut begin = 0;
    for octave in TOLD {
        let end = end_of(octave * PER_OCTAVE + PER_OCTAVE - 1);
        let within = done.latency.iter().filter(|b| (begin + 1..=end).contains(&b.upto_ns));
        buckets.push((seconds(end), within.map(|bucket| bucket.requests).sum()));
        begin = end;
    }
    let longer = done.latency.iter().filter(|bucket| bucket.upto_ns > begin);
    buckets.push((f64::INFINITY, longer.map(|bucket| bucket.requests).sum()));
    buckets
}

/// Rounded as any measured time is.
fn seconds(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64()
}
