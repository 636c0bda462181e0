//! Says in the log what `status` warns of: a store getting full, a disk that has halted.
//!
//! I own nothing but the memory of what was said. Each warning is said when it begins, and again only
//! after it had ended.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::control::Control;

const EVERY: Duration = Duration::from_secs(5);

/// Looks, for ever.
pub async fn watch(control: &Control) {
    let mut told = BTreeSet::new();
    loop {
        if let Ok(status) = control.run(|engine| async move { engine.status().await }).await {
            let warnings = status.warnings.into_iter().chain(control.store().misplaced_blocks());
            for warning in news(&mut told, warnings.collect()) {
                tracing::warn!("{warning}");
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What was not said before. Numbers in a warning may move without its being another.
fn news(told: &mut BTreeSet<String>, warnings: Vec<String>) -> Vec<String> {
    let kind = |warning: &String| warning.replace(|c: char| c.is_ascii_digit(), "");
    let now: BTreeSet<String> = warnings.iter().map(kind).collect();
    let new = warnings.into_iter().filter(|warning| !told.contains(&kind(warning))).collect();
    *told = now;
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_said_when_it_begins_and_when_it_begins_again() {
        let mut told = BTreeSet::new();
        let full = |free: u32| vec![format!("only {free} MiB are free")];
        assert_eq!(news(&mut told, full(40)), full(40));
        assert_eq!(news(&mut told, full(9)), Vec::<String>::new());
        assert_eq!(news(&mut told, vec![]), Vec::<String>::new());
        assert_eq!(news(&mut told, full(8)), full(8));
    }
}
