//! Clients, groups and offsets.

use std::{sync::Arc, time::Duration};

use broker::{Session, api::*};
use wire::body::{
    client::{
        ConsumeType, ConsumerData, HeartbeatData, MessageModel, ProducerData, SubscriptionData,
    },
    group::SubscriptionGroupConfig,
    topic::TopicConfig,
};

use crate::world::{Client, World, caller, from, now, tagged, to};

fn subscription(topic: &str, tags: &str, version: i64) -> SubscriptionData {
    SubscriptionData {
        topic: topic.into(),
        sub_string: tags.into(),
        code_set: tags.split("||").map(|tag| wire::hash::java_string_hash(tag.trim())).collect(),
        sub_version: version,
        expression_type: "TAG".into(),
        ..SubscriptionData::default()
    }
}

fn heartbeat(client: &str, subscriptions: Vec<SubscriptionData>) -> HeartbeatData {
    HeartbeatData {
        client_id: client.into(),
        consumer_data_set: vec![ConsumerData {
            group_name: "g".into(),
            consume_type: ConsumeType::ConsumePassively,
            message_model: MessageModel::Clustering,
            subscription_data_set: subscriptions,
            ..ConsumerData::default()
        }],
        producer_data_set: vec![ProducerData { group_name: "p".into() }],
        ..HeartbeatData::default()
    }
}

fn beat(session: &Session, client: &str) -> HeartbeatAnswer {
    session.heartbeat(&caller(), heartbeat(client, vec![subscription("t", "*", 1)])).unwrap()
}

#[test]
fn a_heartbeat_brings_group_retry_topic_and_subscription() {
    let world = World::new();
    let session = world.broker.connect(Client::new(1));
    assert!(beat(&session, "c1").subscription_changed);
    assert_eq!(world.broker.consumer_ids("g").unwrap()[..], ["c1"]);
    assert_eq!(world.broker.topic("%RETRY%g").unwrap().read_queue_nums, 1);
    assert_eq!(world.broker.group("g").unwrap().retry_max_times, 16);
    let seen = world.broker.consumer_connection("g").unwrap();
    assert_eq!(seen.connection_set[0].client_id, "c1");
    assert_eq!(seen.connection_set[0].language, "JAVA");
    assert!(seen.subscription_table.contains_key("t"));
    assert_eq!(world.broker.producer_connection("p").unwrap().connection_set.len(), 1);
    assert_eq!(world.broker.groups_of_topic("t"), ["g"]);
}

#[test]
fn members_are_told_when_others_come_and_go_but_not_each_time_in_a_storm() {
    let world = World::new();
    let first = Client::new(1);
    let session = world.broker.connect(first.clone());
    beat(&session, "c1");
    assert_eq!(first.times_told(), 1);
    let others: Vec<Session> = (10..30)
        .map(|id| {
            let other = world.broker.connect(Client::new(id));
            beat(&other, &format!("c{id}"));
            other
        })
        .collect();
    assert_eq!(first.times_told(), 1, "held back");
    world.pass(Duration::from_secs(1));
    assert_eq!(first.times_told(), 2);
    drop(others);
    world.pass(Duration::from_secs(1));
    assert_eq!(first.times_told(), 3);
    let newcomer = world.broker.connect(Client::new(2));
    world.pass(Duration::from_secs(1));
    beat(&newcomer, "c2");
    newcomer.unregister(Some("p"), Some("g"));
    assert_eq!(world.broker.consumer_ids("g").unwrap()[..], ["c1"]);
}

#[test]
fn the_ids_of_a_group_are_gathered_once_for_all_who_ask_between_two_changes() {
    let world = World::new();
    let sessions: Vec<Session> = (0..100)
        .map(|id| {
            let session = world.broker.connect(Client::new(id));
            beat(&session, &format!("c{id}"));
            session
        })
        .collect();
    let ids = || world.broker.consumer_ids("g").unwrap();
    let before = ids();
    assert_eq!(before.len(), 100);
    beat(&sessions[0], "c0");
    assert!(Arc::ptr_eq(&before, &ids()), "a heartbeat changes nothing");
    beat(&sessions[0], "renamed");
    assert!(ids().contains(&"renamed".into()) && !ids().contains(&"c0".into()));
    sessions[1].unregister(None, Some("g"));
    assert_eq!(ids().len(), 99);
    world.pass(Duration::from_secs(60));
    beat(&sessions[0], "renamed");
    world.pass(Duration::from_secs(61));
    assert_eq!(ids()[..], ["renamed"], "the others were silent");
}

