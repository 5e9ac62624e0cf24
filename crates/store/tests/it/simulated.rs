//! A store on a disk that fails, against a model: thousands of short lives, each from one seed.
//!
//! `APOGEE_SEED=<n>` runs that seed alone, `APOGEE_SEEDS=<n>` so many of each test. The model is the list of what was
//! appended, in log order, with the marks that were reached; after each life the log must be a prefix of it that holds
//! everything acknowledged, and the views must say what the log says.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use env::{
    Disk, Env,
    sim::{Crash, SimClock, SimDisk},
};
use store::{Appended, Draft, Entry, Fault, FlushDiskType, Options, Refused, Store};
use wire::{
    names::system_flag,
    properties,
    record::{CheckCrc, Record},
};

use crate::support::{bodies, message, one, options};

const ROOT: &str = "/store";
const START: i64 = 1_700_000_000_000;

/// The topics, of which the second has queues of batches.
const TOPICS: [&str; 2] = ["A", BATCHED];
const BATCHED: &str = "B";
const TABLE: &[u8] =
    br#"{"topicConfigTable":{"B":{"topicName":"B","attributes":{"queue.type":"BatchCQ"}}}}"#;

/// Runs `life` for each seed and names the one that failed.
fn for_each_seed(seeds: u64, life: impl Fn(u64)) {
    let from_env = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let seeds = match from_env("APOGEE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("APOGEE_SEEDS").unwrap_or(seeds),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| life(seed))) {
            #[expect(clippy::print_stderr, reason = "the seed is what one needs to see it again")]
            {
                eprintln!("failed with seed {seed}; replay it with APOGEE_SEED={seed}");
            }
            resume_unwind(panic);
        }
    }
}

struct Message {
    topic: &'static str,
    queue: i32,
    /// `None` for a half message.
    queue_offset: Option<i64>,
    /// 1, or in the topic of batches as many as it says.
    count: u16,
    log_offset: u64,
    end: u64,
    body: Vec<u8>,
    key: String,
    /// Whether a crash came after it was promised to survive.
    is_promised: bool,
}

