//! Consumers: what both kinds share, which is membership in a group, pulling, and offsets.
//!
//! A group's progress in a queue is the offset of the next message to consume. It is kept by the queue's broker, or by
//! each member itself in a file when all members get all messages.
//! Java: `RebalanceImpl`, `PullAPIWrapper`, `RemoteBrokerOffsetStore`, `LocalFileOffsetStore`.

mod allocate;
mod offsets;
mod pull;
mod push;
mod queue;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use tracing::warn;
use wire::{
    body::{
        ConsumerIdList, MessageQueue,
        client::{
            CheckClient, ConsumeType, ConsumerData, MessageModel as WireModel, SubscriptionData,
        },
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    header::{
        client::OneConsumerGroup,
        offset::{Boundary, GetMaxOffset, OffsetResponse, OneQueue, SearchOffset},
        pull::{PullMessage, PullMessageResponse},
    },
    names::{self, pull_flag},
};

use crate::{
    client::Core,
    error::{ConsumeError, InvalidField, RequestError, RouteError},
    lines::refused,
    message::{ReceivedMessage, check_group, check_topic},
};

use offsets::Offsets;

pub use allocate::AllocateStrategy;
pub use pull::{PullConsumer, PullConsumerBuilder};
pub use push::{PushConsumer, PushConsumerBuilder};
pub use work::{Consumed, Ordered};

/// How long a broker may hold a pull that finds nothing (Java: `brokerSuspendMaxTimeMillis`).
const SUSPEND: Duration = Duration::from_secs(15);
/// How long a pull may take (Java: `consumerTimeoutMillisWhenSuspend`).
const PULL_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers up to this many bytes are copied out of the connection's buffer, which they would keep alive otherwise.
const COPY_BYTES_MAX: usize = 64 * 1024;

/// Which messages of a topic a consumer wants. All members of a group must want the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    expression: String,
    kind: &'static str,
}

impl Filter {
    /// All messages.
    pub fn all() -> Filter {
        Filter { expression: SubscriptionData::ALL.to_owned(), kind: SubscriptionData::TAG }
    }

    /// Those with one of these tags: `TagA || TagB`; all for `*` and for an empty text.
    pub fn tags(expression: impl Into<String>) -> Filter {
        Filter { expression: expression.into(), kind: SubscriptionData::TAG }
    }

    /// Those whose properties meet a condition: `price > 10 AND shop = 'berlin'`. The broker must allow it
    /// (`enablePropertyFilter`). An empty condition is refused when the consumer starts.
    pub fn sql92(condition: impl Into<String>) -> Filter {
        Filter { expression: condition.into(), kind: SubscriptionData::SQL92 }
    }

    fn subscription(&self, topic: &str, version: i64) -> Result<SubscriptionData, InvalidField> {
        check_topic(topic)?;
        let parsed = SubscriptionData::parse(topic, &self.expression, self.kind);
        let mut subscription = parsed.ok_or_else(|| {
            InvalidField::new(
                "filter",
                &self.expression,
                "it has neither a tag nor a condition; `*` is all",
            )
        })?;
        subscription.sub_version = version;
        Ok(subscription)
    }
}

/// Who of a group gets a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageModel {
    /// One of its members.
    #[default]
    Clustering,
    /// Each of its members, which keeps its progress in a file of its own; there is no retry.
    Broadcasting,
}

/// Where a group begins in a queue that it has no progress in. Of queues with few messages brokers let new groups begin
/// at the first, whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeFromWhere {
    /// At the end: only what comes from now on.
    #[default]
    LastOffset,
    /// At the first message that is there.
    FirstOffset,
    /// At the first message stored at this time or later, in ms since the epoch.
    Timestamp(i64),
}

/// A member of a consumer group.
pub(crate) struct Membership {
    pub(crate) core: Arc<Core>,
    pub(crate) group: String,
    pub(crate) model: MessageModel,
    pub(crate) from: ConsumeFromWhere,
    pub(crate) strategy: AllocateStrategy,
    pub(crate) consume_type: ConsumeType,
    pub(crate) subscriptions: RwLock<BTreeMap<String, SubscriptionData>>,
    pub(crate) offsets: Offsets,
    pub(crate) pull_batch_size: u32,
}

/// What a pull brought.
pub(crate) struct Pulled {
    pub(crate) messages: Vec<ReceivedMessage>,
    /// Where to go on.
    pub(crate) next: i64,
    /// The offset asked for is not there; `next` is the nearest that is.
    pub(crate) moved: bool,
    /// Which of the broker's set to ask next.
    pub(crate) broker_id: i64,
}

/// What a pull is to bring.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) offset: i64,
    /// Progress to store along with it.
    pub(crate) commit: Option<i64>,
    pub(crate) broker_id: i64,
    /// How long the broker may hold it.
    pub(crate) suspend: Duration,
}

