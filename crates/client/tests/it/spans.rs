//! Spans of sends, handlers and polls, and the trace context that messages carry from one to the other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ::tracing::{
    Level, Span, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use apogee_client::{ConsumeFromWhere, Consumed, Filter, Message, TraceContext, W3cContext};
use tokio::sync::mpsc;
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

use crate::harness::{Cluster, PATIENCE, ran_alone};

type Fields = BTreeMap<String, String>;

/// Keeps all spans of the client, and their fields as text.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, Fields>>>);

struct Writer<'a>(&'a mut Fields);

impl Visit for Writer<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}").trim_matches('"').to_owned();
        self.0.insert(field.name().to_owned(), text);
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _context: Context<'_, S>) {
        if attributes.metadata().target() == "apogee_client::span" {
            let mut fields = Fields::from([("id".to_owned(), id.into_u64().to_string())]);
            attributes.record(&mut Writer(&mut fields));
            self.0.lock().expect("no panic").insert(id.into_u64(), fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _context: Context<'_, S>) {
        if let Some(fields) = self.0.lock().expect("no panic").get_mut(&id.into_u64()) {
            values.record(&mut Writer(fields));
        }
    }
}

impl Spans {
    fn named(&self, name: &str) -> Fields {
        let spans = self.0.lock().expect("no panic");
        let found = spans.values().find(|fields| fields["otel.name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {spans:#?}")).clone()
    }
}

/// A tracing system whose ids are those of the spans here.
#[derive(Clone, Default)]
struct Tracing(Arc<Mutex<Vec<Note>>>);

/// A span, a context, and how the one was tied to the other.
type Note = (Option<u64>, String, &'static str);

impl Tracing {
    fn note(&self, span: &Span, context: &W3cContext, how: &'static str) {
        let id = span.id().map(|id| id.into_u64());
        self.0.lock().expect("no panic").push((id, context.traceparent.clone(), how));
    }
}

impl TraceContext for Tracing {
    fn inject(&self, span: &Span) -> Option<W3cContext> {
        let traceparent = format!("00-{:032x}-{:016x}-01", 1, span.id()?.into_u64());
        Some(W3cContext { traceparent, tracestate: Some("apogee=1".to_owned()) })
    }

    fn extract(&self, span: &Span, context: &W3cContext) {
        self.note(span, context, "child");
    }

    fn link(&self, span: &Span, context: &W3cContext) {
        self.note(span, context, "link");
    }
}

fn parent(fields: &Fields) -> String {
    format!("00-{:032x}-{:016x}-01", 1, fields["id"].parse::<u64>().expect("a number"))
}

#[tokio::test]
async fn a_handler_continues_the_trace_of_the_send_and_both_say_what_they_are_about() {
    if ran_alone(
        "spans::a_handler_continues_the_trace_of_the_send_and_both_say_what_they_are_about",
    ) {
        return;
    }
    let (spans, hook) = (Spans::default(), Tracing::default());
    let _guard =
        ::tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let client = cluster.builder().trace_context(hook.clone()).build().expect("a client");
    let producer = client.producer("p").build().expect("a producer");
    let message = Message::new("T", "body").tag("a");
    let receipt = producer.send(message).await.expect("it is sent");
    let (done, mut seen) = mpsc::unbounded_channel();
    let consumer = client.push_consumer("g").subscribe("T", Filter::all());
    let consumer = consumer
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |message| {
            let inside = Span::current().id().map(|id| id.into_u64().to_string());
            done.send((message, inside)).expect("the test waits");
            std::future::ready(Consumed::DeadLetter)
        })
        .await
        .expect("a consumer");
    let seen = tokio::time::timeout(PATIENCE, seen.recv()).await.expect("in time");
    let (message, inside) = seen.expect("it is open");
    consumer.shutdown().await.expect("it leaves");

    let sent = spans.named("send T");
    let handled = spans.named("process T");
    assert_eq!(message.property("traceparent"), Some(&*parent(&sent)));
    assert_eq!(message.property("tracestate"), Some("apogee=1"));
    assert_eq!(inside.as_ref(), handled.get("id"), "the handler runs in its span");
    let id = handled["id"].parse().ok();
    assert_eq!(*hook.0.lock().expect("no panic"), [(id, parent(&sent), "child")]);
    for (span, operation) in [(&sent, "send"), (&handled, "process")] {
        for (field, value) in [
            ("messaging.system", "rocketmq"),
            ("messaging.operation.type", operation),
            ("messaging.destination.name", "T"),
            ("messaging.destination.partition.id", "0"),
            ("messaging.message.id", &receipt.unique_key),
            ("messaging.message.body.size", "4"),
            ("messaging.client.id", client.id()),
            ("messaging.rocketmq.message.tag", "a"),
        ] {
            assert_eq!(span.get(field).map(String::as_str), Some(value), "{field} of {operation}");
        }
    }
    assert_eq!(handled["messaging.consumer.group.name"], "g");
    assert_eq!((sent.get("error.type"), &*handled["error.type"]), (None, "retry"));
}

