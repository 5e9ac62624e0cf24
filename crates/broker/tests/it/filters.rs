//! Conditions on properties: from pulls and heartbeats, at once and later, over restarts.

use std::{
    future::Future,
    io::Read,
    path::Path,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use broker::{Options, Session, api::*};
use flate2::bufread::GzDecoder;
use wire::body::client::{ConsumerData, HeartbeatData, SubscriptionData};

use crate::world::{Client, World, caller, from, now, records, tagged, to};

const DAY: Duration = Duration::from_secs(86_400);

fn world() -> World {
    World::with(serving)
}

fn serving(options: &mut Options) {
    options.enable_property_filter = true;
}

/// A message whose body names the value of its property `n`.
fn numbered(n: i32) -> Publish {
    let body = format!("{n}").into_bytes().into();
    Publish {
        properties: format!("n\u{1}{n}\u{2}UNIQ_KEY\u{1}u{n}\u{2}").into(),
        payload: Payload::One(body),
        ..to("t")
    }
}

fn send(world: &World, numbers: std::ops::Range<i32>) {
    for n in numbers {
        world.send(numbered(n)).unwrap();
    }
}

fn by(expression: &str, offset: i64) -> Pull {
    let filter = Filter::Expression { kind: "SQL92".into(), expression: expression.into() };
    Pull { filter, ..from("t", offset) }
}

fn registered(version: i64, offset: i64) -> Pull {
    Pull { filter: Filter::Registered, subscription_version: version, ..from("t", offset) }
}

fn bodies(pulled: &Pulled) -> Vec<String> {
    records(pulled).into_iter().map(|(body, _, _)| body).collect()
}

fn condition(topic: &str, expression: &str, version: i64) -> SubscriptionData {
    SubscriptionData {
        sub_version: version,
        ..SubscriptionData::parse(topic, expression, "SQL92").expect("not empty")
    }
}

fn beat(session: &Session, subscriptions: Vec<SubscriptionData>) {
    let consumer = ConsumerData {
        group_name: "g".into(),
        subscription_data_set: subscriptions,
        ..ConsumerData::default()
    };
    let data = HeartbeatData {
        client_id: "c".into(),
        consumer_data_set: vec![consumer],
        ..HeartbeatData::default()
    };
    session.heartbeat(&caller(), data).unwrap();
}

#[test]
fn a_pull_gets_what_its_condition_lets_through() {
    let world = world();
    send(&world, 0..10);
    let pulled = world.pull(by("n > 2 AND n NOT IN ('5', '6')", 0)).unwrap();
    assert_eq!((pulled.status, pulled.next), (PullStatus::Found, 10));
    assert_eq!(bodies(&pulled), ["3", "4", "7", "8", "9"]);
    assert_eq!(pulled.messages.len(), 2, "what lies side by side is one slice");
    let pulled = world.pull(Pull { count_max: 2, ..by("n BETWEEN 4 AND 8", 0) }).unwrap();
    assert_eq!((bodies(&pulled), pulled.next), (vec!["4".to_owned(), "5".to_owned()], 6));
    let pulled = world.pull(by("none IS NOT NULL", 3)).unwrap();
    assert_eq!((pulled.status, pulled.next), (PullStatus::NoMatchedMessage, 10));
    assert_eq!(world.broker.runtime_info()["apogee.filteredMessages"], "16");
}

#[test]
fn a_condition_that_matches_little_looks_at_a_bounded_number_of_records() {
    let world = world();
    world.send_many("t", 900, 10);
    let pulled = world.pull(by("n = 1", 0)).unwrap();
    assert_eq!((pulled.status, pulled.next), (PullStatus::NoMatchedMessage, 800));
    let world = self::world();
    world.send_many("t", 60, 100_000);
    let pulled = world.pull(by("n = 1", 0)).unwrap();
    assert_eq!((pulled.status, pulled.next), (PullStatus::NoMatchedMessage, 42), "4 MiB");
}

#[test]
fn a_wrong_condition_is_refused_with_the_place() {
    let world = world();
    send(&world, 0..1);
    let refused = world.pull(by("n > 'a'", 0)).unwrap_err();
    assert!(matches!(refused, PullError::InvalidExpression(_)));
    assert!(refused.to_string().contains("column 5"), "{refused}");
    assert!(matches!(world.pull(by("", 0)), Err(PullError::InvalidExpression(_))));
    let check = |expression: &str, kind: &str| {
        let mut subscription = condition("t", expression, 1);
        subscription.expression_type = kind.into();
        world.broker.check_subscription(&subscription)
    };
    assert_eq!(check("n > 5", "SQL92"), Ok(()));
    assert!(matches!(check("n >", "SQL92"), Err(SubscriptionError::Invalid(_))));
    assert!(matches!(check("n > 5", "SQL93"), Err(SubscriptionError::Unsupported(_))));
    assert_eq!(check("a || b", "TAG"), Ok(()));
}

#[test]
fn conditions_are_served_only_where_the_operator_wants_them() {
    let world = World::new();
    send(&world, 0..1);
    let session = world.broker.connect(Client::new(1));
    beat(&session, vec![condition("t", "n > 2", 1)]);
    for pull in [by("n > 2", 0), registered(1, 0)] {
        let refused = world.pull(pull).unwrap_err();
        assert_eq!(refused, PullError::UnsupportedFilter("SQL92".into()));
    }
    drop(session);
    let world = world.restart_with(serving);
    let session = world.broker.connect(Client::new(1));
    beat(&session, vec![condition("t", "n > 2", 1)]);
    world.pull(registered(1, 0)).unwrap();
}

#[test]
fn a_heartbeat_registers_the_condition_of_its_group() {
    let world = world();
    send(&world, 0..5);
    let session = world.broker.connect(Client::new(1));
    beat(&session, vec![condition("t", "n > 2", 5)]);
    assert_eq!(bodies(&world.pull(registered(5, 0)).unwrap()), ["3", "4"]);
    assert_eq!(world.pull(registered(6, 0)).unwrap_err(), PullError::SubscriptionNotLatest);
    beat(&session, vec![condition("t", "n < 2", 4)]);
    assert_eq!(bodies(&world.pull(registered(4, 0)).unwrap()), ["3", "4"], "an older one");
    beat(&session, vec![condition("t", "n < 2", 6)]);
    assert_eq!(bodies(&world.pull(registered(6, 0)).unwrap()), ["0", "1"]);
    beat(&session, vec![condition("t", "n <", 7)]);
    let refused = world.pull(registered(7, 0)).unwrap_err();
    let PullError::NoFilterData { reason } = &refused else { panic!("{refused}") };
    assert!(reason.contains("found the end, at line 1, column 4"), "{refused}");
}

#[test]
fn a_condition_outlives_a_restart_and_the_group_by_a_day() {
    let world = world();
    send(&world, 0..5);
    let session = world.broker.connect(Client::new(1));
    beat(&session, vec![condition("t", "n > 2", 5), condition("other", "a = b", 5)]);
    world.pass(Duration::from_secs(10));
    let stored = world.file("consumerFilter.json");
    for part in ["\"bitNum\":112", "\"expression\":\"n > 2\"", "\"dead\":false", "\"deadTime\":0"] {
        assert!(stored.replace(['\n', '\t', ' '], "").contains(&part.replace(' ', "")), "{stored}");
    }
    drop(session);
    let world = world.restart();
    assert_eq!(world.broker.runtime_info()["apogee.filters"], "2");
    let session = world.broker.connect(Client::new(1));
    world.pass(DAY / 2);
    beat(&session, vec![condition("t", "n > 2", 5)]);
    assert_eq!(bodies(&world.pull(registered(5, 0)).unwrap()), ["3", "4"]);
    world.pass(DAY / 2);
    assert_eq!(world.broker.runtime_info()["apogee.filters"], "1", "the other is forgotten");
    drop(session);
    world.pass(DAY);
    assert_eq!(world.broker.runtime_info()["apogee.filters"], "0");
}

#[test]
fn stored_conditions_count_only_with_bit_maps_of_the_same_size() {
    let world = world();
    let session = world.broker.connect(Client::new(1));
    beat(&session, vec![condition("t", "n > 2", 5)]);
    drop(session);
    let world = world.restart_with(|options| options.expect_consumer_num_use_filter = 64);
    assert_eq!(world.broker.runtime_info()["apogee.filters"], "0");
}

#[test]
fn the_conditions_of_all_groups_have_a_bound() {
    let world = World::with(|options| {
        serving(options);
        options.filter_bytes_max = 600;
    });
    send(&world, 0..5);
    let session = world.broker.connect(Client::new(1));
    beat(
        &session,
        vec![condition("t", "n > 2", 5), condition("u", "n > 2", 5), condition("v", "n > 2", 5)],
    );
    assert_eq!(world.broker.runtime_info()["apogee.filters"], "2");
    beat(&session, vec![condition("t", &"n = 1 OR ".repeat(100), 6)]);
    let refused = world.pull(registered(6, 0)).unwrap_err();
    assert!(matches!(refused, PullError::NoFilterData { .. }), "{refused}");
}

#[test]
fn retries_are_filtered_by_the_condition_on_their_own_topic() {
    let retried = |world: &World, topic: &str, n: i32| {
        let properties = format!("n\u{1}{n}\u{2}RETRY_TOPIC\u{1}{topic}\u{2}UNIQ_KEY\u{1}u\u{2}");
        let sent =
            Publish { properties: properties.into(), topic: "%RETRY%g".into(), ..numbered(n) };
        world.send(sent).unwrap();
    };
    for (supports_retry, wanted) in [(true, vec!["1", "5", "6"]), (false, vec!["5", "6"])] {
        let world = World::with(|options| {
            serving(options);
            options.filter_support_retry = supports_retry;
        });
        let session = world.broker.connect(Client::new(1));
        beat(&session, vec![condition("t", "n > 4", 1)]);
        retried(&world, "t", 1);
        retried(&world, "u", 1);
        retried(&world, "t", 5);
        retried(&world, "u", 6);
        let pull = Pull { topic: "%RETRY%g".into(), ..by("n > 4", 0) };
        assert_eq!(bodies(&world.pull(pull).unwrap()), wanted);
    }
}

#[test]
fn a_waiting_pull_sleeps_through_what_its_condition_does_not_let_through() {
    let world = world();
    send(&world, 0..1);
    let cx = caller();
    let waiting = || Pull { suspend: Some(Duration::from_secs(15)), ..by("n > 5", 1) };
    let mut pull = pin!(world.broker.pull(&cx, waiting()));
    macro_rules! poll {
        () => {
            pull.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
    }
    assert!(poll!().is_pending());
    for n in 1..5 {
        send(&world, n..n + 1);
        assert!(poll!().is_pending());
    }
    assert_eq!(world.broker.runtime_info()["apogee.filteredMessages"], "4", "each is judged once");
    send(&world, 6..7);
    let Poll::Ready(Ok(pulled)) = poll!() else { panic!("woken") };
    assert_eq!((pulled.status, pulled.next), (PullStatus::Found, 6));
    assert_eq!(bodies(&pulled), ["6"]);

    let mut pull = pin!(world.broker.pull(&cx, Pull { offset: 6, ..waiting() }));
    macro_rules! poll {
        () => {
            pull.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
    }
    assert!(poll!().is_pending());
    send(&world, 1..3);
    assert!(poll!().is_pending());
    world.clock.advance(Duration::from_secs(15));
    let Poll::Ready(Ok(pulled)) = poll!() else { panic!("its time is over") };
    assert_eq!((pulled.status, pulled.next), (PullStatus::OffsetOverflowOne, 8));
}

#[test]
fn with_bit_maps_a_group_does_not_look_at_messages_that_it_does_not_want() {
    let world = World::with(|options| {
        serving(options);
        options.enable_calc_filter_bit_map = true;
    });
    let filtered = |world: &World| world.broker.runtime_info()["apogee.filteredMessages"].clone();
    send(&world, 0..3);
    let session = world.broker.connect(Client::new(1));
    beat(&session, vec![condition("t", "n > 5", 5)]);
    world.clock.advance(Duration::from_millis(1));
    send(&world, 3..10);
    let wanted = ["6", "7", "8", "9"];
    assert_eq!(bodies(&world.pull(registered(5, 0)).unwrap()), wanted);
    assert_eq!(filtered(&world), "3", "those from before the condition are judged");
    let pulled = world.pull(registered(5, 3)).unwrap();
    assert_eq!((bodies(&pulled), pulled.next), (wanted.map(str::to_owned).to_vec(), 10));
    assert_eq!(filtered(&world), "3");
    assert_eq!(bodies(&world.pull(by("n = 4", 0)).unwrap()), ["4"]);
    world.send(tagged("t", "a")).unwrap();
    let filter = Filter::Expression { kind: "TAG".into(), expression: "a || b".into() };
    let by_tag = world.pull(Pull { filter, ..from("t", 0) }).unwrap();
    assert_eq!(by_tag.count, 1, "tags are found behind their addresses");
    world.pass(Duration::from_secs(10));
    drop(session);
    let world = world.restart();
    assert_eq!(bodies(&world.pull(Pull { count_max: 32, ..by("n = 4", 0) }).unwrap()), ["4"]);
    let session = world.broker.connect(Client::new(1));
    beat(&session, vec![condition("t", "n > 5", 5)]);
    let before = filtered(&world);
    assert_eq!(bodies(&world.pull(registered(5, 3)).unwrap()), wanted);
    assert_eq!(filtered(&world), before, "the maps are still good");
    beat(&session, vec![condition("t", "n > 6", 6)]);
    assert_eq!(bodies(&world.pull(registered(6, 3)).unwrap()), wanted[1..]);
    assert_ne!(filtered(&world), before, "a new condition has no bits of old messages");
}

#[test]
fn delayed_messages_are_due_at_their_time_with_an_extension_too() {
    let world = World::with(|options| options.enable_calc_filter_bit_map = true);
    let properties = "UNIQ_KEY\u{1}u\u{2}DELAY\u{1}2\u{2}TAGS\u{1}a\u{2}";
    world.send(Publish { properties: properties.into(), ..to("t") }).unwrap();
    let world = world.restart();
    world.pass(Duration::from_secs(4));
    assert_eq!(world.broker.max_offset("t", 0), 0);
    world.pass(Duration::from_secs(2));
    let filter = Filter::Expression { kind: "TAG".into(), expression: "a".into() };
    assert_eq!(world.pull(Pull { filter, ..from("t", 0) }).unwrap().count, 1);
}

/// Unpacks a folder of fixtures, each file of which is compressed.
fn unpack(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a temporary directory");
    for entry in std::fs::read_dir(from).expect("the fixture is there") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name");
        match name.strip_suffix(".gz") {
            None => unpack(&entry.path(), &to.join(&name)),
            Some(name) => {
                let packed = std::fs::read(entry.path()).expect("reads");
                let mut bytes = Vec::new();
                GzDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("unpacks");
                std::fs::write(to.join(name), bytes).expect("writes");
            }
        }
    }
}

#[test]
fn an_extended_queue_of_the_original_is_read_with_its_bit_maps() {
    let fixture =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/stores/5.5.0-extended/store");
    let dir = std::env::temp_dir().join(format!("apogee-broker-{}-extended", std::process::id()));
    unpack(Path::new(fixture), &dir);
    for is_extended in [true, false] {
        let env = env::Env::real();
        let store_options = store::Options {
            store_path_root_dir: dir.clone(),
            mapped_file_size_commit_log: 65_536,
            mapped_file_size_consume_queue: 1_000,
            mapped_file_size_consume_queue_ext: 300,
            enable_consume_queue_ext: is_extended,
            max_hash_slot_num: 200,
            max_index_num: 800,
            ..store::Options::default()
        };
        let (store, _) = store::Store::open(store_options, env.clone()).expect("it opens");
        let options = Options { enable_property_filter: true, ..Options::default() };
        let broker = broker::Broker::open(options, store.clone(), env).expect("it opens");
        let session = broker.connect(Client::new(1));
        let mut subscription = condition("conditions-golden", "n BETWEEN 10 AND 19", 0);
        let pull = |group: &str, queue_id, filter| Pull {
            group: group.into(),
            topic: "conditions-golden".into(),
            queue_id,
            filter,
            ..from("t", 0)
        };
        let all = |group: &str, filter: &Filter| -> Vec<String> {
            let pulled =
                (0..4).map(|id| now(broker.pull(&caller(), pull(group, id, filter.clone()))));
            let mut bodies: Vec<_> = pulled.flat_map(|pulled| bodies(&pulled.unwrap())).collect();
            bodies.sort();
            bodies
        };
        let tags = |tags: &str| Filter::Expression { kind: "TAG".into(), expression: tags.into() };
        assert_eq!(all("g", &tags("even")).len(), 30);
        assert_eq!(all("g", &tags("later || odd")).len(), 32);
        // The group of the original, which is taken for gone, with any version.
        subscription.sub_version = i64::MAX;
        let consumer = ConsumerData {
            group_name: "G-selecting-1-golden".into(),
            subscription_data_set: vec![subscription],
            ..ConsumerData::default()
        };
        let data = HeartbeatData {
            client_id: "c".into(),
            consumer_data_set: vec![consumer],
            ..HeartbeatData::default()
        };
        session.heartbeat(&caller(), data).unwrap();
        let found = all("G-selecting-1-golden", &Filter::Registered);
        let mut expected: Vec<_> = (10..20).map(|n| format!("number {n}")).collect();
        expected.insert(0, "later 15".into());
        assert_eq!(found, expected);
        // `later 20` was stored when the group was there: its map says that it is not wanted.
        assert_eq!(broker.runtime_info()["apogee.filteredMessages"], "50");
        drop(session);
        broker.shutdown();
        drop(broker);
        store.shutdown().expect("a healthy disk");
    }
    std::fs::remove_dir_all(&dir).expect("it was ours");
}
