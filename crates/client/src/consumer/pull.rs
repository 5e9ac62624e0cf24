//! The pull consumer: asks for messages when the application wants them, from queues that it chose or was given.
//!
//! It has no task of its own: everything happens while the application polls. Each queue has at most one pull under way,
//! so what is held here is at most one batch a queue. Java: `DefaultLitePullConsumerImpl`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::sync::Notify;
use tracing::{Instrument as _, info, warn};
use wire::body::{
    MessageQueue,
    client::{
        ConsumeDirectlyResult, ConsumeType, ConsumerData, ConsumerRunningInfo, ProcessQueueInfo,
    },
};

use crate::{
    client::{Consumer, Core},
    error::{ConsumeError, InvalidField},
    message::ReceivedMessage,
    span,
};

use super::{
    AllocateStrategy, ConsumeFromWhere, Filter, Membership, MessageModel, Pulled, SUSPEND, Setup,
    Wanted,
};

/// How often queues are shared out anew without a reason, and how soon when it did not work out.
const REBALANCE_INTERVAL: Duration = Duration::from_secs(20);
const REBALANCE_AGAIN: Duration = Duration::from_secs(1);
/// How long a queue rests whose pull failed.
const PULL_PAUSE: Duration = Duration::from_secs(1);

/// Builds a [`PullConsumer`]. Made by [`Client::pull_consumer`](crate::Client::pull_consumer).
pub struct PullConsumerBuilder {
    setup: Setup,
    auto_commit: Option<Duration>,
}

impl PullConsumerBuilder {
    pub(crate) fn new(core: Arc<Core>, group: String) -> PullConsumerBuilder {
        PullConsumerBuilder {
            setup: Setup::new(core, &group),
            auto_commit: Some(Duration::from_secs(5)),
        }
    }

    /// Subscribes to a topic, and shares its queues with the group's other members; may be called for several. Without
    /// any subscription the consumer has the queues that it is assigned ([`PullConsumer::assign`]).
    #[must_use]
    pub fn subscribe(mut self, topic: impl AsRef<str>, filter: Filter) -> PullConsumerBuilder {
        self.setup.subscribe(topic.as_ref(), &filter);
        self
    }

    /// Sets who of the group gets a message; one member by default.
    #[must_use]
    pub fn message_model(mut self, model: MessageModel) -> PullConsumerBuilder {
        self.setup.model = model;
        self
    }

    /// Sets where a new group begins; at the end by default.
    #[must_use]
    pub fn consume_from_where(mut self, from: ConsumeFromWhere) -> PullConsumerBuilder {
        self.setup.from = from;
        self
    }

    /// Sets how queues are shared out; evenly by default.
    #[must_use]
    pub fn allocate_strategy(mut self, strategy: AllocateStrategy) -> PullConsumerBuilder {
        self.setup.strategy = strategy;
        self
    }

    /// Sets how many messages one poll brings at most, 1 to 1024; 32 by default (Java: `pullBatchSize`). A broker may allow
    /// fewer.
    #[must_use]
    pub fn pull_batch_size(mut self, messages: usize) -> PullConsumerBuilder {
        self.setup.pull_batch_size = self.setup.bound("pull_batch_size", messages, 1, 1024) as u32;
        self
    }

    /// Sets how often a poll commits what earlier polls returned, 5 s by default; `None` leaves it to
    /// [`PullConsumer::commit`].
    #[must_use]
    pub fn auto_commit(mut self, interval: Option<Duration>) -> PullConsumerBuilder {
        self.auto_commit = interval;
        self
    }

    /// Sets where a broadcast consumer keeps its offsets; by default in `.rocketmq_offsets` in the home directory.
    #[must_use]
    pub fn local_offset_store_dir(mut self, dir: impl Into<PathBuf>) -> PullConsumerBuilder {
        self.setup.offset_dir = Some(dir.into());
        self
    }

