//! Views against a model, and against their rebuild.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use env::{
    Disk, Env, Millis, Wake, read_whole,
    sim::{Crash, SimClock, SimDisk},
};
use jiff::tz::TimeZone;
use wire::hash;

use super::{
    Durable, LastStop, Views,
    dispatch::{Applier, RUN_MAX},
    index::{Found, Index, Shape, Wanted},
    queue::{Boundary, Layout, Queue, QueueEntry, QueueKind, Queues, WriteList, Written},
    writer::ViewWriter,
};
use crate::{DispatchItem, Options};

fn disk() -> Arc<dyn Disk> {
    Arc::new(SimDisk::new(0, SimClock::new(0)))
}

/// Ten entries a queue file, four a file of a queue of batches, four files open at once, no extensions.
pub(super) fn layout() -> Layout {
    Layout {
        root: PathBuf::from("/q"),
        file_len: 200,
        batch_root: PathBuf::from("/b"),
        batch_file_len: 4 * 46,
        ext_root: PathBuf::from("/ext"),
        ext_file_len: 256,
        is_extended: false,
        open_files_max: 4,
    }
}

fn open(disk: &Arc<dyn Disk>, last_stop: LastStop, trusted: u64, log_min: u64) -> Queues {
    let batch_topics = HashSet::from(["Batched".to_owned()]);
    let queues =
        Queues::open(Arc::clone(disk), layout(), batch_topics, last_stop, trusted, log_min);
    queues.expect("opens")
}

/// What is looked at of an entry; most tests do not mind where it lies in its queue.
fn entry(n: u64) -> QueueEntry {
    QueueEntry { offset: 0, count: 1, log_offset: n * 100, len: 100, tags_code: n as i64 * 7 }
}

fn push(list: &mut WriteList, queue: &Arc<Queue>, offsets: Range<i64>, log_from: u64) {
    let mut pusher = queue.pusher();
    for (n, offset) in offsets.enumerate() {
        pusher.push(QueueEntry { offset, ..entry(log_from + n as u64) }, 0);
    }
    if pusher.list() {
        list.push(Arc::clone(queue), Duration::ZERO, entry(log_from).log_offset, 0);
    }
}

pub(super) fn write(list: &mut WriteList) {
    while let Some(queue) = list.first() {
        queue.write().expect("writes");
        list.pop();
    }
}

fn read(queue: &Queue, from: i64, max: usize) -> Vec<QueueEntry> {
    let mut out = Vec::new();
    queue.read(from, max, &mut out).expect("reads");
    for (entry, offset) in out.iter_mut().zip(from..) {
        assert_eq!((entry.offset, entry.count), (offset, 1));
        entry.offset = 0;
    }
    out
}

#[test]
fn entries_are_readable_before_and_after_they_are_written_and_after_a_restart() {
    let disk = disk();
    let queues = open(&disk, LastStop::Clean, 0, 0);
    let queue = queues.queue("T", 3);
    let mut list = WriteList::default();
    push(&mut list, &queue, 0..25, 1);
    let all: Vec<_> = (1..=25).map(entry).collect();
    assert_eq!(read(&queue, 0, 100), all);
    assert_eq!(read(&queue, 7, 3), all[7..10]);
    write(&mut list);
    assert_eq!(list.written(Written::default()), Written::default());
    push(&mut list, &queue, 25..30, 26);
    let all: Vec<_> = (1..=30).map(entry).collect();
    assert_eq!(read(&queue, 0, 100), all);
    assert_eq!(read(&queue, 24, 3), all[24..27]);
    write(&mut list);
    queues.sync().expect("syncs");
    for stop in [LastStop::Clean, LastStop::Crash] {
        let queues = open(&disk, stop, 10_000, 0);
        let queue = queues.find("T", 3).expect("found");
        assert_eq!((queue.min_offset(), queue.max_offset()), (0, 30));
        assert_eq!(read(&queue, 0, 100), all);
    }
    let cut = open(&disk, LastStop::Crash, 1_600, 0);
    let queue = cut.find("T", 3).expect("found");
    assert_eq!(queue.max_offset(), 15);
    assert_eq!(queue.numbering().next(), 15);
    push(&mut list, &queue, 15..22, 40);
    write(&mut list);
    let all: Vec<_> = (1..=15).chain(40..47).map(entry).collect();
    assert_eq!(read(&queue, 0, 100), all);
    let queues = open(&disk, LastStop::Clean, 10_000, 0);
    assert_eq!(read(&queues.find("T", 3).expect("found"), 0, 100), all);
}

