//! Codes of the remoting protocol: what a request asks, how a response ended, who speaks.
//!
//! The lists are those of RocketMQ 5.5.0, read from its classes (`RequestCode`, `ResponseCode`,
//! `RemotingSysResponseCode`, `LanguageCode`). A code is a newtype, not an enum: peers send codes
//! that nobody here knows, and the door answers those by number.

/// Defines a newtype over a number with its known values and their names.
macro_rules! codes {
    ($(#[$doc:meta])* $type:ident($int:ty) { $($value:literal $name:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub $int);

        #[allow(missing_docs, reason = "the protocol's names speak for themselves")]
        impl $type {
            $(pub const $name: $type = $type($value);)*

            /// Every value that 5.5.0 knows, in ascending order.
            pub const ALL: &'static [$type] = &[$($type::$name,)*];

            /// Java's name of the value, if 5.5.0 knows it.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }

        impl From<$type> for $int {
            fn from(code: $type) -> $int {
                code.0
            }
        }

        impl std::fmt::Display for $type {
            /// The name and the number, or the number alone.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{name}({})", self.0),
                    None => write!(f, "{}", self.0),
                }
            }
        }
    };
}

codes! {
    /// What a request asks for (Java: `RequestCode`).
    RequestCode(i32) {
        10 SEND_MESSAGE,
        11 PULL_MESSAGE,
        12 QUERY_MESSAGE,
        13 QUERY_BROKER_OFFSET,
        14 QUERY_CONSUMER_OFFSET,
        15 UPDATE_CONSUMER_OFFSET,
        17 UPDATE_AND_CREATE_TOPIC,
        18 UPDATE_AND_CREATE_TOPIC_LIST,
        21 GET_ALL_TOPIC_CONFIG,
        22 GET_TOPIC_CONFIG_LIST,
        23 GET_TOPIC_NAME_LIST,
        25 UPDATE_BROKER_CONFIG,
        26 GET_BROKER_CONFIG,
        27 TRIGGER_DELETE_FILES,
        28 GET_BROKER_RUNTIME_INFO,
        29 SEARCH_OFFSET_BY_TIMESTAMP,
        30 GET_MAX_OFFSET,
        31 GET_MIN_OFFSET,
        32 GET_EARLIEST_MSG_STORETIME,
        33 VIEW_MESSAGE_BY_ID,
        34 HEART_BEAT,
        35 UNREGISTER_CLIENT,
        36 CONSUMER_SEND_MSG_BACK,
        37 END_TRANSACTION,
        38 GET_CONSUMER_LIST_BY_GROUP,
        39 CHECK_TRANSACTION_STATE,
        40 NOTIFY_CONSUMER_IDS_CHANGED,
        41 LOCK_BATCH_MQ,
        42 UNLOCK_BATCH_MQ,
        43 GET_ALL_CONSUMER_OFFSET,
        45 GET_ALL_DELAY_OFFSET,
        46 CHECK_CLIENT_CONFIG,
        47 GET_CLIENT_CONFIG,
        60 GET_TIMER_CHECK_POINT,
        61 GET_TIMER_METRICS,
        100 PUT_KV_CONFIG,
        101 GET_KV_CONFIG,
        102 DELETE_KV_CONFIG,
        103 REGISTER_BROKER,
        104 UNREGISTER_BROKER,
        105 GET_ROUTEINFO_BY_TOPIC,
        106 GET_BROKER_CLUSTER_INFO,
        200 UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
        201 GET_ALL_SUBSCRIPTIONGROUP_CONFIG,
        202 GET_TOPIC_STATS_INFO,
        203 GET_CONSUMER_CONNECTION_LIST,
        204 GET_PRODUCER_CONNECTION_LIST,
        205 WIPE_WRITE_PERM_OF_BROKER,
        206 GET_ALL_TOPIC_LIST_FROM_NAMESERVER,
        207 DELETE_SUBSCRIPTIONGROUP,
        208 GET_CONSUME_STATS,
        209 SUSPEND_CONSUMER,
        210 RESUME_CONSUMER,
        211 RESET_CONSUMER_OFFSET_IN_CONSUMER,
        212 RESET_CONSUMER_OFFSET_IN_BROKER,
        213 ADJUST_CONSUMER_THREAD_POOL,
        214 WHO_CONSUME_THE_MESSAGE,
        215 DELETE_TOPIC_IN_BROKER,
        216 DELETE_TOPIC_IN_NAMESRV,
        217 REGISTER_TOPIC_IN_NAMESRV,
        219 GET_KVLIST_BY_NAMESPACE,
        220 RESET_CONSUMER_CLIENT_OFFSET,
        221 GET_CONSUMER_STATUS_FROM_CLIENT,
        222 INVOKE_BROKER_TO_RESET_OFFSET,
        223 INVOKE_BROKER_TO_GET_CONSUMER_STATUS,
        224 GET_TOPICS_BY_CLUSTER,
        225 UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST,
        300 QUERY_TOPIC_CONSUME_BY_WHO,
        301 REGISTER_FILTER_SERVER,
        302 REGISTER_MESSAGE_FILTER_CLASS,
        303 QUERY_CONSUME_TIME_SPAN,
        304 GET_SYSTEM_TOPIC_LIST_FROM_NS,
        305 GET_SYSTEM_TOPIC_LIST_FROM_BROKER,
        306 CLEAN_EXPIRED_CONSUMEQUEUE,
        307 GET_CONSUMER_RUNNING_INFO,
        308 QUERY_CORRECTION_OFFSET,
        309 CONSUME_MESSAGE_DIRECTLY,
        310 SEND_MESSAGE_V2,
        311 GET_UNIT_TOPIC_LIST,
        312 GET_HAS_UNIT_SUB_TOPIC_LIST,
        313 GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST,
        314 CLONE_GROUP_OFFSET,
        315 VIEW_BROKER_STATS_DATA,
        316 CLEAN_UNUSED_TOPIC,
        317 GET_BROKER_CONSUME_STATS,
        318 UPDATE_NAMESRV_CONFIG,
        319 GET_NAMESRV_CONFIG,
        320 SEND_BATCH_MESSAGE,
        321 QUERY_CONSUME_QUEUE,
        322 QUERY_DATA_VERSION,
        323 RESUME_CHECK_HALF_MESSAGE,
        324 SEND_REPLY_MESSAGE,
        325 SEND_REPLY_MESSAGE_V2,
        326 PUSH_REPLY_MESSAGE_TO_CLIENT,
        327 ADD_WRITE_PERM_OF_BROKER,
        328 GET_ALL_PRODUCER_INFO,
        329 DELETE_EXPIRED_COMMITLOG,
        343 QUERY_TOPICS_BY_CONSUMER,
        345 QUERY_SUBSCRIPTION_BY_CONSUMER,
        351 GET_TOPIC_CONFIG,
        352 GET_SUBSCRIPTIONGROUP_CONFIG,
        353 UPDATE_AND_GET_GROUP_FORBIDDEN,
        354 CHECK_ROCKSDB_CQ_WRITE_PROGRESS,
        355 EXPORT_ROCKSDB_CONFIG_TO_JSON,
        361 LITE_PULL_MESSAGE,
        370 RECALL_MESSAGE,
        400 QUERY_ASSIGNMENT,
        401 SET_MESSAGE_REQUEST_MODE,
        402 GET_ALL_MESSAGE_REQUEST_MODE,
        513 UPDATE_AND_CREATE_STATIC_TOPIC,
        901 GET_BROKER_MEMBER_GROUP,
        902 ADD_BROKER,
        903 REMOVE_BROKER,
        904 BROKER_HEARTBEAT,
        905 NOTIFY_MIN_BROKER_ID_CHANGE,
        906 EXCHANGE_BROKER_HA_INFO,
        907 GET_BROKER_HA_STATUS,
        908 RESET_MASTER_FLUSH_OFFSET,
        1001 CONTROLLER_ALTER_SYNC_STATE_SET,
        1002 CONTROLLER_ELECT_MASTER,
        1003 CONTROLLER_REGISTER_BROKER,
        1004 CONTROLLER_GET_REPLICA_INFO,
        1005 CONTROLLER_GET_METADATA_INFO,
        1006 CONTROLLER_GET_SYNC_STATE_DATA,
        1007 GET_BROKER_EPOCH_CACHE,
        1008 NOTIFY_BROKER_ROLE_CHANGED,
        1009 UPDATE_CONTROLLER_CONFIG,
        1010 GET_CONTROLLER_CONFIG,
        1011 CLEAN_BROKER_DATA,
        1012 CONTROLLER_GET_NEXT_BROKER_ID,
        1013 CONTROLLER_APPLY_BROKER_ID,
        1014 BROKER_CLOSE_CHANNEL_REQUEST,
        1015 CHECK_NOT_ACTIVE_BROKER_REQUEST,
        1016 GET_BROKER_LIVE_INFO_REQUEST,
        1017 GET_SYNC_STATE_DATA_REQUEST,
        1018 RAFT_BROKER_HEART_BEAT_EVENT_REQUEST,
        2001 UPDATE_COLD_DATA_FLOW_CTR_CONFIG,
        2002 REMOVE_COLD_DATA_FLOW_CTR_CONFIG,
        2003 GET_COLD_DATA_FLOW_CTR_INFO,
        2004 SET_COMMITLOG_READ_MODE,
        3001 AUTH_CREATE_USER,
        3002 AUTH_UPDATE_USER,
        3003 AUTH_DELETE_USER,
        3004 AUTH_GET_USER,
        3005 AUTH_LIST_USER,
        3006 AUTH_CREATE_ACL,
        3007 AUTH_UPDATE_ACL,
        3008 AUTH_DELETE_ACL,
        3009 AUTH_GET_ACL,
        3010 AUTH_LIST_ACL,
        5001 SWITCH_TIMER_ENGINE,
        200_050 POP_MESSAGE,
        200_051 ACK_MESSAGE,
        200_052 PEEK_MESSAGE,
        200_053 CHANGE_MESSAGE_INVISIBLETIME,
        200_054 NOTIFICATION,
        200_055 POLLING_INFO,
        200_056 POP_ROLLBACK,
        200_070 POP_LITE_MESSAGE,
        200_071 LITE_SUBSCRIPTION_CTL,
        200_072 ACK_LITE_MESSAGE,
        200_073 NOTIFY_UNSUBSCRIBE_LITE,
        200_074 GET_BROKER_LITE_INFO,
        200_075 GET_PARENT_TOPIC_INFO,
        200_076 GET_LITE_TOPIC_INFO,
        200_077 GET_LITE_CLIENT_INFO,
        200_078 GET_LITE_GROUP_INFO,
        200_079 TRIGGER_LITE_DISPATCH,
        200_151 BATCH_ACK_MESSAGE,
    }
}

