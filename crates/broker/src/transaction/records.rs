//! The records of a transaction, as the original writes them.
//!
//! ```text
//! half      RMQ_SYS_TRANS_HALF_TOPIC, queue 0: the message as it was sent, with REAL_TOPIC, REAL_QID, __transactionId__
//! put back  the same again, with TRANSACTION_CHECK_TIMES, or with TRAN_PREPARED_QUEUE_OFFSET if nobody was asked
//! final     the real topic and queue; system flag "committed", prepared offset = log offset of the half record
//! op        RMQ_SYS_TRANS_OP_HALF_TOPIC, queue 0: TAGS=d, body `3,17,4,`: half records that are done with
//! given up  TRANS_CHECK_MAX_TIME_TOPIC, queue 0: the half message as it was last
//! ```
//! Of our own is the property `APOGEE_DONE` of an op entry: a letter for each offset in the body (see [`Done::letter`]).
//! The original overlooks it; entries without it are the original's.
//! (Java: `TransactionalMessageBridge`, `TransactionalMessageUtil`, `EndTransactionProcessor`)

use std::net::SocketAddr;

use bytes::Bytes;
use bytestring::ByteString;
use env::Millis;
use wire::{
    names::{self, system_flag},
    properties::{self, name},
    record::{CheckCrc, Message, Record},
};

use super::halves::{Done, Half, Halves, Key, Proof, Recalled};

/// Tag of an op entry.
const DONE_TAG: &str = "d";
/// Property with the letters.
const DONE_LETTERS: &str = "APOGEE_DONE";

/// How far the clock may have stepped back between a half message and its end, ms.
const CLOCK_STEP: i64 = 3_600_000;

/// Adds to the properties of a half message what leads back to where it belongs.
pub(crate) fn hide(text: &mut String, unique_key: &str, topic: &str, queue_id: i32) {
    properties::append(text, name::TRANSACTION_ID, unique_key);
    properties::append(text, name::REAL_TOPIC, topic);
    properties::append(text, name::REAL_QID, &queue_id.to_string());
}

/// A half record, read.
pub(super) struct HalfRecord<'a> {
    pub(super) record: Record<'a>,
    bytes: &'a Bytes,
    pub(super) unique_key: String,
    pub(super) group: String,
    pub(super) topic: String,
    queue_id: i32,
    pub(super) checks: u32,
    pub(super) immunity: Option<String>,
}

