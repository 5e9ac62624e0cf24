//! Sends: what is stored, what is refused, and what the producer is told.

use futures_util::future::join_all;
use wire::{
    code::{RequestCode, ResponseCode},
    frame::{Codec, Frame},
};

use crate::support::{World, ask, but, pull, request, send, send_with};

/// Items in the client's batch encoding.
fn batch(bodies: &[&str]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    for body in bodies {
        wire::batch::append(&mut out, 0, body.as_bytes(), &format!("UNIQ_KEY\u{1}{body}\u{2}"));
    }
    out.to_vec()
}

fn field<'a>(frame: &'a Frame, name: &str) -> &'a str {
    frame.ext.get(name).unwrap_or_else(|| panic!("no {name} in {frame:?}"))
}

#[tokio::test]
async fn a_send_is_stored_under_every_code_and_in_either_header_codec() {
    let world = World::new().await;
    let v1 = request(
        RequestCode::SEND_MESSAGE,
        &[
            ("producerGroup", "producers"),
            ("topic", "T"),
            ("defaultTopic", "TBW102"),
            ("defaultTopicQueueNums", "4"),
            ("queueId", "0"),
            ("sysFlag", "0"),
            ("bornTimestamp", "1700000000000"),
            ("flag", "0"),
            ("properties", "UNIQ_KEY\u{1}K1\u{2}"),
            ("reconsumeTimes", "0"),
            ("unitMode", "false"),
            ("batch", "false"),
        ],
    )
    .with_body("v1");
    let binary = Frame { codec: Codec::Binary, ..send("T", 0, "binary") };
    for (offset, (request, key)) in
        [(send("T", 0, "json"), "KEY-json"), (v1, "K1"), (binary, "KEY-binary")]
            .into_iter()
            .enumerate()
    {
        let codec = request.codec;
        let response = world.done(request).await;
        assert_eq!(response.codec, codec);
        assert_eq!(field(&response, "queueId"), "0");
        assert_eq!(field(&response, "queueOffset"), offset.to_string());
        assert_eq!(field(&response, "transactionId"), key);
        assert_eq!(field(&response, "MSG_REGION"), "DefaultRegion");
        assert_eq!(field(&response, "TRACE_ON"), "true");
        assert_eq!(field(&response, "msgId").len(), 32);
        assert_eq!(response.remark, None);
    }
    let mut coded = send("T", 0, "").with_body(batch(&["one", "two"]));
    coded.code = RequestCode::SEND_BATCH_MESSAGE.0;
    let flagged = but(send("T", 0, "").with_body(batch(&["three", "four"])), "m", "true");
    for (request, first) in [(coded, "3"), (flagged, "5")] {
        let response = world.done(request).await;
        assert_eq!(field(&response, "queueOffset"), first);
        assert_eq!(field(&response, "msgId").split(',').count(), 2);
        assert_eq!(response.ext.get("transactionId"), None);
    }
    world.readable("T", 0, 7).await;
}

#[tokio::test]
async fn a_oneway_send_is_stored_and_not_answered() {
    let world = World::new().await;
    world.client.push(send("T", 0, "unanswered")).unwrap();
    world.readable("T", 0, 1).await;
    world.client.push(but(send("T", 0, "refused"), "e", "99")).unwrap();
    // An answer to either would be a second answer on this connection, before this one.
    world.send("T", 0, "answered").await;
    assert_eq!(world.broker.max_offset("T", 1), 0);
}

#[tokio::test]
async fn a_refused_send_says_why() {
    let world = World::new().await;
    world.send("T", 0, "makes the topic").await;
    let mut retried = send("%RETRY%nobody is", 0, "x");
    retried.code = RequestCode::SEND_MESSAGE_V2.0;
    let mut torn = send("T", 0, "").with_body(batch(&["torn"])[..15].to_vec());
    torn.code = RequestCode::SEND_BATCH_MESSAGE.0;
    let mut batch_retried = send("%RETRY%consumers", 0, "").with_body(batch(&["one"]));
    batch_retried.code = RequestCode::SEND_BATCH_MESSAGE.0;
    world
        .refuses(vec![
            (send("T", 99, "x"), ResponseCode::INVALID_PARAMETER, "queueId[99]"),
            (send("not a name!", 0, "x"), ResponseCode::INVALID_PARAMETER, "illegal characters"),
            (send("", 0, "x"), ResponseCode::INVALID_PARAMETER, "blank"),
            (send("SCHEDULE_TOPIC_XXXX", 0, "x"), ResponseCode::NO_PERMISSION, "forbidden"),
            (but(send("New", 0, "x"), "c", "none"), ResponseCode::TOPIC_NOT_EXIST, "updateTopic"),
            (
                send_with("T", 0, "x", &format!("P\u{1}{}\u{2}", "p".repeat(40_000))),
                ResponseCode::MESSAGE_ILLEGAL,
                "32",
            ),
            (send("T", 0, &"x".repeat((4 << 20) + 1)), ResponseCode::MESSAGE_ILLEGAL, "4194304"),
            (retried, ResponseCode::INVALID_PARAMETER, ""),
            (but(send("T", 0, "x"), "e", "first"), ResponseCode::SYSTEM_ERROR, "<e>"),
            (torn, ResponseCode::MESSAGE_ILLEGAL, ""),
            (batch_retried, ResponseCode::MESSAGE_ILLEGAL, "%RETRY%"),
        ])
        .await;
    let refused = world.ask(send("T", 99, "x")).await;
    assert_eq!(field(&refused, "MSG_REGION"), "DefaultRegion");
}

