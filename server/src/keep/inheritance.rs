//! What a successor got of a dead server's descriptors.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::identity::{Identity, Role};

/// Descriptors by name, as the dead server named them.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    files: BTreeMap<Identity, OwnedFd>,
}

impl Inheritance {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(crate) fn insert(&mut self, name: Identity, file: OwnedFd) {
        self.files.insert(name, file);
    }

    pub(crate) fn remove(&mut self, name: &Identity) {
        self.files.remove(name);
    }

    /// Adds what `other` has beyond this.
    pub(crate) fn merge(&mut self, other: Self) {
        for (name, file) in other.files {
            self.files.entry(name).or_insert(file);
        }
    }

    /// All names.
    pub(crate) fn names(&self) -> Vec<Identity> {
        self.files.keys().cloned().collect()
    }

    /// Another descriptor of this name.
    pub(crate) fn get(&self, name: &Identity) -> Option<OwnedFd> {
        self.files.get(name)?.try_clone().ok()
    }

    /// A listening socket bound to `path`, if that is still its path.
    pub(crate) fn take_listener(&mut self, path: &Path) -> Option<UnixListener> {
        let bound = |file: &OwnedFd| {
            let listener = UnixListener::from(file.try_clone().ok()?);
            let address = listener.local_addr().ok()?;
            (address.as_pathname() == Some(path)).then_some(())
        };
        let named = self.files.iter().filter(|(name, _)| name.is(Role::Listener));
        let name = named.filter_map(|(name, file)| bound(file).map(|()| name.clone())).next()?;
        let listener = self.files.remove(&name).map(UnixListener::from);
        listener.filter(|_| path.try_exists().unwrap_or(false))
    }

    /// All that says where logs end.
    pub(crate) fn tails(&self) -> Vec<File> {
        let tails = self.files.iter().filter(|(name, _)| name.is(Role::Tails));
        tails.filter_map(|(_, file)| file.try_clone().ok()).map(File::from).collect()
    }

    /// All ledgers; they are not here any more afterwards.
    pub(crate) fn take_ledgers(&mut self) -> Vec<File> {
        let names: Vec<_> =
            self.files.keys().filter(|name| name.is(Role::Ledger)).cloned().collect();
        names.iter().filter_map(|name| self.files.remove(name)).map(File::from).collect()
    }
}
