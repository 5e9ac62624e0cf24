//! What is given to the log, and what comes back: drafts with everything computed that can be before the lock is taken.
//!
//! [`Derived`] is what views need of a message (tag code, key hashes). It is computed once here for a live message, and
//! from the record when the log is replayed; both use the same function, so they agree.

use std::sync::Arc;

use smallvec::SmallVec;
use wire::{hash, names, properties, record};

use crate::views::{
    Queue, QueueKind,
    index::{KeyHashes, key_hashes},
};

/// A message on its way into the log.
#[derive(Clone)]
pub struct Draft {
    /// All that the record says, except its numbers.
    pub message: record::Message,
    /// The queue that numbers it; its topic and id are the message's.
    pub queue: Arc<Queue>,
    pub(crate) body_crc: u32,
    pub(crate) len: usize,
    pub(crate) derived: Derived,
    /// How many messages it holds: in a queue of batches as many as its property `INNER_NUM` says.
    pub(crate) count: u16,
    /// Light queues that get an entry, too.
    pub(crate) lights: Box<[Arc<Queue>]>,
}

impl Draft {
    /// Computes what the log and its views need of `message`. Its topic and queue id are those of `queue`.
    pub fn new(message: record::Message, queue: Arc<Queue>) -> Draft {
        let derived = Derived::of(&message.topic, message.sys_flag, &message.properties);
        let is_batched = queue.kind() == QueueKind::Batch;
        Draft {
            count: if is_batched { inner_count(&message.properties) } else { 1 },
            body_crc: hash::crc32(&message.body),
            len: message.encoded_len(),
            derived,
            message,
            queue,
            lights: Box::default(),
        }
    }

    /// Has the message go to light queues, too: those that its property `INNER_MULTI_DISPATCH` names, in that order, none
    /// twice. What it gets there is written into its properties when it is numbered. A message of a batch goes nowhere
    /// else.
    pub fn with_lights(self, lights: Vec<Arc<Queue>>) -> Draft {
        Draft { lights: lights.into(), ..self }
    }

    /// Whether its properties say which numbers it has.
    pub(crate) fn tells_numbers(&self) -> bool {
        !self.lights.is_empty() || self.is_inner_batch()
    }

    fn is_inner_batch(&self) -> bool {
        self.message.sys_flag & names::system_flag::INNER_BATCH != 0
    }

    /// Returns the draft with its offsets among its properties, that in its queue of batches and those in its light
    /// queues; under the lock that numbers.
    pub(crate) fn with_offsets(&self) -> Draft {
        let mut text = self.message.properties.to_string();
        if self.is_inner_batch() {
            let base = self.queue.numbering().next().to_string();
            properties::append(&mut text, properties::name::INNER_BASE, &base);
        }
        let mut offsets = String::new();
        for (count, light) in self.lights.iter().enumerate() {
            if count > 0 {
                offsets.push(names::LMQ_SEPARATOR);
            }
            offsets.push_str(&light.numbering().next().to_string());
        }
        if !offsets.is_empty() {
            properties::append(&mut text, properties::name::INNER_MULTI_QUEUE_OFFSET, &offsets);
        }
        let message = record::Message { properties: text.into(), ..self.message.clone() };
        Draft { len: message.encoded_len(), message, ..self.clone() }
    }
}

/// Returns the light queues that a record names, with its offset in each (Java: `MultiDispatchUtils`,
/// `ConsumeQueue.multiDispatchLmqQueue`).
pub(crate) fn lights_of(topic: &str, property_text: &str) -> Vec<(String, i64)> {
    let list = |name| properties::get(property_text, name).unwrap_or_default();
    let queues = list(properties::name::INNER_MULTI_DISPATCH);
    if queues.is_empty() || !names::allows_light(topic) {
        return Vec::new();
    }
    let queues = queues.split(names::LMQ_SEPARATOR);
    let offsets = list(properties::name::INNER_MULTI_QUEUE_OFFSET).split(names::LMQ_SEPARATOR);
    if queues.clone().count() != offsets.clone().count() {
        return Vec::new();
    }
    let numbered = queues.zip(offsets).filter(|(queue, _)| names::is_light(queue));
    numbered.filter_map(|(queue, offset)| Some((queue.to_owned(), offset.parse().ok()?))).collect()
}

/// Returns how many messages a record of a queue of batches holds (Java: `CommitLog.setBatchSizeIfNeeded`).
pub(crate) fn inner_count(property_text: &str) -> u16 {
    let count = properties::get(property_text, properties::name::INNER_NUM);
    count.and_then(|count| count.parse::<i16>().ok()).map_or(1, |count| count.max(1) as u16)
}

/// One thing to append: a message, or several that are stored all or not at all.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are single messages; a box would cost each an allocation"
)]
#[derive(Clone)]
pub enum Entry {
    /// A single message.
    One(Draft),
    /// Messages of one queue that get neighbouring places in log and queue. An empty batch is stored as nothing.
    Batch(Vec<Draft>),
}

