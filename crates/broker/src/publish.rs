//! Publishing: checks a send, gives it its queue and its properties, and appends a run of them in one go.
//!
//! The checks come in the original's order and name its codes (Java: `AbstractSendMessageProcessor.msgCheck`,
//! `SendMessageProcessor`, `HookUtils`). Numbering, durability and back-pressure are the store's. The path of a plain
//! message costs one look-up of its topic, one pass over its properties and one string for the stored form of them.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;
use store::{Draft, Entry, Refused};
use wire::{
    code::version,
    names::{self, perm, system_flag},
    properties::{self, name},
    recall::RecallHandle,
    record::Message,
};

use crate::{
    Broker, Options,
    api::{
        Caller, Needs, Payload, Publish, PublishAnswers, PublishError, PublishRun, Receipt, Ticket,
    },
    timer::{Delay, Place},
    topics::{Topic, TopicOrigin},
    trace::Sent,
    transaction::{self, NewHalf},
};

/// Queues of a dead-letter topic (Java: `DLQ_NUMS_PER_GROUP`).
pub(crate) const DLQ_QUEUES: i32 = 1;

/// Bytes for a unique key that the broker makes, and for what a delay adds.
const ROOM_FOR_MORE: usize = 80;

/// Messages of a batch that room is made for at once; more have it grow.
const BATCH_ROOM_MAX: usize = 1024;

/// Bytes for the offset that a batch in one record begins with.
const INNER_BASE_ROOM: usize = 32;

/// A checked send, waiting for the append that its run shares.
struct Accepted {
    topic: Arc<Topic>,
    needs: Needs,
    receipt: Receipt,
    /// Bytes of the bodies, for the statistics.
    bytes: u64,
    /// What is to be known of it, if it is a half message.
    half: Option<Box<NewHalf>>,
    /// What is traced of it once it is stored.
    sent: Option<Box<Sent>>,
}

impl Broker {
    /// Appends a run of sends in one go; each item succeeds or fails alone, a batch as a whole. Never waits: the
    /// tickets say which mark the door has to wait for.
    pub fn publish(&self, cx: &Caller, run: PublishRun) -> PublishAnswers {
        let options = self.inner.options.read();
        let mut last_topic = None;
        let mut entries: SmallVec<[Entry; 8]> = SmallVec::with_capacity(run.len());
        let mut checked: SmallVec<[Result<Accepted, PublishError>; 8]> =
            SmallVec::with_capacity(run.len());
        for item in run {
            match self.accept(cx, &options, item, &mut last_topic) {
                Ok((entry, accepted)) => {
                    entries.push(entry);
                    checked.push(Ok(accepted));
                }
                Err(error) => checked.push(Err(error)),
            }
        }
        let is_half =
            |checked: &Result<Accepted, _>| checked.as_ref().is_ok_and(|it| it.half.is_some());
        let mut preparing =
            checked.iter().any(is_half).then(|| self.inner.transactions.preparing());
        let mut appended = self.inner.store.append(&entries);
        if let Some(preparing) = &mut preparing {
            let accepted = checked.iter_mut().filter_map(|checked| checked.as_mut().ok());
            for (accepted, appended) in accepted.zip(&appended) {
                if let (Some(half), Ok(appended)) = (accepted.half.take(), appended) {
                    preparing.prepare(*half, appended);
                }
            }
        }
        drop(preparing);
        self.inner.store.drive();
        let mut appended = appended.drain(..);
        checked
            .into_iter()
            .map(|checked| {
                let Accepted { topic, needs, mut receipt, bytes, half: _, sent } = checked?;
                let stored = appended
                    .next()
                    .expect("the store answers each entry")
                    .map_err(|refused| refusal(refused, &options))?;
                receipt.queue_offset = stored.queue_offset;
                receipt.log_offsets = stored.log_offsets;
                if let (Some(tracer), Some(sent)) = (&self.inner.tracer, sent) {
                    tracer.sent(&sent, &receipt, self.inner.env.clock.now());
                }
                self.inner.stats.count_put(&topic.stats, stored.count.into(), bytes);
                Ok(Ticket { end: stored.end, needs, receipt })
            })
            .collect()
    }

