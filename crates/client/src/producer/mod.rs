//! The producer: sends, and everything a send can be.
//!
//! Each message is tried at one broker, then at others, until one has stored it, all attempts are used or the time is
//! over. What is under way is bounded in bytes, counted until its outcome is known: whoever comes when the bound is
//! reached waits. Java: `DefaultMQProducerImpl`.

mod batch;
mod choice;
mod request;
mod transaction;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument as _, Span, debug};
use wire::{
    body::MessageQueue,
    code::{RequestCode, ResponseCode},
    frame::{Codec, Frame},
    hash::java_string_hash,
    header::send::{RecallMessage, SendMessage, SendMessageResponse},
    names::AUTO_CREATE_TOPIC,
    recall::RecallHandle,
};

use crate::{
    Compression,
    client::Core,
    compression,
    error::{InvalidField, RequestError, RouteError, SendError},
    lines::{refused, unanswered},
    message::{Message, check_group, check_topic},
    namespace::{INSTANCE_ID, Namespace},
    route::{CREATED_QUEUES, Route},
    span,
    trace::Sending,
};

use choice::Faults;
use transaction::Checker;

pub use transaction::{Resolution, Transaction};

/// Builds a [`Producer`]. Made by [`Client::producer`](crate::Client::producer).
pub struct ProducerBuilder {
    core: Arc<Core>,
    namespace: Namespace,
    group: String,
    send_msg_timeout: Duration,
    retry_times_when_send_failed: u32,
    compress_msg_body_over_howmuch: usize,
    compress_type: Compression,
    compress_level: u32,
    max_message_size: usize,
    batch_bytes_max: usize,
    buffer_bytes_max: usize,
    send_latency_fault_enable: bool,
    checker: Option<Checker>,
    fault: Option<InvalidField>,
}

impl ProducerBuilder {
    pub(crate) fn new(core: Arc<Core>, namespace: Namespace, group: &str) -> ProducerBuilder {
        let group = namespace.wrap(group).into_owned();
        ProducerBuilder {
            core,
            namespace,
            fault: check_group(&group).err(),
            group,
            send_msg_timeout: Duration::from_secs(3),
            retry_times_when_send_failed: 2,
            compress_msg_body_over_howmuch: 4096,
            compress_type: Compression::Zlib,
            compress_level: 5,
            max_message_size: 4 * 1024 * 1024,
            batch_bytes_max: 1024 * 1024,
            buffer_bytes_max: 64 * 1024 * 1024,
            send_latency_fault_enable: true,
            checker: None,
        }
    }

    /// Sets how long a send may take with all its attempts, more than 0; 3 s by default (Java: `sendMsgTimeout`). The wait
    /// for room ([`ProducerBuilder::buffer_bytes_max`]) is not part of it.
    #[must_use]
    pub fn send_msg_timeout(mut self, timeout: Duration) -> ProducerBuilder {
        if timeout.is_zero() {
            self.blame("send_msg_timeout", format_args!("{timeout:?}"), "a send takes time");
        }
        self.send_msg_timeout = timeout;
        self
    }

    /// Sets how often a failed send is tried again at another broker; 2 by default (Java:
    /// `retryTimesWhenSendFailed`). With 0, an answer that is lost never makes a duplicate. A send to one queue, chosen or by
    /// sharding key, is never tried again, for the order's sake.
    #[must_use]
    pub fn retry_times_when_send_failed(mut self, times: u32) -> ProducerBuilder {
        self.retry_times_when_send_failed = times;
        self
    }

    /// Sets from how many bytes on bodies are compressed; 4096 by default, [`usize::MAX`] for never (Java:
    /// `compressMsgBodyOverHowmuch`).
    #[must_use]
    pub fn compress_msg_body_over_howmuch(mut self, bytes: usize) -> ProducerBuilder {
        self.compress_msg_body_over_howmuch = bytes;
        self
    }

    /// Sets how bodies are compressed; zlib by default, which every client reads. LZ4 and Zstandard are read by clients
    /// from 5.0 on, and by Apogee's (Java: `rocketmq.message.compressType`).
    #[must_use]
    pub fn compress_type(mut self, kind: Compression) -> ProducerBuilder {
        self.compress_type = kind;
        self
    }

