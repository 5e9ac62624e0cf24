//! Sending to brokers that behave.

use std::{sync::Arc, time::Duration};

use apogee_client::{Consumed, Filter, Message, Resolution, SendError, SendStatus};

use crate::harness::{Cluster, PATIENCE, Seen, numbers};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_lies_where_its_receipt_says_and_comes_as_it_was_sent() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 4).await;
    let producer = cluster.producer();
    let message =
        Message::new("T", "hello").tag("a").key("k1").key("k2").property("p", "v").flag(7);
    let receipt = producer.send(message).await.expect("it is stored");
    assert_eq!((receipt.status, receipt.unconfirmed_attempts), (SendStatus::SendOk, 0));
    let mut reader = cluster.reader("T").await;
    let got = reader.poll(PATIENCE).await.expect("a poll").remove(0);
    assert_eq!((got.topic(), got.body().as_ref(), got.flag()), ("T", b"hello".as_ref(), 7));
    assert_eq!((got.tag(), got.property("p")), (Some("a"), Some("v")));
    assert!(got.keys().eq(["k1", "k2"]));
    assert_eq!(got.unique_key(), Some(receipt.unique_key.as_str()));
    assert_eq!((got.queue(), got.queue_offset()), (&*receipt.queue, receipt.queue_offset));
    assert_eq!(got.offset_id(), receipt.offset_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_sharding_key_stay_in_order_however_many_are_under_way() {
    let cluster = Cluster::with(2, |_| {}).await;
    cluster.topic("T", 4).await;
    let producer = cluster.producer();
    let mut receipts = Vec::new();
    for number in numbers(0..1000) {
        let message = Message::new("T", number).sharding_key("order-4711");
        receipts.push(producer.submit(message).await.expect("it is under way"));
    }
    for receipt in receipts {
        receipt.await.expect("it is stored");
    }
    let found = cluster.read("T", 1000).await;
    assert_eq!(found.into_values().collect::<Vec<_>>(), [numbers(0..1000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_a_key_go_to_all_queues() {
    let cluster = Cluster::with(2, |_| {}).await;
    cluster.topic("T", 4).await;
    let producer = cluster.producer();
    for number in numbers(0..32) {
        producer.send(Message::new("T", number)).await.expect("it is stored");
    }
    let found = cluster.read("T", 32).await;
    assert_eq!(found.len(), 8);
    assert!(found.values().all(|bodies| bodies.len() == 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_created_by_its_first_message() {
    let cluster = Cluster::new().await;
    let producer = cluster.producer();
    producer.send(Message::new("fresh", "first")).await.expect("it is stored");
    assert_eq!(cluster.brokers[0].broker.topic("fresh").expect("a topic").write_queue_nums, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_split_and_each_message_has_a_receipt_of_its_own() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let client = cluster.client();
    let producer =
        client.producer("producers").batch_bytes_max(8 * 1024).build().expect("a producer");
    let messages: Vec<Message> =
        numbers(0..100).into_iter().map(|number| Message::new("T", number).tag("t")).collect();
    let receipts = producer.send_batch(messages).await.expect("all are stored");
    assert!(receipts.iter().map(|receipt| receipt.queue_offset).eq(0..100));
    let mut reader = cluster.reader("T").await;
    let mut got = Vec::new();
    while got.len() < 100 {
        got.extend(reader.poll(PATIENCE).await.expect("a poll"));
    }
    for (receipt, message) in receipts.iter().zip(&got) {
        assert_eq!(message.unique_key(), Some(receipt.unique_key.as_str()));
        assert_eq!((message.offset_id(), message.tag()), (receipt.offset_id.clone(), Some("t")));
    }
    assert!(producer.send_batch(Vec::new()).await.expect("nothing to do").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_travels_compressed() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let body = "RocketMQ ".repeat(10_000);
    cluster.producer().send(Message::new("T", body.clone())).await.expect("it is stored");
    let mut reader = cluster.reader("T").await;
    let got = reader.poll(PATIENCE).await.expect("a poll").remove(0);
    assert_eq!((got.body().as_ref(), got.is_compressed()), (body.as_bytes(), false));
    let log = cluster.brokers[0].broker.max_offset("T", 0);
    assert_eq!(log, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_oneway_arrives() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let producer = cluster.producer();
    producer.send_oneway(Message::new("T", "gone")).await.expect("it is on its way");
    producer.shutdown().await;
    assert_eq!(cluster.read("T", 1).await.into_values().next(), Some(vec!["gone".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_wait_when_too_many_bytes_are_under_way_and_all_arrives() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let client = cluster.client();
    let producer = client.producer("producers").buffer_bytes_max(4096).build().expect("a producer");
    let queue = producer.queues("T").await.expect("a route").remove(0);
    let sends = numbers(0..200).into_iter().map(|number| {
        let (producer, queue) = (producer.clone(), queue.clone());
        tokio::spawn(async move { producer.send_to(Message::new("T", number), &queue).await })
    });
    for send in sends.collect::<Vec<_>>() {
        send.await.expect("no panic").expect("it is stored");
    }
    let mut found = cluster.read("T", 200).await.into_values().next().expect("a queue");
    found.sort();
    assert_eq!(found, numbers(0..200));
    producer
        .send(Message::new("T", vec![1; 10_000]))
        .await
        .expect("one that is larger than the bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_gives_its_room_back_once_it_is_awaited_or_dropped() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let client = cluster.client();
    let producer = client.producer("producers").buffer_bytes_max(1).build().expect("a producer");
    let submit =
        async |body| producer.submit(Message::new("T", body)).await.expect("there is room");
    let mut kept = submit("1").await;
    (&mut kept).await.expect("it is stored");
    drop(submit("2").await);
    submit("3").await.await.expect("it is stored");
    drop(kept);
    assert_eq!(cluster.read("T", 3).await.into_values().next().expect("a queue"), ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_message_comes_later_and_one_with_a_time_can_be_recalled() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let producer = cluster.producer();
    producer.send(Message::new("T", "level").delay_level(2)).await.expect("it is stored");
    assert_eq!(cluster.read("T", 1).await.into_values().next(), Some(vec!["level".to_owned()]));
    let far = Message::new("T", "far").delay(Duration::from_secs(3600));
    let receipt = producer.send(far).await.expect("it is stored");
    let handle = receipt.recall_handle.expect("it has a time of its own");
    assert_eq!(producer.recall("T", &handle).await, Ok(receipt.unique_key));
    let wrong = producer.recall("other", &handle).await.expect_err("another topic");
    assert!(matches!(wrong, SendError::Invalid(fault) if fault.field == "recall_handle"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_committed_messages_of_transactions_are_seen() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let client = cluster.client();
    let checked = |_| async { Resolution::Unknown };
    let producer =
        client.producer("payers").transaction_checker(checked).build().expect("a producer");
    let begin = async |body: &'static str| {
        producer.begin_transaction(Message::new("T", body)).await.expect("a half message")
    };
    begin("no").await.rollback().await.expect("rolled back");
    begin("yes").await.commit().await.expect("committed");
    drop(begin("open").await);
    assert_eq!(cluster.read("T", 1).await.into_values().next(), Some(vec!["yes".to_owned()]));
    let plain = cluster.producer().begin_transaction(Message::new("T", "body")).await;
    let fault = plain.err().expect("no checker");
    assert!(matches!(fault, SendError::Invalid(fault) if fault.field == "transaction_checker"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_left_open_ends_as_its_checker_says() {
    let cluster = Cluster::with(1, |options| {
        options.transaction_timeout = 10;
        options.transaction_check_interval = 50;
    })
    .await;
    cluster.topic("T", 1).await;
    let seen = Seen::default();
    let client = cluster.client();
    let asked = seen.clone();
    let producer = client.producer("payers").transaction_checker(move |message| {
        asked.note(message.body());
        async { Resolution::Commit }
    });
    let producer = producer.build().expect("a producer");
    drop(producer.begin_transaction(Message::new("T", "open")).await.expect("a half message"));
    assert_eq!(cluster.read("T", 1).await.into_values().next(), Some(vec!["open".to_owned()]));
    assert_eq!(seen.all()[0], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_the_reply_of_who_consumed_it() {
    let cluster = Cluster::new().await;
    cluster.topic("questions", 2).await;
    let answerer = Arc::new(cluster.producer());
    let consumer = cluster.client();
    let consumer = consumer
        .push_consumer("answerers")
        .subscribe("questions", Filter::all())
        .start(move |question| {
            let answerer = answerer.clone();
            async move {
                let reply = question.reply(format!("{:?}!", question.body())).expect("a request");
                answerer.send(reply).await.expect("the reply is stored");
                Consumed::Done
            }
        })
        .await
        .expect("a consumer");
    let producer = cluster.client().producer("askers").build().expect("a producer");
    let reply =
        producer.request(Message::new("questions", "why"), PATIENCE).await.expect("a reply");
    assert_eq!(reply.body().as_ref(), b"b\"why\"!");
    consumer.shutdown().await.expect("progress is kept");
}
