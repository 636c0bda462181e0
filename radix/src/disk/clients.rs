//! Who is connected: any number of readers, one writer.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use crate::disk::Disk;
use crate::error::DiskError;

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    ReadOnly,
    /// Read and write; one client at a time.
    ReadWrite,
}

#[derive(Default)]
pub(super) struct Clients {
    next: u64,
    connected: BTreeMap<u64, (String, Access)>,
}

/// A client's right to use a disk; dropping it disconnects.
pub struct Connection {
    disk: Arc<Disk>,
    number: u64,
}

impl Disk {
    /// Connects a client, called `client` in messages.
    ///
    /// # Errors
    /// [`DiskError::InUse`] for a second writer.
    pub fn connect(
        self: &Arc<Self>,
        client: &str,
        access: Access,
    ) -> Result<Connection, DiskError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = clients.connected.values().find(|(_, a)| *a == Access::ReadWrite);
        if let (Access::ReadWrite, Some((holder, _))) = (access, writer) {
            let (disk, holder) = (self.name().to_string(), holder.clone());
            return Err(DiskError::InUse { disk, holder });
        }
        let number = clients.next;
        clients.next += 1;
        clients.connected.insert(number, (client.to_owned(), access));
        Ok(Connection { disk: Arc::clone(self), number })
    }

    /// Everybody connected, by name.
    pub fn clients(&self) -> Vec<String> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.connected.values().map(|(name, _)| name.clone()).collect()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut clients = self.disk.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.connected.remove(&self.number);
    }
}
