//! Messages that are due at a time of their own.

use std::{collections::BTreeMap, time::Duration};

use broker::api::*;
use bytes::Bytes;
use env::sim::{Crash, SimClock, SimDisk};

use crate::world::{START, World, caller, from, now, records, to};

/// A send of `body` with one timer property.
fn timed(body: &str, name: &str, value: i64) -> Publish {
    let properties = format!("UNIQ_KEY\u{1}{body}\u{2}{name}\u{1}{value}\u{2}");
    Publish {
        properties: properties.into(),
        payload: Payload::One(Bytes::copy_from_slice(body.as_bytes())),
        ..to("t")
    }
}

fn in_ms(body: &str, delay: i64) -> Publish {
    timed(body, "TIMER_DELAY_MS", delay)
}

/// Lets time pass in steps of housekeeping, each of which does all that it finds.
fn pass(world: &World, millis: u64) {
    for _ in 0..millis.div_ceil(100) {
        world.clock.advance(Duration::from_millis(100));
        settle(world);
    }
}

fn settle(world: &World) {
    while world.broker.tick() {
        world.store.step_all();
    }
    world.store.step_all();
}

/// Bodies of the topic's queue 0, in order.
fn arrived(world: &World) -> Vec<String> {
    let mut bodies = Vec::new();
    while world.broker.max_offset("t", 0) > bodies.len() as i64 {
        let pulled = world.pull(from("t", bodies.len() as i64)).expect("it is pulled");
        bodies.extend(records(&pulled).into_iter().map(|(body, ..)| body));
    }
    bodies
}

#[test]
fn a_message_comes_in_the_second_after_it_is_due_and_never_before() {
    let world = World::new();
    world.send(in_ms("a", 2_500)).unwrap();
    world.send(timed("b", "TIMER_DELAY_SEC", 2)).unwrap();
    world.send(timed("c", "TIMER_DELIVER_MS", START + 2_001)).unwrap();
    pass(&world, 1_900);
    assert!(arrived(&world).is_empty());
    pass(&world, 100);
    assert_eq!(arrived(&world), ["b"], "a full second is its own slot's end");
    pass(&world, 900);
    assert_eq!(arrived(&world), ["b"]);
    pass(&world, 100);
    assert_eq!(arrived(&world), ["b", "a", "c"]);
    pass(&world, 60_000);
    assert_eq!(arrived(&world).len(), 3, "once");
}

#[test]
fn a_timer_message_goes_by_the_timer_topic_and_says_so() {
    let world = World::new();
    let receipt = world.send(in_ms("a", 5_000)).unwrap();
    assert_eq!((receipt.queue_id, receipt.queue_offset), (0, 0));
    pass(&world, 100);
    let request = Pull { topic: "rmq_sys_wheel_timer".into(), ..from("t", 0) };
    let (_, topic, properties) = &records(&world.pull(request).unwrap())[0];
    assert_eq!(topic, "rmq_sys_wheel_timer");
    let slot = format!("TIMER_OUT_MS\u{1}{}\u{2}", START + 4_000);
    for part in [&*slot, "REAL_TOPIC\u{1}t\u{2}", "REAL_QID\u{1}0\u{2}", "TIMER_DELAY_MS\u{1}5000"]
    {
        assert!(properties.contains(part), "{part} in {properties}");
    }
    pass(&world, 5_000);
    let (_, topic, properties) = &records(&world.pull(from("t", 0)).unwrap())[0];
    assert_eq!(topic, "t");
    assert!(properties.contains("TIMER_ENQUEUE_MS") && properties.contains("TIMER_DEQUEUE_MS"));
    assert_eq!(
        properties.matches("REAL_").count(),
        2,
        "it still says where it belongs: {properties}"
    );
}

