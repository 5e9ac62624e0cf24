//! What the client measures, as a recorder gets it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use apogee_client::{ConsumeFromWhere, Consumed, Filter, Message};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::sync::mpsc;

use crate::harness::{Cluster, PATIENCE, until};

/// Keeps how often each histogram was recorded into, and where each gauge stands.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, f64>>>);

struct Handle(Kept, String);

impl Handle {
    fn add(&self, value: f64) {
        *self.0.0.lock().expect("no panic").entry(self.1.clone()).or_default() += value;
    }
}

impl CounterFn for Handle {
    fn increment(&self, _value: u64) {}
    fn absolute(&self, _value: u64) {}
}

impl GaugeFn for Handle {
    fn increment(&self, value: f64) {
        self.add(value);
    }
    fn decrement(&self, value: f64) {
        self.add(-value);
    }
    fn set(&self, _value: f64) {}
}

impl HistogramFn for Handle {
    fn record(&self, value: f64) {
        assert!(value >= 0.0);
        self.add(1.0);
    }
}

impl Kept {
    fn handle(&self, key: &Key) -> Arc<Handle> {
        let labels = key.labels().filter(|label| label.key() != "client_id");
        let labels: Vec<String> =
            labels.map(|label| format!("{}={}", label.key(), label.value())).collect();
        assert!(key.labels().any(|label| label.key() == "client_id"));
        Arc::new(Handle(self.clone(), format!("{} {}", key.name(), labels.join(" "))))
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.lock().expect("no panic").get(name).copied()
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _meaning: SharedString) {}
    fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _meaning: SharedString) {}
    fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _meaning: SharedString) {}
    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.handle(key))
    }
    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.handle(key))
    }
    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.handle(key))
    }
}

#[tokio::test]
async fn sends_and_handlers_are_measured_and_what_waits_for_them() {
    let kept = Kept::default();
    let _guard = metrics::set_default_local_recorder(&kept);
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let client = cluster.client();
    let producer = client.producer("p").build().expect("a producer");
    for body in ["0", "1"] {
        producer.send(Message::new("T", body)).await.expect("it is sent");
    }
    let batch = ["22", "33", "44"].map(|body| Message::new("T", body));
    producer.send_batch(batch.to_vec()).await.expect("it is sent");
    producer.send(Message::new("T", "")).await.expect_err("no body");
    let sent = "rocketmq_send_cost_time topic=T invocation_status=";
    assert_eq!(kept.get(&format!("{sent}success")), Some(5.0));
    assert_eq!(kept.get(&format!("{sent}failure")), None, "it never began");

    let (begun, mut handlers) = mpsc::unbounded_channel();
    let consumer = client.push_consumer("g").subscribe("T", Filter::all());
    let consumer = consumer
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |message| {
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            let is_bad = &message.body()[..] == b"1";
            begun.send(end).expect("the test waits");
            async move {
                let _ = ended.await;
                if is_bad { Consumed::DeadLetter } else { Consumed::Done }
            }
        })
        .await
        .expect("a consumer");
    let mut ends = Vec::new();
    while ends.len() < 5 {
        let end = tokio::time::timeout(PATIENCE, handlers.recv()).await.expect("in time");
        ends.push(end.expect("it is open"));
    }
    let of_group = |name: &str| kept.get(&format!("rocketmq_{name} topic=T consumer_group=g"));
    assert_eq!(of_group("consumer_cached_messages"), Some(5.0));
    assert_eq!(of_group("consumer_cached_bytes"), Some(8.0));
    assert_eq!(of_group("await_time"), Some(5.0));
    assert!(of_group("delivery_latency").is_some_and(|pulls| pulls >= 1.0));
    drop(ends);
    until(|| of_group("consumer_cached_messages") == Some(0.0)).await;
    assert_eq!(of_group("consumer_cached_bytes"), Some(0.0));
    let processed = "rocketmq_process_time topic=T consumer_group=g invocation_status=";
    assert_eq!(kept.get(&format!("{processed}success")), Some(4.0));
    assert_eq!(kept.get(&format!("{processed}failure")), Some(1.0));
    consumer.shutdown().await.expect("it leaves");
}