    /// Checks one send and turns it into what the log stores.
    fn accept(
        &self,
        cx: &Caller,
        options: &Options,
        item: Publish,
        last_topic: &mut Option<Arc<Topic>>,
    ) -> Result<(Entry, Accepted), PublishError> {
        if options.start_accept_send_at > 0
            && self.inner.env.clock.now() < options.start_accept_send_at
        {
            return Err(PublishError::NotYet(options.start_accept_send_at));
        }
        let topic = match last_topic {
            Some(topic) if topic.name == item.topic && topic.is_current() => topic.clone(),
            Some(_) | None => self.topic_for_send(cx, options, &item)?,
        };
        options.check_readable(&topic.name).map_err(PublishError::InvalidTopic)?;
        *last_topic = Some(topic.clone());
        if !perm::can_write(options.broker_permission) && topic.config.order {
            return Err(PublishError::BrokerForbidden { broker: options.store_host.to_string() });
        }
        let queues = topic.config.write_queue_nums.max(topic.config.read_queue_nums);
        if item.queue_id >= queues {
            return Err(PublishError::InvalidQueue {
                queue_id: item.queue_id,
                topic: item.topic,
                queues,
                producer: cx.remote,
            });
        }
        let queue_id = if item.queue_id >= 0 {
            item.queue_id
        } else {
            fastrand::i32(0..topic.config.write_queue_nums.max(1))
        };

        let template = MessageTemplate {
            sys_flag: if topic.is_multi_tag() {
                item.sys_flag | system_flag::MULTI_TAGS
            } else {
                item.sys_flag
            },
            born_at: item.born_at,
            born_host: cx.remote,
            store_host: options.store_host,
            reconsume_times: item.reconsume_times,
        };
        match &item.payload {
            Payload::One(_) => self.accept_one(cx, options, item, topic, queue_id, template),
            Payload::Batch(_) => self.accept_batch(options, item, topic, queue_id, template),
        }
    }

    /// Checks a single message, and turns it into what its group or its delay make of it.
    fn accept_one(
        &self,
        cx: &Caller,
        options: &Options,
        item: Publish,
        mut topic: Arc<Topic>,
        mut queue_id: i32,
        mut template: MessageTemplate,
    ) -> Result<(Entry, Accepted), PublishError> {
        let (Payload::One(body) | Payload::Batch(body)) = &item.payload;
        if body.is_empty() {
            return Err(PublishError::IllegalMessage(
                "the message is illegal: its body is empty".into(),
            ));
        }
        if body.len() > options.max_message_size {
            return Err(PublishError::too_large(body.len(), options));
        }
        let mut text = String::with_capacity(
            item.properties.len() + ROOM_FOR_MORE + self.inner.own_properties.len(),
        );
        let mut seen = Seen::copy(&item.properties, &mut text);
        if item.topic.starts_with(names::RETRY_PREFIX)
            && let Some(dead) = self.dead_letters_for(cx, options, &item)?
        {
            (topic, queue_id) = (dead, fastrand::i32(0..DLQ_QUEUES));
            seen.delay.level = 0;
            properties::append(&mut text, name::DELAY, "-1");
        }
        if topic.is_compacted() && !seen.has_keys {
            return Err(PublishError::IllegalMessage("Required message key is missing".into()));
        }
        check_inner_batch(&item, &topic)?;
        let is_half = self.check_served(options, &item, &seen)?;
        if seen.is_transactional {
            // Clients flag it as prepared, which to the store means: in no queue.
            template.sys_flag &= !system_flag::TRANSACTION_MASK;
        }

        let unique_key = match seen.unique_key {
            Some(key) => item.properties.slice_ref(key),
            None => {
                let key = self.inner.unique_keys.next(&self.inner.env.clock);
                properties::append(&mut text, name::UNIQ_KEY, &key);
                key.into()
            }
        };
        text.push_str(&self.inner.own_properties);
        let told = (topic.name.clone(), queue_id);
        let mut half = None;
        let place = if is_half {
            let new = self.hide(&item, &seen, &topic, queue_id, &unique_key, &mut text)?;
            half = Some(Box::new(new));
            Place { topic: self.half_topic(), queue_id: 0, slot: None }
        } else {
            self.defer(options, topic, queue_id, &seen.delay, &mut text)?
        };
        let Place { topic, queue_id, slot } = place;
        if text.len() > properties::LEN_MAX {
            return Err(PublishError::properties_too_long(text.len()));
        }
        let bytes = body.len() as u64;
        let message = template.fill(&topic.name, queue_id, item.flag, body.clone(), text.into());
        if let Some(half) = &mut half {
            half.len = message.encoded_len() as u32;
        }
        let draft = Draft::new(message, topic.queue(&self.inner.store, queue_id));
        let draft = match seen.is_dispatched {
            true => self.lighten(options, draft)?,
            false => draft,
        };
        let needs = needs(options, seen.waits);
        let (real_topic, told_queue_id) = told;
        let mut receipt = unnumbered(options, told_queue_id, unique_key);
        if let Some(slot) = slot.filter(|_| !real_topic.starts_with(names::RETRY_PREFIX)) {
            let handle = RecallHandle {
                topic: real_topic.into(),
                broker: options.broker_name.clone(),
                // One more than the slot's, so that it falls into that slot again.
                time: (slot + 1).to_string(),
                unique_key: receipt.unique_key.to_string(),
            };
            receipt.recall_handle = Some(handle.encode().into());
        }
        let mut sent = self.trace_send(&item);
        if let Some(sent) = &mut sent {
            sent.add(&receipt.unique_key, &item.properties, body.len());
        }
        Ok((Entry::One(draft), Accepted { topic, needs, receipt, bytes, half, sent }))
    }

