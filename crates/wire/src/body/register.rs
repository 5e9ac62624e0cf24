//! A broker's registration at a name server, as JSON or deflated.
//!
//! ```text
//! zlib( length int, data version JSON
//!     | topics int, { length int, topic line }*          TopicConfig::to_line
//!     | length int, filter servers JSON
//!     | mappings int, { length int, mapping JSON }* )    from 5.0.0 on
//! ```
//!
//! Inflating is bounded by the caller; a length is believed only as far as bytes arrive.
//! Java: `RegisterBrokerBody`.

use std::collections::BTreeMap;
use std::io::{self, Read};

use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::topic::{TopicConfig, TopicConfigTable};
use crate::code::version;
use crate::fastjson;

/// REGISTER_BROKER (Java: `RegisterBrokerBody`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegisterBrokerBody {
    /// Filter servers of 4.x.
    pub filter_server_list: Vec<String>,
    /// The broker's topics; without order and flag if they came deflated.
    pub topic_config_serialize_wrapper: TopicConfigTable,
}

/// Why a registration could not be read.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// Not deflated, cut short, or larger than allowed when inflated.
    #[error("the registration cannot be inflated: {0}")]
    Inflate(#[from] io::Error),
    /// A part is not the JSON it should be.
    #[error("the registration is malformed: {0}")]
    Json(#[from] fastjson::Error),
    /// More topics or mappings than the allowed bytes could hold.
    #[error("the registration says {0} topics or mappings")]
    TooMany(u32),
    /// A topic's line is malformed.
    #[error("the registration has a malformed topic: {0}")]
    Topic(String),
}

impl RegisterBrokerBody {
    /// Reads the JSON form.
    pub fn decode(bytes: &[u8]) -> Result<RegisterBrokerBody, RegisterError> {
        Ok(fastjson::decode(bytes)?)
    }

    /// Reads the deflated form of a broker of `broker_version`. At most `inflated_bytes_max` bytes
    /// are inflated, and as much memory is filled with topics.
    pub fn inflate(
        bytes: &[u8],
        broker_version: i32,
        inflated_bytes_max: u64,
    ) -> Result<RegisterBrokerBody, RegisterError> {
        let mut input = ZlibDecoder::new(bytes).take(inflated_bytes_max);
        let mut table = TopicConfigTable {
            data_version: fastjson::decode(&block(&mut input)?)?,
            ..TopicConfigTable::default()
        };
        let count = |input: &mut _| match number(input)? {
            count if u64::from(count) * size_of::<TopicConfig>() as u64 > inflated_bytes_max => {
                Err(RegisterError::TooMany(count))
            }
            count => Ok(count),
        };
        for _ in 0..count(&mut input)? {
            let line = block(&mut input)?;
            let line = String::from_utf8_lossy(&line);
            let config = TopicConfig::from_line(&line)
                .ok_or_else(|| RegisterError::Topic(line.chars().take(200).collect()))?;
            table.topic_config_table.insert(config.topic_name.clone(), config);
        }
        let filter_server_list = fastjson::decode(&block(&mut input)?).unwrap_or_default();
        if broker_version >= version::V5_0_0 {
            let mut mappings = BTreeMap::new();
            for _ in 0..count(&mut input)? {
                let mapping: fastjson::Value = fastjson::decode(&block(&mut input)?)?;
                let topic = mapping["topic"].as_str().unwrap_or_default().to_owned();
                mappings.insert(topic, mapping);
            }
            table.topic_queue_mapping_info_map = Some(mappings);
        }
        Ok(RegisterBrokerBody { filter_server_list, topic_config_serialize_wrapper: table })
    }

    /// Writes the JSON form.
    pub fn encode(&self) -> Vec<u8> {
        fastjson::encode(self)
    }

    /// Writes the deflated form, with the mappings of 5.0.0.
    pub fn deflate(&self) -> Vec<u8> {
        let table = &self.topic_config_serialize_wrapper;
        let mut out = Plain(Vec::new());
        out.block(&fastjson::encode(&table.data_version));
        out.number(table.topic_config_table.len());
        for config in table.topic_config_table.values() {
            out.block(config.to_line().as_bytes());
        }
        out.block(&fastjson::encode(&self.filter_server_list));
        let mappings = table.topic_queue_mapping_info_map.iter().flatten();
        out.number(mappings.clone().count());
        for (_, mapping) in mappings {
            out.block(&fastjson::encode(mapping));
        }
        let mut deflated = Vec::new();
        let mut input = ZlibEncoder::new(out.0.as_slice(), Compression::best());
        input.read_to_end(&mut deflated).expect("deflating memory does not fail");
        deflated
    }
}

struct Plain(Vec<u8>);

impl Plain {
    fn number(&mut self, number: usize) {
        let number = u32::try_from(number).expect("a table has fewer than 4 Gi rows");
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn block(&mut self, block: &[u8]) {
        self.number(block.len());
        self.0.extend_from_slice(block);
    }
}

fn number(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn block(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let len = number(input)?;
    let mut block = Vec::new();
    let got = input.take(len.into()).read_to_end(&mut block)?;
    if got == len as usize { Ok(block) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES_MAX: u64 = 1 << 20;

    fn sample(topics: usize) -> RegisterBrokerBody {
        let mut body = RegisterBrokerBody {
            filter_server_list: vec!["f".to_owned()],
            ..RegisterBrokerBody::default()
        };
        let table = &mut body.topic_config_serialize_wrapper;
        table.data_version.counter = 7;
        table.topic_queue_mapping_info_map = Some(BTreeMap::from([(
            "static".to_owned(),
            serde_json::json!({"topic": "static", "totalQueues": 8}),
        )]));
        for topic in 0..topics {
            let topic_name = format!("topic-{topic}");
            let config = TopicConfig { topic_name: topic_name.clone(), ..TopicConfig::default() };
            table.topic_config_table.insert(topic_name, config);
        }
        body
    }

    #[test]
    fn both_forms_come_back() {
        let body = sample(100);
        assert_eq!(RegisterBrokerBody::decode(&body.encode()).unwrap(), body);
        let inflated = RegisterBrokerBody::inflate(&body.deflate(), version::OURS, BYTES_MAX);
        assert_eq!(inflated.unwrap(), body);
        let of_4x =
            RegisterBrokerBody::inflate(&body.deflate(), version::V4_9_4, BYTES_MAX).unwrap();
        assert_eq!(of_4x.topic_config_serialize_wrapper.topic_queue_mapping_info_map, None);
    }

    #[test]
    fn a_bomb_and_a_cut_stream_are_refused() {
        let deflated = sample(1000).deflate();
        assert!(RegisterBrokerBody::inflate(&deflated, version::OURS, 5_000).is_err());
        let cut = &deflated[..deflated.len() / 2];
        assert!(RegisterBrokerBody::inflate(cut, version::OURS, BYTES_MAX).is_err());
        let many = RegisterBrokerBody::inflate(&deflated, version::OURS, 100_000);
        assert!(matches!(many, Err(RegisterError::TooMany(1000))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(plain: Vec<u8>) {
            let mut deflated = Vec::new();
            let mut input = ZlibEncoder::new(plain.as_slice(), Compression::fast());
            input.read_to_end(&mut deflated).unwrap();
            let _ = RegisterBrokerBody::inflate(&deflated, version::OURS, BYTES_MAX);
            let _ = RegisterBrokerBody::inflate(&plain, version::OURS, BYTES_MAX);
            let _ = RegisterBrokerBody::decode(&plain);
        }
    }
}