#[tokio::test]
async fn pipelined_sends_are_each_answered_by_their_number() {
    let world = World::new().await;
    world.send("T", 0, "first").await;
    let bodies: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let responses =
        join_all(bodies.iter().map(|body| ask(&world.client, send("T", 0, body)))).await;
    let mut offsets = Vec::new();
    for (body, response) in bodies.iter().zip(&responses) {
        assert_eq!(field(response, "transactionId"), format!("KEY-{body}"));
        offsets.push(field(response, "queueOffset").parse::<i64>().unwrap());
    }
    assert_eq!(offsets, (1..=300).collect::<Vec<i64>>());
}

#[tokio::test]
async fn under_sync_flush_a_send_is_answered_when_it_is_on_the_device() {
    let world = World::with(|store, broker| {
        store.flush_disk_type = store::FlushDiskType::SyncFlush;
        broker.sync_flush = true;
    })
    .await;
    let waits = send("T", 0, "waits");
    let hurries = send_with("T", 0, "hurries", "UNIQ_KEY\u{1}H\u{2}WAIT\u{1}false\u{2}");
    let responses = join_all([waits, hurries].map(|request| ask(&world.client, request))).await;
    for response in responses {
        assert_eq!(response.response_code(), ResponseCode::SUCCESS);
        assert!(response.ext.get("msgId").is_some());
    }
    assert!(world.broker.store().marks().synced.get() > 0);
}

#[tokio::test]
async fn a_message_sent_back_comes_again_and_one_that_is_not_there_is_refused() {
    let world = World::new().await;
    world.send("T", 0, "bad").await;
    world.readable("T", 0, 1).await;
    let back = |offset: &str, level: &str| {
        request(
            RequestCode::CONSUMER_SEND_MSG_BACK,
            &[
                ("offset", offset),
                ("group", "consumers"),
                ("delayLevel", level),
                ("originTopic", "T"),
                ("maxReconsumeTimes", "16"),
            ],
        )
    };
    // Below zero: among the dead letters, at once.
    world.done(back("0", "-1")).await;
    world.readable("%DLQ%consumers", 0, 1).await;
    let dead = world.done(pull("%DLQ%consumers", 0, 0)).await;
    assert!(String::from_utf8_lossy(&dead.body_bytes()).contains("RETRY_TOPIC\u{1}T"));
    world
        .refuses(vec![(back("17", "0"), ResponseCode::SYSTEM_ERROR, "look message by offset")])
        .await;
}

fn recall(topic: &str, handle: &str) -> Frame {
    let fields = [("producerGroup", "producers"), ("topic", topic), ("recallHandle", handle)];
    request(RequestCode::RECALL_MESSAGE, &fields)
}

#[tokio::test]
async fn a_timer_message_is_answered_with_a_handle_that_recalls_it() {
    let world = World::with(|_, options| options.recall_message_enable = true).await;
    let timed = |seconds: &str| {
        let properties = format!("UNIQ_KEY\u{1}K\u{2}TIMER_DELAY_SEC\u{1}{seconds}\u{2}");
        send_with("T", 0, "later", &properties)
    };
    let response = world.done(timed("3600")).await;
    let handle = field(&response, "recallHandle").to_owned();
    let response = world.done(recall("T", &handle)).await;
    assert_eq!((field(&response, "msgId"), field(&response, "MSG_REGION")), ("K", "DefaultRegion"));
    assert_eq!(world.send("U", 0, "at once").await.ext.get("recallHandle"), None);
    world
        .refuses(vec![
            (recall("T", "?"), ResponseCode::ILLEGAL_OPERATION, "recall handle is invalid"),
            (recall("U", &handle), ResponseCode::ILLEGAL_OPERATION, "topic not match"),
            (recall("V", &handle), ResponseCode::TOPIC_NOT_EXIST, "not exist"),
            (timed("999999"), ResponseCode::MESSAGE_ILLEGAL, "timer message illegal"),
            (send("rmq_sys_wheel_timer", 0, "x"), ResponseCode::NO_PERMISSION, "is forbidden"),
        ])
        .await;

    let world = World::with(|_, options| options.timer_wheel_enable = false).await;
    world.send("T", 0, "at once").await;
    let nothing = |code| request(code, &[]);
    world
        .refuses(vec![
            (recall("T", &handle), ResponseCode::NO_PERMISSION, "operation is forbidden"),
            (timed("1"), ResponseCode::SYSTEM_ERROR, "timerWheelEnable is false"),
            (nothing(RequestCode::GET_TIMER_CHECK_POINT), ResponseCode::SYSTEM_ERROR, "null"),
            (nothing(RequestCode::GET_TIMER_METRICS), ResponseCode::SYSTEM_ERROR, "null"),
        ])
        .await;
}
