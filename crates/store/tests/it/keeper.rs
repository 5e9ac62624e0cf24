//! The checkpoint and retention, as time goes by.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use env::{
    Disk, Env, read_whole,
    sim::{Crash, SimClock, SimDisk},
    write_whole,
};
use store::{LastStop, Options, Refused, Store};

use crate::support::{bodies, one, options};

struct World {
    clock: SimClock,
    disk: SimDisk,
    options: Options,
}

impl World {
    fn new() -> World {
        let clock = SimClock::new(1_700_000_000_000);
        let disk = SimDisk::new(7, clock.clone());
        World { clock, disk, options: options(Path::new("/store")) }
    }

    fn open(&self) -> (Store, store::Recovered) {
        let disk = Arc::new(self.disk.clone());
        let env = Env::new(self.clock.clone().into(), disk, fastrand::Rng::with_seed(1));
        Store::open(self.options.clone(), env).expect("it opens")
    }

    /// Lets `seconds` pass, one by one, with every worker doing what it has to.
    fn pass(&self, store: &Store, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            store.step_all();
        }
    }
}

fn append(store: &Store, count: usize) {
    let queue = store.queue("T", 0);
    for number in 0..count {
        let outcome = store.append(&[one(&queue, format!("body {number}").as_bytes())]);
        assert!(outcome[0].is_ok(), "{outcome:?}");
        store.drive();
        store.step_all();
    }
}

#[test]
fn after_a_minute_a_power_cut_costs_no_replay() {
    let world = World::new();
    let (store, _) = world.open();
    append(&store, 300);
    world.pass(&store, 65);
    let end = store.marks().written.get();
    append(&store, 3);
    drop(store);
    world.disk.crash(Crash::Power);
    let (store, recovered) = world.open();
    assert_eq!(recovered.replayed_from, end);
    assert_eq!(recovered.checked_from, end);
    assert!(store.queue("T", 0).max_offset() >= 300);
    let found = store.find_by_key("T", "k6", 1000, 0, i64::MAX).expect("the index answers");
    assert!(found.len() >= 10, "{found:?}");
}

#[test]
fn files_that_go_are_told_with_the_messages_that_nobody_had_consumed() {
    let mut world = World::new();
    world.options.log_bytes_max = Some(3 * (16 << 10));
    let (store, _) = world.open();
    let lost = Arc::new(AtomicU64::new(0));
    let told = lost.clone();
    store.on_removed(Box::new(move |queue, offsets| {
        assert_eq!((queue.topic(), queue.id()), ("T", 0));
        told.fetch_max(offsets.end as u64, Ordering::Relaxed);
        2
    }));
    append(&store, 1000);
    world.pass(&store, 30);
    let queue = store.find_queue("T", 0).expect("it has messages");
    assert_eq!(store.log_range().start % (16 << 10), 0);
    let files = (store.log_range().end - store.log_range().start).div_ceil(16 << 10);
    assert_eq!(files, 3);
    let removed = store.removed();
    let log_files = removed.log_files.load(Ordering::Relaxed);
    assert_eq!(log_files, store.log_range().start / (16 << 10));
    assert_eq!(removed.unconsumed.load(Ordering::Relaxed), 2 * log_files);
    assert!(removed.view_files.load(Ordering::Relaxed) > 0);
    assert_eq!(lost.load(Ordering::Relaxed), queue.min_offset() as u64);
    assert!(queue.min_offset() > 0);
    let kept = bodies(&store, &queue);
    assert_eq!(kept.len() as i64, 1000 - queue.min_offset());
    assert_eq!(kept.last().map(Vec::as_slice), Some(&b"body 999"[..]));
    // And the same after a start.
    store.shutdown().expect("a clean stop");
    drop(store);
    let (store, _) = world.open();
    assert_eq!(bodies(&store, &store.queue("T", 0)), kept);
}

