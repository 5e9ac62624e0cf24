//! Timers: a message that is due at any time waits in `rmq_sys_wheel_timer`, and from there in a slot of the timer wheel.
//!
//! The due time is floored to the slot before it, and a slot is delivered when its whole span has passed: never early,
//! late by the precision and a tick at most. What is due beyond the roll window goes back to the timer topic once or more,
//! so that its record stays younger than the log's retention. A mark of deletion is a timer message as well, due in the
//! slot of the one that it cancels. (Java: `HookUtils.transformTimerMessage`, `TimerMessageStore`)
//!
//! Housekeeping takes the topic in, delivers what is due and saves how far it has come, each a bounded piece. All slots in
//! use are undelivered, so where the clock jumps does not matter: what is overdue goes at once, in the order of its time,
//! and after a jump back nothing comes twice.
//!
//! Invariant: nothing is saved as delivered before its delivery is on the device, and nothing as taken in before its record is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use env::Millis;
use serde::{Deserialize, Serialize};
use store::{
    Draft, Entry, Fault, Queue, QueueEntry, Refused, Store,
    timer::{
        Rest, TimerOptions, checkpoint,
        log::{TimerLog, Unit, magic},
        wheel::{SLOTS, Wheel},
    },
};
use wire::{
    body::DataVersion,
    fastjson::Unknown,
    hash, names,
    properties::{self, name},
    record::{CheckCrc, Message, Record},
};

use crate::{Broker, Options, api::PublishError, saved::Saved, topics::Topic};

/// Messages that one step takes in.
const TAKEN_MAX: usize = 2048;
/// Messages that one append delivers, and bytes of them.
const RUN_MAX: usize = 128;
const RUN_BYTES: usize = 512 << 10;
/// Appends, and units looked at, of one step.
const RUNS_MAX: usize = 32;
const UNITS_MAX: usize = 64 << 10;
/// Units of a slot that are in memory at once.
const CHUNK: usize = 1024;
/// Slots of the wheel's half that no message is put into (Java: `TIMER_BLANK_SLOTS`).
const BLANK_SLOTS: i64 = 60;
/// How often files of the timer log are looked at that nothing needs.
const CLEAN_PERIOD: Duration = Duration::from_secs(30);

/// `config/timermetrics`: how many messages wait, by the topic that they are meant for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TimerMetrics {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Waiting messages by real topic.
    pub timing_count: BTreeMap<String, TimingCount>,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

/// Messages of one topic that wait.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TimingCount {
    /// How many; a mark of deletion counts as one less.
    pub count: i64,
    /// When that changed last.
    pub time_stamp: Millis,
}

// ------------------------------------------------------------------------------------------------------- on the way in

/// What a message's properties say about when it is to be delivered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delay<'a> {
    /// Delay level; 0 for none.
    pub(crate) level: i32,
    in_seconds: Option<&'a str>,
    in_millis: Option<&'a str>,
    at: Option<&'a str>,
    /// It has had its slot already.
    is_over: bool,
    is_deletion: bool,
}

impl<'a> Delay<'a> {
    /// Takes note of a property.
    pub(crate) fn note(&mut self, name: &str, value: &'a str) {
        match name {
            name::DELAY => self.level = value.parse().unwrap_or(0),
            name::TIMER_DELAY_SEC => self.in_seconds = Some(value),
            name::TIMER_DELAY_MS => self.in_millis = Some(value),
            name::TIMER_DELIVER_MS => self.at = Some(value),
            name::TIMER_OUT_MS => self.is_over = true,
            name::TIMER_DEL_UNIQKEY => self.is_deletion = true,
            _ => {}
        }
    }

