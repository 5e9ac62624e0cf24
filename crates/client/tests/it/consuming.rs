//! The push consumer against brokers that behave.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use apogee_client::{
    AllocateStrategy, ConsumeFromWhere, Consumed, Filter, Message, MessageModel, Ordered,
    PushConsumerBuilder,
};
use env::Clock;
use remoting::{Client as Raw, Limits, NoRequests};
use wire::{
    body::{
        client::{ConsumeDirectlyResult, ConsumerRunningInfo},
        progress::ResetOffsets,
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    header::{client::OneConsumer, offset::ResetOffset},
};

use crate::harness::{Cluster, PATIENCE, Seen, numbers, until};

fn from_first(builder: PushConsumerBuilder) -> PushConsumerBuilder {
    builder.consume_from_where(ConsumeFromWhere::FirstOffset)
}

async fn fill(cluster: &Cluster, topic: &str, range: std::ops::Range<u32>) {
    let producer = cluster.producer();
    let mut receipts = Vec::new();
    for number in numbers(range) {
        receipts.push(producer.submit(Message::new(topic, number)).await.expect("it is under way"));
    }
    for receipt in receipts {
        receipt.await.expect("it is stored");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_consumes_everything_once_and_goes_on_where_it_stopped() {
    let cluster = Cluster::with(2, |_| {}).await;
    cluster.topic("T", 4).await;
    fill(&cluster, "T", 0..500).await;
    let client = cluster.client();
    for range in [0..500, 500..600] {
        if range.start > 0 {
            fill(&cluster, "T", range.clone()).await;
        }
        let seen = Seen::default();
        let noted = seen.clone();
        let builder = from_first(client.push_consumer("g")).subscribe("T", Filter::all());
        let consumer = builder.start(move |message| {
            noted.note(message.body());
            async { Consumed::Done }
        });
        let consumer = consumer.await.expect("a consumer");
        seen.until(range.len()).await;
        consumer.shutdown().await.expect("progress is kept");
        assert_eq!(seen.sorted(), numbers(range));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_comes_again_and_ends_among_the_dead_letters() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    fill(&cluster, "T", 0..2).await;
    let seen = Seen::default();
    let noted = seen.clone();
    let client = cluster.client();
    let consumer =
        from_first(client.push_consumer("g")).subscribe("T", Filter::all()).max_reconsume_times(2);
    let consumer = consumer.start(move |message| {
        assert_eq!(message.topic(), "T");
        noted.note(format!("{:?} {}", message.body(), message.reconsume_times()).as_bytes());
        let fails = message.body().as_ref() == b"0000";
        async move { if fails { Consumed::Retry } else { Consumed::Done } }
    });
    let consumer = consumer.await.expect("a consumer");
    seen.until(4).await;
    until(|| cluster.brokers[0].broker.max_offset("%DLQ%g", 0) == 1).await;
    let expected = ["b\"0000\" 0", "b\"0000\" 1", "b\"0000\" 2", "b\"0001\" 0"];
    assert_eq!(seen.sorted(), expected);
    consumer.shutdown().await.expect("progress is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_or_takes_too_long_gets_its_message_again() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    fill(&cluster, "T", 0..2).await;
    let seen = Seen::default();
    let noted = seen.clone();
    let client = cluster.client();
    let builder = from_first(client.push_consumer("g")).subscribe("T", Filter::all());
    let consumer = builder.consume_timeout(Duration::from_millis(20)).start(move |message| {
        let noted = noted.clone();
        async move {
            if message.reconsume_times() == 0 {
                assert_ne!(message.body().as_ref(), b"0000", "the panic that is wanted");
                std::future::pending::<()>().await;
            }
            noted.note(message.body());
            Consumed::Done
        }
    });
    let consumer = consumer.await.expect("a consumer");
    seen.until(2).await;
    assert_eq!(seen.sorted(), numbers(0..2));
    consumer.shutdown().await.expect("progress is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_a_queue_survives_failures() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 2).await;
    let producer = cluster.producer();
    for key in ["a", "b", "c"] {
        for number in numbers(0..50) {
            let message = Message::new("T", format!("{key}{number}")).sharding_key(key);
            producer.send(message).await.expect("it is stored");
        }
    }
    let seen = Seen::default();
    let (noted, calls) = (seen.clone(), Arc::new(AtomicUsize::new(0)));
    let client = cluster.client();
    let builder = from_first(client.push_consumer("g")).subscribe("T", Filter::all());
    let consumer =
        builder.consume_message_batch_max_size(8).start_orderly(move |messages| {
            let fails = calls.fetch_add(1, SeqCst).is_multiple_of(3);
            if !fails {
                messages.iter().for_each(|message| noted.note(message.body()));
            }
            async move {
                if fails { Ordered::SuspendFor(Duration::from_millis(10)) } else { Ordered::Done }
            }
        });
    let consumer = consumer.await.expect("a consumer");
    seen.until(150).await;
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for body in seen.all() {
        by_key.entry(body[..1].to_owned()).or_default().push(body[1..].to_owned());
    }
    assert_eq!(by_key.len(), 3);
    assert!(by_key.values().all(|bodies| *bodies == numbers(0..50)));
    consumer.shutdown().await.expect("progress is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_in_order_gives_up_on_is_a_dead_letter_and_the_next_goes_on() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    fill(&cluster, "T", 0..3).await;
    let seen = Seen::default();
    let noted = seen.clone();
    let client = cluster.client();
    let builder = from_first(client.push_consumer("g")).subscribe("T", Filter::all());
    let builder =
        builder.max_reconsume_times(1).suspend_current_queue_time(Duration::from_millis(10));
    let consumer = builder.start_orderly(move |messages| {
        noted.note(messages[0].body());
        let fails = messages[0].body().as_ref() == b"0001";
        async move { if fails { Ordered::Suspend } else { Ordered::Done } }
    });
    let consumer = consumer.await.expect("a consumer");
    seen.until(4).await;
    assert_eq!(seen.all(), ["0000", "0001", "0001", "0002"]);
    until(|| cluster.brokers[0].broker.max_offset("%DLQ%g", 0) == 1).await;
    consumer.shutdown().await.expect("progress is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_conditions_choose_messages() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 2).await;
    let producer = cluster.producer();
    for (number, tag) in numbers(0..30).into_iter().zip(["a", "b", "c"].into_iter().cycle()) {
        let size = number.clone();
        let message = Message::new("T", number).tag(tag).property("size", size);
        producer.send(message).await.expect("it is stored");
    }
    for (group, filter, count) in [
        ("tags", Filter::tags("a || c"), 20),
        ("sql", Filter::sql92("size >= 10 AND TAGS = 'b'"), 7),
    ] {
        let seen = Seen::default();
        let noted = seen.clone();
        let client = cluster.client();
        let builder = from_first(client.push_consumer(group)).subscribe("T", filter);
        let consumer = builder.start(move |message| {
            noted.note(message.body());
            async { Consumed::Done }
        });
        let consumer = consumer.await.expect("a consumer");
        seen.until(count).await;
        consumer.shutdown().await.expect("progress is kept");
        assert_eq!(seen.all().len(), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_the_queues_and_one_takes_over_from_the_other() {
    let cluster = Cluster::with(2, |_| {}).await;
    cluster.topic("T", 4).await;
    let seen = Seen::default();
    let start = async |client: apogee_client::Client| {
        let noted = seen.clone();
        let builder = from_first(client.push_consumer("g")).subscribe("T", Filter::all());
        let strategy = AllocateStrategy::ConsistentHash { virtual_nodes: 10 };
        let consumer = builder.allocate_strategy(strategy).start(move |message| {
            noted.note(message.body());
            async { Consumed::Done }
        });
        consumer.await.expect("a consumer")
    };
    let of_topic = |consumer: &apogee_client::PushConsumer| {
        consumer.queues().into_iter().filter(|queue| queue.topic == "T").count()
    };
    let one = start(cluster.client()).await;
    let two = start(cluster.client()).await;
    until(|| of_topic(&one) + of_topic(&two) == 8 && of_topic(&one) < 8 && of_topic(&two) < 8)
        .await;
    fill(&cluster, "T", 0..100).await;
    seen.until(100).await;
    one.shutdown().await.expect("progress is kept");
    until(|| of_topic(&two) == 8).await;
    fill(&cluster, "T", 100..200).await;
    seen.until(200).await;
    two.shutdown().await.expect("progress is kept");
    assert_eq!(seen.sorted(), numbers(0..200));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_gets_a_broadcast_and_keeps_its_own_place() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 2).await;
    for range in [0..10, 10..20] {
        fill(&cluster, "T", range.clone()).await;
        for member in ["one", "two"] {
            let seen = Seen::default();
            let noted = seen.clone();
            let client = cluster.builder().instance_name(member).build().expect("a client");
            let builder = from_first(client.push_consumer("g")).subscribe("T", Filter::all());
            let builder = builder.message_model(MessageModel::Broadcasting);
            let consumer =
                builder.local_offset_store_dir(cluster.scratch()).start(move |message| {
                    noted.note(message.body());
                    async { Consumed::Retry }
                });
            let consumer = consumer.await.expect("a consumer");
            seen.until(10).await;
            consumer.shutdown().await.expect("progress is kept");
            assert_eq!(seen.sorted(), numbers(range.clone()), "{member}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pulled_and_not_done_is_bounded() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    fill(&cluster, "T", 0..200).await;
    let (open, running) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let client = cluster.client();
    let builder = from_first(client.push_consumer("g")).subscribe("T", Filter::all());
    let builder = builder.concurrency(3).pull_batch_size(8).pull_threshold_for_queue(16);
    let (gate, count) = (open.clone(), running.clone());
    let done = Arc::new(AtomicUsize::new(0));
    let finished = done.clone();
    let consumer = builder.start(move |_message| {
        let (gate, count, finished) = (gate.clone(), count.clone(), finished.clone());
        async move {
            assert!(count.fetch_add(1, SeqCst) < 3);
            while !gate.load(SeqCst) {
                tokio::task::yield_now().await;
            }
            count.fetch_sub(1, SeqCst);
            finished.fetch_add(1, SeqCst);
            Consumed::Done
        }
    });
    let consumer = consumer.await.expect("a consumer");
    until(|| running.load(SeqCst) == 3).await;
    let raw = raw(&cluster).await;
    let info = loop {
        let info: ConsumerRunningInfo =
            ask(&raw, RequestCode::GET_CONSUMER_RUNNING_INFO, client.id(), None).await;
        if info.mq_table.values().any(|queue| queue.cached_msg_count >= 16) {
            break info;
        }
    };
    assert!(info.mq_table.values().all(|queue| queue.cached_msg_count < 24), "{info:?}");
    open.store(true, SeqCst);
    until(|| done.load(SeqCst) == 200).await;
    consumer.shutdown().await.expect("progress is kept");
}

async fn raw(cluster: &Cluster) -> Raw {
    let address = cluster.brokers[0].address;
    Raw::connect(address, Limits::default(), Clock::real(), NoRequests).await.expect("a broker")
}

async fn ask<T: serde_like::Body>(
    raw: &Raw,
    code: RequestCode,
    client_id: &str,
    msg_id: Option<&str>,
) -> T {
    let header = OneConsumer { consumer_group: "g", client_id, msg_id, topic: None };
    let answer = raw.call(Frame::request(code, &header), PATIENCE).await.expect("an answer");
    assert_eq!(answer.response_code(), ResponseCode::SUCCESS, "{:?}", answer.remark);
    T::read(&answer.body_bytes())
}

/// Bodies that the tests read.
mod serde_like {
    use super::{ConsumeDirectlyResult, ConsumerRunningInfo, fastjson};

    pub(super) trait Body {
        fn read(bytes: &[u8]) -> Self;
    }

    impl Body for ConsumerRunningInfo {
        fn read(bytes: &[u8]) -> Self {
            fastjson::decode(bytes).expect("JSON")
        }
    }

    impl Body for ConsumeDirectlyResult {
        fn read(bytes: &[u8]) -> Self {
            fastjson::decode(bytes).expect("JSON")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_does_what_an_administrator_asks() {
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let receipt = cluster.producer().send(Message::new("T", "body")).await.expect("it is stored");
    let seen = Seen::default();
    let noted = seen.clone();
    let client = cluster.client();
    let builder = from_first(client.push_consumer("g")).subscribe("T", Filter::all());
    let consumer = builder.start(move |message| {
        noted.note(message.body());
        async { Consumed::Done }
    });
    let consumer = consumer.await.expect("a consumer");
    seen.until(1).await;
    let raw = raw(&cluster).await;
    let result: ConsumeDirectlyResult =
        ask(&raw, RequestCode::CONSUME_MESSAGE_DIRECTLY, client.id(), Some(&receipt.offset_id))
            .await;
    assert_eq!((result.consume_result.as_str(), result.order), ("CR_SUCCESS", false));
    assert_eq!(seen.all().len(), 2);
    let info: ConsumerRunningInfo =
        ask(&raw, RequestCode::GET_CONSUMER_RUNNING_INFO, client.id(), None).await;
    assert!(info.subscription_set.iter().any(|subscription| subscription.topic == "T"));
    let header = ResetOffset {
        group: "g",
        topic: "T",
        timestamp: 0,
        is_force: true,
        ..ResetOffset::default()
    };
    let request = Frame::request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET, &header);
    let answer = raw.call(request, PATIENCE).await.expect("an answer");
    let reset: ResetOffsets = fastjson::decode(&answer.body_bytes()).expect("JSON");
    assert_eq!(reset.offset_table.into_values().collect::<Vec<_>>(), [0], "{:?}", answer.remark);
    seen.until(3).await;
    consumer.shutdown().await.expect("progress is kept");
}
