//! From the operating system onto the device.
//!
//! Under `SYNC_FLUSH` a sync begins as soon as the last one has ended and something was written meanwhile: whatever
//! gathered shares it, without a timer. Under `ASYNC_FLUSH` it runs every `flushIntervalCommitLog`. The flusher also
//! reserves room ahead of the writer, so that writes into a file find their blocks there. It never creates the next file:
//! an original that is refused by our lock has by then removed log files that nothing in the one before leads to
//! (Java: `MappedFileQueue.truncateDirtyFiles`).
//!
//! A failed sync poisons the log: the kernel may have dropped the pages and would answer success the next time.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use env::{Step, Wake, Worker};

use super::{Log, writer::is_full};

/// Step in which room is reserved.
const RESERVE_STEP: u64 = 64 << 20;

#[derive(Default)]
pub(crate) struct Flusher {
    /// Room is reserved up to here.
    reserved: AtomicU64,
    /// Monotonic time of the next sync under `ASYNC_FLUSH`, in nanoseconds.
    next_sync: AtomicU64,
    pub(super) wake: Wake,
}

impl Log {
    /// Syncs what is written; `false` if that failed and poisoned the log.
    pub(crate) fn sync(&self) -> bool {
        let (from, to) = (self.marks.synced.get(), self.marks.written.get());
        if self.is_poisoned() {
            return false;
        }
        if from >= to {
            return true;
        }
        let began = self.clock.monotonic();
        match self.segments.sync(from..to) {
            Ok(()) => {
                let took = self.clock.monotonic().saturating_sub(began).as_micros() as u64;
                self.counts.syncs[0].fetch_add(1, Ordering::Relaxed);
                self.counts.syncs[1].fetch_add(took, Ordering::Relaxed);
                self.marks.synced.advance(to);
                true
            }
            Err(error) => {
                self.poison("sync", &error);
                false
            }
        }
    }

    /// Reserves room for a write if the flusher has not done so ahead of it.
    pub(super) fn reserve_for(&self, range: Range<u64>) -> io::Result<()> {
        let reserved = self.flusher.reserved.load(Ordering::Relaxed);
        if self.is_more_to_reserve(reserved)
            && reserved.saturating_sub(range.end) < self.low_water()
        {
            self.flusher.wake.wake();
        }
        if range.end <= reserved {
            return Ok(());
        }
        self.reserve_from(range.start)
    }

    /// Reserves a step from `from` on, within the file that holds it, which is created if need be.
    fn reserve_from(&self, from: u64) -> io::Result<()> {
        let file_len = self.limits.file_len;
        let file_end = (from / file_len + 1) * file_len;
        let to = ((from / RESERVE_STEP + 2) * RESERVE_STEP).min(file_end);
        match self.segments.reserve(from..to) {
            Ok(()) => {
                self.flusher.reserved.store(to, Ordering::Relaxed);
                Ok(())
            }
            // Less room than a step: the write itself finds out whether there is enough for it.
            Err(error) if is_full(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns how little of what is reserved may be left before the flusher reserves more.
    fn low_water(&self) -> u64 {
        (RESERVE_STEP / 2).min(self.limits.file_len / 4)
    }

    /// Whether the file in which room is reserved up to here goes on.
    fn is_more_to_reserve(&self, reserved: u64) -> bool {
        !reserved.is_multiple_of(self.limits.file_len)
    }

    /// Reserves the next step of the file before the writer needs it.
    fn reserve_ahead(&self) {
        let (written, reserved) =
            (self.marks.written.get(), self.flusher.reserved.load(Ordering::Relaxed));
        let ahead = reserved.saturating_sub(written);
        if 0 < ahead
            && ahead < self.low_water()
            && self.is_more_to_reserve(reserved)
            && let Err(error) = self.reserve_from(reserved)
        {
            // The write that needs the room will meet the same error and handle it.
            tracing::debug!(%error, "no room could be reserved ahead of the log");
        }
    }
}

/// The flusher thread.
pub(crate) struct FlusherWorker {
    pub(crate) log: Arc<Log>,
    /// Time between syncs under `ASYNC_FLUSH`.
    pub(crate) interval: Duration,
}

impl Worker for FlusherWorker {
    fn step(&mut self) -> Step {
        let log = &self.log;
        if log.is_poisoned() {
            return Step::Idle;
        }
        log.reserve_ahead();
        let dirty = log.marks.synced.get() < log.marks.written.get();
        if log.limits.sync_each {
            if dirty && log.sync() {
                return Step::Again;
            }
            return Step::Idle;
        }
        let next_sync = Duration::from_nanos(log.flusher.next_sync.load(Ordering::Relaxed));
        let now = log.clock.monotonic();
        if now < next_sync {
            return Step::IdleUntil(next_sync);
        }
        if dirty {
            log.sync();
        }
        let next_sync = log.clock.monotonic() + self.interval;
        let nanos = u64::try_from(next_sync.as_nanos()).unwrap_or(u64::MAX);
        log.flusher.next_sync.store(nanos, Ordering::Relaxed);
        Step::IdleUntil(next_sync)
    }
}
