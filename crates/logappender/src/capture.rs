//! Where records come in: as a `tracing_subscriber::Layer`, and as a `log::Log`.
//!
//! Invariant: no record of a thread that ships is taken, whoever logs there, so shipping never causes shipping, not even
//! that of another appender.

use std::{cell::Cell, thread};

use tracing::{
    Event, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::{
    FLUSH_LIMIT, LogAppender,
    buffer::Entry,
    format::{Line, NamedValue, Texts},
};

thread_local! {
    static SHIPS: Cell<bool> = const { Cell::new(false) };
}

/// Marks the thread as one of those that ship.
pub(crate) fn ignore_this_thread() {
    SHIPS.set(true);
}

pub(crate) fn is_ignored_thread() -> bool {
    SHIPS.get()
}

/// Fields of a span; appenders of one subscriber share them.
struct SpanFields(Vec<NamedValue>);

impl LogAppender {
    fn append(
        &self,
        appender_type: &'static str,
        level: &'static str,
        target: &str,
        spans: Vec<(&'static str, Vec<NamedValue>)>,
        texts: Texts,
    ) {
        let thread = thread::current();
        let thread = thread.name().unwrap_or("-");
        let epoch_ms = self.0.clock.now();
        let body = Line { epoch_ms, level, thread, target, spans, texts }.body(self.0.format);
        self.0.buffer.push(Entry { body, level, appender_type });
    }

    /// Adds what `record` shows of a span's fields to those that are kept with it.
    fn keep<S>(&self, id: &Id, context: &Context<'_, S>, record: impl FnOnce(&mut Texts))
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let Some(span) = context.span(id).filter(|_| !is_ignored_thread()) else { return };
        let mut texts = Texts::new(self.0.record_bytes_max);
        // Outside of the lock that the extensions have: a `Debug` may log itself.
        record(&mut texts);
        if !texts.message.is_empty() {
            texts.fields.push(("message", texts.message.into()));
        }
        let mut extensions = span.extensions_mut();
        let Some(SpanFields(kept)) = extensions.get_mut() else {
            return extensions.insert(SpanFields(texts.fields));
        };
        for (name, value) in texts.fields {
            kept.retain(|(old, _)| *old != name);
            kept.push((name, value));
        }
    }
}

impl<S> Layer<S> for LogAppender
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.keep(id, &context, |texts| attributes.record(texts));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.keep(id, &context, |texts| values.record(texts));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if is_ignored_thread() {
            return;
        }
        let mut texts = Texts::new(self.0.record_bytes_max);
        event.record(&mut texts);
        let spans = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let spans = spans.map(|span| {
            let extensions = span.extensions();
            let kept = extensions.get().map_or(&[][..], |SpanFields(kept)| kept.as_slice());
            let fields = kept.iter().map(|(name, value)| match value.as_str() {
                Some(text) => (*name, texts.text(format_args!("{text}")).into()),
                None => (*name, value.clone()),
            });
            (span.name(), fields.collect())
        });
        let spans = spans.collect();
        let metadata = event.metadata();
        let level = metadata.level().as_str();
        self.append("TRACING_APPENDER", level, metadata.target(), spans, texts);
    }
}

impl log::Log for LogAppender {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        !is_ignored_thread()
    }

    fn log(&self, record: &log::Record<'_>) {
        if is_ignored_thread() {
            return;
        }
        let mut texts = Texts::new(self.0.record_bytes_max);
        texts.message = texts.text(*record.args());
        let level = record.level().as_str();
        self.append("LOG_APPENDER", level, record.target(), Vec::new(), texts);
    }

    fn flush(&self) {
        LogAppender::flush(self, FLUSH_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use apogee_client::Client;
    use log::Log as _;
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn what_a_shipping_thread_logs_is_not_shipped() {
        let appender = LogAppender::builder(Client::builder(["127.0.0.1:9"]), "logs").start();
        let appender = appender.expect("an appender");
        let log_both = || {
            let layered = tracing_subscriber::registry().with(appender.clone());
            tracing::subscriber::with_default(layered, || {
                tracing::info_span!("a span").in_scope(|| tracing::info!("an event"));
            });
            appender.log(&log::Record::builder().args(format_args!("a record")).build());
        };
        log_both();
        assert_eq!(appender.counts().waiting, 2);
        thread::scope(|scope| {
            scope.spawn(|| {
                ignore_this_thread();
                log_both();
            });
        });
        let counts = appender.shutdown(std::time::Duration::ZERO);
        assert_eq!((counts.failed, counts.dropped), (2, 0));
    }
}
