//! Recalling: a producer cancels a timer message by the handle that its send was answered with.
//!
//! What is stored is a mark of deletion: a timer message due in the same slot, that names the other by its unique key. It
//! comes too late once that slot is under delivery. (Java: `RecallMessageProcessor`)

use bytes::Bytes;
use bytestring::ByteString;
use store::{Draft, Entry};
use wire::{
    names::perm,
    properties::{self, name},
    recall::RecallHandle,
    record::Message,
};

use crate::{
    Broker,
    api::{Caller, Recall, RecallError, Receipt, Ticket},
    publish::{needs, refusal},
    timer::Delay,
};

/// Tag of the marks that handles make.
const TAG: &str = "_RECALL_TAG_";

impl Broker {
    /// Cancels a timer message, if it is not under delivery yet when the mark is durable.
    ///
    /// # Errors
    /// See [`RecallError`]; a message that is not there, or delivered, is none.
    pub fn recall(&self, cx: &Caller, request: &Recall) -> Result<Ticket, RecallError> {
        let inner = &*self.inner;
        let options = inner.options.read();
        if !options.recall_message_enable {
            return Err(RecallError::Forbidden);
        }
        let now = inner.env.clock.now();
        let may_write = perm::can_write(options.broker_permission)
            || options.allow_recall_when_broker_not_writeable;
        if now < options.start_accept_send_at || !may_write {
            return Err(RecallError::NotNow);
        }
        let Some(topic) = inner.topics.find(&request.topic) else {
            return Err(RecallError::UnknownTopic(request.topic.clone()));
        };
        let handle = RecallHandle::decode(&request.handle)?;
        if *handle.topic != *request.topic {
            return Err(RecallError::OtherTopic);
        }
        if handle.broker != options.broker_name {
            return Err(RecallError::OtherBroker);
        }
        let left = handle.time.parse::<i64>().unwrap_or(-1).saturating_sub(now);
        if left <= 0 || left >= i64::from(options.timer_max_delay_sec) * 1000 {
            return Err(RecallError::InvalidTime);
        }

        let mut deleted = handle.unique_key.clone();
        if options.append_topic_for_timer_delete_key {
            deleted.insert_str(0, &format!("{}+", handle.topic));
        }
        let mut text = properties::from_pairs([
            (name::TAGS, TAG),
            (name::TIMER_DEL_UNIQKEY, &*deleted),
            (name::UNIQ_KEY, &*handle.unique_key),
            (name::TIMER_DELIVER_MS, &*handle.time),
            (name::BORN_TIMESTAMP, &*now.to_string()),
        ]);
        if let Some(group) = &request.group {
            properties::append(&mut text, name::PGROUP, group);
        }
        let asked = text.clone();
        let place = self.defer(&options, topic, 0, &Delay::of(&asked), &mut text);
        let place = place.map_err(RecallError::Publish)?;
        if text.len() > properties::LEN_MAX {
            return Err(RecallError::Publish(crate::api::PublishError::properties_too_long(
                text.len(),
            )));
        }
        let message = Message {
            topic: place.topic.name.clone(),
            queue_id: place.queue_id,
            flag: 0,
            sys_flag: 0,
            born_at: now,
            born_host: cx.remote,
            store_host: options.store_host,
            reconsume_times: 0,
            prepared_offset: 0,
            body: Bytes::from_static(b"0"),
            properties: text.into(),
        };
        let queue = place.topic.queue(&inner.store, place.queue_id);
        let mut outcomes =
            inner.store.append(&[Entry::One(Draft::new(message, queue))]).into_iter();
        let stored = outcomes
            .next()
            .expect("the store answers each entry")
            .map_err(|refused| RecallError::Publish(refusal(refused, &options)))?;
        inner.store.drive();
        inner.stats.count_put(&place.topic.stats, 1, 1);
        Ok(Ticket {
            end: stored.end,
            needs: needs(&options, true),
            receipt: Receipt {
                queue_id: 0,
                queue_offset: stored.queue_offset,
                log_offsets: stored.log_offsets,
                store_host: options.store_host,
                unique_key: ByteString::from(handle.unique_key),
                is_inner_batch: false,
                recall_handle: None,
            },
        })
    }
}