    /// Reads all properties of a message.
    pub(crate) fn of(text: &'a str) -> Delay<'a> {
        let mut delay = Delay::default();
        properties::iter(text).for_each(|(name, value)| delay.note(name, value));
        delay
    }

    pub(crate) fn has_timer(&self) -> bool {
        self.in_seconds.or(self.in_millis).or(self.at).is_some()
    }

    /// Returns when a timer message is due; `None` for a number that is none.
    fn due(&self, now: Millis) -> Option<Millis> {
        match (self.in_seconds, self.in_millis, self.at) {
            (Some(seconds), ..) => now.checked_add(seconds.parse::<i64>().ok()?.checked_mul(1000)?),
            (None, Some(millis), _) => now.checked_add(millis.parse().ok()?),
            (None, None, at) => at?.parse().ok(),
        }
    }
}

/// Where a message is to be stored.
pub(crate) struct Place {
    pub(crate) topic: Arc<Topic>,
    pub(crate) queue_id: i32,
    /// Time of its slot, if it is a timer message.
    pub(crate) slot: Option<Millis>,
}

impl Broker {
    /// Sends a message the way that its delay asks for: to its own queue, that of its level, or the timer topic. `text` is
    /// its properties, and gets the way back. For every message that is not half of a transaction.
    ///
    /// # Errors
    /// [`PublishError`] when the delay cannot be granted.
    pub(crate) fn defer(
        &self,
        options: &Options,
        topic: Arc<Topic>,
        queue_id: i32,
        delay: &Delay<'_>,
        text: &mut String,
    ) -> Result<Place, PublishError> {
        if delay.level > 0 {
            if delay.has_timer() {
                *text = properties::filtered(text, |name| !name::TIMER.contains(&name));
            }
            let (topic, queue_id) = self.postpone(&topic.name, queue_id, delay.level, text)?;
            return Ok(Place { topic, queue_id, slot: None });
        }
        if delay.is_over || !delay.has_timer() {
            return Ok(Place { topic, queue_id, slot: None });
        }
        let Some(timers) = &self.inner.timers else { return Err(PublishError::TimersOff) };
        if options.is_for_4_9_7() && !delay.is_deletion {
            let problem = "timer messages are refused: 4.9.7, which is to open this store, never delivers them (storeReadableBy=4.9.7); send with a delay level";
            return Err(PublishError::IllegalMessage(problem.into()));
        }
        let now = self.inner.env.clock.now();
        let max_ms = i64::from(options.timer_max_delay_sec) * 1000;
        let illegal = Err(PublishError::IllegalTimer { max_ms });
        let Some(due) = delay.due(now) else { return illegal };
        if due <= now {
            return if delay.is_deletion {
                illegal
            } else {
                Ok(Place { topic, queue_id, slot: None })
            };
        }
        if due - now > max_ms {
            return illegal;
        }
        // A slot is over when the next one begins: what is due at that moment belongs into it.
        let slot = timers.wheel.floor(due - 1);
        timers.check_room(slot, options.timer_congest_num_each_slot)?;
        let Some(timer_topic) = self.inner.topics.find(names::TIMER_TOPIC) else {
            return Err(PublishError::TimersOff);
        };
        properties::append(text, name::TIMER_OUT_MS, &slot.to_string());
        properties::append(text, name::REAL_TOPIC, &topic.name);
        properties::append(text, name::REAL_QID, &queue_id.to_string());
        Ok(Place { topic: timer_topic, queue_id: 0, slot: Some(slot) })
    }
}

impl Timers {
    /// Refuses some messages for a slot that is crowded, and all for one that is twice as crowded.
    fn check_room(&self, slot: Millis, max: i32) -> Result<(), PublishError> {
        if max == i32::MAX {
            return Ok(());
        }
        let (count, max) = (i64::from(self.wheel.count_at(slot)), i64::from(max));
        if count <= max || count < max * 2 && fastrand::i64(0..max.max(1)) >= count - max {
            return Ok(());
        }
        Err(PublishError::SlotCrowded { max })
    }
}

// ---------------------------------------------------------------------------------------------------------- the service

/// The timers of a broker.
pub(crate) struct Timers {
    queue: Arc<Queue>,
    wheel: Arc<Wheel>,
    metrics: Saved<TimerMetrics>,
    state: Mutex<State>,
    shown: Shown,
}

/// What housekeeping alone uses.
struct State {
    files: store::timer::Timers,
    /// No slot before this time is in use.
    cursor: Millis,
    drain: Option<Drain>,
    /// End of the log behind all that was taken in and delivered.
    needs: u64,
    /// Messages that came and went, by topic, since the metrics were written.
    counts: HashMap<ByteString, i64>,
    save_at: Duration,
    clean_at: Duration,
}

/// What others see of it without waiting.
struct Shown {
    cursor: AtomicI64,
    taken_to: AtomicI64,
    /// What the log must be synced up to for the next save; `u64::MAX` when there is nothing to save.
    save_needs: AtomicU64,
    is_changed: AtomicBool,
    checkpoint: Mutex<[u8; checkpoint::JAVA_BYTES]>,
}

/// What a step takes of the options, which nobody may hold while it waits for the disk.
struct Settings {
    stop_enqueue: bool,
    stop_dequeue: bool,
    skip_unknown_error: bool,
    roll_window_slot: i32,
    flush_interval: Duration,
    store_host: SocketAddr,
}

impl Settings {
    fn of(options: &Options) -> Settings {
        Settings {
            stop_enqueue: options.timer_stop_enqueue,
            stop_dequeue: options.timer_stop_dequeue,
            skip_unknown_error: options.timer_skip_unknown_error,
            roll_window_slot: options.timer_roll_window_slot,
            flush_interval: Duration::from_millis(options.timer_flush_interval_ms),
            store_host: options.store_host,
        }
    }
}

/// A slot under delivery.
///
/// Its chain leads backwards, from the newest unit to the oldest. It is walked once to find out what is deleted and where
/// each [`CHUNK`] begins; then the chunks are read again and delivered, the oldest first.
struct Drain {
    time: Millis,
    /// Where the walk goes on.
    walk: Option<u64>,
    /// Newest unit of each chunk, that of the oldest chunk last.
    tops: Vec<u64>,
    /// `topic+key` of the messages that are deleted.
    deleted: HashSet<String>,
    /// The chunk under delivery, oldest unit first, and how much of it is done.
    chunk: Vec<(u64, Unit)>,
    done: usize,
    /// What the units that are done since the last capture counted for.
    delivered: i32,
}

impl Drain {
    fn new(time: Millis, last: u64) -> Drain {
        Drain {
            time,
            walk: Some(last),
            tops: Vec::new(),
            deleted: HashSet::new(),
            chunk: Vec::new(),
            done: 0,
            delivered: 0,
        }
    }

