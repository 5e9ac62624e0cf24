//! Keys and values by namespace, kept in `kvConfig.json`; the order of topics is one namespace of it.
//!
//! A change is on disk when it is answered. (Java: `KVConfigManager`.)

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use env::Disk;
use serde::{Deserialize, Serialize};
use store::Table;

/// The KV configuration of a name server.
pub struct KvConfig {
    table: Table<Namespaces>,
    path: PathBuf,
    bytes_max: usize,
}

/// The content of the file (Java: `KVConfigSerializeWrapper`).
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Namespaces {
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
    /// Too much is kept.
    #[error("the name server keeps {max} bytes of KV configuration and no more; delete some")]
    Full {
        /// The bound.
        max: usize,
    },
}

impl KvConfig {
    /// Reads the file; a missing one is an empty table. At most `bytes_max` bytes of keys and values are taken.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf, bytes_max: usize) -> Result<KvConfig, KvError> {
        let table = Table::open(disk, path.clone());
        let table = table.map_err(|source| KvError::File { path: path.clone(), source })?;
        Ok(KvConfig { table, path, bytes_max })
    }

    /// Sets a key; on disk when this returns.
    pub fn put(&self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        let put = self.table.update(|namespaces| {
            let more = namespace.len() + key.len() + value.len();
            if namespaces.bytes() + more > self.bytes_max {
                return Err(KvError::Full { max: self.bytes_max });
            }
            let keys = namespaces.config_table.entry(namespace.to_owned()).or_default();
            keys.insert(key.to_owned(), value.to_owned());
            Ok(())
        });
        put.and_then(|()| self.flush())
    }

    /// Forgets a key, if there is one; on disk when this returns.
    pub fn delete(&self, namespace: &str, key: &str) -> Result<(), KvError> {
        // An emptied namespace stays, and is listed as an empty table, as in Java.
        self.table.update(|namespaces| {
            namespaces.config_table.get_mut(namespace).map(|keys| keys.remove(key))
        });
        self.flush()
    }

    /// Returns the value of a key.
    pub fn get(&self, namespace: &str, key: &str) -> Option<String> {
        self.table.read().config_table.get(namespace)?.get(key).cloned()
    }

    /// Returns all keys and values of a namespace, none if it was never used.
    pub fn list(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.table.read().config_table.get(namespace).cloned()
    }

    fn flush(&self) -> Result<(), KvError> {
        self.table.flush().map_err(|source| KvError::File { path: self.path.clone(), source })
    }
}

impl Namespaces {
    fn bytes(&self) -> usize {
        let pairs = self.config_table.values().flatten();
        let names: usize = self.config_table.keys().map(String::len).sum();
        names + pairs.map(|(key, value)| key.len() + value.len()).sum::<usize>()
    }
}
