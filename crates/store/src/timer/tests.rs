//! Timers on a disk that fails, against the plainest model: what each message's fate is.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use env::{
    Disk, Env,
    sim::{Crash, SimClock, SimDisk},
};
use wire::record::Message;

use super::*;
use crate::{Draft, Entry, Options};

const START: Millis = 1_700_000_000_000;
const ROOT: &str = "/store";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It must be in its slot, or still in the queue.
    Waits,
    /// Its slot was cleared; a crash may bring it back.
    Delivered,
    /// And that was saved: it must not come back.
    Gone,
}

struct Waiting {
    queue_offset: i64,
    log_offset: u64,
    slot: Millis,
    fate: Fate,
}

/// A store with timers, and what must be true of them.
struct World {
    rng: fastrand::Rng,
    clock: SimClock,
    disk: SimDisk,
    options: TimerOptions,
    store: Store,
    timers: Timers,
    messages: Vec<Waiting>,
    /// Messages that a captured round says are delivered.
    captured: Vec<usize>,
}

fn open(world: (&SimClock, &SimDisk), options: &TimerOptions) -> (Store, Timers) {
    let (clock, disk) = world;
    let store_options = Options {
        store_path_root_dir: ROOT.into(),
        mapped_file_size_commit_log: 16 << 10,
        mapped_file_size_consume_queue: 20 * 64,
        max_hash_slot_num: 10,
        max_index_num: 40,
        ..Options::default()
    };
    let env = Env::new(clock.clone().into(), Arc::new(disk.clone()), fastrand::Rng::with_seed(1));
    let (store, _) = Store::open(store_options, env).expect("the store opens");
    let timers = store.open_timers(options).expect("the timers open");
    (store, timers)
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let clock = SimClock::new(START);
        let disk = SimDisk::new(rng.u64(..), clock.clone());
        let file_len = [119, 120, 1000, 1 << 20][rng.usize(..4)];
        let options = TimerOptions { precision: [1000, 100][rng.usize(..2)], file_len };
        let (store, timers) = open((&clock, &disk), &options);
        World {
            rng,
            clock,
            disk,
            options,
            store,
            timers,
            messages: Vec::new(),
            captured: Vec::new(),
        }
    }

    fn send(&mut self) {
        let queue = self.store.queue(names::TIMER_TOPIC, 0);
        for _ in 0..self.rng.usize(1..8) {
            let message = Message {
                topic: names::TIMER_TOPIC.into(),
                queue_id: 0,
                flag: 0,
                sys_flag: 0,
                born_at: START,
                born_host: "127.0.0.1:4711".parse().expect("an address"),
                store_host: "127.0.0.1:10911".parse().expect("an address"),
                reconsume_times: 0,
                prepared_offset: 0,
                body: Bytes::from(vec![b'x'; self.rng.usize(..100)]),
                properties: "".into(),
            };
            let draft = Draft::new(message, queue.clone());
            let stored = self.store.append(&[Entry::One(draft)]).pop().expect("an answer");
            let stored = stored.expect("there is room");
            assert_eq!(stored.queue_offset, self.messages.len() as i64);
            self.messages.push(Waiting {
                queue_offset: stored.queue_offset,
                log_offset: stored.log_offset,
                slot: 0,
                fate: Fate::Waits,
            });
        }
        self.store.step_all();
    }

    /// Takes in some of the queue, each message into a slot that was not read yet.
    fn take_in(&mut self) {
        let queue = self.store.queue(names::TIMER_TOPIC, 0);
        let mut entries = Vec::new();
        let from = self.timers.queue_offset();
        queue.read(from, self.rng.usize(1..10), &mut entries).expect("it is read");
        for (entry, offset) in entries.iter().zip(from..) {
            let due = self.clock.now() + self.rng.i64(0..20) * self.options.precision;
            let slot = self.timers.slot_for(due, None).expect("a free slot");
            self.timers.set_queue_offset(offset + 1);
            if self.timers.is_known(offset, entry.log_offset, slot) {
                continue;
            }
            let unit = Unit {
                previous: 0,
                magic: log::magic::DEFAULT,
                written_at: START,
                delay: 0,
                log_offset: entry.log_offset,
                len: entry.len,
                topic_hash: 7,
            };
            self.timers.insert(slot, unit).expect("there is room");
            self.messages[offset as usize].slot = slot;
        }
    }

    fn deliver(&mut self) {
        let wheel = self.timers.wheel().clone();
        let Some(first) = wheel.first_between(0, self.clock.now()) else { return };
        let inside = self.in_slots();
        self.timers.clear(first);
        for (log_offset, slot) in inside {
            let at = self.messages.iter().position(|one| one.log_offset == log_offset);
            let message = &mut self.messages[at.expect("units stand for messages")];
            if slot == first {
                message.fate = Fate::Delivered;
            }
        }
    }

    /// Delivers a part of the first slot, and saves that.
    fn deliver_some(&mut self) -> Option<Rest> {
        let wheel = self.timers.wheel().clone();
        let time = wheel.first_between(0, self.clock.now())?;
        let mut chain = Vec::new();
        let last = wheel.get(time).expect("it is in use").last as u64;
        self.timers.log().chain(last, usize::MAX, &mut chain).expect("it is read");
        chain.reverse();
        let delivered = self.rng.usize(..chain.len());
        for (_, unit) in &chain[..delivered] {
            let of_unit = |one: &&mut Waiting| one.log_offset == unit.log_offset;
            self.messages.iter_mut().find(of_unit).expect("a message").fate = Fate::Delivered;
        }
        Some(Rest { time, first: chain[delivered].0, delivered: delivered as i32 })
    }

    fn capture(&mut self) {
        if self.timers.is_saving() {
            return;
        }
        let rest = if self.rng.bool() { self.deliver_some() } else { None };
        let read_time =
            self.timers.wheel().first_between(0, Millis::MAX).unwrap_or_else(|| self.clock.now());
        let delivered = |(at, one): (usize, &Waiting)| (one.fate == Fate::Delivered).then_some(at);
        self.captured = self.messages.iter().enumerate().filter_map(delivered).collect();
        let needs = self.store.marks().appended.get();
        self.timers.capture(self.clock.now(), read_time.min(self.clock.now()), rest, needs);
    }

    fn save(&mut self) {
        let was_saving = self.timers.is_saving();
        let saved = self.timers.save(self.store.marks().synced.get());
        if saved.is_ok() && was_saving && !self.timers.is_saving() {
            for at in std::mem::take(&mut self.captured) {
                self.messages[at].fate = Fate::Gone;
            }
        }
    }

    fn crash(&mut self, crash: Crash) {
        self.disk.crash(crash);
        (self.store, self.timers) = open((&self.clock, &self.disk), &self.options);
        let kept = self.store.queue(names::TIMER_TOPIC, 0).max_offset() as usize;
        self.messages.truncate(kept);
        self.captured.clear();
        self.check();
    }

    fn stop_cleanly(&mut self) {
        assert!(self.store.sync_blocking());
        self.save();
        self.capture();
        self.save();
        assert!(!self.timers.is_saving());
        self.store.shutdown().expect("the disk is well");
        (self.store, self.timers) = open((&self.clock, &self.disk), &self.options);
        let delivered = self.messages.iter().filter(|one| one.fate == Fate::Delivered);
        assert_eq!(delivered.count(), 0);
        self.check();
    }

    /// Every unit that is in a chain: its log offset, and its slot.
    fn in_slots(&mut self) -> Vec<(u64, Millis)> {
        let wheel = self.timers.wheel().clone();
        let (mut from, mut found, mut count) = (0, Vec::new(), 0);
        while let Some(time) = wheel.first_between(from, Millis::MAX) {
            let slot = wheel.get(time).expect("it is in use");
            let mut chain = Vec::new();
            self.timers.log().chain(slot.last as u64, usize::MAX, &mut chain).expect("it is read");
            // What a captured round has cut off is in the file until it is saved.
            chain.retain(|(at, _)| *at as i64 >= slot.first);
            assert!(!chain.is_empty(), "a slot in use has a unit");
            assert_eq!(slot.count, chain.len() as i32, "{slot:?}");
            count += i64::from(slot.count);
            for (_, unit) in chain {
                assert_eq!(unit.slot_time(), time);
                found.push((unit.log_offset, time));
            }
            from = time + wheel.precision();
        }
        assert_eq!(wheel.count(), count);
        found
    }

    /// Whatever happened, each message that waits is there once, and what is gone stays gone.
    fn check(&mut self) {
        let mut there: BTreeMap<u64, i32> = BTreeMap::new();
        for (log_offset, slot) in self.in_slots() {
            *there.entry(log_offset).or_default() += 1;
            let message = self.messages.iter().find(|one| one.log_offset == log_offset);
            assert_eq!(message.expect("a unit stands for a message").slot, slot);
        }
        for message in &self.messages {
            let in_slot = there.get(&message.log_offset).copied().unwrap_or(0);
            let in_queue = i32::from(message.queue_offset >= self.timers.queue_offset());
            match message.fate {
                Fate::Waits => assert_eq!(in_slot + in_queue, 1, "at {}", message.log_offset),
                Fate::Delivered => assert!(in_slot + in_queue <= 1, "at {}", message.log_offset),
                Fate::Gone => assert_eq!(in_slot + in_queue, 0, "at {}", message.log_offset),
            }
        }
    }

    fn live(&mut self) {
        for _ in 0..60 {
            match self.rng.u8(..12) {
                0..3 => self.send(),
                3..6 => self.take_in(),
                6 => self.deliver(),
                7 => self.capture(),
                8..10 => self.save(),
                10 => {
                    self.clock.advance(Duration::from_millis(self.rng.u64(..5_000)));
                    self.store.step_all();
                }
                _ => self.check(),
            }
        }
    }
}

