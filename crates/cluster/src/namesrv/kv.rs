//! Keys and values by namespace, kept in `kvConfig.json`; the order of topics is one namespace of it.
//!
//! A change is in memory at once and on disk before it is answered. The file is replaced whole: the new one is written
//! beside it and synced, the old one becomes `.bak`. (Java: `KVConfigManager`.)

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use env::{Disk, Env};
use serde::{Deserialize, Serialize};

/// Bytes of a file that is worth reading: eight times what a full table needs with every byte escaped.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// The KV configuration of a name server.
pub struct KvConfig {
    table: Mutex<Table>,
    path: PathBuf,
    bytes_max: usize,
    env: Env,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Table {
    config_table: BTreeMap<String, BTreeMap<String, String>>,
}

/// Why the configuration could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The file cannot be read or written.
    #[error("`{path}`: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what we or the original write.
    #[error("`{path}` is damaged, and so is its `.bak`: {source}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// Too much is kept.
    #[error("the name server keeps {max} bytes of KV configuration and no more; delete some")]
    Full {
        /// The bound.
        max: usize,
    },
}

impl KvConfig {
    /// Reads the file, or its `.bak` if a crash or a damage left only that; a missing one is an empty table.
    pub fn open(path: PathBuf, bytes_max: usize, env: Env) -> Result<KvConfig, KvError> {
        let table = match read(&*env.disk, &path) {
            Ok(Some(table)) => table,
            Ok(None) => read(&*env.disk, &bak(&path))?.unwrap_or_default(),
            Err(damaged @ KvError::Damaged { .. }) => {
                read(&*env.disk, &bak(&path)).ok().flatten().ok_or(damaged)?
            }
            Err(error) => return Err(error),
        };
        Ok(KvConfig { table: Mutex::new(table), path, bytes_max, env })
    }

    /// Sets a key; on disk when this returns.
    pub fn put(&self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        let mut table = self.table();
        let mut changed = table.clone();
        changed
            .config_table
            .entry(namespace.to_owned())
            .or_default()
            .insert(key.to_owned(), value.to_owned());
        if changed.bytes() > self.bytes_max {
            return Err(KvError::Full { max: self.bytes_max });
        }
        self.write(&changed)?;
        *table = changed;
        Ok(())
    }

    /// Forgets a key, if there is one; on disk when this returns.
    pub fn delete(&self, namespace: &str, key: &str) -> Result<(), KvError> {
        let mut table = self.table();
        let mut changed = table.clone();
        // An emptied namespace stays, and is listed as an empty table, as in Java.
        let removed = changed.config_table.get_mut(namespace).and_then(|keys| keys.remove(key));
        if removed.is_some() {
            self.write(&changed)?;
            *table = changed;
        }
        Ok(())
    }

    /// Returns the value of a key.
    pub fn get(&self, namespace: &str, key: &str) -> Option<String> {
        self.table().config_table.get(namespace)?.get(key).cloned()
    }

    /// Returns all keys and values of a namespace, none if it was never used.
    pub fn list(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.table().config_table.get(namespace).cloned()
    }

    fn write(&self, table: &Table) -> Result<(), KvError> {
        let content = serde_json::to_vec(table).expect("maps of strings are JSON");
        replace_file(&*self.env.disk, &self.path, &content)
            .map_err(|source| KvError::File { path: self.path.clone(), source })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn bytes(&self) -> usize {
        let pairs = self.config_table.values().flatten();
        let names: usize = self.config_table.keys().map(String::len).sum();
        names + pairs.map(|(key, value)| key.len() + value.len()).sum::<usize>()
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Table>, KvError> {
    let content = env::read_whole(disk, path, FILE_BYTES_MAX)
        .map_err(|source| KvError::File { path: path.to_owned(), source })?;
    content
        .map(|content| serde_json::from_slice(&content))
        .transpose()
        .map_err(|source| KvError::Damaged { path: path.to_owned(), source })
}

/// Replaces a small file whole: a crash leaves the old content, the new one, or the old one as `.bak`.
pub(super) fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".tmp");
    let fresh = PathBuf::from(fresh);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.create_dir_all(dir)?;
    env::write_whole(disk, &fresh, content)?;
    if disk.exists(path)? {
        disk.rename(path, &bak(path))?;
    }
    disk.rename(&fresh, path)?;
    disk.sync_dir(dir)
}

fn bak(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    PathBuf::from(name)
}
