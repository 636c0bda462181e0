//! Who clones a snapshot of a guest's disk, uses the clone as a machine would, rolls it back, and
//! throws it away.

use super::guest::disk_name;
use super::rig::Rig;
use super::rig::client::{BLOCK_SECTORS, Client, GOOD};
use super::{GUESTS, Life};
use bough_tests::stamp::Dice;

/// Clones used in one life of the server.
const VISITS: u64 = 2;

/// See the module's documentation.
pub struct Visitor {
    dice: Dice,
    pub visits: u64,
}

impl Visitor {
    pub fn new() -> Self {
        Self { dice: Dice(3), visits: 0 }
    }

    /// Nobody ends a server's life before this is done.
    pub fn work(&mut self, rig: &Rig, life: &Life) {
        let _watch = life.watch();
        for _ in 0..VISITS {
            self.visit(rig);
            self.visits += 1;
        }
        life.settle();
    }

    fn visit(&mut self, rig: &Rig) {
        let index = usize::try_from(self.dice.roll(u64::try_from(GUESTS).unwrap())).unwrap();
        let source = disk_name(index);
        let (origin, clone) = (format!("{source}@visit"), format!("visit-{}", self.visits));
        rig.ok(&["snapshot", &origin]);
        rig.ok(&["clone", &origin, &clone]);
        rig.ok(&["attach", &clone]);
        let block = self.dice.roll(100) * BLOCK_SECTORS;
        let as_cloned = {
            let mut client = Client::of(rig, &clone);
            let (status, as_cloned) = client.read(block);
            assert_eq!(status, GOOD);
            assert_eq!(client.write(block, 1), GOOD);
            rig.ok(&["snapshot", &format!("{clone}@mine")]);
            assert_eq!(client.write(block, 2), GOOD);
            assert_eq!(client.flush(), GOOD);
            client.holds(block, 2);
            as_cloned
        };
        rig.ok(&["detach", &clone]);
        rig.ok(&["rollback", &format!("{clone}@mine")]);
        rig.ok(&["attach", &clone]);
        Client::of(rig, &clone).holds(block, 1);
        rig.ok(&["detach", &clone]);
        rig.ok(&["delete", "-r", &clone]);
        rig.ok(&["clone", &origin, &clone]);
        rig.ok(&["attach", &clone]);
        assert_eq!(Client::of(rig, &clone).read(block), (GOOD, as_cloned));
        rig.ok(&["detach", &clone]);
        rig.ok(&["delete", &clone]);
        rig.ok(&["delete", &origin]);
    }
}
