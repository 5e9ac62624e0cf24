//! Administrators and the progress of groups: set, copied, looked at; and consumers that are asked themselves.

use std::collections::BTreeMap;

use remoting::{Handler, Replies};
use wire::{
    body::{
        MessageQueue,
        client::{
            ConsumerData, ConsumerRunningInfo, GroupSubscription, HeartbeatData, ProducerData,
            ProducerTable, SubscriptionData,
        },
        group::GroupForbidden,
        progress::{
            ConsumeStatsList, ConsumerStatus, CorrectionOffsets, ResetOffsetList, ResetOffsets,
            StatsData, TimeSpans,
        },
    },
    code::{Language, RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    record::{CheckCrc, Record},
};

use crate::{
    consuming::bodies,
    support::{World, ask, but, done, pull, request, send_with, with_body},
};

fn heartbeat(client_id: &str, language: Language) -> Frame {
    let subscription = SubscriptionData::parse("T", "*", "TAG").unwrap();
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
    Frame { language, ..with_body(RequestCode::HEART_BEAT, &data) }
}

fn of_group(code: RequestCode) -> Frame {
    request(code, &[("group", "consumers"), ("topic", "T"), ("consumerGroup", "consumers")])
}

fn decoded<T: serde::de::DeserializeOwned>(frame: &Frame) -> T {
    fastjson::decode(&frame.body_bytes()).expect("a body of this kind")
}

fn queue(id: i32) -> MessageQueue {
    MessageQueue { broker_name: "DEFAULT_BROKER".into(), queue_id: id, topic: "T".into() }
}

/// A consumer that answers what it is asked.
struct Answering;

impl Handler for Answering {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for question in run.drain(..) {
            let body = match question.request_code() {
                RequestCode::GET_CONSUMER_RUNNING_INFO => {
                    question.ext.get("jstackEnable").unwrap().to_owned().into()
                }
                RequestCode::CONSUME_MESSAGE_DIRECTLY => {
                    assert_eq!(question.ext.get("brokerName"), Some("DEFAULT_BROKER"));
                    let record = question.body_bytes();
                    Record::decode(&record, CheckCrc::Yes).unwrap().body.to_vec()
                }
                RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT => {
                    assert_eq!(question.ext.get("topic"), Some("T"));
                    let message_queue_table = BTreeMap::from([(queue(0), 7)]);
                    fastjson::encode(&ConsumerStatus {
                        message_queue_table,
                        ..ConsumerStatus::default()
                    })
                }
                _ => continue,
            };
            let answer = question.respond(ResponseCode::SUCCESS).with_remark("by the consumer");
            replies.push(&answer.with_body(body));
        }
    }
}

#[tokio::test]
async fn a_consumer_is_asked_and_its_answer_passed_on() {
    let world = World::new().await;
    let sent = world.send("T", 0, "stored").await;
    world.readable("T", 0, 1).await;
    let consumer = world.connect(Answering).await;
    done(&consumer, heartbeat("c1", Language::JAVA)).await;
    let to = |code, client| but(of_group(code), "clientId", client);
    let info = but(to(RequestCode::GET_CONSUMER_RUNNING_INFO, "c1"), "jstackEnable", "true");
    let answer = world.done(info).await;
    assert_eq!(
        (&*answer.body_bytes(), answer.remark.as_deref()),
        (&b"true"[..], Some("by the consumer"))
    );
    let directly = to(RequestCode::CONSUME_MESSAGE_DIRECTLY, "c1");
    let directly = but(directly, "msgId", sent.ext.get("msgId").unwrap());
    assert_eq!(&*world.done(directly.clone()).await.body_bytes(), b"stored");
    let status = world.done(of_group(RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS)).await;
    let status: ConsumerStatus = decoded(&status);
    assert_eq!(status.consumer_table["c1"][&queue(0)], 7);
    world
        .refuses(vec![
            (
                to(RequestCode::GET_CONSUMER_RUNNING_INFO, "c2"),
                ResponseCode::SYSTEM_ERROR,
                "<consumers> <c2> not online",
            ),
            (but(directly, "msgId", "nonsense"), ResponseCode::SYSTEM_ERROR, "`nonsense`"),
            (
                but(of_group(RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS), "group", "others"),
                ResponseCode::SYSTEM_ERROR,
                "No Any Consumer online",
            ),
        ])
        .await;
    drop(consumer);
}