    /// Sets how hard it tries, 1 fast to 9 small; 5 by default; LZ4 has one level. Batches are not compressed.
    #[must_use]
    pub fn compress_level(mut self, level: u32) -> ProducerBuilder {
        if !(1..=9).contains(&level) {
            self.blame("compress_level", level, "levels are 1 to 9");
        }
        self.compress_level = level;
        self
    }

    /// Sets how long a body may be before it is compressed, 1 byte to 15 MiB; 4 MiB by default, as brokers take (Java:
    /// `maxMessageSize`).
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> ProducerBuilder {
        const BYTES_MAX: usize = 15 * 1024 * 1024;
        if bytes == 0 || bytes > BYTES_MAX {
            self.blame("max_message_size", bytes, "a frame carries 1 byte to 15 MiB");
        }
        self.max_message_size = bytes;
        self
    }

    /// Sets how many bytes one request of a batch may have; 1 MiB by default. Longer batches are split, and those of more
    /// than 4096 messages. A message that alone is longer goes alone; a broker refuses what exceeds its own
    /// `maxMessageSize`.
    #[must_use]
    pub fn batch_bytes_max(mut self, bytes: usize) -> ProducerBuilder {
        self.batch_bytes_max = bytes;
        self
    }

    /// Sets how many bytes of memory messages may take while they are under way before senders wait, 1 byte to 4 GiB; 64 MiB
    /// by default. A message counts with its parts, their copies, and 1,800 bytes for all that waits for its answer; the
    /// messages of a batch share these, and count with about 600 each. One that alone is more waits until it is alone.
    #[must_use]
    pub fn buffer_bytes_max(mut self, bytes: usize) -> ProducerBuilder {
        if bytes == 0 || bytes > u32::MAX as usize {
            self.blame("buffer_bytes_max", bytes, "1 byte to 4 GiB");
        }
        self.buffer_bytes_max = bytes;
        self
    }

    /// Sets whether brokers that fail or are slow are avoided for a while; true by default (Java:
    /// `sendLatencyFaultEnable`, there false by default).
    #[must_use]
    pub fn send_latency_fault_enable(mut self, enable: bool) -> ProducerBuilder {
        self.send_latency_fault_enable = enable;
        self
    }

    /// Builds the producer, and tells brokers of it as soon as it has to do with them.
    ///
    /// # Errors
    /// [`InvalidField`] names the first setting that cannot be; `group` if the client has a producer of that group: clone
    /// that one.
    pub fn build(mut self) -> Result<Producer, InvalidField> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let shared = Arc::new(Shared {
            faults: Faults::new(self.core.clock.clone(), self.send_latency_fault_enable),
            room: Arc::new(Semaphore::new(self.buffer_bytes_max)),
            next_queue: AtomicUsize::new(fastrand::usize(..1 << 16)),
            closed: AtomicBool::new(false),
            checks: Arc::new(Semaphore::new(transaction::CHECKS_MAX)),
            options: self,
        });
        shared.core().add_producer(&shared.options.group, &shared)?;
        Ok(Producer(shared))
    }

    fn blame(&mut self, field: &'static str, value: impl std::fmt::Display, reason: &str) {
        if self.fault.is_none() {
            self.fault = Some(InvalidField::new(field, value, reason));
        }
    }
}

/// Sends messages; cheap to clone, all clones are one.
///
/// Dropping the last clone leaves what [`Producer::submit`] has under way to its receipts: see [`Producer::shutdown`].
#[derive(Clone)]
pub struct Producer(Arc<Shared>);

/// What the clones of a producer share.
pub(crate) struct Shared {
    options: ProducerBuilder,
    faults: Faults,
    room: Arc<Semaphore>,
    next_queue: AtomicUsize,
    closed: AtomicBool,
    checks: Arc<Semaphore>,
}

/// How safe a message was when its broker answered (Java: `SendStatus`). It is stored in each case, and sending it again
/// makes a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// As safe as the broker is configured to make it.
    SendOk,
    /// It was not on the disk in time.
    FlushDiskTimeout,
    /// It was not on a slave in time.
    FlushSlaveTimeout,
    /// There was no slave to have it.
    SlaveNotAvailable,
}

