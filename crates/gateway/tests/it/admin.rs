//! Administration: topics, groups, the broker itself, and what nobody serves.

use std::collections::BTreeMap;

use wire::{
    body::{
        GroupList, KvTable, TopicList,
        group::{SubscriptionGroupConfig, SubscriptionGroupList, SubscriptionGroupTable},
        inspect::{HaStatus, QueueListing},
        topic::{CreateTopicList, TopicConfig, TopicConfigTable, TopicStatsTable},
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
};

use crate::support::{World, but, request, send_with, with_body};

fn create(topic: &str) -> Frame {
    request(
        RequestCode::UPDATE_AND_CREATE_TOPIC,
        &[
            ("topic", topic),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", "2"),
            ("writeQueueNums", "3"),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
        ],
    )
}

fn of_topic(code: RequestCode, topic: &str) -> Frame {
    request(code, &[("topic", topic)])
}

#[tokio::test]
async fn topics_are_created_shown_counted_and_deleted() {
    let world = World::new().await;
    world.done(but(create("Made"), "attributes", "+message.type=FIFO")).await;
    let shown = world.done(of_topic(RequestCode::GET_TOPIC_CONFIG, "Made")).await;
    let shown: TopicConfig = fastjson::decode(&shown.body_bytes()).unwrap();
    assert_eq!((shown.read_queue_nums, shown.write_queue_nums, shown.perm), (2, 3, 6));
    assert_eq!(shown.attributes["message.type"], "FIFO");

    let listed = CreateTopicList {
        topic_config_list: vec![TopicConfig {
            topic_name: "Listed".into(),
            ..TopicConfig::default()
        }],
    };
    world.done(with_body(RequestCode::UPDATE_AND_CREATE_TOPIC_LIST, &listed)).await;
    let all = world.done(request(RequestCode::GET_ALL_TOPIC_CONFIG, &[])).await;
    let count: usize = all.ext.get("totalTopicNum").unwrap().parse().unwrap();
    let all: TopicConfigTable = fastjson::decode(&all.body_bytes()).unwrap();
    assert_eq!(all.topic_config_table.len(), count);
    assert!(all.topic_config_table.contains_key("Listed"));
    assert!(all.topic_config_table.contains_key("TBW102"));

    world.send("Made", 2, "counted").await;
    world.readable("Made", 2, 1).await;
    let stats = world.done(of_topic(RequestCode::GET_TOPIC_STATS_INFO, "Made")).await;
    let stats: TopicStatsTable = fastjson::decode(&stats.body_bytes()).unwrap();
    assert_eq!(stats.offset_table.len(), 3);
    assert_eq!(stats.offset_table.values().map(|queue| queue.max_offset).sum::<i64>(), 1);

    let own = world.done(request(RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_BROKER, &[])).await;
    let own: TopicList = fastjson::decode(&own.body_bytes()).unwrap();
    assert!(own.topic_list.iter().any(|topic| topic == "SCHEDULE_TOPIC_XXXX"));

    world.done(of_topic(RequestCode::DELETE_TOPIC_IN_BROKER, "Made")).await;
    world
        .refuses(vec![
            (
                of_topic(RequestCode::GET_TOPIC_CONFIG, "Made"),
                ResponseCode::TOPIC_NOT_EXIST,
                "No topic in this broker. topic: Made",
            ),
            (
                of_topic(RequestCode::GET_TOPIC_STATS_INFO, "Made"),
                ResponseCode::TOPIC_NOT_EXIST,
                "Made",
            ),
            (
                of_topic(RequestCode::DELETE_TOPIC_IN_BROKER, "TBW102"),
                ResponseCode::INVALID_PARAMETER,
                "conflict with system topic",
            ),
            (
                of_topic(RequestCode::DELETE_TOPIC_IN_BROKER, " "),
                ResponseCode::INVALID_PARAMETER,
                "blank",
            ),
            (create("no name"), ResponseCode::INVALID_PARAMETER, "illegal characters"),
            (create("TBW102"), ResponseCode::INVALID_PARAMETER, "conflict with system topic"),
            (
                but(create("Made"), "attributes", "message.type=FIFO"),
                ResponseCode::SYSTEM_ERROR,
                "format is wrong",
            ),
            (
                but(create("Made"), "attributes", "+message.type=MIXED"),
                ResponseCode::INVALID_PARAMETER,
                "MIXED",
            ),
            (
                but(create("Made"), "topicFilterType", "NO_TAG"),
                ResponseCode::SYSTEM_ERROR,
                "NO_TAG",
            ),
            (
                request(RequestCode::UPDATE_AND_CREATE_TOPIC_LIST, &[]).with_body("x"),
                ResponseCode::SYSTEM_ERROR,
                "the body of UPDATE_AND_CREATE_TOPIC_LIST",
            ),
        ])
        .await;
}

#[tokio::test]
async fn groups_are_created_shown_and_deleted() {
    let world = World::new().await;
    let group = |name: &str| SubscriptionGroupConfig {
        group_name: name.into(),
        retry_max_times: 3,
        ..SubscriptionGroupConfig::default()
    };
    world.done(with_body(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &group("made"))).await;
    let listed = SubscriptionGroupList { group_config_list: vec![group("listed")] };
    world.done(with_body(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, &listed)).await;
    let show = |name| request(RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", name)]);
    let shown = world.done(show("made")).await;
    let shown: SubscriptionGroupConfig = fastjson::decode(&shown.body_bytes()).unwrap();
    assert_eq!((shown.group_name.as_str(), shown.retry_max_times), ("made", 3));
    let all = world.done(request(RequestCode::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &[])).await;
    let all: SubscriptionGroupTable = fastjson::decode(&all.body_bytes()).unwrap();
    assert!(all.subscription_group_table.contains_key("listed"));

    world.send("T", 0, "one").await;
    let commit =
        [("consumerGroup", "made"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "1")];
    world.done(request(RequestCode::UPDATE_CONSUMER_OFFSET, &commit)).await;
    let who = world.done(of_topic(RequestCode::QUERY_TOPIC_CONSUME_BY_WHO, "T")).await;
    let who: GroupList = fastjson::decode(&who.body_bytes()).unwrap();
    assert_eq!(who.group_list, ["made"]);
    let what =
        world.done(request(RequestCode::QUERY_TOPICS_BY_CONSUMER, &[("group", "made")])).await;
    let what: TopicList = fastjson::decode(&what.body_bytes()).unwrap();
    assert_eq!(what.topic_list, ["T"]);

    let delete = [("groupName", "made"), ("cleanOffset", "true")];
    world.done(request(RequestCode::DELETE_SUBSCRIPTIONGROUP, &delete)).await;
    let who = world.done(of_topic(RequestCode::QUERY_TOPIC_CONSUME_BY_WHO, "T")).await;
    let who: GroupList = fastjson::decode(&who.body_bytes()).unwrap();
    assert!(who.group_list.is_empty());
    world
        .refuses(vec![
            (
                with_body(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &group("no name")),
                ResponseCode::INVALID_PARAMETER,
                "illegal characters",
            ),
            (
                show("not a name"),
                ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
                "No group in this broker",
            ),
            (
                request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[]).with_body("x"),
                ResponseCode::SYSTEM_ERROR,
                "the body of UPDATE_AND_CREATE_SUBSCRIPTIONGROUP",
            ),
        ])
        .await;
}

#[tokio::test]
async fn the_broker_tells_how_it_is_doing_and_what_it_is_set_to() {
    let world = World::new().await;
    let info = world.done(request(RequestCode::GET_BROKER_RUNTIME_INFO, &[])).await;
    let info: KvTable = fastjson::decode(&info.body_bytes()).unwrap();
    // What `mqadmin clusterList` and `brokerStatus` of 5.5.0 cannot do without.
    for key in [
        "brokerVersionDesc",
        "brokerActive",
        "putTps",
        "getTransferredTps",
        "msgPutTotalTodayNow",
        "msgGetTotalTodayNow",
        "msgPutTotalTodayMorning",
        "msgGetTotalTodayMorning",
        "msgPutTotalYesterdayMorning",
        "msgGetTotalYesterdayMorning",
        "sendThreadPoolQueueSize",
        "pullThreadPoolQueueSize",
        "ackThreadPoolQueueSize",
        "sendThreadPoolQueueHeadWaitTimeMills",
        "pullThreadPoolQueueHeadWaitTimeMills",
        "ackThreadPoolQueueHeadWaitTimeMills",
        "pageCacheLockTimeMills",
        "earliestMessageTimeStamp",
        "commitLogDiskRatio",
        "timerReadBehind",
        "timerOffsetBehind",
        "timerCongestNum",
        "timerEnqueueTps",
        "timerDequeueTps",
    ] {
        assert!(info.table.contains_key(key), "{key}");
    }

    let config = || request(RequestCode::GET_BROKER_CONFIG, &[]);
    let update =
        |text: &'static str| request(RequestCode::UPDATE_BROKER_CONFIG, &[]).with_body(text);
    let version = |shown: Frame| shown.ext.get("version").unwrap().to_owned();
    let before = version(world.done(config()).await);
    let done = world.done(update("autoCreateTopicEnable=false\n# a comment\n")).await;
    assert!(done.remark.unwrap().contains("-c FILE"), "the next start does not have it");
    let shown = world.done(config()).await;
    assert_ne!(version(shown.clone()), before);
    let text = String::from_utf8(shown.body_bytes().to_vec()).unwrap();
    let lines: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(lines["autoCreateTopicEnable"], "false");
    world
        .refuses(vec![
            (update("brokerConfigPath=/x"), ResponseCode::NO_PERMISSION, "black list"),
            (update("brokerName=x"), ResponseCode::NO_PERMISSION, "brokerName"),
            (update("autoCreateTopicEnable=maybe"), ResponseCode::INVALID_PARAMETER, "maybe"),
            (
                update("shortPollingTimeMills=86400001"),
                ResponseCode::INVALID_PARAMETER,
                "0 to 86400000",
            ),
        ])
        .await;
}

#[tokio::test]
async fn what_nobody_serves_is_refused_by_name() {
    let world = World::new().await;
    world
        .refuses(vec![
            (
                request(RequestCode::GET_CLIENT_CONFIG, &[]),
                ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
                " request type 47 not supported (GET_CLIENT_CONFIG)",
            ),
            (
                request(RequestCode(9_999), &[]),
                ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
                " request type 9999 not supported",
            ),
        ])
        .await;
}

#[tokio::test]
async fn the_entries_of_a_queue_are_listed() {
    let world = World::with(|options, _| options.enable_consume_queue_ext = true).await;
    for body in ["one", "two", "three"] {
        world.done(send_with("T", 0, body, "TAGS\u{1}A\u{2}")).await;
    }
    world.readable("T", 0, 3).await;
    let list = |index: &str, count: &str| {
        let fields = [
            ("topic", "T"),
            ("queueId", "0"),
            ("index", index),
            ("count", count),
            ("consumerGroup", "G"),
        ];
        request(RequestCode::QUERY_CONSUME_QUEUE, &fields)
    };
    let response = world.done(list("1", "10")).await;
    let listing: QueueListing = fastjson::decode(&response.body_bytes()).unwrap();
    assert_eq!((listing.min_queue_index, listing.max_queue_index), (0, 3));
    assert_eq!(listing.filter_data.as_deref(), Some("G@T is not online!"));
    let units = listing.queue_data.unwrap();
    assert_eq!(units.len(), 2);
    assert_eq!((units[0].tags_code, units[0].physic_size), (65, units[1].physic_size - 2));
    assert_eq!(units[1].physic_offset, units[0].physic_offset + i64::from(units[0].physic_size));
    assert!(units[0].extend_data_json.as_deref().unwrap().contains("\"tagsCode\":65"));
    let response = world.done(list("3", "10")).await;
    assert_eq!(response.remark.as_deref(), Some("Index 3 of 0@T is not exist!"));
    world
        .refuses(vec![
            (list("0", "-1"), ResponseCode::INVALID_PARAMETER, "`count`"),
            (list("0", "10001"), ResponseCode::INVALID_PARAMETER, "10000"),
            (
                but(list("0", "1"), "queueId", "77"),
                ResponseCode::SYSTEM_ERROR,
                "77@T is not exist!",
            ),
        ])
        .await;
}

#[tokio::test]
async fn what_is_to_be_cleaned_is_cleaned_and_replication_is_told() {
    let world = World::new().await;
    world.send("T", 0, "stays").await;
    for code in [
        RequestCode::CLEAN_EXPIRED_CONSUMEQUEUE,
        RequestCode::CLEAN_UNUSED_TOPIC,
        RequestCode::DELETE_EXPIRED_COMMITLOG,
    ] {
        world.done(request(code, &[])).await;
    }
    world.readable("T", 0, 1).await;
    let status = world.done(request(RequestCode::GET_BROKER_HA_STATUS, &[])).await;
    let status: HaStatus = fastjson::decode(&status.body_bytes()).unwrap();
    assert!(status.master && status.master_commit_log_max_offset > 0);
    let epochs = request(RequestCode::GET_BROKER_EPOCH_CACHE, &[]);
    world.refuses(vec![(epochs, ResponseCode::SYSTEM_ERROR, "controllerMode")]).await;
}

#[tokio::test]
async fn the_progress_of_timers_is_told() {
    let world = World::new().await;
    let properties = "UNIQ_KEY\u{1}K\u{2}TIMER_DELAY_SEC\u{1}3600\u{2}";
    world.done(send_with("T", 0, "later", properties)).await;
    loop {
        let response = world.done(request(RequestCode::GET_TIMER_CHECK_POINT, &[])).await;
        let body = response.body_bytes();
        let longs: Vec<i64> =
            body.as_chunks().0.iter().map(|bytes| i64::from_be_bytes(*bytes)).collect();
        assert_eq!(longs.len(), 7);
        if longs[1..4] == [52, 1, 1] {
            break;
        }
        tokio::task::yield_now().await;
    }
    loop {
        let response = world.done(request(RequestCode::GET_TIMER_METRICS, &[])).await;
        let text = String::from_utf8(response.body_bytes().to_vec()).unwrap();
        if text.contains("\"timingCount\":{\"T\":{\"count\":1,") {
            break;
        }
        tokio::task::yield_now().await;
    }
}
