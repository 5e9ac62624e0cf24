//! What a door sees: requests, answers and errors of every operation of [`Broker`](crate::Broker).
//!
//! The words are RocketMQ's, the types are plain. Nothing here knows a request code, a header name or a socket: a door
//! decodes its protocol into these structs and maps each error enum to its own codes in one exhaustive `match`. An
//! error has one variant for each thing the caller can do about it; its message says the cause and the cure.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;
use wire::{code::Language, id::OffsetId};

/// Who asks: what a door knows of the peer of one request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The peer's address; becomes the born host of what it sends.
    pub remote: SocketAddr,
    /// The language its client says it is written in.
    pub language: Language,
    /// The version ordinal its client says it has (`MQVersion`).
    pub version: i32,
}

// ---------------------------------------------------------------------------------------------------------- publish

/// The messages of one read of a connection, in their order.
pub type PublishRun = SmallVec<[Publish; 8]>;

/// One answer for each item of a [`PublishRun`], in the same order.
pub type PublishAnswers = SmallVec<[Result<Ticket, PublishError>; 8]>;

/// One send: a message, or a batch of messages of one topic and queue.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The producer's group.
    pub group: ByteString,
    /// The topic to append to; `%RETRY%…` when a consumer sends back by itself.
    pub topic: ByteString,
    /// The topic whose settings an unknown topic is created from (`defaultTopic`, clients send `TBW102`).
    pub template: ByteString,
    /// How many queues the client wants a created topic to have.
    pub template_queues: i32,
    /// The queue; negative lets the broker choose.
    pub queue_id: i32,
    /// `MessageSysFlag` bits.
    pub sys_flag: i32,
    /// The user's flag.
    pub flag: i32,
    /// When the producer made it, ms since the epoch.
    pub born_at: i64,
    /// `name \u{1} value \u{2}` repeated.
    pub properties: ByteString,
    /// How often it was consumed before (sends to retry topics).
    pub reconsume_times: i32,
    /// The consumer's own maximum of these, if it says one.
    pub reconsume_times_max: Option<i32>,
    /// Unit mode of the client; sets the unit flags of a created topic.
    pub unit_mode: bool,
    /// What to store.
    pub payload: Payload,
}

/// The body of a [`Publish`].
#[derive(Debug, Clone)]
pub enum Payload {
    /// One message body.
    One(Bytes),
    /// Messages in the client's batch encoding (`wire::batch`): stored all or none, contiguous.
    Batch(Bytes),
}

/// An accepted send: numbered and readable soon, durable when the mark that it needs has reached its end.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The log offset after its last byte.
    pub end: u64,
    /// The mark to wait for before answering the producer.
    pub needs: Needs,
    /// What to answer.
    pub receipt: Receipt,
}

/// The watermark a [`Ticket`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// `marks().written`: handed to the operating system (`ASYNC_FLUSH`, or the producer asked not to wait).
    Written,
    /// `marks().synced`: on the device (`SYNC_FLUSH`); wait at most [`Options::sync_flush_timeout`](crate::Options).
    Synced,
}

/// What the producer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The queue it went to.
    pub queue_id: i32,
    /// The queue offset of its (first) record.
    pub queue_offset: i64,
    /// The log offsets of its records, one or a batch's; with the store host they make the message ids.
    pub log_offsets: SmallVec<[u64; 1]>,
    /// The address in the message ids.
    pub store_host: SocketAddr,
    /// The unique key of the message (empty for a batch of several records); `transactionId` of the answer.
    pub unique_key: ByteString,
    /// Whether it is a batch in one record, which the producer is to know by that key.
    pub is_inner_batch: bool,
    /// What cancels it, if it waits for a time of its own; see [`Recall`].
    pub recall_handle: Option<ByteString>,
}

impl Receipt {
    /// Returns the offset message id of the record, or those of a batch joined by commas.
    pub fn message_ids(&self) -> String {
        let mut ids = String::with_capacity(self.log_offsets.len() * 33);
        for log_offset in &self.log_offsets {
            if !ids.is_empty() {
                ids.push(',');
            }
            OffsetId { host: self.store_host, log_offset: *log_offset }.write(&mut ids);
        }
        ids
    }
}

