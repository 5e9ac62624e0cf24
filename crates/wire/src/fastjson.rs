//! The JSON that Java's fastjson writes and reads, as a serde format.
//!
//! Maps whose keys are numbers have them bare (`{0:"a"}`), maps whose keys are objects have those
//! (`{{"topic":"T"}:1}`), members that are null are left out. Reading is lenient as fastjson's:
//! single quotes, bare words, numbers in quotes and the other way round, null for any empty value,
//! member names regardless of case and `_`. Members sort as the structs declare them, which is
//! alphabetically. Nesting is bounded, and so is the memory that a text can fill.

pub(crate) mod lex;
mod read;
mod write;

use std::fmt::Display;

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

pub use lex::Malformed;

/// A member that no struct of ours knows, kept to be written again.
pub type Value = serde_json::Value;

/// Members that a struct does not know, by name; flattened into what is persisted, so that neither
/// an upgrade nor a downgrade drops a setting.
pub type Unknown = serde_json::Map<String, Value>;

/// Why a text could not be read, or a value not be written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Not JSON, even leniently.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// JSON of another shape than expected.
    #[error("{0}")]
    Shape(String),
}

impl serde::de::Error for Error {
    fn custom<T: Display>(message: T) -> Error {
        Error::Shape(message.to_string())
    }
}

impl serde::ser::Error for Error {
    fn custom<T: Display>(message: T) -> Error {
        Error::Shape(message.to_string())
    }
}

/// Reads a value; what is not UTF-8 is replaced, as Java does. Text behind the value is overlooked.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let text = String::from_utf8_lossy(bytes);
    T::deserialize(&mut read::Reader::new(&text))
}

/// Writes a value in one line, with bare number keys: the form of bodies.
///
/// # Panics
/// If `value` holds something that JSON bodies have no form for: bytes, or enums with data.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    write::write(value, write::Style::Compact)
}

/// Writes a value in one line of standard JSON, with number keys in quotes: the form of routes for
/// clients that ask for it, or are new enough.
///
/// # Panics
/// As [`encode`].
pub fn encode_standard(value: &impl Serialize) -> Vec<u8> {
    write::write(value, write::Style::Standard)
}

