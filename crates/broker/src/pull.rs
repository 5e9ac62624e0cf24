//! Pulling: messages of one queue from an offset on, as the log holds them.
//!
//! The queue's entries say where the records lie and what their tags hash to; what passes the filter is read as slices of
//! the log, records side by side in one read, and returned as stored, since the record is what travels. A pull that finds
//! nothing may wait: see [`crate::parked`]. Statuses, next offsets and limits are the original's
//! (Java: `PullMessageProcessor`, `DefaultMessageStore.getMessage`).

use std::sync::Arc;

use bytes::Bytes;
use store::{Fault, Queue, QueueEntry, QueueKind, Store};
use wire::{
    body::{
        client::{ConsumeType, MessageModel, SubscriptionData},
        group::SubscriptionGroupConfig,
    },
    names::{self, perm},
};

use crate::{
    Broker, Options,
    api::{Caller, Filter, Pull, PullError, PullOutcome, PullStatus, Pulled},
    blocking,
    filter::{
        MessageFilter,
        tag::{TagFilter, is_tag_type},
    },
    topics::Topic,
};

/// Entries that are read at once while looking for some that pass the filter.
const FILTERED_READ: usize = 128;

/// About what a slice of the log keeps alive: a block of a file, or a chunk of the tail.
const BUFFER_BYTES: usize = 256 << 10;
/// How many times its own length an answer may keep alive of them.
const PINNED_PER_BYTE: usize = 16;

/// A pull whose checks have passed and whose commit is stored: [`Broker::begin_pull`].
pub struct Plan {
    topic: Arc<Topic>,
    group: Arc<SubscriptionGroupConfig>,
    queue: Arc<Queue>,
    filter: MessageFilter,
}

/// What one look at the queue has found.
pub(crate) struct Look {
    pub(crate) status: PullStatus,
    pub(crate) next: i64,
    min: i64,
    pub(crate) max: i64,
    pub(crate) messages: Vec<Bytes>,
    pub(crate) count: u32,
    /// How far behind the log's end the last entry that was looked at lies, in bytes.
    behind: u64,
}