    /// Sees to it that there are units to deliver; `false` if all is delivered.
    fn load(&mut self, log: &mut TimerLog) -> Result<bool, Fault> {
        while self.done == self.chunk.len() {
            let Some(top) = self.tops.last() else { return Ok(false) };
            let mut chunk = Vec::with_capacity(CHUNK);
            log.chain(*top, CHUNK, &mut chunk)?;
            chunk.reverse();
            (self.chunk, self.done) = (chunk, 0);
            self.tops.pop();
        }
        Ok(true)
    }

    /// Returns what is left of the slot, once it is known.
    fn rest(&self) -> Option<Rest> {
        let (first, _) = self.chunk.get(self.done)?;
        Some(Rest { time: self.time, first: *first, delivered: self.delivered })
    }
}

/// A timer message as it is taken in.
struct Waiting<'a> {
    slot: Millis,
    topic: &'a str,
    is_deletion: bool,
}

impl<'a> Waiting<'a> {
    fn of(record: &'a Record<'_>) -> Option<Waiting<'a>> {
        let (mut slot, mut topic, mut is_deletion) = (None, None, false);
        for (name, value) in properties::iter(&record.properties) {
            match name {
                name::TIMER_OUT_MS => slot = value.parse().ok(),
                name::REAL_TOPIC => topic = Some(value),
                name::TIMER_DEL_UNIQKEY => is_deletion = true,
                _ => {}
            }
        }
        Some(Waiting { slot: slot?, topic: topic?, is_deletion })
    }
}

/// A message on its way out of its slot.
struct Outgoing {
    draft: Draft,
    topic: Option<Arc<Topic>>,
}

