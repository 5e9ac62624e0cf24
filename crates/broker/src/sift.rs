//! Pulls whose filter looks into records: what the queue entries let through is read and judged one by one.
//!
//! A pull returns early, with what it has and where to go on, when it has read or worked long enough: a condition that
//! matches nothing must not keep others waiting.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use store::{Fault, Queue, QueueEntry};

use crate::{
    Broker,
    api::{PullError, PullStatus},
    filter::MessageFilter,
    pull::{Look, Scan, read_entries, read_log},
};

/// Entries that are read at once.
const ENTRIES_MAX: usize = 128;
/// Bytes of neighbouring records that are read at once, beyond the first: a record that passes keeps all of them.
const RUN_BYTES_MAX: u32 = 64 << 10;
/// Bytes of records that one pull judges.
const BYTES_MAX: u64 = 4 << 20;
/// How long one pull judges records.
const TIME_MAX: Duration = Duration::from_millis(20);

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
        let mut entries = Vec::with_capacity(ENTRIES_MAX);
        loop {
            entries.clear();
            read_entries(queue, look.next, ENTRIES_MAX, &mut entries).await?;
            if entries.is_empty() {
                if look.next == first {
                    look.status = PullStatus::OffsetFoundNull;
                }
                return Ok(());
            }
            let mut rest = &entries[..];
            while let [entry, ..] = rest {
                if scan.is_over(entry, look) {
                    return Ok(());
                }
                if entry.is_gap() || entry.log_offset < scan.log_start {
                    scan.pass(entry, look);
                    if look.count == 0 {
                        look.status = PullStatus::MessageWasRemoving;
                    }
                    rest = &rest[1..];
                    continue;
                }
                let (count, len) = neighbours(rest);
                let (run, others) = rest.split_at(count);
                match read_log(&inner.store, entry.log_offset, len).await {
                    Ok(bytes) => {
                        if self.judge(run, &bytes, filter, &mut scan, look) {
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
                rest = others;
                let is_enough =
                    judged >= BYTES_MAX || inner.env.clock.monotonic() - begun >= TIME_MAX;
                if is_enough {
                    return Ok(());
                }
            }
            if look.next >= look.max {
                return Ok(());
            }
        }
    }

    /// Judges records that lie side by side; says whether the pull is full.
    fn judge(
        &self,
        run: &[QueueEntry],
        bytes: &Bytes,
        filter: &MessageFilter,
        scan: &mut Scan,
        look: &mut Look,
    ) -> bool {
        let filters = &self.inner.filters;
        let (mut at, mut kept) = (0, 0..0);
        let mut dropped = 0;
        let mut is_full = false;
        for entry in run {
            if scan.is_over(entry, look) {
                is_full = true;
                break;
            }
            let queue_offset = look.next;
            scan.pass(entry, look);
            let end = at + entry.len as usize;
            if filter.passes(&bytes[at..end], filters) {
                scan.pick(queue_offset, entry);
                look.count += 1;
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
        is_full
    }
}

impl Look {
    fn keep(&mut self, bytes: &Bytes, part: std::ops::Range<usize>) {
        if !part.is_empty() {
            self.messages.push(bytes.slice(part));
        }
    }
}

/// Returns how many of the entries' records lie side by side, and their bytes.
fn neighbours(entries: &[QueueEntry]) -> (usize, u32) {
    let (mut count, mut len) = (1, entries[0].len);
    for entry in &entries[1..] {
        let is_next = entry.log_offset == entries[0].log_offset + u64::from(len);
        if !is_next || entry.is_gap() || len.saturating_add(entry.len) > RUN_BYTES_MAX {
            break;
        }
        len += entry.len;
        count += 1;
    }
    (count, len)
}
