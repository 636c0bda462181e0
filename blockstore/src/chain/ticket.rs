//! A staged write's claim on an answer.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::addr::Sequence;
use crate::chain::ChainFault;

/// How a write ended: its (last) record, or why there is none.
pub(super) type Outcome = Result<Sequence, ChainFault>;

/// Where the answer for everything sealed together will be; set once.
#[derive(Default)]
pub(super) struct Answer {
    outcome: OnceLock<Outcome>,
    answered: Notify,
}

impl Answer {
    pub fn is_set(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Answers everybody who waits.
    pub fn set(&self, outcome: Outcome) {
        let first = self.outcome.set(outcome).is_ok();
        assert!(first, "a write is answered once");
        self.answered.notify_waiters();
    }

    /// The answer, when there is one.
    pub async fn wait(&self) -> Outcome {
        loop {
            let mut answered = pin!(self.answered.notified());
            // Registered before looking, so that no answer falls in between.
            answered.as_mut().enable();
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            answered.await;
        }
    }
}

/// A staged write, to be waited for. Dropping it withdraws nothing.
#[derive(Clone)]
pub struct Ticket {
    pub(super) answer: Arc<Answer>,
}

impl Ticket {
    /// Whether both are answered together.
    pub fn is_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.answer, &other.answer)
    }

    /// How the write ended, if it has.
    pub fn outcome(&self) -> Option<Result<Sequence, ChainFault>> {
        self.answer.outcome.get().cloned()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.outcome()).finish()
    }
}