#[test]
fn a_queue_that_starts_late_has_its_gap_filled_and_its_minimum_behind_it() {
    let disk = disk();
    let queues = open(&disk, LastStop::Clean, 0, 0);
    let queue = queues.queue("T", 0);
    let mut list = WriteList::default();
    push(&mut list, &queue, 23..28, 1);
    assert_eq!((queue.min_offset(), queue.max_offset()), (23, 28));
    write(&mut list);
    let path = Path::new("/q/T/0/00000000000000000400");
    let bytes = read_whole(&*disk, path, 1 << 20).expect("reads").expect("the file of entry 20");
    assert_eq!(bytes.len(), 200);
    let gap = [0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes[..60], gap.repeat(3));
    assert_eq!(bytes[60..72], [0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 100]);
    let queues = open(&disk, LastStop::Crash, 10_000, 0);
    let queue = queues.find("T", 0).expect("found");
    assert_eq!((queue.min_offset(), queue.max_offset()), (23, 28));
}

#[test]
fn a_topic_whose_name_is_no_directorys_keeps_nothing_and_makes_no_path() {
    let disk = disk();
    let queues = open(&disk, LastStop::Clean, 0, 0);
    let mut list = WriteList::default();
    for name in ["", ".", "..", "../up", "/root", "a/b", "a\0b"] {
        let queue = queues.queue(name, 0);
        push(&mut list, &queue, 0..5, 1);
        write(&mut list);
        assert_eq!((queue.min_offset(), queue.max_offset()), (0, 0), "{name:?}");
        assert_eq!(read(&queue, 0, 5), [], "{name:?}");
        queues.remove_topic(name).expect("nothing to remove");
    }
    queues.sync().expect("nothing to sync");
    assert!(queues.all().is_empty());
    assert_eq!(queues.pending(), 0);
    assert_eq!(disk.list(Path::new("/")).expect("lists"), []);
}

#[test]
fn the_minimum_follows_the_log_and_old_files_go() {
    let disk = disk();
    let queues = open(&disk, LastStop::Clean, 0, 0);
    let queue = queues.queue("T", 0);
    let mut list = WriteList::default();
    push(&mut list, &queue, 0..35, 1);
    write(&mut list);
    let mut lost = Vec::new();
    let mut note = |queue: &Queue, offsets| lost.push((queue.id(), offsets));
    assert_eq!(queues.follow_log_min(1_250, &mut note).expect("follows"), 1);
    assert_eq!(lost, [(0, 0..12)]);
    assert_eq!(queue.min_offset(), 12);
    assert_eq!(read(&queue, 11, 5), []);
    assert_eq!(read(&queue, 12, 1), [entry(13)]);
    assert_eq!(queues.follow_log_min(100_000, &mut |_, _| {}).expect("follows"), 2);
    assert_eq!((queue.min_offset(), queue.max_offset()), (35, 35));
    let queues = open(&disk, LastStop::Clean, 100_000, 100_000);
    let queue = queues.find("T", 0).expect("found");
    assert_eq!((queue.min_offset(), queue.max_offset()), (35, 35));
}

