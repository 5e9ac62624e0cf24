//! Timers on disk: which messages of the timer topic wait for which slot of time.
//!
//! Queue 0 of `rmq_sys_wheel_timer` holds every timer message. Taken in, each gets a unit in the timer [`log`], chained
//! into its slot of the [`wheel`]; both are a fold of that queue, and the [`checkpoint`] says how far it has come. What
//! slots mean, and delivery, are left to the caller. (Java: `TimerMessageStore`, its files)
//!
//! Memory is ahead of the files, and [`Timers::capture`] takes of it what agrees with itself; [`Timers::save`] writes that
//! once the log of messages is synced far enough. So the files never know of a delivery that could be lost, nor of a
//! message; after a crash the timer log is cut at the checkpoint and what came later is taken in again.
//!
//! Invariant: once a message is taken in its slot is in use until it is delivered.

pub mod checkpoint;
pub mod log;
pub mod wheel;

use std::{collections::HashSet, io, ops::ControlFlow, path::PathBuf, sync::Arc};

use env::{Disk, Millis, Open};
use wire::{
    names,
    record::{CheckCrc, Record},
};

use self::{
    checkpoint::{OwnTimerCheckpoint, TimerCheckpoint},
    log::{TimerLog, Unit},
    wheel::{DirtyPage, SLOTS, Slot, Wheel, write_pages},
};
use crate::{
    Fault, OpenError, Queue, Store,
    segments::{Layout, LoadError, OpenFiles, Segments},
    views::LastStop,
};

/// Files of the timer log that are open at once.
const OPEN_FILES_MAX: usize = 8;
/// Precisions that a wheel can have (Java: `MessageStoreConfig.setTimerPrecisionMs`).
const PRECISIONS: [Millis; 4] = [1000, 500, 200, 100];
/// When a lost timer log is built anew, how long before the known read time deliveries are still in doubt.
const DOUBT: Millis = 60_000;

/// What the files of timers look like.
#[derive(Clone, Copy, Debug)]
pub struct TimerOptions {
    /// `timerPrecisionMs`: span of a slot. A wheel in use keeps the one it has.
    pub precision: Millis,
    /// `mappedFileSizeTimerLog`: bytes of a timer log file.
    pub file_len: u64,
}

/// What of a slot is left when a part of it was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The slot's time.
    pub time: Millis,
    /// Position of its first unit that is not delivered.
    pub first: u64,
    /// How many messages are.
    pub delivered: i32,
}

/// The timers of one store; they have one user.
pub struct Timers {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    config_dir: PathBuf,
    wheel: Arc<Wheel>,
    log: TimerLog,
    /// Next offset of the timer topic to take in.
    queue_offset: i64,
    /// Log offsets of messages from there on that have their unit already: the original was killed between the two.
    known: HashSet<u64>,
    /// Messages before this queue offset whose slot is before this time were delivered when the timer log was lost.
    lost_log: Option<(i64, Millis)>,
    version: [i64; 3],
    is_changed: bool,
    round: Option<Round>,
    sync_failed: bool,
}

/// A state of wheel and timer log, on its way to the files.
struct Round {
    pages: Vec<DirtyPage>,
    /// Unit that becomes the first of its chain.
    cut: Option<u64>,
    checkpoint: TimerCheckpoint,
    /// The log of messages must be synced up to here first.
    needs: u64,
}

impl Store {
    /// Opens the timers of this store, brings wheel and timer log to one state and says from where the timer topic is to be
    /// taken in. Once; the store must be recovered, which it is from [`Store::open`] on.
    ///
    /// # Errors
    /// [`OpenError`] when files cannot be read or have another size than the options say.
    pub fn open_timers(&self, options: &TimerOptions) -> Result<Timers, OpenError> {
        let root = self.0.options.store_path_root_dir.clone();
        let config_dir = self.config_dir();
        let disk = Arc::clone(&self.0.env.disk);
        let failed =
            |path: PathBuf| move |source| OpenError::Io { what: "cannot read", path, source };
        let check_path = config_dir.join(CHECKPOINT);
        let check = TimerCheckpoint::load(&*disk, &check_path).map_err(failed(check_path))?;
        let wheel_path = root.join(WHEEL);
        let wheel = Wheel::load(&*disk, &wheel_path).map_err(failed(wheel_path))?;
        let layout = Layout {
            roots: vec![root.join(LOG)],
            read_only: Vec::new(),
            file_len: options.file_len,
        };
        let open_files = OpenFiles::new(OPEN_FILES_MAX);
        let segments =
            Segments::load(Arc::clone(&disk), open_files, layout).map_err(|error| match error {
                LoadError::FileLen { path, found, expected } => {
                    OpenError::FileLen { key: "mappedFileSizeTimerLog", path, found, expected }
                }
                LoadError::Io { path, source } => {
                    OpenError::Io { what: "cannot list", path, source }
                }
            })?;
        let found = Found { check: check.unwrap_or_default(), wheel, log: TimerLog::new(segments) };
        let recovered = found.recover(self, options)?;
        let Recovery { wheel, log, queue_offset, known, lost_log, version } = recovered;
        Ok(Timers {
            disk,
            root,
            config_dir,
            wheel: Arc::new(wheel),
            log,
            queue_offset,
            known,
            lost_log,
            version,
            is_changed: false,
            round: None,
            sync_failed: false,
        })
    }
}

