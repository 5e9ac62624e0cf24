//! Transactions: a half message is stored where no consumer sees it, until its producer commits it or rolls it back.
//!
//! What is known of half messages is [`halves`], a state machine; [`records`] are the original's formats; [`checks`] asks
//! producers that are silent; [`rebuild`] reads the state out of the log at a start. This file is what producers call.
//!
//! A commit appends the final message, and the final message is the proof: the op queue, which says that a half record is
//! done with, may follow some seconds later in one entry for many. A rollback has no other proof than its op entry, so
//! that is appended at once. After a crash a half message without op entry may therefore have been committed; before
//! anything else is done about it, the index is asked for its final message.
//!
//! Invariant: of each key at most one final message is appended, and none after a rollback. Whoever appends to the half
//! queue, or ends a half message, holds the lock of [`Halves`] meanwhile. (Java: `EndTransactionProcessor`,
//! `TransactionalMessageServiceImpl`)

mod checks;
mod halves;
mod rebuild;
mod records;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use env::Millis;
use store::{Appended, Draft, Entry, Fault, Queue, Refused, Store};
use wire::{
    id::OffsetId,
    names::{self, system_flag},
    properties::{self, name},
    record::{CheckCrc, Message, Record},
};

use self::{
    checks::Service,
    halves::{Done, Half, Halves, Judgement, Key, Keys, Proof},
    records::{HalfRecord, OpBody},
};
use crate::{
    Broker,
    api::{EndError, EndTransaction, Ended, Needs, TableFull, Verdict},
    blocking,
    publish::refusal,
    saved::Saved,
};

pub use checks::{TransactionMetric, TransactionMetrics};
pub(crate) use records::{hide, immunity};

/// Records with the unique key of a half message that are looked at for its final message, the newest: 8 MB of offsets.
const FINALS_LOOKED_AT: usize = 1_000_000;

/// All transactions of the broker.
pub(crate) struct Transactions {
    halves: Mutex<Halves>,
    service: Mutex<Service>,
    keys: Keys,
    half_queue: Arc<Queue>,
    op_queue: Arc<Queue>,
    /// Half messages that may wait at once.
    halves_max: usize,
    metrics: Saved<TransactionMetrics>,
}

/// A half message on its way into the log.
pub(crate) struct NewHalf {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) unique_key: String,
    pub(crate) born_at: i64,
    pub(crate) immunity: Option<u32>,
    pub(crate) len: u32,
}

/// The lock under which half messages are appended.
pub(crate) struct Preparing<'t> {
    halves: MutexGuard<'t, Halves>,
    keys: &'t Keys,
}

impl Transactions {
    /// Takes the lock under which half messages are appended.
    pub(crate) fn preparing(&self) -> Preparing<'_> {
        Preparing { halves: self.halves(), keys: &self.keys }
    }

    /// Says whether one more half message may wait.
    pub(crate) fn check_room(&self) -> Result<(), TableFull> {
        if self.halves().count() >= self.halves_max {
            let max = self.halves_max;
            return Err(TableFull { table: "half messages", max, key: "halfMessagesMax" });
        }
        Ok(())
    }

    /// Returns how many half messages wait, by topic, as it was last written.
    pub(crate) fn metrics(&self) -> Arc<TransactionMetrics> {
        self.metrics.read()
    }

    fn halves(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Preparing<'_> {
    /// Notes a half message that the log has taken.
    pub(crate) fn prepare(&mut self, new: NewHalf, at: &Appended) {
        let half = Half {
            key: self.keys.key(&new.group, &new.unique_key),
            origin: self.halves.origin(&new.group, &new.topic),
            log_offset: at.log_offset,
            len: new.len,
            born_at: new.born_at,
            immunity: new.immunity,
            checks: 0,
            proof: Proof::Proven,
        };
        self.halves.prepare(at.queue_offset, half);
    }
}

