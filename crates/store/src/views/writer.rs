//! The view writer: a thread that writes what the dispatcher has put into the views, so that dispatch itself meets no file.
//!
//! The dispatcher adds to [`Pending`], in log order; the writer takes queue by queue, the one whose entry has waited
//! longest first, about once a second each, sooner when memory is short. What cannot be written keeps waiting, up to a
//! bound; then dispatch stands still until there is room again.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use env::{Clock, Millis, Step, Wake, Worker};

use super::{
    Views,
    queue::{Queue, WriteList, Written},
};
use crate::Options;

/// Queues that are written in a step.
const WRITES_PER_STEP: usize = 256;
/// Queues that are written in a second unless memory is short; each costs an open, a write and a close if many are in use.
const WRITES_PER_SECOND: u32 = 8192;
/// Index entries in bytes that may wait when they cannot be written.
const INDEX_PENDING_MAX: usize = 16 << 20;
/// Pause after something could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Writes the views of one store.
pub(crate) struct ViewWriter {
    views: Arc<Views>,
    clock: Clock,
    pending: Mutex<Pending>,
    /// Held while writing.
    pace: Mutex<Pace>,
    entries_pending_max: usize,
    write_interval: Duration,
    /// Rouses the writer's thread.
    pub(crate) wake: Wake,
    /// Rouses the dispatcher when there is room again.
    dispatcher: Wake,
}

/// What is in the views and not in their files yet.
struct Pending {
    list: WriteList,
    /// How far everything was put into the views.
    pushed: Written,
    /// Whether the dispatcher stands still for want of room.
    is_awaited: bool,
}

struct Pace {
    index_written_at: Duration,
    /// Start of the second in which `writes` queues were written.
    window: Duration,
    writes: u32,
    /// Nothing is written before this time, since the last attempt failed.
    retry_at: Option<Duration>,
}

impl ViewWriter {
    /// Returns the writer of views that just were opened. At most `run_max` messages are put into them between two looks
    /// at [`ViewWriter::is_short`].
    pub(crate) fn new(
        views: Arc<Views>,
        options: &Options,
        clock: Clock,
        run_max: usize,
        dispatcher: Wake,
    ) -> ViewWriter {
        let now = clock.monotonic();
        let pushed = views.written();
        let pace = Pace { index_written_at: now, window: now, writes: 0, retry_at: None };
        ViewWriter {
            views,
            clock,
            pending: Mutex::new(Pending { list: WriteList::default(), pushed, is_awaited: false }),
            pace: Mutex::new(pace),
            entries_pending_max: options.queue_entries_pending_max.max(2 * run_max) - run_max,
            write_interval: options.flush_interval_consume_queue,
            wake: Wake::new(),
            dispatcher,
        }
    }

    /// Adds a queue for which its pusher said so; what waits in it begins with the record at `log_offset`.
    pub(crate) fn list(&self, queue: Arc<Queue>, log_offset: u64, stored_at: Millis) {
        let now = self.clock.monotonic();
        let mut pending = self.pending();
        let is_first = pending.list.oldest().is_none();
        pending.list.push(queue, now, log_offset, stored_at);
        drop(pending);
        if is_first {
            self.wake.wake();
        }
    }

    /// Notes how far everything was put into the views, after every queue of it was listed.
    pub(crate) fn pushed(&self, pushed: Written) {
        self.pending().pushed = pushed;
        if self.views.index.as_ref().is_some_and(|index| index.is_run_due()) {
            self.wake.wake();
        }
    }

    /// Returns how far everything was put into the views.
    pub(crate) fn pushed_to(&self) -> Written {
        self.pending().pushed
    }

    /// Whether so much waits in memory that writing comes before another run.
    pub(crate) fn is_short(&self) -> bool {
        let index = self.views.index.as_ref().map_or(0, |index| index.pending_bytes());
        self.views.queues.pending() > self.entries_pending_max || index > INDEX_PENDING_MAX
    }

    /// Has the dispatcher roused as soon as memory is not short any more; `false` if it is not now.
    pub(crate) fn await_room(&self) -> bool {
        self.pending().is_awaited = true;
        self.wake.wake();
        self.is_short()
    }

    /// Writes some of what is due, and returns when the next is. After an error nothing is tried for a second.
    pub(crate) fn write_due(&self) -> io::Result<Option<Duration>> {
        let mut pace = self.pace();
        let now = self.clock.monotonic();
        if let Some(retry_at) = pace.retry_at.filter(|at| now < *at) {
            return Ok(Some(retry_at));
        }
        let outcome = self.try_write_due(&mut pace, now);
        pace.retry_at = outcome.is_err().then_some(now + RETRY);
        self.publish();
        outcome
    }

    fn try_write_due(&self, pace: &mut Pace, now: Duration) -> io::Result<Option<Duration>> {
        let is_short = self.is_short();
        if let Some(index) = &self.views.index {
            let is_due = now >= pace.index_written_at + self.write_interval;
            if is_due || is_short || index.is_run_due() {
                pace.index_written_at = now;
                index.write()?;
            }
        }
        if now >= pace.window + Duration::from_secs(1) {
            (pace.window, pace.writes) = (now, 0);
        }
        for _ in 0..WRITES_PER_STEP {
            let Some(since) = self.pending().list.oldest() else { break };
            if !is_short {
                if since + self.write_interval > now {
                    break;
                }
                if pace.writes >= WRITES_PER_SECOND {
                    return Ok(Some(pace.window + Duration::from_secs(1)));
                }
            }
            self.write_first()?;
            pace.writes += 1;
        }
        let queue_due = self.pending().list.oldest().map(|since| since + self.write_interval);
        let index_due = self.views.index.as_ref().filter(|index| index.pending_bytes() > 0);
        let index_due = index_due.map(|_| pace.index_written_at + self.write_interval);
        Ok(match (queue_due, index_due) {
            (Some(queue), Some(index)) => Some(queue.min(index)),
            (queue, index) => queue.or(index),
        })
    }

    /// Writes everything that waits.
    pub(crate) fn write_all(&self) -> io::Result<()> {
        let _pace = self.pace();
        let outcome = self.try_write_all();
        self.publish();
        outcome
    }

    fn try_write_all(&self) -> io::Result<()> {
        if let Some(index) = &self.views.index {
            index.write()?;
        }
        while self.write_first()? {}
        Ok(())
    }

    /// Writes the queue whose entry has waited longest, if there is one; on an error it stays the first.
    fn write_first(&self) -> io::Result<bool> {
        let Some(queue) = self.pending().list.first() else { return Ok(false) };
        queue.write()?;
        self.pending().list.pop();
        Ok(true)
    }

    fn publish(&self) {
        let pending = self.pending();
        self.views.set_written(pending.list.written(pending.pushed));
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the writer's thread.
    fn step(&self) -> Step {
        let due = match self.write_due() {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "a view cannot be written; it catches up later");
                Some(self.clock.monotonic() + RETRY)
            }
        };
        if !self.is_short() && std::mem::take(&mut self.pending().is_awaited) {
            self.dispatcher.wake();
        }
        let is_failing = self.pace().retry_at.is_some();
        match due {
            Some(due) if due <= self.clock.monotonic() => Step::Again,
            _ if !is_failing && self.is_short() => Step::Again,
            due => due.map_or(Step::Idle, Step::IdleUntil),
        }
    }
}

/// The view writer's thread.
pub(crate) struct ViewWriterWorker(pub(crate) Arc<ViewWriter>);

impl Worker for ViewWriterWorker {
    fn step(&mut self) -> Step {
        self.0.step()
    }
}
