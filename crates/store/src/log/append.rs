//! Appending: numbers, store time and bytes of a run of messages, under one short lock.
//!
//! Under the lock there is a copy of the messages and some counting, nothing else: what can be computed before was
//! (see [`Draft`]), and no I/O happens here. A record never crosses the end of a file: if fewer than 8 bytes would stay
//! behind it, a blank record of 8 bytes is written and the record goes to the next file (Java: `DefaultAppendMessageCallback`).

use std::sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering};

use bytes::BytesMut;
use smallvec::{SmallVec, smallvec};
use wire::record::{self, Numbers};

use super::{Log, feed::DispatchItem, tail::Piece};
use crate::{
    draft::{Appended, Draft, Entry},
    fault::Refused,
};

/// Results of one append, in the order of its entries.
pub type Outcomes = SmallVec<[Result<Appended, Refused>; 8]>;

/// How far the wall clock may step back before store time follows it.
const STEP_BACK_HELD_MS: i64 = 1000;

/// The growing end of the log; everything under the append lock.
pub(crate) struct Head {
    /// Offset of the next record.
    end: u64,
    /// Store time of the last run.
    stored_at: i64,
    /// The chunk being filled. What is in it beyond the last piece belongs to the run under way.
    chunk: BytesMut,
    /// Offset of the chunk's first byte that is in no piece yet.
    piece_at: u64,
    /// Pieces of the run under way that are whole.
    pieces: Vec<Piece>,
    /// Dispatch data of the run under way.
    items: Vec<DispatchItem>,
}

