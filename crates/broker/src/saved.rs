//! Tables that are written now and then as a whole: offsets and delays.

use std::{io, path::PathBuf, sync::Arc};

use env::Env;
use serde::{Serialize, de::DeserializeOwned};
use store::Table;

/// A table and its file.
pub(crate) struct Saved<T> {
    table: Table<T>,
    file: &'static str,
}

impl<T: Clone + Default + Serialize + DeserializeOwned> Saved<T> {
    pub(crate) fn open(
        env: &Env,
        dir: &std::path::Path,
        file: &'static str,
    ) -> io::Result<Saved<T>> {
        let path: PathBuf = dir.join(file);
        Ok(Saved { table: Table::open(env.disk.clone(), path)?, file })
    }

    /// Returns the table as it is now.
    pub(crate) fn read(&self) -> Arc<T> {
        self.table.read()
    }

    /// Changes the table in memory; [`Saved::flush`] writes it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut T)) {
        self.table.update(change);
    }

    /// Writes what has changed. A failure is logged, and the next call tries again.
    pub(crate) fn flush(&self) {
        if let Err(error) = self.table.flush() {
            tracing::error!(file = self.file, %error, "table not written");
        }
    }
}
