//! Batches: several messages in one request, and as many requests as it takes.
//!
//! The messages of a batch go to one topic and have no delay and no transaction. Requests are sent one after the other,
//! so that what is stored when one fails is the beginning of the batch, and the caller is told how far it reaches.

use bytes::BytesMut;
use wire::{batch, code::RequestCode, properties::name};

use crate::{
    error::{BatchError, InvalidField, SendError},
    message::Message,
    namespace::INSTANCE_ID,
    span,
};

use super::{COPIED_MAX, OVERHEAD, Parcel, Producer, Receipt, SendReceipt};

/// Most messages of one request, so that the answer with all their ids fits a header.
const MESSAGES_MAX: usize = 4096;
/// Bytes of memory that a message of a batch takes beside what it brings: itself, its unique key in three places, and what
/// the allocator adds to each of its parts. Measured: 613 with item, body of 10 bytes and key.
const MESSAGE_BYTES: usize = size_of::<Message>() + 340;
/// Bytes that an item takes beside body and properties, the client's own properties among them.
const ITEM_BYTES: usize = 22 + 80;

/// Bytes of memory that a request with these messages takes while it is under way: they themselves, and what they share,
/// which is the body that they are copied into and the send that waits for its answer.
fn cost(messages: &[Message]) -> usize {
    let body: usize = messages.iter().map(|message| ITEM_BYTES + message.size()).sum();
    let brought = messages.iter().map(|it| MESSAGE_BYTES + it.size() + it.topic.len());
    brought.sum::<usize>() + body + body.min(COPIED_MAX) + OVERHEAD
}

impl Producer {
    /// Sends messages in as few requests as [`batch_bytes_max`](super::ProducerBuilder::batch_bytes_max) allows, and returns
    /// a receipt for each, in order. The messages of one request lie together in one queue and are stored all or none.
    ///
    /// They have one topic, one sharding key or none, and one `wait_store_ok`; none has a delay or is a reply.
    ///
    /// # Errors
    /// [`BatchError`] says which are stored, which are in doubt and which were not tried, and returns the latter two.
    ///
    /// ```no_run
    /// # async fn example(producer: apogee_client::Producer) {
    /// use apogee_client::{Message, SendError};
    /// let orders = (0..1000).map(|number| Message::new("orders", format!("order {number}")));
    /// if let Err(failure) = producer.send_batch(orders.collect()).await {
    ///     println!("{} are stored; {}", failure.stored.len(), failure.error);
    ///     if !matches!(failure.error, SendError::Unconfirmed { .. }) {
    ///         // None of the others is stored: this makes no duplicate.
    ///         let _again = producer.send_batch(failure.unsent).await;
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn send_batch(
        &self,
        mut messages: Vec<Message>,
    ) -> Result<Vec<SendReceipt>, BatchError> {
        let mut stored = Vec::with_capacity(messages.len());
        messages.iter_mut().for_each(|message| message.enter(self.0.namespace()));
        if let Err(error) = self.check_batch(&messages) {
            return Err(BatchError { stored, in_doubt: 0, unsent: messages, error: error.into() });
        }
        let mut rest = messages;
        while !rest.is_empty() {
            let count = self.fitting(&rest);
            match self.send_request(&mut rest[..count]).await {
                Ok(mut receipts) => {
                    stored.append(&mut receipts);
                    rest.drain(..count);
                }
                Err(error) => {
                    return Err(BatchError { stored, in_doubt: count, unsent: rest, error });
                }
            }
        }
        Ok(stored)
    }

    fn check_batch(&self, messages: &[Message]) -> Result<(), InvalidField> {
        for message in messages {
            message.check(self.0.options.max_message_size)?;
            if message.topic != messages[0].topic {
                let reason = format!("the batch is for `{}`", messages[0].topic);
                return Err(InvalidField::new("topic", &message.topic, reason));
            }
            if message.is_later || message.is_reply {
                return Err(InvalidField::new(
                    "delay",
                    &message.topic,
                    "a batch has no delayed messages and no replies",
                ));
            }
            if message.wait_store_ok != messages[0].wait_store_ok {
                return Err(InvalidField::new(
                    "wait_store_ok",
                    message.wait_store_ok,
                    "it is the same for a whole batch",
                ));
            }
            if message.sharding_key != messages[0].sharding_key {
                let key = message.sharding_key.as_deref().unwrap_or_default();
                return Err(InvalidField::new(
                    "sharding_key",
                    key,
                    "it is the same for a whole batch",
                ));
            }
        }
        Ok(())
    }

    /// Returns how many of the first messages fit into one request; one always does.
    fn fitting(&self, messages: &[Message]) -> usize {
        let mut bytes = 0;
        let fits = |message: &&Message| {
            bytes += ITEM_BYTES + message.size();
            bytes <= self.0.options.batch_bytes_max
        };
        messages.iter().take(MESSAGES_MAX).take_while(fits).count().max(1)
    }

    async fn send_request(&self, messages: &mut [Message]) -> Result<Vec<SendReceipt>, SendError> {
        let shared = &self.0;
        let room = shared.room(cost(messages)).await?;
        let to = shared.to(&messages[0]).await?;
        let bytes = messages.iter().map(|message| ITEM_BYTES + message.size()).sum();
        let mut body = BytesMut::with_capacity(bytes);
        let mut keys = Vec::with_capacity(messages.len());
        let span = span::send(shared.core(), &messages[0], "", Some(messages.len()));
        let context = shared.core().context_of(&span);
        for message in &mut *messages {
            let make_key = || shared.core().unique.next();
            let properties = message.encode_properties(make_key, context.as_ref());
            batch::append(&mut body, message.flag, &message.body, &properties);
            keys.push(message.keep_unique_key(String::new).to_owned());
        }
        let mut properties = String::new();
        let wait = if messages[0].wait_store_ok { "true" } else { "false" };
        wire::properties::append(&mut properties, name::WAIT, wait);
        // By this a topic of batches keeps all in one record.
        wire::properties::append(&mut properties, name::UNIQ_KEY, &shared.core().unique.next());
        if let Some(namespace) = shared.namespace().name() {
            wire::properties::append(&mut properties, INSTANCE_ID, namespace);
        }
        let parcel = Parcel {
            topic: messages[0].topic.clone(),
            code: RequestCode::SEND_BATCH_MESSAGE,
            flag: 0,
            sys_flag: 0,
            born_at: shared.core().clock.now(),
            properties,
            body: body.freeze(),
            unique_key: keys.join(","),
            count: messages.len(),
            span,
        };
        let receipt = Receipt::begin(shared.clone(), parcel, to, room).await?.await?;
        // Messages of one record have its id.
        let (mut ids, mut offset_id) = (receipt.offset_id.split(','), "");
        let receipts = keys.into_iter().zip(receipt.queue_offset..).map(|(unique_key, offset)| {
            offset_id = ids.next().unwrap_or(offset_id);
            SendReceipt {
                unique_key,
                offset_id: offset_id.to_owned(),
                queue_offset: offset,
                recall_handle: None,
                queue: receipt.queue.clone(),
                ..receipt
            }
        });
        Ok(receipts.collect())
    }
}
