//! Tables: small, rarely written state that is not in the log, as JSON files in the original's form (Java: `ConfigManager`).
//!
//! Readers share a snapshot; an update changes it in memory, and [`Table::flush`] writes what changed: updates that come
//! while a write is under way share the next one. A write moves the present file to `<name>.bak`, syncs the directory,
//! writes the new file and syncs both, so that after any crash one of the two is whole. A file that cannot be read is
//! kept as `<name>.damaged`, and the `.bak` is used.
//!
//! Members that `T` does not know survive if it collects them (`wire::fastjson::Unknown`).

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use env::{Disk, read_whole, write_whole};
use serde::{Serialize, de::DeserializeOwned};
use wire::fastjson;

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A table of one store.
pub struct Table<T> {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    current: RwLock<Arc<T>>,
    /// Counts updates.
    version: AtomicU64,
    /// The version that is on disk; held while a write is under way.
    saved: Mutex<u64>,
}

impl<T: Clone + Default + Serialize + DeserializeOwned> Table<T> {
    /// Reads the table from `path`, else from its `.bak`; without either it is `T::default()`. The directory need not
    /// exist. An error is one of the disk: what is in the files never stops a start.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> io::Result<Table<T>> {
        let backup = with_suffix(&path, ".bak");
        let current = match load(&*disk, &path)? {
            Some(table) => table,
            None => load(&*disk, &backup)?.unwrap_or_default(),
        };
        Ok(Table {
            disk,
            path,
            current: RwLock::new(Arc::new(current)),
            version: AtomicU64::new(0),
            saved: Mutex::new(0),
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
        save(&*self.disk, &self.path, &fastjson::encode_pretty(&*table))?;
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
    match fastjson::decode(&bytes) {
        Ok(table) => Ok(Some(table)),
        Err(error) => {
            let kept = with_suffix(path, ".damaged");
            tracing::error!(path = %path.display(), %error, kept = %kept.display(), "unreadable table");
            disk.rename(path, &kept)?;
            Ok(None)
        }
    }
}

fn save(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    if disk.exists(path)? {
        disk.rename(path, &with_suffix(path, ".bak"))?;
        // The old content has its new name for sure before the new content takes the old name.
        disk.sync_dir(dir)?;
    } else {
        disk.create_dir_all(dir)?;
    }
    write_whole(disk, path, bytes)?;
    disk.sync_dir(dir)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use env::RealDisk;
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
}
