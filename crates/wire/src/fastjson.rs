//! The JSON that Java's fastjson writes and reads.

pub(crate) mod lex;

pub use lex::Malformed;
