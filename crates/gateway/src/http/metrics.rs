//! The broker's figures as Prometheus reads them (OpenMetrics text), with the original's names and labels where it has
//! the figure (Java: `BrokerMetricsManager`, `DefaultStoreMetricsManager`), `apogee_` where it has not.
//!
//! A busy cluster has more topics and groups than a time series database likes: a bounded number of them have a seat,
//! the busiest that came while one was free; the rest are counted together under the name `*`, which no topic can have.
//! A seat is kept until its topic goes, so that no counter ever falls.

use std::{borrow::Cow, cmp::Reverse, collections::HashMap, fmt, hash::Hash};

use broker::figures::{ConsumptionFigures, Figures};
use hyper::header::HeaderValue;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use wire::code::{Language, version};

/// What the text is.
pub(super) const CONTENT_TYPE: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The name of all that have no seat.
const REST: &str = "*";

/// Who has series of their own.
pub(super) struct Seats {
    max: usize,
    topics: Share<String>,
    groups: Share<(String, String)>,
}

impl Seats {
    pub(super) fn new(max: usize) -> Seats {
        Seats { max, topics: Share::default(), groups: Share::default() }
    }
}

/// How two totals, of messages and bytes, are shared out among those with a seat.
struct Share<K> {
    seats: HashMap<K, Seat>,
    /// What those had who have left.
    left: [u64; 2],
    /// Whether somebody had no seat at the last look, so that what a newcomer has was counted with the rest.
    is_crowded: bool,
    rest: [u64; 2],
}

#[derive(Clone, Copy)]
struct Seat {
    /// What was counted with the rest before.
    base: [u64; 2],
    last: [u64; 2],
}

impl Seat {
    fn own(&self) -> [u64; 2] {
        [0, 1].map(|at| self.last[at] - self.base[at])
    }
}

impl<K> Default for Share<K> {
    fn default() -> Self {
        Share { seats: HashMap::new(), left: [0; 2], is_crowded: false, rest: [0; 2] }
    }
}

impl<K: Eq + Hash + Clone> Share<K> {
    /// Takes the counts of a look; `total` is of all that ever counted.
    fn update(&mut self, mut counts: Vec<(K, [u64; 2])>, total: [u64; 2], max: usize) {
        let present: HashMap<&K, [u64; 2]> = counts.iter().map(|(key, now)| (key, *now)).collect();
        let left = &mut self.left;
        self.seats.retain(|key, seat| match present.get(key) {
            Some(now) if now[0] >= seat.last[0] && now[1] >= seat.last[1] => {
                seat.last = *now;
                true
            }
            // It has gone; one of the same name that has come since begins anew.
            _ => {
                let own = seat.own();
                *left = [0, 1].map(|at| left[at] + own[at]);
                false
            }
        });
        counts.retain(|(key, _)| !self.seats.contains_key(key));
        counts.sort_by_key(|(_, now)| Reverse(*now));
        let free = max.saturating_sub(self.seats.len());
        let is_crowded = counts.len() > free;
        for (key, now) in counts.into_iter().take(free) {
            let base = if self.is_crowded { now } else { [0; 2] };
            self.seats.insert(key, Seat { base, last: now });
        }
        self.is_crowded = is_crowded;
        for at in [0, 1] {
            let own: u64 = self.seats.values().map(|seat| seat.own()[at]).sum();
            // The counts were not read in one moment: the rest may seem to have less than before.
            let rest = total[at].saturating_sub(own + self.left[at]);
            self.rest[at] = self.rest[at].max(rest);
        }
    }

    fn rest(&self) -> [u64; 2] {
        [0, 1].map(|at| self.rest[at] + self.left[at])
    }
}

type Labels = Vec<(&'static str, Cow<'static, str>)>;
type Series = Vec<(Labels, Value)>;

enum Value {
    Count(u64),
    Sum(f64),
    Gauge(f64),
}

/// One metric with its series.
struct Family {
    name: &'static str,
    help: &'static str,
    series: Series,
}

/// Returns the page of a look.
pub(super) fn text(figures: &Figures, seats: &mut Seats) -> String {
    let labels = [
        ("cluster", figures.cluster.clone()),
        ("node_type", "broker".to_owned()),
        ("node_id", figures.broker.to_string()),
    ];
    let labels = labels.map(|(name, value)| (Cow::Borrowed(name), Cow::Owned(value)));
    let mut registry = Registry::with_labels(labels.into_iter());
    registry.register_collector(Box::new(Page(families(figures, seats))));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a string takes what is written");
    page
}

