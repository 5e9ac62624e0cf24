//! Times what happens for every message: `cargo bench -p wire -- [part of a line]`.
//!
//! Each line is the best of several rounds in nanoseconds per call, so that a neighbour's noise
//! does not count. It asserts nothing; `docs/performance.md` quotes it.

#![allow(clippy::print_stdout, reason = "a benchmark reports to whoever runs it")]

use std::hint::black_box;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use wire::code::ResponseCode;
use wire::frame::{Codec, FRAME_BYTES_MAX, Frame};
use wire::header::pull::{PullMessage, PullMessageResponse};
use wire::header::send::{SendMessage, SendMessageResponse};
use wire::names;
use wire::properties;
use wire::record::{CheckCrc, Message, Numbers, Record};

const ROUNDS: usize = 300;
const CALLS: u32 = 500;

const SEND: &str = r#"{"code":310,"extFields":{"a":"please_rename_unique_group_name","b":"TopicTest","c":"TBW102","d":"4","e":"2","f":"0","g":"1700000000000","h":"0","i":"UNIQ_KEY\u00010A0B18B4BEEF18B4AAC200000007000100000000\u0002WAIT\u0001true\u0002TAGS\u0001TagA\u0002KEYS\u0001order-4711\u0002","j":"0","k":"false","m":"false","n":"broker-a"},"flag":0,"language":"JAVA","opaque":4711,"serializeTypeCurrentRPC":"JSON","version":513}"#;

fn main() {
    let body = vec![b'x'; 1024];
    let json = framed(SEND, &body);
    let decoded = Frame::decode(json.clone()).expect("a good frame");
    let mut out = BytesMut::with_capacity(1 << 16);
    Frame { codec: Codec::Binary, ..decoded.clone() }.encode(&mut out);
    let binary = Frame::split(&mut out, FRAME_BYTES_MAX).expect("whole").expect("whole");

    time("decode a V2 send, JSON", || Frame::decode(json.clone()));
    time("decode a V2 send, binary", || Frame::decode(binary.clone()));
    time("read its header", || decoded.header::<SendMessage<'_>>().map(|header| header.queue_id));
    time("decode it and read its header", || {
        let frame = Frame::decode(json.clone()).expect("a good frame");
        frame.header::<SendMessage<'_>>().map(|header| header.queue_id)
    });
    time("read four properties", || {
        let text = decoded.ext.get("i").unwrap_or_default();
        [names::RETRY_PREFIX, "TAGS", "KEYS", "UNIQ_KEY"].map(|name| properties::get(text, name))
    });

    let response = SendMessageResponse {
        msg_id: "7F00000100002A9F0000000000001234",
        queue_id: 2,
        queue_offset: 1_000_000,
        transaction_id: Some("0A0B18B4BEEF18B4AAC2000000070001"),
        ..SendMessageResponse::default()
    };
    time("answer a send, JSON", || {
        out.clear();
        let mut frame = decoded.respond(ResponseCode::SUCCESS).with_header(&response);
        frame.ext.put("MSG_REGION", "DefaultRegion");
        frame.ext.put("TRACE_ON", "true");
        frame.encode_head(0, &mut out);
        out.len()
    });

    let pull = PullMessage {
        consumer_group: "please_rename_unique_group_name",
        topic: "TopicTest",
        subscription: Some("*"),
        ..PullMessage::default()
    };
    let mut out_pull = BytesMut::new();
    Frame::request(wire::code::RequestCode::PULL_MESSAGE, &pull).encode(&mut out_pull);
    let pull = Frame::split(&mut out_pull, FRAME_BYTES_MAX).expect("whole").expect("whole");
    time("decode a pull and answer it, JSON", || {
        out.clear();
        let frame = Frame::decode(pull.clone()).expect("a good frame");
        let begin = frame.header::<PullMessage<'_>>().expect("a good header").queue_offset;
        let header = PullMessageResponse { next_begin_offset: begin + 32, ..Default::default() };
        frame.respond(ResponseCode::SUCCESS).with_header(&header).encode_head(32 << 10, &mut out);
        out.len()
    });

    let message = Message {
        topic: "TopicTest".into(),
        queue_id: 2,
        flag: 0,
        sys_flag: 0,
        born_at: 1_700_000_000_000,
        born_host: ([10, 0, 0, 1], 50_000).into(),
        store_host: ([10, 0, 0, 2], 10_911).into(),
        reconsume_times: 0,
        prepared_offset: 0,
        body: body.clone().into(),
        properties: decoded.ext.get("i").unwrap_or_default().into(),
    };
    let numbers = Numbers { queue_offset: 1, log_offset: 2, stored_at: 3 };
    time("checksum a body of 1 KiB", || wire::hash::crc32(&body));
    let crc = wire::hash::crc32(&body);
    time("encode a record of 1 KiB", || {
        out.clear();
        message.encode(numbers, crc, &mut out);
        out.len()
    });
    let encoded = out.clone();
    time("decode that record", || Record::decode(&encoded, CheckCrc::No).map(|record| record.len));
    time("hash a key for the index", || wire::hash::index_key_hash("TopicTest", "order-4711"));
}

fn framed(head: &str, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32(head.len() as u32);
    out.put_slice(head.as_bytes());
    out.put_slice(body);
    out.freeze()
}

fn time<T>(what: &str, mut call: impl FnMut() -> T) {
    if std::env::args().skip(1).any(|wanted| !wanted.starts_with('-') && !what.contains(&wanted)) {
        return;
    }
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            black_box(call());
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    println!("{best:8.1} ns  {what}");
}
