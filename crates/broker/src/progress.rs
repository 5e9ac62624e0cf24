//! How far groups are: where they are to consume from, what they have committed, and what administrators do about it:
//! set them, copy them, look at them.
//!
//! A group is set in one of two ways. By default the new offsets wait here, and the next pull of each queue is told; so
//! nobody need be connected. With `useServerSideResetOffset=false` they are pushed to the connected consumers, which
//! commit them. (Java: `ConsumerManageProcessor`, `AdminBrokerProcessor`, `Broker2Client`)

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytestring::ByteString;
use store::{Boundary, Fault, Queue};
use wire::{
    body::{
        group::{ConsumeStats, OffsetWrapper},
        progress::{ConsumeStatsList, QueueTimeSpan, TimeSpans},
    },
    code::{Language, version},
    names,
};

use crate::{
    Broker,
    admin::message_queue,
    api::{
        ClientCommand, CommitError, Committed, GroupError, IfUnknown, OffsetError, OffsetsReset,
        ResetError, ResetTo, StatsOf, TooManyQueues, TopicError,
    },
    blocking,
    topics::Topic,
};

/// Queues of which one answer tells how far every group is.
const STATS_QUEUES_MAX: usize = 100_000;

impl Broker {
    /// Returns where the group is to consume from.
    ///
    /// A group without an offset begins at 0 if the queue still has its first message, and that lies near the end of the
    /// log: whatever the consumer's own setting, a new group misses nothing of a young topic. It begins at 0 in an empty
    /// queue, too, as in 4.9.7: 5.5.0 has the client ask for the end instead, and what is stored before it asks is missed.
    ///
    /// # Errors
    /// See [`OffsetError`].
    pub async fn consumer_offset(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        if_unknown: IfUnknown,
    ) -> Result<i64, OffsetError> {
        let inner = &*self.inner;
        if let Some(offset) = inner.offsets.query(group, topic, queue_id) {
            return Ok(offset);
        }
        if if_unknown == IfUnknown::NotFound {
            return Err(OffsetError::NotFoundNoZero);
        }
        let Some(queue) = self.queue(topic, queue_id) else { return Err(OffsetError::NotFound) };
        if queue.min_offset() > 0 {
            return Err(OffsetError::NotFound);
        }
        if queue.max_offset() == 0 {
            return Ok(0);
        }
        let mut entries = Vec::with_capacity(1);
        let first = match queue.try_read(0, 1, &mut entries) {
            Ok(true) => Ok(entries.pop()),
            Ok(false) | Err(_) => blocking(move || queue.entry(0)).await,
        };
        let log = inner.store.log_range();
        let near_bytes = inner.options.read().near_bytes();
        match first {
            Ok(Some(entry))
                if entry.log_offset >= log.start
                    && log.end.saturating_sub(entry.log_offset) <= near_bytes =>
            {
                Ok(0)
            }
            Ok(_) | Err(_) => Err(OffsetError::NotFound),
        }
    }

