//! The timers' checkpoint: how far the timer topic was taken in and its slots delivered (Java: `TimerCheckpoint`).
//!
//! ```text
//!    0  long  time of the first slot that may hold something undelivered
//!    8  long  position up to which the timer log is synced
//!   16  long  next offset of the timer topic to take in, and the same
//!   24  long    as the master's
//!   32  long  state version, long time and long counter of the three above
//! 2048  int   0x41504F47 "APOG", then int 1
//! 2056  long  end of the timer log
//! 2064  long  precision of the wheel, ms
//! 2072  int   CRC-32 of bytes 0..56 and 2048..2072
//! ```
//! The file `config/timercheck` is one page, of which Java reads and writes the first 56 bytes and carries the rest along:
//! the CRC tells whether Java has written since. Java's numbers are taken one after the other while messages move; ours
//! are of one moment, which is what lets a recovery cut the timer log instead of guessing.

use std::{
    io::{self, IoSlice},
    path::Path,
};

use env::{Disk, Millis, Open, read_whole};

const FILE_BYTES: usize = 4096;
/// Bytes that Java knows, and that GET_TIMER_CHECK_POINT answers.
pub const JAVA_BYTES: usize = 56;
const OWN_AT: usize = 2048;
const OWN_BYTES: usize = 24;
const OWN_MAGIC: u32 = 0x4150_4F47;
const OWN_VERSION: u32 = 1;

/// The content of `timercheck`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerCheckpoint {
    /// Slots before this time are delivered (`lastReadTimeMs`); 0 when nothing is known.
    pub read_time: Millis,
    /// Position up to which the timer log is synced (`lastTimerLogFlushPos`).
    pub log_synced: i64,
    /// Next offset of the timer topic to take in (`lastTimerQueueOffset`).
    pub queue_offset: i64,
    /// The same as the master of a slave has it (`masterTimerQueueOffset`).
    pub master_queue_offset: i64,
    /// State version, time and counter of the data.
    pub version: [i64; 3],
    /// What we know beyond Java's file; `None` if Java wrote last, or nobody did.
    pub own: Option<OwnTimerCheckpoint>,
}

/// The state of timer log and wheel at the moment of the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnTimerCheckpoint {
    /// End of the timer log: everything before `queue_offset` has a unit before it, nothing else has.
    pub log_end: u64,
    /// Precision of the wheel, ms.
    pub precision: Millis,
}

impl TimerCheckpoint {
    /// Reads the file; `None` if there is none, or one that is too short to be one.
    pub(super) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<TimerCheckpoint>> {
        let Some(bytes) = read_whole(disk, path, 1 << 20)? else { return Ok(None) };
        Ok(TimerCheckpoint::decode(&bytes))
    }

    /// Writes the file and syncs it. The first 56 bytes lie in one sector, so they are never torn.
    pub(super) fn save(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let file = disk.open(path, Open::Length(FILE_BYTES as u64))?;
        file.write_at(0, &[IoSlice::new(&self.encode())])?;
        file.sync()
    }

    /// Returns what Java knows of it.
    pub fn java_bytes(&self) -> [u8; JAVA_BYTES] {
        let mut bytes = [0; JAVA_BYTES];
        let longs = [self.read_time, self.log_synced, self.queue_offset, self.master_queue_offset];
        for (at, long) in longs.iter().chain(&self.version).enumerate() {
            bytes[at * 8..][..8].copy_from_slice(&long.to_be_bytes());
        }
        bytes
    }

    /// Writes the page.
    pub fn encode(&self) -> [u8; FILE_BYTES] {
        let mut bytes = [0; FILE_BYTES];
        bytes[..JAVA_BYTES].copy_from_slice(&self.java_bytes());
        if let Some(own) = self.own {
            let part = &mut bytes[OWN_AT..];
            part[..4].copy_from_slice(&OWN_MAGIC.to_be_bytes());
            part[4..8].copy_from_slice(&OWN_VERSION.to_be_bytes());
            part[8..16].copy_from_slice(&own.log_end.to_be_bytes());
            part[16..24].copy_from_slice(&own.precision.to_be_bytes());
            let crc = own_crc(&bytes);
            bytes[OWN_AT + OWN_BYTES..][..4].copy_from_slice(&crc.to_be_bytes());
        }
        bytes
    }

    /// Reads the page, or as much of it as there is; `None` if that is less than Java's part.
    pub fn decode(bytes: &[u8]) -> Option<TimerCheckpoint> {
        let java = bytes.first_chunk::<JAVA_BYTES>()?;
        let long = |at: usize| i64::from_be_bytes(array(&java[at..]));
        Some(TimerCheckpoint {
            read_time: long(0),
            log_synced: long(8),
            queue_offset: long(16),
            master_queue_offset: long(24),
            version: [long(32), long(40), long(48)],
            own: decode_own(bytes),
        })
    }
}

fn decode_own(bytes: &[u8]) -> Option<OwnTimerCheckpoint> {
    let own = bytes.get(OWN_AT..OWN_AT + OWN_BYTES + 4)?;
    let known = u32::from_be_bytes(array(own)) == OWN_MAGIC
        && u32::from_be_bytes(array(&own[4..])) == OWN_VERSION
        && u32::from_be_bytes(array(&own[OWN_BYTES..])) == own_crc(bytes);
    let own = OwnTimerCheckpoint {
        log_end: u64::from_be_bytes(array(&own[8..])),
        precision: i64::from_be_bytes(array(&own[16..])),
    };
    (known && own.precision > 0).then_some(own)
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

    fn sample() -> TimerCheckpoint {
        TimerCheckpoint {
            read_time: 1_700_000_000_000,
            log_synced: 520,
            queue_offset: 10,
            master_queue_offset: 11,
            version: [1, 1_700_000_000_123, 77],
            own: Some(OwnTimerCheckpoint { log_end: 572, precision: 1000 }),
        }
    }

    #[test]
    fn what_was_encoded_is_decoded_and_seven_longs_lie_where_java_looks_for_them() {
        let bytes = sample().encode();
        assert_eq!(TimerCheckpoint::decode(&bytes), Some(sample()));
        assert_eq!(bytes[16..24], 10_i64.to_be_bytes());
        assert_eq!(bytes[48..56], 77_i64.to_be_bytes());
        assert!(bytes[JAVA_BYTES..OWN_AT].iter().all(|byte| *byte == 0));
        let java = TimerCheckpoint { own: None, ..sample() };
        assert_eq!(TimerCheckpoint::decode(&java.java_bytes()), Some(java));
    }

    #[test]
    fn our_part_is_ignored_once_java_has_written_its_own() {
        let mut bytes = sample().encode();
        bytes[55] ^= 1;
        let read = TimerCheckpoint::decode(&bytes).expect("long enough");
        assert_eq!((read.own, read.version[2]), (None, 76));
    }

    #[test]
    fn a_cut_file_is_no_checkpoint_and_never_a_panic() {
        let bytes = sample().encode();
        for len in 0..=bytes.len() {
            let read = TimerCheckpoint::decode(&bytes[..len]);
            assert_eq!(read.is_some(), len >= JAVA_BYTES);
        }
    }
}
