//! What administrators ask: figures of the broker, of a topic, of a group; and single messages.
//!
//! Figures are true or absent: a key of the original's runtime info that has no meaning here (its thread pools, its page
//! cache lock) is given with the value that says so to the tools, which expect it. (Java: `AdminBrokerProcessor`,
//! `QueryMessageProcessor`)

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use bytestring::ByteString;
use env::Millis;
use store::{Fault, Wanted};
use wire::{
    body::{
        MessageQueue,
        progress::{StatsData, StatsItem},
        topic::{TopicOffset, TopicStatsTable},
    },
    code::version,
    properties::{self, name},
    record::{CheckCrc, Record},
};

use crate::{
    Broker,
    api::{FindError, Found, TopicError},
    blocking,
    stats::{GroupStats, Span, Traffic},
    timer::Timers,
};

/// Candidates of the index that one query by key reads (Java: `maxMsgsNumBatch`).
const FOUND_MAX: usize = 64;

impl Broker {
    /// Returns the runtime info (GET_BROKER_RUNTIME_INFO): the original's keys, and `apogee.*` of our own.
    pub fn runtime_info(&self) -> BTreeMap<String, String> {
        let inner = &*self.inner;
        let options = inner.options.read();
        let status = inner.store.status();
        let (now, stats) = (inner.env.clock.now(), &inner.stats);
        let mut info = BTreeMap::new();
        let mut put = |key: &str, value: String| {
            info.insert(key.to_owned(), value);
        };

        put("brokerVersionDesc", version::name(version::OURS));
        put("brokerVersion", version::OURS.to_string());
        put("brokerActive", "true".into());
        put("bootTimestamp", inner.started_at.to_string());
        put("runtime", duration_text(now - inner.started_at));
        put("startAcceptSendRequestTimeStamp", options.start_accept_send_at.to_string());

        put("msgPutTotalTodayNow", stats.put.messages().to_string());
        put("msgGetTotalTodayNow", stats.got.messages().to_string());
        let mornings = stats.mornings();
        for (day, put_total, got_total) in [
            ("Yesterday", mornings.put[0], mornings.got[0]),
            ("Today", mornings.put[1], mornings.got[1]),
        ] {
            put(&format!("msgPutTotal{day}Morning"), put_total.to_string());
            put(&format!("msgGetTotal{day}Morning"), got_total.to_string());
        }
        put("putMessageTimesTotal", stats.put.messages().to_string());
        put("putMessageSizeTotal", stats.put.bytes().to_string());
        let average = stats.put.bytes() as f64 / stats.put.messages().max(1) as f64;
        put("putMessageAverageSize", average.to_string());
        put("putTps", rates(&stats.put));
        put("getFoundTps", rates(&stats.found));
        put("getMissTps", rates(&stats.missed));
        let sums = |periods| stats.found.per_second(periods) + stats.missed.per_second(periods);
        put("getTotalTps", format!("{} {} {}", sums(1), sums(6), sums(60)));
        put("getTransferredTps", rates(&stats.got));

        put("dispatchBehindBytes", status.dispatch_behind_bytes().to_string());
        put("dispatchMaxBuffer", status.dispatch_items.to_string());
        let unsynced = status.appended.saturating_sub(status.synced);
        put("remainHowManyDataToFlush", bytes_text(unsynced));
        put("commitLogMinOffset", status.log_min.to_string());
        put("commitLogMaxOffset", status.appended.to_string());
        put("earliestMessageTimeStamp", self.first_stored_at().unwrap_or(-1).to_string());
        put("commitLogDiskRatio", status.log_disk_used_ratio.to_string());
        put("consumeQueueDiskRatio", status.log_disk_used_ratio.to_string());
        if let Ok(space) = inner.env.disk.space(&inner.store.config_dir()) {
            let (total, free) = (bytes_text(space.total), bytes_text(space.free));
            put("commitLogDirCapacity", format!("Total : {total}, Free : {free}."));
        }

        // No thread pools with queues, no page cache lock, no pool of buffers: nothing ever waits there.
        put("pageCacheLockTimeMills", "0".into());
        put("remainTransientStoreBufferNumbs", i32::MAX.to_string());
        for pool in ["send", "pull", "litePull", "query", "ack"] {
            put(&format!("{pool}ThreadPoolQueueSize"), "0".into());
            put(&format!("{pool}ThreadPoolQueueCapacity"), "0".into());
            put(&format!("{pool}ThreadPoolQueueHeadWaitTimeMills"), "0".into());
        }
        put("EndTransactionQueueSize", "0".into());
        put("EndTransactionThreadPoolQueueCapacity", "0".into());
        let timers = inner.timers.as_ref();
        let read_behind = timers.map_or(0, |timers| (now - timers.read_time(now)) / 1000);
        put("timerReadBehind", read_behind.to_string());
        put("timerOffsetBehind", timers.map_or(0, Timers::behind).to_string());
        put("timerCongestNum", timers.map_or(0, Timers::waiting).to_string());
        put("timerEnqueueTps", format!("{:?}", stats.timers_in.per_second(1)));
        put("timerDequeueTps", format!("{:?}", stats.timers_out.per_second(1)));
        for ((offset, max), level) in inner.delay_levels.progress().into_iter().zip(1..) {
            put(&format!("scheduleMessageOffset_{level}"), format!("{offset},{max}"));
        }

        let (consumers, producers) = inner.clients.counts();
        put("apogee.consumers", consumers.to_string());
        put("apogee.producers", producers.to_string());
        put("apogee.waitingPulls", inner.parked.count().to_string());
        put("apogee.filters", inner.filters.count().to_string());
        let (code_filters, errors) = inner.code_filters.counts();
        put("apogee.codeFilters", code_filters.to_string());
        put("apogee.codeFilterErrors", errors.to_string());
        put("apogee.filteredMessages", stats.filtered.messages().to_string());
        info
    }