codes! {
    /// How a request ended (Java: `RemotingSysResponseCode`, `ResponseCode`).
    ResponseCode(i32) {
        -1006 RPC_TIME_OUT,
        -1004 RPC_SEND_TO_CHANNEL_FAILED,
        -1002 RPC_ADDR_IS_NULL,
        -1000 RPC_UNKNOWN,
        0 SUCCESS,
        1 SYSTEM_ERROR,
        2 SYSTEM_BUSY,
        3 REQUEST_CODE_NOT_SUPPORTED,
        4 TRANSACTION_FAILED,
        10 FLUSH_DISK_TIMEOUT,
        11 SLAVE_NOT_AVAILABLE,
        12 FLUSH_SLAVE_TIMEOUT,
        13 MESSAGE_ILLEGAL,
        14 SERVICE_NOT_AVAILABLE,
        15 VERSION_NOT_SUPPORTED,
        16 NO_PERMISSION,
        17 TOPIC_NOT_EXIST,
        18 TOPIC_EXIST_ALREADY,
        19 PULL_NOT_FOUND,
        20 PULL_RETRY_IMMEDIATELY,
        21 PULL_OFFSET_MOVED,
        22 QUERY_NOT_FOUND,
        23 SUBSCRIPTION_PARSE_FAILED,
        24 SUBSCRIPTION_NOT_EXIST,
        25 SUBSCRIPTION_NOT_LATEST,
        26 SUBSCRIPTION_GROUP_NOT_EXIST,
        27 FILTER_DATA_NOT_EXIST,
        28 FILTER_DATA_NOT_LATEST,
        29 INVALID_PARAMETER,
        200 TRANSACTION_SHOULD_COMMIT,
        201 TRANSACTION_SHOULD_ROLLBACK,
        202 TRANSACTION_STATE_UNKNOW,
        203 TRANSACTION_STATE_GROUP_WRONG,
        204 NO_BUYER_ID,
        205 NOT_IN_CURRENT_UNIT,
        206 CONSUMER_NOT_ONLINE,
        207 CONSUME_MSG_TIMEOUT,
        208 NO_MESSAGE,
        209 POLLING_FULL,
        210 POLLING_TIMEOUT,
        211 BROKER_NOT_EXIST,
        212 BROKER_DISPATCH_NOT_COMPLETE,
        213 BROADCAST_CONSUMPTION,
        215 FLOW_CONTROL,
        501 NOT_LEADER_FOR_QUEUE,
        604 ILLEGAL_OPERATION,
        1500 GO_AWAY,
        2000 CONTROLLER_FENCED_MASTER_EPOCH,
        2001 CONTROLLER_FENCED_SYNC_STATE_SET_EPOCH,
        2002 CONTROLLER_INVALID_MASTER,
        2003 CONTROLLER_INVALID_REPLICAS,
        2004 CONTROLLER_MASTER_NOT_AVAILABLE,
        2005 CONTROLLER_INVALID_REQUEST,
        2006 CONTROLLER_BROKER_NOT_ALIVE,
        2007 CONTROLLER_NOT_LEADER,
        2008 CONTROLLER_BROKER_METADATA_NOT_EXIST,
        2009 CONTROLLER_INVALID_CLEAN_BROKER_METADATA,
        2010 CONTROLLER_BROKER_NEED_TO_BE_REGISTERED,
        2011 CONTROLLER_MASTER_STILL_EXIST,
        2012 CONTROLLER_ELECT_MASTER_FAILED,
        2013 CONTROLLER_ALTER_SYNC_STATE_SET_FAILED,
        2014 CONTROLLER_BROKER_ID_INVALID,
        2015 CONTROLLER_JRAFT_INTERNAL_ERROR,
        2016 CONTROLLER_BROKER_LIVE_INFO_NOT_EXISTS,
        2017 LMQ_QUOTA_EXCEEDED,
        2018 LITE_SUBSCRIPTION_QUOTA_EXCEEDED,
        3001 USER_NOT_EXIST,
        3002 POLICY_NOT_EXIST,
    }
}

