//! Messages: what a producer makes ([`Message`]) and what a consumer gets ([`ReceivedMessage`]).
//!
//! Properties are kept in the form in which they travel, so sending copies them once and receiving does not parse what
//! nobody asks for.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use wire::{
    body::MessageQueue,
    names::{self, REPLY_TOPIC_SUFFIX, system_flag},
    properties::{self, name},
    record::{CheckCrc, Record, RecordError},
};

use crate::{
    compression,
    error::InvalidField,
    namespace::{INSTANCE_ID, Namespace},
    span::W3cContext,
};

/// How long a requester waits, in ms; travels with request and reply.
pub(crate) const TTL: &str = "TTL";
/// What a reply is marked with, as its `MSG_TYPE`.
pub(crate) const REPLY: &str = "reply";

/// Most bytes that the application's properties and keys may have together, so that what client and broker add fits too.
const PROPERTIES_BYTES_MAX: usize = properties::LEN_MAX - 1024;

/// Names that have a meaning of their own and are set by methods, or by the broker.
const RESERVED: [&str; 31] = [
    INSTANCE_ID,
    name::KEYS,
    name::TAGS,
    name::WAIT,
    name::DELAY,
    name::RETRY_TOPIC,
    name::REAL_TOPIC,
    name::REAL_QID,
    name::TRAN_MSG,
    name::PGROUP,
    name::ORIGIN_MESSAGE_ID,
    name::RECONSUME_TIME,
    name::MSG_REGION,
    name::TRACE_ON,
    name::REPLY_TO_CLIENT,
    name::PUSH_REPLY_TIME,
    name::UNIQ_KEY,
    name::MAX_RECONSUME_TIMES,
    name::INNER_NUM,
    name::INNER_BASE,
    name::TRANSACTION_CHECK_TIMES,
    name::PREPARED_QUEUE_OFFSET,
    name::CHECK_IMMUNITY,
    name::CORRELATION_ID,
    name::CLUSTER,
    name::MSG_TYPE,
    name::POP_CK,
    name::SHARDING_KEY,
    name::TIMER_DELAY_SEC,
    name::TIMER_DELAY_MS,
    name::TIMER_DELIVER_MS,
];

/// A message to send. Cheap to clone: the body is shared.
///
/// The methods take anything and never fail; what cannot be is reported by the send, as an [`InvalidField`] that names
/// the method.
///
/// ```
/// use apogee_client::Message;
/// let order = Message::new("orders", "17 pairs of shoes").tag("shoes").key("order-4711").property("shop", "berlin");
/// ```
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) topic: String,
    pub(crate) body: Bytes,
    pub(crate) flag: i32,
    pub(crate) sharding_key: Option<String>,
    pub(crate) is_later: bool,
    pub(crate) is_reply: bool,
    pub(crate) wait_store_ok: bool,
    keys: String,
    properties: String,
    unique_key: Option<String>,
    fault: Option<Box<InvalidField>>,
}

impl Message {
    /// Makes a message of `body` for `topic`.
    ///
    /// A topic has 1 to 127 letters, digits and `%|_-`; a body 1 byte to the producer's `max_message_size`.
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Message {
        Message {
            topic: topic.into(),
            body: body.into(),
            flag: 0,
            sharding_key: None,
            is_later: false,
            is_reply: false,
            wait_store_ok: true,
            keys: String::new(),
            properties: String::new(),
            unique_key: None,
            fault: None,
        }
    }

