//! Topics: what exists, with how many queues, and who may do what with it.
//!
//! The truth is a map of [`Topic`] handles, which the paths of messages look up; `topics.json`, a versioned table, follows
//! it. A change replaces the handle, so whoever holds an old one sees that by [`Topic::is_current`]. Registration with
//! name servers waits on [`Topics::changed`] and asks for [`Topics::changes`].
//! (Java: `TopicConfigManager`)

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytestring::ByteString;
use store::{Queue, QueueKind, Store};
use tokio::sync::watch;
use wire::{
    body::topic::{TopicConfig, TopicConfigTable, TopicFilterType},
    names::{self, perm, topic_flag},
};

use crate::{
    Options,
    api::{Publish, TableFull, TopicError},
    attributes,
    catalog::{Catalog, Opened},
    stats::TopicStats,
};

/// Changes of topics that are remembered for those who know the topics as of some time before.
const RECENT_MAX: usize = 1024;

/// All topics of the broker.
pub(crate) struct Topics {
    catalog: Arc<Catalog<TopicConfigTable>>,
    live: RwLock<HashMap<ByteString, Arc<Topic>>>,
    /// Held while a topic is created or changed, so that table and handles agree.
    changing: Mutex<()>,
    recent: Mutex<Recent>,
    changed: watch::Sender<u64>,
    store: Store,
    clock: env::Clock,
    /// Names of system topics that depend on the configuration.
    own_system_topics: Vec<ByteString>,
    topics_max: usize,
    queues_max: i32,
    serves_lights: bool,
    /// Of all light queues together.
    light_stats: Arc<TopicStats>,
}

/// Which topics were created or changed lately.
#[derive(Default)]
struct Recent {
    /// Count of the change and name, oldest first.
    changes: VecDeque<(u64, ByteString)>,
    /// Changes up to this count are forgotten.
    forgotten: u64,
}

/// A topic as it is now.
pub(crate) struct Topic {
    pub(crate) name: ByteString,
    pub(crate) config: Arc<TopicConfig>,
    /// Survives changes of the configuration.
    pub(crate) stats: Arc<TopicStats>,
    queues: Box<[OnceLock<Arc<Queue>>]>,
    is_stale: AtomicBool,
}

impl Topic {
    fn new(config: TopicConfig, stats: Arc<TopicStats>) -> Topic {
        let queues = config.read_queue_nums.max(config.write_queue_nums).max(0);
        Topic {
            name: config.topic_name.as_str().into(),
            stats,
            queues: (0..queues).map(|_| OnceLock::new()).collect(),
            config: Arc::new(config),
            is_stale: AtomicBool::new(false),
        }
    }

    /// Returns the store's handle of a queue; kept from the first use on.
    pub(crate) fn queue(&self, store: &Store, queue_id: i32) -> Arc<Queue> {
        match usize::try_from(queue_id).ok().and_then(|at| self.queues.get(at)) {
            Some(queue) => queue.get_or_init(|| store.queue(&self.name, queue_id)).clone(),
            None => store.queue(&self.name, queue_id),
        }
    }

    /// Says whether the topic has neither changed nor gone since this handle was looked up.
    pub(crate) fn is_current(&self) -> bool {
        !self.is_stale.load(Ordering::Relaxed)
    }

    pub(crate) fn is_multi_tag(&self) -> bool {
        self.config.topic_filter_type == TopicFilterType::MultiTag
    }

    /// Says whether its queues are of batches.
    pub(crate) fn is_batched(&self) -> bool {
        self.config.is_batched()
    }

    pub(crate) fn is_compacted(&self) -> bool {
        self.config.attributes.get("cleanup.policy").is_some_and(|policy| policy == "COMPACTION")
    }
}

/// How a topic that does not exist yet would be created.
pub(crate) struct TopicOrigin {
    name: ByteString,
    queues: i32,
    perm: i32,
    order: bool,
    sys_flag: i32,
}

impl TopicOrigin {
    /// For a send to a topic that nobody has created.
    pub(crate) fn send(item: &Publish) -> TopicOrigin {
        let unit = match item.unit_mode {
            true if item.topic.starts_with(names::RETRY_PREFIX) => topic_flag::UNIT_SUBSCRIBED,
            true => topic_flag::UNIT,
            false => 0,
        };
        TopicOrigin {
            name: item.topic.clone(),
            queues: item.template_queues,
            perm: perm::READ | perm::WRITE,
            order: false,
            sys_flag: unit,
        }
    }