/// A consumer that subscribes to the tag `a` and says so when it is asked; version 7 is its latest.
struct Subscribed;

impl Handler for Subscribed {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for question in run.drain(..) {
            if question.request_code() == RequestCode::GET_CONSUMER_RUNNING_INFO {
                assert_eq!(question.ext.get("clientId"), Some("c1"));
                let subscription = SubscriptionData {
                    sub_version: 7,
                    ..SubscriptionData::parse("T", "a", SubscriptionData::TAG).unwrap()
                };
                let info = ConsumerRunningInfo {
                    subscription_set: vec![subscription],
                    ..ConsumerRunningInfo::default()
                };
                let answer = question.respond(ResponseCode::SUCCESS);
                replies.push(&answer.with_body(fastjson::encode(&info)));
            }
        }
    }
}

#[tokio::test]
async fn a_consumer_whose_heartbeat_is_late_is_asked_what_it_subscribes_to() {
    let world = World::new().await;
    world.done(send_with("T", 0, "of a", "TAGS\u{1}a\u{2}")).await;
    world.done(send_with("T", 0, "of b", "TAGS\u{1}b\u{2}")).await;
    world.readable("T", 0, 2).await;
    let of_version = |version: &str| {
        let pull = but(pull("T", 0, 0), "sysFlag", "0");
        but(pull, "subVersion", version)
    };
    let consumer = world.connect(Subscribed).await;
    done(&consumer, heartbeat("c1", Language::JAVA)).await;
    assert_eq!(bodies(&done(&consumer, of_version("0")).await), ["of a", "of b"]);
    assert_eq!(bodies(&done(&consumer, of_version("7")).await), ["of a"]);
    // It has no newer one, and nobody but a member of the group is asked.
    let code = ResponseCode::SUBSCRIPTION_NOT_LATEST;
    assert_eq!(ask(&consumer, of_version("8")).await.response_code(), code);
    world.refuses(vec![(of_version("9"), code, "subscription")]).await;
}

#[tokio::test]
async fn a_client_in_two_groups_is_asked_for_each() {
    let world = World::new().await;
    world.done(send_with("T", 0, "of a", "TAGS\u{1}a\u{2}")).await;
    world.readable("T", 0, 1).await;
    let consumer = world.connect(Subscribed).await;
    let of_groups = HeartbeatData {
        client_id: "c1".into(),
        consumer_data_set: ["consumers", "others"]
            .map(|group| ConsumerData {
                group_name: group.into(),
                subscription_data_set: vec![SubscriptionData::parse("T", "*", "TAG").unwrap()],
                ..ConsumerData::default()
            })
            .into(),
        ..HeartbeatData::default()
    };
    done(&consumer, with_body(RequestCode::HEART_BEAT, &of_groups)).await;
    // The second question follows the first within the pause that spares the client a second one for the same group.
    for group in ["consumers", "others"] {
        let pull = but(but(pull("T", 0, 0), "sysFlag", "0"), "subVersion", "7");
        let answer = done(&consumer, but(pull, "consumerGroup", group)).await;
        assert_eq!(bodies(&answer), ["of a"], "{group}");
    }
}

#[tokio::test]
async fn a_reset_waits_for_the_next_pull_and_wakes_the_one_that_waits() {
    let world = World::new().await;
    for body in ["one", "two", "three"] {
        world.send("T", 0, body).await;
    }
    world.readable("T", 0, 3).await;
    world.done(pull("T", 0, 0)).await;
    let reset = |timestamp: &str| {
        but(of_group(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET), "timestamp", timestamp)
    };
    let waits = but(but(pull("T", 0, 3), "sysFlag", "6"), "suspendTimeoutMillis", "600000");
    let (moved, ()) = tokio::join!(ask(&world.client, waits), async {
        let answer: ResetOffsets = decoded(&world.done(but(reset("0"), "isForce", "true")).await);
        assert_eq!(answer.offset_table[&queue(0)], 0);
        assert_eq!(answer.offset_table.len(), 4);
    });
    assert_eq!(moved.response_code(), ResponseCode::PULL_OFFSET_MOVED);
    assert_eq!(moved.ext.get("nextBeginOffset"), Some("0"));
    // To the end, as `mqadmin skipAccumulatedMessage` asks for it.
    let answer: ResetOffsets = decoded(&world.done(reset("-1")).await);
    assert_eq!(answer.offset_table[&queue(0)], 3);
    let one = but(but(reset("0"), "queueId", "0"), "offset", "2");
    let answer: ResetOffsets = decoded(&world.done(one.clone()).await);
    assert_eq!(answer.offset_table, BTreeMap::from([(queue(0), 2)]));
    world
        .refuses(vec![
            (but(one.clone(), "offset", "5"), ResponseCode::SYSTEM_ERROR, "range [0-3]"),
            (but(one.clone(), "queueId", "9"), ResponseCode::SYSTEM_ERROR, "Queue 9"),
            (but(one.clone(), "topic", "Nowhere"), ResponseCode::TOPIC_NOT_EXIST, "Nowhere"),
            (but(one, "group", "nobody"), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, "nobody"),
        ])
        .await;
}

