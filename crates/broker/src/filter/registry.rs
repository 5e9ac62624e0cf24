//! The conditions of consumer groups: compiled once, kept over restarts, forgotten a day after the group has gone.
//!
//! A heartbeat registers what its group wants; the table is `consumerFilter.json`. A condition is born when it becomes
//! known, dies with the last member of its group and revives with the next heartbeat of the same version. Conditions
//! that come with a pull are compiled here, too, and cached by their text.
//!
//! Invariant: a message that was stored after a condition's birth gets its bit map with the condition known: the birth is
//! not before any message that has a map, and is set under the lock that keeps maps from being made.
//! (Java: `ConsumerFilterManager`)

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use env::Millis;
use store::ExtUnit;
use wire::{
    body::{
        client::SubscriptionData,
        filter::{ConsumerFilter, ConsumerFilterTable, TopicFilters},
    },
    record::{CheckCrc, Record},
};

use super::{
    bloom::{self, BloomFilter},
    sql92::{CompileError, Condition},
    tag::is_tag_type,
};
use crate::{Options, saved::Saved};

/// How often the table is written, if it has changed.
pub(crate) const WRITE_PERIOD: Duration = Duration::from_secs(10);
/// What a group that was there when the broker stopped is taken to have been gone at the start.
const DEAD_AT_START: Millis = 30_000;
/// Bytes that an entry of the table takes beside its texts, roughly.
const ENTRY_BYTES: usize = 256;

/// All conditions that are known.
pub(crate) struct Registry {
    table: Saved<ConsumerFilterTable>,
    state: RwLock<State>,
    cache: Mutex<Cache>,
    bloom: BloomFilter,
    /// The latest store time of a message that has a map.
    mapped_until: AtomicI64,
    clock: env::Clock,
    expression_bytes_max: usize,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    /// By topic, then by group.
    by_topic: HashMap<ByteString, BTreeMap<ByteString, Arc<Registered>>>,
    /// The topics on which a group has conditions.
    topics_of: HashMap<ByteString, BTreeSet<ByteString>>,
    bytes: usize,
    is_changed: bool,
}

/// A group's condition on a topic.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) data: ConsumerFilter,
    pub(crate) condition: Arc<Condition>,
}

impl Registry {
    /// Takes over the table. If its bits are of other maps than the options make, nothing of it counts: the groups
    /// register anew.
    pub(crate) fn new(
        table: Saved<ConsumerFilterTable>,
        options: &Options,
        clock: env::Clock,
    ) -> Registry {
        let registry = Registry {
            state: RwLock::default(),
            cache: Mutex::new(Cache::new(options.filter_bytes_max / 8)),
            bloom: BloomFilter::new(
                options.max_error_rate_of_bloom_filter,
                options.expect_consumer_num_use_filter,
            ),
            mapped_until: AtomicI64::new(0),
            clock,
            expression_bytes_max: options.filter_expression_bytes_max,
            bytes_max: options.filter_bytes_max,
            table,
        };
        let stored = registry.table.read();
        let filters =
            stored.filter_data_by_topic.values().flat_map(|t| t.group_filter_data.values());
        let is_of_bloom = |filter: &ConsumerFilter| {
            filter.bloom_filter_data.as_ref().is_some_and(|bits| registry.bloom.made(bits))
        };
        if filters.clone().all(is_of_bloom) {
            filters.for_each(|filter| registry.load(filter));
        } else {
            tracing::info!("the size of bit maps has changed: stored filters are dropped");
        }
        registry
    }

    fn load(&self, stored: &ConsumerFilter) {
        let condition = match self.compile(&stored.expression) {
            Ok(condition) if stored.expression_type == SubscriptionData::SQL92 => condition,
            Ok(_) | Err(_) => {
                tracing::warn!(
                    topic = stored.topic,
                    group = stored.consumer_group,
                    "stored filter does not compile"
                );
                return;
            }
        };
        let mut data = stored.clone();
        if data.dead_time == 0 {
            data.dead_time = data.born_time.max(self.clock.now() - DEAD_AT_START);
        }
        let mut state = self.write();
        if state.room_for(&data, self.bytes_max) {
            state.insert(data, condition);
        }
    }

    /// Compiles an expression, or finds it compiled.
    pub(crate) fn compile(&self, expression: &str) -> Result<Arc<Condition>, CompileError> {
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(condition) = cache().get(expression) {
            return Ok(condition);
        }
        let condition = Arc::new(Condition::compile(expression, self.expression_bytes_max)?);
        if let Some(at) = condition.ignored_from() {
            let ignored = &expression[at..];
            tracing::warn!(
                expression,
                ignored,
                "the end of a filter is ignored, as the original does"
            );
        }
        cache().put(expression, &condition);
        Ok(condition)
    }

