//! The key index: from a hash of topic and key to places in the log, newest first (Java: `IndexFile`, `IndexService`).
//!
//! ```text
//! file index/yyyyMMddHHmmssSSS, 40 + slots × 4 + entries × 20 bytes
//!  0 long  store time of the first record     8 long  of the last
//! 16 long  log offset of the first record    24 long  of the last
//! 32 int   slots in use                      36 int   entries + 1
//! 40       slots: int number of the newest entry of the slot, 0 = none
//!          entries, the first being number 1: int hash, long log offset, int seconds since the first record,
//!          int number of the previous entry of the same slot
//! ```
//! Numbers within a file grow with the log offset. The open file keeps its slots and its youngest entries in memory,
//! allocated with the first key. Entries are written in runs; slots when the file is full and on a clean stop, since they
//! follow from the entries. The header is written once the entries that it counts are synced, so what it counts is whole
//! after any crash.
//!
//! Invariant: the files hold the keys of every record that was put, once, in log order, whatever crashed; a rebuild from
//! the log gives the same entries and slots.

use std::{
    hint::black_box,
    io::{self, IoSlice},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use env::{DirEntry, Disk, File, Millis, Open};
use jiff::{Timestamp, tz::TimeZone};
use smallvec::SmallVec;
use wire::hash;

use super::LastStop;

const HEADER_BYTES: u64 = 40;
const SLOT_BYTES: u64 = 4;
const ENTRY_BYTES: u64 = 20;
/// Entries that are read together when a chain is followed: neighbours of one slot tend to be neighbours in the file.
const BLOCK_ENTRIES: u64 = 204;
/// Bytes of entries that wait in memory before they are written.
const RUN_BYTES: usize = 64 << 10;

/// Hashes of the keys of one message, in the order in which the original indexes them.
pub type KeyHashes = SmallVec<[u32; 3]>;

/// Returns the hashes under which a message is found: of its unique key, each of its keys, and since 5.5.0 its tag
/// (Java: `IndexService.buildIndex`).
pub fn key_hashes(
    topic: &str,
    unique: Option<&str>,
    keys: Option<&str>,
    tag: Option<&str>,
) -> KeyHashes {
    let keys = keys.into_iter().flat_map(|keys| keys.split(' ')).filter(|key| !key.is_empty());
    let mut hashes: KeyHashes =
        unique.into_iter().chain(keys).map(|key| hash_of(topic, key)).collect();
    hashes.extend(tag.map(|tag| hash::index_tag_hash(topic, tag).unsigned_abs()));
    hashes
}

fn hash_of(topic: &str, key: &str) -> u32 {
    hash::index_key_hash(topic, key).unsigned_abs()
}

/// What a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A unique key, or one of the keys that the producer gave.
    Key(&'a str),
    /// A tag; records of brokers before 5.5.0 are not indexed by it.
    Tag(&'a str),
}

/// The answer of a query. Hashes collide, so the records may be of other keys; who reads them compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Log offsets of the records, newest first within a file.
    pub log_offsets: Vec<u64>,
    /// Store time of the last record of the index (`indexLastUpdateTimestamp`).
    pub last_update_time: Millis,
    /// Log offset of the last record of the index (`indexLastUpdatePhyoffset`).
    pub last_update_offset: u64,
}

/// What of the index is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Every key of a record that ends at or before this log offset.
    pub applied: u64,
    /// End time of the last of the files that are full and durable from the first on; 0 if there is none
    /// (`indexMsgTimestamp` of the checkpoint).
    pub sealed_time: Millis,
    /// First log offset and store time of the files behind those, if there are any. After a crash Java throws these away
    /// and builds them anew from where the checkpoint says, so it may say no more than this (`IndexService.load`).
    pub unsealed_from: Option<(u64, Millis)>,
}

/// Sizes of an index file: `maxHashSlotNum` and `maxIndexNum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Slots, at least 1.
    pub slots: u32,
    /// Entries, at least 2, of which number 0 is never used.
    pub entries: u32,
}

impl Shape {
    /// Returns the length of a file of this shape in bytes.
    pub fn file_len(self) -> u64 {
        self.entry_at(u64::from(self.entries))
    }