impl Head {
    pub(crate) fn new(end: u64) -> Head {
        Head {
            end,
            stored_at: 0,
            chunk: BytesMut::new(),
            piece_at: end,
            pieces: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Returns the store time for `now`: held over a small step back, following a larger one.
    fn store_time(&mut self, now: i64) -> i64 {
        if now < self.stored_at {
            if self.stored_at - now <= STEP_BACK_HELD_MS {
                return self.stored_at;
            }
            tracing::warn!(
                from = self.stored_at,
                to = now,
                "the clock was set back; store time follows it"
            );
        }
        self.stored_at = now;
        now
    }

    /// Makes what is encoded since the last piece a piece that reaches to `next`.
    fn cut_piece(&mut self, next: u64, ends_file: bool) {
        let bytes = self.chunk.split().freeze();
        if !bytes.is_empty() {
            self.pieces.push(Piece { at: self.piece_at, next, bytes, ends_file });
        }
        self.piece_at = next;
    }
}

impl Log {
    /// Appends each entry of a run, or refuses it; see [`crate::Store::append`].
    pub(crate) fn append(&self, run: &[Entry]) -> Outcomes {
        self.append_run(run, false)
    }

    /// As [`Log::append`], up to the first entry that is refused for now; see [`crate::Store::append_in_order`].
    pub(crate) fn append_in_order(&self, run: &[Entry]) -> Outcomes {
        self.append_run(run, true)
    }

    fn append_run(&self, run: &[Entry], in_order: bool) -> Outcomes {
        let mut outcomes = Outcomes::with_capacity(run.len());
        let mut head = lock(&self.head);
        if let Some(refused) = self.refusal() {
            if refused == Refused::DiskFull {
                self.counts.refused[1].fetch_add(run.len() as u64, Ordering::Relaxed);
            }
            outcomes.resize(run.len(), Err(refused));
            return outcomes;
        }
        let written = self.marks.written.get();
        let stored_at = head.store_time(self.clock.now());
        for entry in run {
            let outcome = self.append_entry(&mut head, entry, stored_at, written);
            if let (true, Err(refused @ Refused::Busy { .. })) = (in_order, &outcome) {
                outcomes.resize(run.len(), Err(*refused));
                break;
            }
            outcomes.push(outcome);
        }
        let is_busy =
            |outcome: &&Result<Appended, Refused>| matches!(outcome, Err(Refused::Busy { .. }));
        let busy = outcomes.iter().filter(is_busy).count();
        if busy > 0 {
            self.counts.refused[0].fetch_add(busy as u64, Ordering::Relaxed);
        }
        let end = head.end;
        head.cut_piece(end, false);
        self.tail.push(&mut head.pieces);
        self.feed.push(&mut head.items, end);
        self.marks.appended.advance(end);
        outcomes
    }

    fn refusal(&self) -> Option<Refused> {
        if self.is_poisoned() {
            Some(Refused::Poisoned)
        } else if self.state.closed.load(Ordering::SeqCst) {
            Some(Refused::Closed)
        } else if self.is_full() {
            Some(Refused::DiskFull)
        } else {
            None
        }
    }

    fn append_entry(
        &self,
        head: &mut Head,
        entry: &Entry,
        stored_at: i64,
        written: u64,
    ) -> Result<Appended, Refused> {
        let numbered;
        let drafts = match entry {
            Entry::One(draft) if draft.tells_numbers() => {
                numbered = [draft.with_offsets()];
                &numbered
            }
            Entry::One(_) | Entry::Batch(_) => entry.drafts(),
        };
        let len: usize = drafts.iter().map(|draft| draft.len).sum();
        let too_long = |draft: &Draft| {
            draft.len > self.limits.record_len_max || draft.message.check_lengths().is_err()
        };
        if len as u64 + record::BLANK_LEN as u64 > self.limits.file_len
            || drafts.iter().any(too_long)
        {
            return Err(Refused::TooLarge);
        }
        let backlog_bytes = head.end - written.min(head.end);
        // A lone message above the bound is taken when nothing waits: refusing it would be for ever.
        if backlog_bytes > 0 && backlog_bytes + len as u64 > self.limits.backlog_bytes_max {
            return Err(Refused::Busy { backlog_bytes });
        }
        let left = self.limits.file_len - head.end % self.limits.file_len;
        if len as u64 + record::BLANK_LEN as u64 > left {
            self.make_room(head, record::BLANK_LEN);
            record::encode_blank(left as u32, &mut head.chunk);
            head.end += left;
            let end = head.end;
            head.cut_piece(end, true);
        }
        self.make_room(head, len);

        let log_offset = head.end;
        let first = drafts.first();
        let queue_offset = first.map_or(0, |first| first.queue.numbering().next());
        let mut log_offsets: SmallVec<[u64; 1]> = smallvec![];
        for draft in drafts {
            log_offsets.push(head.end);
            self.append_record(head, draft, stored_at);
        }
        let first_is_queued = first.is_some_and(|first| first.derived.queued);
        Ok(Appended {
            log_offset,
            end: head.end,
            queue_offset: if first_is_queued { queue_offset } else { 0 },
            stored_at,
            count: drafts.iter().map(|draft| u32::from(draft.count)).sum(),
            log_offsets,
        })
    }

    fn append_record(&self, head: &mut Head, draft: &Draft, stored_at: i64) {
        let queue_offset = match draft.derived.queued {
            true => draft.queue.numbering().take(draft.count),
            false => 0,
        };
        let numbers = Numbers { queue_offset, log_offset: head.end, stored_at };
        draft.message.encode(numbers, draft.body_crc, &mut head.chunk);
        head.items.push(DispatchItem {
            queue: draft.derived.queued.then(|| draft.queue.clone()),
            log_offset: head.end,
            len: draft.len as u32,
            queue_offset,
            count: draft.count,
            tags_code: draft.derived.tags.code(stored_at, &self.limits.delays),
            stored_at,
            keys: draft.derived.keys.clone(),
            lights: match draft.derived.queued {
                true => {
                    draft.lights.iter().map(|it| (it.clone(), it.numbering().take(1))).collect()
                }
                false => Box::default(),
            },
        });
        head.end += draft.len as u64;
    }

    /// Sees to it that `len` bytes fit the chunk without moving it.
    fn make_room(&self, head: &mut Head, len: usize) {
        if head.chunk.capacity() - head.chunk.len() < len {
            let end = head.end;
            head.cut_piece(end, false);
            head.chunk = self.tail.chunk(len);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under a lock of the store leaves counters that no longer agree: let it spread.
    mutex.lock().expect("no thread panics while it holds a lock of the log")
}

/// As [`lock`], for state that stays whole whatever happens to its holder.
pub(crate) fn lock_any<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
