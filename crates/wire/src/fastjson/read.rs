//! The reading half of the format: a serde deserializer over the lexer's tokens.

use std::borrow::Cow;

use serde::de::value::{BorrowedStrDeserializer, CowStrDeserializer};
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::Error;
use super::lex::{DEPTH_MAX, Lexer, Token, unescape};

/// Memory that elements and members may take in all, per byte of text and to begin with. `{},{},`
/// would else fill sixty times its length.
const BYTES_PER_BYTE: usize = 8;
const BYTES_FREE: usize = 64 * 1024;

/// Reads one value. Inside a map it reads the keys too: a key is whatever its type asks for.
pub(super) struct Reader<'de> {
    lexer: Lexer<'de>,
    depth: u32,
    is_key: bool,
    bytes_left: usize,
}

impl<'de> Reader<'de> {
    pub(super) fn new(text: &'de str) -> Reader<'de> {
        let bytes_left = BYTES_FREE + BYTES_PER_BYTE * text.len();
        Reader { lexer: Lexer::new(text), depth: 0, is_key: false, bytes_left }
    }

    /// Counts an element or half a member of type `T` as kept.
    fn charge<T>(&mut self) -> Result<(), Error> {
        match self.bytes_left.checked_sub(size_of::<T>()) {
            Some(left) => self.bytes_left = left,
            None => self.lexer.fail("there are too many small values")?,
        }
        Ok(())
    }

    /// Takes a bare `null`, which stands for any empty value.
    fn take_null(&mut self) -> bool {
        if self.lexer.peek() != Some(b'n') {
            return false;
        }
        let mut ahead = self.lexer.clone();
        let is_null =
            matches!(ahead.scalar(), Ok(token) if !token.quoted && self.raw(&token) == "null");
        if is_null {
            self.lexer = ahead;
        }
        is_null
    }

    fn raw(&self, token: &Token) -> &'de str {
        &self.lexer.text[token.range()]
    }

    fn text(&self, token: &Token) -> Cow<'de, str> {
        let raw = self.raw(token);
        if !token.escaped {
            return Cow::Borrowed(raw);
        }
        let mut text = String::with_capacity(raw.len());
        unescape(raw, &mut text);
        Cow::Owned(text)
    }

    /// A number's text; empty and null count as 0.
    fn number(&mut self) -> Result<&'de str, Error> {
        let token = self.lexer.scalar()?;
        let raw = self.raw(&token);
        Ok(if raw.is_empty() || raw == "null" { "0" } else { raw })
    }

    fn integer(&mut self) -> Result<i64, Error> {
        let number = self.number()?;
        if let Ok(integer) = number.parse() {
            return Ok(integer);
        }
        match number.parse::<f64>() {
            Ok(float) if float.fract() == 0.0 && float.abs() < 9e15 => Ok(float as i64),
            _ => Err(Error::Shape(format!("not an integer: {}", shortened(number)))),
        }
    }

    fn enter(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            Ok(self.lexer.fail("the nesting is too deep")?)
        } else {
            Ok(())
        }
    }

    fn object<V: Visitor<'de>>(
        &mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.is_key = false;
        if self.take_null() {
            let nothing = std::iter::empty::<((), ())>();
            return visitor.visit_map(de::value::MapDeserializer::new(nothing));
        }
        self.lexer.expect(b'{', "an object was expected")?;
        self.enter()?;
        let mut members = Members { reader: self, fields, is_done: false };
        let value = visitor.visit_map(&mut members)?;
        members.finish()?;
        self.depth -= 1;
        Ok(value)
    }
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