#[test]
fn seconds_count_before_milliseconds_and_these_before_a_time() {
    let world = World::new();
    let all = "TIMER_DELIVER_MS\u{1}1\u{2}TIMER_DELAY_MS\u{1}1\u{2}TIMER_DELAY_SEC\u{1}3\u{2}";
    world.send(Publish { properties: all.into(), ..to("t") }).unwrap();
    pass(&world, 2_900);
    assert_eq!(world.broker.max_offset("t", 0), 0);
    pass(&world, 100);
    assert_eq!(world.broker.max_offset("t", 0), 1);
    let both = "TIMER_DELAY_SEC\u{1}50\u{2}DELAY\u{1}1\u{2}UNIQ_KEY\u{1}u\u{2}";
    world.send(Publish { properties: both.into(), ..to("t") }).unwrap();
    pass(&world, 1_000);
    let pulled = records(&world.pull(from("t", 1)).unwrap());
    assert!(!pulled[0].2.contains("TIMER_"), "a delay level counts before all: {}", pulled[0].2);
}

#[test]
fn what_cannot_be_granted_is_refused_by_name() {
    let world = World::new();
    let refused = |item| world.send(item).unwrap_err();
    let max_ms = 259_200_000;
    let illegal = PublishError::IllegalTimer { max_ms };
    assert_eq!(refused(in_ms("a", max_ms + 1)), illegal);
    assert_eq!(refused(timed("a", "TIMER_DELAY_SEC", i64::MAX)), illegal);
    assert!(illegal.to_string().contains("the max delay 259200000ms"));
    let text = "TIMER_DELIVER_MS\u{1}soon\u{2}UNIQ_KEY\u{1}u\u{2}";
    assert_eq!(refused(Publish { properties: text.into(), ..to("t") }), illegal);
    let late = "TIMER_DELIVER_MS\u{1}1\u{2}TIMER_DEL_UNIQKEY\u{1}k\u{2}";
    assert_eq!(refused(Publish { properties: late.into(), ..to("t") }), illegal);
    assert!(matches!(refused(to("rmq_sys_wheel_timer")), PublishError::ForbiddenTopic(_)));
    world.send(in_ms("a", max_ms)).unwrap();
    world.send(in_ms("now", -5)).unwrap();
    assert_eq!(arrived(&world), ["now"], "what is past is due at once");

    let world = World::with(|options| options.timer_wheel_enable = false);
    assert_eq!(world.send(in_ms("a", 1)).unwrap_err(), PublishError::TimersOff);
    assert!(world.broker.timer_checkpoint().is_none() && world.broker.timer_metrics().is_none());
}

#[test]
fn a_crowded_slot_refuses_some_and_a_slot_twice_as_crowded_all() {
    let world = World::with(|options| options.timer_congest_num_each_slot = 10);
    for _ in 0..10 {
        world.send(in_ms("a", 5_000)).unwrap();
    }
    pass(&world, 100);
    let mut refused = 0;
    while refused < 1_000 {
        match world.send(in_ms("a", 4_000)) {
            Ok(_) => settle(&world),
            Err(error) => {
                assert_eq!(error, PublishError::SlotCrowded { max: 10 });
                refused += 1;
            }
        }
    }
    pass(&world, 5_000);
    assert!((11..=21).contains(&arrived(&world).len()), "{:?}", arrived(&world).len());
}

#[test]
fn slots_come_in_the_order_of_their_time_and_each_in_the_order_of_its_sends() {
    let world = World::new();
    for number in 0..3_000 {
        world
            .send(in_ms(&format!("{}.{number:04}", 3 - number % 3), 1_000 * (3 - number % 3)))
            .unwrap();
    }
    pass(&world, 4_000);
    let arrived = arrived(&world);
    assert_eq!(arrived.len(), 3_000);
    assert!(arrived.is_sorted());
}

