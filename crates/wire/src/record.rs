//! The commit log's record: a message as it lies in the log and as it travels in pull answers.
//!
//! ```text
//!   0 total length int      28 log offset long           then reconsume times int
//!   4 magic int             36 system flag int                prepared offset long
//!   8 body CRC int          40 born at long                   body length int, body
//!  12 queue id int          48 born host: IP 4|16, port int   topic length byte (V2: short), topic
//!  16 flag int                 stored at long                 properties length short, properties
//!  20 queue offset long        store host: IP 4|16, port int
//! ```
//!
//! All big-endian. Bits of the system flag say which hosts are IPv6; V2 is for topics longer than
//! 127 bytes. A blank record (length, [`MAGIC_BLANK`]) fills the end of a file. What a [`Message`]
//! says is fixed before the log's lock is taken; [`Numbers`] are what only the log can give.
//! Java: `MessageExtEncoder`, `CommitLog.checkMessageAndReturnSize`.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use thiserror::Error;

use crate::hash::crc32;
use crate::names::system_flag;

/// Magic of a record whose topic length is one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record whose topic length is a short.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the blank that ends a file.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;
/// Bytes of a blank's own fields; this many must stay free behind every record of a file.
pub const BLANK_LEN: usize = 8;
/// Position of the system flag in a record.
pub const SYSTEM_FLAG_AT: usize = 36;
/// Length of a record with IPv4 hosts and nothing of variable length.
pub const LEN_MIN: usize = 91;

/// Longest topic of a V1 record, in bytes.
const TOPIC_V1_MAX: usize = 127;

/// Everything that a record says, except the [`Numbers`] that the log gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Topic; longer than 127 bytes makes a V2 record.
    pub topic: ByteString,
    /// Queue of the topic.
    pub queue_id: i32,
    /// The user's flag, uninterpreted.
    pub flag: i32,
    /// System flag; its two IPv6 bits are set from the hosts when encoding.
    pub sys_flag: i32,
    /// When the client made the message, in epoch milliseconds.
    pub born_at: i64,
    /// Where it came from.
    pub born_host: SocketAddr,
    /// The broker that stores it.
    pub store_host: SocketAddr,
    /// How often consumers have given it back.
    pub reconsume_times: i32,
    /// Log offset of the half message that this one ends.
    pub prepared_offset: i64,
    /// Body as sent, perhaps compressed.
    pub body: Bytes,
    /// Properties in their text form ([`crate::properties`]), at most 32767 bytes.
    pub properties: ByteString,
}

/// What the log assigns to a message under its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Place in its queue.
    pub queue_offset: i64,
    /// Place in the log, in bytes.
    pub log_offset: u64,
    /// Store time in epoch milliseconds.
    pub stored_at: i64,
}

/// A part of a message that its field in the record cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TooLong {
    /// The topic is longer than a signed short says.
    #[error("a topic of {0} bytes does not fit a record (32767)")]
    Topic(usize),
    /// The properties are longer than a signed short says.
    #[error("properties of {0} bytes do not fit a record (32767)")]
    Properties(usize),
    /// The record is longer than a signed int says.
    #[error("a record of {0} bytes is longer than 2 GiB")]
    Record(usize),
}

impl Message {
    /// Length of the encoded record in bytes.
    pub fn encoded_len(&self) -> usize {
        let hosts = extra_ip_len(self.born_host) + extra_ip_len(self.store_host);
        let topic_len_len = usize::from(self.topic.len() > TOPIC_V1_MAX);
        LEN_MIN + hosts + topic_len_len + self.topic.len() + self.body.len() + self.properties.len()
    }

    /// Whether each part fits its field; to be asked before [`Message::encode`].
    pub fn check_lengths(&self) -> Result<(), TooLong> {
        let short_max = i16::MAX as usize;
        if self.topic.len() > short_max {
            return Err(TooLong::Topic(self.topic.len()));
        }
        if self.properties.len() > short_max {
            return Err(TooLong::Properties(self.properties.len()));
        }
        let len = self.encoded_len();
        if len > i32::MAX as usize { Err(TooLong::Record(len)) } else { Ok(()) }
    }

