//! Signs of life for the service manager's watchdog: given only while every reactor turns.
//!
//! A thread that only says "alive" proves nothing. What guests wait for is done by the reactors, so
//! each is asked to run something.

use std::time::Duration;

use bough_blockstore::ReactorHandle;

use crate::keep::service_manager::{self, News};

/// Gives them, for ever, where somebody watches.
pub(crate) async fn give_signs_of_life(reactors: Vec<ReactorHandle>) {
    let Some(patience) = service_manager::patience() else { return };
    loop {
        if all_turn(&reactors, patience).await {
            service_manager::tell(News::Alive);
        }
        tokio::time::sleep(patience / 4).await;
    }
}

/// Whether all of them answer in time.
async fn all_turn(reactors: &[ReactorHandle], patience: Duration) -> bool {
    for (index, reactor) in reactors.iter().enumerate() {
        let answer = reactor.call(|| async {});
        if !matches!(tokio::time::timeout(patience / 4, answer).await, Ok(Ok(()))) {
            tracing::error!(reactor = index, "a reactor does not turn");
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use bough_blockstore::{Reactor, ReactorConfig};

    use super::*;

    #[tokio::test]
    async fn a_reactor_that_is_stuck_gives_no_sign() {
        let start = |name| Reactor::start(name, ReactorConfig::default()).unwrap();
        let reactors = [start("turning"), start("stuck")];
        assert!(all_turn(&reactors, Duration::from_secs(80)).await);
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        reactors[1].spawn(move || {
            Box::pin(async move {
                let _ = stuck.recv();
            })
        });
        assert!(!all_turn(&reactors, Duration::from_millis(80)).await);
        drop(release);
        assert!(all_turn(&reactors, Duration::from_secs(80)).await);
        reactors.iter().for_each(ReactorHandle::stop);
    }
}
