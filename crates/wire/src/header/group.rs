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

/// Version of a broker's configuration (Java: `GetBrokerConfigResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetBrokerConfigResponse<'a> {
    /// Data version as JSON.
    pub version: &'a str,
}
