//! Administration: topics, figures, configuration, single messages.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use broker::{Kept, api::*};
use env::sim::Crash;
use wire::body::topic::TopicConfig;

use crate::world::{World, from, now, records, to};

fn topic(name: &str, queues: i32, attributes: &[(&str, &str)]) -> TopicConfig {
    TopicConfig {
        topic_name: name.into(),
        read_queue_nums: queues,
        write_queue_nums: queues,
        attributes: attributes
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        ..TopicConfig::default()
    }
}

#[test]
fn queues_without_a_topic_are_removed_on_demand() {
    let world = World::new();
    world.send_many("gone", 3, 10);
    world.send_many("stays", 3, 10);
    world.pass(Duration::from_secs(60));
    let table = r#"{"topicConfigTable":{"stays":{"topicName":"stays"}}}"#;
    world.put_file("topics.json", table.as_bytes());
    let world = world.crash(Crash::Process);
    assert!(world.store.find_queue("gone", 0).is_some());
    assert_eq!(now(world.broker.clean_unused_topics()).unwrap(), 1);
    assert!(world.store.find_queue("gone", 0).is_none());
    assert_eq!(now(world.broker.clean_unused_topics()).unwrap(), 0);
    assert_eq!(records(&world.pull(from("stays", 0)).unwrap()).len(), 3);
}

#[test]
fn topics_are_created_changed_and_deleted() {
    let world = World::new();
    let mut changes = world.broker.topics_changed();
    world.broker.create_topics(vec![topic("t", 2, &[("+message.type", "FIFO")])]).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let counter = world.broker.topics().data_version.counter;
    world.broker.create_topics(vec![topic("t", 2, &[])]).unwrap();
    assert_eq!(world.broker.topics().data_version.counter, counter, "nothing has changed");
    world.broker.create_topics(vec![topic("t", 4, &[("-message.type", "")])]).unwrap();
    let changed = world.broker.topic("t").unwrap();
    assert_eq!((changed.read_queue_nums, changed.attributes.len()), (4, 0));
    world.send(to("t")).unwrap();
    world.pull(Pull { commit: Some(1), ..from("t", 0) }).unwrap();
    world.broker.delete_topic("t").unwrap();
    assert!(matches!(world.broker.topic("t"), Err(TopicError::Unknown(_))));
    assert!(world.broker.topics_of_group("g").is_empty());
    world.send(to("t")).unwrap();
    assert_eq!(world.broker.max_offset("t", 0), 1, "the new topic begins anew");
}

#[test]
fn what_a_topic_may_not_be_is_refused() {
    let world = World::new();
    let refused = |config: TopicConfig| {
        world.broker.create_topics(vec![topic("fine", 1, &[]), config]).unwrap_err().to_string()
    };
    for (config, expected) in [
        (topic("a b", 1, &[]), "illegal characters"),
        (topic("TBW102", 1, &[]), "conflict with system topic"),
        (topic("DefaultCluster", 1, &[]), "conflict with system topic"),
        (topic("b", 1, &[]), "conflict with system topic"),
        (topic("t", -1, &[]), "allowed are 0 to"),
        (topic("t", i32::MAX, &[]), "allowed are 0 to"),
        (TopicConfig { perm: 9, ..topic("t", 1, &[]) }, "allowed are 0 to 7"),
        (topic("t", 1, &[("+x", "1")]), "unsupported key: x"),
        (topic("t", 1, &[("-message.type", "")]), "only add attribute"),
        (topic("t", 1, &[("+message.type", "none")]), "message.type"),
    ] {
        let refusal = refused(config);
        assert!(refusal.contains(expected), "`{refusal}` says `{expected}`");
        assert!(world.broker.topic("fine").is_err(), "all or none");
    }
    assert!(matches!(world.broker.delete_topic("TBW102"), Err(TopicError::System(_))));
    world.broker.delete_topic("none").unwrap();
}

