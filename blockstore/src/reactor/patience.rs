//! How long a reactor looks for work before it sleeps.
//!
//! Waking up costs more than most I/O takes, so looking for a while pays where the work comes
//! soon, and is a waste where it does not. What will come is guessed from what came: after a short
//! sleep the next look is longer, after a long one shorter, down to none.

use std::time::Duration;

/// The shortest look that is worth its while.
const LEAST: Duration = Duration::from_micros(10);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Patience {
    look: Duration,
    most: Duration,
}

impl Patience {
    /// Never more than `most`.
    pub(super) fn new(most: Duration) -> Self {
        Self { look: Duration::ZERO, most }
    }

    /// How long to look before the next sleep.
    pub(super) fn look(&self) -> Duration {
        self.look
    }

    /// Work came after a sleep of this length.
    pub(super) fn slept(&mut self, time: Duration) {
        self.look = if time < self.most {
            (self.look * 2).clamp(LEAST.min(self.most), self.most)
        } else if self.look > LEAST {
            self.look / 2
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(100);

    #[test]
    fn whoever_is_woken_soon_learns_to_wait_and_whoever_is_not_to_sleep() {
        let mut patience = Patience::new(MOST);
        (0..10).for_each(|_| patience.slept(MOST / 2));
        assert_eq!(patience.look(), MOST);
        (0..10).for_each(|_| patience.slept(MOST * 100));
        assert_eq!(patience.look(), Duration::ZERO);
    }

    #[test]
    fn whoever_may_not_look_never_does() {
        let mut patience = Patience::new(Duration::ZERO);
        (0..10).for_each(|_| patience.slept(Duration::ZERO));
        assert_eq!(patience.look(), Duration::ZERO);
    }
}