/// Why a send was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker takes no sends (`brokerPermission` without 2). NO_PERMISSION.
    #[error("the broker[{broker}] sending message is forbidden")]
    BrokerForbidden {
        /// The broker's address.
        broker: String,
    },
    /// The topic's name is no name. INVALID_PARAMETER.
    #[error("{0}")]
    InvalidTopic(String),
    /// A system topic that clients may not send to. NO_PERMISSION.
    #[error("Sending message to topic[{0}] is forbidden.")]
    ForbiddenTopic(ByteString),
    /// The topic does not exist and is not created by a send. TOPIC_NOT_EXIST.
    #[error(
        "topic[{0}] not exist, apply first please! create it with `mqadmin updateTopic`, or set autoCreateTopicEnable=true on the broker"
    )]
    UnknownTopic(ByteString),
    /// The queue is not one of the topic's. INVALID_PARAMETER.
    #[error(
        "request queueId[{queue_id}] is illegal, {topic} has queues 0..{queues} Producer: {producer}"
    )]
    InvalidQueue {
        /// The queue asked for.
        queue_id: i32,
        /// The topic.
        topic: ByteString,
        /// How many queues it has.
        queues: i32,
        /// Who asked.
        producer: SocketAddr,
    },
    /// A send to the retry topic of a group that does not exist. SUBSCRIPTION_GROUP_NOT_EXIST.
    #[error(
        "subscription group not exist, {0}; create it with `mqadmin updateSubGroup`, or set autoCreateSubscriptionGroup=true on the broker"
    )]
    UnknownGroup(ByteString),
    /// The message breaks a limit or a rule of its topic. MESSAGE_ILLEGAL.
    #[error("{0}")]
    IllegalMessage(String),
    /// Transactional messages are turned off. NO_PERMISSION.
    #[error("the broker[{broker}] sending transaction message is forbidden")]
    TransactionForbidden {
        /// The broker's address.
        broker: String,
    },
    /// Timer messages are turned off. SYSTEM_ERROR.
    #[error("accurate timer message is not enabled, timerWheelEnable is false")]
    TimersOff,
    /// The time of a timer message is no number, too far ahead, or, of a mark of deletion, past. MESSAGE_ILLEGAL.
    #[error(
        "timer message illegal, the delay time should not be bigger than the max delay {max_ms}ms; or if set del msg, the delay time should be bigger than the current time"
    )]
    IllegalTimer {
        /// `timerMaxDelaySec`, in ms.
        max_ms: i64,
    },
    /// Too many messages are due at that time; choose another. SYSTEM_ERROR.
    #[error(
        "timer message is under flow control, max num limit is {} or the current value is greater than {max} and less than {}, trigger random flow control", max * 2, max * 2
    )]
    SlotCrowded {
        /// `timerCongestNumEachSlot`.
        max: i64,
    },
    /// The message asks for something this broker does not do. SYSTEM_ERROR.
    #[error("{feature} are not supported by this broker yet; send the message without {property}")]
    Unsupported {
        /// What was asked for.
        feature: &'static str,
        /// The property that asked for it.
        property: &'static str,
    },
    /// The broker does not take sends before a set time. SYSTEM_ERROR.
    #[error(
        "broker unable to service, until {0} (ms since the epoch, startAcceptSendRequestTimeStamp)"
    )]
    NotYet(i64),
    /// A table of the broker is full. SYSTEM_ERROR.
    #[error("{0}")]
    Full(#[from] TableFull),
    /// Too much waits to be written; try again, or another broker. SYSTEM_BUSY.
    #[error(
        "[PC_SYNCHRONIZED]broker busy, start flow control for a while: {backlog_bytes} bytes wait to be written"
    )]
    Busy {
        /// Bytes accepted and not written.
        backlog_bytes: u64,
    },
    /// The disk is full. SERVICE_NOT_AVAILABLE.
    #[error(
        "service not available now. the broker's disk is full: free space, or lower fileReservedTime"
    )]
    DiskFull,
    /// The log stopped after a failed write or sync, or is shut down. SERVICE_NOT_AVAILABLE.
    #[error(
        "service not available now. the message store has stopped after an error of its disk, or is shutting down; see the broker's log and restart it"
    )]
    Stopped,
}

/// A bound of the broker's options that would be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker's table of {table} is full ({max}); raise `{key}`")]
pub struct TableFull {
    /// What the table holds.
    pub table: &'static str,
    /// Its bound.
    pub max: usize,
    /// The option to raise.
    pub key: &'static str,
}

// ----------------------------------------------------------------------------------------------------- transactions

/// How a producer ends a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The message is delivered.
    Commit,
    /// It never is.
    Rollback,
}

