//! From the tail into files: many records a system call, by whoever comes first.
//!
//! After an append the caller itself writes what is pending ([`Log::drive`]), so a lone send pays no thread hop. While the
//! disk is slow the writer thread does it and no caller waits for it, unless so much has gathered that the thread seems
//! to get no processor. Whoever finds the writer taken leaves: its holder looks once more after letting go.
//!
//! A full disk keeps the bytes in the tail and is tried again; any other error poisons the log, since nobody knows what
//! reached the file. Invariant: bytes are written in log order, each once.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering, fence},
    },
    time::Duration,
};

use bytes::Bytes;
use env::{Step, Wake, Worker};

use super::{Log, append::lock};

/// Bytes that wait for the writer thread while the disk is slow, before appenders write again.
const LEFT_TO_THREAD: u64 = 8 << 20;
/// Most bytes of one system call.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Most writes that an appender does for others before the thread takes over.
const INLINE_WRITES_MAX: usize = 4;
/// A write that took longer leaves the next ones to the thread, until one is quick again.
const QUICK: Duration = Duration::from_millis(2);
/// Pause before a full disk is tried again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct Writer {
    /// Held while writing; the buffer is the holder's.
    turn: Mutex<Vec<Bytes>>,
    /// Whether the last write was slow.
    slow: AtomicBool,
    pub(super) wake: Wake,
}

/// What a turn of writing came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrote {
    All,
    Some,
    DiskFull,
    Poisoned,
}

impl Log {
    /// Gets what was appended written: by this thread if that is quick, else by the writer thread. Never waits for
    /// another writer.
    pub(crate) fn drive(&self) {
        for _ in 0..INLINE_WRITES_MAX {
            let unwritten = self.unwritten();
            if unwritten == 0 {
                return;
            }
            if self.writer.slow.load(Ordering::Relaxed) && unwritten < LEFT_TO_THREAD {
                break;
            }
            // Either the holder's look after letting go sees what this thread appended, or this thread gets the turn.
            fence(Ordering::SeqCst);
            let Ok(mut turn) = self.writer.turn.try_lock() else { return };
            let wrote = self.write_pending(&mut turn);
            drop(turn);
            fence(Ordering::SeqCst);
            match wrote {
                Wrote::All | Wrote::Some => {}
                Wrote::DiskFull => break,
                Wrote::Poisoned => return,
            }
        }
        if self.unwritten() > 0 {
            self.writer.wake.wake();
        }
    }

    /// Returns the bytes that are appended and not written.
    pub(crate) fn unwritten(&self) -> u64 {
        self.marks.appended.get().saturating_sub(self.marks.written.get())
    }

    /// Writes everything that is pending before it returns; `false` if the disk is full or the log poisoned.
    pub(crate) fn write_all(&self) -> bool {
        let mut turn = lock(&self.writer.turn);
        loop {
            match self.write_pending(&mut turn) {
                Wrote::All => return true,
                Wrote::Some => {}
                Wrote::DiskFull | Wrote::Poisoned => return false,
            }
        }
    }

    fn write_pending(&self, pieces: &mut Vec<Bytes>) -> Wrote {
        if self.is_poisoned() {
            return Wrote::Poisoned;
        }
        let from = self.marks.written.get();
        pieces.clear();
        let end = self.tail.collect(from, WRITE_BYTES_MAX, pieces);
        if end == from {
            return Wrote::All;
        }
        let started = self.clock.monotonic();
        let outcome = self.write_pieces(from, pieces);
        let took = self.clock.monotonic().saturating_sub(started);
        // The tail can use a chunk again only when nobody refers to it.
        pieces.clear();
        self.writer.slow.store(took > QUICK, Ordering::Relaxed);
        match outcome {
            Ok(()) => {
                if self.state.write_met_full_disk.swap(false, Ordering::Relaxed) {
                    tracing::info!(offset = from, "there is room on the disk again");
                }
                self.marks.written.advance(end);
                self.marks.confirmed.advance(end);
                self.tail.trim(end);
                if end < self.marks.appended.get() { Wrote::Some } else { Wrote::All }
            }
            Err(error) if is_full(&error) => {
                if !self.state.write_met_full_disk.swap(true, Ordering::Relaxed) {
                    tracing::error!(offset = from, %error, "the disk of the log is full: messages are refused");
                }
                Wrote::DiskFull
            }
            Err(error) => {
                self.poison("write", &error);
                Wrote::Poisoned
            }
        }
    }

    fn write_pieces(&self, from: u64, pieces: &[Bytes]) -> io::Result<()> {
        let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.reserve_for(from..from + len)?;
        let parts: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        self.segments.write_at(from, &parts)
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The writer thread: what appenders do not write themselves.
pub(crate) struct WriterWorker(pub(crate) Arc<Log>);

impl Worker for WriterWorker {
    fn step(&mut self) -> Step {
        let log = &self.0;
        if log.unwritten() == 0 {
            return Step::Idle;
        }
        let mut turn = lock(&log.writer.turn);
        let wrote = log.write_pending(&mut turn);
        drop(turn);
        match wrote {
            Wrote::All | Wrote::Some => Step::Again,
            Wrote::DiskFull => Step::IdleUntil(log.clock.monotonic() + FULL_DISK_PAUSE),
            Wrote::Poisoned => Step::Idle,
        }
    }
}