#[test]
fn a_search_by_time_finds_either_boundary() {
    let disk = disk();
    let queues = open(&disk, LastStop::Clean, 0, 0);
    queues.set_store_time(Box::new(|at, _| Some([10, 10, 10, 30, 30][at as usize / 100 - 1])));
    let queue = queues.queue("T", 0);
    push(&mut WriteList::default(), &queue, 0..5, 1);
    let at = |time, boundary| queue.offset_at(time, boundary).expect("searches");
    assert_eq!([9, 10, 20, 30, 31].map(|time| at(time, Boundary::Lower)), [0, 0, 3, 3, 5]);
    assert_eq!([9, 10, 20, 30, 31].map(|time| at(time, Boundary::Upper)), [0, 2, 2, 4, 4]);
}

/// Pushes batches of these sizes, the first of them at an offset, and a record each 100 bytes and 10 ms.
fn push_batches(
    list: &mut WriteList,
    queue: &Arc<Queue>,
    from: i64,
    counts: &[u16],
    log_from: u64,
) {
    let (mut pusher, mut offset) = (queue.pusher(), from);
    for (n, count) in (log_from..).zip(counts) {
        pusher.push(QueueEntry { offset, count: *count, ..entry(n) }, n as i64 * 10);
        offset += i64::from(*count);
    }
    if pusher.list() {
        list.push(Arc::clone(queue), Duration::ZERO, entry(log_from).log_offset, 0);
    }
}

/// Returns offset and count of up to three entries, from that of a message on.
fn batches(queue: &Queue, from: i64) -> Vec<(i64, u16)> {
    let mut out = Vec::new();
    queue.read(from, 3, &mut out).expect("reads");
    out.iter().map(|entry| (entry.offset, entry.count)).collect()
}

#[test]
fn batches_lie_where_java_reads_them_and_are_found_by_each_of_their_messages() {
    let disk = disk();
    let queues = open(&disk, LastStop::Clean, 0, 0);
    queues.set_store_time(Box::new(|at, _| Some(at as i64 / 10)));
    let queue = queues.queue("Batched", 0);
    let mut list = WriteList::default();
    push_batches(&mut list, &queue, 0, &[3, 1, 2, 4, 5, 1], 1);
    let check = |queue: &Queue| {
        assert_eq!((queue.min_offset(), queue.max_offset()), (0, 16));
        assert_eq!(batches(queue, 0), [(0, 3), (3, 1), (4, 2)]);
        assert_eq!(batches(queue, 2), [(0, 3), (3, 1), (4, 2)]);
        assert_eq!(batches(queue, 5), [(4, 2), (6, 4), (10, 5)]);
        assert_eq!(batches(queue, 14), [(10, 5), (15, 1)]);
        assert_eq!(batches(queue, 16), []);
    };
    check(&queue);
    write(&mut list);
    check(&queue);
    let at = |time, boundary| queue.offset_at(time, boundary).expect("searches");
    assert_eq!([0, 10, 11, 60, 61].map(|time| at(time, Boundary::Lower)), [0, 0, 3, 15, 16]);
    assert_eq!([0, 10, 25, 59, 60].map(|time| at(time, Boundary::Upper)), [0, 0, 3, 10, 15]);
    let path = Path::new("/b/Batched/0/00000000000000000184");
    let bytes = read_whole(&*disk, path, 1 << 20).expect("reads").expect("the second file");
    let fifth = [
        [0, 0, 0, 0, 0, 0, 1, 244].as_slice(),
        &[0, 0, 0, 100],
        &[0, 0, 0, 0, 0, 0, 0, 35],
        &[0, 0, 0, 0, 0, 0, 0, 50],
        &[0, 0, 0, 0, 0, 0, 0, 10],
        &[0, 5],
        &[255, 255, 255, 255, 0, 0, 0, 0],
    ];
    assert_eq!(bytes[..46], fifth.concat());
    queues.sync().expect("syncs");
    for stop in [LastStop::Clean, LastStop::Crash] {
        check(&open(&disk, stop, 10_000, 0).find("Batched", 0).expect("found"));
    }
    // The file of the last two goes; the queue begins behind what the log has lost.
    let cut = open(&disk, LastStop::Crash, 500, 150);
    let queue = cut.find("Batched", 0).expect("found");
    assert_eq!((queue.min_offset(), queue.max_offset(), queue.numbering().next()), (3, 10, 10));
    push_batches(&mut list, &queue, 10, &[7, 1], 5);
    write(&mut list);
    assert_eq!(batches(&queue, 12), [(10, 7), (17, 1)]);
    assert_eq!(cut.follow_log_min(550, &mut |_, _| {}).expect("follows"), 1);
    assert_eq!((queue.min_offset(), queue.max_offset()), (17, 18));
    assert_eq!(batches(&queue, 17), [(17, 1)]);
    let queues = open(&disk, LastStop::Clean, 10_000, 550);
    let queue = queues.find("Batched", 0).expect("found");
    assert_eq!((queue.min_offset(), queue.max_offset()), (17, 18));
}

