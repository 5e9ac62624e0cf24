//! Clients: who is connected, in which groups, subscribed to what.
//!
//! A connection is a [`Session`]; its heartbeats put it into producer and consumer groups, and dropping it takes it out
//! of all of them. A client that sends no heartbeat for `channelExpiredTimeout` is taken out and its connection closed,
//! as in the original, so a session knows no group for long that does not know it. When the members of a
//! consumer group or their topics change, the members are told at most once a second, so that a thousand consumers that
//! start together cost a thousand messages each second and not a million at once.
//!
//! Invariant: a group exists here exactly while it has members. Whoever needs both locks takes the map's before the
//! group's; nobody takes the map's while holding a group's. (Java: `ConsumerManager`, `ProducerManager`,
//! `ClientManageProcessor`, `DefaultConsumerIdsChangeListener`)

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::{
        Bound::{Excluded, Included, Unbounded},
        Deref,
    },
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;

use wire::{
    body::client::{
        Connection, ConsumeFromWhere, ConsumeType, ConsumerConnection, ConsumerData, HeartbeatData,
        MessageModel, ProducerConnection, ProducerInfo, ProducerTable, SubscriptionData,
    },
    code::Language,
    names,
};

use crate::{
    Broker, Options,
    api::{
        Caller, ClientChannel, ClientCommand, ClientsError, Consumer, HeartbeatAnswer,
        HeartbeatError, TableFull,
    },
    figures::Consuming,
    filter::{
        registry::Registry,
        tag::{TagFilter, is_tag_type},
    },
    groups::Groups,
    topics::TopicOrigin,
};

/// Pause between two notifications of one group; a client rebalances at most once a second anyway.
const NOTIFY_PAUSE: Duration = Duration::from_secs(1);

/// A connected client; dropping it says goodbye to every group that the client is in.
pub struct Session {
    broker: Broker,
    channel: Arc<dyn ClientChannel>,
    groups: Mutex<Joined>,
}

/// The groups that a session is in.
#[derive(Default)]
struct Joined {
    consumer: BTreeSet<ByteString>,
    producer: BTreeSet<ByteString>,
}

/// All groups with members.
pub(crate) struct Clients {
    consumers: RwLock<HashMap<ByteString, Arc<ConsumerGroup>>>,
    producers: Mutex<Producers>,
    /// Members of all groups, consumers and producers.
    count: Mutex<usize>,
    /// Is told which groups are gone.
    filters: Arc<Registry>,
}

/// The ids of a group's consumers at one moment; all who ask between two changes share it. When a group of thousands
/// changes, each of its members asks for it.
#[derive(Debug)]
pub struct ConsumerIds {
    ids: Vec<ByteString>,
    encoded: OnceLock<Bytes>,
}

impl ConsumerIds {
    /// Returns the ids as a door encodes them; done once.
    pub fn encoded(&self, encode: impl FnOnce(&[ByteString]) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(&self.ids)).clone()
    }
}

impl Deref for ConsumerIds {
    type Target = [ByteString];

    fn deref(&self) -> &[ByteString] {
        &self.ids
    }
}

/// The producers that are connected.
#[derive(Default)]
struct Producers {
    groups: HashMap<ByteString, ProducerGroup>,
    /// The ways to them by client id: a reply names the client that waits for it.
    channels: HashMap<ByteString, Arc<dyn ClientChannel>>,
}

impl Producers {
    fn forget(channels: &mut HashMap<ByteString, Arc<dyn ClientChannel>>, member: &Member) {
        if channels.get(&member.client_id).is_some_and(|it| it.id() == member.channel.id()) {
            channels.remove(&member.client_id);
        }
    }
}

/// A producer group with members, by the ids of their channels.
#[derive(Default)]
struct ProducerGroup {
    members: BTreeMap<u64, Member>,
    /// The member that was asked last.
    asked: u64,
}