impl<'a> HalfRecord<'a> {
    /// Reads a record of the half topic; `None` if it is of another, or does not say where it belongs.
    pub(super) fn decode(bytes: &'a Bytes) -> Option<HalfRecord<'a>> {
        HalfRecord::decode_of(bytes, names::TRANS_HALF_TOPIC)
    }

    /// The same for a half message that lies in another topic.
    pub(super) fn decode_of(bytes: &'a Bytes, topic: &str) -> Option<HalfRecord<'a>> {
        let record = Record::decode(bytes, CheckCrc::No).ok().filter(|it| it.topic == topic)?;
        let (mut unique_key, mut group, mut real, mut queue_id) = (None, None, None, None);
        let (mut checks, mut immunity) = (0, None);
        for (name, value) in properties::iter(&record.properties) {
            match name {
                name::UNIQ_KEY => unique_key = Some(value.to_owned()),
                name::PGROUP => group = Some(value.to_owned()),
                name::REAL_TOPIC => real = Some(value.to_owned()),
                name::REAL_QID => queue_id = value.parse().ok(),
                name::TRANSACTION_CHECK_TIMES => checks = value.parse().unwrap_or(0),
                name::CHECK_IMMUNITY => immunity = Some(value.to_owned()),
                _ => {}
            }
        }
        // The name becomes a path; a record is as trustworthy as whoever wrote the log.
        let topic = real.filter(|topic| !topic.is_empty() && names::is_legal(topic))?;
        Some(HalfRecord {
            unique_key: unique_key.unwrap_or_default(),
            group: group.unwrap_or_default(),
            topic,
            queue_id: queue_id.filter(|id| *id >= 0)?,
            checks,
            immunity,
            record,
            bytes,
        })
    }

    /// Returns what is to be known of the half message whose latest record lies at `log_offset`.
    pub(super) fn to_half(&self, key: Key, halves: &mut Halves, log_offset: u64, len: u32) -> Half {
        Half {
            key,
            origin: halves.origin(&self.group, &self.topic),
            log_offset,
            len,
            born_at: self.record.born_at,
            immunity: self.immunity.as_deref().and_then(immunity),
            checks: self.checks,
            proof: Proof::Proven,
        }
    }

    /// Returns the time from which on the final message may have been stored; the log keeps what is younger than
    /// `reserved`, ms.
    pub(super) fn final_since(&self, reserved: i64) -> Millis {
        let stored_at = self.record.numbers.stored_at;
        let oldest = stored_at.saturating_sub(reserved.max(0));
        self.record.born_at.clamp(oldest, stored_at).saturating_sub(CLOCK_STEP)
    }

    /// Returns the message as consumers get it.
    pub(super) fn to_final(&self, store_host: SocketAddr) -> Message {
        let text = properties::filtered(&self.record.properties, |name| {
            !matches!(name, name::REAL_TOPIC | name::REAL_QID)
        });
        let flags = self.record.sys_flag & !system_flag::TRANSACTION_MASK;
        Message {
            topic: self.topic.as_str().into(),
            queue_id: self.queue_id,
            sys_flag: flags | system_flag::TRANSACTION_COMMIT,
            prepared_offset: self.record.numbers.log_offset as i64,
            ..self.with_text(text, store_host)
        }
    }

    /// Returns the record to put back after the producer was asked `checks` times.
    pub(super) fn checked(&self, checks: u32, store_host: SocketAddr) -> Message {
        let text = self.text_without(name::TRANSACTION_CHECK_TIMES);
        self.put_back(text, name::TRANSACTION_CHECK_TIMES, &checks.to_string(), store_host)
    }

    /// Returns the record to put back so that the queue before it can be forgotten; nobody was asked.
    pub(super) fn renewed(&self, store_host: SocketAddr) -> Message {
        let first = properties::get(&self.record.properties, name::PREPARED_QUEUE_OFFSET);
        let first = match first {
            Some(first) => first.to_owned(),
            None => self.record.numbers.queue_offset.to_string(),
        };
        let text = self.text_without(name::PREPARED_QUEUE_OFFSET);
        self.put_back(text, name::PREPARED_QUEUE_OFFSET, &first, store_host)
    }

    fn put_back(
        &self,
        mut text: String,
        name: &str,
        value: &str,
        store_host: SocketAddr,
    ) -> Message {
        properties::append(&mut text, name, value);
        Message {
            topic: ByteString::from_static(names::TRANS_HALF_TOPIC),
            queue_id: 0,
            ..self.with_text(text, store_host)
        }
    }

    /// Returns the record for those that were given up.
    pub(super) fn given_up(&self, store_host: SocketAddr) -> Message {
        let text = properties::filtered(&self.record.properties, |_| true);
        Message {
            topic: ByteString::from_static(names::TRANS_CHECK_MAX_TIME_TOPIC),
            queue_id: 0,
            ..self.with_text(text, store_host)
        }
    }

    /// Returns the message that a producer is shown when it is asked: as it sent it.
    pub(super) fn shown(&self, put_back: &Message) -> Message {
        Message { topic: self.topic.as_str().into(), queue_id: self.queue_id, ..put_back.clone() }
    }

    fn text_without(&self, unwanted: &str) -> String {
        properties::filtered(&self.record.properties, |name| name != unwanted)
    }

    fn with_text(&self, text: String, store_host: SocketAddr) -> Message {
        let Record { flag, sys_flag, born_at, born_host, reconsume_times, body, .. } = self.record;
        Message {
            topic: ByteString::new(),
            queue_id: 0,
            flag,
            sys_flag,
            born_at,
            born_host,
            store_host,
            reconsume_times,
            prepared_offset: 0,
            body: self.bytes.slice_ref(body),
            properties: text.into(),
        }
    }
}

/// Reads `CHECK_IMMUNITY_TIME_IN_SECONDS` as the check does: what is no number counts as not said.
pub(crate) fn immunity(text: &str) -> Option<u32> {
    let seconds: i64 = text.parse().ok()?;
    (seconds != -1).then(|| seconds.clamp(0, u32::MAX.into()) as u32)
}

/// How the offsets stand in the body of an op entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpBody {
    /// Each with a comma behind it, as 5.x does.
    List,
    /// One, and nothing else: all that 4.9.7 reads. It takes any other body for an end of long ago.
    Single,
}

/// Returns the record of an op entry.
pub(super) fn op(
    dones: &[(i64, Done)],
    body: OpBody,
    now: Millis,
    store_host: SocketAddr,
) -> Message {
    let mut text: String = dones.iter().map(|(offset, _)| format!("{offset},")).collect();
    if body == OpBody::Single {
        text.pop();
    }
    let letters: String = dones.iter().map(|(_, done)| done.letter()).collect();
    Message {
        topic: ByteString::from_static(names::TRANS_OP_HALF_TOPIC),
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_at: now,
        born_host: store_host,
        store_host,
        reconsume_times: 0,
        prepared_offset: 0,
        body: text.into(),
        properties: properties::from_pairs([(name::TAGS, DONE_TAG), (DONE_LETTERS, &letters)])
            .into(),
    }
}

/// Says whether an op entry is one that 4.9.7 reads.
pub(super) fn is_single_op(bytes: &[u8]) -> bool {
    Record::decode(bytes, CheckCrc::No).is_ok_and(|record| !record.body.contains(&b','))
}

/// Reads an op entry. What is none of its offsets, it leaves out, as the original does.
pub(super) fn read_op(bytes: &[u8]) -> Vec<(i64, Recalled)> {
    let Ok(record) = Record::decode(bytes, CheckCrc::No) else { return Vec::new() };
    if properties::get(&record.properties, name::TAGS) != Some(DONE_TAG) {
        return Vec::new();
    }
    let Ok(body) = std::str::from_utf8(record.body) else { return Vec::new() };
    let mut letters = properties::get(&record.properties, DONE_LETTERS).unwrap_or("").chars();
    body.split(',')
        .filter_map(|text| {
            let done = letters.next().and_then(Done::of_letter);
            let offset = text.parse().ok()?;
            Some((offset, done.map_or(Recalled::Unknown, Recalled::Known)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use wire::record::Numbers;

    use super::*;

    fn host() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 10911))
    }

    fn stored(message: &Message) -> Bytes {
        let mut out = BytesMut::new();
        let numbers = Numbers { queue_offset: 7, log_offset: 4096, stored_at: 5 };
        message.encode(numbers, wire::hash::crc32(&message.body), &mut out);
        out.freeze()
    }

    #[test]
    fn an_op_entry_is_one_that_the_original_reads_and_says_more_to_us() {
        let dones = [
            (0, Done::Committed),
            (12, Done::RolledBack),
            (3, Done::GivenUp),
            (4, Done::Superseded),
        ];
        let message = op(&dones, OpBody::List, 5, host());
        assert_eq!(&message.body[..], b"0,12,3,4,");
        assert!(message.properties.starts_with("TAGS\u{1}d\u{2}"));
        let read = read_op(&stored(&message));
        assert_eq!(read, dones.map(|(offset, done)| (offset, Recalled::Known(done))));
        let single = op(&dones[1..2], OpBody::Single, 5, host());
        assert_eq!(&single.body[..], b"12", "4.9.7 reads a number");
    }

    #[test]
    fn an_op_entry_of_the_original_says_that_and_not_how_a_half_message_ended() {
        let mut message = op(&[], OpBody::List, 5, host());
        message.body = Bytes::from_static(b"0,0,17,x,-,");
        message.properties = "WAIT\u{1}true\u{2}TAGS\u{1}d\u{2}".into();
        let read = read_op(&stored(&message));
        assert_eq!(read, [0, 0, 17].map(|offset| (offset, Recalled::Unknown)));
        message.properties = "TAGS\u{1}e\u{2}".into();
        assert_eq!(read_op(&stored(&message)), []);
        assert_eq!(read_op(b"no record"), []);
    }

    #[test]
    fn what_leads_to_another_path_is_no_half_message() {
        let mut message = op(&[], OpBody::List, 5, host());
        message.topic = names::TRANS_HALF_TOPIC.into();
        for (topic, queue_id, is_one) in
            [("t", "1", true), ("../t", "1", false), ("", "1", false), ("t", "-1", false)]
        {
            let text = [(name::REAL_TOPIC, topic), (name::REAL_QID, queue_id)];
            message.properties = properties::from_pairs(text).into();
            let bytes = stored(&message);
            assert_eq!(HalfRecord::decode(&bytes).is_some(), is_one, "{topic} {queue_id}");
        }
    }

    #[test]
    fn an_immunity_that_is_no_number_counts_as_not_said() {
        let read = ["60", "0", "-5", "-1", "soon", "99999999999"].map(immunity);
        assert_eq!(read, [Some(60), Some(0), Some(0), None, None, Some(u32::MAX)]);
    }
}
