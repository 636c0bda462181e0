//! Sessions that a dead server left to us.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::net::{Shutdown, shutdown};

use crate::keep::{Inheritance, Kept, Role, Vault};
use crate::vhost::connection::Past;
use crate::vhost::ledger::Ledger;

/// One of them, with all that it needs.
pub(crate) struct Inherited {
    pub(crate) socket: Kept,
    pub(crate) ledger: Ledger,
    pub(crate) past: Past,
}

impl Inherited {
    /// Nobody serves it any more: its front end is to know.
    pub(crate) fn turn_away(self) {
        tracing::warn!(disk = self.past.record.disk, "a dead server's front end is turned away");
        hang_up(self.socket);
    }
}

/// All of them, by the serial number of their disk. Of one that is not whole the front end is cut off,
/// so that it connects again.
pub(crate) fn inherited_sessions(
    from: &mut Inheritance,
    vault: &Arc<Vault>,
) -> BTreeMap<String, Vec<Inherited>> {
    let mut sessions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for ledger in from.take_ledgers() {
        if let Some(session) = take_up(ledger, from, vault) {
            sessions.entry(session.past.record.disk.clone()).or_default().push(session);
        }
    }
    sessions
}

fn take_up(ledger: File, from: &Inheritance, vault: &Arc<Vault>) -> Option<Inherited> {
    let (ledger, record, phase) = match Ledger::take_up(ledger, vault) {
        Ok(found) => found?,
        Err(error) => {
            tracing::warn!(%error, "a dead server's session cannot be read");
            return None;
        }
    };
    let socket = from.get(record.socket.as_ref()?)?;
    let keep = |name| {
        let kept = vault.keep(from.get(name)?, Role::FrontEnds).ok()?;
        Some((kept.name().clone(), kept))
    };
    let files = record.names().map(keep).collect::<Option<BTreeMap<_, _>>>();
    let kept = files.as_ref().and_then(|files| files.get(record.socket.as_ref()?).cloned());
    let (Some(files), Some(kept)) = (files, kept) else {
        tracing::warn!(disk = record.disk, "not all of a dead server's session was held");
        hang_up(socket);
        return None;
    };
    Some(Inherited { socket: kept, ledger, past: Past { record, phase, files } })
}

fn hang_up(socket: impl AsFd) {
    // Fails only where the front end hung up first.
    let _ = shutdown(socket, Shutdown::Both);
}