#[test]
fn a_topic_that_becomes_one_of_batches_starts_again_and_so_does_one_that_ceases_to_be() {
    let disk = disk();
    let queues = open(&disk, LastStop::Clean, 0, 0);
    let mut list = WriteList::default();
    push(&mut list, &queues.queue("T", 0), 0..5, 1);
    write(&mut list);
    queues.set_kind("T", QueueKind::Simple).expect("it is");
    assert_eq!(queues.queue("T", 0).max_offset(), 5);
    queues.set_kind("T", QueueKind::Batch).expect("changes");
    push_batches(&mut list, &queues.queue("T", 0), 0, &[3], 6);
    write(&mut list);
    assert_eq!(batches(&queues.queue("T", 0), 0), [(0, 3)]);
    assert!(!disk.exists(Path::new("/q/T")).expect("looks"));
    queues.set_kind("T", QueueKind::Simple).expect("changes");
    assert_eq!(queues.queue("T", 0).max_offset(), 0);
    assert!(!disk.exists(Path::new("/b/T")).expect("looks"));
    // What lies in the place of the other kind is not read.
    push(&mut list, &queues.queue("Batched", 0), 0..1, 7);
    write(&mut list);
    disk.create_dir_all(Path::new("/q/Batched/0")).expect("makes it");
    let queues = open(&disk, LastStop::Clean, 10_000, 0);
    assert_eq!(queues.find("Batched", 0).expect("found").kind(), QueueKind::Batch);
}

#[test]
fn a_removed_topic_starts_again_at_zero() {
    let disk = disk();
    let queues = open(&disk, LastStop::Clean, 0, 0);
    let old = queues.queue("T", 0);
    let mut list = WriteList::default();
    push(&mut list, &old, 0..15, 1);
    write(&mut list);
    push(&mut list, &old, 15..16, 16);
    queues.remove_topic("T").expect("removes");
    assert_eq!(queues.pending(), 0);
    push(&mut list, &old, 16..17, 17);
    write(&mut list);
    assert!(queues.find("T", 0).is_none() && !disk.exists(Path::new("/q/T")).expect("looks"));
    let new = queues.queue("T", 0);
    push(&mut list, &new, 0..2, 20);
    write(&mut list);
    assert_eq!(read(&new, 0, 9), [entry(20), entry(21)]);
    // A rebuild meets the messages of the removed topic first.
    let other = queues.queue("U", 0);
    push(&mut list, &other, 0..17, 1);
    push(&mut list, &other, 0..2, 20);
    assert_eq!(read(&other, 0, 9), [entry(20), entry(21)]);
    assert_eq!(queues.pending(), 2);
}

const SHAPE: Shape = Shape { slots: 7, entries: 5 };

fn index(disk: &Arc<dyn Disk>, last_stop: LastStop, trusted: u64) -> Index {
    let time = |at: u64| Some(at as i64 * 10);
    let dir = PathBuf::from("/i");
    Index::open(Arc::clone(disk), dir, SHAPE, TimeZone::UTC, last_stop, trusted, time)
        .expect("opens")
}

