//! What clients, `mqadmin` and foreign brokers are answered.

use std::time::Duration;

use cluster::namesrv::{AddressView, Options};
use wire::{
    body::{KvTable, TopicList, register::RegisterBrokerBody, topic::TopicConfigTable},
    code::{RequestCode, ResponseCode, version},
    fastjson,
    frame::Frame,
    header::{
        field,
        namesrv::{
            DeleteTopicInNamesrv, GetKvResponse, GetRouteInfo, OneBroker, OneBrokerName,
            OneCluster, OneKey, PutKv, QueryDataVersionResponse, RegisterBroker,
            WipeWritePermResponse,
        },
    },
};

use crate::harness::{World, ask, call, registration_of, remark, text, topic};

const SYSTEM_AND_TOPIC: [&str; 2] = ["TBW102", "orders"];

fn route_of(topic: &str) -> Frame {
    let header = GetRouteInfo { topic, ..GetRouteInfo::default() };
    Frame::request(RequestCode::GET_ROUTEINFO_BY_TOPIC, &header)
}

#[tokio::test]
async fn a_route_is_standard_json_for_clients_that_can_read_it() {
    let world = World::new();
    let server = world.start(world.options());
    let (broker, client) = (world.client(&server).await, world.client(&server).await);
    ask(&broker, registration_of("x", "10.0.0.1:10911", &SYSTEM_AND_TOPIC)).await;

    let standard = concat!(
        r#"{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911"},"brokerName":"x","cluster":"c","#,
        r#""enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"x","#,
        r#""perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}"#,
    );
    let old = Frame { version: version::V4_9_4 - 1, ..route_of("orders") };
    assert_eq!(text(&ask(&client, old.clone()).await), standard.replace("\"0\"", "0"));
    assert_eq!(text(&ask(&client, route_of("orders")).await), standard);
    let header = GetRouteInfo { topic: "orders", accept_standard_json_only: Some(true) };
    assert_eq!(text(&ask(&client, old.with_header(&header)).await), standard);

    let unknown = call(&client, route_of("unheard")).await;
    assert_eq!(unknown.response_code(), ResponseCode::TOPIC_NOT_EXIST);
    assert!(remark(&unknown).starts_with(
        "No topic route info in name server for the topic: unheard\nSee https://rocketmq.apache.org/"
    ));
}

#[tokio::test]
async fn what_is_not_a_name_servers_business_is_refused_by_name() {
    let world = World::new();
    let server = world.start(world.options());
    let client = world.client(&server).await;
    for code in RequestCode::ALL {
        let answer = call(&client, Frame::request(*code, &())).await;
        if answer.response_code() == ResponseCode::REQUEST_CODE_NOT_SUPPORTED {
            assert!(remark(&answer).contains(code.name().expect("a known code")), "{code}");
        }
    }
    let unknown = call(&client, Frame::request(RequestCode(4711), &())).await;
    assert_eq!(unknown.response_code(), ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    assert!(remark(&unknown).contains("4711"));
}

#[tokio::test]
async fn a_registration_is_taken_in_every_form_that_brokers_send() {
    let world = World::new();
    let server = world.start(world.options());
    let client = world.client(&server).await;
    let table = || TopicConfigTable {
        topic_config_table: ["TBW102", "t"].map(|name| (name.to_owned(), topic(name))).into(),
        ..TopicConfigTable::default()
    };
    let body = RegisterBrokerBody {
        topic_config_serialize_wrapper: table(),
        ..RegisterBrokerBody::default()
    };
    let header = |broker_name, compressed| RegisterBroker {
        broker_name,
        broker_addr: "10.0.0.1:1",
        cluster_name: "c",
        compressed,
        ..RegisterBroker::default()
    };
    let request = |header: RegisterBroker<'_>, body: Vec<u8>| {
        Frame::request(RequestCode::REGISTER_BROKER, &header).with_body(body)
    };
    ask(&client, request(header("plain", false), body.encode())).await;
    ask(&client, request(header("deflated", true), body.deflate())).await;
    let ancient = request(header("ancient", false), fastjson::encode(&table()));
    ask(&client, Frame { version: version::V3_0_11 - 1, ..ancient }).await;
    let route = text(&ask(&client, route_of("t")).await);
    assert!(["plain", "deflated", "ancient"].iter().all(|name| route.contains(name)), "{route}");

    let crc = wire::hash::crc32(&body.encode()) as i32;
    let checked = |body_crc32| RegisterBroker { body_crc32, ..header("checked", false) };
    ask(&client, request(checked(crc), body.encode())).await;
    let refused = call(&client, request(checked(crc ^ 1), body.encode())).await;
    assert_eq!((refused.code, remark(&refused)), (1, "crc32 not match"));
    for garbage in [b"{\"topicConfig".to_vec(), vec![0x78, 0x9c, 1, 2, 3]] {
        for compressed in [false, true] {
            let refused =
                call(&client, request(header("garbage", compressed), garbage.clone())).await;
            assert_eq!(refused.response_code(), ResponseCode::SYSTEM_ERROR);
        }
    }
    let single = call(&client, registration_of("single", "10.0.0.9:1", &["t"])).await;
    assert_eq!((single.code, remark(&single)), (1, "register broker failed"));
}