codes! {
    /// The language a peer says it is written in (Java: `LanguageCode`); unknown ones are kept.
    Language(u8) {
        0 JAVA,
        1 CPP,
        2 DOTNET,
        3 PYTHON,
        4 DELPHI,
        5 ERLANG,
        6 RUBY,
        7 OTHER,
        8 HTTP,
        9 GO,
        10 PHP,
        11 OMS,
        12 RUST,
        13 NODE_JS,
    }
}

impl Language {
    /// The language called `name`, or [`Language::OTHER`].
    pub fn from_name(name: &str) -> Language {
        let known = Language::ALL.iter().find(|language| language.name() == Some(name));
        known.copied().unwrap_or(Language::OTHER)
    }
}

/// Protocol versions: ordinals of Java's `MQVersion.Version`.
pub mod version {
    /// 5.5.0, the version this server says it is.
    pub const OURS: i32 = 513;
    /// From here on consumers can be set to offsets, and asked for theirs (3.0.7-SNAPSHOT).
    pub const V3_0_7: i32 = 28;
    /// From here on consumers can be asked how they are doing (3.1.8-SNAPSHOT).
    pub const V3_1_8: i32 = 62;
    /// From here on brokers register with the `RegisterBrokerBody` form (3.0.11).
    pub const V3_0_11: i32 = 37;
    /// From here on clients set `maxReconsumeTimes` (3.4.9).
    pub const V3_4_9: i32 = 121;
    /// From here on clients read standard JSON in routes (4.9.4).
    pub const V4_9_4: i32 = 401;
    /// From here on registrations carry queue mappings (5.0.0).
    pub const V5_0_0: i32 = 413;

