//! What clients write down about a message, for the trace topic (Java: `TraceDataEncoder`).
//!
//! A record is text: fields with U+0001 between them, and U+0002 at its end. What is not there is `null`, as in Java.
//! A broker writes the same for clients that do not.

use std::fmt::Write;

use crate::properties::{self, name};

const BETWEEN: char = '\u{1}';
const END: char = '\u{2}';

/// The message that a record is about.
#[derive(Clone, Copy, Debug)]
pub struct Traced<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its unique key; those of a batch have commas between.
    pub unique_key: &'a str,
    /// Its tag.
    pub tags: Option<&'a str>,
    /// Its keys, blanks between.
    pub keys: Option<&'a str>,
}

/// What kind of message was sent (Java: the ordinals of `MessageType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Nothing special.
    Normal = 0,
    /// The half of a transaction.
    Half = 1,
    /// Delivered later.
    Delayed = 3,
}

impl MessageKind {
    /// Tells it by the properties of a message that is sent.
    pub fn of(text: &str) -> MessageKind {
        let delays =
            [name::DELAY, name::TIMER_DELAY_SEC, name::TIMER_DELAY_MS, name::TIMER_DELIVER_MS];
        if properties::get(text, name::TRAN_MSG) == Some("true") {
            MessageKind::Half
        } else if properties::iter(text).any(|(name, _)| delays.contains(&name)) {
            MessageKind::Delayed
        } else {
            MessageKind::Normal
        }
    }
}

/// One record. Times are epoch milliseconds, costs milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Trace<'a> {
    /// A message was sent.
    Pub {
        /// When the send began.
        at: i64,
        /// Region of the broker.
        region: &'a str,
        /// The producer's group.
        group: &'a str,
        /// The message.
        message: Traced<'a>,
        /// Address of the broker.
        store_host: &'a str,
        /// Length of the body as it was sent.
        body_bytes: usize,
        /// How long it took.
        cost: i64,
        /// What kind of message it is.
        kind: MessageKind,
        /// The message's place.
        offset_id: &'a str,
        /// Whether it is as safe as it should be.
        is_success: bool,
    },
    /// A message comes to a handler.
    SubBefore {
        /// When it comes.
        at: i64,
        /// Region of the broker.
        region: &'a str,
        /// The consumer's group.
        group: &'a str,
        /// What this and the record of its end have in common.
        request_id: &'a str,
        /// The message.
        message: Traced<'a>,
        /// How often it was sent back.
        retry_times: i32,
    },
    /// A handler is done with a message.
    SubAfter {
        /// That of the record of its beginning.
        request_id: &'a str,
        /// The message.
        message: Traced<'a>,
        /// How long it took, shared among the messages that came together.
        cost: i64,
        /// Whether it was consumed.
        is_success: bool,
        /// How it ended (Java: the ordinals of `ConsumeReturnType`): 0 well, 1 too late, 2 by a panic, 4 not well.
        code: i32,
        /// When it ended.
        at: i64,
        /// The consumer's group.
        group: &'a str,
    },
}

impl<'a> Trace<'a> {
    /// Returns the message that the record is about.
    pub fn message(&self) -> Traced<'a> {
        match *self {
            Trace::Pub { message, .. }
            | Trace::SubBefore { message, .. }
            | Trace::SubAfter { message, .. } => message,
        }
    }

    /// Appends the record.
    pub fn encode(&self, out: &mut String) {
        let null = |text: Option<&'a str>| text.unwrap_or("null");
        let fields: &[&dyn std::fmt::Display] = match self {
            Trace::Pub {
                at,
                region,
                group,
                message,
                store_host,
                body_bytes,
                cost,
                kind,
                offset_id,
                is_success,
            } => &[
                &"Pub",
                at,
                region,
                group,
                &message.topic,
                &message.unique_key,
                &null(message.tags),
                &null(message.keys),
                store_host,
                body_bytes,
                cost,
                &(*kind as i32),
                offset_id,
                is_success,
            ],
            Trace::SubBefore { at, region, group, request_id, message, retry_times } => &[
                &"SubBefore",
                at,
                region,
                group,
                request_id,
                &message.unique_key,
                retry_times,
                &null(message.keys),
            ],
            Trace::SubAfter { request_id, message, cost, is_success, code, at, group } => &[
                &"SubAfter",
                request_id,
                &message.unique_key,
                cost,
                is_success,
                &null(message.keys),
                code,
                at,
                group,
            ],
        };
        for (at, field) in fields.iter().enumerate() {
            if at > 0 {
                out.push(BETWEEN);
            }
            let begin = out.len();
            write!(out, "{field}").expect("a string takes what is written");
            if out[begin..].contains([BETWEEN, END]) {
                // It would end here, and what is behind it be read as the next one.
                let whole = out.split_off(begin);
                out.extend(whole.chars().filter(|it| ![BETWEEN, END].contains(it)));
            }
        }
        out.push(END);
    }

    /// Returns what the record is to be found by in the index, blanks between: the unique keys, then the other keys.
    pub fn index_keys(&self) -> String {
        let message = self.message();
        let mut keys = message.unique_key.replace(',', " ");
        let is_key = |key: &&str| !key.is_empty() && !key.contains(char::is_control);
        for key in message.keys.unwrap_or_default().split(' ').filter(is_key) {
            keys.push(' ');
            keys.push_str(key);
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(trace: Trace<'_>) -> String {
        let mut text = String::new();
        trace.encode(&mut text);
        text.replace(BETWEEN, "|").replace(END, "^")
    }

    #[test]
    fn records_are_those_of_the_original() {
        // Encoded by `TraceDataEncoder` of 5.5.0.
        let message = Traced { topic: "T", unique_key: "U1", tags: Some("a"), keys: Some("k1 k2") };
        let at = 1_700_000_000_000;
        let sent = |message| Trace::Pub {
            at,
            region: "DefaultRegion",
            group: "G",
            message,
            store_host: "1.2.3.4:10911",
            body_bytes: 5,
            cost: 7,
            kind: MessageKind::Delayed,
            offset_id: "OFF",
            is_success: true,
        };
        assert_eq!(
            text(sent(message)),
            "Pub|1700000000000|DefaultRegion|G|T|U1|a|k1 k2|1.2.3.4:10911|5|7|3|OFF|true^"
        );
        assert_eq!(
            text(sent(Traced { tags: None, keys: None, ..message })),
            "Pub|1700000000000|DefaultRegion|G|T|U1|null|null|1.2.3.4:10911|5|7|3|OFF|true^"
        );
        let before = Trace::SubBefore {
            at,
            region: "DefaultRegion",
            group: "G",
            request_id: "R1",
            message,
            retry_times: 2,
        };
        assert_eq!(text(before), "SubBefore|1700000000000|DefaultRegion|G|R1|U1|2|k1 k2^");
        let after = Trace::SubAfter {
            request_id: "R1",
            message,
            cost: 7,
            is_success: true,
            code: 4,
            at,
            group: "G",
        };
        assert_eq!(text(after), "SubAfter|R1|U1|7|true|k1 k2|4|1700000000000|G^");
        assert_eq!(after.index_keys(), "U1 k1 k2");
        let forged = Traced { keys: Some("k\u{1}true\u{2}Pub"), ..message };
        assert_eq!(
            text(sent(forged)),
            "Pub|1700000000000|DefaultRegion|G|T|U1|a|ktruePub|1.2.3.4:10911|5|7|3|OFF|true^",
            "no field ends before its end"
        );
    }
}
