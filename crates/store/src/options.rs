//! What can be set about the store: RocketMQ's keys with the original's defaults, and the bounds of our own.
//!
//! Values are checked where they are used ([`crate::Store::open`]); clamps that the original makes silently are made here
//! too ([`Options::used_ratio_for_expiry`] and its kin), so that the same file means the same.

use std::{path::PathBuf, time::Duration};

use crate::QueueKind;

/// When a log write is made durable (`flushDiskType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushDiskType {
    /// Acknowledged when the operating system has the bytes; synced every `flushIntervalCommitLog`.
    #[default]
    AsyncFlush,
    /// Acknowledged when the device has the bytes; everything that gathered during a sync shares the next.
    SyncFlush,
}

/// Options of a [`crate::Store`]. The key of RocketMQ is named where it differs from the field's name in more than case.
#[derive(Clone, Debug)]
pub struct Options {
    /// `storePathRootDir`: everything that has no path of its own lies below.
    pub store_path_root_dir: PathBuf,
    /// `storePathCommitLog`: roots of the log, `,` separated in the file; empty for `<root>/commitlog`.
    pub store_path_commit_log: Vec<PathBuf>,
    /// `readOnlyCommitLogStorePaths`: roots that are read but never get a new file.
    pub read_only_commit_log_store_paths: Vec<PathBuf>,
    /// `mappedFileSizeCommitLog`: bytes of a log file.
    pub mapped_file_size_commit_log: u64,
    /// `mappedFileSizeConsumeQueue`: bytes of a queue file; rounded up to a multiple of 20 when used.
    pub mapped_file_size_consume_queue: u64,
    /// `mapperFileSizeBatchConsumeQueue`: bytes of a file of a queue of batches; rounded up to a multiple of 46 when used.
    pub mapper_file_size_batch_consume_queue: u64,
    /// `enableConsumeQueueExt` (false): whether queue entries get a unit in the queue's extension.
    pub enable_consume_queue_ext: bool,
    /// `mappedFileSizeConsumeQueueExt`: bytes of a file of an extension.
    pub mapped_file_size_consume_queue_ext: u64,
    /// Whether messages go to the light queues that they name, too (`enableLmq` and `enableMultiDispatch`).
    pub serves_light_queues: bool,
    /// `flushDiskType`.
    pub flush_disk_type: FlushDiskType,
    /// `flushIntervalCommitLog` (500 ms): period of syncs under [`FlushDiskType::AsyncFlush`].
    pub flush_interval_commit_log: Duration,
    /// `flushIntervalConsumeQueue` (1000 ms): period of writing queue entries.
    pub flush_interval_consume_queue: Duration,
    /// `flushConsumeQueueThoroughInterval` (60 s): period of syncing everything that views wrote, and of the checkpoint.
    pub flush_consume_queue_thorough_interval: Duration,
    /// `maxMessageSize` (4 MiB): bytes of a body. A record may be 64 KiB longer, as in the original.
    pub max_message_size: u32,
    /// `checkCRCOnRecover` (true): whether recovery compares bodies with their CRC.
    pub check_crc_on_recover: bool,
    /// `messageDelayLevel` in milliseconds, level 1 first: the tags code of a delayed message is the time it is due.
    pub message_delay_level: Vec<i64>,
    /// `messageIndexEnable` (true): whether keys are indexed.
    pub message_index_enable: bool,
    /// `maxHashSlotNum` (5,000,000): slots of an index file.
    pub max_hash_slot_num: u32,
    /// `maxIndexNum` (20,000,000): entries of an index file.
    pub max_index_num: u32,
    /// `fileReservedTime` (72 h): age at which a log file may go.
    pub file_reserved_time: Duration,
    /// `deleteWhen` (`04`): hours of the local day in which expired files go.
    pub delete_when: Vec<u8>,
    /// `diskMaxUsedSpaceRatio` (75 %): above it expired files go at any hour.
    pub disk_max_used_space_ratio: u32,
    /// `diskSpaceCleanForciblyRatio` (85 %): above it the oldest files go whatever their age.
    pub disk_space_clean_forcibly_ratio: u32,
    /// `diskSpaceWarningLevelRatio` (90 %): above it the store takes no messages.
    pub disk_space_warning_level_ratio: u32,
    /// `cleanFileForciblyEnable` (true): whether the 85 % rule deletes.
    pub clean_file_forcibly_enable: bool,
    /// `deleteCommitLogFilesInterval` (100 ms): pause between deleted log files.
    pub delete_commit_log_files_interval: Duration,
    /// `cleanResourceInterval` (10 s): period of looking at age and disk.
    pub clean_resource_interval: Duration,