    /// Turns the properties of a half message into those of its record, and says what is to be known of it.
    fn hide(
        &self,
        item: &Publish,
        seen: &Seen<'_>,
        topic: &Topic,
        queue_id: i32,
        unique_key: &str,
        text: &mut String,
    ) -> Result<NewHalf, PublishError> {
        self.inner.transactions.check_room()?;
        let group = seen.producer_group.unwrap_or_else(|| {
            properties::append(text, name::PGROUP, &item.group);
            &item.group
        });
        if seen.delay.has_timer() {
            // Like a delay level it is of no effect: the original would put the half message off, and lose it.
            *text = properties::filtered(text, |name| !name::TIMER.contains(&name));
        }
        transaction::hide(text, unique_key, &topic.name, queue_id);
        Ok(NewHalf {
            group: group.to_owned(),
            topic: topic.name.to_string(),
            unique_key: unique_key.to_owned(),
            born_at: item.born_at,
            immunity: seen.immunity.and_then(transaction::immunity),
            len: 0,
        })
    }

    /// Returns the topic of half messages, which every broker has.
    fn half_topic(&self) -> Arc<Topic> {
        let found = self.inner.topics.find(names::TRANS_HALF_TOPIC);
        found.expect("a system topic is neither deleted nor renamed")
    }

    /// Returns the dead-letter topic of a group if a send to its retry topic belongs there: it was tried too often, or
    /// its group consumes in order (Java: `handleRetryAndDLQ`).
    fn dead_letters_for(
        &self,
        cx: &Caller,
        options: &Options,
        item: &Publish,
    ) -> Result<Option<Arc<Topic>>, PublishError> {
        let group = &item.topic[names::RETRY_PREFIX.len()..];
        let group = group.split_once('+').map_or(group, |(group, _)| group);
        let Some(config) = self.inner.groups.find(group, options) else {
            return Err(PublishError::UnknownGroup(group.into()));
        };
        let own_max = item.reconsume_times_max.filter(|_| cx.version >= version::V3_4_9);
        let times_max = own_max.unwrap_or(config.retry_max_times);
        let now = self.inner.env.clock.monotonic();
        if item.reconsume_times <= times_max && !self.inner.locks.is_any_held(now, group) {
            return Ok(None);
        }
        let dead = TopicOrigin::dead_letter(names::dlq_topic(group).into());
        Ok(Some(self.inner.topics.find_or_exist(&dead)?))
    }

