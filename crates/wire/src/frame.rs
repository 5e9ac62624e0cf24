//! Frames: one command of the remoting protocol, in both header codecs.
//!
//! ```text
//! length int (of all that follows) | codec byte, header length 24 bits | header | body
//!
//! header, codec 0:  {"code":310,"extFields":{..},"flag":0,"language":"JAVA","opaque":7,
//!                    "remark":"..","serializeTypeCurrentRPC":"JSON","version":513}
//! header, codec 1:  code short | language byte | version short | opaque int | flag int
//!                   | remark length int, remark | ext length int
//!                   | { name length short, name, value length int, value }*
//! ```
//!
//! Decoding copies neither body nor strings without escapes; a frame's parts share its bytes. A
//! receiver takes either codec, frame by frame; a response is written in its request's codec. What
//! the fields mean is said by [`crate::header`] and [`crate::body`].
//! Java: `RemotingCommand`, `RocketMQSerializable`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use thiserror::Error;

use crate::code::{Language, RequestCode, ResponseCode, version};
use crate::ext::{Ext, FIELDS_MAX, HeaderError};
use crate::fastjson::lex::{Lexer, Malformed, write_string};
use crate::scan::Decimal;

/// Longest frame that RocketMQ accepts by default, in bytes with the length field.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Longest remark that is written, in bytes; remarks quote what a client sent, and a header's
/// length has only 24 bits.
const REMARK_BYTES_MAX: usize = 64 * 1024;

/// How a header is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// As fastjson text.
    #[default]
    Json,
    /// As RocketMQ's binary form, whose code and version are shorts.
    Binary,
}

/// What a frame is, from its flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wants a response.
    Request,
    /// Wants none.
    Oneway,
    /// Is one.
    Response,
}

/// The bytes behind a header, in pieces that are written one after the other.
pub type Body = SmallVec<[Bytes; 1]>;

/// One command of the remoting protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// A [`RequestCode`] or, in a response, a [`ResponseCode`].
    pub code: i32,
    /// What the sender is written in. Ours say JAVA: clients older than the others' entries in the
    /// list cannot read them.
    pub language: Language,
    /// The sender's version ([`version`]).
    pub version: i32,
    /// Pairs a response with its request; unique among the open requests of a connection.
    pub opaque: i32,
    /// Request, oneway or response.
    pub kind: Kind,
    /// Text for humans, mostly why a request failed.
    pub remark: Option<ByteString>,
    /// The header struct's fields.
    pub ext: Ext,
    /// What follows the header; one piece, or none, when decoded.
    pub body: Body,
    /// How the header came or is to be written.
    pub codec: Codec,
}

/// Why bytes are no frame. The connection they came from cannot be understood any further.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length says more than the limit.
    #[error("a frame of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// Length of the whole frame in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The header does not fit into the frame, or a binary header's parts do not fill it.
    #[error("the lengths of the frame do not add up")]
    Length,
    /// Neither codec.
    #[error("unknown header codec {0}")]
    Codec(u8),
    /// More ext fields than any header has.
    #[error("more than {FIELDS_MAX} ext fields")]
    Fields,
    /// A JSON header that is no JSON.
    #[error("the header is malformed: {0}")]
    Json(#[from] Malformed),
}

