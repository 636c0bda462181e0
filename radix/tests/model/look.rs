//! Verbs that change no contents: names, seals, readers, comparisons, reports.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use bough_blockstore::sim::SimRng;
use bough_radix::{Engine, EngineError, ErrorKind, Extent, ExtentKind, VersionName};

use crate::content::Stamp;
use crate::io::Life;
use crate::layout::{dense_ranges, sector_at};
use crate::observe::{check_extents, read_version};
use crate::oracle::Verdict;
use crate::world::{Content, DiskKey, SnapKey, Taken, Verb};

const SECTOR: u64 = 512;

impl Life {
    pub async fn rename(&self, rng: &mut SimRng) {
        let snap = self.world.borrow().any_snap(rng).filter(|_| rng.chance(1, 2));
        match snap {
            Some((disk, snap)) => self.rename_snap(disk, snap).await,
            None => self.rename_disk(rng).await,
        }
    }

    async fn rename_disk(&self, rng: &mut SimRng) {
        let Some(disk) = self.world.borrow().any_disk(rng, |disk| !disk.verb) else { return };
        let Some(_taken) = Taken::take(&self.world, &[disk]) else { return };
        self.count("rename disk");
        let to = self.world.borrow_mut().name("disk");
        let from: VersionName = self.world.borrow_mut().disk(disk).disk_name().into();
        let asked = self.ask(Verb::RenameDisk { disk, to: to.clone() });
        match self.engine.rename(&from, &to.parse().unwrap()).await {
            Ok(()) => {
                self.forget(asked);
                self.world.borrow_mut().disk(disk).name = to;
            }
            Err(error) => self.refused(asked, "rename", &error).await,
        }
    }

    async fn rename_snap(&self, disk: DiskKey, snap: SnapKey) {
        let Some(_taken) = Taken::take(&self.world, &[disk]) else { return };
        self.count("rename snapshot");
        let to = self.world.borrow_mut().name("snap");
        let (from, target) = {
            let mut world = self.world.borrow_mut();
            let disk = world.disk(disk);
            (disk.version_of(snap), disk.snap_name(&to))
        };
        let asked = self.ask(Verb::RenameSnap { disk, snap, to: to.clone() });
        match self.engine.rename(&from, &target.into()).await {
            Ok(()) => {
                self.forget(asked);
                self.world.borrow_mut().snap(disk, snap).label = to;
            }
            Err(error) => self.refused(asked, "rename", &error).await,
        }
    }

    pub async fn seal(&self, rng: &mut SimRng) {
        let Some((disk, snap)) = self.world.borrow().any_snap(rng) else { return };
        let Some(_taken) = Taken::take(&self.world, &[disk]) else { return };
        self.count("seal or unseal");
        let (name, sealed) = {
            let mut world = self.world.borrow_mut();
            let was = world.snap(disk, snap).clone();
            (world.disk(disk).snap_name(&was.label), !was.sealed)
        };
        let asked = self.ask(Verb::Seal { disk, snap, sealed });
        match self.engine.set_sealed(&name, sealed).await {
            Ok(info) => {
                assert_eq!(info.sealed, sealed);
                self.forget(asked);
                self.world.borrow_mut().snap(disk, snap).sealed = sealed;
            }
            Err(error) => self.refused(asked, "seal", &error).await,
        }
    }

    pub async fn read_snap(&self, rng: &mut SimRng) {
        let Some((disk, snap)) = self.world.borrow().any_snap(rng) else { return };
        let Some(_taken) = Taken::take(&self.world, &[disk]) else { return };
        self.count("read snapshot");
        self.observe(disk, snap).await;
    }

    /// A frozen view of a head that is being written to is what the head was at one instant.
    pub async fn read_head(&self, rng: &mut SimRng) {
        let Some(disk) = self.world.borrow().any_disk(rng, |disk| !disk.verb) else { return };
        let Some(_taken) = Taken::take(&self.world, &[disk]) else { return };
        self.count("read frozen head");
        let (name, size, asked) = {
            let mut world = self.world.borrow_mut();
            let asked = world.tick();
            let disk = world.disk(disk);
            disk.log.pins += 1;
            (disk.disk_name(), disk.size_sectors, asked)
        };
        let seen = match self.engine.reader(&name.clone().into()).await {
            Ok(reader) => {
                assert_eq!(reader.size_bytes(), size * SECTOR);
                let before = self.world.borrow_mut().tick();
                read_version(&reader, size).await.map(|seen| (before, seen))
            }
            Err(error) => Err(error),
        };
        let mut world = self.world.borrow_mut();
        let log = &mut world.disk(disk).log;
        log.pins -= 1;
        match seen {
            Ok((before, seen)) => {
                let judged = log.judge(0, &seen, asked).and_then(|verdict: Verdict| {
                    verdict.check_order()?;
                    let newest = verdict.newest_there;
                    if newest < before { Ok(()) } else { Err(format!("{newest} is in it")) }
                });
                judged.unwrap_or_else(|wrong| panic!("frozen view of {name} at {asked}: {wrong}"));
            }
            Err(error) => {
                drop(world);
                self.excuse("read frozen head", error.kind(), &error).await;
            }
        }
    }

