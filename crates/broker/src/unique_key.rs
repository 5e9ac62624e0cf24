//! Unique keys for messages whose producer has set none.
//!
//! They have the form of a client's (Java: `MessageClientIDSetter`), with random numbers for process and class loader:
//! nobody reads these parts, they only have to differ between brokers and restarts.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU16, Ordering},
};

use env::Clock;

const MS_OF_DAY: i64 = 86_400_000;

/// Makes unique keys.
pub(crate) struct UniqueKeys {
    ip: IpAddr,
    process: u16,
    loader: u32,
    counter: AtomicU16,
}

impl UniqueKeys {
    pub(crate) fn new(ip: IpAddr, mut random: fastrand::Rng) -> UniqueKeys {
        let (process, loader) = (random.u16(..), random.u32(..));
        UniqueKeys { ip, process, loader, counter: AtomicU16::new(0) }
    }

    /// Returns a key that this broker has not given before, within a month and 65,536 keys a millisecond.
    pub(crate) fn next(&self, clock: &Clock) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let since = ms_of_month(clock.now());
        wire::id::unique_key(self.ip, self.process, self.loader, since, counter)
    }
}

/// Milliseconds since the first of the month, in UTC (civil-from-days of H. Hinnant, for the day alone).
fn ms_of_month(now: i64) -> u32 {
    let days = now.div_euclid(MS_OF_DAY) + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5;
    (day * MS_OF_DAY + now.rem_euclid(MS_OF_DAY)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_on_its_first_day() {
        let check = |now: i64, day: i64| assert_eq!(ms_of_month(now), (day * MS_OF_DAY + 5) as u32);
        check(5, 0);
        check(30 * MS_OF_DAY + 5, 30);
        check(31 * MS_OF_DAY + 5, 0);
        // 29 February and 1 March 2024.
        check(1_709_164_800_005, 28);
        check(1_709_251_200_005, 0);
    }
}
