//! Stand-ins for types of `wire::frame` and `wire::body`, until those have landed; same names, same fields.
#![allow(missing_docs)]

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language(pub u8);
pub struct HeartbeatData;
pub struct SubscriptionData;
pub struct TopicConfig;
pub struct TopicConfigSerializeWrapper;
pub struct TopicStatsTable;
pub struct SubscriptionGroupConfig;
pub struct SubscriptionGroupWrapper;
pub struct ConsumerConnection;
pub struct ProducerConnection;
pub struct ConsumeStats;
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageQueue;
