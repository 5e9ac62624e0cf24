//! Consume queues: for each topic and queue id, where its messages lie in the log (Java: `ConsumeQueue`).
//!
//! ```text
//! file consumequeue/<topic>/<id>/<20 digits: position of its first byte>, mappedFileSizeConsumeQueue bytes, sparse
//! entry, 20 bytes: long log offset, int record length, long tags code
//!
//! file batchconsumequeue/<topic>/<id>/<20 digits: position of its first byte>, mapperFileSizeBatchConsumeQueue bytes, sparse
//! entry, 46 bytes: long log offset, int record length, long tags code, long store time, long queue offset of its first
//! message, short messages, int -1, int 0
//! ```
//! The second kind is for topics with `queue.type=BatchCQ` (Java: `BatchConsumeQueue`): a record may hold many messages,
//! each with an offset of its own, so an entry says which it stands for, and is found by a binary search.
//! In the first kind an entry's place is its offset. A *place* is that of an entry, counted from where its queue began.
//!
//! The dispatcher pushes entries in log order; they wait in memory, where readers see them at once, and the view writer
//! writes them, queue by queue, about once a second. A queue at rest is a handle of some hundred bytes: no open file, no buffer, no thread.
//! A queue that starts later than its file has the room before it filled with entries (0, 2147483647, 0).
//!
//! Invariant: the entries of a queue are dense, in log order, and those that are written are a prefix of those that a
//! rebuild from the log would give. What is behind the last written entry of a file is zeros.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map},
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use env::{Disk, File, Millis, Open};

use super::{
    LastStop,
    ext::{ExtUnit, Extension, Mode, is_address},
};
use crate::{Fault, OpenError};

const ENTRY_LEN_MAX: usize = QueueKind::Batch.entry_len();
/// Length that stands in an entry which fills the room before a queue's first message.
const GAP_LEN: u32 = i32::MAX as u32;
/// Queues with unsynced files above which the whole file system is synced at once.
const SYNCS_MAX: usize = 64;
/// Entries that are copied at a time to be written: as long as that lasts the dispatcher may have to wait for the queue.
const WRITE_ENTRIES: usize = 8192;
/// Entries in the first look for the end of a file: one page of them, which is all that a young queue has.
const FIRST_LOOK: u64 = 204;

/// Which form the entries of a topic's queues have; it never changes while the topic exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueKind {
    /// An entry for each message.
    #[default]
    Simple,
    /// An entry for each record, which may be a batch of messages.
    Batch,
}

impl QueueKind {
    /// Returns the bytes of an entry on disk.
    pub const fn entry_len(self) -> usize {
        match self {
            QueueKind::Simple => 20,
            QueueKind::Batch => 46,
        }
    }
}

/// Where one record of a queue lies, and what its tag hashes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Queue offset of its first message.
    pub offset: i64,
    /// How many messages it holds: 1, or those of a batch in a queue of batches.
    pub count: u16,
    /// Start of the record in the log.
    pub log_offset: u64,
    /// Length of the record in bytes.
    pub len: u32,
    /// Hash of the tag, 0 for none; in queues of delayed messages the time when they are due.
    pub tags_code: i64,
}

impl QueueEntry {
    const fn gap(offset: i64) -> QueueEntry {
        QueueEntry { offset, count: 1, log_offset: 0, len: GAP_LEN, tags_code: 0 }
    }

    /// Whether the entry only fills room and stands for no message.
    pub fn is_gap(&self) -> bool {
        self.len == GAP_LEN
    }

    /// Returns the queue offset behind its last message.
    pub fn end(&self) -> i64 {
        self.offset.saturating_add(i64::from(self.count))
    }

    /// Returns it as it is on disk, in the front of the bytes.
    fn encode(&self, kind: QueueKind, stored_at: Millis) -> [u8; ENTRY_LEN_MAX] {
        let mut bytes = [0; ENTRY_LEN_MAX];
        bytes[..8].copy_from_slice(&self.log_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.tags_code.to_be_bytes());
        if kind == QueueKind::Batch {
            bytes[20..28].copy_from_slice(&stored_at.to_be_bytes());
            bytes[28..36].copy_from_slice(&self.offset.to_be_bytes());
            bytes[36..38].copy_from_slice(&self.count.to_be_bytes());
            // In no compacted log; the last four mean nothing.
            bytes[38..42].copy_from_slice(&(-1_i32).to_be_bytes());
        }
        bytes
    }

    /// Decodes the entry at a place from the first bytes of `bytes`.
    fn decode(kind: QueueKind, place: u64, bytes: &[u8]) -> QueueEntry {
        let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let (offset, count) = match kind {
            QueueKind::Simple => (place, 1),
            QueueKind::Batch => (long(28), u16::from_be_bytes([bytes[36], bytes[37]])),
        };
        QueueEntry {
            offset: offset as i64,
            count,
            log_offset: long(0),
            len: u32::from_be_bytes(bytes[8..12].try_into().expect("4 bytes")),
            tags_code: long(12) as i64,
        }
    }

    /// Whether this can be an entry of a record below `log_end`: not the zeros behind a file's last one, nor rubbish.
    fn is_below(&self, log_end: u64) -> bool {
        let numbers = self.offset >= 0 && (1..=i16::MAX as u16).contains(&self.count);
        (1..=GAP_LEN).contains(&self.len) && self.log_offset < log_end && numbers
    }
}

/// Which message [`Queue::offset_at`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The first that was stored at the time or later; behind the last message if there is none.
    Lower,
    /// The last that was stored at the time or earlier; the first message if there is none.
    Upper,
}

/// Tells when the record at a log offset and of a length was stored; `None` if it is gone.
pub type StoreTime = dyn Fn(u64, u32) -> Option<Millis> + Send + Sync;

