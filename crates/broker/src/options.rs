//! What can be set about the rules: RocketMQ's keys where it has them, and the bounds that are ours.
//!
//! The struct is plain; reading files, flags and environment into it is the binary's business. Fields that an
//! administrator may change while the broker runs are listed in `admin.rs`.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

use env::Millis;
use wire::names;

/// A release of RocketMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The one whose formats are written.
    V5_5_0,
    /// The last one before timers, records of version 2 and entries for several ends in the op queue of transactions.
    V4_9_7,
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Release::V5_5_0 => "5.5.0",
            Release::V4_9_7 => "4.9.7",
        })
    }
}

impl FromStr for Release {
    type Err = ();

    fn from_str(text: &str) -> Result<Release, ()> {
        [Release::V5_5_0, Release::V4_9_7]
            .into_iter()
            .find(|release| release.to_string() == text)
            .ok_or(())
    }
}

/// Options of the broker's rules. `Default` is RocketMQ's, field by field, and then ours.
#[derive(Debug, Clone)]
pub struct Options {
    /// `brokerName`: the name of this broker set in routes.
    pub broker_name: String,
    /// `brokerClusterName`.
    pub cluster_name: String,
    /// `brokerId`: 0 is the master.
    pub broker_id: i64,
    /// `brokerIP1` and `listenPort`: the address in records, message ids and remarks.
    pub store_host: SocketAddr,
    /// `brokerPermission`: 2 takes sends, 4 serves pulls.
    pub broker_permission: i32,
    /// `regionId`: the `MSG_REGION` property of every message.
    pub region_id: String,
    /// `traceOn`: the `TRACE_ON` property of every message.
    pub trace_on: bool,
    /// `storeReplyMessageEnable` (true): replies are stored beside being pushed.
    pub store_reply_message_enable: bool,
    /// `traceTopicEnable`: create the topic for traces.
    pub trace_topic_enable: bool,
    /// `msgTraceTopicName`: its name.
    pub trace_topic_name: String,
    /// Our own, `serverTrace`: write traces instead of the clients, which are told to write none.
    pub server_trace: bool,

    /// `defaultTopicQueueNums`: queues of the template topic `TBW102`.
    pub default_topic_queue_nums: i32,
    /// `autoCreateTopicEnable`: a send to an unknown topic creates it.
    pub auto_create_topic_enable: bool,
    /// `enableMixedMessageType`: topics may have the attribute `message.type=MIXED`.
    pub enable_mixed_message_type: bool,
    /// `clusterTopicEnable`: the topic named after the cluster may be read and written.
    pub cluster_topic_enable: bool,
    /// `brokerTopicEnable`: the same for the topic named after the broker.
    pub broker_topic_enable: bool,
    /// `autoCreateSubscriptionGroup`: the first heartbeat, pull or commit of a group creates it.
    pub auto_create_subscription_group: bool,
    /// `maxMessageSize`: bytes of a body, and of a batch's body.
    pub max_message_size: usize,
    /// `rejectTransactionMessage`.
    pub reject_transaction_message: bool,
    /// `transactionTimeOut`: age at which the producer of a half message is asked, ms.
    pub transaction_timeout: u64,
    /// `transactionCheckMax`: how often it is asked before the half message is given up.
    pub transaction_check_max: u32,
    /// `transactionCheckInterval`: time between two rounds of asking, ms.
    pub transaction_check_interval: u64,
    /// `transactionOpBatchInterval`: how long an end may wait for others before the op queue is told of it, ms.
    pub transaction_op_batch_interval: u64,
    /// `transactionOpMsgMaxSize`: bytes of offsets in one op entry.
    pub transaction_op_msg_max_size: usize,
    /// `transactionMetricFlushInterval`: time between two writes of `transactionMetrics`, ms.
    pub transaction_metric_flush_interval: u64,
    /// The oldest release that is to open the store after us.
    pub store_readable_by: Release,
    /// `fileReservedTime`: age at which a half message is given up, since its record may go, ms. Follows the store's.
    pub file_reserved_time: i64,
    /// `messageIndexEnable`: whether a final message can be found by its key. Follows the store's.
    pub message_index_enable: bool,
    /// `startAcceptSendRequestTimeStamp`: no sends before this time.
    pub start_accept_send_at: Millis,
    /// `flushDiskType=SYNC_FLUSH`: a send is answered once its bytes are on the device.
    pub sync_flush: bool,
    /// `syncFlushTimeout`: how long a send waits for that, ms.
    pub sync_flush_timeout: u64,
    /// `messageDelayLevel`: the delay of each level, from level 1 on, ms.
    pub delay_levels: Vec<i64>,
    /// `flushDelayOffsetInterval`: how often `delayOffset.json` is written, ms.
    pub flush_delay_offset_interval: u64,

