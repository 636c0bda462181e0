//! Image files being written.
//!
//! A file gets its name once it is complete and durable; until then it is `.NAME.partial-PID` beside it, and
//! goes away with any failure.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use rustix::fs::{CWD, RenameFlags, SeekFrom, renameat_with, seek};

use super::ImageError;
use crate::cli::TargetFormat;

/// Zeros for devices, which have no holes.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct TargetOptions {
    /// In which format.
    pub format: TargetFormat,
    /// How large the disk is.
    pub size_bytes: u64,
    /// Whether what is there may go.
    pub replace: bool,
}

/// An image being written.
pub struct Target {
    content: Content,
    path: PathBuf,
    size_bytes: u64,
    partial: Option<Partial>,
}

enum Content {
    Sparse(File),
    Device(File),
    Qcow2(Box<FormatAccess<ImagoFile>>, File),
}

/// The file under its provisional name; removed unless it got its own.
struct Partial {
    path: PathBuf,
    replace: bool,
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Begins to write an image to `path`.
pub fn create(path: &Path, options: TargetOptions) -> Result<Target, ImageError> {
    match std::fs::metadata(path) {
        Ok(there) if there.file_type().is_block_device() => open_device(path, options),
        Ok(there) if !there.is_file() => Err(ImageError::NotAFile { path: path.to_owned() }),
        Ok(_) if !options.replace => Err(ImageError::Exists { path: path.to_owned() }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io(path)(error)),
        _ => create_file(path, options),
    }
}

fn open_device(path: &Path, options: TargetOptions) -> Result<Target, ImageError> {
    let owned = || path.to_owned();
    if options.format != TargetFormat::Raw {
        return Err(ImageError::DeviceNotRaw { path: owned() });
    }
    if !options.replace {
        return Err(ImageError::Exists { path: owned() });
    }
    let fault = ImageError::io(path);
    let device = OpenOptions::new().write(true).open(path).map_err(&fault)?;
    let has_bytes = seek(&device, SeekFrom::End(0)).map_err(|errno| fault(errno.into()))?;
    let needs_bytes = options.size_bytes;
    if has_bytes < needs_bytes {
        return Err(ImageError::TooSmall { path: owned(), has_bytes, needs_bytes });
    }
    let content = Content::Device(device);
    Ok(Target { content, path: owned(), size_bytes: needs_bytes, partial: None })
}

fn create_file(path: &Path, options: TargetOptions) -> Result<Target, ImageError> {
    let fault = ImageError::io(path);
    let name = path.file_name().ok_or_else(|| ImageError::NotAFile { path: path.to_owned() })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".partial-{}", std::process::id()));
    let partial = path.with_file_name(hidden);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&partial);
    let file = file.map_err(&fault)?;
    let partial = Partial { path: partial, replace: options.replace };
    let content = match options.format {
        TargetFormat::Raw => {
            file.set_len(options.size_bytes).map_err(&fault)?;
            Content::Sparse(file)
        }
        TargetFormat::Qcow2 => qcow2(file, options.size_bytes).map_err(&fault)?,
    };
    let size_bytes = options.size_bytes;
    Ok(Target { content, path: path.to_owned(), size_bytes, partial: Some(partial) })
}

fn qcow2(file: File, size_bytes: u64) -> io::Result<Content> {
    let handle = file.try_clone()?;
    let storage = ImagoFile::try_from(file)?;
    let image = Qcow2::<ImagoFile>::create_builder(storage)
        .size(size_bytes)
        .create_open(DenyImplicitOpenGate::default(), |storage| {
            Ok(Qcow2::<ImagoFile>::builder(storage).backing(None).write(true))
        })?;
    Ok(Content::Qcow2(Box::new(FormatAccess::new(image)), handle))
}

impl Target {
    /// Writes data.
    pub fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Result<(), ImageError> {
        self.require_inside(offset_bytes, bough_blockstore::to_u64(data.len()))?;
        let written = match &mut self.content {
            Content::Sparse(file) | Content::Device(file) => file.write_all_at(data, offset_bytes),
            Content::Qcow2(image, _) => image.write(data, offset_bytes),
        };
        written.map_err(ImageError::io(&self.path))
    }

    /// Writes zeros, which take no space where the target knows holes.
    pub fn write_zeros(&mut self, offset_bytes: u64, length_bytes: u64) -> Result<(), ImageError> {
        self.require_inside(offset_bytes, length_bytes)?;
        let Content::Device(device) = &self.content else { return Ok(()) };
        let end = offset_bytes + length_bytes;
        let mut at = offset_bytes;
        while at < end {
            let length = (end - at).min(bough_blockstore::to_u64(ZEROS.len()));
            let zeros = &ZEROS[..bough_blockstore::to_usize(length)];
            device.write_all_at(zeros, at).map_err(ImageError::io(&self.path))?;
            at += length;
        }
        Ok(())
    }

    fn require_inside(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), ImageError> {
        match offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(ImageError::OutOfRange),
        }
    }

    /// Makes it durable, and only then gives it its name.
    pub fn finish(self) -> Result<(), ImageError> {
        let fault = ImageError::io(&self.path);
        match self.content {
            Content::Sparse(file) | Content::Device(file) => file.sync_all().map_err(&fault)?,
            Content::Qcow2(image, file) => {
                image.flush().map_err(&fault)?;
                drop(image);
                file.sync_all().map_err(&fault)?;
            }
        }
        let Some(partial) = self.partial else { return Ok(()) };
        let flags = if partial.replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match renameat_with(CWD, &partial.path, CWD, &self.path, flags) {
            Err(rustix::io::Errno::EXIST) => Err(ImageError::Exists { path: self.path.clone() }),
            other => other.map_err(|errno| fault(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::image::open;

    fn options(format: TargetFormat) -> TargetOptions {
        TargetOptions { format, size_bytes: 64 << 20, replace: false }
    }

    #[test]
    fn both_formats_read_back_as_written_and_keep_holes() {
        let folder = tempfile::tempdir().unwrap();
        for format in [TargetFormat::Raw, TargetFormat::Qcow2] {
            let path = folder.path().join(format!("{format:?}"));
            let mut target = create(&path, options(format)).unwrap();
            target.write(4096, &[1; 8192]).unwrap();
            target.write_zeros(12288, 1 << 20).unwrap();
            target.write((64 << 20) - 512, &[2; 512]).unwrap();
            assert!(!path.exists(), "it has no name before it is complete");
            target.finish().unwrap();
            assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 2 << 20, "{format:?}");
            let mut image = open(&path, None).unwrap();
            assert_eq!(image.size_bytes(), 64 << 20);
            let mut out = vec![9; 16384];
            image.read(0, &mut out).unwrap();
            assert!(out[..4096].iter().all(|byte| *byte == 0), "{format:?}");
            assert!(out[4096..12288].iter().all(|byte| *byte == 1), "{format:?}");
            assert!(out[12288..].iter().all(|byte| *byte == 0), "{format:?}");
            image.read((64 << 20) - 512, &mut out[..512]).unwrap();
            assert!(out[..512].iter().all(|byte| *byte == 2), "{format:?}");
        }
    }

    #[test]
    fn a_file_that_exists_is_replaced_only_when_asked_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, "precious").unwrap();
        let refused = create(&path, options(TargetFormat::Raw));
        assert!(matches!(refused, Err(ImageError::Exists { .. })));
        let replacing = TargetOptions { replace: true, ..options(TargetFormat::Raw) };
        drop(create(&path, replacing).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious", "given up half way");
        create(&path, replacing).unwrap().finish().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 64 << 20);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "no partial file stays behind");
    }
}