    /// Takes over what a heartbeat says that the group wants.
    pub(crate) fn register(&self, group: &str, subscriptions: &[SubscriptionData]) {
        let conditions = || {
            subscriptions.iter().filter(|subscription| {
                !is_tag_type(&subscription.expression_type) && !subscription.sub_string.is_empty()
            })
        };
        let is_known = self.read().topics_of.contains_key(group);
        if !is_known && conditions().next().is_none() {
            return;
        }
        for subscription in conditions() {
            self.register_one(group, subscription);
        }
        let topics: BTreeSet<&str> = subscriptions.iter().map(|s| s.topic.as_str()).collect();
        self.bury(group, |topic| !topics.contains(topic));
    }

    fn register_one(&self, group: &str, subscription: &SubscriptionData) {
        let SubscriptionData { topic, sub_string, expression_type, sub_version, .. } = subscription;
        if let Some(old) = self.get(topic, group) {
            let is_newer = *sub_version > old.data.client_version;
            let is_revived = old.is_dead() && *sub_version >= old.data.client_version;
            let is_same =
                old.data.expression == *sub_string && old.data.expression_type == *expression_type;
            if is_same || !is_newer {
                if is_newer || is_revived {
                    let mut data = old.data.clone();
                    data.client_version = *sub_version;
                    data.dead_time = if is_revived { 0 } else { data.dead_time };
                    self.write().insert(data, old.condition.clone());
                }
                return;
            }
        }
        let compiled = match expression_type.as_str() {
            SubscriptionData::SQL92 => self.compile(sub_string).map_err(|error| error.to_string()),
            other => Err(format!("there is no expression type {other}")),
        };
        let mut state = self.write();
        let condition = match compiled {
            Ok(condition) => condition,
            Err(error) => {
                tracing::warn!(group, topic, error, "the filter of a consumer group is refused");
                state.remove(topic, group);
                return;
            }
        };
        let data = ConsumerFilter {
            bloom_filter_data: Some(self.bloom.bits_of(group, topic)),
            // Messages that have their map already have no bit of this condition, whatever clock they were stored by.
            born_time: self.clock.now().max(self.mapped_until.load(Ordering::Relaxed)),
            client_version: *sub_version,
            consumer_group: group.to_owned(),
            expression: sub_string.clone(),
            expression_type: expression_type.clone(),
            topic: topic.clone(),
            ..ConsumerFilter::default()
        };
        state.remove(topic, group);
        if !state.room_for(&data, self.bytes_max) {
            tracing::warn!(
                group,
                topic,
                "no room for the filter of a consumer group; raise `filterBytesMax`"
            );
            return;
        }
        tracing::info!(group, topic, expression = sub_string, "filter registered");
        state.insert(data, condition);
    }

    /// Notes that the last member of a group has left.
    pub(crate) fn unregister(&self, group: &str) {
        self.bury(group, |_| true);
    }

    /// Notes that the group's conditions on these topics are not wanted any more.
    fn bury(&self, group: &str, is_gone: impl Fn(&str) -> bool) {
        let alive = |state: &State| -> Vec<Arc<Registered>> {
            let topics = state.topics_of.get(group).into_iter().flatten();
            let filters = topics.filter(|topic| is_gone(topic)).filter_map(|t| state.get(t, group));
            filters.filter(|filter| !filter.is_dead()).collect()
        };
        if alive(&self.read()).is_empty() {
            return;
        }
        let mut state = self.write();
        for filter in alive(&state) {
            let data = ConsumerFilter { dead_time: self.clock.now(), ..filter.data.clone() };
            state.insert(data, filter.condition.clone());
        }
    }

    /// Returns the condition of a group on a topic, whether the group is there or not.
    pub(crate) fn get(&self, topic: &str, group: &str) -> Option<Arc<Registered>> {
        self.read().get(topic, group)
    }

    /// Returns the map of a message of `topic`: the bits of every group whose condition holds; `None` if there is no
    /// condition on the topic, or the record cannot be read.
    pub(crate) fn bit_map(
        &self,
        topic: &str,
        stored_at: Millis,
        record: &dyn Fn() -> Option<Bytes>,
    ) -> Option<Vec<u8>> {
        if !self.read().by_topic.contains_key(topic) {
            return None;
        }
        let record = record()?;
        let record = Record::decode(&record, CheckCrc::No).ok()?;
        let state = self.read();
        let filters = state.by_topic.get(topic)?;
        self.mapped_until.fetch_max(stored_at, Ordering::Relaxed);
        let mut map = self.bloom.empty_map();
        for filter in filters.values() {
            if let Some(bits) = &filter.data.bloom_filter_data
                && filter.condition.matches(&record.properties)
            {
                bloom::set(&mut map, bits);
            }
        }
        Some(map)
    }

