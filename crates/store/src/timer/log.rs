//! The timer log: a unit for each message that was given a slot, chained backwards by slot (Java: `TimerLog`).
//!
//! ```text
//! file timerlog/<20 digits: position of its first byte>, mappedFileSizeTimerLog bytes, sparse
//! unit, 52 bytes: int 52, long position of the slot's previous unit (-1: none), int magic (1, +2 to be rolled, +4 mark of
//!   deletion), long time it was written at, int from there to its slot, long log offset, int record length,
//!   int hash of the real topic, long 0
//! blank, where fewer than 68 bytes are left: int what is left, long 0, int 0xCBD43194
//! ```
//! Units are appended in memory, readable at once, and written in runs. Behind the last one are zeros.
//!
//! Invariant: a unit's place and content never change, but for `TimerLog::cut_chain`.

use std::{
    io::{self, IoSlice},
    ops::{ControlFlow, Range},
};

use env::Millis;

use crate::{Fault, segments::Segments};

/// Bytes of a unit.
pub const UNIT_BYTES: usize = 52;
/// Bytes of a blank.
const BLANK_BYTES: usize = 16;
/// Where less is left in a file it ends with a blank.
const UNIT_AND_BLANK: u64 = (UNIT_BYTES + BLANK_BYTES) as u64;
const BLANK_MAGIC: u32 = 0xCBD4_3194;
/// Where the previous position stands in a unit.
const PREVIOUS_AT: u64 = 4;
/// Bytes that wait in memory before they are written.
const PENDING_BYTES: usize = 256 << 10;
/// Bytes that wait in memory while they cannot be written.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// Bytes that are read at once where one unit is wanted.
const WINDOW_BYTES: u64 = 4096;
/// Bytes that a scan reads at once.
const SCAN_BYTES: u64 = 4096 * UNIT_BYTES as u64;

/// Bits of a unit's magic.
pub mod magic {
    /// In every unit.
    pub const DEFAULT: u32 = 1;
    /// The message is due beyond the roll window: it goes back to the timer topic.
    pub const ROLL: u32 = 2;
    /// The message marks another one as deleted.
    pub const DELETE: u32 = 4;
    /// All that may be set.
    pub(super) const MASK: u32 = 0xF;
}

/// One message in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Position of the slot's unit before this one, -1 for the first.
    pub previous: i64,
    /// See [`magic`].
    pub magic: u32,
    /// When it was given its slot, floored to the precision.
    pub written_at: Millis,
    /// From there to the slot's time, ms.
    pub delay: i32,
    /// Start of the record in the log.
    pub log_offset: u64,
    /// Length of the record in bytes.
    pub len: u32,
    /// Java's hash of the real topic, for counting.
    pub topic_hash: i32,
}

impl Unit {
    /// Returns the slot's time.
    pub fn slot_time(&self) -> Millis {
        self.written_at.saturating_add(i64::from(self.delay))
    }

    /// Returns where the record ends in the log; nowhere that any log reaches, if the unit is damaged.
    pub fn log_end(&self) -> u64 {
        self.log_offset.saturating_add(u64::from(self.len))
    }

    /// Whether it goes back to the timer topic when its slot comes.
    pub fn is_rolled(&self) -> bool {
        self.magic & magic::ROLL != 0
    }

    /// Whether it is a mark of deletion for a message of the same slot.
    pub fn is_deletion(&self) -> bool {
        self.magic & magic::DELETE != 0 && !self.is_rolled()
    }

    /// What it adds to the count of its slot, and of its topic: a mark of deletion takes one away.
    pub fn count(&self) -> i32 {
        if self.magic & magic::DELETE != 0 { -1 } else { 1 }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(UNIT_BYTES as u32).to_be_bytes());
        out.extend_from_slice(&self.previous.to_be_bytes());
        out.extend_from_slice(&self.magic.to_be_bytes());
        out.extend_from_slice(&self.written_at.to_be_bytes());
        out.extend_from_slice(&self.delay.to_be_bytes());
        out.extend_from_slice(&self.log_offset.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&self.topic_hash.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
    }

    /// Reads the unit that `bytes` begin with; `None` if it is none: zeros, a blank, rubbish, or too few.
    pub fn decode(bytes: &[u8]) -> Option<Unit> {
        let bytes = bytes.first_chunk::<UNIT_BYTES>()?;
        let int = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let unit = Unit {
            previous: long(4) as i64,
            magic: int(12),
            written_at: long(16) as i64,
            delay: int(24) as i32,
            log_offset: long(28),
            len: int(36),
            topic_hash: int(40) as i32,
        };
        // Java takes a magic of 0 as well, and never writes one.
        let is_magic = unit.magic != 0 && unit.magic & !magic::MASK == 0;
        (int(0) as usize == UNIT_BYTES && is_magic && unit.len > 0).then_some(unit)
    }
}