impl Frame {
    /// Takes one whole frame, without its length field, off the front of `buffer`; `None` if there
    /// is none yet. Never reserves room: how much a half frame may claim is the reader's business.
    pub fn split(
        buffer: &mut BytesMut,
        frame_bytes_max: usize,
    ) -> Result<Option<Bytes>, FrameError> {
        let Some(len) = buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*len) as usize;
        if len > frame_bytes_max.saturating_sub(4) {
            return Err(FrameError::TooLarge { len: len.saturating_add(4), max: frame_bytes_max });
        }
        if buffer.len() - 4 < len {
            return Ok(None);
        }
        buffer.advance(4);
        Ok(Some(buffer.split_to(len).freeze()))
    }

    /// Decodes what [`Frame::split`] returned. The frame's parts are slices of `bytes`.
    pub fn decode(mut bytes: Bytes) -> Result<Frame, FrameError> {
        let mark = bytes.try_get_u32().map_err(|_| FrameError::Length)?;
        let head_len = (mark & 0x00FF_FFFF) as usize;
        if head_len > bytes.len() {
            return Err(FrameError::Length);
        }
        let head = bytes.split_to(head_len);
        let mut frame = match mark >> 24 {
            0 => decode_json(head)?,
            1 => decode_binary(&head)?,
            codec => return Err(FrameError::Codec(codec as u8)),
        };
        if !bytes.is_empty() {
            frame.body.push(bytes);
        }
        Ok(frame)
    }

    /// Appends the whole frame, body copied, to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_head(self.body_len(), out);
        for piece in &self.body {
            out.put_slice(piece);
        }
    }

    /// Appends the frame up to its body, which has `body_len` bytes, to `out`, so that the pieces
    /// of the body can be written behind it without a copy.
    ///
    /// # Panics
    /// If header or body are too long for their length fields: 24 and 31 bits.
    pub fn encode_head(&self, body_len: usize, out: &mut BytesMut) {
        with_lengths(self.codec, body_len, out, |out| match self.codec {
            Codec::Json => self.encode_json(out),
            Codec::Binary => self.encode_binary(out),
        });
    }

    /// Appends a response without remark and body to `out`; its ext fields are what `fields` puts.
    /// The same bytes as those of such a frame, without making it: for answers to every message.
    pub fn encode_response(
        code: ResponseCode,
        opaque: i32,
        codec: Codec,
        out: &mut BytesMut,
        fields: impl FnOnce(&mut Fields<'_>),
    ) {
        with_lengths(codec, 0, out, |out| match codec {
            Codec::Json => {
                put_number(out, "{\"code\":", code.0);
                let mut writer = Fields { out: &mut *out, codec, before: ",\"extFields\":{\"" };
                fields(&mut writer);
                if writer.before == ",\"" {
                    out.put_u8(b'}');
                }
                put_number(out, ",\"flag\":1,\"language\":\"JAVA\",\"opaque\":", opaque);
                put_number(
                    out,
                    ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":",
                    version::OURS,
                );
                out.put_u8(b'}');
            }
            Codec::Binary => {
                out.put_i16(code.0 as i16);
                out.put_u8(Language::JAVA.0);
                out.put_i16(version::OURS as i16);
                out.put_i32(opaque);
                out.put_i32(1);
                out.put_u32(0);
                let start = out.len();
                out.put_u32(0);
                fields(&mut Fields { out: &mut *out, codec, before: "" });
                let len = (out.len() - start - 4) as u32;
                out[start..start + 4].copy_from_slice(&len.to_be_bytes());
            }
        });
    }

    /// A request of ours; its `opaque` is given by who sends it.
    pub fn request(code: RequestCode, header: &impl Serialize) -> Frame {
        Frame::new(code.0, Kind::Request).with_header(header)
    }

    /// A request of ours that wants no response.
    pub fn oneway(code: RequestCode, header: &impl Serialize) -> Frame {
        Frame::new(code.0, Kind::Oneway).with_header(header)
    }

    /// A response to this request, in its codec.
    pub fn respond(&self, code: ResponseCode) -> Frame {
        Frame::response(code, self.opaque, self.codec)
    }

    /// A response to a request of which only number and codec were kept.
    pub fn response(code: ResponseCode, opaque: i32, codec: Codec) -> Frame {
        Frame { opaque, codec, ..Frame::new(code.0, Kind::Response) }
    }

    /// Adds the fields of a header struct.
    ///
    /// # Panics
    /// As [`Ext::put_header`].
    pub fn with_header(mut self, header: &impl Serialize) -> Frame {
        self.ext.put_header(header);
        self
    }

    /// Replaces the body by one piece.
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Frame {
        let body = body.into();
        self.body = if body.is_empty() { Body::new() } else { Body::from_buf([body]) };
        self
    }

    /// Replaces the remark.
    pub fn with_remark(mut self, remark: impl Into<ByteString>) -> Frame {
        self.remark = Some(remark.into());
        self
    }

    /// Reads a header struct from the ext fields.
    pub fn header<'a, H: Deserialize<'a>>(&'a self) -> Result<H, HeaderError> {
        self.ext.header()
    }

    /// The body as one piece, copied only if it has several.
    pub fn body_bytes(&self) -> Bytes {
        match self.body.as_slice() {
            [] => Bytes::new(),
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// Length of the body in bytes.
    pub fn body_len(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }

    /// The code of a request.
    pub fn request_code(&self) -> RequestCode {
        RequestCode(self.code)
    }

    /// The code of a response.
    pub fn response_code(&self) -> ResponseCode {
        ResponseCode(self.code)
    }

    fn new(code: i32, kind: Kind) -> Frame {
        Frame {
            code,
            language: Language::JAVA,
            version: version::OURS,
            opaque: 0,
            kind,
            remark: None,
            ext: Ext::default(),
            body: Body::new(),
            codec: Codec::Json,
        }
    }

    /// The remark, cut to what is written of it.
    fn short_remark(&self) -> Option<&str> {
        let remark = self.remark.as_deref()?;
        Some(&remark[..remark.floor_char_boundary(REMARK_BYTES_MAX)])
    }

    fn encode_json(&self, out: &mut BytesMut) {
        put_number(out, "{\"code\":", self.code);
        if !self.ext.is_empty() {
            let mut before: &[u8] = b",\"extFields\":{";
            for (name, value) in self.ext.iter() {
                out.put_slice(before);
                write_string(name, out);
                out.put_u8(b':');
                write_string(value, out);
                before = b",";
            }
            out.put_u8(b'}');
        }
        put_number(out, ",\"flag\":", self.flag());
        out.put_slice(b",\"language\":\"");
        out.put_slice(self.language.name().unwrap_or("OTHER").as_bytes());
        put_number(out, "\",\"opaque\":", self.opaque);
        if let Some(remark) = self.short_remark() {
            out.put_slice(b",\"remark\":");
            write_string(remark, out);
        }
        put_number(out, ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":", self.version);
        out.put_u8(b'}');
    }

    fn encode_binary(&self, out: &mut BytesMut) {
        out.put_i16(self.code as i16);
        out.put_u8(self.language.0);
        out.put_i16(self.version as i16);
        out.put_i32(self.opaque);
        out.put_i32(self.flag());
        let remark = self.short_remark().unwrap_or_default();
        out.put_u32(remark.len() as u32);
        out.put_slice(remark.as_bytes());
        let start = out.len();
        out.put_u32(0);
        for (name, value) in self.ext.iter() {
            out.put_u16(name.len() as u16);
            out.put_slice(name.as_bytes());
            out.put_u32(value.len() as u32);
            out.put_slice(value.as_bytes());
        }
        let len = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }

    fn flag(&self) -> i32 {
        match self.kind {
            Kind::Request => 0,
            Kind::Response => 1,
            Kind::Oneway => 2,
        }
    }
}

/// Where [`Frame::encode_response`] takes ext fields.
pub struct Fields<'a> {
    out: &'a mut BytesMut,
    codec: Codec,
    /// What comes before the next field in JSON.
    before: &'static str,
}

impl Fields<'_> {
    /// Puts a text under a name that needs no escapes.
    pub fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        match self.codec {
            Codec::Json => write_string(value, self.out),
            Codec::Binary => {
                self.out.put_u32(value.len() as u32);
                self.out.put_slice(value.as_bytes());
            }
        }
    }

    /// Puts a number under a name that needs no escapes.
    pub fn number(&mut self, name: &'static str, value: i64) {
        self.text(name, Decimal::of(value).as_str());
    }

    fn name(&mut self, name: &'static str) {
        match self.codec {
            Codec::Json => {
                self.out.put_slice(self.before.as_bytes());
                self.out.put_slice(name.as_bytes());
                self.out.put_slice(b"\":");
                self.before = ",\"";
            }
            Codec::Binary => {
                self.out.put_u16(name.len() as u16);
                self.out.put_slice(name.as_bytes());
            }
        }
    }
}

