//! Pulls whose filter looks into records: what the queue entries and the bit maps of the queue's extension let through is
//! read and judged one by one.
//!
//! A pull returns early, with what it has and where to go on, when it has read or worked long enough: a condition that
//! matches nothing must not keep others waiting.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use store::{ExtUnit, Fault, Queue, QueueEntry};

use crate::{
    Broker,
    api::{PullError, PullStatus},
    blocking,
    filter::MessageFilter,
    pull::{Look, Scan, read_log},
};

/// Entries that are read at once.
const ENTRIES_MAX: usize = 128;
/// Bytes of neighbouring records that are read at once, beyond the first: a record that passes keeps all of them.
const RUN_BYTES_MAX: u32 = 64 << 10;
/// Bytes of records that one pull judges.
const BYTES_MAX: u64 = 4 << 20;
/// How long one pull judges records, with a condition and with a module.
const TIME_MAX: Duration = Duration::from_millis(20);
const CODE_TIME_MAX: Duration = Duration::from_millis(5);

impl Broker {
    /// Goes through the queue from `look.next` on, until the pull is full or has done enough.
    pub(crate) async fn sift(
        &self,
        queue: &Arc<Queue>,
        filter: &MessageFilter,
        mut scan: Scan,
        look: &mut Look,
    ) -> Result<(), PullError> {
        let inner = &*self.inner;
        let (first, begun) = (look.next, inner.env.clock.monotonic());
        let mut judged = 0;
        let (tags, clock) = (filter.tags(), &inner.env.clock);
        let until = begun + if filter.is_slow() { CODE_TIME_MAX } else { TIME_MAX };
        let (mut entries, mut units) = (Vec::with_capacity(ENTRIES_MAX), Vec::new());
        loop {
            entries.clear();
            units.clear();
            read_extended(queue, look.next, &mut entries, &mut units).await?;
            let is_out = |at: usize| {
                let unit = units.get(at).and_then(Option::as_ref);
                !tags.matches(entries[at].tags_code)
                    || unit.is_some_and(|unit| !filter.may_match(unit))
            };
            if entries.is_empty() {
                if look.next == first {
                    look.status = PullStatus::OffsetFoundNull;
                }
                return Ok(());
            }
            let mut at = 0;
            while let Some(entry) = entries.get(at) {
                if scan.is_over(entry, look) {
                    return Ok(());
                }
                let is_gone = entry.is_gap() || entry.log_offset < scan.log_start;
                if is_gone || is_out(at) {
                    scan.pass(entry, look);
                    if look.count == 0 {
                        look.status = match is_gone {
                            true => PullStatus::MessageWasRemoving,
                            false => PullStatus::NoMatchedMessage,
                        };
                    }
                    at += 1;
                    continue;
                }
                let (end, len) = run_from(at, &entries, is_out);
                let run = &entries[at..end];
                match read_log(&inner.store, entry.log_offset, len).await {
                    Ok(bytes) => {
                        if self.judge(run, &bytes, filter, until, &mut scan, look) {
                            return Ok(());
                        }
                    }
                    // Retention was faster than this pull: what was read before it is the answer.
                    Err(Fault::OutOfRange(_)) => {
                        if look.count == 0 {
                            scan.pass(entry, look);
                            look.status = PullStatus::MessageWasRemoving;
                        }
                        return Ok(());
                    }
                    Err(fault) => return Err(fault.into()),
                }
                judged += u64::from(len);
                at = end;
                let is_enough = judged >= BYTES_MAX || clock.monotonic() >= until;
                if is_enough {
                    return Ok(());
                }
            }
            if look.next >= look.max {
                return Ok(());
            }
        }
    }

    /// Judges records that lie side by side; says whether the pull is over.
    fn judge(
        &self,
        run: &[QueueEntry],
        bytes: &Bytes,
        filter: &MessageFilter,
        until: Duration,
        scan: &mut Scan,
        look: &mut Look,
    ) -> bool {
        let filters = &self.inner.filters;
        let (mut at, mut kept) = (0, 0..0);
        let mut dropped = 0;
        let mut is_over = false;
        for (count, entry) in run.iter().enumerate() {
            let is_late =
                count > 0 && filter.is_slow() && self.inner.env.clock.monotonic() >= until;
            if is_late || scan.is_over(entry, look) {
                is_over = true;
                break;
            }
            scan.pass(entry, look);
            let end = at + entry.len as usize;
            if filter.passes(&bytes[at..end], filters) {
                scan.pick(entry);
                look.count += u32::from(entry.count);
                look.status = PullStatus::Found;
                if kept.end != at || kept.is_empty() {
                    look.keep(bytes, kept);
                    kept = at..at;
                }
                kept.end = end;
            } else {
                dropped += 1;
                if look.count == 0 {
                    look.status = PullStatus::NoMatchedMessage;
                }
            }
            at = end;
        }
        look.keep(bytes, kept);
        self.inner.stats.filtered.add(dropped, 0);
        is_over
    }
}

impl Look {
    fn keep(&mut self, bytes: &Bytes, part: std::ops::Range<usize>) {
        if !part.is_empty() {
            self.messages.push(bytes.slice(part));
        }
    }
}

/// Returns where the records that lie side by side from the entry at `at` on end, and their bytes.
fn run_from(at: usize, entries: &[QueueEntry], is_out: impl Fn(usize) -> bool) -> (usize, u32) {
    let (first, mut len) = (entries[at], entries[at].len);
    let mut end = at + 1;
    while let Some(entry) = entries.get(end) {
        let is_next = entry.log_offset == first.log_offset + u64::from(len);
        let is_too_long = len.saturating_add(entry.len) > RUN_BYTES_MAX;
        if !is_next || entry.is_gap() || is_too_long || is_out(end) {
            break;
        }
        len += entry.len;
        end += 1;
    }
    (end, len)
}

/// Reads entries of the queue from an offset on with their units, at once if that takes no device.
async fn read_extended(
    queue: &Arc<Queue>,
    from: i64,
    entries: &mut Vec<QueueEntry>,
    units: &mut Vec<Option<ExtUnit>>,
) -> Result<(), Fault> {
    if queue.try_read_extended(from, ENTRIES_MAX, entries, units)? {
        return Ok(());
    }
    let queue = queue.clone();
    let read = blocking(move || {
        let (mut entries, mut units) = (Vec::new(), Vec::new());
        let read = queue.read_extended(from, ENTRIES_MAX, &mut entries, &mut units);
        read.map(|()| (entries, units))
    });
    (*entries, *units) = read.await?;
    Ok(())
}
