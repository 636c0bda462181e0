//! Every way in which a store's first two blocks can be wrong.

use proptest::prelude::*;

use super::*;
use crate::device::Operation;
use crate::sim::{CrashKind, Mishap, Sim, SimImage};

const STORE: BlockCount = BlockCount(1000);

fn superblock(generation: u64) -> Superblock {
    Superblock {
        uuid: [5; 16],
        generation,
        size: STORE,
        pool: vec![PoolRun { primary: BlockAddr::of(2), mirror: BlockAddr::of(500), count: 64 }],
        root: [6; 24],
        root_blocks: 77,
        chain: ChainStart {
            nonce: Nonce([7; 16]),
            sequence: Sequence(generation * 10),
            at: BlockAddr::of(3),
            previous_crc: 8,
        },
        epoch: Epoch::of(9),
    }
}

fn read(sim: &Sim, image: SimImage) -> Result<SuperblockPair, SuperblockError> {
    let device: Arc<dyn Device> = sim.open_device(image);
    let pair = sim.run(read_pair(&device));
    drop(sim.crash(CrashKind::Kill));
    pair
}

/// A store with both copies written.
fn store(sim: &Sim, generation: u64) -> SimImage {
    let device: Arc<dyn Device> = sim.create_device(STORE);
    sim.run(write_pair(&device, &superblock(generation))).expect("healthy");
    sim.crash(CrashKind::PowerCut)
}

/// Writes other bytes over a copy, with a right checksum.
fn forge(image: &mut SimImage, at: u64, change: impl FnOnce(&mut [u8; BLOCK_BYTES])) {
    image.damage(BlockAddr::of(at), |block| {
        change(block);
        let crc = crc32fast::hash(&block[..CRC_OFFSET]);
        block[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    });
}

#[test]
fn a_pair_survives_a_power_cut() {
    let sim = Sim::new(1);
    let image = store(&sim, 3);
    let pair = read(&sim, image).expect("a store");
    assert_eq!(pair.superblock, superblock(3));
    assert!(!pair.repaired);
}

#[test]
fn a_crash_while_the_pair_is_written_leaves_the_old_or_the_new() {
    let mut seen = [0; 2];
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let image = store(&sim, 1);
        let device: Arc<dyn Device> = sim.open_device(image);
        sim.stop_after(1 + seed % 8);
        let done = sim.run_until_stop(write_pair(&device, &superblock(2))).is_ok();
        let image = sim.crash(CrashKind::PowerCut);
        let pair = read(&sim, image).expect("one copy is always whole");
        let generation = pair.superblock.generation;
        assert_eq!(pair.superblock, superblock(generation));
        assert!(!done || generation == 2);
        seen[usize::try_from(generation - 1).expect("1 or 2")] += 1;
    }
    assert!(seen.iter().all(|count| *count > 20), "both happen: {seen:?}");
}

#[test]
fn one_damaged_copy_is_tolerated_and_reported() {
    for at in 0..2 {
        let sim = Sim::new(1);
        let mut image = store(&sim, 3);
        image.damage(BlockAddr::of(at), |block| block[999] ^= 1);
        let pair = read(&sim, image).expect("one is whole");
        assert_eq!(pair.superblock, superblock(3));
        assert!(pair.repaired);
    }
}

#[test]
fn an_unreadable_copy_is_a_damaged_one() {
    let sim = Sim::new(1);
    let device = sim.open_device(store(&sim, 3));
    device.plan(Operation::Read, 0, Mishap::Error);
    let device: Arc<dyn Device> = device;
    assert!(sim.run(read_pair(&device)).expect("one is whole").repaired);
}

#[test]
fn two_damaged_copies_are_refused() {
    let sim = Sim::new(1);
    let mut image = store(&sim, 3);
    for at in 0..2 {
        image.damage(BlockAddr::of(at), |block| block[999] ^= 1);
    }
    assert!(matches!(read(&sim, image), Err(SuperblockError::Damaged)));
}