fn find(index: &Index, key: &str) -> Vec<u64> {
    index.query("T", Wanted::Key(key), 64, 0, i64::MAX).expect("queries").log_offsets
}

#[test]
fn keys_are_found_newest_first_over_files_and_restarts() {
    let disk = disk();
    let written = index(&disk, LastStop::Clean, 0);
    let keys = |key: &str| [hash::index_key_hash("T", key).unsigned_abs()];
    for n in 1..=10_u64 {
        let mut batch = written.batch(1_700_000_000_000);
        let key = if n % 2 == 0 { "even" } else { "odd" };
        batch.put(&keys(key), n * 100, n * 100 + 100, n as i64 * 1000).expect("puts");
        drop(batch);
        if n % 3 == 0 {
            written.write().expect("writes");
        }
    }
    let check = |index: &Index| {
        assert_eq!(find(index, "even"), [1000, 800, 600, 400, 200]);
        assert_eq!(find(index, "odd"), [900, 700, 500, 300, 100]);
        assert!(find(index, "none").is_empty());
        let some = index.query("T", Wanted::Key("odd"), 2, 0, i64::MAX).expect("queries");
        let expected = Found {
            log_offsets: vec![900, 700],
            last_update_time: 10_000,
            last_update_offset: 1000,
        };
        assert_eq!(some, expected);
        let range = index.query("T", Wanted::Key("odd"), 64, 3000, 7000).expect("queries");
        assert_eq!(range.log_offsets, [700, 500, 300]);
    };
    check(&written);
    let synced = written.sync(LastStop::Crash).expect("syncs");
    assert_eq!((synced.applied, synced.sealed_time), (1100, 8_000));
    // Java throws the open file away after a crash, so it has to begin again with that file's first record.
    assert_eq!(synced.unsealed_from, Some((900, 9_000)));
    check(&written);
    check(&index(&disk, LastStop::Crash, 1100));
    written.sync(LastStop::Clean).expect("syncs");
    assert_eq!(written.open_files(), 1, "sealed files are closed, however many there are");
    check(&written);
    let again = index(&disk, LastStop::Clean, 1100);
    assert_eq!(again.open_files(), 1);
    check(&again);
    let cut = index(&disk, LastStop::Crash, 701);
    assert_eq!(find(&cut, "even"), [600, 400, 200]);
    let mut batch = cut.batch(0);
    batch.put(&keys("even"), 800, 900, 8000).expect("puts");
    drop(batch);
    assert_eq!(find(&cut, "even"), [800, 600, 400, 200]);
    assert_eq!(cut.remove_before(500).expect("removes"), 1);
    assert_eq!(find(&cut, "even"), [800, 600]);
}

#[test]
fn files_are_named_by_local_time_and_never_backwards() {
    let disk = disk();
    let index = index(&disk, LastStop::Clean, 0);
    for (n, now) in [(1, 1_700_000_000_123), (5, 1_600_000_000_000)] {
        let mut batch = index.batch(now);
        batch.put(&[1, 2, 3, 4], n, n + 1, 5).expect("puts");
    }
    index.write().expect("writes");
    let names = disk.list(Path::new("/i")).expect("lists").into_iter();
    let mut names: Vec<_> = names.map(|entry| (entry.name, entry.len)).collect();
    names.sort();
    assert_eq!(
        names,
        [("20231114221320123".to_owned(), 168), ("20231114221320124".to_owned(), 168)]
    );
}

/// A log that is only a list of what dispatch needs, the views of it, and a disk that fails.
struct World {
    rng: fastrand::Rng,
    clock: SimClock,
    disk: SimDisk,
    options: Options,
    views: Arc<Views>,
    applier: Applier,
    writer: Arc<ViewWriter>,
    log: Vec<Record>,
    log_min: u64,
    /// How many of `log` are applied.
    applied: usize,
    durable: Durable,
    /// Whether extensions are switched on and off with each opening.
    is_switching: bool,
}