const CHECKPOINT: &str = "timercheck";
const WHEEL: &str = "timerwheel";
const LOG: &str = "timerlog";

/// The files as they were found.
struct Found {
    check: TimerCheckpoint,
    wheel: Option<Wheel>,
    log: TimerLog,
}

/// What recovery makes of them.
struct Recovery {
    wheel: Wheel,
    log: TimerLog,
    queue_offset: i64,
    known: HashSet<u64>,
    lost_log: Option<(i64, Millis)>,
    version: [i64; 3],
}

impl Found {
    fn recover(mut self, store: &Store, options: &TimerOptions) -> Result<Recovery, Fault> {
        let check = self.check;
        let queue = store.queue(names::TIMER_TOPIC, 0);
        let files = self.log.files();
        let own = check
            .own
            .filter(|own| own.log_end == 0 || files.contains(&own.log_end.saturating_sub(1)));
        let precision = self.precision(options)?;
        let wheel_found = self.wheel.is_some();
        let wheel =
            self.wheel.take().unwrap_or_else(|| Wheel::empty(precision)).with_precision(precision);

        let is_log_lost =
            check.own.is_some() && own.is_none() || files.is_empty() && check.queue_offset > 0;
        // Where the original's crash may have left units that its wheel does not know.
        let doubtful_from = match own {
            Some(_) if wheel_found => u64::MAX,
            None if wheel_found => {
                self.log.file_before(u64::try_from(check.log_synced).unwrap_or(0))
            }
            Some(_) | None => files.start,
        };
        let mut end = match own {
            Some(own) => own.log_end,
            None if is_log_lost => 0,
            None => self.log.scan(doubtful_from, files.end, |_, _| ControlFlow::Continue(()))?,
        };
        // A message that the log has lost has no unit; its place is another's now.
        let log_end = store.log_range().end;
        while let Some(last) = self.log.last_before(end) {
            let unit = self.log.unit_at(last)?;
            if unit.is_some_and(|unit| unit.log_end() <= log_end) {
                break;
            }
            end = last;
        }
        self.log.end_at(end)?;
        self.mend_wheel(&wheel, check.read_time, doubtful_from)?;

        let range = queue.min_offset()..queue.max_offset();
        let mut queue_offset = check.queue_offset;
        let (mut known, mut lost_log) = (HashSet::new(), None);
        if is_log_lost {
            lost_log = Some((queue_offset.min(range.end), check.read_time.saturating_sub(DOUBT)));
            queue_offset = range.start;
            tracing::warn!(
                from = queue_offset,
                "the timer log is lost; the timer topic is taken in again"
            );
        } else if own.is_none() {
            if store.last_stop() == LastStop::Crash {
                queue_offset = queue_offset.min(self.behind_last_unit(store, end)?);
            }
            known = self.units_from(&queue, queue_offset, end)?;
        }
        let queue_offset = queue_offset.clamp(range.start, range.end);

        let wheel = if wheel.first_between(0, Millis::MAX).is_none() {
            wheel.with_precision(options.precision)
        } else {
            wheel
        };
        if wheel.precision() != options.precision {
            tracing::warn!(
                in_force = wheel.precision(),
                configured = options.precision,
                "timerPrecisionMs takes effect at a start at which no timer message waits"
            );
        }
        tracing::info!(
            waiting = wheel.count(),
            queue_offset,
            timer_log_end = end,
            "timers are open"
        );
        let version = check.version;
        Ok(Recovery { wheel, log: self.log, queue_offset, known, lost_log, version })
    }

    /// Finds out what a tick of the wheel is: the file does not say.
    fn precision(&mut self, options: &TimerOptions) -> Result<Millis, Fault> {
        if let Some(own) = self.check.own {
            return Ok(own.precision);
        }
        let mut samples = Vec::new();
        if let Some(wheel) = &self.wheel {
            wheel.revise(|slot| {
                samples.push(slot);
                Some(slot)
            });
        }
        for slot in samples {
            let unit = match u64::try_from(slot.last) {
                Ok(last) => self.log.unit_at(last)?,
                Err(_) => None,
            };
            let Some(time) = unit.map(|unit| unit.slot_time()) else { continue };
            if let Some(found) = PRECISIONS.into_iter().find(|one| time / one == slot.tick) {
                return Ok(found);
            }
        }
        Ok(options.precision)
    }

