//! Bodies: what requests, responses and configuration files say in JSON ([`crate::fastjson`]).
//!
//! Members are declared in alphabetical order, as fastjson writes them; what is absent has Java's
//! default. What a server persists keeps the members it does not know ([`crate::fastjson::Unknown`]).
//! The one body that is not JSON is the deflated registration ([`register`]).

pub mod client;
pub mod filter;
pub mod group;
pub mod inspect;
pub mod lock;
pub mod progress;
pub mod register;
pub mod route;
pub mod topic;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which state of a table is meant (Java: `DataVersion`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataVersion {
    /// Changes so far.
    pub counter: i64,
    /// Version of the state machine that the change belongs to; 0 outside of controller mode.
    pub state_version: i64,
    /// When the last change was made, in epoch milliseconds.
    pub timestamp: i64,
}

impl DataVersion {
    /// Counts a change made at `now`, in epoch milliseconds.
    pub fn advance(&mut self, now: i64) {
        self.counter += 1;
        self.timestamp = now;
    }
}

/// A queue of a topic at a broker set (Java: `MessageQueue`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MessageQueue {
    /// Name of the broker's set.
    pub broker_name: String,
    /// Queue of the topic.
    pub queue_id: i32,
    /// The topic.
    pub topic: String,
}

/// Names with values: runtime information, a namespace of the name server (Java: `KVTable`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KvTable {
    /// The pairs.
    pub table: BTreeMap<String, String>,
}

/// Names of topics (Java: `TopicList`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicList {
    /// Address of some broker, with system topics.
    pub broker_addr: Option<String>,
    /// The topics.
    pub topic_list: Vec<String>,
}

/// Names of groups (Java: `GroupList`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupList {
    /// The groups.
    pub group_list: Vec<String>,
}

/// Clients of a consumer group (Java: `GetConsumerListByGroupResponseBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerIdList {
    /// Their ids.
    pub consumer_id_list: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{decode, encode};

    #[test]
    fn small_bodies_are_those_of_java() {
        let version = DataVersion { counter: 1, state_version: 0, timestamp: 1_700_000_000_000 };
        let text = br#"{"counter":1,"stateVersion":0,"timestamp":1700000000000}"#;
        assert_eq!(encode(&version), text);
        assert_eq!(decode(text), Ok(version));
        let list = TopicList { broker_addr: None, topic_list: vec!["T".to_owned()] };
        assert_eq!(encode(&list), br#"{"topicList":["T"]}"#);
        assert_eq!(encode(&KvTable::default()), br#"{"table":{}}"#);
    }
}
