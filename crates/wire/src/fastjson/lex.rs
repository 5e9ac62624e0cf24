//! The tokens of fastjson's JSON: what frame headers and bodies are both read with.
//!
//! A [`Lexer`] walks over text that is known to be UTF-8 and hands out places in it; it copies
//! nothing. Strings may be in single quotes and words without quotes, as fastjson reads them.
//! Nesting is bounded where a value is skipped.

use std::ops::Range;

use thiserror::Error;

use crate::scan::{find_either, find_escaped};

/// Deepest nesting of objects and arrays that is read.
pub(crate) const DEPTH_MAX: u32 = 64;

/// Where and why a text is not JSON, even by fastjson's lenient rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} at byte {at}")]
pub struct Malformed {
    /// What was expected or found.
    pub what: &'static str,
    /// Place in the text, in bytes.
    pub at: usize,
}

/// A string, number or word: a range of the text without quotes, perhaps with escapes in it.
///
/// Places are kept in 32 bits, for speed; what lies beyond is no token ([`Lexer::new`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    start: u32,
    end: u32,
    pub(crate) quoted: bool,
    pub(crate) escaped: bool,
}

impl Token {
    pub(crate) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    pub(crate) text: &'a str,
    pub(crate) at: usize,
}

impl<'a> Lexer<'a> {
    /// Walks over `text`, or over nothing if it is longer than 4 GiB: no body is.
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text: if u32::try_from(text.len()).is_ok() { text } else { "" }, at: 0 }
    }

    pub(crate) fn fail<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { what, at: self.at })
    }

    /// The next byte that is not white space, left in place.
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Takes `byte` if it is next.
    #[inline(always)]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        if self.take(byte) { Ok(()) } else { self.fail(what) }
    }

    /// Whether another element follows before `end`, which is taken if not. Commas are taken;
    /// spare ones are overlooked.
    #[inline(always)]
    pub(crate) fn more(&mut self, end: u8) -> Result<bool, Malformed> {
        loop {
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == end => {
                    self.at += 1;
                    return Ok(false);
                }
                Some(_) => return Ok(true),
                None => return self.fail("the text ends inside an object or array"),
            }
        }
    }

    /// The name of the next member of an object, with its colon; `None` at the end of the object.
    #[inline(always)]
    pub(crate) fn member(&mut self) -> Result<Option<Token>, Malformed> {
        if !self.more(b'}')? {
            return Ok(None);
        }
        let name = self.scalar()?;
        self.expect(b':', "a colon was expected")?;
        Ok(Some(name))
    }

    /// The next member of an object, if it is written as serializers write members that are
    /// strings: `"name":"value"` and a comma or the end of the object, without white space. Takes
    /// nothing otherwise; what is left is for [`Lexer::member`].
    #[inline(always)]
    pub(crate) fn plain_member(&mut self) -> Option<(Token, Token)> {
        let bytes = self.text.as_bytes();
        let rest = bytes[self.at..].strip_prefix(b"\"")?;
        let name = self.at + 1..self.at + 1 + find_either(rest, b'"', b'\\');
        if bytes.get(name.end..name.end + 3)? != b"\":\"" {
            return None;
        }
        let start = name.end + 3;
        let mut end = start + find_either(&bytes[start..], b'"', b'\\');
        let mut escaped = false;
        while *bytes.get(end)? == b'\\' {
            escaped = true;
            end += 2;
            end += find_either(bytes.get(end..)?, b'"', b'\\');
        }
        self.at = match bytes.get(end + 1)? {
            b',' => end + 2,
            b'}' => end + 1,
            _ => return None,
        };
        let name =
            Token { start: name.start as u32, end: name.end as u32, quoted: true, escaped: false };
        Some((name, Token { start: start as u32, end: end as u32, quoted: true, escaped }))
    }

    /// A string or a bare word (number, `true`, `null`, unquoted name).
    #[inline(always)]
    pub(crate) fn scalar(&mut self) -> Result<Token, Malformed> {
        match self.peek() {
            Some(quote @ (b'"' | b'\'')) => self.string(quote),
            Some(_) => self.word(),
            None => self.fail("a value was expected"),
        }
    }

    #[inline(always)]
    fn string(&mut self, quote: u8) -> Result<Token, Malformed> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut end = start;
        let mut escaped = false;
        loop {
            end += find_either(&bytes[end..], quote, b'\\');
            match bytes.get(end) {
                Some(b'\\') => {
                    escaped = true;
                    end = (end + 2).min(bytes.len());
                }
                Some(_) => break,
                None => return self.fail("a string is not closed"),
            }
        }
        self.at = end + 1;
        Ok(Token { start: start as u32, end: end as u32, quoted: true, escaped })
    }

    fn word(&mut self) -> Result<Token, Malformed> {
        let rest = &self.text.as_bytes()[self.at..];
        let ends = |byte: &u8| {
            matches!(
                *byte,
                b',' | b':' | b'{' | b'}' | b'[' | b']' | b'"' | b'\'' | b' ' | b'\t'..=b'\r'
            )
        };
        let len = rest.iter().position(ends).unwrap_or(rest.len());
        if len == 0 {
            return self.fail("a value was expected");
        }
        let start = self.at as u32;
        self.at += len;
        Ok(Token { start, end: self.at as u32, quoted: false, escaped: false })
    }

    /// Passes over one value of any kind and returns where it stood.
    pub(crate) fn skip(&mut self, depth: u32) -> Result<Range<usize>, Malformed> {
        let Some(first) = self.peek() else { return self.fail("a value was expected") };
        if depth >= DEPTH_MAX {
            return self.fail("the nesting is too deep");
        }
        let start = self.at;
        match first {
            b'{' => {
                self.at += 1;
                while self.more(b'}')? {
                    self.skip(depth + 1)?;
                    self.expect(b':', "a colon was expected")?;
                    self.skip(depth + 1)?;
                }
            }
            b'[' => {
                self.at += 1;
                while self.more(b']')? {
                    self.skip(depth + 1)?;
                }
            }
            _ => {
                self.scalar()?;
            }
        }
        Ok(start..self.at)
    }

    /// A number, bare or in quotes.
    pub(crate) fn integer(&mut self) -> Result<i32, Malformed> {
        let token = self.scalar()?;
        match self.text[token.range()].parse() {
            Ok(number) => Ok(number),
            Err(_) => self.fail("a number was expected"),
        }
    }
}

