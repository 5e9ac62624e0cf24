//! Views of the log: what can be deleted and rebuilt from it.
//!
//! A [`queue`] per topic and queue id, and the key [`index`]. `dispatch` feeds both in log order, in memory, and `writer`
//! writes them; a recovery feeds them by the same function from records that it parses. Either view cuts, when it is opened, what the recovery will
//! feed it again, so no record is applied twice and none is left out.

pub(crate) mod dispatch;
mod ext;
pub mod index;
pub mod queue;
pub(crate) mod writer;

use std::{
    collections::HashSet,
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use env::{Env, Millis};
pub use ext::ExtUnit;
use jiff::tz::TimeZone;
pub use queue::{Boundary, Layout, Queue, QueueEntry, QueueKind, Queues};

use self::{
    index::{Index, Shape},
    queue::Written,
};
use crate::{Fault, OpenError, Options, checkpoint::Checkpoint};

/// Whether the last owner of the directory stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStop {
    /// Everything that the files say is whole.
    Clean,
    /// Only what was synced is whole; behind it may be anything.
    Crash,
}

/// The views of one store.
pub(crate) struct Views {
    pub(crate) queues: Queues,
    /// `None` if `messageIndexEnable` is off.
    pub(crate) index: Option<Index>,
    written: Mutex<Written>,
}

/// What of the views is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durable {
    /// Every record below this log offset is in every view.
    pub(crate) to: u64,
    /// Start of a record, not above `to`, and its store time or an earlier one: from where Java, after a crash, builds
    /// queues and index anew. Not behind the first record of an index file that is not full.
    pub(crate) record: u64,
    pub(crate) record_stored_at: Millis,
    /// End time of the last index file that is full; 0 if none is.
    pub(crate) index_time: Millis,
}

impl Views {
    /// Opens the views, those of `batch_topics` as queues of batches. `trusted` reaches from the first offset of the log to
    /// where the views are as they should be: what stands for records behind it is cut, since those are dispatched again.
    /// `checkpoint` is what the directory has; `store_time` answers for records below the end of `trusted`.
    pub(crate) fn open(
        options: &Options,
        env: &Env,
        batch_topics: HashSet<String>,
        last_stop: LastStop,
        trusted: Range<u64>,
        checkpoint: Option<&Checkpoint>,
        store_time: &dyn Fn(u64) -> Option<Millis>,
    ) -> Result<Views, OpenError> {
        let root = &options.store_path_root_dir;
        let queues = Queues::open(
            Arc::clone(&env.disk),
            Layout {
                root: root.join("consumequeue"),
                file_len: options.queue_file_len(QueueKind::Simple),
                batch_root: root.join("batchconsumequeue"),
                batch_file_len: options.queue_file_len(QueueKind::Batch),
                ext_root: root.join("consumequeue_ext"),
                ext_file_len: options.mapped_file_size_consume_queue_ext,
                is_extended: options.enable_consume_queue_ext,
                open_files_max: options.open_files_max,
            },
            batch_topics,
            last_stop,
            trusted.end,
            trusted.start,
        )?;
        let open_index = || {
            let dir = root.join("index");
            let shape = Shape {
                slots: options.max_hash_slot_num.max(1),
                entries: options.max_index_num.clamp(2, i32::MAX as u32),
            };
            let disk = Arc::clone(&env.disk);
            Index::open(
                disk,
                dir.clone(),
                shape,
                TimeZone::system(),
                last_stop,
                trusted.end,
                store_time,
            )
            .map_err(|source| OpenError::Io { what: "cannot open", path: dir, source })
        };
        let index = options.message_index_enable.then(open_index).transpose()?;
        // Until something is dispatched the checkpoint says of queues what it said before, unless the log was cut there.
        let record = checkpoint.and_then(|checkpoint| u64::try_from(checkpoint.queues_offset).ok());
        let written = Written {
            to: trusted.end,
            record: record.filter(|record| *record <= trusted.end).unwrap_or(0),
            stored_at: checkpoint.map_or(0, |checkpoint| checkpoint.queues_time),
        };
        Ok(Views { queues, index, written: Mutex::new(written) })
    }

    /// Makes durable what was written, the index also what was not. With [`LastStop::Clean`] it is the last call before
    /// the directory is left.
    pub(crate) fn sync(&self, purpose: LastStop) -> io::Result<Durable> {
        // The mark comes first: what is written meanwhile is above it.
        let written = self.written();
        self.queues.sync()?;
        let index = self.index.as_ref().map(|index| index.sync(purpose)).transpose()?;
        let unsealed = index.and_then(|index| index.unsealed_from);
        let (unsealed_record, unsealed_stored_at) = unsealed.unwrap_or((u64::MAX, Millis::MAX));
        Ok(Durable {
            to: index.map_or(written.to, |index| index.applied.min(written.to)),
            record: written.record.min(unsealed_record),
            record_stored_at: written.stored_at.min(unsealed_stored_at),
            index_time: index.map_or(0, |index| index.sealed_time),
        })
    }

    /// Lets the views forget what lies before the log's first offset; returns how many files were removed. `lost` is told
    /// which offsets each queue lost.
    pub(crate) fn follow_log_min(
        &self,
        log_min: u64,
        lost: &mut dyn FnMut(&Queue, Range<i64>),
    ) -> Result<usize, Fault> {
        let queue_files = self.queues.follow_log_min(log_min, lost)?;
        let index_files =
            self.index.as_ref().map_or(Ok(0), |index| index.remove_before(log_min))?;
        Ok(queue_files + index_files)
    }

    /// Returns how far queue entries are written.
    pub(crate) fn written(&self) -> Written {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_written(&self, written: Written) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = written;
    }
}

#[cfg(test)]
mod tests;
