//! A host file system with no room left.

use std::sync::Arc;

use bough_blockstore::sim::{CrashKind, Faults, Sim};
use bough_blockstore::{BlockCount, Device};
use bough_radix::{DiskError, Engine};

use crate::kit::*;

/// How much is written at a time.
const PIECE: usize = 65536;

#[test]
fn a_flush_needs_no_room_on_the_host_and_holds_all_that_was_answered() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let device = sim.create_device(BlockCount::covering(64 * MIB));
        let medium: Arc<dyn Device> = device.clone();
        let answered = sim.run(async {
            Engine::format(Arc::clone(&medium), sim.runtime()).await.unwrap();
            let engine = open(&sim, medium).await;
            engine.create_disk(&disk_name("web"), 8 * MIB).await.unwrap();
            let disk = engine.disk(&disk_name("web")).await.unwrap();
            fill(&disk, 0, PIECE, 1).await;
            let host_blocks = Some(device.image().allocated().0 + 20 + seed);
            device.set_faults(Faults { host_blocks, ..Faults::default() });
            let mut answered = 1;
            let refused = loop {
                let mut fill = |_: usize, piece: &mut [u8]| piece.fill(1);
                match disk.write(answered * 65536, PIECE, &mut fill).await {
                    Ok(()) => answered += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, DiskError::HostFull { .. }), "{refused}");
            disk.flush().await.unwrap();
            answered
        });
        let image = sim.crash(CrashKind::PowerCut);
        let device: Arc<dyn Device> = sim.open_device(image);
        sim.run(async {
            let engine = open(&sim, device).await;
            let disk = engine.disk(&disk_name("web")).await.unwrap();
            for piece in 0..answered {
                assert_eq!(bytes(&disk, piece * 65536, PIECE).await, vec![1; PIECE]);
            }
            // There is room on this host.
            fill(&disk, answered * 65536, PIECE, 2).await;
            engine.close().await.unwrap();
        });
    }
}
