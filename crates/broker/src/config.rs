//! The broker's options as keys and values: shown to administrators, and changed by them where that is safe.
//!
//! One table names every key, how it is written and, if it may change while the broker runs, what is allowed. A key
//! without that is fixed: names, addresses and bounds that tables were built with. What has changed is kept for the next
//! start by whoever composed the broker and knows its files ([`KeepConfig`]). (Java: `Configuration`)

use std::{
    collections::BTreeMap,
    fmt::Display,
    ops::RangeInclusive,
    str::FromStr,
    sync::{Mutex, OnceLock, PoisonError},
};

use wire::body::DataVersion;

use crate::{Broker, Options, api::ConfigError, blocking};

/// Keys that no one changes over the wire, whatever the configuration says (Java: `AdminBrokerProcessor`).
const BLACK_LIST: [&str; 3] = ["brokerConfigPath", "rocketmqHome", "configBlackList"];

/// Writes changed keys where the next start reads them, or says why it does not.
pub type KeepConfig = Box<dyn Fn(&BTreeMap<String, String>) -> Result<(), String> + Send + Sync>;

/// What belongs to the configuration beside the options themselves.
pub(crate) struct Config {
    /// Its lock is held while options are changed.
    version: Mutex<DataVersion>,
    keep: OnceLock<KeepConfig>,
}

impl Config {
    pub(crate) fn new(now: env::Millis) -> Config {
        let version = DataVersion { timestamp: now, ..DataVersion::default() };
        Config { version: Mutex::new(version), keep: OnceLock::new() }
    }
}

struct Key {
    name: &'static str,
    write: fn(&Options) -> String,
    change: Option<Change>,
}

/// How a live key is read.
#[derive(Clone, Copy)]
struct Change {
    /// Sets the option; false when the value is not allowed.
    read: fn(&mut Options, &str) -> bool,
    /// Says what is.
    allowed: fn() -> String,
}

/// `live` keys may change while the broker runs, `fixed` ones not.
macro_rules! keys {
    ($(live $live:literal $live_field:ident $allowed:expr;)* $(fixed $fixed:literal $fixed_field:ident;)*) => {
        &[
            $(Key {
                name: $live,
                write: |options| options.$live_field.to_string(),
                change: Some(Change {
                    read: |options, value| $allowed.read(&mut options.$live_field, value),
                    allowed: || Allowed::text(&$allowed),
                }),
            },)*
            $(Key {
                name: $fixed,
                write: |options| options.$fixed_field.to_string(),
                change: None,
            },)*
        ]
    };
}

const DAY_MS: u64 = 86_400_000;

