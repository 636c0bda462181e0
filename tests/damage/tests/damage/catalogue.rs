//! Damage to the catalogue: each block of it is kept twice.

use bough_damage::{
    Layout, Position, flip_bitmap_bit, replace_root_crc, replace_root_height,
    rewrite_catalogue_page, rot,
};
use bough_radix::{EngineError, ErrorKind, Severity};

use crate::kit::{findings, look, store};

#[test]
fn one_damaged_copy_of_any_catalogue_block_is_survived_found_and_mended() {
    let whole = store();
    let layout = Layout::read(&whole);
    for pointer in layout.catalogue.blocks.values() {
        for addr in [pointer.addr, layout.mirror(pointer.addr)] {
            let mut image = whole.clone();
            rot(&mut image, addr);
            let seen = look(image).unwrap();
            assert!(seen.check.findings.is_empty(), "{:?}", seen.check);
            assert!(seen.unreadable.is_empty());
            // An opening may have replaced the block already.
            let found = findings(&seen.scrub);
            assert!(found.is_empty() || found == [(Severity::Corruption, None, Some(addr))]);
        }
    }
}

#[test]
fn scrub_mends_a_damaged_copy_from_the_other() {
    use bough_blockstore::sim::Sim;
    use bough_radix::ScrubOptions;
    let mut image = store();
    let layout = Layout::read(&image);
    // The page of the space bitmap: no opening rewrites it.
    let page = Position { level: 0, index: 1 << 30 };
    let addr = layout.catalogue.blocks[&page].addr;
    for copy in [addr, layout.mirror(addr)] {
        rot(&mut image, copy);
        let sim = Sim::new(4);
        let device = sim.open_device(image.clone());
        sim.run(async {
            let engine = crate::kit::open(&sim, device.clone()).await.unwrap();
            let first = engine.scrub(ScrubOptions::default(), &mut |_| {}).await.unwrap();
            assert_eq!(findings(&first), [(Severity::Corruption, None, Some(copy))]);
            let second = engine.scrub(ScrubOptions::default(), &mut |_| {}).await.unwrap();
            assert!(second.findings.is_empty(), "{second:?}");
            engine.close().await.unwrap();
        });
        image = device.image();
        Layout::read(&image);
    }
}

#[test]
fn two_damaged_copies_are_a_corrupt_catalogue_and_never_a_panic() {
    let whole = store();
    let layout = Layout::read(&whole);
    for (position, pointer) in &layout.catalogue.blocks {
        let mut image = whole.clone();
        rot(&mut image, pointer.addr);
        rot(&mut image, layout.mirror(pointer.addr));
        let error = look(image).map(|_| ()).expect_err("half a catalogue was taken for a whole");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{position:?}: {error}");
        let named = format!("block {}", pointer.addr);
        assert!(error.to_string().contains(&named), "{error} does not name {named}");
    }
}

#[test]
fn a_root_that_leads_nowhere_is_a_corrupt_catalogue() {
    let mut image = store();
    replace_root_crc(&mut image, 0x1234_5678);
    assert_eq!(look(image).map(|_| ()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_catalogue_of_another_height_is_a_corrupt_one() {
    let whole = store();
    let height = Layout::read(&whole).root.height;
    for wrong in (0..=255).filter(|wrong| *wrong != height) {
        let mut image = whole.clone();
        replace_root_height(&mut image, wrong);
        let kind = look(image).map(|_| ()).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Corrupt, "height {wrong}");
    }
}

#[test]
fn a_set_bit_of_a_free_block_is_a_leak_and_nothing_else() {
    let mut image = store();
    let layout = Layout::read(&image);
    flip_bitmap_bit(&mut image, &layout, 4000);
    let seen = look(image).unwrap();
    assert_eq!(findings(&seen.check), [(Severity::Leak, None, Some(4000))]);
    assert!(seen.unreadable.is_empty() && seen.scrub.findings.is_empty());
}

#[test]
fn a_clear_bit_of_a_used_block_is_corruption_at_that_block() {
    let mut image = store();
    let layout = Layout::read(&image);
    let (_, block) = layout.tree(&image, "db").data().nth(7).unwrap();
    flip_bitmap_bit(&mut image, &layout, block.addr);
    let seen = look(image).unwrap();
    assert_eq!(findings(&seen.check), [(Severity::Corruption, None, Some(block.addr))]);
    assert!(seen.unreadable.is_empty());
}

#[test]
fn very_many_findings_are_counted_and_not_all_told() {
    let mut image = store();
    let layout = Layout::read(&image);
    rewrite_catalogue_page(&mut image, &layout, 1 << 30, |bytes| bytes[300..512].fill(0xff));
    let seen = look(image).unwrap();
    let found = findings(&seen.check);
    assert_eq!(found.len(), 1001);
    assert!(found.iter().all(|finding| finding.0 == Severity::Leak));
    let last = &seen.check.findings[1000].message;
    assert!(last.starts_with("696 more"), "{last}");
}

#[test]
fn any_changed_byte_of_a_page_with_right_checksums_is_an_error_or_no_harm() {
    let whole = store();
    let layout = Layout::read(&whole);
    let pages: Vec<u64> =
        layout.catalogue.blocks.keys().filter(|p| p.level == 0).map(|p| p.index).collect();
    for page in pages.into_iter().filter(|page| *page < 1 << 30) {
        for at in (0..4096).step_by(61) {
            let mut image = whole.clone();
            rewrite_catalogue_page(&mut image, &layout, page, |bytes| bytes[at] ^= 0x41);
            match look_without_oracle(image) {
                Ok(()) => {}
                Err(error) => drop(error.kind()),
            }
        }
    }
}

/// A forged row may say anything, another size or name included: only panics count here.
fn look_without_oracle(image: bough_blockstore::sim::SimImage) -> Result<(), EngineError> {
    use bough_blockstore::sim::Sim;
    let sim = Sim::new(3);
    let device = sim.open_device(image);
    sim.run(async {
        let engine = crate::kit::open(&sim, device).await?;
        engine.list().await?;
        engine.tree().await?;
        engine.check().await?;
        Ok(())
    })
}
