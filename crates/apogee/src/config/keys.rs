//! The declared table of keys: name, form, field, meaning. Files, environment, flags, messages and the reference page
//! all come from here; the default of a key is that of its field.

use super::{
    NeedClientAuth, ServerMode, Settings,
    form::{
        Bool, Chosen, DelayLevels, Flush, Form as _, HoursOfDay, Int, Name, OneOf, Path, Port,
        ReadableBy, Span, Text,
        Unit::{Hours, Millis, Seconds},
        Words,
    },
};

/// A key that has an effect.
pub(crate) struct Key {
    /// The key as a file has it.
    pub(crate) name: &'static str,
    /// What it means, for the reference page.
    pub(crate) doc: &'static str,
    /// Which of RocketMQ's, or one of our own.
    pub(crate) origin: Origin,
    /// What is allowed.
    pub(crate) allowed: fn() -> String,
    /// Sets the field; `false` when the text is not allowed.
    pub(super) set: fn(&mut Settings, &str) -> bool,
    /// The field as text.
    pub(crate) show: fn(&Settings) -> String,
}

/// Whose key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// RocketMQ's, and one that operators really set.
    Common,
    /// RocketMQ's.
    RocketMq,
    /// Ours.
    Own,
}

macro_rules! keys {
    ($($origin:ident $name:literal $($field:ident).+ = $form:expr, $doc:literal;)*) => {
        &[$(Key {
            name: $name,
            doc: $doc,
            origin: Origin::$origin,
            allowed: || allowed(&$form, |settings| &settings.$($field).+),
            set: |settings, text| match $form.parse(text) {
                Some(value) => {
                    settings.$($field).+ = value;
                    true
                }
                None => false,
            },
            show: |settings| $form.show(&settings.$($field).+),
        },)*]
    };
}

/// Names the form's type by the field's.
fn allowed<T, F: super::form::Form<T>>(form: &F, _field: fn(&Settings) -> &T) -> String {
    form.allowed()
}

const MODES: &[(&str, ServerMode)] = &[
    ("disabled", ServerMode::Disabled),
    ("permissive", ServerMode::Permissive),
    ("enforcing", ServerMode::Enforcing),
];
const CLIENT_AUTH: &[(&str, NeedClientAuth)] = &[
    ("none", NeedClientAuth::None),
    ("optional", NeedClientAuth::Optional),
    ("require", NeedClientAuth::Require),
];
const INT_MAX: i64 = i32::MAX as i64;
const DAY_MS: u64 = 86_400_000;
const GIB: i64 = 1 << 30;

