//! Dispatch: from the log to its views, message by message, in log order.
//!
//! [`Applier`] puts messages into the views, in memory; the [`ViewWriter`] writes them. [`Dispatch`] drives it, behind the
//! mark `written` (`synced` under `SYNC_FLUSH`), with what the appends handed on, after a crash first with what it reads
//! from the log, and raises `dispatched`.

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use env::{Clock, Millis, Step, Wake, Worker};

use super::{
    ExtUnit, Views,
    queue::{Pusher, Queue, Written},
    writer::ViewWriter,
};
use crate::{
    DispatchItem, FlushDiskType, Options,
    log::{Log, reader::Wait},
    marks::Mark,
};

/// Messages of one run.
pub(crate) const RUN_MAX: usize = 1024;
/// Messages whose index slots are read ahead.
const WARM: usize = 32;
/// Pause after something could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// Is told of each queue that got messages, and its new end, once per run.
pub type DispatchHook = Box<dyn Fn(&Arc<Queue>, i64) + Send + Sync>;

/// Says which filters let a message of a topic through, as bits, given its store time and a way to read its record;
/// `None` if there is no filter.
pub type BitMapHook =
    Box<dyn Fn(&str, Millis, &dyn Fn() -> Option<Bytes>) -> Option<Vec<u8>> + Send + Sync>;

/// Puts messages into the views.
pub(crate) struct Applier {
    views: Arc<Views>,
    clock: Clock,
    writer: Arc<ViewWriter>,
    /// Queues that got entries since the last [`Applier::take_touched`].
    touched: Vec<Arc<Queue>>,
}

impl Applier {
    /// Returns an applier for views that just were opened, and their writer.
    pub(crate) fn new(views: Arc<Views>, clock: Clock, writer: Arc<ViewWriter>) -> Applier {
        Applier { views, clock, writer, touched: Vec::new() }
    }

    /// Puts a run of messages into the views, and returns how many: fewer than given if the index has to be read first
    /// and cannot be. The rest is to be given again. `bit_map` is asked for messages of queues with an extension.
    pub(crate) fn apply(
        &mut self,
        items: &[DispatchItem],
        bit_map: &dyn Fn(&Queue, &DispatchItem) -> Option<Vec<u8>>,
    ) -> usize {
        let count = match self.apply_to_index(items) {
            Ok(()) => items.len(),
            Err((count, error)) => {
                tracing::error!(%error, "the index cannot be read");
                count
            }
        };
        let items = &items[..count];
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
            let unit = |item: &DispatchItem| ExtUnit {
                tags_code: item.tags_code,
                stored_at: item.stored_at,
                bit_map: bit_map(queue, item).unwrap_or_default().into(),
            };
            let group_items = &rest[..group];
            // Made before the queue is locked.
            let units = queue.is_extended().then(|| group_items.iter().map(unit).collect());
            let mut units = units.unwrap_or_else(Vec::new).into_iter();
            let mut pusher = queue.pusher();
            for item in group_items {
                let (entry, stored_at) =
                    (item.entry(item.queue_offset, item.count), item.stored_at);
                match units.next() {
                    Some(unit) => pusher.push_extended(entry, stored_at, unit),
                    None => pusher.push(entry, stored_at),
                }
            }
            self.note(queue, pusher, first);
            for item in group_items {
                for (light, offset) in &item.lights {
                    let mut pusher = light.pusher();
                    pusher.push(item.entry(*offset, 1), item.stored_at);
                    self.note(light, pusher, item);
                }
            }
            rest = &rest[group..];
        }
        if let Some(last) = items.last() {
            self.writer.pushed(Written {
                to: last.log_offset + u64::from(last.len),
                record: last.log_offset,
                stored_at: last.stored_at,
            });
        }
        count
    }

    /// Notes that a queue got entries, the first of them of the message `first`.
    fn note(&mut self, queue: &Arc<Queue>, mut pusher: Pusher<'_>, first: &DispatchItem) {
        let (is_due, is_touched) = (pusher.list(), pusher.touch());
        drop(pusher);
        if is_due {
            self.writer.list(Arc::clone(queue), first.log_offset, first.stored_at);
        }
        if is_touched {
            self.touched.push(Arc::clone(queue));
        }
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
    pub(crate) fn pass(&self, upto: u64) {
        let pushed = self.writer.pushed_to();
        self.writer.pushed(Written { to: pushed.to.max(upto), ..pushed });
        if let Some(index) = &self.views.index {
            index.pass(upto);
        }
    }

    /// Returns the queues that got entries since the last call.
    pub(crate) fn take_touched(&mut self) -> impl Iterator<Item = Arc<Queue>> {
        self.touched.drain(..)
    }
}

/// The live dispatcher of one store.
pub(crate) struct Dispatch {
    log: Arc<Log>,
    views: Arc<Views>,
    clock: Clock,
    flush: FlushDiskType,
    hooks: RwLock<Vec<DispatchHook>>,
    bit_map_hook: OnceLock<BitMapHook>,
    state: Mutex<Live>,
    writer: Arc<ViewWriter>,
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
        let wake = Wake::new();
        let writer =
            ViewWriter::new(Arc::clone(&views), options, clock.clone(), RUN_MAX, wake.clone());
        let writer = Arc::new(writer);
        let applier = Applier::new(Arc::clone(&views), clock.clone(), Arc::clone(&writer));
        Dispatch {
            log,
            views,
            clock,
            flush: options.flush_disk_type,
            hooks: RwLock::default(),
            bit_map_hook: OnceLock::new(),
            is_stalled: AtomicBool::new(false),
            wake,
            state: Mutex::new(Live {
                upto: writer.pushed_to().to,
                applier,
                items: Vec::new(),
                done: 0,
            }),
            writer,
        }
    }

    /// Adds someone who is told of new messages, on the thread that dispatches.
    pub(crate) fn add_hook(&self, hook: DispatchHook) {
        self.hooks.write().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    /// Sets who computes bit maps, once; until then messages have none.
    pub(crate) fn set_bit_map_hook(&self, hook: BitMapHook) {
        assert!(self.bit_map_hook.set(hook).is_ok(), "one broker is asked");
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

    /// Returns who writes the views.
    pub(crate) fn writer(&self) -> &Arc<ViewWriter> {
        &self.writer
    }

    /// Does a run; the body of the dispatcher's thread.
    pub(crate) fn step(&self) -> Step {
        let mut live = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.run(&mut live) {
            Run::More => Step::Again,
            Run::UpToDate => Step::Idle,
            Run::Stalled => Step::IdleUntil(self.clock.monotonic() + RETRY),
        }
    }

    /// Dispatches all there is and writes everything: at the end of a recovery, and before a stop.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut live = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.run(&mut live) {
                Run::More => {
                    self.writer.write_due()?;
                }
                Run::Stalled if self.writer.is_short() => self.writer.write_all()?,
                Run::Stalled => return Err(io::ErrorKind::StorageFull.into()),
                Run::UpToDate => return self.writer.write_all(),
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
            let is_short = self.writer.is_short() && self.writer.await_room();
            self.is_stalled.store(is_short, Ordering::Relaxed);
            if is_short {
                return Run::Stalled;
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
        let bit_map = |queue: &Queue, item: &DispatchItem| {
            let record = || self.log.read(item.log_offset, item.len, Wait::Allowed).ok().flatten();
            self.bit_map_hook.get()?(queue.topic(), item.stored_at, &record)
        };
        live.done += live.applier.apply(&live.items[live.done..], &bit_map);
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
