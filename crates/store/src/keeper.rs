//! The keeper: makes views durable, writes the checkpoint, and removes what retention lets go.
//!
//! What the checkpoint says must hold after a crash of the machine, so a round has two halves: views are synced up to
//! some record; once the log, too, is synced up to there, the checkpoint says so. A round comes when enough was
//! dispatched since the last, which bounds what a recovery has to replay, or enough time has passed.
//!
//! It also undoes what another broker does to a directory before the lock refuses it. The original loads the store as
//! after a crash first: it removes index files that are not full, builds others, and on its way out writes the tables as
//! it found them, and the checkpoint, and removes the `abort` mark, without which our crash would look like a clean stop.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use env::{Clock, Millis, Step, Worker};
use jiff::tz::TimeZone;

use crate::{
    Fault, Inner, Options, Queue,
    checkpoint::{Checkpoint, Progress},
    log::append::lock_any,
    recovery::mark_open,
    retention::{LogFile, Reason, Retention},
    views::{Durable, LastStop, index::Index},
};

/// Pause between looks at whether a round is due, or the log synced.
const TICK: Duration = Duration::from_millis(250);
/// Bytes of log that are dispatched before the views are synced: with what comes until the log is synced too, this is what
/// a recovery has to replay.
const REPLAY_BYTES: u64 = 256 << 20;

/// Pause between looks for what another broker did to the directory.
const GUARD_PERIOD: Duration = Duration::from_secs(1);
/// How long after its last trace another broker may still be there, and write its tables.
const INTRUDER_LINGERS: Duration = Duration::from_secs(30);

/// Is asked how many of the messages of a queue that the log has just lost some group had not consumed.
pub type UnconsumedHook = Box<dyn Fn(&Queue, Range<i64>) -> u64 + Send + Sync>;

/// What retention did since the store was opened.
#[derive(Debug, Default)]
pub struct RetentionCounters {
    /// Log files removed.
    pub log_files: AtomicU64,
    /// Queue and index files removed.
    pub view_files: AtomicU64,
    /// Messages removed that some group had not consumed.
    pub unconsumed: AtomicU64,
}

impl Inner {
    /// Writes a checkpoint that says what is durable: views as `durable`, the log up to `log_synced`.
    pub(crate) fn save_checkpoint(&self, durable: Durable, log_synced: u64) -> io::Result<()> {
        let checkpoint = Checkpoint {
            log_time: durable.record_stored_at,
            queues_time: durable.record_stored_at,
            index_time: durable.index_time,
            queues_offset: i64::try_from(durable.record).unwrap_or(0),
            progress: Some(Progress { log: log_synced, views: durable.to.min(log_synced) }),
            ..Checkpoint::default()
        };
        checkpoint.save(&*self.env.disk, &self.path("checkpoint"))
    }

    /// Removes the oldest log file and what the views know of it; returns whether there was one to remove. One that the
    /// dispatcher may still have to read stays.
    fn remove_oldest(&self, reason: Reason) -> Result<bool, Fault> {
        let segments = &self.log.segments;
        let first_end = segments.range().start + segments.file_len();
        let dispatched = self.log.marks.dispatched.get();
        if first_end > dispatched {
            tracing::warn!(first_end, dispatched, "a log file stays until it is dispatched");
            return Ok(false);
        }
        let Some(file) = segments.remove_first_before(first_end)? else { return Ok(false) };
        self.retention.log_files.fetch_add(1, Ordering::Relaxed);
        let log_min = segments.range().start;
        let unconsumed = self.clean_views()?;
        let file = file.path().display();
        tracing::info!(%file, reason = reason.name(), log_min, unconsumed, "log file removed");
        Ok(true)
    }

    /// Removes what the views know of records that the log has no more; returns how many messages some group had not
    /// consumed. Only one thread at a time may: the caller holds the keeper.
    pub(crate) fn clean_views(&self) -> Result<u64, Fault> {
        let log_min = self.log.segments.range().start;
        let mut unconsumed = 0;
        let view_files = self.views.follow_log_min(log_min, &mut |queue, lost| {
            let count = self.unconsumed_hook.get().map_or(0, |hook| hook(queue, lost));
            if count > 0 {
                let (topic, id) = (queue.topic(), queue.id());
                tracing::warn!(
                    topic,
                    queue = id,
                    count,
                    "messages removed before they were consumed"
                );
            }
            unconsumed += count;
        })?;
        self.retention.view_files.fetch_add(view_files as u64, Ordering::Relaxed);
        self.retention.unconsumed.fetch_add(unconsumed, Ordering::Relaxed);
        Ok(unconsumed)
    }
}

/// What the keeper has to remember from one step to the next.
pub(crate) struct Keeper {
    retention: Retention,
    /// Views that are synced, waiting for the log to be.
    waiting: Option<Durable>,
    saved: Durable,
    saved_at: Duration,
    check_at: Duration,
    guard_at: Duration,
    /// Until when tables are written again and again, since another broker may write them.
    intruder_until: Option<Duration>,
    /// Files still to go, one each `deleteCommitLogFilesInterval`.
    doomed: Option<(usize, Reason)>,
}