impl Timers {
    /// Opens the timers of a store; `None` with `timerWheelEnable=false`.
    pub(crate) fn open(
        store: &Store,
        options: &Options,
        metrics: Saved<TimerMetrics>,
    ) -> Result<Option<Timers>, store::OpenError> {
        if !options.timer_wheel_enable {
            return Ok(None);
        }
        let files = store.open_timers(&TimerOptions {
            precision: options.timer_precision_ms,
            file_len: options.mapped_file_size_timer_log,
        })?;
        let wheel = files.wheel().clone();
        let cursor = wheel.first_between(0, Millis::MAX).unwrap_or(0);
        let shown = Shown {
            cursor: AtomicI64::new(cursor),
            taken_to: AtomicI64::new(files.queue_offset()),
            save_needs: AtomicU64::new(u64::MAX),
            is_changed: AtomicBool::new(false),
            checkpoint: Mutex::new(files.checkpoint(cursor).java_bytes()),
        };
        let state = State {
            files,
            cursor,
            drain: None,
            needs: 0,
            counts: HashMap::new(),
            save_at: Duration::ZERO,
            clean_at: Duration::ZERO,
        };
        let queue = store.queue(names::TIMER_TOPIC, 0);
        Ok(Some(Timers { queue, wheel, metrics, state: Mutex::new(state), shown }))
    }

    /// Whether housekeeping has something to do.
    pub(crate) fn is_work_due(&self, now: Millis, synced: u64) -> bool {
        let shown = &self.shown;
        shown.taken_to.load(Ordering::Relaxed) < self.queue.max_offset()
            || shown.cursor.load(Ordering::Relaxed) < self.wheel.floor(now)
            || shown.save_needs.load(Ordering::Relaxed) <= synced
            || shown.is_changed.load(Ordering::Relaxed)
    }

    /// Returns the start of the first slot that may hold something undelivered.
    pub(crate) fn read_time(&self, now: Millis) -> Millis {
        self.shown.cursor.load(Ordering::Relaxed).min(self.wheel.floor(now))
    }

    /// Returns how many messages are not taken in yet.
    pub(crate) fn behind(&self) -> i64 {
        self.queue.max_offset() - self.shown.taken_to.load(Ordering::Relaxed)
    }

    /// Returns how many messages wait in slots.
    pub(crate) fn waiting(&self) -> i64 {
        self.wheel.count()
    }

    /// Returns the checkpoint as Java has it.
    pub(crate) fn checkpoint(&self) -> [u8; checkpoint::JAVA_BYTES] {
        *self.shown.checkpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many messages wait, by topic, as it was last written.
    pub(crate) fn metrics(&self) -> Arc<TimerMetrics> {
        self.metrics.read()
    }

    /// Forgets the count of a topic that was deleted.
    pub(crate) fn forget(&self, topic: &str) {
        if self.metrics.read().timing_count.contains_key(topic) {
            self.metrics.update(|metrics| {
                metrics.timing_count.remove(topic);
            });
        }
    }

    /// Has the checkpoint and the metrics written although they have not changed: another broker may have written its own.
    pub(crate) fn write_again(&self) {
        self.state().files.set_changed();
        self.shown.is_changed.store(true, Ordering::Relaxed);
        self.metrics.update(|_| ());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, topic: &str, by: i64) {
        match self.counts.get_mut(topic) {
            Some(count) => *count += by,
            None => {
                self.counts.insert(topic.into(), by);
            }
        }
    }

    fn read_time(&self, wheel: &Wheel, now: Millis) -> Millis {
        self.cursor.min(wheel.floor(now))
    }
}

/// The slot for a message due in that of `slot` when it is given one at `now`, and whether it comes back from there to the
/// timer topic. `window` is the roll window in slots. (Java: `TimerMessageStore.doEnqueue`)
fn placed(wheel: &Wheel, window: i64, now: Millis, slot: Millis) -> (Millis, bool) {
    let (now, tick) = (wheel.floor(now), wheel.precision());
    let beyond = slot.saturating_sub(now).saturating_sub(window * tick);
    if beyond < 0 {
        (slot, false)
    } else if beyond < window / 3 * tick {
        // Give the next roll enough time.
        (now + window / 2 * tick, true)
    } else {
        (now + window * tick, true)
    }
}

impl Broker {
    /// Does what is due of the timers, a bounded piece of it; says whether there is more. It may wait for the disk.
    pub(crate) fn tick_timers(&self) -> bool {
        let Some(timers) = &self.inner.timers else { return false };
        let settings = Settings::of(&self.inner.options.read());
        let mut state = timers.state();
        let mut is_more = false;
        for (what, outcome) in [
            ("taken in", self.take_in(timers, &mut state, &settings)),
            ("delivered", self.deliver_slots(timers, &mut state, &settings)),
        ] {
            match outcome {
                Ok(more) => is_more |= more,
                Err(fault) => tracing::warn!(error = %fault, "timer messages not {what}"),
            }
        }
        self.save_timers(timers, &mut state, settings.flush_interval);
        is_more
    }

