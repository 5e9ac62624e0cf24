//! A disk in memory that fails as real ones do, chosen by a seed.
//!
//! Every sector remembers the versions written since the last sync of its file; a power cut keeps any one of them, each
//! sector for itself, so writes are lost, torn and reordered. Names that were not synced with their directory survive as
//! a prefix of what was done there. A full disk fails a write that needs new sectors, with some prefix of it done; a
//! failed sync makes nothing durable and drops what waited, as Linux does. Bits flip on demand.
//!
//! Invariant: what a crash leaves is one of the states that the contract of [`crate::Disk`] allows, and synced bytes
//! under synced names are always among it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    io::IoSlice,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{DirEntry, DirLock, Disk, File, Open, Space, sim::SimClock};

const SECTOR: u64 = 512;

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process (`kill -9`): what was written is there.
    Process,
    /// The machine: what was not synced may be gone, whole or in part.
    Power,
}

/// A disk in memory; cheap to clone, all clones are one disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<World>>);

struct World {
    rng: fastrand::Rng,
    clock: SimClock,
    /// Counts crashes: handles and locks of an earlier life are dead.
    life: u64,
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// What was done to names since their directory was synced, in order.
    name_changes: Vec<NameChange>,
    files: HashMap<u64, Content>,
    next_id: u64,
    locked: HashSet<PathBuf>,
    /// Sectors that can still be allocated; `None` for any number.
    room: Option<u64>,
    total: u64,
    used: u64,
    fail_syncs: bool,
    fail_writes: bool,
    fail_reads: bool,
    /// Writes that the process still does; then it is dead. `None` while nobody kills it.
    writes_left: Option<u64>,
    /// Of a hundred reads without waiting, how many would have to wait.
    cold_percent: u8,
}

struct NameChange {
    path: PathBuf,
    file: Option<u64>,
}

#[derive(Default)]
struct Content {
    len: u64,
    durable_len: u64,
    modified: i64,
    /// Sectors that were written; the others are zeros.
    sectors: BTreeMap<u64, Sector>,
    /// Sectors that are allocated, written or not.
    allocated: BTreeSet<u64>,
}

struct Sector {
    /// What a power cut may leave, oldest first; the last is what reads return, the first what the last sync left.
    versions: Vec<[u8; SECTOR as usize]>,
}