struct Page(Vec<Family>);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metrics", self.0.len())
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, series } in &self.0 {
            let Some((_, first)) = series.first() else { continue };
            let kind = match first {
                Value::Count(_) | Value::Sum(_) => MetricType::Counter,
                Value::Gauge(_) => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, value) in series {
                let mut series = metric.encode_family(labels)?;
                match value {
                    Value::Count(count) => {
                        series.encode_counter::<NoLabelSet, _, u64>(count, None)?
                    }
                    Value::Sum(sum) => series.encode_counter::<NoLabelSet, _, u64>(sum, None)?,
                    Value::Gauge(value) => series.encode_gauge(value)?,
                }
            }
        }
        Ok(())
    }
}

fn families(figures: &Figures, seats: &mut Seats) -> Vec<Family> {
    let mut families = Vec::new();
    let mut add = |name, help, series| families.push(Family { name, help, series });
    let one = |value: f64| vec![(Labels::new(), Value::Gauge(value))];
    let count = |value: u64| vec![(Labels::new(), Value::Count(value))];

    add("rocketmq_broker_permission", "4 to read, 2 to write", one(figures.permission.into()));
    add("rocketmq_topic_number", "Topics", one(figures.topics.len() as f64));
    add("rocketmq_consumer_group_number", "Subscription groups", one(figures.groups as f64));
    let (messages, bytes) = puts(figures, seats);
    add("rocketmq_messages_in", "Messages put", messages);
    add("rocketmq_throughput_in", "Bytes put", bytes);
    let (messages, bytes) = gots(figures, seats);
    add("rocketmq_messages_out", "Messages got by consumers", messages);
    add("rocketmq_throughput_out", "Bytes got by consumers", bytes);
    let (lag, age) = lags(&figures.consumption, seats.max);
    add("rocketmq_consumer_lag_messages", "Messages that a group has not committed", lag);
    add("rocketmq_consumer_lag_latency", "How long the oldest of them has waited, in ms", age);
    add("rocketmq_producer_connections", "Members of producer groups", producers(figures));
    add("rocketmq_consumer_connections", "Members of groups", consumers(figures, seats.max));
    let halves = figures.halves.transaction_count.iter();
    let halves = top(halves.map(|(topic, half)| (topic.clone(), half.count as f64)), seats.max);
    add("rocketmq_half_messages", "Transactions that wait for their end", by_topic(halves));

    let store = &figures.store;
    let on_disk = |value: f64| vec![(local(), Value::Gauge(value))];
    add("rocketmq_storage_size", "Bytes of the log's files", on_disk(store.log_bytes as f64));
    let unsynced = store.appended.saturating_sub(store.synced) as f64;
    add("rocketmq_storage_flush_behind_bytes", "Bytes that are not synced", on_disk(unsynced));
    let unseen = store.dispatch_behind_bytes() as f64;
    add("rocketmq_storage_dispatch_behind_bytes", "Bytes not in the queues yet", on_disk(unseen));
    let age = figures.log_age_ms.map(|age| (local(), Value::Gauge(age as f64)));
    let help = "Age of the first message of the log, in ms";
    add("rocketmq_storage_message_reserve_time", help, age.into_iter().collect());
    if let Some(timers) = &figures.timers {
        let help = "Timer messages that have no slot yet";
        add("rocketmq_timer_enqueue_lag", help, on_disk(timers.behind as f64));
        let help = "How much of the timers is overdue, in ms";
        add("rocketmq_timer_dequeue_latency", help, on_disk(timers.late_ms as f64));
        let waiting = timers.by_topic.timing_count.iter();
        let waiting = top(waiting.map(|(topic, it)| (topic.clone(), it.count as f64)), seats.max);
        add("rocketmq_timing_messages", "Timer messages that wait, by topic", by_topic(waiting));
        add("apogee_timers_waiting", "Timer messages in slots", one(timers.waiting as f64));
        add("rocketmq_timer_enqueue", "Timer messages that got a slot", count(timers.moved[0]));
        add("rocketmq_timer_dequeue", "Timer messages that left theirs", count(timers.moved[1]));
    }

    let marks = [
        ("min", store.log_min),
        ("appended", store.appended),
        ("written", store.written),
        ("synced", store.synced),
        ("dispatched", store.dispatched),
    ];
    let marks = marks.map(|(mark, at)| (vec![("mark", mark.into())], Value::Gauge(at as f64)));
    add("apogee_log_offset_bytes", "How far the log has come", marks.into());
    add("apogee_disk_used_ratio", "Used share of the log's disk", one(store.log_disk_used_ratio));
    let is_refusing = f64::from(u8::from(store.is_full || store.is_poisoned));
    add("apogee_log_refuses", "1 while nothing can be appended", one(is_refusing));
    let reasons = [("busy", store.refused[0]), ("full", store.refused[1])];
    let reasons = reasons.map(|(why, it)| (vec![("reason", why.into())], Value::Count(it)));
    add("apogee_refused_messages", "Messages refused for now", reasons.into());
    add("apogee_log_syncs", "Syncs of the log", count(store.syncs));
    let spent = vec![(Labels::new(), Value::Sum(store.sync_time.as_secs_f64()))];
    add("apogee_log_sync_seconds", "Time that syncs of the log took", spent);
    let kinds = ["log_files", "view_files", "unconsumed_messages"];
    let removed = kinds.into_iter().zip(figures.removed);
    let removed = removed.map(|(what, it)| (vec![("what", what.into())], Value::Count(it)));
    add("apogee_retention_removed", "What retention removed", removed.collect());
    add("apogee_waiting_pulls", "Pulls that wait", one(figures.waiting_pulls as f64));
    add("apogee_filtered_messages", "Messages read and not let through", count(figures.filtered));
    families
}

