//! The stories, in the order in which they play. A story's name is its promise.

mod boot;
mod files;
mod grow;
mod kill;
mod newer;
mod ordered;
mod service;
mod snapshot;
mod spare;
mod verify;
mod writer;

use std::path::PathBuf;

use anyhow::Result;

use crate::demo::{Voice, demo_with};
use crate::scene::Scene;
use crate::story::Tally;

type Story = (&'static str, fn(&mut Scene) -> Result<()>);

const STORIES: [Story; 11] = [
    ("a_debian_boots_from_a_clone_of_a_template", boot::boots),
    ("fio_reads_back_what_it_wrote", verify::raw_disk),
    ("files_survive_and_the_file_system_checks_clean", files::survive),
    ("discarded_blocks_read_as_zeros", verify::discarded),
    ("a_running_guest_sees_its_disk_grow", grow::seen),
    ("a_group_snapshot_under_load_is_one_instant", snapshot::one_instant),
    ("a_guest_goes_on_after_its_server_was_killed", kill::goes_on),
    ("a_guest_that_cannot_reconnect_goes_on_with_the_spare", spare::goes_on),
    ("a_guest_in_debian_13_s_qemu_goes_on_too", newer::goes_on),
    ("the_template_is_byte_for_byte_what_was_imported", boot::template_unchanged),
    ("guest_and_server_stop_and_the_store_checks_clean", boot::ends_clean),
];

/// What is played with.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `bough` command.
    pub bough: PathBuf,
    /// A front end without a guest: see `tests/src/bin/steady-client.rs`.
    pub client: PathBuf,
}

/// Plays all stories; the demo is the last of them.
pub fn play(programs: &Programs) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut scene = Scene::set(&programs.bough)?;
    for (name, story) in STORIES {
        let passed = tally.play(name, || {
            story(&mut scene)?;
            scene.bough.check_if_serving()
        });
        if !passed {
            println!("{}", scene.report());
        }
    }
    drop(scene);
    service::play(programs, &mut tally)?;
    tally.play("the_demo_keeps_what_it_tells", || demo_with(&programs.bough, Voice::Silent));
    Ok(tally)
}