    /// Returns when the first message of the log was stored; none if it has none, or a device would have to be waited for.
    pub(crate) fn first_stored_at(&self) -> Option<Millis> {
        let store = &self.inner.store;
        let first = store.try_record_at(store.log_range().start).ok().flatten()?;
        let first = Record::decode(&first, CheckCrc::No).ok()?;
        Some(first.numbers.stored_at)
    }

    /// Returns what was counted under a name of the original's for a topic, `topic@group` or the cluster; none if nothing
    /// was (VIEW_BROKER_STATS_DATA).
    pub fn stats_data(&self, name: &str, key: &str) -> Option<StatsData> {
        let inner = &*self.inner;
        let of_group = |traffic: fn(&GroupStats) -> &Traffic| {
            let (topic, group) = key.split_once('@')?;
            Some(traffic(&*inner.stats.group(group, topic)?).spans())
        };
        let of_topic = || Some(inner.topics.find(key)?.stats.put.spans());
        let is_cluster = || (inner.options.read().cluster_name == key).then_some(());
        let [minute, hour, day] = match name {
            "TOPIC_PUT_NUMS" | "TOPIC_PUT_SIZE" => of_topic()?,
            "GROUP_GET_NUMS" | "GROUP_GET_SIZE" => of_group(|stats| &stats.got)?,
            "SNDBCK_PUT_NUMS" => of_group(|stats| &stats.sent_back)?,
            "BROKER_PUT_NUMS" => is_cluster().map(|()| inner.stats.put.spans())?,
            "BROKER_GET_NUMS" => is_cluster().map(|()| inner.stats.got.spans())?,
            _ => return None,
        };
        let item = |span: Span| {
            let sum = if name.ends_with("SIZE") { span.bytes } else { span.messages };
            let per = |count: f64| if count > 0.0 { sum as f64 / count } else { 0.0 };
            StatsItem { sum: sum as i64, tps: per(span.seconds), avgpt: per(span.times as f64) }
        };
        Some(StatsData { stats_minute: item(minute), stats_hour: item(hour), stats_day: item(day) })
    }

    /// Returns first, last and latest time of each queue of a topic.
    ///
    /// # Errors
    /// [`TopicError::Unknown`].
    pub async fn topic_stats(&self, topic: &str) -> Result<TopicStatsTable, TopicError> {
        let inner = &*self.inner;
        let found = inner.topics.find(topic).ok_or_else(|| TopicError::Unknown(topic.into()))?;
        let queues = found.config.read_queue_nums.max(found.config.write_queue_nums);
        let put_per_second = found.stats.put.per_second(6);
        let handles: Vec<_> = (0..queues).map(|id| found.queue(&inner.store, id)).collect();
        let broker_name = inner.options.read().broker_name.clone();
        self.caught_up().await;
        let offset_table = blocking(move || {
            let offsets = handles.into_iter().map(|queue| {
                let (min, max) = (queue.min_offset(), queue.max_offset());
                let latest = if max > 0 { queue.stored_at(max - 1).ok().flatten() } else { None };
                let offset = TopicOffset {
                    min_offset: min,
                    max_offset: max,
                    last_update_timestamp: latest.unwrap_or(0),
                };
                (message_queue(queue.topic(), &broker_name, queue.id()), offset)
            });
            offsets.collect()
        })
        .await;
        Ok(TopicStatsTable { topic_put_tps: put_per_second, offset_table })
    }

    /// Returns the groups that consume the topic or have consumed it.
    pub fn groups_of_topic(&self, topic: &str) -> Vec<ByteString> {
        let mut groups: BTreeSet<ByteString> =
            self.inner.clients.groups_of(topic).into_iter().collect();
        groups.extend(self.inner.offsets.groups_of(topic));
        groups.into_iter().collect()
    }

