//! Counters: how much was put and got, in all and for each topic and group, with rates over the last minute.
//!
//! Counting is one atomic addition; a sample is taken every ten seconds by the broker's housekeeping, and a rate is the
//! difference of two samples. (Java: `BrokerStatsManager`, as far as its answers show it)

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;

/// Time between two samples.
pub(crate) const SAMPLE_PERIOD: Duration = Duration::from_secs(10);
/// Samples kept: ten minutes.
const SAMPLES: usize = 60;
/// Pairs of group and topic that are counted; further ones count in the totals only.
const GROUP_TOPICS_MAX: usize = 200_000;

/// A number that grows, and its samples.
#[derive(Default)]
pub(crate) struct Rate {
    total: AtomicU64,
    samples: Mutex<Samples>,
}

#[derive(Default)]
struct Samples {
    /// The newest stands at `(taken - 1) % SAMPLES`.
    totals: Vec<u64>,
    taken: usize,
}

impl Rate {
    pub(crate) fn add(&self, count: u64) {
        self.total.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns how much was added in a second, over the last `periods` samples or as many as there are.
    pub(crate) fn per_second(&self, periods: usize) -> f64 {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let back = periods.min(samples.totals.len().saturating_sub(1));
        if back == 0 {
            return 0.0;
        }
        let at = |back: usize| samples.totals[(samples.taken - 1 - back) % SAMPLES];
        (at(0) - at(back)) as f64 / (back as f64 * SAMPLE_PERIOD.as_secs_f64())
    }

    fn sample(&self) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let total = self.total();
        if samples.totals.len() < SAMPLES {
            samples.totals.push(total);
        } else {
            let at = samples.taken % SAMPLES;
            samples.totals[at] = total;
        }
        samples.taken += 1;
    }
}

/// Counters of one topic.
#[derive(Default)]
pub(crate) struct TopicStats {
    pub(crate) put: Rate,
}

/// All counters of the broker that are not a topic's.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) put: Rate,
    pub(crate) put_bytes: Rate,
    pub(crate) got: Rate,
    pub(crate) got_bytes: Rate,
    /// Pulls that found, and that did not find messages.
    pub(crate) found: Rate,
    pub(crate) missed: Rate,
    groups: RwLock<HashMap<ByteString, HashMap<ByteString, Arc<Rate>>>>,
    mornings: Mutex<Mornings>,
}

/// Totals at the last two midnights (UTC) that this broker has seen; 0 before.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mornings {
    day: i64,
    pub(crate) put: [u64; 2],
    pub(crate) got: [u64; 2],
}

impl Stats {
    pub(crate) fn count_put(&self, topic: &TopicStats, count: u64, bytes: u64) {
        topic.put.add(count);
        self.put.add(count);
        self.put_bytes.add(bytes);
    }

    pub(crate) fn count_got(&self, group: &str, topic: &str, count: u64, bytes: u64) {
        self.got.add(count);
        self.got_bytes.add(bytes);
        if let Some(rate) = self.got_by(group, topic) {
            rate.add(count);
            return;
        }
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if groups.values().map(HashMap::len).sum::<usize>() < GROUP_TOPICS_MAX {
            let topics = groups.entry(group.into()).or_default();
            topics.entry(topic.into()).or_default().add(count);
        }
    }

    /// Returns messages a second that the group got of the topic in the last minute.
    pub(crate) fn got_per_second(&self, group: &str, topic: &str) -> f64 {
        self.got_by(group, topic).map_or(0.0, |rate| rate.per_second(6))
    }

    /// Takes a sample of every counter but the topics'.
    pub(crate) fn sample<'t>(
        &self,
        now: env::Millis,
        topics: impl IntoIterator<Item = &'t TopicStats>,
    ) {
        for rate in
            [&self.put, &self.put_bytes, &self.got, &self.got_bytes, &self.found, &self.missed]
        {
            rate.sample();
        }
        self.note_morning(now.div_euclid(86_400_000));
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.values().flat_map(HashMap::values).for_each(|rate| rate.sample());
        topics.into_iter().for_each(|topic| topic.put.sample());
    }

    /// Returns the totals of yesterday's and of today's morning, in this order.
    pub(crate) fn mornings(&self) -> Mornings {
        *self.mornings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_morning(&self, day: i64) {
        let mut mornings = self.mornings.lock().unwrap_or_else(PoisonError::into_inner);
        if mornings.day != 0 && day > mornings.day {
            mornings.put = [mornings.put[1], self.put.total()];
            mornings.got = [mornings.got[1], self.got.total()];
        }
        mornings.day = day;
    }

    /// Forgets the counters of a topic or of a group that was deleted.
    pub(crate) fn forget(&self, is_gone: impl Fn(&str, &str) -> bool) {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|group, topics| {
            topics.retain(|topic, _| !is_gone(group, topic));
            !topics.is_empty()
        });
    }

    fn got_by(&self, group: &str, topic: &str) -> Option<Arc<Rate>> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(group)?.get(topic).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_difference_of_its_samples() {
        let rate = Rate::default();
        assert_eq!(rate.per_second(6), 0.0);
        for added in [0, 100, 200] {
            rate.add(added);
            rate.sample();
        }
        assert_eq!(rate.per_second(1), 20.0);
        assert_eq!(rate.per_second(6), 15.0, "as far back as there are samples");
        for _ in 0..SAMPLES {
            rate.sample();
        }
        assert_eq!(rate.per_second(6), 0.0);
    }

    #[test]
    fn a_morning_remembers_what_was_there_before_it() {
        let stats = Stats::default();
        for day in 1..=3 {
            stats.sample(day * 86_400_000, []);
            assert_eq!(
                stats.mornings().put,
                [day.max(2) as u64 - 2, day as u64 - 1].map(|n| n * 10)
            );
            stats.put.add(10);
        }
    }
}
