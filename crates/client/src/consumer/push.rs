//! The push consumer: follows the queues that are its own and brings their messages to a handler.
//!
//! One task shares the queues out again when members come and go; each queue has a task that pulls and one that hands
//! over. What is pulled and not done is bounded per queue, what is being handled is bounded for the consumer.
//! Java: `DefaultMQPushConsumerImpl`, `RebalancePushImpl`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, watch};
use tracing::{debug, info, warn};
use wire::{
    body::{
        MessageQueue,
        client::{
            ConsumeDirectlyResult, ConsumeType, ConsumerData, ConsumerRunningInfo, ProcessQueueInfo,
        },
        lock::{LockBatch, LockBatchResponse},
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    names,
};

use crate::{
    client::{Consumer, Core},
    error::{ConsumeError, InvalidField},
    message::ReceivedMessage,
    meters,
};

use super::{
    AllocateStrategy, ConsumeFromWhere, Filter, Membership, MessageModel, PULL_TIMEOUT, SUSPEND,
    Setup, Wanted,
    queue::{Assigned, Room},
    work::{Consumed, Handler, Ordered},
};

/// How often queues are shared out anew without a reason (Java: `rocketmq.client.rebalance.waitInterval`).
const REBALANCE_INTERVAL: Duration = Duration::from_secs(20);
/// How soon it is tried again when it did not work out.
const REBALANCE_AGAIN: Duration = Duration::from_secs(1);
/// How often locks are renewed (Java: `rocketmq.client.rebalance.lockInterval`).
const LOCK_INTERVAL: Duration = Duration::from_secs(20);
/// How long a pull that failed rests, and one that the broker has no time for.
const PULL_PAUSE: Duration = Duration::from_secs(3);
const FLOW_CONTROL_PAUSE: Duration = Duration::from_millis(20);

/// Builds a [`PushConsumer`]. Made by [`Client::push_consumer`](crate::Client::push_consumer); all of it has Java's
/// defaults.
pub struct PushConsumerBuilder {
    setup: Setup,
    options: Options,
}

/// How a push consumer works.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) concurrency: usize,
    pub(crate) batch_max: usize,
    pub(crate) room: Room,
    pub(crate) max_reconsume_times: Option<u32>,
    pub(crate) consume_timeout: Duration,
    pub(crate) suspend: Duration,
    persist_interval: Duration,
    shutdown_grace: Duration,
}

impl PushConsumerBuilder {
    pub(crate) fn new(core: Arc<Core>, group: String) -> PushConsumerBuilder {
        let room = Room { messages_max: 1000, bytes_max: 100 * 1024 * 1024, span_max: 2000 };
        PushConsumerBuilder {
            setup: Setup::new(core, &group),
            options: Options {
                concurrency: 20,
                batch_max: 1,
                room,
                max_reconsume_times: None,
                consume_timeout: Duration::from_secs(15 * 60),
                suspend: Duration::from_secs(1),
                persist_interval: Duration::from_secs(5),
                shutdown_grace: Duration::from_secs(30),
            },
        }
    }

    /// Subscribes to a topic; may be called for several. Of a topic that is named twice, the last filter counts.
    #[must_use]
    pub fn subscribe(mut self, topic: impl AsRef<str>, filter: Filter) -> PushConsumerBuilder {
        self.setup.subscribe(topic.as_ref(), &filter);
        self
    }

    /// Sets who of the group gets a message; one member by default.
    #[must_use]
    pub fn message_model(mut self, model: MessageModel) -> PushConsumerBuilder {
        self.setup.model = model;
        self
    }

    /// Sets where a new group begins; at the end by default.
    #[must_use]
    pub fn consume_from_where(mut self, from: ConsumeFromWhere) -> PushConsumerBuilder {
        self.setup.from = from;
        self
    }

    /// Sets how queues are shared out; evenly by default.
    #[must_use]
    pub fn allocate_strategy(mut self, strategy: AllocateStrategy) -> PushConsumerBuilder {
        self.setup.strategy = strategy;
        self
    }