#[test]
fn a_topic_whose_name_is_a_path_cannot_be_deleted() {
    let world = World::new();
    for name in ["../../x", "..", ".", "/etc", "a/b"] {
        let refused = world.broker.delete_topic(name).unwrap_err();
        assert!(matches!(refused, TopicError::InvalidName(_)), "{name}: {refused}");
    }
}

#[test]
fn a_stored_topic_with_too_many_queues_is_cut_to_the_bound() {
    let world = World::new();
    world.broker.create_topics(vec![topic("t", 64, &[])]).unwrap();
    world.send(to("t")).unwrap();
    let world = world.restart_with(|options| options.topic_queues_max = 16);
    assert_eq!(world.broker.topic("t").unwrap().read_queue_nums, 16);
    assert_eq!(world.broker.topics().topic_config_table["t"].write_queue_nums, 16);
    assert_eq!(world.pull(from("t", 0)).unwrap().count, 1, "what is there stays");
}

#[test]
fn the_system_topics_exist_and_bear_the_names_of_cluster_and_broker() {
    let world = World::new();
    let system = world.broker.system_topics();
    for name in
        ["DefaultCluster", "b", "TBW102", "SCHEDULE_TOPIC_XXXX", "DefaultCluster_REPLY_TOPIC"]
    {
        assert!(system.iter().any(|topic| **topic == *name), "{name}");
    }
    assert_eq!(world.broker.topic("TBW102").unwrap().perm, 7);
    assert_eq!(world.broker.topic("SCHEDULE_TOPIC_XXXX").unwrap().write_queue_nums, 18);
}

#[test]
fn a_table_is_in_the_originals_form_and_only_written_when_it_changes() {
    let world = World::new();
    world.broker.create_topics(vec![topic("t", 2, &[])]).unwrap();
    world.broker.tick();
    let text = world.file("topics.json");
    assert!(text.starts_with("{\n\t\"dataVersion\":{\n\t\t\"counter\":"), "{text}");
    let world = world.restart();
    assert_eq!(world.file("topics.json"), text, "a start without changes writes nothing");
}

#[test]
fn what_is_not_known_of_a_topic_survives_a_change_of_it() {
    let world = World::new();
    let mut newer = topic("t", 2, &[]);
    newer.rest.insert("fromLater".into(), 7.into());
    world.broker.create_topics(vec![newer]).unwrap();
    world.broker.create_topics(vec![topic("t", 3, &[])]).unwrap();
    let world = world.restart();
    let kept = world.broker.topic("t").unwrap();
    assert_eq!((kept.read_queue_nums, &kept.rest["fromLater"]), (3, &7.into()));
}

#[test]
fn figures_of_topics_and_groups_are_true() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    world.send_many("t", 5, 10);
    world.pull(Pull { count_max: 3, commit: Some(2), ..from("t", 0) }).unwrap();
    let stats = runtime.block_on(world.broker.topic_stats("t")).unwrap();
    let first = stats.offset_table.values().next().unwrap();
    assert_eq!((stats.offset_table.len(), first.min_offset, first.max_offset), (4, 0, 5));
    assert_eq!(first.last_update_timestamp, crate::world::START);
    let stats = runtime.block_on(world.broker.consume_stats("g", StatsOf::Consumed));
    let first = stats.offset_table.values().next().unwrap();
    assert_eq!((first.broker_offset, first.consumer_offset, first.pull_offset), (5, 2, 3));
    world.pass(Duration::from_secs(10));
    world.send_many("t", 20, 10);
    world.pass(Duration::from_secs(10));
    let info = world.broker.runtime_info();
    assert_eq!(info["msgPutTotalTodayNow"], "25");
    assert_eq!(info["msgGetTotalTodayNow"], "3");
    assert_eq!(info["putTps"], "2 1.25 1.25");
    assert_eq!(info["dispatchBehindBytes"], "0");
    assert_eq!(info["brokerVersionDesc"], "V5_5_0");
    assert_eq!(info["scheduleMessageOffset_1"], "0,0");
}