#[tokio::test]
async fn the_messages_of_a_batch_carry_its_context_and_a_poll_is_linked_to_each() {
    if ran_alone("spans::the_messages_of_a_batch_carry_its_context_and_a_poll_is_linked_to_each") {
        return;
    }
    let (spans, hook) = (Spans::default(), Tracing::default());
    let _guard =
        ::tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let client = cluster.builder().trace_context(hook.clone()).build().expect("a client");
    let producer = client.producer("p").build().expect("a producer");
    let own = Message::new("T", "b").property("traceparent", "mine");
    producer.send_batch(vec![Message::new("T", "a"), own]).await.expect("they are sent");
    cluster.caught_up().await;
    let mut consumer = client.pull_consumer("g").start().await.expect("a consumer");
    let queues = consumer.queues("T").await.expect("a route");
    consumer.assign(queues.clone()).expect("it has no subscription");
    consumer.seek(&queues[0], 0).expect("its queue");
    let polled = consumer.poll(PATIENCE).await.expect("a poll");
    let context = |at: usize| polled[at].property("traceparent");
    let sent = spans.named("send T");
    assert_eq!((context(0), context(1)), (Some(&*parent(&sent)), Some("mine")));
    assert_eq!(sent["messaging.batch.message_count"], "2");
    let received = spans.named("receive T");
    assert_eq!(received["messaging.batch.message_count"], "2");
    let id = received["id"].parse().ok();
    let links = [(id, parent(&sent), "link"), (id, "mine".to_owned(), "link")];
    assert_eq!(*hook.0.lock().expect("no panic"), links);
}

#[tokio::test]
async fn where_the_clients_spans_are_disabled_a_message_carries_the_callers() {
    if ran_alone("spans::where_the_clients_spans_are_disabled_a_message_carries_the_callers") {
        return;
    }
    let filter = tracing_subscriber::filter::LevelFilter::INFO;
    let _guard = ::tracing::subscriber::set_default(tracing_subscriber::registry().with(filter));
    let cluster = Cluster::new().await;
    cluster.topic("T", 1).await;
    let client = cluster.builder().trace_context(Tracing::default()).build().expect("a client");
    let producer = client.producer("p").build().expect("a producer");
    let span = ::tracing::span!(Level::INFO, "the application's");
    let id = span.id().expect("it is enabled").into_u64();
    let sending = producer.send(Message::new("T", "body"));
    ::tracing::Instrument::instrument(sending, span).await.expect("it is sent");
    let mut reader = cluster.reader("T").await;
    let polled = reader.poll(PATIENCE).await.expect("a poll");
    let expected = format!("00-{:032x}-{id:016x}-01", 1);
    assert_eq!(polled[0].property("traceparent"), Some(&*expected));
}