/// Appends `text` to `out` with its escapes resolved; the result is never longer. What is no
/// escape stays as it is, half a surrogate pair becomes U+FFFD.
pub(crate) fn unescape(text: &str, out: &mut String) {
    out.reserve(text.len());
    let mut rest = text;
    loop {
        let plain = find_either(rest.as_bytes(), b'\\', b'\\');
        out.push_str(&rest[..plain]);
        let mut chars = rest[plain..].chars();
        if chars.next().is_none() {
            return;
        }
        let escape = chars.next();
        rest = chars.as_str();
        match escape {
            Some('u') => out.push(code_point(&mut rest)),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('v') => out.push('\u{b}'),
            Some('x') => {
                out.push(code_unit(&mut rest, 2).map_or('\u{FFFD}', |unit| unit as u8 as char))
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
}

fn code_point(rest: &mut &str) -> char {
    let Some(first) = code_unit(rest, 4) else { return char::REPLACEMENT_CHARACTER };
    if let 0xD800..0xDC00 = first
        && let Some(mut behind) = rest.strip_prefix("\\u")
        && let Some(second @ 0xDC00..0xE000) = code_unit(&mut behind, 4)
    {
        *rest = behind;
        let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Takes a number of `digits` hex digits off the front, or nothing.
fn code_unit(rest: &mut &str, digits: usize) -> Option<u32> {
    let (hex, behind) = rest.split_at_checked(digits)?;
    let mut unit = 0;
    for byte in hex.bytes() {
        unit = unit << 4 | char::from(byte).to_digit(16)?;
    }
    *rest = behind;
    Some(unit)
}

/// Appends `text` in double quotes, escaped as fastjson escapes it.
pub(crate) fn write_string(text: &str, out: &mut impl bytes::BufMut) {
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(find_escaped(rest));
        out.put_slice(plain);
        let Some((byte, behind)) = special.split_first() else { break };
        rest = behind;
        let short = match byte {
            b'\n' => b'n',
            b'\t' => b't',
            b'\r' => b'r',
            0x8 => b'b',
            0xC => b'f',
            0..b' ' => {
                let digit = b"0123456789ABCDEF"[usize::from(byte & 0xF)];
                out.put_slice(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), digit]);
                continue;
            }
            byte => *byte,
        };
        out.put_slice(&[b'\\', short]);
    }
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unescaped(text: &str) -> String {
        let mut out = String::new();
        unescape(text, &mut out);
        out
    }

    #[test]
    fn escapes_are_resolved() {
        assert_eq!(unescaped(r#"a\u0001b\"\\\/\n"#), "a\u{1}b\"\\/\n");
        assert_eq!(unescaped(r"\ud83d\ude00"), "😀");
        assert_eq!(unescaped(r"\ud83d\n"), "\u{FFFD}\n");
        assert_eq!(unescaped(r"\u12"), "\u{FFFD}12");
        assert_eq!(unescaped("\\"), "");
    }

    #[test]
    fn values_of_any_kind_are_skipped_but_not_too_deep() {
        for text in ["{a:1,'b':[{},{x:null}]}", "[[],]", "-1.5e3", "\"a\\\"b\"", "{{\"t\":1}:2}"] {
            let mut lexer = Lexer::new(text);
            assert_eq!(lexer.skip(0), Ok(0..text.len()), "{text}");
        }
        assert!(Lexer::new(&"[".repeat(100_000)).skip(0).is_err());
        assert!(Lexer::new("{\"a\"").skip(0).is_err());
    }

    proptest! {
        #[test]
        fn strings_come_back(text in "\\PC{0,40}|[\u{0}-\u{24}\"\\\\]{0,20}", behind: String) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            let json = String::from_utf8(out).unwrap() + &behind;
            let mut lexer = Lexer::new(&json);
            let token = lexer.scalar().unwrap();
            prop_assert_eq!(unescaped(&json[token.range()]), text);
            prop_assert_eq!(&json[lexer.at..], behind);
        }

        #[test]
        fn any_text_is_an_answer(text in "[\\[\\]{}:,\"'a1\\\\u ]{0,60}") {
            let _ = Lexer::new(&text).skip(0);
            let _ = unescaped(&text);
        }
    }
}
