//! On a real disk.

use std::path::PathBuf;

use env::Env;
use store::{OpenError, Store, views::LastStop};
use wire::record::{CheckCrc, Record};

use crate::support::{bodies, one, options};

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("apogee-store-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn append(store: &Store, from: usize, count: usize) {
    for number in from..from + count {
        let queue = store.queue("T", (number % 3) as i32);
        let outcome = store.append(&[one(&queue, format!("body {number}").as_bytes())]);
        assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
        store.drive();
    }
    store.step_all();
}

fn expected(queue: usize, count: usize) -> Vec<Vec<u8>> {
    (0..count).filter(|n| n % 3 == queue).map(|n| format!("body {n}").into_bytes()).collect()
}

#[test]
fn records_across_the_ends_of_blocks_and_files_are_read_whole() {
    let dir = Dir::new("blocks");
    let mut options = options(&dir.0);
    // Not a multiple of a block; nothing is served by the tail.
    options.mapped_file_size_commit_log = 700_000;
    options.tail_bytes_max = 0;
    options.block_cache_bytes_max = 1 << 20;
    let (store, _) = Store::open(options, Env::real()).expect("an empty directory opens");
    let queue = store.queue("T", 0);
    let body =
        |number: usize| vec![number as u8; if number.is_multiple_of(50) { 30_000 } else { 3_000 }];
    for number in 0..600 {
        let outcome = store.append(&[one(&queue, &body(number))]);
        assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
        store.drive();
    }
    store.step_all();
    for _ in 0..2 {
        let read = bodies(&store, &queue);
        assert!(read.into_iter().eq((0..600).map(body)));
        let (mut reader, mut entries) = (store.reader(), Vec::new());
        queue.read(0, 600, &mut entries).expect("queues can be read");
        for (number, entry) in entries.iter().enumerate() {
            let bytes = reader.try_read(entry.log_offset, entry.len).expect("the log has it");
            if let Some(bytes) = bytes {
                let record = Record::decode(&bytes, CheckCrc::Yes).expect("a whole record");
                assert_eq!(*record.body, body(number));
            }
        }
    }
    // What no entry says: a range that leaves its file is refused, not read.
    assert!(store.try_read(690_000, 20_000).is_err());
}

#[test]
fn messages_are_found_again_after_a_clean_stop_and_after_a_crash() {
    let dir = Dir::new("again");
    let (store, _) = Store::open(options(&dir.0), Env::real()).expect("an empty directory opens");
    append(&store, 0, 300);
    store.shutdown().expect("a clean stop");
    drop(store);

    let (store, recovered) = Store::open(options(&dir.0), Env::real()).expect("it opens again");
    assert_eq!(recovered.last_stop, LastStop::Clean);
    assert_eq!(recovered.dropped, None);
    append(&store, 300, 300);
    drop(store);

    let (store, recovered) = Store::open(options(&dir.0), Env::real()).expect("it opens again");
    assert_eq!(recovered.last_stop, LastStop::Crash);
    assert_eq!(recovered.dropped, None);
    for id in 0..3 {
        let queue = store.find_queue("T", id).expect("the queue was used");
        assert_eq!(bodies(&store, &queue), expected(id as usize, 600));
    }
    append(&store, 600, 3);
    assert_eq!(store.queue("T", 0).max_offset(), 201);
    assert_eq!(
        store.find_by_key("T", "k6", 1000, 0, i64::MAX).expect("the index answers").len(),
        10
    );
}

#[test]
fn a_directory_is_open_once() {
    let dir = Dir::new("once");
    let (store, _) = Store::open(options(&dir.0), Env::real()).expect("it opens");
    let second = Store::open(options(&dir.0), Env::real()).map(|_| ());
    assert!(matches!(second, Err(OpenError::Locked(_))), "{second:?}");
    drop(store);
    assert!(Store::open(options(&dir.0), Env::real()).is_ok());
}

#[test]
fn files_of_another_size_are_refused_with_the_value_that_fits() {
    let dir = Dir::new("size");
    let (store, _) = Store::open(options(&dir.0), Env::real()).expect("it opens");
    append(&store, 0, 1);
    drop(store);
    let mut other = options(&dir.0);
    other.mapped_file_size_commit_log = 32 << 10;
    let error = Store::open(other, Env::real()).map(|_| ()).expect_err("the size differs");
    assert!(error.to_string().contains("set `mappedFileSizeCommitLog=16384`"), "{error}");
}

#[test]
fn running_threads_write_dispatch_and_sync_without_being_stepped() {
    let dir = Dir::new("threads");
    let mut options = options(&dir.0);
    options.flush_disk_type = store::FlushDiskType::SyncFlush;
    let (store, _) = Store::open(options, Env::real()).expect("it opens");
    let workers = store.start().expect("threads start");
    let queue = store.queue("T", 0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for number in 0..50 {
        let outcome = store.append(&[one(&queue, format!("body {number}").as_bytes())]);
        store.drive();
        let end = outcome[0].as_ref().expect("it is taken").end;
        runtime.block_on(async {
            store.acknowledged().wait_for(end).await.expect("it is synced");
            store.marks().dispatched.wait_for(end).await.expect("it is dispatched");
        });
        assert_eq!(queue.max_offset(), number + 1);
    }
    workers.stop();
    store.shutdown().expect("a clean stop");
}