/// One world: a store, its disk, and what must be true of it.
struct World {
    rng: fastrand::Rng,
    clock: SimClock,
    disk: SimDisk,
    options: Options,
    store: Store,
    appended: Vec<Message>,
    sequence: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let clock = SimClock::new(START);
        let disk = SimDisk::new(rng.u64(..), clock.clone());
        disk.set_cold_percent(rng.u8(..50));
        let mut options = options(Path::new(ROOT));
        options.mapped_file_size_commit_log = [1500, 4096, 16 << 10, 40 << 10][rng.usize(..4)];
        options.mapped_file_size_consume_queue = 20 * rng.u64(2..30);
        options.mapper_file_size_batch_consume_queue = 46 * rng.u64(2..20);
        options.tail_bytes_max = [0, 2000, 20_000][rng.usize(..3)];
        options.block_cache_bytes_max = [0, 512 << 10][rng.usize(..2)];
        options.dispatch_items_max = [3, 20, 1000][rng.usize(..3)];
        options.backlog_bytes_max = [3000, 1 << 20][rng.usize(..2)];
        if rng.bool() {
            options.flush_disk_type = FlushDiskType::SyncFlush;
        }
        let config = options.config_dir();
        disk.create_dir_all(&config).expect("an empty disk takes it");
        env::write_whole(&disk, &config.join("topics.json"), TABLE).expect("it has room");
        for above in config.ancestors() {
            disk.sync_dir(above).expect("it is well");
        }
        let (store, _) = Store::open(options.clone(), env(&clock, &disk, &mut rng))
            .expect("an empty disk opens");
        World { rng, clock, disk, options, store, appended: Vec::new(), sequence: 0 }
    }

    fn draft(&mut self, topic: &'static str, queue: i32) -> (Draft, Vec<u8>, String) {
        self.sequence += 1;
        let len = match self.rng.u8(..10) {
            0 => 0,
            1 => self.rng.usize(..1200),
            _ => self.rng.usize(..200),
        };
        let mut body = format!("{}:", self.sequence).into_bytes();
        body.resize_with(body.len() + len, || self.rng.u8(..));
        let queue = self.store.queue(topic, queue);
        let mut message = message(&queue, &body);
        let key = format!("key{}", self.sequence);
        message.properties = format!("KEYS\u{1}{key}\u{2}").into();
        if self.rng.u8(..20) == 0 {
            message.sys_flag = system_flag::TRANSACTION_PREPARED;
        }
        (Draft::new(message, queue), body, key)
    }

    fn append(&mut self) {
        let mut run = Vec::new();
        let mut drafts = Vec::new();
        for _ in 0..self.rng.usize(1..6) {
            let topic = TOPICS[self.rng.usize(..2)];
            let queue = self.rng.i32(0..3);
            let count = if self.rng.u8(..5) == 0 { self.rng.usize(..4) } else { 1 };
            let mut entry: Vec<_> = (0..count).map(|_| self.draft(topic, queue)).collect();
            if let ([(draft, ..)], BATCHED, true) = (&mut entry[..], topic, self.rng.bool()) {
                let mut message = draft.message.clone();
                let count = self.rng.u16(1..100);
                message.properties =
                    format!("{}INNER_NUM\u{1}{count}\u{2}", message.properties).into();
                message.sys_flag |= system_flag::INNER_BATCH | system_flag::NEED_UNWRAP;
                *draft = Draft::new(message, draft.queue.clone());
            }
            let parts = entry.iter().map(|(draft, ..)| draft.clone());
            run.push(match count {
                1 => Entry::One(entry[0].0.clone()),
                _ => Entry::Batch(parts.collect()),
            });
            drafts.push((topic, queue, entry));
        }
        let outcomes = self.store.append(&run);
        assert_eq!(outcomes.len(), run.len());
        for (outcome, (topic, queue, entry)) in outcomes.into_iter().zip(drafts) {
            match outcome {
                Ok(appended) => self.note(topic, queue, entry, &appended),
                Err(Refused::Poisoned | Refused::Busy { .. } | Refused::DiskFull) => {}
                Err(Refused::TooLarge) => {
                    assert!(self.options.mapped_file_size_commit_log < 5000, "it would fit");
                }
                Err(Refused::Closed) => panic!("nobody closed the store"),
            }
        }
    }

    fn note(
        &mut self,
        topic: &'static str,
        queue: i32,
        entry: Vec<(Draft, Vec<u8>, String)>,
        appended: &Appended,
    ) {
        let is_single = entry.len() == 1;
        let counts: Vec<u16> = entry.iter().map(|(draft, ..)| inner_count(draft)).collect();
        assert_eq!(appended.count, counts.iter().map(|count| u32::from(*count)).sum::<u32>());
        assert_eq!(appended.log_offsets.len(), entry.len());
        let mut queue_offset = self.next_offset(topic, queue);
        let mut at = appended.log_offset;
        for (place, (draft, body, key)) in entry.into_iter().enumerate() {
            assert_eq!(appended.log_offsets[place], at, "a batch is contiguous");
            let is_half = draft.message.sys_flag & system_flag::TRANSACTION_MASK != 0;
            if place == 0 {
                assert_eq!(appended.queue_offset, if is_half { 0 } else { queue_offset });
            }
            // Of a batch in one record it is written where it begins.
            let end = match is_single {
                true => appended.end,
                false => at + draft.message.encoded_len() as u64,
            };
            let offset = (!is_half).then_some(queue_offset);
            queue_offset += if is_half { 0 } else { i64::from(counts[place]) };
            self.appended.push(Message {
                topic,
                queue,
                queue_offset: offset,
                count: counts[place],
                log_offset: at,
                end,
                body,
                key,
                is_promised: false,
            });
            at = end;
        }
        assert_eq!(appended.end, at);
    }

    fn next_offset(&self, topic: &str, queue: i32) -> i64 {
        let of_queue = |message: &&Message| {
            message.topic == topic && message.queue == queue && message.queue_offset.is_some()
        };
        self.appended.iter().filter(of_queue).map(|message| i64::from(message.count)).sum()
    }

    /// Everything that the store said would survive the crash.
    fn promised(&self, crash: Crash) -> u64 {
        match crash {
            Crash::Process => self.store.marks().written.get(),
            Crash::Power => self.store.marks().synced.get(),
        }
    }

    fn crash(&mut self, crash: Crash) {
        let promised = self.promised(crash);
        self.disk.crash(crash);
        self.reopen(promised);
    }

    fn stop_cleanly(&mut self) {
        let end = self.store.marks().appended.get();
        self.store.shutdown().expect("the disk is well");
        self.reopen(end);
    }

    fn reopen(&mut self, promised: u64) {
        self.disk.set_room(None);
        let env = env(&self.clock, &self.disk, &mut self.rng);
        // The old handle goes first: its lock would be in the way of a clean stop's successor.
        let (store, recovered) = Store::open(self.options.clone(), env).expect("it opens again");
        self.store = store;
        assert!(recovered.end >= promised, "{recovered:?} is below the promised {promised}");
        self.appended.retain(|message| message.end <= recovered.end);
        // Only bodies have a CRC: a record that nobody promised may have come back with torn properties.
        self.appended.iter_mut().for_each(|message| message.is_promised |= message.end <= promised);
        self.check();
    }

    /// Compares everything that can be read with the model.
    fn check(&self) {
        let mut queues: BTreeMap<(&str, i32), Vec<&Message>> = BTreeMap::new();
        for message in &self.appended {
            self.check_record(message);
            if message.queue_offset.is_some() {
                queues.entry((message.topic, message.queue)).or_default().push(message);
            }
        }
        for topic in TOPICS {
            for id in 0..3 {
                let messages = queues.remove(&(topic, id)).unwrap_or_default();
                let queue = self.store.queue(topic, id);
                assert_eq!(queue.max_offset(), self.next_offset(topic, id), "{topic} {id}");
                let mut entries = Vec::new();
                queue.read(0, usize::MAX, &mut entries).expect("queues can be read");
                assert_eq!(
                    entries.len(),
                    messages.len(),
                    "{topic} {id} from {}",
                    queue.min_offset()
                );
                for (entry, message) in entries.iter().zip(messages) {
                    assert_eq!(entry.log_offset, message.log_offset);
                    assert_eq!(Some(entry.offset), message.queue_offset);
                    assert_eq!(entry.count, message.count);
                    assert_eq!(u64::from(entry.len), message.end - message.log_offset);
                }
            }
        }
        for message in self.appended.iter().rev().filter(|message| message.is_promised).take(20) {
            let found = self.store.find_by_key(message.topic, &message.key, 64, 0, i64::MAX);
            let found = found.expect("the index answers");
            assert!(found.contains(&message.log_offset), "{} is not indexed", message.key);
        }
    }

    fn check_record(&self, message: &Message) {
        let len = (message.end - message.log_offset) as u32;
        let bytes = self.store.try_read(message.log_offset, len).expect("the log has it");
        let bytes = bytes.unwrap_or_else(|| {
            self.store.read_blocking(message.log_offset, len).expect("the log has it")
        });
        let record = Record::decode(&bytes, CheckCrc::Yes).expect("a whole record");
        assert_eq!(record.body, message.body);
        assert_eq!(record.numbers.log_offset, message.log_offset);
        assert_eq!(record.numbers.queue_offset, message.queue_offset.unwrap_or(0));
        assert_eq!((record.topic, record.queue_id), (message.topic, message.queue));
    }

    /// A step of ordinary life.
    fn live(&mut self) {
        match self.rng.u8(..12) {
            0..6 => {
                self.append();
                if self.rng.bool() {
                    self.store.drive();
                }
            }
            6 => self.store.drive(),
            7 => self.clock.advance(Duration::from_millis(self.rng.u64(..1500))),
            8 => self.clock.jump(self.rng.i64(-10_000..10_000)),
            9 if !self.appended.is_empty() => {
                let place = self.rng.usize(..self.appended.len());
                self.check_record(&self.appended[place]);
            }
            _ => self.store.step_all(),
        }
    }
}

