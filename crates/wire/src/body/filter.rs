//! Conditions of consumer groups, as the broker keeps them (`consumerFilter.json`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fastjson::Unknown;

/// The table of conditions (Java: `ConsumerFilterManager`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerFilterTable {
    /// Conditions by topic.
    pub filter_data_by_topic: BTreeMap<String, TopicFilters>,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

/// The conditions on one topic (Java: `ConsumerFilterManager.FilterDataMapByTopic`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicFilters {
    /// Conditions by group.
    pub group_filter_data: BTreeMap<String, ConsumerFilter>,
    /// The topic.
    pub topic: String,
}

/// What a group wants of a topic (Java: `ConsumerFilterData`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerFilter {
    /// The group's bits in the bit maps of messages.
    pub bloom_filter_data: Option<BloomFilterData>,
    /// When the condition became known, in epoch milliseconds: older messages have no bit for it.
    pub born_time: i64,
    /// Version of the subscription that it came with.
    pub client_version: i64,
    /// The group.
    pub consumer_group: String,
    /// Whether the group has left: `dead_time` is not before `born_time`. Nobody believes what was read.
    pub dead: bool,
    /// When the group left, in epoch milliseconds; 0 while it is there.
    pub dead_time: i64,
    /// The condition.
    pub expression: String,
    /// Its type, [`SubscriptionData::SQL92`](super::client::SubscriptionData::SQL92).
    pub expression_type: String,
    /// The topic.
    pub topic: String,
    /// Members of newer versions.
    #[serde(flatten)]
    pub rest: Unknown,
}

/// Which bits of a bit map are a group's (Java: `BloomFilterData`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BloomFilterData {
    /// Bits of the whole map.
    pub bit_num: i32,
    /// The group's.
    pub bit_pos: Vec<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{decode, encode};

    #[test]
    fn a_table_of_java_is_read_and_written_the_same() {
        let text = r#"{"filterDataByTopic":{"T":{"groupFilterData":{"G":{"bloomFilterData":{"bitNum":216,"bitPos":[184,66,51]},"bornTime":1795395302554,"clientVersion":1700000000123,"consumerGroup":"G","dead":false,"deadTime":0,"expression":"a > 5 AND b = 'x'","expressionType":"SQL92","topic":"T"}},"topic":"T"}}}"#;
        let table: ConsumerFilterTable = decode(text.as_bytes()).unwrap();
        let filter = &table.filter_data_by_topic["T"].group_filter_data["G"];
        assert_eq!(
            (filter.expression.as_str(), filter.client_version),
            ("a > 5 AND b = 'x'", 1_700_000_000_123)
        );
        assert_eq!(filter.bloom_filter_data.as_ref().unwrap().bit_pos, [184, 66, 51]);
        assert_eq!(String::from_utf8(encode(&table)).unwrap(), text);
        assert_eq!(decode(br#"{"filterDataByTopic":{}}"#), Ok(ConsumerFilterTable::default()));
    }
}