    fn entry_at(self, number: u64) -> u64 {
        HEADER_BYTES + u64::from(self.slots) * SLOT_BYTES + number * ENTRY_BYTES
    }
}

/// An index file of another shape than the options say.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{}` has {} bytes, which do not fit `maxHashSlotNum` and `maxIndexNum`; give the values that it was written with, or \
     remove the directory `index`: it is rebuilt",
    .0.name, .0.len
)]
struct WrongShape(DirEntry);

/// The index of one store. Written by the dispatcher alone, asked by everyone.
pub struct Index {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    shape: Shape,
    zone: TimeZone,
    /// Held while entries are written or files replaced; taken before `state`.
    writing: Mutex<()>,
    state: Mutex<State>,
}

struct State {
    /// Oldest first.
    files: Vec<Entries>,
    /// Records that end at or before this offset have their keys in `files`.
    applied: u64,
    /// Sum of the bytes that wait to be written, over all files.
    pending_bytes: usize,
}

impl State {
    fn find(&mut self, name: &str) -> Option<&mut Entries> {
        self.files.iter_mut().find(|entries| entries.name == name)
    }
}

/// One index file.
struct Entries {
    name: String,
    header: Header,
    /// Open while entries may come; a sealed file is opened for each question.
    file: Option<Arc<dyn File>>,
    /// Number of the newest entry by slot; empty when the file's own slots are to be used.
    slots: Arc<Vec<u32>>,
    /// Whether the file's slots are whole and synced.
    slots_written: bool,
    /// Whether `slots` has to be built from the entries before the next use: a crash or a cut came between.
    slots_lost: bool,
    /// Entries below this number are written.
    written: u32,
    /// Entries from `written` on.
    pending: Vec<u8>,
    /// The header that is synced.
    synced: Header,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    begin_time: Millis,
    end_time: Millis,
    begin_offset: u64,
    end_offset: u64,
    slots_used: u32,
    /// Number of the next entry.
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    hash: u32,
    log_offset: u64,
    seconds: u32,
    previous: u32,
}

