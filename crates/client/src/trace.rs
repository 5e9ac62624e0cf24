//! Message traces: what this client has sent and consumed, written to a topic in the background, as the original's
//! clients do (Java: `AsyncTraceDispatcher`, `SendMessageTraceHookImpl`, `ConsumeMessageTraceHookImpl`).
//!
//! Nobody waits for a trace, and nothing fails because of one: a record that finds no room is lost, and counted.

use std::{
    collections::HashSet,
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use wire::{
    frame::Frame,
    properties::{self, name},
    trace::{MessageKind, Trace, Traced},
};

use crate::{
    Message, ReceivedMessage,
    client::Core,
    error::SendError,
    namespace::Namespace,
    producer::{ProducerBuilder, SendReceipt, SendStatus},
};

/// Records that wait at most (Java: `traceContextQueue`).
const RECORDS_MAX: usize = 2048;
/// How long a record waits for others (Java: `flushTraceInterval`).
const PERIOD: Duration = Duration::from_secs(5);
/// Bytes of records in one message (Java: `maxMsgSize`), and of its keys, which are a property.
const TEXT_BYTES: usize = 120_000;
const KEY_BYTES: usize = 16 << 10;
/// The region of a broker that says none.
const REGION: &str = "DefaultRegion";

/// Takes records for the trace topic.
pub(crate) struct Tracer {
    topic: String,
    items: mpsc::Sender<Item>,
    lost: AtomicU64,
}

/// What waits for the trace topic.
pub(crate) enum Item {
    Record { text: String, keys: String },
    Flush(oneshot::Sender<()>),
}

/// What a send is told of before it has an answer.
pub(crate) struct Sending<'a> {
    pub(crate) at: i64,
    pub(crate) group: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) properties: &'a str,
    pub(crate) body_bytes: usize,
    pub(crate) address: &'a str,
}

/// Messages that a handler has.
pub(crate) struct Handling {
    at: i64,
    request_id: String,
    messages: Vec<ReceivedMessage>,
}

impl Tracer {
    /// Makes a tracer, and what [`write`] reads.
    pub(crate) fn new(topic: &str) -> (Tracer, mpsc::Receiver<Item>) {
        let (items, waiting) = mpsc::channel(RECORDS_MAX);
        (Tracer { topic: topic.to_owned(), items, lost: AtomicU64::new(0) }, waiting)
    }

    /// Notes a send that was answered.
    pub(crate) fn sent(&self, sending: &Sending<'_>, now: i64, answer: &Frame, got: &SendReceipt) {
        if sending.topic == self.topic || answer.ext.get(name::TRACE_ON) == Some("false") {
            return;
        }
        let property = |name| properties::get(sending.properties, name);
        self.note(&Trace::Pub {
            at: sending.at,
            region: answer.ext.get(name::MSG_REGION).filter(|it| !it.is_empty()).unwrap_or(REGION),
            group: sending.group,
            message: Traced {
                topic: sending.topic,
                unique_key: &got.unique_key,
                tags: property(name::TAGS),
                keys: property(name::KEYS),
            },
            store_host: sending.address,
            body_bytes: sending.body_bytes,
            cost: now - sending.at,
            kind: MessageKind::of(sending.properties),
            offset_id: &got.offset_id,
            is_success: got.status == SendStatus::SendOk,
        });
    }

    /// Notes that a handler gets messages.
    pub(crate) fn handling(
        &self,
        core: &Core,
        group: &str,
        messages: &[ReceivedMessage],
    ) -> Handling {
        let is_on = |message: &&ReceivedMessage| message.property(name::TRACE_ON) != Some("false");
        let handling = Handling {
            at: core.clock.now(),
            request_id: core.unique.next(),
            messages: messages.iter().filter(is_on).cloned().collect(),
        };
        for message in &handling.messages {
            self.note(&Trace::SubBefore {
                at: handling.at,
                region: message.property(name::MSG_REGION).unwrap_or_default(),
                group,
                request_id: &handling.request_id,
                message: traced(message),
                retry_times: i32::try_from(message.reconsume_times()).unwrap_or(i32::MAX),
            });
        }
        handling
    }

    /// Notes how a handler has ended with them.
    pub(crate) fn handled(&self, core: &Core, group: &str, handling: &Handling, code: i32) {
        let now = core.clock.now();
        let cost = (now - handling.at) / handling.messages.len().max(1) as i64;
        for message in &handling.messages {
            self.note(&Trace::SubAfter {
                request_id: &handling.request_id,
                message: traced(message),
                cost,
                is_success: code == 0,
                code,
                at: now,
                group,
            });
        }
    }

    /// Waits until what was noted so far is sent, or cannot be.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.items.send(Item::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }

    fn note(&self, trace: &Trace<'_>) {
        let mut text = String::with_capacity(256);
        trace.encode(&mut text);
        let keys = trace.index_keys();
        if self.items.try_send(Item::Record { text, keys }).is_err() {
            let lost = self.lost.fetch_add(1, Relaxed) + 1;
            if lost.is_power_of_two() {
                warn!(lost, "message traces are lost: they come faster than they can be sent");
            }
        }
    }
}

fn traced(message: &ReceivedMessage) -> Traced<'_> {
    Traced {
        topic: message.topic(),
        unique_key: message.unique_key().unwrap_or_default(),
        tags: message.tag(),
        keys: message.property(name::KEYS),
    }
}

/// Sends records to the trace topic, until nobody can note any more.
pub(crate) async fn write(core: Weak<Core>, topic: String, mut items: mpsc::Receiver<Item>) {
    let group = format!("_INNER_TRACE_PRODUCER-{:08x}", fastrand::u32(..));
    let mut batch = Batch::default();
    while let Some(item) = items.recv().await {
        let Some(clock) = core.upgrade().map(|core| core.clock.clone()) else { return };
        let due = clock.monotonic() + PERIOD;
        batch.take(item);
        while !batch.is_due() {
            tokio::select! {
                item = items.recv() => match item {
                    Some(item) => batch.take(item),
                    None => break,
                },
                () = clock.sleep_until(due) => break,
            }
        }
        let Some(core) = core.upgrade() else { return };
        let Batch { text, keys, flushed, .. } = std::mem::take(&mut batch);
        if !text.is_empty() {
            let message = keys.split(' ').fold(Message::new(&*topic, text), Message::key);
            let sent: Result<_, SendError> = async {
                let producer =
                    ProducerBuilder::new(core.clone(), Namespace::default(), &group).build()?;
                producer.send(message).await
            }
            .await;
            if let Err(error) = sent {
                warn!(topic, %error, "message traces cannot be sent");
            }
            core.leave(Some(&group), None).await;
        }
        for done in flushed {
            let _ = done.send(()); // who waits may have gone
        }
    }
}

/// Records that go in one message.
#[derive(Default)]
struct Batch {
    text: String,
    keys: String,
    known: HashSet<String>,
    flushed: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn take(&mut self, item: Item) {
        match item {
            Item::Record { text, keys } => {
                self.text.push_str(&text);
                // None twice: the index would name the message as often.
                for key in keys.split(' ').filter(|it| self.known.insert((*it).to_owned())) {
                    if !self.keys.is_empty() {
                        self.keys.push(' ');
                    }
                    self.keys.push_str(key);
                }
            }
            Item::Flush(done) => self.flushed.push(done),
        }
    }

    fn is_due(&self) -> bool {
        !self.flushed.is_empty() || self.text.len() >= TEXT_BYTES || self.keys.len() >= KEY_BYTES
    }
}
