//! Records of both interfaces through a real broker, and what becomes of them without one.

use std::{collections::BTreeSet, net::TcpListener, time::Duration};

use apogee_client::{Client, ReceivedMessage};
use apogee_logappender::{Builder, Format, LogAppender, StartError};
use log::Log as _;
use tracing_subscriber::prelude::*;

#[path = "../../../client/tests/it/harness.rs"]
#[allow(dead_code)]
mod harness;

use harness::{Cluster, PATIENCE};

/// Runs `logs` with the appender as the one layer.
fn traced(appender: &LogAppender, logs: impl FnOnce()) {
    let layered = tracing_subscriber::registry().with(appender.clone());
    tracing::subscriber::with_default(layered, logs);
}

fn record(appender: &LogAppender, text: &str) {
    let arguments = format_args!("{text}");
    appender.log(&log::Record::builder().args(arguments).target("shop").build());
}

async fn read(cluster: &Cluster, topic: &str, count: usize) -> Vec<ReceivedMessage> {
    let mut reader = cluster.reader(topic).await;
    let mut all = Vec::new();
    while all.len() < count {
        let some = reader.poll(PATIENCE).await.expect("a poll");
        assert!(!some.is_empty(), "only {} of {count} came", all.len());
        all.extend(some);
    }
    all
}

fn text(message: &ReceivedMessage) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

/// An appender whose name server is nobody.
fn lost() -> Builder {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    LogAppender::builder(Client::builder([nobody.expect("a port").to_string()]), "logs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_with_a_sharding_key_come_in_order_with_tag_key_and_level() {
    let cluster = Cluster::new().await;
    cluster.topic("logs", 4).await;
    let appender = LogAppender::builder(cluster.builder(), "logs").tag("shop").key("host-7");
    let appender = appender.sharding_key("host-7").start().expect("an appender");
    traced(&appender, || {
        for number in 0..500 {
            tracing::info_span!("order", id = number).in_scope(|| tracing::warn!(number, "sold"));
        }
    });
    record(&appender, "the last");
    assert!(appender.flush(PATIENCE));
    let got = read(&cluster, "logs", 501).await;
    for (number, message) in got[..500].iter().enumerate() {
        let end = format!(" it - order{{id={number}}}: sold number={number}");
        assert!(text(message).ends_with(&end), "{}", text(message));
        assert_eq!(message.tag(), Some("shop"));
        assert_eq!(message.keys().collect::<Vec<_>>(), ["host-7"]);
        assert_eq!(message.property("LEVEL"), Some("WARN"));
        assert_eq!(message.property("APPENDER_TYPE"), Some("TRACING_APPENDER"));
    }
    assert!(text(&got[500]).ends_with(" shop - the last"));
    assert_eq!(got[500].property("LEVEL"), Some("INFO"));
    assert_eq!(got[500].property("APPENDER_TYPE"), Some("LOG_APPENDER"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ships_what_waits_and_takes_no_more() {
    let cluster = Cluster::new().await;
    cluster.topic("logs", 4).await;
    let appender = LogAppender::builder(cluster.builder(), "logs").format(Format::Json);
    let appender = appender.start().expect("an appender");
    for number in 0..1000 {
        record(&appender, &number.to_string());
    }
    let counts = appender.shutdown(PATIENCE);
    record(&appender, "too late");
    assert_eq!((counts.shipped, counts.failed, counts.waiting_bytes), (1000, 0, 0));
    assert_eq!((appender.counts().shipped, appender.counts().dropped), (1000, 1));
    let got = read(&cluster, "logs", 1000).await;
    let numbers: BTreeSet<u32> = got
        .iter()
        .map(|message| {
            let json: serde_json::Value = serde_json::from_str(&text(message)).expect("JSON");
            json["message"].as_str().and_then(|text| text.parse().ok()).expect("a number")
        })
        .collect();
    assert_eq!(numbers, (0..1000).collect());
}

#[test]
fn without_a_broker_records_are_dropped_and_counted_and_memory_is_bounded() {
    let appender = lost().buffer_records_max(100).start().expect("an appender");
    for _ in 0..10_000 {
        record(&appender, "nobody hears");
    }
    let counts = appender.counts();
    assert_eq!((counts.shipped, counts.waiting, counts.dropped), (0, 100, 9_900));
    let counts = appender.shutdown(Duration::ZERO);
    assert_eq!((counts.failed, counts.waiting, counts.waiting_bytes), (100, 0, 0));
}

#[test]
fn the_bytes_of_the_buffer_are_bounded_and_long_records_are_cut() {
    let appender = lost().buffer_bytes_max(64 * 1024).record_bytes_max(10_000);
    let appender = appender.start().expect("an appender");
    for _ in 0..20 {
        record(&appender, &"long ".repeat(100_000));
    }
    let counts = appender.counts();
    assert_eq!((counts.waiting, counts.dropped), (6, 14));
    assert!((60_000..64 * 1024).contains(&counts.waiting_bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_record_behind_a_gap_says_how_many_are_missing() {
    let cluster = Cluster::with(1, |options| options.auto_create_topic_enable = false).await;
    let appender = LogAppender::builder(cluster.builder(), "logs").buffer_records_max(3);
    let appender = appender.start().expect("an appender");
    // Without the topic nothing is shipped, and what was taken waits for it.
    for number in 0..10 {
        record(&appender, &number.to_string());
    }
    cluster.topic("logs", 1).await;
    assert!(appender.flush(PATIENCE));
    record(&appender, "behind");
    assert!(appender.flush(PATIENCE));
    let got = read(&cluster, "logs", 4).await;
    assert_eq!(got.len(), 4);
    assert_eq!(got[3].property("DROPPED"), Some("7"));
    assert!(got[..3].iter().all(|message| message.property("DROPPED").is_none()));
}

#[tokio::test]
async fn a_setting_that_cannot_be_is_named() {
    let refused = |builder: Builder| match builder.start() {
        Err(StartError::Invalid(fault)) => fault.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(lost().tag("a || b")), "tag");
    assert_eq!(refused(lost().key("a b")), "key");
    assert_eq!(refused(lost().group("a b")), "group");
    assert_eq!(refused(lost().record_bytes_max(0)), "record_bytes_max");
    let client = Client::builder(["127.0.0.1:9"]);
    assert_eq!(refused(LogAppender::builder(client, "no topic")), "topic");
}