    /// Sets the tag, by which consumers choose: not empty, without outer blanks and `||`. A message has
    /// one: the last one set counts.
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<str>) -> Message {
        let tag = tag.as_ref();
        if tag.trim() != tag || tag.contains("||") {
            self.blame("tag", tag, "consumers cannot name a tag with outer blanks or `||`");
        }
        self.put("tag", name::TAGS, tag);
        self
    }

    /// Adds a key, by which the message can be looked up. May be called several times; a key has no white space.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<str>) -> Message {
        let key = key.as_ref();
        if key.is_empty() || key.contains(char::is_whitespace) || has_control(key) {
            self.blame(
                "key",
                key,
                "a key is neither empty nor has white space or control characters",
            );
        }
        if !self.keys.is_empty() {
            self.keys.push(' ');
        }
        self.keys.push_str(key);
        self
    }

    /// Sets a property of the application's own, by which SQL92 filters choose. Neither name nor value is empty or has one of
    /// the characters U+0001 and U+0002, and the name is none of RocketMQ's own. All of a message's properties, its tag and
    /// its keys have at most 31,743 bytes together.
    #[must_use]
    pub fn property(mut self, property: impl AsRef<str>, value: impl AsRef<str>) -> Message {
        let (property, value) = (property.as_ref(), value.as_ref());
        if RESERVED.contains(&property) || property == TTL || property == name::TRANSACTION_ID {
            self.blame(
                "property",
                property,
                "RocketMQ gives this name a meaning of its own; choose another",
            );
        }
        self.put("property", property, value);
        self
    }

    /// Sets the key whose messages stay in order: all with the same key go to the same queue, as long as the topic's
    /// queues are the same (Java: `SelectMessageQueueByHash`, which chooses the same queue).
    #[must_use]
    pub fn sharding_key(mut self, key: impl Into<String>) -> Message {
        let key = key.into();
        self.put("sharding_key", name::SHARDING_KEY, &key);
        self.sharding_key = Some(key);
        self
    }

    /// Delivers it after the time of a delay level of the broker: 1 to 18 by default, 1 s to 2 h. A level that the broker does
    /// not have is taken for its last one.
    #[must_use]
    pub fn delay_level(mut self, level: u8) -> Message {
        if level == 0 {
            self.blame("delay_level", level, "levels count from 1; leave it out for no delay");
        }
        self.later("delay_level", name::DELAY, u64::from(level));
        self
    }

    /// Delivers it after `delay`: sent in milliseconds, and kept to a second or so late by a broker's default. One that is
    /// more than 3 days (`timerMaxDelaySec`) is refused. What is sent so can be [`recalled`](crate::Producer::recall).
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Message {
        self.later(
            "delay",
            name::TIMER_DELAY_MS,
            u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        );
        self
    }

    /// Delivers it at a time, in ms since the epoch, with the precision and the bound of [`Message::delay`]. A time that is
    /// over means at once.
    #[must_use]
    pub fn deliver_at(mut self, epoch_ms: u64) -> Message {
        self.later("deliver_at", name::TIMER_DELIVER_MS, epoch_ms);
        self
    }

    /// Sets the application's own flag, any number, which the broker carries along; 0 by default.
    #[must_use]
    pub fn flag(mut self, flag: i32) -> Message {
        self.flag = flag;
        self
    }

    /// Sets whether the broker answers only when the message is as safe as it is configured to make messages
    /// (`SYNC_FLUSH`, `SYNC_MASTER`); true by default. Without, a receipt says
    /// [`SendOk`](crate::SendStatus::SendOk) of a message that a power cut may still take.
    #[must_use]
    pub fn wait_store_ok(mut self, wait: bool) -> Message {
        self.wait_store_ok = wait;
        self
    }

    /// Sets the unique key under which the message travels: that of a send of the same message whose outcome nobody knows
    /// ([`SendError::Unconfirmed`](crate::SendError::Unconfirmed)), so that consumers can tell that both are one
    /// ([`ReceivedMessage::unique_key`]). 1 to 255 bytes without white space and control characters. By default the send
    /// makes one.
    #[must_use]
    pub fn unique_key(mut self, key: impl Into<String>) -> Message {
        let key = key.into();
        let is_odd = |character: char| character.is_whitespace() || character.is_control();
        if key.is_empty() || key.len() > 255 || key.contains(is_odd) {
            let reason = "1 to 255 bytes without white space and control characters are needed";
            self.blame("unique_key", &key, reason);
        }
        self.unique_key = Some(key);
        self
    }

    fn later(&mut self, method: &'static str, property: &str, value: u64) {
        if self.is_later {
            self.blame(method, value, "a message is delayed once: by level, by span or to a time");
        }
        self.is_later = true;
        self.put(method, property, &value.to_string());
    }

    fn put(&mut self, method: &'static str, property: &str, value: &str) {
        if property.is_empty() || value.is_empty() {
            self.blame(method, format_args!("{property}={value}"), "it must not be empty");
        }
        if has_control(property) || has_control(value) {
            self.blame(method, value, "the characters U+0001 and U+0002 separate properties");
        }
        properties::append(&mut self.properties, property, value);
    }

    /// Keeps the first fault for the send.
    fn blame(&mut self, field: &'static str, value: impl fmt::Display, reason: &str) {
        if self.fault.is_none() {
            self.fault = Some(Box::new(InvalidField::new(field, value, reason)));
        }
    }

    /// Sets a property that only the client itself sets.
    pub(crate) fn put_own(&mut self, property: &str, value: &str) {
        properties::append(&mut self.properties, property, value);
    }

    /// Takes the message into a namespace; a reply goes to a topic of the servers.
    pub(crate) fn enter(&mut self, namespace: &Namespace) {
        if !self.is_reply {
            self.topic = namespace.wrap(&self.topic).into_owned();
        }
    }

    /// Keeps the message's unique key, so that whoever sends it again does so under the same one.
    pub(crate) fn keep_unique_key(&mut self, make: impl FnOnce() -> String) -> &str {
        self.unique_key.get_or_insert_with(make)
    }

    /// Bytes that the application gave: body, properties and keys.
    pub(crate) fn size(&self) -> usize {
        self.body.len() + self.properties.len() + self.keys.len()
    }

    /// Checks what a send would refuse without asking anybody; a body may have at most `body_bytes_max` bytes.
    ///
    /// # Errors
    /// The first [`InvalidField`], as the send would report it.
    pub fn check(&self, body_bytes_max: usize) -> Result<(), InvalidField> {
        if let Some(fault) = &self.fault {
            return Err(InvalidField::clone(fault));
        }
        check_topic(&self.topic)?;
        if names::is_send_forbidden(&self.topic) {
            return Err(InvalidField::new("topic", &self.topic, "it is the broker's own"));
        }
        if self.body.is_empty() {
            return Err(InvalidField::new("body", "", "a message has at least one byte"));
        }
        if self.body.len() > body_bytes_max {
            let reason = format!("it is longer than max_message_size, {body_bytes_max} bytes");
            return Err(InvalidField::new(
                "body",
                format_args!("{} bytes", self.body.len()),
                reason,
            ));
        }
        let len = self.properties.len() + self.keys.len();
        if len > PROPERTIES_BYTES_MAX {
            let reason =
                format!("properties and keys have at most {PROPERTIES_BYTES_MAX} bytes together");
            return Err(InvalidField::new("property", format_args!("{len} bytes"), reason));
        }
        Ok(())
    }

    /// Returns one of the properties set so far, keys aside.
    pub(crate) fn own(&self, property: &str) -> Option<&str> {
        properties::get(&self.properties, property)
    }

    /// Writes all properties as they travel, with the trace that the message belongs to.
    pub(crate) fn encode_properties(
        &mut self,
        make_key: impl FnOnce() -> String,
        context: Option<&W3cContext>,
    ) -> String {
        let mut text = String::with_capacity(self.properties.len() + self.keys.len() + 80);
        text.push_str(&self.properties);
        if !self.keys.is_empty() {
            properties::append(&mut text, name::KEYS, &self.keys);
        }
        properties::append(&mut text, name::UNIQ_KEY, self.keep_unique_key(make_key));
        properties::append(
            &mut text,
            name::WAIT,
            if self.wait_store_ok { "true" } else { "false" },
        );
        let context = context.filter(|context| self.takes(context));
        for (property, value) in context.into_iter().flat_map(W3cContext::properties) {
            properties::append(&mut text, property, value);
        }
        text
    }
}

