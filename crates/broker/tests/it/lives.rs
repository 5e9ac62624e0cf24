//! `kill -9` at any moment, also within a write, and power cuts, against a model of what delays, timers, retries and locks
//! promise.
//!
//! `APOGEE_SEED=<n>` runs that seed alone, `APOGEE_SEEDS=<n>` so many. A message is safe from a kill once the log is
//! written behind it, and from a power cut once it is synced: then it comes, though perhaps twice where something ended.

use std::{collections::BTreeMap, time::Duration};

use broker::api::*;
use env::sim::{Crash, SimClock, SimDisk};
use wire::{body::MessageQueue, record::CheckCrc};

use crate::world::{START, World, caller, from, now, to};

const RETRY: &str = "%RETRY%g";
const DEAD: &str = "%DLQ%g";
const LEVELS: [i64; 4] = [1_000, 3_000, 7_000, 20_000];
/// Attempts after which a message is a dead letter.
const ATTEMPTS_MAX: i32 = 2;
/// How long a queue lock lasts without renewal, ms.
const LEASE: u128 = 60_000;

/// Something that will come: from a send, or from a message that was sent back.
struct Promise {
    /// Topic that it comes in.
    topic: &'static str,
    body: String,
    attempt: i32,
    due: i64,
    /// End of its record in the log.
    end: u64,
    /// Whether a crash may have taken it.
    is_at_risk: bool,
}

struct Life {
    rng: fastrand::Rng,
    world: World,
    promises: Vec<Promise>,
    /// Who holds each queue, and until when on the monotonic clock.
    locks: BTreeMap<i32, (&'static str, u128)>,
    has_crashes: bool,
}

impl Life {
    fn new(seed: u64) -> Life {
        let mut rng = fastrand::Rng::with_seed(seed);
        let clock = SimClock::new(START);
        let disk = SimDisk::new(rng.u64(..), clock.clone());
        let world = World::on(clock, disk, |options| {
            options.delay_levels = LEVELS.to_vec();
            options.timer_roll_window_slot = [10, 172_800][rng.usize(..2)];
            options.sync_flush = false;
        });
        let has_crashes = rng.u8(..4) > 0;
        let mut life =
            Life { rng, world, promises: Vec::new(), locks: BTreeMap::new(), has_crashes };
        // Topics are acknowledged when they are in their file; here they are from the start.
        life.send("first".into(), "");
        life.world.store.step_all();
        life.send_back("t", 1);
        life.send_back("t", -1);
        life.world = life.world.restart();
        life
    }

    fn now(&self) -> i64 {
        self.world.clock.now()
    }

    fn send(&mut self, body: String, more: &str) {
        let due = match more.split_once('\u{1}') {
            Some(("DELAY", level)) => {
                let level: usize = level.trim_end_matches('\u{2}').parse().expect("a level");
                self.now() + LEVELS[level.min(LEVELS.len()) - 1]
            }
            Some((_, due)) => due.trim_end_matches('\u{2}').parse().expect("a time"),
            None => 0,
        };
        let item = Publish {
            properties: format!("UNIQ_KEY\u{1}{body}\u{2}{more}").into(),
            payload: Payload::One(body.clone().into()),
            ..to("t")
        };
        let mut answers = self.world.broker.publish(&caller(), [item].into_iter().collect());
        // A dead process refuses, or says nothing that anyone hears.
        if let Some(Ok(ticket)) = answers.pop() {
            let end = ticket.end;
            self.promises.push(Promise {
                topic: "t",
                body,
                attempt: 0,
                due,
                end,
                is_at_risk: false,
            });
        }
    }

    /// Sends back any message of a topic.
    fn send_back(&mut self, topic: &'static str, delay_level: i32) {
        let end = self.world.broker.max_offset(topic, 0);
        let offset = self.rng.i64(0..end.max(1));
        let Some((body, attempt, log_offset)) = self.message(topic, offset) else {
            return;
        };
        let request = SendBack {
            group: "g".into(),
            log_offset,
            delay_level,
            reconsume_times_max: Some(ATTEMPTS_MAX),
            unit_mode: false,
        };
        let Ok(Some(ticket)) = now(self.world.broker.send_back(&caller(), request)) else { return };
        let is_dead = attempt >= ATTEMPTS_MAX || delay_level < 0;
        let level = if delay_level == 0 { attempt + 3 } else { delay_level };
        let due = match is_dead {
            true => 0,
            false => self.now() + LEVELS[(level as usize).min(LEVELS.len()) - 1],
        };
        self.promises.push(Promise {
            topic: if is_dead { DEAD } else { RETRY },
            body,
            attempt: attempt + 1,
            due,
            end: ticket.end,
            is_at_risk: false,
        });
    }

    /// Body, attempt and log offset of a message.
    fn message(&self, topic: &str, offset: i64) -> Option<(String, i32, i64)> {
        let request = Pull { topic: topic.into(), count_max: 1, ..from("t", offset) };
        let pulled = self.world.pull(request).ok()?;
        let record = wire::record::iter(pulled.messages.first()?, CheckCrc::Yes).next()?.ok()?;
        let body = String::from_utf8_lossy(record.body).into_owned();
        Some((body, record.reconsume_times, record.numbers.log_offset as i64))
    }