/// Appends records under the lock of the halves. It holds copies of the options: their lock is never taken under this.
struct Appender<'b> {
    store: &'b Store,
    op_queue: &'b Arc<Queue>,
    store_host: SocketAddr,
    now: i64,
    op_len_max: usize,
    is_op_per_message: bool,
}

impl Appender<'_> {
    fn append(&self, message: Message, queue: Arc<Queue>) -> Result<Appended, Refused> {
        self.append_draft(Draft::new(message, queue))
    }

    fn append_draft(&self, draft: Draft) -> Result<Appended, Refused> {
        let run = [Entry::One(draft)];
        self.store.append(&run).pop().expect("the store answers each entry")
    }

    /// Appends an op entry; returns its offset and the log's end behind it.
    fn append_op(&self, dones: &[(i64, Done)]) -> Result<(i64, u64), Refused> {
        let body = if self.is_op_per_message { OpBody::Single } else { OpBody::List };
        let message = records::op(dones, body, self.now, self.store_host);
        let appended = self.append(message, self.op_queue.clone())?;
        Ok((appended.queue_offset, appended.end))
    }

    /// Writes every end that the op queue has not been told.
    fn write_ops(&self, halves: &mut Halves) -> Result<(), Refused> {
        let len_max = if self.is_op_per_message { 1 } else { self.op_len_max };
        while halves.has_unwritten() {
            let dones = halves.next_op(len_max);
            let (op_offset, _) = self.append_op(&dones)?;
            halves.op_written(op_offset, dones.len());
        }
        Ok(())
    }
}

/// What came of trying to end a half message.
enum Tried {
    Ended(Ended),
    /// Its final message may lie in the log, since this time if it is said.
    Unproven(Option<Millis>),
}

impl Broker {
    /// Commits a half message or rolls it back. The same end again is answered alike and appends nothing.
    ///
    /// # Errors
    /// See [`EndError`]; nothing was appended.
    pub async fn end_transaction(&self, request: EndTransaction) -> Result<Ended, EndError> {
        let bytes = self.record_at(request.log_offset).await.map_err(|fault| match fault {
            Fault::OutOfRange(_) | Fault::Damaged { .. } => EndError::NotFound,
            fault => EndError::Store(fault.to_string()),
        })?;
        let half = HalfRecord::decode(&bytes).ok_or(EndError::NotFound)?;
        self.check_end(&request, &half)?;
        let key = self.inner.transactions.keys.key(&half.group, &half.unique_key);
        loop {
            match self.try_end(key, &half, &request)? {
                Tried::Ended(ended) => return Ok(ended),
                Tried::Unproven(since) => self.prove(key, &half, since).await?,
            }
        }
    }

    /// Ends a half message, unless the log has to be asked first.
    fn try_end(
        &self,
        key: Key,
        half: &HalfRecord<'_>,
        request: &EndTransaction,
    ) -> Result<Tried, EndError> {
        let inner = &*self.inner;
        let appender = self.appender();
        let mut halves = inner.transactions.halves();
        let at = match halves.judge(key, request.verdict) {
            Judgement::Ends(at) => at,
            Judgement::Again => {
                drop(halves);
                return Ok(Tried::Ended(self.ended(inner.store.marks().appended.get())));
            }
            Judgement::Contradicts(before) => {
                // Most producers do not read the answer.
                tracing::warn!(
                    group = %half.group, unique_key = %half.unique_key, ?before, now = ?request.verdict,
                    "a producer ends a transaction the other way"
                );
                return Err(EndError::Contradicts { before });
            }
            Judgement::Forgotten => return Err(EndError::Forgotten),
            Judgement::Unproven(since) => return Ok(Tried::Unproven(since)),
        };
        let offset = at.unwrap_or(request.queue_offset);
        let appended = self.append_end(&appender, &mut halves, key, offset, half, request.verdict);
        drop(halves);
        let end = appended.map_err(|refused| self.refused(refused))?;
        inner.store.drive();
        Ok(Tried::Ended(self.ended(end)))
    }