/// Where a message was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    /// How safe it was then.
    pub status: SendStatus,
    /// The message's unique key.
    pub unique_key: String,
    /// Id of the stored copy; of one in a batch, its own.
    pub offset_id: String,
    /// The queue, which a message with a delay comes into when its time has come.
    pub queue: Arc<MessageQueue>,
    /// Its place in the queue, counted from 0; of a message with a delay, its place among those that wait.
    pub queue_offset: i64,
    /// What [`Producer::recall`] cancels a message by that has a time of its own; none of others, and from brokers that know no recall.
    pub recall_handle: Option<String>,
    /// Attempts before this one that went unanswered: each may have stored a copy of its own.
    pub unconfirmed_attempts: u32,
}

/// Where a message goes.
enum To {
    /// To any queue, and to another if that fails.
    Any,
    /// To this queue only.
    Queue(Arc<MessageQueue>),
}

/// A request that is ready to be sent, as often as it takes.
struct Parcel {
    topic: String,
    code: RequestCode,
    flag: i32,
    sys_flag: i32,
    born_at: i64,
    properties: String,
    body: Bytes,
    unique_key: String,
    /// How many messages it holds.
    count: usize,
    span: Span,
}

impl Producer {
    /// Sends a message and waits until a broker has stored it.
    ///
    /// Dropping the future gives up further attempts, and the knowledge of whether the message is stored.
    ///
    /// # Errors
    /// See [`SendError`]; only [`SendError::Unconfirmed`] leaves it open whether the message is stored.
    pub async fn send(&self, message: Message) -> Result<SendReceipt, SendError> {
        self.submit(message).await?.await
    }

    /// Sends a message to `queue`, and nowhere else; queues are those of [`Producer::queues`].
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_to(
        &self,
        message: Message,
        queue: &MessageQueue,
    ) -> Result<SendReceipt, SendError> {
        self.submit_to(message, queue).await?.await
    }