impl Keeper {
    /// Returns the keeper of a store that was just opened and whose checkpoint says `saved`.
    pub(crate) fn new(options: &Options, clock: &Clock, saved: Durable) -> Keeper {
        let now = clock.monotonic();
        Keeper {
            retention: Retention::new(TimeZone::system()),
            waiting: None,
            saved,
            saved_at: now,
            check_at: now + options.clean_resource_interval,
            guard_at: now + GUARD_PERIOD,
            intruder_until: None,
            doomed: None,
        }
    }

    /// Has retention look at the store at the next step, and remove files by age at any hour.
    pub(crate) fn expire_now(&mut self, store: &Inner) {
        self.retention.expire_now();
        self.check_at = store.env.clock.monotonic();
    }

    fn step(&mut self, store: &Inner) -> Step {
        let now = store.env.clock.monotonic();
        if let Some((count, reason)) = self.doomed.take() {
            match store.remove_oldest(reason) {
                Ok(true) if count > 1 => {
                    self.doomed = Some((count - 1, reason));
                    return Step::IdleUntil(now + store.options.delete_commit_log_files_interval);
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a log file could not be removed"),
            }
        }
        if now >= self.guard_at {
            self.guard_at = now + GUARD_PERIOD;
            if let Err(error) = self.guard(store, now) {
                tracing::error!(%error, "what another broker did to the directory stays for now");
            }
        }
        if let Err(error) = self.checkpoint(store, now) {
            tracing::error!(%error, "the checkpoint stays where it is");
        }
        if now >= self.check_at {
            self.check_at = now + store.options.clean_resource_interval;
            if let Err(error) = self.check(store) {
                tracing::error!(%error, "retention could not look at the store");
            }
            if self.doomed.is_some() {
                return Step::Again;
            }
        }
        Step::IdleUntil(now + TICK)
    }

    fn checkpoint(&mut self, store: &Inner, now: Duration) -> io::Result<()> {
        if let Some(durable) = self.waiting {
            let synced = store.log.marks.synced.get();
            if synced >= durable.to {
                store.save_checkpoint(durable, synced)?;
                (self.saved, self.saved_at, self.waiting) = (durable, now, None);
            }
            return Ok(());
        }
        let behind = store.log.marks.dispatched.get().saturating_sub(self.saved.to);
        let is_old = now >= self.saved_at + store.options.flush_consume_queue_thorough_interval;
        if behind >= REPLAY_BYTES || behind > 0 && is_old {
            self.waiting = Some(store.views.sync(LastStop::Crash)?);
        }
        Ok(())
    }

    /// Looks for the traces of another broker, and undoes what it did.
    fn guard(&mut self, store: &Inner, now: Duration) -> io::Result<()> {
        // After a shutdown the mark is to be gone.
        if lock_any(&store.lock).is_none() {
            return Ok(());
        }
        let has_mark = store.env.disk.exists(&store.path("abort"))?;
        let index = store.views.index.as_ref();
        if has_mark && !index.map_or(Ok(false), Index::is_missing)? {
            self.intruder_until = self.intruder_until.filter(|until| now <= *until);
            if self.intruder_until.is_some() {
                store.intrusions.fetch_add(1, Ordering::Release);
            }
            return Ok(());
        }
        tracing::warn!(
            has_mark,
            "another broker tried to open this directory; what it changed is put right"
        );
        if !has_mark {
            mark_open(&*store.env.disk, &store.options.store_path_root_dir)?;
        }
        index.map_or(Ok(()), Index::restore)?;
        // It wrote the checkpoint, too.
        self.waiting = Some(store.views.sync(LastStop::Crash)?);
        self.intruder_until = Some(now + INTRUDER_LINGERS);
        store.intrusions.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn check(&mut self, store: &Inner) -> Result<(), Fault> {
        let Inner { log, options, env, .. } = store;
        // Of several roots the emptiest decides (Java: `CommitLog.getStorePathPhysic` and the ratio of the least used).
        let mut used_ratio = 1.0_f64;
        for root in log.segments.roots() {
            used_ratio = used_ratio.min(env.disk.space(root)?.used_ratio());
        }
        let views_ratio = env.disk.space(&options.store_path_root_dir)?.used_ratio();
        let used_ratio = used_ratio.max(views_ratio);
        let is_full = used_ratio > options.used_ratio_for_refusal();
        log.refuse_for_space(is_full || store.dispatch.is_stalled());

        let mut files = Vec::new();
        for segment in log.segments.list() {
            let len = log.segments.file_len();
            let modified = log.segments.modified(&segment)?.unwrap_or(Millis::MAX);
            files.push(LogFile { len, modified });
        }
        let (now, monotonic) = (env.clock.now(), env.clock.monotonic());
        self.doomed = self.retention.decide(options, &files, used_ratio, now, monotonic);
        Ok(())
    }
}

/// The keeper's thread.
pub(crate) struct KeeperWorker(pub(crate) Arc<Inner>);

impl Worker for KeeperWorker {
    fn step(&mut self) -> Step {
        self.0.keeper.lock().unwrap_or_else(PoisonError::into_inner).step(&self.0)
    }
}
