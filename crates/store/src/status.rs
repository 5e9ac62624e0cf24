//! What the store says about itself, for metrics, runtime info and health.

use std::{sync::atomic::Ordering, time::Duration};

use crate::Inner;

/// A look at the store; the figures are read one after the other, so they need not fit each other exactly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// First offset of the log.
    pub log_min: u64,
    /// End of what was appended.
    pub appended: u64,
    /// End of what was written.
    pub written: u64,
    /// End of what was synced.
    pub synced: u64,
    /// End of what is in the views.
    pub dispatched: u64,
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// Used share of the fullest file system that may get a log file, from 0 to 1; 0 if it cannot be told.
    pub log_disk_used_ratio: f64,
    /// Messages that wait in memory to be dispatched.
    pub dispatch_items: usize,
    /// Entries refused since the start because the log was behind, and because the disk was full.
    pub refused: [u64; 2],
    /// Syncs of the log since the start.
    pub syncs: u64,
    /// The time that they took.
    pub sync_time: Duration,
    /// Whether appends are refused for want of room.
    pub is_full: bool,
    /// Whether a write or sync failed for good.
    pub is_poisoned: bool,
}

impl Status {
    /// Returns the bytes that are appended and not yet visible to readers.
    pub fn dispatch_behind_bytes(&self) -> u64 {
        self.appended.saturating_sub(self.dispatched)
    }
}

pub(crate) fn of(store: &Inner) -> Status {
    let log = &store.log;
    let disk = &store.env.disk;
    let used = log.segments.roots().iter().filter_map(|root| disk.space(root).ok());
    Status {
        log_min: log.range().start,
        appended: log.marks.appended.get(),
        written: log.marks.written.get(),
        synced: log.marks.synced.get(),
        dispatched: log.marks.dispatched.get(),
        log_bytes: log.segments.list().len() as u64 * log.segments.file_len(),
        log_disk_used_ratio: used.map(|space| space.used_ratio()).fold(0.0, f64::max),
        dispatch_items: log.feed.len(),
        refused: log.counts.refused.each_ref().map(|count| count.load(Ordering::Relaxed)),
        syncs: log.counts.syncs[0].load(Ordering::Relaxed),
        sync_time: Duration::from_micros(log.counts.syncs[1].load(Ordering::Relaxed)),
        is_full: log.is_full(),
        is_poisoned: log.is_poisoned(),
    }
}
