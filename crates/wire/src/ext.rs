//! Ext fields: the flat map of strings in which every header travels, and the serde codec between
//! it and header structs.
//!
//! A decoded [`Ext`] is a list of places in the frame; only strings with escapes (properties, as a
//! rule) are copied, into one side buffer. A header struct borrows its strings from the `Ext`.
//! Field names and defaults are the structs' business ([`crate::header`]), the two forms on the
//! wire that of [`crate::frame`].

use std::fmt::Write;

use bytestring::ByteString;
use serde::de::{self, Deserialize, IntoDeserializer, Visitor, value::StrDeserializer};
use serde::ser::{self, Impossible, Serialize};
use smallvec::SmallVec;
use thiserror::Error;

use crate::fastjson::lex::{Token, unescape};
use crate::scan::Decimal;

/// Most ext fields of a decoded frame; the largest header of RocketMQ has about thirty.
pub const FIELDS_MAX: usize = 256;

/// Room that the side buffer begins with: that of a header of ours.
const SIDE_BYTES: usize = 256;

/// Marks a [`Span`] of the side buffer.
const SIDE: u32 = 1 << 31;

/// A place in the header's text, or with [`SIDE`] in the side buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    at: u32,
    len: u32,
}

/// The ext fields of a frame: names with values, in the order in which they came, no name twice.
#[derive(Clone, Debug, Default)]
pub struct Ext {
    head: ByteString,
    side: String,
    fields: SmallVec<[(Span, Span); 16]>,
    /// A bit for each name that is there, so that a new name rarely has to be compared.
    names: u64,
}

impl Ext {
    /// Number of fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The fields as name and value.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (self.text(*name), self.text(*value)))
    }

    /// The value of the field called `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| self.text(field.0) == name).map(|field| self.text(field.1))
    }

    /// Sets a field.
    pub fn put(&mut self, name: &str, value: &str) {
        let name = self.keep(name);
        let value = self.keep(value);
        self.insert(name, value);
    }

    /// Sets a field for each field of a header struct, except those that are `None`.
    ///
    /// # Panics
    /// If `header` is anything but a flat struct of numbers, booleans, strings and unit variants.
    pub fn put_header(&mut self, header: &impl Serialize) {
        self.side.reserve(192);
        header.serialize(HeaderWriter(self)).expect("headers are flat structs");
    }

    /// Reads a header struct, which borrows its strings from here.
    pub fn header<'a, H: Deserialize<'a>>(&'a self) -> Result<H, HeaderError> {
        H::deserialize(HeaderReader(self))
    }

    /// `text` as a string of its own: without a copy if it is a part of the received frame.
    pub fn share(&self, text: &str) -> ByteString {
        let (head, start) = (self.head.as_bytes().as_ptr_range(), text.as_ptr());
        let within = head.contains(&start) && text.as_bytes().as_ptr_range().end <= head.end;
        if within { self.head.slice_ref(text) } else { ByteString::from(text) }
    }

    fn text(&self, span: Span) -> &str {
        let (text, at) = match span.at & SIDE {
            0 => (self.head.as_ref(), span.at as usize),
            _ => (self.side.as_str(), (span.at ^ SIDE) as usize),
        };
        &text[at..at + span.len as usize]
    }

    fn keep(&mut self, text: &str) -> Span {
        if self.side.capacity() == 0 {
            self.side.reserve(SIDE_BYTES);
        }
        let at = self.side.len();
        self.side.push_str(text);
        self.side_from(at)
    }

    fn side_from(&self, at: usize) -> Span {
        Span { at: at as u32 | SIDE, len: (self.side.len() - at) as u32 }
    }

    /// Adds a field or, as a Java map does, replaces the value of the one with this name.
    #[inline]
    fn insert(&mut self, name: Span, value: Span) {
        let text = self.text(name);
        let bytes = text.as_bytes();
        let first = usize::from(*bytes.first().unwrap_or(&0));
        let last = usize::from(*bytes.last().unwrap_or(&0));
        // Tells the one-letter names of sends apart, and most others.
        let bit = 1 << ((first + 2 * last + 5 * bytes.len()) % 64);
        if self.names & bit != 0
            && let Some(at) = self.fields.iter().position(|field| self.text(field.0) == text)
        {
            self.fields[at].1 = value;
            return;
        }
        self.names |= bit;
        self.fields.push((name, value));
    }

    /// Ext fields to be found in `head`, a frame's JSON header.
    pub(crate) fn within(head: ByteString) -> Ext {
        Ext { head, ..Ext::default() }
    }

    /// Adds a field found in the head.
    pub(crate) fn insert_tokens(&mut self, name: &Token, value: &Token) {
        let name = self.span(name);
        let value = self.span(value);
        self.insert(name, value);
    }

    #[inline]
    fn span(&mut self, token: &Token) -> Span {
        if token.escaped {
            let at = self.side.len();
            unescape(&self.head[token.range()], &mut self.side);
            self.side_from(at)
        } else {
            Span { at: token.range().start as u32, len: token.range().len() as u32 }
        }
    }
}