    /// For the retry topic of a group.
    pub(crate) fn retry(group: &str, queues: i32, order: bool, unit_mode: bool) -> TopicOrigin {
        TopicOrigin {
            name: names::retry_topic(group).into(),
            queues,
            perm: perm::READ | perm::WRITE,
            order,
            sys_flag: if unit_mode { topic_flag::UNIT_SUBSCRIBED } else { 0 },
        }
    }

    /// For the dead letters of a group.
    pub(crate) fn dead_letter(name: ByteString) -> TopicOrigin {
        let queues = crate::publish::DLQ_QUEUES;
        TopicOrigin { name, queues, perm: perm::READ | perm::WRITE, order: false, sys_flag: 0 }
    }

    /// For half messages that nobody has ended.
    pub(crate) fn given_up_halves() -> TopicOrigin {
        let name = ByteString::from_static(names::TRANS_CHECK_MAX_TIME_TOPIC);
        TopicOrigin { name, queues: 1, perm: perm::READ | perm::WRITE, order: false, sys_flag: 0 }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn with_queues(self, queues: i32) -> TopicOrigin {
        TopicOrigin { queues, ..self }
    }

    fn config(&self) -> TopicConfig {
        TopicConfig {
            topic_name: self.name.to_string(),
            read_queue_nums: self.queues,
            write_queue_nums: self.queues,
            perm: self.perm,
            topic_sys_flag: self.sys_flag,
            order: self.order,
            ..TopicConfig::default()
        }
    }
}

impl Topics {
    /// Takes over the table and creates the system topics that it lacks.
    pub(crate) fn new(
        (catalog, stored): Opened<TopicConfigTable>,
        options: &Options,
        store: Store,
        clock: env::Clock,
    ) -> Topics {
        let system = system_topics(options);
        let topics = Topics {
            live: RwLock::default(),
            changing: Mutex::new(()),
            recent: Mutex::default(),
            changed: watch::Sender::new(0),
            store,
            clock,
            own_system_topics: system
                .iter()
                .map(|topic| topic.topic_name.as_str().into())
                .collect(),
            topics_max: options.topics_max,
            queues_max: options.topic_queues_max,
            serves_lights: options.enable_lmq,
            light_stats: Arc::default(),
            catalog: Arc::new(catalog),
        };
        let missing: Vec<TopicConfig> =
            system.into_iter().filter(|topic| !stored.contains_key(&topic.topic_name)).collect();
        let (fine, cut): (Vec<_>, Vec<_>) =
            stored.values().partition(|config| topics.within_bound((*config).clone()) == **config);
        for config in &cut {
            tracing::warn!(topic = %config.topic_name, read = config.read_queue_nums, write = config.write_queue_nums, topic_queues_max = topics.queues_max, "topic has too many queues, cut to topicQueuesMax");
        }
        let cut = cut.into_iter().map(|config| topics.within_bound(config.clone()));
        let changed: Vec<TopicConfig> = missing.into_iter().chain(cut).collect();
        let names = stored.keys().filter_map(|name| options.check_readable(name).err());
        names.for_each(|problem| tracing::warn!("{problem}"));
        let live = fine.into_iter().chain(&changed).map(|config| {
            let topic = Topic::new(config.clone(), Arc::default());
            (topic.name.clone(), Arc::new(topic))
        });
        *topics.live.write().unwrap_or_else(PoisonError::into_inner) = live.collect();
        if !changed.is_empty() {
            topics.catalog.change(|content| {
                changed.iter().for_each(|config| content.put(&config.topic_name, config));
            });
        }
        topics
    }

