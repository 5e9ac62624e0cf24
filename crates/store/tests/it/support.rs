//! Drafts and stores for the tests.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use store::{Draft, Entry, Options, Queue};
use wire::record::{CheckCrc, Message, Record};

/// Options with files small enough that a test rolls through several.
pub(crate) fn options(root: &Path) -> Options {
    Options {
        store_path_root_dir: root.to_owned(),
        mapped_file_size_commit_log: 16 << 10,
        mapped_file_size_consume_queue: 20 * 64,
        max_hash_slot_num: 100,
        max_index_num: 400,
        ..Options::default()
    }
}

pub(crate) fn message(queue: &Queue, body: &[u8]) -> Message {
    Message {
        topic: queue.topic().into(),
        queue_id: queue.id(),
        flag: 0,
        sys_flag: 0,
        born_at: 1_700_000_000_000,
        born_host: "127.0.0.1:4711".parse().expect("an address"),
        store_host: "127.0.0.1:10911".parse().expect("an address"),
        reconsume_times: 0,
        prepared_offset: 0,
        body: Bytes::copy_from_slice(body),
        properties: format!("KEYS\u{1}k{}\u{2}TAGS\u{1}t\u{2}", body.len()).into(),
    }
}

pub(crate) fn one(queue: &Arc<Queue>, body: &[u8]) -> Entry {
    Entry::One(Draft::new(message(queue, body), queue.clone()))
}

/// Bodies of a queue's messages from its first to its last, read through its entries.
pub(crate) fn bodies(store: &store::Store, queue: &Queue) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    queue.read(queue.min_offset(), usize::MAX, &mut entries).expect("queues can be read");
    let mut offset = queue.min_offset();
    entries
        .iter()
        .map(|entry| {
            let bytes = store.read_blocking(entry.log_offset, entry.len).expect("the log has it");
            let record = Record::decode(&bytes, CheckCrc::Yes).expect("a whole record");
            assert_eq!(record.numbers.log_offset, entry.log_offset);
            assert_eq!(record.numbers.queue_offset, offset);
            offset += 1;
            record.body.to_vec()
        })
        .collect()
}
