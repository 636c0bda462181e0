//! A spare's time before its turn: holding what the server hands over, and keeping up with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::inheritance::Inheritance;
use super::link::{ServerLink, Word};

/// How often a server is looked for where there is none.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// See the module. A thread of its own does the listening.
pub(crate) struct StandBy {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when the server's end was heard to its last word, or our turn has come.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What the last server that said everything has left.
    held: Inheritance,
    /// What the present one has handed over so far.
    coming: Option<Inheritance>,
    /// The present one is being listened to.
    listening: bool,
    /// See [`StandBy::wait_until_ready`].
    ready: bool,
    over: bool,
}

impl StandBy {
    /// Looks for a server with its sockets in this folder. `held` is what there was before;
    /// `on_complete` is called whenever a server has handed everything over.
    pub(crate) fn begin(
        socket_dir: PathBuf,
        held: Inheritance,
        on_complete: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        {
            let mut state = shared.lock();
            state.ready = !held.is_empty();
            state.held = held;
        }
        let listening = Arc::clone(&shared);
        thread::Builder::new()
            .name("stand-by".into())
            .spawn(move || listening.follow_servers(&socket_dir, &on_complete))?;
        Ok(Self { shared })
    }

    /// Waits until we may take a dead server's place: we have what it had, or nobody else has. A
    /// newcomer could be faster than the one who has it. Blocks its thread.
    pub(crate) fn wait_until_ready(&self) {
        let mut state = self.shared.lock();
        while !state.ready {
            state = self.shared.wait(state);
        }
    }

    /// Our turn has come: the server has died, and what it said last is heard. Blocks for that.
    pub(crate) fn take_over(self) -> Inheritance {
        let mut state = self.shared.lock();
        state.over = true;
        while state.listening {
            state = self.shared.wait(state);
        }
        let mut held = state.coming.take().unwrap_or_default();
        held.merge(std::mem::take(&mut state.held));
        self.shared.changed.notify_all();
        held
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_servers(&self, socket_dir: &Path, on_complete: &impl Fn()) {
        loop {
            let link = ServerLink::connect(socket_dir);
            if let Ok(link) = &link
                && let Err(error) = self.follow(link, on_complete)
            {
                tracing::warn!(%error, "the server cannot be followed");
            }
            let mut state = self.lock();
            state.ready |= link.is_err();
            // Half of what a server has is better than nothing, and worse than all of another's.
            if let Some(coming) = state.coming.take() {
                let mut held = coming;
                held.merge(std::mem::take(&mut state.held));
                state.held = held;
            }
            state.listening = false;
            self.changed.notify_all();
            if state.over {
                return;
            }
            let waited = self.changed.wait_timeout(state, LOOK_AGAIN);
            if waited.unwrap_or_else(PoisonError::into_inner).0.over {
                return;
            }
        }
    }

    /// Follows one server to its end. One that has not said a word is not waited for: the socket
    /// may be one that we hold for a dead server ourselves.
    fn follow(&self, link: &ServerLink, on_complete: &impl Fn()) -> std::io::Result<()> {
        while let Some(word) = self.next_word(link)? {
            let mut state = self.lock();
            if state.over && !state.listening {
                return Ok(());
            }
            state.listening = true;
            let coming = state.coming.get_or_insert_default();
            match word {
                Word::Keep(name, file) => coming.insert(name, file),
                Word::Release(name) => coming.remove(&name),
                Word::Complete => {
                    state.held = Inheritance::default();
                    state.ready = true;
                    self.changed.notify_all();
                    on_complete();
                }
            }
        }
        Ok(())
    }

    /// Waits for a word, unless our turn comes while nobody is speaking.
    fn next_word(&self, link: &ServerLink) -> std::io::Result<Option<Word>> {
        while !link.has_word(LOOK_AGAIN)? {
            let state = self.lock();
            if state.over && !state.listening {
                return Ok(None);
            }
        }
        link.listen()
    }
}
