//! Messaging rules: topics, publish, pull, groups, offsets, locks.
//!
//! [`Broker`] is the one handle that a door holds. It knows no request code, no header and no socket; requests, answers
//! and errors are those of [`api`]. Everything that can grow has a bound in [`Options`].

pub mod api;
mod broker;
mod options;

mod delay;
mod filter;
mod parked;
mod publish;
mod pull;
mod retry;

mod attributes;
mod clients;
mod groups;
mod locks;
mod offsets;
mod topics;

mod admin;
mod config;
mod saved;
mod stats;
mod unique_key;

pub use broker::{Broker, OpenError};
pub use clients::Session;
pub use delay::DelayOffsetTable;
pub use options::{DELAY_LEVELS, Options, parse_delay_levels};
pub use store::Boundary;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Runs what may wait for a disk on tokio's pool for that.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The pool is never shut down under a running request; so the work itself has panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A value that many read and few change, for a moment each; a panic elsewhere does not make it unreadable.
struct Live<T>(RwLock<T>);

impl<T> Live<T> {
    fn new(value: T) -> Live<T> {
        Live(RwLock::new(value))
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
