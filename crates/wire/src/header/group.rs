//! Headers of consumer group administration and of a broker's configuration.

use serde::{Deserialize, Serialize};

/// GET_SUBSCRIPTIONGROUP_CONFIG, QUERY_TOPICS_BY_CONSUMER.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneGroup<'a> {
    /// The consumer group.
    pub group: &'a str,
}

/// DELETE_SUBSCRIPTIONGROUP (Java: `DeleteSubscriptionGroupRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeleteGroup<'a> {
    /// Group to delete.
    pub group_name: &'a str,
    /// Whether its offsets go too; called `removeOffset` by 4.x.
    #[serde(alias = "removeOffset")]
    pub clean_offset: bool,
}

/// GET_ALL_SUBSCRIPTIONGROUP_CONFIG (Java: `GetAllSubscriptionGroupRequestHeader`); all absent: the
/// whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetAllGroups<'a> {
    /// First group of the page.
    pub group_seq: Option<i32>,
    /// Version of the table that the earlier pages were from, as JSON.
    pub data_version: Option<&'a str>,
    /// Groups of a page.
    pub max_group_num: Option<i32>,
}

/// Size of the table (Java: `GetAllSubscriptionGroupResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetAllGroupsResponse {
    /// Number of groups on all pages.
    pub total_group_num: Option<i32>,
}

/// GET_CONSUME_STATS (Java: `GetConsumeStatsRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetConsumeStats<'a> {
    /// Group whose progress is asked for.
    pub consumer_group: &'a str,
    /// Only this topic.
    pub topic: Option<&'a str>,
    /// Only these topics, with `;` between (5.x).
    pub topic_list: Option<&'a str>,
}

/// QUERY_SUBSCRIPTION_BY_CONSUMER, QUERY_CONSUME_TIME_SPAN and, to clients, GET_CONSUMER_STATUS_FROM_CLIENT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupTopic<'a> {
    /// The consumer group.
    pub group: &'a str,
    /// The topic.
    pub topic: &'a str,
}

/// UPDATE_AND_GET_GROUP_FORBIDDEN (Java: `UpdateGroupForbiddenRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UpdateForbidden<'a> {
    /// The consumer group.
    pub group: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// Whether the group may read it; absent: as it is.
    pub readable: Option<bool>,
}

/// GET_BROKER_CONSUME_STATS (Java: `GetConsumeStatsInBrokerHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetBrokerConsumeStats {
    /// Only topics that are ordered.
    pub is_order: bool,
}

/// VIEW_BROKER_STATS_DATA (Java: `ViewBrokerStatsDataRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ViewStats<'a> {
    /// What is counted, such as `TOPIC_PUT_NUMS`.
    pub stats_name: &'a str,
    /// Of what: a topic, or `topic@group`.
    pub stats_key: &'a str,
}

/// Version of a broker's configuration (Java: `GetBrokerConfigResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetBrokerConfigResponse<'a> {
    /// Data version as JSON.
    pub version: &'a str,
}