/// How many messages a draft holds.
fn inner_count(draft: &Draft) -> u16 {
    let count = properties::get(&draft.message.properties, properties::name::INNER_NUM);
    count.map_or(1, |count| count.parse().expect("we wrote it"))
}

fn env(clock: &SimClock, disk: &SimDisk, rng: &mut fastrand::Rng) -> Env {
    Env::new(clock.clone().into(), Arc::new(disk.clone()), rng.fork())
}

#[test]
fn nothing_that_was_promised_is_lost_by_a_crash_of_process_or_machine() {
    for_each_seed(2000, |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(1..4) {
            for _ in 0..world.rng.usize(1..60) {
                world.live();
            }
            match world.rng.u8(..5) {
                0 => world.stop_cleanly(),
                1 | 2 => world.crash(Crash::Process),
                _ => world.crash(Crash::Power),
            }
        }
    });
}

#[test]
fn views_equal_a_rebuild_from_the_log() {
    for_each_seed(500, |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(1..100) {
            world.live();
        }
        if world.rng.bool() {
            world.crash(Crash::Power);
        }
        world.store.shutdown().expect("the disk is well");
        let end = world.store.marks().synced.get();
        for path in world.disk.paths() {
            let views = ["/store/consumequeue", "/store/batchconsumequeue", "/store/index"];
            if views.iter().any(|view| path.starts_with(view)) {
                world.disk.remove(&path).expect("it is there");
            }
        }
        world.reopen(end);
    });
}