#[test]
fn after_any_end_each_waiting_message_is_there_once_and_what_is_gone_stays_gone() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..4 {
            world.live();
            match world.rng.u8(..3) {
                0 => world.crash(Crash::Power),
                1 => world.crash(Crash::Process),
                _ => world.stop_cleanly(),
            }
            // What came back is delivered again; a message never waits in two lives at once.
            let back = world.in_slots();
            for message in &mut world.messages {
                let is_back = back.iter().any(|(log_offset, _)| *log_offset == message.log_offset)
                    || message.queue_offset >= world.timers.queue_offset();
                if is_back {
                    message.fate = Fate::Waits;
                } else if message.fate == Fate::Delivered {
                    message.fate = Fate::Gone;
                }
            }
        }
    }
}

#[test]
fn lost_files_are_built_anew_from_the_timer_topic() {
    for lost in ["timerwheel", "timerlog/00000000000000000000", "timerlog"] {
        let mut world = World::new(3);
        world.options.file_len = 1 << 20;
        world.disk = SimDisk::new(3, world.clock.clone());
        (world.store, world.timers) = open((&world.clock, &world.disk), &world.options);
        for _ in 0..20 {
            world.send();
            world.take_in();
        }
        world.take_in();
        world.stop_cleanly();
        for path in world.disk.paths() {
            if path.starts_with(Path::new(ROOT).join(lost)) {
                Disk::remove(&world.disk, &path).expect("it was there");
            }
        }
        world.crash(Crash::Process);
        assert_eq!(lost == "timerwheel", world.timers.queue_offset() > 0);
    }
}