/// A consumer group with members.
pub(crate) struct ConsumerGroup {
    state: Mutex<GroupState>,
}

struct GroupState {
    consume_type: ConsumeType,
    message_model: MessageModel,
    consume_from_where: ConsumeFromWhere,
    members: HashMap<u64, Member>,
    /// The members' ids since somebody asked for them.
    ids: Option<Arc<ConsumerIds>>,
    subscriptions: HashMap<ByteString, Subscription>,
    /// Fingerprint of the last heartbeat V2 of any member; 0 after a full one.
    fingerprint: i32,
    notified_at: Option<Duration>,
    /// A change that the members have not been told.
    is_changed: bool,
    /// The group has left the map: who still holds it looks it up again.
    is_removed: bool,
}

struct Member {
    client_id: ByteString,
    language: Language,
    version: i32,
    channel: Arc<dyn ClientChannel>,
    seen_at: Duration,
}

/// What a group wants of one topic.
#[derive(Clone)]
pub(crate) struct Subscription {
    pub(crate) data: Arc<SubscriptionData>,
    /// None when it is no tag expression.
    pub(crate) tags: Option<TagFilter>,
}

impl Subscription {
    fn new(data: SubscriptionData) -> Subscription {
        let tags = is_tag_type(&data.expression_type).then(|| match &*data.sub_string {
            "*" | "" => TagFilter::All,
            // Its filter server is no more: the client gets all (Java: `ExpressionMessageFilter`).
            _ if data.class_filter_mode => TagFilter::All,
            _ => TagFilter::any_of(data.code_set.iter().copied()),
        });
        Subscription { data: Arc::new(data), tags }
    }
}

/// What a pull needs to know of its group.
pub(crate) struct GroupView {
    pub(crate) consume_type: ConsumeType,
    pub(crate) message_model: MessageModel,
    pub(crate) subscription: Option<Subscription>,
}

impl Clients {
    pub(crate) fn new(filters: Arc<Registry>) -> Clients {
        Clients {
            consumers: RwLock::default(),
            producers: Mutex::default(),
            count: Mutex::new(0),
            filters,
        }
    }

    /// Returns how the group consumes and what it wants of the topic; none when it has no members.
    pub(crate) fn view(&self, group: &str, topic: &str) -> Option<GroupView> {
        let group = self.group(group)?;
        let state = group.state();
        Some(GroupView {
            consume_type: state.consume_type,
            message_model: state.message_model,
            subscription: state.subscriptions.get(topic).cloned(),
        })
    }

    /// Says whether each member of the group keeps its own progress in the topic.
    pub(crate) fn is_broadcasting(&self, group: &str, topic: &str) -> bool {
        self.view(group, topic).is_some_and(|it| it.message_model == MessageModel::Broadcasting)
    }

    /// Says whether any member of the group is connected.
    pub(crate) fn is_online(&self, group: &str) -> bool {
        self.group(group).is_some()
    }

    /// Returns how many topics the group subscribes to.
    pub(crate) fn subscription_count(&self, group: &str) -> usize {
        self.group(group).map_or(0, |group| group.state().subscriptions.len())
    }

    /// Says whether the group subscribes to the topic.
    pub(crate) fn is_subscribed(&self, group: &str, topic: &str) -> bool {
        self.group(group).is_some_and(|group| group.state().subscriptions.contains_key(topic))
    }