    /// Refuses what this broker would deliver otherwise than the message asks; says whether it is a half message.
    fn check_served(
        &self,
        options: &Options,
        item: &Publish,
        seen: &Seen<'_>,
    ) -> Result<bool, PublishError> {
        // Clients before 4.6.1 send half messages back with the property still set.
        let is_sent_back = item.reconsume_times > 0 && seen.delay.level > 0;
        if seen.is_transactional && !is_sent_back {
            if options.reject_transaction_message {
                let broker = options.store_host.to_string();
                return Err(PublishError::TransactionForbidden { broker });
            }
            return Ok(true);
        }
        let flags = item.sys_flag & system_flag::TRANSACTION_MASK;
        if flags == system_flag::TRANSACTION_PREPARED && !seen.is_transactional {
            // The original stores it where nobody ever finds it.
            let problem = "the message is illegal: it is flagged as prepared and has no TRAN_MSG=true; send it as a half message or without the flag";
            return Err(PublishError::IllegalMessage(problem.into()));
        }
        Ok(false)
    }

    /// Checks a batch: its items become records as they are, without properties of the broker's (as 5.5.0 does). In a
    /// topic whose queues are of batches it becomes one record, unless it has no unique key.
    fn accept_batch(
        &self,
        options: &Options,
        item: Publish,
        topic: Arc<Topic>,
        queue_id: i32,
        template: MessageTemplate,
    ) -> Result<(Entry, Accepted), PublishError> {
        let mut sent = self.trace_send(&item);
        let (Payload::One(body) | Payload::Batch(body)) = item.payload;
        if topic.name.len() > names::TOPIC_LEN_MAX {
            let problem = format!("message topic length too long {}", topic.name.len());
            return Err(PublishError::IllegalMessage(problem));
        }
        if topic.name.starts_with(names::RETRY_PREFIX) {
            let problem = format!("batch request does not support retry group {}", topic.name);
            return Err(PublishError::IllegalMessage(problem));
        }
        if body.len() > options.max_message_size {
            return Err(PublishError::too_large(body.len(), options));
        }
        let bytes = body.len() as u64;
        let waits = properties::get(&item.properties, name::WAIT).is_none_or(says_true);
        let needs = needs(options, waits);
        let queue = topic.queue(&self.inner.store, queue_id);
        let unique_key = properties::get(&item.properties, name::UNIQ_KEY);
        if let Some(unique_key) = unique_key.filter(|_| topic.is_batched()) {
            let items = wire::batch::iter(body.clone());
            let count = items.map(|item| item.map(drop)).collect::<Result<Vec<()>, _>>();
            let count =
                count.map_err(|error| PublishError::IllegalMessage(error.to_string()))?.len();
            if !(1..=i16::MAX as usize).contains(&count) {
                let problem = format!("the batch holds {count} messages; allowed are 1 to 32767");
                return Err(PublishError::IllegalMessage(problem));
            }
            let mut text = item.properties.to_string();
            text.push_str(&self.inner.own_properties);
            properties::append(&mut text, name::INNER_NUM, &count.to_string());
            if text.len() + INNER_BASE_ROOM > properties::LEN_MAX {
                return Err(PublishError::properties_too_long(text.len() + INNER_BASE_ROOM));
            }
            if let Some(sent) = &mut sent {
                sent.add(unique_key, &item.properties, body.len());
            }
            let unique_key = item.properties.slice_ref(unique_key);
            let receipt =
                Receipt { is_inner_batch: true, ..unnumbered(options, queue_id, unique_key) };
            let mut message = template.fill(&topic.name, queue_id, item.flag, body, text.into());
            message.sys_flag |= system_flag::INNER_BATCH | system_flag::NEED_UNWRAP;
            let entry = Entry::One(Draft::new(message, queue));
            return Ok((entry, Accepted { topic, needs, receipt, bytes, half: None, sent }));
        }
        let mut drafts = Vec::with_capacity(wire::batch::count(&body).min(BATCH_ROOM_MAX));
        for one in wire::batch::iter(body) {
            let wire::batch::Item { flag, body, mut properties } =
                one.map_err(|error| PublishError::IllegalMessage(error.to_string()))?;
            if !properties.is_empty() && !properties.ends_with('\u{2}') {
                properties = format!("{properties}\u{2}").into();
            }
            if properties.contains(name::INNER_MULTI_QUEUE_OFFSET) {
                // Only the store numbers.
                let others = |name: &str| name != name::INNER_MULTI_QUEUE_OFFSET;
                properties = properties::filtered(&properties, others).into();
            }
            if properties.len() > properties::LEN_MAX {
                return Err(PublishError::properties_too_long(properties.len()));
            }
            if let Some(sent) = &mut sent {
                let unique_key = properties::get(&properties, name::UNIQ_KEY).unwrap_or_default();
                sent.add(unique_key, &properties, body.len());
            }
            let message = template.clone().fill(&topic.name, queue_id, flag, body, properties);
            drafts.push(Draft::new(message, queue.clone()));
        }
        if drafts.is_empty() {
            return Err(PublishError::IllegalMessage("the batch holds no message".into()));
        }
        let receipt = unnumbered(options, queue_id, ByteString::new());
        Ok((Entry::Batch(drafts), Accepted { topic, needs, receipt, bytes, half: None, sent }))
    }

