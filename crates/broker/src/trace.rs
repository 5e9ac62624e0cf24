//! Message traces that the broker writes itself (`serverTrace`), for clients that write none.
//!
//! Clients are told to keep quiet (`TRACE_ON=false`). What they would have said of a message that is stored, handed to a
//! consumer, and passed by the group's commit or sent back, is noted here, and housekeeping puts it into the trace topic,
//! as records that the original's tools read. (Java has none of this: its brokers offer `SendMessageHook` to nobody.)
//!
//! Nobody waits for a trace and nothing fails because of one: what finds no room is lost, and counted. What is stored in
//! the broker's own topics, and what its own groups read, leaves no trace; so traces do not breed.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use bytestring::ByteString;
use env::Millis;
use smallvec::SmallVec;
use store::{Draft, Entry};
use wire::{
    id::OffsetId,
    names,
    properties::{self, name},
    record::{self, CheckCrc, Message, Record},
    trace::{MessageKind, Trace, Traced},
};

use crate::{
    Broker, Options,
    api::{Publish, Pull, Receipt},
};

/// Bytes of records in one message of the trace topic, and of its keys, which are a property (as the client's).
const TEXT_BYTES: usize = 120_000;
const KEY_BYTES: usize = 16 << 10;
/// Messages that one piece of housekeeping writes.
const MESSAGES_MAX: usize = 64;
/// Records above which they are written before their second is over.
const PRESSING: usize = 1_000;
/// About what the tables take for an entry beside its texts.
const ENTRY_BYTES: usize = 128;
/// How long an end of consumption is waited for: as long as the original's client lets it last (Java: `consumeTimeout`).
const CONSUME_MS: Millis = 15 * 60_000;
/// How consumption ended (Java: the ordinals of `ConsumeReturnType`).
const SUCCESS: i32 = 0;
const FAILED: i32 = 4;

/// Takes note of what happens to messages.
pub(crate) struct Tracer {
    topic: String,
    region: String,
    store_host: SocketAddr,
    /// Bytes of the records that wait, and again of the messages that are being consumed.
    half_bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Records that wait to be written.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Messages that a group has been handed, by queue and offset, until it has passed them.
    handed: HashMap<Place, BTreeMap<i64, Handed>>,
    handed_bytes: usize,
    lost: u64,
}

/// Group, topic and queue.
type Place = (ByteString, ByteString, i32);

struct Waiting {
    text: String,
    keys: String,
}

/// A message that is being consumed.
struct Handed {
    at: Millis,
    request_id: ByteString,
    unique_key: String,
    keys: Option<String>,
}

/// Records that go in one message.
#[derive(Default)]
struct Bundle {
    text: String,
    keys: String,
    count: u64,
}

/// What is to be known of a send once it is stored.
pub(crate) struct Sent {
    group: ByteString,
    topic: ByteString,
    born_at: Millis,
    messages: SmallVec<[SentMessage; 1]>,
}

struct SentMessage {
    unique_key: String,
    tags: Option<String>,
    keys: Option<String>,
    body_bytes: usize,
    kind: MessageKind,
}

impl Sent {
    /// Begins the note of a send, without its messages.
    pub(crate) fn new(item: &Publish) -> Sent {
        Sent {
            group: item.group.clone(),
            topic: item.topic.clone(),
            born_at: item.born_at,
            messages: SmallVec::new(),
        }
    }

    /// Adds a message, in the order in which they are stored.
    pub(crate) fn add(&mut self, unique_key: &str, text: &str, body_bytes: usize) {
        let property = |name| properties::get(text, name).map(str::to_owned);
        self.messages.push(SentMessage {
            unique_key: unique_key.to_owned(),
            tags: property(name::TAGS),
            keys: property(name::KEYS),
            body_bytes,
            kind: MessageKind::of(text),
        });
    }
}

impl Tracer {
    /// Returns a tracer if there is to be one.
    pub(crate) fn new(options: &Options) -> Option<Tracer> {
        options.server_trace.then(|| Tracer {
            topic: options.trace_topic_name.clone(),
            region: options.region_id.clone(),
            store_host: options.store_host,
            half_bytes_max: options.server_trace_bytes_max / 2,
            state: Mutex::default(),
        })
    }