/// Reads numbers of the smaller types through `i64`; serde checks their range.
macro_rules! read_integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_i64(self.integer()?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.lexer.peek() {
            _ if self.is_key => self.deserialize_str(visitor),
            Some(b'{') => self.object(&[], visitor),
            Some(b'[') => self.deserialize_seq(visitor),
            Some(b'"' | b'\'') => self.deserialize_str(visitor),
            _ => {
                let token = self.lexer.scalar()?;
                let raw = self.raw(&token);
                match raw {
                    "null" => visitor.visit_unit(),
                    "true" => visitor.visit_bool(true),
                    "false" => visitor.visit_bool(false),
                    _ => match (raw.parse::<u64>(), raw.parse::<i64>(), raw.parse::<f64>()) {
                        (Ok(number), _, _) => visitor.visit_u64(number),
                        (_, Ok(number), _) => visitor.visit_i64(number),
                        (_, _, Ok(number)) if number.is_finite() => visitor.visit_f64(number),
                        _ => visitor.visit_borrowed_str(raw),
                    },
                }
            }
        }
    }

    read_integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let before = self.lexer.clone();
        if let Ok(number) = self.number()?.parse() {
            return visitor.visit_u64(number);
        }
        self.lexer = before;
        visitor.visit_i64(self.integer()?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = self.number()?;
        let float =
            number.parse().map_err(|_| Error::Shape(format!("no number: {}", shortened(number))));
        visitor.visit_f64(float?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let token = self.lexer.scalar()?;
        visitor.visit_bool(matches!(self.raw(&token), "true" | "1" | "TRUE" | "True"))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if let Some(b'{' | b'[') = self.lexer.peek() {
            let range = self.lexer.skip(self.depth)?;
            return visitor.visit_borrowed_str(&self.lexer.text[range]);
        }
        let token = self.lexer.scalar()?;
        if !token.quoted && !self.is_key && self.raw(&token) == "null" {
            return visitor.visit_borrowed_str("");
        }
        match self.text(&token) {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_null() {
            return visitor.visit_seq(de::value::SeqDeserializer::new(std::iter::empty::<()>()));
        }
        self.lexer.expect(b'[', "an array was expected")?;
        self.enter()?;
        let mut elements = Elements { reader: self, is_done: false };
        let value = visitor.visit_seq(&mut elements)?;
        if !elements.is_done && self.lexer.more(b']')? {
            return Err(Error::Shape("an array has too many elements".to_owned()));
        }
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.object(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.object(fields, visitor)
    }

    /// By name, or as clients other than Java's write it, by number.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let token = self.lexer.scalar()?;
        if !token.quoted
            && let Ok(ordinal) = self.raw(&token).parse::<usize>()
            && let Some(name) = variants.get(ordinal)
        {
            return visitor.visit_enum(BorrowedStrDeserializer::<Error>::new(name));
        }
        let name: CowStrDeserializer<'_, Error> = self.text(&token).into_deserializer();
        visitor.visit_enum(name)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.lexer.skip(self.depth)?;
        visitor.visit_unit()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct
    }
}

struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    is_done: bool,
}

impl<'de> de::SeqAccess<'de> for &mut Elements<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if self.is_done || !self.reader.lexer.more(b']')? {
            self.is_done = true;
            return Ok(None);
        }
        self.reader.charge::<T::Value>()?;
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

/// Members of an object. `fields` are the names that a struct knows.
struct Members<'a, 'de> {
    reader: &'a mut Reader<'de>,
    fields: &'static [&'static str],
    is_done: bool,
}

impl Members<'_, '_> {
    fn finish(&mut self) -> Result<(), Error> {
        if !self.is_done && self.reader.lexer.more(b'}')? {
            return Err(Error::Shape("an object has too many members".to_owned()));
        }
        Ok(())
    }

    /// The field that fastjson would mean by `name`.
    fn field(&self, name: &str) -> Option<&'static str> {
        let plain = |text: &'static str| text.bytes().filter(|byte| *byte != b'_');
        let wanted =
            || name.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase());
        let mut fields = self.fields.iter().copied();
        fields.find(|field| plain(field).map(|byte| byte.to_ascii_lowercase()).eq(wanted()))
    }
}

impl<'de> de::MapAccess<'de> for &mut Members<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        if self.is_done || !self.reader.lexer.more(b'}')? {
            self.is_done = true;
            return Ok(None);
        }
        let key = if self.fields.is_empty() {
            self.reader.charge::<K::Value>()?;
            self.reader.is_key = true;
            let key = seed.deserialize(&mut *self.reader)?;
            self.reader.is_key = false;
            key
        } else {
            let token = self.reader.lexer.scalar()?;
            let name = self.reader.text(&token);
            match name {
                Cow::Borrowed(name) if self.fields.contains(&name) => {
                    seed.deserialize(BorrowedStrDeserializer::<Error>::new(name))?
                }
                name => {
                    let known = self.field(&name).map(Cow::Borrowed);
                    let name: CowStrDeserializer<'_, Error> =
                        known.unwrap_or(name).into_deserializer();
                    seed.deserialize(name)?
                }
            }
        };
        self.reader.lexer.expect(b':', "a colon was expected")?;
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        if self.fields.is_empty() {
            self.reader.charge::<V::Value>()?;
        }
        seed.deserialize(&mut *self.reader)
    }
}