    /// `timerWheelEnable`: serve messages that are due at a time of their own.
    pub timer_wheel_enable: bool,
    /// `timerMaxDelaySec`: how far ahead such a time may lie, s.
    pub timer_max_delay_sec: i32,
    /// `timerPrecisionMs`: span of a slot of the timer wheel, ms.
    pub timer_precision_ms: i64,
    /// `timerRollWindowSlot`: how many slots ahead a message is put at most before it goes back to the timer topic.
    pub timer_roll_window_slot: i32,
    /// `timerFlushIntervalMs`: how often the timers are saved, ms.
    pub timer_flush_interval_ms: u64,
    /// `timerCongestNumEachSlot`: messages of one slot above which some are refused, and all above twice as many.
    pub timer_congest_num_each_slot: i32,
    /// `timerStopEnqueue`: leave new timer messages in their topic.
    pub timer_stop_enqueue: bool,
    /// `timerStopDequeue`: leave due timer messages in their slots.
    pub timer_stop_dequeue: bool,
    /// `timerSkipUnknownError`: pass over timer messages that cannot be read, instead of trying again.
    pub timer_skip_unknown_error: bool,
    /// `mappedFileSizeTimerLog`: bytes of a timer log file.
    pub mapped_file_size_timer_log: u64,
    /// `recallMessageEnable`: let producers cancel timer messages.
    pub recall_message_enable: bool,
    /// `allowRecallWhenBrokerNotWriteable`: also without write permission.
    pub allow_recall_when_broker_not_writeable: bool,
    /// `appendTopicForTimerDeleteKey`: a mark of deletion names its message by topic and key instead of the key.
    pub append_topic_for_timer_delete_key: bool,

    /// `longPollingEnable`: hold a pull that finds nothing.
    pub long_polling_enable: bool,
    /// `shortPollingTimeMills`: how long it is held otherwise, ms.
    pub short_polling_time: u64,
    /// `litePullMessageEnable`.
    pub lite_pull_message_enable: bool,
    /// `enablePropertyFilter`: serve SQL92 expressions.
    pub enable_property_filter: bool,
    /// `filterSupportRetry`: a condition on a retry topic is that on each message's real topic.
    pub filter_support_retry: bool,
    /// `filterDataCleanTimeSpan`: how long the condition of a group that is gone is kept, ms.
    pub filter_data_clean_time_span: Millis,
    /// `enableCalcFilterBitMap`: say in the queue's extension which groups' conditions a message fulfils.
    pub enable_calc_filter_bit_map: bool,
    /// Our own, `codeFiltersMax`: modules that may be attached.
    pub code_filters_max: usize,
    /// Our own, `codeFilterModuleBytesMax`: bytes of a module.
    pub code_filter_module_bytes_max: usize,
    /// Our own, `codeFilterFuelMax`: instructions, roughly, that a module may take for a message.
    pub code_filter_fuel_max: u64,
    /// Our own, `codeFilterMemoryMax`: bytes of memory that a module may have for a message.
    pub code_filter_memory_max: usize,
    /// `enableLmq`: names that begin with `%LMQ%` are light queues and groups of their consumers.
    pub enable_lmq: bool,
    /// `enableMultiDispatch`: with it messages go to the light queues that they name.
    pub enable_multi_dispatch: bool,
    /// `maxLmqConsumeQueueNum`: light queues that there may be.
    pub max_lmq_consume_queue_num: usize,
    /// `expectConsumerNumUseFilter`: groups with a condition on one topic, for which those bit maps are sized.
    pub expect_consumer_num_use_filter: u32,
    /// `maxErrorRateOfBloomFilter`: percent of false positives with that many.
    pub max_error_rate_of_bloom_filter: u32,
    /// `rejectPullConsumerEnable`: ignore consumers of type `CONSUME_ACTIVELY`.
    pub reject_pull_consumer_enable: bool,
    /// `slaveReadEnable`: send slow consumers to a slave.
    pub slave_read_enable: bool,
    /// `maxTransferBytesOnMessageInMemory`.
    pub transfer_bytes_in_memory_max: usize,
    /// `maxTransferCountOnMessageInMemory`.
    pub transfer_count_in_memory_max: usize,
    /// `maxTransferBytesOnMessageInDisk`.
    pub transfer_bytes_on_disk_max: usize,
    /// `maxTransferCountOnMessageInDisk`.
    pub transfer_count_on_disk_max: usize,
    /// `accessMessageInMemoryMaxRatio`: percent of the machine's memory that counts as near the end of the log.
    pub in_memory_ratio: u64,
    /// Memory of the machine, or of the control group, in bytes; 0 when unknown: then all of the log counts as near.
    pub memory_bytes: u64,
    /// `maxFilterMessageSize`: bytes of queue entries that one filtered pull looks at, at least.
    pub filter_message_size_max: usize,