impl Message {
    /// Tells whether a context can be written beside the application's properties.
    fn takes(&self, context: &W3cContext) -> bool {
        let bytes: usize =
            context.properties().map(|(name, value)| name.len() + value.len() + 2).sum();
        let is_sound = |(property, value): (&str, &str)| {
            !value.is_empty() && !has_control(value) && self.own(property).is_none()
        };
        context.properties().all(is_sound)
            && self.properties.len() + self.keys.len() + bytes <= PROPERTIES_BYTES_MAX
    }
}

fn has_control(text: &str) -> bool {
    text.contains(['\u{1}', '\u{2}'])
}

pub(crate) fn check_topic(topic: &str) -> Result<(), InvalidField> {
    names::check_topic(topic).map_err(|reason| InvalidField::new("topic", topic, reason))
}

pub(crate) fn check_group(group: &str) -> Result<(), InvalidField> {
    names::check_group(group).map_err(|reason| InvalidField::new("group", group, reason))
}

/// A message as a consumer gets it. Cheap to clone: all parts are shared.
///
/// It keeps the answer of the pull that brought it in memory, which is at most a few hundred KiB for its neighbours, too.
#[derive(Clone)]
pub struct ReceivedMessage {
    pub(crate) queue: Arc<MessageQueue>,
    pub(crate) reconsume_times: u32,
    /// When a push consumer got it, in ms since the epoch.
    pub(crate) arrived_at: i64,
    topic: ByteString,
    body: Bytes,
    properties: ByteString,
    flag: i32,
    sys_flag: i32,
    queue_offset: i64,
    log_offset: u64,
    born_at: i64,
    stored_at: i64,
    born_host: SocketAddr,
    store_host: SocketAddr,
}

