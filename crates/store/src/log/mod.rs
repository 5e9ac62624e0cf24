//! The log: one run of records that everything else is derived from.
//!
//! `append` numbers and encodes a run of messages into the RAM tail under one short lock ([`append`]); the [`writer`]
//! moves the tail into files and raises `written`; the [`flusher`] syncs and raises `synced`; the [`reader`] serves from
//! the tail, from cached blocks or from the file. What views need of each message travels beside the tail in a [`feed`].
//!
//! Invariant: physical order, queue order and store-time order are one order, except where the clock was set back.

pub(crate) mod append;
pub(crate) mod blocks;
pub(crate) mod feed;
pub(crate) mod flusher;
pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod tail;
pub(crate) mod writer;

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use env::{Clock, Wake};

use crate::{marks::Marks, options::Options, segments::Segments};

/// The log of one store.
pub(crate) struct Log {
    pub(crate) marks: Marks,
    pub(crate) segments: Segments,
    pub(crate) feed: feed::Feed,
    head: Mutex<append::Head>,
    tail: tail::Tail,
    blocks: blocks::Blocks,
    writer: writer::Writer,
    flusher: flusher::Flusher,
    state: State,
    pub(crate) counts: Counts,
    clock: Clock,
    limits: Limits,
}

/// What the log takes of the options.
struct Limits {
    file_len: u64,
    record_len_max: usize,
    backlog_bytes_max: u64,
    delays: Vec<i64>,
    serves_light_queues: bool,
    sync_each: bool,
}

/// Conditions under which nothing is taken.
#[derive(Default)]
struct State {
    poisoned: AtomicBool,
    /// The last write met a full disk.
    write_met_full_disk: AtomicBool,
    /// The file system is above its warning level, or a view stands still for want of room.
    refuse_for_space: AtomicBool,
    closed: AtomicBool,
}

/// What happened since the start.
#[derive(Default)]
pub(crate) struct Counts {
    /// Entries refused because the log was behind, and because the disk was full.
    pub(crate) refused: [AtomicU64; 2],
    /// Syncs, and the microseconds that they took.
    pub(crate) syncs: [AtomicU64; 2],
}

impl Log {
    /// Starts a log whose `segments` hold, synced, everything before `end`, and whose views hold everything before
    /// `applied`.
    pub(crate) fn new(
        options: &Options,
        clock: Clock,
        segments: Segments,
        applied: u64,
        end: u64,
    ) -> Log {
        let marks = Marks::starting_at(applied, end);
        let flusher = flusher::Flusher::default();
        let writer = writer::Writer::default();
        Log {
            feed: feed::Feed::new(options.dispatch_items_max, applied, end),
            head: Mutex::new(append::Head::new(end)),
            tail: tail::Tail::new(options.tail_bytes_max, end),
            blocks: blocks::Blocks::new(options.block_cache_bytes_max),
            limits: Limits {
                file_len: segments.file_len(),
                // The original refuses a body above its limit, and reserves 64 KiB for the rest of the record.
                record_len_max: options.max_message_size as usize + (64 << 10),
                backlog_bytes_max: options.backlog_bytes_max,
                delays: options.message_delay_level.clone(),
                serves_light_queues: options.serves_light_queues,
                sync_each: options.flush_disk_type == crate::FlushDiskType::SyncFlush,
            },
            marks,
            segments,
            writer,
            flusher,
            state: State::default(),
            counts: Counts::default(),
            clock,
        }
    }

    /// Says whether appends are to be refused because some file system of the store has too little room.
    pub(crate) fn refuse_for_space(&self, refuse: bool) {
        self.state.refuse_for_space.store(refuse, Ordering::Relaxed);
    }

    /// Takes nothing more; what was appended can still be written and read.
    pub(crate) fn close(&self) {
        self.state.closed.store(true, Ordering::SeqCst);
        // Whoever holds the lock may have looked before the line above: wait for them.
        drop(append::lock(&self.head));
    }

    /// Whether a write or sync failed for good.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.state.poisoned.load(Ordering::SeqCst)
    }

    /// Whether appends are refused for want of room.
    pub(crate) fn is_full(&self) -> bool {
        self.state.write_met_full_disk.load(Ordering::Relaxed)
            || self.state.refuse_for_space.load(Ordering::Relaxed)
    }

    fn poison(&self, doing: &'static str, error: &std::io::Error) {
        if !self.state.poisoned.swap(true, Ordering::SeqCst) {
            tracing::error!(doing, %error, "the log is poisoned: nothing is taken until it is opened anew");
        }
        self.marks.poison();
    }

    pub(crate) fn writer_wake(&self) -> &Wake {
        &self.writer.wake
    }

    pub(crate) fn flusher_wake(&self) -> &Wake {
        &self.flusher.wake
    }
}
