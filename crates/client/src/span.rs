//! Spans of `tracing` around sends, handlers and polls, and the trace context that travels with messages.
//!
//! Names and fields are those of OpenTelemetry's conventions for messaging. A span that nobody wants costs the look at its
//! level: its fields are read only if it is enabled, and a context is asked for only if there is a [`TraceContext`].

use tracing::{Span, debug_span, field::Empty};
use wire::properties::name;

use crate::{Message, ReceivedMessage, client::Core, error::SendError};

/// The properties that carry a context; the names of W3C's header fields.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The context of a trace as W3C writes it down (<https://www.w3.org/TR/trace-context/>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct W3cContext {
    /// Which trace and which span of it: `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
    pub traceparent: String,
    /// What the tracing systems on the way add to it.
    pub tracestate: Option<String>,
}

impl W3cContext {
    /// Returns the context that a message brings, if it brings one.
    pub fn of(message: &ReceivedMessage) -> Option<W3cContext> {
        Some(W3cContext {
            traceparent: message.property(TRACEPARENT)?.to_owned(),
            tracestate: message.property(TRACESTATE).map(str::to_owned),
        })
    }

    /// Returns the properties that carry it.
    pub(crate) fn properties(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let state = self.tracestate.as_deref().map(|state| (TRACESTATE, state));
        [(TRACEPARENT, self.traceparent.as_str())].into_iter().chain(state)
    }
}

/// What ties the spans of this crate to a tracing system ([`ClientBuilder::trace_context`](crate::ClientBuilder::trace_context)).
/// It is called on the path of messages, so it must not block.
pub trait TraceContext: Send + Sync + 'static {
    /// Returns the context of `span`, for those who consume what is sent within it; none if it is not traced.
    fn inject(&self, span: &Span) -> Option<W3cContext>;

    /// Makes `span` a child of what `context` names. `span` has not been entered yet.
    fn extract(&self, span: &Span, context: &W3cContext);

    /// Notes that `span` works on what `context` names, among others; by default it is not noted.
    fn link(&self, span: &Span, context: &W3cContext) {
        let _ = (span, context);
    }
}

/// Makes the span of a send: of one message, or of `count` in one request.
pub(crate) fn send(core: &Core, message: &Message, unique_key: &str, count: Option<usize>) -> Span {
    let topic = core.config.namespace.strip(&message.topic);
    debug_span!(
        "send",
        otel.name = %format_args!("send {topic}"),
        otel.kind = "producer",
        otel.status_code = Empty,
        "error.type" = Empty,
        messaging.system = "rocketmq",
        messaging.operation.name = "send",
        "messaging.operation.type" = "send",
        messaging.client.id = core.id,
        messaging.destination.name = &*topic,
        messaging.destination.partition.id = Empty,
        messaging.message.id = count.is_none().then_some(unique_key),
        messaging.message.body.size = count.is_none().then_some(message.body.len()),
        messaging.batch.message_count = count,
        messaging.rocketmq.namespace = core.config.namespace.name(),
        messaging.rocketmq.message.tag = message.own(name::TAGS),
        messaging.rocketmq.message.group = message.sharding_key,
    )
}

/// Notes in the span of a send how it failed.
pub(crate) fn failed(span: &Span, error: &SendError) {
    fail(
        span,
        match error {
            SendError::Invalid(_) => "invalid",
            SendError::Route(_) => "no_route",
            SendError::NotStored { .. } => "not_stored",
            SendError::Unconfirmed { .. } => "unconfirmed",
            SendError::Closed => "closed",
        },
    );
}

/// Notes in a span that it ended with an error of this kind.
pub(crate) fn fail(span: &Span, kind: &'static str) {
    span.record("otel.status_code", "ERROR").record("error.type", kind);
}

/// Makes the span of a handler that is about to get `messages`. It continues what the one message is of; of several it
/// is linked to each.
pub(crate) fn process(core: &Core, group: &str, messages: &[ReceivedMessage]) -> Span {
    let Some(first) = messages.first() else { return Span::none() };
    let alone = (messages.len() == 1).then_some(first);
    let topic = first.topic();
    let span = debug_span!(
        "process",
        otel.name = %format_args!("process {topic}"),
        otel.kind = "consumer",
        otel.status_code = Empty,
        "error.type" = Empty,
        messaging.system = "rocketmq",
        messaging.operation.name = "process",
        "messaging.operation.type" = "process",
        messaging.client.id = core.id,
        messaging.consumer.group.name = &*core.config.namespace.strip(group),
        messaging.destination.name = topic,
        messaging.destination.partition.id = first.queue().queue_id,
        messaging.message.id = alone.and_then(ReceivedMessage::unique_key),
        messaging.message.body.size = alone.map(|message| message.body().len()),
        messaging.batch.message_count = alone.is_none().then_some(messages.len()),
        messaging.rocketmq.namespace = core.config.namespace.name(),
        messaging.rocketmq.message.tag = alone.and_then(ReceivedMessage::tag),
        messaging.rocketmq.message.group =
            alone.and_then(|message| message.property(name::SHARDING_KEY)),
    );
    if let Some(hook) = core.config.trace_context.as_ref().filter(|_| !span.is_disabled()) {
        match alone.and_then(W3cContext::of) {
            Some(context) => hook.extract(&span, &context),
            None => link(core, &span, messages),
        }
    }
    span
}

/// Makes the span of a poll.
pub(crate) fn receive(core: &Core, group: &str) -> Span {
    debug_span!(
        "receive",
        otel.name = "receive",
        otel.kind = "client",
        otel.status_code = Empty,
        "error.type" = Empty,
        messaging.system = "rocketmq",
        messaging.operation.name = "poll",
        "messaging.operation.type" = "receive",
        messaging.client.id = core.id,
        messaging.consumer.group.name = &*core.config.namespace.strip(group),
        messaging.destination.name = Empty,
        messaging.destination.partition.id = Empty,
        messaging.batch.message_count = Empty,
        messaging.rocketmq.namespace = core.config.namespace.name(),
    )
}

/// Notes in the span of a poll what it has returned.
pub(crate) fn received(core: &Core, span: &Span, messages: &[ReceivedMessage]) {
    let (Some(first), false) = (messages.first(), span.is_disabled()) else { return };
    span.record("otel.name", format!("receive {}", first.topic()))
        .record("messaging.destination.name", first.topic())
        .record("messaging.destination.partition.id", first.queue().queue_id)
        .record("messaging.batch.message_count", messages.len());
    link(core, span, messages);
}

/// Links a span to the contexts of all `messages`.
fn link(core: &Core, span: &Span, messages: &[ReceivedMessage]) {
    let (Some(hook), false) = (&core.config.trace_context, span.is_disabled()) else { return };
    messages.iter().filter_map(W3cContext::of).for_each(|context| hook.link(span, &context));
}

impl Core {
    /// Returns the context for what is sent within `span`, or within the caller's if that one is disabled.
    pub(crate) fn context_of(&self, span: &Span) -> Option<W3cContext> {
        let hook = self.config.trace_context.as_ref()?;
        match span.is_disabled() {
            true => hook.inject(&Span::current()),
            false => hook.inject(span),
        }
    }
}
