//! What versions are said to hold, beside what the model knows them to hold.

use std::collections::BTreeMap;
use std::rc::Rc;

use bough_radix::TreeNode;

use crate::content::Stamp;
use crate::io::Life;
use crate::layout::BLOCK_SECTORS;
use crate::world::Content;

const BLOCK_BYTES: u64 = 4096;

impl Life {
    /// Zeros may be data or holes, so the model knows the least only; that it is neither more nor
    /// less than what the trees hold is for `check` to say, which has been asked.
    pub async fn check_versions(&self) {
        let tree = self.engine.tree().await.unwrap();
        let known = self.known_snaps();
        for TreeNode { version, .. } in &tree {
            let (referenced, owned) = (version.referenced_bytes, version.owned_bytes);
            assert!(owned <= referenced, "{} owns more than it has: {version:?}", version.name);
            let Some(values) = known.get(&version.name) else { continue };
            let least = data_blocks(values, None) * BLOCK_BYTES;
            assert!(referenced >= least, "{} has {least} bytes: {version:?}", version.name);
            let parent = version.parent.as_ref().and_then(|parent| known.get(parent));
            if let Some(parent) = parent {
                let least = data_blocks(values, Some(parent)) * BLOCK_BYTES;
                assert!(owned >= least, "{} brought {least} bytes: {version:?}", version.name);
            }
        }
    }

    fn known_snaps(&self) -> BTreeMap<String, Rc<Vec<Stamp>>> {
        let world = self.world.borrow();
        let mut known = BTreeMap::new();
        for disk in world.disks.values() {
            for snap in disk.snaps.values() {
                if let Content::Known(values) = &snap.content {
                    known.insert(disk.snap_name(&snap.label).to_string(), Rc::clone(values));
                }
            }
        }
        known
    }
}

/// Blocks that hold something other than zeros, and other than `parent` has there.
fn data_blocks(values: &[Stamp], parent: Option<&Rc<Vec<Stamp>>>) -> u64 {
    let before = |at: usize| parent.and_then(|parent| parent.get(at)).copied().unwrap_or(0);
    let sectors = usize::try_from(BLOCK_SECTORS).unwrap();
    let blocks = values.chunks(sectors).zip((0..).step_by(sectors));
    let fresh = blocks.filter(|(block, first)| {
        let differs = block.iter().zip(*first..).any(|(stamp, at)| *stamp != before(at));
        differs && block.iter().any(|stamp| *stamp != 0)
    });
    u64::try_from(fresh.count()).unwrap()
}