    /// Finds the topic of a send, creating it from its template if that may be.
    fn topic_for_send(
        &self,
        cx: &Caller,
        options: &Options,
        item: &Publish,
    ) -> Result<Arc<Topic>, PublishError> {
        let known = self.inner.topics.find(&item.topic);
        if known.is_none() {
            names::check_topic(&item.topic)
                .map_err(|bad| PublishError::InvalidTopic(bad.to_string()))?;
        }
        if names::is_send_forbidden(&item.topic) {
            return Err(PublishError::ForbiddenTopic(item.topic.clone()));
        }
        if let Some(topic) = known {
            if names::is_light(&topic.name) {
                // Not one more than there may be.
                self.inner.lights.queue(&topic.name)?;
            }
            return Ok(topic);
        }
        options.check_readable(&item.topic).map_err(PublishError::InvalidTopic)?;
        let origin = TopicOrigin::send(item);
        let created = self.inner.topics.create_from_template(&origin, &item.template, options)?;
        if let Some(topic) = created {
            tracing::info!(topic = %item.topic, template = %item.template, producer = %cx.remote, "topic created by a send");
            return Ok(topic);
        }
        if item.topic.starts_with(names::RETRY_PREFIX) {
            return Ok(self.inner.topics.find_or_exist(&origin.with_queues(1))?);
        }
        Err(PublishError::UnknownTopic(item.topic.clone()))
    }
}

pub(crate) fn needs(options: &Options, waits: bool) -> Needs {
    if options.sync_flush && waits { Needs::Synced } else { Needs::Written }
}

/// The receipt of what the log has still to number.
fn unnumbered(options: &Options, queue_id: i32, unique_key: ByteString) -> Receipt {
    Receipt {
        queue_id,
        queue_offset: 0,
        log_offsets: SmallVec::new(),
        store_host: options.store_host,
        unique_key,
        is_inner_batch: false,
        recall_handle: None,
    }
}

/// Refuses what says of itself that it is a batch in one record, and is none or has no place for it (Java:
/// `HookUtils.checkInnerBatch`).
fn check_inner_batch(item: &Publish, topic: &Topic) -> Result<(), PublishError> {
    let is_batch = item.sys_flag & system_flag::INNER_BATCH != 0;
    if !is_batch && !item.properties.contains(name::INNER_NUM) {
        return Ok(());
    }
    let (Payload::One(body) | Payload::Batch(body)) = &item.payload;
    let problem = match properties::get(&item.properties, name::INNER_NUM) {
        None if !is_batch => return Ok(()),
        Some(_) if !is_batch => "has INNER_NUM and is not flagged as a batch",
        _ if !topic.is_batched() => "is a batch, for which its topic has no queues (queue.type)",
        Some(count) if count.parse::<i16>().ok() == wire::batch::count(body).try_into().ok() => {
            return Ok(());
        }
        _ => "is not the batch of INNER_NUM messages that it says it is",
    };
    Err(PublishError::IllegalMessage(format!("the message is illegal: it {problem}")))
}