impl Broker {
    /// As [`Broker::begin_pull`] and [`Broker::finish_pull`] in one.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull(&self, cx: &Caller, request: Pull) -> Result<Pulled, PullError> {
        let plan = self.begin_pull(cx, &request)?;
        self.finish_pull(cx, plan, request).await
    }

    /// Checks a pull and stores the commit that it carries. A door does this as requests arrive: a commit that follows
    /// the pull on its connection must not be overtaken by the older one, however long the pull waits.
    ///
    /// # Errors
    /// See [`PullError`]; nothing is committed then.
    pub fn begin_pull(&self, cx: &Caller, request: &Pull) -> Result<Plan, PullError> {
        let plan = self.plan_pull(cx, request)?;
        let Pull { group, topic, queue_id, .. } = request;
        let offsets = &self.inner.offsets;
        if let Some(offset) = request.commit {
            self.trace_commit(group, topic, *queue_id, offset);
            if let Err(full) = offsets.commit(group, topic, *queue_id, offset) {
                tracing::warn!(%group, %topic, error = %full, "commit by pull lost");
            }
        }
        Ok(plan)
    }

    /// Answers a pull with messages, or waits for some as long as the request allows.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn finish_pull(
        &self,
        cx: &Caller,
        plan: Plan,
        request: Pull,
    ) -> Result<Pulled, PullError> {
        let pulled = self.pull_once(&plan, &request).await?;
        match request.suspend {
            Some(suspend) if pulled.status.outcome() == PullOutcome::NotFound => {
                // Boxed: a pull that is answered at once carries nothing of the waiting.
                Box::pin(self.pull_later(cx, plan, request, suspend)).await
            }
            Some(_) | None => Ok(pulled),
        }
    }

    /// Waits until there may be something, and looks again: until it finds something or the time has passed.
    async fn pull_later(
        &self,
        cx: &Caller,
        mut plan: Plan,
        mut request: Pull,
        suspend: std::time::Duration,
    ) -> Result<Pulled, PullError> {
        let clock = &self.inner.env.clock;
        let (is_long, short) = {
            let options = self.inner.options.read();
            (options.long_polling_enable, options.short_polling_time)
        };
        if !is_long {
            clock.sleep(std::time::Duration::from_millis(short)).await;
            plan = self.plan_pull(cx, &request)?;
            return self.pull_once(&plan, &request).await;
        }
        let deadline = clock.monotonic().saturating_add(suspend);
        loop {
            let parked = self.inner.parked.park(&plan.queue, request.offset, plan.filter.tags())?;
            let is_late = if plan.queue.max_offset() > request.offset {
                // It came between the look and the parking.
                clock.monotonic() >= deadline
            } else {
                tokio::select! {
                    () = parked.woken() => false,
                    () = clock.sleep_until(deadline) => true,
                }
            };
            drop(parked);
            // Topic, group and subscription may have changed meanwhile.
            plan = self.plan_pull(cx, &request)?;
            let pulled = self.pull_once(&plan, &request).await?;
            // An entry that is inside of the queue and cannot be read does not become readable by waiting.
            let is_unreadable = pulled.status == PullStatus::OffsetFoundNull;
            // What a condition did not let through need not come here again.
            let is_passed = plan.filter.needs_records()
                && pulled.status == PullStatus::NoMatchedMessage
                && pulled.next > request.offset;
            if is_passed {
                request.offset = pulled.next;
            }
            let is_found = pulled.status.outcome() != PullOutcome::NotFound && !is_passed;
            if is_late || is_unreadable || is_found {
                return Ok(pulled);
            }
        }
    }

    /// Checks a pull, in the original's order.
    fn plan_pull(&self, cx: &Caller, request: &Pull) -> Result<Plan, PullError> {
        let inner = &*self.inner;
        let options = inner.options.read();
        let broker = || options.store_host.to_string();
        if !perm::can_read(options.broker_permission) {
            return Err(PullError::BrokerForbidden { broker: broker() });
        }
        if request.lite && !options.lite_pull_message_enable {
            return Err(PullError::LiteForbidden { broker: broker() });
        }
        let Some(group) = inner.groups.find(&request.group, &options) else {
            return Err(PullError::UnknownGroup(request.group.clone()));
        };
        if !group.consume_enable {
            return Err(PullError::GroupForbidden(request.group.clone()));
        }
        let Some(topic) = inner.topics.find(&request.topic) else {
            return Err(PullError::UnknownTopic(request.topic.clone()));
        };
        if !perm::can_read(topic.config.perm) {
            return Err(PullError::TopicForbidden(request.topic.clone()));
        }
        if !(0..topic.config.read_queue_nums).contains(&request.queue_id) {
            return Err(PullError::InvalidQueue {
                queue_id: request.queue_id,
                topic: request.topic.clone(),
                queues: topic.config.read_queue_nums,
                consumer: cx.remote,
            });
        }
        let mut filter = self.resolve_filter(&options, request, &group)?;
        if let Some(code) = inner.code_filters.get(&request.topic, &request.group) {
            filter = MessageFilter::Code { first: Box::new(filter), code };
        }
        let queue = match names::is_light(&request.topic) && request.queue_id == 0 {
            true => inner.lights.queue(&request.topic)?,
            false => topic.queue(&inner.store, request.queue_id),
        };
        Ok(Plan { topic, group, queue, filter })
    }

    fn resolve_filter(
        &self,
        options: &Options,
        request: &Pull,
        group: &SubscriptionGroupConfig,
    ) -> Result<MessageFilter, PullError> {
        let Pull { group: group_name, topic, .. } = request;
        let view = || self.inner.clients.view(group_name, topic);
        let conditional = |filter| {
            let supports_retry = options.filter_support_retry;
            MessageFilter::conditional(filter, topic, group_name, supports_retry)
        };
        let filter = match &request.filter {
            Filter::Expression { kind, expression } if is_tag_type(kind) => {
                let tags = TagFilter::parse(expression)
                    .map_err(|_| PullError::InvalidExpression("no tag between `||`".into()))?;
                MessageFilter::Tags(tags)
            }
            Filter::Expression { expression, .. } if expression.is_empty() => {
                return Err(PullError::InvalidExpression("the expression is empty".into()));
            }
            Filter::Expression { kind, expression } => {
                if !options.enable_property_filter || *kind != SubscriptionData::SQL92 {
                    return Err(PullError::UnsupportedFilter(kind.clone()));
                }
                let condition = self.inner.filters.compile(expression);
                let condition =
                    condition.map_err(|error| PullError::InvalidExpression(error.to_string()))?;
                conditional(MessageFilter::Condition(condition))
            }
            Filter::Registered => {
                let view = view().ok_or(PullError::NoGroupMember)?;
                if !group.consume_broadcast_enable
                    && view.message_model == MessageModel::Broadcasting
                {
                    return Err(PullError::BroadcastForbidden(request.group.clone()));
                }
                if self.inner.groups.is_forbidden(&request.group, &request.topic) {
                    return Err(PullError::SubscriptionForbidden {
                        group: request.group.clone(),
                        topic: request.topic.clone(),
                    });
                }
                let subscription = view.subscription.ok_or(PullError::NotSubscribed)?;
                if subscription.data.sub_version < request.subscription_version {
                    return Err(PullError::SubscriptionNotLatest);
                }
                match subscription.tags {
                    Some(tags) => MessageFilter::Tags(tags),
                    None => conditional(self.registered(options, request, &subscription.data)?),
                }
            }
        };
        if options.reject_pull_consumer_enable
            && !names::is_system_group(&request.group)
            && view().is_none_or(|view| view.consume_type == ConsumeType::ConsumeActively)
        {
            return Err(PullError::NoGroupMember);
        }
        Ok(filter)
    }

    /// Returns the condition that the group's heartbeat has registered, if it is the one that the client means.
    fn registered(
        &self,
        options: &Options,
        request: &Pull,
        subscription: &SubscriptionData,
    ) -> Result<MessageFilter, PullError> {
        let SubscriptionData { sub_string, expression_type, .. } = subscription;
        let filters = &self.inner.filters;
        let Some(registered) = filters.get(&request.topic, &request.group) else {
            let reason = match filters.compile(sub_string) {
                _ if expression_type != SubscriptionData::SQL92 => {
                    format!("there is no expression type {expression_type}")
                }
                Err(error) => error.to_string(),
                Ok(_) => "send a heartbeat; if that does not help, raise `filterBytesMax`".into(),
            };
            return Err(PullError::NoFilterData { reason });
        };
        if registered.data.client_version < request.subscription_version {
            return Err(PullError::FilterDataNotLatest);
        }
        if !options.enable_property_filter {
            return Err(PullError::UnsupportedFilter(expression_type.as_str().into()));
        }
        Ok(MessageFilter::Registered(registered))
    }

    /// Looks once, and notes what that means for the group.
    async fn pull_once(&self, plan: &Plan, request: &Pull) -> Result<Pulled, PullError> {
        let inner = &*self.inner;
        let Pull { group, topic, queue_id, .. } = request;
        let is_reset_served = inner.options.read().use_server_side_reset_offset;
        let reset = is_reset_served.then(|| inner.offsets.take_reset(group, topic, *queue_id));
        let look = match reset.flatten() {
            Some(offset) => Look {
                status: PullStatus::OffsetReset,
                next: offset,
                ..Look::nothing(&plan.queue, offset)
            },
            None => self.look(plan, request.offset, request.count_max).await?,
        };
        inner.offsets.note_pulled(group, topic, *queue_id, look.next);
        if look.status == PullStatus::Found {
            let bytes = look.messages.iter().map(Bytes::len).sum::<usize>();
            inner.stats.found.add(1, 0);
            inner.stats.count_got(group, topic, u64::from(look.count), bytes as u64);
            self.trace_pull(request, &look.messages);
        } else {
            inner.stats.missed.add(1, 0);
        }
        let options = inner.options.read();
        let suggested_broker = match options.slave_read_enable {
            true if look.behind > options.near_bytes() => {
                plan.group.which_broker_when_consume_slowly
            }
            true => plan.group.broker_id,
            false => 0,
        };
        Ok(Pulled {
            status: look.status,
            next: look.next,
            min: look.min,
            max: look.max,
            messages: look.messages,
            count: look.count,
            suggested_broker,
            topic_sys_flag: plan.topic.config.topic_sys_flag,
            group_sys_flag: plan.group.group_sys_flag,
        })
    }

    /// Looks at the queue (Java: `DefaultMessageStore.getMessage`).
    async fn look(&self, plan: &Plan, offset: i64, count_max: i32) -> Result<Look, PullError> {
        let queue = &plan.queue;
        let mut look = Look::nothing(queue, offset);
        if look.status != PullStatus::NoMatchedMessage {
            return Ok(look);
        }
        let mut scan = {
            let options = self.inner.options.read();
            Scan::new(&options, queue.kind(), self.inner.store.log_range(), offset, count_max)
        };
        if plan.filter.needs_records() {
            self.sift(&plan.queue, &plan.filter, scan, &mut look).await?;
            return Ok(look);
        }
        let tags = plan.filter.tags();
        // Without a filter each entry is a message, so no more are read than can be returned.
        let read_max = match tags {
            TagFilter::All => scan.read_max().min(scan.entries_max),
            TagFilter::AnyOf(_) => FILTERED_READ,
        };
        let mut entries = Vec::with_capacity(read_max.min(FILTERED_READ));
        loop {
            entries.clear();
            read_entries(queue, look.next, read_max, &mut entries).await?;
            if entries.is_empty() {
                if look.next == offset {
                    look.status = PullStatus::OffsetFoundNull;
                }
                break;
            }
            if scan.take(&entries, &tags, &mut look) || look.next >= look.max {
                break;
            }
        }
        self.read_picks(&scan.picks, &mut look).await?;
        look.unpin(&scan.picks);
        Ok(look)
    }

    /// Reads the records that were picked, those that lie side by side in one read.
    async fn read_picks(&self, picks: &[QueueEntry], look: &mut Look) -> Result<(), PullError> {
        let store = &self.inner.store;
        let mut reader = store.reader();
        let mut rest = picks;
        while let [first, ..] = rest {
            let mut len = first.len;
            let (mut records, mut count) = (1, u32::from(first.count));
            for pick in &rest[1..] {
                if pick.log_offset != first.log_offset + u64::from(len) {
                    break;
                }
                len += pick.len;
                records += 1;
                count += u32::from(pick.count);
            }
            let at = first.log_offset;
            let read = match reader.try_read(at, len) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => {
                    let store = store.clone();
                    blocking(move || store.read_blocking(at, len)).await
                }
                Err(fault) => Err(fault),
            };
            match read {
                Ok(bytes) => look.messages.push(bytes),
                // Retention was faster than this pull: what was read before it is the answer.
                Err(Fault::OutOfRange(_)) => {
                    if look.count > 0 {
                        look.next = first.offset;
                    } else {
                        look.status = PullStatus::MessageWasRemoving;
                    }
                    return Ok(());
                }
                Err(fault) => return Err(fault.into()),
            }
            look.count += count;
            look.status = PullStatus::Found;
            rest = &rest[records..];
        }
        Ok(())
    }
}