impl Verdict {
    /// Returns the word for what was done.
    pub fn done(self) -> &'static str {
        match self {
            Verdict::Commit => "committed",
            Verdict::Rollback => "rolled back",
        }
    }
}

/// The end of a transaction, as a producer says it. Any record of the half message may be named, also one that was put
/// back since.
#[derive(Debug, Clone)]
pub struct EndTransaction {
    /// The producer's group.
    pub group: ByteString,
    /// The log offset of the half record.
    pub log_offset: i64,
    /// Its queue offset.
    pub queue_offset: i64,
    /// What is to become of it.
    pub verdict: Verdict,
    /// The broker had asked.
    pub from_check: bool,
}

/// An end that was taken: durable when the mark that it needs has reached its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The log offset after what was appended for it.
    pub end: u64,
    /// The mark to wait for before answering.
    pub needs: Needs,
}

/// Why a transaction was not ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// No half message lies there. SYSTEM_ERROR.
    #[error("Find prepared transaction message failed")]
    NotFound,
    /// Another group has sent it. SYSTEM_ERROR.
    #[error("The producer group wrong")]
    WrongGroup,
    /// The record lies elsewhere in the queue. SYSTEM_ERROR.
    #[error("The transaction state table offset wrong")]
    WrongQueueOffset,
    /// The record lies elsewhere in the log. SYSTEM_ERROR.
    #[error("The commit log offset wrong")]
    WrongLogOffset,
    /// A message with a time for its first check can be ended afterwards only when the broker asks. ILLEGAL_OPERATION.
    #[error(
        "the time that CHECK_IMMUNITY_TIME_IN_SECONDS gave this transaction is over; wait for the broker's check"
    )]
    TooLate,
    /// It was ended the other way before. ILLEGAL_OPERATION.
    #[error("the transaction was {} before; its end cannot be changed", before.done())]
    Contradicts {
        /// How it has ended.
        before: Verdict,
    },
    /// It has ended, and how is no longer known. ILLEGAL_OPERATION.
    #[error(
        "the transaction has ended before, and how is no longer known; raise `endedTransactionsMax` to repeat ends for longer"
    )]
    Forgotten,
    /// The log did not take what ends it. The code is that of the send, but SYSTEM_ERROR when the broker is busy.
    #[error(transparent)]
    Publish(PublishError),
    /// Reading the log failed. SYSTEM_ERROR.
    #[error("reading the log failed: {0}")]
    Store(String),
}

// ------------------------------------------------------------------------------------------------------------- pull

/// A request for messages of one queue from an offset on.
#[derive(Debug, Clone)]
pub struct Pull {
    /// The consumer group.
    pub group: ByteString,
    /// The topic.
    pub topic: ByteString,
    /// The queue.
    pub queue_id: i32,
    /// The first queue offset wanted.
    pub offset: i64,
    /// At most this many messages.
    pub count_max: i32,
    /// The offset to commit for the group on arrival, if the request carries one.
    pub commit: Option<i64>,
    /// How long to wait for a message when there is none; none answers at once.
    pub suspend: Option<Duration>,
    /// What the consumer wants of the topic.
    pub filter: Filter,
    /// The version of the client's subscription; an older one of ours is refused.
    pub subscription_version: i64,
    /// Whether it came as LITE_PULL_MESSAGE.
    pub lite: bool,
}

/// Where the subscription of a [`Pull`] comes from.
#[derive(Debug, Clone)]
pub enum Filter {
    /// From the group's heartbeats.
    Registered,
    /// From the request.
    Expression {
        /// `TAG`, `SQL92`; empty means `TAG`.
        kind: ByteString,
        /// `*`, `a || b`, or a condition.
        expression: ByteString,
    },
}

/// The answer to a [`Pull`].
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What came of it.
    pub status: PullStatus,
    /// Where to pull next.
    pub next: i64,
    /// The first offset of the queue.
    pub min: i64,
    /// The offset after the last of the queue.
    pub max: i64,
    /// Stored records back to back, as slices of the log; records that lie side by side are one slice.
    pub messages: Vec<Bytes>,
    /// How many records these are.
    pub count: u32,
    /// The broker to pull from next (0 is the master).
    pub suggested_broker: i64,
    /// `topicSysFlag` of the topic.
    pub topic_sys_flag: i32,
    /// `groupSysFlag` of the group.
    pub group_sys_flag: i32,
}