    /// Sets how many handlers run at once, 1 to 65,536; 20 by default (Java: `consumeThreadMax`).
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> PushConsumerBuilder {
        self.options.concurrency = self.setup.bound("concurrency", handlers, 1, 65_536);
        self
    }

    /// Sets how many messages a handler of batches gets at most, 1 to 1024; 1 by default.
    #[must_use]
    pub fn consume_message_batch_max_size(mut self, messages: usize) -> PushConsumerBuilder {
        self.options.batch_max =
            self.setup.bound("consume_message_batch_max_size", messages, 1, 1024);
        self
    }

    /// Sets how many messages one pull brings at most, 1 to 1024; 32 by default.
    #[must_use]
    pub fn pull_batch_size(mut self, messages: usize) -> PushConsumerBuilder {
        self.setup.pull_batch_size = self.setup.bound("pull_batch_size", messages, 1, 1024) as u32;
        self
    }

    /// Sets how many messages of a queue may be here and not done before pulling pauses, 1 to 65,535; 1000 by default.
    #[must_use]
    pub fn pull_threshold_for_queue(mut self, messages: usize) -> PushConsumerBuilder {
        self.options.room.messages_max =
            self.setup.bound("pull_threshold_for_queue", messages, 1, 65_535);
        self
    }

    /// Sets how many bytes of bodies of a queue may be here and not done before pulling pauses; 100 MiB by default. The pull that
    /// reaches the bound may exceed it.
    #[must_use]
    pub fn pull_threshold_size_for_queue(mut self, bytes: usize) -> PushConsumerBuilder {
        self.options.room.bytes_max =
            self.setup.bound("pull_threshold_size_for_queue", bytes, 1, usize::MAX);
        self
    }

    /// Sets how far apart the first and the last offset that are not done may be in a queue before pulling pauses; 2000
    /// by default. Without effect on handlers in order.
    #[must_use]
    pub fn consume_concurrently_max_span(mut self, offsets: usize) -> PushConsumerBuilder {
        let offsets = self.setup.bound("consume_concurrently_max_span", offsets, 1, 65_535);
        self.options.room.span_max = offsets as i64;
        self
    }

    /// Sets how often a message may fail before it becomes a dead letter, in the topic `%DLQ%` and the group's name. By
    /// default as the group's configuration says, 16; without end for handlers in order.
    #[must_use]
    pub fn max_reconsume_times(mut self, times: u32) -> PushConsumerBuilder {
        self.options.max_reconsume_times = Some(times);
        self
    }

    /// Sets how long a handler may take, 15 min by default; then it is dropped where it waits (`.await`), and its messages are
    /// tried again. One that blocks its thread is not stopped by this.
    #[must_use]
    pub fn consume_timeout(mut self, timeout: Duration) -> PushConsumerBuilder {
        self.options.consume_timeout = timeout;
        self
    }

    /// Sets how long a queue rests when a handler in order fails without saying how long, 10 ms to 30 s; 1 s by default.
    #[must_use]
    pub fn suspend_current_queue_time(mut self, time: Duration) -> PushConsumerBuilder {
        self.options.suspend = time;
        self
    }

    /// Sets how often progress is kept, at least every 10 ms, every 5 s by default (Java: `persistConsumerOffsetInterval`):
    /// what is handled in between is handled again after a crash.
    #[must_use]
    pub fn persist_consumer_offset_interval(mut self, interval: Duration) -> PushConsumerBuilder {
        self.options.persist_interval = interval.max(Duration::from_millis(10));
        self
    }

    /// Sets how long [`PushConsumer::shutdown`] waits for handlers; 30 s by default (Java:
    /// `awaitTerminationMillisWhenShutdown`).
    #[must_use]
    pub fn await_termination_when_shutdown(mut self, grace: Duration) -> PushConsumerBuilder {
        self.options.shutdown_grace = grace;
        self
    }

    /// Sets where a broadcast consumer keeps its offsets; by default in `.rocketmq_offsets` in the home directory.
    #[must_use]
    pub fn local_offset_store_dir(mut self, dir: impl Into<PathBuf>) -> PushConsumerBuilder {
        self.setup.offset_dir = Some(dir.into());
        self
    }

