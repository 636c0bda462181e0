//! Memory that outlives the process, and not the machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bough_blockstore::{ChainStart, Nonce};
use bough_radix::{Tail, Tails};

type Ends = Arc<Mutex<BTreeMap<[u8; 16], ChainStart>>>;

/// Where logs end, by their nonce.
#[derive(Debug, Default)]
pub struct Memory(Ends);

impl Memory {
    /// The machine has lost its power.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Tails for Memory {
    fn begin(&self) -> Option<Box<dyn Tail>> {
        Some(Box::new(Place(Arc::clone(&self.0))))
    }

    fn left(&self, nonce: Nonce) -> Option<ChainStart> {
        self.0.lock().unwrap().get(&nonce.0).copied()
    }
}

struct Place(Ends);

impl Tail for Place {
    fn set(&self, next: &ChainStart) {
        self.0.lock().unwrap().insert(next.nonce.0, *next);
    }
}
