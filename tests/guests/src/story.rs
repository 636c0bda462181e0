//! Running stories one after the other, and counting.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;

/// How many passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stories that kept their promise.
    pub passed: u64,
    /// Stories that did not.
    pub failed: u64,
}

impl Tally {
    /// Both counts together.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Plays one story, says how it went, and counts it.
    pub fn play(&mut self, name: &str, story: impl FnOnce() -> Result<()>) -> bool {
        print!("guest story {name} ... ");
        // Only for whoever watches: the line's end comes much later.
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let outcome = story();
        let seconds = start.elapsed().as_secs_f32();
        match &outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok ({seconds:.1} s)");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED ({seconds:.1} s)\n{error:#}");
            }
        }
        outcome.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_story_is_counted_as_such() {
        let mut tally = Tally::default();
        assert!(tally.play("good", || Ok(())));
        assert!(!tally.play("bad", || anyhow::bail!("as it must")));
        assert_eq!(tally, Tally { passed: 1, failed: 1 });
    }
}