    /// Starts to consume, one message a call, in no order. An example stands in the [crate's guide](crate#consume).
    ///
    /// The handler runs on tokio's threads: what blocks or computes for long belongs into `spawn_blocking`. One that panics
    /// counts as one that asks for another try.
    ///
    /// # Errors
    /// A setting cannot be, there is no subscription, the group is taken in this client, a broker refuses a condition, or
    /// a server refuses this client ([`ConsumeError::Denied`]). That nobody is there to be consumed from is no error: the
    /// consumer waits.
    pub async fn start<F, R>(self, handler: F) -> Result<PushConsumer, ConsumeError>
    where
        F: Fn(ReceivedMessage) -> R + Send + Sync + 'static,
        R: Future<Output = Consumed> + Send + 'static,
    {
        self.run(Handler::one(handler)).await
    }

    /// Starts to consume, up to `consume_message_batch_max_size` messages of a queue a call, in no order; the outcome is that of all of them.
    ///
    /// # Errors
    /// As [`PushConsumerBuilder::start`].
    pub async fn start_batches<F, R>(self, handler: F) -> Result<PushConsumer, ConsumeError>
    where
        F: Fn(Vec<ReceivedMessage>) -> R + Send + Sync + 'static,
        R: Future<Output = Consumed> + Send + 'static,
    {
        self.run(Handler::many(handler)).await
    }

    /// Starts to consume in order: a queue is consumed by one member, which has locked it at the broker, one call after
    /// the other, up to `consume_message_batch_max_size` messages each. What fails holds up its queue, and no other.
    ///
    /// # Errors
    /// As [`PushConsumerBuilder::start`].
    ///
    /// ```no_run
    /// # async fn example(client: apogee_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use apogee_client::{Filter, Ordered};
    /// let consumer = client.push_consumer("ledger").subscribe("accounts", Filter::all()).start_orderly(|entries| async move {
    ///     for entry in entries {
    ///         println!("{} of queue {}", entry.queue_offset(), entry.queue().queue_id);
    ///     }
    ///     Ordered::Done
    /// });
    /// let consumer = consumer.await?;
    /// # drop(consumer);
    /// # Ok(()) }
    /// ```
    pub async fn start_orderly<F, R>(self, handler: F) -> Result<PushConsumer, ConsumeError>
    where
        F: Fn(Vec<ReceivedMessage>) -> R + Send + Sync + 'static,
        R: Future<Output = Ordered> + Send + 'static,
    {
        self.run(Handler::ordered(handler)).await
    }

    async fn run(self, handler: Handler) -> Result<PushConsumer, ConsumeError> {
        let PushConsumerBuilder { mut setup, mut options } = self;
        if setup.subscriptions.is_empty() && setup.fault.is_none() {
            let reason = "a consumer subscribes to at least one topic";
            return Err(InvalidField::new("subscribe", "", reason).into());
        }
        if setup.model == MessageModel::Clustering {
            setup.subscribe(&names::retry_topic(&setup.group), &Filter::all());
        }
        if handler.is_ordered() {
            options.room.span_max = i64::MAX;
        }
        let member = setup.finish(ConsumeType::ConsumePassively)?;
        member.check_conditions().await?;
        let shared = Arc::new(Shared {
            permits: Arc::new(Semaphore::new(options.concurrency)),
            member,
            options,
            handler,
            queues: Mutex::default(),
            balancing: AsyncMutex::default(),
            wake: Notify::new(),
            resumed: Notify::new(),
            paused: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
        });
        let weak: Weak<Shared> = Arc::downgrade(&shared);
        shared.member.core.add_consumer(&shared.member.group, weak)?;
        shared.member.introduce().await?;
        tokio::spawn(shared.clone().balance());
        tokio::spawn(shared.clone().keep_progress());
        if shared.needs_locks() {
            tokio::spawn(shared.clone().keep_locks());
        }
        Ok(PushConsumer(shared))
    }
}

/// A consumer that works. Dropping it stops it at once, without keeping progress: see [`PushConsumer::shutdown`].
#[must_use = "a consumer works until it is dropped"]
pub struct PushConsumer(Arc<Shared>);

