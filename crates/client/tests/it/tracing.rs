//! Message traces: what was sent and consumed is found in the trace topic.

use std::{collections::BTreeSet, time::Duration};

use apogee_client::{Client, Consumed, Filter, Message};
use tokio::sync::mpsc;

use crate::harness::{Cluster, PATIENCE};

/// The records of the trace topic, fields by `|`.
async fn traces(cluster: &Cluster, topic: &str, count: usize) -> Vec<(String, BTreeSet<String>)> {
    let client = Client::builder([&cluster.address]).build().expect("a client");
    let mut reader = client.pull_consumer("traces").start().await.expect("a reader");
    let queues = reader.queues(topic).await.expect("the topic is there");
    reader.assign(queues.iter().cloned()).expect("they are assigned");
    for queue in &queues {
        reader.seek(queue, 0).expect("the beginning");
    }
    let mut found = Vec::new();
    while found.len() < count {
        for message in reader.poll(Duration::from_millis(200)).await.expect("it is read") {
            let keys: BTreeSet<String> = message.keys().map(str::to_owned).collect();
            let text = String::from_utf8(message.body().to_vec()).expect("text");
            let records = text.split_terminator('\u{2}');
            found.extend(records.map(|record| (record.replace('\u{1}', "|"), keys.clone())));
        }
    }
    found
}

#[tokio::test]
async fn what_was_sent_and_consumed_is_in_the_trace_topic() {
    let cluster = Cluster::new().await;
    let client = Client::builder([&cluster.address]).trace_topic("traces");
    let client = client.build().expect("a client");
    let (done, mut seen) = mpsc::unbounded_channel();
    let producer = client.producer("senders").build().expect("a producer");
    producer.send(Message::new("T", "the first makes the topic")).await.expect("it is sent");
    let consumer = client.push_consumer("readers").subscribe("T", Filter::tags("a"));
    let consumer = consumer
        .start(move |message| {
            let is_first = message.reconsume_times() == 0;
            done.send(message.unique_key().expect("it has one").to_owned())
                .expect("the test waits");
            std::future::ready(if is_first { Consumed::DeadLetter } else { Consumed::Done })
        })
        .await
        .expect("a consumer");
    let message = Message::new("T", "body").tag("a").key("k1").key("k2");
    let receipt = producer.send(message).await.expect("it is sent");
    let key = tokio::time::timeout(PATIENCE, seen.recv()).await.expect("in time").expect("open");
    assert_eq!(key, receipt.unique_key);
    consumer.shutdown().await.expect("it leaves");
    producer.shutdown().await;

    let traces = traces(&cluster, "traces", 4).await;
    let of = |kind: &str| {
        let about = |trace: &&(String, BTreeSet<String>)| {
            trace.0.starts_with(kind) && trace.0.contains(&receipt.unique_key)
        };
        traces.iter().find(about).unwrap_or_else(|| panic!("no {kind} in {traces:?}")).clone()
    };
    let (sent, keys) = of("Pub|");
    let broker = cluster.brokers[0].address;
    let expected = format!("|DefaultRegion|senders|T|{}|a|k1 k2|{broker}|4|", receipt.unique_key);
    assert!(sent.contains(&expected), "{sent}");
    assert!(sent.ends_with(&format!("|0|{}|true", receipt.offset_id)), "{sent}");
    for key in [&receipt.unique_key, "k1", "k2"] {
        assert!(keys.contains(key), "{keys:?}");
    }
    let (before, _) = of("SubBefore|");
    assert!(before.contains("|DefaultRegion|readers|"), "{before}");
    assert!(before.ends_with(&format!("|{}|0|k1 k2", receipt.unique_key)), "{before}");
    let (after, _) = of("SubAfter|");
    let request = before.split('|').nth(4).expect("a request");
    assert!(after.starts_with(&format!("SubAfter|{request}|{}|", receipt.unique_key)), "{after}");
    assert!(after.contains("|false|k1 k2|4|") && after.ends_with("|readers"), "{after}");
    assert!(traces.iter().all(|(trace, _)| !trace.contains("|traces|")), "none of traces");
}
