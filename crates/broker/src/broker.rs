//! The broker as a whole: opening its tables, housekeeping, and the short operations that are a rule in a few lines.
//!
//! Tables are JSON files in the store's `config` directory, in the original's formats. Housekeeping is one loop that
//! looks ten times a second at what is due: [`Broker::tick`] is a step of it, so that a test can drive it by hand.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use env::Env;
use store::{Boundary, Fault, LastStop, Store};
use tokio::sync::watch;
use wire::{
    body::{
        MessageQueue,
        client::{ConsumerConnection, ProducerConnection, ProducerTable, SubscriptionData},
        group::{ConsumerOffsetTable, SubscriptionGroupConfig, SubscriptionGroupTable},
        topic::{TopicConfig, TopicConfigTable},
    },
    names,
    properties::{self, name},
};

use crate::{
    Live, Options,
    api::{
        ClientChannel, ClientsError, Consumer, GroupError, LockError, NotSaved, SubscriptionError,
        TopicError,
    },
    blocking,
    catalog::Catalog,
    clients::{Clients, ConsumerIds},
    config::Config,
    delay::{DelayLevels, DelayOffsetTable},
    filter::{
        code::CodeFilters,
        registry::{self, Registry},
        tag::is_tag_type,
    },
    groups::Groups,
    light::{Lights, joined_offsets, split_light},
    locks::Locks,
    offsets::{OffsetTable, Offsets},
    parked::Parked,
    saved::Saved,
    stats::{SAMPLE_PERIOD, Stats},
    timer::{TimerMetrics, Timers},
    topics::Topics,
    trace::Tracer,
    transaction::Transactions,
    unique_key::UniqueKeys,
};

/// How often housekeeping looks at what is due: delayed messages are late by this at most.
const TICK: Duration = Duration::from_millis(100);
/// The longest wait for the dispatcher before a queue's end is told.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How often silent clients are looked for, and groups told of changes that were held back.
const CLIENT_PERIOD: Duration = Duration::from_secs(1);

/// The rules over one store; a cheap handle.
#[derive(Clone)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Live<Options>,
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) env: Env,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) filters: Arc<Registry>,
    pub(crate) clients: Clients,
    pub(crate) offsets: Offsets,
    pub(crate) locks: Locks,
    pub(crate) code_filters: CodeFilters,
    pub(crate) lights: Lights,
    pub(crate) parked: Parked,
    pub(crate) delay_levels: DelayLevels,
    /// None with `timerWheelEnable=false`.
    pub(crate) timers: Option<Timers>,
    pub(crate) transactions: Transactions,
    pub(crate) stats: Stats,
    pub(crate) unique_keys: UniqueKeys,
    /// None without `serverTrace`.
    pub(crate) tracer: Option<Tracer>,
    /// The properties that the broker adds to each message: cluster, region, trace.
    pub(crate) own_properties: String,
    /// When the broker was opened.
    pub(crate) started_at: env::Millis,
    offset_table: Saved<ConsumerOffsetTable>,
    /// What [`Store::intrusions`] said when the tables were last written because of it.
    intrusions: AtomicU64,
    due: Mutex<Due>,
}

/// When each piece of housekeeping is due next, on the monotonic clock.
#[derive(Default)]
struct Due {
    clients: Duration,
    sample: Duration,
    offsets: Duration,
    delays: Duration,
    filters: Duration,
}

/// What is due now.
struct IsDue {
    clients: bool,
    sample: bool,
    offsets: bool,
    delays: bool,
    filters: bool,
}

impl Due {
    fn is_any(&self, now: Duration) -> bool {
        [self.clients, self.sample, self.offsets, self.delays, self.filters]
            .iter()
            .any(|due| now >= *due)
    }

    /// Says what is due, and puts it off by its period.
    fn take(&mut self, now: Duration, options: &Options) -> IsDue {
        let is_due = |due: &mut Duration, period: Duration| {
            let is_due = now >= *due;
            if is_due {
                *due = now + period;
            }
            is_due
        };
        let ms = Duration::from_millis;
        IsDue {
            clients: is_due(&mut self.clients, CLIENT_PERIOD),
            sample: is_due(&mut self.sample, SAMPLE_PERIOD),
            offsets: is_due(&mut self.offsets, ms(options.flush_consumer_offset_interval)),
            delays: is_due(&mut self.delays, ms(options.flush_delay_offset_interval)),
            filters: is_due(&mut self.filters, registry::WRITE_PERIOD),
        }
    }
}