    /// Returns how many conditions are known.
    pub(crate) fn count(&self) -> usize {
        self.read().by_topic.values().map(BTreeMap::len).sum()
    }

    /// Has the next [`Registry::flush`] write the table whether it has changed or not.
    pub(crate) fn write_again(&self) {
        self.write().is_changed = true;
    }

    /// Forgets the conditions of groups that have been gone for `clean_after`, and writes the table if it has changed.
    pub(crate) fn flush(&self, clean_after: Millis) {
        let now = self.clock.now();
        let mut state = self.write();
        let filters = state.by_topic.values().flat_map(BTreeMap::values);
        let expired: Vec<_> = filters
            .filter(|filter| filter.is_dead() && now - filter.data.dead_time >= clean_after)
            .map(|filter| (filter.data.topic.clone(), filter.data.consumer_group.clone()))
            .collect();
        for (topic, group) in expired {
            tracing::info!(topic, group, "filter of a group that is gone is forgotten");
            state.remove(&topic, &group);
        }
        if std::mem::take(&mut state.is_changed) {
            let filter_data_by_topic = state.by_topic.iter().map(|(topic, filters)| {
                let group_filter_data = filters
                    .iter()
                    .map(|(group, filter)| (group.to_string(), filter.data.clone()))
                    .collect();
                (topic.to_string(), TopicFilters { group_filter_data, topic: topic.to_string() })
            });
            let filter_data_by_topic = filter_data_by_topic.collect();
            drop(state);
            self.table.update(|table| table.filter_data_by_topic = filter_data_by_topic);
        } else {
            drop(state);
        }
        self.table.flush();
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    fn is_dead(&self) -> bool {
        self.data.dead_time >= self.data.born_time
    }

    /// Whether a message of which the queue's extension says this may fulfil the condition.
    pub(crate) fn may_match(&self, unit: &ExtUnit) -> bool {
        let bits = self.data.bloom_filter_data.as_ref();
        unit.stored_at <= self.data.born_time
            || bits.is_none_or(|bits| bloom::may_match(&unit.bit_map, bits))
    }
}

impl State {
    fn get(&self, topic: &str, group: &str) -> Option<Arc<Registered>> {
        self.by_topic.get(topic)?.get(group).cloned()
    }

    fn room_for(&self, data: &ConsumerFilter, bytes_max: usize) -> bool {
        self.bytes + bytes_of(data) <= bytes_max
    }

    fn insert(&mut self, mut data: ConsumerFilter, condition: Arc<Condition>) {
        data.dead = data.dead_time >= data.born_time;
        let (topic, group) =
            (ByteString::from(&*data.topic), ByteString::from(&*data.consumer_group));
        self.bytes += bytes_of(&data);
        self.topics_of.entry(group.clone()).or_default().insert(topic.clone());
        let filter = Arc::new(Registered { data, condition });
        let old = self.by_topic.entry(topic).or_default().insert(group, filter);
        self.bytes -= old.map_or(0, |old| bytes_of(&old.data));
        self.is_changed = true;
    }

    fn remove(&mut self, topic: &str, group: &str) {
        let Some(filters) = self.by_topic.get_mut(topic) else { return };
        let Some(old) = filters.remove(group) else { return };
        if filters.is_empty() {
            self.by_topic.remove(topic);
        }
        if let Some(topics) = self.topics_of.get_mut(group) {
            topics.remove(topic);
            if topics.is_empty() {
                self.topics_of.remove(group);
            }
        }
        self.bytes -= bytes_of(&old.data);
        self.is_changed = true;
    }
}

fn bytes_of(data: &ConsumerFilter) -> usize {
    data.expression.len() + 2 * (data.topic.len() + data.consumer_group.len()) + ENTRY_BYTES
}

/// Compiled expressions by their text: those used since the last turn, and those used before it.
struct Cache {
    young: HashMap<Box<str>, Arc<Condition>>,
    old: HashMap<Box<str>, Arc<Condition>>,
    young_bytes: usize,
    young_bytes_max: usize,
}

impl Cache {
    fn new(bytes_max: usize) -> Cache {
        Cache {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            young_bytes_max: bytes_max / 2,
        }
    }

    fn get(&mut self, expression: &str) -> Option<Arc<Condition>> {
        if let Some(condition) = self.young.get(expression) {
            return Some(condition.clone());
        }
        let condition = self.old.remove(expression)?;
        self.put(expression, &condition);
        Some(condition)
    }

    fn put(&mut self, expression: &str, condition: &Arc<Condition>) {
        self.young_bytes += expression.len() + ENTRY_BYTES;
        if self.young_bytes > self.young_bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = expression.len() + ENTRY_BYTES;
        }
        self.young.insert(expression.into(), condition.clone());
    }
}
