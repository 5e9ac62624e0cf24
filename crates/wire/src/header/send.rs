//! Headers of sending, giving back and looking up messages.

use serde::{Deserialize, Serialize};

/// SEND_MESSAGE, SEND_MESSAGE_V2, SEND_BATCH_MESSAGE, and their reply forms.
///
/// Reads both the long names (Java: `SendMessageRequestHeader`) and the short ones
/// (`SendMessageRequestHeaderV2`); writes the short ones, for codes 310 and 320.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SendMessage<'a> {
    /// The producer's group.
    #[serde(rename = "a", alias = "producerGroup")]
    pub producer_group: &'a str,
    /// Topic to send to.
    #[serde(rename = "b", alias = "topic")]
    pub topic: &'a str,
    /// Topic whose settings a new topic takes.
    #[serde(rename = "c", alias = "defaultTopic")]
    pub default_topic: &'a str,
    /// Queues of a new topic.
    #[serde(rename = "d", alias = "defaultTopicQueueNums")]
    pub default_topic_queue_nums: i32,
    /// Queue, or negative for the broker's choice.
    #[serde(rename = "e", alias = "queueId")]
    pub queue_id: i32,
    /// See [`crate::names::system_flag`].
    #[serde(rename = "f", alias = "sysFlag")]
    pub sys_flag: i32,
    /// When the client made the message, in epoch milliseconds.
    #[serde(rename = "g", alias = "bornTimestamp")]
    pub born_timestamp: i64,
    /// The user's flag.
    #[serde(rename = "h", alias = "flag")]
    pub flag: i32,
    /// Properties in their text form; of a batch, those common to all items.
    #[serde(rename = "i", alias = "properties")]
    pub properties: &'a str,
    /// How often a consumer that re-sends has given the message back.
    #[serde(rename = "j", alias = "reconsumeTimes")]
    pub reconsume_times: i32,
    /// Of a unit.
    #[serde(rename = "k", alias = "unitMode")]
    pub unit_mode: bool,
    /// Most returns of the consumer that re-sends.
    #[serde(rename = "l", alias = "maxReconsumeTimes")]
    pub max_reconsume_times: Option<i32>,
    /// The body is a batch.
    #[serde(rename = "m", alias = "batch")]
    pub batch: bool,
    /// Name of the broker that the client means.
    #[serde(rename = "n", skip_serializing_if = "Option::is_none")]
    pub broker_name: Option<&'a str>,
}

/// Where a sent message lies (Java: `SendMessageResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SendMessageResponse<'a> {
    /// Offset message id; of a batch, all of them with commas between.
    pub msg_id: &'a str,
    /// Queue that the broker chose or the client named.
    pub queue_id: i32,
    /// Offset in the queue; of a batch, the first.
    pub queue_offset: i64,
    /// The message's unique key.
    pub transaction_id: Option<&'a str>,
    /// Unique key of an inner batch.
    pub batch_uniq_id: Option<&'a str>,
    /// What recalls a timer message.
    pub recall_handle: Option<&'a str>,
}

/// PUSH_REPLY_MESSAGE_TO_CLIENT, to requesters (Java: `ReplyMessageRequestHeader`): what the send of the reply said, and
/// when and where the broker took it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplyMessage<'a> {
    /// Group of the producer that replies.
    pub producer_group: &'a str,
    /// Topic of the reply.
    pub topic: &'a str,
    /// Topic whose settings a new topic takes.
    pub default_topic: &'a str,
    /// Queues of a new topic.
    pub default_topic_queue_nums: i32,
    /// Queue, or negative for the broker's choice.
    pub queue_id: i32,
    /// See [`crate::names::system_flag`].
    pub sys_flag: i32,
    /// When the reply was made, in epoch milliseconds.
    pub born_timestamp: i64,
    /// The user's flag.
    pub flag: i32,
    /// Properties in their text form.
    pub properties: &'a str,
    /// How often it was given back.
    pub reconsume_times: i32,
    /// Of a unit.
    pub unit_mode: bool,
    /// Address of who replies.
    pub born_host: &'a str,
    /// Address of the broker.
    pub store_host: &'a str,
    /// When the broker pushes it, in epoch milliseconds.
    pub store_timestamp: i64,
}

/// CONSUMER_SEND_MSG_BACK (Java: `ConsumerSendMsgBackRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerSendMsgBack<'a> {
    /// Log offset of the message.
    pub offset: i64,
    /// Consumer group that gives it back.
    pub group: &'a str,
    /// Delay level: 0 for the broker's choice, negative for the dead-letter topic.
    pub delay_level: i32,
    /// Offset id of the first delivery.
    pub origin_msg_id: Option<&'a str>,
    /// Topic the message came from.
    pub origin_topic: Option<&'a str>,
    /// Of a unit.
    pub unit_mode: bool,
    /// Most returns before the dead-letter topic.
    pub max_reconsume_times: Option<i32>,
}

/// RECALL_MESSAGE (Java: `RecallMessageRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RecallMessage<'a> {
    /// The producer's group.
    pub producer_group: Option<&'a str>,
    /// Topic that the message is meant for.
    pub topic: &'a str,
    /// What the answer to the send said; see [`crate::recall`].
    pub recall_handle: &'a str,
}

/// VIEW_MESSAGE_BY_ID (Java: `ViewMessageRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ViewMessage<'a> {
    /// Topic of the message, from newer tools.
    pub topic: Option<&'a str>,
    /// Log offset of the message.
    pub offset: i64,
}

/// QUERY_MESSAGE (Java: `QueryMessageRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryMessage<'a> {
    /// Topic to look in.
    pub topic: &'a str,
    /// Key to look for.
    pub key: &'a str,
    /// Most messages to return.
    pub max_num: i32,
    /// Stored from, in epoch milliseconds.
    pub begin_timestamp: i64,
    /// Stored until, in epoch milliseconds.
    pub end_timestamp: i64,
    /// `K` keys, `U` unique keys, `T` tags (5.5.0).
    pub index_type: Option<&'a str>,
    /// Where the last page ended (5.5.0).
    pub last_key: Option<&'a str>,
}

/// How far the index reaches (Java: `QueryMessageResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryMessageResponse {
    /// Store time of the last indexed message, in epoch milliseconds.
    pub index_last_update_timestamp: i64,
    /// Log offset of the last indexed message.
    pub index_last_update_phyoffset: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext::Ext;

    #[test]
    fn both_forms_of_the_send_header_are_read_and_the_short_one_is_written() {
        let mut long = Ext::default();
        for (name, value) in [
            ("producerGroup", "G"),
            ("topic", "T"),
            ("queueId", "-1"),
            ("bornTimestamp", "1700000000000"),
            ("properties", "TAGS\u{1}a\u{2}"),
            ("batch", "true"),
            ("bname", "broker-a"),
        ] {
            long.put(name, value);
        }
        let header: SendMessage<'_> = long.header().unwrap();
        assert_eq!((header.topic, header.queue_id, header.batch), ("T", -1, true));
        let mut short = Ext::default();
        short.put_header(&header);
        assert_eq!(short.get("i"), Some("TAGS\u{1}a\u{2}"));
        assert_eq!((short.get("topic"), short.get("n"), short.get("l")), (None, None, None));
        assert_eq!(short.header(), Ok(header));
    }
}
