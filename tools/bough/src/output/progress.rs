//! A bar on the terminal for whatever takes more than a second.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const QUIET_TIME: Duration = Duration::from_secs(1);

/// Progress over a known number of bytes, shown on a terminal only and not at once.
pub struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    total_bytes: u64,
    wanted: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new(total_bytes: u64) -> Self {
        let wanted = std::io::stderr().is_terminal();
        Self { bar: None, begun: Instant::now(), total_bytes, wanted }
    }

    /// It has come so far.
    pub fn at(&mut self, done_bytes: u64) {
        if !self.wanted || self.begun.elapsed() < QUIET_TIME {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr_with_hz(5);
            let bar = ProgressBar::with_draw_target(Some(self.total_bytes), target);
            let style = "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} to go";
            bar.set_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()));
            bar
        });
        bar.set_position(done_bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
