//! Names and bits with a fixed meaning: the grammar of topics and groups, system topics, prefixes,
//! permissions, flags.
//!
//! Owns the tables of Java's `TopicValidator`, `MixAll`, `PermName`, `MessageSysFlag`,
//! `PullSysFlag`, `TopicSysFlag`. System topics named after the cluster or the broker depend on
//! configuration and are added by the broker.

use thiserror::Error;

/// Template whose permissions and queues a topic created by a send takes.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Delayed messages by level.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Topic of the benchmark tools.
pub const BENCHMARK_TOPIC: &str = "BenchmarkTest";
/// Half messages of transactions.
pub const TRANS_HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// What became of half messages.
pub const TRANS_OP_HALF_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Half messages that were checked too often.
pub const TRANS_CHECK_MAX_TIME_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Message traces.
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
/// Self test of the tools.
pub const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
/// Events of offsets moved by the server.
pub const OFFSET_MOVED_EVENT: &str = "OFFSET_MOVED_EVENT";
/// Pseudo topic of Java's RocksDB queues.
pub const CHECKPOINT_TOPIC: &str = "CHECKPOINT_TOPIC";
/// Timer messages.
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";

/// Prefix of every further system topic.
pub const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";
/// Prefix of system groups.
pub const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
/// Prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of a group's dead-letter topic.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Prefix of a light message queue.
pub const LMQ_PREFIX: &str = "%LMQ%";
/// Separates the light queues that a message names.
pub const LMQ_SEPARATOR: char = ',';
/// End of a cluster's reply topic, behind `<cluster>_`.
pub const REPLY_TOPIC_SUFFIX: &str = "_REPLY_TOPIC";
/// Namespace of order topics in the name server's configuration.
pub const ORDER_TOPIC_NAMESPACE: &str = "ORDER_TOPIC_CONFIG";

/// Longest topic, in characters.
pub const TOPIC_LEN_MAX: usize = 127;
/// Longest retry or dead-letter topic, in characters.
pub const RETRY_TOPIC_LEN_MAX: usize = 255;
/// Longest group, in characters: its retry topic must fit too.
pub const GROUP_LEN_MAX: usize = 120;

/// Longest name that a client gives itself or a group that it only speaks of, in bytes: clients let groups have 255
/// characters, and compose their ids of an address, a process and what the user adds.
pub const CLIENT_NAME_LEN_MAX: usize = 512;

/// Topics of the server itself, without those named after cluster and broker.
pub const SYSTEM_TOPICS: [&str; 12] = [
    AUTO_CREATE_TOPIC,
    SCHEDULE_TOPIC,
    BENCHMARK_TOPIC,
    TRANS_HALF_TOPIC,
    "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC",
    TRACE_TOPIC,
    TRANS_OP_HALF_TOPIC,
    "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC",
    TRANS_CHECK_MAX_TIME_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_EVENT,
    CHECKPOINT_TOPIC,
];

/// Groups that need no subscription group configuration (Java: `MixAll.PREDEFINE_GROUP_SET`).
pub const PREDEFINED_GROUPS: [&str; 13] = [
    "DEFAULT_CONSUMER",
    "DEFAULT_PRODUCER",
    "TOOLS_CONSUMER",
    "SCHEDULE_CONSUMER",
    "FILTERSRV_CONSUMER",
    "__MONITOR_CONSUMER",
    "CLIENT_INNER_PRODUCER",
    "SELF_TEST_P_GROUP",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_ONSAPI_PULL",
];

/// Why a topic or group name is refused; the message is Java's remark, word for word.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadName {
    /// Empty, or only white space.
    #[error("The specified {0} is blank.")]
    Blank(&'static str),
    /// Characters outside of `^[%|a-zA-Z0-9_-]+$`.
    #[error(
        "The specified {0}: {1}, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
    )]
    Illegal(&'static str, String),
    /// Characters that would break a line of a log or of a table.
    #[error("The specified {0}: {1}, contains control characters")]
    Control(&'static str, String),
    /// More characters than allowed.
    #[error("The specified {0}: {1}, is longer than {0} max length: {2}")]
    TooLong(&'static str, String, usize),
    /// More characters than allowed for retry and dead-letter topics.
    #[error(
        "The specified topic is DLQ or Retry topic: {0}, and it's longer than topic max length: 255"
    )]
    RetryTooLong(String),
}