// What is allowed here is what a file may say: the binary has a test for it.
const KEYS: &[Key] = keys! {
    live "brokerPermission" broker_permission 0..=6;
    live "autoCreateTopicEnable" auto_create_topic_enable Bool;
    live "enableMixedMessageType" enable_mixed_message_type Bool;
    live "autoCreateSubscriptionGroup" auto_create_subscription_group Bool;
    live "rejectTransactionMessage" reject_transaction_message Bool;
    live "transactionTimeOut" transaction_timeout 0..=DAY_MS;
    live "transactionCheckMax" transaction_check_max 0..=i32::MAX as u32;
    live "transactionCheckInterval" transaction_check_interval 100..=DAY_MS;
    live "transactionOpBatchInterval" transaction_op_batch_interval 0..=DAY_MS;
    live "transactionOpMsgMaxSize" transaction_op_msg_max_size 1..=16_384;
    live "transactionMetricFlushInterval" transaction_metric_flush_interval 100..=DAY_MS;
    live "startAcceptSendRequestTimeStamp" start_accept_send_at 0..=i64::MAX;
    live "longPollingEnable" long_polling_enable Bool;
    live "shortPollingTimeMills" short_polling_time 0..=DAY_MS;
    live "litePullMessageEnable" lite_pull_message_enable Bool;
    live "enablePropertyFilter" enable_property_filter Bool;
    live "filterSupportRetry" filter_support_retry Bool;
    live "filterDataCleanTimeSpan" filter_data_clean_time_span 0..=i64::MAX;
    live "enableCalcFilterBitMap" enable_calc_filter_bit_map Bool;
    live "rejectPullConsumerEnable" reject_pull_consumer_enable Bool;
    live "timerMaxDelaySec" timer_max_delay_sec 1..=i32::MAX;
    live "timerCongestNumEachSlot" timer_congest_num_each_slot 1..=i32::MAX;
    live "timerStopEnqueue" timer_stop_enqueue Bool;
    live "timerStopDequeue" timer_stop_dequeue Bool;
    live "timerSkipUnknownError" timer_skip_unknown_error Bool;
    live "recallMessageEnable" recall_message_enable Bool;
    live "allowRecallWhenBrokerNotWriteable" allow_recall_when_broker_not_writeable Bool;
    live "slaveReadEnable" slave_read_enable Bool;
    live "maxTransferBytesOnMessageInMemory" transfer_bytes_in_memory_max 1..=16_000_000;
    live "maxTransferCountOnMessageInMemory" transfer_count_in_memory_max 1..=100_000;
    live "maxTransferBytesOnMessageInDisk" transfer_bytes_on_disk_max 1..=16_000_000;
    live "maxTransferCountOnMessageInDisk" transfer_count_on_disk_max 1..=100_000;
    live "accessMessageInMemoryMaxRatio" in_memory_ratio 0..=100;
    live "maxFilterMessageSize" filter_message_size_max 20..=1_048_576;
    live "notifyConsumerIdsChangedEnable" notify_consumer_ids_changed_enable Bool;
    live "channelExpiredTimeout" channel_expired_timeout 1_000..=DAY_MS;
    live "flushConsumerOffsetInterval" flush_consumer_offset_interval 100..=DAY_MS;
    live "storeReplyMessageEnable" store_reply_message_enable Bool;
    live "useServerSideResetOffset" use_server_side_reset_offset Bool;
    fixed "brokerName" broker_name;
    fixed "brokerClusterName" cluster_name;
    fixed "brokerId" broker_id;
    fixed "regionId" region_id;
    fixed "traceOn" trace_on;
    fixed "traceTopicEnable" trace_topic_enable;
    fixed "msgTraceTopicName" trace_topic_name;
    fixed "serverTrace" server_trace;
    fixed "defaultTopicQueueNums" default_topic_queue_nums;
    fixed "clusterTopicEnable" cluster_topic_enable;
    fixed "brokerTopicEnable" broker_topic_enable;
    fixed "maxMessageSize" max_message_size;
    fixed "syncFlushTimeout" sync_flush_timeout;
    fixed "expectConsumerNumUseFilter" expect_consumer_num_use_filter;
    fixed "maxErrorRateOfBloomFilter" max_error_rate_of_bloom_filter;
    fixed "timerWheelEnable" timer_wheel_enable;
    fixed "timerPrecisionMs" timer_precision_ms;
    fixed "timerRollWindowSlot" timer_roll_window_slot;
    fixed "timerFlushIntervalMs" timer_flush_interval_ms;
    fixed "mappedFileSizeTimerLog" mapped_file_size_timer_log;
    fixed "appendTopicForTimerDeleteKey" append_topic_for_timer_delete_key;
    fixed "topicsMax" topics_max;
    fixed "topicQueuesMax" topic_queues_max;
    fixed "groupsMax" groups_max;
    fixed "clientsMax" clients_max;
    fixed "subscriptionsMax" subscriptions_max;
    fixed "filterExpressionBytesMax" filter_expression_bytes_max;
    fixed "filterBytesMax" filter_bytes_max;
    fixed "offsetsMax" offsets_max;
    fixed "locksMax" locks_max;
    fixed "parkedPullsMax" parked_pulls_max;
    fixed "serverTraceBytesMax" server_trace_bytes_max;
    fixed "storeReadableBy" store_readable_by;
    fixed "halfMessagesMax" half_messages_max;
    fixed "endedTransactionsMax" ended_transactions_max;
};

