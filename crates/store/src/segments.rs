//! A long run of bytes kept as files of one size, named by the 20-digit offset of their first byte.
//!
//! ```text
//! <root>/00000000000000000000   bytes        0 .. file_len
//! <root>/00000000001073741824   bytes file_len .. 2 * file_len
//! ```
//! The log and every consume queue are such runs. Files may lie in several directories; the first byte need not be 0,
//! since old files go. Files have their full length from the start and are sparse. How many are open at once is bounded
//! by an [`OpenFiles`] that all runs of a store share. (Java: `MappedFileQueue`, `MultiPathMappedFileQueue`.)
//!
//! Invariant: files do not overlap and are sorted. A place is written by one thread at a time; reads come from any.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use env::{Disk, File, Millis, Open};

/// Closes the files that were not used for longest, so that at most a given number is open.
///
/// A closed file is opened again on its next use. Those in use stay open until their user lets go.
pub struct OpenFiles {
    max: usize,
    /// Oldest first; a file that was used since it was last at the front goes to the back once more.
    open: Mutex<VecDeque<Weak<Segment>>>,
    count: AtomicUsize,
}

impl OpenFiles {
    /// Returns a bound of `max` files, at least 8.
    pub fn new(max: usize) -> Arc<OpenFiles> {
        Arc::new(OpenFiles {
            max: max.max(8),
            open: Mutex::new(VecDeque::new()),
            count: AtomicUsize::new(0),
        })
    }

    /// Returns how many files are open.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn opened(&self, segment: &Arc<Segment>) {
        let mut closing = Vec::new();
        {
            let mut open = lock(&self.open);
            open.push_back(Arc::downgrade(segment));
            // Each file is looked at twice at most: once to take its mark away, once to close it.
            let mut looks = open.len() * 2;
            while open.len() > self.max && looks > 0 {
                looks -= 1;
                let Some(oldest) = open.pop_front() else { break };
                let Some(oldest) = oldest.upgrade() else { continue };
                if oldest.used.swap(false, Ordering::Relaxed) {
                    open.push_back(Arc::downgrade(&oldest));
                } else {
                    closing.push(oldest);
                }
            }
            self.count.store(open.len(), Ordering::Relaxed);
        }
        for segment in closing {
            lock(&segment.file).take();
        }
    }
}

/// Where a run of files lies and what its files look like.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Directories that get new files, by turns as the original does; not empty.
    pub roots: Vec<PathBuf>,
    /// Directories that get no new files and may lie on read-only mounts.
    pub read_only: Vec<PathBuf>,
    /// Bytes of a file, above 0.
    pub file_len: u64,
}

/// Why a run of files could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file has another length than the layout says.
    #[error("`{}` has {found} bytes, not {expected}", path.display())]
    FileLen {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The layout's length.
        expected: u64,
    },
    /// A directory could not be read, or an empty file not removed.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

/// A run of files of one size.
pub struct Segments {
    disk: Arc<dyn Disk>,
    open_files: Arc<OpenFiles>,
    layout: Layout,
    /// Sorted by start.
    files: RwLock<Vec<Arc<Segment>>>,
}

/// One file of a run.
pub struct Segment {
    start: u64,
    path: PathBuf,
    read_only: bool,
    file: Mutex<Option<Arc<dyn File>>>,
    /// Whether it was used since [`OpenFiles`] last looked.
    used: AtomicBool,
}

impl Segment {
    /// Returns the offset of the file's first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Segments {
    /// Finds the files of a run; directories that do not exist yet are created with the first file. A file of no
    /// bytes is removed, as the original does: a crash came between its creation and its extension.
    pub fn load(
        disk: Arc<dyn Disk>,
        open_files: Arc<OpenFiles>,
        layout: Layout,
    ) -> Result<Segments, LoadError> {
        let mut files = Vec::new();
        let mut dirs: BTreeSet<&PathBuf> = layout.roots.iter().collect();
        dirs.extend(&layout.read_only);
        for dir in dirs {
            let io_error = |source| LoadError::Io { path: dir.clone(), source };
            for entry in disk.list(dir).map_err(io_error)? {
                let Some(start) = start_of_name(&entry.name) else { continue };
                if entry.is_dir {
                    continue;
                }
                let path = dir.join(&entry.name);
                if entry.len == 0 && !layout.read_only.contains(dir) {
                    disk.remove(&path).map_err(io_error)?;
                    continue;
                }
                if entry.len != layout.file_len || start % layout.file_len != 0 {
                    return Err(LoadError::FileLen {
                        path,
                        found: entry.len,
                        expected: layout.file_len,
                    });
                }
                files.push(Arc::new(Segment {
                    start,
                    path,
                    read_only: layout.read_only.contains(dir),
                    file: Mutex::new(None),
                    used: AtomicBool::new(false),
                }));
            }
        }
        files.sort_by_key(|segment| segment.start);
        // The same file under two roots: the first root's counts, as a copy that was being moved.
        files.dedup_by_key(|segment| segment.start);
        Ok(Segments { disk, open_files, layout, files: RwLock::new(files) })
    }

