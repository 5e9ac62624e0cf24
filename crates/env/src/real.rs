//! The machine's own file systems, through `std::fs` and `rustix`.
//!
//! Positioned calls only, so one descriptor serves all threads. The one piece of process-wide state is the set of lock
//! files held: POSIX record locks belong to the process and vanish when *any* descriptor of the file is closed, so a
//! path that is in the set is refused before it is opened.

use std::{
    collections::HashSet,
    fs, io,
    io::{IoSlice, IoSliceMut},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use rustix::{
    fs::{
        CWD, FallocateFlags, FlockOperation, RenameFlags, fallocate, fcntl_lock, fdatasync,
        renameat_with, statvfs, syncfs,
    },
    io::{Errno, ReadWriteFlags, preadv2, pwritev},
};

use crate::{DirEntry, DirLock, Disk, File, Open, Space};

/// `writev` takes at most this many parts (Linux `UIO_MAXIOV`).
const PARTS_MAX: usize = 1024;

/// The machine's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// Returns the handle; it holds nothing.
    pub fn new() -> RealDisk {
        RealDisk
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(how != Open::ReadOnly);
        let file = match how {
            Open::Existing | Open::ReadOnly => options.open(path)?,
            Open::Length(len) => {
                let file = options.create(true).truncate(false).open(path)?;
                if file.metadata()?.len() < len {
                    file.set_len(len)?;
                }
                file
            }
        };
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut list = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Follows links as Java does; a name that vanished meanwhile, or a dangling link, is no entry.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            let modified =
                metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            list.push(DirEntry {
                name,
                len: if metadata.is_dir() { 0 } else { metadata.len() },
                is_dir: metadata.is_dir(),
                modified: modified.map_or(0, |at| at.as_millis() as i64),
            });
        }
        Ok(list)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        // ext4 writes back what is renamed over another name before it goes on; what is exchanged it leaves alone.
        match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
            Ok(()) => fs::remove_file(from),
            // There is nothing to exchange with, or the file system cannot.
            Err(_) => fs::rename(from, to),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        Ok(syncfs(fs::File::open(path)?)?)
    }

    fn set_len(&self, path: &Path, len: u64) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(path)?.set_len(len)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn lock(&self, path: &Path, content: &[u8]) -> io::Result<Box<dyn DirLock>> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a lock file has a directory and a name",
            ));
        };
        let canonical = dir.canonicalize()?.join(name);
        // The guard stays until the outcome is known, so two threads cannot both open the file.
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.get_or_insert_default();
        if held.contains(&canonical) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&canonical)?;
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(
            |errno| match errno {
                Errno::ACCESS | Errno::AGAIN => io::Error::from(io::ErrorKind::WouldBlock),
                other => other.into(),
            },
        )?;
        file.write_all_at(content, 0)?;
        file.sync_all()?;
        held.insert(canonical.clone());
        Ok(Box::new(HeldLock { path: canonical, _file: file }))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        // A folder that nobody has needed yet will be where the nearest one above it is.
        let path = path.ancestors().find(|path| path.exists()).unwrap_or(path);
        let stat = statvfs(path)?;
        // What only root may use belongs to nobody, as in `df` and in the original (`UtilAll`).
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Space {
            total: used.saturating_add(stat.f_bavail).saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// The lock files that this process holds, by canonical path.
static HELD: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);

struct HeldLock {
    path: PathBuf,
    _file: fs::File,
}

impl DirLock for HeldLock {}

impl Drop for HeldLock {
    fn drop(&mut self) {
        // The descriptor closes after this body, so for an instant the path looks free and a second open could release
        // nothing but a lock that is about to be released anyway.
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_mut() {
            held.remove(&self.path);
        }
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, at)
    }

    fn try_read_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        let mut done = 0;
        while done < into.len() {
            let mut parts = [IoSliceMut::new(&mut into[done..])];
            match preadv2(&self.0, &mut parts, at + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                // A file system without this flag (some FUSE and network ones) always has to be waited for.
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return Ok(false);
                }
                Err(other) => return Err(other.into()),
            }
        }
        Ok(true)
    }

    fn write_at(&self, mut at: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut rest = parts;
        // What of `rest`'s first part an incomplete call already wrote.
        let mut skip = 0;
        while let Some(first) = rest.first() {
            let outcome = if skip == 0 {
                pwritev(&self.0, &rest[..rest.len().min(PARTS_MAX)], at)
            } else {
                pwritev(&self.0, &[IoSlice::new(&first[skip..])], at)
            };
            let mut wrote = match outcome {
                Ok(wrote) => wrote,
                Err(Errno::INTR) => continue,
                Err(other) => return Err(other.into()),
            };
            if wrote == 0 && first.len() > skip {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += wrote as u64;
            wrote += skip;
            skip = 0;
            while let Some(part) = rest.first() {
                if wrote < part.len() {
                    skip = wrote;
                    break;
                }
                wrote -= part.len();
                rest = &rest[1..];
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.0)?)
    }

    fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::KEEP_SIZE, range.start, range.end - range.start) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.0, punch, range.start, range.end - range.start) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(&self.0, range),
            outcome => Ok(outcome?),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

fn write_zeros(file: &fs::File, range: Range<u64>) -> io::Result<()> {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir =
                std::env::temp_dir().join(format!("apogee-env-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).expect("a temporary directory");
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_room_of_the_one_above() {
        let dir = Dir::new("room");
        let room = RealDisk.space(&dir.0.join("store/commitlog")).expect("its parent is there");
        assert_eq!(room.total, RealDisk.space(&dir.0).expect("it is there").total);
    }

    #[test]
    fn more_parts_than_one_call_takes_are_written_in_order() {
        let dir = Dir::new("parts");
        let file = RealDisk.open(&dir.0.join("f"), Open::Length(1 << 20)).expect("it is created");
        let parts: Vec<Vec<u8>> = (0..3000_usize).map(|n| vec![n as u8; n % 5]).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(77, &slices).expect("there is room");
        let expected = parts.concat();
        let mut read = vec![0; expected.len()];
        file.read_at(77, &mut read).expect("it was written");
        assert_eq!(read, expected);
        let mut again = vec![0; expected.len()];
        if file.try_read_at(77, &mut again).expect("no error") {
            assert_eq!(again, expected);
        }
        assert_eq!(file.len().expect("it has a length"), 1 << 20);
    }

    #[test]
    fn a_zeroed_range_reads_as_zeros_and_keeps_the_length() {
        let dir = Dir::new("zero");
        let file = RealDisk.open(&dir.0.join("f"), Open::Length(10_000)).expect("it is created");
        file.write_at(0, &[IoSlice::new(&[1; 10_000])]).expect("there is room");
        file.zero(100..10_000).expect("it can be zeroed");
        let mut read = vec![2; 10_000];
        file.read_at(0, &mut read).expect("it has its length");
        assert!(read[..100].iter().all(|byte| *byte == 1));
        assert!(read[100..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_lock_is_refused_while_this_process_holds_it_and_free_when_dropped() {
        let dir = Dir::new("lock");
        let path = dir.0.join("lock");
        let held = RealDisk.lock(&path, b"lock").expect("nobody holds it");
        let second = RealDisk.lock(&path, b"lock").map(|_| ()).expect_err("it is held");
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert!(RealDisk.lock(&path, b"lock").is_ok());
        assert_eq!(fs::read(&path).expect("it stays"), b"lock");
    }
}