    /// Appends the record, [`Message::encoded_len`] bytes, to `out`. `body_crc` is
    /// [`crate::hash::crc32`] of the body, computed by the caller outside the log's lock.
    ///
    /// # Panics
    /// If [`Message::check_lengths`] would fail.
    pub fn encode(&self, numbers: Numbers, body_crc: u32, out: &mut BytesMut) {
        assert!(self.check_lengths().is_ok(), "the caller checked the lengths");
        let len = self.encoded_len();
        out.reserve(len);
        let mut sys_flag =
            self.sys_flag & !(system_flag::BORN_HOST_V6 | system_flag::STORE_HOST_V6);
        if self.born_host.is_ipv6() {
            sys_flag |= system_flag::BORN_HOST_V6;
        }
        if self.store_host.is_ipv6() {
            sys_flag |= system_flag::STORE_HOST_V6;
        }
        let long_topic = self.topic.len() > TOPIC_V1_MAX;
        out.put_u32(len as u32);
        out.put_u32(if long_topic { MAGIC_V2 } else { MAGIC_V1 });
        out.put_u32(body_crc);
        out.put_i32(self.queue_id);
        out.put_i32(self.flag);
        out.put_i64(numbers.queue_offset);
        out.put_u64(numbers.log_offset);
        out.put_i32(sys_flag);
        out.put_i64(self.born_at);
        put_host(self.born_host, out);
        out.put_i64(numbers.stored_at);
        put_host(self.store_host, out);
        out.put_i32(self.reconsume_times);
        out.put_i64(self.prepared_offset);
        out.put_u32(self.body.len() as u32);
        out.put_slice(&self.body);
        if long_topic {
            out.put_u16(self.topic.len() as u16);
        } else {
            out.put_u8(self.topic.len() as u8);
        }
        out.put_slice(self.topic.as_bytes());
        out.put_u16(self.properties.len() as u16);
        out.put_slice(self.properties.as_bytes());
    }
}

/// What begins at a place of the log, judged by its first [`BLANK_LEN`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A record of this many bytes; not yet checked.
    Record(u32),
    /// A blank of this many bytes: the next record is in the next file.
    Blank(u32),
    /// Nothing that was ever written by a log: zeros, or torn.
    Nothing,
}

impl Head {
    /// Reads a head; fewer than [`BLANK_LEN`] bytes are [`Head::Nothing`].
    pub fn read(mut bytes: &[u8]) -> Head {
        match (bytes.try_get_u32(), bytes.try_get_u32()) {
            (Ok(len), Ok(MAGIC_BLANK)) => Head::Blank(len),
            (Ok(len), Ok(MAGIC_V1 | MAGIC_V2)) => Head::Record(len),
            _ => Head::Nothing,
        }
    }
}

/// Appends the head of a blank of `len` bytes; the rest of it is never read.
pub fn encode_blank(len: u32, out: &mut BytesMut) {
    out.put_u32(len);
    out.put_u32(MAGIC_BLANK);
}

/// Whether decoding compares the body with its CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckCrc {
    /// Compare: the bytes may be torn or rotten.
    Yes,
    /// Trust the bytes.
    No,
}

/// Why bytes are no whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Fewer bytes than the record says, or than any record has.
    #[error("the record is cut short")]
    Short,
    /// The magic is none of a record (a blank is not one either).
    #[error("unknown magic {0:#010x}")]
    Magic(u32),
    /// The lengths inside do not add up to the record's length.
    #[error("the lengths inside the record do not add up")]
    Length,
    /// The body is not what its CRC was made of.
    #[error("the body does not match its CRC")]
    Crc,
    /// The topic is not UTF-8.
    #[error("the topic is not UTF-8")]
    Topic,
}

/// A record, as a view of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Length of the whole record in bytes.
    pub len: u32,
    /// [`MAGIC_V1`] or [`MAGIC_V2`].
    pub magic: u32,
    /// CRC of the body.
    pub body_crc: u32,
    /// See [`Message::queue_id`].
    pub queue_id: i32,
    /// See [`Message::flag`].
    pub flag: i32,
    /// What the log assigned.
    pub numbers: Numbers,
    /// System flag with its IPv6 bits.
    pub sys_flag: i32,
    /// See [`Message::born_at`].
    pub born_at: i64,
    /// See [`Message::born_host`].
    pub born_host: SocketAddr,
    /// See [`Message::store_host`].
    pub store_host: SocketAddr,
    /// See [`Message::reconsume_times`].
    pub reconsume_times: i32,
    /// See [`Message::prepared_offset`].
    pub prepared_offset: i64,
    /// See [`Message::body`].
    pub body: &'a [u8],
    /// See [`Message::topic`].
    pub topic: &'a str,
    /// See [`Message::properties`]; what is not UTF-8 (a client's batch may carry it) is replaced,
    /// as Java does.
    pub properties: Cow<'a, str>,
}