#[derive(Clone, Debug)]
struct Record {
    topic: usize,
    queue_offset: Option<i64>,
    count: u16,
    log_offset: u64,
    len: u32,
    stored_at: Millis,
    keys: Vec<u32>,
}

impl Record {
    fn end(&self) -> u64 {
        self.log_offset + u64::from(self.len)
    }

    fn entry(&self) -> QueueEntry {
        let Record { queue_offset, count, log_offset, len, stored_at, .. } = *self;
        let offset = queue_offset.unwrap_or(0);
        QueueEntry { offset, count, log_offset, len, tags_code: stored_at }
    }
}

const TOPICS: [&str; 3] = ["A", "B", "%RETRY%C"];
/// Its queues are of batches.
const BATCHED: usize = 1;
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

impl World {
    fn new(seed: u64) -> World {
        let clock = SimClock::new(1_700_000_000_000);
        let disk = SimDisk::new(seed, clock.clone());
        let options = Options {
            store_path_root_dir: PathBuf::from("/s"),
            mapped_file_size_consume_queue: 20 * 40,
            mapper_file_size_batch_consume_queue: 46 * 30,
            mapped_file_size_consume_queue_ext: 128,
            max_hash_slot_num: 3,
            max_index_num: 30,
            open_files_max: 3,
            ..Options::default()
        };
        let (views, applier, writer) =
            open_views(&options, &clock, &disk, LastStop::Clean, 0, 0, &[]);
        World {
            rng: fastrand::Rng::with_seed(seed),
            log: Vec::new(),
            log_min: 0,
            applied: 0,
            durable: Durable::default(),
            is_switching: false,
            clock,
            disk,
            options,
            views,
            applier,
            writer,
        }
    }

    fn append(&mut self) {
        for _ in 0..self.rng.usize(1..30) {
            let topic = self.rng.usize(..TOPICS.len());
            let mut earlier = self.log.iter().rev().filter(|record| record.topic == topic);
            let last =
                earlier.find_map(|record| Some(record.queue_offset? + i64::from(record.count)));
            let keys = (0..self.rng.usize(..3)).map(|_| {
                hash::index_key_hash("T", KEYS[self.rng.usize(..KEYS.len())]).unsigned_abs()
            });
            let keys = keys.collect();
            self.log.push(Record {
                topic,
                // Now and then a transaction message, which takes no place in its queue.
                queue_offset: (self.rng.u8(..10) > 0).then(|| last.unwrap_or(0)),
                count: if topic == BATCHED { self.rng.u16(1..50) } else { 1 },
                log_offset: self.log.last().map_or(0, Record::end),
                len: self.rng.u32(91..300),
                stored_at: self.clock.now(),
                keys,
            });
        }
        self.dispatch();
    }

    fn dispatch(&mut self) {
        let queues = &self.views.queues;
        let item = |record: &Record| DispatchItem {
            queue: record.queue_offset.map(|_| queues.queue(TOPICS[record.topic], 0)),
            log_offset: record.log_offset,
            len: record.len,
            queue_offset: record.queue_offset.unwrap_or(0),
            count: record.count,
            tags_code: record.stored_at,
            stored_at: record.stored_at,
            keys: record.keys.iter().copied().collect(),
            lights: Box::default(),
        };
        let items: Vec<_> = self.log[self.applied..].iter().map(item).collect();
        let bit_map = |_: &Queue, item: &DispatchItem| {
            (!item.log_offset.is_multiple_of(3)).then(|| vec![7; (item.log_offset % 40) as usize])
        };
        for run in items.chunks(7) {
            self.applied += self.applier.apply(run, &bit_map);
        }
        assert_eq!(self.applied, self.log.len());
        let touched: Vec<_> = self.applier.take_touched().collect();
        touched.iter().for_each(|queue| assert_eq!(queue.take_touched(), queue.max_offset()));
    }

