//! Delay levels, and sending back.

use std::time::Duration;

use broker::api::*;
use env::sim::{Crash, SimClock, SimDisk};

use crate::world::{START, World, caller, from, now, records, to};

pub(crate) fn delayed(level: i32) -> Publish {
    Publish { properties: format!("UNIQ_KEY\u{1}u\u{2}DELAY\u{1}{level}\u{2}").into(), ..to("t") }
}

#[test]
fn a_delayed_message_comes_when_it_is_due_and_not_before() {
    let world = World::new();
    let receipt = world.send(delayed(1)).unwrap();
    assert_eq!(receipt.queue_id, 0, "the producer is told its own queue");
    world.pass(Duration::from_millis(999));
    assert_eq!(world.broker.max_offset("t", 0), 0);
    world.pass(Duration::from_millis(1));
    let (body, topic, properties) = &records(&world.pull(from("t", 0)).unwrap())[0];
    assert_eq!((body.as_str(), topic.as_str()), ("body", "t"));
    assert!(properties.contains("REAL_TOPIC\u{1}t\u{2}"));
    assert!(properties.contains("DELAY"), "{properties}");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.broker.max_offset("t", 0), 1, "once");
}

#[test]
fn each_level_has_its_own_time_and_a_level_too_high_is_the_highest() {
    let world = World::with(|options| options.delay_levels = vec![1_000, 5_000]);
    for level in [2, 1, 99] {
        world.send(delayed(level)).unwrap();
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.broker.max_offset("t", 0), 1);
    world.pass(Duration::from_secs(4));
    assert_eq!(world.broker.max_offset("t", 0), 3);
}

#[test]
fn delayed_messages_survive_a_restart_and_come_once() {
    let world = World::new();
    for _ in 0..100 {
        world.send(delayed(1)).unwrap();
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.broker.max_offset("t", 0), 100);
    world.send(delayed(1)).unwrap();
    let world = world.restart();
    assert!(world.file("delayOffset.json").contains("1:100"));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.broker.max_offset("t", 0), 101);
}

#[test]
fn a_power_cut_loses_no_delayed_message_that_was_synced_although_its_delivery_was_not() {
    for seed in 0..16 {
        let clock = SimClock::new(START);
        let disk = SimDisk::new(seed, clock.clone());
        let world = World::on(clock, disk, |_| {});
        world.send(to("t")).unwrap();
        for _ in 0..3 {
            world.send(delayed(1)).unwrap();
        }
        world.clock.advance(Duration::from_millis(900));
        world.store.step_all();
        let all = world.store.marks().appended.get();
        assert_eq!(world.store.marks().synced.get(), all);
        // Delivered, and the positions are due to be saved, but nothing syncs the log.
        for _ in 0..4 {
            world.clock.advance(Duration::from_secs(10));
            while world.broker.tick() {}
        }
        assert!(world.store.marks().written.get() > all);
        let world = world.crash(Crash::Power);
        world.pass(Duration::from_secs(1));
        assert!(world.broker.max_offset("t", 0) >= 4, "seed {seed}");
    }
}

fn back(world: &World, log_offset: i64, delay_level: i32) -> Result<Option<Ticket>, SendBackError> {
    let request = SendBack {
        group: "g".into(),
        log_offset,
        delay_level,
        reconsume_times_max: None,
        unit_mode: false,
    };
    let answer = now(world.broker.send_back(&caller(), request));
    world.store.step_all();
    answer
}

#[test]
fn a_message_sent_back_comes_again_later_each_time() {
    let world = World::new();
    let mut log_offset = world.send(to("t")).unwrap().log_offsets[0];
    for (attempt, delay) in [(0, 10), (1, 30), (2, 60)] {
        back(&world, log_offset as i64, 0).unwrap();
        world.pass(Duration::from_secs(delay - 1));
        assert_eq!(world.broker.max_offset("%RETRY%g", 0), attempt);
        world.pass(Duration::from_secs(1));
        let pulled = world.pull(Pull { topic: "%RETRY%g".into(), ..from("t", attempt) }).unwrap();
        let (_, _, properties) = &records(&pulled)[0];
        assert!(properties.contains("RETRY_TOPIC\u{1}t\u{2}"), "{properties}");
        assert_eq!(properties.matches("ORIGIN_MESSAGE_ID").count(), 1);
        assert_eq!(properties.matches("REAL_TOPIC").count(), 1);
        let record =
            wire::record::Record::decode(&pulled.messages[0], wire::record::CheckCrc::Yes).unwrap();
        assert_eq!(i64::from(record.reconsume_times), attempt + 1);
        log_offset = record.numbers.log_offset;
    }
}

#[test]
fn a_message_that_claims_a_strange_number_of_reconsumptions_is_kept_when_sent_back() {
    let world = World::new();
    let sent = |reconsume_times| world.send(Publish { reconsume_times, ..to("t") }).unwrap();
    let negative = sent(-10).log_offsets[0] as i64;
    back(&world, negative, 0).unwrap();
    assert_eq!(world.broker.max_offset("%RETRY%g", 0), 1, "there is nothing to wait for");
    let huge = sent(i32::MAX).log_offsets[0] as i64;
    back(&world, huge, 0).unwrap();
    assert_eq!(world.broker.max_offset("%DLQ%g", 0), 1);
}

#[test]
fn a_message_sent_back_too_often_or_by_wish_is_a_dead_letter() {
    let world = World::new();
    let log_offset = world.send(to("t")).unwrap().log_offsets[0] as i64;
    back(&world, log_offset, -1).unwrap();
    assert_eq!(world.broker.max_offset("%DLQ%g", 0), 1);
    let mut group = (*world.broker.group("g").unwrap()).clone();
    group.retry_max_times = 0;
    world.broker.create_groups(vec![group.clone()]).unwrap();
    back(&world, log_offset, 0).unwrap();
    assert_eq!(world.broker.max_offset("%DLQ%g", 0), 2);
    group.retry_queue_nums = 0;
    world.broker.create_groups(vec![group]).unwrap();
    assert!(back(&world, log_offset, 0).unwrap().is_none(), "the group wants no retries");
    assert!(matches!(back(&world, -5, 0), Ok(None)));
}

#[test]
fn what_is_not_there_cannot_be_sent_back() {
    let world = World::new();
    world.send(to("t")).unwrap();
    for nowhere in [1, -1, i64::MAX] {
        assert_eq!(back(&world, nowhere, 0).unwrap_err(), SendBackError::NoMessage(nowhere));
    }
}