impl ReceivedMessage {
    /// Reads the records of a pull's answer, in order, until one is malformed.
    pub(crate) fn read_all(
        queue: &Arc<MessageQueue>,
        records: &Bytes,
        body_bytes_max: usize,
    ) -> Result<Vec<ReceivedMessage>, RecordError> {
        let mut messages = Vec::new();
        for record in wire::record::iter(records, CheckCrc::Yes) {
            let record = ReceivedMessage::new(queue.clone(), records, &record?, body_bytes_max);
            let batch = system_flag::INNER_BATCH | system_flag::NEED_UNWRAP;
            if record.sys_flag & batch == batch {
                messages.extend(record.unwrap_batch());
            } else {
                messages.push(record);
            }
        }
        Ok(messages)
    }

    /// Returns the messages of a record that is a batch, up to the first that is malformed (Java:
    /// `MessageDecoder.decodeMessage`).
    fn unwrap_batch(self) -> impl Iterator<Item = ReceivedMessage> {
        let items = wire::batch::iter(self.body.clone()).map_while(Result::ok);
        items.zip(self.queue_offset..).map(move |(item, queue_offset)| ReceivedMessage {
            body: item.body,
            properties: (&*item.properties).into(),
            flag: item.flag,
            queue_offset,
            queue: self.queue.clone(),
            topic: self.topic.clone(),
            ..self
        })
    }

    /// Takes `record`, which lies in `bytes`.
    pub(crate) fn new(
        queue: Arc<MessageQueue>,
        bytes: &Bytes,
        record: &Record<'_>,
        body_bytes_max: usize,
    ) -> ReceivedMessage {
        let mut body = bytes.slice_ref(record.body);
        let mut sys_flag = record.sys_flag;
        if let Some(inflated) = compression::inflate(&body, sys_flag, body_bytes_max) {
            body = inflated;
            sys_flag &= !(system_flag::COMPRESSED | system_flag::COMPRESSION_MASK);
        }
        // A retried message names the topic that it was sent to.
        let topic = match properties::get(&record.properties, name::RETRY_TOPIC) {
            Some(topic) if record.topic.starts_with(names::RETRY_PREFIX) => topic.into(),
            _ => record.topic.into(),
        };
        ReceivedMessage {
            queue,
            reconsume_times: u32::try_from(record.reconsume_times).unwrap_or(0),
            arrived_at: 0,
            topic,
            body,
            properties: record.properties.as_ref().into(),
            flag: record.flag,
            sys_flag,
            queue_offset: record.numbers.queue_offset,
            log_offset: record.numbers.log_offset,
            born_at: record.born_at,
            stored_at: record.numbers.stored_at,
            born_host: record.born_host,
            store_host: record.store_host,
        }
    }

    /// Makes a reply of what a broker pushed.
    pub(crate) fn pushed(parts: Pushed<'_>) -> ReceivedMessage {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let host = |text: &str| text.trim_start_matches('/').parse().unwrap_or(nowhere);
        let body = compression::inflate(&parts.body, parts.header.sys_flag, parts.body_bytes_max);
        ReceivedMessage {
            queue: Arc::new(MessageQueue {
                queue_id: parts.header.queue_id,
                topic: parts.header.topic.to_owned(),
                ..MessageQueue::default()
            }),
            reconsume_times: 0,
            arrived_at: 0,
            topic: parts.header.topic.into(),
            body: body.unwrap_or(parts.body),
            properties: parts.header.properties.into(),
            flag: parts.header.flag,
            sys_flag: parts.header.sys_flag,
            queue_offset: 0,
            log_offset: 0,
            born_at: parts.header.born_timestamp,
            stored_at: parts.header.store_timestamp,
            born_host: host(parts.header.born_host),
            store_host: host(parts.header.store_host),
        }
    }

