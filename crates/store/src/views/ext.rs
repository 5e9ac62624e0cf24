//! The extension of a consume queue: what does not fit into its entries (Java: `ConsumeQueueExt`).
//!
//! ```text
//! file consumequeue_ext/<topic>/<id>/<20 digits: position of its first byte>, mappedFileSizeConsumeQueueExt bytes, sparse
//! unit: short its length, long tags code, long store time, short length of the bit map, bit map
//! short -1 where the next unit does not fit with 4 bytes behind it: it begins the next file
//! ```
//! An entry's tags code is then the unit's position plus `i64::MIN`, which no tag hashes to. Units wait in memory as
//! entries do and are written before them, so an entry that is found after a kill has its unit.
//!
//! Invariant: a unit is never moved, and no position is used twice while an entry may point to it. Nothing but the tags
//! code is truth: bit maps depend on what was known when a message was dispatched, and a rebuild has none.

use std::{
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use env::{Disk, File, Millis, Open};
use smallvec::SmallVec;

use super::{
    LastStop,
    queue::{FileCache, file_at},
};
use crate::OpenError;

/// Bytes of a unit without a bit map.
const UNIT_BYTES: usize = 20;
/// Longest unit.
const UNIT_BYTES_MAX: usize = i16::MAX as usize;
/// What stays free behind the last unit of a file.
const END_BYTES: u64 = 4;
/// Stands where a file has no more units.
const END: i16 = -1;
/// Largest address: no tags code of a message reaches it (Java: `MAX_ADDR`).
const ADDRESS_MAX: i64 = i32::MIN as i64 - 1;
/// Bytes that are read at once.
const CHUNK: u64 = 4096;

/// Whether a tags code is an address in the extension.
pub(super) fn is_address(tags_code: i64) -> bool {
    tags_code <= ADDRESS_MAX
}

/// What the extension says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtUnit {
    /// Hash of the tag, 0 for none; in queues of delayed messages the time when they are due.
    pub tags_code: i64,
    /// Store time of the message.
    pub stored_at: Millis,
    /// Bits of the filters that let the message through; empty if nobody has computed them.
    pub bit_map: SmallVec<[u8; 16]>,
}

impl ExtUnit {
    /// Returns the bytes that it takes on disk.
    pub fn byte_len(&self) -> usize {
        UNIT_BYTES + self.bit_map.len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.byte_len() as i16).to_be_bytes());
        out.extend_from_slice(&self.tags_code.to_be_bytes());
        out.extend_from_slice(&self.stored_at.to_be_bytes());
        out.extend_from_slice(&(self.bit_map.len() as i16).to_be_bytes());
        out.extend_from_slice(&self.bit_map);
    }

    /// Decodes the unit that `bytes` begin with, with its length; `Err` says how many bytes are needed at least, 0 if no
    /// unit is there.
    fn decode(bytes: &[u8]) -> Result<(ExtUnit, usize), usize> {
        let Some((len, rest)) = bytes.split_first_chunk() else { return Err(2) };
        let len = usize::try_from(i16::from_be_bytes(*len)).unwrap_or(0);
        if len < UNIT_BYTES {
            return Err(0);
        }
        let Some(fields) = rest.first_chunk::<18>() else { return Err(len) };
        let long = |at: usize| i64::from_be_bytes(fields[at..at + 8].try_into().expect("8 bytes"));
        let map_len = i16::from_be_bytes([fields[16], fields[17]]).max(0) as usize;
        if UNIT_BYTES + map_len > len {
            return Err(0);
        }
        let Some(bit_map) = bytes.get(UNIT_BYTES..UNIT_BYTES + map_len) else { return Err(len) };
        let unit = ExtUnit { tags_code: long(0), stored_at: long(8), bit_map: bit_map.into() };
        Ok((unit, len))
    }
}

/// The extension of one queue.
pub(super) struct Extension {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file_len: u64,
    /// Where open files are kept, and what tells this extension's apart.
    open_files: Arc<Mutex<FileCache>>,
    serial: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Files that exist, by number: the first byte of number n is at n × the length of a file.
    files: Range<u64>,
    /// Units below this position are written.
    written: u64,
    /// Encoded units from `written` on, with what ends a file between them.
    pending: Vec<u8>,
    /// First file with writes that are not synced.
    unsynced_from: Option<u64>,
    /// Whether a file was created or removed, and its directory not synced.
    has_new_name: bool,
    /// Whether the topic was removed.
    is_removed: bool,
}

