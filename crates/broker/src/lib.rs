//! Messaging rules: topics, publish, pull, groups, offsets, locks.
//!
//! [`Broker`] is the one handle that a door holds. It knows no request code, no header and no socket; requests, answers
//! and errors are those of [`api`]. Everything that can grow has a bound in [`Options`].

pub mod api;
mod broker;
mod options;

mod delay;
pub mod filter;
mod parked;
mod publish;
mod pull;
mod recall;
mod retry;
mod sift;
mod timer;
mod transaction;

mod attributes;
mod clients;
pub mod figures;
mod groups;
mod inspect;
mod light;
mod locks;
mod offsets;
mod progress;
mod topics;

mod admin;
mod catalog;
mod config;
mod saved;
mod stats;
mod trace;
mod unique_key;

pub use broker::{Broker, OpenError};
pub use clients::{ConsumerIds, Session};
pub use config::{KeepConfig, Kept, live_keys};
pub use delay::DelayOffsetTable;
pub use options::{DELAY_LEVELS, Options, Release, parse_delay_levels};
pub use pull::Plan as PullPlan;
pub use store::Boundary;
pub use timer::TimerMetrics;
pub use transaction::{TransactionMetric, TransactionMetrics};

use std::sync::{Arc, PoisonError, RwLock};

/// Runs what may wait for a disk on tokio's pool for that.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The pool is never shut down under a running request; so the work itself has panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A value that many read and few change. Readers share what is current when they ask and hold up nobody, however long
/// they keep it; whoever changes it puts another in its place.
struct Live<T>(RwLock<Arc<T>>);

impl<T> Live<T> {
    fn new(value: T) -> Live<T> {
        Live(RwLock::new(Arc::new(value)))
    }

    fn read(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}
