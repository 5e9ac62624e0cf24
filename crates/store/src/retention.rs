//! Retention: which log files may go, and when (Java: `DefaultMessageStore.CleanCommitLogService`).
//!
//! A file goes when it is older than `fileReservedTime`, in the hours of `deleteWhen` or at any hour while the disk is
//! over `diskMaxUsedSpaceRatio`; whatever its age while the disk is over `diskSpaceCleanForciblyRatio`, or the log is
//! longer than `logBytesMax`. The oldest goes first, ten files a round at most, the newest never. Views follow the log.
//!
//! Here is only the decision; [`crate::keeper`] carries it out. A file's age is wall time, and a wall clock can jump: by
//! age nothing goes until two checks in a row agree with the monotonic clock on how time has passed.

use std::time::Duration;

use env::Millis;
use jiff::{Timestamp, tz::TimeZone};

use crate::Options;

/// Most files of one round (Java: `deleteFileBatchMax`).
const FILES_PER_ROUND: usize = 10;
/// How far wall and monotonic clock may drift apart between two checks.
const DRIFT_MAX: Millis = 60_000;
/// Checks that an administrator's demand counts for (Java: `MAX_MANUAL_DELETE_FILE_TIMES`).
const CHECKS_PER_DEMAND: u32 = 20;

/// A log file, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogFile {
    pub(crate) len: u64,
    /// When it was last written.
    pub(crate) modified: Millis,
}

/// Why files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// They are older than `fileReservedTime`.
    Age,
    /// The disk is over `diskSpaceCleanForciblyRatio`.
    Disk,
    /// The log is longer than `logBytesMax`.
    Size,
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Age => "age",
            Reason::Disk => "disk",
            Reason::Size => "size",
        }
    }
}

/// The state that decisions need from one check to the next.
pub(crate) struct Retention {
    zone: TimeZone,
    /// Wall minus monotonic time at the last check.
    last_drift: Option<Millis>,
    /// Checks left for which an administrator has asked.
    demanded: u32,
}

impl Retention {
    pub(crate) fn new(zone: TimeZone) -> Retention {
        Retention { zone, last_drift: None, demanded: 0 }
    }

    /// Lets files go by age at any hour, for the next checks (Java: `DefaultMessageStore.executeDeleteFilesManually`).
    pub(crate) fn expire_now(&mut self) {
        self.demanded = CHECKS_PER_DEMAND;
    }

    /// Returns how many of `files`, oldest first, may go now, and why. `used_ratio` is that of the disk with the log.
    pub(crate) fn decide(
        &mut self,
        options: &Options,
        files: &[LogFile],
        used_ratio: f64,
        now: Millis,
        monotonic: Duration,
    ) -> Option<(usize, Reason)> {
        let is_clock_steady = self.is_clock_steady(now, monotonic);
        let candidates = files.split_last()?.1;
        let most = candidates.len().min(FILES_PER_ROUND);
        let some = |count: usize, reason| (count > 0).then_some((count.min(most), reason));

        if options.clean_file_forcibly_enable && used_ratio > options.used_ratio_for_force() {
            // As many at once as the original takes; the next check sees whether that was enough.
            return some(most, Reason::Disk);
        }
        let total: u64 = files.iter().map(|file| file.len).sum();
        let excess = total.saturating_sub(options.log_bytes_max.unwrap_or(u64::MAX));
        if excess > 0 {
            let mut left = excess;
            let count = candidates.iter().take_while(|file| {
                let is_needed = left > 0;
                left = left.saturating_sub(file.len);
                is_needed
            });
            if let Some(found) = some(count.count(), Reason::Size) {
                return Some(found);
            }
        }
        let is_demanded = self.demanded > 0;
        self.demanded = self.demanded.saturating_sub(1);
        let is_due = is_demanded
            || self.is_delete_hour(options, now)
            || used_ratio > options.used_ratio_for_expiry();
        if !is_due || !is_clock_steady {
            return None;
        }
        let reserved =
            Millis::try_from(options.file_reserved_time.as_millis()).unwrap_or(Millis::MAX);
        let is_old = |file: &&LogFile| file.modified.saturating_add(reserved) <= now;
        some(candidates.iter().take_while(is_old).count(), Reason::Age)
    }

    fn is_clock_steady(&mut self, now: Millis, monotonic: Duration) -> bool {
        let drift = now - monotonic.as_millis() as Millis;
        let last = self.last_drift.replace(drift);
        let is_steady = last.is_some_and(|last| (drift - last).abs() <= DRIFT_MAX);
        if let (false, Some(last)) = (is_steady, last) {
            tracing::warn!(by_ms = drift - last, "the clock jumped: nothing expires at this check");
        }
        is_steady
    }