/// A consume queue: a handle that is shared by all who append to it, dispatch to it or read it.
pub struct Queue {
    topic: Box<str>,
    id: i32,
    kind: QueueKind,
    /// Tells queues apart in the cache of open files.
    serial: u32,
    next: AtomicI64,
    max: AtomicI64,
    min: AtomicI64,
    state: Mutex<State>,
    /// `None` if none is written and there is none to be read.
    ext: Option<Box<Extension>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct State {
    /// Files that exist, by number: the first byte of number n is at n × the length of a file.
    files: Range<u64>,
    /// Entries before this place are written.
    written: u64,
    /// Encoded entries from `written` on.
    pending: VecDeque<u8>,
    /// Log offset of the last entry, pending or not; `None` if the queue has none.
    last_log_offset: Option<u64>,
    /// Whether what waits is on the list of queues to write.
    is_listed: bool,
    /// Whether the dispatcher will tell about new entries at the end of its run.
    is_touched: bool,
    /// First file with writes that are not synced.
    unsynced_from: Option<u64>,
    /// Whether a file was created or removed, and its directory not synced.
    has_new_name: bool,
    /// Whether the topic was removed: what is still dispatched to this handle goes nowhere.
    is_removed: bool,
}

/// What the queues of a store have in common.
struct Shared {
    disk: Arc<dyn Disk>,
    simple: Shape,
    batch: Shape,
    ext_root: PathBuf,
    ext_file_len: u64,
    is_extended: bool,
    files: Arc<Mutex<FileCache>>,
    serials: AtomicU32,
    /// Entries that wait in memory, over all queues.
    pending: AtomicUsize,
    unsynced: Mutex<Vec<Arc<Queue>>>,
    /// A sync failed: nothing is known about what was written before, so nothing may be called durable any more.
    sync_failed: AtomicBool,
    store_time: OnceLock<Box<StoreTime>>,
}

/// What the queues of a kind have in common.
struct Shape {
    root: PathBuf,
    entries_per_file: u64,
}

impl Queue {
    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The form of its entries.
    pub fn kind(&self) -> QueueKind {
        self.kind
    }

    /// The queue's number within the topic.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Offset of the first message that the log still has; the same as [`Queue::max_offset`] if it has none.
    pub fn min_offset(&self) -> i64 {
        self.min.load(Ordering::Acquire)
    }

    /// Offset behind the last message that readers can see.
    pub fn max_offset(&self) -> i64 {
        self.max.load(Ordering::Acquire)
    }

    /// Returns where appended messages get their offsets from; to be used under the lock that orders the log.
    pub(crate) fn numbering(&self) -> Numbering<'_> {
        Numbering(&self.next)
    }

    /// Appends to `out` the entries from that of offset `from` on, not more than `max` of them; none if `from` is not
    /// between [`Queue::min_offset`] and [`Queue::max_offset`]. It may wait for the disk.
    pub fn read(&self, from: i64, max: usize, out: &mut Vec<QueueEntry>) -> Result<(), Fault> {
        self.read_with(from, max, out, None, |file, at, bytes| {
            file.read_at(at, bytes).map(|()| true)
        })?;
        Ok(())
    }

    /// As [`Queue::read`], and appends to `units` what the queue's extension says of each entry, if it has one.
    pub fn read_extended(
        &self,
        from: i64,
        max: usize,
        out: &mut Vec<QueueEntry>,
        units: &mut Vec<Option<ExtUnit>>,
    ) -> Result<(), Fault> {
        self.read_with(from, max, out, Some(units), |file, at, bytes| {
            file.read_at(at, bytes).map(|()| true)
        })?;
        Ok(())
    }

    /// As [`Queue::read_extended`], but returns `false`, with nothing appended, if a device had to be waited for.
    pub fn try_read_extended(
        &self,
        from: i64,
        max: usize,
        out: &mut Vec<QueueEntry>,
        units: &mut Vec<Option<ExtUnit>>,
    ) -> Result<bool, Fault> {
        let before = out.len();
        let is_whole = self.read_with(from, max, out, Some(units), |file, at, bytes| {
            file.try_read_at(at, bytes)
        })?;
        if !is_whole {
            out.truncate(before);
        }
        Ok(is_whole)
    }

    /// As [`Queue::read`], but returns `false`, with nothing appended, if a device had to be waited for.
    pub fn try_read(
        &self,
        from: i64,
        max: usize,
        out: &mut Vec<QueueEntry>,
    ) -> Result<bool, Fault> {
        let before = out.len();
        let is_whole =
            self.read_with(from, max, out, None, |file, at, bytes| file.try_read_at(at, bytes))?;
        if !is_whole {
            out.truncate(before);
        }
        Ok(is_whole)
    }

    fn read_with(
        &self,
        from: i64,
        max: usize,
        out: &mut Vec<QueueEntry>,
        units: Option<&mut Vec<Option<ExtUnit>>>,
        read: impl Fn(&dyn File, u64, &mut [u8]) -> io::Result<bool>,
    ) -> Result<bool, Fault> {
        let before = out.len();
        if !self.read_entries(from, max, out, &read)? {
            return Ok(false);
        }
        let entries = &mut out[before..];
        let Some(ext) = &self.ext else { return Ok(true) };
        if units.is_none() && !entries.iter().any(|entry| is_address(entry.tags_code)) {
            return Ok(true);
        }
        let tags_codes = entries.iter().map(|entry| entry.tags_code);
        let Some(found) = ext.units(tags_codes, &read)? else { return Ok(false) };
        for (entry, unit) in entries.iter_mut().zip(&found) {
            // What is not found keeps its address, which every filter lets through.
            entry.tags_code = unit.as_ref().map_or(entry.tags_code, |unit| unit.tags_code);
        }
        if let Some(units) = units {
            units.extend(found);
        }
        Ok(true)
    }

    fn read_entries(
        &self,
        from: i64,
        max: usize,
        out: &mut Vec<QueueEntry>,
        read: &impl Fn(&dyn File, u64, &mut [u8]) -> io::Result<bool>,
    ) -> Result<bool, Fault> {
        if from < self.min_offset() || from >= self.max_offset() {
            return Ok(true);
        }
        let Some(place) = self.place_of(from, read)? else { return Ok(false) };
        self.read_places(place, max, out, read)
    }

    /// Returns the place of the entry of the message at `offset`; `None` if `read` could not tell at once.
    fn place_of(
        &self,
        offset: i64,
        read: &impl Fn(&dyn File, u64, &mut [u8]) -> io::Result<bool>,
    ) -> Result<Option<u64>, Fault> {
        if self.kind == QueueKind::Simple {
            return Ok(Some(offset as u64));
        }
        let (mut low, mut high) = {
            let state = self.lock();
            (state.files.start * self.shape().entries_per_file, self.end_of(&state))
        };
        let mut one = Vec::with_capacity(1);
        while low < high {
            let middle = low + (high - low) / 2;
            one.clear();
            if !self.read_places(middle, 1, &mut one, read)? {
                return Ok(None);
            }
            // What is gone lay before.
            if one.first().is_none_or(|entry| entry.end() <= offset) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Some(low))
    }