/// Whether this names a light queue, or a group of its consumers (Java: `MixAll.isLmq`).
pub fn is_light(name: &str) -> bool {
    name.starts_with(LMQ_PREFIX)
}

/// Whether messages of a topic may also go to light queues: not those that only wait to be delivered elsewhere, half
/// messages among them (Java: `MixAll.topicAllowsLMQ`, which lets half messages through).
pub fn allows_light(topic: &str) -> bool {
    !topic.starts_with(RETRY_PREFIX)
        && !topic.starts_with(SYSTEM_TOPIC_PREFIX)
        && ![SCHEDULE_TOPIC, TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC].contains(&topic)
}

/// Whether a client may call itself, or a group of producers, so: any text without control characters.
pub fn check_client_name(what: &'static str, name: &str) -> Result<(), BadName> {
    if name.len() > CLIENT_NAME_LEN_MAX {
        let begin = name.chars().take(32).collect::<String>() + "...";
        return Err(BadName::TooLong(what, begin, CLIENT_NAME_LEN_MAX));
    }
    if name.chars().any(char::is_control) {
        return Err(BadName::Control(what, name.escape_debug().to_string()));
    }
    Ok(())
}

/// Whether every character is one that topics and groups may hold.
pub fn is_legal(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%|_-".contains(&byte))
}

/// Whether `topic` may be created (Java: `TopicValidator.validateTopic`).
pub fn check_topic(topic: &str) -> Result<(), BadName> {
    check(topic, "topic")?;
    if topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX) {
        if topic.len() > RETRY_TOPIC_LEN_MAX {
            return Err(BadName::RetryTooLong(topic.to_owned()));
        }
    } else if topic.len() > TOPIC_LEN_MAX {
        return Err(BadName::TooLong("topic", topic.to_owned(), TOPIC_LEN_MAX));
    }
    Ok(())
}

/// Whether `group` may be created (Java: `TopicValidator.validateGroup`).
pub fn check_group(group: &str) -> Result<(), BadName> {
    check(group, "group")?;
    if group.len() > GROUP_LEN_MAX {
        return Err(BadName::TooLong("group", group.to_owned(), GROUP_LEN_MAX));
    }
    Ok(())
}

fn check(name: &str, what: &'static str) -> Result<(), BadName> {
    if name.trim().is_empty() {
        return Err(BadName::Blank(what));
    }
    if is_legal(name) { Ok(()) } else { Err(BadName::Illegal(what, name.to_owned())) }
}

/// Whether the topic is one of the server's own.
pub fn is_system_topic(topic: &str) -> bool {
    topic.starts_with(SYSTEM_TOPIC_PREFIX) || SYSTEM_TOPICS.contains(&topic)
}

/// Whether clients are refused to send to the topic. The original lets them send to [`TIMER_TOPIC`], and stops its timers
/// at what is no timer message there.
pub fn is_send_forbidden(topic: &str) -> bool {
    matches!(
        topic,
        SCHEDULE_TOPIC
            | TIMER_TOPIC
            | TRANS_HALF_TOPIC
            | TRANS_OP_HALF_TOPIC
            | TRANS_CHECK_MAX_TIME_TOPIC
            | SELF_TEST_TOPIC
            | OFFSET_MOVED_EVENT
    )
}

/// Whether the group is one of the server's own or of its tools.
pub fn is_system_group(group: &str) -> bool {
    group.starts_with(SYSTEM_GROUP_PREFIX) || PREDEFINED_GROUPS.contains(&group)
}

/// The retry topic of a group.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// The dead-letter topic of a group.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

/// Permission bits of topics, queues and brokers.
pub mod perm {
    /// The topic's settings are passed on to topics created from it.
    pub const INHERIT: i32 = 1;
    /// Messages may be sent.
    pub const WRITE: i32 = 2;
    /// Messages may be read.
    pub const READ: i32 = 4;
    /// Unused priority bit.
    pub const PRIORITY: i32 = 8;