    /// Takes the message out of a namespace; its queue is the caller's to take out.
    pub(crate) fn leave(&mut self, namespace: &Namespace) {
        let topic = ByteString::from(&*namespace.strip(&self.topic));
        self.topic = topic;
    }

    /// Returns the topic it was sent to; of a retried message, too.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the body, uncompressed. One that is damaged, or has more bytes than the client's `message_bytes_max`, is
    /// left as it came; [`ReceivedMessage::is_compressed`] tells.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Tells whether the body is still compressed.
    pub fn is_compressed(&self) -> bool {
        self.sys_flag & system_flag::COMPRESSED != 0
    }

    /// Returns the tag, if it has one.
    pub fn tag(&self) -> Option<&str> {
        self.property(name::TAGS)
    }

    /// Returns its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(name::KEYS).unwrap_or_default().split(' ').filter(|key| !key.is_empty())
    }

    /// Returns a property, of the application or of RocketMQ.
    pub fn property(&self, property: &str) -> Option<&str> {
        properties::get(&self.properties, property)
    }

    /// Returns all properties, in the order in which they are stored.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties::iter(&self.properties)
    }

    /// Returns the properties of the application's own.
    pub fn user_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_own = |name: &str| {
            let is_reserved = RESERVED.contains(&name)
                || name == TTL
                || ["__", "TIMER_", "INNER_"].iter().any(|prefix| name.starts_with(prefix));
            !is_reserved
        };
        self.properties().filter(move |(name, _)| is_own(name))
    }

    /// Returns the name its producer gave it, which all its copies share: use it to drop duplicates. Producers of every
    /// SDK give one, other tools may not.
    pub fn unique_key(&self) -> Option<&str> {
        self.property(name::UNIQ_KEY)
    }

    /// Returns the id of this copy: where it lies at which broker, in 32 hexadecimal digits (56 with IPv6). Tools find the
    /// message by it as long as the broker has its address.
    pub fn offset_id(&self) -> String {
        wire::id::OffsetId { host: self.store_host, log_offset: self.log_offset }.to_string()
    }

    /// Returns the queue it came from; of a retried message, that of the retry topic.
    pub fn queue(&self) -> &MessageQueue {
        &self.queue
    }

    /// Returns its place in its queue, counted from 0.
    pub fn queue_offset(&self) -> i64 {
        self.queue_offset
    }

    pub(crate) fn log_offset(&self) -> u64 {
        self.log_offset
    }

    /// Returns how often consumers of the group have failed at it before, 0 at first.
    pub fn reconsume_times(&self) -> u32 {
        self.reconsume_times
    }

    /// Returns the application's flag.
    pub fn flag(&self) -> i32 {
        self.flag
    }

    /// Returns when its producer made it, by that one's clock, in ms since the epoch.
    pub fn born_at(&self) -> i64 {
        self.born_at
    }

    /// Returns when the broker stored it, by that one's clock, in ms since the epoch; of a message that waited for its time,
    /// when that had come.
    pub fn stored_at(&self) -> i64 {
        self.stored_at
    }

    /// Returns where its producer connected from; `0.0.0.0:0` of a reply whose broker does not say.
    pub fn born_host(&self) -> SocketAddr {
        self.born_host
    }

    /// Makes the reply to a request ([`Producer::request`](crate::Producer::request)); any producer may send it, as any
    /// message, and the requester's client is handed its body and its properties.
    ///
    /// # Errors
    /// This is no request: it does not say who waits for a reply.
    ///
    /// ```no_run
    /// # async fn example(client: apogee_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use apogee_client::{Consumed, Filter};
    /// let producer = client.producer("answers").build()?;
    /// let consumer = client.push_consumer("clerks").subscribe("questions", Filter::all()).start(move |question| {
    ///     let producer = producer.clone();
    ///     async move {
    ///         let Ok(answer) = question.reply("42") else { return Consumed::DeadLetter };
    ///         match producer.send(answer).await {
    ///             Ok(_) => Consumed::Done,
    ///             Err(_) => Consumed::Retry,
    ///         }
    ///     }
    /// });
    /// let consumer = consumer.await?;
    /// # drop(consumer);
    /// # Ok(()) }
    /// ```
    pub fn reply(&self, body: impl Into<Bytes>) -> Result<Message, InvalidField> {
        let get = |property: &'static str| {
            let reason = || "the message is no request, so nobody waits for a reply";
            self.property(property).ok_or_else(|| InvalidField::new("message", property, reason()))
        };
        let mut reply = Message::new(format!("{}{REPLY_TOPIC_SUFFIX}", get(name::CLUSTER)?), body);
        reply.put_own(name::MSG_TYPE, REPLY);
        reply.put_own(name::CORRELATION_ID, get(name::CORRELATION_ID)?);
        reply.put_own(name::REPLY_TO_CLIENT, get(name::REPLY_TO_CLIENT)?);
        reply.put_own(TTL, self.property(TTL).unwrap_or("3000"));
        reply.is_reply = true;
        Ok(reply)
    }
}

