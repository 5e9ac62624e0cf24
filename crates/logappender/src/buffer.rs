//! The buffer between those who log and the task that ships.
//!
//! Invariant: what waits and what is under way count together, so memory stays within the bounds while brokers are slow
//! or away; every record ends in exactly one counter. The lock guards a push, a take or some counters, never a format
//! and never I/O.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use apogee_client::{Message, Producer, RequestError, ResponseCode, SendError};
use bytes::Bytes;
use tokio::sync::Notify;

use crate::Target;

/// Bytes that a record counts beside its body, for what is made of it on its way.
const OVERHEAD: usize = 256;
/// How long to wait before records that no broker took are tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// What has become of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A broker has stored them.
    pub shipped: u64,
    /// Not taken: the buffer was full, or the appender had been shut down.
    pub dropped: u64,
    /// Taken, and then refused by a broker for good, or left when the time of the shutdown was over.
    pub failed: u64,
    /// They wait or are under way.
    pub waiting: usize,
    /// Bytes that those take.
    pub waiting_bytes: usize,
    /// Why the last request that failed did; requests that are tried again count here, too.
    pub last_error: Option<String>,
}

/// A record on its way.
pub(crate) struct Entry {
    pub(crate) body: Box<str>,
    pub(crate) level: &'static str,
    pub(crate) appender_type: &'static str,
}

pub(crate) struct Buffer {
    records_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    /// For the task that ships: there is a record, or there will be none any more.
    arrived: Notify,
    /// For who flushes: records have come to an end.
    settled: Condvar,
}

#[derive(Default)]
struct State {
    /// Each with how many were dropped just before it.
    queue: VecDeque<(Entry, u64)>,
    counts: Counts,
    gap: u64,
    is_closed: bool,
    has_ended: bool,
}

impl State {
    /// How many records have been taken and have come to an end.
    fn ended(&self) -> u64 {
        self.counts.shipped + self.counts.failed
    }
}

impl Buffer {
    pub(crate) fn new(records_max: usize, bytes_max: usize) -> Buffer {
        let state = Mutex::default();
        Buffer { records_max, bytes_max, state, arrived: Notify::new(), settled: Condvar::new() }
    }

    /// Takes a record, or drops it when there is no room.
    pub(crate) fn push(&self, entry: Entry) {
        let bytes = entry.body.len() + OVERHEAD;
        let mut state = self.lock();
        let State { queue, counts, gap, is_closed, .. } = &mut *state;
        let has_room =
            counts.waiting < self.records_max && counts.waiting_bytes + bytes <= self.bytes_max;
        if *is_closed || !has_room {
            counts.dropped += 1;
            *gap += 1;
            return;
        }
        counts.waiting += 1;
        counts.waiting_bytes += bytes;
        queue.push_back((entry, mem::take(gap)));
        drop(state);
        self.arrived.notify_one();
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let state = self.lock();
        let wanted = state.ended() + state.counts.waiting as u64;
        let (_state, timeout) = self
            .settled
            .wait_timeout_while(state, limit, |state| state.ended() < wanted)
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    pub(crate) fn shutdown(&self, limit: Duration) -> Counts {
        let mut state = self.lock();
        state.is_closed = true;
        self.arrived.notify_one();
        let (mut state, _timeout) = self
            .settled
            .wait_timeout_while(state, limit, |state| state.counts.waiting > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.has_ended = true;
        state.queue.clear();
        state.counts.failed += state.counts.waiting as u64;
        (state.counts.waiting, state.counts.waiting_bytes) = (0, 0);
        let counts = state.counts.clone();
        drop(state);
        self.arrived.notify_one();
        self.settled.notify_all();
        counts
    }

    /// Waits for records and takes all; none when the appender has ended.
    async fn take(&self) -> VecDeque<(Entry, u64)> {
        loop {
            {
                let mut state = self.lock();
                if state.has_ended || !state.queue.is_empty() {
                    return mem::take(&mut state.queue);
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Counts the first `records` of those under way, and forgets their sizes.
    fn settle(&self, sizes: &mut VecDeque<usize>, records: usize, failed: bool) {
        let bytes: usize = sizes.drain(..records).sum();
        let mut state = self.lock();
        // What was given up has been counted.
        if state.has_ended {
            return;
        }
        let counts = &mut state.counts;
        *(if failed { &mut counts.failed } else { &mut counts.shipped }) += records as u64;
        counts.waiting -= records;
        counts.waiting_bytes -= bytes;
        drop(state);
        self.settled.notify_all();
    }

    /// Notes why a request failed; says whether there is a point in going on.
    fn blame(&self, error: &SendError) -> bool {
        let mut state = self.lock();
        state.counts.last_error = Some(error.to_string());
        !state.has_ended
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what comes into the buffer until the appender ends: all that has gathered while the last was under way.
pub(crate) async fn ship(buffer: Arc<Buffer>, producer: Producer, target: Target) {
    let clock = env::Clock::real();
    'taken: loop {
        let taken = buffer.take().await;
        if taken.is_empty() {
            break;
        }
        let mut sizes: VecDeque<usize> =
            taken.iter().map(|(entry, _)| entry.body.len() + OVERHEAD).collect();
        let mut messages: Vec<Message> =
            taken.into_iter().map(|(entry, gap)| pack(&target, entry, gap)).collect();
        while !messages.is_empty() {
            let failure = match producer.send_batch(messages).await {
                Ok(receipts) => {
                    buffer.settle(&mut sizes, receipts.len(), false);
                    break;
                }
                Err(failure) => failure,
            };
            buffer.settle(&mut sizes, failure.stored.len(), false);
            messages = failure.unsent;
            if !buffer.blame(&failure.error) {
                break 'taken;
            }
            if is_final(&failure.error) {
                let refused = failure.in_doubt.clamp(1, messages.len());
                messages.drain(..refused);
                buffer.settle(&mut sizes, refused, true);
            } else {
                clock.sleep(PAUSE).await;
            }
        }
    }
    producer.shutdown().await;
}

fn pack(target: &Target, entry: Entry, gap: u64) -> Message {
    let message = target
        .message(Bytes::from(entry.body.into_boxed_bytes()))
        .property("LEVEL", entry.level)
        .property("APPENDER_TYPE", entry.appender_type);
    if gap > 0 { message.property("DROPPED", gap.to_string()) } else { message }
}

/// Whether no broker would ever take it. All else may be put right while the records wait.
fn is_final(error: &SendError) -> bool {
    match error {
        SendError::Invalid(_) | SendError::Closed => true,
        SendError::Route(_) => false,
        SendError::NotStored { last, .. } | SendError::Unconfirmed { last, .. } => match last {
            RequestError::Refused { code, .. } => *code == ResponseCode::MESSAGE_ILLEGAL,
            RequestError::Malformed { .. } => true,
            RequestError::Unreachable { .. } | RequestError::Unconfirmed { .. } => false,
        },
    }
}