#[test]
fn a_full_disk_refuses_and_takes_again_and_loses_nothing() {
    for_each_seed(1000, |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(..20) {
            world.live();
        }
        let room = world.rng.u64(..20_000);
        world.disk.set_room(Some(room));
        for _ in 0..world.rng.usize(1..60) {
            world.live();
        }
        if world.rng.u8(..3) == 0 {
            let crash = if world.rng.bool() { Crash::Process } else { Crash::Power };
            world.crash(crash);
        }
        world.disk.set_room(None);
        // A full disk is tried again after a pause, by the writer alone.
        for _ in 0..3 {
            world.clock.advance(Duration::from_secs(10));
            world.store.step_all();
        }
        let before = world.appended.len();
        world.append();
        world.store.drive();
        world.clock.advance(Duration::from_secs(1));
        world.store.step_all();
        assert!(world.appended.len() > before || !world.store.status().is_full, "it takes again");
        assert_eq!(world.store.marks().written.get(), world.store.marks().appended.get());
        world.check();
        world.stop_cleanly();
    });
}

#[test]
fn a_failed_sync_ends_acknowledgements_for_good() {
    for_each_seed(500, |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(1..40) {
            world.live();
        }
        world.store.drive();
        world.store.step_all();
        let synced = world.store.marks().synced.get();
        world.disk.fail_syncs(true);
        // Until a sync is due and fails, life goes on.
        while !world.store.status().is_poisoned {
            world.append();
            world.store.drive();
            world.clock.advance(Duration::from_secs(1));
            world.store.step_all();
        }
        assert!(world.store.marks().synced.get() >= synced);
        let synced = world.store.marks().synced.get();
        world.disk.fail_syncs(false);
        let before = world.appended.len();
        for _ in 0..10 {
            world.append();
            world.store.drive();
            world.clock.advance(Duration::from_secs(1));
            world.store.step_all();
        }
        assert_eq!(world.appended.len(), before, "nothing is taken");
        assert_eq!(world.store.marks().synced.get(), synced, "nothing is called durable");
        world.crash(Crash::Power);
    });
}

#[test]
fn a_failed_write_ends_the_log_and_loses_nothing_written_before() {
    for_each_seed(500, |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(1..40) {
            world.live();
        }
        world.disk.fail_writes(true);
        while !world.store.status().is_poisoned {
            world.append();
            world.store.drive();
            world.store.step_all();
        }
        world.disk.fail_writes(false);
        let before = world.appended.len();
        world.append();
        assert_eq!(world.appended.len(), before, "nothing is taken");
        let crash = if world.rng.bool() { Crash::Process } else { Crash::Power };
        world.crash(crash);
    });
}

#[test]
fn a_flipped_bit_of_a_body_is_found_when_it_is_scanned() {
    for_each_seed(500, |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(5..60) {
            world.live();
        }
        world.store.drive();
        world.store.step_all();
        let end = world.store.marks().written.get();
        let whole: Vec<usize> =
            (0..world.appended.len()).filter(|place| world.appended[*place].end <= end).collect();
        let Some(place) = world.rng.choice(whole) else { return };
        let message = &world.appended[place];
        let at = message.log_offset + 88 + world.rng.u64(..message.body.len() as u64);
        let file_len = world.options.mapped_file_size_commit_log;
        let file = format!("{ROOT}/commitlog/{:020}", at / file_len * file_len);
        world.disk.flip_bit(Path::new(&file), at % file_len, world.rng.u8(..8));
        // Without a checkpoint everything is scanned, and what was rotten ends the log.
        world.disk.crash(Crash::Process);
        world.disk.remove(Path::new("/store/checkpoint")).expect("every start writes one");
        let promised = world.appended[place].log_offset;
        world.appended.truncate(place);
        let env = env(&world.clock, &world.disk, &mut world.rng);
        let (store, recovered) = Store::open(world.options.clone(), env).expect("it opens");
        world.store = store;
        assert!(recovered.dropped.is_some(), "the flip is reported: {recovered:?}");
        assert!(recovered.end <= promised && recovered.end + file_len > promised);
        world.check();
    });
}