#[tokio::test]
async fn a_reset_is_pushed_to_each_consumer_in_the_form_that_it_reads() {
    let world = World::with(|_, options| options.use_server_side_reset_offset = false).await;
    for body in ["one", "two"] {
        world.send("T", 0, body).await;
    }
    world.readable("T", 0, 2).await;
    let reset = but(of_group(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET), "timestamp", "0");
    world.done(pull("T", 0, 0)).await;
    let commit = |id: &str| {
        let commit = of_group(RequestCode::UPDATE_CONSUMER_OFFSET);
        but(but(commit, "queueId", id), "commitOffset", "1")
    };
    world.done(commit("0")).await;
    let none = (reset.clone(), ResponseCode::SYSTEM_ERROR, "no offset of queue 1");
    world.refuses(vec![none]).await;
    for id in ["1", "2", "3"] {
        world.done(commit(id)).await;
    }
    world.refuses(vec![(reset.clone(), ResponseCode::CONSUMER_NOT_ONLINE, "not online")]).await;
    let ((java, mut to_java), (cpp, mut to_cpp)) = (world.another().await, world.another().await);
    done(&java, heartbeat("java", Language::JAVA)).await;
    done(&cpp, heartbeat("cpp", Language::CPP)).await;
    let answer: ResetOffsets = decoded(&world.done(reset).await);
    assert_eq!((answer.offset_table[&queue(0)], answer.offset_table[&queue(1)]), (0, 0));
    for to in [&mut to_java, &mut to_cpp] {
        let told = loop {
            let told = to.recv().await.expect("the connection is open");
            if told.request_code() == RequestCode::RESET_CONSUMER_CLIENT_OFFSET {
                break told;
            }
        };
        assert_eq!((told.ext.get("topic"), told.ext.get("group")), (Some("T"), Some("consumers")));
        match fastjson::decode::<ResetOffsets>(&told.body_bytes()) {
            Ok(map) => assert_eq!(map, answer),
            Err(_) => {
                let list: ResetOffsetList = decoded(&told);
                assert_eq!((list.offset_table.len(), list.offset_table[0].offset), (4, 0));
            }
        }
    }
    // Not behind what was consumed, unless forced.
    let end = but(of_group(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET), "timestamp", "-1");
    let answer: ResetOffsets = decoded(&world.done(end.clone()).await);
    assert_eq!(answer.offset_table[&queue(0)], 1);
    let answer: ResetOffsets = decoded(&world.done(but(end, "isForce", "true")).await);
    assert_eq!(answer.offset_table[&queue(0)], 2);
}