impl PushConsumer {
    /// Stops pulling, waits for the handlers that run, up to [`PushConsumerBuilder::await_termination_when_shutdown`], keeps
    /// the progress and leaves the group, whose other members take over at once.
    ///
    /// # Errors
    /// Progress could not be kept everywhere: some of what was handled will be handled again.
    pub async fn shutdown(self) -> Result<(), ConsumeError> {
        let shared = &self.0;
        shared.stop();
        let _quiet = shared.balancing.lock().await;
        let handlers = u32::try_from(shared.options.concurrency).unwrap_or(u32::MAX);
        tokio::select! {
            _ = shared.permits.acquire_many(handlers) => {}
            () = shared.member.core.clock.sleep(shared.options.shutdown_grace) => {
                warn!(group = shared.member.group, "handlers still run; what they have will be consumed again");
            }
        }
        let queues: Vec<Arc<Assigned>> = shared.queues().values().cloned().collect();
        let kept = shared.keep(&queues).await;
        if let Some(tracer) = &shared.member.core.tracer {
            tracer.flush().await;
        }
        if shared.needs_locks() {
            let queues: Vec<MessageQueue> =
                queues.iter().map(|queue| MessageQueue::clone(&queue.queue)).collect();
            shared.unlock(&queues).await;
        }
        shared.member.core.leave(None, Some(&shared.member.group)).await;
        kept
    }

    /// Pulls nothing more until [`PushConsumer::resume`]; what is here is still handled.
    pub fn suspend(&self) {
        self.0.paused.store(true, Relaxed);
    }

    /// Goes on pulling.
    pub fn resume(&self) {
        self.0.paused.store(false, Relaxed);
        self.0.resumed.notify_waiters();
    }

