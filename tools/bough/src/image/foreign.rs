//! Formats that the crate imago reads: qcow2, and VMDK in its flat variants.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::vmdk::Vmdk;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, Storage, StorageOpenOptions,
};

use super::gate::BesideOnly;
use super::qcow2_bounds::Qcow2Bounds;
use super::{Image, ImageError, Mapped};

/// The largest disk; more is nonsense, or malice.
const DISK_MAX_BYTES: u64 = 1 << 50;

/// An image behind imago.
pub struct Foreign {
    access: FormatAccess<ImagoFile>,
    path: PathBuf,
    format: &'static str,
    /// Where data may end in each file.
    end: DataEnd,
}

/// Where data may end in a file.
enum DataEnd {
    /// Here.
    At(u64),
    /// At its end.
    OfFile,
}

impl Foreign {
    /// A qcow2 image; one with a backing or data file is refused.
    pub fn qcow2(file: std::fs::File, path: &Path) -> Result<Self, ImageError> {
        let bounds = Qcow2Bounds::read(&file).map_err(ImageError::io(path))?;
        let what = "it was cut off";
        let bounds = bounds.ok_or(ImageError::Damaged { path: path.to_owned(), what })?;
        let storage = ImagoFile::try_from(file).map_err(ImageError::io(path))?;
        let open = || Qcow2::<ImagoFile>::open_image(storage, false);
        let mut image = driven(path, "qcow2", open)?;
        if image.implicit_backing_file().is_some() {
            let what = "has a backing file";
            return Err(ImageError::Unsupported { path: path.to_owned(), what });
        }
        if image.requires_external_data_file() {
            let what = "keeps its data in another file";
            return Err(ImageError::Unsupported { path: path.to_owned(), what });
        }
        let gate = DenyImplicitOpenGate::default();
        driven(path, "qcow2", || image.open_implicit_dependencies_gated(gate))?;
        Self::checked(FormatAccess::new(image), path, "qcow2", DataEnd::At(bounds.end_bytes))
    }

    /// A VMDK descriptor with flat extents beside it.
    pub fn vmdk(file: std::fs::File, path: &Path) -> Result<Self, ImageError> {
        let options = StorageOpenOptions::new().filename(path);
        let storage = ImagoFile::from_open_file(file, options).map_err(ImageError::io(path))?;
        let open = || Vmdk::<ImagoFile>::builder(storage).open(BesideOnly::new(path));
        let image = driven(path, "vmdk", open)?;
        Self::checked(FormatAccess::new(image), path, "vmdk", DataEnd::OfFile)
    }

    fn checked(
        access: FormatAccess<ImagoFile>,
        path: &Path,
        format: &'static str,
        end: DataEnd,
    ) -> Result<Self, ImageError> {
        let size = access.size();
        if size > DISK_MAX_BYTES {
            let what = "it claims to hold more than 1 PiB";
            return Err(ImageError::Damaged { path: path.to_owned(), what });
        }
        Ok(Self { access, path: path.to_owned(), format, end })
    }
}

/// Has the driver do something. It is not ours, and there are lies that make it panic.
fn driven<T>(
    path: &Path,
    format: &'static str,
    call: impl FnOnce() -> io::Result<T>,
) -> Result<T, ImageError> {
    let path = path.to_owned();
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(|source| ImageError::Driver { path, format, source }),
        Err(_) => Err(ImageError::Damaged { path, what: "its driver gave up on what it says" }),
    }
}

impl Image for Foreign {
    fn size_bytes(&self) -> u64 {
        self.access.size().next_multiple_of(512)
    }

    fn map(&mut self, offset_bytes: u64) -> Result<Mapped, ImageError> {
        let end = self.size_bytes();
        let ask = || self.access.get_mapping(offset_bytes, end - offset_bytes);
        let (mapping, length) = driven(&self.path, self.format, ask)?;
        Ok(match mapping {
            Mapping::Eof { .. } => Mapped { zero: true, length_bytes: end - offset_bytes },
            _ if length == 0 => {
                let what = "its map does not cover it";
                return Err(ImageError::Damaged { path: self.path.clone(), what });
            }
            Mapping::Zero { .. } => Mapped { zero: true, length_bytes: length },
            Mapping::Raw { storage, offset, .. } => {
                let end = match self.end {
                    DataEnd::At(end) => end,
                    DataEnd::OfFile => storage.size().map_err(ImageError::io(&self.path))?,
                };
                if offset.checked_add(length).is_none_or(|data_end| data_end > end) {
                    let what = "it was cut off";
                    return Err(ImageError::Damaged { path: self.path.clone(), what });
                }
                Mapped { zero: false, length_bytes: length }
            }
            _ => Mapped { zero: false, length_bytes: length },
        })
    }

    fn read(&mut self, offset_bytes: u64, out: &mut [u8]) -> Result<(), ImageError> {
        driven(&self.path, self.format, || self.access.read(out, offset_bytes))
    }
}