    /// Notes messages that were stored.
    pub(crate) fn sent(&self, sent: &Sent, receipt: &Receipt, now: Millis) {
        let store_host = self.store_host.to_string();
        let mut state = self.state();
        for (message, log_offset) in sent.messages.iter().zip(&receipt.log_offsets) {
            let offset_id = OffsetId { host: receipt.store_host, log_offset: *log_offset };
            let trace = Trace::Pub {
                at: sent.born_at,
                region: &self.region,
                group: &sent.group,
                message: Traced {
                    topic: &sent.topic,
                    unique_key: &message.unique_key,
                    tags: message.tags.as_deref(),
                    keys: message.keys.as_deref(),
                },
                store_host: &store_host,
                body_bytes: message.body_bytes,
                // by two clocks, unless the producer is on this machine
                cost: (now - sent.born_at).clamp(0, i64::from(i32::MAX)),
                kind: message.kind,
                offset_id: &offset_id.to_string(),
                is_success: true,
            };
            state.note(&trace, self.half_bytes_max);
        }
    }

    /// Notes messages that a group is handed, and remembers them where their end will be known.
    fn handed(
        &self,
        pull: &Pull,
        found: &[Bytes],
        request_id: &str,
        is_awaited: bool,
        now: Millis,
    ) {
        let place = (pull.group.clone(), pull.topic.clone(), pull.queue_id);
        let request_id = ByteString::from(request_id);
        let mut state = self.state();
        let records = found.iter().flat_map(|bytes| record::iter(bytes, CheckCrc::No));
        for record in records.filter_map(Result::ok) {
            let property = |name| properties::get(&record.properties, name);
            if property(name::TRACE_ON) == Some("true") {
                continue; // stored before traces were the broker's; its consumer traces it
            }
            let message = Traced {
                topic: record.topic,
                unique_key: property(name::UNIQ_KEY).unwrap_or_default(),
                tags: property(name::TAGS),
                keys: property(name::KEYS),
            };
            let trace = Trace::SubBefore {
                at: now,
                region: property(name::MSG_REGION).unwrap_or(&self.region),
                group: &pull.group,
                request_id: &request_id,
                message,
                retry_times: record.reconsume_times,
            };
            state.note(&trace, self.half_bytes_max);
            if is_awaited {
                let handed = Handed {
                    at: now,
                    request_id: request_id.clone(),
                    unique_key: message.unique_key.to_owned(),
                    keys: message.keys.map(str::to_owned),
                };
                let offset = record.numbers.queue_offset;
                state.remember(&place, offset, handed, self.half_bytes_max);
            }
        }
    }

    /// Notes that a group has consumed everything below an offset.
    pub(crate) fn passed(&self, group: &str, topic: &str, queue_id: i32, offset: i64, now: Millis) {
        let place = (group.into(), topic.into(), queue_id);
        let mut state = self.state();
        let Some(queue) = state.handed.get_mut(&place) else { return };
        let rest = queue.split_off(&offset);
        let passed = std::mem::replace(queue, rest);
        if queue.is_empty() {
            state.handed.remove(&place);
        }
        for handed in passed.values() {
            state.note_end(&place, handed, SUCCESS, now, self.half_bytes_max);
        }
    }

    /// Notes that a group could not consume a message.
    pub(crate) fn sent_back(&self, group: &str, record: &Record<'_>, now: Millis) {
        let place = (group.into(), record.topic.into(), record.queue_id);
        let mut state = self.state();
        let Some(queue) = state.handed.get_mut(&place) else { return };
        let Some(handed) = queue.remove(&record.numbers.queue_offset) else { return };
        if queue.is_empty() {
            state.handed.remove(&place);
        }
        state.note_end(&place, &handed, FAILED, now, self.half_bytes_max);
    }

    /// Forgets messages whose end does not come.
    fn forget_old(&self, now: Millis) {
        let State { handed, handed_bytes, .. } = &mut *self.state();
        handed.retain(|_, queue| {
            while queue.first_key_value().is_some_and(|(_, it)| it.at + CONSUME_MS < now) {
                let (_, old) = queue.pop_first().expect("it was just looked at");
                *handed_bytes -= old.bytes();
            }
            !queue.is_empty()
        });
    }

    /// Says whether so much waits that it is to be written now.
    pub(crate) fn is_pressing(&self) -> bool {
        self.state().waiting.len() > PRESSING
    }

