//! Delay levels: a message that is due later waits in `SCHEDULE_TOPIC_XXXX`, in the queue of its level.
//!
//! The entries of these queues carry the time when their message is due instead of a tag hash, and within a level all
//! wait equally long, so the first entry is always the next one due. Delivery follows each queue from its position and
//! appends what is due to the real topic; positions are kept in `delayOffset.json`. (Java: `ScheduleMessageService`,
//! `HookUtils.transformDelayLevelMessage`)
//!
//! Invariant: a position is persisted only when the deliveries before it are on the device, so a crash, of the machine
//! too, may deliver a message twice and never loses one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytestring::ByteString;
use env::Millis;
use serde::{Deserialize, Serialize};
use store::{Draft, Entry, Fault, Queue, QueueEntry, Refused, Store};
use wire::{
    body::DataVersion,
    fastjson::Unknown,
    names,
    properties::{self, name},
    record::{CheckCrc, Message, Record},
};

use crate::{Broker, Options, api::PublishError, saved::Saved, topics::Topic};

/// Messages of one level that one append delivers.
const DELIVERED_MAX: usize = 64;

/// `delayOffset.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DelayOffsetTable {
    /// Version of the table.
    pub data_version: DataVersion,
    /// The next queue offset to deliver, by level from 1 on.
    pub offset_table: BTreeMap<i32, i64>,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

/// Runs of [`DELIVERED_MAX`] that one call delivers of a level.
const RUNS_MAX: usize = 16;

/// The levels and how far each is delivered.
pub(crate) struct DelayLevels {
    /// How many there are, known without the lock.
    count: i32,
    levels: Mutex<Vec<Level>>,
    captured: Mutex<Option<Captured>>,
    table: Saved<DelayOffsetTable>,
}

/// Positions of one moment that wait for the device.
struct Captured {
    positions: BTreeMap<i32, i64>,
    /// Where the log must be synced to: behind all deliveries before the positions.
    needs: u64,
}

struct Level {
    queue: Arc<Queue>,
    delay: i64,
    /// The next entry to deliver.
    position: i64,
    /// Where the log ended behind the last delivery.
    end: u64,
    /// What was last captured to be persisted.
    captured: i64,
    /// When the entry at `position` is due, once known.
    next_due: Option<Millis>,
}

impl DelayLevels {
    pub(crate) fn new(
        table: Saved<DelayOffsetTable>,
        options: &Options,
        store: &Store,
    ) -> DelayLevels {
        let stored = table.read();
        let levels = options.delay_levels.iter().zip(0i32..).map(|(delay, id)| {
            let queue = store.queue(names::SCHEDULE_TOPIC, id);
            let position = stored.offset_table.get(&(id + 1)).copied().unwrap_or(0);
            // Outside of the queue after a loss or a deletion: begin with what there is.
            let position = position.clamp(queue.min_offset(), queue.max_offset());
            Level { queue, delay: *delay, position, end: 0, captured: position, next_due: None }
        });
        let levels: Vec<Level> = levels.collect();
        DelayLevels {
            count: levels.len() as i32,
            levels: Mutex::new(levels),
            captured: Mutex::default(),
            table,
        }
    }

    /// Returns `offset,maxOffset` of each level, for the runtime info.
    pub(crate) fn progress(&self) -> Vec<(i64, i64)> {
        self.levels().iter().map(|level| (level.position, level.queue.max_offset())).collect()
    }

    /// Says whether a level may have a message that is due.
    pub(crate) fn is_any_due(&self, now: Millis) -> bool {
        self.levels().iter().any(|level| {
            level.position < level.queue.max_offset() && level.next_due.is_none_or(|due| due <= now)
        })
    }

    /// Takes note of the positions of now, unless earlier ones still wait for the device.
    pub(crate) fn capture(&self) {
        let mut captured = self.captured();
        if captured.is_some() {
            return;
        }
        let (mut positions, mut needs) = (BTreeMap::new(), 0);
        for (level, number) in self.levels().iter_mut().zip(1..) {
            if level.captured != level.position {
                level.captured = level.position;
                needs = needs.max(level.end);
                positions.insert(number, level.position);
            }
        }
        *captured = (!positions.is_empty()).then_some(Captured { positions, needs });
    }

    /// Says whether positions wait that may be persisted once the log is synced up to `synced`.
    pub(crate) fn is_save_due(&self, synced: u64) -> bool {
        self.captured().as_ref().is_some_and(|captured| captured.needs <= synced)
    }

    /// Persists what was captured, if the log is synced behind it.
    pub(crate) fn save(&self, synced: u64, now: Millis) {
        let due = self.captured().take_if(|captured| captured.needs <= synced);
        let Some(Captured { mut positions, .. }) = due else { return };
        self.table.update(|table| {
            table.offset_table.append(&mut positions);
            table.data_version.advance(now);
        });
        self.table.flush();
    }

    /// Persists everything that the device has: what waited, then what is delivered now.
    pub(crate) fn close(&self, synced: u64, now: Millis) {
        self.save(synced, now);
        self.capture();
        self.save(synced, now);
    }