    /// Whether `perm` lets read.
    pub const fn can_read(perm: i32) -> bool {
        perm & READ != 0
    }

    /// Whether `perm` lets write.
    pub const fn can_write(perm: i32) -> bool {
        perm & WRITE != 0
    }

    /// Whether `perm` lets inherit.
    pub const fn can_inherit(perm: i32) -> bool {
        perm & INHERIT != 0
    }

    /// Whether `perm` is a sum of read, write and inherit (Java: `PermName.isValid`).
    pub const fn is_valid(perm: i32) -> bool {
        0 <= perm && perm < PRIORITY
    }
}

/// Bits of a record's system flag.
pub mod system_flag {
    /// The body is compressed; [`COMPRESSION_MASK`] says how.
    pub const COMPRESSED: i32 = 0x1;
    /// Several tags.
    pub const MULTI_TAGS: i32 = 0x2;
    /// Both transaction bits.
    pub const TRANSACTION_MASK: i32 = 0xC;
    /// A half message.
    pub const TRANSACTION_PREPARED: i32 = 0x4;
    /// A committed message.
    pub const TRANSACTION_COMMIT: i32 = 0x8;
    /// A rolled-back message.
    pub const TRANSACTION_ROLLBACK: i32 = 0xC;
    /// The born host is IPv6.
    pub const BORN_HOST_V6: i32 = 0x10;
    /// The store host is IPv6.
    pub const STORE_HOST_V6: i32 = 0x20;
    /// The client unwraps an inner batch.
    pub const NEED_UNWRAP: i32 = 0x40;
    /// An inner batch.
    pub const INNER_BATCH: i32 = 0x80;
    /// Compression: 1 LZ4, 2 ZSTD, 3 ZLIB in bits 8 to 10; 0 is ZLIB of old clients.
    pub const COMPRESSION_MASK: i32 = 0x700;
}

/// Bits of a pull's system flag.
pub mod pull_flag {
    /// `commitOffset` is to be stored.
    pub const COMMIT_OFFSET: i32 = 0x1;
    /// Wait for messages when there are none.
    pub const SUSPEND: i32 = 0x2;
    /// The request carries its subscription.
    pub const SUBSCRIPTION: i32 = 0x4;
    /// Filtered by a class.
    pub const CLASS_FILTER: i32 = 0x8;
    /// A lite pull.
    pub const LITE_PULL: i32 = 0x10;
}

/// Bits of a topic's system flag.
pub mod topic_flag {
    /// A topic of a unit.
    pub const UNIT: i32 = 0x1;
    /// Subscribed from a unit.
    pub const UNIT_SUBSCRIBED: i32 = 0x2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_in_javas_words() {
        assert_eq!(check_topic(&"t".repeat(127)), Ok(()));
        assert_eq!(check_topic(&format!("%RETRY%{}", "g".repeat(248))), Ok(()));
        assert_eq!(check_group("%|aZ09_-"), Ok(()));
        let remark = |topic: &str| check_topic(topic).unwrap_err().to_string();
        assert_eq!(remark(" \t"), "The specified topic is blank.");
        assert_eq!(
            remark("a b"),
            "The specified topic: a b, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        );
        assert!(remark(&"t".repeat(128)).ends_with("is longer than topic max length: 127"));
        assert!(
            remark(&format!("%DLQ%{}", "g".repeat(251))).starts_with("The specified topic is DLQ")
        );
        assert!(check_group(&"g".repeat(121)).is_err());
    }

    #[test]
    fn system_topics_are_known() {
        assert!(is_system_topic("rmq_sys_REVIVE_LOG_DefaultCluster"));
        assert!(is_system_topic("TBW102") && !is_system_topic("%RETRY%g"));
        assert!(is_send_forbidden("SELF_TEST_TOPIC") && !is_send_forbidden("TBW102"));
        assert!(is_system_group("CID_RMQ_SYS_TRANS") && is_system_group("TOOLS_CONSUMER"));
    }
}