    /// Sends a message and waits for its answer elsewhere: with many of them one task keeps many sends under way.
    ///
    /// This waits for room (`buffer_bytes_max`), a route and a connection. When it returns, the first attempt is queued
    /// behind those submitted before. The receipt is awaited, in any order; whoever drops it gives up further attempts,
    /// not the send. A receipt holds its room until it has been awaited or dropped: who submits more than the room holds
    /// awaits some in between, or waits for ever.
    ///
    /// # Errors
    /// Those that are known before anything is sent.
    ///
    /// ```no_run
    /// # async fn example(producer: apogee_client::Producer) -> Result<(), Box<dyn std::error::Error>> {
    /// use apogee_client::Message;
    /// let mut receipts = Vec::new();
    /// for number in 0..1000 {
    ///     receipts.push(producer.submit(Message::new("numbers", number.to_string())).await?);
    /// }
    /// for receipt in receipts {
    ///     println!("{}", receipt.await?.queue_offset);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn submit(&self, message: Message) -> Result<Receipt, SendError> {
        self.begin(message, To::Any).await
    }

    /// Sends a message to `queue`, and nowhere else, and waits for its answer elsewhere: messages submitted one after the
    /// other stay in order there.
    ///
    /// # Errors
    /// As [`Producer::submit`].
    pub async fn submit_to(
        &self,
        message: Message,
        queue: &MessageQueue,
    ) -> Result<Receipt, SendError> {
        self.begin(message, To::Queue(Arc::new(self.0.namespace().wrap_queue(queue)))).await
    }

    /// Sends a message and waits for no answer: it is queued when this returns, and nobody learns if it is lost. Who is
    /// about to drop the client calls [`Producer::shutdown`] first, which lets what is queued leave.
    ///
    /// # Errors
    /// Those that are known before the message has left.
    pub async fn send_oneway(&self, mut message: Message) -> Result<(), SendError> {
        let shared = &self.0;
        message.enter(shared.namespace());
        let _room = shared.room(cost(&message)).await?;
        let to = shared.to(&message).await?;
        let parcel = shared.pack(message, RequestCode::SEND_MESSAGE_V2, 0)?;
        let route = shared.core().routes.to_send(&parcel.topic).await?;
        let queue = shared.choose(&route, &to, None)?;
        let address = shared.address(&route, &queue)?;
        let not_stored = |last| SendError::NotStored { attempts: 1, last };
        let connection = shared.core().connection(address).await.map_err(not_stored)?;
        let pushed = parcel.span.in_scope(|| connection.push(shared.frame(&parcel, &queue)));
        let unreachable =
            |reason| RequestError::Unreachable { address: address.to_owned(), reason };
        pushed.map(drop).map_err(|error| not_stored(unreachable(error.to_string())))
    }

    /// Returns the queues of `topic` that can be sent to, for [`Producer::send_to`].
    ///
    /// # Errors
    /// There is no such topic, or nobody knows.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, SendError> {
        let namespace = self.0.namespace();
        let topic = namespace.wrap(topic);
        check_topic(&topic)?;
        let route = self.0.core().routes.to_send(&topic).await?;
        Ok(route.writable.iter().map(|queue| namespace.strip_queue(queue)).collect())
    }

    /// Cancels a message that has a time of its own, before that time; returns its unique key.
    ///
    /// # Errors
    /// [`SendError::Invalid`] if `recall_handle` is none of `topic`; [`SendError::NotStored`] if the broker refuses: it is too late, or
    /// the broker does not allow it (`recallMessageEnable`).
    ///
    /// ```no_run
    /// # async fn example(producer: apogee_client::Producer) -> Result<(), Box<dyn std::error::Error>> {
    /// use apogee_client::Message;
    /// let reminder = Message::new("reminders", "order 4711 is unpaid").delay(std::time::Duration::from_secs(3600));
    /// let receipt = producer.send(reminder).await?;
    /// // ... it is paid ...
    /// if let Some(handle) = &receipt.recall_handle {
    ///     producer.recall("reminders", handle).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn recall(&self, topic: &str, recall_handle: &str) -> Result<String, SendError> {
        let topic = &*self.0.namespace().wrap(topic);
        check_topic(topic)?;
        let invalid = |reason: &str| InvalidField::new("recall_handle", recall_handle, reason);
        let handle = RecallHandle::decode(recall_handle)
            .map_err(|_| invalid("it is not what a receipt holds"))?;
        if handle.topic != topic {
            return Err(invalid(&format!("it is of the topic `{}`", handle.topic)).into());
        }
        let core = self.0.core();
        let route = core.routes.to_send(topic).await?;
        let broker = handle.broker;
        let Some(address) = route.master(&broker) else {
            return Err(RouteError::NoBroker { topic: topic.to_owned(), broker }.into());
        };
        let group = Some(self.0.options.group.as_str());
        let header = RecallMessage { producer_group: group, topic, recall_handle };
        let request = Frame::request(RequestCode::RECALL_MESSAGE, &header);
        let failed = |last| ended(&handle.unique_key, 1, 0, last);
        let answer = core.call(address, request).await.map_err(failed)?;
        Ok(answer.ext.get("msgId").unwrap_or(&handle.unique_key).to_owned())
    }

    /// Refuses further sends ([`SendError::Closed`]), waits for what is under way, up to
    /// [`ProducerBuilder::send_msg_timeout`], and says goodbye to the brokers.
    pub async fn shutdown(&self) {
        let shared = &self.0;
        shared.closed.store(true, Relaxed);
        let all = u32::try_from(shared.options.buffer_bytes_max).unwrap_or(u32::MAX);
        let done = shared.room.acquire_many(all);
        let clock = &shared.core().clock;
        tokio::select! {
            _ = done => {}
            () = clock.sleep(shared.options.send_msg_timeout) => {}
        }
        shared.room.close();
        if let Some(tracer) = &shared.core().tracer {
            tracer.flush().await;
        }
        shared.core().leave(Some(&shared.options.group), None).await;
    }

    async fn begin(&self, mut message: Message, to: To) -> Result<Receipt, SendError> {
        let shared = self.0.clone();
        message.enter(shared.namespace());
        let room = shared.room(cost(&message)).await?;
        let to = match to {
            To::Any => shared.to(&message).await?,
            To::Queue(queue) => To::Queue(queue),
        };
        let code = match message.is_reply {
            true => RequestCode::SEND_REPLY_MESSAGE_V2,
            false => RequestCode::SEND_MESSAGE_V2,
        };
        let parcel = shared.pack(message, code, 0)?;
        Receipt::begin(shared, parcel, to, room).await
    }
}