#[test]
fn old_files_go_in_the_hour_of_deletion_and_the_newest_stays() {
    let mut world = World::new();
    // Every hour, so that the test does not depend on where it runs.
    world.options.delete_when = (0..24).collect();
    let (store, _) = world.open();
    append(&store, 600);
    world.pass(&store, 30);
    assert_eq!(store.log_range().start, 0);
    world.clock.advance(Duration::from_secs(80 * 3600));
    world.pass(&store, 30);
    let newest = store.log_range().end / (16 << 10) * (16 << 10);
    assert_eq!(store.log_range().start, newest);
    append(&store, 1);
    assert_eq!(store.queue("T", 0).max_offset(), 601);
}

#[test]
fn old_files_go_at_once_when_an_administrator_says_so() {
    let mut world = World::new();
    world.options.delete_when = Vec::new();
    let (store, _) = world.open();
    append(&store, 600);
    world.clock.advance(Duration::from_secs(80 * 3600));
    world.pass(&store, 30);
    assert_eq!(store.log_range().start, 0);
    store.expire_now();
    world.pass(&store, 30);
    let newest = store.log_range().end / (16 << 10) * (16 << 10);
    assert_eq!(store.log_range().start, newest);
    let min = store.queue("T", 0).min_offset();
    store.clean_views().expect("nothing is left to clean");
    assert_eq!(store.queue("T", 0).min_offset(), min);
}

#[test]
fn a_disk_over_its_last_mark_refuses_messages_until_there_is_room() {
    let world = World::new();
    let (store, _) = world.open();
    append(&store, 1);
    world.disk.set_used_ratio(0.91);
    world.pass(&store, 11);
    let refused = store.append(&[one(&store.queue("T", 0), b"late")]);
    assert_eq!(refused[0], Err(Refused::DiskFull));
    world.disk.set_used_ratio(0.5);
    world.pass(&store, 11);
    append(&store, 1);
    assert_eq!(bodies(&store, &store.queue("T", 0)).len(), 2);
}

#[test]
fn what_a_refused_original_leaves_behind_is_put_right_within_seconds() {
    for crash in [true, false] {
        let world = World::new();
        let (store, _) = world.open();
        append(&store, 100);
        world.pass(&store, 65);
        append(&store, 50);
        // It takes our mark for a crash, throws the unfinished index away, builds its own, and stops "cleanly".
        let index = world.disk.list(Path::new("/store/index")).expect("a directory");
        let newest = index.iter().map(|entry| entry.name.clone()).max().expect("an index file");
        let path = Path::new("/store/index").join(&newest);
        let whole = read_whole(&world.disk, &path, 1 << 20).expect("readable").expect("there");
        world.disk.remove(&path).expect("it is there");
        let foreign = Path::new("/store/index/20991231235959999");
        write_whole(&world.disk, foreign, &whole).expect("room");
        write_whole(&world.disk, Path::new("/store/checkpoint"), &[1; 4096]).expect("room");
        world.disk.remove(Path::new("/store/abort")).expect("it is there");
        world.pass(&store, 3);
        assert!(store.intrusions() > 0);
        assert!(world.disk.exists(Path::new("/store/abort")).expect("readable"));
        append(&store, 50);
        world.pass(&store, 40);
        let intrusions = store.intrusions();
        world.pass(&store, 10);
        assert_eq!(store.intrusions(), intrusions, "it is gone");
        if crash {
            drop(store);
            world.disk.crash(Crash::Process);
        } else {
            store.shutdown().expect("a clean stop");
            drop(store);
        }
        let (store, recovered) = world.open();
        assert_eq!(recovered.last_stop == LastStop::Crash, crash);
        assert!(!world.disk.exists(foreign).expect("readable"));
        let found = store.find_by_key("T", "k6", 1000, 0, i64::MAX).expect("the index answers");
        // "body 0" to "body 9", three times
        assert_eq!(found.len(), 30, "{found:?}");
    }
}
