//! The pull consumer: places, times, progress.

use std::time::Duration;

use apogee_client::{ConsumeError, ConsumeFromWhere, Filter, Message};

use crate::harness::{Cluster, PATIENCE, numbers};

async fn fill(cluster: &Cluster, topic: &str, range: std::ops::Range<u32>) {
    let producer = cluster.producer();
    for number in numbers(range) {
        producer.send(Message::new(topic, number)).await.expect("it is stored");
    }
    cluster.caught_up().await;
}

fn texts(messages: &[apogee_client::ReceivedMessage]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(message.body()).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_where_it_committed() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    fill(&cluster, "T", 0..10).await;
    let client = cluster.client();
    let start = || {
        let builder = client.pull_consumer("readers").subscribe("T", Filter::all());
        builder.consume_from_where(ConsumeFromWhere::FirstOffset).auto_commit(None).start()
    };
    let mut consumer = start().await.expect("a consumer");
    assert_eq!(texts(&consumer.poll(PATIENCE).await.expect("a poll")), numbers(0..10));
    consumer.commit().await.expect("progress is kept");
    fill(&cluster, "T", 10..15).await;
    assert_eq!(texts(&consumer.poll(PATIENCE).await.expect("a poll"))[0], "0010");
    let queue = consumer.assignment().remove(0);
    assert_eq!(consumer.committed(&queue).await, Ok(Some(10)));
    consumer.shutdown().await.expect("nothing to keep");
    let mut consumer = start().await.expect("a consumer");
    assert_eq!(texts(&consumer.poll(PATIENCE).await.expect("a poll")), numbers(10..15));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_where_it_is_told() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    fill(&cluster, "T", 0..40).await;
    let mut reader = cluster.reader("T").await;
    let queue = reader.assignment().remove(0);
    let first = reader.poll(PATIENCE).await.expect("a poll");
    assert_eq!(texts(&first), numbers(0..32));
    assert_eq!(reader.position(&queue), Some(32));
    reader.seek(&queue, 38).expect("an assigned queue");
    assert_eq!(texts(&reader.poll(PATIENCE).await.expect("a poll")), numbers(38..40));
    assert_eq!(reader.end_offset(&queue).await, Ok(40));
    assert_eq!(reader.first_offset(&queue).await, Ok(0));
    assert_eq!(reader.offset_for_time(&queue, first[0].stored_at()).await, Ok(0));
    assert_eq!(reader.offset_for_time(&queue, i64::MAX / 2).await, Ok(40));
    // Behind the end is no place; the next poll goes on at the end.
    reader.seek(&queue, 1_000).expect("an assigned queue");
    while reader.position(&queue) != Some(40) {
        reader.poll(Duration::from_millis(10)).await.expect("a poll");
    }
    fill(&cluster, "T", 40..41).await;
    assert_eq!(texts(&reader.poll(PATIENCE).await.expect("a poll")), ["0040"]);
    let fault = reader.seek(&queue, -1).expect_err("no offset");
    assert!(matches!(fault, ConsumeError::Invalid(fault) if fault.field == "offset"));
    reader.assign([]).expect("no subscription");
    let fault = reader.seek(&queue, 0).expect_err("not assigned");
    assert!(matches!(fault, ConsumeError::Invalid(fault) if fault.field == "queue"));
    assert!(reader.poll(Duration::ZERO).await.expect("a poll").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_share_the_queues_and_take_over_from_who_leaves() {
    let cluster = Cluster::with(2, |_| {}).await;
    cluster.topic("T", 4).await;
    let (one, two) = (cluster.client(), cluster.client());
    let mut one = one
        .pull_consumer("readers")
        .subscribe("T", Filter::all())
        .start()
        .await
        .expect("a consumer");
    while one.assignment().len() < 8 {
        one.poll(Duration::from_millis(10)).await.expect("a poll");
    }
    let mut two = two
        .pull_consumer("readers")
        .subscribe("T", Filter::all())
        .start()
        .await
        .expect("a consumer");
    while one.assignment().len() != 4 || two.assignment().len() != 4 {
        one.poll(Duration::from_millis(10)).await.expect("a poll");
        two.poll(Duration::from_millis(10)).await.expect("a poll");
    }
    assert!(one.assignment().iter().all(|queue| !two.assignment().contains(queue)));
    two.shutdown().await.expect("progress is kept");
    while one.assignment().len() < 8 {
        one.poll(Duration::from_millis(10)).await.expect("a poll");
    }
}