    /// Our own: most bytes that are appended and not yet written before appends are refused as busy.
    pub backlog_bytes_max: u64,
    /// Our own: bytes of the log's end kept in memory for readers beside what is not yet written.
    pub tail_bytes_max: u64,
    /// Our own: bytes of blocks kept for readers that follow the log behind its tail.
    pub block_cache_bytes_max: u64,
    /// Our own: bytes of log files above which the oldest go, whatever their age; `None` for no bound.
    pub log_bytes_max: Option<u64>,
    /// Our own: files of the store that are open at once; more are closed and opened again on use.
    pub open_files_max: usize,
    /// Our own: queue entries that wait in memory to be written, over all queues.
    pub queue_entries_pending_max: usize,
    /// Our own: messages whose dispatch data waits in memory; beyond it the dispatcher reads the log instead.
    pub dispatch_items_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        const SECOND: i64 = 1000;
        const MINUTE: i64 = 60 * SECOND;
        Options {
            store_path_root_dir: PathBuf::from("store"),
            store_path_commit_log: Vec::new(),
            read_only_commit_log_store_paths: Vec::new(),
            mapped_file_size_commit_log: 1 << 30,
            mapped_file_size_consume_queue: 6_000_000,
            mapper_file_size_batch_consume_queue: 13_800_000,
            enable_consume_queue_ext: false,
            mapped_file_size_consume_queue_ext: 48 << 20,
            serves_light_queues: false,
            flush_disk_type: FlushDiskType::AsyncFlush,
            flush_interval_commit_log: Duration::from_millis(500),
            flush_interval_consume_queue: Duration::from_millis(1000),
            flush_consume_queue_thorough_interval: Duration::from_secs(60),
            max_message_size: 4 << 20,
            check_crc_on_recover: true,
            message_delay_level: [1, 5, 10, 30]
                .map(|seconds| seconds * SECOND)
                .into_iter()
                .chain([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 60, 120].map(|m| m * MINUTE))
                .collect(),
            message_index_enable: true,
            max_hash_slot_num: 5_000_000,
            max_index_num: 20_000_000,
            file_reserved_time: Duration::from_secs(72 * 3600),
            delete_when: vec![4],
            disk_max_used_space_ratio: 75,
            disk_space_clean_forcibly_ratio: 85,
            disk_space_warning_level_ratio: 90,
            clean_file_forcibly_enable: true,
            delete_commit_log_files_interval: Duration::from_millis(100),
            clean_resource_interval: Duration::from_secs(10),
            backlog_bytes_max: 64 << 20,
            tail_bytes_max: 16 << 20,
            block_cache_bytes_max: 32 << 20,
            log_bytes_max: None,
            open_files_max: 4096,
            queue_entries_pending_max: 1 << 20,
            dispatch_items_max: 1 << 18,
        }
    }
}

impl Options {
    /// Returns the roots of the log that may get new files, in the order in which the original uses them.
    pub fn commit_log_roots(&self) -> Vec<PathBuf> {
        if self.store_path_commit_log.is_empty() {
            return vec![self.store_path_root_dir.join("commitlog")];
        }
        let mut roots = self.store_path_commit_log.clone();
        roots.retain(|root| !self.read_only_commit_log_store_paths.contains(root));
        roots.sort();
        roots.dedup();
        roots
    }

    /// Returns `<root>/config`, where tables lie.
    pub fn config_dir(&self) -> PathBuf {
        self.store_path_root_dir.join("config")
    }

    /// Returns the bytes of a file of a queue: whole entries (Java: `MessageStoreConfig.getMappedFileSizeConsumeQueue`).
    pub fn queue_file_len(&self, kind: QueueKind) -> u64 {
        let (asked, entry_len) = match kind {
            QueueKind::Simple => (self.mapped_file_size_consume_queue, kind.entry_len() as u64),
            QueueKind::Batch => {
                (self.mapper_file_size_batch_consume_queue, kind.entry_len() as u64)
            }
        };
        asked.div_ceil(entry_len).max(1) * entry_len
    }

    /// Returns the used share of the disk above which expired files go at any hour; 0.10 to 0.95 as in the original.
    pub fn used_ratio_for_expiry(&self) -> f64 {
        f64::from(self.disk_max_used_space_ratio.clamp(10, 95)) / 100.0
    }

    /// Returns the used share of the disk above which the oldest files go; 0.30 to 0.85 as in the original.
    pub fn used_ratio_for_force(&self) -> f64 {
        f64::from(self.disk_space_clean_forcibly_ratio.clamp(30, 85)) / 100.0
    }

    /// Returns the used share of the disk above which appends are refused; 0.35 to 0.90 as in the original.
    pub fn used_ratio_for_refusal(&self) -> f64 {
        f64::from(self.disk_space_warning_level_ratio.clamp(35, 90)) / 100.0
    }
}
