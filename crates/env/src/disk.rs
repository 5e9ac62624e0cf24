//! Files and directories as the store needs them: positioned reads and writes, explicit syncs, no cursor, no mapping.
//!
//! A write is visible to readers at once and survives the process; it survives the machine only after [`File::sync`],
//! and a name only after [`Disk::sync_dir`]. An error of `StorageFull` means that nothing or a prefix was written and
//! that the same write may be tried again.

use std::{io, io::IoSlice, ops::Range, path::Path, sync::Arc};

use crate::Millis;

/// How [`Disk::open`] treats a file that is missing, or of another length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The file must exist; it is opened for reading and writing at its present length.
    Existing,
    /// The file must exist; it is opened for reading only, as on a read-only mount.
    ReadOnly,
    /// A missing file is created, and a shorter one extended, to this many bytes: sparse, zeros. A longer one is left.
    Length(u64),
}

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name without its directory. Names that are not UTF-8 are not listed: no part of a store has one.
    pub name: String,
    /// Bytes of a file; 0 for a directory.
    pub len: u64,
    /// Whether the name is a directory's.
    pub is_dir: bool,
    /// When the content was last modified.
    pub modified: Millis,
}

/// Room on the file system that holds a path, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What is used, and what a process without privileges may still write: not what is kept for root.
    pub total: u64,
    /// What a process without privileges may still write.
    pub free: u64,
}

impl Space {
    /// Returns the used share, from 0 to 1; an empty file system counts as full.
    pub fn used_ratio(&self) -> f64 {
        if self.total == 0 {
            return 1.0;
        }
        1.0 - self.free.min(self.total) as f64 / self.total as f64
    }
}

/// A held lock on a directory's lock file; released by dropping it.
pub trait DirLock: Send + Sync {}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens a file. Its directory must exist.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;

    /// Lists a directory in no particular order; a missing directory is an empty one.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Gives a file or directory another name, replacing a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// As [`Disk::rename`], but gives the file system no cause to hurry the content to the device first: who needs that
    /// syncs it.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. A missing one is an error of kind `NotFound`.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory and those above it.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes everything durable that was written to the file system of `path`, contents and names: cheaper than many a
    /// sync of its own.
    fn sync_all(&self, path: &Path) -> io::Result<()>;

    /// Cuts or extends a file to `len` bytes.
    fn set_len(&self, path: &Path, len: u64) -> io::Result<()>;

    /// Whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Takes the exclusive record lock (`fcntl`) on a lock file and writes `content` into it; an error of kind
    /// `WouldBlock` says that another holds it. The file is never opened a second time by this process, since closing any
    /// descriptor of it would release the lock.
    fn lock(&self, path: &Path, content: &[u8]) -> io::Result<Box<dyn DirLock>>;

    /// Returns the room on the file system that holds `path`, or will when it is made.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Fills `into` from position `at`; reading beyond the end is an error of kind `UnexpectedEof`.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// As [`File::read_at`], but only if no device has to be waited for; `false` means that it has, and that the content
    /// of `into` is undefined.
    fn try_read_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool>;

    /// Writes all of `parts` one after the other from position `at`. After an error any prefix may have been written.
    fn write_at(&self, at: u64, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Waits until what was written is durable. After an error nothing is known about any write since the last success.
    fn sync(&self) -> io::Result<()>;

    /// Allocates room for a range without changing length or content, so that writes into it cannot meet a full disk. A
    /// file system that cannot do so answers success.
    fn reserve(&self, range: Range<u64>) -> io::Result<()>;

    /// Makes a range read as zeros, giving its room back where the file system can.
    fn zero(&self, range: Range<u64>) -> io::Result<()>;

    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Reads a whole small file; `None` if there is none, an error of kind `FileTooLarge` if it is longer than `len_max`.
pub fn read_whole(disk: &dyn Disk, path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, Open::ReadOnly) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > len_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("`{}` has {len} bytes, more than {len_max}", path.display()),
        ));
    }
    // The bound makes the cast exact on every platform that the bound was chosen for.
    let mut content = vec![0; len as usize];
    file.read_at(0, &mut content)?;
    Ok(Some(content))
}

/// Writes a whole small file and syncs it: the old content is gone first, so keep a copy (`.bak`) or write to another name
/// and rename. The directory is not synced.
pub fn write_whole(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let file = disk.open(path, Open::Length(0))?;
    disk.set_len(path, 0)?;
    file.write_at(0, &[IoSlice::new(content)])?;
    file.sync()
}