/// Every key that has an effect, in the order of the reference page.
pub(crate) static KEYS: &[Key] = keys! {
    // who and where
    Common "brokerName" broker.broker_name = Name, "Name of the broker in routes. The host's name when called as `mqbroker` or with `-c`.";
    Common "brokerClusterName" broker.cluster_name = Name, "Name of the cluster.";
    Common "brokerId" broker.broker_id = Int(0, 0), "0, the master. Slaves are not served yet.";
    Common "namesrvAddr" registration.name_servers = Words(';'), "Name servers to register at, `host:port;host:port`. The environment's `NAMESRV_ADDR` where no file says otherwise. In the all-in-one process its own name server where nothing is said.";
    Common "bindAddress" process.bind_address = Text, "Host or address to listen on; `--listen`. All interfaces when called as `mqbroker` or `mqnamesrv`, or with `-c`.";
    Common "listenPort" process.listen_port = Port, "Port of the broker, and of a name server that runs alone. The broker also listens on this port less two (VIP channel).";
    Own "namesrvPort" process.namesrv_port = Int(0, 65_535), "Port of the name server that shares the broker's process; `--namesrv-port`.";
    Own "httpPort" process.http_port = Int(-1, 65_535), "Port of `/metrics` and `/health` in a broker's process; `--http-port`. 0 takes a free one, -1 none. Where nothing else is said a port in use is done without.";
    RocketMq "metricsPromExporterPort" process.http_port = Int(-1, 65_535), "The same as `httpPort`.";
    Own "httpAddress" process.http_address = Text, "Host or address of that port. Anybody who reaches it may read the names of topics and groups.";
    Own "metricsSeriesMax" process.metrics_series_max = Int(1, 1_000_000), "Topics, and groups on topics, whose metrics have series of their own; the others are added up.";
    Common "brokerIP1" process.advertise = Text, "Host or address that clients reach this broker by; `--advertise`. In routes, records and message ids.";
    RocketMq "registerNameServerPeriod" registration.register_name_server_period = Span(Millis, 10_000, 60_000), "Time between registrations at each name server.";
    RocketMq "registerBrokerTimeoutMills" registration.register_broker_timeout = Span(Millis, 1, DAY_MS), "How long a name server's answer is waited for.";
    RocketMq "forceRegister" registration.force_register = Bool, "Registers every time, not only after a change.";
    RocketMq "compressedRegister" registration.compressed_register = Bool, "Sends the table of topics deflated.";
    RocketMq "enableSingleTopicRegister" registration.enable_single_topic_register = Bool, "Tells of a changed topic alone.";
    RocketMq "kvConfigPath" namesrv.kv_config_path = Path, "File of the name server's KV configuration.";
    RocketMq "configStorePath" namesrv.config_store_path = Path, "File to which changed settings of the name server are written.";
    RocketMq "orderMessageEnable" namesrv.order_message_enable = Bool, "Routes carry the order configuration of their topic.";
    RocketMq "returnOrderTopicConfigToBroker" namesrv.return_order_topic_config_to_broker = Bool, "Brokers that register are told all order configurations.";
    RocketMq "scanNotActiveBrokerInterval" namesrv.scan_not_active_broker_interval = Span(Millis, 100, 3_600_000), "Time between looks for brokers that are silent.";
    RocketMq "supportActingMaster" namesrv.support_acting_master = Bool, "A slave with the smallest id stands in for the master in routes.";
    RocketMq "enableAllTopicList" namesrv.enable_all_topic_list = Bool, "Serves the list of all topics.";
    RocketMq "enableTopicList" namesrv.enable_topic_list = Bool, "Serves the other lists of topics.";
    RocketMq "needWaitForService" namesrv.need_wait_for_service = Bool, "Refuses routes for some time after the start.";
    RocketMq "waitSecondsForService" namesrv.wait_seconds_for_service = Int(0, DAY_MS as i64 / 1000), "That time in seconds.";
    RocketMq "deleteTopicWithBrokerRegistration" namesrv.delete_topic_with_broker_registration = Bool, "Forgets topics that have vanished from a registration.";

    // what may be sent and read
    RocketMq "brokerPermission" broker.broker_permission = Int(0, 6), "4 serves reads, 2 takes writes, 6 both.";
    Common "autoCreateTopicEnable" broker.auto_create_topic_enable = Bool, "A send to an unknown topic creates it from the template `TBW102`.";
    RocketMq "defaultTopicQueueNums" broker.default_topic_queue_nums = Int(1, 65_536), "Most queues of a topic created by a send.";
    Common "autoCreateSubscriptionGroup" broker.auto_create_subscription_group = Bool, "The first use of a group creates it.";
    RocketMq "enableMixedMessageType" broker.enable_mixed_message_type = Bool, "Topics may have the attribute `message.type=MIXED`.";
    RocketMq "clusterTopicEnable" broker.cluster_topic_enable = Bool, "The topic named after the cluster may be read and written.";
    RocketMq "brokerTopicEnable" broker.broker_topic_enable = Bool, "The topic named after the broker may be read and written.";
    RocketMq "storeReplyMessageEnable" broker.store_reply_message_enable = Bool, "A reply to a request is stored in its topic, too.";
    Common "traceTopicEnable" broker.trace_topic_enable = Bool, "Creates the topic for traces.";
    RocketMq "msgTraceTopicName" broker.trace_topic_name = Name, "Name of the topic for traces.";
    Own "serverTrace" broker.server_trace = Bool, "Writes traces into that topic for all clients, and tells them to write none. The original has no such thing: there a client traces, or nobody does.";
    RocketMq "traceOn" broker.trace_on = Bool, "`TRACE_ON` of messages, which clients ask for before they trace.";
    RocketMq "regionId" broker.region_id = Name, "`MSG_REGION` of messages.";
    Common "maxMessageSize" broker.max_message_size = Int(1, 16_000_000), "Bytes of a body, and of a batch's body.";
    RocketMq "rejectTransactionMessage" broker.reject_transaction_message = Bool, "Refuses transactional sends.";
    Common "transactionTimeOut" broker.transaction_timeout = Int(0, DAY_MS as i64), "Age in milliseconds at which the producer of a half message is asked what became of it.";
    Common "transactionCheckMax" broker.transaction_check_max = Int(0, INT_MAX), "How often it is asked before the half message goes to `TRANS_CHECK_MAX_TIME_TOPIC`.";
    Common "transactionCheckInterval" broker.transaction_check_interval = Int(100, DAY_MS as i64), "Milliseconds between two rounds of asking.";
    RocketMq "transactionOpBatchInterval" broker.transaction_op_batch_interval = Int(0, DAY_MS as i64), "Milliseconds that the end of a transaction waits for others before `RMQ_SYS_TRANS_OP_HALF_TOPIC` is told of it.";
    RocketMq "transactionOpMsgMaxSize" broker.transaction_op_msg_max_size = Int(1, 16_384), "Bytes of offsets in one message of that topic.";
    RocketMq "transactionMetricFlushInterval" broker.transaction_metric_flush_interval = Int(100, DAY_MS as i64), "Milliseconds between writes of `transactionMetrics`.";
    RocketMq "startAcceptSendRequestTimeStamp" broker.start_accept_send_at = Int(0, i64::MAX), "Sends before this time (milliseconds since 1970) are refused.";
    Common "messageDelayLevel" broker.delay_levels = DelayLevels, "Delay of each level, from level 1 on.";
    RocketMq "flushDelayOffsetInterval" broker.flush_delay_offset_interval = Int(100, DAY_MS as i64), "Milliseconds between writes of `delayOffset.json`.";
    Common "enablePropertyFilter" broker.enable_property_filter = Bool, "Serves SQL92 subscriptions. `false` when called as `mqbroker` or with `-c`, as in the original.";
    RocketMq "filterSupportRetry" broker.filter_support_retry = Bool, "A condition on a retry topic is the group's on each message's real topic.";
    RocketMq "filterDataCleanTimeSpan" broker.filter_data_clean_time_span = Int(0, i64::MAX), "Milliseconds that the condition of a group that is gone is kept.";
    RocketMq "enableCalcFilterBitMap" broker.enable_calc_filter_bit_map = Bool, "Notes for each message which groups' conditions it fulfils, so that pulls need not look at those it does not; needs `enableConsumeQueueExt`.";
    Own "codeFiltersMax" broker.code_filters_max = Int(1, 100_000), "Modules that may be attached to topics and groups.";
    Own "codeFilterModuleBytesMax" broker.code_filter_module_bytes_max = Int(1, 64 << 20), "Bytes of such a module.";
    Own "codeFilterFuelMax" broker.code_filter_fuel_max = Int(1, i64::MAX), "Instructions, roughly, that a module may take for a message; 1,000,000 are a few milliseconds.";
    Own "codeFilterMemoryMax" broker.code_filter_memory_max = Int(65_536, 1 << 30), "Bytes of memory that a module may have for a message.";
    RocketMq "enableLmq" broker.enable_lmq = Bool, "Serves light queues: names that begin with `%LMQ%` are topics of one queue, and groups, that need not be created.";
    RocketMq "enableMultiDispatch" broker.enable_multi_dispatch = Bool, "With `enableLmq`: a message goes to the light queues that its property `INNER_MULTI_DISPATCH` names, too.";
    RocketMq "maxLmqConsumeQueueNum" broker.max_lmq_consume_queue_num = Int(1, INT_MAX), "Light queues that there may be; the original does not look at it.";
    RocketMq "expectConsumerNumUseFilter" broker.expect_consumer_num_use_filter = Int(1, 100_000), "Groups with a condition on one topic, for which those notes are sized.";
    RocketMq "maxErrorRateOfBloomFilter" broker.max_error_rate_of_bloom_filter = Int(1, 99), "Percent of messages that they let through for nothing with that many.";
    Common "timerWheelEnable" broker.timer_wheel_enable = Bool, "Serves messages that are due at a time of their own.";
    Common "timerMaxDelaySec" broker.timer_max_delay_sec = Int(1, INT_MAX), "Seconds that such a time may lie ahead.";
    RocketMq "timerPrecisionMs" broker.timer_precision_ms = OneOf(&[100, 200, 500, 1000]), "Milliseconds of a slot of the timer wheel; that of a wheel in which messages wait.";
    RocketMq "timerRollWindowSlot" broker.timer_roll_window_slot = Int(2, 604_740), "Slots ahead that a message is put at most before it goes back to the timer topic; two thirds of `fileReservedTime` at most in effect.";
    RocketMq "timerFlushIntervalMs" broker.timer_flush_interval_ms = Int(1, DAY_MS as i64), "Milliseconds between saves of the timers.";
    RocketMq "timerCongestNumEachSlot" broker.timer_congest_num_each_slot = Int(1, INT_MAX), "Messages of one slot above which some are refused, and all above twice as many.";
    RocketMq "timerStopEnqueue" broker.timer_stop_enqueue = Bool, "Leaves new timer messages in their topic.";
    RocketMq "timerStopDequeue" broker.timer_stop_dequeue = Bool, "Leaves due timer messages in their slots.";
    RocketMq "timerSkipUnknownError" broker.timer_skip_unknown_error = Bool, "Passes over timer messages that cannot be read, instead of trying again.";
    RocketMq "mappedFileSizeTimerLog" broker.mapped_file_size_timer_log = Int(4_096, INT_MAX), "Bytes of a timer log file; that of the files there are.";
    Common "recallMessageEnable" broker.recall_message_enable = Bool, "Lets producers cancel timer messages. `false` when called as `mqbroker` or with `-c`, as in the original.";
    RocketMq "allowRecallWhenBrokerNotWriteable" broker.allow_recall_when_broker_not_writeable = Bool, "Also while the broker takes no sends.";
    RocketMq "appendTopicForTimerDeleteKey" broker.append_topic_for_timer_delete_key = Bool, "A mark of deletion names its message by topic and key; either is understood.";
    RocketMq "longPollingEnable" broker.long_polling_enable = Bool, "Holds a pull that finds nothing for as long as the client asks.";
    RocketMq "shortPollingTimeMills" broker.short_polling_time = Int(0, DAY_MS as i64), "Milliseconds to hold it otherwise.";
    RocketMq "litePullMessageEnable" broker.lite_pull_message_enable = Bool, "Serves lite pulls.";
    RocketMq "rejectPullConsumerEnable" broker.reject_pull_consumer_enable = Bool, "Refuses pull consumers that have not registered by a heartbeat.";
    RocketMq "slaveReadEnable" broker.slave_read_enable = Bool, "Suggests a slave to consumers that lag.";
    RocketMq "maxTransferBytesOnMessageInMemory" broker.transfer_bytes_in_memory_max = Int(1, 16_000_000), "Bytes of one pull near the end of the log.";
    RocketMq "maxTransferCountOnMessageInMemory" broker.transfer_count_in_memory_max = Int(1, 100_000), "Messages of one pull near the end of the log.";
    RocketMq "maxTransferBytesOnMessageInDisk" broker.transfer_bytes_on_disk_max = Int(1, 16_000_000), "Bytes of one pull further back.";
    RocketMq "maxTransferCountOnMessageInDisk" broker.transfer_count_on_disk_max = Int(1, 100_000), "Messages of one pull further back.";
    Common "accessMessageInMemoryMaxRatio" broker.in_memory_ratio = Int(0, 100), "Percent of the machine's memory that counts as near the end of the log.";
    RocketMq "maxFilterMessageSize" broker.filter_message_size_max = Int(20, 1 << 20), "Bytes of queue entries that one filtered pull looks at.";
    RocketMq "notifyConsumerIdsChangedEnable" broker.notify_consumer_ids_changed_enable = Bool, "Tells consumers when their group changes.";
    RocketMq "channelExpiredTimeout" broker.channel_expired_timeout = Int(1_000, DAY_MS as i64), "Milliseconds a client without heartbeat stays.";
    RocketMq "flushConsumerOffsetInterval" broker.flush_consumer_offset_interval = Int(100, DAY_MS as i64), "Milliseconds between writes of `consumerOffset.json`.";
    RocketMq "useServerSideResetOffset" broker.use_server_side_reset_offset = Bool, "A reset of offsets waits on the broker for the next pull.";
    RocketMq "configBlackList" broker.config_black_list = Words(';'), "Keys that may not be changed over the wire, besides those that never may.";

    // the store
    Common "storePathRootDir" store.store_path_root_dir = Path, "Root of all files; `--data`. `~/store` when called as `mqbroker` or with `-c`.";
    Common "storePathCommitLog" store.store_path_commit_log = Words(','), "Roots of the commit log; `<root>/commitlog` where nothing is said.";
    RocketMq "readOnlyCommitLogStorePaths" store.read_only_commit_log_store_paths = Words(','), "Roots of the commit log that are read and get no new file.";
    Common "mappedFileSizeCommitLog" store.mapped_file_size_commit_log = Int(4_096, INT_MAX), "Bytes of a commit log file; that of the files there are.";
    RocketMq "mappedFileSizeConsumeQueue" store.mapped_file_size_consume_queue = Int(20, INT_MAX), "Bytes of a consume queue file, rounded up to a multiple of 20; that of the files there are.";
    RocketMq "mapperFileSizeBatchConsumeQueue" store.mapper_file_size_batch_consume_queue = Int(46, INT_MAX), "Bytes of a file of a queue of batches (`queue.type=BatchCQ`), rounded up to a multiple of 46; that of the files there are.";
    RocketMq "enableConsumeQueueExt" store.enable_consume_queue_ext = Bool, "Keeps tag, store time and bit map of each message in `consumequeue_ext`; what is there is read in any case.";
    RocketMq "mappedFileSizeConsumeQueueExt" store.mapped_file_size_consume_queue_ext = Int(64, INT_MAX), "Bytes of a file there; that of the files there are.";
    Common "flushDiskType" store.flush_disk_type = Flush, "When a send is answered: with its bytes handed to the operating system, or on the device.";
    Own "storeReadableBy" broker.store_readable_by = ReadableBy, "The oldest release of RocketMQ that is to open the store after Apogee. For 4.9.7 each end of a transaction has a message of its own in `RMQ_SYS_TRANS_OP_HALF_TOPIC`, and timer messages and topics of more than 127 bytes are refused.";
    RocketMq "syncFlushTimeout" broker.sync_flush_timeout = Int(1, DAY_MS as i64), "Milliseconds that a send waits for the device.";
    RocketMq "flushIntervalCommitLog" store.flush_interval_commit_log = Span(Millis, 1, DAY_MS), "Time between syncs of the log under ASYNC_FLUSH.";
    RocketMq "flushIntervalConsumeQueue" store.flush_interval_consume_queue = Span(Millis, 1, DAY_MS), "Time between writes of queue entries.";
    RocketMq "flushConsumeQueueThoroughInterval" store.flush_consume_queue_thorough_interval = Span(Millis, 1, DAY_MS), "Time between syncs of all views, and checkpoints.";
    RocketMq "checkCRCOnRecover" store.check_crc_on_recover = Bool, "Recovery compares bodies with their CRC.";
    RocketMq "messageIndexEnable" store.message_index_enable = Bool, "Indexes messages by their keys.";
    RocketMq "maxHashSlotNum" store.max_hash_slot_num = Int(1, 100_000_000), "Slots of an index file; that of the files there are.";
    RocketMq "maxIndexNum" store.max_index_num = Int(2, 100_000_000), "Entries of an index file; that of the files there are.";
    Common "fileReservedTime" store.file_reserved_time = Span(Hours, 0, 1_000_000), "Age at which a log file may be deleted.";
    Common "deleteWhen" store.delete_when = HoursOfDay, "Hours of the local day in which expired files are deleted.";
    Common "diskMaxUsedSpaceRatio" store.disk_max_used_space_ratio = Int(1, 100), "Percent of the disk above which expired files are deleted at any hour; 10 to 95 in effect.";
    Common "diskSpaceCleanForciblyRatio" store.disk_space_clean_forcibly_ratio = Int(1, 100), "Percent of the disk above which the oldest files are deleted whatever their age; 30 to 85 in effect.";
    Common "diskSpaceWarningLevelRatio" store.disk_space_warning_level_ratio = Int(1, 100), "Percent of the disk above which sends are refused; 35 to 90 in effect.";
    RocketMq "cleanFileForciblyEnable" store.clean_file_forcibly_enable = Bool, "Whether the oldest files are deleted whatever their age.";
    RocketMq "deleteCommitLogFilesInterval" store.delete_commit_log_files_interval = Span(Millis, 0, DAY_MS), "Pause between deleted log files.";
    RocketMq "cleanResourceInterval" store.clean_resource_interval = Span(Millis, 100, DAY_MS), "Time between looks at age and disk.";

    // connections
    RocketMq "serverChannelMaxIdleTimeSeconds" limits.idle_timeout = Span(Seconds, 1, 1_000_000), "Silence after which a connection is closed.";
    Own "connectionsMax" limits.connections_max = Int(1, 10_000_000), "Connections of one port; more are closed at once.";
    Own "frameBytesMax" limits.frame_bytes_max = Int(1_024, 1 << 30), "Bytes of one frame; a longer one closes its connection.";
    Own "frameTimeoutMs" limits.frame_timeout = Span(Millis, 100, DAY_MS), "How long a frame may take from its first byte to its last.";
    Own "drainTimeoutMs" limits.drain_timeout = Span(Millis, 100, DAY_MS), "How long answers may wait for a peer that does not read.";
    Own "requestsInFlightMax" limits.requests_in_flight_max = Int(1, 10_000_000), "Unanswered requests of one connection before its reading pauses.";
    Own "requestsInFlightTotalMax" limits.requests_in_flight_total_max = Int(1, 100_000_000), "Unanswered requests of all connections.";
    Own "readBytesTotalMax" limits.read_bytes_total_max = Int(1 << 20, 1 << 40), "Bytes of read buffers of all connections.";
    Own "outboundBytesPause" limits.outbound_bytes_pause = Int(1_024, GIB), "Unsent bytes of one connection before its reading pauses.";
    Own "outboundBytesTotalMax" limits.outbound_bytes_total_max = Int(1 << 20, 1 << 40), "Unsent bytes of all connections; beyond it the most blocked are closed.";

    // TLS
    Common "tls.server.mode" tls.server_mode = Chosen(MODES), "What name server and broker do about TLS, on the ports of plain text: `permissive` serves both once there is a certificate, `enforcing` closes who begins in plain text, `disabled` who begins with TLS.";
    Common "tls.server.certPath" tls.server_cert_path = Path, "File of their certificate chain, PEM, the own certificate first. Without one there is no TLS; the original then makes one that nobody can trust (`tls.test.mode.enable`). Read again when it changes, and so are the two below.";
    Common "tls.server.keyPath" tls.server_key_path = Path, "File of its private key, PEM, not encrypted.";
    RocketMq "tls.server.trustCertPath" tls.server_trust_cert_path = Path, "File of certificates, PEM, that vouch for those of clients.";
    RocketMq "tls.server.need.client.auth" tls.server_need_client_auth = Chosen(CLIENT_AUTH), "Whether clients are asked for a certificate; one that is shown is always verified, as in the original with `tls.server.authClient=true`.";
    Common "tls.enable" tls.enable = Bool, "A broker registers at name servers over TLS.";
    RocketMq "tls.client.authServer" tls.client_auth_server = Bool, "It verifies their certificates, which have to name the host in `namesrvAddr`.";
    RocketMq "tls.client.trustCertPath" tls.client_trust_cert_path = Path, "File of certificates, PEM, that vouch for those; where none is named, those that the machine trusts do.";
    RocketMq "tls.client.certPath" tls.client_cert_path = Path, "File of the certificate chain that it shows to name servers which ask for one.";
    RocketMq "tls.client.keyPath" tls.client_key_path = Path, "File of the private key of that.";

    // memory and tables
    Own "backlogBytesMax" store.backlog_bytes_max = Int(1 << 20, 1 << 40), "Bytes appended and not yet written before sends are refused as busy.";
    Own "tailBytesMax" store.tail_bytes_max = Int(1 << 20, 1 << 40), "Bytes of the log's end that are kept in memory for readers.";
    Own "blockCacheBytesMax" store.block_cache_bytes_max = Int(1 << 20, 1 << 40), "Bytes of blocks kept for readers behind the tail.";
    Own "openFilesMax" store.open_files_max = Int(16, 10_000_000), "Files of the store that are open at once.";
    Own "queueEntriesPendingMax" store.queue_entries_pending_max = Int(1_024, 1 << 30), "Queue entries that wait in memory to be written.";
    Own "dispatchItemsMax" store.dispatch_items_max = Int(1_024, 1 << 30), "Messages whose dispatch data waits in memory.";
    Own "topicsMax" broker.topics_max = Int(1, 10_000_000), "Topics.";
    Own "topicQueuesMax" broker.topic_queues_max = Int(1, 1_000_000), "Queues of one topic.";
    Own "groupsMax" broker.groups_max = Int(1, 10_000_000), "Consumer groups.";
    Own "clientsMax" broker.clients_max = Int(1, 100_000_000), "Clients, counted once for each group they are in.";
    Own "subscriptionsMax" broker.subscriptions_max = Int(1, 10_000_000), "Topics that one group subscribes to.";
    Own "filterExpressionBytesMax" broker.filter_expression_bytes_max = Int(64, 1 << 20), "Bytes of one SQL92 expression.";
    Own "filterBytesMax" broker.filter_bytes_max = Int(1_024, 1 << 30), "Bytes of the SQL92 expressions of all groups.";
    Own "offsetsMax" broker.offsets_max = Int(1, 1_000_000_000), "Consumer offsets.";
    Own "locksMax" broker.locks_max = Int(1, 100_000_000), "Queue locks.";
    Own "halfMessagesMax" broker.half_messages_max = Int(1, 100_000_000), "Half messages that wait for their end.";
    Own "endedTransactionsMax" broker.ended_transactions_max = Int(1_000, 100_000_000), "Ended transactions whose end is remembered, so that it can be repeated and not reversed.";
    Own "parkedPullsMax" broker.parked_pulls_max = Int(1, 100_000_000), "Pulls that wait for a message.";
    Own "serverTraceBytesMax" broker.server_trace_bytes_max = Int(1 << 20, 1 << 40), "Bytes of traces that wait to be written, and of messages whose consumption is traced; what is more is lost.";
    Own "workerThreads" process.worker_threads = Int(0, 1_024), "Threads for sockets and rules; 0 for one for each core, at most 16.";
};