/// What all records of one send have in common.
#[derive(Clone)]
struct MessageTemplate {
    sys_flag: i32,
    born_at: i64,
    born_host: SocketAddr,
    store_host: SocketAddr,
    reconsume_times: i32,
}

impl MessageTemplate {
    fn fill(
        self,
        topic: &ByteString,
        queue_id: i32,
        flag: i32,
        body: Bytes,
        properties: ByteString,
    ) -> Message {
        let MessageTemplate { sys_flag, born_at, born_host, store_host, reconsume_times } = self;
        Message {
            topic: topic.clone(),
            queue_id,
            flag,
            sys_flag,
            born_at,
            born_host,
            store_host,
            reconsume_times,
            prepared_offset: 0,
            body,
            properties,
        }
    }
}

/// What one pass over the properties of a send has found.
struct Seen<'a> {
    unique_key: Option<&'a str>,
    /// `WAIT` is not false: the producer wants the flush.
    waits: bool,
    has_keys: bool,
    is_transactional: bool,
    /// It names further queues.
    is_dispatched: bool,
    producer_group: Option<&'a str>,
    immunity: Option<&'a str>,
    delay: Delay<'a>,
}

impl<'a> Seen<'a> {
    /// Goes through the properties once, and copies those that are stored as the producer says them.
    fn copy(properties: &'a str, out: &mut String) -> Seen<'a> {
        let mut seen = Seen {
            unique_key: None,
            waits: true,
            has_keys: false,
            is_transactional: false,
            is_dispatched: false,
            producer_group: None,
            immunity: None,
            delay: Delay::default(),
        };
        for (name, value) in properties::iter(properties) {
            seen.delay.note(name, value);
            match name {
                name::WAIT => {
                    seen.waits = says_true(value);
                    continue;
                }
                name::DELAY | name::POP_CK | name::CLUSTER | name::MSG_REGION | name::TRACE_ON => {
                    continue;
                }
                // Only the store numbers.
                name::INNER_MULTI_QUEUE_OFFSET => continue,
                name::INNER_MULTI_DISPATCH => seen.is_dispatched = true,
                name::UNIQ_KEY => seen.unique_key = Some(value),
                name::KEYS => seen.has_keys = !value.trim().is_empty(),
                name::TRAN_MSG => seen.is_transactional = says_true(value),
                name::PGROUP => seen.producer_group = Some(value),
                name::CHECK_IMMUNITY => seen.immunity = Some(value),
                _ => {}
            }
            out.push_str(name);
            out.push('\u{1}');
            out.push_str(value);
            out.push('\u{2}');
        }
        seen
    }
}

fn says_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

impl PublishError {
    fn too_large(len: usize, options: &Options) -> PublishError {
        PublishError::IllegalMessage(format!(
            "the message is illegal: its body of {len} bytes is longer than maxMessageSize, {} bytes; send less, compress it, or raise maxMessageSize",
            options.max_message_size
        ))
    }

    pub(crate) fn properties_too_long(len: usize) -> PublishError {
        PublishError::IllegalMessage(format!(
            "the message is illegal: its properties of {len} bytes are longer than {} bytes; put the data into the body",
            properties::LEN_MAX
        ))
    }
}

pub(crate) fn refusal(refused: Refused, options: &Options) -> PublishError {
    match refused {
        Refused::Busy { backlog_bytes } => PublishError::Busy { backlog_bytes },
        Refused::DiskFull => PublishError::DiskFull,
        Refused::Poisoned | Refused::Closed => PublishError::Stopped,
        Refused::TooLarge => PublishError::too_large(options.max_message_size + 1, options),
    }
}
