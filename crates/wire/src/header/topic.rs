//! Headers of topic administration.

use serde::{Deserialize, Serialize};

/// DELETE_TOPIC_IN_BROKER, GET_TOPIC_CONFIG, GET_TOPIC_STATS_INFO, QUERY_TOPIC_CONSUME_BY_WHO,
/// REGISTER_TOPIC_IN_NAMESRV.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneTopic<'a> {
    /// The topic.
    pub topic: &'a str,
}

/// UPDATE_AND_CREATE_TOPIC (Java: `CreateTopicRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CreateTopic<'a> {
    /// Topic to create or change.
    pub topic: &'a str,
    /// Template; unused.
    pub default_topic: &'a str,
    /// Queues to read from.
    pub read_queue_nums: i32,
    /// Queues to write to.
    pub write_queue_nums: i32,
    /// See [`crate::names::perm`].
    pub perm: i32,
    /// `SINGLE_TAG` or `MULTI_TAG`.
    pub topic_filter_type: &'a str,
    /// See [`crate::names::topic_flag`].
    pub topic_sys_flag: Option<i32>,
    /// Whether the topic is an order topic.
    pub order: bool,
    /// Changes of attributes: `+name=value,-name`.
    pub attributes: Option<&'a str>,
    /// Whether a reduction of queues is meant.
    pub force: Option<bool>,
}

/// GET_ALL_TOPIC_CONFIG (Java: `GetAllTopicConfigRequestHeader`); all absent: the whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetAllTopicConfig<'a> {
    /// First topic of the page.
    pub topic_seq: Option<i32>,
    /// Version of the table that the earlier pages were from, as JSON.
    pub data_version: Option<&'a str>,
    /// Topics of a page.
    pub max_topic_num: Option<i32>,
}

/// Size of the table (Java: `GetAllTopicConfigResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetAllTopicConfigResponse {
    /// Number of topics on all pages.
    pub total_topic_num: Option<i32>,
}

/// QUERY_CONSUME_QUEUE (Java: `QueryConsumeQueueRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryConsumeQueue<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Its queue.
    pub queue_id: i32,
    /// Offset of the first entry.
    pub index: i64,
    /// Most entries.
    pub count: i32,
    /// The group whose filter is looked at, if any.
    pub consumer_group: Option<&'a str>,
}