    fn is_delete_hour(&self, options: &Options, now: Millis) -> bool {
        let time = Timestamp::from_millisecond(now).unwrap_or_default();
        let hour = time.to_zoned(self.zone.clone()).hour();
        options.delete_when.iter().any(|wanted| i16::from(*wanted) == i16::from(hour))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;
    /// 2023-11-14T00:00:00Z.
    const MIDNIGHT: Millis = 1_699_920_000_000;

    fn files(ages_in_hours: &[Millis], now: Millis) -> Vec<LogFile> {
        let file = |age: &Millis| LogFile { len: 100, modified: now - age * HOUR };
        ages_in_hours.iter().map(file).collect()
    }

    /// Decides twice, ten seconds apart, and returns the second answer.
    fn decide(
        options: &Options,
        ages: &[Millis],
        used: f64,
        hour: Millis,
    ) -> Option<(usize, Reason)> {
        let mut retention = Retention::new(TimeZone::UTC);
        let now = MIDNIGHT + hour * HOUR;
        let files = files(ages, now);
        let first = retention.decide(options, &files, used, now, Duration::ZERO);
        assert_eq!(first.filter(|(_, reason)| *reason == Reason::Age), None);
        retention.decide(options, &files, used, now + 10_000, Duration::from_secs(10))
    }

    #[test]
    fn expired_files_go_in_the_hour_of_deletion_only() {
        let options = Options::default();
        let ages = [100, 80, 73, 71, 1];
        assert_eq!(decide(&options, &ages, 0.5, 4), Some((3, Reason::Age)));
        assert_eq!(decide(&options, &ages, 0.5, 5), None);
    }

    #[test]
    fn on_demand_expired_files_go_at_any_hour_for_twenty_checks() {
        let options = Options::default();
        let now = MIDNIGHT + 12 * HOUR;
        let mut retention = Retention::new(TimeZone::UTC);
        let mut checks = 0..;
        let mut decide = |retention: &mut Retention| {
            let at = checks.next().expect("no end") * 10;
            let files = files(&[100, 80, 71, 1], now);
            let wall = now + at as Millis * 1000;
            retention.decide(&options, &files, 0.5, wall, Duration::from_secs(at))
        };
        assert_eq!([decide(&mut retention), decide(&mut retention)], [None; 2]);
        retention.expire_now();
        for _ in 0..CHECKS_PER_DEMAND {
            assert_eq!(decide(&mut retention), Some((2, Reason::Age)));
        }
        assert_eq!(decide(&mut retention), None);
    }

    #[test]
    fn a_disk_over_its_first_mark_lets_expired_files_go_at_any_hour() {
        let options = Options::default();
        assert_eq!(decide(&options, &[100, 80, 71], 0.76, 12), Some((2, Reason::Age)));
        assert_eq!(decide(&options, &[71, 70, 1], 0.76, 12), None);
    }

    #[test]
    fn a_disk_over_its_second_mark_takes_ten_files_of_any_age() {
        let options = Options::default();
        assert_eq!(decide(&options, &[1; 4], 0.86, 12), Some((3, Reason::Disk)));
        assert_eq!(decide(&options, &[1; 40], 0.86, 12), Some((10, Reason::Disk)));
        let gentle = Options { clean_file_forcibly_enable: false, ..options };
        assert_eq!(decide(&gentle, &[1; 4], 0.86, 12), None);
    }

    #[test]
    fn the_newest_file_never_goes() {
        let options = Options { log_bytes_max: Some(0), ..Options::default() };
        assert_eq!(decide(&options, &[1000], 0.99, 4), None);
        assert_eq!(decide(&options, &[], 0.99, 4), None);
    }

    #[test]
    fn a_log_that_is_too_long_loses_its_oldest_files() {
        let options = Options { log_bytes_max: Some(250), ..Options::default() };
        assert_eq!(decide(&options, &[1; 4], 0.1, 12), Some((2, Reason::Size)));
        assert_eq!(decide(&options, &[1; 2], 0.1, 12), None);
    }

    #[test]
    fn a_clock_that_jumps_ahead_deletes_nothing_until_two_checks_agree() {
        let options = Options::default();
        let mut retention = Retention::new(TimeZone::UTC);
        let now = MIDNIGHT + 4 * HOUR;
        let files = files(&[50, 1], now);
        let mut decide = |wall: Millis, seconds: u64| {
            retention.decide(&options, &files, 0.5, wall, Duration::from_secs(seconds))
        };
        assert_eq!(decide(now, 0), None);
        assert_eq!(decide(now + 10_000, 10), None);
        let ahead = now + 48 * HOUR;
        assert_eq!(decide(ahead, 20), None);
        assert_eq!(decide(now + 30_000, 30), None);
        assert_eq!(decide(ahead, 40), None);
        assert_eq!(decide(ahead + 10_000, 50), Some((1, Reason::Age)));
    }
}
