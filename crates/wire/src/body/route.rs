//! Where topics live: routes, clusters, members of a broker set.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::fastjson::Value;

/// Brokers of a topic and their queues (Java: `TopicRouteData`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicRouteData {
    /// The brokers.
    pub broker_datas: Vec<BrokerData>,
    /// Filter servers of 4.x, by broker address.
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    /// Order of an order topic: `broker-a:4;broker-b:4`.
    pub order_topic_conf: Option<String>,
    /// The queues.
    pub queue_datas: Vec<QueueData>,
    /// Mapping of a static topic, by broker name.
    pub topic_queue_mapping_by_broker: Option<BTreeMap<String, Value>>,
}

/// Queues of a topic at a broker set (Java: `QueueData`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueData {
    /// Name of the set.
    pub broker_name: String,
    /// See [`crate::names::perm`].
    pub perm: i32,
    /// Queues to read from.
    pub read_queue_nums: i32,
    /// See [`crate::names::topic_flag`].
    pub topic_sys_flag: i32,
    /// Queues to write to.
    pub write_queue_nums: i32,
}

/// A broker set (Java: `BrokerData`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BrokerData {
    /// Addresses by id; 0 is the master.
    pub broker_addrs: BTreeMap<i64, String>,
    /// Name of the set.
    pub broker_name: String,
    /// Its cluster.
    pub cluster: String,
    /// Whether a slave may act for an absent master.
    pub enable_acting_master: bool,
    /// Zone it stands in.
    pub zone_name: Option<String>,
}

/// All broker sets by name, and their names by cluster (Java: `ClusterInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterInfo {
    /// Sets by name.
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    /// Names of the sets by cluster.
    pub cluster_addr_table: BTreeMap<String, BTreeSet<String>>,
}

/// Members of a broker set (Java: `BrokerMemberGroup`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BrokerMemberGroup {
    /// Addresses by id.
    pub broker_addrs: BTreeMap<i64, String>,
    /// Name of the set.
    pub broker_name: String,
    /// Its cluster.
    pub cluster: String,
}

/// Answer to GET_BROKER_MEMBER_GROUP (Java: `GetBrokerMemberGroupResponseBody`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetBrokerMemberGroupResponse {
    /// The set, if it is known.
    pub broker_member_group: Option<BrokerMemberGroup>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{decode, encode, encode_standard};

    #[test]
    fn a_route_has_bare_ids_or_standard_ones() {
        let broker = BrokerData {
            broker_addrs: [(0, "10.0.0.1:10911".to_owned())].into(),
            broker_name: "broker-a".to_owned(),
            cluster: "DefaultCluster".to_owned(),
            ..BrokerData::default()
        };
        let queue = QueueData {
            broker_name: "broker-a".to_owned(),
            perm: 6,
            read_queue_nums: 4,
            topic_sys_flag: 0,
            write_queue_nums: 4,
        };
        let route = TopicRouteData {
            broker_datas: vec![broker],
            queue_datas: vec![queue],
            ..TopicRouteData::default()
        };
        let text = r#"{"brokerDatas":[{"brokerAddrs":{0:"10.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}"#;
        assert_eq!(encode(&route), text.as_bytes());
        let standard = text.replace("{0:", "{\"0\":");
        assert_eq!(encode_standard(&route), standard.as_bytes());
        assert_eq!(decode(text.as_bytes()), Ok(route.clone()));
        assert_eq!(decode(standard.as_bytes()), Ok(route));
    }
}