/// Appends to `out` entries of the queue from an offset on, at once if that takes no device.
pub(crate) async fn read_entries(
    queue: &Arc<Queue>,
    from: i64,
    max: usize,
    out: &mut Vec<QueueEntry>,
) -> Result<(), Fault> {
    if queue.try_read(from, max, out)? {
        return Ok(());
    }
    let queue = queue.clone();
    let read = blocking(move || {
        let mut entries = Vec::new();
        queue.read(from, max, &mut entries).map(|()| entries)
    });
    out.append(&mut read.await?);
    Ok(())
}

/// Returns bytes of the log, at once if that takes no device.
pub(crate) async fn read_log(store: &Store, at: u64, len: u32) -> Result<Bytes, Fault> {
    match store.try_read(at, len)? {
        Some(bytes) => Ok(bytes),
        None => {
            let store = store.clone();
            blocking(move || store.read_blocking(at, len)).await
        }
    }
}

impl Look {
    /// What can be said of an offset before any entry is read; [`PullStatus::NoMatchedMessage`] if it is in the queue.
    fn nothing(queue: &Queue, offset: i64) -> Look {
        // The end first: retention may move the beginning meanwhile, but never past it.
        let max = queue.max_offset();
        let min = queue.min_offset().min(max);
        let (status, next) = match () {
            () if max == 0 && offset == 0 => (PullStatus::NoMessageInQueue, 0),
            () if max == 0 => (PullStatus::NoMessageInQueueMoved, 0),
            () if offset < min => (PullStatus::OffsetTooSmall, min),
            () if offset == max => (PullStatus::OffsetOverflowOne, offset),
            () if offset > max => (PullStatus::OffsetOverflowBadly, max),
            () => (PullStatus::NoMatchedMessage, offset),
        };
        Look { status, next, min, max, messages: Vec::new(), count: 0, behind: 0 }
    }