    /// `notifyConsumerIdsChangedEnable`: tell consumers when their group changes.
    pub notify_consumer_ids_changed_enable: bool,
    /// `channelExpiredTimeout`: how long a client without heartbeat stays, ms.
    pub channel_expired_timeout: u64,
    /// `flushConsumerOffsetInterval`: how often `consumerOffset.json` is written, ms.
    pub flush_consumer_offset_interval: u64,
    /// `useServerSideResetOffset`: a reset waits on the broker for the next pull.
    pub use_server_side_reset_offset: bool,
    /// `rocketmq.broker.rebalance.lockMaxLiveTime`: lease of a queue lock, ms.
    pub lock_lease: u64,
    /// Keys of other parts of the process, and unknown ones: shown beside the rules' own, and never changed.
    pub kept: BTreeMap<String, String>,
    /// `configBlackList`: keys that may not be changed over the wire, besides those that never may.
    pub config_black_list: Vec<String>,

    /// Bound: topics.
    pub topics_max: usize,
    /// Bound: queues of one topic.
    pub topic_queues_max: i32,
    /// Bound: subscription groups.
    pub groups_max: usize,
    /// Bound: clients, counted once for each group they are in.
    pub clients_max: usize,
    /// Bound: topics that one group subscribes to.
    pub subscriptions_max: usize,
    /// Bound: bytes of one SQL92 expression.
    pub filter_expression_bytes_max: usize,
    /// Bound: bytes of the expressions of all groups, with some for each entry.
    pub filter_bytes_max: usize,
    /// Bound: consumer offsets, one for each topic, group and queue.
    pub offsets_max: usize,
    /// Bound: queue locks.
    pub locks_max: usize,
    /// Bound: pulls that wait for a message.
    pub parked_pulls_max: usize,
    /// Bound: bytes of traces that wait to be written, and of messages whose consumption is traced.
    pub server_trace_bytes_max: usize,
    /// Bound: half messages that wait for their end.
    pub half_messages_max: usize,
    /// Bound: ended transactions whose end is remembered, so that it can be repeated and not reversed.
    pub ended_transactions_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            broker_name: "DEFAULT_BROKER".into(),
            cluster_name: "DefaultCluster".into(),
            broker_id: 0,
            store_host: SocketAddr::from((Ipv4Addr::LOCALHOST, 10911)),
            broker_permission: 6,
            region_id: "DefaultRegion".into(),
            trace_on: true,
            store_reply_message_enable: true,
            trace_topic_enable: false,
            trace_topic_name: "RMQ_SYS_TRACE_TOPIC".into(),
            server_trace: false,
            default_topic_queue_nums: 8,
            auto_create_topic_enable: true,
            enable_mixed_message_type: false,
            cluster_topic_enable: true,
            broker_topic_enable: true,
            auto_create_subscription_group: true,
            max_message_size: 4 << 20,
            reject_transaction_message: false,
            transaction_timeout: 6_000,
            transaction_check_max: 15,
            transaction_check_interval: 30_000,
            transaction_op_batch_interval: 3_000,
            transaction_op_msg_max_size: 4_096,
            transaction_metric_flush_interval: 10_000,
            store_readable_by: Release::V5_5_0,
            file_reserved_time: 72 * 3_600_000,
            message_index_enable: true,
            start_accept_send_at: 0,
            sync_flush: false,
            sync_flush_timeout: 5_000,
            delay_levels: parse_delay_levels(DELAY_LEVELS)
                .expect("the default levels are well formed"),
            flush_delay_offset_interval: 10_000,
            timer_wheel_enable: true,
            timer_max_delay_sec: 259_200,
            timer_precision_ms: 1_000,
            timer_roll_window_slot: 172_800,
            timer_flush_interval_ms: 1_000,
            timer_congest_num_each_slot: i32::MAX,
            timer_stop_enqueue: false,
            timer_stop_dequeue: false,
            timer_skip_unknown_error: false,
            mapped_file_size_timer_log: 100 << 20,
            recall_message_enable: false,
            allow_recall_when_broker_not_writeable: true,
            append_topic_for_timer_delete_key: false,
            long_polling_enable: true,
            short_polling_time: 1_000,
            lite_pull_message_enable: true,
            enable_property_filter: false,
            filter_support_retry: false,
            filter_data_clean_time_span: 86_400_000,
            enable_calc_filter_bit_map: false,
            code_filters_max: 64,
            code_filter_module_bytes_max: 1 << 20,
            code_filter_fuel_max: 1_000_000,
            code_filter_memory_max: 8 << 20,
            enable_lmq: false,
            enable_multi_dispatch: false,
            max_lmq_consume_queue_num: 20_000,
            expect_consumer_num_use_filter: 32,
            max_error_rate_of_bloom_filter: 20,
            reject_pull_consumer_enable: false,
            slave_read_enable: false,
            transfer_bytes_in_memory_max: 262_144,
            transfer_count_in_memory_max: 32,
            transfer_bytes_on_disk_max: 65_536,
            transfer_count_on_disk_max: 8,
            in_memory_ratio: 40,
            memory_bytes: 0,
            filter_message_size_max: 16_000,
            notify_consumer_ids_changed_enable: true,
            channel_expired_timeout: 120_000,
            flush_consumer_offset_interval: 5_000,
            use_server_side_reset_offset: true,
            lock_lease: 60_000,
            kept: BTreeMap::new(),
            config_black_list: Vec::new(),
            topics_max: 100_000,
            topic_queues_max: 65_536,
            groups_max: 50_000,
            clients_max: 200_000,
            subscriptions_max: 10_000,
            filter_expression_bytes_max: 32 << 10,
            filter_bytes_max: 16 << 20,
            offsets_max: 4_000_000,
            locks_max: 1_000_000,
            parked_pulls_max: 200_000,
            server_trace_bytes_max: 64 << 20,
            half_messages_max: 2_000_000,
            ended_transactions_max: 200_000,
        }
    }
}

