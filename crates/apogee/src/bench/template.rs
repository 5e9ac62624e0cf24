//! Requests encoded once and patched in place.
//!
//! A [`Template`] is a frame whose changing fields were written with a fixed width; [`Place::write`] overwrites
//! their digits. So a send costs a few stores, whatever its size.

use clap::ValueEnum;

use super::scan::find;

/// How request headers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Codec {
    /// The JSON header that clients use by default.
    Json,
    /// RocketMQ's binary header (`rocketmq.serialize.type=ROCKETMQ`).
    Rocketmq,
}

/// The opaque that every template is encoded with: nine digits, so that JSON keeps its width when patched.
const OPAQUE: i32 = 987_654_321;

/// The smallest opaque of nine digits; opaques count up from here and wrap before they need a tenth.
pub(super) const OPAQUE_BASE: i32 = 100_000_000;
/// How many opaques there are before they repeat.
pub(super) const OPAQUE_SPAN: u32 = 1 << 29;

/// Version and language of the requests: what a Java 5.5.0 client says of itself.
const VERSION: i16 = 513;

/// Encodes one request.
pub(super) fn request(
    codec: Codec,
    code: i32,
    opaque: i32,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut header = Vec::new();
    match codec {
        Codec::Json => {
            let fields: serde_json::Map<_, _> = fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), serde_json::Value::from(*value)))
                .collect();
            let head = serde_json::json!({
                "code": code, "extFields": fields, "flag": 0, "language": "JAVA", "opaque": opaque,
                "serializeTypeCurrentRPC": "JSON", "version": VERSION,
            });
            header.extend_from_slice(head.to_string().as_bytes());
        }
        Codec::Rocketmq => {
            header.extend_from_slice(&(code as i16).to_be_bytes());
            header.push(0); // Java
            header.extend_from_slice(&VERSION.to_be_bytes());
            header.extend_from_slice(&opaque.to_be_bytes());
            header.extend_from_slice(&0i32.to_be_bytes()); // flag
            header.extend_from_slice(&0i32.to_be_bytes()); // no remark
            let len: usize = fields.iter().map(|(name, value)| 6 + name.len() + value.len()).sum();
            header.extend_from_slice(&(len as u32).to_be_bytes());
            for (name, value) in fields {
                header.extend_from_slice(&(name.len() as u16).to_be_bytes());
                header.extend_from_slice(name.as_bytes());
                header.extend_from_slice(&(value.len() as u32).to_be_bytes());
                header.extend_from_slice(value.as_bytes());
            }
        }
    }
    let mark = if codec == Codec::Json { 0 } else { 1u32 << 24 };
    let mut frame = Vec::with_capacity(8 + header.len() + body.len());
    frame.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
    frame.extend_from_slice(&(mark | header.len() as u32).to_be_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(body);
    frame
}

/// Marks a request as one that gets no answer.
pub(super) fn make_oneway(codec: Codec, frame: &mut [u8]) {
    const FLAG: &[u8] = b"\"flag\":";
    match codec {
        Codec::Json => {
            let at = find(frame, FLAG).expect("a request has its flag") + FLAG.len();
            frame[at] = b'2';
        }
        Codec::Rocketmq => frame[8 + 12] = 2,
    }
}

/// A field of fixed width within a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    at: usize,
    width: usize,
}

impl Place {
    /// Finds the field whose text is `sentinel`, from `start` on.
    pub(super) fn of(frame: &[u8], sentinel: &str, start: usize) -> Place {
        let at = find(&frame[start..], sentinel.as_bytes())
            .expect("the template holds its sentinel")
            + start;
        Place { at, width: sentinel.len() }
    }

    /// The field without its first byte.
    pub(super) fn without_first(self) -> Place {
        Place { at: self.at + 1, width: self.width - 1 }
    }

    /// Where the field ends.
    pub(super) fn end(self) -> usize {
        self.at + self.width
    }

    /// Writes `value` in decimal, with zeros in front.
    pub(super) fn write(self, frame: &mut [u8], mut value: u64) {
        for digit in frame[self.at..self.at + self.width].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
}

/// Where the opaque stands in a frame.
#[derive(Debug, Clone, Copy)]
pub(super) enum OpaquePlace {
    Text(Place),
    Binary(usize),
}

impl OpaquePlace {
    fn of(codec: Codec, frame: &[u8]) -> OpaquePlace {
        match codec {
            // the last occurrence in the header would do as well: no other field holds these nine digits
            Codec::Json => OpaquePlace::Text(Place::of(frame, &OPAQUE.to_string(), 8)),
            Codec::Rocketmq => OpaquePlace::Binary(8 + 5),
        }
    }

    /// Writes an opaque of nine digits.
    pub(super) fn write(self, frame: &mut [u8], opaque: i32) {
        match self {
            OpaquePlace::Text(place) => place.write(frame, opaque as u64),
            OpaquePlace::Binary(at) => frame[at..at + 4].copy_from_slice(&opaque.to_be_bytes()),
        }
    }
}

/// A frame to patch: its bytes and the place of its opaque.
#[derive(Debug, Clone)]
pub(super) struct Template {
    /// The frame.
    pub(super) bytes: Vec<u8>,
    /// Its opaque.
    pub(super) opaque: OpaquePlace,
}

impl Template {
    /// Encodes a request that will be patched.
    pub(super) fn new(codec: Codec, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Template {
        let bytes = request(codec, code, OPAQUE, fields, body);
        let opaque = OpaquePlace::of(codec, &bytes);
        Template { bytes, opaque }
    }
}

/// How many decimal digits `value` has.
pub(super) fn digits(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patched_template_is_the_request_encoded_anew() {
        for codec in [Codec::Json, Codec::Rocketmq] {
            let mut template =
                Template::new(codec, 310, &[("b", "bench-00000"), ("e", "__")], b"body");
            let topic = Place::of(&template.bytes, "00000", 8);
            let queue = Place::of(&template.bytes, "__", topic.end());
            template.opaque.write(&mut template.bytes, 123_456_789);
            topic.write(&mut template.bytes, 42);
            queue.write(&mut template.bytes, 7);
            let expected =
                request(codec, 310, 123_456_789, &[("b", "bench-00042"), ("e", "07")], b"body");
            assert_eq!(template.bytes, expected);
        }
    }
}