/// RocketMQ's own keys, all of them: those without an effect here are told from misspelt ones by this list.
static ORIGINAL: &str = include_str!("original_keys.txt");

/// Finds a key that has an effect.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether RocketMQ knows the key.
pub(crate) fn is_original(name: &str) -> bool {
    ORIGINAL.lines().any(|line| line == name)
}

/// Why a key with this value cannot be served: it would keep data, or open doors, in a way that is not what the
/// operator asked for. `None` when it can.
pub(crate) fn refusal(name: &str, value: &str) -> Option<&'static str> {
    const ROCKSDB: &str =
        "RocksDB is not used here; queues, timers and configuration stay in the original's files";
    const AUTH: &str =
        "access control is not served yet, and a broker that ignored it would be open";
    const REPLICAS: &str = "replication is not served yet";
    let on = value.eq_ignore_ascii_case("true");
    match name {
        "storeType" if value.split(';').any(|kind| kind.trim() != "default") => Some(ROCKSDB),
        "configManagerVersion" if value != "v1" => Some(ROCKSDB),
        "timerWheelSnapshotFlush" if on => {
            Some("snapshots of the timer wheel are not read here; let 5.5.0 stop once with it off")
        }
        "timerRocksDBEnable"
        | "transRocksDBEnable"
        | "indexRocksDBEnable"
        | "rocksdbCQDoubleWriteEnable"
        | "popConsumerKVServiceEnable"
        | "popConsumerKVServiceInit"
        | "useSingleRocksDBForAllConfigs"
            if on =>
        {
            Some(ROCKSDB)
        }
        "authenticationEnabled"
        | "authorizationEnabled"
        | "aclEnable"
        | "migrateAuthFromV1Enabled"
            if on =>
        {
            Some(AUTH)
        }
        "tls.server.keyPassword" | "tls.client.keyPassword" if !value.is_empty() => {
            Some("encrypted keys are not read here; `openssl pkey -in KEY -out PLAIN` decrypts one")
        }
        "brokerRole" if value != "ASYNC_MASTER" => Some(REPLICAS),
        "enableDLegerCommitLog"
        | "enableControllerMode"
        | "enableSlaveActingMaster"
        | "enableControllerInNamesrv"
            if on =>
        {
            Some(REPLICAS)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_there_once_and_says_whose_it_is() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(
                KEYS[at + 1..].iter().all(|other| other.name != key.name),
                "{} is there twice",
                key.name
            );
            assert_eq!(is_original(key.name), key.origin != Origin::Own, "{}", key.name);
        }
    }

    #[test]
    fn what_may_be_changed_at_run_time_is_what_a_file_may_say() {
        for (name, allowed) in broker::live_keys() {
            let key = find(name).unwrap_or_else(|| panic!("{name} is no key"));
            assert_eq!((key.allowed)(), allowed, "{name}");
        }
    }

    #[test]
    fn every_default_is_allowed() {
        let settings = Settings::default();
        for key in KEYS {
            let text = (key.show)(&settings);
            assert!(
                (key.set)(&mut Settings::default(), &text) || text.is_empty(),
                "{}={text}",
                key.name
            );
        }
    }
}