impl SimDisk {
    /// Returns an empty disk whose faults follow from `seed`.
    pub fn new(seed: u64, clock: SimClock) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(World {
            rng: fastrand::Rng::with_seed(seed),
            clock,
            life: 0,
            dirs: BTreeSet::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            files: HashMap::new(),
            next_id: 0,
            locked: HashSet::new(),
            room: None,
            total: 1 << 40,
            used: 0,
            fail_syncs: false,
            fail_writes: false,
            fail_reads: false,
            writes_left: None,
            cold_percent: 0,
        })))
    }

    /// Ends every handle and lock, and keeps of the content what the kind of crash allows.
    pub fn crash(&self, crash: Crash) {
        let mut world = self.world();
        world.life += 1;
        world.locked.clear();
        world.writes_left = None;
        if crash == Crash::Power {
            world.cut_power();
        }
    }

    /// Kills the process within a write, after `writes` more of them: from there on nothing is written, renamed or removed,
    /// whatever the process believes to do, until [`SimDisk::crash`] says that it has ended.
    pub fn kill_after(&self, writes: u64) {
        self.world().writes_left = Some(writes);
    }

    /// Says whether a process that was to be killed is dead.
    pub fn is_dead(&self) -> bool {
        self.world().writes_left == Some(0)
    }

    /// Leaves room for `bytes` more, in whole sectors; `None` for as much as anyone wants.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.world().room = bytes.map(|bytes| bytes / SECTOR);
    }

    /// Makes every sync fail from now on, or none.
    pub fn fail_syncs(&self, fail: bool) {
        self.world().fail_syncs = fail;
    }

    /// Makes every write fail with an I/O error from now on, or none.
    pub fn fail_writes(&self, fail: bool) {
        self.world().fail_writes = fail;
    }

    /// Makes every read fail with an I/O error from now on, or none.
    pub fn fail_reads(&self, fail: bool) {
        self.world().fail_reads = fail;
    }

    /// Says how many of a hundred reads without waiting find that they would have to wait.
    pub fn set_cold_percent(&self, percent: u8) {
        self.world().cold_percent = percent;
    }

    /// Says how full [`Disk::space`] claims the file system to be.
    pub fn set_used_ratio(&self, ratio: f64) {
        let mut world = self.world();
        world.used = (world.total as f64 * ratio) as u64;
    }

    /// Flips one bit of a file, durably.
    ///
    /// # Panics
    /// If there is no such file, or it is shorter.
    pub fn flip_bit(&self, path: &Path, at: u64, bit: u8) {
        let mut world = self.world();
        let id = *world.names.get(path).expect("the file exists");
        let content = world.files.get_mut(&id).expect("a name has a file");
        assert!(at < content.len, "the bit lies within the file");
        let sector = content.sectors.entry(at / SECTOR).or_insert_with(Sector::zeros);
        for version in &mut sector.versions {
            version[(at % SECTOR) as usize] ^= 1 << (bit % 8);
        }
    }

    /// Returns the paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world().names.keys().cloned().collect()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn cut_power(&mut self) {
        let mut dirs: BTreeMap<PathBuf, Vec<NameChange>> = BTreeMap::new();
        for change in std::mem::take(&mut self.name_changes) {
            dirs.entry(parent(&change.path)).or_default().push(change);
        }
        for changes in dirs.into_values() {
            let survive = self.rng.usize(..=changes.len());
            for change in changes.into_iter().take(survive) {
                set_name(&mut self.durable_names, change);
            }
        }
        self.names = self.durable_names.clone();
        let mut ids: Vec<u64> = self.names.values().copied().collect();
        ids.sort_unstable();
        self.files.retain(|id, _| ids.binary_search(id).is_ok());
        for id in ids {
            let content = self.files.get_mut(&id).expect("a name has a file");
            if self.rng.bool() {
                content.durable_len = content.len;
            }
            content.len = content.durable_len;
            let len = content.len;
            content.sectors.retain(|number, _| number * SECTOR < len);
            for sector in content.sectors.values_mut() {
                let kept = self.rng.usize(..sector.versions.len());
                sector.versions = vec![sector.versions.swap_remove(kept)];
            }
        }
    }

    fn check_alive(&self) -> io::Result<()> {
        match self.writes_left {
            Some(0) => Err(io::Error::other("the simulated process is dead")),
            Some(_) | None => Ok(()),
        }
    }

    fn name(&mut self, path: &Path, file: Option<u64>) {
        let change = NameChange { path: path.to_owned(), file };
        set_name(&mut self.names, NameChange { path: path.to_owned(), file });
        self.name_changes.push(change);
    }

    /// Allocates the sectors of a range; returns how many bytes of it, from its start, have room.
    fn allocate(&mut self, id: u64, range: Range<u64>) -> u64 {
        let content = self.files.get_mut(&id).expect("a handle's file lives as long as it");
        for number in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            if content.allocated.contains(&number) {
                continue;
            }
            if let Some(room) = &mut self.room {
                if *room == 0 {
                    return (number * SECTOR).saturating_sub(range.start);
                }
                *room -= 1;
            }
            content.allocated.insert(number);
        }
        range.end - range.start
    }

    fn write(&mut self, id: u64, at: u64, bytes: &[u8]) {
        let now = self.clock.now();
        let content = self.files.get_mut(&id).expect("a handle's file lives as long as it");
        content.modified = now;
        content.len = content.len.max(at + bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let position = at + done as u64;
            let within = (position % SECTOR) as usize;
            let len = (SECTOR as usize - within).min(bytes.len() - done);
            let sector = content.sectors.entry(position / SECTOR).or_insert_with(Sector::zeros);
            let mut version = *sector.versions.last().expect("a sector has a version");
            version[within..within + len].copy_from_slice(&bytes[done..done + len]);
            sector.versions.push(version);
            done += len;
        }
    }
}

impl Content {
    fn sync(&mut self, fail: bool) -> io::Result<()> {
        for sector in self.sectors.values_mut() {
            let len = sector.versions.len();
            // The kernel calls the pages clean all the same and may drop them: readers see the old bytes again.
            if fail {
                sector.versions.swap(0, len - 1);
            }
            sector.versions.drain(..len - 1);
        }
        if fail {
            return Err(io::Error::other("the simulated sync failed"));
        }
        self.durable_len = self.len;
        Ok(())
    }
}

impl Sector {
    fn zeros() -> Sector {
        Sector { versions: vec![[0; SECTOR as usize]] }
    }
}

