//! Tables: small, rarely written state that is not in the log, as JSON files in the original's form (Java: `ConfigManager`).
//!
//! ```text
//! <name>       the content
//! <name>.bak   an older content, which was synced
//! <name>.tmp   the next content, while it is written
//! ```
//! Invariant: after a kill the newest content that was written is there, and after a power cut at least the newest that
//! was synced: a content that is synced goes to `.bak` before another takes its name, one that is not is replaced. A file
//! that cannot be read is kept as `<name>.damaged`, and the `.bak` is used.
//!
//! Members that `T` does not know survive if it collects them (`wire::fastjson::Unknown`).

use std::{
    ffi::OsString,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use env::{Disk, Open, read_whole};
use serde::{Serialize, de::DeserializeOwned};
use wire::fastjson;

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// The file of one table, and its older copy.
pub struct TableFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Its lock is held while a write or sync is under way.
    present: Mutex<Present>,
}

/// What lies under the file's own name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Present {
    /// Nothing was written by us yet.
    Found,
    /// A content that a power cut may take.
    Written,
    /// A content that is synced, name and all.
    Synced,
}

impl TableFile {
    /// Returns the file; nothing is read.
    pub fn new(disk: Arc<dyn Disk>, path: PathBuf) -> TableFile {
        TableFile { disk, path, present: Mutex::new(Present::Found) }
    }

    /// Reads the file, else its `.bak`; without either it is `T::default()`. The directory need not exist. An error is one
    /// of the disk: what is in the files never stops a start.
    pub fn load<T: Default + DeserializeOwned>(&self) -> io::Result<T> {
        if let Some(table) = load(&*self.disk, &self.path)? {
            return Ok(table);
        }
        Ok(load(&*self.disk, &with_suffix(&self.path, ".bak"))?.unwrap_or_default())
    }

    /// Replaces the content. It survives the process; [`TableFile::sync`] makes it survive the machine. After an error
    /// the content is what it was.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let disk = &*self.disk;
        let next = with_suffix(&self.path, ".tmp");
        let mut present = self.lock();
        if *present == Present::Found {
            disk.create_dir_all(self.dir())?;
            // After a power cut it may be a second name of the present content.
            match disk.remove(&next) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if disk.exists(&self.path)? {
                self.sync_present(&mut present)?;
            } else {
                *present = Present::Written;
            }
        }
        let file = disk.open(&next, Open::Length(0))?;
        disk.set_len(&next, 0)?;
        file.write_at(0, &[IoSlice::new(bytes)])?;
        if *present == Present::Synced {
            disk.rename(&self.path, &with_suffix(&self.path, ".bak"))?;
            *present = Present::Written;
        }
        disk.replace(&next, &self.path)
    }

    /// Makes the content durable, if it is not yet.
    pub fn sync(&self) -> io::Result<()> {
        let mut present = self.lock();
        match *present {
            Present::Written => self.sync_present(&mut present),
            Present::Found | Present::Synced => Ok(()),
        }
    }

    fn sync_present(&self, present: &mut Present) -> io::Result<()> {
        self.disk.open(&self.path, Open::Existing)?.sync()?;
        self.disk.sync_dir(self.dir())?;
        *present = Present::Synced;
        Ok(())
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("."))
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table of one store that is written as a whole: readers share a snapshot, an update changes it in memory, and
/// [`Table::flush`] writes what changed.
pub struct Table<T> {
    file: TableFile,
    current: RwLock<Arc<T>>,
    /// Counts updates.
    version: AtomicU64,
    /// The version that is on disk; held while a write is under way.
    saved: Mutex<u64>,
}

impl<T: Clone + Default + Serialize + DeserializeOwned> Table<T> {
    /// Reads the table as [`TableFile::load`] does.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> io::Result<Table<T>> {
        let file = TableFile::new(disk, path);
        Ok(Table {
            current: RwLock::new(Arc::new(file.load()?)),
            version: AtomicU64::new(0),
            saved: Mutex::new(0),
            file,
        })
    }

    /// Returns the table as it is now.
    pub fn read(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the table in memory. It is copied only if a snapshot of it is held.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let outcome = change(Arc::make_mut(&mut current));
        self.version.fetch_add(1, Ordering::Release);
        outcome
    }

    /// Whether there are updates that [`Table::flush`] has not written.
    pub fn is_dirty(&self) -> bool {
        let saved = *self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved < self.version.load(Ordering::Acquire)
    }

    /// Makes all updates so far durable, on the caller's thread. Callers that come together share a write. After an error
    /// the table is as it was, and the next call writes it.
    pub fn flush(&self) -> io::Result<()> {
        let wanted = self.version.load(Ordering::Acquire);
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if *saved >= wanted {
            return Ok(());
        }
        // The version before the snapshot: what comes in between is written and counted as not.
        let version = self.version.load(Ordering::Acquire);
        let table = self.read();
        self.file.write(&fastjson::encode_pretty(&*table))?;
        self.file.sync()?;
        *saved = version;
        Ok(())
    }
}

