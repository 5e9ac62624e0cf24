//! The checkpoint: what is durable, in the 4096-byte file that RocketMQ keeps it in (Java: `StoreCheckpoint` of 5.5.0).
//!
//! ```text
//!    0  long  store time of the last synced record
//!    8  long  store time of the last record whose queue entry is synced
//!   16  long  end time of the last full, synced index file
//!   24  long  offset that the master had flushed
//!   32  long  confirmed offset
//!   40  long  start of a record: every queue entry of an earlier one is synced (0 = unknown; absent before 5.5.0)
//! 2048  int   0x41504F47 "APOG", then int 1
//! 2056  long  log offset up to which the log is synced
//! 2064  long  log offset up to which every view is synced
//! 2072  int   CRC-32 of bytes 0..48 and 2048..2072
//! ```
//! Java reads and writes the first 48 bytes only and carries the rest along, so the second part tells by its CRC whether
//! Java has written since; then it is ignored. It is what lets a recovery read no more than the unsynced end of the log.
//!
//! Invariant: no number here is above what is durable. Whoever cuts the log below one writes the file anew before serving.

use std::{
    io::{self, IoSlice},
    path::Path,
};

use env::{Disk, Millis, Open, read_whole};

/// Length of the file, one page.
const FILE_BYTES: usize = 4096;
const JAVA_BYTES: usize = 48;
const OWN_AT: usize = 2048;
const OWN_BYTES: usize = 24;
const OWN_MAGIC: u32 = 0x4150_4F47;
const OWN_VERSION: u32 = 1;

/// How long before its checkpoint times Java still looks for records that may be missing (`StoreCheckpoint`).
const TIME_SLACK: Millis = 3000;

/// The content of the file `checkpoint`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Store time of the last record that is synced (`physicMsgTimestamp`).
    pub log_time: Millis,
    /// Store time of the last record whose queue entry is synced (`logicsMsgTimestamp`).
    pub queues_time: Millis,
    /// End time of the last index file that is full and synced (`indexMsgTimestamp`).
    pub index_time: Millis,
    /// Offset that the master had flushed when this replica last heard of it.
    pub master_flushed: i64,
    /// Confirmed offset of a replicated log.
    pub confirmed: i64,
    /// Start of a record before which every queue entry is synced (`logicsPhysicalOffset`); 0 when unknown.
    pub queues_offset: i64,
    /// What we know beyond Java's file; `None` if Java wrote last, or nobody did.
    pub progress: Option<Progress>,
}

/// How much of log and views a crash of the machine leaves intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Log offset up to which the log is synced.
    pub log: u64,
    /// Log offset up to which every queue and the index are synced; not above `log`.
    pub views: u64,
}

impl Checkpoint {
    /// Reads the file; `None` if there is none, or one that is too short to be one.
    pub fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<Checkpoint>> {
        let Some(bytes) = read_whole(disk, path, 1 << 20)? else { return Ok(None) };
        Ok(Checkpoint::decode(&bytes))
    }

    /// Writes the file and syncs it. The first 48 bytes lie in one sector, so they are never torn.
    pub fn save(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let file = disk.open(path, Open::Length(FILE_BYTES as u64))?;
        let bytes = self.encode();
        file.write_at(0, &[IoSlice::new(&bytes)])?;
        file.sync()
    }

    /// Returns the time that Java recovers from when it has no offset: records stored before it are in the log and in
    /// their queues.
    pub fn trusted_time(&self) -> Millis {
        self.log_time.min(self.queues_time).saturating_sub(TIME_SLACK).max(0)
    }

