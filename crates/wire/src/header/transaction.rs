//! Headers of transactions.

use serde::{Deserialize, Serialize};

/// END_TRANSACTION (Java: `EndTransactionRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndTransaction<'a> {
    /// Topic of the message, from newer clients.
    pub topic: Option<&'a str>,
    /// The producer's group.
    pub producer_group: &'a str,
    /// Queue offset of the half record.
    pub tran_state_table_offset: i64,
    /// Log offset of the half record.
    pub commit_log_offset: i64,
    /// Transaction bits of [`crate::names::system_flag`]: 8 commits, 12 rolls back, 0 does not know.
    pub commit_or_rollback: i32,
    /// The broker had asked.
    pub from_transaction_check: bool,
    /// Unique key of the message.
    pub msg_id: &'a str,
    /// The same.
    pub transaction_id: Option<&'a str>,
}

/// CHECK_TRANSACTION_STATE, to producers (Java: `CheckTransactionStateRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckTransactionState<'a> {
    /// The topic of half messages.
    pub topic: &'a str,
    /// Name of the broker that asks.
    #[serde(rename = "bname")]
    pub broker_name: &'a str,
    /// Queue offset of the half record.
    pub tran_state_table_offset: i64,
    /// Log offset of the half record.
    pub commit_log_offset: i64,
    /// Unique key of the message.
    pub msg_id: &'a str,
    /// The same.
    pub transaction_id: &'a str,
    /// Offset id of the half record.
    pub offset_msg_id: &'a str,
}

/// RESUME_CHECK_HALF_MESSAGE (Java: `ResumeCheckHalfMessageRequestHeader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResumeCheckHalfMessage<'a> {
    /// Topic of the message, from newer tools.
    pub topic: Option<&'a str>,
    /// Offset id of a record of the half message.
    pub msg_id: &'a str,
}
