//! What an image may open besides itself.

use std::io;
use std::path::{Path, PathBuf};

use imago::format::builder::FormatDriverBuilder;
use imago::format::gate::ImplicitOpenGate;
use imago::{FormatAccess, Storage, StorageOpenOptions};

/// Lets an image open plain files beside it, as a VMDK's extents are, and nothing else: an image from a
/// stranger must not pull this machine's files into a disk.
#[derive(Clone, Debug)]
pub struct BesideOnly {
    folder: PathBuf,
}

impl BesideOnly {
    /// For the image at `image`.
    pub fn new(image: &Path) -> Self {
        let folder = image.parent().filter(|folder| !folder.as_os_str().is_empty());
        Self { folder: folder.unwrap_or(Path::new(".")).to_owned() }
    }

    fn refuse<T>(&self, path: Option<&Path>) -> io::Result<T> {
        let named = path.map_or_else(|| "?".into(), |path| path.display().to_string());
        let text = format!("it refers to '{named}', which is no plain file beside it");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    fn is_beside(&self, path: &Path) -> io::Result<bool> {
        let Some(folder) = path.parent() else { return Ok(false) };
        let same_folder = folder.canonicalize()? == self.folder.canonicalize()?;
        Ok(same_folder && std::fs::symlink_metadata(path)?.is_file())
    }
}

impl<S: Storage + 'static> ImplicitOpenGate<S> for BesideOnly {
    fn open_format<F: FormatDriverBuilder<S>>(&mut self, image: F) -> io::Result<FormatAccess<S>> {
        self.refuse(image.get_image_path().as_deref())
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<S> {
        match options.get_filename() {
            Some(path) if self.is_beside(path)? => S::open(options),
            path => self.refuse(path),
        }
    }
}