    fn lock(&mut self) {
        let client = ["a", "b", "c"][self.rng.usize(..3)];
        let queues: Vec<i32> = (0..4).filter(|_| self.rng.bool()).collect();
        let asked = queues.iter().map(|id| MessageQueue {
            topic: "t".into(),
            broker_name: "b".into(),
            queue_id: *id,
        });
        let now = self.world.clock.monotonic().as_millis();
        if self.rng.u8(..5) == 0 {
            self.world.broker.unlock_queues("g", client, &asked.collect::<Vec<_>>());
            self.locks.retain(|id, (holder, _)| *holder != client || !queues.contains(id));
            return;
        }
        let held = self.world.broker.lock_queues("g", client, asked.collect()).expect("good names");
        for id in queues {
            let is_free =
                self.locks.get(&id).is_none_or(|(holder, until)| *holder == client || *until < now);
            let got = held.iter().any(|queue| queue.queue_id == id);
            assert_eq!(got, is_free, "{client} and queue {id}: {:?} at {now}", self.locks.get(&id));
            if got {
                self.locks.insert(id, (client, now + LEASE));
            }
        }
    }

    fn step(&mut self) {
        match self.rng.u8(..14) {
            0 => self.send(format!("{:05}", self.promises.len()), ""),
            1 => {
                let level = self.rng.usize(1..=LEVELS.len());
                self.send(
                    format!("{:05}", self.promises.len()),
                    &format!("DELAY\u{1}{level}\u{2}"),
                );
            }
            2 => {
                let due = self.now() + self.rng.i64(1..30_000);
                let more = format!("TIMER_DELIVER_MS\u{1}{due}\u{2}");
                self.send(format!("{:05}", self.promises.len()), &more);
            }
            3 => {
                let (topic, level) = (["t", RETRY][self.rng.usize(..2)], self.rng.i32(-1..5));
                self.send_back(topic, level);
            }
            4 => self.lock(),
            5..8 => drop(self.world.broker.tick()),
            8..11 => self.world.store.step_all(),
            _ => self.world.clock.advance(Duration::from_millis(self.rng.u64(..2_000))),
        }
    }

    /// Ends the process, or the machine.
    fn kill(mut self) -> Life {
        let marks = self.world.store.marks();
        let (crash, safe) = match self.rng.u8(..3) {
            0 => (Crash::Power, marks.synced.get()),
            _ => (Crash::Process, marks.written.get()),
        };
        for promise in &mut self.promises {
            promise.is_at_risk |= promise.end > safe;
        }
        self.locks.clear();
        self.world = self.world.crash(crash);
        self
    }

    /// Lives through some steps and then ends, in one of the ways there are.
    fn live(mut self) -> Life {
        if self.has_crashes && self.rng.bool() {
            self.world.disk.kill_after(self.rng.u64(1..120));
        }
        for _ in 0..self.rng.usize(..200) {
            self.step();
            if self.world.disk.is_dead() {
                return self.kill();
            }
        }
        match self.rng.u8(..4) {
            0 => {
                // It may be killed while it stops.
                self.locks.clear();
                if self.has_crashes {
                    self.world.store.step_all();
                    self.world.broker.shutdown();
                    return self.kill();
                }
                self.world = self.world.restart();
                self
            }
            _ if self.has_crashes => self.kill(),
            _ => self,
        }
    }

    fn check(self, seed: u64) {
        for _ in 0..60 {
            self.world.clock.advance(Duration::from_secs(1));
            while self.world.broker.tick() {
                self.world.store.step_all();
            }
            self.world.store.step_all();
        }
        let mut came: BTreeMap<(&str, String, i32), (usize, i64)> = BTreeMap::new();
        for topic in ["t", RETRY, DEAD] {
            let mut offset = 0;
            while offset < self.world.broker.max_offset(topic, 0) {
                let request = Pull { topic: topic.into(), ..from("t", offset) };
                let pulled = self.world.pull(request).expect("it can be read");
                for slice in &pulled.messages {
                    for record in wire::record::iter(slice, CheckCrc::Yes) {
                        let record = record.expect("a whole record");
                        let body = String::from_utf8_lossy(record.body).into_owned();
                        let key = (topic, body, record.reconsume_times);
                        let (count, first) = came.entry(key).or_insert((0, i64::MAX));
                        *count += 1;
                        *first = (*first).min(record.numbers.stored_at);
                    }
                }
                offset += i64::from(pulled.count);
            }
        }
        let mut promised: BTreeMap<(&str, String, i32), (usize, usize, i64)> = BTreeMap::new();
        for promise in self.promises {
            let key = (promise.topic, promise.body, promise.attempt);
            let (all, certain, due) = promised.entry(key).or_insert((0, 0, i64::MAX));
            *all += 1;
            *certain += usize::from(!promise.is_at_risk);
            *due = (*due).min(promise.due);
        }
        for (key, (all, certain, due)) in &promised {
            let (count, first) = came.get(key).copied().unwrap_or((0, i64::MAX));
            assert!(first >= *due, "seed {seed}: {key:?} came at {first}, due {due}");
            assert!(count >= *certain, "seed {seed}: {key:?} came {count} times of {certain}");
            assert!(
                self.has_crashes || count == *all,
                "seed {seed}: {key:?} came {count} times of {all}"
            );
        }
        let known = |key: &&(&str, String, i32)| promised.contains_key(*key) || self.has_crashes;
        assert!(came.keys().all(|key| known(&key)), "seed {seed}: something came that nobody sent");
    }
}

#[test]
fn through_any_kill_delays_timers_retries_and_locks_keep_their_promises() {
    let from_env = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let seeds = match from_env("APOGEE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("APOGEE_SEEDS").unwrap_or(200),
    };
    for seed in seeds {
        let mut life = Life::new(seed);
        for _ in 0..life.rng.usize(1..4) {
            life = life.live();
        }
        life.check(seed);
    }
}