/// The result of looking at the queue (Java: `GetMessageStatus`); [`PullStatus::name`] is the remark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// There are messages. SUCCESS.
    Found,
    /// What was looked at is all filtered out. PULL_RETRY_IMMEDIATELY.
    NoMatchedMessage,
    /// What was asked for is being deleted. PULL_RETRY_IMMEDIATELY.
    MessageWasRemoving,
    /// Nothing was ever in the queue and the offset is not 0. PULL_OFFSET_MOVED.
    NoMessageInQueueMoved,
    /// Nothing was ever in the queue. PULL_NOT_FOUND.
    NoMessageInQueue,
    /// The offset is just behind the end. PULL_NOT_FOUND.
    OffsetOverflowOne,
    /// The offset is far behind the end. PULL_OFFSET_MOVED.
    OffsetOverflowBadly,
    /// The offset lies before the first message. PULL_OFFSET_MOVED.
    OffsetTooSmall,
    /// The offset was inside, but its entry cannot be read. PULL_NOT_FOUND.
    OffsetFoundNull,
    /// An administrator has set the group to another offset. PULL_OFFSET_MOVED.
    OffsetReset,
}

/// The four answers a client tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullOutcome {
    /// SUCCESS.
    Found,
    /// PULL_NOT_FOUND.
    NotFound,
    /// PULL_RETRY_IMMEDIATELY.
    RetryNow,
    /// PULL_OFFSET_MOVED.
    OffsetMoved,
}

impl PullStatus {
    /// Returns what the client is told.
    pub fn outcome(self) -> PullOutcome {
        match self {
            Self::Found => PullOutcome::Found,
            Self::NoMatchedMessage | Self::MessageWasRemoving => PullOutcome::RetryNow,
            Self::NoMessageInQueue | Self::OffsetOverflowOne | Self::OffsetFoundNull => {
                PullOutcome::NotFound
            }
            Self::NoMessageInQueueMoved
            | Self::OffsetOverflowBadly
            | Self::OffsetTooSmall
            | Self::OffsetReset => PullOutcome::OffsetMoved,
        }
    }

    /// Returns the original's name of it, which is the remark of the answer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "FOUND",
            Self::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            Self::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            Self::NoMessageInQueue | Self::NoMessageInQueueMoved => "NO_MESSAGE_IN_QUEUE",
            Self::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            Self::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            Self::OffsetTooSmall => "OFFSET_TOO_SMALL",
            Self::OffsetFoundNull => "OFFSET_FOUND_NULL",
            Self::OffsetReset => "OFFSET_RESET",
        }
    }
}

/// Why a pull was refused. `forbidden_type` of the answer is [`PullError::forbidden_type`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The broker serves no pulls (`brokerPermission` without 4). NO_PERMISSION.
    #[error("the broker[{broker}] pulling message is forbidden")]
    BrokerForbidden {
        /// The broker's address.
        broker: String,
    },
    /// Lite pull is turned off. NO_PERMISSION.
    #[error("the broker[{broker}] for lite pull consumer is forbidden")]
    LiteForbidden {
        /// The broker's address.
        broker: String,
    },
    /// The group does not exist and is not created by a pull. SUBSCRIPTION_GROUP_NOT_EXIST.
    #[error(
        "subscription group [{0}] does not exist, create it with `mqadmin updateSubGroup`, or set autoCreateSubscriptionGroup=true on the broker"
    )]
    UnknownGroup(ByteString),
    /// The group is switched off (`consumeEnable=false`). NO_PERMISSION.
    #[error("subscription group no permission, {0}")]
    GroupForbidden(ByteString),
    /// The topic does not exist. TOPIC_NOT_EXIST.
    #[error("topic[{0}] not exist, apply first please! create it with `mqadmin updateTopic`")]
    UnknownTopic(ByteString),
    /// The topic may not be read. NO_PERMISSION.
    #[error("the topic[{0}] pulling message is forbidden")]
    TopicForbidden(ByteString),
    /// The queue is not one of the topic's. INVALID_PARAMETER.
    #[error(
        "queueId[{queue_id}] is illegal, topic:[{topic}] topicConfig.readQueueNums:[{queues}] consumer:[{consumer}]"
    )]
    InvalidQueue {
        /// The queue asked for.
        queue_id: i32,
        /// The topic.
        topic: ByteString,
        /// How many queues can be read.
        queues: i32,
        /// Who asked.
        consumer: SocketAddr,
    },
    /// The expression of the request is wrong. SUBSCRIPTION_PARSE_FAILED.
    #[error("parse the consumer's subscription failed: {0}")]
    InvalidExpression(String),
    /// The group has no live consumer. SUBSCRIPTION_NOT_EXIST.
    #[error(
        "the consumer's group info not exist; send a heartbeat before pulling, and let all members of a group subscribe alike"
    )]
    NoGroupMember,
    /// The group consumes by broadcast and may not. NO_PERMISSION.
    #[error("the consumer group[{0}] can not consume by broadcast way")]
    BroadcastForbidden(ByteString),
    /// The group may not read this topic. NO_PERMISSION.
    #[error("the consumer group[{group}] is forbidden for topic[{topic}]")]
    SubscriptionForbidden {
        /// The group.
        group: ByteString,
        /// The topic.
        topic: ByteString,
    },
    /// The group has not subscribed to the topic. SUBSCRIPTION_NOT_EXIST.
    #[error(
        "the consumer's subscription not exist; send a heartbeat before pulling, and let all members of a group subscribe alike"
    )]
    NotSubscribed,
    /// The heartbeat with this subscription has not come yet. SUBSCRIPTION_NOT_LATEST.
    #[error("the consumer's subscription not latest")]
    SubscriptionNotLatest,
    /// No condition of the group on the topic is known. FILTER_DATA_NOT_EXIST.
    #[error(
        "The broker's consumer filter data is not exist! Your expression may be wrong! {reason}"
    )]
    NoFilterData {
        /// What is wrong, or what may help.
        reason: String,
    },
    /// The heartbeat with this condition has not come yet. FILTER_DATA_NOT_LATEST.
    #[error("the consumer's consumer filter data not latest")]
    FilterDataNotLatest,
    /// The expression type is not served. SYSTEM_ERROR.
    #[error(
        "The broker does not support consumer to filter message by {0}; SQL92 needs enablePropertyFilter=true on the broker"
    )]
    UnsupportedFilter(ByteString),
    /// Too many pulls wait already: pull again later. SYSTEM_BUSY.
    #[error("{0}")]
    Full(#[from] TableFull),
    /// Reading the queue or the log failed. SYSTEM_ERROR.
    #[error("reading the queue failed: {0}")]
    Store(String),
}