impl Options {
    /// Says whether each end of a transaction gets an op entry of its own at once: where wished for, and where a final
    /// message without op entry could not be found by its key after a crash.
    pub(crate) fn is_op_per_message(&self) -> bool {
        self.is_for_4_9_7() || !self.message_index_enable
    }

    /// Says whether clients that can are to write traces.
    pub fn asks_for_traces(&self) -> bool {
        self.trace_on && !self.server_trace
    }

    /// Says whether only what 4.9.7 reads may be written.
    pub(crate) fn is_for_4_9_7(&self) -> bool {
        self.store_readable_by == Release::V4_9_7
    }

    /// Says what is wrong with a topic for whom the store is to be readable: the record of a long name is of version 2,
    /// at which 4.9.7 cuts the log.
    pub(crate) fn check_readable(&self, topic: &str) -> Result<(), String> {
        let (len, max) = (topic.len(), names::TOPIC_LEN_MAX);
        if len <= max || !self.is_for_4_9_7() {
            return Ok(());
        }
        Err(format!(
            "the name of topic {topic} has {len} bytes, and 4.9.7 reads none of more than {max} (storeReadableBy=4.9.7); choose a shorter topic or group"
        ))
    }

    /// Returns how far behind the log's end a message still counts as near, in bytes (Java: "in memory").
    pub(crate) fn near_bytes(&self) -> u64 {
        match self.memory_bytes {
            0 => u64::MAX,
            memory => memory / 100 * self.in_memory_ratio,
        }
    }
}

/// `messageDelayLevel` as the original sets it.
pub const DELAY_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

/// Reads a `messageDelayLevel`: numbers with a unit (`s`, `m`, `h`, `d`), separated by spaces.
///
/// # Errors
/// Returns the first word that is none.
pub fn parse_delay_levels(text: &str) -> Result<Vec<i64>, String> {
    text.split_whitespace()
        .map(|word| {
            let unit = match word.as_bytes().last() {
                Some(b's') => 1_000,
                Some(b'm') => 60_000,
                Some(b'h') => 3_600_000,
                Some(b'd') => 86_400_000,
                Some(_) | None => return Err(word.to_owned()),
            };
            let number: i64 = word[..word.len() - 1].parse().map_err(|_| word.to_owned())?;
            number.checked_mul(unit).filter(|delay| *delay >= 0).ok_or_else(|| word.to_owned())
        })
        .collect()
}
