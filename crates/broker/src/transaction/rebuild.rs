//! Reading the state of transactions out of the log at a start.
//!
//! From the progress that `consumerOffset.json` has of both queues: the op entries say which half records are done with,
//! the half records behind are what waits. From the op entries before, as many as the table of ended ones holds, come the
//! ends that a producer may repeat. Whoever wrote the log, Apogee or the original, the reading is the same; entries of
//! the original do not say how a half message ended, and one that waits may have been committed just before the stop:
//! both are found out when it matters (see [`super::Broker::has_final`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use env::Env;
use store::{Fault, Queue, QueueEntry, Store};
use wire::names;

use super::{
    Transactions,
    checks::{PROGRESS_GROUP, Service, TransactionMetrics},
    halves::{Half, Halves, Key, Keys, Progress, Proof, Recalled},
    records::{self, HalfRecord},
};
use crate::{Options, offsets::Offsets, saved::Saved};

/// Queue entries that are read at once.
const ENTRIES_READ: i64 = 512;

impl Transactions {
    /// Reads the state; it waits for the disk.
    ///
    /// # Errors
    /// [`Fault`] when queues or log cannot be read.
    pub(crate) fn open(
        options: &Options,
        store: &Store,
        env: &Env,
        offsets: &Offsets,
        metrics: Saved<TransactionMetrics>,
    ) -> Result<Transactions, Fault> {
        let reader = Reader {
            store,
            half_queue: store.queue(names::TRANS_HALF_TOPIC, 0),
            op_queue: store.queue(names::TRANS_OP_HALF_TOPIC, 0),
            keys: Keys::new(&mut env.fork_rng()),
            reserved: options.message_index_enable.then_some(options.file_reserved_time),
            wants_singles: options.is_for_4_9_7(),
        };
        let progress = |queue: &Queue| {
            let stored = offsets.query(PROGRESS_GROUP, queue.topic(), queue.id());
            let stored = stored.unwrap_or_else(|| queue.min_offset());
            stored.clamp(queue.min_offset(), queue.max_offset())
        };
        let progress =
            Progress { half: progress(&reader.half_queue), op: progress(&reader.op_queue) };
        let halves = reader.read(progress, options.ended_transactions_max)?;
        if halves.count() > 0 {
            tracing::info!(waiting = halves.count(), ?progress, "half messages wait for their end");
        }
        let interval = Duration::from_millis(options.transaction_check_interval);
        let Reader { half_queue, op_queue, keys, .. } = reader;
        Ok(Transactions {
            // Those that are there are kept, whatever the bound says now.
            halves_max: options.half_messages_max.max(halves.count()),
            halves: Mutex::new(halves),
            service: Mutex::new(Service::new(env.clock.monotonic(), interval)),
            keys,
            half_queue,
            op_queue,
            metrics,
        })
    }
}

struct Reader<'s> {
    store: &'s Store,
    half_queue: Arc<Queue>,
    op_queue: Arc<Queue>,
    keys: Keys,
    /// Whether ends that share an op entry are to be told again, each alone.
    wants_singles: bool,
    /// How long the log keeps messages, ms; none if a final message could not be found.
    reserved: Option<i64>,
}