    /// Writes the table although it has not changed: another broker may have written its own.
    pub(crate) fn write_again(&self) {
        self.table.update(|_| ());
        self.table.flush();
    }

    pub(crate) fn table(&self) -> Arc<DelayOffsetTable> {
        self.table.read()
    }

    fn levels(&self) -> MutexGuard<'_, Vec<Level>> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn captured(&self) -> MutexGuard<'_, Option<Captured>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Turns a message into one that waits in its level's queue; `text` is its properties, and gets the way back.
    pub(crate) fn postpone(
        &self,
        topic: &str,
        queue_id: i32,
        level: i32,
        text: &mut String,
    ) -> Result<(Arc<Topic>, i32), PublishError> {
        let levels = self.inner.delay_levels.count;
        let Some(schedule) = self.inner.topics.find(names::SCHEDULE_TOPIC).filter(|_| levels > 0)
        else {
            return Err(PublishError::Unsupported {
                feature: "delayed messages (messageDelayLevel is empty)",
                property: name::DELAY,
            });
        };
        let level = level.clamp(1, levels);
        properties::append(text, name::DELAY, &level.to_string());
        properties::append(text, name::REAL_TOPIC, topic);
        properties::append(text, name::REAL_QID, &queue_id.to_string());
        Ok((schedule, level - 1))
    }

    /// Delivers what is due, a bounded number of messages; says whether there may be more. It may wait for the disk; a
    /// level that fails tries again at the next call.
    pub(crate) fn deliver_due(&self) -> bool {
        let mut levels = self.inner.delay_levels.levels();
        let mut is_more = false;
        for (level, number) in levels.iter_mut().zip(1..) {
            for run in 1..=RUNS_MAX {
                match self.deliver_level(level) {
                    Ok(true) => is_more |= run == RUNS_MAX,
                    Ok(false) => break,
                    Err(fault) => {
                        tracing::warn!(level = number, error = %fault, "delayed messages not delivered");
                        break;
                    }
                }
            }
        }
        is_more
    }

    /// Delivers some messages of a level; says whether there may be more that are due.
    fn deliver_level(&self, level: &mut Level) -> Result<bool, Fault> {
        let inner = &*self.inner;
        let now = inner.env.clock.now();
        // What retention has taken was not due in time to be saved.
        level.position = level.position.max(level.queue.min_offset());
        let mut entries = Vec::with_capacity(DELIVERED_MAX);
        level.queue.read(level.position, DELIVERED_MAX, &mut entries)?;
        let due = entries.iter().take_while(|entry| {
            let due = due_at(entry, level.delay, now);
            level.next_due = Some(due);
            due <= now
        });
        let due: Vec<QueueEntry> = due.copied().collect();
        if due.is_empty() {
            return Ok(false);
        }
        level.next_due = None;
        let store_host = inner.options.read().store_host;
        let from = level.position;
        for entry in &due {
            let draft = match inner.store.read_blocking(entry.log_offset, entry.len) {
                Ok(bytes) => self.restore(&bytes, store_host),
                Err(Fault::OutOfRange(_)) => None,
                Err(fault) => return Err(fault),
            };
            // One at a time: what follows a refused one must not be delivered before it is tried again.
            let outcome = draft.and_then(|draft| inner.store.append(&[Entry::One(draft)]).pop());
            match outcome {
                Some(Ok(stored)) => level.end = stored.end,
                Some(Err(Refused::TooLarge)) => {
                    tracing::warn!(
                        log_offset = entry.log_offset,
                        "a delayed message is above maxMessageSize now; it stays undelivered in the log"
                    );
                }
                Some(Err(_)) => break,
                None => {}
            }
            level.position += 1;
        }
        inner.store.drive();
        Ok(level.position == from + due.len() as i64)
    }

    /// Makes the message that is delivered of the one that waited; none if it does not say where it belongs.
    fn restore(&self, bytes: &[u8], store_host: std::net::SocketAddr) -> Option<Draft> {
        let record = Record::decode(bytes, CheckCrc::No).ok()?;
        let topic = properties::get(&record.properties, name::REAL_TOPIC)?;
        let queue_id = properties::get(&record.properties, name::REAL_QID)?.parse().ok()?;
        let message = Message {
            topic: ByteString::from(topic),
            queue_id,
            store_host,
            prepared_offset: 0,
            // its level stays in it, as in 5.5.0
            properties: record.properties.as_ref().into(),
            ..record.to_message()
        };
        let queue = match self.inner.topics.find(topic) {
            Some(topic) => topic.queue(&self.inner.store, queue_id),
            None => self.inner.store.queue(topic, queue_id),
        };
        Some(self.lighten_due(Draft::new(message, queue)))
    }
}

/// Returns when an entry is due: never further away than its level's delay, whatever the clock did since.
fn due_at(entry: &QueueEntry, delay: i64, now: Millis) -> Millis {
    if entry.tags_code > now.saturating_add(delay) { now } else { entry.tags_code }
}
