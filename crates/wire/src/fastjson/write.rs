//! The writing half of the format: a serde serializer into a byte buffer.

use serde::ser::{self, Impossible, Serialize};

use super::Error;
use super::lex::write_string;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// One line, bare number keys.
    Compact,
    /// One line, number keys in quotes.
    Standard,
    /// Indented by tabs, bare number keys.
    Pretty,
}

pub(super) fn write(value: &impl Serialize, style: Style) -> Vec<u8> {
    let mut writer = Writer { out: Vec::new(), style, level: 0, is_key: false };
    match value.serialize(&mut writer) {
        Ok(true) => writer.out,
        Ok(false) => b"null".to_vec(),
        Err(error) => panic!("a body holds only what JSON can say: {error}"),
    }
}

/// Appends a value; says whether there was one, so that null members can be taken back.
struct Writer {
    out: Vec<u8>,
    style: Style,
    level: usize,
    is_key: bool,
}

impl Writer {
    fn put(&mut self, text: &str) -> Result<bool, Error> {
        self.out.extend_from_slice(text.as_bytes());
        Ok(true)
    }

    fn put_number(&mut self, number: &dyn std::fmt::Display) -> Result<bool, Error> {
        let quote = if self.is_key && self.style == Style::Standard { "\"" } else { "" };
        self.put(&format!("{quote}{number}{quote}"))
    }

    fn open(&mut self, bracket: u8, end: u8) -> Nested<'_> {
        self.is_key = false;
        self.out.push(bracket);
        self.level += 1;
        Nested { start: self.out.len(), key_at: 0, writer: self, end }
    }

    fn break_line(&mut self) {
        if self.style == Style::Pretty {
            self.out.push(b'\n');
            self.out.resize(self.out.len() + self.level, b'\t');
        }
    }
}

/// Writes numbers, bare or as a quoted key.
macro_rules! write_numbers {
    ($($method:ident($type:ty))*) => {$(
        fn $method(self, value: $type) -> Result<bool, Error> {
            self.put_number(&value)
        }
    )*};
}

impl<'a> ser::Serializer for &'a mut Writer {
    type Ok = bool;
    type Error = Error;
    type SerializeSeq = Nested<'a>;
    type SerializeTuple = Nested<'a>;
    type SerializeTupleStruct = Nested<'a>;
    type SerializeTupleVariant = Impossible<bool, Error>;
    type SerializeMap = Nested<'a>;
    type SerializeStruct = Nested<'a>;
    type SerializeStructVariant = Impossible<bool, Error>;

    write_numbers! {
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
    }

    fn serialize_bool(self, value: bool) -> Result<bool, Error> {
        self.put(if value { "true" } else { "false" })
    }

    fn serialize_f32(self, value: f32) -> Result<bool, Error> {
        self.serialize_f64(value.into())
    }

    /// As Java's `Double.toString`, with at least one decimal.
    fn serialize_f64(self, value: f64) -> Result<bool, Error> {
        if value.is_finite() { self.put(&format!("{value:?}")) } else { Ok(false) }
    }

    fn serialize_char(self, value: char) -> Result<bool, Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<bool, Error> {
        write_string(value, &mut self.out);
        Ok(true)
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<bool, Error> {
        Err(Error::Shape("bytes".to_owned()))
    }

    fn serialize_none(self) -> Result<bool, Error> {
        Ok(false)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<bool, Error> {
        Ok(false)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<bool, Error> {
        Ok(false)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
    ) -> Result<bool, Error> {
        self.serialize_str(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<bool, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<bool, Error> {
        Err(Error::Shape("an enum with data".to_owned()))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Nested<'a>, Error> {
        Ok(self.open(b'[', b']'))
    }

    fn serialize_tuple(self, _: usize) -> Result<Nested<'a>, Error> {
        Ok(self.open(b'[', b']'))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Nested<'a>, Error> {
        Ok(self.open(b'[', b']'))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        Err(Error::Shape("an enum with data".to_owned()))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Nested<'a>, Error> {
        Ok(self.open(b'{', b'}'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Nested<'a>, Error> {
        Ok(self.open(b'{', b'}'))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        Err(Error::Shape("an enum with data".to_owned()))
    }
}

/// An open array or object.
struct Nested<'a> {
    writer: &'a mut Writer,
    /// Just behind the opening bracket.
    start: usize,
    /// Where the member begins whose value is due.
    key_at: usize,
    end: u8,
}

impl Nested<'_> {
    fn separate(&mut self) {
        self.key_at = self.writer.out.len();
        if self.key_at > self.start {
            self.writer.out.push(b',');
        }
        self.writer.break_line();
    }

    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.separate();
        if !value.serialize(&mut *self.writer)? {
            self.writer.put("null")?;
        }
        Ok(())
    }

    fn key(&mut self, key: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.separate();
        self.writer.is_key = true;
        key.serialize(&mut *self.writer)?;
        self.writer.is_key = false;
        self.writer.out.push(b':');
        Ok(())
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        if !value.serialize(&mut *self.writer)? {
            self.writer.out.truncate(self.key_at);
        }
        Ok(())
    }

    fn close(self) -> Result<bool, Error> {
        self.writer.level -= 1;
        if self.writer.out.len() > self.start {
            self.writer.break_line();
        }
        self.writer.out.push(self.end);
        Ok(true)
    }
}

impl ser::SerializeSeq for Nested<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(value)
    }

    fn end(self) -> Result<bool, Error> {
        self.close()
    }
}

impl ser::SerializeTuple for Nested<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(value)
    }

    fn end(self) -> Result<bool, Error> {
        self.close()
    }
}

impl ser::SerializeTupleStruct for Nested<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(value)
    }

    fn end(self) -> Result<bool, Error> {
        self.close()
    }
}

impl ser::SerializeMap for Nested<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.value(value)
    }

    fn end(self) -> Result<bool, Error> {
        self.close()
    }
}

impl ser::SerializeStruct for Nested<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.key(name)?;
        self.value(value)
    }

    fn end(self) -> Result<bool, Error> {
        self.close()
    }
}