    /// Saves how far the timers have come, after the last request.
    pub(crate) fn close_timers(&self) {
        let Some(timers) = &self.inner.timers else { return };
        let is_synced = self.inner.store.sync_blocking();
        let mut state = timers.state();
        // A state that waited, then that of now.
        self.save_timers(timers, &mut state, Duration::ZERO);
        state.save_at = Duration::ZERO;
        self.save_timers(timers, &mut state, Duration::ZERO);
        if !is_synced || state.files.is_saving() {
            tracing::warn!("timers are not saved: what was delivered last will be delivered again");
        }
    }

    /// Gives what is new in the timer topic its slots; says whether there is more.
    fn take_in(
        &self,
        timers: &Timers,
        state: &mut State,
        settings: &Settings,
    ) -> Result<bool, Fault> {
        if settings.stop_enqueue {
            return Ok(false);
        }
        let mut offset = state.files.queue_offset().max(timers.queue.min_offset());
        let mut entries = Vec::new();
        timers.queue.read(offset, TAKEN_MAX, &mut entries)?;
        let is_more = entries.len() == TAKEN_MAX;
        for entry in entries {
            if !entry.is_gap() && !self.take_one(timers, state, settings, offset, &entry)? {
                return Ok(false);
            }
            offset += 1;
            state.files.set_queue_offset(offset);
        }
        Ok(is_more)
    }

    /// Gives one message its slot; `false` when the wheel has no room for it before others are delivered.
    fn take_one(
        &self,
        timers: &Timers,
        state: &mut State,
        settings: &Settings,
        offset: i64,
        entry: &QueueEntry,
    ) -> Result<bool, Fault> {
        let Some(bytes) = self.timer_record(settings, entry.log_offset, entry.len)? else {
            return Ok(true);
        };
        let record = Record::decode(&bytes, CheckCrc::No).ok();
        let Some((record, waiting)) =
            record.as_ref().and_then(|record| Some((record, Waiting::of(record)?)))
        else {
            tracing::warn!(
                log_offset = entry.log_offset,
                "a record of the timer topic is no timer message"
            );
            return Ok(true);
        };
        let (now, wheel) = (self.inner.env.clock.now(), &timers.wheel);
        let window = self.roll_window(settings, wheel.precision());
        let (slot_then, _) = placed(wheel, window, record.numbers.stored_at, waiting.slot);
        if state.files.is_known(offset, entry.log_offset, slot_then) {
            return Ok(true);
        }
        let (slot, is_rolled) = placed(wheel, window, now, waiting.slot);
        let closed = state.drain.as_ref().map(|drain| drain.time);
        let Some(slot) = state.files.slot_for(slot, closed) else { return Ok(false) };
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let unit = Unit {
            previous: -1,
            magic: magic::DEFAULT
                | bit(is_rolled, magic::ROLL)
                | bit(waiting.is_deletion, magic::DELETE),
            written_at: wheel.floor(now),
            delay: 0,
            log_offset: entry.log_offset,
            len: entry.len,
            topic_hash: hash::java_string_hash(waiting.topic),
        };
        state.files.insert(slot, unit)?;
        state.cursor = state.cursor.min(slot);
        state.needs = state.needs.max(entry.log_offset + u64::from(entry.len));
        state.count(waiting.topic, if waiting.is_deletion { -1 } else { 1 });
        self.inner.stats.timers_in.add(1, 0);
        Ok(true)
    }