    /// Takes records that fit into one message.
    fn take(&self, text_max: usize) -> Option<Bundle> {
        let mut state = self.state();
        let mut bundle = Bundle::default();
        let mut known = HashSet::new();
        while let Some(next) = state.waiting.front() {
            let is_full = bundle.text.len() + next.text.len() > text_max
                || bundle.keys.len() + next.keys.len() >= KEY_BYTES;
            if bundle.count > 0 && is_full {
                break;
            }
            let next = state.waiting.pop_front().expect("it was just looked at");
            state.waiting_bytes -= next.bytes();
            bundle.text.push_str(&next.text);
            // None twice: the index would name the message as often.
            for key in next.keys.split(' ').filter(|it| known.insert((*it).to_owned())) {
                if !bundle.keys.is_empty() {
                    bundle.keys.push(' ');
                }
                bundle.keys.push_str(key);
            }
            bundle.count += 1;
        }
        (bundle.count > 0).then_some(bundle)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, trace: &Trace<'_>, bytes_max: usize) {
        let mut text = String::with_capacity(256);
        trace.encode(&mut text);
        let waiting = Waiting { text, keys: trace.index_keys() };
        if waiting.keys.len() >= KEY_BYTES || self.waiting_bytes + waiting.bytes() > bytes_max {
            return self.lose(1);
        }
        self.waiting_bytes += waiting.bytes();
        self.waiting.push_back(waiting);
    }

    /// Notes how the consumption of a message has ended, which is remembered no longer.
    fn note_end(
        &mut self,
        place: &Place,
        handed: &Handed,
        code: i32,
        now: Millis,
        bytes_max: usize,
    ) {
        self.handed_bytes -= handed.bytes();
        let (group, topic, _) = place;
        let trace = Trace::SubAfter {
            request_id: &handed.request_id,
            message: Traced {
                topic,
                unique_key: &handed.unique_key,
                tags: None,
                keys: handed.keys.as_deref(),
            },
            cost: (now - handed.at).clamp(0, i64::from(i32::MAX)),
            is_success: code == SUCCESS,
            code,
            at: now,
            group,
        };
        self.note(&trace, bytes_max);
    }

    /// Remembers a message, and forgets the oldest of its queue where all are too many.
    fn remember(&mut self, place: &Place, offset: i64, handed: Handed, bytes_max: usize) {
        let queue = self.handed.entry(place.clone()).or_default();
        self.handed_bytes += handed.bytes();
        if let Some(before) = queue.insert(offset, handed) {
            self.handed_bytes -= before.bytes();
        }
        let mut lost = 0;
        while self.handed_bytes > bytes_max
            && let Some((_, oldest)) = queue.pop_first()
        {
            self.handed_bytes -= oldest.bytes();
            lost += 1;
        }
        if queue.is_empty() {
            self.handed.remove(place);
        }
        self.lose(lost);
    }

    fn lose(&mut self, count: u64) {
        let before = self.lost;
        self.lost += count;
        if before.checked_ilog2() != self.lost.checked_ilog2() {
            tracing::warn!(
                lost = self.lost,
                "message traces are lost; raise serverTraceBytesMax, or see whether the log takes messages"
            );
        }
    }
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.text.len() + self.keys.len() + ENTRY_BYTES
    }
}

impl Handed {
    fn bytes(&self) -> usize {
        self.unique_key.len() + self.keys.as_ref().map_or(0, String::len) + ENTRY_BYTES
    }
}

impl Broker {
    /// Begins the note of a send, if it is to be traced.
    pub(crate) fn trace_send(&self, item: &Publish) -> Option<Box<Sent>> {
        self.inner.tracer.as_ref()?;
        let is_traced = !item.topic.starts_with(names::RETRY_PREFIX)
            && !self.inner.topics.is_system(&item.topic);
        is_traced.then(|| Box::new(Sent::new(item)))
    }

    /// Notes what a pull has found.
    pub(crate) fn trace_pull(&self, pull: &Pull, found: &[Bytes]) {
        let inner = &*self.inner;
        let Some(tracer) = &inner.tracer else { return };
        if names::is_system_group(&pull.group) || inner.topics.is_system(&pull.topic) {
            return;
        }
        // Nobody tells the broker what a group without common progress has consumed; a light queue numbers otherwise.
        let is_awaited = !names::is_light(&pull.topic)
            && !inner.clients.is_broadcasting(&pull.group, &pull.topic);
        let request_id = inner.unique_keys.next(&inner.env.clock);
        tracer.handed(pull, found, &request_id, is_awaited, inner.env.clock.now());
    }