impl<'a> Record<'a> {
    /// Reads the record that `bytes` begin with; more bytes may follow.
    pub fn decode(bytes: &'a [u8], check_crc: CheckCrc) -> Result<Record<'a>, RecordError> {
        let short = |_| RecordError::Short;
        let mut rest = bytes;
        let len = rest.try_get_u32().map_err(short)?;
        let magic = rest.try_get_u32().map_err(short)?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(RecordError::Magic(magic));
        }
        if (len as usize) < LEN_MIN {
            return Err(RecordError::Length);
        }
        let mut rest = bytes.get(8..len as usize).ok_or(RecordError::Short)?;
        let get = &mut rest;
        let body_crc = get.get_u32();
        let queue_id = get.get_i32();
        let flag = get.get_i32();
        let queue_offset = get.get_i64();
        let log_offset = get.get_u64();
        let sys_flag = get.get_i32();
        let born_at = get.get_i64();
        let born_host = take_host(get, sys_flag & system_flag::BORN_HOST_V6 != 0)?;
        let stored_at = get.try_get_i64().map_err(|_| RecordError::Length)?;
        let store_host = take_host(get, sys_flag & system_flag::STORE_HOST_V6 != 0)?;
        let tail = |_| RecordError::Length;
        let reconsume_times = get.try_get_i32().map_err(tail)?;
        let prepared_offset = get.try_get_i64().map_err(tail)?;
        let body_len = get.try_get_u32().map_err(tail)?;
        let body = take(get, body_len as usize)?;
        let topic_len = match magic {
            MAGIC_V1 => get.try_get_u8().map_err(tail)? as usize,
            _ => get.try_get_u16().map_err(tail)? as usize,
        };
        let topic = take(get, topic_len)?;
        let properties_len = get.try_get_u16().map_err(tail)?;
        let properties = take(get, properties_len as usize)?;
        if !get.is_empty() {
            return Err(RecordError::Length);
        }
        if check_crc == CheckCrc::Yes && !body.is_empty() && crc32(body) != body_crc {
            return Err(RecordError::Crc);
        }
        Ok(Record {
            len,
            magic,
            body_crc,
            queue_id,
            flag,
            numbers: Numbers { queue_offset, log_offset, stored_at },
            sys_flag,
            born_at,
            born_host,
            store_host,
            reconsume_times,
            prepared_offset,
            body,
            topic: std::str::from_utf8(topic).map_err(|_| RecordError::Topic)?,
            properties: String::from_utf8_lossy(properties),
        })
    }

    /// Copies the record into a message of its own.
    pub fn to_message(&self) -> Message {
        Message {
            topic: self.topic.into(),
            queue_id: self.queue_id,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_at: self.born_at,
            born_host: self.born_host,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_offset: self.prepared_offset,
            body: Bytes::copy_from_slice(self.body),
            properties: self.properties.as_ref().into(),
        }
    }
}

/// Iterates over the records of a pull answer's body. The first error ends the iteration.
pub fn iter(
    mut bytes: &[u8],
    check_crc: CheckCrc,
) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let record = Record::decode(bytes, check_crc);
        bytes = match &record {
            Ok(record) => &bytes[record.len as usize..],
            Err(_) => &[],
        };
        Some(record)
    })
}

fn extra_ip_len(host: SocketAddr) -> usize {
    if host.is_ipv6() { 12 } else { 0 }
}

fn put_host(host: SocketAddr, out: &mut BytesMut) {
    match host.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u32(u32::from(host.port()));
}

