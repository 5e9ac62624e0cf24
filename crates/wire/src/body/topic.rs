//! Topics: their configuration, the table of them, the ends of their queues.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DataVersion, MessageQueue};
use crate::fastjson::{self, Unknown, Value};

/// Configuration of a topic (Java: `TopicConfig`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicConfig {
    /// Attributes, as `message.type`.
    pub attributes: BTreeMap<String, String>,
    /// Whether the topic is an order topic.
    pub order: bool,
    /// See [`crate::names::perm`].
    pub perm: i32,
    /// Queues to read from.
    pub read_queue_nums: i32,
    /// Whether its messages have one tag or several.
    pub topic_filter_type: TopicFilterType,
    /// The topic.
    pub topic_name: String,
    /// See [`crate::names::topic_flag`].
    pub topic_sys_flag: i32,
    /// Queues to write to.
    pub write_queue_nums: i32,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig {
            attributes: BTreeMap::new(),
            order: false,
            perm: crate::names::perm::READ | crate::names::perm::WRITE,
            read_queue_nums: 16,
            topic_filter_type: TopicFilterType::SingleTag,
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
            rest: Unknown::new(),
        }
    }
}

/// Whether a topic's messages have one tag or several (Java: `TopicFilterType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TopicFilterType {
    /// Several.
    MultiTag,
    /// One; also what is neither.
    #[default]
    #[serde(other)]
    SingleTag,
}

impl TopicFilterType {
    /// Java's name.
    pub const fn name(self) -> &'static str {
        match self {
            TopicFilterType::MultiTag => "MULTI_TAG",
            TopicFilterType::SingleTag => "SINGLE_TAG",
        }
    }

    /// The type called `name`; single for any other name.
    pub fn from_name(name: &str) -> TopicFilterType {
        if name == "MULTI_TAG" { TopicFilterType::MultiTag } else { TopicFilterType::SingleTag }
    }
}

impl TopicConfig {
    /// Whether the topic's queues are of batches (Java: `QueueTypeUtils.isBatchCq`).
    pub fn is_batched(&self) -> bool {
        self.attributes.get("queue.type").is_some_and(|kind| kind == "BatchCQ")
    }

    /// The one-line text of the deflated registration: name, queues, permission, filter type and
    /// attributes, with a space between; order and flag are not in it.
    pub fn to_line(&self) -> String {
        let attributes = fastjson::encode(&self.attributes);
        let attributes = String::from_utf8_lossy(&attributes);
        let TopicConfig { topic_name, read_queue_nums, write_queue_nums, perm, .. } = self;
        let filter_type = self.topic_filter_type.name();
        format!(
            "{topic_name} {read_queue_nums} {write_queue_nums} {perm} {filter_type} {attributes}"
        )
    }

    /// Reads what [`TopicConfig::to_line`] writes; `None` if it is no such line. Unreadable
    /// attributes are left out, as Java does.
    pub fn from_line(line: &str) -> Option<TopicConfig> {
        let mut words = line.split(' ');
        Some(TopicConfig {
            topic_name: words.next()?.to_owned(),
            read_queue_nums: words.next()?.parse().ok()?,
            write_queue_nums: words.next()?.parse().ok()?,
            perm: words.next()?.parse().ok()?,
            topic_filter_type: TopicFilterType::from_name(words.next()?),
            attributes: words
                .next()
                .and_then(|word| fastjson::decode(word.as_bytes()).ok())
                .unwrap_or_default(),
            ..TopicConfig::default()
        })
    }
}

/// The table of topics, as a file (`topics.json`), in registrations and between brokers (Java:
/// `TopicConfigSerializeWrapper`, `TopicConfigAndMappingSerializeWrapper`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicConfigTable {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Version of the mappings of static topics.
    pub mapping_data_version: Option<DataVersion>,
    /// Topics by name.
    pub topic_config_table: BTreeMap<String, TopicConfig>,
    /// Mappings of static topics in full, by topic.
    pub topic_queue_mapping_detail_map: Option<BTreeMap<String, Value>>,
    /// Mappings of static topics in short, by topic.
    pub topic_queue_mapping_info_map: Option<BTreeMap<String, Value>>,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

/// UPDATE_AND_CREATE_TOPIC_LIST (Java: `CreateTopicListRequestBody`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CreateTopicList {
    /// Topics to create or change.
    pub topic_config_list: Vec<TopicConfig>,
}

/// Ends of a topic's queues (Java: `TopicStatsTable`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicStatsTable {
    /// Ends by queue.
    pub offset_table: BTreeMap<MessageQueue, TopicOffset>,
    /// Messages sent to the topic per second.
    pub topic_put_tps: f64,
}

/// Ends of a queue (Java: `TopicOffset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicOffset {
    /// Store time of its last message, in epoch milliseconds.
    pub last_update_timestamp: i64,
    /// Offset behind the last message.
    pub max_offset: i64,
    /// Offset of the first message.
    pub min_offset: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{decode, encode, encode_pretty};

    #[test]
    fn a_line_comes_back() {
        let config = TopicConfig {
            topic_name: "T".to_owned(),
            attributes: [("message.type".to_owned(), "FIFO".to_owned())].into(),
            ..TopicConfig::default()
        };
        assert_eq!(config.to_line(), r#"T 16 16 6 SINGLE_TAG {"message.type":"FIFO"}"#);
        assert_eq!(TopicConfig::from_line(&config.to_line()), Some(config));
        let old = TopicConfig::from_line("T 4 8 2 MULTI_TAG").unwrap();
        assert_eq!((old.read_queue_nums, old.write_queue_nums, old.perm), (4, 8, 2));
        assert_eq!(TopicConfig::from_line("T 4 x 2 MULTI_TAG"), None);
        assert_eq!(TopicConfig::from_line("T 4"), None);
    }

    #[test]
    fn the_file_of_topics_is_javas_and_keeps_what_it_does_not_know() {
        let text = "{\n\t\"dataVersion\":{\n\t\t\"counter\":2,\n\t\t\"stateVersion\":0,\n\t\t\"timestamp\":1700000000000\n\t},\n\t\"topicConfigTable\":{\n\t\t\"T\":{\n\t\t\t\"attributes\":{},\n\t\t\t\"order\":false,\n\t\t\t\"perm\":6,\n\t\t\t\"readQueueNums\":8,\n\t\t\t\"topicFilterType\":\"SINGLE_TAG\",\n\t\t\t\"topicName\":\"T\",\n\t\t\t\"topicSysFlag\":0,\n\t\t\t\"writeQueueNums\":8,\n\t\t\t\"later\":[\n\t\t\t\t1\n\t\t\t]\n\t\t}\n\t},\n\t\"new\":true\n}";
        let table: TopicConfigTable = decode(text.as_bytes()).unwrap();
        assert_eq!(table.topic_config_table["T"].read_queue_nums, 8);
        assert_eq!(String::from_utf8(encode_pretty(&table)).unwrap(), text);
    }

    #[test]
    fn queues_are_objects_as_keys() {
        let queue =
            MessageQueue { broker_name: "b".to_owned(), queue_id: 0, topic: "T".to_owned() };
        let ends = TopicOffset { min_offset: 0, max_offset: 7, last_update_timestamp: 9 };
        let stats = TopicStatsTable { offset_table: [(queue, ends)].into(), topic_put_tps: 0.0 };
        let text = br#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:{"lastUpdateTimestamp":9,"maxOffset":7,"minOffset":0}},"topicPutTps":0.0}"#;
        assert_eq!(String::from_utf8(encode(&stats)).unwrap().as_bytes(), text);
        assert_eq!(decode(text), Ok(stats));
    }
}
