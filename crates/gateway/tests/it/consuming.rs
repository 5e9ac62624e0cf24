//! Consuming: pulls, offsets, groups of clients, queue locks, and finding messages again.

use wire::{
    body::{
        ConsumerIdList, MessageQueue,
        client::{
            CheckClient, ConsumerConnection, ConsumerData, HeartbeatData, ProducerConnection,
            ProducerData, SubscriptionData,
        },
        group::{ConsumeStats, ConsumerOffsetTable},
        lock::{LockBatch, LockBatchResponse},
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    record::{CheckCrc, Record},
};

use crate::support::{World, ask, but, done, pull, request, send, send_with, with_body};

fn field(frame: &Frame, name: &str) -> i64 {
    let value = frame.ext.get(name).unwrap_or_else(|| panic!("no {name} in {frame:?}"));
    value.parse().expect("a number")
}

/// The bodies of the records of an answer.
pub(crate) fn bodies(frame: &Frame) -> Vec<String> {
    let bytes = frame.body_bytes();
    let mut rest = &bytes[..];
    let mut bodies = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let record = Record::decode(&rest[..len], CheckCrc::Yes).expect("a record");
        bodies.push(String::from_utf8_lossy(record.body).into_owned());
        rest = &rest[len..];
    }
    bodies
}

fn heartbeat(client_id: &str, topic: &str, expression: &str) -> Frame {
    let subscription = SubscriptionData::parse(topic, expression, "TAG").unwrap();
    let data = HeartbeatData {
        client_id: client_id.into(),
        consumer_data_set: vec![ConsumerData {
            group_name: "consumers".into(),
            subscription_data_set: vec![subscription],
            ..ConsumerData::default()
        }],
        producer_data_set: vec![ProducerData { group_name: "producers".into() }],
        ..HeartbeatData::default()
    };
    with_body(RequestCode::HEART_BEAT, &data)
}

#[tokio::test]
async fn a_pull_returns_the_records_from_an_offset_on() {
    let world = World::new().await;
    for body in ["one", "two", "three"] {
        world.send("T", 0, body).await;
    }
    world.readable("T", 0, 3).await;
    for code in [RequestCode::PULL_MESSAGE, RequestCode::LITE_PULL_MESSAGE] {
        let response = world.done(Frame { code: code.0, ..pull("T", 0, 1) }).await;
        assert_eq!(bodies(&response), ["two", "three"]);
        assert_eq!(field(&response, "nextBeginOffset"), 3);
        assert_eq!((field(&response, "minOffset"), field(&response, "maxOffset")), (0, 3));
        assert_eq!(field(&response, "suggestWhichBrokerId"), 0);
        assert_eq!(response.remark.as_deref(), Some("FOUND"));
    }
}

#[tokio::test]
async fn a_pull_by_tag_returns_what_has_the_tag() {
    let world = World::new().await;
    for (body, tag) in [("a1", "A"), ("b", "B"), ("a2", "A")] {
        let properties = format!("UNIQ_KEY\u{1}{body}\u{2}TAGS\u{1}{tag}\u{2}");
        world.done(send_with("T", 0, body, &properties)).await;
    }
    world.readable("T", 0, 3).await;
    let response = world.done(but(pull("T", 0, 0), "subscription", "A")).await;
    assert_eq!(bodies(&response), ["a1", "a2"]);
    let none = world.ask(but(pull("T", 0, 0), "subscription", "C")).await;
    assert_eq!(none.response_code(), ResponseCode::PULL_RETRY_IMMEDIATELY);
    assert_eq!(field(&none, "nextBeginOffset"), 3);
}

#[tokio::test]
async fn a_pull_at_the_end_waits_for_the_next_message_and_holds_nothing_up() {
    let world = World::new().await;
    world.send("T", 0, "old").await;
    world.readable("T", 0, 1).await;
    let waits = but(but(pull("T", 0, 1), "sysFlag", "6"), "suspendTimeoutMillis", "600000");
    let (waited, ()) = tokio::join!(ask(&world.client, waits), async {
        // On the same connection, answered while the pull waits.
        world.send("T", 1, "elsewhere").await;
        world.send("T", 0, "new").await;
    });
    assert_eq!(waited.response_code(), ResponseCode::SUCCESS);
    assert_eq!(bodies(&waited), ["new"]);
}

