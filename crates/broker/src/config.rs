//! The broker's options as keys and values: shown to administrators, and changed by them where that is safe.
//!
//! One table names every key, how it is written and, if it may change while the broker runs, how it is read. A key
//! without a reader is fixed: names, addresses and bounds that tables were built with.

use std::{collections::BTreeMap, str::FromStr};

use crate::{Broker, Options, api::ConfigError};

/// Keys that no one changes over the wire, whatever the configuration says (Java: `AdminBrokerProcessor`).
const BLACK_LIST: [&str; 3] = ["brokerConfigPath", "rocketmqHome", "configBlackList"];

/// Sets an option from a value, or says what would fit.
type Reader = fn(&mut Options, &str) -> Result<(), &'static str>;

struct Key {
    name: &'static str,
    write: fn(&Options) -> String,
    read: Option<Reader>,
}

/// `live` keys may change while the broker runs, `fixed` ones not.
macro_rules! keys {
    ($(live $live:literal $live_field:ident $expected:literal $check:expr;)* $(fixed $fixed:literal $fixed_field:ident;)*) => {
        &[
            $(Key {
                name: $live,
                write: |options| options.$live_field.to_string(),
                read: Some(|options, value| parse(&mut options.$live_field, value, $check, $expected)),
            },)*
            $(Key {
                name: $fixed,
                write: |options| options.$fixed_field.to_string(),
                read: None,
            },)*
        ]
    };
}

const KEYS: &[Key] = keys! {
    live "brokerPermission" broker_permission "2, 4 or 6" |value| matches!(value, 2 | 4 | 6);
    live "autoCreateTopicEnable" auto_create_topic_enable "true or false" any;
    live "autoCreateSubscriptionGroup" auto_create_subscription_group "true or false" any;
    live "rejectTransactionMessage" reject_transaction_message "true or false" any;
    live "startAcceptSendRequestTimeStamp" start_accept_send_at "ms since the epoch" any;
    live "longPollingEnable" long_polling_enable "true or false" any;
    live "shortPollingTimeMills" short_polling_time "ms, from 1" |value| *value > 0;
    live "litePullMessageEnable" lite_pull_message_enable "true or false" any;
    live "rejectPullConsumerEnable" reject_pull_consumer_enable "true or false" any;
    live "slaveReadEnable" slave_read_enable "true or false" any;
    live "maxTransferBytesOnMessageInMemory" transfer_bytes_in_memory_max "bytes, up to 64 MiB" |value| *value <= TRANSFER_BYTES_MAX;
    live "maxTransferCountOnMessageInMemory" transfer_count_in_memory_max "1 to 1024" |value| (1..=1024).contains(value);
    live "maxTransferBytesOnMessageInDisk" transfer_bytes_on_disk_max "bytes, up to 64 MiB" |value| *value <= TRANSFER_BYTES_MAX;
    live "maxTransferCountOnMessageInDisk" transfer_count_on_disk_max "1 to 1024" |value| (1..=1024).contains(value);
    live "accessMessageInMemoryMaxRatio" in_memory_ratio "percent, 1 to 100" |value| (1..=100).contains(value);
    live "maxFilterMessageSize" filter_message_size_max "bytes, up to 1 MiB" |value| *value <= 1 << 20;
    live "notifyConsumerIdsChangedEnable" notify_consumer_ids_changed_enable "true or false" any;
    live "channelExpiredTimeout" channel_expired_timeout "ms, from 1000" |value| *value >= 1_000;
    live "flushConsumerOffsetInterval" flush_consumer_offset_interval "ms, from 100" |value| *value >= 100;
    live "useServerSideResetOffset" use_server_side_reset_offset "true or false" any;
    fixed "brokerName" broker_name;
    fixed "brokerClusterName" cluster_name;
    fixed "brokerId" broker_id;
    fixed "regionId" region_id;
    fixed "traceOn" trace_on;
    fixed "traceTopicEnable" trace_topic_enable;
    fixed "msgTraceTopicName" trace_topic_name;
    fixed "defaultTopicQueueNums" default_topic_queue_nums;
    fixed "clusterTopicEnable" cluster_topic_enable;
    fixed "brokerTopicEnable" broker_topic_enable;
    fixed "maxMessageSize" max_message_size;
    fixed "syncFlushTimeout" sync_flush_timeout;
    fixed "enablePropertyFilter" enable_property_filter;
    fixed "topicsMax" topics_max;
    fixed "topicQueuesMax" topic_queues_max;
    fixed "groupsMax" groups_max;
    fixed "clientsMax" clients_max;
    fixed "subscriptionsMax" subscriptions_max;
    fixed "offsetsMax" offsets_max;
    fixed "locksMax" locks_max;
    fixed "parkedPullsMax" parked_pulls_max;
};

/// A pull answers from one outbound buffer: no administrator's typing slip may make it a gigabyte.
const TRANSFER_BYTES_MAX: usize = 64 << 20;

fn any<T>(_: &T) -> bool {
    true
}

fn parse<T: FromStr>(
    field: &mut T,
    value: &str,
    is_allowed: impl Fn(&T) -> bool,
    expected: &'static str,
) -> Result<(), &'static str> {
    *field = value.trim().parse().ok().filter(is_allowed).ok_or(expected)?;
    Ok(())
}

impl Broker {
    /// Returns the keys and values in force.
    pub fn config(&self) -> BTreeMap<String, String> {
        let options = self.inner.options.read();
        let mut config = options.kept.clone();
        config.extend(KEYS.iter().map(|key| (key.name.to_owned(), (key.write)(&options))));
        config.insert("brokerIP1".into(), options.store_host.ip().to_string());
        config.insert("listenPort".into(), options.store_host.port().to_string());
        let flush = if options.sync_flush { "SYNC_FLUSH" } else { "ASYNC_FLUSH" };
        config.insert("flushDiskType".into(), flush.into());
        config
    }

    /// Changes options: all of them or, on the first error, none. A change of permission counts as one of the topics,
    /// so that it is registered at once.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn update_config(&self, changes: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        let mut options = self.inner.options.write();
        let mut changed = options.clone();
        for (name, value) in changes {
            let is_listed = options.config_black_list.iter().any(|listed| listed == name);
            if is_listed || BLACK_LIST.contains(&name.as_str()) {
                return Err(ConfigError::Forbidden(name.clone()));
            }
            let known = KEYS.iter().find(|key| key.name == name);
            let Some(read) = known.and_then(|key| key.read) else {
                return Err(ConfigError::Fixed(name.clone()));
            };
            read(&mut changed, value).map_err(|expected| ConfigError::Invalid {
                key: name.clone(),
                value: value.clone(),
                expected,
            })?;
        }
        let is_permission = options.broker_permission != changed.broker_permission;
        *options = changed;
        drop(options);
        if is_permission {
            self.inner.topics.touch();
        }
        tracing::info!(?changes, "configuration changed");
        Ok(())
    }
}