impl PullError {
    /// Returns the original's `ForbiddenType` of the refusal, if it is one of permission.
    pub fn forbidden_type(&self) -> Option<i32> {
        match self {
            Self::BrokerForbidden { .. } | Self::LiteForbidden { .. } => Some(1),
            Self::GroupForbidden(_) => Some(2),
            Self::TopicForbidden(_) => Some(3),
            Self::BroadcastForbidden(_) => Some(4),
            Self::SubscriptionForbidden { .. } => Some(5),
            Self::UnknownGroup(_)
            | Self::UnknownTopic(_)
            | Self::InvalidQueue { .. }
            | Self::InvalidExpression(_)
            | Self::NoFilterData { .. }
            | Self::FilterDataNotLatest
            | Self::NoGroupMember
            | Self::NotSubscribed
            | Self::SubscriptionNotLatest
            | Self::UnsupportedFilter(_)
            | Self::Full(_)
            | Self::Store(_) => None,
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- offsets

/// What to answer for a group that has no offset of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfUnknown {
    /// 0 when the queue still begins at its first message, and that is near the end of the log; else not found.
    First,
    /// Not found (`setZeroIfNotFound=false`).
    NotFound,
}

/// Why there is no consumer offset. QUERY_NOT_FOUND.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OffsetError {
    /// The group has committed nothing; the client decides where to begin.
    #[error("Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first")]
    NotFound,
    /// The same, asked with [`IfUnknown::NotFound`].
    #[error("Not found, do not set to zero, maybe this group boot first")]
    NotFoundNoZero,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is the group's offset now.
    Stored,
    /// A reset by an administrator stands and wins; SUCCESS with the remark `Offset has been previously reset`.
    Reset,
}

/// Why an offset was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// SUBSCRIPTION_GROUP_NOT_EXIST.
    #[error("Group {0} not exist!")]
    UnknownGroup(ByteString),
    /// TOPIC_NOT_EXIST.
    #[error("Topic {0} not exist!")]
    UnknownTopic(ByteString),
    /// The queue is not one of the topic's, and the group has never had an offset of it. INVALID_PARAMETER.
    #[error("queueId[{queue_id}] is illegal, topic[{topic}] has queues 0..{queues}")]
    UnknownQueue {
        /// The queue.
        queue_id: i32,
        /// The topic.
        topic: ByteString,
        /// How many queues it has.
        queues: i32,
    },
    /// A bound of the offset table. SYSTEM_ERROR.
    #[error("{0}")]
    Full(#[from] TableFull),
}

/// Where a reset sets a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetTo {
    /// At an offset of each queue.
    Offset(i64),
    /// At the first message stored at this time or later, ms since the epoch.
    Time(i64),
    /// Behind the last message.
    End,
}

