//! Dispatch: from the log to its views, message by message, in log order.
//!
//! [`Applier`] puts messages into the views and writes what gathers in them. [`Dispatch`] drives it, behind the mark `written` (`synced` under `SYNC_FLUSH`), with what the appends
//! handed on, after a crash first with what it reads from the log, and raises `dispatched`.
//! A view that cannot be written keeps what it has in memory, up to a bound; then dispatch stands still and tries again,
//! and goes on where it stopped.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use env::{Clock, Step, Wake, Worker};

use super::{
    Views,
    queue::{Queue, QueueEntry, WriteList, Written},
};
use crate::{DispatchItem, FlushDiskType, Options, log::Log, marks::Mark};

/// Messages of one run.
const RUN_MAX: usize = 1024;
/// Messages whose index slots are read ahead.
const WARM: usize = 32;
/// Queues that are written between two runs.
const WRITES_PER_STEP: usize = 256;
/// Queues that are written in a second unless memory is short; each costs an open, a write and a close if many are in use.
const WRITES_PER_SECOND: u32 = 8192;
/// Index entries in bytes that may wait when they cannot be written.
const INDEX_PENDING_MAX: usize = 16 << 20;
/// Pause after something could not be written or read.
const RETRY: Duration = Duration::from_secs(1);

/// Is told of each queue that got messages, and its new end, once per run.
pub type DispatchHook = Box<dyn Fn(&Arc<Queue>, i64) + Send + Sync>;

/// Puts messages into the views and decides when views write.
pub(crate) struct Applier {
    views: Arc<Views>,
    clock: Clock,
    list: WriteList,
    /// Queues that got entries since the last [`Applier::take_touched`].
    touched: Vec<Arc<Queue>>,
    /// How far everything was put into the views.
    pushed: Written,
    entries_pending_max: usize,
    write_interval: Duration,
    index_written_at: Duration,
    /// Start of the second in which `writes` queues were written.
    window: Duration,
    writes: u32,
    /// Nothing is written before this time, since the last attempt failed.
    retry_at: Option<Duration>,
}

impl Applier {
    /// Returns an applier for views that just were opened.
    pub(crate) fn new(views: Arc<Views>, options: &Options, clock: Clock) -> Applier {
        Applier {
            pushed: views.written(),
            entries_pending_max: options.queue_entries_pending_max.max(2 * RUN_MAX),
            write_interval: options.flush_interval_consume_queue,
            index_written_at: clock.monotonic(),
            window: clock.monotonic(),
            list: WriteList::default(),
            touched: Vec::new(),
            writes: 0,
            retry_at: None,
            views,
            clock,
        }
    }

    /// Puts a run of messages into the views, and returns how many: fewer than given if the index has to be read first
    /// and cannot be. The rest is to be given again.
    pub(crate) fn apply(&mut self, items: &[DispatchItem]) -> usize {
        let count = match self.apply_to_index(items) {
            Ok(()) => items.len(),
            Err((count, error)) => {
                tracing::error!(%error, "the index cannot be read");
                count
            }
        };
        let items = &items[..count];
        let now = self.clock.monotonic();
        let mut rest = items;
        while let Some(first) = rest.first() {
            let Some(queue) = &first.queue else {
                rest = &rest[1..];
                continue;
            };
            let is_same = |item: &&DispatchItem| {
                item.queue.as_ref().is_some_and(|other| Arc::ptr_eq(other, queue))
            };
            let group = rest.iter().take_while(is_same).count();
            let mut pusher = queue.pusher();
            for item in &rest[..group] {
                let DispatchItem { log_offset, len, tags_code, .. } = *item;
                pusher.push(item.queue_offset, QueueEntry { log_offset, len, tags_code });
            }
            if pusher.list() {
                self.list.push(Arc::clone(queue), now, first.log_offset, first.stored_at);
            }
            if pusher.touch() {
                self.touched.push(Arc::clone(queue));
            }
            rest = &rest[group..];
        }
        if let Some(last) = items.last() {
            self.pushed = Written {
                to: last.log_offset + u64::from(last.len),
                record: last.log_offset,
                stored_at: last.stored_at,
            };
        }
        count
    }

