//! Checks: producers that have not ended a half message are asked what became of it.
//!
//! Every `transactionCheckInterval` a round goes over the half messages that wait. One that is old enough is put back
//! behind the others with its count of checks, and shown to any live producer of its group; one that nobody could decide
//! is given up. A round is done in pieces, so housekeeping goes on meanwhile; each piece costs a bounded look at entries
//! in memory, and a read and an append for each half message that is checked. A group without a live producer is not
//! counted: its half messages wait.
//!
//! Here, too, the op queue is told in batches, and progress is noted for both queues: under the group of the original, in
//! `consumerOffset.json`, and only when all it relies on is synced. (Java: `TransactionalMessageServiceImpl.check`,
//! `TransactionalOpBatchService`, `DefaultTransactionalMessageCheckListener`, `TransactionMetrics`)

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use store::{Appended, Fault, Refused};
use wire::{
    body::DataVersion,
    fastjson::Unknown,
    hash, names,
    record::{Message, Numbers},
};

use super::{
    Appender, Transactions,
    halves::{Due, Half, Limits, Origin, Progress, Proof},
    records::HalfRecord,
};
use crate::{
    Broker,
    api::{ClientCommand, TransactionCheck},
    topics::TopicOrigin,
};

/// The group whose consumer offsets are the progress of both queues.
pub(super) const PROGRESS_GROUP: &str = "CID_RMQ_SYS_TRANS";
/// Half messages that one piece of a round looks at.
const LOOKED_AT_MAX: usize = 4_096;
/// Half messages that one piece of a round reads and appends again.
const ACTED_ON_MAX: usize = 128;
/// Queue offsets that one may lie behind the end before it is put back, so that the queue before it can be forgotten.
/// With many that wait it is more, so that putting back costs each new half message a third of an append at most.
const BEHIND_MAX: i64 = 100_000;
/// Producers that are tried with one check.
const TRIED_MAX: usize = 3;

/// `transactionMetrics`: how many half messages wait for each topic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TransactionMetrics {
    /// Version of the table.
    pub data_version: DataVersion,
    /// By topic.
    pub transaction_count: BTreeMap<String, TransactionMetric>,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

/// A topic's entry in [`TransactionMetrics`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TransactionMetric {
    /// Half messages that wait.
    pub count: i64,
    /// When that changed, ms since the epoch.
    pub time_stamp: i64,
}

/// What housekeeping knows between two of its steps.
pub(super) struct Service {
    /// When the next round begins, on the monotonic clock.
    next_round: Duration,
    round: Option<Round>,
    /// Since when an end waits to be told to the op queue.
    unwritten_since: Option<Duration>,
    /// Progress that holds once the log is synced this far.
    noted: Option<(Progress, u64)>,
    /// Something was written since progress was noted last.
    is_changed: bool,
    next_metrics: Duration,
}

/// A round under way: what it has still to look at.
struct Round {
    next: i64,
    until: i64,
}

impl Service {
    pub(super) fn new(now: Duration, check_interval: Duration) -> Service {
        Service {
            next_round: now + check_interval,
            round: None,
            unwritten_since: None,
            noted: None,
            is_changed: true,
            next_metrics: now,
        }
    }
}

/// What a piece of a round does with a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Check,
    GiveUp,
    Renew,
}

struct Chosen {
    offset: i64,
    half: Half,
    action: Action,
}

/// Why a round cannot go on now.
enum Stuck {
    Refused(Refused),
    Fault(Fault),
}

impl From<Refused> for Stuck {
    fn from(refused: Refused) -> Stuck {
        Stuck::Refused(refused)
    }
}

impl From<Fault> for Stuck {
    fn from(fault: Fault) -> Stuck {
        Stuck::Fault(fault)
    }
}

impl Transactions {
    fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `transactionMetrics` whether or not it has changed.
    pub(crate) fn write_again(&self) {
        self.metrics.update(|_| ());
        self.metrics.flush();
    }

    /// Says whether [`Broker::tick_transactions`] would do anything.
    pub(crate) fn is_due(&self, time: Duration) -> bool {
        let service = self.service();
        service.round.is_some()
            || service.noted.is_some()
            || service.is_changed
            || time >= service.next_round.min(service.next_metrics)
            || self.halves().has_unwritten()
    }
}

