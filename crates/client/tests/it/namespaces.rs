//! Clients with a namespace: the servers know the long names, the application sees the short ones.

use apogee_client::{
    Client, ConsumeFromWhere, Consumed, Filter, Message, MessageQueue, Resolution,
};

use crate::harness::{Cluster, PATIENCE, Seen, until};

fn within(cluster: &Cluster, namespace: &str) -> Client {
    cluster.builder().namespace(namespace).build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_share_names_and_nothing_else() {
    let cluster = Cluster::new().await;
    for namespace in ["one", "two"] {
        cluster.topic(&format!("{namespace}%T"), 1).await;
    }
    let seen = Seen::default();
    let mut consumers = Vec::new();
    for namespace in ["one", "two"] {
        let client = within(&cluster, namespace);
        let producer = client.producer("senders").build().expect("a producer");
        let receipt = producer.send(Message::new("T", namespace)).await.expect("it is stored");
        assert_eq!(receipt.queue.topic, "T");
        let noted = seen.clone();
        let builder = client.push_consumer("g").subscribe("T", Filter::all());
        let builder = builder.consume_from_where(ConsumeFromWhere::FirstOffset);
        let consumer = builder.max_reconsume_times(1).start(move |message| {
            let (topic, queue) = (message.topic(), &message.queue().topic);
            let body = String::from_utf8_lossy(message.body());
            noted.note(format!("{namespace}: {body} {topic} of {queue}").as_bytes());
            async { Consumed::Retry }
        });
        let consumer = consumer.await.expect("a consumer");
        until(|| consumer.queues().iter().any(|queue| queue.topic == "T")).await;
        consumers.push(consumer);
    }
    let broker = &cluster.brokers[0].broker;
    for namespace in ["one", "two"] {
        until(|| broker.max_offset(&format!("%DLQ%{namespace}%g"), 0) == 1).await;
    }
    let expected = ["one: one T of %RETRY%g", "one: one T of T", "two: two T of %RETRY%g"];
    assert_eq!(seen.sorted(), [&expected[..], &["two: two T of T"]].concat());
    for consumer in consumers {
        consumer.shutdown().await.expect("progress is kept");
    }
    let mut outside = cluster.reader("one%T").await;
    let got = outside.poll(PATIENCE).await.expect("a poll").remove(0);
    assert_eq!((got.topic(), got.property("INSTANCE_ID")), ("one%T", Some("one")));
    assert_eq!(got.user_properties().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_takes_a_topic_or_a_queue_takes_the_short_name() {
    let cluster = Cluster::with(1, |options| {
        options.transaction_timeout = 10;
        options.transaction_check_interval = 50;
    })
    .await;
    cluster.topic("one%T", 1).await;
    let client = within(&cluster, "one");
    let asked = Seen::default();
    let noted = asked.clone();
    let producer = client.producer("senders").transaction_checker(move |message| {
        noted.note(message.topic().as_bytes());
        async { Resolution::Commit }
    });
    let producer = producer.build().expect("a producer");
    let queues = producer.queues("T").await.expect("a route");
    assert_eq!(queues[0].topic, "T");
    producer.send_to(Message::new("T", "to"), &queues[0]).await.expect("it is stored");
    producer.send_oneway(Message::new("T", "oneway")).await.expect("it is on its way");
    let batch = vec![Message::new("T", "batch 1"), Message::new("T", "batch 2")];
    let receipts = producer.send_batch(batch).await.expect("they are stored");
    assert_eq!(receipts[1].queue.topic, "T");
    let keyed = Message::new("T", "keyed").sharding_key("k");
    producer.send(keyed).await.expect("it is stored");
    let begun = producer.begin_transaction(Message::new("T", "committed")).await;
    begun.expect("a half message").commit().await.expect("committed");
    drop(producer.begin_transaction(Message::new("T", "checked")).await.expect("a half message"));
    let later = Message::new("T", "later").delay(std::time::Duration::from_secs(3600));
    let handle = producer.send(later).await.expect("it is stored").recall_handle.expect("a time");
    producer.recall("T", &handle).await.expect("it is recalled");

    let consumer = client.pull_consumer("readers").auto_commit(None);
    let mut consumer = consumer.start().await.expect("a consumer");
    let queues = consumer.queues("T").await.expect("a route");
    consumer.assign(queues.clone()).expect("no subscription");
    assert_eq!(consumer.assignment(), queues);
    consumer.seek(&queues[0], 0).expect("an assigned queue");
    let mut got = Vec::new();
    while got.len() < 7 {
        for message in consumer.poll(PATIENCE).await.expect("a poll") {
            assert_eq!((message.topic(), message.queue()), ("T", &queues[0]));
            got.push(String::from_utf8_lossy(message.body()).into_owned());
        }
    }
    got.sort();
    assert_eq!(got, ["batch 1", "batch 2", "checked", "committed", "keyed", "oneway", "to"]);
    assert_eq!(asked.all()[0], "T");
    consumer.commit().await.expect("it is kept");
    assert_eq!(consumer.position(&queues[0]), Some(7));
    assert_eq!(consumer.committed(&queues[0]).await, Ok(Some(7)));
    assert_eq!(consumer.end_offset(&queues[0]).await, Ok(7));
    assert_eq!(consumer.first_offset(&queues[0]).await, Ok(0));
    assert_eq!(consumer.offset_for_time(&queues[0], 0).await, Ok(0));
    let outside = cluster.client().pull_consumer("one%readers").start().await.expect("a consumer");
    let long = MessageQueue { topic: "one%T".to_owned(), ..queues[0].clone() };
    assert_eq!(outside.committed(&long).await, Ok(Some(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_traces_work_within_a_namespace() {
    let cluster = Cluster::new().await;
    cluster.topic("one%questions", 1).await;
    let client = cluster.builder().namespace("one").trace_topic("traces").build();
    let client = client.expect("a client");
    let producer = client.producer("senders").build().expect("a producer");
    let answers = client.producer("answers").build().expect("a producer");
    let builder = client.push_consumer("g").subscribe("questions", Filter::all());
    let builder = builder.consume_from_where(ConsumeFromWhere::FirstOffset);
    let consumer = builder.start(move |question| {
        let answers = answers.clone();
        async move {
            let reply = question.reply("42").expect("a request");
            answers.send(reply).await.expect("the reply is stored");
            Consumed::Done
        }
    });
    let consumer = consumer.await.expect("a consumer");
    let question = Message::new("questions", "what");
    let reply = producer.request(question, PATIENCE).await.expect("a reply");
    assert_eq!(reply.body().as_ref(), b"42");
    consumer.shutdown().await.expect("progress is kept");
    producer.shutdown().await;
    let mut traces = cluster.reader("traces").await;
    let mut text = String::new();
    while !(text.contains("senders|questions|") && text.contains("SubAfter")) {
        for message in traces.poll(PATIENCE).await.expect("a poll") {
            text += &String::from_utf8_lossy(message.body()).replace('\u{1}', "|");
        }
    }
    assert!(!text.contains("one%"), "{text}");
}

#[tokio::test]
async fn a_namespace_that_cannot_be_is_named() {
    for bad in ["", "a%b", "a b"] {
        let fault = Client::builder(["localhost:9876"]).namespace(bad).build().err();
        assert_eq!(fault.map(|fault| fault.field), Some("namespace"));
    }
}