    /// As [`Queue::read_with`], from a place on.
    fn read_places(
        &self,
        from: u64,
        max: usize,
        out: &mut Vec<QueueEntry>,
        read: &impl Fn(&dyn File, u64, &mut [u8]) -> io::Result<bool>,
    ) -> Result<bool, Fault> {
        let (kind, entry_len) = (self.kind, self.kind.entry_len());
        let per_file = self.shape().entries_per_file;
        let (mut at, last) = (from, from.saturating_add(max as u64));
        let mut bytes = Vec::new();
        let decode = |out: &mut Vec<QueueEntry>, at: u64, bytes: &[u8]| {
            let entries = bytes.chunks_exact(entry_len).zip(at..);
            out.extend(entries.map(|(bytes, place)| QueueEntry::decode(kind, place, bytes)));
        };
        loop {
            let file_end = {
                let state = self.lock();
                // The topic may have been removed, or the queue begun anew, since the bounds were looked at.
                let end = last.min(self.end_of(&state));
                if at >= end {
                    return Ok(true);
                }
                if at >= state.written {
                    let pending = (at - state.written) as usize..(end - state.written) as usize;
                    copy(&state.pending, pending, entry_len, &mut bytes);
                    drop(state);
                    decode(out, at, &bytes);
                    return Ok(true);
                }
                state.written.min((at / per_file + 1) * per_file).min(end)
            };
            bytes.resize((file_end - at) as usize * entry_len, 0);
            let file = match self.shared.open(self, at / per_file, Open::Existing) {
                Ok(file) => file,
                // Retention was faster: the entries are gone, as the next look at the minimum will say.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            if !read(&*file, at % per_file * entry_len as u64, &mut bytes)? {
                return Ok(false);
            }
            decode(out, at, &bytes);
            at = file_end;
        }
    }

    /// Returns the offset of the message that `boundary` names for a store time, between [`Queue::min_offset`] and
    /// [`Queue::max_offset`]. Times that do not grow (a foreign log, a clock that stepped back) make the answer one of
    /// several right ones. It reads queue and log.
    pub fn offset_at(&self, time: Millis, boundary: Boundary) -> Result<i64, Fault> {
        let (min, max) = (self.min_offset(), self.max_offset());
        let is_before = |stored: Millis| match boundary {
            Boundary::Lower => stored < time,
            Boundary::Upper => stored <= time,
        };
        // Below `low` everything was stored before; what the log no longer has counts as old.
        let (mut low, mut high) = (min, max);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.stored_at(middle)?.is_none_or(is_before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(match boundary {
            Boundary::Lower => low,
            // Of a batch, its first.
            Boundary::Upper => self.entry(low - 1)?.map_or(min, |entry| entry.offset),
        })
    }

    /// Returns when the message at `offset` was stored; `None` if the queue or the log has none there.
    pub fn stored_at(&self, offset: i64) -> Result<Option<Millis>, Fault> {
        let Some(entry) = self.entry(offset)? else { return Ok(None) };
        let store_time = self.shared.store_time.get().filter(|_| !entry.is_gap());
        Ok(store_time.and_then(|store_time| store_time(entry.log_offset, entry.len)))
    }

    /// Returns the entry of the message at `offset`, if the queue has it.
    pub fn entry(&self, offset: i64) -> Result<Option<QueueEntry>, Fault> {
        let mut one = Vec::with_capacity(1);
        self.read(offset, 1, &mut one)?;
        Ok(one.pop())
    }

    /// Returns the entry at `offset` as it is on disk, with an address for a tags code if it has one.
    fn raw_entry(&self, offset: i64) -> Result<Option<QueueEntry>, Fault> {
        let mut one = Vec::with_capacity(1);
        let read = |file: &dyn File, at, bytes: &mut [u8]| file.read_at(at, bytes).map(|()| true);
        self.read_entries(offset, 1, &mut one, &read)?;
        Ok(one.pop())
    }

    /// Whether entries that are pushed get a unit in the queue's extension.
    pub(crate) fn is_extended(&self) -> bool {
        self.shared.is_extended && self.ext.is_some()
    }

    /// Takes the queue for pushing entries; for the dispatcher alone.
    pub(crate) fn pusher(&self) -> Pusher<'_> {
        let state = self.lock();
        Pusher { queue: self, state, end: self.max_offset(), pushed: 0, unit: None }
    }

    /// Forgets that the queue was touched and returns its end.
    pub(crate) fn take_touched(&self) -> i64 {
        self.lock().is_touched = false;
        self.max_offset()
    }

    /// Writes what waits now; what comes meanwhile is listed anew. The entries stay readable throughout; on an error those
    /// that were not written keep waiting. One caller: the view writer.
    pub(crate) fn write(self: &Arc<Self>) -> io::Result<()> {
        let per_file = self.shape().entries_per_file;
        let entry_len = self.kind.entry_len();
        let mut bytes = Vec::new();
        let mut left = {
            let mut state = self.lock();
            state.is_listed = false;
            state.pending.len() / entry_len
        };
        if let (Some(ext), 1..) = (&self.ext, left) {
            // First, so that an entry that is found after a kill has its unit.
            ext.write()?;
        }
        while left > 0 {
            let (at, files) = {
                let state = self.lock();
                if state.pending.is_empty() {
                    return Ok(());
                }
                let room = (per_file - state.written % per_file) as usize;
                let count = left.min(room).min(WRITE_ENTRIES);
                copy(&state.pending, 0..count, entry_len, &mut bytes);
                (state.written, state.files.clone())
            };
            let number = at / per_file;
            let is_new = !files.contains(&number);
            let file = if is_new {
                self.shared.create(self, number)?
            } else {
                self.shared.open(self, number, Open::Existing)?
            };
            if is_new && files.is_empty() {
                fill_gap(&*file, at % per_file)?;
            }
            file.write_at(at % per_file * entry_len as u64, &[IoSlice::new(&bytes)])?;
            let count = bytes.len() / entry_len;
            self.note_written(number, at, count, is_new);
            left -= count;
        }
        Ok(())
    }

    fn note_written(self: &Arc<Self>, file: u64, at: u64, entries: usize, is_new: bool) {
        let mut state = self.lock();
        if state.is_removed {
            // The topic went while its entries were written: they were counted off, and the file goes as the others did.
            drop(state);
            if let Err(error) = self.shared.remove(self, file) {
                tracing::warn!(topic = self.topic(), %error, "file of a removed topic stays");
            }
            return;
        }
        let entry_len = self.kind.entry_len();
        if state.written != at || state.pending.len() < entries * entry_len {
            // The queue began anew meanwhile: what was written is none of it, and its file was removed.
            return;
        }
        self.shared.pending.fetch_sub(entries, Ordering::Relaxed);
        state.written += entries as u64;
        state.pending.drain(..entries * entry_len);
        if state.pending.is_empty() {
            // A queue at rest keeps a small buffer at most.
            state.pending.shrink_to(8 * entry_len);
        }
        state.files = match state.files.is_empty() {
            true => file..file + 1,
            false => state.files.start..state.files.end.max(file + 1),
        };
        state.has_new_name |= is_new;
        if state.unsynced_from.is_none() {
            state.unsynced_from = Some(file);
            drop(state);
            lock(&self.shared.unsynced).push(Arc::clone(self));
        }
    }