    /// Makes the consumer, and the group's brokers know it if it has subscriptions.
    ///
    /// # Errors
    /// A setting cannot be, the group is taken in this client, a broker refuses a condition, or a server refuses this
    /// client ([`ConsumeError::Denied`]).
    pub async fn start(self) -> Result<PullConsumer, ConsumeError> {
        let member = self.setup.finish(ConsumeType::ConsumeActively)?;
        member.check_conditions().await?;
        let topics: Vec<String> =
            member.subscriptions().into_iter().map(|subscription| subscription.topic).collect();
        let now = member.core.clock.monotonic();
        let shared = Arc::new(Shared { member, state: Mutex::default(), wake: Notify::new() });
        if !topics.is_empty() {
            let weak: Weak<Shared> = Arc::downgrade(&shared);
            shared.member.core.add_consumer(&shared.member.group, weak)?;
            shared.member.introduce().await?;
        }
        Ok(PullConsumer {
            shared,
            topics,
            queues: BTreeMap::new(),
            pulls: FuturesUnordered::new(),
            next_ticket: 0,
            balance_at: now,
            auto_commit: self.auto_commit,
            commit_at: now,
        })
    }
}

/// A consumer that asks for messages ([`PullConsumer::poll`]).
///
/// Dropping it commits nothing, and its group's other members wait for its queues until brokers miss its heartbeats: see
/// [`PullConsumer::shutdown`].
///
/// ```no_run
/// # async fn example(client: apogee_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use apogee_client::Filter;
/// let mut consumer = client.pull_consumer("readers").subscribe("orders", Filter::all()).start().await?;
/// loop {
///     for message in consumer.poll(Duration::from_secs(5)).await? {
///         println!("{:?}", message.body());
///     }
///     consumer.commit().await?;
/// }
/// # }
/// ```
pub struct PullConsumer {
    shared: Arc<Shared>,
    topics: Vec<String>,
    queues: BTreeMap<MessageQueue, Place>,
    pulls: FuturesUnordered<BoxFuture<'static, Answer>>,
    next_ticket: u64,
    balance_at: Duration,
    auto_commit: Option<Duration>,
    commit_at: Duration,
}

/// Where the consumer is in a queue.
struct Place {
    queue: Arc<MessageQueue>,
    /// The next offset to pull; none until it is known.
    next: Option<i64>,
    broker_id: i64,
    /// The pull that is under way; the answer to another is of no use.
    ticket: Option<u64>,
}

struct Answer {
    queue: Arc<MessageQueue>,
    ticket: u64,
    outcome: Result<Pulled, ConsumeError>,
}

/// What a broker may ask for while the application does something else.
struct Shared {
    member: Membership,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// The next offset that the application has not got, by queue.
    positions: BTreeMap<MessageQueue, i64>,
    /// Those that are not committed.
    uncommitted: BTreeMap<MessageQueue, i64>,
    /// Offsets that an administrator set.
    reset: BTreeMap<MessageQueue, i64>,
    balance: bool,
}

impl PullConsumer {
    /// Has the consumer read these queues, and no others, each from the group's progress in it, or where
    /// [`PullConsumer::seek`] says.
    ///
    /// # Errors
    /// The consumer has subscriptions, so its queues are shared out.
    ///
    /// ```no_run
    /// # async fn example(client: apogee_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// let mut consumer = client.pull_consumer("auditors").auto_commit(None).start().await?;
    /// let queues = consumer.queues("orders").await?;
    /// consumer.assign(queues.clone())?;
    /// for queue in &queues {
    ///     let yesterday = consumer.offset_for_time(queue, 1_795_392_000_000).await?;
    ///     consumer.seek(queue, yesterday)?;
    /// }
    /// let orders = consumer.poll(Duration::from_secs(5)).await?;
    /// # drop(orders);
    /// # Ok(()) }
    /// ```
    pub fn assign(
        &mut self,
        queues: impl IntoIterator<Item = MessageQueue>,
    ) -> Result<(), ConsumeError> {
        if !self.topics.is_empty() {
            let reason =
                "the consumer has subscriptions, so its queues are shared out in the group";
            return Err(InvalidField::new("assign", self.topics.join(" "), reason).into());
        }
        let namespace = &self.shared.member.core.config.namespace;
        let queues = queues.into_iter().map(|queue| namespace.wrap_queue(&queue)).collect();
        self.take_over(queues);
        Ok(())
    }