    fn sync(&mut self) {
        if let Ok(durable) = self.views.sync(LastStop::Crash) {
            assert!(durable.to >= self.durable.to && durable.record <= durable.to);
            self.durable = durable;
        }
    }

    fn stop(&mut self) {
        self.disk.set_room(None);
        self.writer.write_all().expect("there is room");
        self.durable = self.views.sync(LastStop::Clean).expect("syncs");
        assert_eq!(self.durable.to, self.log.last().map_or(0, Record::end));
        self.disk.crash(Crash::Power);
        self.reopen(LastStop::Clean);
    }

    fn crash(&mut self, crash: Crash) {
        self.disk.crash(crash);
        self.disk.set_room(None);
        if crash == Crash::Power {
            // The log, too, loses what was not synced; what the checkpoint vouches for was.
            let synced = self.log.iter().filter(|record| record.log_offset < self.durable.to);
            let kept = self.rng.usize(synced.count()..=self.log.len());
            self.log.truncate(kept);
        }
        self.reopen(LastStop::Crash);
    }

    fn reopen(&mut self, last_stop: LastStop) {
        let trusted = self.durable.to;
        if self.is_switching {
            self.options.enable_consume_queue_ext = self.rng.bool();
        }
        let World { options, clock, disk, log_min, log, .. } = self;
        (self.views, self.applier, self.writer) =
            open_views(options, clock, disk, last_stop, trusted, *log_min, log);
        self.applied = self.log.iter().filter(|record| record.log_offset < trusted).count();
        self.dispatch();
    }

    fn retain(&mut self) {
        let all = self.log.len();
        let Some(record) = self.log.get(self.rng.usize(..=all / 2)) else { return };
        if record.log_offset <= self.durable.to {
            self.log_min = self.log_min.max(record.log_offset);
            self.views.follow_log_min(self.log_min, &mut |_, _| {}).expect("there is room");
        }
    }

    fn check(&self) {
        check_queues(&self.views, &self.log, self.log_min);
        check_index(&self.views, &self.log, self.log_min);
    }

    fn step(&mut self) {
        match self.rng.u8(..20) {
            0..8 => self.append(),
            8..11 => {
                self.clock.advance(Duration::from_millis(700));
                // A full disk is met here; the next attempt comes a second later.
                let _ = self.writer.write_due();
            }
            11..14 => self.sync(),
            14 => self.disk.set_room(Some(self.rng.u64(..8192))),
            15 => self.disk.set_room(None),
            16 => self.crash(Crash::Process),
            17 => self.crash(Crash::Power),
            18 => self.stop(),
            _ => self.retain(),
        }
        self.check();
    }
}

fn open_views(
    options: &Options,
    clock: &SimClock,
    disk: &SimDisk,
    last_stop: LastStop,
    trusted: u64,
    log_min: u64,
    log: &[Record],
) -> (Arc<Views>, Applier, Arc<ViewWriter>) {
    let env = Env::new(clock.clone().into(), Arc::new(disk.clone()), fastrand::Rng::with_seed(1));
    let stored_at = |at| log.iter().find(|record| record.log_offset == at).map(|r| r.stored_at);
    let batched = HashSet::from([TOPICS[BATCHED].to_owned()]);
    let trusted = log_min..trusted;
    let views = Views::open(options, &env, batched, last_stop, trusted, None, &stored_at);
    let views = Arc::new(views.expect("opens"));
    let writer =
        ViewWriter::new(Arc::clone(&views), options, env.clock.clone(), RUN_MAX, Wake::new());
    let writer = Arc::new(writer);
    let applier = Applier::new(Arc::clone(&views), env.clock, Arc::clone(&writer));
    (views, applier, writer)
}

