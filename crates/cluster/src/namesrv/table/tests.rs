//! What `RouteInfoManager` of the original does, sentence by sentence; then that no sequence of events leaves anything
//! dangling.

use proptest::{collection::vec, prelude::*};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A full registration of `id` in the set `broker`, with two topics.
fn registration(broker: &str, id: i64) -> Registration {
    Registration {
        cluster: "c".to_owned(),
        broker: broker.to_owned(),
        id,
        address: format!("{broker}-{id}:10911"),
        ha_address: format!("{broker}-{id}:10912"),
        zone: None,
        timeout: None,
        acting_master: Some(false),
        version: version(1),
        topics: vec![topic("a"), topic("b")],
        mappings: BTreeMap::new(),
        filter_servers: None,
        connection: u64::try_from(id).unwrap() + 1,
    }
}

fn acting(broker: &str, id: i64) -> Registration {
    Registration { acting_master: Some(true), ..registration(broker, id) }
}

fn version(counter: i64) -> DataVersion {
    DataVersion { counter, ..DataVersion::default() }
}

fn topic(name: &str) -> TopicConfig {
    TopicConfig {
        topic_name: name.to_owned(),
        read_queue_nums: 4,
        write_queue_nums: 4,
        perm: 6,
        ..TopicConfig::default()
    }
}

fn table(registrations: impl IntoIterator<Item = Registration>) -> RouteTable {
    let mut table = RouteTable::new(Bounds::default());
    for registration in registrations {
        table.take(registration).unwrap();
    }
    table
}

impl RouteTable {
    fn take(&mut self, registration: Registration) -> Result<Registered, RegisterError> {
        let registered = self.register(Duration::ZERO, registration, true);
        self.assert_dense();
        registered
    }

    fn names(&self, wanted: TopicsWanted<'_>) -> Vec<String> {
        self.topics(wanted).topic_list
    }

    fn perm(&self, topic: &str) -> i32 {
        self.route(topic, false).expect("a route").queue_datas[0].perm
    }

    /// Every topic has queues, of registered sets only; every set has members, with different addresses.
    fn assert_dense(&self) {
        for (name, topic) in &self.topics {
            assert!(!topic.queues.is_empty(), "topic {name} has no queues");
            for (broker, queues) in &topic.queues {
                assert_eq!(broker, &queues.broker_name);
                assert!(self.brokers.contains_key(broker), "topic {name} dangles at {broker}");
            }
            let route = self.route(name, true).expect("a topic has a route");
            assert_eq!(route.broker_datas.len(), route.queue_datas.len());
            assert!(route.broker_datas.iter().all(|broker| !broker.broker_addrs.is_empty()));
        }
        for (name, set) in &self.brokers {
            assert!(!set.members.is_empty(), "set {name} has no members");
            let addresses: BTreeSet<&String> = set.members.values().map(|m| &m.address).collect();
            assert_eq!(addresses.len(), set.members.len(), "set {name} has an address twice");
        }
        let info = self.cluster_info();
        let listed: usize = info.cluster_addr_table.values().map(BTreeSet::len).sum();
        assert_eq!(
            (listed, info.broker_addr_table.len()),
            (self.brokers.len(), self.brokers.len())
        );
    }
}

#[test]
fn a_topic_is_routed_to_all_sets_that_have_it() {
    let table = table([registration("x", 0), registration("y", 0), registration("y", 1)]);
    let route = table.route("a", false).unwrap();
    let brokers: Vec<_> =
        route.broker_datas.iter().map(|b| (b.broker_name.as_str(), b.broker_addrs.len())).collect();
    assert_eq!(brokers, [("x", 1), ("y", 2)]);
    assert_eq!(route.queue_datas.len(), 2);
    assert_eq!((route.queue_datas[0].perm, route.queue_datas[0].write_queue_nums), (6, 4));
    assert_eq!(table.route("unheard", false), None);
}

#[test]
fn topics_come_from_the_master_and_slaves_are_told_of_it() {
    let mut table = table([]);
    let slave = Registration { acting_master: None, ..registration("x", 1) };
    assert_eq!(table.take(slave.clone()), Ok(Registered::default()));
    assert_eq!(table.names(TopicsWanted::All), [""; 0]);
    table.take(registration("x", 0)).unwrap();
    assert_eq!(table.names(TopicsWanted::All), ["a", "b"]);
    let told = table.take(slave).unwrap();
    assert_eq!(told.master_address.as_deref(), Some("x-0:10911"));
    assert_eq!(told.master_ha_address.as_deref(), Some("x-0:10912"));
}