#[test]
fn what_is_due_beyond_the_roll_window_comes_in_time_and_once() {
    let world = World::with(|options| options.timer_roll_window_slot = 10);
    for seconds in [9, 11, 14, 25, 100] {
        world.send(timed(&format!("{seconds:03}"), "TIMER_DELAY_SEC", seconds)).unwrap();
    }
    for (until, expected) in [(9, 1), (11, 2), (14, 3), (25, 4), (100, 5)] {
        let now = (world.clock.now() - START) as u64;
        pass(&world, until * 1_000 - now - 100);
        assert_eq!(arrived(&world).len(), expected - 1, "before {until} s");
        pass(&world, 100);
        assert_eq!(arrived(&world).len(), expected, "at {until} s");
    }
    assert!(arrived(&world).is_sorted());
    let (_, _, properties) = records(&world.pull(from("t", 4)).unwrap()).pop().unwrap();
    assert_eq!(properties.matches("TIMER_ROLL_TIMES").count(), 1);
    assert!(world.broker.max_offset("rmq_sys_wheel_timer", 0) > 10, "it went round");
    let counts = world.broker.timer_metrics().unwrap();
    assert_eq!(counts.timing_count["t"].count, 0);
}

fn recall(world: &World, handle: &str) -> Result<Ticket, RecallError> {
    let request = Recall { group: Some("p".into()), topic: "t".into(), handle: handle.into() };
    let ticket = world.broker.recall(&caller(), &request);
    world.store.step_all();
    ticket
}

#[test]
fn a_recalled_message_never_comes_and_its_neighbours_do() {
    for with_topic in [false, true] {
        let world = World::with(|options| {
            options.recall_message_enable = true;
            options.timer_roll_window_slot = 10;
            options.append_topic_for_timer_delete_key = with_topic;
        });
        let mut handles = Vec::new();
        for (body, delay) in [("a", 5_000), ("b", 5_000), ("c", 30_000), ("d", 30_000)] {
            handles.push(world.send(in_ms(body, delay)).unwrap().recall_handle.unwrap());
        }
        assert_eq!(&*recall(&world, &handles[1]).unwrap().receipt.unique_key, "b");
        recall(&world, &handles[2]).unwrap();
        pass(&world, 40_000);
        assert_eq!(arrived(&world), ["a", "d"]);
        assert_eq!(world.broker.timer_metrics().unwrap().timing_count["t"].count, 0);
        assert_eq!(recall(&world, &handles[0]).unwrap_err(), RecallError::InvalidTime);
    }
}

#[test]
fn a_recall_that_cannot_be_is_refused_by_name() {
    let world = World::new();
    let handle = world.send(in_ms("a", 5_000)).unwrap().recall_handle.unwrap();
    assert_eq!(recall(&world, &handle).unwrap_err(), RecallError::Forbidden);
    assert!(world.send(to("t")).unwrap().recall_handle.is_none());
    let world = World::with(|options| options.recall_message_enable = true);
    assert!(matches!(recall(&world, &handle), Err(RecallError::UnknownTopic(_))));
    world.send(to("t")).unwrap();
    world.send(to("u")).unwrap();
    recall(&world, &handle).unwrap();
    assert!(matches!(recall(&world, "nonsense"), Err(RecallError::InvalidHandle(_))));
    let request = Recall { group: None, topic: "u".into(), handle };
    assert_eq!(world.broker.recall(&caller(), &request).unwrap_err(), RecallError::OtherTopic);
    let other = wire::recall::RecallHandle {
        topic: "t".into(),
        broker: "other".into(),
        time: (START + 5_000).to_string(),
        unique_key: "a".into(),
    };
    assert_eq!(recall(&world, &other.encode()).unwrap_err(), RecallError::OtherBroker);
    let far =
        wire::recall::RecallHandle { broker: "b".into(), time: i64::MAX.to_string(), ..other };
    assert_eq!(recall(&world, &far.encode()).unwrap_err(), RecallError::InvalidTime);
}