    /// Returns the queues that are this member's now, those of its retry topic among them; they change as members come and go.
    pub fn queues(&self) -> Vec<MessageQueue> {
        let namespace = &self.0.member.core.config.namespace;
        self.0.queues().keys().map(|queue| namespace.strip_queue(queue)).collect()
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// What the tasks of a push consumer share.
pub(crate) struct Shared {
    pub(crate) member: Membership,
    pub(crate) options: Options,
    pub(crate) handler: Handler,
    pub(crate) permits: Arc<Semaphore>,
    queues: Mutex<BTreeMap<MessageQueue, Arc<Assigned>>>,
    /// Held while queues change owner.
    balancing: AsyncMutex<()>,
    wake: Notify,
    resumed: Notify,
    paused: AtomicBool,
    stopped: watch::Sender<bool>,
}

impl Shared {
    /// Whether queues are consumed under a lock of the broker.
    pub(crate) fn needs_locks(&self) -> bool {
        self.handler.is_ordered() && self.member.model == MessageModel::Clustering
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<MessageQueue, Arc<Assigned>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.stopped.send_replace(true);
        self.queues().values().for_each(|assigned| assigned.end());
    }

    async fn until_stopped(&self) {
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Shares the queues out whenever there is a reason to, and now and then without.
    async fn balance(self: Arc<Self>) {
        let work = async {
            loop {
                let settled = self.balance_once().await;
                let pause = if settled { REBALANCE_INTERVAL } else { REBALANCE_AGAIN };
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = self.member.core.clock.sleep(pause) => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = self.until_stopped() => {}
            () = work => {}
        }
    }

    async fn balance_once(self: &Arc<Self>) -> bool {
        let _balancing = self.balancing.lock().await;
        let mut settled = true;
        for subscription in self.member.subscriptions() {
            let topic = &subscription.topic;
            match self.member.share(topic).await {
                Ok(Some(share)) => settled &= self.take_over(topic, &share).await,
                Ok(None) => settled = false,
                Err(error) => {
                    settled = false;
                    if !topic.starts_with(names::RETRY_PREFIX) {
                        warn!(group = self.member.group, topic, %error, "cannot share out the queues");
                    }
                }
            }
        }
        settled
    }

    /// Gives up the queues of `topic` that are not of `share`, and begins with those that are new in it.
    async fn take_over(self: &Arc<Self>, topic: &str, share: &BTreeSet<MessageQueue>) -> bool {
        let given_up: Vec<Arc<Assigned>> = {
            let mut queues = self.queues();
            let lost = |queue: &MessageQueue| queue.topic == topic && !share.contains(queue);
            queues.extract_if(.., |queue, _| lost(queue)).map(|(_, assigned)| assigned).collect()
        };
        self.give_up(&given_up).await;
        let mut new: Vec<MessageQueue> = {
            let queues = self.queues();
            share.iter().filter(|queue| !queues.contains_key(*queue)).cloned().collect()
        };
        if new.is_empty() && given_up.is_empty() {
            return true;
        }
        let wanted = new.len();
        let now = self.member.core.clock.monotonic();
        if self.needs_locks() {
            let locked = self.lock(&new).await;
            new.retain(|queue| locked.contains(queue));
        }
        info!(
            group = self.member.group,
            topic,
            taken = new.len(),
            given_up = given_up.len(),
            "queues changed owner"
        );
        let settled = new.len() == wanted;
        for queue in new {
            let core = &self.member.core;
            let namespace = &core.config.namespace;
            let (group, topic) = (&self.member.group, &queue.topic);
            let meters =
                meters::Queue::new(&core.id, &namespace.strip(group), &namespace.strip(topic));
            let assigned = Arc::new(Assigned::new(queue.clone(), meters));
            if self.needs_locks() {
                assigned.set_locked(Some(now));
            }
            self.queues().insert(queue, assigned.clone());
            if *self.stopped.borrow() {
                assigned.end();
            }
            tokio::spawn(self.clone().follow(assigned.clone()));
            tokio::spawn(self.clone().hand_over(assigned));
        }
        settled
    }

    /// Ends queues, keeps their progress, and lets others have them.
    async fn give_up(&self, queues: &[Arc<Assigned>]) {
        if queues.is_empty() {
            return;
        }
        queues.iter().for_each(|assigned| assigned.end());
        if self.needs_locks() {
            // The next owner must not begin while a handler still has messages of the queue.
            for assigned in queues {
                tokio::select! {
                    _ = assigned.in_order.lock() => {}
                    () = self.member.core.clock.sleep(LOCK_INTERVAL) => {}
                }
            }
        }
        if let Err(error) = self.keep(queues).await {
            warn!(group = self.member.group, %error, "progress was not kept");
        }
        if self.needs_locks() {
            let queues: Vec<MessageQueue> =
                queues.iter().map(|assigned| MessageQueue::clone(&assigned.queue)).collect();
            self.unlock(&queues).await;
        }
    }

    /// Pulls from a queue until it is given up.
    async fn follow(self: Arc<Self>, assigned: Arc<Assigned>) {
        tokio::select! {
            biased;
            () = assigned.ended() => {}
            () = self.pull_on(&assigned) => {}
        }
    }

    async fn pull_on(&self, assigned: &Assigned) {
        let core = &self.member.core;
        let mut broker_id = 0;
        loop {
            if self.needs_locks() && !assigned.is_locked(core.clock.monotonic()) {
                core.clock.sleep(FLOW_CONTROL_PAUSE * 10).await;
                continue;
            }
            if self.paused.load(Relaxed) {
                tokio::select! {
                    () = self.resumed.notified() => {}
                    () = core.clock.sleep(PULL_PAUSE) => {}
                }
                continue;
            }
            let Some(offset) = assigned.next() else {
                match self.member.begin_at(&assigned.queue).await {
                    Ok(offset) => assigned.begin_at(offset),
                    Err(error) => {
                        self.member.note_failure(&assigned.queue, &error);
                        core.clock.sleep(PULL_PAUSE).await;
                    }
                }
                continue;
            };
            if !assigned.has_room(self.options.room) {
                assigned.emptied.notified().await;
                continue;
            }
            let commit = match self.member.model {
                MessageModel::Clustering => assigned.progress().filter(|progress| *progress > 0),
                MessageModel::Broadcasting => None,
            };
            let wanted = Wanted { offset, commit, broker_id, suspend: SUSPEND };
            match self.member.pull(&assigned.queue, wanted).await {
                Ok(pulled) if pulled.moved => {
                    warn!(
                        group = self.member.group,
                        topic = assigned.queue.topic,
                        queue_id = assigned.queue.queue_id,
                        from = offset,
                        to = pulled.next,
                        "the offset is not there"
                    );
                    assigned.begin_at(pulled.next);
                }
                Ok(pulled) => {
                    broker_id = pulled.broker_id;
                    assigned.put(pulled.messages, pulled.next, core.clock.now());
                }
                Err(error) => {
                    self.member.note_failure(&assigned.queue, &error);
                    let is_busy = matches!(&error, ConsumeError::Request(error) if error.code() == Some(ResponseCode::FLOW_CONTROL));
                    core.clock.sleep(if is_busy { FLOW_CONTROL_PAUSE } else { PULL_PAUSE }).await;
                }
            }
        }
    }

    /// Keeps progress every so often.
    async fn keep_progress(self: Arc<Self>) {
        let work = async {
            loop {
                self.member.core.clock.sleep(self.options.persist_interval).await;
                let queues: Vec<Arc<Assigned>> = self.queues().values().cloned().collect();
                if let Err(error) = self.keep(&queues).await {
                    warn!(group = self.member.group, %error, "progress was not kept");
                }
            }
        };
        tokio::select! {
            biased;
            () = self.until_stopped() => {}
            () = work => {}
        }
    }

    async fn keep(&self, queues: &[Arc<Assigned>]) -> Result<(), ConsumeError> {
        let unkept = queues.iter().filter_map(|assigned| {
            Some((MessageQueue::clone(&assigned.queue), assigned.unkept()?))
        });
        let unkept: Vec<(MessageQueue, i64)> = unkept.collect();
        if unkept.is_empty() {
            return Ok(());
        }
        let kept = self.member.offsets.write(&self.member, &unkept).await;
        if kept.is_ok() {
            for ((_, progress), assigned) in unkept.iter().zip(
                queues
                    .iter()
                    .filter(|assigned| unkept.iter().any(|(queue, _)| *queue == *assigned.queue)),
            ) {
                assigned.note_kept(*progress);
            }
        }
        kept
    }

    /// Renews the locks of all queues, and takes those that were lost.
    async fn keep_locks(self: Arc<Self>) {
        let work = async {
            loop {
                self.member.core.clock.sleep(LOCK_INTERVAL).await;
                let queues: Vec<MessageQueue> = self.queues().keys().cloned().collect();
                let now = self.member.core.clock.monotonic();
                let locked = self.lock(&queues).await;
                for (queue, assigned) in &*self.queues() {
                    if locked.contains(queue) {
                        assigned.set_locked(Some(now));
                    } else if queues.contains(queue) {
                        debug!(
                            topic = queue.topic,
                            queue_id = queue.queue_id,
                            "the lock is another's"
                        );
                        assigned.set_locked(None);
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = self.until_stopped() => {}
            () = work => {}
        }
    }

    /// Locks queues at their brokers; returns those that could be.
    async fn lock(&self, queues: &[MessageQueue]) -> BTreeSet<MessageQueue> {
        let asked = self.ask_brokers(RequestCode::LOCK_BATCH_MQ, queues).await;
        let answers = asked.into_iter().flat_map(|answer| {
            let body = answer.and_then(|answer| fastjson::decode(&answer.body_bytes()).ok());
            let body: LockBatchResponse = body.unwrap_or_default();
            body.lock_ok_mq_set
        });
        answers.collect()
    }

    async fn unlock(&self, queues: &[MessageQueue]) {
        self.ask_brokers(RequestCode::UNLOCK_BATCH_MQ, queues).await;
    }

    async fn ask_brokers(&self, code: RequestCode, queues: &[MessageQueue]) -> Vec<Option<Frame>> {
        let mut by_broker: BTreeMap<&str, Vec<MessageQueue>> = BTreeMap::new();
        for queue in queues {
            by_broker.entry(&queue.broker_name).or_default().push(queue.clone());
        }
        let ask = |queues: Vec<MessageQueue>| async move {
            let core = &self.member.core;
            let answer = async {
                let address = self.member.master(&queues[0]).await?;
                let body = LockBatch {
                    client_id: core.id.clone(),
                    consumer_group: self.member.group.clone(),
                    mq_set: queues,
                    only_this_broker: false,
                };
                let request = Frame::request(code, &()).with_body(fastjson::encode(&body));
                Ok::<Frame, ConsumeError>(core.call(&address, request).await?)
            };
            let answer = answer.await;
            answer
                .inspect_err(|error| warn!(group = self.member.group, %code, %error, "no answer about locks"))
                .ok()
        };
        join_all(by_broker.into_values().map(ask)).await
    }
}

impl Consumer for Shared {
    fn data(&self) -> ConsumerData {
        self.member.data()
    }

    fn rebalance(&self) {
        self.wake.notify_one();
    }

    fn reset(self: Arc<Self>, topic: &str, offsets: BTreeMap<MessageQueue, i64>) {
        let topic = topic.to_owned();
        tokio::spawn(async move {
            let _balancing = self.balancing.lock().await;
            let progress: Vec<(MessageQueue, i64)> = {
                let mut queues = self.queues();
                let mine = offsets
                    .into_iter()
                    .filter(|(queue, offset)| queue.topic == topic && *offset >= 0);
                mine.filter(|(queue, _)| {
                    queues.remove(queue).inspect(|assigned| assigned.end()).is_some()
                })
                .collect()
            };
            if let Err(error) = self.member.offsets.write(&self.member, &progress).await {
                warn!(group = self.member.group, topic, %error, "offsets were not reset");
            }
            info!(group = self.member.group, topic, queues = progress.len(), "offsets were reset");
            self.wake.notify_one();
        });
    }

    fn positions(&self, topic: &str) -> BTreeMap<MessageQueue, i64> {
        let queues = self.queues();
        let of_topic = queues.iter().filter(|(queue, _)| queue.topic == topic);
        of_topic
            .filter_map(|(queue, assigned)| Some((queue.clone(), assigned.progress()?)))
            .collect()
    }

    fn running_info(&self) -> ConsumerRunningInfo {
        let now = self.member.core.clock.monotonic();
        let info = |assigned: &Assigned| {
            let standing = assigned.standing();
            ProcessQueueInfo {
                cached_msg_count: i32::try_from(standing.count).unwrap_or(i32::MAX),
                cached_msg_max_offset: standing.last,
                cached_msg_min_offset: standing.first,
                cached_msg_size_in_mib: i32::try_from(standing.bytes >> 20).unwrap_or(i32::MAX),
                commit_offset: standing.progress.unwrap_or(-1),
                droped: assigned.is_ended(),
                last_consume_timestamp: standing.done_at,
                last_lock_timestamp: 0,
                last_pull_timestamp: standing.pulled_at,
                locked: assigned.is_locked(now),
            }
        };
        let text = |flag: bool| flag.to_string();
        let properties = [
            ("PROP_CONSUME_TYPE", "CONSUME_PASSIVELY".to_owned()),
            ("PROP_CONSUMEORDERLY", text(self.handler.is_ordered())),
            ("PROP_THREADPOOL_CORE_SIZE", self.options.concurrency.to_string()),
            ("PROP_NAMESERVER_ADDR", self.member.core.config.name_servers.join(";")),
        ];
        ConsumerRunningInfo {
            mq_table: self
                .queues()
                .iter()
                .map(|(queue, assigned)| (queue.clone(), info(assigned)))
                .collect(),
            properties: properties
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            subscription_set: self.member.subscriptions(),
        }
    }

    fn consume(
        self: Arc<Self>,
        message: ReceivedMessage,
    ) -> BoxFuture<'static, ConsumeDirectlyResult> {
        Box::pin(async move { self.consume_directly(message).await })
    }
}

// A pull that the broker holds must be answered before it counts as lost.
const _: () = assert!(SUSPEND.as_secs() < PULL_TIMEOUT.as_secs());