impl Index {
    /// Reads the headers of the files in `dir` and cuts from them what stands for records at or after `trusted`, since
    /// those are dispatched again. `store_time` gives the store time of the record at a log offset below `trusted`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        shape: Shape,
        zone: TimeZone,
        last_stop: LastStop,
        trusted: u64,
        store_time: impl Fn(u64) -> Option<Millis>,
    ) -> io::Result<Index> {
        let mut names = Vec::new();
        for entry in disk.list(&dir)?.into_iter().filter(|entry| !entry.is_dir) {
            if entry.len == shape.file_len() {
                names.push(entry.name);
            } else if entry.len == 0 {
                // A crash of the machine came between its creation and the sync of its length.
                disk.remove(&dir.join(entry.name))?;
            } else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, WrongShape(entry)));
            }
        }
        names.sort();
        let state = State { files: Vec::new(), applied: trusted, pending_bytes: 0 };
        let index =
            Index { disk, dir, shape, zone, writing: Mutex::new(()), state: Mutex::new(state) };
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            if let Some(entries) = index.load(name, last_stop, trusted, &store_time)? {
                files.push(entries);
            }
        }
        index.lock().files = files;
        Ok(index)
    }

    /// Reads one file's header; `None` if nothing of the file is below `trusted`, when it is removed.
    fn load(
        &self,
        name: String,
        last_stop: LastStop,
        trusted: u64,
        store_time: &impl Fn(u64) -> Option<Millis>,
    ) -> io::Result<Option<Entries>> {
        let path = self.dir.join(&name);
        let file = self.disk.open(&path, Open::Existing)?;
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_at(0, &mut bytes)?;
        let mut header = Header::decode(&bytes, self.shape);
        let on_disk = header;
        let mut entries = Entries {
            name,
            header,
            file: Some(file),
            slots: Arc::default(),
            slots_written: last_stop == LastStop::Clean || header.count == self.shape.entries,
            slots_lost: false,
            written: header.count,
            pending: Vec::new(),
            synced: on_disk,
        };
        if header.count > 1 && header.end_offset >= trusted {
            // Java's last file may lack some records if the machine failed, never have them out of order.
            let (mut low, mut high) = (1, header.count);
            while low < high {
                let middle = low + (high - low) / 2;
                if self.entry(&entries, middle)?.log_offset < trusted {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            header.count = low;
            if low > 1 {
                let last = self.entry(&entries, low - 1)?;
                header.end_offset = last.log_offset;
                header.end_time = store_time(last.log_offset)
                    .unwrap_or_else(|| header.begin_time + Millis::from(last.seconds) * 1000);
            }
        }
        if header.count <= 1 {
            drop(entries);
            self.disk.remove(&path)?;
            self.disk.sync_dir(&self.dir)?;
            return Ok(None);
        }
        let cut = header.count != on_disk.count;
        if last_stop == LastStop::Crash && header.count < self.shape.entries {
            // Entries that no header counts may lie behind.
            let from = self.shape.entry_at(u64::from(header.count));
            self.file(&mut entries)?.zero(from..self.shape.file_len())?;
        }
        entries.slots_lost = cut || !entries.slots_written;
        entries.slots_written = !entries.slots_lost;
        entries.header = header;
        entries.written = header.count;
        if cut {
            // Whatever lies behind the new end must not be counted again by whoever opens the directory next.
            let file = self.file(&mut entries)?;
            file.write_at(0, &[IoSlice::new(&entries.header.encode())])?;
            file.sync()?;
            entries.synced = entries.header;
        }
        if entries.is_sealed(self.shape) {
            entries.file = None;
        }
        Ok(Some(entries))
    }

    /// Takes the index for a run of records, at wall time `now` (for the names of new files).
    pub fn batch(&self, now: Millis) -> Batch<'_> {
        Batch { index: self, state: self.lock(), now }
    }

    /// Returns the log offset up to which keys were put.
    pub fn applied(&self) -> u64 {
        self.lock().applied
    }

    /// Notes that everything below `upto` was put, though no record ends there.
    pub fn pass(&self, upto: u64) {
        let mut state = self.lock();
        state.applied = state.applied.max(upto);
    }

    /// Whether enough waits to be worth a write.
    pub fn is_run_due(&self) -> bool {
        self.pending_bytes() >= RUN_BYTES
    }

    /// Returns the bytes of entries that wait to be written.
    pub fn pending_bytes(&self) -> usize {
        self.lock().pending_bytes
    }

    /// Writes the entries that wait in memory, without a sync and without holding up who puts or asks. On an error what
    /// was not written keeps waiting.
    pub fn write(&self) -> io::Result<()> {
        let _writing = self.writing();
        self.write_waiting()
    }

    /// Writes what waits now; the caller holds `writing`.
    fn write_waiting(&self) -> io::Result<()> {
        let waiting: Vec<String> = {
            let state = self.lock();
            let files = state.files.iter().filter(|entries| !entries.pending.is_empty());
            files.map(|entries| entries.name.clone()).collect()
        };
        for name in waiting {
            self.write_file(&name)?;
        }
        Ok(())
    }

    fn write_file(&self, name: &str) -> io::Result<()> {
        let (file, is_begun, first_header, written, bytes) = {
            let mut state = self.lock();
            let Some(entries) = state.find(name) else { return Ok(()) };
            // A first header makes Java, should it come after a crash of ours, see an unfinished file and remove it.
            let first_header = Header { count: 1, ..entries.header };
            let is_begun = entries.synced.count > 0;
            (entries.file.clone(), is_begun, first_header, entries.written, entries.pending.clone())
        };
        let file = match file {
            Some(file) => file,
            None => self.open_file(name)?,
        };
        if !is_begun {
            file.write_at(0, &[IoSlice::new(&first_header.encode())])?;
        }
        file.write_at(self.shape.entry_at(u64::from(written)), &[IoSlice::new(&bytes)])?;
        let mut state = self.lock();
        // Retention may have removed the file meanwhile, and counted off what waited.
        if let Some(entries) = state.find(name) {
            entries.file = Some(file);
            entries.synced.count = entries.synced.count.max(1);
            entries.written += (bytes.len() as u64 / ENTRY_BYTES) as u32;
            entries.pending.drain(..bytes.len());
            state.pending_bytes -= bytes.len();
        }
        Ok(())
    }

    /// Makes everything that was put so far durable, and says what that is. With [`LastStop::Clean`] the slots of the open
    /// file are written too, so that the next start need not build them.
    pub fn sync(&self, purpose: LastStop) -> io::Result<Synced> {
        struct Due {
            name: String,
            file: Arc<dyn File>,
            header: Header,
            slots: Option<Arc<Vec<u32>>>,
        }
        let mut due = Vec::new();
        let writing = self.writing();
        // Nearly all of it, and the few that come meanwhile under the lock: what counts as applied is written.
        self.write_waiting()?;
        let applied = {
            let state = &mut *self.lock();
            self.write_pending(state)?;
            for entries in &mut state.files {
                if entries.is_sealed(self.shape) {
                    entries.file = None;
                    continue;
                }
                let full = entries.header.count >= self.shape.entries;
                let slots_due = !entries.slots_written && (full || purpose == LastStop::Clean);
                if entries.header == entries.synced && !slots_due {
                    continue;
                }
                if slots_due {
                    self.load_slots(entries)?;
                }
                due.push(Due {
                    name: entries.name.clone(),
                    file: self.file(entries)?,
                    header: entries.header,
                    slots: slots_due.then(|| Arc::clone(&entries.slots)),
                });
            }
            state.applied
        };
        drop(writing);
        for Due { file, header, slots, .. } in &due {
            file.sync()?;
            if let Some(slots) = slots {
                write_slots(&**file, slots)?;
                file.sync()?;
            }
            file.write_at(0, &[IoSlice::new(&header.encode())])?;
            file.sync()?;
        }
        if !due.is_empty() {
            self.disk.sync_dir(&self.dir)?;
        }
        let state = &mut *self.lock();
        for Due { name, header, slots, .. } in due {
            // Retention may have removed the file meanwhile.
            let Some(entries) = state.find(&name) else { continue };
            entries.synced = header;
            if slots.is_some() && entries.header == header {
                entries.slots_written = true;
                // It answers from the disk from now on; the open file, if keys come again, reads its slots once.
                entries.slots = Arc::default();
            }
        }
        let sealed = state.files.iter().take_while(|entries| entries.is_sealed(self.shape)).count();
        let (sealed, unsealed) = state.files.split_at(sealed);
        let unsealed =
            unsealed.iter().map(|entries| &entries.header).find(|header| header.count > 1);
        Ok(Synced {
            applied,
            sealed_time: sealed.last().map_or(0, |entries| entries.synced.end_time),
            unsealed_from: unsealed.map(|header| (header.begin_offset, header.begin_time)),
        })
    }

    /// Returns where records of `topic` with this key or tag lie that were stored within the times, both ends included;
    /// not more than `max`. Reads files.
    pub fn query(
        &self,
        topic: &str,
        wanted: Wanted<'_>,
        max: usize,
        begin: Millis,
        end: Millis,
    ) -> io::Result<Found> {
        let hash = match wanted {
            Wanted::Key(key) => hash_of(topic, key),
            Wanted::Tag(tag) => hash::index_tag_hash(topic, tag).unsigned_abs(),
        };
        let mut found = Found::default();
        if let Some(last) = self.lock().files.last() {
            found.last_update_time = last.header.end_time;
            found.last_update_offset = last.header.end_offset;
        }
        let mut before: Option<String> = None;
        while let Some(view) = self.newest_before(before.as_deref(), hash, begin, end)? {
            if view.header.overlaps(begin, end) {
                self.follow(&view, hash, max, begin, end, &mut found.log_offsets)?;
            }
            if view.header.begin_time < begin || found.log_offsets.len() >= max {
                break;
            }
            before = Some(view.name);
        }
        Ok(found)
    }

    /// Whether a file that is not full has gone from the directory: another broker, refused by the lock, has loaded the
    /// store as after a crash (Java: `IndexService.load`).
    pub fn is_missing(&self) -> io::Result<bool> {
        let unsealed: Vec<String> = {
            let state = self.lock();
            let files = state.files.iter().filter(|entries| entries.file.is_some());
            files.filter(|entries| !entries.is_sealed(self.shape)).map(|e| e.name.clone()).collect()
        };
        for name in unsealed {
            if !self.disk.exists(&self.dir.join(name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the files anew that have gone from the directory, out of those still open, and removes index files that
    /// are none of ours: they hold the same keys a second time.
    pub fn restore(&self) -> io::Result<()> {
        let _writing = self.writing();
        let state = &mut *self.lock();
        let mut has_changed = false;
        for entries in &mut state.files {
            let Some(old) = &entries.file else { continue };
            let path = self.dir.join(&entries.name);
            if self.disk.exists(&path)? {
                continue;
            }
            tracing::warn!(path = %path.display(), "index file was removed by another process; written anew");
            self.disk.create_dir_all(&self.dir)?;
            let new = self.disk.open(&path, Open::Length(self.shape.file_len()))?;
            let end = self.shape.entry_at(u64::from(entries.written));
            if let Err(error) = copy(&**old, &*new, end) {
                // Half a file must not look like a whole one; the next look tries again.
                self.disk.remove(&path)?;
                return Err(error);
            }
            entries.file = Some(new);
            has_changed = true;
        }
        for found in self.disk.list(&self.dir)? {
            let is_index = !found.is_dir && found.name.parse::<u64>().is_ok();
            if is_index && state.files.iter().all(|entries| entries.name != found.name) {
                tracing::warn!(name = found.name, "index file of another process removed");
                self.disk.remove(&self.dir.join(found.name))?;
                has_changed = true;
            }
        }
        if has_changed { self.disk.sync_dir(&self.dir) } else { Ok(()) }
    }

    /// Removes the files whose records all lie before `log_min`, never the newest; returns how many.
    pub fn remove_before(&self, log_min: u64) -> io::Result<usize> {
        let mut removed = 0;
        loop {
            let name = {
                let mut state = self.lock();
                if state.files.len() < 2 || state.files[0].header.end_offset >= log_min {
                    break;
                }
                let entries = state.files.remove(0);
                state.pending_bytes -= entries.pending.len();
                entries.name
            };
            match self.disk.remove(&self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => removed += 1,
            }
        }
        if removed > 0 {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(removed)
    }

    /// Returns how many of its files are open: those that are not sealed.
    pub fn open_files(&self) -> usize {
        self.lock().files.iter().filter(|entries| entries.file.is_some()).count()
    }

    /// Returns the sum of the lengths of the files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.lock().files.len() as u64 * self.shape.file_len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, entries: &mut Entries) -> io::Result<Arc<dyn File>> {
        if let Some(file) = &entries.file {
            return Ok(Arc::clone(file));
        }
        let file = self.open_file(&entries.name)?;
        if !entries.is_sealed(self.shape) {
            entries.file = Some(Arc::clone(&file));
        }
        Ok(file)
    }

    fn open_file(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create_dir_all(&self.dir)?;
        self.disk.open(&self.dir.join(name), Open::Length(self.shape.file_len()))
    }

    fn write_pending(&self, state: &mut State) -> io::Result<()> {
        if state.pending_bytes == 0 {
            return Ok(());
        }
        for entries in &mut state.files {
            if !entries.pending.is_empty() {
                let bytes = entries.pending.len();
                self.write_entries(entries)?;
                state.pending_bytes -= bytes;
            }
        }
        Ok(())
    }

    fn write_entries(&self, entries: &mut Entries) -> io::Result<()> {
        let file = self.file(entries)?;
        if entries.synced.count == 0 {
            // A first header makes Java, should it come after a crash of ours, see an unfinished file and remove it.
            let header = Header { count: 1, ..entries.header };
            file.write_at(0, &[IoSlice::new(&header.encode())])?;
            entries.synced.count = 1;
        }
        let at = self.shape.entry_at(u64::from(entries.written));
        file.write_at(at, &[IoSlice::new(&entries.pending)])?;
        entries.written = entries.header.count;
        entries.pending.clear();
        Ok(())
    }

    fn entry(&self, entries: &Entries, number: u32) -> io::Result<Entry> {
        let mut bytes = [0; ENTRY_BYTES as usize];
        let file = entries.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.read_at(self.shape.entry_at(u64::from(number)), &mut bytes)?;
        Ok(Entry::decode(&bytes))
    }

    /// Brings the slots of a file into memory: its own, or after a crash or cut those that follow from its entries.
    fn load_slots(&self, entries: &mut Entries) -> io::Result<()> {
        if !entries.slots.is_empty() {
            return Ok(());
        }
        let slots = if entries.slots_lost {
            let slots = self.slots_of_entries(entries)?;
            entries.header.slots_used = slots.iter().filter(|slot| **slot > 0).count() as u32;
            entries.slots_lost = false;
            slots
        } else {
            let mut bytes = vec![0; self.shape.slots as usize * SLOT_BYTES as usize];
            self.file(entries)?.read_at(HEADER_BYTES, &mut bytes)?;
            let slots = bytes.chunks_exact(4).map(|slot| {
                let number = u32::from_be_bytes(slot.try_into().expect("4 bytes"));
                // Java ignores such a slot too (`putKey`).
                if number < entries.header.count { number } else { 0 }
            });
            slots.collect()
        };
        entries.slots = Arc::new(slots);
        Ok(())
    }

    fn slots_of_entries(&self, entries: &mut Entries) -> io::Result<Vec<u32>> {
        let mut slots = vec![0; self.shape.slots as usize];
        let file = self.file(entries)?;
        let mut block = vec![0; RUN_BYTES / ENTRY_BYTES as usize * ENTRY_BYTES as usize];
        let mut number = 1;
        while number < entries.written {
            let count = (block.len() as u64 / ENTRY_BYTES).min(u64::from(entries.written - number));
            let block = &mut block[..(count * ENTRY_BYTES) as usize];
            file.read_at(self.shape.entry_at(u64::from(number)), block)?;
            for bytes in block.chunks_exact(ENTRY_BYTES as usize) {
                slots[(Entry::decode(bytes).hash % self.shape.slots) as usize] = number;
                number += 1;
            }
        }
        Ok(slots)
    }

    /// Takes what a query needs of the newest file older than `before`.
    fn newest_before(
        &self,
        before: Option<&str>,
        hash: u32,
        begin: Millis,
        end: Millis,
    ) -> io::Result<Option<QueryView>> {
        let state = &mut *self.lock();
        let found = state
            .files
            .iter_mut()
            .rev()
            .find(|entries| before.is_none_or(|before| entries.name.as_str() < before));
        let Some(entries) = found else { return Ok(None) };
        let mut view = QueryView {
            name: entries.name.clone(),
            header: entries.header,
            first: 0,
            file: None,
            pending_from: entries.written,
            pending: Vec::new(),
        };
        if !view.header.overlaps(begin, end) || view.header.count <= 1 {
            return Ok(Some(view));
        }
        let slot = (hash % self.shape.slots) as usize;
        if entries.slots_lost {
            self.load_slots(entries)?;
        }
        if entries.written > 1 {
            view.file = Some(self.file(entries)?);
        }
        view.first = match (entries.slots.get(slot), &view.file) {
            (Some(first), _) => *first,
            (None, Some(file)) => {
                let mut bytes = [0; 4];
                let at = HEADER_BYTES + slot as u64 * SLOT_BYTES;
                file.read_at(at, &mut bytes)?;
                u32::from_be_bytes(bytes)
            }
            (None, None) => 0,
        };
        if view.first >= view.pending_from {
            view.pending.clone_from(&entries.pending);
        }
        Ok(Some(view))
    }

    /// Follows a slot's chain through one file (Java: `IndexFile.selectPhyOffset`).
    fn follow(
        &self,
        view: &QueryView,
        hash: u32,
        max: usize,
        begin: Millis,
        end: Millis,
        found: &mut Vec<u64>,
    ) -> io::Result<()> {
        let mut block: Vec<u8> = Vec::new();
        let mut block_from = 0_u64;
        let mut number = view.first;
        while number > 0 && number < view.header.count && found.len() < max {
            let entry = if number >= view.pending_from {
                let at = (number - view.pending_from) as usize * ENTRY_BYTES as usize;
                Entry::decode(&view.pending[at..at + ENTRY_BYTES as usize])
            } else {
                let wanted = u64::from(number);
                if wanted < block_from || wanted >= block_from + block.len() as u64 / ENTRY_BYTES {
                    // Chains run backwards, so the block ends with the entry that is asked for.
                    block_from = (wanted + 1).saturating_sub(BLOCK_ENTRIES);
                    block.resize(((wanted + 1 - block_from) * ENTRY_BYTES) as usize, 0);
                    let file = view.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
                    file.read_at(self.shape.entry_at(block_from), &mut block)?;
                }
                Entry::decode(&block[((wanted - block_from) * ENTRY_BYTES) as usize..])
            };
            if entry.seconds > i32::MAX as u32 {
                break;
            }
            let time = view.header.begin_time.saturating_add(Millis::from(entry.seconds) * 1000);
            if entry.hash == hash && (begin..=end).contains(&time) {
                found.push(entry.log_offset);
            }
            if entry.previous >= number || time < begin {
                break;
            }
            number = entry.previous;
        }
        Ok(())
    }

    /// Names a file by local time, as Java does, and always after the last one.
    fn name_at(&self, now: Millis, last: Option<&str>) -> String {
        let time = Timestamp::from_millisecond(now).unwrap_or_default();
        let time = time.to_zoned(self.zone.clone());
        let name = time.strftime("%Y%m%d%H%M%S%3f").to_string();
        match last {
            // The clock, or the zone's summer time, stepped back: the order of names is the order of files.
            Some(last) if last >= name.as_str() => last
                .parse::<u64>()
                .map_or_else(|_| format!("{last}0"), |last| (last + 1).to_string()),
            _ => name,
        }
    }
}

/// Copies the first `end` bytes of a file to a new one, leaving out blocks of zeros, and syncs it.
fn copy(from: &dyn File, to: &dyn File, end: u64) -> io::Result<()> {
    let mut block = vec![0; RUN_BYTES];
    let mut at = 0;
    while at < end {
        let part = (end - at).min(RUN_BYTES as u64) as usize;
        from.read_at(at, &mut block[..part])?;
        if block[..part].iter().any(|byte| *byte != 0) {
            to.write_at(at, &[IoSlice::new(&block[..part])])?;
        }
        at += part as u64;
    }
    to.sync()
}

/// What a query holds of a file while it follows a chain without the lock.
struct QueryView {
    name: String,
    header: Header,
    first: u32,
    file: Option<Arc<dyn File>>,
    pending_from: u32,
    pending: Vec<u8>,
}

/// The index, taken for a run of records.
pub struct Batch<'a> {
    index: &'a Index,
    state: MutexGuard<'a, State>,
    now: Millis,
}

impl Batch<'_> {
    /// Reads the slots that a few records to come will change. Each lies in a cache line of its own somewhere in many
    /// megabytes; asked for together, they come from memory together.
    pub fn warm<'k>(&self, keys: impl Iterator<Item = &'k u32>) {
        if let Some(last) = self.state.files.last().filter(|last| !last.slots.is_empty()) {
            let slots = &last.slots[..];
            let numbers = keys.map(|key| slots[(key % self.index.shape.slots) as usize]);
            black_box(numbers.fold(0, u32::wrapping_add));
        }
    }

    /// Adds the keys of the record at `log_offset` that ends at `end`. Records come in log order, each once. It touches
    /// memory only, except that the slots of a file left by an earlier run are read once; if that fails nothing was added,
    /// and the same call may be tried again.
    pub fn put(
        &mut self,
        keys: &[u32],
        log_offset: u64,
        end: u64,
        stored_at: Millis,
    ) -> io::Result<()> {
        let shape = self.index.shape;
        let state = &mut *self.state;
        if let Some(last) = state.files.last_mut()
            && last.header.count < shape.entries
            && last.slots.is_empty()
            && !keys.is_empty()
        {
            self.index.load_slots(last)?;
        }
        for key in keys {
            if state.files.last().is_none_or(|last| last.header.count >= shape.entries) {
                let last = state.files.last();
                let name = self.index.name_at(self.now, last.map(|last| last.name.as_str()));
                let header = last.map_or_else(Header::first_file, |last| last.header.next_file());
                state.files.push(Entries::new(name, header, shape));
            }
            let last = state.files.last_mut().expect("a file was pushed if there was none");
            last.put(*key, log_offset, stored_at, shape);
            state.pending_bytes += ENTRY_BYTES as usize;
        }
        state.applied = end;
        Ok(())
    }
}

impl Entries {
    fn new(name: String, header: Header, shape: Shape) -> Entries {
        Entries {
            name,
            header,
            file: None,
            slots: Arc::new(vec![0; shape.slots as usize]),
            slots_written: false,
            slots_lost: false,
            written: 1,
            pending: Vec::with_capacity(4096),
            synced: Header::default(),
        }
    }

    /// Whether the file is full and durable, slots and all.
    fn is_sealed(&self, shape: Shape) -> bool {
        self.slots_written && self.synced.count >= shape.entries
    }

    /// Java: `IndexFile.putKey`, with its order of steps: the first entry's seconds are relative to the end of the file
    /// before.
    fn put(&mut self, hash: u32, log_offset: u64, stored_at: Millis, shape: Shape) {
        let header = &mut self.header;
        let seconds = if header.begin_time <= 0 {
            0
        } else {
            ((stored_at - header.begin_time) / 1000).clamp(0, Millis::from(i32::MAX)) as u32
        };
        let slot = &mut Arc::make_mut(&mut self.slots)[(hash % shape.slots) as usize];
        let entry = Entry { hash, log_offset, seconds, previous: *slot };
        self.pending.extend_from_slice(&entry.encode());
        header.slots_used += u32::from(*slot == 0);
        *slot = header.count;
        if header.count <= 1 {
            header.begin_offset = log_offset;
            header.begin_time = stored_at;
        }
        header.count += 1;
        header.end_offset = log_offset;
        header.end_time = stored_at;
        self.slots_written = false;
    }
}

impl Header {
    fn first_file() -> Header {
        Header { count: 1, ..Header::default() }
    }

    /// Returns the header of the file after this one (Java: the constructor of `IndexFile` with the last end).
    fn next_file(&self) -> Header {
        let (offset, time) = (self.end_offset, self.end_time.max(0));
        Header {
            begin_time: time,
            end_time: time,
            begin_offset: offset,
            end_offset: offset,
            slots_used: 0,
            count: 1,
        }
    }

    /// Java: `IndexFile.isTimeMatched`.
    fn overlaps(&self, begin: Millis, end: Millis) -> bool {
        begin <= self.end_time && end >= self.begin_time
    }

    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&self.begin_time.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.end_time.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.begin_offset.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.end_offset.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.slots_used.to_be_bytes());
        bytes[36..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES as usize], shape: Shape) -> Header {
        let long = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let int = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Header {
            begin_time: long(0),
            end_time: long(8),
            begin_offset: long(16).max(0) as u64,
            end_offset: long(24).max(0) as u64,
            slots_used: int(32).max(0) as u32,
            count: int(36).clamp(1, shape.entries as i32) as u32,
        }
    }
}

impl Entry {
    fn encode(self) -> [u8; ENTRY_BYTES as usize] {
        let mut bytes = [0; ENTRY_BYTES as usize];
        bytes[..4].copy_from_slice(&self.hash.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.log_offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[16..].copy_from_slice(&self.previous.to_be_bytes());
        bytes
    }

    /// Decodes the first 20 of `bytes`.
    fn decode(bytes: &[u8]) -> Entry {
        let int = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Entry {
            hash: int(0),
            log_offset: u64::from_be_bytes(bytes[4..12].try_into().expect("8 bytes")),
            seconds: int(12),
            previous: int(16),
        }
    }
}

fn write_slots(file: &dyn File, slots: &[u32]) -> io::Result<()> {
    let mut at = HEADER_BYTES;
    let mut bytes = Vec::with_capacity(RUN_BYTES);
    for run in slots.chunks(RUN_BYTES / SLOT_BYTES as usize) {
        bytes.clear();
        bytes.extend(run.iter().flat_map(|slot| slot.to_be_bytes()));
        file.write_at(at, &[IoSlice::new(&bytes)])?;
        at += bytes.len() as u64;
    }
    Ok(())
}
