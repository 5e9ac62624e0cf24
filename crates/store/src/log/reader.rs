//! Reading records: a slice of the tail, a slice of a kept block, or a read of just what was asked for.
//!
//! A read that would have to wait for the device is not done on the caller's thread unless it says so: `try_*` answers
//! `None`, and the caller repeats with the blocking twin on a pool of its choice.
//!
//! Invariant: only bytes before `written` are read from files.

use std::{io, ops::Range};

use bytes::{Bytes, BytesMut};
use env::Millis;
use wire::{
    names::system_flag,
    record::{self, Head},
};

use super::{
    Log,
    blocks::{BLOCK_LEN, Lookup, OVERLAP},
};
use crate::fault::Fault;

/// Whether a read may wait for the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Never,
    Allowed,
}

/// Bytes of a record that are enough for [`stored_at`].
pub(crate) const STORED_AT_END: usize = 76;

/// Returns the store time in the first [`STORED_AT_END`] bytes of a record; `None` if it is none.
pub(crate) fn stored_at(head: &[u8]) -> Option<Millis> {
    let Head::Record(_) = Head::read(head) else { return None };
    let field = |at: usize| head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    let flags = field(record::SYSTEM_FLAG_AT).map(u64::from_be_bytes)?;
    // The flag is an int: the upper half of the eight bytes.
    let born_host_is_v6 = (flags >> 32) as i32 & system_flag::BORN_HOST_V6 != 0;
    field(if born_host_is_v6 { 68 } else { 56 }).map(i64::from_be_bytes)
}

/// Reads records one after the other: those that lie near each other are found without asking for their block again.
pub struct Reader<'a> {
    log: &'a Log,
    last: Option<(u64, Bytes)>,
}

impl Reader<'_> {
    /// As [`crate::Store::try_read`].
    pub fn try_read(&mut self, at: u64, len: u32) -> Result<Option<Bytes>, Fault> {
        self.log.read_after(&mut self.last, at, len, Wait::Never)
    }
}

impl Log {
    /// Starts a series of reads.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { log: self, last: None }
    }

    /// Returns the store time of the record at `at`; `None` if the log has none there. May wait for the device.
    pub(crate) fn store_time(&self, at: u64) -> Option<Millis> {
        let head = self.read(at, STORED_AT_END as u32, Wait::Allowed).ok()??;
        stored_at(&head)
    }

    /// Returns the offsets at which records can lie.
    pub(crate) fn range(&self) -> Range<u64> {
        let end = self.marks.appended.get();
        self.segments.range().start.min(end)..end
    }

    /// Returns `len` bytes from `at`, which is the place of a record; `None` if the device would have to be waited for.
    pub(crate) fn read(&self, at: u64, len: u32, wait: Wait) -> Result<Option<Bytes>, Fault> {
        self.read_after(&mut None, at, len, wait)
    }

    /// The same for one of a series of reads; `last` is the block that served the one before.
    fn read_after(
        &self,
        last: &mut Option<(u64, Bytes)>,
        at: u64,
        len: u32,
        wait: Wait,
    ) -> Result<Option<Bytes>, Fault> {
        if let Some((start, block)) = last
            && let Some(from) = at.checked_sub(*start)
            && from + u64::from(len) <= block.len() as u64
        {
            return Ok(Some(block.slice(from as usize..(from + u64::from(len)) as usize)));
        }
        let end = at.checked_add(u64::from(len)).ok_or(Fault::OutOfRange(at))?;
        if end > self.marks.appended.get() {
            return Err(Fault::OutOfRange(at));
        }
        if let Some(bytes) = self.tail.slice(at, len as usize) {
            return Ok(Some(bytes));
        }
        if end > self.marks.written.get() {
            // Not a record's place: the tail has every unwritten record.
            return Err(Fault::OutOfRange(at));
        }
        // Blocks are counted from the start of their file, so that none crosses its end.
        let within_file = at % self.limits.file_len;
        let within = (within_file % BLOCK_LEN) as usize;
        let to = within + len as usize;
        if to as u64 <= BLOCK_LEN + OVERLAP && within_file + u64::from(len) <= self.limits.file_len
        {
            let start = at - within as u64;
            let block = match self.blocks.look_up(start, to) {
                Lookup::Kept(block) => Some(block),
                Lookup::Followed => match self.read_block(start, wait)? {
                    Some(block) => Some(block),
                    None => return Ok(None),
                },
                Lookup::Unknown => None,
            };
            if let Some(block) = block {
                let bytes = block.slice(within..to);
                *last = Some((start, block));
                return Ok(Some(bytes));
            }
        }
        // Who points here may be damaged, and say any length: what is long has to say so itself.
        if len as u64 > BLOCK_LEN {
            let mut head = [0; record::BLANK_LEN];
            if !self.fill(at, &mut head, wait)? {
                return Ok(None);
            }
            if Head::read(&head) != Head::Record(len) {
                return Err(Fault::OutOfRange(at));
            }
        }
        self.read_exactly(at, len as usize, wait)
    }

    /// Returns the record at `at`, of whatever length its head says; `None` if the device would have to be waited for.
    pub(crate) fn record_at(&self, at: u64, wait: Wait) -> Result<Option<Bytes>, Fault> {
        let Some(head) = self.read(at, record::BLANK_LEN as u32, wait)? else { return Ok(None) };
        match Head::read(&head) {
            Head::Record(len) if len as usize <= self.limits.record_len_max => {
                self.read(at, len, wait)
            }
            _ => Err(Fault::OutOfRange(at)),
        }
    }

    fn read_block(&self, start: u64, wait: Wait) -> Result<Option<Bytes>, Fault> {
        let file_len = self.limits.file_len;
        let file_end = (start / file_len + 1) * file_len;
        let end = (start + BLOCK_LEN + OVERLAP).min(self.marks.written.get()).min(file_end);
        let mut buffer = self.blocks.buffer((end - start) as usize);
        if self.fill(start, &mut buffer, wait)? {
            Ok(Some(self.blocks.keep(start, buffer)))
        } else {
            self.blocks.give_back(buffer);
            Ok(None)
        }
    }

    fn read_exactly(&self, at: u64, len: usize, wait: Wait) -> Result<Option<Bytes>, Fault> {
        let mut buffer = BytesMut::zeroed(len);
        Ok(self.fill(at, &mut buffer, wait)?.then(|| buffer.freeze()))
    }

    fn fill(&self, at: u64, into: &mut [u8], wait: Wait) -> Result<bool, Fault> {
        let outcome = match wait {
            Wait::Never => self.segments.try_read_at(at, into),
            Wait::Allowed => self.segments.read_at(at, into).map(|()| true),
        };
        outcome.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => Fault::OutOfRange(at),
            _ => Fault::from(error),
        })
    }
}