    /// Returns the groups whose members subscribe to the topic.
    pub(crate) fn groups_of(&self, topic: &str) -> Vec<ByteString> {
        let consumers = self.consumers.read().unwrap_or_else(PoisonError::into_inner);
        let of_topic = |group: &ConsumerGroup| group.state().subscriptions.contains_key(topic);
        consumers
            .iter()
            .filter(|(_, group)| of_topic(group))
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub(crate) fn consumer_ids(&self, group: &str) -> Result<Arc<ConsumerIds>, ClientsError> {
        let none = || ClientsError::NoConsumer(group.into());
        let found = self.group(group).ok_or_else(none)?;
        let mut state = found.state();
        if state.members.is_empty() {
            return Err(none());
        }
        let GroupState { members, ids, .. } = &mut *state;
        let ids = ids.get_or_insert_with(|| {
            let ids = members.values().map(|member| member.client_id.clone()).collect();
            Arc::new(ConsumerIds { ids, encoded: OnceLock::new() })
        });
        Ok(ids.clone())
    }

    pub(crate) fn consumer_connection(
        &self,
        group: &str,
    ) -> Result<ConsumerConnection, ClientsError> {
        let Some(found) = self.group(group) else {
            return Err(ClientsError::ConsumerNotOnline(group.into()));
        };
        let state = found.state();
        let subscriptions = state.subscriptions.iter();
        Ok(ConsumerConnection {
            connection_set: state.members.values().map(Member::connection).collect(),
            subscription_table: subscriptions
                .map(|(topic, subscription)| (topic.to_string(), (*subscription.data).clone()))
                .collect(),
            consume_type: state.consume_type,
            message_model: state.message_model,
            consume_from_where: state.consume_from_where,
        })
    }

    pub(crate) fn producer_connection(
        &self,
        group: &str,
    ) -> Result<ProducerConnection, ClientsError> {
        let producers = self.producers();
        let Some(found) = producers.groups.get(group) else {
            return Err(ClientsError::NoProducer(group.into()));
        };
        Ok(ProducerConnection {
            connection_set: found.members.values().map(Member::connection).collect(),
        })
    }

    /// Returns all producers by group.
    pub(crate) fn producer_table(&self, clock: &env::Clock) -> ProducerTable {
        let (now, monotonic) = (clock.now(), clock.monotonic());
        let info = |member: &Member| ProducerInfo {
            client_id: member.client_id.to_string(),
            language: member.language_name(),
            last_update_timestamp: now
                - monotonic.saturating_sub(member.seen_at).as_millis() as i64,
            remote_ip: format!("/{}", member.channel.remote()),
            version: member.version,
        };
        let producers = self.producers();
        let groups = producers.groups.iter();
        ProducerTable {
            data: groups
                .map(|(name, group)| (name.to_string(), group.members.values().map(info).collect()))
                .collect(),
        }
    }

    /// Returns the consumers of a group.
    pub(crate) fn consumers(&self, group: &str) -> Vec<Consumer> {
        let Some(group) = self.group(group) else { return Vec::new() };
        let state = group.state();
        state.members.values().map(Member::consumer).collect()
    }

    /// Returns the consumer of a group that is behind a channel.
    pub(crate) fn consumer_behind(&self, group: &str, channel_id: u64) -> Option<Consumer> {
        let group = self.group(group)?;
        let state = group.state();
        state.members.get(&channel_id).map(Member::consumer)
    }

    /// Returns the consumer of a group with an id.
    pub(crate) fn consumer(&self, group: &str, client_id: &str) -> Option<Consumer> {
        let group = self.group(group)?;
        let state = group.state();
        state.members.values().find(|member| &*member.client_id == client_id).map(Member::consumer)
    }

    /// Returns what a group wants of a topic.
    pub(crate) fn subscription(&self, group: &str, topic: &str) -> Option<Arc<SubscriptionData>> {
        let group = self.group(group)?;
        let state = group.state();
        state.subscriptions.get(topic).map(|subscription| subscription.data.clone())
    }

    /// Says whether any producer of the group is connected.
    pub(crate) fn has_producer(&self, group: &str) -> bool {
        self.producers().groups.contains_key(group)
    }

    /// Returns the way to the producer with an id.
    pub(crate) fn producer(&self, client_id: &str) -> Option<Arc<dyn ClientChannel>> {
        self.producers().channels.get(client_id).cloned()
    }

    /// Returns up to `max` producers of the group to ask, in turns.
    pub(crate) fn next_producers(&self, group: &str, max: usize) -> Vec<Arc<dyn ClientChannel>> {
        let mut producers = self.producers();
        let Some(found) = producers.groups.get_mut(group) else { return Vec::new() };
        let (before, after) = (Unbounded, Excluded(found.asked));
        let next = found.members.range((after, Unbounded));
        let next = next.chain(found.members.range((before, Included(found.asked))));
        let channels: Vec<_> = next.take(max).map(|(id, member)| (*id, &member.channel)).collect();
        let asked = channels.first().map_or(0, |(id, _)| *id);
        let channels = channels.into_iter().map(|(_, channel)| channel.clone()).collect();
        found.asked = asked;
        channels
    }

    /// Returns the number of members of consumer groups and of producer groups.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let consumers = self.consumers.read().unwrap_or_else(PoisonError::into_inner);
        let consuming = consumers.values().map(|group| group.state().members.len()).sum();
        drop(consumers);
        let producing = self.producers().groups.values().map(|group| group.members.len()).sum();
        (consuming, producing)
    }