/// A send that is under way ([`Producer::submit`]); resolves to where the message was stored.
#[must_use = "the outcome of a send is known only to who awaits it"]
pub struct Receipt(BoxFuture<'static, Result<SendReceipt, SendError>>);

impl Future for Receipt {
    type Output = Result<SendReceipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl Receipt {
    /// Queues the first attempt and returns with what is left to do.
    async fn begin(
        shared: Arc<Shared>,
        parcel: Parcel,
        to: To,
        room: OwnedSemaphorePermit,
    ) -> Result<Receipt, SendError> {
        let queued = Arc::new(AtomicBool::new(false));
        let told = queued.clone();
        let span = parcel.span.clone();
        let work = async move {
            let _room = room;
            let core = shared.core();
            let begun = core.clock.monotonic();
            let outcome = shared.deliver(&parcel, &to, &told).await;
            let took = core.clock.monotonic().saturating_sub(begun);
            let topic = shared.namespace().strip(&parcel.topic);
            core.sends.note(&core.id, &topic, (outcome.is_ok(), took, parcel.count));
            match &outcome {
                Ok(receipt) => {
                    let queue_id = receipt.queue.queue_id;
                    parcel.span.record("messaging.destination.partition.id", queue_id);
                }
                Err(error) => span::failed(&parcel.span, error),
            }
            outcome
        };
        let mut sending: BoxFuture<'static, _> = match span.is_disabled() {
            true => Box::pin(work),
            false => Box::pin(work.instrument(span)),
        };
        // Polled until the first attempt is queued, so that submitted messages keep their order.
        let early = poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if queued.load(Relaxed) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match early.await {
            None => Ok(Receipt(sending)),
            Some(Ok(receipt)) => Ok(Receipt(Box::pin(std::future::ready(Ok(receipt))))),
            Some(Err(error)) => Err(error),
        }
    }
}

impl Shared {
    fn core(&self) -> &Arc<Core> {
        &self.options.core
    }

    fn namespace(&self) -> &Namespace {
        &self.options.namespace
    }

    /// Waits until so many bytes more may be under way.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, SendError> {
        if self.closed.load(Relaxed) {
            return Err(SendError::Closed);
        }
        let bytes = u32::try_from(bytes.min(self.options.buffer_bytes_max)).unwrap_or(u32::MAX);
        self.room.clone().acquire_many_owned(bytes).await.map_err(|_| SendError::Closed)
    }

    /// Returns where a message goes by its sharding key.
    async fn to(&self, message: &Message) -> Result<To, SendError> {
        let Some(key) = &message.sharding_key else { return Ok(To::Any) };
        message.check(self.options.max_message_size)?;
        let route = self.core().routes.to_send(&message.topic).await?;
        let count = route.writable.len();
        if count == 0 {
            return Err(no_queue(&message.topic).into());
        }
        let place = i64::from(java_string_hash(key)) % count as i64;
        Ok(To::Queue(route.writable[place.unsigned_abs() as usize].clone()))
    }

    /// Makes the parcel that all attempts to send `message` share.
    fn pack(
        &self,
        mut message: Message,
        code: RequestCode,
        sys_flag: i32,
    ) -> Result<Parcel, SendError> {
        let options = &self.options;
        message.check(options.max_message_size)?;
        let mut body = message.body.clone();
        let mut sys_flag = sys_flag;
        if body.len() >= options.compress_msg_body_over_howmuch
            && let Some((small, flag)) =
                compression::deflate(&body, options.compress_type, options.compress_level)
        {
            body = small;
            sys_flag |= flag;
        }
        if let Some(namespace) = self.namespace().name() {
            message.put_own(INSTANCE_ID, namespace);
        }
        let core = self.core();
        message.keep_unique_key(|| core.unique.next());
        let key = message.keep_unique_key(String::new).to_owned();
        let span = span::send(core, &message, &key, None);
        let context = core.context_of(&span);
        let properties = message.encode_properties(String::new, context.as_ref());
        Ok(Parcel {
            code,
            flag: message.flag,
            sys_flag,
            born_at: core.clock.now(),
            unique_key: key,
            count: 1,
            span,
            topic: message.topic,
            properties,
            body,
        })
    }

    /// Chooses the queue of the next attempt.
    fn choose(
        &self,
        route: &Route,
        to: &To,
        failed_broker: Option<&str>,
    ) -> Result<Arc<MessageQueue>, RouteError> {
        match to {
            To::Queue(queue) => Ok(queue.clone()),
            To::Any => {
                let first = self.next_queue.fetch_add(1, Relaxed);
                let queue = self.faults.choose(&route.writable, first, failed_broker);
                let topic = || route.readable.first().map_or("", |queue| &queue.topic);
                queue.cloned().ok_or_else(|| no_queue(topic()))
            }
        }
    }

    fn address<'a>(&self, route: &'a Route, queue: &MessageQueue) -> Result<&'a str, RouteError> {
        route.master(&queue.broker_name).ok_or_else(|| RouteError::NoBroker {
            topic: queue.topic.clone(),
            broker: queue.broker_name.clone(),
        })
    }

    /// Tries to have the parcel stored, at one broker after the other.
    async fn deliver(
        &self,
        parcel: &Parcel,
        to: &To,
        queued: &AtomicBool,
    ) -> Result<SendReceipt, SendError> {
        let core = self.core();
        let deadline = core.clock.monotonic() + self.options.send_msg_timeout;
        let attempts_max = match to {
            To::Any => 1 + self.options.retry_times_when_send_failed,
            To::Queue(_) => 1,
        };
        let mut failed_broker: Option<String> = None;
        let (mut attempts, mut unconfirmed) = (0, 0);
        loop {
            let route = core.routes.to_send(&parcel.topic).await?;
            let queue =
                self.choose(&route, to, failed_broker.as_deref()).map_err(|error| match error {
                    RouteError::NoQueue { wanted, .. } => {
                        RouteError::NoQueue { topic: parcel.topic.clone(), wanted }
                    }
                    other => other,
                })?;
            let address = self.address(&route, &queue)?;
            let begun = core.clock.monotonic();
            attempts += 1;
            let answer =
                self.attempt(parcel, &queue, address, deadline.saturating_sub(begun), queued).await;
            let took = core.clock.monotonic().saturating_sub(begun);
            let error = match answer {
                Ok(receipt) => {
                    self.faults.note(&queue.broker_name, took, false);
                    return Ok(SendReceipt { unconfirmed_attempts: unconfirmed, ..receipt });
                }
                Err(error) => error,
            };
            self.faults.note(&queue.broker_name, took, true);
            let again = match &error {
                RequestError::Unreachable { .. } => true,
                RequestError::Unconfirmed { .. } => {
                    unconfirmed += 1;
                    true
                }
                RequestError::Malformed { .. } => {
                    unconfirmed += 1;
                    false
                }
                RequestError::Refused { code, .. } => may_succeed_elsewhere(*code),
            };
            debug!(topic = parcel.topic, broker = queue.broker_name, attempts, %error, "a send failed");
            if unconfirmed > 0 {
                core.routes.renew_in_passing(core, &parcel.topic);
            }
            let is_late = core.clock.monotonic() >= deadline;
            if !again || attempts >= attempts_max || is_late {
                return Err(ended(&parcel.unique_key, attempts, unconfirmed, error));
            }
            let lost =
                matches!(error, RequestError::Unreachable { .. } | RequestError::Refused { .. });
            if lost {
                Box::pin(core.routes.renew(&parcel.topic)).await;
            }
            failed_broker = Some(queue.broker_name.clone());
        }
    }

    async fn attempt(
        &self,
        parcel: &Parcel,
        queue: &Arc<MessageQueue>,
        address: &str,
        timeout: Duration,
        queued: &AtomicBool,
    ) -> Result<SendReceipt, RequestError> {
        let core = self.core();
        let connection = core.connection(address).await?;
        let at = core.clock.now();
        let call = connection.call(self.frame(parcel, queue), timeout);
        queued.store(true, Relaxed);
        let answer = call.await.map_err(|error| unanswered(address, &error))?;
        let receipt = read_answer(address, &answer, queue, &parcel.unique_key)?;
        if let Some(tracer) = &core.tracer {
            let sending = Sending {
                at,
                group: &self.namespace().strip(&self.options.group),
                topic: &self.namespace().strip(&parcel.topic),
                properties: &parcel.properties,
                body_bytes: parcel.body.len(),
                address,
            };
            tracer.sent(&sending, core.clock.now(), &answer, &receipt);
        }
        let queue = self.namespace().strip_shared(&receipt.queue);
        Ok(SendReceipt { queue, ..receipt })
    }

    fn frame(&self, parcel: &Parcel, queue: &MessageQueue) -> Frame {
        let header = SendMessage {
            producer_group: &self.options.group,
            topic: &parcel.topic,
            default_topic: AUTO_CREATE_TOPIC,
            default_topic_queue_nums: CREATED_QUEUES,
            queue_id: queue.queue_id,
            sys_flag: parcel.sys_flag,
            born_timestamp: parcel.born_at,
            flag: parcel.flag,
            properties: &parcel.properties,
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: parcel.code == RequestCode::SEND_BATCH_MESSAGE,
            broker_name: Some(&queue.broker_name),
        };
        let mut frame = Frame::request(parcel.code, &header).with_body(parcel.body.clone());
        frame.codec = Codec::Json;
        frame
    }
}