    /// Returns the topics that the group has consumed.
    pub fn topics_of_group(&self, group: &str) -> Vec<ByteString> {
        self.inner.offsets.topics_of(group)
    }

    /// Returns the record at a log offset (VIEW_MESSAGE_BY_ID).
    ///
    /// # Errors
    /// See [`FindError`].
    pub async fn message_at(&self, log_offset: i64) -> Result<Bytes, FindError> {
        let found = self.record_at(log_offset).await.map_err(|fault| match fault {
            Fault::OutOfRange(_) | Fault::Damaged { .. } => FindError::NotAt(log_offset),
            fault => FindError::Store(fault.to_string()),
        })?;
        // The offset comes from outside: it may lie within a record.
        match Record::decode(&found, CheckCrc::Yes) {
            Ok(record) if i64::try_from(record.numbers.log_offset) == Ok(log_offset) => Ok(found),
            Ok(_) | Err(_) => Err(FindError::NotAt(log_offset)),
        }
    }

    /// Returns records of a topic with a key, or with a unique key, stored between two times; none if there are none.
    ///
    /// # Errors
    /// [`FindError::Store`].
    pub async fn messages_with_key(
        &self,
        topic: &str,
        key: &str,
        count_max: usize,
        begin_ms: i64,
        end_ms: i64,
    ) -> Result<Found, FindError> {
        let store = self.inner.store.clone();
        let (topic, key) = (topic.to_owned(), key.to_owned());
        let found = blocking(move || -> Result<Found, Fault> {
            let count_max = count_max.min(FOUND_MAX);
            let found = store.query(&topic, Wanted::Key(&key), count_max, begin_ms, end_ms)?;
            let mut records = Vec::new();
            for log_offset in found.log_offsets {
                let Ok(bytes) = store.record_at_blocking(log_offset) else { continue };
                let is_match = Record::decode(&bytes, CheckCrc::No)
                    .is_ok_and(|record| record.topic == topic && has_key(&record.properties, &key));
                if is_match {
                    records.push(bytes);
                }
            }
            let (indexed_until, offset) = (found.last_update_time, found.last_update_offset);
            Ok(Found { records, indexed_until, indexed_offset: offset as i64 })
        });
        found.await.map_err(|fault| FindError::Store(fault.to_string()))
    }

    /// Reads the record at a log offset, whatever lies there.
    pub(crate) async fn record_at(&self, log_offset: i64) -> Result<Bytes, Fault> {
        let at = u64::try_from(log_offset).map_err(|_| Fault::OutOfRange(0))?;
        match self.inner.store.try_record_at(at)? {
            Some(bytes) => Ok(bytes),
            None => {
                let store = self.inner.store.clone();
                blocking(move || store.record_at_blocking(at)).await
            }
        }
    }
}

fn has_key(text: &str, key: &str) -> bool {
    properties::iter(text).any(|(name, value)| match name {
        name::UNIQ_KEY => value == key,
        name::KEYS => value.split(' ').any(|one| one == key),
        _ => false,
    })
}

pub(crate) fn message_queue(topic: &str, broker_name: &str, queue_id: i32) -> MessageQueue {
    MessageQueue { topic: topic.into(), broker_name: broker_name.into(), queue_id }
}

/// Rates over 10 s, a minute and ten minutes, as the original writes them.
fn rates(rate: &Traffic) -> String {
    format!("{} {} {}", rate.per_second(1), rate.per_second(6), rate.per_second(60))
}

fn duration_text(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    format!("[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]")
}

/// Bytes as the original writes them (Java: `MixAll.humanReadableByteCount`).
fn bytes_text(bytes: u64) -> String {
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let exponent = bytes.ilog2() / 10;
    let unit = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][exponent as usize - 1];
    format!("{:.1} {unit}", bytes as f64 / f64::from(1 << 10).powi(exponent as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_written_as_the_tools_expect() {
        assert_eq!(bytes_text(1_023), "1023 B");
        assert_eq!(bytes_text(1_536), "1.5 KiB");
        assert_eq!(bytes_text(u64::MAX), "16.0 EiB");
        assert_eq!(duration_text(90_061_000), "[ 1 days, 1 hours, 1 minutes, 1 seconds ]");
    }

    #[test]
    fn a_key_is_one_of_the_words_or_the_unique_key() {
        let text = "KEYS\u{1}a bc\u{2}UNIQ_KEY\u{1}u\u{2}";
        assert!(has_key(text, "a") && has_key(text, "bc") && has_key(text, "u"));
        assert!(!has_key(text, "b") && !has_key(text, "a bc"));
    }
}