    /// Notes that a group has consumed everything below an offset.
    pub(crate) fn trace_commit(&self, group: &str, topic: &str, queue_id: i32, offset: i64) {
        if let Some(tracer) = &self.inner.tracer {
            tracer.passed(group, topic, queue_id, offset, self.inner.env.clock.now());
        }
    }

    /// Writes records that wait, a bounded number; says whether there may be more.
    pub(crate) fn write_traces(&self) -> bool {
        let inner = &*self.inner;
        let Some(tracer) = &inner.tracer else { return false };
        let now = inner.env.clock.now();
        tracer.forget_old(now);
        let options = inner.options.read();
        let topic = inner.topics.find(&tracer.topic).expect("a system topic is not deleted");
        for _ in 0..MESSAGES_MAX {
            let Some(bundle) = tracer.take(TEXT_BYTES.min(options.max_message_size)) else {
                return false;
            };
            let unique_key = inner.unique_keys.next(&inner.env.clock);
            let pairs = [(name::UNIQ_KEY, unique_key.as_str()), (name::KEYS, &bundle.keys)];
            let queue_id = fastrand::i32(0..topic.config.write_queue_nums.max(1));
            let message = Message {
                topic: topic.name.clone(),
                queue_id,
                flag: 0,
                sys_flag: 0,
                born_at: now,
                born_host: options.store_host,
                store_host: options.store_host,
                reconsume_times: 0,
                prepared_offset: 0,
                body: bundle.text.into(),
                properties: (properties::from_pairs(pairs) + &inner.own_properties).into(),
            };
            let draft = Draft::new(message, topic.queue(&inner.store, queue_id));
            if !matches!(inner.store.append(&[Entry::One(draft)]).pop(), Some(Ok(_))) {
                tracer.state().lose(bundle.count);
            }
            inner.store.drive();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(at: Millis) -> Handed {
        Handed { at, request_id: "r".into(), unique_key: "u".into(), keys: None }
    }

    fn place(group: &str) -> Place {
        (group.into(), "t".into(), 0)
    }

    #[test]
    fn a_group_that_never_commits_takes_the_room_of_no_other() {
        let mut state = State::default();
        let max = 4 * handed(0).bytes();
        state.remember(&place("good"), 0, handed(0), max);
        for offset in 0..100 {
            state.remember(&place("bad"), offset, handed(0), max);
        }
        assert_eq!((state.handed_bytes, state.lost), (max, 97));
        assert_eq!(state.handed[&place("good")].len(), 1);
        assert_eq!(state.handed[&place("bad")].keys().min(), Some(&97));
    }

    #[test]
    fn what_finds_no_room_is_lost_and_what_is_written_makes_room() {
        let options =
            Options { server_trace: true, server_trace_bytes_max: 2_000, ..Options::default() };
        let tracer = Tracer::new(&options).expect("it is switched on");
        for offset in 0..100 {
            let place = place("g");
            tracer.state().remember(&place, offset, handed(0), 1_000);
            tracer.passed("g", "t", 0, offset + 1, 5);
        }
        assert!(tracer.state().lost > 90);
        let bundle = tracer.take(1_000_000).expect("some found room");
        assert_eq!(bundle.text.matches("SubAfter").count() as u64, bundle.count);
        assert_eq!(bundle.count + tracer.state().lost, 100);
        assert_eq!(tracer.state().waiting_bytes, 0);
        assert_eq!(tracer.state().handed_bytes, 0);
        assert!(tracer.take(1_000_000).is_none());
    }

    #[test]
    fn an_end_that_does_not_come_is_forgotten() {
        let tracer = Tracer::new(&Options { server_trace: true, ..Options::default() });
        let tracer = tracer.expect("it is switched on");
        tracer.state().remember(&place("g"), 7, handed(1_000), 1_000);
        tracer.forget_old(1_000 + CONSUME_MS);
        assert_eq!(tracer.state().handed.len(), 1);
        tracer.forget_old(1_001 + CONSUME_MS);
        assert!(tracer.state().handed.is_empty());
        assert_eq!(tracer.state().handed_bytes, 0);
    }
}
