//! Unique keys: what a producer names a message by before any broker has seen it.
//!
//! A key tells apart all messages of all clients, and Java's tools read the time of a message out of it.
//! Java: `MessageClientIDSetter`.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use env::Clock;
use jiff::{Timestamp, tz::TimeZone};

/// Makes the keys of one client.
pub(crate) struct UniqueKeys {
    clock: Clock,
    ip: IpAddr,
    loader: u32,
    counter: AtomicU32,
    /// Ends of the month that the current keys count from, in epoch ms.
    month_begin: AtomicU64,
    month_end: AtomicU64,
}

impl UniqueKeys {
    pub(crate) fn new(clock: Clock, ip: IpAddr) -> UniqueKeys {
        UniqueKeys {
            clock,
            ip,
            loader: fastrand::u32(..),
            counter: AtomicU32::new(0),
            month_begin: AtomicU64::new(0),
            month_end: AtomicU64::new(0),
        }
    }

    /// Returns a key that nobody has.
    pub(crate) fn next(&self) -> String {
        let now = u64::try_from(self.clock.now()).unwrap_or(0);
        let (mut begin, end) = (self.month_begin.load(Relaxed), self.month_end.load(Relaxed));
        if now < begin || now >= end {
            let (first, next) = month(now);
            self.month_begin.store(first, Relaxed);
            self.month_end.store(next, Relaxed);
            begin = first;
        }
        // The high half of the count goes where Java has a hash, so that a key returns only after 2^32 others.
        let count = self.counter.fetch_add(1, Relaxed);
        let loader = self.loader ^ (count >> 16);
        let since = u32::try_from(now.saturating_sub(begin)).unwrap_or(0);
        wire::id::unique_key(self.ip, std::process::id() as u16, loader, since, count as u16)
    }
}

/// Returns when the month of `now` begins and ends, local time, in epoch ms; `now` itself if that cannot be said.
fn month(now: u64) -> (u64, u64) {
    let ends = || -> Result<(i64, i64), jiff::Error> {
        let now = Timestamp::from_millisecond(i64::try_from(now).unwrap_or(i64::MAX))?;
        let first = now.to_zoned(TimeZone::system()).first_of_month()?.start_of_day()?;
        let last = first.last_of_month()?.tomorrow()?.start_of_day()?;
        Ok((first.timestamp().as_millisecond(), last.timestamp().as_millisecond()))
    };
    match ends() {
        Ok((first, next)) => (first.max(0) as u64, next.max(0) as u64),
        Err(_) => (now, now + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use env::sim::SimClock;

    use super::*;

    #[test]
    fn keys_differ_beyond_the_sixteen_bits_of_their_counter() {
        let clock = SimClock::new(1_700_000_000_000);
        let keys = UniqueKeys::new(clock.into(), [10, 0, 0, 1].into());
        let made: HashSet<String> = (0..200_000).map(|_| keys.next()).collect();
        assert_eq!(made.len(), 200_000);
        assert!(made.iter().all(|key| key.len() == 32 && key.starts_with("0A000001")));
    }

    #[test]
    fn a_month_holds_its_moments() {
        for now in [1_700_000_000_000, 1_709_251_199_999, 1_735_689_600_000] {
            let (begin, end) = month(now);
            assert!(begin <= now && now < end && end - begin <= 32 * 86_400_000);
        }
    }
}
