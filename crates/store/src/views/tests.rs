//! Views against a model, and against their rebuild.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use env::{Disk, RealDisk};
use jiff::tz::TimeZone;
use wire::hash;

use super::{
    LastStop,
    index::{Found, Index, Shape, Wanted},
    queue::{Boundary, Queue, QueueEntry, Queues, WriteList, Written},
};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("views-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(dir: &Path, last_stop: LastStop, trusted: u64, log_min: u64) -> Queues {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    Queues::open(disk, dir.to_owned(), 200, 4, last_stop, trusted, log_min).expect("opens")
}

fn entry(n: u64) -> QueueEntry {
    QueueEntry { log_offset: n * 100, len: 100, tags_code: n as i64 * 7 }
}

fn push(list: &mut WriteList, queue: &Arc<Queue>, offsets: std::ops::Range<i64>, log_from: u64) {
    let mut pusher = queue.pusher();
    for (n, offset) in offsets.enumerate() {
        pusher.push(offset, entry(log_from + n as u64));
    }
    if pusher.list() {
        list.push(Arc::clone(queue), std::time::Duration::ZERO, 0);
    }
}

fn write(list: &mut WriteList) {
    while list.oldest().is_some() {
        list.write_first().expect("writes");
    }
}

fn read(queue: &Queue, from: i64, max: usize) -> Vec<QueueEntry> {
    let mut out = Vec::new();
    queue.read(from, max, &mut out).expect("reads");
    out
}

#[test]
fn entries_are_readable_before_and_after_they_are_written_and_after_a_restart() {
    let dir = Dir::new("restart");
    let queues = open(&dir.0, LastStop::Clean, 0, 0);
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
        let queues = open(&dir.0, stop, 10_000, 0);
        let queue = queues.find("T", 3).expect("found");
        assert_eq!((queue.min_offset(), queue.max_offset()), (0, 30));
        assert_eq!(read(&queue, 0, 100), all);
    }
    let cut = open(&dir.0, LastStop::Crash, 1_600, 0);
    let queue = cut.find("T", 3).expect("found");
    assert_eq!(queue.max_offset(), 15);
    assert_eq!(queue.numbering().next(), 15);
    push(&mut list, &queue, 15..22, 40);
    write(&mut list);
    let all: Vec<_> = (1..=15).chain(40..47).map(entry).collect();
    assert_eq!(read(&queue, 0, 100), all);
    let queues = open(&dir.0, LastStop::Clean, 10_000, 0);
    assert_eq!(read(&queues.find("T", 3).expect("found"), 0, 100), all);
}

#[test]
fn a_queue_that_starts_late_has_its_gap_filled_and_its_minimum_behind_it() {
    let dir = Dir::new("gap");
    let queues = open(&dir.0, LastStop::Clean, 0, 0);
    let queue = queues.queue("T", 0);
    let mut list = WriteList::default();
    push(&mut list, &queue, 23..28, 1);
    assert_eq!((queue.min_offset(), queue.max_offset()), (23, 28));
    write(&mut list);
    let bytes = std::fs::read(dir.0.join("T/0/00000000000000000400")).expect("file of entry 20");
    assert_eq!(bytes.len(), 200);
    let gap = [0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes[..60], gap.repeat(3));
    assert_eq!(bytes[60..72], [0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 100]);
    let queues = open(&dir.0, LastStop::Crash, 10_000, 0);
    let queue = queues.find("T", 0).expect("found");
    assert_eq!((queue.min_offset(), queue.max_offset()), (23, 28));
}

#[test]
fn the_minimum_follows_the_log_and_old_files_go() {
    let dir = Dir::new("min");
    let queues = open(&dir.0, LastStop::Clean, 0, 0);
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
    let queues = open(&dir.0, LastStop::Clean, 100_000, 100_000);
    let queue = queues.find("T", 0).expect("found");
    assert_eq!((queue.min_offset(), queue.max_offset()), (35, 35));
}

#[test]
fn a_search_by_time_finds_either_boundary() {
    let dir = Dir::new("time");
    let queues = open(&dir.0, LastStop::Clean, 0, 0);
    queues.set_store_time(Box::new(|at, _| Some([10, 10, 10, 30, 30][at as usize / 100 - 1])));
    let queue = queues.queue("T", 0);
    push(&mut WriteList::default(), &queue, 0..5, 1);
    let at = |time, boundary| queue.offset_at(time, boundary).expect("searches");
    assert_eq!([9, 10, 20, 30, 31].map(|time| at(time, Boundary::Lower)), [0, 0, 3, 3, 5]);
    assert_eq!([9, 10, 20, 30, 31].map(|time| at(time, Boundary::Upper)), [0, 2, 2, 4, 4]);
}

#[test]
fn a_removed_topic_starts_again_at_zero() {
    let dir = Dir::new("removed");
    let queues = open(&dir.0, LastStop::Clean, 0, 0);
    let old = queues.queue("T", 0);
    let mut list = WriteList::default();
    push(&mut list, &old, 0..15, 1);
    write(&mut list);
    push(&mut list, &old, 15..16, 16);
    queues.remove_topic("T").expect("removes");
    assert_eq!(queues.pending(), 0);
    push(&mut list, &old, 16..17, 17);
    write(&mut list);
    assert!(queues.find("T", 0).is_none() && !dir.0.join("T").exists());
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

fn index(dir: &Path, last_stop: LastStop, trusted: u64) -> Index {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let time = |at: u64| Some(at as i64 * 10);
    Index::open(disk, dir.to_owned(), SHAPE, TimeZone::UTC, last_stop, trusted, time)
        .expect("opens")
}

fn find(index: &Index, key: &str) -> Vec<u64> {
    index.query("T", Wanted::Key(key), 64, 0, i64::MAX).expect("queries").log_offsets
}

#[test]
fn keys_are_found_newest_first_over_files_and_restarts() {
    let dir = Dir::new("keys");
    let written = index(&dir.0, LastStop::Clean, 0);
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
    check(&written);
    check(&index(&dir.0, LastStop::Crash, 1100));
    written.sync(LastStop::Clean).expect("syncs");
    check(&index(&dir.0, LastStop::Clean, 1100));
    let cut = index(&dir.0, LastStop::Crash, 701);
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
    let dir = Dir::new("names");
    let index = index(&dir.0, LastStop::Clean, 0);
    for (n, now) in [(1, 1_700_000_000_123), (5, 1_600_000_000_000)] {
        let mut batch = index.batch(now);
        batch.put(&[1, 2, 3, 4], n, n + 1, 5).expect("puts");
    }
    index.write().expect("writes");
    let mut names: Vec<_> =
        RealDisk::new().list(&dir.0).expect("lists").into_iter().map(|e| (e.name, e.len)).collect();
    names.sort();
    assert_eq!(
        names,
        [("20231114221320123".to_owned(), 168), ("20231114221320124".to_owned(), 168)]
    );
}