/// Puts the two lengths before the header that `write` appends; `body_len` bytes follow it.
fn with_lengths(
    codec: Codec,
    body_len: usize,
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.reserve(512);
    out.put_u64(0);
    write(out);
    let head_len = out.len() - start - 8;
    assert!(head_len < 1 << 24, "a header of {head_len} bytes");
    let len = i32::try_from(4 + head_len + body_len).expect("a frame is shorter than 2 GiB");
    let mark = match codec {
        Codec::Json => 0,
        Codec::Binary => 1 << 24,
    };
    let mut lengths = &mut out[start..start + 8];
    lengths.put_i32(len);
    lengths.put_u32(mark | head_len as u32);
}

fn kind(flag: i32) -> Kind {
    match flag & 3 {
        0 => Kind::Request,
        2 => Kind::Oneway,
        _ => Kind::Response,
    }
}

fn put_number(out: &mut BytesMut, before: &str, number: i32) {
    out.put_slice(before.as_bytes());
    out.put_slice(Decimal::of(number.into()).as_bytes());
}

fn decode_json(head: Bytes) -> Result<Frame, FrameError> {
    let head = ByteString::try_from(head.clone())
        .unwrap_or_else(|_| String::from_utf8_lossy(&head).into_owned().into());
    // As Java's `RemotingCommand` before its fields are set.
    let mut frame = Frame { version: 0, ..Frame::new(0, Kind::Request) };
    frame.ext = Ext::within(head.clone());
    let mut lexer = Lexer::new(&head);
    lexer.expect(b'{', "an object was expected")?;
    while let Some(name) = lexer.member()? {
        match &head[name.range()] {
            "code" => frame.code = lexer.integer()?,
            "flag" => frame.kind = kind(lexer.integer()?),
            "opaque" => frame.opaque = lexer.integer()?,
            "version" => frame.version = lexer.integer()?,
            "language" => frame.language = Language::from_name(&head[lexer.scalar()?.range()]),
            "remark" => {
                let token = lexer.scalar()?;
                if token.quoted {
                    let text = &head[token.range()];
                    let mut remark = String::new();
                    crate::fastjson::lex::unescape(text, &mut remark);
                    frame.remark = Some(remark.into());
                }
            }
            "extFields" => decode_fields(&mut lexer, &mut frame.ext)?,
            _ => {
                lexer.skip(0)?;
            }
        }
    }
    Ok(frame)
}

