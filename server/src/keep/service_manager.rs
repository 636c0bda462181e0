//! systemd, or whoever speaks its protocol: it hears how we are, and holds our descriptors.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;

use super::identity::{Identity, Role};
use super::inheritance::Inheritance;
use super::vault::Keeper;

/// How many descriptors the manager holds for us, where it holds any: systemd 254 and newer set it, our
/// unit sets it for older ones.
const STORE_VARIABLE: &str = "FDSTORE";

/// What it hears of us.
#[derive(Clone, Copy, Debug)]
pub(crate) enum News {
    Serving,
    StandingBy,
    Stopping,
    Alive,
}

/// Tells the service manager, where there is one.
pub(crate) fn tell(news: News) {
    let told = match news {
        News::Serving => sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("serving")]),
        News::StandingBy => {
            sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("standing by")])
        }
        News::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        News::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
    };
    if let Err(error) = told {
        tracing::warn!(%error, ?news, "the service manager could not be told");
    }
}

/// How long it waits for a sign of life before it kills us, where it does.
pub(crate) fn patience() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// What it started us with: sockets to listen on, and what it held for a dead predecessor. To be
/// called once.
pub(crate) fn inheritance() -> io::Result<Inheritance> {
    let mut all = Inheritance::default();
    // Without the variables there is nothing; the crate says so by an error.
    let Ok(given) = sd_notify::listen_fds_with_names() else { return Ok(all) };
    for (number, name) in given {
        // SAFETY: the manager opened these for us before we ran, says their numbers in variables
        // that name our process, and nobody else here knows or takes them: this is called once.
        let file = unsafe { OwnedFd::from_raw_fd(number) };
        match Identity::named(&name).filter(Identity::is_ours) {
            Some(name) => all.insert(name, file),
            // A socket that a unit describes has the unit's name.
            None => all.insert(Identity::of(&file, Role::Listener)?, file),
        }
    }
    Ok(all)
}

/// Has it close what it holds under these names.
pub(crate) fn release(names: &[Identity]) {
    let Some(mut store) = DescriptorStore::find() else { return };
    if let Err(error) = names.iter().try_for_each(|name| store.release(name)) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Its store of descriptors.
pub(crate) struct DescriptorStore;

impl DescriptorStore {
    /// Where there is one for us.
    pub(crate) fn find() -> Option<Self> {
        let there = std::env::var_os("NOTIFY_SOCKET").is_some();
        let room: u64 = std::env::var(STORE_VARIABLE).ok()?.parse().ok()?;
        (there && room > 0).then_some(Self)
    }
}

impl Keeper for DescriptorStore {
    fn describe(&self) -> String {
        "the service manager".into()
    }

    fn lives(&self) -> bool {
        true
    }

    fn keep(&mut self, name: &Identity, file: BorrowedFd<'_>) -> io::Result<()> {
        let words = [NotifyState::FdStore, NotifyState::FdName(name.as_str())];
        sd_notify::notify_with_fds(&words, &[file])
    }

    fn release(&mut self, name: &Identity) -> io::Result<()> {
        sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name.as_str())])
    }

    fn complete(&mut self) -> io::Result<()> {
        Ok(())
    }
}