    /// Returns the bytes of a file.
    pub fn file_len(&self) -> u64 {
        self.layout.file_len
    }

    /// Returns the files, oldest first.
    pub fn list(&self) -> Vec<Arc<Segment>> {
        self.files().clone()
    }

    /// Returns the offsets that files exist for; empty at 0 if there is none. Gaps inside are possible.
    pub fn range(&self) -> Range<u64> {
        let files = self.files();
        match (files.first(), files.last()) {
            (Some(first), Some(last)) => first.start..last.start + self.layout.file_len,
            _ => 0..0,
        }
    }

    /// Fills `into` from offset `at`, waiting for the device if need be. The range lies in one file; one that does not
    /// exist is an error of kind `NotFound`.
    pub fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let segment = self.find(at)?;
        self.handle(&segment)?.read_at(self.within(&segment, at, into.len())?, into)
    }

    /// As [`Segments::read_at`] without waiting for the device; `false` if that would have been needed.
    pub fn try_read_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        let segment = self.find(at)?;
        self.handle(&segment)?.try_read_at(self.within(&segment, at, into.len())?, into)
    }

    /// Writes `parts` one after the other from offset `at`, creating the file if need be. The range lies in one file.
    pub fn write_at(&self, at: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let len = parts.iter().map(|part| part.len()).sum();
        let segment = self.find_or_create(at)?;
        self.handle(&segment)?.write_at(self.within(&segment, at, len)?, parts)
    }

    /// Syncs the files that hold a range.
    pub fn sync(&self, range: Range<u64>) -> io::Result<()> {
        for segment in self.touching(range) {
            self.handle(&segment)?.sync()?;
        }
        Ok(())
    }

    /// Allocates room for a range that lies in one file, creating the file if need be.
    pub fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        let segment = self.find_or_create(range.start)?;
        let from = range.start - segment.start;
        let to = (range.end - segment.start).min(self.layout.file_len);
        self.handle(&segment)?.reserve(from..to)
    }

    /// Removes what lies at and after `to`: files that begin there or later are removed, the rest of the file that holds
    /// `to` becomes zeros. Synced when it returns.
    pub fn truncate(&self, to: u64) -> io::Result<()> {
        let len = self.layout.file_len;
        let (mut kept, removed): (Vec<_>, Vec<_>) =
            self.list().into_iter().partition(|segment| segment.start < to);
        // Last first: after a crash in between, what is left is still without a gap.
        for segment in removed.iter().rev() {
            self.remove_file(segment)?;
        }
        let last = kept.pop().filter(|last| to < last.start + len);
        if let Some(last) = last {
            let file = self.handle(&last)?;
            file.zero(to - last.start..len)?;
            file.sync()?;
        }
        self.files_mut().retain(|segment| segment.start < to);
        Ok(())
    }

    /// Removes the oldest file if it lies wholly before `offset` and is not the last one; returns it.
    pub fn remove_first_before(&self, offset: u64) -> io::Result<Option<Arc<Segment>>> {
        let first = match self.files().as_slice() {
            [first, _, ..] if first.start + self.layout.file_len <= offset => first.clone(),
            _ => return Ok(None),
        };
        // Out of sight first: a reader that comes later gets a clean answer instead of a vanished file.
        self.files_mut().retain(|segment| segment.start != first.start);
        self.remove_file(&first)?;
        Ok(Some(first))
    }

    /// Removes all files and the directories if nothing else is in them.
    pub fn remove_all(&self) -> io::Result<()> {
        let files = std::mem::take(&mut *self.files_mut());
        for segment in files.iter().rev() {
            self.remove_file(segment)?;
        }
        for root in &self.layout.roots {
            if self.disk.exists(root)? && self.disk.list(root)?.is_empty() {
                self.disk.remove_dir(root)?;
            }
        }
        Ok(())
    }

    /// Returns when a file's content was last modified, as the file system says.
    pub fn modified(&self, segment: &Segment) -> io::Result<Option<Millis>> {
        let (Some(dir), Some(name)) = (segment.path.parent(), segment.path.file_name()) else {
            return Ok(None);
        };
        let entries = self.disk.list(dir)?;
        Ok(entries.into_iter().find(|e| *e.name == *name).map(|entry| entry.modified))
    }

    /// Returns the directories that get new files.
    pub fn roots(&self) -> &[PathBuf] {
        &self.layout.roots
    }

    fn find(&self, at: u64) -> io::Result<Arc<Segment>> {
        self.look_up(at).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no file holds offset {at}"))
        })
    }

    fn look_up(&self, at: u64) -> Option<Arc<Segment>> {
        let files = self.files();
        let after = files.partition_point(|segment| segment.start <= at);
        let segment = files.get(after.checked_sub(1)?)?;
        (at < segment.start + self.layout.file_len).then(|| segment.clone())
    }

    fn touching(&self, range: Range<u64>) -> Vec<Arc<Segment>> {
        let files = self.files();
        let overlaps = |segment: &&Arc<Segment>| {
            segment.start < range.end && range.start < segment.start + self.layout.file_len
        };
        files.iter().filter(overlaps).cloned().collect()
    }

    /// Returns the position of `at` within its file; an error if `len` bytes from there leave the file.
    fn within(&self, segment: &Segment, at: u64, len: usize) -> io::Result<u64> {
        let position = at - segment.start;
        if position + len as u64 > self.layout.file_len {
            let why = format!("{len} bytes at offset {at} cross the end of a file");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(position)
    }

    fn find_or_create(&self, at: u64) -> io::Result<Arc<Segment>> {
        if let Some(segment) = self.look_up(at) {
            return Ok(segment);
        }
        let number = at / self.layout.file_len;
        let start = number * self.layout.file_len;
        let root = self.root_for(number)?;
        self.disk.create_dir_all(&root)?;
        let segment = Arc::new(Segment {
            start,
            path: root.join(format!("{start:020}")),
            read_only: false,
            file: Mutex::new(None),
            used: AtomicBool::new(true),
        });
        let file = self.disk.open(&segment.path, Open::Length(self.layout.file_len))?;
        // Name and length are durable before anything is in the file, so no crash leaves a run with a hole.
        file.sync()?;
        self.disk.sync_dir(&root)?;
        *lock(&segment.file) = Some(file);
        let mut files = self.files_mut();
        let place = files.partition_point(|other| other.start < start);
        // Who reserves ahead and who writes may both have found it missing.
        if let Some(other) = files.get(place).filter(|other| other.start == start) {
            return Ok(other.clone());
        }
        files.insert(place, segment.clone());
        drop(files);
        self.open_files.opened(&segment);
        Ok(segment)
    }

    /// Chooses the directory of a new file as the original does, but a file system below 10 % free is passed over while
    /// there is another.
    fn root_for(&self, number: u64) -> io::Result<PathBuf> {
        let roots = &self.layout.roots;
        if let [only] = roots.as_slice() {
            return Ok(only.clone());
        }
        let mut roomy = Vec::new();
        for root in roots {
            self.disk.create_dir_all(root)?;
            if self.disk.space(root)?.used_ratio() < 0.9 {
                roomy.push(root);
            }
        }
        if roomy.is_empty() {
            roomy.extend(roots);
        }
        let place = usize::try_from(number % roomy.len().max(1) as u64).unwrap_or(0);
        roomy
            .get(place)
            .map(|root| PathBuf::clone(root))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "every root is read only"))
    }

    fn handle(&self, segment: &Arc<Segment>) -> io::Result<Arc<dyn File>> {
        if !segment.used.load(Ordering::Relaxed) {
            segment.used.store(true, Ordering::Relaxed);
        }
        let mut slot = lock(&segment.file);
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = match self.disk.open(&segment.path, Open::Existing) {
            // As in the original a directory that gets no new files may hold the log's last one, and that is written.
            Err(error) if segment.read_only && error.kind() != io::ErrorKind::NotFound => {
                self.disk.open(&segment.path, Open::ReadOnly)?
            }
            outcome => outcome?,
        };
        *slot = Some(file.clone());
        drop(slot);
        self.open_files.opened(segment);
        Ok(file)
    }

    fn remove_file(&self, segment: &Segment) -> io::Result<()> {
        lock(&segment.file).take();
        match self.disk.remove(&segment.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        segment.path.parent().map_or(Ok(()), |dir| self.disk.sync_dir(dir))
    }

    fn files(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn files_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the offset that a file name stands for: 20 digits, nothing else.
fn start_of_name(name: &str) -> Option<u64> {
    let digits = name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| name.parse().ok()).flatten()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
