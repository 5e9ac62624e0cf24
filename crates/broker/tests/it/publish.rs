//! Sending.

use std::time::Duration;

use broker::{Release, api::*};
use bytes::Bytes;
use bytestring::ByteString;
use wire::body::topic::TopicConfig;

use crate::{
    delay::delayed,
    world::{World, batch, caller, from, records, to},
};

#[test]
fn a_send_to_an_unknown_topic_creates_it_from_the_template() {
    let world = World::new();
    world.send(to("t")).unwrap();
    let topic = world.broker.topic("t").unwrap();
    assert_eq!((topic.read_queue_nums, topic.write_queue_nums, topic.perm), (4, 4, 6));
    world.send(Publish { template_queues: 100, ..to("wide") }).unwrap();
    assert_eq!(world.broker.topic("wide").unwrap().write_queue_nums, 8);
    assert!(!world.broker.is_saved());
    world.broker.tick();
    assert!(world.broker.is_saved());
    assert!(world.file("topics.json").contains("\"topicName\":\"t\""), "written at once");
    let world = world.restart();
    assert_eq!(world.broker.topic("t").unwrap().write_queue_nums, 4);
}

#[test]
fn a_message_gets_the_brokers_properties_and_loses_what_is_not_stored() {
    let world = World::new();
    let properties = "WAIT\u{1}true\u{2}TAGS\u{1}a\u{2}POP_CK\u{1}x\u{2}CLUSTER\u{1}forged\u{2}";
    let receipt = world.send(Publish { properties: properties.into(), ..to("t") }).unwrap();
    let (_, _, stored) = &records(&world.pull(from("t", 0)).unwrap())[0];
    let key = receipt.unique_key;
    assert_eq!(key.len(), 32, "a key is made when the client has none");
    assert_eq!(
        *stored,
        format!(
            "TAGS\u{1}a\u{2}UNIQ_KEY\u{1}{key}\u{2}CLUSTER\u{1}DefaultCluster\u{2}MSG_REGION\u{1}DefaultRegion\u{2}TRACE_ON\u{1}true\u{2}"
        )
    );
}

#[test]
fn a_batch_is_stored_as_neighbours_with_an_id_each() {
    let world = World::new();
    world.send(to("t")).unwrap();
    let receipt = world.send(Publish { payload: batch(&["a", "b", "c"]), ..to("t") }).unwrap();
    assert_eq!((receipt.queue_offset, receipt.log_offsets.len()), (1, 3));
    assert_eq!(receipt.message_ids().split(',').count(), 3);
    let pulled = world.pull(from("t", 1)).unwrap();
    let bodies: Vec<_> = records(&pulled).into_iter().map(|(body, ..)| body).collect();
    assert_eq!(bodies, ["a", "b", "c"]);
    assert_eq!(pulled.messages.len(), 1, "records side by side are one slice");
}

#[test]
fn a_torn_batch_stores_nothing() {
    let world = World::new();
    let Payload::Batch(whole) = batch(&["a", "b"]) else { unreachable!() };
    let torn = Payload::Batch(whole.slice(..whole.len() - 1));
    assert!(world.send(Publish { payload: torn, ..to("t") }).is_err());
    assert!(world.send(Publish { payload: Payload::Batch(Bytes::new()), ..to("t") }).is_err());
    assert_eq!(world.broker.max_offset("t", 0), 0);
}

#[test]
fn each_item_of_a_run_succeeds_or_fails_alone() {
    let world = World::new();
    let run =
        [to("a"), to("SCHEDULE_TOPIC_XXXX"), to("b"), Publish { queue_id: 9, ..to("a") }, to("a")];
    let answers = world.broker.publish(&caller(), run.into_iter().collect());
    let offsets: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().ok().map(|ticket| ticket.receipt.queue_offset))
        .collect();
    assert_eq!(offsets, [Some(0), None, Some(0), None, Some(1)]);
    assert!(answers[0].as_ref().unwrap().end < answers[4].as_ref().unwrap().end);
}

fn check_refused(world: &World, item: Publish, expected: &str) {
    let refusal = world.send(item).expect_err(expected).to_string();
    assert!(refusal.contains(expected), "`{refusal}` says `{expected}`");
}

