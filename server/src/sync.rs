//! What code that several threads run at once is made of. The test that checks such code in every
//! order puts a model of each in its place (`tests/tests/concurrency.rs`).

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

pub(crate) use tokio::sync::Notify;
