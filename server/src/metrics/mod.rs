//! What guests asked for and how long it took: counted where it is answered, told to whoever asks.
//!
//! I own the counters of all disks, and the two ways to read them: as JSON for `bough top`, as text for
//! Prometheus. Invariant: counting takes no lock and shares no cache line with another disk; each
//! disk's numbers are written by the one reactor that serves it.

mod activity;
mod exposition;
mod latency;
mod meter;
mod port;
#[cfg(test)]
mod tests;

pub use activity::{Activity, CacheActivity, DiskActivity, LatencyBucket, OperationActivity};
pub use exposition::{EXPOSITION_MEDIA_TYPE, Facts, exposition};
pub use meter::{Meter, Meters};
pub use port::{MetricsPort, PortError};
