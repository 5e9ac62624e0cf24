//! What the broker counts and how it stands, in one look, for those who watch it.
//!
//! Counters only grow while the broker runs; what is counted of a topic or a group goes with it, the totals stay.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytestring::ByteString;
use store::{Queue, Status};
use wire::{code::Language, names};

use crate::{Broker, TimerMetrics, TransactionMetrics, blocking};

/// Most groups on topics that are asked for the age of what they have not consumed, which reads a record for each queue.
const AGED_MAX: usize = 1_000;

/// A look at the broker; the figures are read one after the other, so they need not fit each other exactly.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the broker.
    pub broker: ByteString,
    /// Its permission: 4 to read, 2 to write.
    pub permission: i32,
    /// Subscription groups.
    pub groups: usize,
    /// Topics, in no order.
    pub topics: Vec<TopicFigures>,
    /// What groups have consumed of topics, in no order.
    pub consumption: Vec<ConsumptionFigures>,
    /// Messages and bytes that were put since the start.
    pub put: [u64; 2],
    /// Messages and bytes that groups have got since the start.
    pub got: [u64; 2],
    /// Messages that were read and that a filter did not let through.
    pub filtered: u64,
    /// Pulls that wait for messages.
    pub waiting_pulls: usize,
    /// Members of producer groups by language and version.
    pub producers: BTreeMap<(Language, i32), usize>,
    /// Members of consumer groups.
    pub consumers: BTreeMap<Consuming, usize>,
    /// The store.
    pub store: Status,
    /// Log files, files of views, and messages that nobody had consumed, which retention removed.
    pub removed: [u64; 3],
    /// How old the first record of the log is, in milliseconds; none while there is none.
    pub log_age_ms: Option<i64>,
    /// Timer messages; none with `timerWheelEnable=false`.
    pub timers: Option<TimerFigures>,
    /// Half messages that wait, by topic.
    pub halves: Arc<TransactionMetrics>,
}

/// A topic.
#[derive(Debug, Clone)]
pub struct TopicFigures {
    /// Its name.
    pub topic: ByteString,
    /// Whether it is the broker's own.
    pub is_system: bool,
    /// Its `message.type`; none if it has none.
    pub message_type: Option<String>,
    /// Messages and bytes that were put since the start.
    pub put: [u64; 2],
}

/// What a group has consumed of a topic.
#[derive(Debug, Clone)]
pub struct ConsumptionFigures {
    /// The group.
    pub group: ByteString,
    /// The topic.
    pub topic: ByteString,
    /// Messages and bytes that it got since the start.
    pub got: [u64; 2],
    /// Messages that it has not committed.
    pub lag: i64,
    /// How long the oldest of them has waited, in milliseconds; none if it was not looked up.
    pub lag_ms: Option<i64>,
}

/// What members of a consumer group have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Consuming {
    /// The group.
    pub group: ByteString,
    /// Language of the client.
    pub language: Language,
    /// Version of the client.
    pub version: i32,
    /// Whether the client pushes to the application.
    pub is_push: bool,
}

/// The timers.
#[derive(Debug, Clone)]
pub struct TimerFigures {
    /// Messages that are not taken in yet.
    pub behind: i64,
    /// Messages that wait in slots.
    pub waiting: i64,
    /// How much is overdue, in milliseconds.
    pub late_ms: i64,
    /// Messages that were given a slot, and that left it, since the start.
    pub moved: [u64; 2],
    /// Waiting messages by topic.
    pub by_topic: Arc<TimerMetrics>,
}

impl Broker {
    /// Takes a look. It may wait for the disk.
    pub async fn figures(&self) -> Figures {
        let inner = &*self.inner;
        let now = inner.env.clock.now();
        let stats = &inner.stats;
        let (cluster, broker, permission) = {
            let options = inner.options.read();
            (options.cluster_name.clone(), options.broker_name.clone(), options.broker_permission)
        };
        let topics = inner.topics.all();
        let topics = topics.iter().map(|topic| TopicFigures {
            topic: topic.name.clone(),
            is_system: inner.topics.is_system(&topic.name),
            message_type: topic.config.attributes.get("message.type").cloned(),
            put: [topic.stats.put.messages(), topic.stats.put.bytes()],
        });
        let removed = inner.store.removed();
        let timers = inner.timers.as_ref().map(|timers| TimerFigures {
            behind: timers.behind(),
            waiting: timers.waiting(),
            late_ms: (now - timers.read_time(now)).max(0),
            moved: [stats.timers_in.messages(), stats.timers_out.messages()],
            by_topic: timers.metrics(),
        });
        let first = self.first_stored_at();
        Figures {
            cluster,
            broker: broker.as_str().into(),
            permission,
            groups: inner.groups.table().subscription_group_table.len(),
            topics: topics.collect(),
            put: [stats.put.messages(), stats.put.bytes()],
            got: [stats.got.messages(), stats.got.bytes()],
            filtered: stats.filtered.messages(),
            waiting_pulls: inner.parked.count(),
            producers: inner.clients.producers_by_version(),
            consumers: inner.clients.consumers_by_version(),
            store: inner.store.status(),
            removed: [&removed.log_files, &removed.view_files, &removed.unconsumed]
                .map(|count| count.load(Relaxed)),
            log_age_ms: first.map(|first| (now - first).max(0)),
            timers,
            halves: inner.transactions.metrics(),
            consumption: self.consumption(now).await,
        }
    }

    async fn consumption(&self, now: env::Millis) -> Vec<ConsumptionFigures> {
        let inner = &*self.inner;
        let mut found = Vec::new();
        let mut waits: Vec<Vec<(Arc<Queue>, i64)>> = Vec::new();
        for (group, topic) in inner.offsets.keys() {
            let Some(known) = inner.topics.find(&topic) else { continue };
            let mut lag = 0;
            let mut waiting = Vec::new();
            for (queue_id, committed) in inner.offsets.committed(&group, &topic) {
                let queue = known.queue(&inner.store, queue_id);
                let from = committed.max(queue.min_offset());
                let behind = queue.max_offset() - from;
                if behind > 0 {
                    lag += behind;
                    waiting.push((queue, from));
                }
            }
            let got = inner.stats.group(&group, &topic);
            let got = got.map_or([0; 2], |stats| [stats.got.messages(), stats.got.bytes()]);
            found.push(ConsumptionFigures { group, topic, got, lag, lag_ms: None });
            waits.push(waiting);
        }
        let mut order: Vec<usize> = (0..found.len()).filter(|at| found[*at].lag > 0).collect();
        order.sort_by_key(|at| std::cmp::Reverse(found[*at].lag));
        order.truncate(AGED_MAX);
        let asked: Vec<_> =
            order.into_iter().map(|at| (at, std::mem::take(&mut waits[at]))).collect();
        let aged = blocking(move || {
            let oldest = |queues: Vec<(Arc<Queue>, i64)>| {
                let times = queues.iter().filter_map(|(queue, at)| queue.stored_at(*at).ok()?);
                times.min()
            };
            asked.into_iter().map(|(at, queues)| (at, oldest(queues))).collect::<HashMap<_, _>>()
        });
        for (at, oldest) in aged.await {
            found[at].lag_ms = oldest.map(|oldest| (now - oldest).max(0));
        }
        found
    }
}

impl ConsumptionFigures {
    /// Whether the topic is the group's own for what it has sent back.
    pub fn is_retry(&self) -> bool {
        self.topic.starts_with(names::RETRY_PREFIX)
    }

    /// Whether topic or group is the broker's own.
    pub fn is_system(&self) -> bool {
        names::is_system_topic(&self.topic) || names::is_system_group(&self.group)
    }
}