    /// Checks an end against the record that it names, in the original's order.
    fn check_end(&self, request: &EndTransaction, half: &HalfRecord<'_>) -> Result<(), EndError> {
        let record = &half.record;
        if let Some(text) = half.immunity.as_ref().filter(|_| !request.from_check) {
            let timeout = self.inner.options.read().transaction_timeout as i64;
            let immune = text.parse::<i64>().map_or(0, |seconds| seconds.saturating_mul(1_000));
            let age = self.inner.env.clock.now().saturating_sub(record.born_at);
            if age > immune.max(timeout) {
                return Err(EndError::TooLate);
            }
        }
        if half.group != *request.group {
            return Err(EndError::WrongGroup);
        }
        if record.numbers.queue_offset != request.queue_offset {
            return Err(EndError::WrongQueueOffset);
        }
        if i64::try_from(record.numbers.log_offset) != Ok(request.log_offset) {
            return Err(EndError::WrongLogOffset);
        }
        Ok(())
    }

    /// Appends what ends a half message, and notes it; returns where the log ends then.
    fn append_end(
        &self,
        appender: &Appender<'_>,
        halves: &mut Halves,
        key: Key,
        offset: i64,
        half: &HalfRecord<'_>,
        verdict: Verdict,
    ) -> Result<u64, Refused> {
        let inner = &*self.inner;
        if verdict == Verdict::Rollback {
            // Its op entry is the only proof of a rollback: nothing is known before that is in the log.
            appender.write_ops(halves)?;
            let (op_offset, end) = appender.append_op(&[(offset, Done::RolledBack)])?;
            halves.finish(key, offset, verdict);
            halves.op_written(op_offset, 1);
            return Ok(end);
        }
        let message = half.to_final(appender.store_host);
        let topic = inner.topics.find(&half.topic);
        let queue = match &topic {
            Some(topic) => topic.queue(&inner.store, message.queue_id),
            None => inner.store.queue(&half.topic, message.queue_id),
        };
        let bytes = message.body.len() as u64;
        let draft = self.lighten_due(Draft::new(message, queue));
        let appended = appender.append_draft(draft)?;
        halves.finish(key, offset, verdict);
        if let Some(topic) = topic {
            inner.stats.count_put(&topic.stats, 1, bytes);
        }
        if appender.is_op_per_message || halves.unwritten_len() >= appender.op_len_max {
            // What cannot be written now, housekeeping writes; the final message is proof enough.
            let _ = appender.write_ops(halves);
        }
        Ok(appended.end)
    }