    fn apply_to_index(&self, items: &[DispatchItem]) -> Result<(), (usize, io::Error)> {
        let Some(index) = &self.views.index else { return Ok(()) };
        let mut batch = index.batch(self.clock.now());
        for (count, item) in items.iter().enumerate() {
            if count % WARM == 0 {
                let few = &items[count..items.len().min(count + WARM)];
                batch.warm(few.iter().flat_map(|item| &item.keys));
            }
            let end = item.log_offset + u64::from(item.len);
            batch
                .put(&item.keys, item.log_offset, end, item.stored_at)
                .map_err(|error| (count, error))?;
        }
        Ok(())
    }

    /// Notes that everything below `upto` was applied: between records there may be blanks.
    pub(crate) fn pass(&mut self, upto: u64) {
        self.pushed.to = self.pushed.to.max(upto);
        if let Some(index) = &self.views.index {
            index.pass(upto);
        }
    }

    /// Returns the queues that got entries since the last call.
    pub(crate) fn take_touched(&mut self) -> impl Iterator<Item = Arc<Queue>> {
        self.touched.drain(..)
    }

    /// Whether so much waits in memory that writing comes before another run.
    pub(crate) fn is_short(&self) -> bool {
        let index = self.views.index.as_ref().map_or(0, |index| index.pending_bytes());
        self.views.queues.pending() + RUN_MAX > self.entries_pending_max
            || index > INDEX_PENDING_MAX
    }

    /// Writes some of what is due, and returns when the next is. After an error nothing is tried for a second.
    pub(crate) fn write_due(&mut self) -> io::Result<Option<Duration>> {
        let now = self.clock.monotonic();
        if let Some(retry_at) = self.retry_at.filter(|at| now < *at) {
            return Ok(Some(retry_at));
        }
        let outcome = self.try_write_due(now);
        self.retry_at = outcome.is_err().then_some(now + RETRY);
        self.publish();
        outcome
    }

    fn try_write_due(&mut self, now: Duration) -> io::Result<Option<Duration>> {
        let is_short = self.is_short();
        if let Some(index) = &self.views.index {
            let is_due = now >= self.index_written_at + self.write_interval;
            if is_due || is_short || index.is_run_due() {
                self.index_written_at = now;
                index.write()?;
            }
        }
        if now >= self.window + Duration::from_secs(1) {
            (self.window, self.writes) = (now, 0);
        }
        for _ in 0..WRITES_PER_STEP {
            let Some(since) = self.list.oldest() else { break };
            if !is_short {
                if since + self.write_interval > now {
                    break;
                }
                if self.writes >= WRITES_PER_SECOND {
                    return Ok(Some(self.window + Duration::from_secs(1)));
                }
            }
            self.list.write_first()?;
            self.writes += 1;
        }
        let queue_due = self.list.oldest().map(|since| since + self.write_interval);
        let index_due = self.views.index.as_ref().filter(|index| index.pending_bytes() > 0);
        let index_due = index_due.map(|_| self.index_written_at + self.write_interval);
        Ok(match (queue_due, index_due) {
            (Some(queue), Some(index)) => Some(queue.min(index)),
            (queue, index) => queue.or(index),
        })
    }

    /// Writes everything that waits.
    pub(crate) fn write_all(&mut self) -> io::Result<()> {
        let outcome = self.try_write_all();
        self.publish();
        outcome
    }

    fn try_write_all(&mut self) -> io::Result<()> {
        if let Some(index) = &self.views.index {
            index.write()?;
        }
        while self.list.oldest().is_some() {
            self.list.write_first()?;
        }
        Ok(())
    }

    fn publish(&self) {
        self.views.set_written(self.list.written(self.pushed));
    }
}

/// The live dispatcher of one store.
pub(crate) struct Dispatch {
    log: Arc<Log>,
    views: Arc<Views>,
    clock: Clock,
    flush: FlushDiskType,
    hooks: RwLock<Vec<DispatchHook>>,
    state: Mutex<Live>,
    is_stalled: AtomicBool,
    /// Rouses the dispatcher's thread.
    pub(crate) wake: Wake,
}

