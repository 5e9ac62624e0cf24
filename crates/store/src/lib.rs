//! The log, its views and the tables: the only owner of files.
//!
//! A [`Store`] is one log and what is derived from it: a consume queue per topic and queue id, and an index of keys.
//! [`Store::append`] numbers messages and copies them into memory; [`Store::drive`] gets them written; [`Marks`] say how
//! far that has come and wake those who wait. Reading never waits for a device unless its name says so.
//!
//! Formats are RocketMQ's, byte for byte: a directory written by it opens here, and the other way round.

pub mod checkpoint;
mod draft;
pub mod fault;
mod keeper;
mod log;
mod marks;
pub mod options;
mod recovery;
mod retention;
pub mod segments;
mod status;
mod table;
pub mod timer;
pub mod views;

use std::{
    collections::BTreeSet,
    io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use env::{DirLock, Env, Step, Wake, Worker, WorkerHandle, spawn_worker};

pub use crate::{
    draft::{Appended, Draft, Entry},
    fault::{Fault, OpenError, Poisoned, Refused},
    keeper::{RetentionCounters, UnconsumedHook},
    log::{append::Outcomes, feed::DispatchItem, reader::Reader},
    marks::{Mark, Marks, WaitFor},
    options::{FlushDiskType, Options},
    recovery::Recovered,
    status::Status,
    table::{Table, TableFile},
    views::{
        Boundary, ExtUnit, LastStop, Queue, QueueEntry, QueueKind,
        dispatch::{BitMapHook, DispatchHook},
        index::{Found, Wanted},
    },
};
use crate::{
    keeper::{Keeper, KeeperWorker},
    log::{Log, flusher::FlusherWorker, reader::Wait, writer::WriterWorker},
};
use views::{
    Views,
    dispatch::{Dispatch, DispatchWorker},
    writer::ViewWriterWorker,
};

/// A store directory, open; cheap to clone. It is locked until [`Store::shutdown`], or until the last clone and the
/// [`Workers`] are gone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

pub(crate) struct Inner {
    options: Options,
    env: Env,
    log: Arc<Log>,
    views: Arc<Views>,
    dispatch: Arc<Dispatch>,
    retention: RetentionCounters,
    unconsumed_hook: OnceLock<UnconsumedHook>,
    /// Grows when another broker may have written the tables.
    intrusions: AtomicU64,
    keeper: Mutex<Keeper>,
    keeper_wake: Wake,
    lock: Mutex<Option<Box<dyn DirLock>>>,
    last_stop: LastStop,
}

impl Store {
    /// Locks the directory, recovers what is in it and returns it ready for use; nothing runs until [`Store::start`].
    pub fn open(options: Options, env: Env) -> Result<(Store, Recovered), OpenError> {
        recovery::open(options, env)
    }

    /// Starts the store's threads. They stop when the result is dropped, or by [`Workers::stop`].
    pub fn start(&self) -> io::Result<Workers> {
        let Inner { env, log, dispatch, keeper_wake, .. } = &*self.0;
        let [writer, flusher, dispatcher, view_writer, keeper] = self.0.workers();
        let clock = &env.clock;
        Ok(Workers {
            handles: vec![
                spawn_worker("store-keeper", clock, keeper, keeper_wake)?,
                spawn_worker("view-writer", clock, view_writer, &dispatch.writer().wake)?,
                spawn_worker("log-dispatcher", clock, dispatcher, &dispatch.wake)?,
                spawn_worker("log-flusher", clock, flusher, log.flusher_wake())?,
                spawn_worker("log-writer", clock, writer, log.writer_wake())?,
            ],
        })
    }

    /// Lets each worker do what it has to do now, on this thread, until none has more: for simulations and tests, in
    /// place of [`Store::start`].
    pub fn step_all(&self) {
        let mut workers = self.0.workers();
        while workers.iter_mut().any(|worker| worker.step() == Step::Again) {}
    }

    /// Returns the handle of a queue, making one if there is none; on disk it appears with its first message. The caller
    /// bounds how many there are by its table of topics.
    pub fn queue(&self, topic: &str, id: i32) -> Arc<Queue> {
        self.0.views.queues.queue(topic, id)
    }

    /// Sets the kind of a topic's queues, before it has any messages; what there is of the other kind is removed.
    pub fn set_queue_kind(&self, topic: &str, kind: QueueKind) -> Result<(), Fault> {
        self.0.views.queues.set_kind(topic, kind)
    }

    /// Returns the handle of a queue if it was ever used.
    pub fn find_queue(&self, topic: &str, id: i32) -> Option<Arc<Queue>> {
        self.0.views.queues.find(topic, id)
    }

    /// Returns the topics that have queues.
    pub fn topics_with_queues(&self) -> BTreeSet<String> {
        self.0.views.queues.all().iter().map(|queue| queue.topic().to_owned()).collect()
    }

    /// Returns how many queues there are whose topic is one of those that are asked for.
    pub fn count_queues(&self, is_asked: impl Fn(&str) -> bool) -> usize {
        self.0.views.queues.all().iter().filter(|queue| is_asked(queue.topic())).count()
    }

    /// Appends each entry of a run, in order, or refuses it; one entry's refusal does not touch the others. Takes one
    /// short lock and does no I/O: call [`Store::drive`] when everything that came together is appended, then wait for
    /// the mark that the acknowledgement needs to pass [`Appended::end`].
    pub fn append(&self, run: &[Entry]) -> Outcomes {
        self.0.log.append(run)
    }

    /// As [`Store::append`], but once an entry is refused for now, so is every one that follows it: who tries again keeps
    /// the order.
    pub fn append_in_order(&self, run: &[Entry]) -> Outcomes {
        self.0.log.append_in_order(run)
    }

    /// Gets what was appended written: by this thread if that is quick, else by the writer thread.
    pub fn drive(&self) {
        self.0.log.drive();
    }

    /// Returns `len` bytes of the log from `at`, the place of a record; `None` if a device would have to be waited for.
    pub fn try_read(&self, at: u64, len: u32) -> Result<Option<Bytes>, Fault> {
        self.0.log.read(at, len, Wait::Never)
    }

    /// Starts a series of reads, for a reader that goes on where it was.
    pub fn reader(&self) -> Reader<'_> {
        self.0.log.reader()
    }

    /// As [`Store::try_read`], waiting for the device if need be: to be called on a thread that may.
    pub fn read_blocking(&self, at: u64, len: u32) -> Result<Bytes, Fault> {
        self.0.log.read(at, len, Wait::Allowed)?.ok_or(Fault::OutOfRange(at))
    }

    /// Returns the record at `at`, whose length is not known; `None` if a device would have to be waited for. The bytes
    /// begin with the head of a record; the caller decodes, and so checks, the rest.
    pub fn try_record_at(&self, at: u64) -> Result<Option<Bytes>, Fault> {
        self.0.log.record_at(at, Wait::Never)
    }

    /// As [`Store::try_record_at`], waiting for the device if need be: to be called on a thread that may.
    pub fn record_at_blocking(&self, at: u64) -> Result<Bytes, Fault> {
        self.0.log.record_at(at, Wait::Allowed)?.ok_or(Fault::OutOfRange(at))
    }

    /// Writes and syncs what was appended, on this thread; `false` if the disk is full or the log poisoned.
    pub fn sync_blocking(&self) -> bool {
        self.0.log.write_all() && self.0.log.sync()
    }

    /// Returns the age at which retention may let a record go (`fileReservedTime`).
    pub fn file_reserved_time(&self) -> Duration {
        self.0.options.file_reserved_time
    }

    /// Says how the last owner of the directory left it.
    pub fn last_stop(&self) -> LastStop {
        self.0.last_stop
    }

    /// Returns the directory in which tables lie.
    pub fn config_dir(&self) -> PathBuf {
        self.0.options.config_dir()
    }

    /// Returns the watermarks.
    pub fn marks(&self) -> &Marks {
        &self.0.log.marks
    }

    /// Returns the mark that an acknowledgement waits for: written, or synced under `SYNC_FLUSH`.
    pub fn acknowledged(&self) -> &Mark {
        self.0.dispatch.followed()
    }

    /// Returns the log offsets of records that were indexed under a key and stored between two times, at most `max`,
    /// newest first. Hashes collide: the caller compares the keys of what it reads.
    pub fn find_by_key(
        &self,
        topic: &str,
        key: &str,
        max: usize,
        begin_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<u64>, Fault> {
        Ok(self.query(topic, Wanted::Key(key), max, begin_ms, end_ms)?.log_offsets)
    }

    /// As [`Store::find_by_key`], for keys and tags, with how far the index has come.
    pub fn query(
        &self,
        topic: &str,
        wanted: Wanted<'_>,
        max: usize,
        begin_ms: i64,
        end_ms: i64,
    ) -> Result<Found, Fault> {
        let Some(index) = &self.0.views.index else { return Ok(Found::default()) };
        Ok(index.query(topic, wanted, max, begin_ms, end_ms)?)
    }

    /// Returns the offsets between which the log has records.
    pub fn log_range(&self) -> Range<u64> {
        self.0.log.range()
    }

    /// Returns sizes, lags and conditions, for metrics and runtime info.
    pub fn status(&self) -> Status {
        status::of(&self.0)
    }

    /// Removes a topic's queues and their files; its messages stay in the log until that is cut.
    pub fn remove_topic(&self, topic: &str) -> Result<(), Fault> {
        self.0.views.queues.remove_topic(topic)
    }

    /// Calls `hook` for each queue whenever messages became visible in it. Hooks run on the dispatcher's thread and must
    /// be quick.
    pub fn on_dispatch(&self, hook: DispatchHook) {
        self.0.dispatch.add_hook(hook);
    }

    /// Sets who computes the bit maps of messages in queues with an extension (`enableConsumeQueueExt`); once. It is
    /// called on the dispatcher's thread.
    pub fn on_bit_map(&self, hook: BitMapHook) {
        self.0.dispatch.set_bit_map_hook(hook);
    }

    /// Sets who is asked how many of the messages that retention removed were not consumed; once. It is called on the
    /// keeper's thread for each queue that lost messages.
    pub fn on_removed(&self, hook: UnconsumedHook) {
        assert!(self.0.unconsumed_hook.set(hook).is_ok(), "one broker is asked");
    }

    /// Returns a number that grows when another broker, refused by the lock, may have written the tables of the
    /// directory: whoever owns one writes it again.
    pub fn intrusions(&self) -> u64 {
        self.0.intrusions.load(Ordering::Acquire)
    }

    /// Lets the next checks of retention remove files by age at any hour, the first of them soon. It may wait for the disk.
    pub fn expire_now(&self) {
        self.0.keeper.lock().unwrap_or_else(PoisonError::into_inner).expire_now(&self.0);
        self.0.keeper_wake.wake();
    }

    /// Removes the files of views that speak of nothing that the log still has, which happens with each removal of a log
    /// file: here is the second chance of those that could not be removed then. It may wait for the disk.
    pub fn clean_views(&self) -> Result<(), Fault> {
        let _keeper = self.0.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.clean_views().map(drop)
    }

    /// Returns what retention removed since the store was opened.
    pub fn removed(&self) -> &RetentionCounters {
        &self.0.retention
    }

    /// Writes and syncs everything, notes that the stop was clean and unlocks the directory. Stop the [`Workers`] first.
    /// Afterwards nothing is taken any more; reading goes on working.
    pub fn shutdown(&self) -> Result<(), Fault> {
        recovery::close(&self.0)
    }
}

impl Inner {
    fn workers(self: &Arc<Self>) -> [Box<dyn Worker>; 5] {
        [
            Box::new(WriterWorker(self.log.clone())),
            Box::new(FlusherWorker {
                log: self.log.clone(),
                interval: self.options.flush_interval_commit_log,
            }),
            Box::new(DispatchWorker(self.dispatch.clone())),
            Box::new(ViewWriterWorker(self.dispatch.writer().clone())),
            Box::new(KeeperWorker(self.clone())),
        ]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.options.store_path_root_dir.join(name)
    }
}

/// The running threads of a store; dropping it stops and joins them.
pub struct Workers {
    handles: Vec<WorkerHandle>,
}

impl Workers {
    /// Lets each thread end its step, and joins it; a panic of one is passed on.
    pub fn stop(self) {
        self.handles.into_iter().for_each(WorkerHandle::stop);
    }
}