#[test]
fn after_a_jump_of_the_clock_nothing_comes_twice_and_nothing_before_its_time() {
    let world = World::new();
    for hours in [1, 2, 3] {
        world.send(in_ms(&format!("{hours}"), hours * 3_600_000)).unwrap();
    }
    pass(&world, 2_000);
    world.clock.jump(2 * 3_600_000);
    settle(&world);
    assert_eq!(arrived(&world), ["1", "2"], "what is overdue goes at once, in order");
    pass(&world, 3_000);
    world.clock.jump(-2 * 3_600_000);
    settle(&world);
    world.send(in_ms("after", 60_000)).unwrap();
    pass(&world, 59_900);
    assert_eq!(arrived(&world), ["1", "2"]);
    pass(&world, 1_100);
    assert_eq!(arrived(&world), ["1", "2", "after"]);
    let world = world.restart();
    pass(&world, 3_000);
    world.clock.jump(3 * 3_600_000);
    settle(&world);
    assert_eq!(arrived(&world), ["1", "2", "after", "3"]);
}

#[test]
fn after_a_stop_longer_than_the_wheel_the_overdue_go_at_once_in_order_and_the_new_when_due() {
    let world = World::with(|options| options.timer_max_delay_sec = 10 * 86_400);
    for day in [1, 6, 2, 9, 0] {
        world.send(in_ms(&format!("{day}"), day * 86_400_000 + 7_000)).unwrap();
    }
    pass(&world, 2_000);
    let world = world.restart();
    world.clock.advance(Duration::from_secs(15 * 86_400));
    let due_at = world.clock.now() + 2_000;
    world.send(timed("new", "TIMER_DELIVER_MS", due_at)).unwrap();
    settle(&world);
    assert_eq!(arrived(&world), ["0", "1"]);
    // Those beyond the roll window go round once more.
    pass(&world, 100);
    assert_eq!(arrived(&world), ["0", "1", "2", "6", "9"]);
    pass(&world, 1_800);
    assert_eq!(arrived(&world).len(), 5);
    pass(&world, 1_100);
    assert_eq!(arrived(&world).last().map(String::as_str), Some("new"));
}

#[test]
fn a_clean_stop_in_the_middle_of_a_slot_delivers_each_message_once() {
    let mut world = World::new();
    let count = 6_000;
    for number in 0..count {
        world.send(in_ms(&format!("{number:05}"), 5_000)).unwrap();
    }
    pass(&world, 4_900);
    world.clock.advance(Duration::from_millis(100));
    let mut stops = 0;
    while world.broker.max_offset("t", 0) < count {
        world.broker.tick();
        world = world.restart();
        stops += 1;
    }
    assert!(stops > 1, "it stopped within");
    pass(&world, 2_000);
    let arrived = arrived(&world);
    assert_eq!(arrived.len(), count as usize);
    assert!(arrived.is_sorted());
}

#[test]
fn a_precision_of_a_tenth_delivers_within_a_tenth() {
    let world = World::with(|options| options.timer_precision_ms = 100);
    world.send(in_ms("a", 1_250)).unwrap();
    pass(&world, 1_200);
    assert!(arrived(&world).is_empty());
    pass(&world, 100);
    assert_eq!(arrived(&world), ["a"]);
}

#[tokio::test]
async fn the_service_can_be_held_at_either_end() {
    let world = World::new();
    let set = |key: &str, value: &str| {
        let changes = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        now(world.broker.update_config(changes)).unwrap();
    };
    set("timerStopEnqueue", "true");
    world.send(in_ms("a", 1_000)).unwrap();
    pass(&world, 3_000);
    let info = world.broker.runtime_info();
    assert_eq!((&*info["timerOffsetBehind"], &*info["timerCongestNum"]), ("1", "0"));
    set("timerStopEnqueue", "false");
    set("timerStopDequeue", "true");
    pass(&world, 1_000);
    let info = world.broker.runtime_info();
    assert_eq!((&*info["timerOffsetBehind"], &*info["timerCongestNum"]), ("0", "1"));
    assert!(info["timerReadBehind"].parse::<i64>().unwrap() >= 3);
    assert!(arrived(&world).is_empty());
    set("timerStopDequeue", "false");
    pass(&world, 100);
    assert_eq!(arrived(&world), ["a"]);
}

