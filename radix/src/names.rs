//! Names that people give: disks, snapshots, and `DISK@SNAP`.
//!
//! A name is a file name and a part of a socket's path, so it is kept to what is safe in both.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes; a socket's path must fit in 108.
pub const NAME_MAX_BYTES: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name is missing; names look like `web-1` or `web-1@monday`")]
    Empty,
    /// Too long.
    #[error("the name '{0}' is longer than {NAME_MAX_BYTES} bytes; choose a shorter one")]
    TooLong(String),
    /// A character that is not allowed.
    #[error(
        "the name '{name}' contains '{character}'; use letters, digits, '-', '_' and '.', \
         beginning with a letter or digit"
    )]
    BadCharacter {
        /// The name as given.
        name: String,
        /// The first offending character.
        character: char,
    },
    /// A snapshot was asked for and a disk named, or the other way round.
    #[error("'{0}' names a disk; a snapshot is wanted here: DISK@NAME")]
    NotASnapshot(String),
    /// The other way round.
    #[error("'{0}' names a snapshot; a disk is wanted here, without '@'")]
    NotADisk(String),
}

fn checked(name: &str) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong(name.to_owned()));
    }
    let allowed = |(i, c): &(usize, char)| {
        c.is_ascii_alphanumeric() || (*i > 0 && matches!(c, '-' | '_' | '.'))
    };
    match name.char_indices().find(|c| !allowed(c)) {
        Some((_, character)) => Err(NameError::BadCharacter { name: name.to_owned(), character }),
        None => Ok(name.to_owned()),
    }
}

/// The name of a disk.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskName(String);

/// The name of a snapshot: `DISK@NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName {
    /// Whose snapshot.
    pub disk: DiskName,
    label: String,
}

/// A disk's head or one of its snapshots: `DISK` or `DISK@NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VersionName {
    /// What the disk holds now.
    Head(DiskName),
    /// What it held then.
    Snapshot(SnapshotName),
}

impl DiskName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SnapshotName {
    /// A snapshot of `disk` called `label`.
    pub fn new(disk: DiskName, label: &str) -> Result<Self, NameError> {
        Ok(Self { disk, label: checked(label)? })
    }

    /// The part after the `@`.
    pub fn label(&self) -> &str {
        &self.label
    }
}

impl VersionName {
    /// Whose version.
    pub fn disk(&self) -> &DiskName {
        match self {
            Self::Head(disk) => disk,
            Self::Snapshot(snapshot) => &snapshot.disk,
        }
    }
}

impl From<SnapshotName> for VersionName {
    fn from(name: SnapshotName) -> Self {
        Self::Snapshot(name)
    }
}

impl From<DiskName> for VersionName {
    fn from(name: DiskName) -> Self {
        Self::Head(name)
    }
}

impl FromStr for DiskName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('@') {
            return Err(NameError::NotADisk(text.to_owned()));
        }
        checked(text).map(Self)
    }
}

impl FromStr for SnapshotName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (disk, label) =
            text.split_once('@').ok_or_else(|| NameError::NotASnapshot(text.to_owned()))?;
        Self::new(disk.parse()?, label)
    }
}

impl FromStr for VersionName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('@') {
            text.parse().map(Self::Snapshot)
        } else {
            text.parse().map(Self::Head)
        }
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.disk, self.label)
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(disk) => disk.fmt(f),
            Self::Snapshot(snapshot) => snapshot.fmt(f),
        }
    }
}

macro_rules! text_form {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    )*};
}

text_form!(DiskName, SnapshotName, VersionName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_name_reads_back_as_it_prints() {
        for text in ["web", "web-1@monday.2", "9"] {
            assert_eq!(text.parse::<VersionName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_that_would_escape_a_directory_are_refused() {
        for text in ["", "../x", "a/b", ".hidden", "a b", "a@", "@b", "a@b@c", "ü", "-rf"] {
            assert!(text.parse::<VersionName>().is_err(), "{text:?} was accepted");
        }
        assert!("x".repeat(NAME_MAX_BYTES + 1).parse::<DiskName>().is_err());
    }

    #[test]
    fn a_disk_is_not_a_snapshot_nor_the_other_way_round() {
        assert_eq!("a@b".parse::<DiskName>(), Err(NameError::NotADisk("a@b".into())));
        assert_eq!("a".parse::<SnapshotName>(), Err(NameError::NotASnapshot("a".into())));
    }
}
