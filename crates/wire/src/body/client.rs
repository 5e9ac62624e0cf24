//! Who is there: heartbeats of clients, their subscriptions, lists of connections.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::MessageQueue;
use crate::hash::java_string_hash;

/// What a client says about itself every 30 seconds (Java: `HeartbeatData`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeartbeatData {
    /// The client's id.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Groups that it consumes in.
    pub consumer_data_set: Vec<ConsumerData>,
    /// Hash of the subscriptions; 0 for clients of heartbeat V1.
    pub heartbeat_fingerprint: i32,
    /// Groups that it produces in.
    pub producer_data_set: Vec<ProducerData>,
    /// Subscriptions were left out, since the server knows the fingerprint.
    #[serde(alias = "isWithoutSub")]
    pub without_sub: bool,
}

/// A group that a client produces in (Java: `ProducerData`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProducerData {
    /// The group.
    pub group_name: String,
}

/// A group that a client consumes in (Java: `ConsumerData`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerData {
    /// Where a new group begins.
    pub consume_from_where: ConsumeFromWhere,
    /// Who moves the messages.
    pub consume_type: ConsumeType,
    /// The group.
    pub group_name: String,
    /// Who gets which message.
    pub message_model: MessageModel,
    /// What it is subscribed to.
    pub subscription_data_set: Vec<SubscriptionData>,
    /// Of a unit.
    pub unit_mode: bool,
}

/// Who moves messages to a consumer (Java: `ConsumeType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConsumeType {
    /// The application pulls.
    ConsumeActively,
    /// The client pulls and pushes to the application.
    #[default]
    ConsumePassively,
    /// The client pops.
    ConsumePop,
}

/// Who of a group gets a message (Java: `MessageModel`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MessageModel {
    /// All.
    Broadcasting,
    /// One.
    #[default]
    Clustering,
    /// One, of light topics (5.5.0).
    LiteSelective,
}

/// Where a new group begins (Java: `ConsumeFromWhere`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConsumeFromWhere {
    /// At the end.
    #[default]
    ConsumeFromLastOffset,
    /// Deprecated form of the first.
    ConsumeFromLastOffsetAndFromMinWhenBootFirst,
    /// Deprecated form of the first.
    ConsumeFromMinOffset,
    /// Deprecated form of the first.
    ConsumeFromMaxOffset,
    /// At the beginning.
    ConsumeFromFirstOffset,
    /// At a time that the client looks up.
    ConsumeFromTimestamp,
}

/// What a consumer says of itself, as far as brokers and tools need it (Java: `ConsumerRunningInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerRunningInfo {
    /// Its queues, and how it is doing with each.
    pub mq_table: BTreeMap<MessageQueue, ProcessQueueInfo>,
    /// What it is, in names of Java's (`PROP_CONSUME_TYPE`).
    pub properties: BTreeMap<String, String>,
    /// What it subscribes to now.
    pub subscription_set: Vec<SubscriptionData>,
}

/// How a consumer is doing with a queue (Java: `ProcessQueueInfo`); times in epoch milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessQueueInfo {
    /// Messages that it has and is not done with.
    pub cached_msg_count: i32,
    /// Offset of the last of them.
    pub cached_msg_max_offset: i64,
    /// Offset of the first of them.
    pub cached_msg_min_offset: i64,
    /// Bytes of their bodies, in MiB.
    #[serde(rename = "cachedMsgSizeInMiB")]
    pub cached_msg_size_in_mib: i32,
    /// Offset of the next message to consume.
    pub commit_offset: i64,
    /// It is another's now (spelt as in Java).
    pub droped: bool,
    /// When a message was last consumed.
    pub last_consume_timestamp: i64,
    /// When its lock was last renewed.
    pub last_lock_timestamp: i64,
    /// When it was last pulled from.
    pub last_pull_timestamp: i64,
    /// Whether its lock is held.
    pub locked: bool,
}

/// What came of a message that a consumer was told to consume (Java: `ConsumeMessageDirectlyResult`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumeDirectlyResult {
    /// Its outcome is committed by itself.
    pub auto_commit: bool,
    /// `CR_SUCCESS`, `CR_LATER`, `CR_THROW_EXCEPTION`.
    pub consume_result: String,
    /// It consumes in order.
    pub order: bool,
    /// What it says about it.
    pub remark: Option<String>,
    /// How long it took, in milliseconds (spelt as in Java).
    pub spent_time_mills: i64,
}

/// What of a topic a group wants (Java: `SubscriptionData`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionData {
    /// Filtered by a class.
    pub class_filter_mode: bool,
    /// Java hashes of the tags.
    pub code_set: BTreeSet<i32>,
    /// [`SubscriptionData::TAG`] or [`SubscriptionData::SQL92`].
    pub expression_type: String,
    /// The expression: tags with `||` between, or `*` for all.
    pub sub_string: String,
    /// When it was made, in epoch milliseconds; newer ones replace older ones.
    pub sub_version: i64,
    /// The tags; none for all.
    pub tags_set: BTreeSet<String>,
    /// The topic.
    pub topic: String,
}

impl Default for SubscriptionData {
    fn default() -> Self {
        SubscriptionData {
            class_filter_mode: false,
            code_set: BTreeSet::new(),
            expression_type: Self::TAG.to_owned(),
            sub_string: String::new(),
            sub_version: 0,
            tags_set: BTreeSet::new(),
            topic: String::new(),
        }
    }
}

impl SubscriptionData {
    /// Expression type of tags.
    pub const TAG: &'static str = "TAG";
    /// Expression type of conditions on properties.
    pub const SQL92: &'static str = "SQL92";
    /// The expression that takes all.
    pub const ALL: &'static str = "*";