/// The timer log of one store; it has one user.
pub struct TimerLog {
    segments: Segments,
    /// Position of the next unit.
    end: u64,
    /// Everything before is in files.
    written: u64,
    /// What is behind, encoded.
    pending: Vec<u8>,
    /// Written and not synced from here on.
    unsynced_from: Option<u64>,
    /// A stretch of the files that was read last: chains mostly lead to a neighbour.
    window: Window,
}

#[derive(Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl TimerLog {
    /// Takes the files; [`TimerLog::end_at`] says where they end.
    pub(super) fn new(segments: Segments) -> TimerLog {
        let end = segments.range().end;
        TimerLog {
            segments,
            end,
            written: end,
            pending: Vec::new(),
            unsynced_from: None,
            window: Window::default(),
        }
    }

    /// Returns the positions that files exist for.
    pub(super) fn files(&self) -> Range<u64> {
        self.segments.range()
    }

    /// Returns the start of the file before the one that holds `position`, or the first; of files that there are.
    pub(super) fn file_before(&self, position: u64) -> u64 {
        let file_len = self.segments.file_len();
        let start = position.saturating_sub(file_len) / file_len * file_len;
        let Range { start: first, end } = self.segments.range();
        start.min(end.saturating_sub(file_len)).max(first)
    }

    /// Returns the place of a unit that `position` lies in.
    pub(super) fn floor(&self, position: u64) -> u64 {
        let within = position % self.segments.file_len();
        position - within % UNIT_BYTES as u64
    }

    /// Returns the position of the next unit.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Makes the log end at `end`: what is behind becomes zeros, durably.
    pub(super) fn end_at(&mut self, end: u64) -> io::Result<()> {
        self.segments.truncate(end)?;
        (self.end, self.written) = (end, end);
        self.pending.clear();
        self.window = Window::default();
        Ok(())
    }

    /// Appends a unit and returns its position. It waits for the disk when much is to be written.
    pub(super) fn append(&mut self, unit: &Unit) -> Result<u64, Fault> {
        if self.pending.len() >= PENDING_BYTES {
            match self.write() {
                Err(fault) if self.pending.len() >= PENDING_BYTES_MAX => return Err(fault),
                Ok(()) | Err(_) => {}
            }
        }
        let file_len = self.segments.file_len();
        let left = file_len - self.end % file_len;
        if left < UNIT_AND_BLANK {
            let from = self.pending.len();
            self.pending.extend_from_slice(&(left as u32).to_be_bytes());
            self.pending.extend_from_slice(&[0; 8]);
            self.pending.extend_from_slice(&BLANK_MAGIC.to_be_bytes());
            self.pending.resize(from + left as usize, 0);
            self.end += left;
        }
        let position = self.end;
        unit.encode(&mut self.pending);
        self.end += UNIT_BYTES as u64;
        Ok(position)
    }

    /// Writes what waits in memory.
    pub(super) fn write(&mut self) -> Result<(), Fault> {
        let file_len = self.segments.file_len();
        let mut done = 0;
        let mut outcome = Ok(());
        while done < self.pending.len() {
            let at = self.written + done as u64;
            let room = (file_len - at % file_len) as usize;
            let part = &self.pending[done..self.pending.len().min(done + room)];
            if let Err(error) = self.segments.write_at(at, &[IoSlice::new(part)]) {
                outcome = Err(Fault::from(error));
                break;
            }
            done += part.len();
        }
        if done > 0 {
            self.unsynced_from.get_or_insert(self.written);
            self.written += done as u64;
            self.pending.drain(..done);
        }
        outcome
    }

    /// Makes what was written durable.
    pub(super) fn sync(&mut self) -> Result<(), Fault> {
        if let Some(from) = self.unsynced_from {
            self.segments.sync(from..self.written.max(from + 1))?;
            self.unsynced_from = None;
        }
        Ok(())
    }

    /// Returns the unit at a position; `None` if there is none.
    pub fn unit_at(&mut self, position: u64) -> Result<Option<Unit>, Fault> {
        if position >= self.written {
            let at = (position - self.written) as usize;
            return Ok(self.pending.get(at..).and_then(Unit::decode));
        }
        let Some(within) = position.checked_sub(self.window.at) else {
            return self.read_window(position);
        };
        let bytes = usize::try_from(within).ok().and_then(|at| self.window.bytes.get(at..));
        match bytes.filter(|bytes| bytes.len() >= UNIT_BYTES) {
            Some(bytes) => Ok(Unit::decode(bytes)),
            None => self.read_window(position),
        }
    }

    /// Reads the stretch that ends with a unit, since chains lead backwards.
    fn read_window(&mut self, position: u64) -> Result<Option<Unit>, Fault> {
        let file_start = position / self.segments.file_len() * self.segments.file_len();
        let end = position + UNIT_BYTES as u64;
        if end > (file_start + self.segments.file_len()).min(self.written) {
            return Ok(None);
        }
        let start = end.saturating_sub(WINDOW_BYTES).max(file_start);
        self.window.bytes.resize((end - start) as usize, 0);
        self.window.at = start;
        if let Err(error) = self.segments.read_at(start, &mut self.window.bytes) {
            self.window = Window::default();
            // Retention was faster.
            return if error.kind() == io::ErrorKind::NotFound {
                Ok(None)
            } else {
                Err(error.into())
            };
        }
        Ok(self.window.bytes.get((position - start) as usize..).and_then(Unit::decode))
    }

    /// Appends to `out` units of a chain, newest first, from that at `position` on, not more than `max`; returns where the
    /// chain goes on. A chain that leads nowhere ends there.
    pub fn chain(
        &mut self,
        position: u64,
        max: usize,
        out: &mut Vec<(u64, Unit)>,
    ) -> Result<Option<u64>, Fault> {
        let mut next = Some(position);
        for _ in 0..max {
            let Some(at) = next else { return Ok(None) };
            let Some(unit) = self.unit_at(at)? else {
                tracing::warn!(position = at, "a chain of the timer log is broken");
                return Ok(None);
            };
            out.push((at, unit));
            // It always leads back, so it always ends.
            next = u64::try_from(unit.previous).ok().filter(|previous| *previous < at);
        }
        Ok(next)
    }

    /// Makes the unit at `position` the first of its chain, in the file: what was before it is delivered.
    pub(super) fn cut_chain(&mut self, position: u64) -> Result<(), Fault> {
        let previous = (-1i64).to_be_bytes();
        if position >= self.written {
            let at = (position - self.written + PREVIOUS_AT) as usize;
            if let Some(bytes) = self.pending.get_mut(at..at + previous.len()) {
                bytes.copy_from_slice(&previous);
            }
            return Ok(());
        }
        self.segments.write_at(position + PREVIOUS_AT, &[IoSlice::new(&previous)])?;
        let from = self.unsynced_from.map_or(position, |from| from.min(position));
        self.unsynced_from = Some(from);
        self.window = Window::default();
        Ok(())
    }

    /// Visits the units in files from `from`, the place of one or the start of a file, up to `to`; returns the position
    /// behind the last of them.
    pub(super) fn scan(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(u64, Unit) -> ControlFlow<()>,
    ) -> Result<u64, Fault> {
        let file_len = self.segments.file_len();
        let (mut at, mut buffer) = (from, Vec::new());
        loop {
            let file_end = (at / file_len + 1) * file_len;
            while at < to && at + UNIT_AND_BLANK <= file_end {
                let (before, len) = (at, (file_end - at).min(SCAN_BYTES).min(to - at));
                buffer.resize(len as usize, 0);
                match self.segments.read_at(at, &mut buffer) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(at),
                    Err(error) => return Err(error.into()),
                }
                for bytes in buffer.chunks_exact(UNIT_BYTES) {
                    let Some(unit) = Unit::decode(bytes) else { return Ok(at) };
                    if visit(at, unit).is_break() {
                        return Ok(at);
                    }
                    at += UNIT_BYTES as u64;
                }
                if at == before {
                    return Ok(at);
                }
            }
            if at >= to || !self.segments.range().contains(&file_end) {
                return Ok(at);
            }
            at = file_end;
        }
    }

    /// Returns the position of the last unit before `end`; `None` if there is none.
    pub(super) fn last_before(&self, end: u64) -> Option<u64> {
        let file_len = self.segments.file_len();
        let within = end % file_len;
        let last = if within == 0 {
            // Behind a full file: before its blank.
            end.checked_sub(file_len)? + last_in_file(file_len)
        } else {
            end.checked_sub(UNIT_BYTES as u64)?
        };
        (last >= self.segments.range().start).then_some(last)
    }

    /// Removes the oldest files while all that their units stand for lies before `log_min`; the newest stays.
    pub(super) fn follow_log_min(&self, log_min: u64) -> Result<usize, Fault> {
        let file_len = self.segments.file_len();
        let mut removed = 0;
        loop {
            let Range { start, end } = self.segments.range();
            if start + file_len >= end || start + file_len > self.written {
                return Ok(removed);
            }
            let mut bytes = [0; UNIT_BYTES];
            self.segments.read_at(start + last_in_file(file_len), &mut bytes)?;
            let is_over = Unit::decode(&bytes).is_some_and(|unit| unit.log_offset < log_min);
            if !is_over || self.segments.remove_first_before(start + file_len)?.is_none() {
                return Ok(removed);
            }
            removed += 1;
        }
    }
}

/// Returns the place of the last unit in a full file (Java: `TimerLog.getOffsetForLastUnit`).
fn last_in_file(file_len: u64) -> u64 {
    let units = (file_len - BLANK_BYTES as u64) / UNIT_BYTES as u64;
    units.saturating_sub(1) * UNIT_BYTES as u64
}