impl Broker {
    /// Does what is due for transactions, a bounded piece of it; says whether there is more to do at once. It may wait
    /// for the disk.
    pub(crate) fn tick_transactions(&self, time: Duration) -> bool {
        let transactions = &self.inner.transactions;
        let mut service = transactions.service();
        let (interval, batch, metrics) = {
            let options = self.inner.options.read();
            let ms = Duration::from_millis;
            (
                ms(options.transaction_check_interval),
                ms(options.transaction_op_batch_interval),
                ms(options.transaction_metric_flush_interval),
            )
        };
        if service.round.is_none() && time >= service.next_round {
            service.next_round = time + interval;
            service.round = Some(Round { next: i64::MIN, until: transactions.halves().end() });
        }
        let is_more = self.go_on(&mut service);
        self.write_due_ops(&mut service, time, batch);
        self.note_progress(&mut service);
        if time >= service.next_metrics {
            service.next_metrics = time + metrics;
            self.write_metrics();
        }
        is_more
    }

    /// Tells the op queue of every end; to be called after the last request.
    pub(crate) fn write_last_ops(&self) {
        let mut service = self.inner.transactions.service();
        self.write_due_ops(&mut service, Duration::MAX, Duration::ZERO);
    }

    /// Notes the progress, as far as the log is synced, and writes the metrics before the broker goes.
    pub(crate) fn close_transactions(&self) {
        let mut service = self.inner.transactions.service();
        // What waited, then that of now.
        self.note_progress(&mut service);
        self.note_progress(&mut service);
        self.write_metrics();
    }

    /// Does a piece of the round under way; says whether there is more of it to do at once.
    fn go_on(&self, service: &mut Service) -> bool {
        let Some(round) = &mut service.round else { return false };
        let (chosen, next) = self.choose(round);
        service.is_changed |= !chosen.is_empty();
        for one in chosen {
            if let Err(stuck) = self.act(&one) {
                match stuck {
                    // Not worth a line: it is tried again in a moment.
                    Stuck::Refused(Refused::Busy { .. }) => {}
                    Stuck::Refused(refused) => {
                        tracing::warn!(error = %refused, "half messages not checked");
                    }
                    Stuck::Fault(fault) => {
                        tracing::warn!(error = %fault, "half messages not checked");
                    }
                }
                round.next = one.offset;
                self.inner.store.drive();
                return false;
            }
        }
        self.inner.store.drive();
        round.next = next;
        if next >= round.until {
            service.round = None;
        }
        service.round.is_some()
    }

    /// Chooses the next half messages of a round with which anything is to be done, and says where to look on.
    fn choose(&self, round: &Round) -> (Vec<Chosen>, i64) {
        let limits = {
            let options = self.inner.options.read();
            Limits {
                timeout: options.transaction_timeout as i64,
                checks_max: options.transaction_check_max,
                age_max: options.file_reserved_time,
            }
        };
        let now = self.inner.env.clock.now();
        let mut live: Option<(Arc<Origin>, bool)> = None;
        let halves = self.inner.transactions.halves();
        let behind_max = BEHIND_MAX.max(4 * halves.count() as i64);
        let mut chosen = Vec::new();
        for (looked_at, (offset, half)) in halves.range(round.next..round.until).enumerate() {
            if looked_at == LOOKED_AT_MAX || chosen.len() == ACTED_ON_MAX {
                return (chosen, offset);
            }
            let action = match half.due(now, limits) {
                Due::GiveUp => Action::GiveUp,
                Due::Check if self.has_producer(&half.origin, &mut live) => Action::Check,
                Due::Check | Due::Wait if halves.end() - offset > behind_max => Action::Renew,
                Due::Check | Due::Wait => continue,
            };
            chosen.push(Chosen { offset, half: half.clone(), action });
        }
        (chosen, round.until)
    }