    /// Counts the members of producer groups by language and version.
    pub(crate) fn producers_by_version(&self) -> BTreeMap<(Language, i32), usize> {
        let mut counts = BTreeMap::new();
        for member in self.producers().groups.values().flat_map(|group| group.members.values()) {
            *counts.entry((member.language, member.version)).or_default() += 1;
        }
        counts
    }

    /// Counts the members of consumer groups by what they have in common.
    pub(crate) fn consumers_by_version(&self) -> BTreeMap<Consuming, usize> {
        let mut counts = BTreeMap::new();
        let consumers = self.consumers.read().unwrap_or_else(PoisonError::into_inner);
        for (group, consumers) in &*consumers {
            let state = consumers.state();
            for member in state.members.values() {
                let consuming = Consuming {
                    group: group.clone(),
                    language: member.language,
                    version: member.version,
                    is_push: state.consume_type == ConsumeType::ConsumePassively,
                };
                *counts.entry(consuming).or_default() += 1;
            }
        }
        counts
    }

    /// Takes out who has been silent for too long, and tells groups of changes that they have not been told yet.
    pub(crate) fn tick(&self, now: Duration, options: &Options, groups: &Groups) {
        let expiry = Duration::from_millis(options.channel_expired_timeout);
        let mut expired = 0;
        let is_alive = |member: &Member| {
            let is_alive = now.saturating_sub(member.seen_at) <= expiry;
            if !is_alive {
                member.channel.close();
            }
            is_alive
        };
        let mut producers = self.producers();
        let Producers { groups: producing, channels } = &mut *producers;
        producing.retain(|_, ProducerGroup { members, .. }| {
            let before = members.len();
            members.retain(|_, member| {
                let is_alive = is_alive(member);
                if !is_alive {
                    Producers::forget(channels, member);
                }
                is_alive
            });
            expired += before - members.len();
            !members.is_empty()
        });
        drop(producers);
        let consumers = self.consumers.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> =
            consumers.iter().map(|(name, group)| (name.clone(), group.clone())).collect();
        drop(consumers);
        for (name, group) in all {
            let mut state = group.state();
            let before = state.members.len();
            state.members.retain(|_, member| is_alive(member));
            let gone = before - state.members.len();
            if gone > 0 {
                tracing::warn!(group = %name, gone, "consumers without heartbeat taken out");
                expired += gone;
                state.members_changed();
            }
            let is_notified = options.notify_consumer_ids_changed_enable
                && groups.get(&name).is_none_or(|config| config.notify_consumer_ids_changed_enable);
            state.notify(now, &name, is_notified);
            let is_empty = state.members.is_empty();
            drop(state);
            if is_empty {
                self.remove_if_empty(&name);
            }
        }
        *self.count() -= expired;
    }