fn check_queues(views: &Views, log: &[Record], log_min: u64) {
    let mut expected: BTreeMap<&str, Vec<QueueEntry>> = BTreeMap::new();
    for record in log.iter().filter(|record| record.queue_offset.is_some()) {
        expected.entry(TOPICS[record.topic]).or_default().push(record.entry());
    }
    for (topic, entries) in expected {
        let queue = views.queues.find(topic, 0).expect("it has messages");
        let kept = entries.iter().filter(|entry| entry.log_offset >= log_min);
        let kept: Vec<_> = kept.copied().collect();
        let end = entries.last().expect("not empty").end();
        assert_eq!(queue.max_offset(), end, "{topic}");
        assert_eq!(queue.min_offset(), kept.first().map_or(end, |entry| entry.offset), "{topic}");
        let mut found = Vec::new();
        queue.read(queue.min_offset(), usize::MAX, &mut found).expect("reads");
        let differ = found.iter().zip(&kept).position(|(found, kept)| found != kept);
        assert_eq!(differ.map(|at| (at, found[at], kept[at])), None, "{topic}");
        assert_eq!(found.len(), kept.len(), "{topic}");
        assert_eq!(queue.numbering().next(), end);
    }
}

fn check_index(views: &Views, log: &[Record], log_min: u64) {
    let index = views.index.as_ref().expect("indexed");
    for key in KEYS {
        let hash = hash::index_key_hash("T", key).unsigned_abs();
        let all = |from: u64| -> Vec<u64> {
            let kept = log.iter().rev().filter(|record| record.log_offset >= from);
            let places = |record: &Record| {
                let times = record.keys.iter().filter(|key| **key == hash).count();
                std::iter::repeat_n(record.log_offset, times)
            };
            kept.flat_map(places).collect()
        };
        let found = index.query("T", Wanted::Key(key), usize::MAX, 0, Millis::MAX);
        let found = found.expect("answers").log_offsets;
        let (must, may) = (all(log_min), all(0));
        assert!(found.starts_with(&must), "{key}: {found:?} lacks some of {must:?}");
        assert!(may.starts_with(&found), "{key}: {found:?} has more than {may:?}");
    }
}

/// `SEED=n` runs one seed, `SEEDS=n` that many.
fn for_each_seed(life: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(300),
    };
    for seed in seeds {
        let life = std::panic::AssertUnwindSafe(|| life(seed));
        assert!(std::panic::catch_unwind(life).is_ok(), "SEED={seed} runs it again");
    }
}

#[test]
fn views_equal_the_log_after_every_step_of_a_life_with_crashes_and_full_disks() {
    for_each_seed(|seed| {
        let mut world = World { is_switching: seed % 2 == 1, ..World::new(seed) };
        (0..80).for_each(|_| world.step());
        world.stop();
        world.check();
    });
}

#[test]
fn a_rebuild_gives_the_files_that_were_written_live() {
    for_each_seed(|seed| {
        let mut world = World::new(seed);
        (0..30).for_each(|_| world.step());
        world.stop();
        let mut rebuilt = World { log: std::mem::take(&mut world.log), ..World::new(seed) };
        rebuilt.dispatch();
        rebuilt.stop();
        rebuilt.views.follow_log_min(world.log_min, &mut |_, _| {}).expect("there is room");
        for (live, rebuilt) in contents(&world.disk).iter().zip(&contents(&rebuilt.disk)) {
            assert_eq!(live.0, rebuilt.0);
            let differ = live.1.iter().zip(&rebuilt.1).position(|(live, rebuilt)| live != rebuilt);
            assert_eq!(differ, None, "{}", live.0);
        }
        assert_eq!(contents(&world.disk).len(), contents(&rebuilt.disk).len());
    });
}

/// Returns all files with their content; those of the index by their order, since their names are times.
fn contents(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for path in disk.paths() {
        let bytes = read_whole(disk, &path, 1 << 20).expect("reads").expect("exists");
        let name = path.to_string_lossy().into_owned();
        let is_index = name.starts_with("/s/index/");
        files.push((if is_index { format!("index {}", files.len()) } else { name }, bytes));
    }
    files
}

#[test]
fn a_queue_at_rest_is_small() {
    assert!(size_of::<Queue>() <= 256, "{}", size_of::<Queue>());
}
