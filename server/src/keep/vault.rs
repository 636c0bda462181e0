//! Which descriptors are held beyond our death, and by whom.
//!
//! Invariant: while a [`Kept`] lives, every keeper has been handed its descriptor; after the last
//! one of a name has gone, every keeper has been told to close it. Unless we are about to leave:
//! then they keep what they have.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::identity::{Identity, Role};

/// Somebody who holds descriptors for whoever comes after us.
pub(crate) trait Keeper: Send {
    /// Who, for people.
    fn describe(&self) -> String;

    /// Whether there is any use in handing it more.
    fn lives(&self) -> bool;

    /// Hands a descriptor over. On return it survives us.
    fn keep(&mut self, name: &Identity, file: BorrowedFd<'_>) -> io::Result<()>;

    /// Says that it may be closed.
    fn release(&mut self, name: &Identity) -> io::Result<()>;

    /// Says that everything there is was handed over.
    fn complete(&mut self) -> io::Result<()>;
}

/// See the module.
#[derive(Default)]
pub struct Vault {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<Identity, Weak<KeptFile>>,
    keepers: Vec<Box<dyn Keeper>>,
    leaving: bool,
}

/// A descriptor of which keepers have another, until the last clone of this goes.
#[derive(Clone)]
pub(crate) struct Kept(Arc<KeptFile>);

struct KeptFile {
    file: Arc<File>,
    name: Identity,
    vault: Arc<Vault>,
}

impl Vault {
    /// Has everybody hold `file`, too. The same file again is the same [`Kept`].
    pub(crate) fn keep(self: &Arc<Self>, file: OwnedFd, role: Role) -> io::Result<Kept> {
        let name = Identity::of(&file, role)?;
        let mut state = self.lock();
        if let Some(kept) = state.kept.get(&name).and_then(Weak::upgrade) {
            return Ok(Kept(kept));
        }
        state.tell(|keeper| keeper.keep(&name, file.as_fd()));
        let file = Arc::new(File::from(file));
        let kept = Arc::new(KeptFile { file, name: name.clone(), vault: Arc::clone(self) });
        state.kept.insert(name, Arc::downgrade(&kept));
        Ok(Kept(kept))
    }

    /// Hands everything to one more.
    pub(crate) fn add(&self, mut keeper: Box<dyn Keeper>) {
        if !keeper.lives() {
            return;
        }
        let mut state = self.lock();
        let files: Vec<_> = state.kept.values().filter_map(Weak::upgrade).collect();
        let handed = files.iter().try_for_each(|kept| keeper.keep(&kept.name, kept.file.as_fd()));
        match handed.and_then(|()| keeper.complete()) {
            Ok(()) => {
                tracing::info!(
                    keeper = keeper.describe(),
                    held = files.len(),
                    "connections are held"
                );
                state.keepers.push(keeper);
            }
            Err(error) => {
                tracing::warn!(keeper = keeper.describe(), %error, "nothing can be held there");
            }
        }
        drop(state); // before `files`: the last of a name takes the lock
    }

    /// Tells keepers to close what a predecessor left and nobody took up.
    pub(crate) fn release_all_but_kept(&self, names: impl IntoIterator<Item = Identity>) {
        let mut state = self.lock();
        for name in names {
            if state.kept.get(&name).is_none_or(|kept| kept.strong_count() == 0) {
                state.tell(|keeper| keeper.release(&name));
            }
        }
    }

    /// Who holds what we have.
    pub(crate) fn keepers(&self) -> Vec<String> {
        let mut state = self.lock();
        state.keepers.retain(|keeper| keeper.lives());
        state.keepers.iter().map(|keeper| keeper.describe()).collect()
    }

    /// From now on what is dropped here stays open there.
    pub(crate) fn begin_to_leave(&self) {
        self.lock().leaving = true;
    }

    /// Nothing is dropped or added any more: a successor may come.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.leaving = true;
        state.keepers.clear();
    }

    /// Whether we are about to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.lock().leaving
    }

    fn forget(&self, name: &Identity) {
        let mut state = self.lock();
        if state.leaving {
            return;
        }
        // Somebody may have brought the same file again in the meantime.
        if state.kept.get(name).is_some_and(|kept| kept.strong_count() == 0) {
            state.kept.remove(name);
            state.tell(|keeper| keeper.release(name));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.lock().kept.keys()).finish()
    }
}

impl State {
    /// A keeper that fails is one no more: half of what a successor needs is of no use to it.
    fn tell(&mut self, mut what: impl FnMut(&mut dyn Keeper) -> io::Result<()>) {
        self.keepers.retain_mut(|keeper| {
            let told = what(&mut **keeper);
            if let Err(error) = &told {
                let keeper = keeper.describe();
                tracing::warn!(keeper, %error, "connections are no longer held there");
            }
            told.is_ok()
        });
    }
}

impl Kept {
    /// The descriptor.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &Identity {
        &self.0.name
    }

    /// Whether keepers will keep it even if nobody here does.
    pub(crate) fn outlives_us(&self) -> bool {
        self.0.vault.is_leaving()
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kept").field(&self.0.name).finish()
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        self.vault.forget(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = Arc<Mutex<Vec<String>>>;

    struct Double(Told);

    impl Double {
        fn note(&self, what: String) -> io::Result<()> {
            self.0.lock().unwrap().push(what);
            Ok(())
        }
    }

    impl Keeper for Double {
        fn describe(&self) -> String {
            "a double".into()
        }

        fn lives(&self) -> bool {
            true
        }

        fn keep(&mut self, name: &Identity, _file: BorrowedFd<'_>) -> io::Result<()> {
            self.note(format!("+{name}"))
        }

        fn release(&mut self, name: &Identity) -> io::Result<()> {
            self.note(format!("-{name}"))
        }

        fn complete(&mut self) -> io::Result<()> {
            self.note(".".into())
        }
    }

    fn memory() -> OwnedFd {
        rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn the_same_file_is_held_once_and_released_when_its_last_user_goes() {
        let (vault, told) = (Arc::new(Vault::default()), Told::default());
        vault.add(Box::new(Double(Arc::clone(&told))));
        let file = memory();
        let first = vault.keep(file.try_clone().unwrap(), Role::FrontEnds).unwrap();
        let second = vault.keep(file, Role::FrontEnds).unwrap();
        assert!(Arc::ptr_eq(first.file(), second.file()), "one descriptor is enough");
        let name = first.name().to_string();
        drop(first);
        assert_eq!(*told.lock().unwrap(), [".".to_owned(), format!("+{name}")]);
        drop(second);
        assert_eq!(told.lock().unwrap().last().unwrap(), &format!("-{name}"));
    }

    #[test]
    fn who_comes_late_gets_everything_and_who_stays_keeps_it() {
        let (vault, told) = (Arc::new(Vault::default()), Told::default());
        let kept = vault.keep(memory(), Role::Ledger).unwrap();
        let name = kept.name().to_string();
        vault.add(Box::new(Double(Arc::clone(&told))));
        vault.leave();
        drop(kept);
        assert_eq!(*told.lock().unwrap(), [format!("+{name}"), ".".to_owned()]);
    }
}