    /// Puts a client into a consumer group, or renews its stay; says whether the group subscribes to anything.
    fn join_consumers(
        &self,
        joining: &Joining<'_>,
        data: ConsumerData,
        heartbeat: Heartbeat,
        is_notified: bool,
    ) -> Result<bool, TableFull> {
        let Joining { channel, cx, client_id, now, options } = *joining;
        loop {
            let group = self.group(&data.group_name).unwrap_or_else(|| {
                let mut consumers = self.consumers.write().unwrap_or_else(PoisonError::into_inner);
                let group = consumers.entry(data.group_name.as_str().into()).or_insert_with(|| {
                    Arc::new(ConsumerGroup { state: Mutex::new(GroupState::new(&data)) })
                });
                group.clone()
            });
            let mut state = group.state();
            // Between the two locks the last member may have left and taken the group out of the map.
            if state.is_removed {
                continue;
            }
            state.consume_type = data.consume_type;
            state.message_model = data.message_model;
            state.consume_from_where = data.consume_from_where;
            if let Some(member) = state.members.get_mut(&channel.id()) {
                member.seen_at = now;
                if member.client_id != *client_id {
                    member.client_id = client_id.clone();
                    state.ids = None;
                }
            } else {
                if let Err(full) = self.take_room(options) {
                    let is_empty = state.members.is_empty();
                    drop(state);
                    if is_empty {
                        self.remove_if_empty(&data.group_name);
                    }
                    return Err(full);
                }
                state.members.insert(channel.id(), Member::new(joining));
                state.members_changed();
                tracing::info!(group = %data.group_name, client = %client_id, remote = %cx.remote, "consumer joined");
            }
            if heartbeat != Heartbeat::WithoutSubscriptions {
                state.subscribe(data.subscription_data_set, options.subscriptions_max);
            }
            state.notify(now, &data.group_name, is_notified);
            return Ok(!state.subscriptions.is_empty());
        }
    }

    /// Notes the fingerprint of a group's heartbeat; says whether another member's differs.
    fn note_fingerprint(&self, group: &str, fingerprint: i32) -> bool {
        let Some(group) = self.group(group) else { return false };
        let before = std::mem::replace(&mut group.state().fingerprint, fingerprint);
        before != fingerprint
    }

    fn leave_consumers(&self, channel_id: u64, group: &str, now: Duration, is_notified: bool) {
        let Some(found) = self.group(group) else { return };
        let mut state = found.state();
        if state.members.remove(&channel_id).is_some() {
            *self.count() -= 1;
            state.members_changed();
            state.notify(now, group, is_notified);
        }
        let is_empty = state.members.is_empty();
        drop(state);
        if is_empty {
            self.remove_if_empty(group);
        }
    }

    fn join_producers(&self, joining: &Joining<'_>, group: &ByteString) -> Result<(), TableFull> {
        let Joining { channel, cx, client_id, now, options } = *joining;
        let mut producers = self.producers();
        let Producers { groups, channels } = &mut *producers;
        let known = groups.get_mut(group);
        if let Some(member) = known.and_then(|known| known.members.get_mut(&channel.id())) {
            member.seen_at = now;
            if !channels.contains_key(client_id) {
                channels.insert(client_id.clone(), channel.clone());
            }
            return Ok(());
        }
        self.take_room(options)?;
        channels.insert(client_id.clone(), channel.clone());
        let joined = groups.entry(group.clone()).or_default();
        joined.members.insert(channel.id(), Member::new(joining));
        tracing::info!(%group, client = %client_id, remote = %cx.remote, "producer joined");
        Ok(())
    }

    fn leave_producers(&self, channel_id: u64, group: &str) {
        let mut producers = self.producers();
        let Producers { groups, channels } = &mut *producers;
        let Some(ProducerGroup { members, .. }) = groups.get_mut(group) else { return };
        let gone = members.remove(&channel_id);
        if members.is_empty() {
            groups.remove(group);
        }
        if let Some(member) = &gone {
            Producers::forget(channels, member);
        }
        let is_gone = gone.is_some();
        drop(producers);
        *self.count() -= usize::from(is_gone);
    }