/// Reads the object of ext fields. Numbers count as their text, nulls as absent; nobody sends
/// objects and arrays, which are passed over.
fn decode_fields(lexer: &mut Lexer<'_>, ext: &mut Ext) -> Result<(), FrameError> {
    if lexer.peek() != Some(b'{') {
        lexer.skip(0)?;
        return Ok(());
    }
    lexer.at += 1;
    while ext.len() < FIELDS_MAX
        && let Some((name, value)) = lexer.plain_member()
    {
        ext.insert_tokens(&name, &value);
    }
    while let Some(name) = lexer.member()? {
        if matches!(lexer.peek(), Some(b'{' | b'[')) {
            lexer.skip(0)?;
            continue;
        }
        let value = lexer.scalar()?;
        if !value.quoted && &lexer.text[value.range()] == "null" {
            continue;
        }
        if ext.len() == FIELDS_MAX {
            return Err(FrameError::Fields);
        }
        ext.insert_tokens(&name, &value);
    }
    Ok(())
}

fn decode_binary(mut head: &[u8]) -> Result<Frame, FrameError> {
    let short = |_| FrameError::Length;
    let get = &mut head;
    let code = wide_code(get.try_get_i16().map_err(short)?);
    let language = Language(get.try_get_u8().map_err(short)?);
    let version = i32::from(get.try_get_i16().map_err(short)?);
    let opaque = get.try_get_i32().map_err(short)?;
    let kind = kind(get.try_get_i32().map_err(short)?);
    let remark_len = get.try_get_u32().map_err(short)? as usize;
    let remark = get.split_off(..remark_len).ok_or(FrameError::Length)?;
    let remark = (remark_len > 0).then(|| ByteString::from(&*String::from_utf8_lossy(remark)));
    let ext_len = get.try_get_u32().map_err(short)? as usize;
    let mut fields = get.split_off(..ext_len).ok_or(FrameError::Length)?;
    let mut ext = Ext::default();
    while !fields.is_empty() {
        let name_len = fields.try_get_u16().map_err(short)? as usize;
        let name = fields.split_off(..name_len).ok_or(FrameError::Length)?;
        let value_len = fields.try_get_u32().map_err(short)? as usize;
        let value = fields.split_off(..value_len).ok_or(FrameError::Length)?;
        // Java reads an empty name as null, which nobody asks for.
        if name_len > 0 {
            if ext.len() == FIELDS_MAX {
                return Err(FrameError::Fields);
            }
            ext.put(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
        }
    }
    let frame = Frame::new(code, kind);
    Ok(Frame { language, version, opaque, remark, ext, codec: Codec::Binary, ..frame })
}

/// The code that was cut to a short: those of pop (200050 and up) lose their upper half on the way.
/// No other code lies where they land, so ours are understood, unlike Java's.
fn wide_code(code: i16) -> i32 {
    let code = i32::from(code);
    if (3_392..3_648).contains(&code) { code + (3 << 16) } else { code }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(head: &str, body: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u32(head.len() as u32);
        out.put_slice(head.as_bytes());
        out.put_slice(body);
        out.freeze()
    }

    fn decoded(head: &str) -> Result<Frame, FrameError> {
        Frame::decode(framed(head, b""))
    }

    const ROUTE: &str = r#"{"code":105,"extFields":{"topic":"TopicTest"},"flag":0,"language":"JAVA","opaque":3,"serializeTypeCurrentRPC":"JSON","version":479}"#;

    #[test]
    fn a_frame_of_java_is_read_and_written_the_same() {
        let frame = decoded(ROUTE).unwrap();
        assert_eq!(frame.request_code(), RequestCode::GET_ROUTEINFO_BY_TOPIC);
        assert_eq!((frame.version, frame.opaque, frame.kind), (479, 3, Kind::Request));
        assert_eq!(frame.ext.get("topic"), Some("TopicTest"));
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        assert_eq!(&out[8..], ROUTE.as_bytes());
        assert_eq!(&out[..8], [0, 0, 0, 4 + ROUTE.len() as u8, 0, 0, 0, ROUTE.len() as u8]);
    }

    #[test]
    fn headers_of_other_clients_are_read() {
        let frame = decoded(
            "{ \"code\" : \"10\",\n \"language\":\"ZIG\", \"extra\":[{}], \"remark\":null,
               \"extFields\": {\"a\":1, \"b\":null, \"c\":true, 'd':\"x\\u0001y\", \"e\":{}} }",
        );
        let frame = frame.unwrap();
        assert_eq!((frame.code, frame.language, frame.remark), (10, Language::OTHER, None));
        let fields: Vec<_> = frame.ext.iter().collect();
        assert_eq!(fields, [("a", "1"), ("c", "true"), ("d", "x\u{1}y")]);
    }

    #[test]
    fn parts_share_the_frame() {
        let bytes = framed(ROUTE, b"body");
        let frame = Frame::decode(bytes.clone()).unwrap();
        let topic = frame.ext.share(frame.ext.get("topic").unwrap());
        let within = bytes.as_ptr_range();
        assert!(within.contains(&topic.as_bytes().as_ptr()));
        assert!(within.contains(&frame.body[0].as_ptr()));
        assert_eq!(frame.ext.share("TopicTest"), "TopicTest");
    }

    #[test]
    fn frames_are_split_off_whole_and_refused_over_the_limit() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 2, 7, 7, 0, 0, 0, 9][..]);
        assert_eq!(Frame::split(&mut buffer, 100).unwrap().unwrap(), [7u8, 7][..]);
        assert_eq!(Frame::split(&mut buffer, 100), Ok(None));
        let error = Frame::split(&mut buffer, 12).unwrap_err();
        assert_eq!(error, FrameError::TooLarge { len: 13, max: 12 });
        assert!(Frame::split(&mut BytesMut::from(&[0xFF; 5][..]), usize::MAX).is_ok());
    }

    #[test]
    fn wrong_lengths_and_codecs_are_refused() {
        assert_eq!(Frame::decode(Bytes::from_static(&[0, 0, 0])), Err(FrameError::Length));
        assert_eq!(Frame::decode(Bytes::from_static(&[0, 0, 0, 9, 0])), Err(FrameError::Length));
        assert_eq!(Frame::decode(Bytes::from_static(&[2, 0, 0, 0])), Err(FrameError::Codec(2)));
        assert!(matches!(decoded("{\"code\":1e9}"), Err(FrameError::Json(_))));
        let many: String = (0..300).map(|n| format!("\"{n}\":1,")).collect();
        assert_eq!(decoded(&format!("{{\"extFields\":{{{many}}}}}")), Err(FrameError::Fields));
    }

    #[test]
    fn codes_cut_to_a_short_are_restored() {
        for code in RequestCode::ALL {
            assert_eq!(wide_code(code.0 as i16), code.0, "{code}");
        }
    }

    #[test]
    fn a_response_is_in_its_requests_codec() {
        let request = Frame { opaque: 5, codec: Codec::Binary, ..decoded(ROUTE).unwrap() };
        let response =
            request.respond(ResponseCode::TOPIC_NOT_EXIST).with_remark("é".repeat(40_000));
        let mut out = BytesMut::new();
        response.encode(&mut out);
        let read = Frame::decode(Frame::split(&mut out, 1 << 20).unwrap().unwrap()).unwrap();
        assert_eq!((read.code, read.opaque, read.codec), (17, 5, Codec::Binary));
        assert_eq!(read.remark.unwrap().len(), REMARK_BYTES_MAX);
    }

    prop_compose! {
        fn any_frame()(
            (code, opaque, version) in (any::<i16>(), any::<i32>(), any::<i16>()),
            language in 0u8..14,
            kind in prop::sample::select(&[Kind::Request, Kind::Oneway, Kind::Response][..]),
            remark in prop::option::of(".{1,20}"),
            fields in prop::collection::vec((".{1,5}", "\\PC{0,9}|[\u{0}-\u{24}\"\\\\]{0,9}"), 0..20),
            body: Vec<u8>,
            codec in prop::sample::select(&[Codec::Json, Codec::Binary][..]),
        ) -> Frame {
            let mut ext = Ext::default();
            for (name, value) in &fields {
                ext.put(name, value);
            }
            let frame = Frame::new(wide_code(code), kind).with_body(body);
            let remark = remark.map(Into::into);
            Frame { opaque, version: version.into(), language: Language(language), remark, ext, codec, ..frame }
        }
    }

    proptest! {
        #[test]
        fn frames_come_back(frames in prop::collection::vec(any_frame(), 1..4)) {
            let mut out = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut out);
            }
            for frame in &frames {
                let bytes = Frame::split(&mut out, FRAME_BYTES_MAX).unwrap().unwrap();
                prop_assert_eq!(&Frame::decode(bytes).unwrap(), frame);
            }
            prop_assert!(out.is_empty());
        }

        #[test]
        fn any_bytes_are_an_answer(mut bytes: Vec<u8>, binary: bool) {
            let mark = u32::from(binary) << 24 | bytes.len() as u32;
            bytes.splice(0..0, mark.to_be_bytes());
            let _ = Frame::decode(bytes.into());
        }
    }

    #[test]
    fn a_response_written_field_by_field_is_the_frame_that_holds_the_fields() {
        for codec in [Codec::Json, Codec::Binary] {
            for count in 0..3 {
                let fields = [("msgId", "A\"1\u{1}"), ("queueOffset", "-7")];
                let mut frame = Frame::response(ResponseCode::FLUSH_DISK_TIMEOUT, 9, codec);
                fields[..count].iter().for_each(|(name, value)| frame.ext.put(name, value));
                let (mut whole, mut direct) = (BytesMut::new(), BytesMut::new());
                frame.encode(&mut whole);
                let code = ResponseCode::FLUSH_DISK_TIMEOUT;
                Frame::encode_response(code, 9, codec, &mut direct, |out| {
                    if count > 0 {
                        out.text("msgId", "A\"1\u{1}");
                    }
                    if count > 1 {
                        out.number("queueOffset", -7);
                    }
                });
                assert_eq!(whole, direct);
            }
        }
    }
}
