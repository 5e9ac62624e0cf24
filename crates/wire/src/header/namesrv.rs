//! Headers of the name server.

use serde::{Deserialize, Serialize};

/// GET_ROUTEINFO_BY_TOPIC (Java: `GetRouteInfoRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetRouteInfo<'a> {
    /// Topic whose route is asked for.
    pub topic: &'a str,
    /// Whether the body must be standard JSON.
    pub accept_standard_json_only: Option<bool>,
}

/// REGISTER_BROKER (Java: `RegisterBrokerRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegisterBroker<'a> {
    /// Name of the broker's set.
    pub broker_name: &'a str,
    /// Its address.
    pub broker_addr: &'a str,
    /// Its cluster.
    pub cluster_name: &'a str,
    /// Where slaves connect to.
    pub ha_server_addr: &'a str,
    /// 0 master, else slave.
    pub broker_id: i64,
    /// How long the registration holds, in milliseconds.
    pub heartbeat_timeout_millis: Option<i64>,
    /// Whether a slave may act for an absent master.
    pub enable_acting_master: Option<bool>,
    /// Whether the body is the deflated form.
    pub compressed: bool,
    /// [`crate::hash::crc32`] of the body as sent; 0: unknown.
    pub body_crc32: i32,
}

/// The master of the set (Java: `RegisterBrokerResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegisterBrokerResponse<'a> {
    /// Where its slaves connect to.
    pub ha_server_addr: Option<&'a str>,
    /// Its address.
    pub master_addr: Option<&'a str>,
}

/// UNREGISTER_BROKER, QUERY_DATA_VERSION (Java: `UnRegisterBrokerRequestHeader`,
/// `QueryDataVersionRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneBroker<'a> {
    /// Name of the broker's set.
    pub broker_name: &'a str,
    /// Its address.
    pub broker_addr: &'a str,
    /// Its cluster.
    pub cluster_name: &'a str,
    /// 0 master, else slave.
    pub broker_id: i64,
}

/// Whether topics must be registered again (Java: `QueryDataVersionResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryDataVersionResponse {
    /// The name server knows another version.
    pub changed: bool,
}

/// BROKER_HEARTBEAT (Java: `BrokerHeartbeatRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BrokerHeartbeat<'a> {
    /// The broker's cluster.
    pub cluster_name: &'a str,
    /// Its address.
    pub broker_addr: &'a str,
    /// Name of its set.
    pub broker_name: &'a str,
    /// Its id, for a controller.
    pub broker_id: Option<i64>,
    /// Its epoch, for a controller.
    pub epoch: Option<i32>,
    /// End of its log, for a controller.
    pub max_offset: Option<i64>,
    /// What all in-sync replicas have, for a controller.
    pub confirm_offset: Option<i64>,
    /// How long the heartbeat holds, in milliseconds (spelt as in Java).
    pub heartbeat_timeout_mills: Option<i64>,
    /// Its rank in elections, for a controller.
    pub election_priority: Option<i32>,
}

/// GET_BROKER_MEMBER_GROUP (Java: `GetBrokerMemberGroupRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetBrokerMemberGroup<'a> {
    /// Cluster of the set.
    pub cluster_name: &'a str,
    /// Name of the set.
    pub broker_name: &'a str,
}

/// WIPE_WRITE_PERM_OF_BROKER, ADD_WRITE_PERM_OF_BROKER.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneBrokerName<'a> {
    /// Name of the broker's set.
    pub broker_name: &'a str,
}

/// Topics that lost a permission (Java: `WipeWritePermOfBrokerResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WipeWritePermResponse {
    /// Number of topics.
    pub wipe_topic_count: i32,
}

/// Topics that got a permission (Java: `AddWritePermOfBrokerResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AddWritePermResponse {
    /// Number of topics.
    pub add_topic_count: i32,
}

/// GET_TOPICS_BY_CLUSTER (Java: `GetTopicsByClusterRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneCluster<'a> {
    /// The cluster.
    pub cluster: &'a str,
}

/// DELETE_TOPIC_IN_NAMESRV (Java: `DeleteTopicFromNamesrvRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeleteTopicInNamesrv<'a> {
    /// Topic to forget.
    pub topic: &'a str,
    /// Only on the brokers of this cluster.
    pub cluster_name: Option<&'a str>,
}

/// PUT_KV_CONFIG (Java: `PutKVConfigRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PutKv<'a> {
    /// Namespace of the key.
    pub namespace: Option<&'a str>,
    /// Key to set.
    pub key: Option<&'a str>,
    /// Its value.
    pub value: &'a str,
}

/// GET_KV_CONFIG, DELETE_KV_CONFIG, GET_KVLIST_BY_NAMESPACE (without the key).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneKey<'a> {
    /// Namespace of the key.
    pub namespace: Option<&'a str>,
    /// The key.
    pub key: Option<&'a str>,
}

/// A value of the configuration (Java: `GetKVConfigResponseHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetKvResponse<'a> {
    /// The value, if there is one.
    pub value: Option<&'a str>,
}