struct Live {
    applier: Applier,
    items: Vec<DispatchItem>,
    /// How many of `items` are applied.
    done: usize,
    /// Everything below is applied once `items` are.
    upto: u64,
}

impl Dispatch {
    /// Returns the dispatcher of views that just were opened.
    pub(crate) fn new(
        log: Arc<Log>,
        views: Arc<Views>,
        options: &Options,
        clock: Clock,
    ) -> Dispatch {
        let applier = Applier::new(Arc::clone(&views), options, clock.clone());
        Dispatch {
            log,
            views,
            clock,
            flush: options.flush_disk_type,
            hooks: RwLock::default(),
            is_stalled: AtomicBool::new(false),
            wake: Wake::new(),
            state: Mutex::new(Live {
                upto: applier.pushed.to,
                applier,
                items: Vec::new(),
                done: 0,
            }),
        }
    }

    /// Adds someone who is told of new messages, on the thread that dispatches.
    pub(crate) fn add_hook(&self, hook: DispatchHook) {
        self.hooks.write().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    /// Returns the mark up to which readers may see messages: what a reader was shown must not be lost by a crash that
    /// the acknowledgement would have survived.
    pub(crate) fn followed(&self) -> &Mark {
        match self.flush {
            FlushDiskType::AsyncFlush => &self.log.marks.written,
            FlushDiskType::SyncFlush => &self.log.marks.synced,
        }
    }

    /// Whether a view cannot be written and too much waits to be.
    pub(crate) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Relaxed)
    }

    /// Does a run and writes what is due; the body of the dispatcher's thread.
    pub(crate) fn step(&self) -> Step {
        let mut live = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let run = self.run(&mut live);
        let due = match live.applier.write_due() {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "a view cannot be written; it catches up later");
                Some(self.clock.monotonic() + RETRY)
            }
        };
        match run {
            Run::More => Step::Again,
            Run::UpToDate => due.map_or(Step::Idle, Step::IdleUntil),
            Run::Stalled => {
                let retry = self.clock.monotonic() + RETRY;
                Step::IdleUntil(due.map_or(retry, |due| due.min(retry)))
            }
        }
    }

    /// Dispatches all there is and writes everything: at the end of a recovery, and before a stop.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut live = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.run(&mut live) {
                Run::More => {
                    live.applier.write_due()?;
                }
                Run::Stalled => return Err(io::ErrorKind::StorageFull.into()),
                Run::UpToDate => return live.applier.write_all(),
            }
        }
    }

    fn run(&self, live: &mut Live) -> Run {
        let target = self.followed().get();
        if live.done == live.items.len() {
            live.items.clear();
            live.done = 0;
            if live.upto >= target {
                return Run::UpToDate;
            }
            let is_short = live.applier.is_short();
            self.is_stalled.store(is_short, Ordering::Relaxed);
            if is_short {
                return match live.applier.write_due() {
                    Ok(_) if !live.applier.is_short() => Run::More,
                    _ => Run::Stalled,
                };
            }
            let intern = |topic: &str, id: i32| self.views.queues.queue(topic, id);
            match self.log.next_items(target, RUN_MAX, &intern, &mut live.items) {
                Ok(upto) => live.upto = upto,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read for dispatch");
                    live.items.clear();
                    return Run::Stalled;
                }
            }
        }
        live.done += live.applier.apply(&live.items[live.done..]);
        if live.done < live.items.len() {
            return Run::Stalled;
        }
        live.applier.pass(live.upto);
        self.log.marks.dispatched.advance(live.upto);
        let hooks = self.hooks.read().unwrap_or_else(PoisonError::into_inner);
        for queue in live.applier.take_touched() {
            let end = queue.take_touched();
            hooks.iter().for_each(|hook| hook(&queue, end));
        }
        Run::More
    }
}

/// What a run of the dispatcher met.
enum Run {
    /// It did something; there may be more.
    More,
    /// There is nothing to dispatch.
    UpToDate,
    /// It cannot go on before something was written or read.
    Stalled,
}

/// The dispatcher's thread.
pub(crate) struct DispatchWorker(pub(crate) Arc<Dispatch>);

impl Worker for DispatchWorker {
    fn step(&mut self) -> Step {
        self.0.step()
    }
}