impl fmt::Debug for ReceivedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedMessage")
            .field("topic", &self.topic)
            .field("queue", &self.queue)
            .field("queue_offset", &self.queue_offset)
            .field("unique_key", &self.unique_key())
            .field("tag", &self.tag())
            .field("reconsume_times", &self.reconsume_times)
            .field("body_len", &self.body.len())
            .finish()
    }
}

/// What a broker pushes to a requester.
pub(crate) struct Pushed<'a> {
    pub(crate) header: wire::header::send::ReplyMessage<'a>,
    pub(crate) body: Bytes,
    pub(crate) body_bytes_max: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(message: Message) -> &'static str {
        message.check(1024).expect_err("a fault").field
    }

    #[test]
    fn what_is_wrong_is_named_by_the_method_that_set_it() {
        let message = || Message::new("T", "body");
        assert_eq!(fault(Message::new("no topic", "body")), "topic");
        assert_eq!(fault(Message::new("SCHEDULE_TOPIC_XXXX", "body")), "topic");
        assert_eq!(fault(Message::new("T", "")), "body");
        assert_eq!(fault(Message::new("T", vec![0; 1025])), "body");
        assert_eq!(fault(message().tag(" a")), "tag");
        assert_eq!(fault(message().key("a b")), "key");
        assert_eq!(fault(message().unique_key("")), "unique_key");
        assert_eq!(fault(message().unique_key("a\u{1}")), "unique_key");
        assert_eq!(fault(message().property("", "b")), "property");
        assert_eq!(fault(message().property("TAGS", "b")), "property");
        assert_eq!(fault(message().property("a", "b\u{1}")), "property");
        assert_eq!(fault(message().property("a", "b".repeat(32_000))), "property");
        assert_eq!(fault(message().delay_level(0)), "delay_level");
        assert_eq!(fault(message().delay_level(3).deliver_at(1)), "deliver_at");
        assert_eq!(
            message().tag("a").key("b").property("c", "d").delay_level(1).check(1024),
            Ok(())
        );
    }

    #[test]
    fn a_message_keeps_its_unique_key() {
        let mut message = Message::new("T", "body").key("a").key("b").tag("t");
        let first = message.encode_properties(|| "K1".to_owned(), None);
        assert_eq!(first, "TAGS\u{1}t\u{2}KEYS\u{1}a b\u{2}UNIQ_KEY\u{1}K1\u{2}WAIT\u{1}true\u{2}");
        assert_eq!(message.encode_properties(|| "K2".to_owned(), None), first);
    }

    #[test]
    fn a_context_is_written_unless_the_application_has_its_own_or_leaves_no_room() {
        let context = |state: Option<&str>| W3cContext {
            traceparent: "00-1-2-01".to_owned(),
            tracestate: state.map(str::to_owned),
        };
        let written = |mut message: Message, context: &W3cContext| {
            let text = message.encode_properties(|| "K".to_owned(), Some(context));
            let get = |property| properties::get(&text, property).map(str::to_owned);
            (get("traceparent"), get("tracestate"))
        };
        let (parent, state) = (Some("00-1-2-01".to_owned()), Some("a=b".to_owned()));
        let message = || Message::new("T", "body");
        assert_eq!(written(message(), &context(None)), (parent.clone(), None));
        assert_eq!(written(message(), &context(Some("a=b"))), (parent, state));
        let own = message().property("traceparent", "mine");
        assert_eq!(written(own, &context(Some("a=b"))), (Some("mine".to_owned()), None));
        assert_eq!(written(message(), &context(Some("a\u{1}b"))), (None, None));
        let full = message().property("p", "x".repeat(PROPERTIES_BYTES_MAX - 10));
        assert_eq!(written(full, &context(None)), (None, None));
    }
}