    /// Says whether a producer of the group is connected; the last answer is kept, since neighbours have one origin.
    fn has_producer(&self, origin: &Arc<Origin>, last: &mut Option<(Arc<Origin>, bool)>) -> bool {
        if let Some((asked, is_live)) = last
            && Arc::ptr_eq(asked, origin)
        {
            return *is_live;
        }
        let is_live = self.inner.clients.has_producer(&origin.group);
        *last = Some((origin.clone(), is_live));
        is_live
    }

    fn act(&self, chosen: &Chosen) -> Result<(), Stuck> {
        let Chosen { offset, half: Half { key, log_offset, len, .. }, action } = chosen;
        let inner = &*self.inner;
        let lose = || {
            tracing::warn!(
                queue_offset = offset,
                log_offset,
                "a half message that nobody has ended is gone from the log"
            );
            inner.transactions.halves().lose(*key, *offset);
            Ok(())
        };
        let bytes = match inner.store.read_blocking(*log_offset, *len) {
            Ok(bytes) => bytes,
            Err(Fault::OutOfRange(_) | Fault::Damaged { .. }) => return lose(),
            Err(fault) => return Err(fault.into()),
        };
        let Some(half) = HalfRecord::decode(&bytes) else { return lose() };
        if let Proof::MissingSince(since) = chosen.half.proof {
            let has_final = self.has_final(&half.group, &half.unique_key, &half.topic, since)?;
            inner.transactions.halves().prove(*key, has_final);
        }
        let appender = self.appender();
        match action {
            Action::GiveUp => self.give_up(&appender, chosen, &half)?,
            Action::Renew => {
                let message = half.renewed(appender.store_host);
                self.put_back(&appender, chosen, message, chosen.half.checks)?;
            }
            Action::Check => {
                let checks = chosen.half.checks.saturating_add(1);
                let message = half.checked(checks, appender.store_host);
                let shown = half.shown(&message);
                if let Some(numbers) = self.put_back(&appender, chosen, message, checks)? {
                    self.ask(&half, shown, numbers);
                }
            }
        }
        Ok(())
    }

    /// Appends a half message again, unless it has ended meanwhile.
    fn put_back(
        &self,
        appender: &Appender<'_>,
        chosen: &Chosen,
        message: Message,
        checks: u32,
    ) -> Result<Option<Numbers>, Refused> {
        let transactions = &self.inner.transactions;
        let len = message.encoded_len() as u32;
        let mut halves = transactions.halves();
        if halves.at(chosen.offset, chosen.half.key).is_none() {
            return Ok(None);
        }
        let at = appender.append(message, transactions.half_queue.clone())?;
        let half = Half {
            log_offset: at.log_offset,
            len,
            checks,
            proof: Proof::Proven,
            ..chosen.half.clone()
        };
        halves.prepare(at.queue_offset, half);
        let Appended { queue_offset, log_offset, stored_at, .. } = at;
        Ok(Some(Numbers { queue_offset, log_offset, stored_at }))
    }

    /// Shows a half message to a producer of its group.
    fn ask(&self, half: &HalfRecord<'_>, shown: Message, numbers: Numbers) {
        let mut record = BytesMut::with_capacity(shown.encoded_len());
        shown.encode(numbers, hash::crc32(&shown.body), &mut record);
        let (broker_name, store_host) = {
            let options = self.inner.options.read();
            (options.broker_name.as_str().into(), options.store_host)
        };
        let check = Arc::new(TransactionCheck {
            broker_name,
            unique_key: half.unique_key.as_str().into(),
            queue_offset: numbers.queue_offset,
            log_offset: numbers.log_offset,
            store_host,
            record: record.freeze(),
        });
        for channel in self.inner.clients.next_producers(&half.group, TRIED_MAX) {
            if channel.push(ClientCommand::CheckTransaction(check.clone())).is_ok() {
                return;
            }
        }
        tracing::warn!(group = %half.group, unique_key = %half.unique_key, "no producer could be asked about a half message");
    }