/// Bytes of memory that a message takes while it is under way: what it brings, its copy in the connection's outbox, and
/// what a send that waits for its answer is made of.
fn cost(message: &Message) -> usize {
    let text = message.size() - message.body.len() + message.topic.len();
    message.body.len() + message.body.len().min(COPIED_MAX) + 2 * text + OVERHEAD
}

/// Longer bodies are shared with the outbox, not copied.
const COPIED_MAX: usize = 512;
/// Bytes of a request that is under way, beside what it carries. Measured: 1,560 at 250,000 of them, the tables of calls
/// and timers among them.
const OVERHEAD: usize = 1_800;

fn no_queue(topic: &str) -> RouteError {
    RouteError::NoQueue { topic: topic.to_owned(), wanted: "written" }
}

/// Whether another broker may take what this one refused (Java: `retryResponseCodes`).
fn may_succeed_elsewhere(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::TOPIC_NOT_EXIST
            | ResponseCode::SERVICE_NOT_AVAILABLE
            | ResponseCode::SYSTEM_ERROR
            | ResponseCode::SYSTEM_BUSY
            | ResponseCode::NO_PERMISSION
            | ResponseCode::NO_BUYER_ID
            | ResponseCode::NOT_IN_CURRENT_UNIT
            | ResponseCode::GO_AWAY
    )
}

