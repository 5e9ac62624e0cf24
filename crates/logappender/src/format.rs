//! How a record becomes the body of a message.
//!
//! Invariant: the text of a record (message, fields, those of its spans) never takes more than its bound, however much a
//! `Debug` would write: the bound stops it. JSON is cut within its strings, so it stays JSON.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

/// How a record becomes a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line, line breaks escaped: time (UTC), level, thread and target as the original's appenders print them by
    /// their example, then spans, message and fields.
    ///
    /// `2026-11-23T11:08:44.123Z INFO main shop::orders - order{id=7}: sold shoes count=3`
    Line,
    /// A JSON object: `time`, `level`, `thread`, `target`, `message`, and where there are any `fields` (an object) and
    /// `spans` (the outermost first; objects with `name` and their fields).
    Json,
}

/// A name and a value that was logged under it.
pub(crate) type NamedValue = (&'static str, Value);

/// Message and fields as they are visited, cut to a number of bytes.
pub(crate) struct Texts {
    pub(crate) message: String,
    pub(crate) fields: Vec<NamedValue>,
    room: usize,
}

impl Texts {
    pub(crate) fn new(bytes_max: usize) -> Texts {
        Texts { message: String::new(), fields: Vec::new(), room: bytes_max }
    }

    /// Writes out a value as far as there is room.
    pub(crate) fn text(&mut self, value: fmt::Arguments<'_>) -> String {
        let mut cut = Cut { text: String::new(), room: self.room };
        // The one error is that there is no room.
        let _ = cut.write_fmt(value);
        self.room = cut.room;
        cut.text
    }

    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = plain(&value);
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Texts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = self.text(format_args!("{value:?}"));
        self.put(field, text.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = self.text(format_args!("{value}"));
        self.put(field, text.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

struct Cut {
    text: String,
    room: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if more.len() <= self.room {
            self.room -= more.len();
            self.text.push_str(more);
            return Ok(());
        }
        self.text.push_str(&more[..more.floor_char_boundary(self.room)]);
        self.text.push('…');
        self.room = 0;
        Err(fmt::Error)
    }
}

/// All that is known of a record.
pub(crate) struct Line<'a> {
    pub(crate) epoch_ms: i64,
    pub(crate) level: &'static str,
    pub(crate) thread: &'a str,
    pub(crate) target: &'a str,
    /// Name and fields, the outermost first.
    pub(crate) spans: Vec<(&'static str, Vec<NamedValue>)>,
    pub(crate) texts: Texts,
}

impl Line<'_> {
    pub(crate) fn body(self, format: Format) -> Box<str> {
        match format {
            Format::Line => self.line(),
            Format::Json => self.json(),
        }
        .into_boxed_str()
    }

    fn line(&self) -> String {
        let Line { level, thread, target, .. } = self;
        let mut line = format!("{} {level} {thread} {target} - ", time(self.epoch_ms));
        for (at, (name, fields)) in self.spans.iter().enumerate() {
            line.push_str(name);
            if !fields.is_empty() {
                let _ = write!(line, "{{{}}}", pairs(fields));
            }
            line.push_str(if at + 1 < self.spans.len() { ":" } else { ": " });
        }
        line.push_str(&self.texts.message);
        if !self.texts.fields.is_empty() {
            line.push_str(if self.texts.message.is_empty() { "" } else { " " });
            line.push_str(&pairs(&self.texts.fields));
        }
        match line.contains(['\n', '\r']) {
            true => line.replace('\n', "\\n").replace('\r', "\\r"),
            false => line,
        }
    }

    fn json(self) -> String {
        let object = |fields: Vec<NamedValue>| -> Map<String, Value> {
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        let mut whole = Map::new();
        let mut put = |name: &str, value: Value| whole.insert(name.to_owned(), value);
        put("time", time(self.epoch_ms).into());
        put("level", self.level.into());
        put("thread", self.thread.into());
        put("target", self.target.into());
        put("message", self.texts.message.into());
        if !self.texts.fields.is_empty() {
            put("fields", object(self.texts.fields).into());
        }
        if !self.spans.is_empty() {
            let spans = self.spans.into_iter().map(|(name, fields)| {
                let mut span = object(fields);
                span.insert("name".to_owned(), name.into());
                Value::from(span)
            });
            put("spans", spans.collect());
        }
        Value::from(whole).to_string()
    }
}

fn time(epoch_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(epoch_ms).unwrap_or_default();
    format!("{time:.3}")
}

fn pairs(fields: &[NamedValue]) -> String {
    let pair = |(name, value): &NamedValue| format!("{name}={}", plain(value));
    fields.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// A string without quotes; all else as JSON has it.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sold() -> Line<'static> {
        let mut texts = Texts::new(100);
        texts.message = "sold\nshoes".to_owned();
        texts.fields = vec![("count", 3.into()), ("to", "a \"friend\"".into())];
        let spans = vec![("shop", vec![]), ("order", vec![("id", 7.into())])];
        let (thread, target) = ("main", "shop::orders");
        Line { epoch_ms: 1_795_432_124_120, level: "INFO", thread, target, spans, texts }
    }

    #[test]
    fn a_line_has_time_level_thread_and_target_and_no_line_break() {
        let line = "2026-11-23T11:08:44.120Z INFO main shop::orders - \
                    shop:order{id=7}: sold\\nshoes count=3 to=a \"friend\"";
        assert_eq!(&*sold().body(Format::Line), line);
    }

    #[test]
    fn json_has_the_same_with_types() {
        let json = r#"{"time":"2026-11-23T11:08:44.120Z","level":"INFO","thread":"main","target":"shop::orders","message":"sold\nshoes","fields":{"count":3,"to":"a \"friend\""},"spans":[{"name":"shop"},{"id":7,"name":"order"}]}"#;
        assert_eq!(&*sold().body(Format::Json), json);
    }

    #[test]
    fn what_a_debug_writes_is_cut_where_the_room_ends() {
        let mut texts = Texts::new(5);
        assert_eq!(texts.text(format_args!("{}{}", "ab", "cdäf")), "abcd…");
        assert_eq!(texts.text(format_args!("x")), "…");
    }
}