    /// Returns how far ahead a slot may be, in slots: no record waits for longer than two thirds of the log's retention.
    fn roll_window(&self, settings: &Settings, precision: Millis) -> i64 {
        let most = SLOTS / 2 - BLANK_SLOTS;
        let window = i64::from(settings.roll_window_slot);
        let window = if (2..=most).contains(&window) { window } else { most };
        let reserved = self.inner.store.file_reserved_time().as_millis() * 2 / 3;
        window.min(i64::try_from(reserved).unwrap_or(i64::MAX) / precision).max(2)
    }

    /// Reads a record that a timer stands for; `None` if the log does not have it any more.
    fn timer_record(
        &self,
        settings: &Settings,
        log_offset: u64,
        len: u32,
    ) -> Result<Option<Bytes>, Fault> {
        match self.inner.store.read_blocking(log_offset, len) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Fault::OutOfRange(_)) => {
                tracing::warn!(log_offset, "the log no longer has a timer message");
                Ok(None)
            }
            Err(fault) if settings.skip_unknown_error => {
                tracing::warn!(log_offset, error = %fault, "a timer message is skipped (timerSkipUnknownError)");
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Delivers slots whose span has passed, the first first; says whether there is more.
    fn deliver_slots(
        &self,
        timers: &Timers,
        state: &mut State,
        settings: &Settings,
    ) -> Result<bool, Fault> {
        if settings.stop_dequeue {
            return Ok(false);
        }
        let (mut runs, mut units) = (0, 0);
        while runs < RUNS_MAX && units < UNITS_MAX {
            let Some(drain) = &mut state.drain else {
                let now = timers.wheel.floor(self.inner.env.clock.now());
                match timers.wheel.first_between(state.cursor, now) {
                    Some(time) => {
                        state.cursor = time;
                        let slot = timers.wheel.get(time).expect("it was just found");
                        state.drain = Some(Drain::new(time, slot.last.unsigned_abs()));
                    }
                    None => {
                        state.cursor = state.cursor.max(now);
                        return Ok(false);
                    }
                }
                continue;
            };
            if let Some(from) = drain.walk {
                units += self.walk(&mut state.files, drain, settings, from)?;
                continue;
            }
            if !drain.load(state.files.log())? {
                let time = drain.time;
                state.drain = None;
                state.files.clear(time);
                state.cursor = time + timers.wheel.precision();
                continue;
            }
            runs += 1;
            if !self.deliver_run(state, settings)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks at the next chunk of a chain; returns how many units it had.
    fn walk(
        &self,
        files: &mut store::timer::Timers,
        drain: &mut Drain,
        settings: &Settings,
        from: u64,
    ) -> Result<usize, Fault> {
        let mut units = Vec::with_capacity(CHUNK);
        let next = files.log().chain(from, CHUNK, &mut units)?;
        for (_, unit) in units.iter().filter(|(_, unit)| unit.is_deletion()) {
            let Some(bytes) = self.timer_record(settings, unit.log_offset, unit.len)? else {
                continue;
            };
            let Ok(record) = Record::decode(&bytes, CheckCrc::No) else { continue };
            let text = &record.properties;
            let (Some(key), Some(topic)) = (
                properties::get(text, name::TIMER_DEL_UNIQKEY),
                properties::get(text, name::REAL_TOPIC),
            ) else {
                continue;
            };
            // The key is that of the message, with its topic before it under appendTopicForTimerDeleteKey.
            drain.deleted.insert(deletion_key(topic, key));
            drain.deleted.insert(key.to_owned());
        }
        if !units.is_empty() {
            drain.tops.push(from);
        }
        drain.walk = next;
        Ok(units.len().max(1))
    }

    /// Delivers the next messages of the slot under delivery with one append; `false` when one must be tried again.
    fn deliver_run(&self, state: &mut State, settings: &Settings) -> Result<bool, Fault> {
        let inner = &*self.inner;
        let Some(mut drain) = state.drain.take() else { return Ok(true) };
        let outcome = (|| {
            let now = inner.env.clock.now();
            let (mut run, mut places, mut counted) = (Vec::new(), Vec::new(), Vec::new());
            let (mut bytes, mut at) = (0, drain.done);
            let mut last_topic = None;
            while at < drain.chunk.len() && run.len() < RUN_MAX && bytes < RUN_BYTES {
                let (_, unit) = drain.chunk[at];
                let (topic, outgoing) =
                    self.outgoing(settings, &drain, &unit, now, &mut last_topic)?;
                if let Some(Outgoing { draft, topic: real }) = outgoing {
                    bytes += unit.len as usize;
                    places.push((at, draft.message.body.len() as u64, real));
                    run.push(Entry::One(draft));
                }
                counted.extend(topic.map(|topic| (at, topic, -i64::from(unit.count()))));
                at += 1;
            }
            let mut done = at;
            for (outcome, (place, len, topic)) in
                inner.store.append_in_order(&run).into_iter().zip(places)
            {
                match outcome {
                    Ok(stored) => {
                        state.needs = state.needs.max(stored.end);
                        inner.stats.timers_out.add(1, 0);
                        if let Some(topic) = topic {
                            inner.stats.count_put(&topic.stats, 1, len);
                        }
                    }
                    Err(Refused::TooLarge) => tracing::warn!(
                        log_offset = drain.chunk[place].1.log_offset,
                        "a timer message is above maxMessageSize now; it stays undelivered in the log"
                    ),
                    Err(_) => {
                        done = place;
                        break;
                    }
                }
            }
            inner.store.drive();
            for (_, topic, by) in counted.iter().filter(|(place, ..)| *place < done) {
                state.count(topic, *by);
            }
            let passed = &drain.chunk[drain.done..done];
            drain.delivered += passed.iter().map(|(_, unit)| unit.count()).sum::<i32>();
            drain.done = done;
            Ok(done == at)
        })();
        state.drain = Some(drain);
        outcome
    }

    /// Makes the message that goes out for a unit, and says for which topic it counted. No message for a mark of deletion,
    /// for what it marks, and for what cannot be read.
    fn outgoing(
        &self,
        settings: &Settings,
        drain: &Drain,
        unit: &Unit,
        now: Millis,
        last_topic: &mut Option<Arc<Topic>>,
    ) -> Result<(Option<ByteString>, Option<Outgoing>), Fault> {
        let inner = &*self.inner;
        let Some(bytes) = self.timer_record(settings, unit.log_offset, unit.len)? else {
            return Ok((None, None));
        };
        let record = Record::decode(&bytes, CheckCrc::No).ok().filter(|record| {
            record.numbers.log_offset == unit.log_offset && record.topic == names::TIMER_TOPIC
        });
        let Some(record) = record else {
            tracing::warn!(
                log_offset = unit.log_offset,
                "what a timer stands for is no timer message"
            );
            return Ok((None, None));
        };
        let is_rolled = unit.is_rolled();
        let (mut real_topic, mut real_queue, mut key, mut rolls, mut is_mark) =
            (None, None, None, 0, false);
        let mut text = String::with_capacity(record.properties.len() + ROOM_FOR_MORE);
        for (name, value) in properties::iter(&record.properties) {
            match name {
                name::REAL_TOPIC => real_topic = Some(value),
                name::REAL_QID => real_queue = value.parse::<i32>().ok(),
                name::UNIQ_KEY => key = Some(value),
                name::TIMER_DEL_UNIQKEY => is_mark = true,
                name::TIMER_ROLL_TIMES => rolls = value.parse::<i32>().unwrap_or(0),
                _ => {}
            }
            let is_kept = match name {
                name::TIMER_ENQUEUE_MS | name::TIMER_DEQUEUE_MS => false,
                name::TIMER_ROLL_TIMES => !is_rolled,
                _ => true,
            };
            if is_kept {
                properties::append(&mut text, name, value);
            }
        }
        let (Some(real_topic), Some(real_queue)) = (real_topic, real_queue) else {
            tracing::warn!(
                log_offset = unit.log_offset,
                "a timer message does not say where it belongs"
            );
            return Ok((None, None));
        };
        let topic = match &*last_topic {
            Some(topic) if *topic.name == *real_topic => Some(topic.clone()),
            _ => inner.topics.find(real_topic),
        };
        let name = topic.as_ref().map_or_else(|| real_topic.into(), |topic| topic.name.clone());
        let is_deleted = !drain.deleted.is_empty()
            && key.is_some_and(|key| drain.deleted.contains(&deletion_key(real_topic, key)));
        if is_deleted && !unit.is_deletion() || is_mark && !is_rolled {
            return Ok((Some(name), None));
        }
        let len = text.len();
        properties::append(&mut text, name::TIMER_ENQUEUE_MS, &unit.written_at.to_string());
        properties::append(&mut text, name::TIMER_DEQUEUE_MS, &now.to_string());
        if is_rolled {
            properties::append(
                &mut text,
                name::TIMER_ROLL_TIMES,
                &rolls.saturating_add(1).to_string(),
            );
        }
        if text.len() > properties::LEN_MAX {
            // What the message came with comes first.
            text.truncate(len);
        }
        let (place, queue_id) = if is_rolled {
            (ByteString::from_static(names::TIMER_TOPIC), 0)
        } else {
            (name.clone(), real_queue)
        };
        let queue = match &topic {
            _ if is_rolled => inner.store.queue(names::TIMER_TOPIC, 0),
            Some(topic) => topic.queue(&inner.store, queue_id),
            None => inner.store.queue(&place, queue_id),
        };
        let message = Message {
            topic: place,
            queue_id,
            flag: record.flag,
            sys_flag: record.sys_flag,
            born_at: record.born_at,
            born_host: record.born_host,
            store_host: settings.store_host,
            reconsume_times: record.reconsume_times,
            prepared_offset: 0,
            body: bytes.slice_ref(record.body),
            properties: text.into(),
        };
        let draft = self.lighten_due(Draft::new(message, queue));
        last_topic.clone_from(&topic);
        let topic = topic.filter(|_| !is_rolled);
        Ok((Some(name), Some(Outgoing { draft, topic })))
    }

    /// Captures the state of now each `period`, and writes what was captured once the log is synced far enough.
    fn save_timers(&self, timers: &Timers, state: &mut State, period: Duration) {
        let inner = &*self.inner;
        let (now, time) = (inner.env.clock.now(), inner.env.clock.monotonic());
        let read_time = state.read_time(&timers.wheel, now);
        if time >= state.save_at && !state.files.is_saving() {
            state.save_at = time + period;
            let rest = state.drain.as_ref().and_then(Drain::rest);
            state.files.capture(now, read_time, rest, state.needs);
            if let (Some(drain), true) = (&mut state.drain, rest.is_some()) {
                drain.delivered = 0;
            }
            if !state.counts.is_empty() {
                let counts = std::mem::take(&mut state.counts);
                timers.metrics.update(|metrics| metrics.add(counts, now));
            }
        }
        if state.files.is_saving() {
            match state.files.save(inner.store.marks().synced.get()) {
                Ok(()) if !state.files.is_saving() => timers.metrics.flush(),
                Ok(()) => {}
                Err(fault) => tracing::error!(error = %fault, "timers are not saved"),
            }
        }
        if time >= state.clean_at {
            state.clean_at = time + CLEAN_PERIOD;
            if let Err(fault) = state.files.follow_log_min(inner.store.log_range().start) {
                tracing::warn!(error = %fault, "files of the timer log stay");
            }
        }
        let shown = &timers.shown;
        shown.cursor.store(state.cursor, Ordering::Relaxed);
        shown.taken_to.store(state.files.queue_offset(), Ordering::Relaxed);
        let save_needs = if state.files.is_saving() { state.needs } else { u64::MAX };
        shown.save_needs.store(save_needs, Ordering::Relaxed);
        shown.is_changed.store(state.files.is_changed(), Ordering::Relaxed);
        let checkpoint = state.files.checkpoint(read_time).java_bytes();
        *shown.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = checkpoint;
    }
}

impl TimerMetrics {
    fn add(&mut self, counts: HashMap<ByteString, i64>, now: Millis) {
        for (topic, by) in counts {
            let entry = self.timing_count.entry(topic.to_string()).or_default();
            entry.count += by;
            entry.time_stamp = now;
            self.data_version.advance(now);
        }
    }
}

/// Bytes for what delivery adds to the properties.
const ROOM_FOR_MORE: usize = 96;

fn deletion_key(topic: &str, key: &str) -> String {
    format!("{topic}+{key}")
}
