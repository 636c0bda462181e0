//! Reading versions back, whole, and holding them against the model.

use std::ops::Range;
use std::rc::Rc;

use bough_radix::{Engine, EngineError, Extent, ExtentKind, Reader, VersionName};

use crate::content::{self, ALIEN, Stamp};
use crate::layout::{SECTOR_BYTES, dense_len, dense_ranges, windows};
use crate::oracle::Tick;
use crate::world::{Content, DiskKey, Shared, SnapKey};

const SECTOR: u64 = 512;
const BLOCK: u64 = 4096;

/// All that a version holds in the windows.
pub async fn read_version(reader: &Reader, size_sectors: u64) -> Result<Vec<Stamp>, EngineError> {
    let mut all = Vec::with_capacity(dense_len(size_sectors));
    for window in windows(size_sectors) {
        let sectors = usize::try_from(window.end - window.start).unwrap();
        let mut bytes = vec![0xA5; sectors * SECTOR_BYTES];
        reader.read(window.start * SECTOR, &mut bytes).await?;
        let mut seen = vec![ALIEN; sectors];
        content::stamps(&bytes, window.start, &mut seen);
        all.extend(seen);
    }
    Ok(all)
}

/// Reads a snapshot and judges it; from then on the model knows what it holds.
pub async fn observe_snap(
    engine: &Engine,
    world: &Shared,
    disk: DiskKey,
    snap: SnapKey,
) -> Result<(), EngineError> {
    let (name, size) = {
        let mut world = world.borrow_mut();
        (world.disk(disk).version_of(snap), world.snap(disk, snap).size_sectors)
    };
    let reader = engine.reader(&name).await?;
    assert_eq!(reader.size_bytes(), size * SECTOR, "size of {name}");
    let seen = read_version(&reader, size).await?;
    let mut extents: Vec<Extent> = Vec::new();
    reader.extents(0..reader.size_bytes(), &mut |extent| extents.push(extent)).await?;
    let blocks = check_map(&extents, size, &seen)
        .unwrap_or_else(|wrong| panic!("extents of {name}: {wrong}: {extents:?}"));
    check_referenced(engine, &name, blocks).await?;
    judge_snap(world, disk, snap, seen).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
    Ok(())
}

fn judge_snap(
    world: &Shared,
    disk: DiskKey,
    snap: SnapKey,
    seen: Vec<Stamp>,
) -> Result<(), String> {
    let mut world = world.borrow_mut();
    match world.snap(disk, snap).content.clone() {
        Content::Known(values) => {
            if let Some(place) = (0..seen.len()).find(|place| values[*place] != seen[*place]) {
                let sector = crate::layout::sector_at(place);
                let (was, is) = (values[place], seen[place]);
                return Err(format!("sector {sector} changed from {was} to {is}"));
            }
        }
        Content::Open(open) => {
            let verdict = open.log.judge(0, &seen, open.must)?;
            if verdict.newest_there >= open.before {
                return Err(format!("it holds what came after {}: {verdict:?}", open.before));
            }
            let instant = open.instant.get().and(verdict);
            instant.check_order()?;
            open.instant.set(instant);
            world.snap(disk, snap).content = Content::Known(Rc::new(seen));
            let disk = world.disk(disk);
            if disk.lineage == open.lineage {
                // What is in a durable snapshot is in the head, and durable.
                let known: Tick = verdict.newest_there.saturating_sub(1);
                disk.log.flushed = disk.log.flushed.max(known);
            }
        }
    }
    Ok(())
}

/// Ascending, apart, and none empty.
pub fn check_extents(extents: &[Extent]) -> Result<(), String> {
    let mut end = 0;
    for extent in extents {
        if extent.start_bytes < end || extent.length_bytes == 0 {
            return Err(format!("{extent:?} begins before {end}, or is empty"));
        }
        end = extent.start_bytes + extent.length_bytes;
    }
    Ok(())
}

/// The map covers the version, and zeros are zeros. Gives how many blocks of data there are.
fn check_map(extents: &[Extent], size_sectors: u64, seen: &[Stamp]) -> Result<u64, String> {
    check_extents(extents)?;
    let covered: u64 = extents.iter().map(|extent| extent.length_bytes).sum();
    if covered != size_sectors * SECTOR {
        return Err(format!("{covered} bytes are told of"));
    }
    let mut blocks = 0;
    for extent in extents {
        let end = extent.start_bytes + extent.length_bytes;
        if extent.kind == ExtentKind::Data {
            blocks += end.div_ceil(BLOCK) - extent.start_bytes / BLOCK;
            continue;
        }
        let sectors: Range<u64> = extent.start_bytes / SECTOR..end / SECTOR;
        if dense_ranges(&sectors).into_iter().flatten().any(|place| seen[place] != 0) {
            return Err(format!("{extent:?} holds data"));
        }
    }
    Ok(blocks)
}

async fn check_referenced(
    engine: &Engine,
    name: &VersionName,
    blocks: u64,
) -> Result<(), EngineError> {
    let detail = engine.show(name).await?;
    let all = [&detail.disk.head].into_iter().chain(&detail.snapshots);
    let info = all.into_iter().find(|info| info.name == name.to_string());
    let told = info.unwrap_or_else(|| panic!("`show` does not list {name}")).referenced_bytes;
    assert_eq!(told, blocks * BLOCK, "referenced bytes of {name}");
    Ok(())
}
