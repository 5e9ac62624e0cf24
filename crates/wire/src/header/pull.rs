//! Headers of pulling messages.

use serde::{Deserialize, Serialize};

/// PULL_MESSAGE, LITE_PULL_MESSAGE (Java: `PullMessageRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PullMessage<'a> {
    /// Consumer group that pulls.
    pub consumer_group: &'a str,
    /// Topic to pull from.
    pub topic: &'a str,
    /// Light topic below the topic (5.5.0).
    pub lite_topic: Option<&'a str>,
    /// Queue of the topic.
    pub queue_id: i32,
    /// First offset wanted.
    pub queue_offset: i64,
    /// Most messages wanted.
    pub max_msg_nums: i32,
    /// See [`crate::names::pull_flag`].
    pub sys_flag: i32,
    /// Offset to store for the group, if the flag says so.
    pub commit_offset: i64,
    /// How long to wait for messages, in milliseconds, if the flag says so.
    pub suspend_timeout_millis: i64,
    /// Filter expression, if the flag says so.
    pub subscription: Option<&'a str>,
    /// Version of the subscription.
    pub sub_version: i64,
    /// `TAG` (default) or `SQL92`.
    pub expression_type: Option<&'a str>,
    /// Most bytes wanted.
    pub max_msg_bytes: Option<i32>,
    /// Who asks: a proxy's doors number themselves.
    pub request_source: Option<i32>,
    /// Client behind a proxy (spelt as in Java).
    pub proxy_froward_client_id: Option<&'a str>,
}

/// Where to go on (Java: `PullMessageResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PullMessageResponse {
    /// Broker of the set to pull from next: 0 master.
    pub suggest_which_broker_id: i64,
    /// Offset of the next pull.
    pub next_begin_offset: i64,
    /// First offset of the queue.
    pub min_offset: i64,
    /// Offset behind the last of the queue.
    pub max_offset: i64,
    /// What a static topic adds to the offsets of the records.
    pub offset_delta: Option<i64>,
    /// Flag of the topic.
    pub topic_sys_flag: Option<i32>,
    /// Flag of the group.
    pub group_sys_flag: Option<i32>,
    /// Why nothing is returned: 1 broker, 2 group, 3 topic, 4 broadcast, 5 subscription.
    pub forbidden_type: Option<i32>,
}