/// Why a group was not reset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResetError {
    /// TOPIC_NOT_EXIST.
    #[error("Topic {0} does not exist")]
    UnknownTopic(ByteString),
    /// SUBSCRIPTION_GROUP_NOT_EXIST.
    #[error("Group {0} does not exist")]
    UnknownGroup(ByteString),
    /// SYSTEM_ERROR.
    #[error("Queue {0} does not exist")]
    UnknownQueue(i32),
    /// SYSTEM_ERROR.
    #[error("No queues to reset.")]
    NoQueues,
    /// SYSTEM_ERROR.
    #[error("The consumer group <{0}> has no offset of queue {1}; it has consumed nothing of it")]
    NothingConsumed(ByteString, i32),
    /// CONSUMER_NOT_ONLINE.
    #[error(
        "Consumer not online, so can not reset offset, Group: {group} Topic: {topic} Timestamp: {timestamp}"
    )]
    NotOnline {
        /// The group.
        group: ByteString,
        /// The topic.
        topic: ByteString,
        /// The time asked for.
        timestamp: i64,
    },
    /// SYSTEM_ERROR.
    #[error("the client {client_id} does not support this feature. version={version}")]
    OldClient {
        /// Its id.
        client_id: ByteString,
        /// Its version.
        version: String,
    },
    /// SYSTEM_ERROR.
    #[error("Target offset {offset} not in consume queue range [{min}-{max}] of queue {queue_id}")]
    OutOfRange {
        /// The queue.
        queue_id: i32,
        /// The offset asked for.
        offset: i64,
        /// The queue's first.
        min: i64,
        /// The offset behind its last.
        max: i64,
    },
    /// SYSTEM_ERROR.
    #[error("{0}")]
    Full(#[from] TableFull),
    /// SYSTEM_ERROR.
    #[error("searching the offset failed: {0}")]
    Store(String),
}

// ---------------------------------------------------------------------------------------------------------- clients

/// A consumer that is connected, and the way to it.
#[derive(Clone)]
pub struct Consumer {
    /// Its id.
    pub client_id: ByteString,
    /// Its language.
    pub language: Language,
    /// Its version ordinal.
    pub version: i32,
    /// The way to it. A door knows its own channels again, and may ask what only its protocol can.
    pub channel: Arc<dyn ClientChannel>,
}

/// The broker's way to a connected client.
pub trait ClientChannel: Any + Send + Sync {
    /// A number that no other open channel of this process has.
    fn id(&self) -> u64;
    /// The peer's address.
    fn remote(&self) -> SocketAddr;
    /// Queues a command for the client; never waits.
    ///
    /// # Errors
    /// [`Gone`] when the connection is closed, or its outbox is full.
    fn push(&self, command: ClientCommand) -> Result<(), Gone>;
    /// Ends the connection, and with it the session; never waits.
    fn close(&self);
}

/// What the broker tells a client unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCommand {
    /// The members of the group, or what they subscribe to, have changed: balance again.
    ConsumersChanged {
        /// The consumer group.
        group: ByteString,
    },
    /// A half message of the producer's group waits: say what became of its transaction.
    CheckTransaction(Arc<TransactionCheck>),
    /// An administrator has set the group: consume from these offsets on.
    OffsetsReset(OffsetsReset),
}

/// Where an administrator has set a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetsReset {
    /// The consumer group.
    pub group: ByteString,
    /// The topic.
    pub topic: ByteString,
    /// The time that was asked for, ms since the epoch; -1 for the end.
    pub timestamp: i64,
    /// Name of this broker's set.
    pub broker_name: String,
    /// The next offset to consume, by queue.
    pub offsets: Arc<BTreeMap<i32, i64>>,
    /// The client is written in C++, and reads a list.
    pub as_list: bool,
}

/// A half message that a producer is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionCheck {
    /// The name of this broker.
    pub broker_name: ByteString,
    /// The unique key of the message.
    pub unique_key: ByteString,
    /// Where its latest record lies in its queue.
    pub queue_offset: i64,
    /// Where it lies in the log.
    pub log_offset: u64,
    /// The address in its message id.
    pub store_host: SocketAddr,
    /// The message as it was sent, encoded as a record.
    pub record: Bytes,
}

