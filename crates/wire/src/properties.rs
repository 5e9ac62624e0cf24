//! Message properties: one text of pairs, `name \u{1} value \u{2}` repeated.
//!
//! Owns the reading and writing of that text and the reserved names. As in Java
//! (`MessageDecoder.string2messageProperties`) a pair without separator, with an empty name or with
//! an empty value is dropped by the reader, and of two pairs with one name the last counts.
//! Which properties a broker adds or strips is left to the rules.

use crate::scan::find_either;

/// Longest stored text in bytes: its length is a signed short.
pub const LEN_MAX: usize = i16::MAX as usize;

const NAME_END: char = '\u{1}';
const PAIR_END: char = '\u{2}';

/// Iterates over the pairs of a property text, in order, dropping what Java drops.
pub fn iter(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let name_len = find_either(rest.as_bytes(), NAME_END as u8, PAIR_END as u8);
            let (name, behind) = rest.split_at(name_len);
            if !behind.starts_with(NAME_END) {
                rest = behind.get(1..).unwrap_or_default();
                continue;
            }
            let behind = &behind[1..];
            let value_len = find_either(behind.as_bytes(), PAIR_END as u8, PAIR_END as u8);
            let value = &behind[..value_len];
            rest = behind.get(value_len + 1..).unwrap_or_default();
            if !name.is_empty() && !value.is_empty() {
                return Some((name, value));
            }
        }
        None
    })
}

/// The value of the last pair called `name`.
pub fn get<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    iter(text).filter(|(found, _)| *found == name).last().map(|(_, value)| value)
}

/// Appends a pair. A text of a client that did not end its last pair gets the missing end first.
pub fn append(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() && !text.ends_with(PAIR_END) {
        text.push(PAIR_END);
    }
    text.reserve(name.len() + value.len() + 2);
    text.push_str(name);
    text.push(NAME_END);
    text.push_str(value);
    text.push(PAIR_END);
}

/// Copies the pairs whose name `keep` accepts, normalised: each ended, the unreadable dropped.
pub fn filtered(text: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    for (name, value) in iter(text).filter(|(name, _)| keep(name)) {
        append(&mut out, name, value);
    }
    out
}

/// Builds a property text from pairs.
pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        append(&mut out, name, value);
    }
    out
}

/// Names that RocketMQ gives a meaning to (Java: `MessageConst`).
#[expect(missing_docs, reason = "the value is the name on the wire; the rules document each use")]
pub mod name {
    pub const KEYS: &str = "KEYS";
    pub const TAGS: &str = "TAGS";
    pub const WAIT: &str = "WAIT";
    pub const DELAY: &str = "DELAY";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    pub const REAL_QID: &str = "REAL_QID";
    pub const TRAN_MSG: &str = "TRAN_MSG";
    pub const PGROUP: &str = "PGROUP";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_ON: &str = "TRACE_ON";
    /// Client id of who waits for a reply.
    pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
    pub const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
    pub const INNER_NUM: &str = "INNER_NUM";
    pub const INNER_BASE: &str = "INNER_BASE";
    pub const TRANSACTION_ID: &str = "__transactionId__";
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    pub const PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
    pub const CHECK_IMMUNITY: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const CORRELATION_ID: &str = "CORRELATION_ID";
    pub const CLUSTER: &str = "CLUSTER";
    pub const MSG_TYPE: &str = "MSG_TYPE";
    pub const POP_CK: &str = "POP_CK";
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    pub const INNER_MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
    pub const INNER_MULTI_QUEUE_OFFSET: &str = "INNER_MULTI_QUEUE_OFFSET";
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
    pub const TIMER_ENQUEUE_MS: &str = "TIMER_ENQUEUE_MS";
    pub const TIMER_DEQUEUE_MS: &str = "TIMER_DEQUEUE_MS";
    pub const TIMER_ROLL_TIMES: &str = "TIMER_ROLL_TIMES";
    pub const TIMER_DEL_UNIQKEY: &str = "TIMER_DEL_UNIQKEY";
    /// Those by which a message says when it is due.
    pub const TIMER: [&str; 3] = [TIMER_DELAY_SEC, TIMER_DELAY_MS, TIMER_DELIVER_MS];
    pub const BORN_HOST: &str = "__BORNHOST";
    pub const BORN_TIMESTAMP: &str = "BORN_TIMESTAMP";
    pub const CRC32: &str = "__CRC32#";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_that_java_drops_are_dropped() {
        let text = "a\u{1}1\u{2}b\u{1}\u{2}\u{1}x\u{2}junk\u{2}c\u{1}\u{1}3\u{2}d\u{1}4";
        let pairs: Vec<_> = iter(text).collect();
        assert_eq!(pairs, [("a", "1"), ("c", "\u{1}3"), ("d", "4")]);
    }

    #[test]
    fn the_last_of_two_equal_names_counts() {
        assert_eq!(get("a\u{1}1\u{2}a\u{1}2\u{2}", "a"), Some("2"));
        assert_eq!(get("a\u{1}1\u{2}a\u{1}2\u{2}", "b"), None);
    }

    #[test]
    fn appending_ends_an_open_pair_first() {
        let mut text = String::from("a\u{1}1");
        append(&mut text, "b", "2");
        assert_eq!(text, "a\u{1}1\u{2}b\u{1}2\u{2}");
        assert_eq!(filtered(&text, |name| name != "a"), "b\u{1}2\u{2}");
    }

    proptest! {
        #[test]
        fn pairs_are_those_of_javas_reader(text in "[ab\u{1}\u{2}é]{0,30}") {
            let java = text.split(PAIR_END).filter_map(|pair| pair.split_once(NAME_END));
            let java = java.filter(|(name, value)| !name.is_empty() && !value.is_empty());
            prop_assert!(iter(&text).eq(java));
        }

        #[test]
        fn clean_pairs_come_back(pairs in prop::collection::vec(("[^\u{1}\u{2}]{1,9}", "[^\u{1}\u{2}]{1,9}"), 0..8)) {
            let text = from_pairs(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let read: Vec<_> = iter(&text).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(read, pairs);
        }
    }
}