    /// Returns the files with writes that are not synced, and whether the directory got or lost names; what the caller
    /// syncs now.
    fn take_unsynced(&self) -> (Range<u64>, bool) {
        let mut state = self.lock();
        let files = match state.unsynced_from.take() {
            Some(first) => first.max(state.files.start)..state.files.end,
            None => 0..0,
        };
        (files, std::mem::take(&mut state.has_new_name))
    }

    fn sync_files(&self, files: Range<u64>) -> io::Result<()> {
        if let Some(ext) = &self.ext {
            ext.sync()?;
        }
        for number in files {
            match self.shared.open(self, number, Open::Existing) {
                Ok(file) => file.sync()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves the minimum to the first entry of a record at or after `log_min`, and removes the files before it, except
    /// the newest. Returns how many files went.
    fn follow_log_min(&self, log_min: u64) -> Result<usize, Fault> {
        let (mut low, mut high) = (self.min_offset(), self.max_offset());
        // Most queues are not touched by a deletion: look at the first entry before the search.
        if low >= high || self.entry(low)?.is_some_and(|entry| is_kept(entry, log_min)) {
            return Ok(0);
        }
        low += 1;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)?.is_some_and(|entry| is_kept(entry, log_min)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        self.min.store(low, Ordering::Release);
        if let Some(ext) = &self.ext
            && let Some(first) = self.raw_entry(low)?
        {
            ext.remove_before(first.tags_code)?;
        }
        let read = |file: &dyn File, at, bytes: &mut [u8]| file.read_at(at, bytes).map(|()| true);
        let place = self.place_of(low, &read)?.expect("it may wait");
        self.remove_files_below(place)
    }

    fn remove_files_below(&self, place: u64) -> Result<usize, Fault> {
        let mut removed = 0;
        loop {
            let number = {
                let mut state = self.lock();
                let first = state.files.start;
                let is_newest = first + 1 >= state.files.end;
                if is_newest || (first + 1) * self.shape().entries_per_file > place {
                    break;
                }
                state.files.start += 1;
                first
            };
            self.shared.remove(self, number)?;
            removed += 1;
        }
        Ok(removed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the place behind the last entry.
    fn end_of(&self, state: &State) -> u64 {
        state.written + (state.pending.len() / self.kind.entry_len()) as u64
    }

    fn shape(&self) -> &Shape {
        self.shared.shape(self.kind)
    }

    fn file_len(&self) -> u64 {
        self.shape().entries_per_file * self.kind.entry_len() as u64
    }

    fn dir(&self) -> PathBuf {
        self.shape().root.join(&*self.topic).join(self.id.to_string())
    }

    fn file_path(&self, number: u64) -> PathBuf {
        self.dir().join(format!("{:020}", number * self.file_len()))
    }
}

/// The offsets that a queue gives to appended messages.
pub(crate) struct Numbering<'a>(&'a AtomicI64);

impl Numbering<'_> {
    /// Returns the offset that the next message gets.
    pub(crate) fn next(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes it, and those that follow it for so many messages.
    pub(crate) fn take(&self, count: u16) -> i64 {
        let offset = self.next();
        // The log's lock keeps others away: no read-modify-write is needed.
        self.0.store(offset + i64::from(count), Ordering::Relaxed);
        offset
    }
}

/// Whether a topic's name can name a directory of its own. Names are checked when topics are made; this is for what
/// stands in a foreign log.
fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

fn is_kept(entry: QueueEntry, log_min: u64) -> bool {
    !entry.is_gap() && entry.log_offset >= log_min
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies a range of what waits to the place of what `out` holds.
fn copy(pending: &VecDeque<u8>, entries: Range<usize>, entry_len: usize, out: &mut Vec<u8>) {
    let range = entries.start * entry_len..entries.end * entry_len;
    let (front, back) = pending.as_slices();
    out.clear();
    out.extend_from_slice(&front[range.start.min(front.len())..range.end.min(front.len())]);
    let in_back = |at: usize| at.saturating_sub(front.len());
    out.extend_from_slice(&back[in_back(range.start)..in_back(range.end)]);
}

/// Fills the first `entries` of a file of single messages (Java: `ConsumeQueue.fillPreBlank`).
fn fill_gap(file: &dyn File, entries: u64) -> io::Result<()> {
    let entry_len = QueueKind::Simple.entry_len();
    let block = QueueEntry::gap(0).encode(QueueKind::Simple, 0)[..entry_len].repeat(3276);
    let (mut at, end) = (0, entries * entry_len as u64);
    while at < end {
        let len = (end - at).min(block.len() as u64);
        file.write_at(at, &[IoSlice::new(&block[..len as usize])])?;
        at += len;
    }
    Ok(())
}

/// A queue, taken for pushing a run of entries; what was pushed is seen by readers when it is dropped.
pub(crate) struct Pusher<'a> {
    queue: &'a Queue,
    state: MutexGuard<'a, State>,
    /// Queue offset that comes next.
    end: i64,
    /// Entries.
    pushed: usize,
    /// Of the entry that is pushed next.
    unit: Option<ExtUnit>,
}

impl Pusher<'_> {
    /// As [`Pusher::push`], with what the queue's extension is to say of the message.
    pub(crate) fn push_extended(&mut self, entry: QueueEntry, stored_at: Millis, unit: ExtUnit) {
        self.unit = Some(unit);
        self.push(entry, stored_at);
    }

    /// Adds an entry, of a record with a store time. One that the queue already has is left out.
    pub(crate) fn push(&mut self, mut entry: QueueEntry, stored_at: Millis) {
        let unit = self.unit.take();
        if entry.offset < 0 || self.state.is_removed {
            return;
        }
        let (offset, expected) = (entry.offset, self.end);
        if offset != expected {
            let is_old = self.state.last_log_offset.is_some_and(|last| entry.log_offset <= last);
            if offset < expected && is_old {
                return;
            }
            let gap = offset.saturating_sub(expected);
            if self.state.last_log_offset.is_none() && self.state.files.is_empty()
                || offset < expected
            {
                // The first message that the log still has of the queue; or of a topic that was removed and made anew.
                self.restart_at(offset);
            } else if self.queue.kind == QueueKind::Batch
                || gap < self.queue.shape().entries_per_file as i64
            {
                tracing::warn!(
                    topic = self.queue.topic(),
                    queue = self.queue.id,
                    expected,
                    offset,
                    "gap in queue"
                );
                while self.queue.kind == QueueKind::Simple && self.end < offset {
                    self.add(QueueEntry::gap(self.end), 0);
                }
            } else {
                // Java appends such an entry where it stands (`putMessagePositionInfo`, "logic queue order maybe wrong").
                tracing::error!(
                    topic = self.queue.topic(),
                    queue = self.queue.id,
                    expected,
                    offset,
                    "queue out of order"
                );
                entry.offset = expected;
            }
        }
        if let (Some(ext), Some(unit)) = (&self.queue.ext, unit) {
            // One that does not fit is left out, as in the original: the tags code stays where it always was.
            entry.tags_code = ext.put(&unit).unwrap_or(entry.tags_code);
        }
        self.add(entry, stored_at);
        self.state.last_log_offset = Some(entry.log_offset);
    }

    /// Returns whether this is the first time since [`Queue::take_touched`], and notes that it was.
    pub(crate) fn touch(&mut self) -> bool {
        !std::mem::replace(&mut self.state.is_touched, true)
    }

    /// Returns whether the queue has to be put on the list of those to write, and notes that it is.
    pub(crate) fn list(&mut self) -> bool {
        !self.state.pending.is_empty() && !std::mem::replace(&mut self.state.is_listed, true)
    }

    fn add(&mut self, entry: QueueEntry, stored_at: Millis) {
        let bytes = entry.encode(self.queue.kind, stored_at);
        self.state.pending.extend(&bytes[..self.queue.kind.entry_len()]);
        self.end = entry.end();
        self.pushed += 1;
    }

    fn restart_at(&mut self, offset: i64) {
        let queue = self.queue;
        for number in self.state.files.clone() {
            if let Err(error) = queue.shared.remove(queue, number) {
                tracing::warn!(topic = queue.topic(), queue = queue.id, %error, "old queue file stays");
            }
        }
        let waited = self.state.pending.len() / queue.kind.entry_len() - self.pushed;
        queue.shared.pending.fetch_sub(waited, Ordering::Relaxed);
        self.pushed = 0;
        self.state.has_new_name |= !self.state.files.is_empty();
        self.state.files = 0..0;
        self.state.pending.clear();
        self.state.written = match queue.kind {
            QueueKind::Simple => offset as u64,
            QueueKind::Batch => 0,
        };
        self.end = offset;
        queue.max.store(offset, Ordering::Release);
        queue.min.store(offset, Ordering::Release);
    }
}

impl Drop for Pusher<'_> {
    fn drop(&mut self) {
        if self.pushed == 0 {
            return;
        }
        self.queue.shared.pending.fetch_add(self.pushed, Ordering::Relaxed);
        let end = self.end;
        self.queue.max.store(end, Ordering::Release);
        // A recovery numbers nothing, it only dispatches; live the number was taken long before.
        if self.queue.next.load(Ordering::Relaxed) < end {
            self.queue.next.fetch_max(end, Ordering::Relaxed);
        }
    }
}

/// Where queues lie, and in which shape.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Directory of the queues.
    pub root: PathBuf,
    /// Bytes of a queue file, a multiple of 20.
    pub file_len: u64,
    /// Directory of the queues of batches.
    pub batch_root: PathBuf,
    /// Bytes of a file there, a multiple of 46.
    pub batch_file_len: u64,
    /// Directory of their extensions.
    pub ext_root: PathBuf,
    /// Bytes of a file of an extension.
    pub ext_file_len: u64,
    /// Whether new entries get a unit in the extension; what old ones have there is read in any case.
    pub is_extended: bool,
    /// Files that are open at once.
    pub open_files_max: usize,
}

/// All queues of a store.
pub struct Queues {
    shared: Arc<Shared>,
    /// By topic, then sorted by id.
    table: RwLock<HashMap<Box<str>, Vec<Arc<Queue>>>>,
    /// Topics whose queues are of batches.
    batch_topics: RwLock<HashSet<String>>,
}

impl Queues {
    /// Finds the queues of a layout, those of `batch_topics` where queues of batches are, and cuts from each what stands
    /// for records at or after `trusted`, since those are dispatched again. `log_min` is the first offset that the log
    /// still has. After a crash the part of a file behind the last entry is cleared, since anything may be there.
    pub fn open(
        disk: Arc<dyn Disk>,
        layout: Layout,
        batch_topics: HashSet<String>,
        last_stop: LastStop,
        trusted: u64,
        log_min: u64,
    ) -> Result<Queues, OpenError> {
        let shared = Arc::new(Shared {
            disk,
            simple: Shape::new(layout.root, layout.file_len, QueueKind::Simple),
            batch: Shape::new(layout.batch_root, layout.batch_file_len, QueueKind::Batch),
            ext_root: layout.ext_root,
            ext_file_len: layout.ext_file_len.max(1),
            is_extended: layout.is_extended,
            files: Arc::new(Mutex::new(FileCache::new(layout.open_files_max))),
            serials: AtomicU32::new(0),
            pending: AtomicUsize::new(0),
            unsynced: Mutex::default(),
            sync_failed: AtomicBool::new(false),
            store_time: OnceLock::new(),
        });
        let mut table: HashMap<Box<str>, Vec<Arc<Queue>>> = HashMap::new();
        let list = |dir: &Path| {
            shared.disk.list(dir).map_err(|source| OpenError::Io {
                what: "cannot list",
                path: dir.to_owned(),
                source,
            })
        };
        let mut topics = Vec::new();
        for kind in [QueueKind::Simple, QueueKind::Batch] {
            let found = list(&shared.shape(kind).root)?.into_iter().filter(|entry| entry.is_dir);
            topics.extend(found.map(|topic| (kind, topic)));
        }
        for (kind, topic) in topics {
            if (kind == QueueKind::Batch) != batch_topics.contains(&topic.name) {
                let topic = topic.name;
                tracing::warn!(
                    topic,
                    ?kind,
                    "queues of the other kind than its topic's stay unread"
                );
                continue;
            }
            let dir = shared.shape(kind).root.join(&topic.name);
            let mut queues = Vec::new();
            for entry in list(&dir)? {
                // Java skips other names too.
                let Ok(id) = entry.name.parse::<i32>() else { continue };
                let files = list(&dir.join(&entry.name))?;
                let mut queue = shared.new_queue(&topic.name, id, kind);
                queue.recover(files, last_stop, trusted, log_min)?;
                queue.recover_ext(last_stop)?;
                queue.follow_log_min(log_min)?;
                let queue = Arc::new(queue);
                if queue.lock().unsynced_from.is_some() {
                    lock(&shared.unsynced).push(Arc::clone(&queue));
                }
                queues.push(queue);
            }
            queues.sort_by_key(|queue| queue.id);
            table.insert(topic.name.into(), queues);
        }
        // Extensions of queues that are no more would be taken for those of new ones.
        let stale = if shared.is_extended { list(&shared.ext_root)? } else { Vec::new() };
        for topic in stale.into_iter().filter(|entry| entry.is_dir) {
            for entry in list(&shared.ext_root.join(&topic.name))? {
                let Ok(id) = entry.name.parse::<i32>() else { continue };
                let queues = table.get(topic.name.as_str()).map_or(&[][..], Vec::as_slice);
                if !queues.iter().any(|queue| queue.id == id) {
                    shared.new_ext(&topic.name, id).recover(None, last_stop, Mode::Written)?;
                }
            }
        }
        Ok(Queues { shared, table: RwLock::new(table), batch_topics: RwLock::new(batch_topics) })
    }

