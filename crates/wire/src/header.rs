//! Header structs: the ext fields of requests and responses, a file per family.
//!
//! A struct borrows its strings from the frame it was read from ([`crate::frame::Frame::header`]).
//! As in Java a field that is absent has its default (0, false, empty), and is an `Option` where
//! its absence means something; unknown fields are overlooked, which covers what Java's headers
//! inherit from `RpcRequestHeader` (`ns`, `nsd`, `bname`, `oway`, `lo`). Whether a field must be
//! there is decided by the doors. Where several commands share a shape they share the struct, and
//! its line names them.

pub mod client;
pub mod group;
pub mod namesrv;
pub mod offset;
pub mod pull;
pub mod send;
pub mod topic;
pub mod transaction;

/// Names of ext fields that belong to no header struct.
#[expect(missing_docs, reason = "the value is the name on the wire; the doors document each use")]
pub mod field {
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_ON: &str = "TRACE_ON";
    pub const SUPPORTS_HEARTBEAT_V2: &str = "IS_SUPPORT_HEART_BEAT_V2";
    pub const SUBSCRIPTION_CHANGED: &str = "IS_SUB_CHANGE";
    pub const UNIQUE_KEY_QUERY: &str = "_UNIQUE_KEY_QUERY";
    pub const ZONE_NAME: &str = "__ZONE_NAME";
    pub const ZONE_MODE: &str = "__ZONE_MODE";
}
