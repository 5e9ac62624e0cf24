//! Counters: what was put and got, in all and by topic and group, with what of it fell into the last minute, hour and day.
//!
//! Counting is three atomic additions. The broker's housekeeping takes a sample every ten seconds; of the samples some
//! are kept for the last minute, and one each ten minutes for the last hour and one each hour for the last day, so a
//! figure is the difference of two samples. What was never counted has no samples and costs nothing.
//! (Java: `BrokerStatsManager`, `StatsItem`)

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;

/// Time between two samples.
pub(crate) const SAMPLE_PERIOD: Duration = Duration::from_secs(10);
/// Samples of a minute, of an hour (one each ten minutes) and of a day (one each hour).
const SAMPLES: [usize; 3] = [7, 7, 25];
/// Samples between two that are kept for a minute, an hour, a day.
const EVERY: [u64; 3] = [1, 60, 360];
/// Samples of the broker's own traffic: ten minutes.
const OWN_SAMPLES: usize = 61;
/// Pairs of group and topic that are counted; further ones count in the totals only.
const GROUP_TOPICS_MAX: usize = 200_000;

/// What was carried: messages, in how many bytes and how many times.
#[derive(Default)]
pub(crate) struct Traffic {
    messages: AtomicU64,
    bytes: AtomicU64,
    times: AtomicU64,
    history: Mutex<Option<Box<History>>>,
}

/// Samples of a minute, an hour and a day, the newest last. The first of each is that of the beginning: nothing.
#[derive(Default)]
struct History([VecDeque<Sample>; 3]);

#[derive(Clone, Copy, Default)]
struct Sample {
    /// Which sample of the broker it is, counted from its start.
    number: u64,
    messages: u64,
    bytes: u64,
    times: u64,
}

/// What was carried in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Span {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) times: u64,
    pub(crate) seconds: f64,
}

impl Span {
    fn between(first: &Sample, last: &Sample) -> Span {
        Span {
            messages: last.messages - first.messages,
            bytes: last.bytes - first.bytes,
            times: last.times - first.times,
            seconds: (last.number - first.number) as f64 * SAMPLE_PERIOD.as_secs_f64(),
        }
    }

    /// Returns messages a second.
    pub(crate) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.messages as f64 / self.seconds } else { 0.0 }
    }
}