#[test]
fn what_no_timer_could_have_written_is_no_reason_to_end_a_start() {
    let at = |name: &str| Path::new(ROOT).join(name);
    let overwrite = |disk: &SimDisk, path: &Path, offset: u64, bytes: &[u8]| {
        let file = disk.open(path, Open::Existing).expect("it is there");
        file.write_at(offset, &[io::IoSlice::new(bytes)]).expect("it is written");
    };
    for read_time in [i64::MIN, -1, i64::MAX] {
        for (lost, log_offset) in [(true, 0), (false, u64::MAX), (false, u64::MAX - 100)] {
            let mut world = World::new(3);
            world.options.file_len = 1 << 20;
            world.disk = SimDisk::new(3, world.clock.clone());
            (world.store, world.timers) = open((&world.clock, &world.disk), &world.options);
            for _ in 0..5 {
                world.send();
                world.take_in();
            }
            world.take_in();
            world.stop_cleanly();
            let log = at("timerlog/00000000000000000000");
            // The last unit: that of a message where no log ends.
            let last = (world.timers.log().end() - log::UNIT_BYTES as u64) + 28;
            overwrite(&world.disk, &log, last, &log_offset.to_be_bytes());
            // A wheel whose slots point anywhere.
            for slot in 0..100u64 {
                let place = slot as usize;
                let wild = [place as i64, i64::MAX - 3, i64::MAX - 1].map(i64::to_be_bytes);
                overwrite(&world.disk, &at("timerwheel"), slot * 32, &wild.concat());
            }
            overwrite(&world.disk, &at("config/timercheck"), 0, &read_time.to_be_bytes());
            overwrite(&world.disk, &at("config/timercheck"), 8, &i64::MAX.to_be_bytes());
            if lost {
                Disk::remove(&world.disk, &log).expect("it was there");
            }
            let World { disk, clock, options, store, timers, .. } = world;
            drop((timers, store));
            let (_store, mut timers) = open((&clock, &disk), &options);
            let due = timers.slot_for(START + 10_000, None).expect("there is room");
            let unit = Unit {
                previous: -1,
                magic: log::magic::DEFAULT,
                written_at: START,
                delay: 0,
                log_offset: 0,
                len: 1,
                topic_hash: 0,
            };
            timers.insert(due, unit).expect("it is taken in");
        }
    }
}