    /// Java's name of a version since 4.0.0, as `V5_5_0`; older ones are named by number.
    pub fn name(version: i32) -> String {
        let since = version - 212;
        if !(0..400).contains(&since) {
            return format!("V{version}");
        }
        let (release, snapshot) = (since / 2, since % 2 == 0);
        let (major, minor, patch) = (4 + release / 100, release / 10 % 10, release % 10);
        let suffix = if snapshot { "_SNAPSHOT" } else { "" };
        format!("V{major}_{minor}_{patch}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_javas_names_and_are_all_known() {
        assert_eq!(RequestCode::SEND_MESSAGE_V2.to_string(), "SEND_MESSAGE_V2(310)");
        assert_eq!(RequestCode(9999).to_string(), "9999");
        assert_eq!(RequestCode::ALL.len(), 169);
        assert_eq!(ResponseCode::ALL.len(), 68);
        assert!(RequestCode::ALL.is_sorted() && ResponseCode::ALL.is_sorted());
    }

    #[test]
    fn versions_have_javas_names() {
        assert_eq!(version::name(version::OURS), "V5_5_0");
        assert_eq!(version::name(212), "V4_0_0_SNAPSHOT");
        assert_eq!(version::name(version::V4_9_4), "V4_9_4");
    }

    #[test]
    fn unknown_languages_do_not_fail() {
        assert_eq!(Language::from_name("GO"), Language::GO);
        assert_eq!(Language::from_name("ZIG"), Language::OTHER);
        assert_eq!(Language(77).name(), None);
    }
}
