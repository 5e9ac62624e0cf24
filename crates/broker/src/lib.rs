//! Messaging rules: topics, publish, pull, groups, offsets, locks.
//!
//! [`Broker`] is the one handle that a door holds. It knows no request code, no header and no socket; requests, answers
//! and errors are those of [`api`]. Everything that can grow has a bound in [`Options`].

pub mod api;
mod options;
mod seam;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use bytestring::ByteString;

use api::*;
pub use options::{DELAY_LEVELS, Options, parse_delay_levels};
use seam::*;

/// The rules over one store; a cheap handle.
#[derive(Clone)]
pub struct Broker {
    _inner: Arc<()>,
}

/// A connected client; dropping it says goodbye to every group that the client is in.
pub struct Session {
    _broker: Broker,
}

/// Which end of equal or missing store times [`Broker::offset_at`] means.
pub type Boundary = bool;

#[allow(unused_variables, clippy::unused_async, missing_docs, clippy::missing_errors_doc)]
impl Broker {
    // pub fn open(options: Options, store: Store, env: Env) -> Result<Broker, OpenError>;
    // pub fn store(&self) -> &Store;
    /// The options as they are now.
    pub fn options(&self) -> Arc<Options> {
        unimplemented!()
    }
    /// Housekeeping until dropped: offsets to disk, silent clients out, levels delivered. Spawn it once.
    pub async fn run(self) {
        unimplemented!()
    }
    /// Writes every table; call it after the last request.
    pub fn shutdown(&self) {
        unimplemented!()
    }

    // Messages.
    /// Appends a run of sends in one go; each item succeeds or fails alone. Never waits.
    pub fn publish(&self, cx: &Caller, run: PublishRun) -> PublishAnswers {
        unimplemented!()
    }
    /// Answers with messages, or waits for some inside as long as the request allows.
    pub async fn pull(&self, cx: &Caller, request: Pull) -> Result<Pulled, PullError> {
        unimplemented!()
    }
    /// Takes a message back for a later try or for the dead letters.
    pub async fn send_back(
        &self,
        cx: &Caller,
        request: SendBack,
    ) -> Result<Option<Ticket>, SendBackError> {
        unimplemented!()
    }
    /// The record at a log offset (VIEW_MESSAGE_BY_ID).
    pub async fn message_at(&self, log_offset: i64) -> Result<Bytes, FindError> {
        unimplemented!()
    }
    /// Records with a key, newest first (QUERY_MESSAGE).
    pub async fn messages_with_key(
        &self,
        topic: &str,
        key: &str,
        count_max: usize,
        begin_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<Bytes>, FindError> {
        unimplemented!()
    }

    // Offsets.
    pub fn consumer_offset(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        if_unknown: IfUnknown,
    ) -> Result<i64, OffsetError> {
        unimplemented!()
    }
    pub fn commit_offset(
        &self,
        cx: &Caller,
        group: &str,
        topic: &str,
        queue_id: i32,
        offset: i64,
    ) -> Result<Committed, CommitError> {
        unimplemented!()
    }
    pub fn max_offset(&self, topic: &str, queue_id: i32) -> i64 {
        unimplemented!()
    }
    pub fn min_offset(&self, topic: &str, queue_id: i32) -> i64 {
        unimplemented!()
    }
    pub fn offset_at(&self, topic: &str, queue_id: i32, time_ms: i64, boundary: Boundary) -> i64 {
        unimplemented!()
    }
    /// Store time of the first message of the queue, -1 when there is none.
    pub async fn earliest_store_time(&self, topic: &str, queue_id: i32) -> i64 {
        unimplemented!()
    }

    // Clients.
    /// Says hello for a connection; its heartbeats go through the session.
    pub fn connect(&self, channel: Arc<dyn ClientChannel>) -> Session {
        unimplemented!()
    }
    pub fn consumer_ids(&self, group: &str) -> Result<Vec<ByteString>, ClientsError> {
        unimplemented!()
    }
    pub fn consumer_connection(&self, group: &str) -> Result<ConsumerConnection, ClientsError> {
        unimplemented!()
    }
    pub fn producer_connection(&self, group: &str) -> Result<ProducerConnection, ClientsError> {
        unimplemented!()
    }
    pub fn check_subscription(
        &self,
        subscription: &SubscriptionData,
    ) -> Result<(), SubscriptionError> {
        unimplemented!()
    }

    // Queue locks.
    /// Returns the queues among `queues` that the client holds now.
    pub fn lock_queues(
        &self,
        group: &str,
        client_id: &str,
        queues: &[MessageQueue],
    ) -> Vec<MessageQueue> {
        unimplemented!()
    }
    pub fn unlock_queues(&self, group: &str, client_id: &str, queues: &[MessageQueue]) {
        unimplemented!()
    }

    // Topics and groups.
    pub fn create_topics(&self, topics: Vec<TopicConfig>) -> Result<(), TopicError> {
        unimplemented!()
    }
    pub fn delete_topic(&self, topic: &str) -> Result<(), TopicError> {
        unimplemented!()
    }
    pub fn topic(&self, topic: &str) -> Result<Arc<TopicConfig>, TopicError> {
        unimplemented!()
    }
    /// The whole table, for registration and GET_ALL_TOPIC_CONFIG.
    pub fn topics(&self) -> Arc<TopicConfigSerializeWrapper> {
        unimplemented!()
    }
    pub fn system_topics(&self) -> Vec<ByteString> {
        unimplemented!()
    }
    /// Changes whenever a topic does: what registration waits on.
    pub fn topics_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        unimplemented!()
    }
    pub fn create_groups(&self, groups: Vec<SubscriptionGroupConfig>) -> Result<(), GroupError> {
        unimplemented!()
    }
    pub fn delete_group(&self, group: &str, clean_offset: bool) -> Result<(), GroupError> {
        unimplemented!()
    }
    pub fn group(&self, group: &str) -> Result<Arc<SubscriptionGroupConfig>, GroupError> {
        unimplemented!()
    }
    pub fn groups(&self) -> Arc<SubscriptionGroupWrapper> {
        unimplemented!()
    }

    // Administration.
    pub fn runtime_info(&self) -> BTreeMap<String, String> {
        unimplemented!()
    }
    pub async fn topic_stats(&self, topic: &str) -> Result<TopicStatsTable, TopicError> {
        unimplemented!()
    }
    /// `topics` empty means all that the group has consumed.
    pub async fn consume_stats(
        &self,
        group: &str,
        topics: &[ByteString],
    ) -> Result<ConsumeStats, TopicError> {
        unimplemented!()
    }
    pub fn groups_of_topic(&self, topic: &str) -> Vec<ByteString> {
        unimplemented!()
    }
    pub fn topics_of_group(&self, group: &str) -> Vec<ByteString> {
        unimplemented!()
    }
    /// Keys and values of the configuration that is in force.
    pub fn config(&self) -> BTreeMap<String, String> {
        unimplemented!()
    }
    pub fn update_config(&self, changes: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        unimplemented!()
    }
}

#[allow(unused_variables, missing_docs, clippy::missing_errors_doc)]
impl Session {
    pub fn heartbeat(
        &self,
        cx: &Caller,
        data: HeartbeatData,
    ) -> Result<HeartbeatAnswer, HeartbeatError> {
        unimplemented!()
    }
    pub fn unregister(
        &self,
        client_id: &str,
        producer_group: Option<&str>,
        consumer_group: Option<&str>,
    ) {
        unimplemented!()
    }
}
