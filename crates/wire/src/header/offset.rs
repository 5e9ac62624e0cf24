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

/// INVOKE_BROKER_TO_RESET_OFFSET and, to clients, RESET_CONSUMER_CLIENT_OFFSET (Java: `ResetOffsetRequestHeader`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResetOffset<'a> {
    /// The consumer group.
    pub group: &'a str,
    /// Topic consumed.
    pub topic: &'a str,
    /// Queue of the topic; negative for all.
    pub queue_id: i32,
    /// Offset to set the queue to.
    pub offset: Option<i64>,
    /// Otherwise: store time to set the queues to, in epoch milliseconds; negative for their ends.
    pub timestamp: i64,
    /// Whether offsets may go forward too.
    pub is_force: bool,
}

impl Default for ResetOffset<'_> {
    fn default() -> Self {
        ResetOffset {
            group: "",
            topic: "",
            queue_id: -1,
            offset: None,
            timestamp: 0,
            is_force: false,
        }
    }
}

/// INVOKE_BROKER_TO_GET_CONSUMER_STATUS (Java: `GetConsumerStatusRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetConsumerStatus<'a> {
    /// The consumer group.
    pub group: &'a str,
    /// Topic consumed.
    pub topic: &'a str,
    /// Id of the one client to ask; all if absent or blank.
    pub client_addr: Option<&'a str>,
}

/// CLONE_GROUP_OFFSET (Java: `CloneGroupOffsetRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CloneOffset<'a> {
    /// Group whose progress is copied.
    pub src_group: &'a str,
    /// Group that gets it.
    pub dest_group: &'a str,
    /// Only this topic; all if absent or blank.
    pub topic: Option<&'a str>,
    /// Also topics that the first group no longer subscribes to.
    pub offline: bool,
}

/// QUERY_CORRECTION_OFFSET (Java: `QueryCorrectionOffsetHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryCorrectionOffset<'a> {
    /// Topic consumed.
    pub topic: &'a str,
    /// Group whose offsets are compared with the others'.
    pub compare_group: Option<&'a str>,
    /// Groups that do not count, with commas between.
    pub filter_groups: Option<&'a str>,
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