/// What is done with an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// New entries get units.
    Written,
    /// What old entries point to is found.
    Read,
}

/// Reads from a file; `false` if a device had to be waited for.
pub(super) type Read<'r> = &'r dyn Fn(&dyn File, u64, &mut [u8]) -> io::Result<bool>;

impl Extension {
    /// Returns the extension of a queue that has none on disk.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        file_len: u64,
        open_files: Arc<Mutex<FileCache>>,
        serial: u32,
    ) -> Extension {
        Extension { disk, dir, file_len, open_files, serial, state: Mutex::default() }
    }

    /// Takes over what is on disk; returns whether that is anything. `last` is the tags code of the queue's last entry, if
    /// it has any. For [`Mode::Written`] what lies behind that entry's unit is cleared, and everything if there is none.
    pub(super) fn recover(
        &mut self,
        last: Option<i64>,
        last_stop: LastStop,
        mode: Mode,
    ) -> Result<bool, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { what: "cannot recover", path, source }
        };
        let mut files = self.disk.list(&self.dir).map_err(io(&self.dir))?;
        // A crash of the machine may have come between a file's creation and the sync of its length.
        let is_kept = |len: u64| len > 0 || mode == Mode::Written;
        files.retain(|entry| file_at(&entry.name).is_some() && is_kept(entry.len));
        if let (Mode::Read, Some(file)) = (mode, files.first()) {
            // Whatever the options say, nothing is written.
            self.file_len = file.len.max(1);
        }
        let mut numbers = Vec::new();
        for entry in files {
            let path = self.dir.join(&entry.name);
            if mode == Mode::Written && (entry.len == 0 || last.is_none()) {
                self.disk.remove(&path).map_err(io(&path))?;
                continue;
            }
            let at = file_at(&entry.name).unwrap_or_default();
            if entry.len != self.file_len || !at.is_multiple_of(self.file_len) {
                return Err(OpenError::FileLen {
                    key: "mappedFileSizeConsumeQueueExt",
                    path,
                    found: entry.len,
                    expected: self.file_len,
                });
            }
            numbers.push(at / self.file_len);
        }
        numbers.sort_unstable();
        // All of it is on disk.
        self.lock().written = u64::MAX;
        let end = match (mode, last) {
            // Even if all files are lost: entries still point there.
            (Mode::Written, Some(last)) if !numbers.is_empty() || is_address(last) => {
                self.cut_behind(&mut numbers, last, last_stop).map_err(io(&self.dir))?
            }
            (Mode::Written, _) => 0,
            (Mode::Read, _) => u64::MAX,
        };
        let mut state = self.lock();
        state.written = end;
        if let Some(newest) = numbers.last() {
            // Should one be missing in between, what is before it is left alone.
            let run = numbers.iter().rev().zip((0..=*newest).rev());
            let first = run.take_while(|(number, expected)| *number == expected).last();
            state.files = first.map_or(*newest, |(number, _)| *number)..newest + 1;
            state.unsynced_from = (mode == Mode::Written).then_some(*newest);
        }
        Ok(!numbers.is_empty())
    }

    /// Finds the end and clears what is behind it.
    fn cut_behind(
        &self,
        numbers: &mut Vec<u64>,
        last: i64,
        last_stop: LastStop,
    ) -> io::Result<u64> {
        let end = if is_address(last) {
            let at = position(last);
            match self.reader(&waiting).unit(at)? {
                Found::Unit(_, len) => at + len as u64,
                // Its place is not used again.
                Found::Nothing | Found::Waits => (at / self.file_len + 1) * self.file_len,
            }
        } else {
            self.end_of(numbers.last().copied().unwrap_or(0))?
        };
        let kept = numbers.partition_point(|number| number * self.file_len < end);
        for number in numbers.drain(kept..) {
            self.remove(number)?;
        }
        let behind = end % self.file_len;
        if behind != 0 && (last_stop == LastStop::Crash || !is_clear(self, end)?) {
            self.file(end / self.file_len, Open::Existing)?.zero(behind..self.file_len)?;
        }
        Ok(end)
    }

    /// Returns the position behind the last unit of a file.
    fn end_of(&self, number: u64) -> io::Result<u64> {
        let mut reader = self.reader(&waiting);
        let mut at = number * self.file_len;
        while at / self.file_len == number {
            match reader.unit(at)? {
                Found::Unit(_, len) => at += len as u64,
                Found::Nothing | Found::Waits => break,
            }
        }
        Ok(at)
    }

    /// Adds a unit and returns its address; `None` if it is too long. For the dispatcher alone.
    pub(super) fn put(&self, unit: &ExtUnit) -> Option<i64> {
        let mut state = self.lock();
        let len = unit.byte_len();
        let is_too_long = len > UNIT_BYTES_MAX || len as u64 + END_BYTES > self.file_len;
        if is_too_long || state.is_removed {
            return None;
        }
        let mut at = state.written + state.pending.len() as u64;
        let room = self.file_len - at % self.file_len;
        if len as u64 + END_BYTES > room {
            state.pending.extend_from_slice(&END.to_be_bytes());
            let end = state.pending.len() + room as usize - 2;
            state.pending.resize(end, 0);
            at += room;
        }
        unit.encode(&mut state.pending);
        Some(i64::MIN + at as i64)
    }

    /// Writes what waits; after an error it keeps waiting. For the dispatcher alone.
    pub(super) fn write(&self) -> io::Result<()> {
        let (mut at, bytes) = {
            let state = self.lock();
            if state.pending.is_empty() {
                return Ok(());
            }
            (state.written, state.pending.clone())
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let number = at / self.file_len;
            let room = (self.file_len - at % self.file_len) as usize;
            let part = &rest[..rest.len().min(room)];
            let is_new = !self.lock().files.contains(&number);
            let file = self
                .file(number, if is_new { Open::Length(self.file_len) } else { Open::Existing })?;
            file.write_at(at % self.file_len, &[IoSlice::new(part)])?;
            rest = &rest[part.len()..];
            at += part.len() as u64;
            let mut state = self.lock();
            if state.is_removed {
                drop(state);
                return self.remove(number);
            }
            state.written = at;
            state.pending.drain(..part.len());
            state.pending.shrink_to(UNIT_BYTES * 8);
            state.files = match state.files.is_empty() {
                true => number..number + 1,
                false => state.files.start..state.files.end.max(number + 1),
            };
            state.has_new_name |= is_new;
            state.unsynced_from.get_or_insert(number);
        }
        Ok(())
    }

    /// Returns the unit of each tags code that is an address; `None` if `read` had to wait for a device.
    pub(super) fn units(
        &self,
        tags_codes: impl Iterator<Item = i64>,
        read: Read<'_>,
    ) -> io::Result<Option<Vec<Option<ExtUnit>>>> {
        let mut reader = self.reader(read);
        let mut units = Vec::new();
        for tags_code in tags_codes {
            if !is_address(tags_code) {
                units.push(None);
                continue;
            }
            units.push(match reader.unit(position(tags_code))? {
                Found::Unit(unit, _) => Some(unit),
                Found::Nothing => None,
                Found::Waits => return Ok(None),
            });
        }
        Ok(Some(units))
    }

    /// Removes the files before the one of this tags code's unit.
    pub(super) fn remove_before(&self, tags_code: i64) -> io::Result<()> {
        if !is_address(tags_code) {
            return Ok(());
        }
        let number = position(tags_code) / self.file_len;
        loop {
            let first = {
                let mut state = self.lock();
                if state.files.start >= number || state.files.is_empty() {
                    return Ok(());
                }
                state.files.start += 1;
                state.has_new_name = true;
                state.files.start - 1
            };
            self.remove(first)?;
        }
    }

    /// Removes everything: the topic is gone.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        let files = {
            let mut state = self.lock();
            let files = state.files.clone();
            *state = State { is_removed: true, ..State::default() };
            files
        };
        for number in files {
            self.remove(number)?;
        }
        // The topic's other queues may have theirs still.
        self.dir.ancestors().take(2).for_each(|dir| drop(self.disk.remove_dir(dir)));
        Ok(())
    }

    /// Makes durable what was written.
    pub(super) fn sync(&self) -> io::Result<()> {
        let (files, has_new_name) = self.take_unsynced();
        for number in files {
            match self.file(number, Open::Existing) {
                Ok(file) => file.sync()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if has_new_name {
            for dir in self.dir.ancestors().take(4) {
                match self.disk.sync_dir(dir) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Returns what the caller syncs now: files, and whether the directory too.
    pub(super) fn take_unsynced(&self) -> (Range<u64>, bool) {
        let mut state = self.lock();
        let files = match state.unsynced_from.take() {
            Some(first) => first.max(state.files.start)..state.files.end,
            None => 0..0,
        };
        (files, std::mem::take(&mut state.has_new_name))
    }

    fn reader<'r>(&'r self, read: Read<'r>) -> Reader<'r> {
        Reader { extension: self, read, chunk_at: 0, chunk: Vec::new() }
    }

    fn file(&self, number: u64, how: Open) -> io::Result<Arc<dyn File>> {
        let key = (self.serial, number);
        if let Some(file) = lock(&self.open_files).get(key) {
            return Ok(file);
        }
        let path = self.dir.join(format!("{:020}", number * self.file_len));
        let file = match self.disk.open(&path, how) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && how != Open::Existing => {
                self.disk.create_dir_all(&self.dir)?;
                self.disk.open(&path, how)?
            }
            opened => opened?,
        };
        lock(&self.open_files).insert(key, Arc::clone(&file));
        Ok(file)
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        lock(&self.open_files).remove((self.serial, number));
        match self.disk.remove(&self.dir.join(format!("{:020}", number * self.file_len))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What lies at a position.
enum Found {
    Unit(ExtUnit, usize),
    Nothing,
    /// A device has to be waited for.
    Waits,
}

/// Reads units one after the other, a chunk of the file at a time.
struct Reader<'r> {
    extension: &'r Extension,
    read: Read<'r>,
    chunk_at: u64,
    chunk: Vec<u8>,
}

impl Reader<'_> {
    fn unit(&mut self, at: u64) -> io::Result<Found> {
        let mut wanted = CHUNK;
        loop {
            let chunk_end = self.chunk_at + self.chunk.len() as u64;
            let known = match (self.chunk_at..chunk_end).contains(&at) {
                true => ExtUnit::decode(&self.chunk[(at - self.chunk_at) as usize..]),
                false => Err(2),
            };
            match known {
                Ok((unit, len)) => return Ok(Found::Unit(unit, len)),
                Err(0) => return Ok(Found::Nothing),
                Err(needed) => wanted = wanted.max(needed as u64),
            }
            match self.fill(at, wanted)? {
                Some(0) => return Ok(Found::Nothing),
                Some(got) if got < wanted => {
                    // The end of the file or of what is written: there is no more than this.
                    let decoded = ExtUnit::decode(&self.chunk);
                    return Ok(decoded.map_or(Found::Nothing, |(unit, len)| Found::Unit(unit, len)));
                }
                Some(_) => {}
                None => return Ok(Found::Waits),
            }
        }
    }

    /// Reads up to `wanted` bytes from `at` on; returns how many, or `None` if a device has to be waited for.
    fn fill(&mut self, at: u64, wanted: u64) -> io::Result<Option<u64>> {
        self.chunk.clear();
        self.chunk_at = at;
        let extension = self.extension;
        let file_end = (at / extension.file_len + 1) * extension.file_len;
        let end = {
            let state = extension.lock();
            if at >= state.written {
                let skipped = (at - state.written) as usize;
                let pending = state.pending.get(skipped..).unwrap_or_default();
                self.chunk.extend_from_slice(&pending[..pending.len().min(wanted as usize)]);
                return Ok(Some(self.chunk.len() as u64));
            }
            (at + wanted).min(file_end).min(state.written)
        };
        let file = match extension.file(at / extension.file_len, Open::Existing) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(0)),
            Err(error) => return Err(error),
        };
        self.chunk.resize((end - at) as usize, 0);
        if !(self.read)(&*file, at % extension.file_len, &mut self.chunk)? {
            self.chunk.clear();
            return Ok(None);
        }
        Ok(Some(end - at))
    }
}

/// Whether nothing was ever written at a position inside of a file.
fn is_clear(extension: &Extension, at: u64) -> io::Result<bool> {
    let mut len = [0; 2];
    let file = extension.file(at / extension.file_len, Open::Existing)?;
    let at = at % extension.file_len;
    if at + 2 > extension.file_len {
        return Ok(true);
    }
    file.read_at(at, &mut len)?;
    Ok(len == [0; 2])
}

fn waiting(file: &dyn File, at: u64, into: &mut [u8]) -> io::Result<bool> {
    file.read_at(at, into).map(|()| true)
}

fn position(address: i64) -> u64 {
    address.wrapping_sub(i64::MIN) as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use env::{
        read_whole,
        sim::{SimClock, SimDisk},
    };

    use super::*;
    use crate::views::{
        Layout, Queue, QueueEntry, Queues,
        queue::WriteList,
        tests::{layout, write},
    };

    const FIRST: &str = "/ext/T/0/00000000000000000000";

    fn open(disk: &SimDisk, is_extended: bool, trusted: u64) -> Queues {
        let layout = Layout { ext_file_len: 100, is_extended, ..layout() };
        let disk = Arc::new(disk.clone());
        Queues::open(disk, layout, HashSet::new(), LastStop::Crash, trusted, 0).expect("opens")
    }

    fn push(list: &mut WriteList, queue: &Arc<Queue>, offsets: Range<i64>, bit_map: &[u8]) {
        let mut pusher = queue.pusher();
        for offset in offsets {
            let entry = entry(offset);
            let unit = ExtUnit {
                tags_code: entry.tags_code,
                stored_at: 1_000 + offset,
                bit_map: bit_map.into(),
            };
            match queue.is_extended() {
                true => pusher.push_extended(entry, 0, unit),
                false => pusher.push(entry, 0),
            }
        }
        if pusher.list() {
            list.push(Arc::clone(queue), std::time::Duration::ZERO, 0, 0);
        }
    }

    fn entry(offset: i64) -> QueueEntry {
        let (log_offset, tags_code) = (offset as u64 * 100, offset * 7 - 20);
        QueueEntry { offset, count: 1, log_offset, len: 100, tags_code }
    }

    /// Checks that a queue has the entries before `end` with their tags codes, and returns their units.
    fn check(queue: &Queue, end: i64) -> Vec<Option<ExtUnit>> {
        let (mut entries, mut units) = (Vec::new(), Vec::new());
        queue.read_extended(0, 100, &mut entries, &mut units).expect("reads");
        assert_eq!(entries, (0..end).map(entry).collect::<Vec<_>>());
        for (offset, unit) in units.iter().enumerate() {
            let Some(unit) = unit else { continue };
            assert_eq!(unit.tags_code, entries[offset].tags_code);
            assert_eq!(unit.stored_at, 1_000 + offset as i64);
        }
        units
    }

    fn bytes(disk: &SimDisk, path: &str) -> Vec<u8> {
        read_whole(disk, Path::new(path), 1 << 20).expect("reads").expect("the file is there")
    }

    #[test]
    fn units_lie_where_java_reads_them() {
        let disk = SimDisk::new(0, SimClock::new(0));
        let queues = open(&disk, true, 0);
        let queue = queues.queue("T", 0);
        let mut list = WriteList::default();
        push(&mut list, &queue, 0..1, &[]);
        push(&mut list, &queue, 1..4, &[0, 4, 0, 0, 0, 0, 0, 0, 1, 0, 8]);
        check(&queue, 4);
        write(&mut list);
        check(&queue, 4);
        let first = bytes(&disk, FIRST);
        assert_eq!(first.len(), 100);
        let unit = |tags_code: i64, stored_at: u64, bit_map: &[u8]| {
            let (len, map_len) = (20 + bit_map.len() as u16, bit_map.len() as u16);
            let numbers = [tags_code.to_be_bytes(), stored_at.to_be_bytes()].concat();
            [&len.to_be_bytes()[..], &numbers, &map_len.to_be_bytes(), bit_map].concat()
        };
        assert_eq!(first[..20], unit(-20, 1_000, &[]));
        assert_eq!(first[20..51], unit(-13, 1_001, &[0, 4, 0, 0, 0, 0, 0, 0, 1, 0, 8]));
        // Two of 31 bytes fit; the next one would leave less than four bytes.
        assert_eq!(first[82..86], [0xff, 0xff, 0, 0]);
        let second = bytes(&disk, "/ext/T/0/00000000000000000100");
        assert_eq!(second[..31], unit(1, 1_003, &[0, 4, 0, 0, 0, 0, 0, 0, 1, 0, 8]));
        let entries = bytes(&disk, "/q/T/0/00000000000000000000");
        for (at, position) in [0, 20, 51, 100].into_iter().enumerate() {
            let address = &entries[at * 20 + 12..at * 20 + 20];
            assert_eq!(address, (i64::MIN + position).to_be_bytes());
        }
    }

    #[test]
    fn a_cut_queue_takes_its_extension_along() {
        let disk = SimDisk::new(0, SimClock::new(0));
        let queues = open(&disk, true, 0);
        let mut list = WriteList::default();
        push(&mut list, &queues.queue("T", 0), 0..17, &[1, 2]);
        write(&mut list);
        let queues = open(&disk, true, 650);
        let queue = queues.queue("T", 0);
        check(&queue, 7);
        assert!(!disk.exists(Path::new("/ext/T/0/00000000000000000200")).expect("looks"));
        assert_eq!(bytes(&disk, "/ext/T/0/00000000000000000100")[66..], [0; 34]);
        push(&mut list, &queue, 7..20, &[3; 9]);
        write(&mut list);
        let units = check(&open(&disk, true, 10_000).queue("T", 0), 20);
        assert_eq!(units[6].as_ref().map(|unit| &unit.bit_map[..]), Some(&[1, 2][..]));
        assert_eq!(units[7].as_ref().map(|unit| &unit.bit_map[..]), Some(&[3; 9][..]));
    }

    #[test]
    fn entries_with_and_without_units_stand_side_by_side() {
        let disk = SimDisk::new(0, SimClock::new(0));
        let mut list = WriteList::default();
        let mut end = 0;
        for is_extended in [true, false, true, false, false, true] {
            let queue = open(&disk, is_extended, 10_000).queue("T", 0);
            check(&queue, end);
            push(&mut list, &queue, end..end + 5, &[9; 3]);
            write(&mut list);
            end += 5;
        }
        let units = check(&open(&disk, false, 10_000).queue("T", 0), end);
        let is_there: Vec<bool> = units.chunks(5).map(|five| five[0].is_some()).collect();
        assert_eq!(is_there, [true, false, true, false, false, true]);
    }

    #[test]
    fn a_lost_extension_leaves_addresses_and_its_places_are_not_used_again() {
        let disk = SimDisk::new(0, SimClock::new(0));
        let mut list = WriteList::default();
        push(&mut list, &open(&disk, true, 0).queue("T", 0), 0..9, &[1]);
        write(&mut list);
        for path in disk.paths() {
            if path.starts_with("/ext") {
                disk.remove(&path).expect("removes");
            }
        }
        let queue = open(&disk, true, 10_000).queue("T", 0);
        push(&mut list, &queue, 9..10, &[1]);
        let mut entries = Vec::new();
        queue.read(0, 100, &mut entries).expect("reads");
        assert!(entries[..9].iter().all(|entry| is_address(entry.tags_code)));
        assert_eq!(entries[9], entry(9));
    }

    #[test]
    fn old_files_and_those_of_removed_topics_go() {
        let disk = SimDisk::new(0, SimClock::new(0));
        let queues = open(&disk, true, 0);
        let mut list = WriteList::default();
        push(&mut list, &queues.queue("T", 0), 0..17, &[]);
        push(&mut list, &queues.queue("T", 1), 0..3, &[]);
        write(&mut list);
        queues.follow_log_min(900, &mut |_, _| {}).expect("follows");
        assert!(!disk.exists(Path::new(FIRST)).expect("looks"));
        assert!(disk.exists(Path::new("/ext/T/0/00000000000000000200")).expect("looks"));
        queues.remove_topic("T").expect("removes");
        assert!(!disk.exists(Path::new("/ext/T")).expect("looks"));
        // Extensions without a queue are not taken for those of a new one.
        let queues = open(&disk, true, 0);
        push(&mut list, &queues.queue("U", 0), 0..3, &[]);
        write(&mut list);
        for path in disk.paths() {
            if path.starts_with("/q/U") {
                disk.remove(&path).expect("removes");
            }
        }
        disk.remove_dir(Path::new("/q/U/0")).expect("removes");
        open(&disk, true, 0);
        assert!(!disk.paths().iter().any(|path| path.starts_with("/ext")));
    }
}