fn puts(figures: &Figures, seats: &mut Seats) -> (Series, Series) {
    let counts = figures.topics.iter().map(|it| (it.topic.to_string(), it.put)).collect();
    seats.topics.update(counts, figures.put, seats.max);
    let mut both = (Vec::new(), Vec::new());
    let mut add = |topic: String, kind: String, is_system: bool, [messages, bytes]: [u64; 2]| {
        let labels: Labels = vec![
            ("topic", topic.into()),
            ("message_type", kind.into()),
            ("is_system", text_of(is_system)),
        ];
        both.0.push((labels.clone(), Value::Count(messages)));
        both.1.push((labels, Value::Count(bytes)));
    };
    for topic in &figures.topics {
        let Some(seat) = seats.topics.seats.get(&*topic.topic) else { continue };
        let kind = topic.message_type.as_deref().unwrap_or("NORMAL").to_ascii_lowercase();
        add(topic.topic.to_string(), kind, topic.is_system, seat.own());
    }
    let rest = seats.topics.rest();
    if rest != [0; 2] {
        add(REST.to_owned(), "normal".to_owned(), false, rest);
    }
    both
}

fn gots(figures: &Figures, seats: &mut Seats) -> (Series, Series) {
    let key = |it: &ConsumptionFigures| (it.group.to_string(), it.topic.to_string());
    let counts = figures.consumption.iter().map(|it| (key(it), it.got)).collect();
    seats.groups.update(counts, figures.got, seats.max);
    let mut both = (Vec::new(), Vec::new());
    let mut add = |labels: Labels, [messages, bytes]: [u64; 2]| {
        both.0.push((labels.clone(), Value::Count(messages)));
        both.1.push((labels, Value::Count(bytes)));
    };
    for it in &figures.consumption {
        if let Some(seat) = seats.groups.seats.get(&key(it)) {
            add(group_labels(it), seat.own());
        }
    }
    let rest = seats.groups.rest();
    if rest != [0; 2] {
        add(rest_labels(), rest);
    }
    both
}

/// The longest lags, and the ages of what they lag behind by.
fn lags(all: &[ConsumptionFigures], max: usize) -> (Series, Series) {
    let mut order: Vec<&ConsumptionFigures> = all.iter().collect();
    order.sort_by_key(|it| Reverse(it.lag));
    let (shown, rest) = order.split_at(max.min(order.len()));
    let mut lags: Vec<_> =
        shown.iter().map(|it| (group_labels(it), Value::Gauge(it.lag as f64))).collect();
    let aged = |it: &&&ConsumptionFigures| it.lag == 0 || it.lag_ms.is_some();
    let age = |it: &ConsumptionFigures| Value::Gauge(it.lag_ms.unwrap_or(0) as f64);
    let ages = shown.iter().filter(aged).map(|it| (group_labels(it), age(it))).collect();
    if !rest.is_empty() {
        let sum: i64 = rest.iter().map(|it| it.lag).sum();
        lags.push((rest_labels(), Value::Gauge(sum as f64)));
    }
    (lags, ages)
}

fn producers(figures: &Figures) -> Series {
    let of = |((language, version), count): (&(Language, i32), &usize)| {
        let labels = client_labels(*language, *version);
        (labels, Value::Gauge(*count as f64))
    };
    figures.producers.iter().map(of).collect()
}

