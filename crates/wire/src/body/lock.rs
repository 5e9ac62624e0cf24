//! Locks of queues, for consumers that keep their order.

use serde::{Deserialize, Serialize};

use super::MessageQueue;

/// LOCK_BATCH_MQ, UNLOCK_BATCH_MQ (Java: `LockBatchRequestBody`, `UnlockBatchRequestBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LockBatch {
    /// Client that wants the queues, or lets them go.
    pub client_id: String,
    /// Its group.
    pub consumer_group: String,
    /// The queues.
    pub mq_set: Vec<MessageQueue>,
    /// Not to be passed on to other replicas.
    pub only_this_broker: bool,
}

/// Which queues are locked (Java: `LockBatchResponseBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LockBatchResponse {
    /// The queues.
    #[serde(rename = "lockOKMQSet")]
    pub lock_ok_mq_set: Vec<MessageQueue>,
}