/// Says how a send ended that no broker has acknowledged.
fn ended(unique_key: &str, attempts: u32, unconfirmed: u32, last: RequestError) -> SendError {
    let open = unconfirmed > 0
        || matches!(last, RequestError::Unconfirmed { .. } | RequestError::Malformed { .. });
    match open {
        true => SendError::Unconfirmed { unique_key: unique_key.to_owned(), attempts, last },
        false => SendError::NotStored { attempts, last },
    }
}

fn read_answer(
    address: &str,
    answer: &Frame,
    queue: &Arc<MessageQueue>,
    unique_key: &str,
) -> Result<SendReceipt, RequestError> {
    let status = match answer.response_code() {
        ResponseCode::SUCCESS => SendStatus::SendOk,
        ResponseCode::FLUSH_DISK_TIMEOUT => SendStatus::FlushDiskTimeout,
        ResponseCode::FLUSH_SLAVE_TIMEOUT => SendStatus::FlushSlaveTimeout,
        ResponseCode::SLAVE_NOT_AVAILABLE => SendStatus::SlaveNotAvailable,
        code => return Err(refused(address, code, answer)),
    };
    let header: SendMessageResponse<'_> =
        answer.header().map_err(|error| RequestError::malformed(address, error))?;
    let queue = match header.queue_id == queue.queue_id {
        true => queue.clone(),
        false => Arc::new(MessageQueue { queue_id: header.queue_id, ..MessageQueue::clone(queue) }),
    };
    Ok(SendReceipt {
        status,
        unique_key: unique_key.to_owned(),
        offset_id: header.msg_id.to_owned(),
        queue,
        queue_offset: header.queue_offset,
        recall_handle: header.recall_handle.map(str::to_owned),
        unconfirmed_attempts: 0,
    })
}