#[tokio::test]
async fn the_progress_of_groups_is_shown_and_copied() {
    let world = World::new().await;
    for body in ["one", "two", "three"] {
        world.send("T", 0, body).await;
    }
    world.readable("T", 0, 3).await;
    world.done(heartbeat("c1", Language::JAVA)).await;
    world.done(pull("T", 0, 0)).await;
    let commit = of_group(RequestCode::UPDATE_CONSUMER_OFFSET);
    world.done(but(but(commit, "queueId", "0"), "commitOffset", "2")).await;

    let all: ConsumeStatsList =
        decoded(&world.done(request(RequestCode::GET_BROKER_CONSUME_STATS, &[])).await);
    assert_eq!((all.total_diff, all.total_inflight_diff), (1, 1));
    let stats = all.consume_stats_list.iter().find_map(|group| group.get("consumers")).unwrap();
    assert_eq!(stats[0].offset_table[&queue(0)].consumer_offset, 2);
    let ordered = request(RequestCode::GET_BROKER_CONSUME_STATS, &[("isOrder", "true")]);
    assert_eq!(decoded::<ConsumeStatsList>(&world.done(ordered).await).total_diff, 0);

    let spans: TimeSpans =
        decoded(&world.done(of_group(RequestCode::QUERY_CONSUME_TIME_SPAN)).await);
    let [first, second, ..] = &*spans.consume_time_span_set else { panic!("{spans:?}") };
    assert!(first.min_time_stamp > 0 && first.consume_time_stamp >= first.min_time_stamp);
    assert_eq!((second.min_time_stamp, second.delay_time), (-1, 0));

    let clone = [("srcGroup", "consumers"), ("destGroup", "copy"), ("topic", "")];
    world.done(request(RequestCode::CLONE_GROUP_OFFSET, &clone)).await;
    let asked = but(of_group(RequestCode::QUERY_CONSUMER_OFFSET), "consumerGroup", "copy");
    let asked = world.done(but(asked, "queueId", "0")).await;
    assert_eq!(asked.ext.get("offset"), Some("2"));
    let slowest = |filter: &'static str| {
        request(RequestCode::QUERY_CORRECTION_OFFSET, &[("topic", "T"), ("filterGroups", filter)])
    };
    let offsets: CorrectionOffsets = decoded(&world.done(slowest("")).await);
    assert_eq!(offsets.correction_offsets, BTreeMap::from([(0, 2)]));
    let offsets: CorrectionOffsets = decoded(&world.done(slowest("copy,consumers")).await);
    assert!(offsets.correction_offsets.is_empty());

    let wants: GroupSubscription =
        decoded(&world.done(of_group(RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER)).await);
    assert_eq!(wants.subscription_data.unwrap().sub_string, "*");
    let other = but(of_group(RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER), "topic", "Other");
    assert_eq!(decoded::<GroupSubscription>(&world.done(other).await).subscription_data, None);
    let producers: ProducerTable =
        decoded(&world.done(request(RequestCode::GET_ALL_PRODUCER_INFO, &[])).await);
    let producer = &producers.data["producers"][0];
    assert_eq!((producer.client_id.as_str(), producer.language.as_str()), ("c1", "JAVA"));
    assert!(producer.remote_ip.starts_with("/127.0.0.1:") && producer.last_update_timestamp > 0);
    world.done(request(RequestCode::GET_ALL_DELAY_OFFSET, &[])).await;
}

#[tokio::test]
async fn a_group_is_forbidden_a_topic_and_asked_about_it() {
    let world = World::new().await;
    world.send("T", 0, "one").await;
    world.done(heartbeat("c1", Language::JAVA)).await;
    let forbidden = || of_group(RequestCode::UPDATE_AND_GET_GROUP_FORBIDDEN);
    for (change, readable) in
        [(None, true), (Some("false"), false), (None, false), (Some("true"), true)]
    {
        let asked = change.map_or_else(forbidden, |value| but(forbidden(), "readable", value));
        let answer: GroupForbidden = decoded(&world.done(asked).await);
        assert_eq!((answer.readable, answer.group.as_str()), (readable, "consumers"));
    }
    let wrong = but(but(forbidden(), "readable", "false"), "group", "nobody");
    world.refuses(vec![(wrong, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, "nobody")]).await;
}

#[tokio::test]
async fn what_was_counted_is_shown_under_the_originals_names() {
    let world = World::new().await;
    world.send("T", 0, "three").await;
    let view = |name: &str, key: &str| {
        request(RequestCode::VIEW_BROKER_STATS_DATA, &[("statsName", name), ("statsKey", key)])
    };
    let data: StatsData = decoded(&world.done(view("TOPIC_PUT_NUMS", "T")).await);
    assert!(data.stats_minute.sum <= 1, "as much as the samples have seen");
    world.done(view("BROKER_PUT_NUMS", "DefaultCluster")).await;
    world
        .refuses(vec![
            (view("TOPIC_PUT_NUMS", "Nowhere"), ResponseCode::SYSTEM_ERROR, "<Nowhere> not exist"),
            (view("GROUP_GET_NUMS", "T@nobody"), ResponseCode::SYSTEM_ERROR, "not exist"),
            (view("NO_SUCH_NAME", "T"), ResponseCode::SYSTEM_ERROR, "<NO_SUCH_NAME> <T>"),
        ])
        .await;
}