#[test]
fn store_time_holds_over_a_small_step_back_and_follows_a_large_one() {
    let world = World::new(1);
    world.disk.set_room(None);
    let stored_at = |jump: i64| {
        world.clock.jump(jump);
        let queue = world.store.queue("A", 0);
        let entry = Entry::One(Draft::new(message(&queue, b"x"), queue.clone()));
        let outcome = world.store.append(&[entry]).remove(0).expect("it is taken");
        world.store.drive();
        outcome.stored_at - START
    };
    assert_eq!(stored_at(5000), 5000);
    assert_eq!(stored_at(-800), 5000);
    assert_eq!(stored_at(300), 5000);
    assert_eq!(stored_at(-4000), 500);
    assert_eq!(stored_at(10), 510);
}

#[test]
fn files_take_turns_over_roots_and_none_is_made_in_a_read_only_one() {
    let mut world = World::new(3);
    let open = |world: &mut World, roots: &[&str], read_only: &[&str]| {
        world.store.shutdown().expect("the disk is well");
        world.options.store_path_commit_log = roots.iter().map(Into::into).collect();
        world.options.read_only_commit_log_store_paths = read_only.iter().map(Into::into).collect();
        let end = world.store.marks().synced.get();
        world.reopen(end);
    };
    let files = |world: &World, root: &str| {
        world.disk.paths().iter().filter(|path| path.starts_with(root)).count()
    };
    let fill = |world: &mut World| {
        let until =
            world.store.marks().appended.get() + 5 * world.options.mapped_file_size_commit_log;
        while world.store.marks().appended.get() < until {
            world.append();
            world.store.drive();
        }
        world.store.step_all();
    };
    world.appended.clear();
    open(&mut world, &["/b", "/a"], &[]);
    fill(&mut world);
    assert!(files(&world, "/a") >= 2 && files(&world, "/b") >= 2);
    open(&mut world, &["/a", "/b"], &["/a"]);
    let before = files(&world, "/a");
    fill(&mut world);
    assert_eq!(files(&world, "/a"), before);
    world.check();
    open(&mut world, &["/b"], &["/a"]);
}

#[test]
fn a_store_that_is_dropped_without_a_stop_lets_go_of_everything() {
    let mut world = World::new(7);
    let disk: Arc<dyn Disk> = Arc::new(world.disk.clone());
    let env = Env::new(world.clock.clone().into(), disk.clone(), fastrand::Rng::with_seed(1));
    world.store.shutdown().expect("the disk is well");
    let (store, _) = Store::open(world.options.clone(), env).expect("it opens");
    world.store = store;
    for _ in 0..50 {
        world.append();
        world.store.drive();
        if world.rng.bool() {
            world.store.step_all();
        }
    }
    drop(world);
    assert_eq!(Arc::strong_count(&disk), 1, "the store is gone, and with it its hold on the disk");
}

/// Timer logs and queues of others say where a record lies and how long it is.
#[test]
fn a_length_that_the_record_does_not_have_is_not_believed() {
    let (clock, mut rng) = (SimClock::new(START), fastrand::Rng::with_seed(1));
    let disk = SimDisk::new(1, clock.clone());
    let mut options = options(Path::new(ROOT));
    options.mapped_file_size_commit_log = 4 << 20;
    options.tail_bytes_max = 0;
    let (store, _) = Store::open(options, env(&clock, &disk, &mut rng)).expect("it opens");
    let queue = store.queue("T", 0);
    for _ in 0..3 {
        let outcome = store.append(&[one(&queue, &[7; 300 << 10])]);
        assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
        store.drive();
    }
    store.step_all();
    assert_eq!(bodies(&store, &queue).len(), 3);
    let mut entries = Vec::new();
    queue.read(0, 3, &mut entries).expect("queues can be read");
    for (at, len) in [
        (entries[0].log_offset, entries[0].len * 2),
        (entries[0].log_offset, entries[0].len - 1),
        (entries[0].log_offset + 1, entries[0].len),
        (entries[0].log_offset, u32::MAX),
    ] {
        let read = store.read_blocking(at, len);
        assert!(matches!(read, Err(Fault::OutOfRange(_))), "{at} {len} {read:?}");
    }
}