fn set_name(names: &mut BTreeMap<PathBuf, u64>, change: NameChange) {
    match change.file {
        Some(id) => names.insert(change.path, id),
        None => names.remove(&change.path),
    };
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no `{}`", path.display()))
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut world = self.world();
        if how != Open::ReadOnly && how != Open::Existing {
            world.check_alive()?;
        }
        let id = match (world.names.get(path), how) {
            (Some(id), _) => *id,
            (None, Open::Existing | Open::ReadOnly) => return Err(not_found(path)),
            (None, Open::Length(_)) => {
                if !world.dirs.contains(&parent(path)) {
                    return Err(not_found(path));
                }
                let id = world.next_id;
                world.next_id += 1;
                let content = Content { modified: world.clock.now(), ..Content::default() };
                world.files.insert(id, content);
                world.name(path, Some(id));
                id
            }
        };
        if let Open::Length(len) = how {
            let content = world.files.get_mut(&id).expect("a name has a file");
            content.len = content.len.max(len);
        }
        let (disk, life) = (self.clone(), world.life);
        Ok(Arc::new(SimFile { disk, id, life, read_only: how == Open::ReadOnly }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let world = self.world();
        let files = world.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let files = files.map(|(path, id)| {
            let content = world.files.get(id).expect("a name has a file");
            (path, content.len, false, content.modified)
        });
        let dirs = world.dirs.iter().filter(|path| path.parent() == Some(dir));
        let dirs = dirs.map(|path| (path, 0, true, 0));
        Ok(files
            .chain(dirs)
            .filter_map(|(path, len, is_dir, modified)| {
                let name = path.file_name()?.to_str()?.to_owned();
                Some(DirEntry { name, len, is_dir, modified })
            })
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.check_alive()?;
        let id = *world.names.get(from).ok_or_else(|| not_found(from))?;
        world.name(to, Some(id));
        world.name(from, None);
        Ok(())
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.check_alive()?;
        let id = *world.names.get(path).ok_or_else(|| not_found(path))?;
        world.name(path, None);
        let freed = world.files.get(&id).map_or(0, |content| content.allocated.len() as u64);
        if let Some(room) = &mut world.room {
            *room += freed;
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.check_alive()?;
        let is_inside = |inside: &PathBuf| inside.parent() == Some(path);
        if world.names.keys().any(is_inside) || world.dirs.iter().any(is_inside) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if world.dirs.remove(path) { Ok(()) } else { Err(not_found(path)) }
    }

    /// Directories are durable at once: what matters of them is the names of files inside.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        if world.fail_syncs {
            return Err(io::Error::other("the simulated directory sync failed"));
        }
        let changes = std::mem::take(&mut world.name_changes);
        for change in changes {
            if change.path.parent() == Some(dir) {
                set_name(&mut world.durable_names, change);
            } else {
                world.name_changes.push(change);
            }
        }
        Ok(())
    }

    fn sync_all(&self, _: &Path) -> io::Result<()> {
        let mut world = self.world();
        let fail = world.fail_syncs;
        for content in world.files.values_mut() {
            content.sync(fail)?;
        }
        for change in std::mem::take(&mut world.name_changes) {
            set_name(&mut world.durable_names, change);
        }
        Ok(())
    }

    fn set_len(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut world = self.world();
        world.check_alive()?;
        let id = *world.names.get(path).ok_or_else(|| not_found(path))?;
        let content = world.files.get_mut(&id).expect("a name has a file");
        content.len = len;
        content.sectors.retain(|number, _| number * SECTOR < len);
        if !len.is_multiple_of(SECTOR)
            && let Some(sector) = content.sectors.get_mut(&(len / SECTOR))
        {
            for version in &mut sector.versions {
                version[(len % SECTOR) as usize..].fill(0);
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let world = self.world();
        Ok(world.names.contains_key(path) || world.dirs.contains(path))
    }

    fn lock(&self, path: &Path, content: &[u8]) -> io::Result<Box<dyn DirLock>> {
        if !self.world().locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let file = self.open(path, Open::Length(0))?;
        file.write_at(0, &[IoSlice::new(content)])?;
        let life = self.world().life;
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), life }))
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let world = self.world();
        Ok(Space { total: world.total, free: world.total - world.used })
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut world = self.disk.world();
        if world.life == self.life {
            world.locked.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
    life: u64,
    read_only: bool,
}

impl SimFile {
    fn world(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.disk.world();
        if world.life == self.life {
            Ok(world)
        } else {
            Err(io::Error::other("the machine of this handle crashed"))
        }
    }
}

impl File for SimFile {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let world = self.world()?;
        if world.fail_reads {
            return Err(io::Error::other("the simulated read failed"));
        }
        let content = world.files.get(&self.id).expect("a handle's file lives as long as it");
        if at + into.len() as u64 > content.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into.fill(0);
        let (start, end) = (at, at + into.len() as u64);
        for (number, sector) in content.sectors.range(start / SECTOR..end.div_ceil(SECTOR)) {
            let bytes = sector.versions.last().expect("a sector has a version");
            let (from, to) = ((number * SECTOR).max(start), ((number + 1) * SECTOR).min(end));
            into[(from - start) as usize..(to - start) as usize].copy_from_slice(
                &bytes[(from - number * SECTOR) as usize..(to - number * SECTOR) as usize],
            );
        }
        Ok(())
    }

    fn try_read_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        let cold = {
            let mut world = self.world()?;
            let percent = world.cold_percent;
            percent > 0 && world.rng.u8(..100) < percent
        };
        if cold {
            return Ok(false);
        }
        self.read_at(at, into).map(|()| true)
    }

    fn write_at(&self, at: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut world = self.world()?;
        if self.read_only {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        world.check_alive()?;
        if let Some(left) = &mut world.writes_left {
            *left -= 1;
            if *left == 0 {
                let done = world.rng.usize(..=bytes.len());
                world.write(self.id, at, &bytes[..done]);
                return world.check_alive();
            }
        }
        if world.fail_writes {
            let done = world.rng.usize(..=bytes.len());
            world.write(self.id, at, &bytes[..done]);
            return Err(io::Error::other("the simulated write failed"));
        }
        let fits = world.allocate(self.id, at..at + bytes.len() as u64) as usize;
        if fits == bytes.len() {
            world.write(self.id, at, &bytes);
            return Ok(());
        }
        let done = world.rng.usize(..=fits);
        world.write(self.id, at, &bytes[..done]);
        Err(io::ErrorKind::StorageFull.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world()?;
        let fail = world.fail_syncs;
        world.files.get_mut(&self.id).expect("a handle's file lives as long as it").sync(fail)
    }

    fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        let mut world = self.world()?;
        let wanted = range.end - range.start;
        if world.allocate(self.id, range) < wanted {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let mut world = self.world()?;
        world.write(self.id, range.start, &vec![0; (range.end - range.start) as usize]);
        let content = world.files.get_mut(&self.id).expect("a handle's file lives as long as it");
        let whole = range.start.div_ceil(SECTOR)..range.end / SECTOR;
        let before = content.allocated.len();
        content.allocated.retain(|number| !whole.contains(number));
        let freed = (before - content.allocated.len()) as u64;
        if let Some(room) = &mut world.room {
            *room += freed;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.world()?;
        Ok(world.files.get(&self.id).expect("a handle's file lives as long as it").len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed, SimClock::new(0));
        disk.create_dir_all(Path::new("/d")).expect("memory has room");
        disk
    }

    fn create(disk: &SimDisk) -> Arc<dyn File> {
        disk.open(Path::new("/d/f"), Open::Length(4096)).expect("memory has room")
    }

    fn read(disk: &SimDisk) -> Option<Vec<u8>> {
        crate::read_whole(disk, Path::new("/d/f"), 1 << 20).expect("a whole file or none")
    }

    #[test]
    fn what_is_synced_with_its_name_survives_a_power_cut() {
        for seed in 0..50 {
            let disk = disk(seed);
            let file = create(&disk);
            file.write_at(100, &[IoSlice::new(&[7; 2000])]).expect("a write");
            file.sync().expect("a sync");
            disk.sync_dir(Path::new("/d")).expect("a sync");
            file.write_at(3000, &[IoSlice::new(&[8; 1000])]).expect("a write");
            disk.crash(Crash::Power);
            let bytes = read(&disk).expect("its name is synced");
            assert_eq!(bytes[100..2100], [7; 2000]);
            assert!(file.sync().is_err(), "the old handle is dead");
        }
    }

    #[test]
    fn what_is_not_synced_is_kept_by_a_killed_process_and_torn_by_some_power_cut() {
        let mut outcomes = HashSet::new();
        for seed in 0..100 {
            let disk = disk(seed);
            let file = create(&disk);
            file.sync().expect("a sync");
            disk.sync_dir(Path::new("/d")).expect("a sync");
            file.write_at(0, &[IoSlice::new(&[9; 1024])]).expect("a write");
            disk.crash(Crash::Process);
            assert_eq!(read(&disk).expect("it is there")[..1024], [9; 1024]);
            disk.crash(Crash::Power);
            let bytes = read(&disk).expect("its name is synced");
            outcomes.insert((bytes[0] == 9, bytes[512] == 9));
        }
        assert_eq!(outcomes.len(), 4, "each sector for itself");
    }

    #[test]
    fn a_full_disk_fails_a_write_that_needs_room_and_takes_one_that_does_not() {
        let disk = disk(1);
        let file = create(&disk);
        file.write_at(0, &[IoSlice::new(&[1; 512])]).expect("there is room");
        disk.set_room(Some(512));
        let error = file.write_at(512, &[IoSlice::new(&[1; 1024])]).expect_err("one sector short");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        file.write_at(0, &[IoSlice::new(&[2; 512])]).expect("it is allocated");
        disk.set_room(None);
        file.write_at(512, &[IoSlice::new(&[1; 1024])]).expect("there is room again");
    }

    #[test]
    fn a_lock_is_held_once_until_dropped_or_crashed() {
        let disk = disk(1);
        let path = Path::new("/d/lock");
        let held = disk.lock(path, b"lock").expect("nobody holds it");
        assert!(disk.lock(path, b"lock").is_err());
        drop(held);
        let _held = disk.lock(path, b"lock").expect("it was dropped");
        disk.crash(Crash::Process);
        assert!(disk.lock(path, b"lock").is_ok());
    }
}