#[test]
fn messages_are_found_by_place_and_by_key() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let properties = "UNIQ_KEY\u{1}u1\u{2}KEYS\u{1}k1 k2\u{2}";
    let receipt = world.send(Publish { properties: properties.into(), ..to("t") }).unwrap();
    let at = receipt.log_offsets[0] as i64;
    assert!(now(world.broker.message_at(at)).is_ok());
    assert_eq!(now(world.broker.message_at(at + 4)), Err(FindError::NotAt(at + 4)));
    let find =
        |key: &str| runtime.block_on(world.broker.messages_with_key("t", key, 32, 0, i64::MAX));
    for key in ["u1", "k1", "k2"] {
        let found = find(key).unwrap();
        assert_eq!(found.records.len(), 1, "{key}");
        let until = (found.indexed_until, found.indexed_offset);
        assert_eq!(until, (crate::world::START, at));
    }
    assert_eq!(find("k").map(|found| found.records.len()), Ok(0));
}

#[test]
fn options_change_where_that_is_safe() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let change = |key: &str, value: &str| {
        let changes = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        runtime.block_on(world.broker.update_config(changes))
    };
    let version = world.broker.config_version();
    let mut changes = world.broker.topics_changed();
    changes.mark_unchanged();
    assert!(matches!(change("brokerPermission", "4"), Ok(Kept::No(_))));
    assert_eq!(world.broker.config_version().counter, version.counter + 1);
    assert!(changes.has_changed().unwrap(), "permission is registered");
    assert_eq!(world.broker.config()["brokerPermission"], "4");
    assert!(matches!(change("brokerPermission", "9"), Err(ConfigError::Invalid { .. })));
    assert!(matches!(
        change("shortPollingTimeMills", "99999999999"),
        Err(ConfigError::Invalid { .. })
    ));
    assert!(matches!(change("brokerName", "x"), Err(ConfigError::Fixed(_))));
    assert!(matches!(change("brokerConfigPath", "x"), Err(ConfigError::Forbidden(_))));
    let two = BTreeMap::from([("autoCreateTopicEnable", "false"), ("brokerId", "3")]);
    let two = two.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    assert!(runtime.block_on(world.broker.update_config(two)).is_err());
    assert_eq!(world.broker.config()["autoCreateTopicEnable"], "true", "all or none");
    let kept = Arc::new(Mutex::new(BTreeMap::new()));
    let keep = kept.clone();
    world.broker.keep_config_with(Box::new(move |changes| {
        keep.lock().unwrap().extend(changes.clone());
        Ok(())
    }));
    assert_eq!(change("maxFilterMessageSize", " 40 "), Ok(Kept::Yes));
    assert_eq!(kept.lock().unwrap()["maxFilterMessageSize"], "40");
}

#[test]
fn the_topic_for_traces_is_made_where_it_is_wished_for_and_by_its_name() {
    assert!(World::new().broker.topic("RMQ_SYS_TRACE_TOPIC").is_err());
    let world = World::with(|options| {
        options.trace_topic_enable = true;
        options.trace_topic_name = "MY_TRACES".into();
        options.trace_on = false;
    });
    let traces = world.broker.topic("MY_TRACES").unwrap();
    assert_eq!((traces.read_queue_nums, traces.write_queue_nums, traces.perm), (1, 1, 6));
    let refused = world.broker.create_topics(vec![topic("MY_TRACES", 4, &[])]).unwrap_err();
    assert_eq!(refused, TopicError::System("MY_TRACES".into()));
    world.send(to("MY_TRACES")).unwrap();
    let (_, _, text) = &records(&world.pull(from("MY_TRACES", 0)).unwrap())[0];
    assert!(text.contains("TRACE_ON\u{1}false\u{2}"), "{text}");
}