#[test]
fn what_a_send_may_not_do_is_refused_with_cause_and_cure() {
    let world = World::new();
    world.send(to("t")).unwrap();
    let with = |properties: &str| Publish { properties: properties.into(), ..to("t") };
    check_refused(&world, to("a b"), "illegal characters");
    check_refused(&world, to(&"t".repeat(128)), "longer than topic max length");
    check_refused(&world, to("RMQ_SYS_TRANS_HALF_TOPIC"), "is forbidden");
    check_refused(&world, Publish { template: "none".into(), ..to("u") }, "apply first please");
    check_refused(&world, Publish { template: "t".into(), ..to("u") }, "apply first please");
    check_refused(&world, Publish { queue_id: 4, ..to("t") }, "queueId[4] is illegal");
    let large = Payload::One(Bytes::from(vec![0; (4 << 20) + 1]));
    check_refused(&world, Publish { payload: large, ..to("t") }, "maxMessageSize");
    check_refused(&world, with(&format!("a\u{1}{}\u{2}", "x".repeat(32_767))), "longer than 32767");
    check_refused(&world, Publish { sys_flag: 4, ..to("t") }, "no TRAN_MSG=true");
    let retry = Publish { payload: batch(&["a"]), ..to("%RETRY%g") };
    check_refused(&world, retry, "does not support retry group");
    let world = World::with(|options| options.start_accept_send_at = i64::MAX);
    check_refused(&world, to("t"), "unable to service");
    let world = World::with(|options| options.auto_create_topic_enable = false);
    check_refused(&world, to("t"), "autoCreateTopicEnable");
    let world = World::with(|options| options.topics_max = 1);
    check_refused(&world, to("t"), "raise `topicsMax`");
}

#[test]
fn a_message_whose_time_has_come_is_stored_at_once() {
    let world = World::new();
    let past = "TIMER_DELIVER_MS\u{1}1000\u{2}UNIQ_KEY\u{1}u\u{2}";
    world.send(Publish { properties: past.into(), ..to("t") }).unwrap();
    assert_eq!(world.broker.max_offset("t", 0), 1);
}

#[test]
fn a_negative_queue_is_any_queue() {
    let world = World::new();
    for _ in 0..64 {
        world.send(Publish { queue_id: -1, ..to("t") }).unwrap();
    }
    let used = (0..4).filter(|id| world.broker.max_offset("t", *id) > 0).count();
    assert!(used > 1);
    assert_eq!((0..4).map(|id| world.broker.max_offset("t", id)).sum::<i64>(), 64);
}

#[test]
fn a_retry_beyond_the_maximum_is_a_dead_letter() {
    let world = World::new();
    let retry = |times: i32, max: Option<i32>| Publish {
        reconsume_times: times,
        reconsume_times_max: max,
        ..to("%RETRY%g")
    };
    world.send(retry(16, None)).unwrap();
    assert_eq!(world.broker.max_offset("%RETRY%g", 0), 1);
    world.send(retry(17, None)).unwrap();
    world.send(retry(3, Some(2))).unwrap();
    assert_eq!(world.broker.max_offset("%DLQ%g", 0), 2);
    assert_eq!(world.broker.max_offset("%RETRY%g", 0), 1);
}

#[test]
fn sync_flush_is_waited_for_unless_the_producer_says_not_to() {
    let world = World::with(|options| options.sync_flush = true);
    let needs = |properties: ByteString| {
        let run = [Publish { properties, ..to("t") }].into_iter().collect();
        world.broker.publish(&caller(), run)[0].as_ref().unwrap().needs
    };
    assert_eq!(needs("WAIT\u{1}true\u{2}".into()), Needs::Synced);
    assert_eq!(needs("a\u{1}b\u{2}".into()), Needs::Synced);
    assert_eq!(needs("WAIT\u{1}false\u{2}".into()), Needs::Written);
}

#[test]
fn what_4_9_7_could_not_read_is_refused_if_it_is_to_open_the_store() {
    let (fits, long) =
        (format!("%RETRY%{}", "g".repeat(120)), format!("%RETRY%{}", "g".repeat(121)));
    let retry = |name: &str| TopicConfig { topic_name: name.into(), ..TopicConfig::default() };
    let timer = Publish { properties: "TIMER_DELAY_SEC\u{1}5\u{2}".into(), ..to("t") };
    let world = World::new();
    world.broker.create_topics(vec![retry(&long)]).unwrap();
    world.send(timer.clone()).unwrap();
    let world = world.restart_with(|options| options.store_readable_by = Release::V4_9_7);
    let refused = |item: Publish| world.send(item).unwrap_err().to_string();
    assert!(refused(to(&long)).contains("storeReadableBy=4.9.7"), "{}", refused(to(&long)));
    assert!(refused(timer).contains("storeReadableBy=4.9.7"));
    let other = retry(&format!("{long}g"));
    assert!(world.broker.create_topics(vec![other]).is_err());
    world.broker.create_topics(vec![retry(&fits)]).unwrap();
    world.send(delayed(1)).unwrap();
    world.pass(Duration::from_secs(10));
    assert_eq!(world.broker.max_offset("t", 0), 2, "the timer that waited before came, too");
}
