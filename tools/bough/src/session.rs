//! What a verb works with: the way to the store, and the way to print.

use bough_server::StoreFolder;

use crate::backend::{Backend, CommandError, connect};
use crate::cli::Global;
use crate::output::Output;

/// One command's work on one store.
pub struct Session {
    /// The way to the store.
    pub backend: Backend,
    /// How to print.
    pub output: Output,
}

impl Session {
    /// Finds the store and the way to it.
    pub async fn open(global: &Global, output: Output) -> Result<Self, CommandError> {
        let backend = connect(&folder(global)).await?;
        Ok(Self { backend, output })
    }

    /// Ends it.
    pub async fn close(self) -> Result<(), CommandError> {
        self.backend.close().await
    }
}

/// The folder that the caller means.
pub fn folder(global: &Global) -> StoreFolder {
    StoreFolder::at(global.store.clone().unwrap_or_else(StoreFolder::default_path))
}