    /// Takes delivered slots out of use, and brings the others to where the timer log ends. From `doubtful_from` on, units
    /// may lack their slot.
    fn mend_wheel(
        &self,
        wheel: &Wheel,
        read_time: Millis,
        doubtful_from: u64,
    ) -> Result<(), Fault> {
        let (start, end) = (self.log.files().start as i64, self.log.end() as i64);
        let doubtful_from = i64::try_from(doubtful_from).unwrap_or(i64::MAX).max(start);
        let mut from = doubtful_from;
        wheel.revise(|slot| {
            let is_delivered = slot.tick.saturating_mul(wheel.precision()) < read_time;
            if is_delivered
                || slot.last < start
                || slot.last >= end && !(0..end).contains(&slot.first)
            {
                return None;
            }
            if slot.last < end {
                return Some(slot);
            }
            from = from.min(self.log.floor(slot.first.max(start) as u64) as i64);
            Some(Slot { last: -1, count: 0, ..slot })
        });
        let visit = |at: u64, unit: Unit| {
            let (at, time) = (at as i64, unit.slot_time());
            if time >= read_time && time >= wheel.precision() {
                let tick = time / wheel.precision();
                let new = Slot { tick, first: at, last: -1, count: 0, magic: 0 };
                let slot = wheel.get(time).or_else(|| (at >= doubtful_from).then_some(new));
                if let Some(slot) = slot.filter(|slot| slot.last < at) {
                    let count = slot.count.saturating_add(unit.count());
                    wheel.put(Slot { last: at, count, ..slot });
                }
            }
            ControlFlow::Continue(())
        };
        if from < end {
            self.log.scan(from as u64, end as u64, visit)?;
        }
        wheel.revise(|slot| (slot.last >= 0).then_some(slot));
        Ok(())
    }

    /// Returns the queue offset behind the message of the last unit, as the original does after a crash.
    fn behind_last_unit(&mut self, store: &Store, end: u64) -> Result<i64, Fault> {
        let Some(last) = self.log.last_before(end) else { return Ok(i64::MAX) };
        let Some(unit) = self.log.unit_at(last)? else { return Ok(i64::MAX) };
        let bytes = match store.read_blocking(unit.log_offset, unit.len) {
            Ok(bytes) => bytes,
            Err(Fault::OutOfRange(_)) => return Ok(i64::MAX),
            Err(fault) => return Err(fault),
        };
        let record = Record::decode(&bytes, CheckCrc::No);
        Ok(record.map_or(i64::MAX, |record| record.numbers.queue_offset.saturating_add(1)))
    }

    /// Returns the log offsets of the units that stand for messages from `queue_offset` on.
    fn units_from(
        &mut self,
        queue: &Queue,
        queue_offset: i64,
        end: u64,
    ) -> Result<HashSet<u64>, Fault> {
        let mut known = HashSet::new();
        let Some(first) = queue.entry(queue_offset)? else { return Ok(known) };
        let mut last = self.log.last_before(end);
        while let Some(at) = last {
            match self.log.unit_at(at)? {
                Some(unit) if unit.log_offset >= first.log_offset => known.insert(unit.log_offset),
                Some(_) | None => break,
            };
            last = self.log.last_before(at);
        }
        Ok(known)
    }
}

impl Timers {
    /// Returns the wheel, which others may look at.
    pub fn wheel(&self) -> &Arc<Wheel> {
        &self.wheel
    }

    /// Returns the timer log, to walk its chains.
    pub fn log(&mut self) -> &mut TimerLog {
        &mut self.log
    }

    /// Returns the next offset of the timer topic to take in.
    pub fn queue_offset(&self) -> i64 {
        self.queue_offset
    }

    /// Notes that everything before an offset of the timer topic is taken in.
    pub fn set_queue_offset(&mut self, offset: i64) {
        self.is_changed |= self.queue_offset != offset;
        self.queue_offset = offset;
    }

    /// Whether the message at `queue_offset`, next to be taken in, has its unit already, or was delivered before the timer
    /// log was lost. `slot` is the time it would get.
    pub fn is_known(&mut self, queue_offset: i64, log_offset: u64, slot: Millis) -> bool {
        let was_delivered =
            self.lost_log.is_some_and(|(end, time)| queue_offset < end && slot < time);
        was_delivered || !self.known.is_empty() && self.known.remove(&log_offset)
    }

    /// Returns the slot that a message due at `due` gets: its own, or the next that is free when that one still waits for
    /// another turn of the wheel, or is `closed`. `None` when there is none: then the overdue must be delivered first.
    pub fn slot_for(&self, due: Millis, closed: Option<Millis>) -> Option<Millis> {
        let mut time = self.wheel.floor(due);
        for _ in 0..SLOTS {
            let is_taken = self
                .wheel
                .occupant(time)
                .is_some_and(|slot| slot.tick != time / self.wheel.precision());
            if !is_taken && closed != Some(time) {
                return Some(time);
            }
            time += self.wheel.precision();
        }
        None
    }

