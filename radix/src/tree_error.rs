//! What can go wrong in a tree.

use bough_blockstore::{BlockAddr, DeviceError};

use crate::node::NodeFault;
use crate::path::Position;

/// Why a node could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TreeError {
    /// The bytes are not the node that they should be; tried twice, and in the mirror where there
    /// is one. Everything below the position is unreadable.
    #[error("the node at block {at} ({position}) is corrupt: {fault}")]
    Corrupt {
        /// The block.
        at: BlockAddr,
        /// Which node it should have been.
        position: Position,
        /// What is wrong with it.
        fault: NodeFault,
    },
    /// The medium failed.
    #[error("the node at {position} cannot be read")]
    Device {
        /// Which node was asked for.
        position: Position,
        /// What the medium said.
        #[source]
        source: DeviceError,
    },
}

/// What to do about a node that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDamage {
    /// Stop with the error; nothing has changed.
    Fail,
    /// Give up what is below one that was read and is not what was written, as [`GiveUp`] does.
    /// Stop with the error where the medium fails: what it holds may come back.
    ///
    /// [`GiveUp`]: OnDamage::GiveUp
    GiveUpCorrupt,
    /// Give up what is below it and go on. Its blocks leak (`check` finds them); a merge marks
    /// its positions as lost.
    GiveUp,
}

impl OnDamage {
    /// Whether a node that failed with `error` is given up.
    pub(crate) fn gives_up(self, error: &TreeError) -> bool {
        match self {
            Self::Fail => false,
            Self::GiveUpCorrupt => matches!(error, TreeError::Corrupt { .. }),
            Self::GiveUp => true,
        }
    }
}

/// A subtree that was given up.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Where it hung.
    pub position: Position,
    /// Why.
    pub error: TreeError,
}
