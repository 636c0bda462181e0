//! The ordered writer: numbered records over two disks, each only after the one before it.
//!
//! The other half is `image/ordered-writer`, which tells the layout. Owns the question "which
//! records does this image hold?".

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::writer::Writer;
use crate::machine::Machine;

const BLOCK: usize = 4096;
const MAGIC: &[u8; 8] = b"BOUGHREC";
/// More than a test waits for, fewer than the disks hold.
const MOST: u64 = 100_000;

/// Empties both disks and starts the writer.
pub fn start(guest: &Machine) -> Result<Writer> {
    guest.run("blkdiscard /dev/vdc && blkdiscard /dev/vdd")?;
    Writer::start(guest, "ordered-writer", &format!("{MOST} /dev/vdc /dev/vdd"))
}

/// Fails unless the images hold records 0..n and nothing else; returns n.
pub fn records_in(images: &[PathBuf]) -> Result<u64> {
    let disks = u64::try_from(images.len())?;
    let mut counts = Vec::new();
    for (place, image) in images.iter().enumerate() {
        let place = u64::try_from(place)?;
        let numbers = numbers_in(image)?;
        for (at, number) in numbers.iter().enumerate() {
            let expected = u64::try_from(at)? * disks + place;
            if *number != expected {
                bail!("{}: block {at} holds record {number}", image.display());
            }
        }
        counts.push(u64::try_from(numbers.len())?);
    }
    let total: u64 = counts.iter().sum();
    for (place, count) in counts.iter().enumerate() {
        let expected = (total + disks - 1 - u64::try_from(place)?) / disks;
        if *count != expected {
            bail!("the disks are not of one instant: they hold {counts:?} records");
        }
    }
    Ok(total)
}

/// The numbers of the records of one disk; a record behind an empty block is an error.
fn numbers_in(image: &PathBuf) -> Result<Vec<u64>> {
    let file = File::open(image).with_context(|| format!("no {}", image.display()))?;
    let blocks = file.metadata()?.len() / u64::try_from(BLOCK)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut block = [0; BLOCK];
    let (mut numbers, mut ended) = (Vec::new(), None);
    for at in 0..blocks {
        reader.read_exact(&mut block)?;
        if block == [0; BLOCK] {
            ended.get_or_insert(at);
            continue;
        }
        let number = number_of(&block).with_context(|| format!("block {at} is no record"))?;
        if let Some(gap) = ended {
            bail!("{}: record {number} in block {at}, but none in block {gap}", image.display());
        }
        numbers.push(number);
    }
    Ok(numbers)
}

fn number_of(block: &[u8; BLOCK]) -> Result<u64> {
    let number = u64::from_le_bytes(block[8..16].try_into()?);
    let filling = 33 + u8::try_from(number % 90)?;
    if &block[..8] != MAGIC || block[16..].iter().any(|b| *b != filling) {
        bail!("torn or alien: {:02x?}...", &block[..24]);
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Vec<u8> {
        let mut block = MAGIC.to_vec();
        block.extend(number.to_le_bytes());
        block.resize(BLOCK, 33 + u8::try_from(number % 90).unwrap());
        block
    }

    fn image(name: &str, records: &[Option<u64>]) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("bough-ordered-{}-{name}", std::process::id()));
        let bytes: Vec<u8> =
            records.iter().flat_map(|r| r.map_or(vec![0; BLOCK], record)).collect();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn judge(name: &str, a: &[Option<u64>], b: &[Option<u64>]) -> Result<u64> {
        let images = [image(&format!("{name}-a"), a), image(&format!("{name}-b"), b)];
        let verdict = records_in(&images);
        for image in &images {
            std::fs::remove_file(image).unwrap();
        }
        verdict
    }

    #[test]
    fn a_prefix_is_counted() {
        assert_eq!(judge("odd", &[Some(0), Some(2)], &[Some(1), None]).unwrap(), 3);
        assert_eq!(judge("none", &[None], &[None]).unwrap(), 0);
    }

    #[test]
    fn a_gap_or_a_lagging_disk_is_noticed() {
        assert!(judge("gap", &[Some(0), None, Some(4)], &[Some(1), Some(3), None]).is_err());
        assert!(judge("lag", &[Some(0), None], &[Some(1), Some(3)]).is_err());
        assert!(judge("ahead", &[Some(0), Some(2), Some(4)], &[Some(1), None, None]).is_err());
    }
}