    /// Puts a message into the slot of `time`, which [`Timers::slot_for`] gave. The unit's own `previous` and `delay` do
    /// not matter. It may wait for the disk.
    pub fn insert(&mut self, time: Millis, unit: Unit) -> Result<(), Fault> {
        let slot = self.wheel.get(time);
        // What is overdue when it is taken in was written when its slot began.
        let written_at = unit.written_at.min(time);
        let unit = Unit {
            previous: slot.map_or(-1, |slot| slot.last),
            written_at,
            delay: i32::try_from(time - written_at).unwrap_or(i32::MAX),
            ..unit
        };
        let at = self.log.append(&unit)? as i64;
        let tick = time / self.wheel.precision();
        let slot = slot.unwrap_or(Slot { tick, first: at, last: at, count: 0, magic: 0 });
        let count = slot.count.saturating_add(unit.count());
        self.wheel.put(Slot { last: at, count, ..slot });
        self.is_changed = true;
        Ok(())
    }

    /// Takes a slot out of use: all that was in it is delivered.
    pub fn clear(&mut self, time: Millis) {
        self.wheel.clear(time);
        self.is_changed = true;
    }

    /// Lets go of timer log files whose messages the log no longer has.
    pub fn follow_log_min(&self, log_min: u64) -> Result<usize, Fault> {
        self.log.follow_log_min(log_min)
    }

    /// Returns the checkpoint that would say what is true now.
    pub fn checkpoint(&self, read_time: Millis) -> TimerCheckpoint {
        let log_end = self.log.end();
        TimerCheckpoint {
            read_time,
            log_synced: log_end as i64,
            queue_offset: self.queue_offset,
            master_queue_offset: self.queue_offset,
            version: self.version,
            own: Some(OwnTimerCheckpoint { log_end, precision: self.wheel.precision() }),
        }
    }

    /// Takes the state of this moment for [`Timers::save`], if it changed and none waits already. Slots before `read_time`
    /// are delivered, as is a part of another one's if there is a `rest`; `needs` is the end of the log of messages behind
    /// all that was taken in and delivered.
    pub fn capture(&mut self, now: Millis, read_time: Millis, rest: Option<Rest>, needs: u64) {
        if self.round.is_some() || !self.is_changed && rest.is_none() {
            return;
        }
        self.is_changed = false;
        if let Some(rest) = rest
            && let Some(slot) = self.wheel.get(rest.time)
        {
            let count = slot.count.saturating_sub(rest.delivered);
            self.wheel.put(Slot { first: rest.first as i64, count, ..slot });
        }
        self.version = [self.version[0], now, self.version[2].saturating_add(1)];
        let pages = self.wheel.take_dirty();
        let cut = rest.map(|rest| rest.first);
        self.round = Some(Round { pages, cut, checkpoint: self.checkpoint(read_time), needs });
    }

    /// Has the next capture take the state although it has not changed.
    pub fn set_changed(&mut self) {
        self.is_changed = true;
    }

    /// Whether there is something that was not captured yet.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Whether a captured state waits to be written.
    pub fn is_saving(&self) -> bool {
        self.round.is_some()
    }

    /// Writes the captured state, if the log of messages is `synced` far enough. It waits for the disk; what failed for want
    /// of room is tried again by the next call.
    ///
    /// # Errors
    /// [`Fault`]; after a failed sync nothing is saved any more until the timers are opened anew.
    pub fn save(&mut self, synced: u64) -> Result<(), Fault> {
        let Some(round) = &self.round else { return Ok(()) };
        if synced < round.needs {
            return Ok(());
        }
        if self.sync_failed {
            return Err(Fault::Io(io::Error::other("an earlier sync of the timer log failed")));
        }
        self.log.write()?;
        if let Some(cut) = round.cut {
            self.log.cut_chain(cut)?;
        }
        let path = self.root.join(WHEEL);
        let is_new = !self.disk.exists(&path)?;
        let wheel = self.disk.open(&path, Open::Length(wheel::FILE_BYTES))?;
        write_pages(&*wheel, &round.pages)?;
        // What is synced in vain here is written again by the next call; only units are written once.
        self.log.sync().inspect_err(|_| self.sync_failed = true)?;
        wheel.sync()?;
        if is_new {
            self.disk.sync_dir(&self.root)?;
        }
        let path = self.config_dir.join(CHECKPOINT);
        let is_new = !self.disk.exists(&path)?;
        round.checkpoint.save(&*self.disk, &path)?;
        if is_new {
            self.disk.sync_dir(&self.config_dir)?;
        }
        self.round = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
