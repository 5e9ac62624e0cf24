//! What administrators look at: the entries of a queue, the replication of a broker.

use serde::{Deserialize, Serialize};

use super::client::SubscriptionData;

/// Entries of a queue: QUERY_CONSUME_QUEUE (Java: `QueryConsumeQueueResponseBody`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueListing {
    /// The condition of the group that was asked for, as text, or that it is not online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_data: Option<String>,
    /// One more than the last offset.
    pub max_queue_index: i64,
    /// The first offset.
    pub min_queue_index: i64,
    /// The entries; none if the queue has none at the offset that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_data: Option<Vec<QueueUnit>>,
    /// What the group that was asked for wants of the topic, while it is online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
}

/// One entry of a queue (Java: `ConsumeQueueData`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueUnit {
    /// The bits of the filters that let the message through, highest first, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bit_map: Option<String>,
    /// Whether the extension says that the group that was asked for may want the message.
    pub eval: bool,
    /// What the extension says, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extend_data_json: Option<String>,
    /// Place of the record in the log.
    pub physic_offset: i64,
    /// Length of the record in bytes.
    pub physic_size: i32,
    /// Hash of the tag; in queues of delayed messages the time when they are due.
    pub tags_code: i64,
}

/// What the extension of a queue says of a message, as JSON in [`QueueUnit::extend_data_json`] (Java:
/// `ConsumeQueueExt.CqExtUnit`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtensionUnit {
    /// Length of the bit map in bytes.
    pub bit_map_size: i16,
    /// The bit map; none if nobody has computed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_bit_map: Option<Vec<i8>>,
    /// Store time of the message, in epoch milliseconds.
    pub msg_store_time: i64,
    /// Length of the unit in bytes.
    pub size: i16,
    /// Hash of the tag.
    pub tags_code: i64,
}

/// Replication of a broker: GET_BROKER_HA_STATUS (Java: `HARuntimeInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HaStatus {
    /// What a slave knows of its master.
    pub ha_client_runtime_info: HaClientStatus,
    /// What a master knows of each slave.
    pub ha_connection_info: Vec<HaConnectionStatus>,
    /// Slaves that are not behind.
    pub in_sync_slave_nums: i32,
    /// Whether it is a master.
    pub master: bool,
    /// End of a master's log.
    pub master_commit_log_max_offset: i64,
}

/// A slave as its master sees it (Java: `HARuntimeInfo.HAConnectionRuntimeInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HaConnectionStatus {
    /// Its address.
    pub addr: String,
    /// Bytes of log that it lacks.
    pub diff: i64,
    /// Whether it is not behind.
    pub in_sync: bool,
    /// How far it has acknowledged.
    pub slave_ack_offset: i64,
    /// From where on the log was sent.
    pub transfer_from_where: i64,
    /// Bytes sent in a second.
    pub transferred_byte_in_second: i64,
}

/// A master as its slave sees it (Java: `HARuntimeInfo.HAClientRuntimeInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HaClientStatus {
    /// Whether the slave follows.
    pub activated: bool,
    /// When it last read, in epoch milliseconds.
    pub last_read_timestamp: i64,
    /// When it last wrote, in epoch milliseconds.
    pub last_write_timestamp: i64,
    /// Address of the master; none at a master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_addr: Option<String>,
    /// How far the master has synced its log.
    pub master_flush_offset: i64,
    /// End of the slave's log.
    pub max_offset: i64,
    /// Bytes received in a second.
    pub transferred_byte_in_second: i64,
}