    /// Copies what was read if it is little beside the buffers that its slices keep alive, so that a reader who is slow
    /// to take an answer holds no more than [`PINNED_PER_BYTE`] times what the bounds count.
    fn unpin(&mut self, picks: &[QueueEntry]) {
        let len = self.messages.iter().map(Bytes::len).sum::<usize>();
        let buffer_of = |pick: &QueueEntry| pick.log_offset / BUFFER_BYTES as u64;
        let buffers = picks.chunk_by(|a, b| buffer_of(a) == buffer_of(b)).count();
        if len * PINNED_PER_BYTE < buffers * BUFFER_BYTES {
            self.messages = vec![self.messages.concat().into()];
        }
    }
}

/// The limits of one pull, and what it has picked so far.
pub(crate) struct Scan {
    /// Entries that passed the filter.
    picks: Vec<QueueEntry>,
    /// Messages and bytes of them.
    count: usize,
    bytes: usize,
    first: i64,
    pub(crate) log_start: u64,
    log_end: u64,
    count_max: usize,
    /// Entries that a pull looks at, whatever passes.
    entries_max: usize,
    near_bytes: u64,
    near: Limit,
    far: Limit,
}

/// Bytes and messages that one pull returns, after the first message.
#[derive(Clone, Copy)]
struct Limit {
    bytes: usize,
    count: usize,
}

