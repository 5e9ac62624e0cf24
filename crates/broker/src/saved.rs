//! When tables are written.
//!
//! A change is written by the thread that makes it, unless one was written a moment ago: then housekeeping writes all
//! that has gathered. So a lone change is durable when it is answered, and ten thousand topics created in a row do not
//! write ten thousand ever longer files: writing takes a tenth of the time at most.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use env::Env;
use serde::{Serialize, de::DeserializeOwned};
use store::Table;

/// Pause after a write, in times of what the write took.
const PAUSE_PER_WRITE: u32 = 10;

/// A table and when it may be written next.
pub(crate) struct Saved<T> {
    table: Table<T>,
    env: Env,
    file: &'static str,
    is_dirty: AtomicBool,
    /// On the monotonic clock; its lock is held while a changing thread writes.
    pause_until: Mutex<Duration>,
}

impl<T: Clone + Default + Serialize + DeserializeOwned> Saved<T> {
    pub(crate) fn open(
        env: &Env,
        dir: &std::path::Path,
        file: &'static str,
    ) -> io::Result<Saved<T>> {
        let path: PathBuf = dir.join(file);
        Ok(Saved {
            table: Table::open(env.disk.clone(), path)?,
            env: env.clone(),
            file,
            is_dirty: AtomicBool::new(false),
            pause_until: Mutex::new(Duration::ZERO),
        })
    }

    /// Returns the table as it is now.
    pub(crate) fn read(&self) -> Arc<T> {
        self.table.read()
    }

    /// Changes the table, and writes it unless it was written a moment ago.
    pub(crate) fn update(&self, change: impl FnOnce(&mut T)) {
        self.update_later(change);
        let mut pause_until = match self.pause_until.try_lock() {
            Ok(pause_until) => pause_until,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread is writing: housekeeping writes this change.
            Err(TryLockError::WouldBlock) => return,
        };
        let begun = self.env.clock.monotonic();
        if begun >= *pause_until {
            self.flush();
            let now = self.env.clock.monotonic();
            *pause_until = now + now.saturating_sub(begun) * PAUSE_PER_WRITE;
        }
    }

    /// Changes the table; housekeeping writes it.
    pub(crate) fn update_later(&self, change: impl FnOnce(&mut T)) {
        self.table.update(change);
        self.is_dirty.store(true, Ordering::Release);
    }

    /// Says whether a change waits to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty.load(Ordering::Acquire)
    }

    /// Writes what has changed. A failure is logged, and the next call tries again.
    pub(crate) fn flush(&self) {
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = self.table.flush() {
            self.is_dirty.store(true, Ordering::Release);
            tracing::error!(file = self.file, %error, "table not written");
        }
    }
}