/// Writes a value over many lines, indented by tabs: the form of files.
///
/// # Panics
/// As [`encode`].
pub fn encode_pretty(value: &impl Serialize) -> Vec<u8> {
    write::write(value, write::Style::Pretty)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Queue {
        broker_name: String,
        queue_id: i32,
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Sample {
        addresses: BTreeMap<i64, String>,
        is_on: bool,
        kind: Kind,
        list: Vec<i32>,
        maybe: Option<String>,
        name: String,
        rate: f64,
        table: BTreeMap<Queue, u64>,
        #[serde(flatten)]
        rest: Unknown,
    }

    #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
    enum Kind {
        #[default]
        First,
        Second,
    }

    fn sample() -> Sample {
        Sample {
            addresses: [(0, "10.0.0.1:10911".to_owned()), (-1, String::new())].into(),
            is_on: true,
            kind: Kind::Second,
            list: vec![1, -2],
            maybe: None,
            name: "a\u{1}\"b\"".to_owned(),
            rate: 0.5,
            table: [(Queue { broker_name: "b".to_owned(), queue_id: 3 }, 7)].into(),
            rest: Unknown::from_iter([("later".to_owned(), serde_json::json!({"x": [1, {}]}))]),
        }
    }

    #[test]
    fn each_style_is_fastjsons() {
        let compact = r#"{"addresses":{-1:"",0:"10.0.0.1:10911"},"isOn":true,"kind":"Second","list":[1,-2],"name":"a\u0001\"b\"","rate":0.5,"table":{{"brokerName":"b","queueId":3}:7},"later":{"x":[1,{}]}}"#;
        assert_eq!(String::from_utf8(encode(&sample())).unwrap(), compact);
        assert_eq!(decode(compact.as_bytes()), Ok(sample()));
        let standard = String::from_utf8(encode_standard(&sample().addresses)).unwrap();
        assert_eq!(standard, r#"{"-1":"","0":"10.0.0.1:10911"}"#);
        let pretty =
            String::from_utf8(encode_pretty(&(1, BTreeMap::from([(2, ())]), [Queue::default()])));
        let expected = "[\n\t1,\n\t{},\n\t[\n\t\t{\n\t\t\t\"brokerName\":\"\",\n\t\t\t\"queueId\":0\n\t\t}\n\t]\n]";
        assert_eq!(pretty.unwrap(), expected);
        assert_eq!(decode(&encode_pretty(&sample())), Ok(sample()));
    }

    #[test]
    fn reading_is_as_lenient_as_fastjson() {
        let queue = Queue { broker_name: "7".to_owned(), queue_id: 3 };
        for text in [
            r#" { 'BROKER_NAME' : 7 , queueid : "3" , "else":[{}] , } "#,
            r#"{"brokerName":"\u0037","queue_id":3.0}"#,
        ] {
            assert_eq!(decode::<Queue>(text.as_bytes()), Ok(queue.clone()), "{text}");
        }
        assert_eq!(
            decode::<Queue>(b"{\"brokerName\":null,\"queueId\":null}"),
            Ok(Queue::default())
        );
        assert_eq!(decode::<Queue>(b"null"), Ok(Queue::default()));
        assert_eq!(decode::<Vec<i32>>(b"null"), Ok(vec![]));
        let keys = decode::<BTreeMap<i64, i64>>(b"{\"1\":\"2\",3:4}");
        assert_eq!(keys, Ok(BTreeMap::from([(1, 2), (3, 4)])));
        assert_eq!(
            decode::<Vec<bool>>(b"[true,\"true\",1,null,0]"),
            Ok(vec![true, true, true, false, false])
        );
    }

    #[test]
    fn unknown_members_survive_with_any_keys() {
        let text = br#"{"name":"n","new":{0:[{"a":1}],"q":{{"t":1}:2}}}"#;
        let sample: Sample = decode(text).unwrap();
        let again: Sample = decode(&encode(&sample)).unwrap();
        assert_eq!(again.rest["new"]["0"][0]["a"], 1);
        assert_eq!(again, sample);
    }

    #[test]
    fn what_has_another_shape_is_an_error() {
        for text in
            ["", "{", "[1]", "{\"queueId\":\"x\"}", "{\"queueId\":{}}", "{\"queueId\":9999999999}"]
        {
            assert!(decode::<Queue>(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(decode::<Value>(deep.as_bytes()).is_err());
        assert!(decode::<Queue>(format!("{{\"x\":{deep}").as_bytes()).is_err());
    }

    #[test]
    fn small_values_do_not_fill_more_memory_than_their_text_deserves() {
        let list = |elements: usize| format!("[{}]", "{},".repeat(elements));
        assert_eq!(decode::<Vec<Sample>>(list(100).as_bytes()).map(|list| list.len()), Ok(100));
        assert!(decode::<Vec<Sample>>(list(100_000).as_bytes()).is_err());
        assert!(decode::<Value>(list(100_000).as_bytes()).is_err());
        assert!(decode::<Vec<u8>>(list(100_000).replace("{}", "1").as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn values_come_back(
            addresses: BTreeMap<i64, String>, is_on: bool, list: Vec<i32>,
            maybe in prop::option::of("\\PC{0,9}"), rate in -1e20f64..1e20,
            table in prop::collection::btree_map(("\\PC{0,5}", any::<i32>()), any::<u64>(), 0..4),
        ) {
            let key = |(broker_name, queue_id)| Queue { broker_name, queue_id };
            let table = table.into_iter().map(|(queue, n)| (key(queue), n)).collect();
            let value = Sample { addresses, is_on, list, maybe, rate, table, ..sample() };
            prop_assert_eq!(decode(&encode(&value)), Ok(value.clone()));
            prop_assert_eq!(decode(&encode_pretty(&value)), Ok(value));
        }

        #[test]
        fn any_text_is_an_answer(text in "[\\[\\]{}:,\"'a1\\\\u .-]{0,60}", bytes: Vec<u8>) {
            let _ = decode::<Sample>(text.as_bytes());
            let _ = decode::<Value>(text.as_bytes());
            let _ = decode::<BTreeMap<Queue, Queue>>(text.as_bytes());
            let _ = decode::<Value>(&bytes);
        }
    }
}