#[test]
fn a_single_topic_is_taken_after_a_full_registration_only() {
    let one = |counter| Registration {
        topics: vec![topic("new")],
        version: version(counter),
        ..registration("x", 0)
    };
    let mut table = table([]);
    assert_eq!(table.take(one(1)), Err(RegisterError::NotRegistered));
    assert_eq!(table.cluster_info(), ClusterInfo::default());
    table.take(registration("x", 0)).unwrap();
    table.take(one(2)).unwrap();
    assert_eq!(table.names(TopicsWanted::All), ["a", "b", "new"]);
    assert_eq!(table.version("x", "x-0:10911"), Some(&version(2)));
}

#[test]
fn a_wiped_permission_stands_until_the_topics_of_the_broker_change() {
    let mut table = table([registration("x", 0), registration("y", 0)]);
    assert_eq!(table.wipe_write_permission("x"), 2);
    assert_eq!(table.wipe_write_permission("unheard"), 0);
    assert_eq!(table.perm("a"), 4);
    table.take(registration("x", 0)).unwrap();
    assert_eq!(table.perm("a"), 4, "the same version changes nothing");
    table.take(Registration { version: version(2), ..registration("x", 0) }).unwrap();
    assert_eq!(table.perm("a"), 6);
    table.wipe_write_permission("x");
    assert_eq!(table.add_write_permission("x"), 2);
    assert_eq!(table.perm("a"), 6);
}

#[test]
fn an_address_that_changes_its_id_is_one_record() {
    let mut table = table([registration("x", 1), registration("x", 2)]);
    table.take(Registration { address: "x-1:10911".to_owned(), ..registration("x", 0) }).unwrap();
    let addresses = table.member_group("c", "x").broker_addrs;
    assert_eq!(addresses, [(0, "x-1:10911".to_owned()), (2, "x-2:10911".to_owned())].into());
}

#[test]
fn an_older_state_version_does_not_take_the_place_of_another_address() {
    let newer = DataVersion { state_version: 2, ..version(1) };
    let mut table = table([Registration { version: newer, ..registration("x", 0) }]);
    let usurper = Registration { address: "other:1".to_owned(), ..registration("x", 0) };
    assert_eq!(table.take(usurper.clone()), Ok(Registered::default()));
    assert_eq!(table.member_group("c", "x").broker_addrs[&0], "x-0:10911");
    table.take(Registration { version: newer, ..usurper }).unwrap();
    assert_eq!(table.member_group("c", "x").broker_addrs[&0], "other:1");
}

#[test]
fn what_the_last_member_served_goes_with_it() {
    let mut table = table([registration("x", 0), registration("x", 1), registration("y", 0)]);
    table.unregister("x", "x-0:10911");
    assert_eq!(table.route("a", false).unwrap().broker_datas.len(), 2, "the slave can be read");
    assert_eq!(table.perm("a"), 6, "a set without an acting master keeps its permission");
    table.unregister("x", "x-1:10911");
    assert_eq!(table.route("a", false).unwrap().broker_datas.len(), 1);
    table.unregister("y", "someone else's");
    table.unregister("y", "y-0:10911");
    table.assert_dense();
    assert_eq!(table.names(TopicsWanted::All), [""; 0]);
    assert_eq!(table.cluster_info(), ClusterInfo::default());
}