/// Reads one file; `None` if there is none, or nothing readable.
fn load<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read_whole(disk, path, FILE_BYTES_MAX)? else { return Ok(None) };
    // Java, too, takes an empty file for none.
    if bytes.is_empty() {
        disk.remove(path)?;
        return Ok(None);
    }
    // Whoever writes tables escapes zeros: these are what a power cut took, and could pass for white space.
    let decoded = match bytes.contains(&0) {
        true => Err("zeros in place of what was written".to_owned()),
        false => fastjson::decode(&bytes).map_err(|error| error.to_string()),
    };
    match decoded {
        Ok(table) => Ok(Some(table)),
        Err(error) => {
            let kept = with_suffix(path, ".damaged");
            tracing::error!(path = %path.display(), %error, kept = %kept.display(), "unreadable table");
            disk.rename(path, &kept)?;
            Ok(None)
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use env::{
        RealDisk,
        sim::{Crash, SimClock, SimDisk},
    };
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Offsets {
        offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
        #[serde(flatten)]
        rest: fastjson::Unknown,
    }

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("table-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Dir(dir)
        }

        fn open(&self) -> Table<Offsets> {
            Table::open(Arc::new(RealDisk::new()), self.file("")).expect("opens")
        }

        fn file(&self, suffix: &str) -> PathBuf {
            self.0.join(format!("config/offsets.json{suffix}"))
        }

        fn write(&self, suffix: &str, text: &str) {
            fs::create_dir_all(self.0.join("config")).expect("creates");
            fs::write(self.file(suffix), text).expect("writes");
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn set(table: &Table<Offsets>, offset: i64) {
        table.update(|table| {
            table.offset_table.entry("T@G".to_owned()).or_default().insert(0, offset);
        });
    }

    fn get(table: &Table<Offsets>) -> Option<i64> {
        table.read().offset_table.get("T@G")?.get(&0).copied()
    }

    #[test]
    fn what_was_flushed_is_there_again_with_members_that_nobody_knows() {
        let dir = Dir::new("again");
        dir.write("", r#"{"dataVersion":{"counter":7},"offsetTable":{"T@G":{0:12,1:7}}}"#);
        let table = dir.open();
        assert_eq!(get(&table), Some(12));
        set(&table, 13);
        assert!(table.is_dirty());
        table.flush().expect("writes");
        assert!(!table.is_dirty());
        let text = fs::read_to_string(dir.file("")).expect("reads");
        assert!(text.contains("\n") && text.contains("0:13") && text.contains("1:7"), "{text}");
        assert_eq!(dir.open().read(), table.read());
        assert!(dir.open().read().rest.contains_key("dataVersion"));
    }

    #[test]
    fn the_last_but_one_is_kept_and_used_when_the_last_is_damaged() {
        let dir = Dir::new("backup");
        let table = dir.open();
        for offset in 1..=2 {
            set(&table, offset);
            table.flush().expect("writes");
        }
        dir.write("", r#"{"offsetTable":{"T@G":{0:"#);
        let table = dir.open();
        assert_eq!(get(&table), Some(1));
        assert!(dir.file(".damaged").exists());
        // The only good copy is not replaced by the damaged one.
        set(&table, 3);
        table.flush().expect("writes");
        assert_eq!(get(&dir.open()), Some(3));
        fs::remove_file(dir.file("")).expect("removes");
        assert_eq!(get(&dir.open()), Some(1));
    }

    #[test]
    fn an_empty_or_missing_file_is_an_empty_table() {
        let dir = Dir::new("empty");
        assert_eq!(*dir.open().read(), Offsets::default());
        dir.write("", "");
        assert_eq!(*dir.open().read(), Offsets::default());
        dir.open().flush().expect("nothing to write");
        assert!(!dir.file("").exists());
    }

    #[test]
    fn a_snapshot_does_not_change_under_its_reader() {
        let dir = Dir::new("snapshot");
        let table = dir.open();
        set(&table, 1);
        let before = table.read();
        set(&table, 2);
        assert_eq!(before.offset_table["T@G"][&0], 1);
        assert_eq!(get(&table), Some(2));
    }

    #[test]
    fn a_power_cut_leaves_the_newest_synced_content_or_a_newer_one_and_a_kill_the_newest() {
        for seed in 0..300 {
            let clock = SimClock::new(0);
            let disk = SimDisk::new(seed, clock);
            let mut rng = fastrand::Rng::with_seed(seed);
            let path = PathBuf::from("/config/offsets.json");
            // The newest content that was written, and the newest that a power cut must leave.
            let (mut newest, mut durable, mut crash) = (0_i64, 0_i64, Crash::Process);
            for _ in 0..8 {
                let file = TableFile::new(Arc::new(disk.clone()), path.clone());
                let found: Offsets = file.load().expect("loads");
                let found = found.offset_table.get("T@G").map_or(0, |offsets| offsets[&0]);
                match crash {
                    Crash::Process => assert_eq!(found, newest, "seed {seed}"),
                    Crash::Power => {
                        assert!((durable..=newest).contains(&found), "seed {seed}: {found}");
                        (newest, durable) = (found, found);
                    }
                }
                let mut has_written = false;
                for _ in 0..rng.u8(0..6) {
                    if rng.bool() {
                        if !has_written {
                            // What a start found is synced before it is replaced.
                            (has_written, durable) = (true, newest);
                        }
                        newest += 1;
                        // Long enough to be torn.
                        let long = ("x".repeat(rng.usize(0..2000)), BTreeMap::new());
                        let offsets = ("T@G".to_owned(), BTreeMap::from([(0, newest)]));
                        let offset_table = BTreeMap::from([long, offsets]);
                        let table = Offsets { offset_table, ..Offsets::default() };
                        file.write(&fastjson::encode_pretty(&table)).expect("room");
                    } else {
                        file.sync().expect("syncs");
                        if has_written {
                            durable = newest;
                        }
                    }
                }
                crash = if rng.bool() { Crash::Power } else { Crash::Process };
                disk.crash(crash);
            }
        }
    }
}