impl PartialEq for Ext {
    /// Equal fields in the same order.
    fn eq(&self, other: &Ext) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Ext {}

/// A header that does not fit its ext fields; says which field and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct HeaderError(String);

impl de::Error for HeaderError {
    fn custom<T: std::fmt::Display>(message: T) -> HeaderError {
        HeaderError(message.to_string())
    }
}

impl ser::Error for HeaderError {
    fn custom<T: std::fmt::Display>(message: T) -> HeaderError {
        HeaderError(message.to_string())
    }
}

struct HeaderReader<'de>(&'de Ext);

impl<'de> de::Deserializer<'de> for HeaderReader<'de> {
    type Error = HeaderError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HeaderError> {
        visitor.visit_map(Fields { ext: self.0, next: 0 })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

struct Fields<'de> {
    ext: &'de Ext,
    next: usize,
}

impl<'de> de::MapAccess<'de> for Fields<'de> {
    type Error = HeaderError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, HeaderError> {
        let Some((name, _)) = self.ext.fields.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(de::value::BorrowedStrDeserializer::new(self.ext.text(*name))).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, HeaderError> {
        let (name, value) = self.ext.fields[self.next - 1];
        seed.deserialize(ValueReader { name: self.ext.text(name), value: self.ext.text(value) })
    }
}

struct ValueReader<'de> {
    name: &'de str,
    value: &'de str,
}

impl ValueReader<'_> {
    fn parse<T: std::str::FromStr>(&self) -> Result<T, HeaderError> {
        self.value.parse().map_err(|_| {
            let shown = self.value.chars().take(64).collect::<String>();
            HeaderError(format!("the ext field <{}> is not a number that fits: {shown}", self.name))
        })
    }
}