#[tokio::test]
async fn a_pull_that_finds_nothing_says_where_to_go_on() {
    let world = World::new().await;
    world.send("T", 0, "one").await;
    world.readable("T", 0, 1).await;
    let suspended = but(but(pull("T", 0, 1), "sysFlag", "6"), "suspendTimeoutMillis", "1");
    for (request, code, remark, next) in [
        (pull("T", 0, 1), ResponseCode::PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE", 1),
        (suspended, ResponseCode::PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE", 1),
        (pull("T", 0, 9), ResponseCode::PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY", 1),
        (pull("T", 1, 0), ResponseCode::PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE", 0),
        (pull("T", 1, 5), ResponseCode::PULL_OFFSET_MOVED, "NO_MESSAGE_IN_QUEUE", 0),
    ] {
        let response = world.ask(request).await;
        assert_eq!(response.response_code(), code, "{response:?}");
        assert_eq!(response.remark.as_deref(), Some(remark));
        assert_eq!(field(&response, "nextBeginOffset"), next);
        assert!(response.body.is_empty());
    }
}

#[tokio::test]
async fn a_refused_pull_says_why() {
    let world = World::new().await;
    world.send("T", 0, "one").await;
    world.done(heartbeat("client", "T", "*")).await;
    let registered = || but(pull("T", 0, 0), "sysFlag", "0");
    world
        .refuses(vec![
            (pull("Nowhere", 0, 0), ResponseCode::TOPIC_NOT_EXIST, "topic[Nowhere]"),
            (pull("T", 99, 0), ResponseCode::INVALID_PARAMETER, "queueId[99]"),
            (
                but(registered(), "consumerGroup", "others"),
                ResponseCode::SUBSCRIPTION_NOT_EXIST,
                "group info not exist",
            ),
            (
                but(registered(), "subVersion", "9999999999999"),
                ResponseCode::SUBSCRIPTION_NOT_LATEST,
                "not latest",
            ),
            (but(pull("T", 0, 0), "expressionType", "SQL92"), ResponseCode::SYSTEM_ERROR, "SQL92"),
            (but(pull("T", 0, 0), "queueOffset", "x"), ResponseCode::SYSTEM_ERROR, "<queueOffset>"),
        ])
        .await;
    let forbidden = World::with(|_, broker| broker.broker_permission = 2).await;
    let response = forbidden.ask(pull("T", 0, 0)).await;
    assert_eq!(response.response_code(), ResponseCode::NO_PERMISSION);
    assert_eq!(field(&response, "forbiddenType"), 1);
}

#[tokio::test]
async fn offsets_are_committed_and_found_again() {
    let world = World::new().await;
    for body in ["one", "two"] {
        world.send("T", 0, body).await;
    }
    world.readable("T", 0, 2).await;
    world.done(heartbeat("client", "T", "*")).await;
    let queue = [("topic", "T"), ("queueId", "0")];
    let of_group = |code, group| but(request(code, &queue), "consumerGroup", group);
    let commit = |offset| {
        but(of_group(RequestCode::UPDATE_CONSUMER_OFFSET, "consumers"), "commitOffset", offset)
    };
    let query = || of_group(RequestCode::QUERY_CONSUMER_OFFSET, "consumers");
    // A group of which nothing is known begins at the beginning while that is near.
    assert_eq!(field(&world.done(query()).await, "offset"), 0);
    world.done(commit("2")).await;
    assert_eq!(field(&world.done(query()).await, "offset"), 2);
    for (code, field_name, expected) in [
        (RequestCode::GET_MAX_OFFSET, "offset", Some(2)),
        (RequestCode::GET_MIN_OFFSET, "offset", Some(0)),
        (RequestCode::GET_EARLIEST_MSG_STORETIME, "timestamp", None),
    ] {
        let found = field(&world.done(request(code, &queue)).await, field_name);
        assert_eq!(found, expected.unwrap_or(found), "{code}");
        assert!(found >= 0);
    }
    let search =
        |time| but(request(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, &queue), "timestamp", time);
    assert_eq!(field(&world.done(search("0")).await, "offset"), 0);
    assert_eq!(field(&world.done(search("99999999999999")).await, "offset"), 2);
    let upper = but(search("99999999999999"), "boundaryType", "UPPER");
    assert_eq!(field(&world.done(upper).await, "offset"), 1);

    let all = world.done(request(RequestCode::GET_ALL_CONSUMER_OFFSET, &[])).await;
    let all: ConsumerOffsetTable = fastjson::decode(&all.body_bytes()).unwrap();
    assert_eq!(all.offset_table["T@consumers"][&0], 2);
    let stats = but(request(RequestCode::GET_CONSUME_STATS, &[]), "consumerGroup", "consumers");
    let stats: ConsumeStats = fastjson::decode(&world.done(stats).await.body_bytes()).unwrap();
    assert_eq!(stats.offset_table.values().map(|queue| queue.consumer_offset).sum::<i64>(), 2);

    world
        .refuses(vec![
            (but(query(), "topic", "Nowhere"), ResponseCode::QUERY_NOT_FOUND, "boot first"),
            (
                but(but(query(), "queueId", "1"), "setZeroIfNotFound", "false"),
                ResponseCode::QUERY_NOT_FOUND,
                "do not set to zero",
            ),
            (
                but(commit("1"), "topic", "Nowhere"),
                ResponseCode::TOPIC_NOT_EXIST,
                "Topic Nowhere not exist!",
            ),
            (
                of_group(RequestCode::UPDATE_CONSUMER_OFFSET, "consumers"),
                ResponseCode::INVALID_PARAMETER,
                "Offset is null",
            ),
            (but(search("0"), "timestamp", "noon"), ResponseCode::SYSTEM_ERROR, "<timestamp>"),
            (
                but(request(RequestCode::GET_MAX_OFFSET, &queue), "queueId", "x"),
                ResponseCode::SYSTEM_ERROR,
                "<queueId>",
            ),
        ])
        .await;
}

#[tokio::test]
async fn a_commit_is_not_overtaken_by_the_older_one_of_a_pull_before_it() {
    let world = World::new().await;
    for _ in 0..3 {
        world.send("T", 0, "body").await;
    }
    world.readable("T", 0, 3).await;
    let of_group = [("consumerGroup", "consumers"), ("topic", "T"), ("queueId", "0")];
    for _ in 0..50 {
        let pulling = but(but(pull("T", 0, 0), "sysFlag", "5"), "commitOffset", "1");
        let commit = request(RequestCode::UPDATE_CONSUMER_OFFSET, &of_group);
        // Both go out in one run, in this order.
        tokio::join!(world.done(pulling), world.done(but(commit, "commitOffset", "2")));
        let found = world.done(request(RequestCode::QUERY_CONSUMER_OFFSET, &of_group)).await;
        assert_eq!(field(&found, "offset"), 2);
    }
}

#[tokio::test]
async fn members_of_a_group_hear_of_each_other_until_they_go() {
    let world = World::new().await;
    world.send("T", 0, "one").await;
    let (first, mut told) = world.another().await;
    let answer = done(&first, heartbeat("first", "T", "*")).await;
    assert_eq!(answer.ext.get("IS_SUPPORT_HEART_BEAT_V2"), Some("true"));
    let list =
        || request(RequestCode::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", "consumers")]);
    let ids = |frame: Frame| {
        let mut ids =
            fastjson::decode::<ConsumerIdList>(&frame.body_bytes()).unwrap().consumer_id_list;
        ids.sort();
        ids
    };
    assert_eq!(ids(world.done(list()).await), ["first"]);
    while told.try_recv().is_ok() {}

    let (second, _) = world.another().await;
    done(&second, heartbeat("second", "T", "*")).await;
    let pushed = told.recv().await.expect("the first member is told");
    assert_eq!(pushed.request_code(), RequestCode::NOTIFY_CONSUMER_IDS_CHANGED);
    assert_eq!(pushed.ext.get("consumerGroup"), Some("consumers"));
    assert_eq!(ids(world.done(list()).await), ["first", "second"]);

    let group = [("consumerGroup", "consumers")];
    let online = world.done(request(RequestCode::GET_CONSUMER_CONNECTION_LIST, &group)).await;
    let online: ConsumerConnection = fastjson::decode(&online.body_bytes()).unwrap();
    assert_eq!(online.connection_set.len(), 2);
    assert!(online.subscription_table.contains_key("T"));
    let producers = [("producerGroup", "producers")];
    let online = world.done(request(RequestCode::GET_PRODUCER_CONNECTION_LIST, &producers)).await;
    let online: ProducerConnection = fastjson::decode(&online.body_bytes()).unwrap();
    assert_eq!(online.connection_set.len(), 2);

    // One goes with a goodbye, the other without.
    done(
        &second,
        request(
            RequestCode::UNREGISTER_CLIENT,
            &[("clientID", "second"), ("consumerGroup", "consumers")],
        ),
    )
    .await;
    assert_eq!(ids(world.done(list()).await), ["first"]);
    drop(first);
    while world.ask(list()).await.response_code() == ResponseCode::SUCCESS {
        tokio::task::yield_now().await;
    }
    world
        .refuses(vec![
            (list(), ResponseCode::SYSTEM_ERROR, "no consumer for this group"),
            (
                request(RequestCode::GET_CONSUMER_CONNECTION_LIST, &group),
                ResponseCode::CONSUMER_NOT_ONLINE,
                "not online",
            ),
            (
                request(RequestCode::GET_PRODUCER_CONNECTION_LIST, &[("producerGroup", "none")]),
                ResponseCode::SYSTEM_ERROR,
                "not exist",
            ),
            (
                request(RequestCode::HEART_BEAT, &[]).with_body("{{{"),
                ResponseCode::SYSTEM_ERROR,
                "the body of HEART_BEAT",
            ),
        ])
        .await;
}

#[tokio::test]
async fn a_subscription_that_cannot_be_served_is_refused_before_it_is_used() {
    let world = World::new().await;
    let check = |kind: &str| {
        let subscription_data = SubscriptionData {
            topic: "T".into(),
            sub_string: "a > 1".into(),
            expression_type: kind.into(),
            ..SubscriptionData::default()
        };
        let check = CheckClient { subscription_data, ..CheckClient::default() };
        with_body(RequestCode::CHECK_CLIENT_CONFIG, &check)
    };
    world.done(check("TAG")).await;
    world.done(request(RequestCode::CHECK_CLIENT_CONFIG, &[])).await;
    world.refuses(vec![(check("SQL92"), ResponseCode::SYSTEM_ERROR, "SQL92")]).await;
}

#[tokio::test]
async fn conditions_are_served_and_refused_by_code() {
    let world = World::with(|_, broker| broker.enable_property_filter = true).await;
    world.send("T", 0, "one").await;
    world.readable("T", 0, 1).await;
    let by = |expression| {
        let pull = but(pull("T", 0, 0), "expressionType", "SQL92");
        but(pull, "subscription", expression)
    };
    let response = world.done(by("TAGS IS NULL AND CLUSTER = 'DefaultCluster'")).await;
    assert_eq!(bodies(&response), ["one"]);
    let beat = |expression, sub_version| {
        let subscription = SubscriptionData {
            sub_version,
            ..SubscriptionData::parse("T", expression, "SQL92").unwrap()
        };
        let data = HeartbeatData {
            client_id: "client".into(),
            consumer_data_set: vec![ConsumerData {
                group_name: "consumers".into(),
                subscription_data_set: vec![subscription],
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        };
        with_body(RequestCode::HEART_BEAT, &data)
    };
    let registered = |version: &str| {
        let pull = but(pull("T", 0, 0), "sysFlag", "0");
        but(pull, "subVersion", version)
    };
    world.done(beat("TAGS IS NULL", 2)).await;
    assert_eq!(bodies(&world.done(registered("2")).await), ["one"]);
    world.done(beat("TAGS IS", 3)).await;
    let check = |expression| {
        let subscription_data = SubscriptionData::parse("T", expression, "SQL92").unwrap();
        let check = CheckClient { subscription_data, ..CheckClient::default() };
        with_body(RequestCode::CHECK_CLIENT_CONFIG, &check)
    };
    world.done(check("TAGS IS NULL")).await;
    world
        .refuses(vec![
            (by("a > 'b'"), ResponseCode::SUBSCRIPTION_PARSE_FAILED, "a > 'b'\n      ^"),
            (check("a > 'b'"), ResponseCode::SUBSCRIPTION_PARSE_FAILED, "line 1, column 5"),
            (registered("3"), ResponseCode::FILTER_DATA_NOT_EXIST, "expression may be wrong"),
        ])
        .await;
}

#[tokio::test]
async fn a_queue_is_locked_for_one_client_at_a_time() {
    let world = World::new().await;
    let queues = |code, client: &str| {
        let queue = MessageQueue { topic: "T".into(), broker_name: "broker-a".into(), queue_id: 0 };
        let asked = LockBatch {
            consumer_group: "consumers".into(),
            client_id: client.into(),
            mq_set: vec![queue],
            ..LockBatch::default()
        };
        with_body(code, &asked)
    };
    let held = |frame: Frame| {
        fastjson::decode::<LockBatchResponse>(&frame.body_bytes()).unwrap().lock_ok_mq_set.len()
    };
    assert_eq!(held(world.done(queues(RequestCode::LOCK_BATCH_MQ, "first")).await), 1);
    assert_eq!(held(world.done(queues(RequestCode::LOCK_BATCH_MQ, "second")).await), 0);
    world.done(queues(RequestCode::UNLOCK_BATCH_MQ, "first")).await;
    assert_eq!(held(world.done(queues(RequestCode::LOCK_BATCH_MQ, "second")).await), 1);
    world
        .refuses(vec![
            (
                request(RequestCode::LOCK_BATCH_MQ, &[]).with_body("["),
                ResponseCode::SYSTEM_ERROR,
                "the body of LOCK_BATCH_MQ",
            ),
            (
                request(RequestCode::UNLOCK_BATCH_MQ, &[]),
                ResponseCode::SYSTEM_ERROR,
                "the body of UNLOCK_BATCH_MQ",
            ),
        ])
        .await;
}

#[tokio::test]
async fn a_message_is_found_by_its_place_by_a_key_and_by_its_unique_key() {
    let world = World::new().await;
    world.done(send_with("T", 0, "found", "UNIQ_KEY\u{1}U1\u{2}KEYS\u{1}k1 k2\u{2}")).await;
    world.done(send("T", 0, "other")).await;
    world.readable("T", 0, 2).await;
    let by_key = |key| {
        request(
            RequestCode::QUERY_MESSAGE,
            &[
                ("topic", "T"),
                ("key", key),
                ("maxNum", "10"),
                ("beginTimestamp", "0"),
                ("endTimestamp", "99999999999999"),
            ],
        )
    };
    assert_eq!(bodies(&world.done(by_key("k2")).await), ["found"]);
    let unique = but(by_key("U1"), "_UNIQUE_KEY_QUERY", "true");
    assert_eq!(bodies(&world.done(unique).await), ["found"]);
    let by_id = |offset| request(RequestCode::VIEW_MESSAGE_BY_ID, &[("offset", offset)]);
    assert_eq!(bodies(&world.done(by_id("0")).await), ["found"]);
    world
        .refuses(vec![
            (by_key("k3"), ResponseCode::QUERY_NOT_FOUND, "can not find message"),
            (by_id("17"), ResponseCode::SYSTEM_ERROR, "can not find message by the offset, 17"),
            (by_id("-1"), ResponseCode::SYSTEM_ERROR, "can not find message by the offset, -1"),
        ])
        .await;
}