/// Why a broker could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk does not give a table's file.
    #[error("`{file}` cannot be read: {source}")]
    Table {
        /// The table's file.
        file: &'static str,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The files of the timers do not fit, or cannot be read.
    #[error("the timers cannot be opened: {0}")]
    Timers(#[from] store::OpenError),
    /// The queues of transactions cannot be read.
    #[error("the queues of transactions cannot be read: {0}")]
    Transactions(Fault),
}

impl Broker {
    /// Opens the tables of the store's `config` directory, and lets the store wake pulls that wait.
    ///
    /// # Errors
    /// [`OpenError`] when a table cannot be read.
    pub fn open(options: Options, store: Store, env: Env) -> Result<Broker, OpenError> {
        let clock = env.clock.clone();
        let dir = store.config_dir();
        let file = "topics.json";
        let topics = Catalog::open(&env, &dir, file).map_err(unreadable(file))?;
        let topics = Topics::new(topics, &options, store.clone(), clock.clone());
        let file = "subscriptionGroup.json";
        let groups = Catalog::open(&env, &dir, file).map_err(unreadable(file))?;
        let groups = Groups::new(groups, &options, clock.clone());
        let filters = table(&store, &env, "consumerFilter.json")?;
        let filters = Arc::new(Registry::new(filters, &options, clock));
        let offset_table: Saved<ConsumerOffsetTable> = table(&store, &env, options.offset_file())?;
        if options.enable_lmq && *offset_table.read() == ConsumerOffsetTable::default() {
            // Light queues were just switched on.
            let others: Saved<ConsumerOffsetTable> = table(&store, &env, "consumerOffset.json")?;
            offset_table.update(|table| *table = (*others.read()).clone());
        }
        let offsets = Offsets::new(&joined_offsets(&offset_table.read()), options.offsets_max);
        if store.last_stop() == LastStop::Crash {
            // The table is synced whenever it is written, and the log under ASYNC_FLUSH is not.
            let end = |topic: &str, id| store.find_queue(topic, id).map_or(0, |it| it.max_offset());
            let cut = offsets.cut(end);
            if cut > 0 {
                tracing::warn!(
                    cut,
                    "groups had consumed messages that a loss of power has taken, and go on at the end of what is left"
                );
            }
        }
        let own_properties = properties::from_pairs([
            (name::CLUSTER, options.cluster_name.as_str()),
            (name::MSG_REGION, options.region_id.as_str()),
            (name::TRACE_ON, if options.asks_for_traces() { "true" } else { "false" }),
        ]);
        let metrics = table(&store, &env, "transactionMetrics")?;
        let transactions = Transactions::open(&options, &store, &env, &offsets, metrics)
            .map_err(OpenError::Transactions)?;
        let lease = Duration::from_millis(options.lock_lease);
        let inner = Arc::new(Inner {
            topics,
            groups,
            clients: Clients::new(filters.clone()),
            filters,
            offsets,
            locks: Locks::new(lease, options.locks_max),
            code_filters: CodeFilters::new(&env, &dir, &options),
            lights: Lights::new(&store, &options),
            parked: Parked::new(options.parked_pulls_max),
            delay_levels: DelayLevels::new(
                table(&store, &env, "delayOffset.json")?,
                &options,
                &store,
            ),
            timers: Timers::open(&store, &options, table(&store, &env, "timermetrics")?)?,
            transactions,
            stats: Stats::default(),
            unique_keys: UniqueKeys::new(options.store_host.ip(), env.fork_rng()),
            tracer: Tracer::new(&options),
            own_properties,
            started_at: env.clock.now(),
            offset_table,
            intrusions: AtomicU64::new(store.intrusions()),
            due: Mutex::default(),
            options: Live::new(options),
            config: Config::new(env.clock.now()),
            store,
            env,
        });
        // Weak: the store outlives the broker, and must not keep it.
        let waker = Arc::downgrade(&inner);
        inner.store.on_dispatch(Box::new(move |queue, max_offset| {
            if let Some(inner) = waker.upgrade() {
                inner.parked.on_dispatch(queue, max_offset);
            }
        }));
        let mapper = Arc::downgrade(&inner);
        inner.store.on_bit_map(Box::new(move |topic, stored_at, record| {
            let inner = mapper.upgrade()?;
            let is_wanted = inner.options.read().enable_calc_filter_bit_map;
            if is_wanted { inner.filters.bit_map(topic, stored_at, record) } else { None }
        }));
        let asked = Arc::downgrade(&inner);
        inner.store.on_removed(Box::new(move |queue, lost| {
            asked.upgrade().map_or(0, |inner| {
                let lowest = inner.offsets.lowest(queue.topic(), queue.id()).unwrap_or(i64::MAX);
                lost.end.saturating_sub(lost.start.max(lowest)).max(0) as u64
            })
        }));
        Ok(Broker { inner })
    }

    /// Returns the options as they are now.
    pub fn options(&self) -> Arc<Options> {
        self.inner.options.read()
    }

    /// Returns how long a send waits for the device under `SYNC_FLUSH`.
    pub fn sync_flush_timeout(&self) -> Duration {
        Duration::from_millis(self.inner.options.read().sync_flush_timeout)
    }

    /// Returns the store below, for its marks and its status.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Does the housekeeping until it is dropped; to be spawned once.
    pub async fn run(self) {
        let clock = &self.inner.env.clock;
        loop {
            clock.sleep(TICK).await;
            while self.is_work_due() {
                let broker = self.clone();
                if !blocking(move || broker.tick()).await {
                    break;
                }
            }
        }
    }

    /// Does what is due of the housekeeping, a bounded piece of it; says whether there is more to do at once. It may
    /// wait for the disk.
    pub fn tick(&self) -> bool {
        let inner = &*self.inner;
        let (now, time) = (inner.env.clock.now(), inner.env.clock.monotonic());
        let due = self.due().take(time, &inner.options.read());
        let mut is_more = inner.delay_levels.is_any_due(now) && self.deliver_due();
        is_more |= self.are_timers_due(now) && self.tick_timers();
        is_more |= inner.transactions.is_due(time) && self.tick_transactions(time);
        is_more |= (due.clients || self.is_trace_pressing()) && self.write_traces();
        if due.clients {
            inner.code_filters.look();
            inner.clients.tick(time, &inner.options.read(), &inner.groups);
        }
        if due.sample {
            inner.locks.release_expired(time);
            let topics = inner.topics.all();
            inner.stats.sample(now, topics.iter().map(|topic| &*topic.stats));
            if inner.offsets.take_refused() {
                self.forget_unsubscribed();
            }
        }
        let intrusions = inner.store.intrusions();
        if inner.intrusions.swap(intrusions, Ordering::Relaxed) != intrusions {
            self.write_all_again();
        }
        self.write_catalogs();
        if due.clients {
            // A failure was logged, and the next second tries again.
            let _ = inner.topics.catalog().sync();
            let _ = inner.groups.catalog().sync();
        }
        if due.offsets {
            self.flush_offsets();
        }
        if due.delays {
            inner.delay_levels.capture();
        }
        inner.delay_levels.save(inner.store.marks().synced.get(), now);
        if due.filters {
            self.flush_filters();
        }
        is_more
    }

    fn is_work_due(&self) -> bool {
        let inner = &*self.inner;
        self.due().is_any(inner.env.clock.monotonic())
            || !self.is_saved()
            || inner.delay_levels.is_any_due(inner.env.clock.now())
            || inner.delay_levels.is_save_due(inner.store.marks().synced.get())
            || self.are_timers_due(inner.env.clock.now())
            || inner.transactions.is_due(inner.env.clock.monotonic())
            || self.is_trace_pressing()
    }

    fn is_trace_pressing(&self) -> bool {
        self.inner.tracer.as_ref().is_some_and(Tracer::is_pressing)
    }

    fn are_timers_due(&self, now: env::Millis) -> bool {
        let synced = self.inner.store.marks().synced.get();
        self.inner.timers.as_ref().is_some_and(|timers| timers.is_work_due(now, synced))
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.inner.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes every table; to be called after the last request, before the store is shut down.
    pub fn shutdown(&self) {
        let inner = &*self.inner;
        self.write_catalogs();
        let _ = inner.topics.catalog().sync();
        let _ = inner.groups.catalog().sync();
        self.write_last_ops();
        while self.write_traces() {}
        // The positions below speak of what must be on the device before them.
        if !inner.store.sync_blocking() {
            tracing::warn!(
                "the log is not synced: what was delivered last will be delivered again"
            );
        }
        inner.delay_levels.close(inner.store.marks().synced.get(), inner.env.clock.now());
        self.close_transactions();
        self.flush_offsets();
        self.close_timers();
        self.flush_filters();
    }

    fn flush_filters(&self) {
        let clean_after = self.inner.options.read().filter_data_clean_time_span;
        self.inner.filters.flush(clean_after);
    }

    /// Says whether the files of topics and groups have every change.
    pub fn is_saved(&self) -> bool {
        self.inner.topics.catalog().is_saved() && self.inner.groups.catalog().is_saved()
    }

    /// Waits until the files of topics and groups have every change made so far: what is acknowledged after that is
    /// there after a kill.
    ///
    /// # Errors
    /// [`NotSaved`]; the change holds while the process lives, and housekeeping goes on trying.
    pub async fn saved(&self) -> Result<(), NotSaved> {
        self.inner.topics.catalog().saved().await?;
        self.inner.groups.catalog().saved().await
    }

    fn write_catalogs(&self) {
        // A failure was logged, and the next tick tries again.
        let _ = self.inner.topics.catalog().write();
        let _ = self.inner.groups.catalog().write();
    }

    fn write_all_again(&self) {
        let inner = &*self.inner;
        inner.topics.catalog().change(|_| ());
        inner.groups.catalog().change(|_| ());
        inner.delay_levels.write_again();
        if let Some(timers) = &inner.timers {
            timers.write_again();
        }
        inner.offset_table.update(|_| ());
        inner.offset_table.flush();
        inner.transactions.write_again();
        inner.filters.write_again();
        self.flush_filters();
    }

    fn flush_offsets(&self) {
        let Some(offsets) = self.inner.offsets.snapshot_if_changed() else { return };
        let now = self.inner.env.clock.now();
        let is_light = self.inner.options.read().enable_lmq;
        self.inner.offset_table.update(|table| {
            table.group_topic_map = Some(group_topics(&offsets));
            table.offset_table = offsets;
            // of another broker's time; nobody believes it
            table.pull_offset_table = None;
            if is_light {
                split_light(table);
            }
            table.data_version.advance(now);
        });
        self.inner.offset_table.flush();
    }

    // ------------------------------------------------------------------------------------------------------ offsets

    /// Waits until the queues show what was acknowledged before the call, so that who sends and then asks for an end or
    /// sets a group to it counts what they sent. A dispatch that is far behind is waited for a second at most.
    pub async fn caught_up(&self) {
        let (store, clock) = (&self.inner.store, &self.inner.env.clock);
        let acknowledged = store.acknowledged().get();
        let deadline = clock.monotonic().saturating_add(CATCH_UP);
        tokio::select! {
            biased;
            _ = store.marks().dispatched.wait_for(acknowledged) => {}
            () = clock.sleep_until(deadline) => {}
        }
    }

    /// Returns the offset behind the last message of the queue; 0 for a queue that nobody has used.
    pub fn max_offset(&self, topic: &str, queue_id: i32) -> i64 {
        self.queue(topic, queue_id).map_or(0, |queue| queue.max_offset())
    }

    /// Returns the offset of the first message of the queue; 0 for a queue that nobody has used.
    pub fn min_offset(&self, topic: &str, queue_id: i32) -> i64 {
        self.queue(topic, queue_id).map_or(0, |queue| queue.min_offset())
    }

    /// Returns the offset at a store time.
    ///
    /// # Errors
    /// [`Fault`] when queue or log cannot be read.
    pub async fn offset_at(
        &self,
        topic: &str,
        queue_id: i32,
        time_ms: i64,
        boundary: Boundary,
    ) -> Result<i64, Fault> {
        self.caught_up().await;
        match self.queue(topic, queue_id) {
            Some(queue) => blocking(move || queue.offset_at(time_ms, boundary)).await,
            None => Ok(0),
        }
    }

    /// Returns the store time of the first message of the queue, -1 when there is none.
    pub async fn earliest_store_time(&self, topic: &str, queue_id: i32) -> i64 {
        let Some(queue) = self.queue(topic, queue_id) else { return -1 };
        let first = blocking(move || queue.stored_at(queue.min_offset())).await;
        first.ok().flatten().unwrap_or(-1)
    }

    /// Returns all committed offsets (GET_ALL_CONSUMER_OFFSET).
    pub fn all_offsets(&self) -> ConsumerOffsetTable {
        let stored = self.inner.offset_table.read();
        let offset_table = self.inner.offsets.snapshot();
        let mut table = ConsumerOffsetTable { offset_table, ..(*stored).clone() };
        if self.inner.options.read().enable_lmq {
            split_light(&mut table);
        }
        table
    }

    /// Returns how far each delay level is delivered (GET_ALL_DELAY_OFFSET).
    pub fn delay_offsets(&self) -> Arc<DelayOffsetTable> {
        self.inner.delay_levels.table()
    }

    /// Returns how far the timers have come, as `timercheck` says it (GET_TIMER_CHECK_POINT); none with
    /// `timerWheelEnable=false`.
    pub fn timer_checkpoint(&self) -> Option<[u8; store::timer::checkpoint::JAVA_BYTES]> {
        self.inner.timers.as_ref().map(Timers::checkpoint)
    }

    /// Returns how many timer messages wait, by topic (GET_TIMER_METRICS); none with `timerWheelEnable=false`.
    pub fn timer_metrics(&self) -> Option<Arc<TimerMetrics>> {
        self.inner.timers.as_ref().map(Timers::metrics)
    }

    /// Returns the queue of a topic, if both exist.
    pub(crate) fn queue(&self, topic: &str, queue_id: i32) -> Option<Arc<store::Queue>> {
        if names::is_light(topic) && queue_id == 0 && self.inner.options.read().enable_lmq {
            return self.inner.store.find_queue(topic, queue_id);
        }
        let queues = self.inner.topics.find(topic)?;
        let known = queues.config.read_queue_nums.max(queues.config.write_queue_nums);
        (0..known).contains(&queue_id).then(|| queues.queue(&self.inner.store, queue_id))
    }

    // ------------------------------------------------------------------------------------------------------ clients

    /// Returns the ids of the group's consumers.
    ///
    /// # Errors
    /// [`ClientsError::NoConsumer`] when there is none.
    pub fn consumer_ids(&self, group: &str) -> Result<Arc<ConsumerIds>, ClientsError> {
        self.inner.clients.consumer_ids(group)
    }

    /// Returns who consumes in the group, and what.
    ///
    /// # Errors
    /// [`ClientsError::ConsumerNotOnline`] when nobody does.
    pub fn consumer_connection(&self, group: &str) -> Result<ConsumerConnection, ClientsError> {
        self.inner.clients.consumer_connection(group)
    }

    /// Returns who produces in the group.
    ///
    /// # Errors
    /// [`ClientsError::NoProducer`] when nobody does.
    pub fn producer_connection(&self, group: &str) -> Result<ProducerConnection, ClientsError> {
        self.inner.clients.producer_connection(group)
    }

    /// Returns all producers.
    pub fn producers(&self) -> ProducerTable {
        self.inner.clients.producer_table(&self.inner.env.clock)
    }

    /// Returns the way to the producer with this client id.
    pub fn producer(&self, client_id: &str) -> Option<Arc<dyn ClientChannel>> {
        self.inner.clients.producer(client_id)
    }

    /// Returns the consumers of a group.
    pub fn consumers(&self, group: &str) -> Vec<Consumer> {
        self.inner.clients.consumers(group)
    }

    /// Returns the consumer of a group that is behind this channel.
    pub fn consumer_behind(&self, group: &str, channel_id: u64) -> Option<Consumer> {
        self.inner.clients.consumer_behind(group, channel_id)
    }

    /// Returns the consumer of a group that has this id.
    pub fn consumer(&self, group: &str, client_id: &str) -> Option<Consumer> {
        self.inner.clients.consumer(group, client_id)
    }

    /// Returns what the connected consumers of a group want of a topic.
    pub fn subscription(&self, group: &str, topic: &str) -> Option<Arc<SubscriptionData>> {
        self.inner.clients.subscription(group, topic)
    }

    /// Says whether a subscription would be served.
    ///
    /// # Errors
    /// See [`SubscriptionError`].
    pub fn check_subscription(
        &self,
        subscription: &SubscriptionData,
    ) -> Result<(), SubscriptionError> {
        if is_tag_type(&subscription.expression_type) {
            return Ok(());
        }
        let SubscriptionData { expression_type, sub_string, .. } = subscription;
        let is_served = self.inner.options.read().enable_property_filter;
        if !is_served || expression_type != SubscriptionData::SQL92 {
            return Err(SubscriptionError::Unsupported(expression_type.as_str().into()));
        }
        let compiled = self.inner.filters.compile(sub_string);
        compiled.map(drop).map_err(|error| SubscriptionError::Invalid(error.to_string()))
    }

    /// Takes or renews queue locks for a client; returns those among `queues` that it holds now.
    ///
    /// # Errors
    /// See [`LockError`]; no lock is taken then.
    pub fn lock_queues(
        &self,
        group: &str,
        client_id: &str,
        queues: Vec<MessageQueue>,
    ) -> Result<Vec<MessageQueue>, LockError> {
        check_lock_names(group, client_id, &queues)?;
        let now = self.inner.env.clock.monotonic();
        let keys = queues.iter().map(|queue| (queue.topic.as_str(), queue.queue_id));
        let held = self.inner.locks.lock(now, group, client_id, keys);
        let held = queues.into_iter().zip(held).filter_map(|(queue, held)| held.then_some(queue));
        Ok(held.collect())
    }

    /// Gives up the queue locks among `queues` that the client holds.
    pub fn unlock_queues(&self, group: &str, client_id: &str, queues: &[MessageQueue]) {
        let keys = queues.iter().map(|queue| (queue.topic.as_str(), queue.queue_id));
        self.inner.locks.unlock(group, client_id, keys);
    }

    // ----------------------------------------------------------------------------------------------- topics, groups

    /// Creates and changes topics: all of them or, on the first error, none. Attributes are changes, `+key` sets and
    /// `-key` removes. It is in force at once, and survives a kill after [`Broker::saved`].
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn create_topics(&self, topics: Vec<TopicConfig>) -> Result<(), TopicError> {
        self.inner.topics.update(topics, &self.inner.options.read())
    }

    /// Deletes a topic with its queues, the groups' offsets of it, and their retry topics for it. It waits for the disk.
    ///
    /// # Errors
    /// See [`TopicError`]; a topic that does not exist is none.
    pub fn delete_topic(&self, topic: &str) -> Result<(), TopicError> {
        let inner = &*self.inner;
        let mut doomed = vec![ByteString::from(topic)];
        for group in inner.offsets.groups_of(topic) {
            for retry in [format!("%RETRY%{group}_{topic}"), format!("%RETRY%{group}+{topic}")] {
                if inner.topics.find(&retry).is_some() {
                    doomed.push(retry.into());
                }
            }
        }
        for topic in doomed {
            inner.topics.delete(&topic)?;
            inner.offsets.remove_topic(&topic);
            inner.stats.forget(|_, counted| *counted == *topic);
            if let Some(timers) = &inner.timers {
                timers.forget(&topic);
            }
            inner
                .store
                .remove_topic(&topic)
                .map_err(|fault| TopicError::Store(fault.to_string()))?;
        }
        if names::is_light(topic) {
            inner.lights.recount();
        }
        Ok(())
    }

    /// Returns a topic's configuration.
    ///
    /// # Errors
    /// [`TopicError::Unknown`].
    pub fn topic(&self, topic: &str) -> Result<Arc<TopicConfig>, TopicError> {
        let found = self.inner.topics.find(topic);
        found.map(|topic| topic.config.clone()).ok_or_else(|| TopicError::Unknown(topic.into()))
    }

    /// Returns the whole table, for registration and for those who copy it.
    pub fn topics(&self) -> TopicConfigTable {
        self.inner.topics.table()
    }

    /// Returns the table with only the topics that were created or changed after [`Broker::topics_version`] was `after`;
    /// none if that is too long ago to be known.
    pub fn topic_changes(&self, after: u64) -> Option<TopicConfigTable> {
        self.inner.topics.changes(after)
    }

    /// Returns the names of the broker's own topics.
    pub fn system_topics(&self) -> Vec<ByteString> {
        self.inner.topics.system_names()
    }

    /// Returns how often topics have changed so far.
    pub fn topics_version(&self) -> u64 {
        self.inner.topics.version()
    }

    /// Returns a number that changes whenever a topic does: what registration waits on.
    pub fn topics_changed(&self) -> watch::Receiver<u64> {
        self.inner.topics.changed()
    }

    /// Marks topics as ordered that the name servers call so.
    pub fn mark_ordered_topics(&self, topics: impl IntoIterator<Item = impl AsRef<str>>) {
        self.inner.topics.mark_ordered(topics);
    }

    /// Creates and changes groups: all of them or, on the first error, none. It is in force at once, and survives a kill
    /// after [`Broker::saved`].
    ///
    /// # Errors
    /// See [`GroupError`].
    pub fn create_groups(&self, groups: Vec<SubscriptionGroupConfig>) -> Result<(), GroupError> {
        self.inner.groups.update(groups)
    }

    /// Deletes a group, and its offsets if asked to. A group that does not exist is deleted already.
    pub fn delete_group(&self, group: &str, clean_offset: bool) {
        self.inner.groups.delete(group);
        if clean_offset {
            self.inner.offsets.remove_group(group);
        }
        self.inner.stats.forget(|counted, _| counted == group);
    }

    /// Forbids the group to read the topic, or lets it again.
    ///
    /// # Errors
    /// [`GroupError`]: no such group, no such topic, or no room.
    pub fn forbid(&self, group: &str, topic: &str, is_forbidden: bool) -> Result<(), GroupError> {
        if self.inner.topics.find(topic).is_none() {
            return Err(GroupError::UnknownTopic(topic.into()));
        }
        self.inner.groups.forbid(group, topic, is_forbidden)
    }

    /// Says whether the group may not read the topic.
    pub fn is_forbidden(&self, group: &str, topic: &str) -> bool {
        self.inner.groups.is_forbidden(group, topic)
    }

    /// Returns a group's configuration.
    ///
    /// # Errors
    /// [`GroupError::Unknown`].
    pub fn group(&self, group: &str) -> Result<Arc<SubscriptionGroupConfig>, GroupError> {
        self.inner.groups.get(group).ok_or_else(|| GroupError::Unknown(group.into()))
    }

    /// Returns the whole table, for those who copy it.
    pub fn groups(&self) -> SubscriptionGroupTable {
        self.inner.groups.table()
    }
}

/// Says whether these names may be kept as those of locks.
fn check_lock_names(
    group: &str,
    client_id: &str,
    queues: &[MessageQueue],
) -> Result<(), LockError> {
    let topics = queues.iter().map(|queue| ("topic", queue.topic.as_str()));
    [("group", group), ("clientId", client_id)]
        .into_iter()
        .chain(topics)
        .try_for_each(|(what, name)| names::check_client_name(what, name))
        .map_err(|bad| LockError::InvalidName(bad.to_string()))
}

/// The topics of each group, which the original writes too and never reads.
fn group_topics(offsets: &OffsetTable) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (topic, group) in offsets.keys().filter_map(|key| key.split_once('@')) {
        groups.entry(group.to_owned()).or_default().push(topic.to_owned());
    }
    groups
}

fn table<T>(store: &Store, env: &Env, file: &'static str) -> Result<Saved<T>, OpenError>
where
    T: Clone + Default + serde::Serialize + serde::de::DeserializeOwned,
{
    Saved::open(env, &store.config_dir(), file).map_err(unreadable(file))
}

fn unreadable(file: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Table { file, source }
}