#[tokio::test]
async fn a_broker_that_asks_learns_whether_its_topics_are_known() {
    let world = World::new();
    let server = world.start(world.options());
    let client = world.client(&server).await;
    let query = |counter: i64| {
        let header = OneBroker {
            broker_name: "x",
            broker_addr: "10.0.0.1:1",
            cluster_name: "c",
            broker_id: 0,
        };
        let version = format!("{{\"counter\":{counter},\"stateVersion\":0,\"timestamp\":0}}");
        Frame::request(RequestCode::QUERY_DATA_VERSION, &header).with_body(version)
    };
    let changed = |answer: &Frame| answer.header::<QueryDataVersionResponse>().unwrap().changed;
    let answer = ask(&client, query(0)).await;
    assert!(changed(&answer) && answer.body_len() == 0);
    ask(&client, registration_of("x", "10.0.0.1:1", &SYSTEM_AND_TOPIC)).await;
    let answer = ask(&client, query(0)).await;
    assert!(!changed(&answer));
    assert_eq!(text(&answer), r#"{"counter":0,"stateVersion":0,"timestamp":0}"#);
    assert!(changed(&ask(&client, query(1)).await));
}

#[tokio::test]
async fn a_broker_is_gone_with_its_connection_or_its_silence() {
    let world = World::new();
    let server = world.start(world.options());
    let client = world.client(&server).await;
    let (first, second) = (world.client(&server).await, world.client(&server).await);
    ask(&first, registration_of("x", "10.0.0.1:1", &["TBW102", "of-x"])).await;
    ask(&second, registration_of("y", "10.0.0.2:1", &["TBW102", "of-y"])).await;
    drop(first);
    while call(&client, route_of("of-x")).await.code != 17 {}
    ask(&client, route_of("of-y")).await;

    // The connections live for as long as they are used; the registration for as long as it is renewed.
    world.pass(60).await;
    ask(&client, Frame::request(RequestCode::GET_BROKER_CLUSTER_INFO, &())).await;
    ask(&second, Frame::request(RequestCode::GET_BROKER_CLUSTER_INFO, &())).await;
    world.pass(61).await;
    while call(&client, route_of("of-y")).await.code != 17 {}
    second.closed().await;
}

#[tokio::test]
async fn write_permission_is_wiped_and_restored_and_topics_are_deleted() {
    let world = World::new();
    let server = world.start(world.options());
    let client = world.client(&server).await;
    ask(&client, registration_of("x", "10.0.0.1:1", &SYSTEM_AND_TOPIC)).await;
    let of_broker = OneBrokerName { broker_name: "x" };
    let wiped =
        ask(&client, Frame::request(RequestCode::WIPE_WRITE_PERM_OF_BROKER, &of_broker)).await;
    assert_eq!(wiped.header::<WipeWritePermResponse>().unwrap().wipe_topic_count, 2);
    assert!(text(&ask(&client, route_of("orders")).await).contains("\"perm\":4"));
    ask(&client, Frame::request(RequestCode::ADD_WRITE_PERM_OF_BROKER, &of_broker)).await;
    assert!(text(&ask(&client, route_of("orders")).await).contains("\"perm\":6"));

    let list = Frame::request(RequestCode::GET_TOPICS_BY_CLUSTER, &OneCluster { cluster: "c" });
    let names =
        |answer: &Frame| fastjson::decode::<TopicList>(&answer.body_bytes()).unwrap().topic_list;
    assert_eq!(names(&ask(&client, list.clone()).await), SYSTEM_AND_TOPIC);
    let header = DeleteTopicInNamesrv { topic: "orders", cluster_name: Some("c") };
    ask(&client, Frame::request(RequestCode::DELETE_TOPIC_IN_NAMESRV, &header)).await;
    assert_eq!(names(&ask(&client, list).await), ["TBW102"]);
    let system = Frame::request(RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_NS, &());
    let system = text(&ask(&client, system).await);
    assert_eq!(system, r#"{"brokerAddr":"10.0.0.1:1","topicList":["c","x"]}"#);
}

#[tokio::test]
async fn order_of_topics_is_kept_over_a_restart_and_shown_where_it_is_wanted() {
    let world = World::new();
    let options = || Options { order_message_enable: true, ..world.options() };
    let server = world.start(options());
    let client = world.client(&server).await;
    let namespace = Some("ORDER_TOPIC_CONFIG");
    let put = PutKv { namespace, key: Some("orders"), value: "x:4" };
    ask(&client, Frame::request(RequestCode::PUT_KV_CONFIG, &put)).await;
    let put = PutKv { namespace, key: Some("other"), value: "x:1" };
    ask(&client, Frame::request(RequestCode::PUT_KV_CONFIG, &put)).await;
    let key = OneKey { namespace, key: Some("other") };
    ask(&client, Frame::request(RequestCode::DELETE_KV_CONFIG, &key)).await;
    let nameless = PutKv { namespace: None, ..put };
    let refused = call(&client, Frame::request(RequestCode::PUT_KV_CONFIG, &nameless)).await;
    assert_eq!((refused.code, remark(&refused)), (1, "namespace or key is null"));
    server.stop().await;

    let server = world.start(options());
    let client = world.client(&server).await;
    let registered = ask(&client, registration_of("x", "10.0.0.1:1", &SYSTEM_AND_TOPIC)).await;
    let told: KvTable = fastjson::decode(&registered.body_bytes()).unwrap();
    assert_eq!(told.table, [("orders".to_owned(), "x:4".to_owned())].into());
    let route = text(&ask(&client, route_of("orders")).await);
    assert!(route.contains(r#""orderTopicConf":"x:4""#), "{route}");
    let key = OneKey { namespace, key: Some("orders") };
    let value = ask(&client, Frame::request(RequestCode::GET_KV_CONFIG, &key)).await;
    assert_eq!(value.header::<GetKvResponse<'_>>().unwrap().value, Some("x:4"));

    let key = OneKey { namespace, key: Some("other") };
    let missing = call(&client, Frame::request(RequestCode::GET_KV_CONFIG, &key)).await;
    assert_eq!(missing.response_code(), ResponseCode::QUERY_NOT_FOUND);
    assert_eq!(remark(&missing), "No config item, Namespace: ORDER_TOPIC_CONFIG Key: other");
    let key = OneKey { namespace: Some("unheard"), key: None };
    let missing = call(&client, Frame::request(RequestCode::GET_KVLIST_BY_NAMESPACE, &key)).await;
    assert_eq!(missing.response_code(), ResponseCode::QUERY_NOT_FOUND);
    // Java's form of the file is read as well.
    let file = std::fs::read_to_string(world.path("kvConfig.json")).unwrap();
    assert!(file.contains("configTable"), "{file}");
}

#[tokio::test]
async fn settings_are_shown_changed_and_written_back() {
    let world = World::new();
    let server = world.start(world.options());
    let client = world.client(&server).await;
    let update = |text: &str| {
        Frame::request(RequestCode::UPDATE_NAMESRV_CONFIG, &()).with_body(text.to_owned())
    };
    ask(&client, update("enableAllTopicList=false\n")).await;
    let shown = text(&ask(&client, Frame::request(RequestCode::GET_NAMESRV_CONFIG, &())).await);
    assert!(shown.contains("enableAllTopicList=false\n"), "{shown}");
    assert_eq!(std::fs::read_to_string(world.path("namesrv.properties")).unwrap(), shown);
    let list = Frame::request(RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &());
    let refused = call(&client, list).await;
    assert_eq!((refused.code, remark(&refused)), (1, "disable"));

    let refused = call(&client, update("kvConfigPath=/etc/passwd")).await;
    assert_eq!(refused.response_code(), ResponseCode::NO_PERMISSION);
    assert!(remark(&refused).starts_with("`kvConfigPath` may not be changed"));
    let refused = call(&client, update("listenPort=1")).await;
    assert_eq!(refused.response_code(), ResponseCode::NO_PERMISSION);
    let refused = call(&client, update("enableAllTopicList=perhaps")).await;
    assert_eq!(refused.response_code(), ResponseCode::INVALID_PARAMETER);
}

#[tokio::test]
async fn routes_wait_for_brokers_to_register_if_they_are_told_to() {
    let world = World::new();
    let server = world.start(Options { need_wait_for_service: true, ..world.options() });
    let client = world.client(&server).await;
    ask(&client, registration_of("x", "10.0.0.1:1", &SYSTEM_AND_TOPIC)).await;
    let early = call(&client, route_of("orders")).await;
    assert_eq!((early.code, remark(&early)), (1, "name server not ready"));
    world.clock.advance(Duration::from_secs(45));
    ask(&client, route_of("orders")).await;
}

#[tokio::test]
async fn a_client_in_a_zone_sees_the_brokers_of_its_zone() {
    let world = World::new();
    let server = world.start(world.options());
    let client = world.client(&server).await;
    for (name, zone) in [("here", "Z1"), ("there", "z2")] {
        let mut request = registration_of(name, &format!("{name}:1"), &SYSTEM_AND_TOPIC);
        request.ext.put(field::ZONE_NAME, zone);
        ask(&client, request).await;
    }
    let mut request = route_of("orders");
    request.ext.put(field::ZONE_NAME, "z1");
    let all = text(&ask(&client, request.clone()).await);
    assert!(all.contains("here:1") && all.contains("there:1"));
    request.ext.put(field::ZONE_MODE, "true");
    let near = text(&ask(&client, request).await);
    assert!(near.contains("here:1") && !near.contains("there"), "{near}");
}

#[tokio::test]
async fn the_broker_of_an_unconfigured_process_is_where_the_name_server_was_reached() {
    let world = World::new();
    let view = AddressView { registered: "192.0.2.7:10911".parse().unwrap() };
    let server = world.start_with(world.options(), Some(view), "127.0.0.1:0".parse().unwrap());
    let client = world.client(&server).await;
    ask(&client, registration_of("own", "192.0.2.7:10911", &SYSTEM_AND_TOPIC)).await;
    ask(&client, registration_of("foreign", "192.0.2.7:999", &SYSTEM_AND_TOPIC)).await;
    let info = Frame::request(RequestCode::GET_BROKER_CLUSTER_INFO, &());
    for answer in [ask(&client, route_of("orders")).await, ask(&client, info).await] {
        let shown = text(&answer);
        assert!(shown.contains("\"127.0.0.1:10911\""), "{shown}");
        assert!(shown.contains("\"192.0.2.7:999\""), "{shown}");
        assert!(!shown.contains("192.0.2.7:10911"), "{shown}");
    }
}