    fn take_room(&self, options: &Options) -> Result<(), TableFull> {
        let mut count = self.count();
        if *count >= options.clients_max {
            return Err(TableFull {
                table: "clients",
                max: options.clients_max,
                key: "clientsMax",
            });
        }
        *count += 1;
        Ok(())
    }

    fn group(&self, name: &str) -> Option<Arc<ConsumerGroup>> {
        self.consumers.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn remove_if_empty(&self, name: &str) {
        let mut consumers = self.consumers.write().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = consumers.get(name).cloned() else { return };
        let mut state = group.state();
        if state.members.is_empty() {
            state.is_removed = true;
            consumers.remove(name);
            self.filters.unregister(name);
        }
    }

    fn producers(&self) -> MutexGuard<'_, Producers> {
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who sends a heartbeat, and when.
#[derive(Clone, Copy)]
struct Joining<'a> {
    channel: &'a Arc<dyn ClientChannel>,
    cx: &'a Caller,
    client_id: &'a ByteString,
    now: Duration,
    options: &'a Options,
}

/// What a heartbeat carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heartbeat {
    Full,
    /// Version 2 after the first: the members are known by their fingerprint.
    WithoutSubscriptions,
}

impl ConsumerGroup {
    fn state(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GroupState {
    fn new(data: &ConsumerData) -> GroupState {
        GroupState {
            consume_type: data.consume_type,
            message_model: data.message_model,
            consume_from_where: data.consume_from_where,
            members: HashMap::new(),
            ids: None,
            subscriptions: HashMap::new(),
            fingerprint: 0,
            notified_at: None,
            is_changed: false,
            is_removed: false,
        }
    }

    fn members_changed(&mut self) {
        self.ids = None;
        self.is_changed = true;
    }

    /// Takes over the subscriptions of a heartbeat: new topics come, topics that it lacks go, a known one is replaced by
    /// a newer version. Members of a group must subscribe alike; if not, the last heartbeat wins.
    fn subscribe(&mut self, set: Vec<SubscriptionData>, subscriptions_max: usize) {
        let before = self.subscriptions.len();
        let topics: HashSet<&str> = set.iter().map(|data| data.topic.as_str()).collect();
        self.subscriptions.retain(|topic, _| topics.contains(&**topic));
        self.is_changed |= self.subscriptions.len() != before;
        for data in set {
            let known = self.subscriptions.get(&*data.topic);
            let is_new = known.is_none();
            if known.is_some_and(|known| data.sub_version <= known.data.sub_version) {
                continue;
            }
            if is_new && self.subscriptions.len() >= subscriptions_max {
                tracing::warn!(topic = %data.topic, subscriptions_max, "too many subscriptions of a group");
                continue;
            }
            self.is_changed |= is_new;
            self.subscriptions.insert(data.topic.as_str().into(), Subscription::new(data));
        }
    }

    /// Tells the members of a change, unless they were told a moment ago: then a later tick does.
    fn notify(&mut self, now: Duration, group: &str, is_notified: bool) {
        let is_pause = self.notified_at.is_some_and(|at| now.saturating_sub(at) < NOTIFY_PAUSE);
        if !self.is_changed || is_pause {
            return;
        }
        self.is_changed = false;
        self.notified_at = Some(now);
        if is_notified && self.message_model != MessageModel::Broadcasting {
            let group = ByteString::from(group);
            for member in self.members.values() {
                let command = ClientCommand::ConsumersChanged { group: group.clone() };
                // Who cannot be told learns it from its own rebalance, every 20 s.
                let _ = member.channel.push(command);
            }
        }
    }
}

impl Member {
    fn new(joining: &Joining<'_>) -> Member {
        Member {
            client_id: joining.client_id.clone(),
            language: joining.cx.language,
            version: joining.cx.version,
            channel: joining.channel.clone(),
            seen_at: joining.now,
        }
    }

    fn connection(&self) -> Connection {
        Connection {
            client_id: self.client_id.to_string(),
            client_addr: self.channel.remote().to_string(),
            language: self.language_name(),
            version: self.version,
        }
    }

    fn consumer(&self) -> Consumer {
        Consumer {
            client_id: self.client_id.clone(),
            language: self.language,
            version: self.version,
            channel: self.channel.clone(),
        }
    }

    fn language_name(&self) -> String {
        self.language.name().unwrap_or("OTHER").to_owned()
    }
}

impl Broker {
    /// Says hello for a connection; its heartbeats go through the session.
    pub fn connect(&self, channel: Arc<dyn ClientChannel>) -> Session {
        Session { broker: self.clone(), channel, groups: Mutex::default() }
    }
}

/// Most bytes of an expression with its tags: a subscription is kept for as long as its group is.
const EXPRESSION_BYTES_MAX: usize = 64 << 10;

/// Refuses a heartbeat whose names are too long to be kept, or no text.
fn check_heartbeat(data: &HeartbeatData) -> Result<(), HeartbeatError> {
    if data.client_id.is_empty() {
        return Err(HeartbeatError::NoClientId);
    }
    let consumers = &data.consumer_data_set;
    let ids = [("clientID", data.client_id.as_str())].into_iter();
    let consuming = consumers.iter().map(|data| ("group", data.group_name.as_str()));
    let producing = data.producer_data_set.iter().map(|data| ("group", data.group_name.as_str()));
    check_names(ids.chain(consuming).chain(producing))?;
    consumers.iter().try_for_each(|consumer| check_subscriptions(&consumer.subscription_data_set))
}

fn check_subscriptions(set: &[SubscriptionData]) -> Result<(), HeartbeatError> {
    let topics = set.iter().map(|data| ("topic", data.topic.as_str()));
    let kinds = set.iter().map(|data| ("expressionType", data.expression_type.as_str()));
    check_names(topics.chain(kinds))?;
    for data in set {
        let tags: usize = data.tags_set.iter().map(String::len).sum();
        let bytes = data.sub_string.len() + tags + data.code_set.len() * size_of::<i32>();
        if bytes > EXPRESSION_BYTES_MAX {
            return Err(HeartbeatError::InvalidName(format!(
                "the subscription to {} has {bytes} bytes, allowed are {EXPRESSION_BYTES_MAX}",
                data.topic
            )));
        }
    }
    Ok(())
}

fn check_names<'a>(
    mut named: impl Iterator<Item = (&'static str, &'a str)>,
) -> Result<(), HeartbeatError> {
    named
        .try_for_each(|(what, name)| names::check_client_name(what, name))
        .map_err(|bad| HeartbeatError::InvalidName(bad.to_string()))
}

impl Broker {
    /// Takes over the subscriptions that a member of `group` names when it is asked, as if it had sent a heartbeat.
    ///
    /// # Errors
    /// The bounds of [`Session::heartbeat`].
    pub fn resubscribe(
        &self,
        group: &str,
        set: Vec<SubscriptionData>,
    ) -> Result<(), HeartbeatError> {
        let subscriptions_max = self.inner.options.read().subscriptions_max;
        check_subscriptions(&set)?;
        let Some(known) = self.inner.clients.group(group) else { return Ok(()) };
        self.inner.filters.register(group, &set);
        known.state().subscribe(set, subscriptions_max);
        Ok(())
    }
}

impl Session {
    /// Takes a heartbeat: the client is in these groups, with these subscriptions.
    ///
    /// # Errors
    /// See [`HeartbeatError`]; the groups before the one that failed are joined.
    pub fn heartbeat(
        &self,
        cx: &Caller,
        data: HeartbeatData,
    ) -> Result<HeartbeatAnswer, HeartbeatError> {
        let inner = &self.broker.inner;
        let options = inner.options.read();
        let client_id = ByteString::from(data.client_id.as_str());
        check_heartbeat(&data)?;
        let joining = Joining {
            channel: &self.channel,
            cx,
            client_id: &client_id,
            now: inner.env.clock.monotonic(),
            options: &options,
        };
        let is_v2 = data.heartbeat_fingerprint != 0;
        let heartbeat = if is_v2 && data.without_sub {
            Heartbeat::WithoutSubscriptions
        } else {
            Heartbeat::Full
        };
        // Version 1 is always answered with a change, as the original does.
        let mut subscription_changed = !is_v2;
        for consumer in data.consumer_data_set {
            if options.reject_pull_consumer_enable
                && consumer.consume_type == ConsumeType::ConsumeActively
            {
                continue;
            }
            let group = ByteString::from(consumer.group_name.as_str());
            let Some(config) = inner.groups.find(&group, &options) else { continue };
            let in_order = consumer.subscription_data_set.iter().any(|subscription| {
                inner.topics.find(&subscription.topic).is_some_and(|topic| topic.config.order)
            });
            let retry =
                TopicOrigin::retry(&group, config.retry_queue_nums, in_order, consumer.unit_mode);
            // A heartbeat without subscriptions knows nothing of order.
            if heartbeat == Heartbeat::Full || inner.topics.find(retry.name()).is_none() {
                inner.topics.find_or_create(&retry)?;
            }
            let is_known = inner.clients.is_online(&group);
            let is_notified = self.is_notified(&options, config.notify_consumer_ids_changed_enable);
            if heartbeat == Heartbeat::Full {
                inner.filters.register(&group, &consumer.subscription_data_set);
            }
            let is_subscribed =
                inner.clients.join_consumers(&joining, consumer, heartbeat, is_notified)?;
            self.groups().consumer.insert(group.clone());
            let differs = inner.clients.note_fingerprint(&group, data.heartbeat_fingerprint);
            // A fingerprint of what this broker has never seen, or has forgotten, says nothing.
            let is_missing = heartbeat == Heartbeat::WithoutSubscriptions && !is_subscribed;
            subscription_changed |= (is_known && differs) || is_missing;
        }
        for producer in data.producer_data_set {
            let group = ByteString::from(producer.group_name.as_str());
            inner.clients.join_producers(&joining, &group)?;
            self.groups().producer.insert(group);
        }
        Ok(HeartbeatAnswer { subscription_changed })
    }

