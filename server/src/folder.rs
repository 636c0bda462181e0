//! A store's folder: the block file (or the name of the device), the lock file, and the marks of
//! imports under way.
//!
//! I own these names. I never open the blocks; what protects them is the lock on the very
//! descriptor that writes go through.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bough_radix::DiskName;

const BLOCKS: &str = "blocks";
const NEW_BLOCKS: &str = "blocks.new";
const DEVICE: &str = "device";
const LOCK: &str = "LOCK";
const SOCKET_DIR: &str = "socket-dir";
const IMPORTS: &str = "importing";

/// What is wrong with a store's folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// No store.
    #[error("there is no store in '{path}'; run `bough init`, or name another with --store")]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// A store already.
    #[error("'{path}' holds a store already; delete the folder or name another with --store")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Anything else.
    #[error("'{path}': {source}; check its owner, its rights and the space around it")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A store's folder.
#[derive(Clone, Debug)]
pub struct StoreFolder {
    path: PathBuf,
}

impl StoreFolder {
    /// The folder used where none is named.
    pub fn default_path() -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/bough");
        }
        let absolute = |path: &PathBuf| path.is_absolute();
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(absolute);
        let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        data.unwrap_or_else(|| home().join(".local/share")).join("bough")
    }

    /// A folder that may or may not hold a store.
    pub fn at(path: PathBuf) -> Self {
        let path = path.canonicalize().or_else(|_| std::path::absolute(&path)).unwrap_or(path);
        Self { path }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that says who holds the store.
    pub fn lock_path(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// The block file, or the device.
    pub fn blocks(&self) -> Result<PathBuf, FolderError> {
        let device = self.path.join(DEVICE);
        match std::fs::read_to_string(&device) {
            Ok(name) => return Ok(PathBuf::from(name.trim_end_matches('\n'))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(FolderError::Io { path: device, source }),
        }
        let blocks = self.path.join(BLOCKS);
        match blocks.try_exists() {
            Ok(true) => Ok(blocks),
            Ok(false) => Err(FolderError::NoStore { path: self.path.clone() }),
            Err(source) => Err(FolderError::Io { path: blocks, source }),
        }
    }

    /// Makes the folder, for its owner only, and refuses where there is a store already.
    pub fn prepare(&self) -> Result<(), FolderError> {
        match self.blocks() {
            Ok(_) => return Err(FolderError::Exists { path: self.path.clone() }),
            Err(FolderError::NoStore { .. }) => {}
            Err(error) => return Err(error),
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|source| FolderError::Io { path: self.path.clone(), source })
    }

    /// Where a new block file is formatted: under another name, so that a crash leaves no half store.
    pub fn new_blocks(&self) -> Result<PathBuf, FolderError> {
        let path = self.path.join(NEW_BLOCKS);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FolderError::Io { path, source: error })
            }
            _ => Ok(path),
        }
    }

    /// The new block file is a store: give it its name.
    pub fn adopt_blocks(&self) -> Result<(), FolderError> {
        self.put(NEW_BLOCKS, BLOCKS)
    }

    /// The device is a store: remember it.
    pub fn adopt_device(&self, device: &Path) -> Result<(), FolderError> {
        let path = self.path.join("device.new");
        let mut text = device.as_os_str().to_owned();
        text.push("\n");
        let written = std::fs::write(&path, text.as_encoded_bytes());
        written.map_err(|source| FolderError::Io { path, source })?;
        self.put("device.new", DEVICE)
    }

    /// Renames, and makes that survive a power cut.
    fn put(&self, from: &str, to: &str) -> Result<(), FolderError> {
        let path = self.path.join(to);
        let done = std::fs::File::open(self.path.join(from))
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(self.path.join(from), &path))
            .and_then(|()| std::fs::File::open(&self.path)?.sync_all());
        done.map_err(|source| FolderError::Io { path, source })
    }

    /// Where the last server had its sockets, which is where the next one is expected to have them.
    pub fn socket_dir(&self) -> Option<PathBuf> {
        let name = std::fs::read_to_string(self.path.join(SOCKET_DIR)).ok()?;
        Some(PathBuf::from(name.trim_end_matches('\n')))
    }

    /// Remembers where the sockets are; only commands without a server look it up.
    pub fn remember_socket_dir(&self, socket_dir: &Path) -> Result<(), FolderError> {
        let path = self.path.join(SOCKET_DIR);
        let mut text = socket_dir.as_os_str().to_owned();
        text.push("\n");
        let written = std::fs::write(&path, text.as_encoded_bytes());
        written.map_err(|source| FolderError::Io { path, source })
    }

    /// Says durably that `disk` is only half there.
    pub fn mark_import(&self, disk: &DiskName) -> Result<PathBuf, FolderError> {
        let folder = self.path.join(IMPORTS);
        let path = folder.join(disk.as_str());
        let marked = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::File::create(&path)?.sync_all())
            .and_then(|()| std::fs::File::open(&folder)?.sync_all())
            .and_then(|()| std::fs::File::open(&self.path)?.sync_all());
        marked.map_err(|source| FolderError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    /// Disks that imports under way, or cut off, have marked.
    pub fn marked_imports(&self) -> Vec<(DiskName, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(self.path.join(IMPORTS)) else { return Vec::new() };
        let marked = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?.parse().ok()?;
            Some((name, entry.path()))
        });
        marked.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_store_says_so_and_one_with_a_store_is_not_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StoreFolder::at(temp.path().join("store"));
        assert!(matches!(folder.blocks(), Err(FolderError::NoStore { .. })));
        folder.prepare().unwrap();
        std::fs::write(folder.new_blocks().unwrap(), "x").unwrap();
        assert!(matches!(folder.blocks(), Err(FolderError::NoStore { .. })), "not yet adopted");
        folder.adopt_blocks().unwrap();
        assert!(folder.blocks().unwrap().ends_with("blocks"));
        assert!(matches!(folder.prepare(), Err(FolderError::Exists { .. })));
    }

    #[test]
    fn a_device_is_remembered_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StoreFolder::at(temp.path().to_owned());
        folder.prepare().unwrap();
        folder.adopt_device(Path::new("/dev/disk/by-id/x y")).unwrap();
        assert_eq!(folder.blocks().unwrap(), Path::new("/dev/disk/by-id/x y"));
    }

    #[test]
    fn marks_of_imports_are_found_again() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StoreFolder::at(temp.path().to_owned());
        assert!(folder.marked_imports().is_empty());
        let name: DiskName = "importing-1".parse().unwrap();
        let mark = folder.mark_import(&name).unwrap();
        assert_eq!(folder.marked_imports(), [(name, mark)]);
    }
}
