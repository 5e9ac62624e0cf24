//! Questions to consumers: an administrator asks, the consumer behind its own connection answers.
//!
//! Question and answer are passed on as they are. A consumer behind another door has no connection of this protocol and
//! cannot be asked. (Java: `AdminBrokerProcessor#callConsumer`, `Broker2Client`)

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use broker::{Broker, api::Consumer};
use bytes::Bytes;
use env::Clock;
use remoting::{CallError, Connection};
use tokio::{sync::Mutex, task::JoinSet};
use wire::{
    body::{client::ConsumerRunningInfo, progress::ConsumerStatus},
    code::{RequestCode, ResponseCode, version},
    fastjson,
    frame::Frame,
    header::{client::OneConsumer, group::GroupTopic, offset::GetConsumerStatus},
    id::OffsetId,
};

use crate::v4::{
    errors::Refusal,
    session::{Answer, connection_of, success},
};

use super::with_json;

/// How long one consumer may take to answer, and each of several.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_WITH_EACH: Duration = Duration::from_secs(5);

/// How long a client may take to say what it subscribes to, and for how long it is then not asked again.
const INQUIRY_PATIENCE: Duration = Duration::from_secs(3);
const INQUIRY_PAUSE: Duration = Duration::from_secs(1);

/// GET_CONSUMER_RUNNING_INFO: how a consumer says that it is doing.
pub(crate) async fn running_info(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneConsumer<'_> = request.header()?;
    let mut question = Frame::request(request.request_code(), &());
    question.ext = request.ext.clone();
    ask_one(broker, &asked, request, question.with_body(request.body_bytes())).await
}

/// CONSUME_MESSAGE_DIRECTLY: has a consumer consume a stored message, and returns what came of it.
pub(crate) async fn consume(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneConsumer<'_> = request.header()?;
    let wrong_id = |error: &dyn std::fmt::Display| {
        let id = asked.msg_id.unwrap_or_default();
        Refusal::new(ResponseCode::SYSTEM_ERROR, format!("msgId `{id}` names no message: {error}"))
    };
    let id = OffsetId::parse(asked.msg_id.unwrap_or_default()).map_err(|error| wrong_id(&error))?;
    let message = broker.message_at(id.log_offset as i64).await;
    let message: Bytes = message.map_err(|error| wrong_id(&error))?;
    let mut question = Frame::request(request.request_code(), &());
    question.ext = request.ext.clone();
    question.ext.put("brokerName", &broker.options().broker_name);
    if let Some(topic) = asked.topic.and_then(|topic| broker.topic(topic).ok()) {
        question.ext.put("topicSysFlag", &topic.topic_sys_flag.to_string());
    }
    if let Ok(group) = broker.group(asked.consumer_group) {
        question.ext.put("groupSysFlag", &group.group_sys_flag.to_string());
    }
    ask_one(broker, &asked, request, question.with_body(message)).await
}

/// INVOKE_BROKER_TO_GET_CONSUMER_STATUS: asks consumers of a group how far they are; who does not answer is left out.
pub(crate) async fn status(broker: &Broker, request: &Frame) -> Answer {
    let asked: GetConsumerStatus<'_> = request.header()?;
    let refuse = |remark| Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    let mut consumers = broker.consumers(asked.group);
    if consumers.is_empty() {
        return refuse(format!("No Any Consumer online in the consumer group: [{}]", asked.group));
    }
    if let Some(old) = consumers.iter().find(|consumer| consumer.version < version::V3_0_7) {
        let version = version::name(old.version);
        return refuse(format!("the client does not support this feature. version={version}"));
    }
    if let Some(wanted) = asked.client_addr.filter(|id| !id.trim().is_empty()) {
        consumers.retain(|consumer| &*consumer.client_id == wanted);
    }
    let mut asking = JoinSet::new();
    let header = GroupTopic { group: asked.group, topic: asked.topic };
    for Consumer { client_id, channel, .. } in consumers {
        let Some(connection) = connection_of(&*channel) else { continue };
        let question = Frame::request(RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT, &header);
        asking.spawn(async move {
            let answer = connection.call(question, PATIENCE_WITH_EACH).await.ok()?;
            let is_success = answer.response_code() == ResponseCode::SUCCESS;
            let body = is_success.then(|| fastjson::decode(&answer.body_bytes()).ok());
            let status: ConsumerStatus = body.flatten()?;
            Some((client_id.to_string(), status.message_queue_table))
        });
    }
    let mut consumer_table = BTreeMap::new();
    while let Some(answer) = asking.join_next().await {
        consumer_table.extend(answer.ok().flatten());
    }
    let body = ConsumerStatus { consumer_table, ..ConsumerStatus::default() };
    Ok(with_json(success(request), &body))
}