#[test]
fn a_subscription_that_flips_is_told_to_nobody_and_changes_what_only_its_group_gets() {
    let world = World::new();
    for tag in ["a", "b", "a"] {
        world.send(tagged("t", tag)).unwrap();
    }
    let (flipping, other) = (Client::new(1), Client::new(2));
    let session = world.broker.connect(flipping.clone());
    let beside = world.broker.connect(other.clone());
    let beside_beat = || {
        let mut data = heartbeat("c2", vec![subscription("t", "a || b", 1)]);
        data.consumer_data_set[0].group_name = "beside".into();
        data
    };
    beside.heartbeat(&caller(), beside_beat()).unwrap();
    let registered = |group: &str, version| Pull {
        group: group.into(),
        filter: Filter::Registered,
        subscription_version: version,
        ..from("t", 0)
    };
    for version in 1..=200 {
        let (tag, count) = [("a", 2), ("b", 1)][version as usize % 2];
        let flipped = heartbeat("c1", vec![subscription("t", tag, version)]);
        session.heartbeat(&caller(), flipped).unwrap();
        assert_eq!(world.pull(registered("g", version)).unwrap().count, count);
        assert_eq!(world.pull(registered("beside", 1)).unwrap().count, 3);
        world.pass(Duration::from_secs(1));
        assert_eq!(
            world.pull(registered("g", version + 1)).unwrap_err(),
            PullError::SubscriptionNotLatest
        );
        beside.heartbeat(&caller(), beside_beat()).unwrap();
    }
    assert_eq!((flipping.times_told(), other.times_told()), (1, 1), "that they had joined");
}

#[test]
fn a_group_that_never_commits_holds_up_no_other() {
    let world = World::new();
    world.send_many("t", 100, 10);
    for round in 0..50 {
        let stuck = world.pull(Pull { group: "stuck".into(), ..from("t", 0) }).unwrap();
        assert_eq!((stuck.count, stuck.next), (32, 32));
        let moving = world.pull(Pull { commit: Some(round), ..from("t", round) }).unwrap();
        assert_eq!(moving.next, round + 32);
    }
    assert_eq!(now(world.broker.consumer_offset("g", "t", 0, IfUnknown::NotFound)), Ok(49));
    let stuck = world.broker.consumer_offset("stuck", "t", 0, IfUnknown::NotFound);
    assert!(now(stuck).is_err());
}

#[test]
fn a_session_that_ends_leaves_no_trace() {
    let world = World::new();
    let session = world.broker.connect(Client::new(1));
    beat(&session, "c1");
    drop(session);
    let none = ClientsError::NoConsumer("g".into());
    assert_eq!(world.broker.consumer_ids("g").unwrap_err(), none);
    assert!(world.broker.consumer_connection("g").is_err());
    assert!(world.broker.producer_connection("p").is_err());
}

#[test]
fn clients_that_come_and_go_at_once_do_not_lock_each_other_out() {
    let world = World::new();
    std::thread::scope(|scope| {
        for id in 1..=3 {
            let broker = &world.broker;
            scope.spawn(move || {
                for _ in 0..2_000 {
                    let session = broker.connect(Client::new(id));
                    beat(&session, "c");
                    drop(session);
                }
            });
        }
        for _ in 0..2_000 {
            world.broker.groups_of_topic("t");
            world.broker.runtime_info();
        }
    });
    assert!(world.broker.consumer_ids("g").is_err(), "all have left");
    beat(&world.broker.connect(Client::new(9)), "c9");
    assert_eq!(world.broker.runtime_info()["apogee.consumers"], "0");
}

#[test]
fn a_client_that_falls_silent_is_taken_out_and_its_connection_closed() {
    let world = World::new();
    let client = Client::new(1);
    let session = world.broker.connect(client.clone());
    beat(&session, "c1");
    world.pass(Duration::from_secs(119));
    assert!(world.broker.consumer_ids("g").is_ok() && !client.is_closed());
    world.pass(Duration::from_secs(2));
    assert!(world.broker.consumer_ids("g").is_err() && client.is_closed());
    // What was under way on the connection when it closed.
    beat(&session, "c1");
    assert!(world.broker.consumer_ids("g").is_ok());
}

