//! Sending back: a consumer gives a message back, to get it again later or to have it put among the dead letters.
//!
//! The broker reads the record again and stores it in the group's retry topic, behind a delay that grows with the
//! attempts; when these are used up, in the dead-letter topic. (Java: `AbstractSendMessageProcessor.consumerSendMsgBack`)

use bytestring::ByteString;
use store::{Draft, Entry};
use wire::{
    code::version,
    id::OffsetId,
    names::{self, perm, system_flag},
    properties::{self, name},
    record::{CheckCrc, Message, Record},
};

use crate::{
    Broker,
    api::{Caller, Needs, PublishError, Receipt, SendBack, SendBackError, Ticket},
    publish::{DLQ_QUEUES, refusal},
    topics::TopicOrigin,
};

/// Level of the first retry when the consumer leaves the choice to the broker.
const FIRST_RETRY_LEVEL: i32 = 3;

impl Broker {
    /// Takes a message back. None when the group wants no retries: then there is nothing to wait for.
    ///
    /// # Errors
    /// See [`SendBackError`].
    pub async fn send_back(
        &self,
        cx: &Caller,
        request: SendBack,
    ) -> Result<Option<Ticket>, SendBackError> {
        let inner = &*self.inner;
        let (group, retry, store_host, is_synced) = {
            let options = inner.options.read();
            let Some(group) = inner.groups.find(&request.group, &options) else {
                return Err(SendBackError::UnknownGroup(request.group));
            };
            if !perm::can_write(options.broker_permission) {
                let broker = options.store_host.to_string();
                return Err(SendBackError::BrokerForbidden { broker });
            }
            if group.retry_queue_nums <= 0 {
                return Ok(None);
            }
            // The longer of the two that the message may go to.
            let topic = names::retry_topic(&request.group);
            options.check_readable(&topic).map_err(PublishError::InvalidTopic)?;
            let queues = group.retry_queue_nums;
            let retry = TopicOrigin::retry(&request.group, queues, false, request.unit_mode);
            let retry = inner.topics.find_or_exist(&retry).map_err(PublishError::from)?;
            if !perm::can_write(retry.config.perm) {
                return Err(SendBackError::TopicForbidden(retry.name.clone()));
            }
            (group, retry, options.store_host, options.sync_flush)
        };
        let bytes = self.record_at(request.log_offset).await;
        let no_message = || SendBackError::NoMessage(request.log_offset);
        let bytes = bytes.map_err(|_| no_message())?;
        let record = Record::decode(&bytes, CheckCrc::No).map_err(|_| no_message())?;

        if record.sys_flag & system_flag::INNER_BATCH != 0 {
            return Err(SendBackError::Batch);
        }

        let own_max = request.reconsume_times_max.filter(|_| cx.version >= version::V3_4_9);
        let times_max = own_max.unwrap_or(group.retry_max_times);
        let is_dead = record.reconsume_times >= times_max || request.delay_level < 0;
        let origin = properties::get(&record.properties, name::RETRY_TOPIC).unwrap_or(record.topic);
        let origin_id = match properties::get(&record.properties, name::ORIGIN_MESSAGE_ID) {
            Some(id) => id.to_owned(),
            None => {
                let log_offset = request.log_offset as u64;
                OffsetId { host: record.store_host, log_offset }.to_string()
            }
        };
        let mut text = properties::filtered(&record.properties, |name| {
            !matches!(
                name,
                name::RETRY_TOPIC
                    | name::ORIGIN_MESSAGE_ID
                    | name::DELAY
                    | name::REAL_TOPIC
                    | name::REAL_QID
                    | name::WAIT
                    | name::INNER_MULTI_QUEUE_OFFSET
            )
        });
        properties::append(&mut text, name::RETRY_TOPIC, origin);
        properties::append(&mut text, name::ORIGIN_MESSAGE_ID, &origin_id);
        let (mut topic, mut queue_id) = if is_dead {
            let dead = TopicOrigin::dead_letter(names::dlq_topic(&request.group).into());
            let dead = inner.topics.find_or_exist(&dead).map_err(PublishError::from)?;
            (dead, fastrand::i32(0..DLQ_QUEUES))
        } else {
            // The topic may have been created when the group had fewer.
            let queues = group.retry_queue_nums.min(retry.config.write_queue_nums).max(1);
            (retry, fastrand::i32(0..queues))
        };
        if is_dead {
            properties::append(&mut text, name::DELAY, "0");
        }
        let real_queue_id = queue_id;
        let level = match request.delay_level {
            0 => record.reconsume_times.saturating_add(FIRST_RETRY_LEVEL),
            level => level,
        };
        // A producer may have sent any number of reconsumptions: below the first level there is nothing to wait for.
        if !is_dead && level > 0 {
            (topic, queue_id) = self.postpone(&topic.name, queue_id, level, &mut text)?;
        }
        if text.len() > properties::LEN_MAX {
            return Err(PublishError::properties_too_long(text.len()).into());
        }
        let unique_key = properties::get(&record.properties, name::UNIQ_KEY).map(ByteString::from);
        let message = Message {
            topic: topic.name.clone(),
            queue_id,
            store_host,
            reconsume_times: record.reconsume_times.saturating_add(1),
            prepared_offset: 0,
            properties: text.into(),
            ..record.to_message()
        };
        let queue = topic.queue(&inner.store, queue_id);
        let mut outcomes =
            inner.store.append(&[Entry::One(Draft::new(message, queue))]).into_iter();
        let stored = outcomes
            .next()
            .expect("the store answers each entry")
            .map_err(|refused| refusal(refused, &inner.options.read()))?;
        inner.store.drive();
        inner.stats.count_sent_back(&request.group, origin, bytes.len() as u64);
        if let Some(tracer) = &inner.tracer {
            tracer.sent_back(&request.group, &record, inner.env.clock.now());
        }
        if is_dead {
            tracing::info!(group = %request.group, %origin, origin_id, "message put among the dead letters");
        }
        Ok(Some(Ticket {
            end: stored.end,
            // The original waits for no sync here, and may lose by a loss of power what was consumed already.
            needs: if is_synced { Needs::Synced } else { Needs::Written },
            receipt: Receipt {
                queue_id: real_queue_id,
                queue_offset: stored.queue_offset,
                log_offsets: stored.log_offsets,
                store_host,
                unique_key: unique_key.unwrap_or_default(),
                is_inner_batch: false,
                recall_handle: None,
            },
        }))
    }
}
