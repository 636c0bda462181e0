//! Images that lie: whatever a file says, it is read or refused, and nothing else happens.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::{ImageError, TargetOptions, create, open};
use crate::cli::TargetFormat;

const SIZE: u64 = 8 << 20;
const CASES: u32 = 200;
/// A file may claim a petabyte of tiny pieces; a reader stops when it has seen enough.
const STEPS: usize = 200;

/// Numbers that anybody can have again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bough_blockstore::to_usize((self.0 >> 33) % bough_blockstore::to_u64(sides))
    }
}

fn read_some(path: &Path) -> Result<(), ImageError> {
    let mut image = open(path, None)?;
    let size_bytes = image.size_bytes();
    let mut buffer = vec![0; 4096];
    let mut at = 0;
    for _ in 0..STEPS {
        if at >= size_bytes {
            break;
        }
        let mapped = image.map(at)?;
        if !mapped.zero {
            let length = mapped.length_bytes.min(size_bytes - at).min(4096);
            image.read(at, &mut buffer[..bough_blockstore::to_usize(length)])?;
        }
        at = at.saturating_add(mapped.length_bytes.max(1));
    }
    Ok(())
}

/// Changes some bytes among the first `head`, where the tables are, and reads what comes of it.
fn survive_changes(image: &[u8], head: usize, path: &Path) {
    let mut dice = Dice(1);
    let (mut refused, mut read) = (0, 0);
    for case in 0..CASES {
        let mut bytes = image.to_vec();
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(head.min(bytes.len()));
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, 0x10][dice.roll(6)];
        }
        if dice.roll(10) == 0 {
            bytes.truncate(dice.roll(bytes.len()));
        }
        std::fs::write(path, &bytes).unwrap();
        match catch_unwind(AssertUnwindSafe(|| read_some(path))) {
            Ok(Ok(())) => read += 1,
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("case {case} made the reader panic; the image is kept in {path:?}"),
        }
    }
    assert!(refused > 0 && read > 0, "{refused} refused, {read} read: the cases are no good");
}

/// An image with some data, made at `path`.
pub fn qcow2(path: &Path) -> Vec<u8> {
    let options = TargetOptions { format: TargetFormat::Qcow2, size_bytes: SIZE, replace: true };
    let mut target = create(path, options).unwrap();
    for at in [0, 1 << 20, 5 << 20] {
        target.write(at, &[7; 70_000]).unwrap();
    }
    target.finish().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_qcow2_image_that_lies_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = qcow2(&folder.path().join("good.qcow2"));
    survive_changes(&image, 120, &folder.path().join("header.qcow2"));
    survive_changes(&image, image.len(), &folder.path().join("anywhere.qcow2"));
}

#[test]
fn a_qcow2_image_that_its_driver_panics_on_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torn.qcow2");
    let mut image = qcow2(&path);
    // A table of feature names, of one byte; an entry has 48.
    let extensions = 104;
    image[100..104].copy_from_slice(&104_u32.to_be_bytes());
    let table = [0x6803_f857_u32.to_be_bytes(), 1_u32.to_be_bytes(), [0; 4], [0; 4], [0; 4]];
    image[extensions..extensions + 20].copy_from_slice(table.as_flattened());
    std::fs::write(&path, image).unwrap();
    let refused = read_some(&path);
    assert!(matches!(refused, Err(ImageError::Damaged { .. })), "{refused:?}");
}

/// A monolithic sparse VMDK: header, descriptor, directory, table, grains.
pub fn sparse_vmdk() -> Vec<u8> {
    let (grain_sectors, grains) = (128_u64, SIZE / (128 * 512));
    let mut bytes = vec![0; 512 * 8];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"KDMV");
    put(4, &1_u32.to_le_bytes());
    put(8, &3_u32.to_le_bytes());
    put(12, &(SIZE / 512).to_le_bytes());
    put(20, &grain_sectors.to_le_bytes());
    put(28, &1_u64.to_le_bytes());
    put(36, &1_u64.to_le_bytes());
    put(44, &512_u32.to_le_bytes());
    put(56, &2_u64.to_le_bytes());
    put(512, b"# Disk DescriptorFile\nparentCID=ffffffff\n");
    put(1024, &3_u32.to_le_bytes());
    for grain in 0..grains {
        let slot = 1536 + bough_blockstore::to_usize(grain) * 4;
        let sector = if grain % 3 == 0 { 8 + u32::try_from(grain / 3 * 128).unwrap() } else { 0 };
        put(slot, &sector.to_le_bytes());
    }
    bytes.resize(512 * 8 + bough_blockstore::to_usize(grains.div_ceil(3)) * 65536, 7);
    bytes
}

#[test]
fn a_vmdk_image_that_lies_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lies.vmdk");
    let image = sparse_vmdk();
    std::fs::write(&path, &image).unwrap();
    let mut good = open(&path, None).unwrap();
    assert_eq!(good.size_bytes(), SIZE);
    assert!(!good.map(0).unwrap().zero);
    assert!(good.map(65536).unwrap().zero);
    survive_changes(&image, 2048, &path);
}