    /// Sets the kind of a topic's queues, before it has any messages; what there is of the other kind is removed.
    pub fn set_kind(&self, topic: &str, kind: QueueKind) -> Result<(), Fault> {
        let is_other = {
            let mut batch_topics =
                self.batch_topics.write().unwrap_or_else(PoisonError::into_inner);
            match kind {
                QueueKind::Simple => batch_topics.remove(topic),
                QueueKind::Batch => batch_topics.insert(topic.to_owned()),
            }
        };
        if !is_other {
            return Ok(());
        }
        if kind == QueueKind::Batch {
            // Where one is not there it was deleted, and is to be built anew.
            for shape in [&self.shared.simple, &self.shared.batch] {
                self.shared.disk.create_dir_all(&shape.root)?;
            }
        }
        self.remove_topic(topic)
    }

    fn kind_of(&self, topic: &str) -> QueueKind {
        let batch_topics = self.batch_topics.read().unwrap_or_else(PoisonError::into_inner);
        if batch_topics.contains(topic) { QueueKind::Batch } else { QueueKind::Simple }
    }

    /// Says how to find the store time of a record; searches by time need it.
    pub fn set_store_time(&self, store_time: Box<StoreTime>) {
        // Set once, by the store that owns both; a second call changes nothing.
        let _ = self.shared.store_time.set(store_time);
    }