#[test]
fn a_slave_acts_for_its_master_where_that_is_supported_and_only_to_read() {
    let sync = format!("{SYNC_BROKER_MEMBER_PREFIX}x");
    let topics = vec![topic("a"), topic(&sync)];
    let mut table = table([
        Registration { topics: topics.clone(), ..acting("x", 0) },
        acting("x", 1),
        acting("x", 2),
    ]);
    table.unregister("x", "x-0:10911");
    assert_eq!(table.perm("a"), 4, "nobody can write without the master");
    let ids = |topic: &str, supported| {
        let route = table.route(topic, supported).unwrap();
        route.broker_datas[0].broker_addrs.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(ids("a", false), [1, 2]);
    assert_eq!(ids("a", true), [0, 2]);
    assert_eq!(ids(&sync, true), [1, 2]);

    let mut table = table
        .take(Registration { version: version(2), topics, ..acting("x", 1) })
        .map(|_| table)
        .unwrap();
    assert_eq!(table.perm("a"), 4, "the slave's own registration is read-only, too");
    table.take(Registration { version: version(3), ..acting("x", 0) }).unwrap();
    assert_eq!(table.perm("a"), 6);
}

#[test]
fn topics_that_vanish_from_a_registration_stay_unless_they_are_to_go() {
    let mut table = table([registration("x", 0), registration("y", 0)]);
    let fewer =
        Registration { topics: vec![topic("b")], version: version(2), ..registration("x", 0) };
    table.take(fewer.clone()).unwrap();
    assert_eq!(table.route("a", false).unwrap().queue_datas.len(), 2);
    table.register(Duration::ZERO, Registration { version: version(3), ..fewer }, false).unwrap();
    table.assert_dense();
    assert_eq!(table.route("a", false).unwrap().queue_datas.len(), 1);
    assert_eq!(table.route("b", false).unwrap().queue_datas.len(), 2);
}

#[test]
fn a_topic_is_deleted_everywhere_or_in_one_cluster() {
    let elsewhere = Registration { cluster: "d".to_owned(), ..registration("y", 0) };
    let mut table = table([registration("x", 0), elsewhere]);
    table.delete_topic("a", Some("d"));
    assert_eq!(table.route("a", false).unwrap().queue_datas[0].broker_name, "x");
    assert_eq!(table.names(TopicsWanted::OfCluster("d")), ["b"]);
    table.delete_topic("a", Some("c"));
    table.delete_topic("b", None);
    table.delete_topic("unheard", None);
    assert_eq!(table.names(TopicsWanted::All), [""; 0]);
}

#[test]
fn silence_ends_a_registration_after_the_brokers_own_time() {
    let brief = Registration { timeout: Some(10 * SECOND), ..registration("y", 0) };
    let mut table = table([registration("x", 0), brief]);
    assert_eq!(table.expire(10 * SECOND), []);
    let expired = table.expire(11 * SECOND);
    assert_eq!(expired.iter().map(|gone| gone.broker.as_str()).collect::<Vec<_>>(), ["y"]);
    table.heard("x", "x-0:10911", 100 * SECOND);
    table.heard("x", "someone else's", 900 * SECOND);
    assert_eq!(table.expire(220 * SECOND), []);
    assert_eq!(table.expire(221 * SECOND).len(), 1);
    assert_eq!(table.cluster_info(), ClusterInfo::default());
}

#[test]
fn the_end_of_a_connection_is_the_end_of_the_broker_that_registered_last_over_it() {
    let mut table = table([registration("x", 0), registration("x", 1)]);
    table.take(Registration { connection: 77, ..registration("x", 0) }).unwrap();
    assert_eq!(table.disconnected(1), [], "it has registered over another since");
    assert_eq!(table.disconnected(77).len(), 1);
    assert_eq!(table.member_group("c", "x").broker_addrs.len(), 1);
}

#[test]
fn lists_tell_topics_by_cluster_kind_and_unit() {
    let flagged = |name: &str, flags| TopicConfig { topic_sys_flag: flags, ..topic(name) };
    let topics = vec![flagged("u", 1), flagged("us", 3), flagged("s", 2), topic("a")];
    let table = table([Registration { topics, ..registration("x", 0) }]);
    assert_eq!(table.names(TopicsWanted::All), ["a", "s", "u", "us"]);
    assert_eq!(table.names(TopicsWanted::Unit), ["u", "us"]);
    assert_eq!(table.names(TopicsWanted::UnitSub), ["s", "us"]);
    assert_eq!(table.names(TopicsWanted::UnitSubNotUnit), ["s"]);
    assert_eq!(table.names(TopicsWanted::OfCluster("unheard")), [""; 0]);
    let system = table.topics(TopicsWanted::System);
    assert_eq!(system.topic_list, ["c", "x"]);
    assert_eq!(system.broker_addr.as_deref(), Some("x-0:10911"));
}

#[test]
fn a_topic_by_itself_is_taken_for_registered_brokers_only() {
    let mut table = table([registration("x", 0)]);
    let queues = |broker: &str| QueueData {
        broker_name: broker.to_owned(),
        perm: 6,
        ..QueueData::default()
    };
    assert!(!table.register_topic("new", vec![queues("x"), queues("unheard")]));
    assert!(!table.register_topic("new", Vec::new()));
    assert_eq!(table.route("new", false), None);
    assert!(table.register_topic("new", vec![queues("x")]));
    table.assert_dense();
    assert!(table.route("new", false).is_some());
}

#[test]
fn a_static_topics_mapping_is_part_of_its_route() {
    let mapping = serde_json::json!({"bname": "x", "topic": "a", "totalQueues": 8});
    let mappings: BTreeMap<String, Value> = [("a".to_owned(), mapping.clone())].into();
    let table = table([Registration { mappings, ..registration("x", 0) }]);
    let by_broker = table.route("a", false).unwrap().topic_queue_mapping_by_broker;
    assert_eq!(by_broker, Some([("x".to_owned(), mapping)].into()));
    assert_eq!(table.route("b", false).unwrap().topic_queue_mapping_by_broker, None);
}

#[test]
fn a_mapping_goes_with_the_broker_that_told_it_and_none_speaks_for_another() {
    let mapping = |broker| serde_json::json!({"bname": broker, "topic": "a", "totalQueues": 8});
    let telling = |of, mapping| {
        let mappings = BTreeMap::from([("a".to_owned(), mapping)]);
        Registration { mappings, ..registration(of, 0) }
    };
    let mut table = table([telling("x", mapping("x")), telling("y", mapping("nobody"))]);
    let by_broker = |table: &RouteTable| {
        let by_broker = table.route("a", false).unwrap().topic_queue_mapping_by_broker;
        by_broker.unwrap_or_default().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(by_broker(&table), ["x"]);
    table.remove_members(|broker, _| broker == "x");
    assert!(by_broker(&table).is_empty());
}

#[test]
fn what_is_over_a_bound_is_refused_and_changes_nothing() {
    let bounds = Bounds {
        topics_max: 3,
        brokers_max: 1,
        members_max: 2,
        filter_servers_max: 1,
        ..Bounds::default()
    };
    let mut table = RouteTable::new(bounds);
    table.take(registration("x", 0)).unwrap();
    let refused = table.take(registration("y", 0));
    assert_eq!(refused, Err(RegisterError::Full { what: "brokers", max: 1 }));
    let topics = ["a", "b", "c", "d"].map(topic).to_vec();
    let refused = table.take(Registration { topics, ..registration("x", 0) });
    assert_eq!(refused, Err(RegisterError::Full { what: "topics", max: 3 }));
    let topics = ["a", "b", "c"].map(topic).to_vec();
    table.take(Registration { topics, ..registration("x", 0) }).unwrap();
    assert!(!table.register_topic(
        "d",
        vec![QueueData { broker_name: "x".to_owned(), ..QueueData::default() }]
    ));
    let filter_servers = Some(vec!["f:1".to_owned(), "f:2".to_owned()]);
    let refused = table.take(Registration { filter_servers, ..registration("x", 0) });
    let what = "filter servers of this broker";
    assert_eq!(refused, Err(RegisterError::Full { what, max: 1 }));
    table.take(registration("x", 1)).unwrap();
    let refused = table.take(registration("x", 2));
    assert_eq!(refused, Err(RegisterError::Full { what: "brokers of this name", max: 2 }));
    // One that changes its id is no further one.
    let Registration { address, .. } = registration("x", 1);
    table.take(Registration { address, ..registration("x", 2) }).unwrap();
}

#[test]
fn names_that_are_blank_or_longer_than_a_name_are_refused_by_what_they_name() {
    let mut table = RouteTable::new(Bounds::default());
    let long = "x".repeat(513);
    let with = |change: &dyn Fn(&mut Registration)| {
        let mut registration = registration("x", 0);
        change(&mut registration);
        registration
    };
    let cases = [
        ("cluster", with(&|r| r.cluster.clone_from(&long))),
        ("broker", with(&|r| r.broker = " ".to_owned())),
        ("broker's address", with(&|r| r.address = "1.2.3.4:1\n".to_owned())),
        ("broker's address for its slaves", with(&|r| r.ha_address.clone_from(&long))),
        ("zone", with(&|r| r.zone = Some(long.clone()))),
        ("filter server", with(&|r| r.filter_servers = Some(vec![String::new()]))),
        ("topic", with(&|r| r.topics[0].topic_name.clone_from(&long))),
    ];
    for (named, registration) in cases {
        let refused = table.take(registration).unwrap_err();
        assert!(matches!(refused, RegisterError::Name { of, .. } if of == named), "{refused}");
    }
    assert_eq!(table.cluster_info(), ClusterInfo::default());
    let retry =
        Registration { topics: ["%RETRY%a b+c"].map(topic).to_vec(), ..registration("x", 0) };
    table.take(registration("x", 0)).unwrap();
    table.take(retry).unwrap();
}

#[test]
fn a_registration_holds_for_an_hour_at_most() {
    let timeout = Some(Duration::from_secs(u64::MAX / 2));
    let mut table = table([Registration { timeout, ..registration("x", 0) }]);
    assert!(table.expire(Duration::from_secs(3600)).is_empty());
    assert_eq!(table.expire(Duration::from_secs(3601)).len(), 1);
}

/// Something that happens to a table.
#[derive(Clone, Debug)]
enum Event {
    Register {
        broker: u8,
        id: i64,
        address: u8,
        version: i64,
        topics: Vec<u8>,
        acting: bool,
        keep: bool,
    },
    RegisterTopic {
        topic: u8,
        broker: u8,
    },
    Unregister {
        broker: u8,
        address: u8,
    },
    Disconnect {
        address: u8,
    },
    Hear {
        broker: u8,
        address: u8,
    },
    Pass {
        seconds: u64,
    },
    Wipe {
        broker: u8,
    },
    Delete {
        topic: u8,
        cluster: Option<u8>,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let register =
        (0..3_u8, 0..3_i64, 0..6_u8, 0..4_i64, vec(0..5_u8, 0..4), any::<bool>(), any::<bool>());
    prop_oneof![
        6 => register.prop_map(|(broker, id, address, version, topics, acting, keep)| {
            Event::Register { broker, id, address, version, topics, acting, keep }
        }),
        1 => (0..5_u8, 0..3_u8).prop_map(|(topic, broker)| Event::RegisterTopic { topic, broker }),
        2 => (0..3_u8, 0..6_u8).prop_map(|(broker, address)| Event::Unregister { broker, address }),
        2 => (0..6_u8).prop_map(|address| Event::Disconnect { address }),
        1 => (0..3_u8, 0..6_u8).prop_map(|(broker, address)| Event::Hear { broker, address }),
        2 => (1..100_u64).prop_map(|seconds| Event::Pass { seconds }),
        1 => (0..3_u8).prop_map(|broker| Event::Wipe { broker }),
        1 => (0..5_u8, proptest::option::of(0..2_u8)).prop_map(|(topic, cluster)| Event::Delete { topic, cluster }),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_events_leaves_anything_dangling(events in vec(event(), 1..60)) {
        let mut table = RouteTable::new(Bounds::default());
        let mut now = Duration::ZERO;
        for event in events {
            match event {
                Event::Register { broker, id, address, version: counter, topics, acting, keep } => {
                    let registration = Registration {
                        cluster: format!("c{}", broker % 2),
                        address: address.to_string(),
                        connection: address.into(),
                        acting_master: Some(acting),
                        version: version(counter),
                        topics: topics.iter().map(|name| topic(&name.to_string())).collect(),
                        ..registration(&broker.to_string(), id)
                    };
                    let registered = table.register(now, registration, keep).is_ok();
                    let version = table.version(&broker.to_string(), &address.to_string());
                    prop_assert!(!registered || version == Some(&self::version(counter)));
                }
                Event::RegisterTopic { topic, broker } => {
                    let queues = QueueData { broker_name: broker.to_string(), ..QueueData::default() };
                    let known = table.brokers.contains_key(&broker.to_string());
                    prop_assert_eq!(table.register_topic(&topic.to_string(), vec![queues]), known);
                }
                Event::Unregister { broker, address } => {
                    table.unregister(&broker.to_string(), &address.to_string());
                    prop_assert_eq!(table.version(&broker.to_string(), &address.to_string()), None);
                }
                Event::Disconnect { address } => {
                    table.disconnected(address.into());
                    prop_assert_eq!(table.disconnected(address.into()), []);
                }
                Event::Hear { broker, address } => table.heard(&broker.to_string(), &address.to_string(), now),
                Event::Pass { seconds } => {
                    now += Duration::from_secs(seconds);
                    table.expire(now);
                    let members = table.brokers.values().flat_map(|set| set.members.values());
                    prop_assert!(members.into_iter().all(|member| member.heard_at + member.timeout >= now));
                }
                Event::Wipe { broker } => {
                    table.wipe_write_permission(&broker.to_string());
                }
                Event::Delete { topic, cluster } => {
                    let cluster = cluster.map(|cluster| format!("c{cluster}"));
                    table.delete_topic(&topic.to_string(), cluster.as_deref());
                }
            }
            table.assert_dense();
        }
    }
}