    /// Takes the client out of the groups that it names.
    pub fn unregister(&self, producer_group: Option<&str>, consumer_group: Option<&str>) {
        let inner = &self.broker.inner;
        if let Some(group) = producer_group {
            inner.clients.leave_producers(self.channel.id(), group);
            self.groups().producer.remove(group);
        }
        if let Some(group) = consumer_group {
            self.leave_consumers(group);
            self.groups().consumer.remove(group);
        }
    }

    fn leave_consumers(&self, group: &str) {
        let inner = &self.broker.inner;
        let config = inner.groups.get(group);
        let is_notified = self.is_notified(
            &inner.options.read(),
            config.is_none_or(|config| config.notify_consumer_ids_changed_enable),
        );
        let now = inner.env.clock.monotonic();
        inner.clients.leave_consumers(self.channel.id(), group, now, is_notified);
    }

    fn is_notified(&self, options: &Options, group_says: bool) -> bool {
        options.notify_consumer_ids_changed_enable && group_says
    }

    fn groups(&self) -> MutexGuard<'_, Joined> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Joined { consumer, producer } = std::mem::take(&mut *self.groups());
        for group in consumer {
            self.leave_consumers(&group);
        }
        for group in producer {
            self.broker.inner.clients.leave_producers(self.channel.id(), &group);
        }
    }
}
