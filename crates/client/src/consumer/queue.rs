//! A queue that is this member's for now: what was pulled from it, and what of that is done.
//!
//! Invariant: the progress of a queue is the offset of its first message that is not done, whoever finishes first; it
//! never passes a message that a handler still has. Java: `ProcessQueue`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use wire::body::MessageQueue;

use crate::{message::ReceivedMessage, meters};

/// How long a lock at the broker holds without being renewed, from our side (Java: `REBALANCE_LOCK_MAX_LIVE_TIME`).
const LOCK_LIFE: Duration = Duration::from_secs(30);

/// A queue of this member.
pub(crate) struct Assigned {
    pub(crate) queue: Arc<MessageQueue>,
    cache: Mutex<Cache>,
    pub(crate) meters: meters::Queue,
    /// Something was put in, or the lock was taken.
    pub(crate) filled: Notify,
    /// Something is done, so there may be room.
    pub(crate) emptied: Notify,
    dropped: watch::Sender<bool>,
    /// Held while a handler has messages that must stay in order.
    pub(crate) in_order: AsyncMutex<()>,
}

/// What may wait for the handler.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) span_max: i64,
}

#[derive(Default)]
struct Cache {
    /// Messages that are not taken yet, in order.
    waiting: VecDeque<ReceivedMessage>,
    /// Every message that is not done, and those behind it: offset, bytes, whether it is done.
    slots: VecDeque<(i64, usize, bool)>,
    count: usize,
    bytes: usize,
    /// Where to go on behind the last slot; none while it is not known where to begin.
    next: Option<i64>,
    /// Progress that was kept last.
    kept: Option<i64>,
    locked_at: Option<Duration>,
    pulled_at: i64,
    done_at: i64,
}

/// How a queue is doing, for reports.
pub(crate) struct Standing {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) progress: Option<i64>,
    pub(crate) pulled_at: i64,
    pub(crate) done_at: i64,
}

impl Assigned {
    pub(crate) fn new(queue: MessageQueue, meters: meters::Queue) -> Assigned {
        Assigned {
            queue: Arc::new(queue),
            cache: Mutex::default(),
            meters,
            filled: Notify::new(),
            emptied: Notify::new(),
            dropped: watch::Sender::new(false),
            in_order: AsyncMutex::default(),
        }
    }

    /// Begins, or goes on, at `offset`; what waits is forgotten.
    pub(crate) fn begin_at(&self, offset: i64) {
        let mut cache = self.cache();
        if cache.next != Some(offset) {
            self.meters.left(cache.count, cache.bytes);
            let kept = cache.next.is_none().then_some(offset);
            *cache =
                Cache { next: Some(offset), kept, locked_at: cache.locked_at, ..Cache::default() };
        }
    }

    /// Puts in what was pulled; pulling goes on at `next`.
    pub(crate) fn put(&self, messages: Vec<ReceivedMessage>, next: i64, now: i64) {
        {
            let mut cache = self.cache();
            let (count, bytes) = (cache.count, cache.bytes);
            let latency = messages.first().map_or(0, |first| now - first.stored_at());
            for mut message in messages {
                message.arrived_at = now;
                let bytes = message.body().len();
                cache.slots.push_back((message.queue_offset(), bytes, false));
                cache.count += 1;
                cache.bytes += bytes;
                cache.waiting.push_back(message);
            }
            self.meters.came(cache.count - count, cache.bytes - bytes, latency);
            cache.next = Some(next);
            cache.pulled_at = now;
        }
        self.filled.notify_one();
    }

    /// Takes up to `count` messages; none while nothing waits.
    pub(crate) fn take(&self, count: usize) -> Vec<ReceivedMessage> {
        let mut cache = self.cache();
        let count = count.min(cache.waiting.len());
        cache.waiting.drain(..count).collect()
    }

    /// Marks messages as done.
    pub(crate) fn done(&self, messages: &[ReceivedMessage], now: i64) {
        {
            let mut cache = self.cache();
            let (count, bytes) = (cache.count, cache.bytes);
            for message in messages {
                let offset = message.queue_offset();
                if let Ok(at) = cache.slots.binary_search_by_key(&offset, |slot| slot.0)
                    && !std::mem::replace(&mut cache.slots[at].2, true)
                {
                    cache.count -= 1;
                    cache.bytes -= cache.slots[at].1;
                }
            }
            self.meters.left(count - cache.count, bytes - cache.bytes);
            while cache.slots.front().is_some_and(|slot| slot.2) {
                cache.slots.pop_front();
            }
            cache.done_at = now;
        }
        self.emptied.notify_one();
    }

    /// Tells whether more may be pulled.
    pub(crate) fn has_room(&self, room: Room) -> bool {
        let cache = self.cache();
        let span = match (cache.slots.front(), cache.slots.back()) {
            (Some(first), Some(last)) => last.0 - first.0,
            (Some(_), None) | (None, Some(_) | None) => 0,
        };
        cache.count < room.messages_max && cache.bytes < room.bytes_max && span <= room.span_max
    }

    /// Returns the offset of the next message to pull, if it is known.
    pub(crate) fn next(&self) -> Option<i64> {
        self.cache().next
    }

    /// Returns the progress: everything before it is done.
    pub(crate) fn progress(&self) -> Option<i64> {
        self.cache().progress()
    }

    /// Returns the progress if it has changed since it was kept.
    pub(crate) fn unkept(&self) -> Option<i64> {
        let cache = self.cache();
        cache.progress().filter(|progress| cache.kept != Some(*progress))
    }

    pub(crate) fn note_kept(&self, progress: i64) {
        self.cache().kept = Some(progress);
    }

    /// Ends it: nothing more is pulled or begun.
    pub(crate) fn end(&self) {
        self.dropped.send_replace(true);
    }

    pub(crate) fn is_ended(&self) -> bool {
        *self.dropped.borrow()
    }

    /// Completes once it has ended.
    pub(crate) async fn ended(&self) {
        let _ = self.dropped.subscribe().wait_for(|dropped| *dropped).await;
    }

    /// Notes that the broker has locked it for this client, or has not.
    pub(crate) fn set_locked(&self, at: Option<Duration>) {
        self.cache().locked_at = at;
        if at.is_some() {
            self.filled.notify_one();
            self.emptied.notify_one();
        }
    }

    pub(crate) fn is_locked(&self, now: Duration) -> bool {
        self.cache().locked_at.is_some_and(|at| now.saturating_sub(at) < LOCK_LIFE)
    }

    pub(crate) fn standing(&self) -> Standing {
        let cache = self.cache();
        Standing {
            count: cache.count,
            bytes: cache.bytes,
            first: cache.slots.front().map_or(0, |slot| slot.0),
            last: cache.slots.back().map_or(0, |slot| slot.0),
            progress: cache.progress(),
            pulled_at: cache.pulled_at,
            done_at: cache.done_at,
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        let cache = self.cache();
        self.meters.left(cache.count, cache.bytes);
    }
}

impl Cache {
    fn progress(&self) -> Option<i64> {
        self.slots.front().map(|slot| slot.0).or(self.next)
    }
}