/// Reads a host; of a port that is none (Java keeps an int) the low half is kept.
fn take_host(rest: &mut &[u8], v6: bool) -> Result<SocketAddr, RecordError> {
    let short = |_| RecordError::Length;
    let ip = if v6 {
        IpAddr::V6(Ipv6Addr::from(rest.try_get_u128().map_err(short)?))
    } else {
        IpAddr::V4(Ipv4Addr::from(rest.try_get_u32().map_err(short)?))
    };
    let port = rest.try_get_u32().map_err(short)?;
    Ok(SocketAddr::new(ip, port as u16))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], RecordError> {
    rest.split_off(..len).ok_or(RecordError::Length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> Message {
        Message {
            topic: "T".into(),
            queue_id: 3,
            flag: 7,
            sys_flag: 0,
            born_at: 1_700_000_000_000,
            born_host: "10.0.0.1:5000".parse().unwrap(),
            store_host: "10.0.0.2:10911".parse().unwrap(),
            reconsume_times: 1,
            prepared_offset: 0,
            body: Bytes::from_static(b"hello"),
            properties: "TAGS\u{1}a\u{2}".into(),
        }
    }

    const NUMBERS: Numbers =
        Numbers { queue_offset: 9, log_offset: 4096, stored_at: 1_700_000_000_001 };

    fn encoded(message: &Message) -> BytesMut {
        let mut out = BytesMut::new();
        message.encode(NUMBERS, crc32(&message.body), &mut out);
        assert_eq!(out.len(), message.encoded_len());
        out
    }

    #[test]
    fn fields_lie_where_java_reads_them() {
        let out = encoded(&message());
        assert_eq!(out.len(), LEN_MIN + 1 + 5 + 7);
        assert_eq!(&out[4..8], [0xDA, 0xA3, 0x20, 0xA7]);
        assert_eq!(&out[20..28], 9u64.to_be_bytes());
        assert_eq!(&out[28..SYSTEM_FLAG_AT], 4096u64.to_be_bytes());
        assert_eq!(&out[48..56], [10, 0, 0, 1, 0, 0, 0x13, 0x88]);
        assert_eq!(&out[56..64], NUMBERS.stored_at.to_be_bytes());
        assert_eq!(out[out.len() - 11..], *b"\x01T\x00\x07TAGS\x01a\x02");
    }

    #[test]
    fn a_flipped_bit_of_the_body_is_found() {
        let mut out = encoded(&message());
        out[90] ^= 1;
        assert_eq!(Record::decode(&out, CheckCrc::Yes), Err(RecordError::Crc));
        assert!(Record::decode(&out, CheckCrc::No).is_ok());
    }

    #[test]
    fn a_cut_record_is_short_and_a_wrong_length_is_found() {
        let mut out = encoded(&message());
        for len in 8..out.len() {
            assert_eq!(Record::decode(&out[..len], CheckCrc::Yes), Err(RecordError::Short));
        }
        out[3] -= 1;
        assert_eq!(Record::decode(&out, CheckCrc::Yes), Err(RecordError::Length));
    }

    #[test]
    fn heads_tell_records_blanks_and_nothing_apart() {
        let out = encoded(&message());
        assert_eq!(Head::read(&out), Head::Record(out.len() as u32));
        let mut blank = BytesMut::new();
        encode_blank(77, &mut blank);
        assert_eq!(Head::read(&blank), Head::Blank(77));
        assert_eq!(Head::read(&[0; 8]), Head::Nothing);
        assert_eq!(Head::read(&out[..7]), Head::Nothing);
    }

    prop_compose! {
        fn any_message()(
            (topic, properties) in ("[a-zA-Z]{1,200}", ".{0,40}"),
            (queue_id, flag, sys_flag) in any::<(i32, i32, i32)>(),
            (born_at, prepared_offset, reconsume_times) in any::<(i64, i64, i32)>(),
            (born_ip, store_ip, born_port, store_port) in any::<(IpAddr, IpAddr, u16, u16)>(),
            body in any::<Vec<u8>>(),
        ) -> Message {
            let v6 = |ip: IpAddr, bit| if ip.is_ipv6() { bit } else { 0 };
            let bits = system_flag::BORN_HOST_V6 | system_flag::STORE_HOST_V6;
            Message {
                topic: topic.into(),
                queue_id,
                flag,
                sys_flag: (sys_flag & !bits)
                    | v6(born_ip, system_flag::BORN_HOST_V6)
                    | v6(store_ip, system_flag::STORE_HOST_V6),
                born_at,
                born_host: SocketAddr::new(born_ip, born_port),
                store_host: SocketAddr::new(store_ip, store_port),
                reconsume_times,
                prepared_offset,
                body: body.into(),
                properties: properties.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn records_come_back(messages in prop::collection::vec(any_message(), 1..4)) {
            let mut out = BytesMut::new();
            for message in &messages {
                message.encode(NUMBERS, crc32(&message.body), &mut out);
            }
            let read: Vec<_> = iter(&out, CheckCrc::Yes).map(|record| record.unwrap()).collect();
            prop_assert_eq!(read.len(), messages.len());
            for (record, message) in read.iter().zip(&messages) {
                prop_assert_eq!(&record.to_message(), message);
                prop_assert_eq!(record.numbers, NUMBERS);
                prop_assert_eq!(record.magic == MAGIC_V2, message.topic.len() > 127);
            }
        }

        #[test]
        fn any_bytes_are_an_answer(mut bytes: Vec<u8>, len in 0u32..300, v2: bool) {
            let magic = if v2 { MAGIC_V2 } else { MAGIC_V1 };
            bytes.splice(0..0, magic.to_be_bytes());
            bytes.splice(0..0, len.to_be_bytes());
            bytes.resize(bytes.len().max(120), 0);
            let _ = Record::decode(&bytes, CheckCrc::Yes);
        }
    }
}