/// Reads numbers of one type by parsing them.
macro_rules! read_numbers {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HeaderError> {
            visitor.$visit(self.parse()?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for ValueReader<'de> {
    type Error = HeaderError;

    read_numbers! {
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32
        deserialize_i64 visit_i64 deserialize_u8 visit_u8 deserialize_u16 visit_u16
        deserialize_u32 visit_u32 deserialize_u64 visit_u64 deserialize_f64 visit_f64
    }

    /// As `Boolean.parseBoolean`: anything but "true" is false.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HeaderError> {
        visitor.visit_bool(self.value.eq_ignore_ascii_case("true"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HeaderError> {
        visitor.visit_some(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, HeaderError> {
        visitor.visit_borrowed_str(self.value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, HeaderError> {
        let name: StrDeserializer<'de, HeaderError> = self.value.into_deserializer();
        visitor.visit_enum(name)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

type NotFlat<T> = Impossible<T, HeaderError>;

fn not_flat<T>() -> Result<T, HeaderError> {
    Err(HeaderError("a header is a flat struct of scalars".to_owned()))
}

/// Refuses the kinds of values that a serializer of flat headers does not know.
macro_rules! refuse {
    ($ok:ty: $($method:ident($($type:ty),*))*) => {$(
        fn $method(self, $(_: $type),*) -> Result<$ok, HeaderError> {
            not_flat()
        }
    )*};
}

/// Refuses compound values.
macro_rules! refuse_compounds {
    ($ok:ty) => {
        type SerializeSeq = NotFlat<$ok>;
        type SerializeTuple = NotFlat<$ok>;
        type SerializeTupleStruct = NotFlat<$ok>;
        type SerializeTupleVariant = NotFlat<$ok>;
        type SerializeMap = NotFlat<$ok>;
        type SerializeStructVariant = NotFlat<$ok>;

        refuse! { NotFlat<$ok>:
            serialize_seq(Option<usize>)
            serialize_tuple(usize)
            serialize_tuple_struct(&'static str, usize)
            serialize_tuple_variant(&'static str, u32, &'static str, usize)
            serialize_map(Option<usize>)
            serialize_struct_variant(&'static str, u32, &'static str, usize)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<$ok, HeaderError> {
            not_flat()
        }

        refuse! { $ok: serialize_bytes(&[u8]) }
    };
}

struct HeaderWriter<'a>(&'a mut Ext);

impl ser::Serializer for HeaderWriter<'_> {
    type Ok = ();
    type Error = HeaderError;
    type SerializeStruct = Self;

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, HeaderError> {
        Ok(self)
    }

    fn serialize_unit(self) -> Result<(), HeaderError> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), HeaderError> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), HeaderError> {
        value.serialize(self)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), HeaderError> {
        value.serialize(self)
    }

    fn serialize_none(self) -> Result<(), HeaderError> {
        Ok(())
    }

    refuse_compounds!(());
    refuse! { ():
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32)
        serialize_i64(i64) serialize_u8(u8) serialize_u16(u16) serialize_u32(u32)
        serialize_u64(u64) serialize_f32(f32) serialize_f64(f64) serialize_char(char)
        serialize_str(&str) serialize_unit_variant(&'static str, u32, &'static str)
    }
}

impl ser::SerializeStruct for HeaderWriter<'_> {
    type Ok = ();
    type Error = HeaderError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), HeaderError> {
        let ext = &mut *self.0;
        let before = ext.side.len();
        let name = ext.keep(name);
        let at = ext.side.len();
        if value.serialize(ValueWriter(&mut ext.side))? {
            let value = ext.side_from(at);
            ext.insert(name, value);
        } else {
            ext.side.truncate(before);
        }
        Ok(())
    }

    fn end(self) -> Result<(), HeaderError> {
        Ok(())
    }
}

/// Appends a value's text; says whether there is a value.
struct ValueWriter<'a>(&'a mut String);

/// Writes values by their `Display`.
macro_rules! write_displayed {
    ($($method:ident($type:ty))*) => {$(
        fn $method(self, value: $type) -> Result<bool, HeaderError> {
            write!(self.0, "{value}").map_err(ser::Error::custom)?;
            Ok(true)
        }
    )*};
}

impl ser::Serializer for ValueWriter<'_> {
    type Ok = bool;
    type Error = HeaderError;
    type SerializeStruct = NotFlat<bool>;

    write_displayed! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_u8(u8)
        serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_f32(f32)
        serialize_f64(f64) serialize_char(char)
    }

    fn serialize_i32(self, value: i32) -> Result<bool, HeaderError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<bool, HeaderError> {
        self.0.push_str(Decimal::of(value).as_str());
        Ok(true)
    }

    fn serialize_str(self, value: &str) -> Result<bool, HeaderError> {
        self.0.push_str(value);
        Ok(true)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
    ) -> Result<bool, HeaderError> {
        self.serialize_str(name)
    }

    fn serialize_none(self) -> Result<bool, HeaderError> {
        Ok(false)
    }

    fn serialize_unit(self) -> Result<bool, HeaderError> {
        Ok(false)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, HeaderError> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<bool, HeaderError> {
        value.serialize(self)
    }

    refuse_compounds!(bool);
    refuse! { bool: serialize_unit_struct(&'static str) }
    refuse! { NotFlat<bool>: serialize_struct(&'static str, usize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Header<'a> {
        topic: &'a str,
        queue_id: i32,
        begin_timestamp: Option<i64>,
        retry: bool,
        rate: f64,
        kind: Kind,
    }

    #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "UPPERCASE")]
    enum Kind {
        #[default]
        Lower,
        Upper,
    }

    fn ext(fields: &[(&str, &str)]) -> Ext {
        let mut ext = Ext::default();
        for (name, value) in fields {
            ext.put(name, value);
        }
        ext
    }

    #[test]
    fn absent_fields_are_defaults_and_unknown_ones_overlooked() {
        let header = ext(&[("topic", "T"), ("x", "y"), ("retry", "TRUE"), ("kind", "UPPER")]);
        let expected = Header { topic: "T", retry: true, kind: Kind::Upper, ..Header::default() };
        assert_eq!(header.header(), Ok(expected));
    }

    #[test]
    fn a_bad_number_names_its_field() {
        let error = ext(&[("queueId", "abc")]).header::<Header<'_>>().unwrap_err();
        assert_eq!(error.to_string(), "the ext field <queueId> is not a number that fits: abc");
        assert!(ext(&[("queueId", "2147483648")]).header::<Header<'_>>().is_err());
        assert!(ext(&[("kind", "MIDDLE")]).header::<Header<'_>>().is_err());
    }

    #[test]
    fn a_name_set_twice_keeps_its_place_and_the_last_value() {
        let twice = ext(&[("a", "1"), ("b", "2"), ("a", "3"), ("", "")]);
        assert_eq!(twice.iter().collect::<Vec<_>>(), [("a", "3"), ("b", "2"), ("", "")]);
    }

    proptest! {
        #[test]
        fn headers_come_back(
            topic in ".{0,20}", queue_id: i32, begin_timestamp: Option<i64>, retry: bool,
            rate in -1e9f64..1e9, upper: bool,
        ) {
            let kind = if upper { Kind::Upper } else { Kind::Lower };
            let header = Header { topic: &topic, queue_id, begin_timestamp, retry, rate, kind };
            let mut ext = Ext::default();
            ext.put_header(&header);
            prop_assert_eq!(ext.header(), Ok(header.clone()));
        }

        #[test]
        fn an_ext_is_a_map(pairs in prop::collection::vec(("[a-c]{0,2}", "[0-9]"), 0..20)) {
            let mut ext = Ext::default();
            let mut map = std::collections::HashMap::new();
            for (name, value) in &pairs {
                ext.put(name, value);
                map.insert(name.as_str(), value.as_str());
            }
            prop_assert_eq!(ext.len(), map.len());
            for (name, value) in map {
                prop_assert_eq!(ext.get(name), Some(value));
            }
        }
    }
}