    fn encode(&self) -> [u8; FILE_BYTES] {
        let mut bytes = [0; FILE_BYTES];
        let longs = [
            self.log_time,
            self.queues_time,
            self.index_time,
            self.master_flushed,
            self.confirmed,
            self.queues_offset,
        ];
        for (at, long) in longs.iter().enumerate() {
            bytes[at * 8..][..8].copy_from_slice(&long.to_be_bytes());
        }
        if let Some(progress) = self.progress {
            let own = &mut bytes[OWN_AT..];
            own[..4].copy_from_slice(&OWN_MAGIC.to_be_bytes());
            own[4..8].copy_from_slice(&OWN_VERSION.to_be_bytes());
            own[8..16].copy_from_slice(&progress.log.to_be_bytes());
            own[16..24].copy_from_slice(&progress.views.to_be_bytes());
            let crc = own_crc(&bytes);
            bytes[OWN_AT + OWN_BYTES..][..4].copy_from_slice(&crc.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Checkpoint> {
        // 4.x files are as long; their sixth long is zero.
        if bytes.len() < JAVA_BYTES {
            return None;
        }
        let long = |at: usize| i64::from_be_bytes(array(&bytes[at..]));
        Some(Checkpoint {
            log_time: long(0),
            queues_time: long(8),
            index_time: long(16),
            master_flushed: long(24),
            confirmed: long(32),
            queues_offset: long(40),
            progress: decode_progress(bytes),
        })
    }
}

fn decode_progress(bytes: &[u8]) -> Option<Progress> {
    let own = bytes.get(OWN_AT..OWN_AT + OWN_BYTES + 4)?;
    let known = u32::from_be_bytes(array(own)) == OWN_MAGIC
        && u32::from_be_bytes(array(&own[4..])) == OWN_VERSION
        && u32::from_be_bytes(array(&own[OWN_BYTES..])) == own_crc(bytes);
    let progress = Progress {
        log: u64::from_be_bytes(array(&own[8..])),
        views: u64::from_be_bytes(array(&own[16..])),
    };
    known.then_some(progress)
}

fn own_crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..JAVA_BYTES]);
    hasher.update(&bytes[OWN_AT..OWN_AT + OWN_BYTES]);
    hasher.finalize()
}

/// Returns the first `N` bytes; the caller has checked the length.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        Checkpoint {
            log_time: 1_700_000_000_123,
            queues_time: 1_700_000_000_100,
            index_time: 1_600_000_000_000,
            master_flushed: -1,
            confirmed: 77,
            queues_offset: 4711,
            progress: Some(Progress { log: 9000, views: 8000 }),
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let checkpoint = sample();
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Some(checkpoint));
        let java = Checkpoint { progress: None, ..checkpoint };
        assert_eq!(Checkpoint::decode(&java.encode()), Some(java));
    }

    #[test]
    fn six_big_endian_longs_lie_where_java_looks_for_them() {
        let bytes = sample().encode();
        assert_eq!(bytes[..8], 1_700_000_000_123_i64.to_be_bytes());
        assert_eq!(bytes[40..48], 4711_i64.to_be_bytes());
        assert!(bytes[48..OWN_AT].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn our_part_is_ignored_once_java_has_written_its_own() {
        let mut bytes = sample().encode();
        bytes[7] ^= 1;
        let read = Checkpoint::decode(&bytes).expect("long enough");
        assert_eq!(read.progress, None);
        assert_eq!(read.queues_offset, 4711);
    }

    #[test]
    fn a_cut_file_is_no_checkpoint_and_never_a_panic() {
        let bytes = sample().encode();
        for len in 0..=bytes.len() {
            let read = Checkpoint::decode(&bytes[..len]);
            assert_eq!(read.is_some(), len >= JAVA_BYTES);
        }
    }

    #[test]
    fn the_trusted_time_is_three_seconds_before_the_older_of_two() {
        assert_eq!(sample().trusted_time(), 1_699_999_997_100);
        assert_eq!(Checkpoint::default().trusted_time(), 0);
    }

    #[test]
    fn a_damaged_time_trusts_nothing_and_never_overflows() {
        let damaged = Checkpoint { log_time: Millis::MIN, ..sample() };
        assert_eq!(damaged.trusted_time(), 0);
    }
}