#[test]
fn old_files_of_the_timer_log_go_with_the_messages_they_stand_for() {
    let mut world = World::new(1);
    world.options.file_len = 119;
    world.disk = SimDisk::new(3, world.clock.clone());
    (world.store, world.timers) = open((&world.clock, &world.disk), &world.options);
    for _ in 0..10 {
        world.send();
    }
    while world.timers.queue_offset() < world.messages.len() as i64 {
        world.take_in();
    }
    world.timers.log().write().expect("there is room");
    let files = world.timers.log().files();
    assert_eq!(files.end / 119, world.messages.len() as u64, "a unit each");
    let log_min = world.messages[9].log_offset;
    assert_eq!(world.timers.follow_log_min(log_min).expect("they go"), 9);
    assert_eq!(world.timers.log().files().start, 9 * 119);
    assert!(world.timers.follow_log_min(u64::MAX).expect("they go") > 0);
    assert_eq!(world.timers.log().files().end, files.end, "the newest stays");
}

#[test]
fn a_precision_in_use_stays_in_force_until_nothing_waits() {
    let mut world = World::new(2);
    world.options.precision = 1000;
    world.disk = SimDisk::new(3, world.clock.clone());
    (world.store, world.timers) = open((&world.clock, &world.disk), &world.options);
    world.send();
    world.take_in();
    world.stop_cleanly();
    world.options.precision = 100;
    world.crash(Crash::Process);
    assert_eq!(world.timers.wheel().precision(), 1000);
    world.take_in();
    world.clock.advance(Duration::from_secs(60));
    while !world.in_slots().is_empty() {
        world.deliver();
    }
    world.stop_cleanly();
    assert_eq!(world.timers.wheel().precision(), 100);
}

#[test]
fn a_unit_is_the_originals_byte_for_byte() {
    let unit = Unit {
        previous: -1,
        magic: log::magic::DEFAULT | log::magic::ROLL,
        written_at: START,
        delay: 5_000,
        log_offset: 4_711,
        len: 200,
        topic_hash: -5,
    };
    let mut golden = Vec::new();
    golden.extend_from_slice(&52i32.to_be_bytes());
    golden.extend_from_slice(&(-1i64).to_be_bytes());
    golden.extend_from_slice(&3i32.to_be_bytes());
    golden.extend_from_slice(&START.to_be_bytes());
    golden.extend_from_slice(&5_000i32.to_be_bytes());
    golden.extend_from_slice(&4_711i64.to_be_bytes());
    golden.extend_from_slice(&200i32.to_be_bytes());
    golden.extend_from_slice(&(-5i32).to_be_bytes());
    golden.extend_from_slice(&[0; 8]);
    assert_eq!(Unit::decode(&golden), Some(unit));
    assert_eq!(
        (unit.slot_time(), unit.is_rolled(), unit.is_deletion()),
        (START + 5_000, true, false)
    );
    golden[15] = 16;
    assert_eq!(Unit::decode(&golden), None, "an unknown magic");
    assert_eq!(Unit::decode(&golden[..51]), None);
    assert_eq!(Unit::decode(&[0; 52]), None);
}