#[test]
fn progress_is_told_as_the_original_tells_it() {
    let world = World::new();
    for body in ["a", "b", "c"] {
        world.send(in_ms(body, 60_000)).unwrap();
    }
    pass(&world, 3_000);
    let checkpoint = world.broker.timer_checkpoint().unwrap();
    let long = |at: usize| i64::from_be_bytes(checkpoint[at * 8..][..8].try_into().unwrap());
    assert_eq!((long(0), long(2), long(3)), (START + 3_000, 3, 3));
    assert_eq!(long(1), 3 * 52);
    let metrics = world.file("timermetrics");
    assert!(metrics.replace(char::is_whitespace, "").contains("\"t\":{\"count\":3"), "{metrics}");
    world.broker.delete_topic("t").unwrap();
    assert!(world.broker.timer_metrics().unwrap().timing_count.is_empty());
}

/// What one message was promised, and what became of it.
struct Promised {
    due: i64,
    log_offset: u64,
    /// Whether power was cut before its record was on the device.
    is_at_risk: bool,
}

#[test]
fn through_any_crash_nothing_comes_early_nothing_is_lost_and_without_one_nothing_comes_twice() {
    let seeds =
        std::env::var("APOGEE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let clock = SimClock::new(START);
        let disk = SimDisk::new(rng.u64(..), clock.clone());
        let has_crashes = rng.bool();
        let mut world = World::on(clock, disk, |options| {
            options.timer_roll_window_slot = [10, 172_800][rng.usize(..2)];
            options.timer_precision_ms = [100, 1_000][rng.usize(..2)];
            options.mapped_file_size_timer_log = [1_000, 1 << 20][rng.usize(..2)];
            options.sync_flush = false;
        });
        let mut promised: BTreeMap<String, Promised> = BTreeMap::new();
        for _ in 0..rng.usize(3..10) {
            for _ in 0..rng.usize(..150) {
                match rng.u8(..4) {
                    0 => {
                        let body = format!("{:05}", promised.len());
                        let due = world.clock.now() + rng.i64(1..40_000);
                        let receipt = world.send(timed(&body, "TIMER_DELIVER_MS", due)).unwrap();
                        let log_offset = receipt.log_offsets[0];
                        promised.insert(body, Promised { due, log_offset, is_at_risk: false });
                    }
                    1 => drop(world.broker.tick()),
                    2 => world.store.step_all(),
                    _ => world.clock.advance(Duration::from_millis(rng.u64(..800))),
                }
            }
            match rng.u8(..4) {
                0 if has_crashes => {
                    let synced = world.store.marks().synced.get();
                    for message in promised.values_mut() {
                        message.is_at_risk |= message.log_offset >= synced;
                    }
                    world = world.crash(Crash::Power);
                }
                1 if has_crashes => world = world.crash(Crash::Process),
                2 => world = world.restart(),
                _ => {}
            }
        }
        pass(&world, 120_000);
        let mut seen: BTreeMap<String, i32> = BTreeMap::new();
        let mut offset = 0;
        while offset < world.broker.max_offset("t", 0) {
            let pulled = world.pull(from("t", offset)).unwrap();
            for slice in &pulled.messages {
                for record in wire::record::iter(slice, wire::record::CheckCrc::Yes) {
                    let record = record.unwrap();
                    let body = String::from_utf8_lossy(record.body).into_owned();
                    let due = promised[&body].due;
                    assert!(record.numbers.stored_at >= due, "seed {seed}: {body} came early");
                    *seen.entry(body).or_default() += 1;
                }
            }
            offset += i64::from(pulled.count);
        }
        for (body, message) in &promised {
            let times = seen.get(body).copied().unwrap_or(0);
            assert!(times > 0 || message.is_at_risk, "seed {seed}: {body} is lost");
            assert!(has_crashes || times == 1, "seed {seed}: {body} came {times} times");
        }
    }
}
