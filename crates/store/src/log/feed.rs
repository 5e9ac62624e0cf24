//! What the dispatcher needs of each message, travelling beside the tail so that live dispatch parses nothing.
//!
//! The feed is bounded. When the dispatcher falls so far behind that it is full (a view stands still on a full disk),
//! what comes next is not kept but read from the log again later ([`Log::next_items`]): live dispatch and replay yield
//! the same items.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex},
};

use wire::record::{CheckCrc, Record, RecordError};

use super::{
    Log,
    append::lock,
    scan::{Go, Stopped, scan},
};
use crate::{
    draft::{Derived, inner_count, lights_of},
    fault::Fault,
    views::{Queue, QueueEntry, QueueKind, index::KeyHashes},
};

/// Most messages that are taken at once when they are read from the log: a read is worth more of them than a run.
pub(crate) const REPLAY_MAX: usize = 8192;

/// One message, as views see it.
#[derive(Clone)]
pub struct DispatchItem {
    /// The queue that it has a place in; `None` for prepared and rolled-back transaction messages.
    pub queue: Option<Arc<Queue>>,
    /// Log offset of its record.
    pub log_offset: u64,
    /// Bytes of its record.
    pub len: u32,
    /// Place in its queue, or that of the first of its messages.
    pub queue_offset: i64,
    /// How many messages it holds for its queue: 1, or those of a batch in a queue of batches.
    pub count: u16,
    /// Tag hash, or the time when a delayed message is due.
    pub tags_code: i64,
    /// Store time.
    pub stored_at: i64,
    /// Hashes under which it is indexed.
    pub keys: KeyHashes,
    /// Light queues that it has a place in, too, and where.
    pub lights: Box<[(Arc<Queue>, i64)]>,
}

/// The items between append and dispatch.
pub(crate) struct Feed {
    items_max: usize,
    shared: Mutex<Shared>,
}

struct Shared {
    items: VecDeque<DispatchItem>,
    /// What is to be read from the log before `items` go on: nothing, or a range that is being read.
    replay: Range<u64>,
    /// Start of what did not fit behind `items`; it reaches to `end`.
    dropped_from: Option<u64>,
    /// End of the last run.
    end: u64,
}

impl Feed {
    /// Begins with what lies between `applied`, which the views have, and the log's end.
    pub(crate) fn new(items_max: usize, applied: u64, end: u64) -> Feed {
        let shared =
            Shared { items: VecDeque::new(), replay: applied..end, dropped_from: None, end };
        Feed { items_max, shared: Mutex::new(shared) }
    }

    /// Takes the items of a run that ends at `end`; called under the append lock, so in log order.
    pub(crate) fn push(&self, items: &mut Vec<DispatchItem>, end: u64) {
        let mut shared = lock(&self.shared);
        if shared.dropped_from.is_none() && shared.items.len() + items.len() > self.items_max {
            shared.dropped_from = Some(shared.end);
        }
        if shared.dropped_from.is_none() {
            shared.items.extend(items.drain(..));
        } else {
            items.clear();
        }
        shared.end = end;
    }

    /// Returns how many messages wait.
    pub(crate) fn len(&self) -> usize {
        lock(&self.shared).items.len()
    }
}