    /// Moves a half message to those that were given up, unless it has ended meanwhile.
    fn give_up(
        &self,
        appender: &Appender<'_>,
        chosen: &Chosen,
        half: &HalfRecord<'_>,
    ) -> Result<(), Refused> {
        let inner = &*self.inner;
        let message = half.given_up(appender.store_host);
        let topic = inner.topics.find_or_exist(&TopicOrigin::given_up_halves());
        let queue = match &topic {
            Ok(topic) => topic.queue(&inner.store, 0),
            // The table of topics is full: it lies in its queue all the same, as with the original's readers.
            Err(_) => inner.store.queue(names::TRANS_CHECK_MAX_TIME_TOPIC, 0),
        };
        let key = chosen.half.key;
        let mut halves = inner.transactions.halves();
        if halves.at(chosen.offset, key).is_none() {
            return Ok(());
        }
        let appended = appender.append(message, queue)?;
        halves.give_up(key, chosen.offset);
        drop(halves);
        tracing::warn!(
            group = %half.group, topic = %half.topic, unique_key = %half.unique_key, checks = half.checks,
            log_offset = appended.log_offset, "a half message was given up; see TRANS_CHECK_MAX_TIME_TOPIC"
        );
        if let Ok(topic) = topic {
            inner.stats.count_put(&topic.stats, 1, half.record.body.len() as u64);
        }
        Ok(())
    }

    /// Tells the op queue of ends that have waited for long enough.
    fn write_due_ops(&self, service: &mut Service, time: Duration, batch: Duration) {
        let transactions = &self.inner.transactions;
        let appender = self.appender();
        let mut halves = transactions.halves();
        if !halves.has_unwritten() {
            service.unwritten_since = None;
            return;
        }
        let since = *service.unwritten_since.get_or_insert(time);
        let is_full = halves.unwritten_len() >= appender.op_len_max;
        if time.saturating_sub(since) < batch && !is_full && !appender.is_op_per_message {
            return;
        }
        let written = appender.write_ops(&mut halves);
        drop(halves);
        self.inner.store.drive();
        service.is_changed = true;
        match written {
            Ok(()) => service.unwritten_since = None,
            Err(Refused::Busy { .. }) => {}
            Err(refused) => {
                tracing::warn!(error = %refused, "op queue of transactions not written")
            }
        }
    }

    /// Moves the progress of both queues, as far as what it relies on is synced: who reads from there after a crash of
    /// the machine must find everything that is not done with.
    fn note_progress(&self, service: &mut Service) {
        let inner = &*self.inner;
        if service.noted.is_none() && service.is_changed {
            let progress = inner.transactions.halves().progress();
            service.noted = Some((progress, inner.store.marks().appended.get()));
            service.is_changed = false;
        }
        let Some((progress, _)) =
            service.noted.take_if(|(_, end)| inner.store.marks().synced.get() >= *end)
        else {
            return;
        };
        for (topic, offset) in
            [(names::TRANS_HALF_TOPIC, progress.half), (names::TRANS_OP_HALF_TOPIC, progress.op)]
        {
            if let Err(full) = inner.offsets.commit(PROGRESS_GROUP, topic, 0, offset) {
                tracing::warn!(topic, error = %full, "progress of transactions not noted");
            }
        }
    }

    /// Brings `transactionMetrics` up to date.
    fn write_metrics(&self) {
        let inner = &*self.inner;
        let metrics = &inner.transactions.metrics;
        let table = metrics.read();
        let mut changes: BTreeMap<String, i64> = BTreeMap::new();
        {
            let halves = inner.transactions.halves();
            let counts = halves.count_by_topic();
            let stored = |topic: &str| table.transaction_count.get(topic).map_or(0, |it| it.count);
            for (topic, count) in &counts {
                if *count != stored(topic) {
                    changes.insert((*topic).to_owned(), *count);
                }
            }
            for (topic, metric) in &table.transaction_count {
                if metric.count != 0 && !counts.contains_key(&**topic) {
                    changes.insert(topic.clone(), 0);
                }
            }
        }
        if changes.is_empty() {
            return;
        }
        drop(table);
        let time_stamp = inner.env.clock.now();
        metrics.update(|table| {
            for (topic, count) in changes {
                table.transaction_count.insert(topic, TransactionMetric { count, time_stamp });
            }
            table
                .transaction_count
                .retain(|topic, metric| metric.count != 0 || inner.topics.find(topic).is_some());
            table.data_version.advance(time_stamp);
        });
        metrics.flush();
    }
}