impl Scan {
    fn new(
        options: &Options,
        kind: QueueKind,
        log: std::ops::Range<u64>,
        first: i64,
        count_max: i32,
    ) -> Scan {
        let count_max = usize::try_from(count_max).unwrap_or(0).max(1);
        Scan {
            picks: Vec::with_capacity(count_max.min(options.transfer_count_in_memory_max)),
            count: 0,
            bytes: 0,
            first,
            log_start: log.start,
            log_end: log.end,
            count_max,
            entries_max: (options.filter_message_size_max / kind.entry_len()).max(count_max),
            near_bytes: options.near_bytes(),
            near: Limit {
                bytes: options.transfer_bytes_in_memory_max,
                count: options.transfer_count_in_memory_max,
            },
            far: Limit {
                bytes: options.transfer_bytes_on_disk_max,
                count: options.transfer_count_on_disk_max,
            },
        }
    }

    /// Goes through entries from `look.next` on; says whether the pull is full.
    fn take(&mut self, entries: &[QueueEntry], tags: &TagFilter, look: &mut Look) -> bool {
        for entry in entries {
            if self.is_over(entry, look) {
                return true;
            }
            self.pass(entry, look);
            if entry.is_gap() || entry.log_offset < self.log_start {
                if self.picks.is_empty() {
                    look.status = PullStatus::MessageWasRemoving;
                }
            } else if tags.matches(entry.tags_code) {
                self.pick(entry);
                if self.count >= self.read_max() {
                    return true;
                }
            } else if self.picks.is_empty() {
                look.status = PullStatus::NoMatchedMessage;
            }
        }
        false
    }

    /// Says whether the pull ends before this entry.
    pub(crate) fn is_over(&self, entry: &QueueEntry, look: &Look) -> bool {
        let behind = self.log_end.saturating_sub(entry.log_offset);
        (look.next - self.first) as usize >= self.entries_max || self.is_full(entry, behind)
    }

    /// Returns how many messages a pull returns at most, wherever they lie.
    fn read_max(&self) -> usize {
        self.count_max.min(self.near.count.max(1))
    }

    /// Notes that an entry is looked at.
    pub(crate) fn pass(&self, entry: &QueueEntry, look: &mut Look) {
        look.next = entry.end();
        look.behind = self.log_end.saturating_sub(entry.log_offset);
    }

    /// Takes the messages of an entry.
    pub(crate) fn pick(&mut self, entry: &QueueEntry) {
        self.picks.push(*entry);
        self.count += usize::from(entry.count);
        self.bytes += entry.len as usize;
    }

    /// Says whether the messages of one more entry would be too much (Java: `isTheBatchFull`).
    fn is_full(&self, entry: &QueueEntry, behind: u64) -> bool {
        let limit = if behind <= self.near_bytes { self.near } else { self.far };
        !self.picks.is_empty()
            && (self.count >= limit.count
                || self.count + usize::from(entry.count) > self.count_max
                || self.bytes + entry.len as usize > limit.bytes)
    }
}

impl From<Fault> for PullError {
    fn from(fault: Fault) -> PullError {
        PullError::Store(fault.to_string())
    }
}
