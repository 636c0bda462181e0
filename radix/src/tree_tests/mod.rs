//! Tests of the tree as a whole, against plain models.

mod damage;
mod forest;
mod medium;
mod ownership;
mod verbs;

/// What the tests look at, in one place.
mod tree {
    pub use crate::cache::NodeCache;
    pub use crate::count::count_data;
    pub use crate::diff::{Difference, diff};
    pub use crate::lookup::{lookup, lookup_range, try_lookup, try_lookup_range};
    pub use crate::merge::{
        MergeContext, Merged, NodeSink, Ownership, ReclaimedBelow, Update, clear, merge, reheight,
    };
    pub use crate::node::{Entry, Node, NodeFault, Root};
    pub use crate::path::{FAN_OUT, Position, height_for};
    pub use crate::reclaim::{Reclaim, reclaim_step};
    pub use crate::tree_error::{OnDamage, TreeError};
    pub use crate::walk::{Found, Onward, walk};
}
