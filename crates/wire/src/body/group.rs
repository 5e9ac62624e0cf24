//! Consumer groups: their configuration, the table of them, their progress.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DataVersion, MessageQueue};
use crate::fastjson::{Unknown, Value};

/// Configuration of a consumer group (Java: `SubscriptionGroupConfig`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionGroupConfig {
    /// Attributes.
    pub attributes: BTreeMap<String, String>,
    /// Broker of a set to consume from; 0 master.
    pub broker_id: i64,
    /// Whether broadcasting is allowed.
    pub consume_broadcast_enable: bool,
    /// Whether consuming is allowed.
    pub consume_enable: bool,
    /// Whether a new group may begin at the first message.
    pub consume_from_min_enable: bool,
    /// Whether pop keeps the order of a queue.
    pub consume_message_orderly: bool,
    /// How long a push consumer may take for a message, in minutes.
    pub consume_timeout_minute: i32,
    /// The group.
    pub group_name: String,
    /// When a message is tried again; Java's object, uninterpreted.
    pub group_retry_policy: Value,
    /// Flag of the group.
    pub group_sys_flag: i32,
    /// Whether clients are told when others come and go.
    pub notify_consumer_ids_changed_enable: bool,
    /// Most returns of a message before the dead-letter topic.
    pub retry_max_times: i32,
    /// Queues of the retry topic.
    pub retry_queue_nums: i32,
    /// Subscriptions fixed by the operator; Java's objects, uninterpreted.
    pub subscription_data_set: Option<Value>,
    /// Broker of a set for those who lag.
    pub which_broker_when_consume_slowly: i64,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

impl Default for SubscriptionGroupConfig {
    fn default() -> Self {
        let policy = Unknown::from_iter([("type".to_owned(), "CUSTOMIZED".into())]);
        SubscriptionGroupConfig {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: Value::Object(policy),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            subscription_data_set: None,
            which_broker_when_consume_slowly: 1,
            rest: Unknown::new(),
        }
    }
}

/// The table of groups, as a file (`subscriptionGroup.json`) and between brokers (Java:
/// `SubscriptionGroupWrapper`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionGroupTable {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Bits of what is forbidden, by group and topic.
    pub forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    /// Groups by name.
    pub subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST (Java: `SubscriptionGroupList`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionGroupList {
    /// Groups to create or change.
    pub group_config_list: Vec<SubscriptionGroupConfig>,
}

/// Whether a group may read a topic (Java: `GroupForbidden`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupForbidden {
    /// The group.
    pub group: String,
    /// Whether it may.
    pub readable: bool,
    /// The topic.
    pub topic: String,
}

/// Progress of all groups, as a file (`consumerOffset.json`) and between brokers (Java:
/// `ConsumerOffsetManager`, `ConsumerOffsetSerializeWrapper`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerOffsetTable {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Topics by group: derived from the table, so nobody believes what was read.
    pub group_topic_map: Option<BTreeMap<String, Vec<String>>>,
    /// Offset of the next message of light queues' groups, by `topic@group` (in `lmqConsumerOffset.json`).
    pub lmq_offset_table: Option<BTreeMap<String, i64>>,
    /// Offset of the next message, by `topic@group` and queue.
    pub offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Offset of the next message to pull, in the same form (5.5.0).
    pub pull_offset_table: Option<BTreeMap<String, BTreeMap<i32, i64>>>,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

/// Progress of a group (Java: `ConsumeStats`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumeStats {
    /// Messages consumed per second.
    pub consume_tps: f64,
    /// Progress by queue.
    pub offset_table: BTreeMap<MessageQueue, OffsetWrapper>,
}

/// Progress of a group in a queue (Java: `OffsetWrapper`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OffsetWrapper {
    /// Offset behind the queue's last message.
    pub broker_offset: i64,
    /// Offset of the next message to consume.
    pub consumer_offset: i64,
    /// Store time of the last consumed message, in epoch milliseconds.
    pub last_timestamp: i64,
    /// Offset of the next message to pull.
    pub pull_offset: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{decode, encode};

    #[test]
    fn a_group_of_java_is_read_and_written_the_same() {
        let text = r#"{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":5},"forbiddenTable":{},"subscriptionGroupTable":{"G":{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"G","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}}}"#;
        let table: SubscriptionGroupTable = decode(text.as_bytes()).unwrap();
        let default = SubscriptionGroupConfig { group_name: "G".to_owned(), ..Default::default() };
        assert_eq!(table.subscription_group_table["G"], default);
        assert_eq!(String::from_utf8(encode(&table)).unwrap(), text);
        let sparse = decode(br#"{"groupName":"G"}"#);
        assert_eq!(sparse, Ok(default));
    }

    #[test]
    fn offsets_have_bare_queues() {
        let text = br#"{"dataVersion":{},"groupTopicMap":{"G":["T"]},"offsetTable":{"T@G":{0:12,"1":7}},"pullOffsetTable":{}}"#;
        let table: ConsumerOffsetTable = decode(text).unwrap();
        assert_eq!(table.offset_table["T@G"], BTreeMap::from([(0, 12), (1, 7)]));
        let again = String::from_utf8(encode(&table)).unwrap();
        assert!(
            again.ends_with(r#""offsetTable":{"T@G":{0:12,1:7}},"pullOffsetTable":{}}"#),
            "{again}"
        );
    }
}