    /// Returns all queues of `topic` that can be read.
    ///
    /// # Errors
    /// There is no such topic, or nobody knows.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ConsumeError> {
        let core = &self.shared.member.core;
        let namespace = &core.config.namespace;
        let route = core.routes.of(&namespace.wrap(topic)).await?;
        Ok(route.readable.iter().map(|queue| namespace.strip_queue(queue)).collect())
    }

    /// Returns the queues that are this consumer's now.
    pub fn assignment(&self) -> Vec<MessageQueue> {
        let namespace = &self.shared.member.core.config.namespace;
        self.queues.keys().map(|queue| namespace.strip_queue(queue)).collect()
    }

    /// Returns messages of one queue, in order, as soon as there are any; none after `timeout`.
    ///
    /// Dropping the future loses nothing: the next poll goes on.
    ///
    /// # Errors
    /// The messages of a queue cannot be had: no broker answers, or one refuses. Another poll tries again.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<ReceivedMessage>, ConsumeError> {
        let shared = self.shared.clone();
        let span = span::receive(&shared.member.core, &shared.member.group);
        let outcome = self.poll_within(timeout).instrument(span.clone()).await;
        match &outcome {
            Ok(messages) => span::received(&shared.member.core, &span, messages),
            Err(_) => span::fail(&span, "not_received"),
        }
        outcome
    }

    async fn poll_within(
        &mut self,
        timeout: Duration,
    ) -> Result<Vec<ReceivedMessage>, ConsumeError> {
        let clock = self.shared.member.core.clock.clone();
        let deadline = clock.monotonic().saturating_add(timeout);
        if let Some(interval) = self.auto_commit
            && clock.monotonic() >= self.commit_at
        {
            self.commit_at = clock.monotonic() + interval;
            if let Err(error) = self.commit().await {
                warn!(group = self.shared.member.group, %error, "progress was not kept; it is tried again");
            }
        }
        loop {
            self.apply_resets();
            if !self.topics.is_empty() && (self.is_woken() || clock.monotonic() >= self.balance_at)
            {
                self.balance().await;
            }
            self.begin_pulls();
            let until =
                if self.topics.is_empty() { deadline } else { deadline.min(self.balance_at) };
            let shared = self.shared.clone();
            let answer = tokio::select! {
                biased;
                Some(answer) = self.pulls.next() => Some(answer),
                () = shared.wake.notified() => None,
                () = clock.sleep_until(until) => None,
            };
            if let Some(answer) = answer {
                let messages = self.take(answer)?;
                if !messages.is_empty() {
                    return Ok(messages);
                }
            }
            if clock.monotonic() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    /// Goes on at `offset`, counted from 0, in a queue of this consumer. An offset that is not there is put right by the next
    /// poll. The next commit makes it the group's progress.
    ///
    /// # Errors
    /// The queue is not this consumer's now, or the offset is negative.
    pub fn seek(&mut self, queue: &MessageQueue, offset: i64) -> Result<(), ConsumeError> {
        if offset < 0 {
            return Err(InvalidField::new("offset", offset, "offsets count from 0").into());
        }
        let queue = &self.shared.named(queue);
        let Some(place) = self.queues.get_mut(queue) else {
            let text = format!("{} {} {}", queue.topic, queue.broker_name, queue.queue_id);
            return Err(InvalidField::new("queue", text, "it is not this consumer's now").into());
        };
        place.next = Some(offset);
        place.ticket = None;
        self.shared.set_position(queue, offset);
        Ok(())
    }

    /// Returns the next offset that a poll returns of a queue, if it is known.
    pub fn position(&self, queue: &MessageQueue) -> Option<i64> {
        self.queues.get(&self.shared.named(queue))?.next
    }

    /// Returns the offset of the first message of a queue.
    ///
    /// # Errors
    /// Its broker cannot be asked.
    pub async fn first_offset(&self, queue: &MessageQueue) -> Result<i64, ConsumeError> {
        self.shared.member.first_of(&self.shared.named(queue)).await
    }

    /// Returns the offset behind the last message of a queue.
    ///
    /// # Errors
    /// Its broker cannot be asked.
    pub async fn end_offset(&self, queue: &MessageQueue) -> Result<i64, ConsumeError> {
        self.shared.member.end_of(&self.shared.named(queue)).await
    }

    /// Returns the offset of the first message that was stored at `epoch_ms` or later, in ms since the epoch.
    ///
    /// # Errors
    /// Its broker cannot be asked.
    pub async fn offset_for_time(
        &self,
        queue: &MessageQueue,
        epoch_ms: i64,
    ) -> Result<i64, ConsumeError> {
        self.shared.member.offset_at(&self.shared.named(queue), epoch_ms).await
    }

    /// Returns the group's progress in a queue; none if it has none yet.
    ///
    /// # Errors
    /// Its broker cannot be asked.
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<i64>, ConsumeError> {
        self.shared.member.offsets.read(&self.shared.member, &self.shared.named(queue)).await
    }

    /// Makes progress of everything that polls have returned so far.
    ///
    /// # Errors
    /// It could not be kept; another commit tries again.
    pub async fn commit(&mut self) -> Result<(), ConsumeError> {
        let uncommitted: Vec<(MessageQueue, i64)> = self
            .shared
            .state()
            .uncommitted
            .iter()
            .map(|(queue, at)| (queue.clone(), *at))
            .collect();
        if uncommitted.is_empty() {
            return Ok(());
        }
        self.shared.member.offsets.write(&self.shared.member, &uncommitted).await?;
        let mut state = self.shared.state();
        for (queue, at) in uncommitted {
            if state.uncommitted.get(&queue) == Some(&at) {
                state.uncommitted.remove(&queue);
            }
        }
        Ok(())
    }

    /// Leaves the group. What is not committed is consumed again; with `auto_commit`, it is committed first.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn shutdown(mut self) -> Result<(), ConsumeError> {
        let kept = if self.auto_commit.is_some() { self.commit().await } else { Ok(()) };
        if !self.topics.is_empty() {
            let member = &self.shared.member;
            member.core.leave(None, Some(&member.group)).await;
        }
        kept
    }

    fn is_woken(&self) -> bool {
        std::mem::take(&mut self.shared.state().balance)
    }

    fn apply_resets(&mut self) {
        let reset = std::mem::take(&mut self.shared.state().reset);
        for (queue, offset) in reset {
            info!(topic = queue.topic, queue_id = queue.queue_id, offset, "the offset was reset");
            let _ = self.seek(&queue, offset);
        }
    }

    async fn balance(&mut self) {
        let mut mine: BTreeSet<MessageQueue> = BTreeSet::new();
        let mut settled = true;
        for topic in &self.topics {
            let share = match self.shared.member.share(topic).await {
                Ok(share) => share,
                Err(error) => {
                    warn!(group = self.shared.member.group, topic, %error, "cannot share out the queues");
                    None
                }
            };
            settled &= share.is_some();
            match share {
                Some(share) => mine.extend(share),
                None => {
                    mine.extend(self.queues.keys().filter(|queue| queue.topic == *topic).cloned())
                }
            }
        }
        let lost = self.queues.keys().any(|queue| !mine.contains(queue));
        if lost && self.auto_commit.is_some() {
            // Before another member reads where to go on.
            if let Err(error) = self.commit().await {
                warn!(group = self.shared.member.group, %error, "progress was not kept before queues were given up");
            }
        }
        self.take_over(mine);
        let pause = if settled { REBALANCE_INTERVAL } else { REBALANCE_AGAIN };
        self.balance_at = self.shared.member.core.clock.monotonic() + pause;
    }

    fn take_over(&mut self, queues: BTreeSet<MessageQueue>) {
        self.queues.retain(|queue, _| queues.contains(queue));
        {
            let mut state = self.shared.state();
            state.positions.retain(|queue, _| queues.contains(queue));
            state.uncommitted.retain(|queue, _| queues.contains(queue));
        }
        for queue in queues {
            self.queues.entry(queue).or_insert_with_key(|queue| Place {
                queue: Arc::new(queue.clone()),
                next: None,
                broker_id: 0,
                ticket: None,
            });
        }
    }

    /// Has a pull under way for each queue.
    fn begin_pulls(&mut self) {
        for place in self.queues.values_mut().filter(|place| place.ticket.is_none()) {
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            place.ticket = Some(ticket);
            let (shared, queue) = (self.shared.clone(), place.queue.clone());
            let (next, broker_id) = (place.next, place.broker_id);
            self.pulls.push(Box::pin(async move {
                let outcome = async {
                    let offset = match next {
                        Some(offset) => offset,
                        None => shared.member.begin_at(&queue).await?,
                    };
                    let wanted = Wanted { offset, commit: None, broker_id, suspend: SUSPEND };
                    shared.member.pull(&queue, wanted).await
                };
                let outcome = outcome.await;
                if outcome.is_err() {
                    shared.member.core.clock.sleep(PULL_PAUSE).await;
                }
                Answer { queue, ticket, outcome }
            }));
        }
    }

    fn take(&mut self, answer: Answer) -> Result<Vec<ReceivedMessage>, ConsumeError> {
        let place =
            self.queues.get_mut(&*answer.queue).filter(|place| place.ticket == Some(answer.ticket));
        let Some(place) = place else { return Ok(Vec::new()) };
        place.ticket = None;
        let pulled = answer.outcome?;
        if pulled.moved {
            warn!(
                topic = answer.queue.topic,
                queue_id = answer.queue.queue_id,
                to = pulled.next,
                "the offset is not there"
            );
        }
        place.next = Some(pulled.next);
        place.broker_id = pulled.broker_id;
        self.shared.set_position(&answer.queue, pulled.next);
        Ok(pulled.messages)
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a queue that the application names as the servers do.
    fn named(&self, queue: &MessageQueue) -> MessageQueue {
        self.member.core.config.namespace.wrap_queue(queue)
    }

    fn set_position(&self, queue: &MessageQueue, offset: i64) {
        let mut state = self.state();
        if state.positions.insert(queue.clone(), offset) != Some(offset) {
            state.uncommitted.insert(queue.clone(), offset);
        }
    }
}

impl Consumer for Shared {
    fn data(&self) -> ConsumerData {
        self.member.data()
    }

    fn rebalance(&self) {
        self.state().balance = true;
        self.wake.notify_one();
    }

    fn reset(self: Arc<Self>, topic: &str, offsets: BTreeMap<MessageQueue, i64>) {
        let of_topic = offsets.into_iter().filter(|(queue, at)| queue.topic == topic && *at >= 0);
        self.state().reset.extend(of_topic);
        self.wake.notify_one();
    }

    fn positions(&self, topic: &str) -> BTreeMap<MessageQueue, i64> {
        let state = self.state();
        let of_topic = state.positions.iter().filter(|(queue, _)| queue.topic == topic);
        of_topic.map(|(queue, at)| (queue.clone(), *at)).collect()
    }

    fn running_info(&self) -> ConsumerRunningInfo {
        let state = self.state();
        let info = |at: i64| ProcessQueueInfo { commit_offset: at, ..ProcessQueueInfo::default() };
        let consume_type = ("PROP_CONSUME_TYPE".to_owned(), "CONSUME_ACTIVELY".to_owned());
        ConsumerRunningInfo {
            mq_table: state
                .positions
                .iter()
                .map(|(queue, at)| (queue.clone(), info(*at)))
                .collect(),
            properties: [consume_type].into(),
            subscription_set: self.member.subscriptions(),
        }
    }

    fn consume(
        self: Arc<Self>,
        _message: ReceivedMessage,
    ) -> BoxFuture<'static, ConsumeDirectlyResult> {
        let remark = "a pull consumer has no handler that a message could be brought to";
        Box::pin(std::future::ready(ConsumeDirectlyResult {
            consume_result: "CR_THROW_EXCEPTION".to_owned(),
            remark: Some(remark.to_owned()),
            ..ConsumeDirectlyResult::default()
        }))
    }
}