fn consumers(figures: &Figures, max: usize) -> Series {
    let mut order: Vec<_> = figures.consumers.iter().collect();
    order.sort_by_key(|(_, count)| Reverse(**count));
    let (shown, rest) = order.split_at(max.min(order.len()));
    let mut series: Vec<_> = shown
        .iter()
        .map(|(consuming, count)| {
            let mut labels: Labels = vec![("consumer_group", consuming.group.to_string().into())];
            labels.extend(client_labels(consuming.language, consuming.version));
            let mode = if consuming.is_push { "push" } else { "pull" };
            labels.push(("consume_mode", mode.into()));
            labels.push(("is_system", text_of(wire::names::is_system_group(&consuming.group))));
            (labels, Value::Gauge(**count as f64))
        })
        .collect();
    if !rest.is_empty() {
        let sum: usize = rest.iter().map(|(_, count)| **count).sum();
        series.push((vec![("consumer_group", REST.into())], Value::Gauge(sum as f64)));
    }
    series
}

/// The `max` largest, and the sum of the others.
fn top(all: impl Iterator<Item = (String, f64)>, max: usize) -> Vec<(String, f64)> {
    let mut all: Vec<_> = all.collect();
    all.sort_by(|one, other| other.1.total_cmp(&one.1));
    let rest: f64 = all.iter().skip(max).map(|(_, value)| value).sum();
    if all.len() > max {
        all.truncate(max);
        all.push((REST.to_owned(), rest));
    }
    all
}

fn by_topic(values: Vec<(String, f64)>) -> Series {
    let series =
        |(topic, value): (String, f64)| (vec![("topic", topic.into())], Value::Gauge(value));
    values.into_iter().map(series).collect()
}

fn local() -> Labels {
    vec![("storage_type", "local".into()), ("storage_medium", "disk".into())]
}

fn group_labels(it: &ConsumptionFigures) -> Labels {
    vec![
        ("consumer_group", it.group.to_string().into()),
        ("topic", it.topic.to_string().into()),
        ("is_retry", text_of(it.is_retry())),
        ("is_system", text_of(it.is_system())),
    ]
}

fn rest_labels() -> Labels {
    vec![
        ("consumer_group", REST.into()),
        ("topic", REST.into()),
        ("is_retry", text_of(false)),
        ("is_system", text_of(false)),
    ]
}

fn client_labels(language: Language, number: i32) -> Labels {
    let name = language.name().unwrap_or("OTHER").to_ascii_lowercase();
    vec![
        ("language", name.into()),
        ("version", version::name(number).to_ascii_lowercase().into()),
        ("protocol_type", "remoting".into()),
    ]
}

fn text_of(is: bool) -> Cow<'static, str> {
    if is { "true".into() } else { "false".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(share: &Share<&'static str>) -> Vec<(&'static str, u64)> {
        let mut shown: Vec<_> =
            share.seats.iter().map(|(key, seat)| (*key, seat.own()[0])).collect();
        shown.sort();
        shown.push((REST, share.rest()[0]));
        shown
    }

    #[test]
    fn seats_are_kept_and_no_counter_falls_when_topics_come_and_go() {
        let mut share = Share::default();
        let mut look = |counts: &[(&'static str, u64)], total: u64| {
            let counts = counts.iter().map(|(key, it)| (*key, [*it, 0])).collect();
            share.update(counts, [total, 0], 2);
            shown(&share)
        };
        assert_eq!(look(&[("a", 5), ("b", 3)], 8), [("a", 5), ("b", 3), ("*", 0)]);
        assert_eq!(look(&[("a", 5), ("b", 3), ("c", 90)], 98), [("a", 5), ("b", 3), ("*", 90)]);
        // `a` goes: `c` takes its seat, and what `c` had stays with the rest, as does what `a` had.
        assert_eq!(look(&[("b", 4), ("c", 95)], 104), [("b", 4), ("c", 0), ("*", 100)]);
        assert_eq!(look(&[("b", 4), ("c", 99)], 108), [("b", 4), ("c", 4), ("*", 100)]);
        // `b` is made anew.
        assert_eq!(look(&[("b", 1), ("c", 99)], 109), [("b", 1), ("c", 4), ("*", 104)]);
    }

    #[test]
    fn the_largest_have_names_and_the_others_are_added_up() {
        let values = [("a", 1.0), ("b", 5.0), ("c", 2.0)].map(|(name, it)| (name.to_owned(), it));
        let expected = [("b", 5.0), ("*", 3.0)].map(|(name, it)| (name.to_owned(), it));
        assert_eq!(top(values.clone().into_iter(), 1), expected);
        assert_eq!(top(values.into_iter(), 3).len(), 3);
    }
}