    /// What differs between two snapshots is inside what `diff` tells.
    pub async fn compare(&self, rng: &mut SimRng) {
        let pair = (self.world.borrow().any_snap(rng), self.world.borrow().any_snap(rng));
        let (Some(a), Some(b)) = pair else { return };
        let disks: Vec<DiskKey> = BTreeSet::from([a.0, b.0]).into_iter().collect();
        let Some(_taken) = Taken::take(&self.world, &disks) else { return };
        self.count("diff");
        if !self.observe(a.0, a.1).await || !self.observe(b.0, b.1).await {
            return;
        }
        let (name_a, name_b) = {
            let mut world = self.world.borrow_mut();
            (world.disk(a.0).version_of(a.1), world.disk(b.0).version_of(b.1))
        };
        let extents = match differences(&self.engine, &name_a, &name_b).await {
            Ok(extents) => extents,
            Err(error) => return self.excuse("diff", error.kind(), &error).await,
        };
        let (before, after) = (self.known(a), self.known(b));
        check_difference(&before, &after, &extents)
            .unwrap_or_else(|wrong| panic!("diff {name_a} {name_b}: {wrong}: {extents:?}"));
    }

    fn known(&self, (disk, snap): (DiskKey, SnapKey)) -> Rc<Vec<Stamp>> {
        match &self.world.borrow_mut().snap(disk, snap).content {
            Content::Known(values) => Rc::clone(values),
            Content::Open(_) => panic!("it has been read"),
        }
    }

    /// While everything goes on, the checker has nothing to say.
    pub async fn check(&self) {
        self.count("check");
        match self.engine.check().await {
            Ok(report) => {
                let halted = self.world.borrow().halted;
                assert!(halted || report.findings.is_empty(), "check: {:#?}", report.findings);
            }
            Err(error) => self.excuse("check", error.kind(), &error).await,
        }
    }

    pub async fn look(&self) {
        self.count("status, list, tree");
        let done = async {
            let status = self.engine.status().await?;
            assert!(status.used_bytes + status.free_bytes <= status.size_bytes, "{status:?}");
            self.engine.list().await?;
            self.engine.tree().await
        };
        if let Err(error) = done.await {
            assert_ne!(error.kind(), ErrorKind::Full);
            self.excuse("look", error.kind(), &error).await;
        }
    }
}

async fn differences(
    engine: &Engine,
    a: &VersionName,
    b: &VersionName,
) -> Result<Vec<Extent>, EngineError> {
    let (mut differences, mut extents) = (engine.diff(a, b).await?, Vec::new());
    while let Some(batch) = differences.next().await? {
        extents.extend(batch);
    }
    Ok(extents)
}

fn check_difference(before: &[Stamp], after: &[Stamp], extents: &[Extent]) -> Result<(), String> {
    check_extents(extents)?;
    let at = |values: &[Stamp], place: usize| values.get(place).copied().unwrap_or(0);
    let mut told: Vec<Option<ExtentKind>> = vec![None; before.len().max(after.len())];
    for extent in extents {
        let end = extent.start_bytes + extent.length_bytes;
        let sectors: Range<u64> = extent.start_bytes / SECTOR..end.div_ceil(SECTOR);
        for place in dense_ranges(&sectors).into_iter().flatten() {
            if let Some(told) = told.get_mut(place) {
                *told = Some(extent.kind);
            }
        }
    }
    for (place, told) in told.into_iter().enumerate() {
        let (old, new) = (at(before, place), at(after, place));
        let fine = match told {
            None => old == new,
            Some(ExtentKind::Zero) => new == 0,
            Some(ExtentKind::Data) => true,
        };
        if !fine {
            return Err(format!("sector {}: {old} became {new}, told {told:?}", sector_at(place)));
        }
    }
    Ok(())
}