    /// Returns a topic that exists, as light queues always do.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Topic>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        live.or_else(|| {
            let is_light = self.serves_lights && names::is_light(name);
            (is_light && names::check_topic(name).is_ok()).then(|| self.light(name))
        })
    }

    fn light(&self, name: &str) -> Arc<Topic> {
        let config = TopicConfig {
            topic_name: name.to_owned(),
            read_queue_nums: 1,
            write_queue_nums: 1,
            perm: perm::READ | perm::WRITE,
            ..TopicConfig::default()
        };
        Arc::new(Topic::new(config, self.light_stats.clone()))
    }

    /// Returns the table, for those who ask for all of it.
    pub(crate) fn table(&self) -> TopicConfigTable {
        self.table_of(self.all().iter())
    }

    /// Returns the table with what was created or changed after the change of this count; none if that is too long ago
    /// to be known.
    pub(crate) fn changes(&self, after: u64) -> Option<TopicConfigTable> {
        let mut names: Vec<ByteString> = {
            let recent = self.recent();
            if after < recent.forgotten {
                return None;
            }
            let changes = recent.changes.iter().filter(|(count, _)| *count > after);
            changes.map(|(_, name)| name.clone()).collect()
        };
        names.sort();
        names.dedup();
        let topics: Vec<Arc<Topic>> = names.iter().filter_map(|name| self.find(name)).collect();
        Some(self.table_of(topics.iter()))
    }

    fn table_of<'a>(&self, topics: impl Iterator<Item = &'a Arc<Topic>>) -> TopicConfigTable {
        let table = topics.map(|topic| (topic.name.to_string(), (*topic.config).clone())).collect();
        self.catalog
            .with_head(|head| TopicConfigTable { topic_config_table: table, ..head.clone() })
    }

    /// Returns how often topics have changed so far.
    pub(crate) fn version(&self) -> u64 {
        *self.changed.borrow()
    }

    /// Returns a number that changes with every change of any topic.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns all handles, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.values().cloned().collect()
    }

    /// Returns the names of the system topics that exist here.
    pub(crate) fn system_names(&self) -> Vec<ByteString> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.keys().filter(|name| self.is_system(name)).cloned().collect()
    }

    /// Says whether a topic is the broker's own: it cannot be changed over the wire.
    pub(crate) fn is_system(&self, name: &str) -> bool {
        names::is_system_topic(name) || self.own_system_topics.iter().any(|own| **own == *name)
    }

    /// Creates a topic as its template says, if the template lets it (Java: `createTopicInSendMessageMethod`).
    pub(crate) fn create_from_template(
        &self,
        origin: &TopicOrigin,
        template: &str,
        options: &Options,
    ) -> Result<Option<Arc<Topic>>, TableFull> {
        if template == names::AUTO_CREATE_TOPIC && !options.auto_create_topic_enable {
            return Ok(None);
        }
        let Some(template) = self.find(template) else { return Ok(None) };
        if !perm::can_inherit(template.config.perm) {
            return Ok(None);
        }
        let queues = origin.queues.min(template.config.write_queue_nums).max(0);
        let config = TopicConfig {
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: template.config.perm & !perm::INHERIT,
            topic_filter_type: template.config.topic_filter_type,
            ..origin.config()
        };
        self.create(config).map(Some)
    }

    /// Returns the topic, created if it is missing. The order flag of an existing one follows the origin's
    /// (Java: `createTopicInSendMessageBackMethod`).
    pub(crate) fn find_or_create(&self, origin: &TopicOrigin) -> Result<Arc<Topic>, TableFull> {
        match self.find(&origin.name) {
            None => self.create(origin.config()),
            Some(topic) if topic.config.order == origin.order => Ok(topic),
            Some(topic) => {
                let changing = self.changing();
                // Again, under the lock: what was found before may have changed or gone.
                let Some(topic) = self.find(&topic.name) else {
                    drop(changing);
                    return self.create(origin.config());
                };
                self.put(vec![TopicConfig { order: origin.order, ..(*topic.config).clone() }]);
                Ok(self.find(&origin.name).unwrap_or(topic))
            }
        }
    }

    /// Creates and changes topics on an administrator's behalf: all of them or, on the first error, none. Attributes
    /// are changes: `+key` sets one, `-key` removes one.
    pub(crate) fn update(
        &self,
        configs: Vec<TopicConfig>,
        options: &Options,
    ) -> Result<(), TopicError> {
        let _changing = self.changing();
        let mut updated = Vec::with_capacity(configs.len());
        let mut created = 0;
        for mut config in configs {
            let name = config.topic_name.as_str();
            names::check_topic(name).map_err(|bad| TopicError::InvalidName(bad.to_string()))?;
            options.check_readable(name).map_err(TopicError::InvalidName)?;
            if self.is_system(name) {
                return Err(TopicError::System(name.into()));
            }
            for (what, queues) in [
                ("readQueueNums", config.read_queue_nums),
                ("writeQueueNums", config.write_queue_nums),
            ] {
                if !(0..=self.queues_max).contains(&queues) {
                    let max = self.queues_max;
                    let problem =
                        format!("{what} of topic {name} is {queues}, allowed are 0 to {max}");
                    return Err(TopicError::Invalid(problem));
                }
            }
            if !perm::is_valid(config.perm) {
                let problem =
                    format!("perm of topic {name} is {}, allowed are 0 to 7", config.perm);
                return Err(TopicError::Invalid(problem));
            }
            if !options.enable_mixed_message_type && attributes::makes_mixed(&config.attributes) {
                let problem = "MIXED message type is not supported. Set enableMixedMessageType=true on the broker";
                return Err(TopicError::Invalid(problem.into()));
            }
            let known = self.find(name);
            created += usize::from(known.is_none());
            let current = known.as_ref().map(|topic| &topic.config.attributes);
            config.attributes = attributes::alter(&attributes::TOPIC, current, &config.attributes)
                .map_err(TopicError::Invalid)?;
            // Whoever changes a topic field by field does not mean to drop what neither of us knows.
            if let Some(topic) = known.as_ref().filter(|_| config.rest.is_empty()) {
                config.rest = topic.config.rest.clone();
            }
            if known.is_none_or(|topic| *topic.config != config) {
                updated.push(config);
            }
        }
        self.check_room(created)?;
        if !updated.is_empty() {
            self.put(updated);
        }
        Ok(())
    }

    /// Returns the topic, created if it is missing; an existing one stays as it is.
    pub(crate) fn find_or_exist(&self, origin: &TopicOrigin) -> Result<Arc<Topic>, TableFull> {
        self.find(&origin.name).map_or_else(|| self.create(origin.config()), Ok)
    }

    /// Returns the table's file, for those who wait for it, and for housekeeping.
    pub(crate) fn catalog(&self) -> &Arc<Catalog<TopicConfigTable>> {
        &self.catalog
    }

    /// Counts as a change of the topics what changes how they are registered.
    pub(crate) fn touch(&self) {
        let now = self.clock.now();
        self.catalog.change(|content| content.head.data_version.advance(now));
        self.count_change([]);
    }

    /// Sets the order flag of topics that the name servers call ordered.
    pub(crate) fn mark_ordered(&self, names: impl IntoIterator<Item = impl AsRef<str>>) {
        let _changing = self.changing();
        let unmarked = names.into_iter().filter_map(|name| {
            let topic = self.find(name.as_ref()).filter(|topic| !topic.config.order)?;
            Some(TopicConfig { order: true, ..(*topic.config).clone() })
        });
        let unmarked: Vec<TopicConfig> = unmarked.collect();
        if !unmarked.is_empty() {
            self.put(unmarked);
        }
    }

    /// Forgets a topic. Its queues are the store's to remove.
    pub(crate) fn delete(&self, name: &str) -> Result<(), TopicError> {
        if name.trim().is_empty() {
            return Err(TopicError::InvalidName("The specified topic is blank.".into()));
        }
        // The store names a directory after the topic. Only the grammar: old topics may be longer than new ones.
        if !names::is_legal(name) {
            let bad = names::BadName::Illegal("topic", name.to_owned());
            return Err(TopicError::InvalidName(bad.to_string()));
        }
        if self.is_system(name) {
            return Err(TopicError::System(name.into()));
        }
        let _changing = self.changing();
        let gone = self.live.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(topic) = gone {
            topic.is_stale.store(true, Ordering::Relaxed);
            self.catalog.change(|content| {
                content.remove(name);
                content.head.data_version.advance(self.clock.now());
            });
            self.count_change([]);
            tracing::info!(topic = name, "topic deleted");
        }
        Ok(())
    }

    fn create(&self, config: TopicConfig) -> Result<Arc<Topic>, TableFull> {
        let _changing = self.changing();
        if let Some(topic) = self.find(&config.topic_name) {
            return Ok(topic);
        }
        self.check_room(1)?;
        let name = config.topic_name.clone();
        self.put(vec![self.within_bound(config)]);
        Ok(self.find(&name).expect("what was put under the lock is there"))
    }

    /// Stores configurations and replaces the handles. The caller holds `changing`.
    fn put(&self, configs: Vec<TopicConfig>) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        for config in &configs {
            let old = live.get(config.topic_name.as_str());
            let stats = old.map(|topic| topic.stats.clone()).unwrap_or_default();
            if let Some(old) = old {
                old.is_stale.store(true, Ordering::Relaxed);
            } else {
                self.set_queue_kind(config);
            }
            let topic = Topic::new(config.clone(), stats);
            live.insert(topic.name.clone(), Arc::new(topic));
        }
        drop(live);
        self.catalog.change(|content| {
            configs.iter().for_each(|config| content.put(&config.topic_name, config));
            content.head.data_version.advance(self.clock.now());
        });
        self.count_change(configs.into_iter().map(|config| config.topic_name.into()));
    }

    /// Tells the store what the queues of a new topic are, which stays so.
    fn set_queue_kind(&self, config: &TopicConfig) {
        let kind = if config.is_batched() { QueueKind::Batch } else { QueueKind::Simple };
        if let Err(error) = self.store.set_queue_kind(&config.topic_name, kind) {
            tracing::warn!(topic = config.topic_name, %error, "old queues of a new topic's name stay");
        }
    }

    /// Counts a change, and remembers which topics it was of.
    fn count_change(&self, names: impl IntoIterator<Item = ByteString>) {
        let mut recent = self.recent();
        let Recent { changes, forgotten } = &mut *recent;
        // Under the lock: who sees the count finds the names.
        self.changed.send_modify(|count| {
            *count += 1;
            changes.extend(names.into_iter().map(|name| (*count, name)));
        });
        while changes.len() > RECENT_MAX {
            *forgotten = changes.pop_front().map_or(*forgotten, |(count, _)| count);
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the configuration with no more queues than a topic may have.
    fn within_bound(&self, config: TopicConfig) -> TopicConfig {
        TopicConfig {
            read_queue_nums: config.read_queue_nums.min(self.queues_max),
            write_queue_nums: config.write_queue_nums.min(self.queues_max),
            ..config
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_room(&self, more: usize) -> Result<(), TableFull> {
        let held = self.live.read().unwrap_or_else(PoisonError::into_inner).len();
        if held + more > self.topics_max {
            return Err(TableFull { table: "topics", max: self.topics_max, key: "topicsMax" });
        }
        Ok(())
    }
}

/// The topics that every broker has (Java: `TopicConfigManager.init`).
fn system_topics(options: &Options) -> Vec<TopicConfig> {
    const REVIVE_QUEUES: i32 = 8;
    const READ_WRITE: i32 = perm::READ | perm::WRITE;
    let named_after = |enabled| perm::INHERIT | if enabled { READ_WRITE } else { 0 };
    let topic = |name: &str, queues: i32, perm: i32| TopicConfig {
        topic_name: name.to_owned(),
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm,
        ..TopicConfig::default()
    };
    let cluster = &options.cluster_name;
    let broker = &options.broker_name;
    let mut topics = vec![
        topic(names::SELF_TEST_TOPIC, 1, READ_WRITE),
        topic(names::BENCHMARK_TOPIC, 1024, READ_WRITE),
        topic(cluster, 16, named_after(options.cluster_topic_enable)),
        topic(broker, 1, named_after(options.broker_topic_enable)),
        topic(names::OFFSET_MOVED_EVENT, 1, READ_WRITE),
        topic(names::SCHEDULE_TOPIC, 18, READ_WRITE),
        topic(&format!("{cluster}{}", names::REPLY_TOPIC_SUFFIX), 1, READ_WRITE),
        topic(&format!("rmq_sys_REVIVE_LOG_{cluster}"), REVIVE_QUEUES, READ_WRITE),
        topic(&format!("rmq_sys_SYNC_BROKER_MEMBER_{broker}"), 1, perm::INHERIT),
        topic(names::TRANS_HALF_TOPIC, 1, READ_WRITE),
        topic(names::TRANS_OP_HALF_TOPIC, 1, READ_WRITE),
        topic(names::TIMER_TOPIC, 1, READ_WRITE),
    ];
    if options.auto_create_topic_enable {
        let perm = READ_WRITE | perm::INHERIT;
        topics.push(topic(names::AUTO_CREATE_TOPIC, options.default_topic_queue_nums, perm));
    }
    if options.trace_topic_enable || options.server_trace {
        topics.push(topic(&options.trace_topic_name, 1, READ_WRITE));
    }
    topics
}