/// The client cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// `IS_SUB_CHANGE`: the next heartbeat must carry the subscriptions again.
    pub subscription_changed: bool,
}

/// Why a heartbeat was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// The client named no id. INVALID_PARAMETER.
    #[error("the heartbeat carries no clientID")]
    NoClientId,
    /// A name that is too long to be kept, or no text. INVALID_PARAMETER.
    #[error("{0}")]
    InvalidName(String),
    /// A bound of the client tables. SYSTEM_BUSY.
    #[error("{0}")]
    Full(#[from] TableFull),
}

/// Why queue locks were neither taken nor given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// A name that is too long to be kept, or no text. INVALID_PARAMETER.
    #[error("{0}")]
    InvalidName(String),
}

/// Why there is nothing to say about the clients of a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientsError {
    /// The list of consumers is empty. SYSTEM_ERROR.
    #[error("no consumer for this group, {0}")]
    NoConsumer(ByteString),
    /// No consumer is connected. CONSUMER_NOT_ONLINE.
    #[error("the consumer group[{0}] not online")]
    ConsumerNotOnline(ByteString),
    /// No producer is connected. SYSTEM_ERROR.
    #[error("the producer group[{0}] not exist")]
    NoProducer(ByteString),
}

/// Why a subscription would not be served (CHECK_CLIENT_CONFIG).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// SYSTEM_ERROR.
    #[error(
        "The broker does not support consumer to filter message by {0}; SQL92 needs enablePropertyFilter=true on the broker"
    )]
    Unsupported(ByteString),
    /// SUBSCRIPTION_PARSE_FAILED.
    #[error("{0}")]
    Invalid(String),
}

// --------------------------------------------------------------------------------------------------- topics, groups

/// Why a topic was not created, changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// INVALID_PARAMETER.
    #[error("{0}")]
    InvalidName(String),
    /// INVALID_PARAMETER.
    #[error("The topic[{0}] is conflict with system topic.")]
    System(ByteString),
    /// Queue counts, permission or attributes out of range. INVALID_PARAMETER.
    #[error("{0}")]
    Invalid(String),
    /// TOPIC_NOT_EXIST.
    #[error("No topic in this broker. topic: {0}")]
    Unknown(ByteString),
    /// Its files could not be removed. SYSTEM_ERROR.
    #[error("the topic's queues cannot be removed: {0}")]
    Store(String),
    /// SYSTEM_ERROR.
    #[error("{0}")]
    Full(#[from] TableFull),
}

/// A table could not be written, so a change of it would not survive the process. SYSTEM_ERROR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{file}` cannot be written: {why}")]
pub struct NotSaved {
    /// The table's file.
    pub file: &'static str,
    /// What the system said.
    pub why: String,
}

/// Why a subscription group was not created, changed, found or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// INVALID_PARAMETER.
    #[error("{0}")]
    InvalidName(String),
    /// Attributes or a count of retry queues that cannot be. INVALID_PARAMETER.
    #[error("{0}")]
    Invalid(String),
    /// SUBSCRIPTION_GROUP_NOT_EXIST.
    #[error("No group in this broker. group: {0}")]
    Unknown(ByteString),
    /// TOPIC_NOT_EXIST.
    #[error("No topic in this broker. topic: {0}")]
    UnknownTopic(ByteString),
    /// SYSTEM_ERROR.
    #[error("{0}")]
    Full(#[from] TableFull),
}

/// Whose progress is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatsOf {
    /// These topics, whatever the group subscribes to.
    Listed(BTreeSet<ByteString>),
    /// This one, unless the group subscribes to others only.
    One(ByteString),
    /// All that the group has consumed, and still subscribes to if it is connected.
    Consumed,
}

/// Why a change of the configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The key may not be changed over the wire. NO_PERMISSION.
    #[error("Can not update config in black list.")]
    Forbidden(String),
    /// The key cannot be changed while the broker runs. NO_PERMISSION.
    #[error(
        "`{0}` cannot be changed while the broker runs; set it in the configuration file and restart"
    )]
    Fixed(String),
    /// The value does not fit the key. INVALID_PARAMETER.
    #[error("`{value}` is no value of `{key}`: {expected}")]
    Invalid {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would fit.
        expected: String,
    },
}

// ---------------------------------------------------------------------------------------------------------- finding

