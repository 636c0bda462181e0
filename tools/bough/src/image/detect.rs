//! Which format a file has.
//!
//! A raw disk's first bytes belong to whoever ran the machine, so a raw image can pretend to be
//! another. That gains nothing: no format here opens a file that the image names elsewhere.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::foreign::Foreign;
use super::raw::Raw;
use super::sparse_vmdk::SparseVmdk;
use super::{Image, ImageError};
use crate::cli::SourceFormat;

const VMDK_SPARSE: &[u8] = b"KDMV";
const VMDK_TEXT: &[u8] = b"# Disk DescriptorFile";
const QCOW2: &[u8] = b"QFI\xfb";

/// Formats that would import as raw garbage if nobody looked: offset, magic, name.
const OTHERS: [(usize, &[u8], &str); 6] = [
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"QED\0", "QED"),
    (0, b"COWD", "VMware COWD"),
    (0, b"WithouFreSpacExt", "Parallels"),
];

/// Opens the image in `path`, as `format` or as what it looks like.
pub fn open(path: &Path, format: Option<SourceFormat>) -> Result<Box<dyn Image>, ImageError> {
    // A pipe would block the opening for ever.
    let file = File::options().read(true).custom_flags(libc_nonblock()).open(path);
    let file = file.map_err(ImageError::io(path))?;
    let kind = file.metadata().map_err(ImageError::io(path))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ImageError::NotAFile { path: path.to_owned() });
    }
    let mut start = [0; 512];
    let length = file.read_at(&mut start, 0).map_err(ImageError::io(path))?;
    let start = &start[..length];
    match format.map_or_else(|| detected(start, path), Ok)? {
        SourceFormat::Raw => Ok(Box::new(Raw::new(file, path)?)),
        SourceFormat::Qcow2 => Ok(Box::new(Foreign::qcow2(file, path)?)),
        SourceFormat::Vmdk if start.starts_with(VMDK_SPARSE) => {
            Ok(Box::new(SparseVmdk::new(file, path)?))
        }
        SourceFormat::Vmdk => Ok(Box::new(Foreign::vmdk(file, path)?)),
    }
}

fn libc_nonblock() -> i32 {
    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag of the kernel's")
}

fn detected(start: &[u8], path: &Path) -> Result<SourceFormat, ImageError> {
    if start.starts_with(QCOW2) {
        return Ok(SourceFormat::Qcow2);
    }
    if start.starts_with(VMDK_SPARSE) || start.starts_with(VMDK_TEXT) {
        return Ok(SourceFormat::Vmdk);
    }
    let is_at = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|x| x.starts_with(magic));
    match OTHERS.iter().find(|(at, magic, _)| is_at(*at, magic)) {
        Some((_, _, format)) => Err(ImageError::OtherFormat { path: path.to_owned(), format }),
        None => Ok(SourceFormat::Raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_first_bytes() {
        let path = Path::new("x");
        assert_eq!(detected(b"QFI\xfb\0\0\0\x03", path).unwrap(), SourceFormat::Qcow2);
        assert_eq!(detected(b"KDMV\x01", path).unwrap(), SourceFormat::Vmdk);
        assert_eq!(detected(b"# Disk DescriptorFile\n", path).unwrap(), SourceFormat::Vmdk);
        assert_eq!(detected(b"", path).unwrap(), SourceFormat::Raw);
        assert_eq!(detected(&[0; 512], path).unwrap(), SourceFormat::Raw);
        assert!(matches!(detected(b"vhdxfile", path), Err(ImageError::OtherFormat { .. })));
    }
}