/// What values a live key takes.
trait Allowed<T> {
    fn read(&self, field: &mut T, value: &str) -> bool;
    fn text(&self) -> String;
}

impl<T: FromStr + PartialOrd + Display> Allowed<T> for RangeInclusive<T> {
    fn read(&self, field: &mut T, value: &str) -> bool {
        let value = value.parse().ok().filter(|value| self.contains(value));
        value.map(|value| *field = value).is_some()
    }

    fn text(&self) -> String {
        format!("a number from {} to {}", self.start(), self.end())
    }
}

struct Bool;

impl Allowed<bool> for Bool {
    fn read(&self, field: &mut bool, value: &str) -> bool {
        let value = value.to_ascii_lowercase().parse().ok();
        value.map(|value| *field = value).is_some()
    }

    fn text(&self) -> String {
        "true or false".into()
    }
}

/// Returns the keys that may change while the broker runs, each with what is allowed.
pub fn live_keys() -> impl Iterator<Item = (&'static str, String)> {
    KEYS.iter().filter_map(|key| Some((key.name, (key.change?.allowed)())))
}

/// What became of a change of the configuration, beside that it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The next start has it too.
    Yes,
    /// It is lost with the next start, for this reason.
    No(String),
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

    /// Returns which state of the configuration is in force; it counts changes since the start.
    pub fn config_version(&self) -> DataVersion {
        *self.inner.config.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has changes of the configuration kept for the next start; to be called once, before the first change.
    pub fn keep_config_with(&self, keep: KeepConfig) {
        let is_first = self.inner.config.keep.set(keep).is_ok();
        debug_assert!(is_first, "one place keeps the configuration");
    }

    /// Changes options: all of them or, on the first error, none; and has them kept for the next start if that can be. A
    /// change of permission counts as one of the topics, so that it is registered at once.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub async fn update_config(
        &self,
        mut changes: BTreeMap<String, String>,
    ) -> Result<Kept, ConfigError> {
        let broker = self.clone();
        changes.values_mut().for_each(|value| *value = value.trim().to_owned());
        blocking(move || broker.update_config_blocking(&changes)).await
    }

    fn update_config_blocking(
        &self,
        changes: &BTreeMap<String, String>,
    ) -> Result<Kept, ConfigError> {
        let inner = &*self.inner;
        let mut version = inner.config.version.lock().unwrap_or_else(PoisonError::into_inner);
        let options = inner.options.read();
        let mut changed = (*options).clone();
        for (name, value) in changes {
            let is_listed = options.config_black_list.iter().any(|listed| listed == name);
            if is_listed || BLACK_LIST.contains(&name.as_str()) {
                return Err(ConfigError::Forbidden(name.clone()));
            }
            let known = KEYS.iter().find(|key| key.name == name);
            let Some(change) = known.and_then(|key| key.change) else {
                return Err(ConfigError::Fixed(name.clone()));
            };
            if !(change.read)(&mut changed, value) {
                return Err(ConfigError::Invalid {
                    key: name.clone(),
                    value: value.clone(),
                    expected: (change.allowed)(),
                });
            }
        }
        let is_permission = options.broker_permission != changed.broker_permission;
        inner.options.set(changed);
        version.advance(inner.env.clock.now());
        if is_permission {
            inner.topics.touch();
        }
        let kept = match inner.config.keep.get() {
            Some(keep) => keep(changes),
            None => Err("the broker was started without a configuration file (-c FILE)".into()),
        };
        match kept {
            Ok(()) => {
                tracing::info!(?changes, "configuration changed");
                Ok(Kept::Yes)
            }
            Err(reason) => {
                tracing::warn!(?changes, reason, "configuration changed until the next start");
                Ok(Kept::No(reason))
            }
        }
    }
}