/// Asks the consumer of one connection what it subscribes to now.
///
/// A 5.x client gives its subscriptions a new version at each rebalance and then sends a heartbeat, unless another one is
/// under way just then: its pulls name a version that no heartbeat brings for half a minute. The original refuses them
/// until then.
#[derive(Clone)]
pub(crate) struct Inquiry {
    connection: Connection,
    clock: Clock,
    /// Whom of the client was asked last. Pulls of several queues come at once and share one question.
    last: Arc<Mutex<Option<Asked>>>,
}

/// A question that was asked: for which group, and when it was over.
struct Asked {
    group: Box<str>,
    at: Duration,
}

impl Inquiry {
    pub(crate) fn new(connection: Connection, clock: Clock) -> Inquiry {
        Inquiry { connection, clock, last: Arc::default() }
    }

    /// Has the broker know the subscriptions of this member of `group`; says whether it may know more than before.
    pub(crate) async fn learn(&self, broker: &Broker, group: &str) -> bool {
        let came_at = self.clock.monotonic();
        let mut last = self.last.lock().await;
        // One client may be in several groups, and what it says of one it does not say of another.
        if let Some(Asked { at, .. }) = last.as_ref().filter(|asked| *asked.group == *group) {
            if *at >= came_at {
                return true;
            }
            if came_at - *at < INQUIRY_PAUSE {
                return false;
            }
        }
        let member = broker.consumer_behind(group, self.connection.id());
        let Some(member) = member else { return false };
        if member.version < version::V3_1_8 {
            return false;
        }
        let header = OneConsumer {
            consumer_group: group,
            client_id: &member.client_id,
            ..OneConsumer::default()
        };
        let question = Frame::request(RequestCode::GET_CONSUMER_RUNNING_INFO, &header);
        let answer = self.connection.call(question, INQUIRY_PATIENCE).await;
        *last = Some(Asked { group: group.into(), at: self.clock.monotonic() });
        let Ok(answer) = answer else { return false };
        let is_success = answer.response_code() == ResponseCode::SUCCESS;
        let info = is_success.then(|| fastjson::decode(&answer.body_bytes()).ok()).flatten();
        let Some(ConsumerRunningInfo { subscription_set, .. }) = info else { return false };
        !subscription_set.is_empty() && broker.resubscribe(group, subscription_set).is_ok()
    }
}

/// Passes a question on to one consumer, and its answer back.
async fn ask_one(
    broker: &Broker,
    asked: &OneConsumer<'_>,
    request: &Frame,
    question: Frame,
) -> Answer {
    let who = format!("<{}> <{}>", asked.consumer_group, asked.client_id);
    let refuse = |code, remark: String| Err(Refusal::new(code, remark));
    let Some(consumer) = broker.consumer(asked.consumer_group, asked.client_id) else {
        return refuse(ResponseCode::SYSTEM_ERROR, format!("The Consumer {who} not online"));
    };
    if consumer.version < version::V3_1_8 {
        let version = version::name(consumer.version);
        let remark = format!(
            "The Consumer {who} Version <{version}> too low to finish, please upgrade it to V3_1_8_SNAPSHOT"
        );
        return refuse(ResponseCode::SYSTEM_ERROR, remark);
    }
    let Some(connection) = connection_of(&*consumer.channel) else {
        let remark = format!("The Consumer {who} speaks another protocol and cannot be asked");
        return refuse(ResponseCode::SYSTEM_ERROR, remark);
    };
    match connection.call(question, PATIENCE).await {
        Ok(Frame { code, remark, ext, body, .. }) => {
            Ok(Frame { remark, ext, body, ..request.respond(ResponseCode(code)) })
        }
        Err(error @ CallError::Timeout(_)) => {
            refuse(ResponseCode::CONSUME_MSG_TIMEOUT, format!("consumer {who} Timeout: {error}"))
        }
        Err(error) => {
            let remark = format!("invoke consumer {who} Exception: {error}");
            refuse(ResponseCode::SYSTEM_ERROR, remark)
        }
    }
}
