//! What makes a whole store no store: superblocks, versions, sizes, strangers.

use bough_blockstore::sim::{Sim, SimImage};
use bough_blockstore::{BlockAddr, BlockCount, SuperblockError};
use bough_damage::{Layout, Medium, rot, swap_superblock_version};
use bough_radix::{CatalogueError, EngineError};

use crate::kit::{VERSIONS, look, open, store};

fn refusal(image: SimImage) -> SuperblockError {
    match look(image) {
        Err(EngineError::Catalogue(CatalogueError::Superblock(fault))) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_described_format_is_what_the_engine_writes_and_counts() {
    let image = store();
    let layout = Layout::read(&image);
    let seen = look(image.clone()).unwrap();
    seen.assert_clean();
    assert_eq!(seen.check.versions, 4);
    let mut blocks = std::collections::BTreeSet::new();
    for name in VERSIONS {
        let tree = layout.tree(&image, name);
        let referenced = i64::try_from(tree.data().count()).unwrap();
        assert_eq!(layout.rows.version(name).referenced_blocks, referenced, "{name}");
        blocks.extend(tree.blocks.values().map(|pointer| pointer.addr));
    }
    assert_eq!(seen.check.blocks + seen.check.nodes, u64::try_from(blocks.len()).unwrap());
    assert_eq!(layout.rows.meta[9], u64::try_from(blocks.len()).unwrap(), "used blocks");
    assert!(layout.rows.chains.is_empty() && layout.rows.extents.is_empty());
}

#[test]
fn one_damaged_superblock_is_survived_and_written_again() {
    for copy in [0, 1] {
        let mut image = store();
        rot(&mut image, copy);
        let sim = Sim::new(1);
        let device = sim.open_device(image);
        sim.run(async {
            let engine = open(&sim, device.clone()).await.unwrap();
            engine.close().await.unwrap();
        });
        let mended = device.image();
        Layout::read(&mended);
        look(mended).unwrap().assert_clean();
    }
}

#[test]
fn two_damaged_superblocks_are_refused_by_name() {
    let mut image = store();
    rot(&mut image, 0);
    rot(&mut image, 1);
    assert!(matches!(refusal(image), SuperblockError::Damaged));
}

#[test]
fn a_newer_format_is_refused_by_its_number_in_whichever_copy_it_stands() {
    for copies in [[0, 0], [1, 1], [0, 1]] {
        let mut image = store();
        copies.iter().for_each(|copy| swap_superblock_version(&mut image, *copy, 2));
        assert!(matches!(refusal(image), SuperblockError::Newer { found: 2 }));
    }
}

#[test]
fn a_truncated_store_is_refused_with_both_sizes() {
    let mut image = store();
    image.truncate(BlockCount(3000));
    let fault = refusal(image);
    let SuperblockError::Truncated { expected, found } = fault else { panic!("{fault:?}") };
    assert_eq!((expected, found), (BlockCount(4096), BlockCount(3000)));
}

#[test]
fn a_strangers_file_is_refused_and_left_as_it_is() {
    let image = SimImage::used_before(BlockCount(4096), 5);
    let sim = Sim::new(1);
    let device = sim.open_device(image.clone());
    let refused = sim.run(open(&sim, device.clone())).err().unwrap();
    let alien = SuperblockError::Alien;
    assert_eq!(refused.to_string(), alien.to_string());
    for block in 0..4096 {
        let at = BlockAddr::of(block);
        assert_eq!(device.image().read(at), image.read(at), "block {block} was changed");
    }
    let mut empty = SimImage::zeroed(BlockCount(1));
    assert!(matches!(refusal(empty.clone()), SuperblockError::Alien));
    empty.truncate(BlockCount(0));
    assert_eq!(Medium::block_count(&empty), 0);
    assert!(matches!(refusal(empty), SuperblockError::Alien));
}
