//! The least reading of answers that a load generator can do.
//!
//! A [`Scanner`] walks the whole frames at the front of a read buffer and finds three numbers in each: the
//! response code, the opaque that names the request, and (for pulls) the next offset. Answers of one server have
//! their fields in one order, so the places found in the last answer are tried first; nothing is allocated.

use anyhow::{Result, bail};

/// One answer, borrowed from the read buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    /// Response code.
    pub(super) code: i32,
    /// Opaque of the request.
    pub(super) opaque: i32,
    /// Header bytes, JSON or binary.
    pub(super) header: &'a [u8],
    /// Body bytes.
    pub(super) body: &'a [u8],
}

/// Splits a read buffer into answers and remembers where their numbers were.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    code_at: usize,
    opaque_from_end: usize,
}

/// The longest frame that is believed: more is a broken stream, not an answer.
const FRAME_BYTES_MAX: usize = 64 << 20;

impl Scanner {
    /// Takes the answer at the front of `bytes`: how many bytes it has, and what it says.
    ///
    /// `None` when the frame is not whole yet.
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(usize, Answer<'a>)>> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
        let word = |at: usize| {
            u32::from_be_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
        };
        let len = word(0) as usize;
        let (codec, header_len) = (word(4) >> 24, (word(4) & 0x00ff_ffff) as usize);
        if len > FRAME_BYTES_MAX || header_len + 4 > len {
            bail!("the server sent a frame of {len} bytes with a header of {header_len}");
        }
        let Some(rest) = rest.get(..len - 4) else { return Ok(None) };
        let (header, body) = rest.split_at(header_len);
        let (code, opaque) = if codec == 0 { self.json(header) } else { binary(header) }
            .ok_or_else(|| {
                anyhow::anyhow!(
                    "an answer without code or opaque: {}",
                    String::from_utf8_lossy(header)
                )
            })?;
        Ok(Some((len + 4, Answer { code, opaque, header, body })))
    }

    fn json(&mut self, header: &[u8]) -> Option<(i32, i32)> {
        const CODE: &[u8] = b"\"code\":";
        const OPAQUE: &[u8] = b"\"opaque\":";
        if !header.get(self.code_at..).is_some_and(|tail| tail.starts_with(CODE)) {
            self.code_at = find(header, CODE)?;
        }
        let guess = header.len().wrapping_sub(self.opaque_from_end);
        let opaque_at = match header.get(guess..) {
            Some(tail) if tail.starts_with(OPAQUE) => guess,
            _ => find(header, OPAQUE)?,
        };
        self.opaque_from_end = header.len() - opaque_at;
        Some((
            number(&header[self.code_at + CODE.len()..])?,
            number(&header[opaque_at + OPAQUE.len()..])?,
        ))
    }
}

/// Code, language, version, opaque: the fixed front of the binary header.
fn binary(header: &[u8]) -> Option<(i32, i32)> {
    let front = header.first_chunk::<9>()?;
    let code = i32::from(i16::from_be_bytes([front[0], front[1]]));
    Some((code, i32::from_be_bytes([front[5], front[6], front[7], front[8]])))
}

/// The value of a numeric ext field in either codec.
pub(super) fn field(header: &[u8], name: &str) -> Option<i64> {
    let after = &header[find(header, name.as_bytes())? + name.len()..];
    // JSON: `":"123"`; binary: a length of four bytes, none of which is a digit for lengths below 0x2d.
    let start = after.iter().position(|byte| byte.is_ascii_digit() || *byte == b'-')?;
    number_i64(&after[start..])
}