impl Log {
    /// Moves up to `max` items, up to [`REPLAY_MAX`] if they come from the log, of records that end at or before `upto` to `out`, in log order, and returns the offset
    /// before which all items have now been taken. `queue` interns a topic's queue, for items that come from the log.
    /// One caller: the dispatcher.
    pub(crate) fn next_items(
        &self,
        upto: u64,
        max: usize,
        queue: &dyn Fn(&str, i32) -> Arc<Queue>,
        out: &mut Vec<DispatchItem>,
    ) -> Result<u64, Fault> {
        let mut shared = lock(&self.feed.shared);
        if shared.replay.is_empty()
            && shared.items.is_empty()
            && let Some(from) = shared.dropped_from.take()
        {
            shared.replay = from..shared.end;
            tracing::info!(from, to = shared.end, "dispatch reads the log: it was too far behind");
        }
        if !shared.replay.is_empty() {
            let log_min = self.segments.range().start;
            if shared.replay.start < log_min {
                tracing::warn!(
                    from = shared.replay.start,
                    log_min,
                    "dispatch leaves out what is gone from the log"
                );
                shared.replay.start = log_min;
            }
            let range = shared.replay.clone();
            drop(shared);
            let next =
                self.replay(range.start..range.end.min(upto), REPLAY_MAX.max(max), queue, out)?;
            lock(&self.feed.shared).replay.start = next;
            return Ok(next);
        }
        let mut taken = 0;
        while taken < max {
            let fits = |item: &mut DispatchItem| item.log_offset + u64::from(item.len) <= upto;
            let Some(item) = shared.items.pop_front_if(fits) else { break };
            out.push(item);
            taken += 1;
        }
        match (shared.items.front(), shared.dropped_from) {
            (Some(item), _) => Ok(item.log_offset.min(upto)),
            (None, Some(from)) => Ok(from.min(upto)),
            (None, None) => Ok(shared.end.min(upto)),
        }
    }

    /// Reads the records of a range of the log that was checked before and pushes their items, at most `max`. Returns
    /// where to go on.
    pub(crate) fn replay(
        &self,
        range: Range<u64>,
        max: usize,
        queue: &dyn Fn(&str, i32) -> Arc<Queue>,
        out: &mut Vec<DispatchItem>,
    ) -> Result<u64, Fault> {
        let mut left = max;
        let (next, stopped) = scan(&self.segments, range, |at, bytes| {
            let record =
                Record::decode(bytes, CheckCrc::No).map_err(|what| Fault::Damaged { at, what })?;
            let mut item = DispatchItem::of(&record, at, &self.limits.delays, queue);
            if self.limits.serves_light_queues && item.queue.is_some() {
                let lights = lights_of(record.topic, &record.properties).into_iter();
                item.lights = lights.map(|(name, offset)| (queue(&name, 0), offset)).collect();
            }
            out.push(item);
            left -= 1;
            Ok::<_, Fault>(if left > 0 { Go::On } else { Go::StopBehind })
        })?;
        match stopped {
            Stopped::AtEnd | Stopped::ByVisitor => Ok(next),
            Stopped::AtNothing | Stopped::AtMisfit => {
                Err(Fault::Damaged { at: next, what: RecordError::Length })
            }
            Stopped::AtGap => Err(Fault::OutOfRange(next)),
        }
    }
}

impl DispatchItem {
    /// Computes from a record what a live append would have handed on. The place in the log is where the record was
    /// found, as in the original.
    pub(crate) fn of(
        record: &Record<'_>,
        at: u64,
        delays: &[i64],
        queue: &dyn Fn(&str, i32) -> Arc<Queue>,
    ) -> DispatchItem {
        let derived = Derived::of(record.topic, record.sys_flag, &record.properties);
        let queue = derived.queued.then(|| queue(record.topic, record.queue_id));
        let is_batched = queue.as_ref().is_some_and(|queue| queue.kind() == QueueKind::Batch);
        DispatchItem {
            queue,
            count: if is_batched { inner_count(&record.properties) } else { 1 },
            log_offset: at,
            len: record.len,
            queue_offset: record.numbers.queue_offset,
            tags_code: derived.tags.code(record.numbers.stored_at, delays),
            stored_at: record.numbers.stored_at,
            keys: derived.keys,
            lights: Box::default(),
        }
    }

    /// Returns what a queue says of it.
    pub(crate) fn entry(&self, offset: i64, count: u16) -> QueueEntry {
        let DispatchItem { log_offset, len, tags_code, .. } = *self;
        QueueEntry { offset, count, log_offset, len, tags_code }
    }
}
