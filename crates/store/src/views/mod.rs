//! Views of the log: what can be deleted and rebuilt from it.
//!
//! A consume queue per topic and queue id, and the key index. The dispatcher feeds both in log order; a recovery feeds
//! them by the same function from records that it parses. Either view cuts, when it is opened, what the recovery will
//! feed it again, so no record is applied twice and none is left out.

pub(crate) mod dispatch;
pub mod index;
pub mod queue;

pub use queue::{Boundary, Queue, QueueEntry, Queues};

/// Whether the last owner of the directory stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStop {
    /// Everything that the files say is whole.
    Clean,
    /// Only what was synced is whole; behind it may be anything.
    Crash,
}