/// The place in the log that an answer's `msgId` tells, its last sixteen of 32 digits.
pub(super) fn log_offset(header: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"msgId";
    let after = &header[find(header, NAME)? + NAME.len()..];
    // JSON: `":"` before the text; binary: a length of four bytes.
    let skip = if after.starts_with(b"\":\"") { 3 } else { 4 };
    let digits = std::str::from_utf8(after.get(skip + 16..skip + 32)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

/// The text of a JSON remark, or of the binary one, for the report of an error.
pub(super) fn remark(header: &[u8]) -> String {
    let text = String::from_utf8_lossy(header);
    match text.split_once("\"remark\":\"") {
        Some((_, rest)) => rest.split('"').next().unwrap_or_default().to_owned(),
        None if header.first() == Some(&b'{') => String::new(),
        None => {
            let Some(len) = header.get(13..17).and_then(|b| <[u8; 4]>::try_from(b).ok()) else {
                return String::new();
            };
            let len = u32::from_be_bytes(len) as usize;
            header
                .get(17..17 + len)
                .map(|b| String::from_utf8_lossy(b).into_owned())
                .unwrap_or_default()
        }
    }
}

/// Position of `needle` in `hay`.
pub(super) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = 0;
    while let Some(step) = hay.get(at..)?.iter().position(|byte| *byte == first) {
        at += step;
        if hay[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn number(text: &[u8]) -> Option<i32> {
    i32::try_from(number_i64(text)?).ok()
}

fn number_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut value: i64 = 0;
    let mut any = false;
    for byte in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        value = value.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
        any = true;
    }
    any.then_some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(codec: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
        out.extend_from_slice(&((u32::from(codec) << 24) | header.len() as u32).to_be_bytes());
        out.extend_from_slice(header);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn answers_are_read_whatever_the_order_of_their_fields() {
        let mut scanner = Scanner::default();
        for header in [
            r#"{"code":0,"extFields":{"queueId":"1"},"flag":1,"language":"JAVA","opaque":77,"version":513}"#,
            r#"{"code":-3,"flag":1,"language":"JAVA","opaque":177,"version":513}"#,
            r#"{"opaque":-9,"flag":1,"code":12}"#,
        ] {
            let bytes = frame(0, header.as_bytes(), b"xyz");
            let (len, answer) = scanner.next(&bytes).unwrap().unwrap();
            assert_eq!((len, answer.body), (bytes.len(), &b"xyz"[..]));
            let value: serde_json::Value = serde_json::from_str(header).unwrap();
            assert_eq!(i64::from(answer.code), value["code"]);
            assert_eq!(i64::from(answer.opaque), value["opaque"]);
        }
    }

    #[test]
    fn a_cut_frame_is_waited_for_and_a_broken_one_is_an_error() {
        let bytes = frame(0, br#"{"code":0,"opaque":1}"#, b"body");
        for cut in 0..bytes.len() {
            assert!(Scanner::default().next(&bytes[..cut]).unwrap().is_none());
        }
        assert!(Scanner::default().next(&[0xff; 16]).is_err());
        assert!(Scanner::default().next(&frame(0, b"{}", b"")).is_err());
    }

    #[test]
    fn numbers_of_ext_fields_are_found_in_both_codecs() {
        assert_eq!(
            field(
                br#"{"extFields":{"nextBeginOffset":"0042","maxOffset":"7"}}"#,
                "nextBeginOffset"
            ),
            Some(42)
        );
        let binary = b"\x00\x0fnextBeginOffset\x00\x00\x00\x0212\x00\x09maxOffset";
        assert_eq!(field(binary, "nextBeginOffset"), Some(12));
        assert_eq!(field(b"{}", "nextBeginOffset"), None);
        let id = "7F00000100002A9F0000000000001A2B";
        let json = format!(r#"{{"extFields":{{"msgId":"{id}","queueId":"1"}}}}"#);
        assert_eq!(log_offset(json.as_bytes()), Some(0x1a2b));
        let binary = [&b"\x00\x05msgId\x00\x00\x00\x20"[..], id.as_bytes()].concat();
        assert_eq!(log_offset(&binary), Some(0x1a2b));
        assert_eq!(log_offset(br#"{"msgId":"7F"}"#), None);
    }
}
