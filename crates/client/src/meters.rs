//! What the client measures, through the facade of `metrics`: without a recorder nothing is kept.
//!
//! Names, labels and meanings are those of the original's newer clients; all times are in milliseconds. Who measures holds
//! a handle, so that no name is put together for a message. Java: `HistogramEnum`, `GaugeEnum` of rocketmq-clients.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use metrics::{Gauge, Histogram, Unit, describe_gauge, describe_histogram, gauge, histogram};

use crate::message::ReceivedMessage;

const SEND_COST_TIME: &str = "rocketmq_send_cost_time";
const DELIVERY_LATENCY: &str = "rocketmq_delivery_latency";
const AWAIT_TIME: &str = "rocketmq_await_time";
const PROCESS_TIME: &str = "rocketmq_process_time";
const CACHED_MESSAGES: &str = "rocketmq_consumer_cached_messages";
const CACHED_BYTES: &str = "rocketmq_consumer_cached_bytes";

/// Topics whose handles are kept; those of others are looked up in the recorder for each send.
const TOPICS_MAX: usize = 4096;

/// Tells the recorder what is measured.
pub(crate) fn describe() {
    let time = |name, meaning| describe_histogram!(name, Unit::Milliseconds, meaning);
    time(SEND_COST_TIME, "Time of a send with all its attempts, for each message.");
    time(
        DELIVERY_LATENCY,
        "Time from when a message was stored until it came, of the first of a pull.",
    );
    time(AWAIT_TIME, "Time from when a message came until a handler had room for it.");
    time(PROCESS_TIME, "Time that a handler took, for each message that it had.");
    describe_gauge!(CACHED_MESSAGES, Unit::Count, "Messages that have come and are not done.");
    describe_gauge!(CACHED_BYTES, Unit::Bytes, "Bytes of the bodies of these messages.");
}

/// What is measured of the sends of a client.
#[derive(Default)]
pub(crate) struct Sends(RwLock<HashMap<String, Arc<Outcomes>>>);

/// One histogram for what went well, and one for what did not.
struct Outcomes {
    success: Histogram,
    failure: Histogram,
}

impl Outcomes {
    fn new(make: impl Fn(&'static str) -> Histogram) -> Outcomes {
        Outcomes { success: make("success"), failure: make("failure") }
    }

    fn note(&self, is_success: bool, took: Duration, messages: usize) {
        let histogram = if is_success { &self.success } else { &self.failure };
        histogram.record_many(took.as_secs_f64() * 1e3, messages);
    }
}

impl Sends {
    /// Notes how long the send of so many messages took.
    pub(crate) fn note(
        &self,
        client_id: &str,
        topic: &str,
        (is_success, took, messages): (bool, Duration, usize),
    ) {
        let known = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            known.get(topic).cloned()
        };
        let outcomes = known.unwrap_or_else(|| self.register(client_id, topic));
        outcomes.note(is_success, took, messages);
    }

    fn register(&self, client_id: &str, topic: &str) -> Arc<Outcomes> {
        let outcomes = Arc::new(Outcomes::new(|status| {
            histogram!(SEND_COST_TIME, "topic" => topic.to_owned(),
                "client_id" => client_id.to_owned(), "invocation_status" => status)
        }));
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < TOPICS_MAX {
            known.insert(topic.to_owned(), outcomes.clone());
        }
        outcomes
    }
}

/// What is measured of a queue of a push consumer.
pub(crate) struct Queue {
    cached_messages: Gauge,
    cached_bytes: Gauge,
    delivery_latency: Histogram,
    await_time: Histogram,
    process_time: Outcomes,
}

impl Queue {
    /// Makes the handles for a queue of `topic`, which it shares with the topic's other queues.
    pub(crate) fn new(client_id: &str, group: &str, topic: &str) -> Queue {
        let labels = [
            ("topic", topic.to_owned()),
            ("client_id", client_id.to_owned()),
            ("consumer_group", group.to_owned()),
        ];
        let process_time = |status: &'static str| {
            let mut labels = labels.to_vec();
            labels.push(("invocation_status", status.to_owned()));
            histogram!(PROCESS_TIME, &labels)
        };
        Queue {
            cached_messages: gauge!(CACHED_MESSAGES, &labels),
            cached_bytes: gauge!(CACHED_BYTES, &labels),
            delivery_latency: histogram!(DELIVERY_LATENCY, &labels),
            await_time: histogram!(AWAIT_TIME, &labels),
            process_time: Outcomes::new(process_time),
        }
    }

    /// Notes that messages have come, the first of them so many ms after it was stored by the broker's clock.
    pub(crate) fn came(&self, count: usize, bytes: usize, latency_ms: i64) {
        self.cached_messages.increment(count as f64);
        self.cached_bytes.increment(bytes as f64);
        // Clocks differ.
        if count > 0 && latency_ms >= 0 {
            self.delivery_latency.record(latency_ms as f64);
        }
    }

    /// Notes that messages are not here any more.
    pub(crate) fn left(&self, count: usize, bytes: usize) {
        self.cached_messages.decrement(count as f64);
        self.cached_bytes.decrement(bytes as f64);
    }

    /// Notes that a handler is about to have messages.
    pub(crate) fn awaited(&self, messages: &[ReceivedMessage], now: i64) {
        if let Some(first) = messages.first() {
            self.await_time.record((now - first.arrived_at).max(0) as f64);
        }
    }

    /// Notes how long a handler took for so many messages.
    pub(crate) fn processed(&self, is_success: bool, took: Duration, messages: usize) {
        self.process_time.note(is_success, took, messages);
    }
}
