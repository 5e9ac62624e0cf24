//! Walking the records of a stretch of the log, file by file, in large reads: for recovery and replay.
//!
//! What is a record is judged by its head alone; the visitor checks the rest. A walk ends where nothing that a log writes
//! begins, which after a crash is the end of the log.

use std::{io, ops::Range};

use wire::record::{self, Head};

use crate::segments::Segments;

/// Bytes of a read.
const WINDOW: usize = 1 << 20;

/// Why a walk ended before the end of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It did not: it reached the end.
    AtEnd,
    /// The visitor said so.
    ByVisitor,
    /// There is no record and no blank.
    AtNothing,
    /// There is the head of a record or blank that does not fit into its file.
    AtMisfit,
    /// There is no file.
    AtGap,
}

/// What the visitor of a record wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Go {
    /// The next record.
    On,
    /// No more; the walk ends behind this record.
    StopBehind,
    /// No more; the walk ends before this record.
    StopBefore,
}

/// Calls `visit` for each record of `range` with its place and bytes; returns where the walk ended and why. A record that
/// begins in the range is visited whole. `range` begins at a record, or at the start of a file.
pub(crate) fn scan<E: From<io::Error>>(
    segments: &Segments,
    range: Range<u64>,
    mut visit: impl FnMut(u64, &[u8]) -> Result<Go, E>,
) -> Result<(u64, Stopped), E> {
    let file_len = segments.file_len();
    let mut window = Window { buffer: Vec::new(), start: 0, len: 0 };
    let mut at = range.start;
    while at < range.end {
        let file_end = (at / file_len + 1) * file_len;
        if file_end - at < record::BLANK_LEN as u64 {
            return Ok((at, Stopped::AtMisfit));
        }
        let head = match window.get(segments, at, record::BLANK_LEN, file_end) {
            Ok(head) => Head::read(head),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((at, Stopped::AtGap));
            }
            Err(error) => return Err(error.into()),
        };
        match head {
            Head::Nothing => return Ok((at, Stopped::AtNothing)),
            // A blank fills its file; anything else under its magic is no log's work.
            Head::Blank(len) if u64::from(len) == file_end - at => at = file_end,
            Head::Record(len)
                if u64::from(len) <= file_end - at && len as usize >= record::LEN_MIN =>
            {
                match visit(at, window.get(segments, at, len as usize, file_end)?)? {
                    Go::On => at += u64::from(len),
                    Go::StopBehind => return Ok((at + u64::from(len), Stopped::ByVisitor)),
                    Go::StopBefore => return Ok((at, Stopped::ByVisitor)),
                }
            }
            Head::Blank(_) | Head::Record(_) => return Ok((at, Stopped::AtMisfit)),
        }
    }
    Ok((at, Stopped::AtEnd))
}

/// The bytes of the file that were read last.
struct Window {
    buffer: Vec<u8>,
    start: u64,
    len: usize,
}

impl Window {
    /// Returns `len` bytes from `at`, which lie before `file_end`.
    fn get(
        &mut self,
        segments: &Segments,
        at: u64,
        len: usize,
        file_end: u64,
    ) -> io::Result<&[u8]> {
        let held = at >= self.start && at + len as u64 <= self.start + self.len as u64;
        if !held {
            let wanted = (file_end - at).min(len.max(WINDOW) as u64) as usize;
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            self.len = 0;
            segments.read_at(at, &mut self.buffer[..wanted])?;
            (self.start, self.len) = (at, wanted);
        }
        let from = (at - self.start) as usize;
        Ok(&self.buffer[from..from + len])
    }
}