#[test]
fn names_that_cannot_be_kept_are_refused_by_what_they_are() {
    let world = World::new();
    let session = world.broker.connect(Client::new(1));
    let refusal = |data| match session.heartbeat(&caller(), data) {
        Err(HeartbeatError::InvalidName(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let producer = |name: &str| HeartbeatData {
        client_id: "c".into(),
        producer_data_set: vec![ProducerData { group_name: name.into() }],
        ..HeartbeatData::default()
    };
    assert!(session.heartbeat(&caller(), producer(&"p".repeat(255))).is_ok());
    let said = refusal(producer(&"p".repeat(10_000)));
    assert!(said.contains("group: ppp") && said.contains("512") && said.len() < 200, "{said}");
    assert!(
        refusal(producer(
            "a
b"
        ))
        .contains(r"group: a\nb, contains control")
    );
    assert!(refusal(heartbeat(&"c".repeat(513), vec![])).contains("clientID"));
    let long = subscription(&"t".repeat(600), "*", 1);
    assert!(refusal(heartbeat("c", vec![long])).contains("topic: ttt"));
    let long = subscription("t", &"x".repeat(70_000), 1);
    assert!(refusal(heartbeat("c", vec![long])).contains("subscription to t has 70"));
    assert!(world.broker.consumer_ids("g").is_err(), "nothing of a refused heartbeat is taken");
}

#[test]
fn a_fingerprint_stands_for_the_subscriptions() {
    let world = World::new();
    let session = world.broker.connect(Client::new(1));
    let full = HeartbeatData {
        heartbeat_fingerprint: 5,
        ..heartbeat("c1", vec![subscription("t", "a", 1)])
    };
    session.heartbeat(&caller(), full).unwrap();
    let short = |fingerprint| HeartbeatData {
        heartbeat_fingerprint: fingerprint,
        without_sub: true,
        ..heartbeat("c1", vec![])
    };
    let answer = session.heartbeat(&caller(), short(5)).unwrap();
    assert!(!answer.subscription_changed);
    assert!(world.broker.consumer_connection("g").unwrap().subscription_table.contains_key("t"));
    assert!(session.heartbeat(&caller(), short(6)).unwrap().subscription_changed);
    // After a restart the broker knows nothing: it must ask.
    let world = World::new();
    let session = world.broker.connect(Client::new(1));
    assert!(session.heartbeat(&caller(), short(5)).unwrap().subscription_changed);
}

#[test]
fn a_pull_may_use_the_groups_subscription_when_it_is_new_enough() {
    let world = World::new();
    for tag in ["a", "b"] {
        world.send(tagged("t", tag)).unwrap();
    }
    let session = world.broker.connect(Client::new(1));
    let data = heartbeat("c1", vec![subscription("t", "b", 7)]);
    session.heartbeat(&caller(), data).unwrap();
    let pull = |version| Pull {
        filter: Filter::Registered,
        subscription_version: version,
        ..from("t", 0)
    };
    assert_eq!(world.pull(pull(7)).unwrap().count, 1);
    assert_eq!(world.pull(pull(8)).unwrap_err(), PullError::SubscriptionNotLatest);
    let other = Pull { topic: "%RETRY%g".into(), ..pull(7) };
    assert_eq!(world.pull(other).unwrap_err(), PullError::NotSubscribed);
    world.broker.forbid("g", "t", true).unwrap();
    assert_eq!(world.pull(pull(7)).unwrap_err().forbidden_type(), Some(5));
    world.broker.forbid("g", "t", false).unwrap();
    assert!(world.broker.forbid("none", "t", true).is_err());
    assert!(world.broker.forbid("g", "none", true).is_err());
    assert!(world.pull(pull(7)).is_ok());
}

#[test]
fn attributes_of_a_group_are_changed_by_their_sign() {
    let world = World::new();
    let group = |attributes: &[(&str, &str)]| SubscriptionGroupConfig {
        group_name: "g".into(),
        attributes: attributes
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        ..SubscriptionGroupConfig::default()
    };
    world.broker.create_groups(vec![group(&[("+priority.factor", "50")])]).unwrap();
    world.broker.create_groups(vec![group(&[])]).unwrap();
    assert_eq!(world.broker.group("g").unwrap().attributes["priority.factor"], "50");
    assert!(matches!(
        world.broker.create_groups(vec![group(&[("+x", "")])]),
        Err(GroupError::Invalid(_))
    ));
}

#[test]
fn a_group_has_no_more_retry_queues_than_a_topic_may_have() {
    let world = World::with(|options| options.topic_queues_max = 16);
    let group = |queues| SubscriptionGroupConfig {
        group_name: "g".into(),
        retry_queue_nums: queues,
        ..SubscriptionGroupConfig::default()
    };
    for queues in [i32::MAX, 17, -1] {
        let refused = world.broker.create_groups(vec![group(queues)]).unwrap_err();
        assert!(refused.to_string().contains("allowed are 0 to 16"), "{refused}");
    }
    world.broker.create_groups(vec![group(16)]).unwrap();
    // A group that was stored before keeps its number; its topic does not follow.
    let world = world.restart_with(|options| options.topic_queues_max = 4);
    beat(&world.broker.connect(Client::new(1)), "c1");
    assert_eq!(world.broker.topic("%RETRY%g").unwrap().read_queue_nums, 4);
}

#[test]
fn clients_are_bounded() {
    let world = World::with(|options| options.clients_max = 2);
    let sessions: Vec<_> = [1, 2].map(|id| world.broker.connect(Client::new(id))).into();
    beat(&sessions[0], "c1");
    let data = heartbeat("c2", vec![]);
    assert!(matches!(sessions[1].heartbeat(&caller(), data), Err(HeartbeatError::Full(_))));
    assert_eq!(world.broker.consumer_ids("g").unwrap()[..], ["c1"]);
    drop(sessions);
    let session = world.broker.connect(Client::new(3));
    beat(&session, "c3");
}

#[test]
fn a_new_group_begins_at_the_first_message_of_a_young_topic_only() {
    let world = World::new();
    world.send_many("t", 3, 1);
    let query =
        |group: &str, if_unknown| now(world.broker.consumer_offset(group, "t", 0, if_unknown));
    assert_eq!(query("g", IfUnknown::First), Ok(0));
    assert_eq!(query("g", IfUnknown::NotFound), Err(OffsetError::NotFoundNoZero));
    let empty = now(world.broker.consumer_offset("g", "t", 1, IfUnknown::First));
    assert_eq!(empty, Ok(0), "what is sent before the group knows the end is not missed");
    let world = World::with(|options| options.memory_bytes = 100);
    world.send_many("t", 3, 1_000);
    let far = now(world.broker.consumer_offset("g", "t", 0, IfUnknown::First));
    assert_eq!(far, Err(OffsetError::NotFound), "its first message is no longer near");
}

#[test]
fn offsets_are_written_every_five_seconds_and_at_the_stop() {
    let world = World::new();
    world.send_many("t", 3, 1);
    world.pull(from("t", 0)).unwrap();
    world.broker.commit_offset("g", "t", 0, 1).unwrap();
    world.pass(Duration::from_secs(5));
    assert!(world.file("consumerOffset.json").contains("\"t@g\":{\n\t\t\t0:1\n\t\t}"));
    world.broker.commit_offset("g", "t", 0, 2).unwrap();
    let world = world.restart();
    assert_eq!(now(world.broker.consumer_offset("g", "t", 0, IfUnknown::NotFound)), Ok(2));
    assert_eq!(
        world.broker.commit_offset("none", "t", 0, 2),
        Err(CommitError::UnknownGroup("none".into()))
    );
    assert_eq!(
        world.broker.commit_offset("g", "none", 0, 2),
        Err(CommitError::UnknownTopic("none".into()))
    );
}

#[test]
fn a_full_table_forgets_groups_that_left_what_retention_has_passed() {
    let world = World::with(|options| options.offsets_max = 2);
    world.send_many("t", 2, 1);
    for group in ["left", "behind", "new"] {
        world
            .broker
            .create_groups(vec![SubscriptionGroupConfig {
                group_name: group.into(),
                ..SubscriptionGroupConfig::default()
            }])
            .unwrap();
    }
    world.broker.commit_offset("left", "t", 0, 0).unwrap();
    world.broker.commit_offset("behind", "t", 0, 1).unwrap();
    world.pass(Duration::from_secs(10));
    let commit = || world.broker.commit_offset("new", "t", 0, 2);
    assert!(matches!(commit(), Err(CommitError::Full(_))));
    world.pass(Duration::from_secs(10));
    assert_eq!(commit(), Ok(Committed::Stored), "the first has made room");
    let known = |group| now(world.broker.consumer_offset(group, "t", 0, IfUnknown::NotFound));
    assert!(known("left").is_err());
    assert_eq!(known("behind"), Ok(1), "there is something for it to come back to");
}

#[test]
fn offsets_are_found_by_store_time() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for _ in 0..3 {
        world.send(to("t")).unwrap();
        world.clock.advance(Duration::from_secs(10));
    }
    let at = |seconds: i64, boundary| {
        let time = crate::world::START + seconds * 1_000;
        runtime.block_on(world.broker.offset_at("t", 0, time, boundary)).unwrap()
    };
    assert_eq!(
        [
            at(-1, broker::Boundary::Lower),
            at(10, broker::Boundary::Lower),
            at(99, broker::Boundary::Lower)
        ],
        [0, 1, 3]
    );
    assert_eq!([at(10, broker::Boundary::Upper), at(99, broker::Boundary::Upper)], [1, 2]);
    let earliest = runtime.block_on(world.broker.earliest_store_time("t", 0));
    assert_eq!(earliest, crate::world::START);
    assert_eq!(runtime.block_on(world.broker.earliest_store_time("t", 1)), -1);
}

#[test]
fn queue_locks_are_leases() {
    let world = World::new();
    let queue =
        |id| wire::body::MessageQueue { topic: "t".into(), broker_name: "b".into(), queue_id: id };
    let lock = |client: &str, ids: &[i32]| -> Vec<i32> {
        let queues = ids.iter().copied().map(queue).collect();
        let held = world.broker.lock_queues("g", client, queues).unwrap();
        held.iter().map(|queue| queue.queue_id).collect()
    };
    assert_eq!(lock("c1", &[0, 1]), [0, 1]);
    assert_eq!(lock("c2", &[1, 2]), [2]);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(lock("c2", &[1]), [1]);
    world.broker.unlock_queues("g", "c2", &[queue(1)]);
    assert_eq!(lock("c3", &[1]), [1]);
    let long = "x".repeat(600);
    for (group, client) in [(long.as_str(), "c"), ("g", long.as_str()), ("g\0", "c")] {
        assert!(world.broker.lock_queues(group, client, vec![queue(3)]).is_err());
    }
    let long = wire::body::MessageQueue { topic: long, ..queue(3) };
    assert!(world.broker.lock_queues("g", "c", vec![queue(3), long]).is_err());
    assert_eq!(lock("c4", &[3]), [3], "a refused request locks nothing");
}

#[test]
fn offsets_are_kept_for_queues_that_a_topic_has_or_had() {
    let world = World::new();
    world.send_many("t", 1, 1);
    world.pull(from("t", 0)).unwrap();
    let commit = |queue_id, offset| world.broker.commit_offset("g", "t", queue_id, offset);
    assert_eq!(commit(3, 1), Ok(Committed::Stored));
    for id in [4, -1, i32::MAX] {
        let refused = commit(id, 1).unwrap_err();
        assert!(refused.to_string().ends_with("queues 0..4"), "{refused}");
    }
    let fewer = TopicConfig {
        read_queue_nums: 1,
        write_queue_nums: 1,
        ..(*world.broker.topic("t").unwrap()).clone()
    };
    world.broker.create_topics(vec![fewer]).unwrap();
    assert_eq!(commit(3, 2), Ok(Committed::Stored), "what the group has may move");
    assert!(commit(2, 1).is_err());
    commit(0, -7).unwrap();
    let query = now(world.broker.consumer_offset("g", "t", 0, IfUnknown::NotFound));
    assert_eq!(query, Err(OffsetError::NotFoundNoZero), "a negative offset is none");
}
