//! What can go wrong, as the caller sees it: one enum per thing that the caller can ask for.

use std::{io, path::PathBuf};

/// Why an append was refused; nothing of the entry was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too much waits to be written (`backlog_bytes_max`); try again soon.
    #[error("busy: {backlog_bytes} bytes wait to be written")]
    Busy {
        /// Bytes appended and not yet written.
        backlog_bytes: u64,
    },
    /// The disk is full, or above its warning level; appends resume when there is room.
    #[error("the disk of the log is full")]
    DiskFull,
    /// A write or sync failed: nothing is taken until the store was opened anew.
    #[error("the log is poisoned by a failed write or sync")]
    Poisoned,
    /// The record is longer than the log takes, or a part of it than its field can say.
    #[error("the message is too long to be stored")]
    TooLarge,
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// The log took an I/O error that it cannot recover from; what was not acknowledged yet never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is poisoned by a failed write or sync")]
pub struct Poisoned;

/// Why something could not be read, or a view not be written.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The place is before the first or after the last byte that the log has.
    #[error("offset {0} is outside the log")]
    OutOfRange(u64),
    /// What lies there is not what was asked for.
    #[error("no whole record at offset {at}: {what}")]
    Damaged {
        /// The offset asked for.
        at: u64,
        /// What was found instead.
        what: wire::record::RecordError,
    },
    /// The disk is full; the same call may succeed later.
    #[error("no room on the disk")]
    DiskFull,
    /// A write or sync of the log failed for good.
    #[error("the log is poisoned by a failed write or sync")]
    Poisoned,
    /// The device or file system failed.
    #[error("input or output failed: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::DiskFull,
            _ => Fault::Io(error),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory open.
    #[error("`{}` is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The directory has files of another size than the options say.
    #[error(
        "`{}` has {found} bytes where `{key}` says {expected}; set `{key}={found}` to open this store",
        path.display()
    )]
    FileLen {
        /// The key that decides the size.
        key: &'static str,
        /// The file that does not fit.
        path: PathBuf,
        /// Its length, which is the value that fits.
        found: u64,
        /// What the options say.
        expected: u64,
    },
    /// An option has a value that no store can have.
    #[error("`{key}`: {why}")]
    Option {
        /// RocketMQ's name of the key.
        key: &'static str,
        /// What is wrong with the value, and the allowed range.
        why: String,
    },
    /// A file could not be read, written or created.
    #[error("{what} `{}`: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// What was read could not be recovered.
    #[error("recovery failed: {0}")]
    Recovery(#[from] Fault),
}