impl Traffic {
    pub(crate) fn add(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.times.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns messages a second, over the last `periods` samples or as many as there are.
    pub(crate) fn per_second(&self, periods: usize) -> f64 {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(samples) = history.as_ref().map(|history| &history.0[0]) else { return 0.0 };
        let first = samples.len().saturating_sub(periods + 1);
        samples.back().map_or(0.0, |last| Span::between(&samples[first], last).rate())
    }

    /// Returns what was carried in the last minute, hour and day, or in as much of them as has passed.
    pub(crate) fn spans(&self) -> [Span; 3] {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(history) = &*history else { return [Span::default(); 3] };
        let mut kept = SAMPLES.iter();
        history.0.each_ref().map(|samples| {
            let first = samples.len().saturating_sub(*kept.next().expect("one for each span"));
            samples.back().map_or_else(Span::default, |last| Span::between(&samples[first], last))
        })
    }

    fn sample(&self, number: u64, minute_max: usize) {
        let sample = Sample {
            number,
            messages: self.messages(),
            bytes: self.bytes(),
            times: self.times.load(Ordering::Relaxed),
        };
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = Sample { number: number.saturating_sub(1), ..Sample::default() };
        let history = match &mut *history {
            Some(history) => history,
            None if sample.times == 0 => return,
            none => none.insert(Box::new(History([(); 3].map(|()| VecDeque::from([nothing]))))),
        };
        for (at, samples) in history.0.iter_mut().enumerate() {
            if number.is_multiple_of(EVERY[at]) {
                if samples.len() == if at == 0 { minute_max } else { SAMPLES[at] } {
                    samples.pop_front();
                }
                samples.push_back(sample);
            }
        }
    }
}

/// Counters of one topic.
#[derive(Default)]
pub(crate) struct TopicStats {
    pub(crate) put: Traffic,
}

/// What is counted of a topic for a group.
#[derive(Default)]
pub(crate) struct GroupStats {
    pub(crate) got: Traffic,
    /// What it gave back.
    pub(crate) sent_back: Traffic,
}

/// All counters of the broker that are not a topic's.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) put: Traffic,
    pub(crate) got: Traffic,
    /// Pulls that found, and that did not find messages.
    pub(crate) found: Traffic,
    pub(crate) missed: Traffic,
    /// Messages that were read and that a filter did not let through.
    pub(crate) filtered: Traffic,
    /// Timer messages that were given a slot, and that left it.
    pub(crate) timers_in: Traffic,
    pub(crate) timers_out: Traffic,
    groups: RwLock<HashMap<ByteString, HashMap<ByteString, Arc<GroupStats>>>>,
    mornings: Mutex<Mornings>,
    samples: AtomicU64,
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
        topic.put.add(count, bytes);
        self.put.add(count, bytes);
    }

    pub(crate) fn count_got(&self, group: &str, topic: &str, count: u64, bytes: u64) {
        self.got.add(count, bytes);
        self.with_group(group, topic, |stats| stats.got.add(count, bytes));
    }

    pub(crate) fn count_sent_back(&self, group: &str, topic: &str, bytes: u64) {
        self.with_group(group, topic, |stats| stats.sent_back.add(1, bytes));
    }

    /// Returns messages a second that the group got of the topic in the last minute.
    pub(crate) fn got_per_second(&self, group: &str, topic: &str) -> f64 {
        self.group(group, topic).map_or(0.0, |stats| stats.got.per_second(6))
    }

    /// Takes a sample of every counter.
    pub(crate) fn sample<'t>(
        &self,
        now: env::Millis,
        topics: impl IntoIterator<Item = &'t TopicStats>,
    ) {
        let number = self.samples.fetch_add(1, Ordering::Relaxed) + 1;
        let messages = [&self.put, &self.got, &self.found, &self.missed];
        for own in messages.into_iter().chain([&self.timers_in, &self.timers_out]) {
            own.sample(number, OWN_SAMPLES);
        }
        self.note_morning(now.div_euclid(86_400_000));
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        for stats in groups.values().flat_map(HashMap::values) {
            stats.got.sample(number, SAMPLES[0]);
            stats.sent_back.sample(number, SAMPLES[0]);
        }
        topics.into_iter().for_each(|topic| topic.put.sample(number, SAMPLES[0]));
    }

    /// Returns the totals of yesterday's and of today's morning, in this order.
    pub(crate) fn mornings(&self) -> Mornings {
        *self.mornings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_morning(&self, day: i64) {
        let mut mornings = self.mornings.lock().unwrap_or_else(PoisonError::into_inner);
        if mornings.day != 0 && day > mornings.day {
            mornings.put = [mornings.put[1], self.put.messages()];
            mornings.got = [mornings.got[1], self.got.messages()];
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

    /// Returns what is counted of a topic for a group, if anything is.
    pub(crate) fn group(&self, group: &str, topic: &str) -> Option<Arc<GroupStats>> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(group)?.get(topic).cloned()
    }

    fn with_group(&self, group: &str, topic: &str, count: impl FnOnce(&GroupStats)) {
        if let Some(stats) = self.group(group, topic) {
            return count(&stats);
        }
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if groups.values().map(HashMap::len).sum::<usize>() < GROUP_TOPICS_MAX {
            let topics = groups.entry(group.into()).or_default();
            count(topics.entry(topic.into()).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_difference_of_its_samples() {
        let traffic = Traffic::default();
        traffic.sample(1, 7);
        assert_eq!(traffic.spans(), [Span::default(); 3], "what was never counted has no samples");
        for (number, added) in (2..).zip([100, 200]) {
            traffic.add(added, 10);
            traffic.sample(number, 7);
        }
        assert_eq!(traffic.per_second(1), 20.0);
        assert_eq!(traffic.per_second(6), 15.0, "as far back as there are samples");
        for number in 4..14 {
            traffic.sample(number, 7);
        }
        assert_eq!(traffic.per_second(6), 0.0);
    }

    #[test]
    fn minute_hour_and_day_are_kept_apart() {
        let traffic = Traffic::default();
        for number in 1..=2 * 8_640 {
            traffic.add(2, 5);
            traffic.sample(number, 7);
        }
        let [minute, hour, day] = traffic.spans();
        assert_eq!(
            (minute.messages, minute.bytes, minute.times, minute.seconds),
            (12, 30, 6, 60.0)
        );
        assert_eq!((hour.messages, hour.seconds), (720, 3_600.0));
        assert_eq!((day.messages, day.seconds, day.rate()), (17_280, 86_400.0, 0.2));
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
            stats.put.add(10, 0);
        }
    }
}