    /// Builds the subscription to `topic` that `expression` says, with version 0; `None` if the
    /// expression is one of tags without any, or an empty one of another type (Java: `FilterAPI`).
    pub fn parse(topic: &str, expression: &str, expression_type: &str) -> Option<SubscriptionData> {
        let mut subscription = SubscriptionData {
            topic: topic.to_owned(),
            sub_string: expression.to_owned(),
            ..SubscriptionData::default()
        };
        if !matches!(expression_type, "" | Self::TAG) {
            subscription.expression_type = expression_type.to_owned();
            return (!expression.is_empty()).then_some(subscription);
        }
        if expression.is_empty() || expression == Self::ALL {
            subscription.sub_string = Self::ALL.to_owned();
            return Some(subscription);
        }
        let parts = || expression.split("||");
        let blanks = |c: char| c <= ' ';
        for tag in parts().map(|tag| tag.trim_matches(blanks)).filter(|tag| !tag.is_empty()) {
            subscription.tags_set.insert(tag.to_owned());
            subscription.code_set.insert(java_string_hash(tag));
        }
        parts().any(|part| !part.is_empty()).then_some(subscription)
    }
}

/// Consumers of a group that are there (Java: `ConsumerConnection`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerConnection {
    /// The clients.
    pub connection_set: Vec<Connection>,
    /// As the group's clients say.
    pub consume_from_where: ConsumeFromWhere,
    /// As the group's clients say.
    pub consume_type: ConsumeType,
    /// As the group's clients say.
    pub message_model: MessageModel,
    /// Subscriptions by topic.
    pub subscription_table: BTreeMap<String, SubscriptionData>,
}

/// Producers of a group that are there (Java: `ProducerConnection`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProducerConnection {
    /// The clients.
    pub connection_set: Vec<Connection>,
}

/// A client that is there (Java: `Connection`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Connection {
    /// Where it connects from.
    pub client_addr: String,
    /// Its id.
    pub client_id: String,
    /// Name of its language ([`crate::code::Language::name`]).
    pub language: String,
    /// Its version ([`crate::code::version`]).
    pub version: i32,
}

/// All producers of a broker (Java: `ProducerTableInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProducerTable {
    /// By group.
    pub data: BTreeMap<String, Vec<ProducerInfo>>,
}

/// A producer (Java: `ProducerInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProducerInfo {
    /// Its id.
    pub client_id: String,
    /// Name of its language.
    pub language: String,
    /// When its last heartbeat came, in epoch milliseconds.
    pub last_update_timestamp: i64,
    /// Where it connects from, behind a slash.
    #[serde(rename = "remoteIP")]
    pub remote_ip: String,
    /// Its version.
    pub version: i32,
}

/// What a group wants of a topic; without a subscription when it wants nothing (Java: `QuerySubscriptionResponseBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupSubscription {
    /// The group.
    pub group: String,
    /// Its subscription.
    pub subscription_data: Option<SubscriptionData>,
    /// The topic.
    pub topic: String,
}

/// CHECK_CLIENT_CONFIG (Java: `CheckClientRequestBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckClient {
    /// The client's id.
    pub client_id: String,
    /// Its group.
    pub group: String,
    /// Namespace of the group.
    pub namespace: Option<String>,
    /// The subscription to check.
    pub subscription_data: SubscriptionData,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{decode, encode};

    #[test]
    fn a_heartbeat_of_java_is_read() {
        let text = br#"{"clientID":"10.0.0.1@7","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"G","messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,"codeSet":[2598919],"expressionType":"TAG","subString":"TagA","subVersion":1700000000000,"tagsSet":["TagA"],"topic":"T"}],"unitMode":false}],"heartbeatFingerprint":5,"producerDataSet":[{"groupName":"P"}],"withoutSub":false}"#;
        let heartbeat: HeartbeatData = decode(text).unwrap();
        let consumer = &heartbeat.consumer_data_set[0];
        assert_eq!(consumer.consume_from_where, ConsumeFromWhere::ConsumeFromFirstOffset);
        let mut parsed = SubscriptionData::parse("T", "TagA", "").unwrap();
        parsed.sub_version = 1_700_000_000_000;
        assert_eq!(consumer.subscription_data_set, [parsed]);
        assert_eq!(encode(&heartbeat), text);
    }

    #[test]
    fn a_heartbeat_of_the_cpp_client_numbers_its_enums() {
        let text = br#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":4,"consumeType":1,"groupName":"G","messageModel":0}]}"#;
        let heartbeat: HeartbeatData = decode(text).unwrap();
        let consumer = &heartbeat.consumer_data_set[0];
        assert_eq!(consumer.consume_from_where, ConsumeFromWhere::ConsumeFromFirstOffset);
        assert_eq!(consumer.message_model, MessageModel::Broadcasting);
        assert!(decode::<HeartbeatData>(br#"{"consumerDataSet":[{"consumeType":9}]}"#).is_err());
    }

    #[test]
    fn expressions_are_split_into_tags() {
        let tags =
            |expression| SubscriptionData::parse("T", expression, "TAG").map(|s| s.tags_set.len());
        assert_eq!(tags("a || b||a"), Some(2));
        assert_eq!(tags(" "), Some(0));
        assert_eq!(tags("*"), Some(0));
        assert_eq!(tags("||"), None);
        assert_eq!(SubscriptionData::parse("T", "", "SQL92"), None);
        let sql = SubscriptionData::parse("T", "a > 1", "SQL92").unwrap();
        assert_eq!((sql.expression_type.as_str(), sql.tags_set.len()), ("SQL92", 0));
    }
}