#[test]
fn an_alien_file_is_called_alien() {
    let sim = Sim::new(1);
    let used = SimImage::used_before(STORE, 8);
    assert!(matches!(read(&sim, used), Err(SuperblockError::Alien)));
    assert!(matches!(read(&sim, SimImage::zeroed(STORE)), Err(SuperblockError::Alien)));
    assert!(matches!(read(&sim, SimImage::zeroed(BlockCount(0))), Err(SuperblockError::Alien)));
    assert!(matches!(read(&sim, SimImage::zeroed(BlockCount(1))), Err(SuperblockError::Alien)));
}

#[test]
fn a_newer_format_is_refused_even_in_one_copy() {
    for at in 0..2 {
        let sim = Sim::new(1);
        let mut image = store(&sim, 3);
        forge(&mut image, at, |block| block[8] = 2);
        assert!(matches!(read(&sim, image), Err(SuperblockError::Newer { found: 2 })));
    }
}

#[test]
fn a_version_made_up_by_rot_is_damage() {
    let sim = Sim::new(1);
    let mut image = store(&sim, 3);
    image.damage(BlockAddr::ZERO, |block| block[8] = 2);
    assert!(read(&sim, image).expect("the other is whole").repaired);
}

#[test]
fn a_truncated_store_says_by_how_much() {
    let sim = Sim::new(1);
    for blocks in [1, 2, 999] {
        let mut image = store(&sim, 3);
        image.truncate(BlockCount(blocks));
        match read(&sim, image) {
            Err(SuperblockError::Truncated { expected, found }) => {
                assert_eq!((expected, found), (STORE, BlockCount(blocks)));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nothing_reserved_or_out_of_bounds_is_let_through() {
    let patches: [(usize, u8); 9] = [
        (39, 128),  // a generation that none comes after
        (12, 65),   // more runs than there are
        (116, 1),   // reserved beside the previous CRC
        (160, 1),   // an unused run
        (2000, 1),  // reserved
        (4088, 1),  // reserved, before the CRC
        (135, 255), // a run's start beyond 44 bits
        (103, 1),   // a sequence beyond 48 bits
        (108, 1),   // the chain's start beyond the store
    ];
    for (offset, byte) in patches {
        let mut buf = [0; BLOCK_BYTES];
        buf.copy_from_slice(&encode(&superblock(1)));
        buf[offset] = byte;
        let crc = crc32fast::hash(&buf[..CRC_OFFSET]);
        buf[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&buf), Err(CopyFault::Damaged), "byte {offset}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_error_and_no_panic(
        bytes in prop::collection::vec(any::<u8>(), BLOCK_BYTES),
    ) {
        let mut block: [u8; BLOCK_BYTES] = bytes.try_into().expect("a block");
        block[..8].copy_from_slice(&MAGIC);
        block[8..16].copy_from_slice(&[1, 0, 0, 0, 4, 0, 0, 0]);
        let crc = crc32fast::hash(&block[..CRC_OFFSET]);
        block[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        prop_assert!(decode(&block).is_err());
    }

    #[test]
    fn what_is_encoded_is_decoded(generation in 0..GENERATION_END, sequence in 1..1_u64 << 48, runs in 0..=MAX_POOL_RUNS) {
        let run = |index| PoolRun {
            primary: BlockAddr::of(2 + index),
            mirror: BlockAddr::of(500 + index),
            count: 1,
        };
        let mut written = superblock(1);
        written.generation = generation;
        written.chain.sequence = Sequence(sequence);
        written.pool = (0..crate::addr::to_u64(runs)).map(run).collect();
        let mut block = [0; BLOCK_BYTES];
        block.copy_from_slice(&encode(&written));
        prop_assert_eq!(decode(&block), Ok(written));
    }
}

#[test]
fn a_pool_that_has_a_block_twice_is_damage() {
    let sim = Sim::new(1);
    for mirror in [2, 60, 65] {
        let mut image = store(&sim, 3);
        for copy in 0..2 {
            forge(&mut image, copy, |block| {
                block[136..144].copy_from_slice(&u64::to_le_bytes(mirror))
            });
        }
        let refused = read(&sim, image).expect_err("no pool is like that");
        assert!(matches!(refused, SuperblockError::Damaged), "{refused}");
    }
}