impl Membership {
    pub(crate) fn data(&self) -> ConsumerData {
        let model = match self.model {
            MessageModel::Clustering => WireModel::Clustering,
            MessageModel::Broadcasting => WireModel::Broadcasting,
        };
        use wire::body::client::ConsumeFromWhere as Wire;
        ConsumerData {
            consume_from_where: match self.from {
                ConsumeFromWhere::LastOffset => Wire::ConsumeFromLastOffset,
                ConsumeFromWhere::FirstOffset => Wire::ConsumeFromFirstOffset,
                ConsumeFromWhere::Timestamp(_) => Wire::ConsumeFromTimestamp,
            },
            consume_type: self.consume_type,
            group_name: self.group.clone(),
            message_model: model,
            subscription_data_set: self.subscriptions(),
            unit_mode: false,
        }
    }

    pub(crate) fn subscriptions(&self) -> Vec<SubscriptionData> {
        self.subscriptions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    fn subscription(&self, topic: &str) -> Option<SubscriptionData> {
        self.subscriptions.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    /// Has a broker check the conditions of SQL92: heartbeats are never refused, and no message would come (Java:
    /// `checkClientInBroker`).
    async fn check_conditions(&self) -> Result<(), ConsumeError> {
        for subscription in self.subscriptions() {
            if subscription.expression_type != SubscriptionData::SQL92 {
                continue;
            }
            let Ok(route) = self.core.routes.of(&subscription.topic).await else { continue };
            let Some(address) = route.masters().next() else { continue };
            let asked = CheckClient {
                client_id: self.core.id.clone(),
                group: self.group.clone(),
                namespace: None,
                subscription_data: subscription,
            };
            let request = Frame::request(RequestCode::CHECK_CLIENT_CONFIG, &())
                .with_body(fastjson::encode(&asked));
            // Whether a broker is there is found out by pulling.
            if let Err(refused @ RequestError::Refused { .. }) =
                self.core.call(address, request).await
            {
                return Err(refused.into());
            }
        }
        Ok(())
    }

    /// Has the brokers know this member before it looks who else is there. That nobody is there is found out later.
    ///
    /// # Errors
    /// [`ConsumeError::Denied`]: somebody knows who this is, and wants no such client. The member has left then.
    async fn introduce(&self) -> Result<(), ConsumeError> {
        let greet = |subscription: SubscriptionData| async move {
            match self.core.routes.of(&subscription.topic).await {
                Ok(route) => self.core.beat_route(&route).await,
                Err(RouteError::NameServersAway { last, .. }) => vec![last],
                Err(
                    RouteError::NoSuchTopic { .. }
                    | RouteError::NoQueue { .. }
                    | RouteError::NoBroker { .. },
                ) => Vec::new(),
            }
        };
        let faults = join_all(self.subscriptions().into_iter().map(greet)).await;
        match faults.into_iter().flatten().find(RequestError::is_denial) {
            Some(denied) => {
                self.core.leave(None, Some(&self.group)).await;
                Err(ConsumeError::Denied(denied))
            }
            None => Ok(()),
        }
    }

    /// Returns the queues of `topic` that are this member's now; none if that cannot be said, and all stays as it is.
    pub(crate) async fn share(
        &self,
        topic: &str,
    ) -> Result<Option<BTreeSet<MessageQueue>>, ConsumeError> {
        let route = self.core.routes.of(topic).await?;
        if self.model == MessageModel::Broadcasting {
            return Ok(Some(route.readable.iter().cloned().collect()));
        }
        let addresses: Vec<&str> = route.all().collect();
        if addresses.is_empty() {
            return Err(RouteError::NoQueue { topic: topic.to_owned(), wanted: "read" }.into());
        }
        let address = addresses[fastrand::usize(..addresses.len())];
        let header = OneConsumerGroup { consumer_group: &self.group };
        let request = Frame::request(RequestCode::GET_CONSUMER_LIST_BY_GROUP, &header);
        let answer = self.core.call(address, request).await?;
        let list: ConsumerIdList = fastjson::decode(&answer.body_bytes())
            .map_err(|error| RequestError::malformed(address, error))?;
        let mut members = list.consumer_id_list;
        members.sort();
        members.dedup();
        if !members.contains(&self.core.id) {
            self.core.beat_route(&route).await;
            return Ok(None);
        }
        let share = self.strategy.share(&self.core.id, &route.readable, &members);
        Ok(Some(share.into_iter().collect()))
    }

    /// Returns where this group goes on in `queue`, or begins.
    pub(crate) async fn begin_at(&self, queue: &MessageQueue) -> Result<i64, ConsumeError> {
        if let Some(offset) = self.offsets.read(self, queue).await? {
            return Ok(offset);
        }
        let is_retry = queue.topic.starts_with(names::RETRY_PREFIX);
        match self.from {
            ConsumeFromWhere::LastOffset | ConsumeFromWhere::FirstOffset if is_retry => Ok(0),
            ConsumeFromWhere::LastOffset => self.end_of(queue).await,
            ConsumeFromWhere::FirstOffset => Ok(0),
            ConsumeFromWhere::Timestamp(_) if is_retry => self.end_of(queue).await,
            ConsumeFromWhere::Timestamp(time) => self.offset_at(queue, time).await,
        }
    }

    /// Returns the offset behind the last message.
    pub(crate) async fn end_of(&self, queue: &MessageQueue) -> Result<i64, ConsumeError> {
        let MessageQueue { topic, queue_id, .. } = queue;
        let header = GetMaxOffset { topic, queue_id: *queue_id, committed: true };
        self.ask_offset(queue, Frame::request(RequestCode::GET_MAX_OFFSET, &header)).await
    }

    /// Returns the offset of the first message.
    pub(crate) async fn first_of(&self, queue: &MessageQueue) -> Result<i64, ConsumeError> {
        let header = OneQueue { topic: &queue.topic, queue_id: queue.queue_id };
        self.ask_offset(queue, Frame::request(RequestCode::GET_MIN_OFFSET, &header)).await
    }

    /// Returns the offset of the first message that was stored at `time` or later.
    pub(crate) async fn offset_at(
        &self,
        queue: &MessageQueue,
        time: i64,
    ) -> Result<i64, ConsumeError> {
        let header = SearchOffset {
            topic: &queue.topic,
            lite_topic: None,
            queue_id: queue.queue_id,
            timestamp: time,
            boundary_type: Boundary::Lower,
        };
        self.ask_offset(queue, Frame::request(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, &header))
            .await
    }

    async fn ask_offset(&self, queue: &MessageQueue, request: Frame) -> Result<i64, ConsumeError> {
        let address = self.master(queue).await?;
        let answer = self.core.call(&address, request).await?;
        let header: OffsetResponse =
            answer.header().map_err(|error| RequestError::malformed(&address, error))?;
        Ok(header.offset)
    }

    /// Returns the address of the queue's master.
    pub(crate) async fn master(&self, queue: &MessageQueue) -> Result<String, ConsumeError> {
        let route = self.core.routes.of(&queue.topic).await?;
        let missing = || RouteError::NoBroker {
            topic: queue.topic.clone(),
            broker: queue.broker_name.clone(),
        };
        Ok(route.master(&queue.broker_name).ok_or_else(missing)?.to_owned())
    }

    /// Pulls once.
    pub(crate) async fn pull(
        &self,
        queue: &Arc<MessageQueue>,
        wanted: Wanted,
    ) -> Result<Pulled, ConsumeError> {
        let route = self.core.routes.of(&queue.topic).await?;
        let member = route.member(&queue.broker_name, wanted.broker_id);
        let Some((address, broker_id)) = member else {
            let (topic, broker) = (queue.topic.clone(), queue.broker_name.clone());
            self.core.routes.renew(&topic).await;
            return Err(RouteError::NoBroker { topic, broker }.into());
        };
        let subscription = self.subscription(&queue.topic);
        // What the broker does not know from a heartbeat is said with each pull.
        let is_known = subscription.is_some();
        let subscription = match subscription {
            Some(subscription) => subscription,
            None => Filter::all().subscription(&queue.topic, 0)?,
        };
        let mut sys_flag = if wanted.suspend.is_zero() { 0 } else { pull_flag::SUSPEND };
        if !is_known {
            sys_flag |= pull_flag::SUBSCRIPTION;
        }
        // Slaves keep no offsets.
        let commit = wanted.commit.filter(|_| broker_id == 0);
        if commit.is_some() {
            sys_flag |= pull_flag::COMMIT_OFFSET;
        }
        let header = PullMessage {
            consumer_group: &self.group,
            topic: &queue.topic,
            queue_id: queue.queue_id,
            queue_offset: wanted.offset,
            max_msg_nums: i32::try_from(self.pull_batch_size).unwrap_or(i32::MAX),
            sys_flag,
            commit_offset: commit.unwrap_or(0),
            suspend_timeout_millis: i64::try_from(wanted.suspend.as_millis()).unwrap_or(i64::MAX),
            subscription: (!is_known).then_some(subscription.sub_string.as_str()),
            sub_version: subscription.sub_version,
            expression_type: Some(&subscription.expression_type),
            ..PullMessage::default()
        };
        let request = Frame::request(RequestCode::PULL_MESSAGE, &header);
        let answer = match self.core.call_for(address, request, PULL_TIMEOUT).await {
            Ok(answer) => answer,
            Err(error) => {
                if matches!(error, RequestError::Unreachable { .. }) {
                    self.core.routes.renew(&queue.topic).await;
                }
                return Err(error.into());
            }
        };
        let code = answer.response_code();
        let found = match code {
            ResponseCode::SUCCESS => true,
            ResponseCode::PULL_NOT_FOUND
            | ResponseCode::PULL_RETRY_IMMEDIATELY
            | ResponseCode::PULL_OFFSET_MOVED => false,
            code => {
                if matches!(
                    code,
                    ResponseCode::SUBSCRIPTION_NOT_EXIST | ResponseCode::SUBSCRIPTION_NOT_LATEST
                ) {
                    self.core.beat_route(&route).await;
                }
                return Err(refused(address, code, &answer).into());
            }
        };
        let header: PullMessageResponse =
            answer.header().map_err(|error| RequestError::malformed(address, error))?;
        let mut messages = Vec::new();
        if found {
            let mut records = answer.body_bytes();
            if records.len() <= COPY_BYTES_MAX {
                records = Bytes::copy_from_slice(&records);
            }
            let body_bytes_max = self.core.config.message_bytes_max;
            let namespace = &self.core.config.namespace;
            let queue = namespace.strip_shared(queue);
            messages = ReceivedMessage::read_all(&queue, &records, body_bytes_max)
                .map_err(|error| RequestError::malformed(address, error))?;
            messages.iter_mut().for_each(|message| message.leave(namespace));
            // The broker compares hashes only.
            let tags = &subscription.tags_set;
            if !tags.is_empty() {
                messages.retain(|message| message.tag().is_some_and(|tag| tags.contains(tag)));
            }
        }
        Ok(Pulled {
            messages,
            next: header.next_begin_offset,
            moved: code == ResponseCode::PULL_OFFSET_MOVED,
            broker_id: header.suggest_which_broker_id,
        })
    }

    /// Notes how a pull failed; pulls of retry topics fail until there is one.
    pub(crate) fn note_failure(&self, queue: &MessageQueue, error: &ConsumeError) {
        if !queue.topic.starts_with(names::RETRY_PREFIX) {
            warn!(group = self.group, topic = queue.topic, queue_id = queue.queue_id, broker = queue.broker_name, %error, "cannot pull");
        }
    }
}

/// What both builders collect.
struct Setup {
    core: Arc<Core>,
    group: String,
    model: MessageModel,
    from: ConsumeFromWhere,
    strategy: AllocateStrategy,
    subscriptions: BTreeMap<String, SubscriptionData>,
    pull_batch_size: u32,
    offset_dir: Option<std::path::PathBuf>,
    fault: Option<InvalidField>,
}

impl Setup {
    fn new(core: Arc<Core>, group: &str) -> Setup {
        let group = core.config.namespace.wrap(group).into_owned();
        Setup {
            core,
            fault: check_group(&group).err(),
            group,
            model: MessageModel::default(),
            from: ConsumeFromWhere::default(),
            strategy: AllocateStrategy::default(),
            subscriptions: BTreeMap::new(),
            pull_batch_size: 32,
            offset_dir: None,
        }
    }

    fn subscribe(&mut self, topic: &str, filter: &Filter) {
        let topic = self.core.config.namespace.wrap(topic).into_owned();
        match filter.subscription(&topic, self.core.clock.now()) {
            Ok(subscription) => drop(self.subscriptions.insert(topic, subscription)),
            Err(fault) => self.blame(fault),
        }
    }

    fn bound(&mut self, field: &'static str, value: usize, least: usize, most: usize) -> usize {
        if !(least..=most).contains(&value) {
            self.blame(InvalidField::new(field, value, format_args!("{least} to {most}")));
        }
        value
    }

    fn blame(&mut self, fault: InvalidField) {
        self.fault.get_or_insert(fault);
    }

    fn finish(mut self, consume_type: ConsumeType) -> Result<Membership, ConsumeError> {
        if let AllocateStrategy::ConsistentHash { virtual_nodes: 0 } = self.strategy {
            let reason = "a member needs a place on the ring; Java's has 10";
            self.blame(InvalidField::new("allocate_strategy", "0 virtual nodes", reason));
        }
        if let AllocateStrategy::Config { queues } = &mut self.strategy {
            let namespace = &self.core.config.namespace;
            queues.iter_mut().for_each(|queue| *queue = namespace.wrap_queue(queue));
        }
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        let offsets = match self.model {
            MessageModel::Clustering => Offsets::remote(),
            MessageModel::Broadcasting => {
                let instance = self.core.config.instance_name.as_deref().unwrap_or("DEFAULT");
                Offsets::local(self.offset_dir, instance, &self.group)?
            }
        };
        Ok(Membership {
            core: self.core,
            group: self.group,
            model: self.model,
            from: self.from,
            strategy: self.strategy,
            consume_type,
            subscriptions: RwLock::new(self.subscriptions),
            offsets,
            pull_batch_size: self.pull_batch_size,
        })
    }
}
