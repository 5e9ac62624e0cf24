//! Headers of offsets: a group's progress and a queue's ends.

use serde::{Deserialize, Serialize};

/// QUERY_CONSUMER_OFFSET (Java: `QueryConsumerOffsetRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryConsumerOffset<'a> {
    /// Group whose progress is asked for.
    pub consumer_group: &'a str,
    /// Topic consumed.
    pub topic: &'a str,
    /// Queue of the topic.
    pub queue_id: i32,
    /// Whether an unknown progress may be answered by 0.
    pub set_zero_if_not_found: Option<bool>,
}

/// UPDATE_CONSUMER_OFFSET (Java: `UpdateConsumerOffsetRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UpdateConsumerOffset<'a> {
    /// Group that has progressed.
    pub consumer_group: &'a str,
    /// Topic consumed.
    pub topic: &'a str,
    /// Queue of the topic.
    pub queue_id: Option<i32>,
    /// Offset of the next message to consume.
    pub commit_offset: Option<i64>,
}

/// SEARCH_OFFSET_BY_TIMESTAMP (Java: `SearchOffsetRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SearchOffset<'a> {
    /// Topic to search.
    pub topic: &'a str,
    /// Light topic below the topic (5.5.0).
    pub lite_topic: Option<&'a str>,
    /// Queue of the topic.
    pub queue_id: i32,
    /// Store time in epoch milliseconds.
    pub timestamp: i64,
    /// Which of several messages stored at that time.
    pub boundary_type: Boundary,
}

/// Which end of a run of messages with one store time is meant (Java: `BoundaryType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Boundary {
    /// The last of them.
    #[serde(alias = "upper")]
    Upper,
    /// The first of them; also what is neither.
    #[default]
    #[serde(other)]
    Lower,
}

/// GET_MAX_OFFSET (Java: `GetMaxOffsetRequestHeader`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetMaxOffset<'a> {
    /// Topic asked about.
    pub topic: &'a str,
    /// Queue of the topic.
    pub queue_id: i32,
    /// Whether only what readers may see counts; true by default.
    pub committed: bool,
}

impl Default for GetMaxOffset<'_> {
    fn default() -> Self {
        GetMaxOffset { topic: "", queue_id: 0, committed: true }
    }
}

/// GET_MIN_OFFSET, GET_EARLIEST_MSG_STORETIME (Java: `GetMinOffsetRequestHeader`,
/// `GetEarliestMsgStoretimeRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneQueue<'a> {
    /// Topic asked about.
    pub topic: &'a str,
    /// Queue of the topic.
    pub queue_id: i32,
}

/// An offset (Java: `QueryConsumerOffsetResponseHeader`, `SearchOffsetResponseHeader`,
/// `GetMaxOffsetResponseHeader`, `GetMinOffsetResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OffsetResponse {
    /// The offset asked for.
    pub offset: i64,
}

/// A store time (Java: `GetEarliestMsgStoretimeResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TimestampResponse {
    /// Epoch milliseconds, or -1 when there is none.
    pub timestamp: i64,
}
