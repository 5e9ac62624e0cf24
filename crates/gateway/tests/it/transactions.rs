//! Half messages, their ends and checks, over the wire.

use wire::{
    body::client::{HeartbeatData, ProducerData},
    code::{RequestCode, ResponseCode},
    frame::{Frame, Kind},
    id::OffsetId,
    record::{CheckCrc, Record},
};

use crate::support::{World, but, done, pull, request, send_with, with_body};

fn half(body: &str) -> Frame {
    let text = "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}producers\u{2}WAIT\u{1}true\u{2}";
    but(send_with("T", 1, body, &format!("UNIQ_KEY\u{1}KEY-{body}\u{2}{text}")), "f", "4")
}

/// Ends the half message of an answer to its send, as the Java client of today does.
fn end(sent: &Frame, verdict: &str) -> Frame {
    let id = OffsetId::parse(sent.ext.get("msgId").unwrap()).unwrap();
    let log_offset = id.log_offset.to_string();
    request(
        RequestCode::END_TRANSACTION,
        &[
            ("topic", "T"),
            ("producerGroup", "producers"),
            ("commitLogOffset", &log_offset),
            ("tranStateTableOffset", sent.ext.get("queueOffset").unwrap()),
            ("commitOrRollback", verdict),
            ("msgId", sent.ext.get("transactionId").unwrap()),
            ("transactionId", sent.ext.get("transactionId").unwrap()),
            ("fromTransactionCheck", "false"),
            ("bname", "broker-a"),
        ],
    )
}

#[tokio::test]
async fn a_half_message_becomes_readable_by_its_commit() {
    let world = World::new().await;
    let sent = world.done(half("one")).await;
    assert_eq!(sent.ext.get("queueId"), Some("1"));
    assert_eq!(sent.ext.get("transactionId"), Some("KEY-one"));
    let rolled_back = world.done(half("two")).await;
    let unknown = world.done(end(&sent, "0")).await;
    assert!(unknown.ext.iter().next().is_none());
    world.client.push(end(&sent, "8")).unwrap();
    world.readable("T", 1, 1).await;
    world.done(end(&sent, "8")).await;
    world.done(end(&rolled_back, "12")).await;
    world.done(end(&rolled_back, "12")).await;
    let pulled = world.done(pull("T", 1, 0)).await;
    let body = pulled.body_bytes();
    let record = Record::decode(&body, CheckCrc::Yes).unwrap();
    assert_eq!((record.body, record.len as usize), (&b"one"[..], body.len()));
    let nowhere = but(end(&sent, "8"), "commitLogOffset", "1");
    world
        .refuses(vec![
            (end(&sent, "12"), ResponseCode::ILLEGAL_OPERATION, "was committed before"),
            (end(&rolled_back, "8"), ResponseCode::ILLEGAL_OPERATION, "was rolled back before"),
            (end(&sent, "3"), ResponseCode::SYSTEM_ERROR, "commitOrRollback field wrong"),
            (nowhere, ResponseCode::SYSTEM_ERROR, "Find prepared transaction message failed"),
            (
                but(end(&sent, "8"), "producerGroup", "others"),
                ResponseCode::SYSTEM_ERROR,
                "The producer group wrong",
            ),
            (
                but(end(&sent, "8"), "tranStateTableOffset", "7"),
                ResponseCode::SYSTEM_ERROR,
                "The transaction state table offset wrong",
            ),
            (
                but(end(&sent, "8"), "commitLogOffset", "first"),
                ResponseCode::SYSTEM_ERROR,
                "<commitLogOffset>",
            ),
        ])
        .await;
}

#[tokio::test]
async fn a_producer_is_asked_what_became_of_its_half_message() {
    let world = World::with(|_, options| {
        options.transaction_timeout = 0;
        options.transaction_check_interval = 1;
        options.transaction_check_max = 1_000_000;
        // The messages of these tests are years old.
        options.file_reserved_time = i64::MAX;
    })
    .await;
    let (producer, mut told) = world.another().await;
    let producer_data_set = vec![ProducerData { group_name: "producers".into() }];
    let hello =
        HeartbeatData { client_id: "c".into(), producer_data_set, ..HeartbeatData::default() };
    done(&producer, with_body(RequestCode::HEART_BEAT, &hello)).await;
    let sent = done(&producer, half("one")).await;
    let asked = told.recv().await.expect("the producer is asked");
    assert_eq!(asked.request_code(), RequestCode::CHECK_TRANSACTION_STATE);
    assert_eq!(asked.kind, Kind::Oneway);
    let field = |name: &str| asked.ext.get(name).unwrap_or_default().to_owned();
    assert_eq!(field("msgId"), "KEY-one");
    assert_eq!(field("transactionId"), "KEY-one");
    assert_eq!(field("bname"), "DEFAULT_BROKER");
    let id = OffsetId::parse(&field("offsetMsgId")).unwrap();
    assert_eq!(id.log_offset.to_string(), field("commitLogOffset"));
    let body = asked.body_bytes();
    let shown = Record::decode(&body, CheckCrc::Yes).unwrap();
    assert_eq!((shown.topic, shown.queue_id, shown.body), ("T", 1, &b"one"[..]));
    assert_eq!(shown.numbers.queue_offset.to_string(), field("tranStateTableOffset"));
    let mut answer = end(&sent, "8");
    for name in ["commitLogOffset", "tranStateTableOffset"] {
        answer = but(answer, name, &field(name));
    }
    done(&producer, but(answer, "fromTransactionCheck", "true")).await;
    world.readable("T", 1, 1).await;
}

#[tokio::test]
async fn checks_of_a_half_message_are_resumed_by_its_message_id() {
    let world = World::new().await;
    let sent = world.done(half("one")).await;
    let resume = |id: &str| {
        request(RequestCode::RESUME_CHECK_HALF_MESSAGE, &[("topic", "T"), ("msgId", id)])
    };
    let id = sent.ext.get("msgId").unwrap();
    world.done(resume(id)).await;
    world.readable("RMQ_SYS_TRANS_HALF_TOPIC", 0, 2).await;
    world.done(end(&sent, "12")).await;
    world
        .refuses(vec![
            (resume(id), ResponseCode::ILLEGAL_OPERATION, "was rolled back before"),
            (resume("x"), ResponseCode::SYSTEM_ERROR, "no offset message id"),
            (resume(&id.replace('0', "F")), ResponseCode::SYSTEM_ERROR, ""),
        ])
        .await;
}