    fn appender(&self) -> Appender<'_> {
        let options = self.inner.options.read();
        Appender {
            store: &self.inner.store,
            op_queue: &self.inner.transactions.op_queue,
            store_host: options.store_host,
            now: self.inner.env.clock.now(),
            op_len_max: options.transaction_op_msg_max_size,
            is_op_per_message: options.is_op_per_message(),
        }
    }

    fn refused(&self, refused: Refused) -> EndError {
        EndError::Publish(refusal(refused, &self.inner.options.read()))
    }

    fn ended(&self, end: u64) -> Ended {
        let is_sync = self.inner.options.read().sync_flush;
        Ended { end, needs: if is_sync { Needs::Synced } else { Needs::Written } }
    }

    /// Looks whether a half message from before the start has its final message, and notes that.
    async fn prove(
        &self,
        key: Key,
        half: &HalfRecord<'_>,
        since: Option<Millis>,
    ) -> Result<(), EndError> {
        let (group, unique_key) = (half.group.clone(), half.unique_key.clone());
        let (topic, own) = (half.topic.clone(), half.final_since(self.file_reserved_time()));
        let since = since.map_or(own, |since| since.min(own));
        let broker = self.clone();
        let has_final =
            blocking(move || broker.has_final(&group, &unique_key, &topic, since)).await;
        let has_final = has_final.map_err(|fault| EndError::Store(fault.to_string()))?;
        self.inner.transactions.halves().prove(key, has_final);
        Ok(())
    }

    fn file_reserved_time(&self) -> i64 {
        self.inner.options.read().file_reserved_time
    }

    /// Says whether the log has the final message of a half message. Waits for the disk.
    fn has_final(
        &self,
        group: &str,
        unique_key: &str,
        topic: &str,
        since: i64,
    ) -> Result<bool, Fault> {
        let store = &self.inner.store;
        let names_it = |record: &Record<'_>| {
            properties::get(&record.properties, name::UNIQ_KEY) == Some(unique_key)
                && properties::get(&record.properties, name::PGROUP) == Some(group)
        };
        let read = |at: u64| match store.record_at_blocking(at) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Fault::OutOfRange(_) | Fault::Damaged { .. }) => Ok(None),
            Err(fault) => Err(fault),
        };
        let found = store.find_by_key(topic, unique_key, FINALS_LOOKED_AT, since, i64::MAX)?;
        if found.len() >= FINALS_LOOKED_AT {
            tracing::warn!(%topic, unique_key, looked_at = found.len(), "so many messages have the unique key of a half message that its final one may be among older ones: it may be delivered twice");
        }
        for at in found {
            let Some(bytes) = read(at)? else { continue };
            let Ok(record) = Record::decode(&bytes, CheckCrc::No) else { continue };
            let is_committed =
                record.sys_flag & system_flag::TRANSACTION_MASK == system_flag::TRANSACTION_COMMIT;
            let Ok(prepared_at) = u64::try_from(record.prepared_offset) else { continue };
            if !is_committed || record.topic != topic || !names_it(&record) {
                continue;
            }
            // Anybody can send a message that looks like this; that it points to the half message is the broker's doing.
            let Some(bytes) = read(prepared_at)? else { continue };
            if HalfRecord::decode(&bytes).is_some_and(|half| names_it(&half.record)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has a half message checked again from the beginning: one that was given up, or one that waits.
    ///
    /// # Errors
    /// See [`EndError`].
    pub async fn resume_check(&self, id: OffsetId) -> Result<Ended, EndError> {
        let bytes = self.record_at(id.log_offset as i64).await;
        let bytes: Bytes = bytes.map_err(|_| EndError::NotFound)?;
        let given_up = HalfRecord::decode_of(&bytes, names::TRANS_CHECK_MAX_TIME_TOPIC);
        let half = given_up.or_else(|| HalfRecord::decode(&bytes)).ok_or(EndError::NotFound)?;
        self.resume(&half)
    }

    fn resume(&self, half: &HalfRecord<'_>) -> Result<Ended, EndError> {
        let inner = &*self.inner;
        let key = inner.transactions.keys.key(&half.group, &half.unique_key);
        let since = half.final_since(self.file_reserved_time());
        let appender = self.appender();
        let mut preparing = inner.transactions.preparing();
        match preparing.halves.judge(key, Verdict::Commit) {
            Judgement::Again => return Err(EndError::Contradicts { before: Verdict::Commit }),
            Judgement::Contradicts(before) => return Err(EndError::Contradicts { before }),
            // Of one that nobody remembers only the place where it lies proves that it was given up.
            Judgement::Forgotten if half.record.topic == names::TRANS_HALF_TOPIC => {
                return Err(EndError::Forgotten);
            }
            Judgement::Forgotten | Judgement::Ends(_) | Judgement::Unproven(_) => {}
        }
        let message = half.checked(0, appender.store_host);
        let len = message.encoded_len() as u32;
        let appended = appender.append(message, inner.transactions.half_queue.clone());
        let resumed = appended.map(|at| {
            let again = half.to_half(key, &mut preparing.halves, at.log_offset, len);
            let again = Half { checks: 0, proof: Proof::MissingSince(since), ..again };
            preparing.halves.prepare(at.queue_offset, again);
            at.end
        });
        drop(preparing);
        let end = resumed.map_err(|refused| self.refused(refused))?;
        inner.store.drive();
        Ok(self.ended(end))
    }
}