/// Records that a query has found, and how far the index has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The records as stored, newest first.
    pub records: Vec<Bytes>,
    /// Store time of the last indexed message, ms since the epoch.
    pub indexed_until: i64,
    /// Log offset of that message.
    pub indexed_offset: i64,
}

/// Why the progress of all groups cannot be told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the groups have come to more than {max} queues: ask for one group at a time, `mqadmin consumerProgress -g GROUP`"
)]
pub struct TooManyQueues {
    /// Queues that one answer may hold.
    pub max: usize,
}

/// Why a message was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No record lies at that log offset. SYSTEM_ERROR.
    #[error("can not find message by the offset, {0}")]
    NotAt(i64),
    /// Reading the log failed. SYSTEM_ERROR.
    #[error("reading the log failed: {0}")]
    Store(String),
}

/// Why the entries of a queue were not listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// SYSTEM_ERROR.
    #[error("{queue_id}@{topic} is not exist!")]
    UnknownQueue {
        /// The topic.
        topic: ByteString,
        /// The queue that it has not.
        queue_id: i32,
    },
    /// INVALID_PARAMETER.
    #[error("`count` is 0 to 10000 entries")]
    Count,
    /// Reading the queue failed. SYSTEM_ERROR.
    #[error("reading the queue failed: {0}")]
    Store(String),
}

// ---------------------------------------------------------------------------------------------------------- recalling

/// A producer cancels a timer message.
#[derive(Debug, Clone)]
pub struct Recall {
    /// The producer's group, if it says one.
    pub group: Option<ByteString>,
    /// The topic that the message is meant for.
    pub topic: ByteString,
    /// What the answer to its send said.
    pub handle: ByteString,
}

/// Why a message was not recalled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecallError {
    /// `recallMessageEnable` is false. NO_PERMISSION.
    #[error("recall failed, operation is forbidden")]
    Forbidden,
    /// The broker takes no sends. SERVICE_NOT_AVAILABLE.
    #[error("recall failed, broker service not available")]
    NotNow,
    /// TOPIC_NOT_EXIST.
    #[error("recall failed, the topic[{0}] not exist")]
    UnknownTopic(ByteString),
    /// ILLEGAL_OPERATION.
    #[error(transparent)]
    InvalidHandle(#[from] wire::recall::BadHandle),
    /// The handle is one of another topic. ILLEGAL_OPERATION.
    #[error("recall failed, topic not match")]
    OtherTopic,
    /// The handle is one of another broker. ILLEGAL_OPERATION.
    #[error("recall failed, broker service not available")]
    OtherBroker,
    /// The message's time is past, or further ahead than any may be. ILLEGAL_OPERATION.
    #[error("recall failed, timestamp invalid")]
    InvalidTime,
    /// The mark could not be stored. SYSTEM_ERROR.
    #[error("recall failed, execute error: {0}")]
    Publish(PublishError),
}

// ---------------------------------------------------------------------------------------------------------- sending back

/// A consumer gives a message back, to get it again later or to have it put among the dead letters.
#[derive(Debug, Clone)]
pub struct SendBack {
    /// The consumer group.
    pub group: ByteString,
    /// The log offset of the record that was consumed.
    pub log_offset: i64,
    /// 0 lets the broker choose, above 0 is a delay level, below 0 is the dead-letter topic.
    pub delay_level: i32,
    /// The consumer's own maximum of attempts, if it says one.
    pub reconsume_times_max: Option<i32>,
    /// Unit mode of the client.
    pub unit_mode: bool,
}

/// Why a message was not taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendBackError {
    /// SUBSCRIPTION_GROUP_NOT_EXIST.
    #[error(
        "subscription group not exist, {0}; create it with `mqadmin updateSubGroup`, or set autoCreateSubscriptionGroup=true on the broker"
    )]
    UnknownGroup(ByteString),
    /// NO_PERMISSION.
    #[error("the broker[{broker}] sending message is forbidden")]
    BrokerForbidden {
        /// The broker's address.
        broker: String,
    },
    /// NO_PERMISSION.
    #[error("the topic[{0}] sending message is forbidden")]
    TopicForbidden(ByteString),
    /// SYSTEM_ERROR.
    #[error("look message by offset failed, {0}")]
    NoMessage(i64),
    /// SYSTEM_ERROR. The original's clients then send the one message to the retry topic themselves.
    #[error("MESSAGE_ILLEGAL: the record is a batch, of which one message cannot be sent back")]
    Batch,
    /// The append was refused; the code is that of the send.
    #[error(transparent)]
    Publish(#[from] PublishError),
}
