//! Headers of clients' sessions.

use serde::{Deserialize, Serialize};

/// UNREGISTER_CLIENT (Java: `UnregisterClientRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UnregisterClient<'a> {
    /// Client that leaves.
    #[serde(rename = "clientID")]
    pub client_id: &'a str,
    /// Group it no longer produces in.
    pub producer_group: Option<&'a str>,
    /// Group it no longer consumes in.
    pub consumer_group: Option<&'a str>,
}

/// GET_CONSUMER_LIST_BY_GROUP, GET_CONSUMER_CONNECTION_LIST and, to clients,
/// NOTIFY_CONSUMER_IDS_CHANGED.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneConsumerGroup<'a> {
    /// The consumer group.
    pub consumer_group: &'a str,
}

/// GET_CONSUMER_RUNNING_INFO, CONSUME_MESSAGE_DIRECTLY: a consumer that is asked something, as far as the broker must
/// know it (Java: `GetConsumerRunningInfoRequestHeader`, `ConsumeMessageDirectlyResultRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneConsumer<'a> {
    /// The consumer's group.
    pub consumer_group: &'a str,
    /// The consumer's id.
    pub client_id: &'a str,
    /// Offset id of the message to consume.
    pub msg_id: Option<&'a str>,
    /// Topic of that message.
    pub topic: Option<&'a str>,
}

/// GET_PRODUCER_CONNECTION_LIST (Java: `GetProducerConnectionListRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OneProducerGroup<'a> {
    /// The producer group.
    pub producer_group: &'a str,
}