    /// Returns the handle of a queue, making one if there is none; on disk it appears with its first message. A name
    /// that cannot be a directory's gives a handle as of a removed topic, which keeps nothing.
    pub fn queue(&self, topic: &str, id: i32) -> Arc<Queue> {
        if let Some(queue) = self.find(topic, id) {
            return queue;
        }
        if !is_file_name(topic) {
            let queue = self.shared.new_queue(topic, id, QueueKind::Simple);
            queue.lock().is_removed = true;
            return Arc::new(queue);
        }
        let kind = self.kind_of(topic);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let queues = table.entry(topic.into()).or_default();
        match queues.binary_search_by_key(&id, |queue| queue.id) {
            Ok(at) => Arc::clone(&queues[at]),
            Err(at) => {
                let queue = Arc::new(self.shared.new_queue(topic, id, kind));
                queues.insert(at, Arc::clone(&queue));
                queue
            }
        }
    }

    /// Returns the handle of a queue if it was ever used.
    pub fn find(&self, topic: &str, id: i32) -> Option<Arc<Queue>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let queues = table.get(topic)?;
        let at = queues.binary_search_by_key(&id, |queue| queue.id).ok()?;
        Some(Arc::clone(&queues[at]))
    }

    /// Returns every queue of every topic.
    pub fn all(&self) -> Vec<Arc<Queue>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.values().flatten().cloned().collect()
    }

    /// Forgets a topic's queues and removes their files. Handles that are still held answer as empty queues.
    pub fn remove_topic(&self, topic: &str) -> Result<(), Fault> {
        let removed = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            // Only a name that is known is made a path.
            let Some(removed) = table.remove(topic) else { return Ok(()) };
            removed
        };
        for queue in removed {
            let files = {
                let mut state = queue.lock();
                let waited = state.pending.len() / queue.kind.entry_len();
                self.shared.pending.fetch_sub(waited, Ordering::Relaxed);
                let files = state.files.clone();
                *state = State { is_removed: true, ..State::default() };
                queue.min.store(0, Ordering::Release);
                queue.max.store(0, Ordering::Release);
                files
            };
            if !files.is_empty() {
                for number in files {
                    self.shared.remove(&queue, number)?;
                }
                // Files that a crash of the machine brought back would be taken for those of a new topic of that name.
                self.shared.disk.sync_dir(&queue.dir())?;
            }
            remove_dir(&*self.shared.disk, &queue.dir())?;
            if let Some(ext) = &queue.ext {
                ext.remove_all()?;
            }
        }
        for shape in [&self.shared.simple, &self.shared.batch] {
            remove_dir(&*self.shared.disk, &shape.root.join(topic))?;
        }
        Ok(())
    }

    /// Lets every queue forget what lies before `log_min`; returns how many files were removed. `lost` is told which
    /// offsets each queue lost.
    pub fn follow_log_min(
        &self,
        log_min: u64,
        lost: &mut dyn FnMut(&Queue, Range<i64>),
    ) -> Result<usize, Fault> {
        let mut removed = 0;
        for queue in self.all() {
            let before = queue.min_offset();
            removed += queue.follow_log_min(log_min)?;
            let after = queue.min_offset();
            if after > before {
                lost(&queue, before..after);
            }
        }
        Ok(removed)
    }

    /// Returns how many entries wait in memory to be written.
    pub fn pending(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    /// Makes durable what was written. Once it failed it always does: nothing is known any more about what was written.
    pub fn sync(&self) -> io::Result<()> {
        if self.shared.sync_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of a queue failed"));
        }
        let queues = std::mem::take(&mut *lock(&self.shared.unsynced));
        let outcome = self.sync_all(&queues);
        if outcome.is_err() {
            self.shared.sync_failed.store(true, Ordering::Release);
        }
        outcome
    }

    fn sync_all(&self, queues: &[Arc<Queue>]) -> io::Result<()> {
        if queues.len() > SYNCS_MAX {
            for queue in queues {
                queue.take_unsynced();
                if let Some(ext) = &queue.ext {
                    ext.take_unsynced();
                }
            }
            let roots = [QueueKind::Simple, QueueKind::Batch].map(|kind| {
                queues.iter().any(|queue| queue.kind == kind).then(|| &self.shared.shape(kind).root)
            });
            return roots.iter().flatten().try_for_each(|root| self.shared.disk.sync_all(root));
        }
        let mut dirs = Vec::new();
        for queue in queues {
            let (files, has_new_name) = queue.take_unsynced();
            queue.sync_files(files)?;
            if has_new_name {
                dirs.push(queue.dir());
            }
        }
        let above = dirs.iter().flat_map(|dir: &PathBuf| dir.ancestors().skip(1).take(2));
        let mut parents: Vec<PathBuf> = above.map(Path::to_owned).collect();
        parents.sort();
        parents.dedup();
        for dir in dirs.iter().chain(&parents) {
            match self.shared.disk.sync_dir(dir) {
                // The topic was removed meanwhile.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Queues {
    /// Queues refer to what they have in common, and that to those to be synced: the ring is broken here.
    fn drop(&mut self) {
        lock(&self.shared.unsynced).clear();
    }
}

fn remove_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Queue {
    /// Finds the end of the queue's extension; after the queue's own.
    fn recover_ext(&mut self, last_stop: LastStop) -> Result<(), OpenError> {
        if self.kind == QueueKind::Batch {
            // As in the original.
            return Ok(());
        }
        let last = self.max_offset() - 1;
        let last = if last >= self.min_offset() { self.raw_entry(last)? } else { None };
        let mode = if self.shared.is_extended { Mode::Written } else { Mode::Read };
        let mut ext = self.shared.new_ext(&self.topic, self.id);
        let is_there = ext.recover(last.map(|entry| entry.tags_code), last_stop, mode)?;
        self.ext = (is_there || mode == Mode::Written).then(|| Box::new(ext));
        Ok(())
    }

    /// Finds the end of the queue in its files and clears what is behind it; see [`Queues::open`].
    fn recover(
        &self,
        files: Vec<env::DirEntry>,
        last_stop: LastStop,
        trusted: u64,
        log_min: u64,
    ) -> Result<(), OpenError> {
        let io =
            |path: PathBuf| move |source| OpenError::Io { what: "cannot recover", path, source };
        let shared = &*self.shared;
        let mut numbers = Vec::with_capacity(files.len());
        for entry in files {
            let Some(at) = file_at(&entry.name) else { continue };
            if entry.len == 0 {
                // A crash of the machine came between its creation and the sync of its length.
                let path = self.dir().join(entry.name);
                shared.disk.remove(&path).map_err(io(path))?;
                continue;
            }
            let expected = self.file_len();
            if entry.len != expected || at % expected != 0 {
                return Err(OpenError::FileLen {
                    key: match self.kind {
                        QueueKind::Simple => "mappedFileSizeConsumeQueue",
                        QueueKind::Batch => "mapperFileSizeBatchConsumeQueue",
                    },
                    path: self.dir().join(entry.name),
                    found: entry.len,
                    expected,
                });
            }
            numbers.push(at / expected);
        }
        numbers.sort_unstable();
        let mut is_cut = false;
        while let Some(number) = numbers.pop() {
            let path = self.file_path(number);
            let file = shared.disk.open(&path, Open::Existing).map_err(io(path.clone()))?;
            let end = self.find_end(&*file, trusted).map_err(io(path.clone()))?;
            // Java starts a queue without files at 0 again; the oldest file stays to keep the number, unless the log has all
            // it ever had, and so the queue's first message if there is one. An entry of a batch has its number inside.
            let keeps_number =
                self.kind == QueueKind::Simple && (log_min > 0 || last_stop == LastStop::Clean);
            if end == 0 && !(numbers.is_empty() && keeps_number) {
                shared.disk.remove(&path).map_err(io(path))?;
                is_cut = true;
                continue;
            }
            // Files go from the front only; should one be missing in between, what is before it cannot be reached.
            let first = numbers.iter().rev().zip((0..number).rev());
            let first = first.take_while(|(found, expected)| *found == expected).last();
            let files = first.map_or(number, |(found, _)| *found)..number + 1;
            let is_cleared = self.clear_behind(&*file, end, last_stop).map_err(io(path.clone()))?;
            let written = number * self.shape().entries_per_file + end;
            let mut state = self.lock();
            // Synced with what is dispatched next: until then the checkpoint asks for the same cut again. A file that a
            // killed process left may have a name that is not synced yet.
            state.unsynced_from = (is_cleared || is_cut).then_some(number);
            state.files = files;
            state.written = written;
            // A process that was killed may have made files whose names it never synced.
            state.has_new_name = is_cleared || is_cut || last_stop == LastStop::Crash;
            let mut max = written as i64;
            if end > 0 {
                let last = self.entry_in(&*file, number, end - 1).map_err(io(path))?;
                state.last_log_offset = (!last.is_gap()).then_some(last.log_offset);
                max = last.end();
            }
            let (first, min) =
                (state.files.start, state.files.start * self.shape().entries_per_file);
            drop(state);
            let min = match self.kind {
                QueueKind::Simple => min as i64,
                QueueKind::Batch => {
                    let path = self.file_path(first);
                    let file = shared.disk.open(&path, Open::Existing).map_err(io(path.clone()))?;
                    self.entry_in(&*file, first, 0).map_err(io(path))?.offset
                }
            };
            self.min.store(min, Ordering::Release);
            self.max.store(max, Ordering::Release);
            self.next.store(max, Ordering::Relaxed);
            break;
        }
        Ok(())
    }

    /// Returns the entry at a place within the file of a number.
    fn entry_in(&self, file: &dyn File, number: u64, at: u64) -> io::Result<QueueEntry> {
        let entry_len = self.kind.entry_len();
        let mut bytes = [0; ENTRY_LEN_MAX];
        file.read_at(at * entry_len as u64, &mut bytes[..entry_len])?;
        Ok(QueueEntry::decode(self.kind, number * self.shape().entries_per_file + at, &bytes))
    }

    /// Returns how many entries from the front of a file stand for records below `trusted`. They are a prefix: behind
    /// them lie zeros, or entries of later records, whatever a crash left of those.
    fn find_end(&self, file: &dyn File, trusted: u64) -> io::Result<u64> {
        let (entry_len, per_file) = (self.kind.entry_len(), self.shape().entries_per_file);
        let mut first = vec![0; FIRST_LOOK.min(per_file) as usize * entry_len];
        file.read_at(0, &mut first)?;
        let first = first.chunks_exact(entry_len).map(|it| QueueEntry::decode(self.kind, 0, it));
        let low = first.take_while(|entry| entry.is_below(trusted)).count() as u64;
        if low < FIRST_LOOK.min(per_file) {
            return Ok(low);
        }
        let (mut low, mut high) = (low, per_file);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry_in(file, 0, middle)?.is_below(trusted) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Clears what is behind the first `end` entries of a file if there may be anything; returns whether it did.
    fn clear_behind(&self, file: &dyn File, end: u64, last_stop: LastStop) -> io::Result<bool> {
        if end == self.shape().entries_per_file {
            return Ok(false);
        }
        let is_dirty = last_stop == LastStop::Crash || {
            let next = self.entry_in(file, 0, end)?;
            next.len != 0 || next.log_offset != 0
        };
        if is_dirty {
            file.zero(end * self.kind.entry_len() as u64..self.file_len())?;
        }
        Ok(is_dirty)
    }
}

/// Returns the position that a file's name gives, if it is one.
pub(super) fn file_at(name: &str) -> Option<u64> {
    (name.len() == 20).then(|| name.parse().ok()).flatten()
}

impl Shape {
    fn new(root: PathBuf, file_len: u64, kind: QueueKind) -> Shape {
        Shape { root, entries_per_file: file_len / kind.entry_len() as u64 }
    }
}

impl Shared {
    fn shape(&self, kind: QueueKind) -> &Shape {
        match kind {
            QueueKind::Simple => &self.simple,
            QueueKind::Batch => &self.batch,
        }
    }

    fn new_ext(&self, topic: &str, id: i32) -> Extension {
        Extension::new(
            Arc::clone(&self.disk),
            self.ext_root.join(topic).join(id.to_string()),
            self.ext_file_len,
            Arc::clone(&self.files),
            self.serials.fetch_add(1, Ordering::Relaxed),
        )
    }

    fn new_queue(self: &Arc<Self>, topic: &str, id: i32, kind: QueueKind) -> Queue {
        let is_extended = self.is_extended && kind == QueueKind::Simple;
        Queue {
            ext: is_extended.then(|| Box::new(self.new_ext(topic, id))),
            topic: topic.into(),
            id,
            kind,
            serial: self.serials.fetch_add(1, Ordering::Relaxed),
            next: AtomicI64::new(0),
            max: AtomicI64::new(0),
            min: AtomicI64::new(0),
            state: Mutex::default(),
            shared: Arc::clone(self),
        }
    }

    fn open(&self, queue: &Queue, number: u64, how: Open) -> io::Result<Arc<dyn File>> {
        let key = (queue.serial, number);
        if let Some(file) = lock(&self.files).get(key) {
            return Ok(file);
        }
        // Opened without the lock: two threads may both do so, and the later one is kept.
        let file = self.disk.open(&queue.file_path(number), how)?;
        lock(&self.files).insert(key, Arc::clone(&file));
        Ok(file)
    }

    fn create(&self, queue: &Queue, number: u64) -> io::Result<Arc<dyn File>> {
        let how = Open::Length(queue.file_len());
        match self.open(queue, number, how) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.disk.create_dir_all(&queue.dir())?;
                self.open(queue, number, how)
            }
            outcome => outcome,
        }
    }

    fn remove(&self, queue: &Queue, number: u64) -> io::Result<()> {
        lock(&self.files).remove((queue.serial, number));
        match self.disk.remove(&queue.file_path(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The queues that have entries to write, oldest entry first. The dispatcher adds, the view writer takes.
#[derive(Default)]
pub(crate) struct WriteList {
    queues: VecDeque<Listed>,
}

struct Listed {
    queue: Arc<Queue>,
    /// Monotonic time at which the oldest entry came.
    since: Duration,
    /// The record that it stands for, or, if part of the queue was written and the rest could not be, one before: so the
    /// list stays sorted by this.
    first: Written,
}

/// How far queue entries are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// The entry of every record below this log offset is written.
    pub(crate) to: u64,
    /// Start of the last record below `to`, or of the one at `to`.
    pub(crate) record: u64,
    /// Store time of that record, or an earlier one.
    pub(crate) stored_at: Millis,
}

impl WriteList {
    /// Adds a queue for which [`Pusher::list`] said so; what waits in it begins with the record at `log_offset`.
    pub(crate) fn push(
        &mut self,
        queue: Arc<Queue>,
        since: Duration,
        log_offset: u64,
        stored_at: Millis,
    ) {
        let first = Written { to: log_offset, record: log_offset, stored_at };
        self.queues.push_back(Listed { queue, since, first });
    }

    /// Returns since when the oldest entry has been waiting.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.queues.front().map(|listed| listed.since)
    }

    /// Returns the queue whose entry has been waiting longest. It stays the first until [`WriteList::pop`], since its
    /// entries are not written before.
    pub(crate) fn first(&self) -> Option<Arc<Queue>> {
        self.queues.front().map(|listed| Arc::clone(&listed.queue))
    }

    /// Takes the first queue off the list, once what waited in it is written.
    pub(crate) fn pop(&mut self) {
        self.queues.pop_front();
    }

    /// Returns how far entries are written, given how far they were pushed.
    pub(crate) fn written(&self, pushed: Written) -> Written {
        self.queues.front().map_or(pushed, |listed| listed.first)
    }
}

/// Open files with a bound: of those that were not used since the hand last passed, one goes (the clock algorithm).
pub(super) struct FileCache {
    places: HashMap<(u32, u64), usize>,
    slots: Vec<Slot>,
    hand: usize,
    max: usize,
}

struct Slot {
    key: (u32, u64),
    file: Option<Arc<dyn File>>,
    is_used: bool,
}

impl FileCache {
    fn new(max: usize) -> FileCache {
        FileCache { places: HashMap::new(), slots: Vec::new(), hand: 0, max: max.max(1) }
    }

    pub(super) fn get(&mut self, key: (u32, u64)) -> Option<Arc<dyn File>> {
        let slot = &mut self.slots[*self.places.get(&key)?];
        slot.is_used = true;
        slot.file.clone()
    }

    pub(super) fn insert(&mut self, key: (u32, u64), file: Arc<dyn File>) {
        let slot = Slot { key, file: Some(file), is_used: false };
        match self.places.entry(key) {
            hash_map::Entry::Occupied(place) => self.slots[*place.get()] = slot,
            hash_map::Entry::Vacant(place) if self.slots.len() < self.max => {
                place.insert(self.slots.len());
                self.slots.push(slot);
            }
            hash_map::Entry::Vacant(_) => {
                let at = self.free_one();
                self.places.insert(key, at);
                self.slots[at] = slot;
            }
        }
    }

    pub(super) fn remove(&mut self, key: (u32, u64)) {
        if let Some(at) = self.places.remove(&key) {
            self.slots[at].file = None;
            self.slots[at].is_used = false;
        }
    }

    fn free_one(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if !std::mem::take(&mut slot.is_used) {
                if slot.file.take().is_some() {
                    self.places.remove(&slot.key);
                }
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use env::sim::{SimClock, SimDisk};

    use super::*;

    #[test]
    fn a_topic_that_goes_while_it_is_read_ends_the_read() {
        let disk = Arc::new(SimDisk::new(0, SimClock::new(0)));
        let layout = crate::views::tests::layout();
        let queues = Queues::open(disk, layout, HashSet::new(), LastStop::Clean, 0, 0);
        let queues = queues.expect("opens");
        let queue = queues.queue("T", 0);
        let push = |offsets: Range<i64>| {
            let mut pusher = queue.pusher();
            for offset in offsets {
                let log_offset = (offset as u64 + 1) * 100;
                pusher.push(QueueEntry { offset, count: 1, log_offset, len: 100, tags_code: 0 }, 0);
            }
        };
        push(0..10);
        queue.write().expect("writes");
        push(10..15);
        let mut out = Vec::new();
        let read =
            queue.read_with(0, 15, &mut out, None, |file: &dyn File, at, bytes: &mut [u8]| {
                file.read_at(at, bytes)?;
                queues.remove_topic("T").map_err(io::Error::other)?;
                Ok(true)
            });
        assert!(read.expect("reads"));
        assert_eq!(out.len(), 10);
    }
}