    /// Stores how far the group has consumed.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit_offset(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        offset: i64,
    ) -> Result<Committed, CommitError> {
        let inner = &*self.inner;
        if inner.groups.get(group).is_none() {
            return Err(CommitError::UnknownGroup(group.into()));
        }
        let Some(found) = inner.topics.find(topic) else {
            return Err(CommitError::UnknownTopic(topic.into()));
        };
        let queues = found.config.read_queue_nums.max(found.config.write_queue_nums);
        // What a group was given before a topic lost queues may still move.
        let is_known = (0..queues).contains(&queue_id)
            || inner.offsets.query(group, topic, queue_id).is_some();
        if !is_known {
            let topic = topic.into();
            return Err(CommitError::UnknownQueue { queue_id, topic, queues });
        }
        if inner.options.read().use_server_side_reset_offset
            && inner.offsets.is_reset(group, topic, queue_id)
        {
            return Ok(Committed::Reset);
        }
        inner.offsets.commit(group, topic, queue_id, offset)?;
        self.trace_commit(group, topic, queue_id, offset);
        Ok(Committed::Stored)
    }

    /// Sets where the next pull of the group begins, on one queue or on all that can be read: at an offset, at a store
    /// time, or behind the last message. Returns the offsets by queue.
    ///
    /// # Errors
    /// See [`ResetError`].
    pub async fn reset_offsets(
        &self,
        group: &str,
        topic: &str,
        queue_id: Option<i32>,
        to: ResetTo,
    ) -> Result<BTreeMap<i32, i64>, ResetError> {
        let inner = &*self.inner;
        let Some(found) = inner.topics.find(topic) else {
            return Err(ResetError::UnknownTopic(topic.into()));
        };
        if inner.groups.get(group).is_none() {
            return Err(ResetError::UnknownGroup(group.into()));
        }
        let ids = queue_id.map_or(0..found.config.read_queue_nums, |id| id..id.saturating_add(1));
        let queues: Option<Vec<_>> = ids.clone().map(|id| self.queue(topic, id)).collect();
        let queues = match queues {
            Some(queues) if queues.is_empty() => return Err(ResetError::NoQueues),
            Some(queues) => queues,
            None => return Err(ResetError::UnknownQueue(ids.start)),
        };
        let set = queues.clone();
        self.caught_up().await;
        let offsets = blocking(move || {
            let offset = |queue: &Arc<Queue>| Ok((queue.id(), offset_to(queue, to)?));
            set.iter().map(offset).collect::<Result<BTreeMap<_, _>, ResetError>>()
        });
        let offsets = offsets.await?;
        for (id, offset) in &offsets {
            inner.offsets.reset(group, topic, *id, *offset)?;
        }
        queues.iter().for_each(|queue| inner.parked.wake(queue));
        tracing::info!(group, topic, ?offsets, "consumer offsets reset");
        Ok(offsets)
    }

    /// Tells the group's connected consumers to go on at a store time, or at the end if that is negative; not behind
    /// what they have consumed unless `is_forced`. `as_list` has all of them told in the form for C++. Returns the
    /// offsets by queue.
    ///
    /// # Errors
    /// See [`ResetError`]; nobody has been told then.
    pub async fn push_offsets(
        &self,
        group: &str,
        topic: &str,
        timestamp: i64,
        is_forced: bool,
        as_list: bool,
    ) -> Result<BTreeMap<i32, i64>, ResetError> {
        let inner = &*self.inner;
        let Some(found) = inner.topics.find(topic) else {
            return Err(ResetError::UnknownTopic(topic.into()));
        };
        let queues: Vec<_> =
            (0..found.config.write_queue_nums).map(|id| found.queue(&inner.store, id)).collect();
        let consumed = queues.iter().map(|queue| {
            let consumed = inner.offsets.query(group, topic, queue.id());
            consumed.ok_or_else(|| ResetError::NothingConsumed(group.into(), queue.id()))
        });
        let consumed = consumed.collect::<Result<Vec<i64>, _>>()?;
        let to = if timestamp < 0 { ResetTo::End } else { ResetTo::Time(timestamp) };
        self.caught_up().await;
        let offsets = blocking(move || {
            let offsets = queues.iter().zip(consumed).map(|(queue, consumed)| {
                let offset = offset_to(queue, to)?;
                Ok((queue.id(), if is_forced { offset } else { offset.min(consumed) }))
            });
            offsets.collect::<Result<BTreeMap<_, _>, ResetError>>()
        });
        let offsets = Arc::new(offsets.await?);
        let consumers = inner.clients.consumers(group);
        if consumers.is_empty() {
            let (group, topic) = (group.into(), topic.into());
            return Err(ResetError::NotOnline { group, topic, timestamp });
        }
        if let Some(old) = consumers.iter().find(|consumer| consumer.version < version::V3_0_7) {
            let client_id = old.client_id.clone();
            return Err(ResetError::OldClient { client_id, version: version::name(old.version) });
        }
        for consumer in consumers {
            let told = consumer.channel.push(ClientCommand::OffsetsReset(OffsetsReset {
                group: group.into(),
                topic: topic.into(),
                timestamp,
                broker_name: inner.options.read().broker_name.clone(),
                offsets: offsets.clone(),
                as_list: as_list || consumer.language == Language::CPP,
            }));
            let is_told = told.is_ok();
            tracing::info!(group, topic, client = %consumer.client_id, is_told, "consumer sent to other offsets");
        }
        Ok(Arc::unwrap_or_clone(offsets))
    }

    /// Gives one group the committed offsets of another, of one topic or of all; without `is_offline` only of topics that
    /// the other still subscribes to, if it is connected.
    ///
    /// # Errors
    /// [`GroupError::InvalidName`], [`GroupError::Full`]; what was copied before stays.
    pub fn clone_offsets(
        &self,
        from: &str,
        to: &str,
        topic: Option<&str>,
        is_offline: bool,
    ) -> Result<(), GroupError> {
        let inner = &*self.inner;
        names::check_group(to).map_err(|bad| GroupError::InvalidName(bad.to_string()))?;
        let topics = match topic {
            Some(topic) => vec![topic.into()],
            None => inner.offsets.topics_of(from),
        };
        for topic in topics {
            let is_wanted = is_offline || self.is_wanted(from, &topic);
            if is_wanted && inner.topics.find(&topic).is_some() {
                inner.offsets.copy(from, to, &topic)?;
            }
        }
        Ok(())
    }

    /// Makes room in a full table: forgets what groups have come to in topics that they no longer subscribe to, where
    /// retention has passed all of it. (Java: `scanUnsubscribedTopic`, which nothing calls there; who comes back after that
    /// begins as a new group does, so here it waits for need.)
    pub(crate) fn forget_unsubscribed(&self) {
        let inner = &*self.inner;
        let mut forgotten = 0;
        for (group, topic) in inner.offsets.keys() {
            let is_passed = |(id, offset): &(i32, i64)| *offset <= self.min_offset(&topic, *id);
            if !inner.clients.is_subscribed(&group, &topic)
                && inner.offsets.committed(&group, &topic).iter().all(is_passed)
            {
                inner.offsets.remove(&group, &topic);
                forgotten += 1;
            }
        }
        tracing::warn!(
            forgotten,
            "the table of consumer offsets is full: groups that left topics were forgotten; raise `offsetsMax` if this comes again"
        );
    }

    /// Returns the offset that the slowest group has come to, by queue, without the groups of `but`; `i64::MAX` where
    /// `compared` is slower than all others.
    pub fn slowest_offsets(
        &self,
        topic: &str,
        but: &[&str],
        compared: Option<&str>,
    ) -> BTreeMap<i32, i64> {
        let inner = &*self.inner;
        let mut slowest = BTreeMap::new();
        for group in inner.offsets.groups_of(topic) {
            if but.contains(&&*group) {
                continue;
            }
            for (id, offset) in inner.offsets.committed(&group, topic) {
                if offset >= self.min_offset(topic, id) {
                    let least = slowest.entry(id).or_insert(offset);
                    *least = offset.min(*least);
                }
            }
        }
        for (id, offset) in
            compared.map(|group| inner.offsets.committed(group, topic)).into_iter().flatten()
        {
            if let Some(least) = slowest.get_mut(&id).filter(|least| **least > offset) {
                *least = i64::MAX;
            }
        }
        slowest
    }

    /// While a group subscribes to anything, what it does not subscribe to is not of interest.
    fn is_wanted(&self, group: &str, topic: &str) -> bool {
        let clients = &self.inner.clients;
        clients.subscription_count(group) == 0 || clients.is_subscribed(group, topic)
    }

    /// Returns how far a group is.
    pub async fn consume_stats(&self, group: &str, of: StatsOf) -> ConsumeStats {
        let inner = &*self.inner;
        let is_wanted = |topic: &ByteString| self.is_wanted(group, topic);
        let topics: BTreeSet<ByteString> = match of {
            StatsOf::Listed(topics) => topics,
            StatsOf::One(topic) => [topic].into_iter().filter(is_wanted).collect(),
            StatsOf::Consumed => {
                inner.offsets.topics_of(group).into_iter().filter(is_wanted).collect()
            }
        };
        let found: Vec<Arc<Topic>> =
            topics.iter().filter_map(|topic| inner.topics.find(topic)).collect();
        let (broker, group) = (self.clone(), ByteString::from(group));
        blocking(move || {
            let mut all = ConsumeStats::default();
            for topic in &found {
                let of_topic = broker.progress(&group, topic, topic.config.read_queue_nums);
                all.consume_tps += of_topic.consume_tps;
                all.offset_table.extend(of_topic.offset_table);
            }
            all
        })
        .await
    }

    /// Returns how far every group is, with ordered topics only if asked to.
    ///
    /// # Errors
    /// [`TooManyQueues`].
    pub async fn all_consume_stats(
        &self,
        is_order: bool,
    ) -> Result<ConsumeStatsList, TooManyQueues> {
        let broker = self.clone();
        blocking(move || {
            let inner = &*broker.inner;
            let mut list = ConsumeStatsList {
                broker_addr: inner.options.read().store_host.to_string(),
                ..ConsumeStatsList::default()
            };
            let mut queues = 0;
            for group in inner.groups.table().subscription_group_table.keys() {
                let mut of_group = Vec::new();
                for topic in inner.offsets.topics_of(group) {
                    let found = inner.topics.find(&topic);
                    let found = found.filter(|found| found.config.order || !is_order);
                    let Some(found) = found.filter(|_| broker.is_wanted(group, &topic)) else {
                        continue;
                    };
                    queues += found.config.write_queue_nums.max(0) as usize;
                    if queues > STATS_QUEUES_MAX {
                        return Err(TooManyQueues { max: STATS_QUEUES_MAX });
                    }
                    let stats = broker.progress(group, &found, found.config.write_queue_nums);
                    for queue in stats.offset_table.values() {
                        list.total_diff += queue.broker_offset - queue.consumer_offset;
                        list.total_inflight_diff += queue.pull_offset - queue.consumer_offset;
                    }
                    of_group.push(stats);
                }
                list.consume_stats_list.push(BTreeMap::from([(group.clone(), of_group)]));
            }
            Ok(list)
        })
        .await
    }

    /// Returns how far a group is with the first queues of a topic. It may wait for the disk.
    fn progress(&self, group: &str, topic: &Topic, queues: i32) -> ConsumeStats {
        let inner = &*self.inner;
        let broker_name = &inner.options.read().broker_name;
        let offset_table = (0..queues).map(|id| {
            let queue = topic.queue(&inner.store, id);
            let consumed = inner.offsets.query(group, &topic.name, id).unwrap_or(0);
            let pulled = inner.offsets.query_pulled(group, &topic.name, id).unwrap_or(0);
            let wrapper = OffsetWrapper {
                broker_offset: queue.max_offset(),
                consumer_offset: consumed,
                pull_offset: consumed.max(pulled),
                last_timestamp: stored_at(&queue, consumed - 1).unwrap_or(0),
            };
            (message_queue(&topic.name, broker_name, id), wrapper)
        });
        ConsumeStats {
            offset_table: offset_table.collect(),
            consume_tps: inner.stats.got_per_second(group, &topic.name),
        }
    }

    /// Returns when the messages of a topic were stored, and those that a group has come to.
    ///
    /// # Errors
    /// [`TopicError::Unknown`].
    pub async fn time_spans(&self, group: &str, topic: &str) -> Result<TimeSpans, TopicError> {
        let found = self.inner.topics.find(topic);
        let found = found.ok_or_else(|| TopicError::Unknown(topic.into()))?;
        let (broker, group) = (self.clone(), ByteString::from(group));
        let spans = blocking(move || {
            let inner = &*broker.inner;
            let (now, broker_name) = (inner.env.clock.now(), &inner.options.read().broker_name);
            let span = |id| {
                let queue = found.queue(&inner.store, id);
                let (min, max) = (queue.min_offset(), queue.max_offset());
                let first = stored_at(&queue, min).unwrap_or(-1);
                let consumed = inner.offsets.query(&group, &found.name, id);
                let next = consumed.unwrap_or(min).max(min);
                QueueTimeSpan {
                    min_time_stamp: first,
                    max_time_stamp: stored_at(&queue, max - 1).unwrap_or(-1),
                    consume_time_stamp: match consumed {
                        Some(1..) => stored_at(&queue, next - 1).unwrap_or(-1),
                        Some(_) | None => first,
                    },
                    delay_time: stored_at(&queue, next).map_or(0, |stored| now - stored),
                    message_queue: message_queue(&found.name, broker_name, id),
                }
            };
            (0..found.config.write_queue_nums).map(span).collect()
        });
        Ok(TimeSpans { consume_time_span_set: spans.await })
    }
}

/// Returns the offset of a queue that a group is to be set to. It may wait for the disk.
fn offset_to(queue: &Queue, to: ResetTo) -> Result<i64, ResetError> {
    let (min, max) = (queue.min_offset(), queue.max_offset());
    match to {
        // One more than the end is allowed, as in the original.
        ResetTo::Offset(offset) if !(min..=max + 1).contains(&offset) => {
            Err(ResetError::OutOfRange { queue_id: queue.id(), offset, min, max })
        }
        ResetTo::Offset(offset) => Ok(offset),
        ResetTo::End => Ok(max),
        ResetTo::Time(time) => queue
            .offset_at(time, Boundary::Lower)
            .map_err(|fault: Fault| ResetError::Store(fault.to_string())),
    }
}

/// Returns when a message was stored; none if there is none at the offset. It may wait for the disk.
fn stored_at(queue: &Queue, offset: i64) -> Option<i64> {
    if offset < queue.min_offset() { None } else { queue.stored_at(offset).ok().flatten() }
}