impl Reader<'_> {
    fn read(&self, progress: Progress, ended_max: usize) -> Result<Halves, Fault> {
        let mut halves = Halves::new(progress, ended_max);
        let mut window = Window::default();
        for (offset, done) in self.ends_before(progress.op, ended_max)? {
            self.recall_end(&mut halves, &mut window, offset, done)?;
        }
        let mut dones = HashMap::new();
        // Ends that have no entry that 4.9.7 reads.
        let mut shared = BTreeMap::new();
        self.each(&self.op_queue, progress.op, self.op_queue.max_offset(), |op_offset, bytes| {
            let ends = bytes.as_deref().map(records::read_op).unwrap_or_default();
            let is_single = bytes.as_deref().is_some_and(records::is_single_op);
            let highest = ends.iter().map(|(offset, _)| *offset).max();
            halves.recall_op(op_offset, highest.unwrap_or(-1));
            for (offset, done) in ends {
                if offset >= progress.half {
                    dones.insert(offset, done);
                    if is_single {
                        shared.remove(&offset);
                    } else if self.wants_singles {
                        shared.insert(offset, done);
                    }
                } else {
                    self.recall_end(&mut halves, &mut window, offset, done)?;
                }
            }
            Ok(())
        })?;
        let end = self.half_queue.max_offset();
        self.each(&self.half_queue, progress.half, end, |offset, bytes| {
            let half = bytes.and_then(|bytes| {
                let half = HalfRecord::decode(&bytes)?;
                let key = self.keys.key(&half.group, &half.unique_key);
                let at = half.record.numbers.log_offset;
                let known = half.to_half(key, &mut halves, at, bytes.len() as u32);
                let proof = match self.reserved {
                    Some(reserved) => Proof::MissingSince(half.final_since(reserved)),
                    None => Proof::Proven,
                };
                Some(Half { proof, ..known })
            });
            match half {
                Some(half) => halves.recall(offset, half, dones.remove(&offset)),
                None => tracing::warn!(offset, "no half message can be read at this offset"),
            }
            Ok(())
        })?;
        halves.pass(end);
        shared.into_iter().for_each(|(offset, done)| halves.tell_again(offset, done));
        Ok(halves)
    }

    /// Returns the last ends that the op queue has before an offset, in their order; some more than `max` perhaps.
    fn ends_before(&self, op: i64, max: usize) -> Result<Vec<(i64, Recalled)>, Fault> {
        let mut pieces = Vec::new();
        let (mut at, mut count) = (op, 0);
        while at > self.op_queue.min_offset() && count < max {
            let from = (at - ENTRIES_READ).max(self.op_queue.min_offset());
            let mut piece = Vec::new();
            self.each(&self.op_queue, from, at, |_, bytes| {
                piece.extend(bytes.map(|bytes| records::read_op(&bytes)).unwrap_or_default());
                Ok(())
            })?;
            count += piece.len();
            pieces.push(piece);
            at = from;
        }
        Ok(pieces.into_iter().rev().flatten().collect())
    }

    /// Notes an end of a half record that is not of interest itself any more.
    fn recall_end(
        &self,
        halves: &mut Halves,
        window: &mut Window,
        offset: i64,
        done: Recalled,
    ) -> Result<(), Fault> {
        if let Some(key) = self.key_at(window, offset)? {
            halves.recall_end(key, done);
        }
        Ok(())
    }

    /// Returns the key of the half record at a queue offset, if it is still there.
    fn key_at(&self, window: &mut Window, offset: i64) -> Result<Option<Key>, Fault> {
        let Some(entry) = window.entry(&self.half_queue, offset)? else { return Ok(None) };
        let bytes = self.record(entry)?;
        Ok(bytes.and_then(|bytes| {
            let half = HalfRecord::decode(&bytes)?;
            Some(self.keys.key(&half.group, &half.unique_key))
        }))
    }

    /// Calls `each` with every record of a queue between two offsets; with none where there is none.
    fn each(
        &self,
        queue: &Queue,
        from: i64,
        until: i64,
        mut each: impl FnMut(i64, Option<bytes::Bytes>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut at = from;
        while at < until {
            let mut entries = Vec::new();
            queue.read(at, (until - at).min(ENTRIES_READ) as usize, &mut entries)?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                each(at, self.record(entry)?)?;
                at += 1;
            }
        }
        Ok(())
    }

    fn record(&self, entry: QueueEntry) -> Result<Option<bytes::Bytes>, Fault> {
        if entry.is_gap() {
            return Ok(None);
        }
        match self.store.read_blocking(entry.log_offset, entry.len) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Fault::OutOfRange(_) | Fault::Damaged { .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// Entries of the half queue that were read last: the offsets of an op entry lie near each other.
#[derive(Default)]
struct Window {
    from: i64,
    entries: Vec<QueueEntry>,
}

impl Window {
    fn entry(&mut self, queue: &Queue, offset: i64) -> Result<Option<QueueEntry>, Fault> {
        if offset < queue.min_offset() || offset >= queue.max_offset() {
            return Ok(None);
        }
        let at = |window: &Window| usize::try_from(offset - window.from).ok();
        if at(self).is_none_or(|at| at >= self.entries.len()) {
            self.from = (offset - ENTRIES_READ / 4).max(queue.min_offset());
            self.entries.clear();
            queue.read(self.from, ENTRIES_READ as usize, &mut self.entries)?;
        }
        Ok(at(self).and_then(|at| self.entries.get(at).copied()))
    }
}
