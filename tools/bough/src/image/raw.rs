//! Raw images: a file or device, its holes as the file system knows them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::{Image, ImageError, Mapped};

/// A raw image.
pub struct Raw {
    file: File,
    path: PathBuf,
    length_bytes: u64,
}

impl Raw {
    /// Takes an open file. The length is found by seeking: that serves devices as well.
    pub fn new(file: File, path: &Path) -> Result<Self, ImageError> {
        let length = seek(&file, SeekFrom::End(0)).map_err(io::Error::from);
        let length_bytes = length.map_err(ImageError::io(path))?;
        Ok(Self { file, path: path.to_owned(), length_bytes })
    }

    fn seek(&self, to: SeekFrom) -> Result<Option<u64>, ImageError> {
        match seek(&self.file, to) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            // No holes known here (a device, an old file system): all of it is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(match to {
                SeekFrom::Data(at) => Some(at),
                _ => None,
            }),
            Err(errno) => Err(ImageError::io(&self.path)(errno.into())),
        }
    }
}

impl Image for Raw {
    /// A last sector that is not whole is filled up with zeros.
    fn size_bytes(&self) -> u64 {
        self.length_bytes.next_multiple_of(512)
    }

    fn map(&mut self, offset_bytes: u64) -> Result<Mapped, ImageError> {
        let end = self.size_bytes();
        let data = self.seek(SeekFrom::Data(offset_bytes))?.unwrap_or(end);
        if data > offset_bytes {
            return Ok(Mapped { zero: true, length_bytes: data.min(end) - offset_bytes });
        }
        let hole = self.seek(SeekFrom::Hole(offset_bytes))?.unwrap_or(end);
        let hole = if hole >= self.length_bytes { end } else { hole };
        Ok(Mapped { zero: false, length_bytes: hole.max(offset_bytes + 1) - offset_bytes })
    }

    fn read(&mut self, offset_bytes: u64, out: &mut [u8]) -> Result<(), ImageError> {
        let mut done = 0;
        while done < out.len() {
            let at = offset_bytes + bough_blockstore::to_u64(done);
            match self.file.read_at(&mut out[done..], at) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::io(&self.path)(error)),
            }
        }
        out[done..].fill(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_hole_is_a_hole_and_the_last_sector_is_filled_up() {
        let mut temp = tempfile::NamedTempFile::new().unwrap();
        temp.as_file().set_len(8 << 20).unwrap();
        temp.as_file().write_all_at(&[7; 700], 8 << 20).unwrap();
        temp.flush().unwrap();
        let mut raw = Raw::new(temp.reopen().unwrap(), temp.path()).unwrap();
        assert_eq!(raw.size_bytes(), (8 << 20) + 1024);
        let hole = raw.map(0).unwrap();
        assert_eq!(hole, Mapped { zero: true, length_bytes: 8 << 20 });
        let data = raw.map(8 << 20).unwrap();
        assert_eq!(data, Mapped { zero: false, length_bytes: 1024 });
        let mut out = [1; 1024];
        raw.read(8 << 20, &mut out).unwrap();
        assert!(
            out[..700].iter().all(|byte| *byte == 7) && out[700..].iter().all(|byte| *byte == 0)
        );
    }
}