impl Entry {
    pub(crate) fn drafts(&self) -> &[Draft] {
        match self {
            Entry::One(draft) => std::slice::from_ref(draft),
            Entry::Batch(drafts) => drafts,
        }
    }
}

/// Where an entry lies; not yet written: wait for a mark to pass `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Log offset of the first record.
    pub log_offset: u64,
    /// Log offset behind the last record.
    pub end: u64,
    /// Queue offset of the first record.
    pub queue_offset: i64,
    /// Store time of all of its records.
    pub stored_at: i64,
    /// How many messages.
    pub count: u32,
    /// Log offset of each record, which the ids of a batch's messages are made of; a single message's is `log_offset`.
    pub log_offsets: SmallVec<[u64; 1]>,
}

/// What views need of a message, besides its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Derived {
    pub(crate) tags: Tags,
    pub(crate) keys: KeyHashes,
    /// Whether the message takes a place in its queue; prepared and rolled-back transaction messages take none.
    pub(crate) queued: bool,
}

/// What a queue entry says in its tags code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    /// Hash of the tag, 0 for none.
    Hash(i64),
    /// The time at which a message of this delay level (from 1) is due.
    DueAtLevel(usize),
}

impl Tags {
    /// Returns the code (Java: `CommitLog.checkMessageAndReturnSize`, `DefaultMessageStore.computeDeliverTimestamp`).
    pub(crate) fn code(self, stored_at: i64, delays: &[i64]) -> i64 {
        match self {
            Tags::Hash(code) => code,
            Tags::DueAtLevel(level) => {
                let delay = delays.get(level.min(delays.len()).wrapping_sub(1));
                stored_at.saturating_add(delay.copied().unwrap_or(1000))
            }
        }
    }
}

impl Derived {
    pub(crate) fn of(topic: &str, sys_flag: i32, property_text: &str) -> Derived {
        let (mut tag, mut keys, mut unique, mut level) = (None, None, None, None);
        for (name, value) in properties::iter(property_text) {
            match name {
                properties::name::TAGS => tag = Some(value),
                properties::name::KEYS => keys = Some(value),
                properties::name::UNIQ_KEY => unique = Some(value),
                properties::name::DELAY => level = Some(value),
                _ => {}
            }
        }
        let level = level.and_then(|level| level.parse().ok()).filter(|level| *level > 0);
        let transaction = sys_flag & names::system_flag::TRANSACTION_MASK;
        let rolled_back = transaction == names::system_flag::TRANSACTION_ROLLBACK;
        Derived {
            tags: match level {
                Some(level) if topic == names::SCHEDULE_TOPIC => Tags::DueAtLevel(level),
                _ => Tags::Hash(tag.map_or(0, hash::tags_code)),
            },
            keys: if rolled_back { KeyHashes::new() } else { key_hashes(topic, unique, keys, tag) },
            queued: !rolled_back && transaction != names::system_flag::TRANSACTION_PREPARED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn light_queues_are_those_that_have_an_offset() {
        let text = |queues: &str, offsets: &str| {
            format!(
                "INNER_MULTI_DISPATCH\u{1}{queues}\u{2}INNER_MULTI_QUEUE_OFFSET\u{1}{offsets}\u{2}"
            )
        };
        let both = text("%LMQ%a,%LMQ%b", "3,4");
        let expected = [("%LMQ%a".to_owned(), 3), ("%LMQ%b".to_owned(), 4)];
        assert_eq!(lights_of("T", &both), expected);
        assert_eq!(lights_of("T", &text("%LMQ%a,b,%LMQ%c", "3,,x")), expected[..1]);
        for other in [text("%LMQ%a,%LMQ%b", "3"), "INNER_MULTI_DISPATCH\u{1}%LMQ%a\u{2}".into()] {
            assert_eq!(lights_of("T", &other), []);
        }
        for topic in ["%RETRY%g", "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC"] {
            assert_eq!(lights_of(topic, &both), []);
        }
    }

    const TEXT: &str = "TAGS\u{1}a\u{2}KEYS\u{1}k1 k2\u{2}UNIQ_KEY\u{1}u\u{2}DELAY\u{1}2\u{2}";

    #[test]
    fn a_delayed_message_carries_the_time_it_is_due() {
        let derived = Derived::of("SCHEDULE_TOPIC_XXXX", 0, TEXT);
        assert_eq!(derived.tags.code(1_000, &[1_000, 5_000]), 6_000);
        assert_eq!(derived.tags.code(1_000, &[3_000]), 4_000);
        assert_eq!(derived.tags.code(1_000, &[]), 2_000);
    }

    #[test]
    fn a_rolled_back_message_is_in_no_view_and_a_half_message_in_the_index_only() {
        let rolled_back = Derived::of("T", names::system_flag::TRANSACTION_ROLLBACK, TEXT);
        assert!(!rolled_back.queued && rolled_back.keys.is_empty());
        let half = Derived::of("T", names::system_flag::TRANSACTION_PREPARED, TEXT);
        assert!(!half.queued && half.keys.len() == 4);
    }
}
