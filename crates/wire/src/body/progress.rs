//! Progress of consumers: where a group was set, how far clients say they are, when what it consumed was stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MessageQueue, group::ConsumeStats};

/// Offsets by queue: RESET_CONSUMER_CLIENT_OFFSET, and the answer to INVOKE_BROKER_TO_RESET_OFFSET (Java:
/// `ResetOffsetBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResetOffsets {
    /// The next offset to consume, by queue.
    pub offset_table: BTreeMap<MessageQueue, i64>,
}

/// The same as clients in C++ read it (Java: `ResetOffsetBodyForC`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResetOffsetList {
    /// Queues with their offsets.
    pub offset_table: Vec<QueueOffset>,
}

/// A queue with an offset (Java: `MessageQueueForC`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueOffset {
    /// Name of the broker's set.
    pub broker_name: String,
    /// The next offset to consume.
    pub offset: i64,
    /// Queue of the topic.
    pub queue_id: i32,
    /// The topic.
    pub topic: String,
}

/// How far consumers say they are: of one client in the first member, of several in the second (Java:
/// `GetConsumerStatusBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerStatus {
    /// By client id.
    pub consumer_table: BTreeMap<String, BTreeMap<MessageQueue, i64>>,
    /// By queue.
    pub message_queue_table: BTreeMap<MessageQueue, i64>,
}

/// When the messages of a topic were stored, and those that a group has come to (Java: `QueryConsumeTimeSpanBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TimeSpans {
    /// One for each queue.
    pub consume_time_span_set: Vec<QueueTimeSpan>,
}

/// Times of a queue in epoch milliseconds, -1 where there is no message (Java: `QueueTimeSpan`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueTimeSpan {
    /// When the last consumed message was stored, or the first one if none was consumed.
    pub consume_time_stamp: i64,
    /// For how long the next one waits, in milliseconds; 0 if there is none.
    pub delay_time: i64,
    /// When the last message was stored.
    pub max_time_stamp: i64,
    /// The queue.
    pub message_queue: MessageQueue,
    /// When the first message was stored.
    pub min_time_stamp: i64,
}

/// Progress of every group of a broker (Java: `ConsumeStatsList`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumeStatsList {
    /// The broker's address.
    pub broker_addr: String,
    /// For each group a map with one member: its topics.
    pub consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>>,
    /// Messages that wait for all groups together.
    pub total_diff: i64,
    /// Messages that were pulled and not committed, of all groups together.
    pub total_inflight_diff: i64,
}

/// The offset that the slowest group has come to, by queue (Java: `QueryCorrectionOffsetBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorrectionOffsets {
    /// By queue.
    pub correction_offsets: BTreeMap<i32, i64>,
}

/// Figures of the last minute, hour and day (Java: `BrokerStatsData`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatsData {
    /// The last day.
    pub stats_day: StatsItem,
    /// The last hour.
    pub stats_hour: StatsItem,
    /// The last minute.
    pub stats_minute: StatsItem,
}

/// Figures of a span of time (Java: `BrokerStatsItem`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatsItem {
    /// What one request added on average.
    pub avgpt: f64,
    /// All that was added.
    pub sum: i64,
    /// The same for each second.
    pub tps: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{decode, encode};

    #[test]
    fn offsets_have_queues_for_keys_or_stand_in_a_list() {
        let queue =
            MessageQueue { broker_name: "b".to_owned(), queue_id: 1, topic: "T".to_owned() };
        let map = ResetOffsets { offset_table: BTreeMap::from([(queue, 7)]) };
        let text = br#"{"offsetTable":{{"brokerName":"b","queueId":1,"topic":"T"}:7}}"#;
        assert_eq!(encode(&map), text);
        assert_eq!(decode(text), Ok(map));
        let list = br#"{"offsetTable":[{"brokerName":"b","offset":7,"queueId":1,"topic":"T"}]}"#;
        let read: ResetOffsetList = decode(list).unwrap();
        assert_eq!((read.offset_table[0].offset, encode(&read)), (7, list.to_vec()));
    }
}
