//! Hostile bytes: what every fuzz target needs.
//!
//! A target is an ordinary test. An input says how to change something real (a kept store, a recorded
//! session, an image that QEMU made), so that even random bytes come past magic numbers and
//! checksums; and a coverage-guided engine finds the rest.

mod script;
mod trial;

pub use bolero;
pub use script::Script;
pub use trial::Trial;
