//! Replies of request-reply: a message that is pushed to the client that waits for it, and stored like any other.
//!
//! The requester is known by its client id, in the property `REPLY_TO_CLIENT`. The answer to who replies tells whether the
//! requester has taken the reply, whether or not the log could take it. What no send may do is refused before anything is
//! pushed. (Java: `ReplyMessageProcessor`)

use std::time::Duration;

use broker::api::{Caller, PublishError, Receipt};
use bytes::Bytes;
use remoting::Replies;
use wire::{
    code::{RequestCode, ResponseCode},
    frame::Frame,
    header::send::{ReplyMessage, SendMessage},
    properties::{self, name},
};

use crate::v4::{
    V4,
    errors::Refusal,
    session::{Answer, Session, answers, connection_of, refuse, success},
};

use super::send;

/// How long the requester may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// SEND_REPLY_MESSAGE and SEND_REPLY_MESSAGE_V2.
pub(crate) fn reply(session: &Session, request: Frame, replies: &mut Replies) {
    let (door, caller) = (session.door.clone(), session.caller(&request));
    replies.later(1, async move {
        let response = match reply_now(&door, &caller, &request).await {
            Ok(response) => response,
            Err(refusal) => refuse(&request, refusal),
        };
        answers(&request, Ok(door.with_send_fields(response)))
    });
}

async fn reply_now(door: &V4, caller: &Caller, request: &Frame) -> Answer {
    let asked: SendMessage<'_> = request.header()?;
    let receipt = store(door, caller, request, &asked).await?;
    push(door, caller, &asked, request.body_bytes()).await?;
    let mut response = success(request);
    let ids = receipt.as_ref().map(Receipt::message_ids);
    response.ext.put("msgId", ids.as_deref().unwrap_or("0"));
    let queue_id = receipt.as_ref().map_or_else(|| asked.queue_id.max(0), |it| it.queue_id);
    response.ext.put("queueId", &queue_id.to_string());
    let queue_offset = receipt.map_or(0, |receipt| receipt.queue_offset);
    response.ext.put("queueOffset", &queue_offset.to_string());
    Ok(response)
}

/// Stores the reply, unless that is turned off or the log cannot.
async fn store(
    door: &V4,
    caller: &Caller,
    request: &Frame,
    asked: &SendMessage<'_>,
) -> Result<Option<Receipt>, Refusal> {
    let broker = &door.broker;
    if !broker.options().store_reply_message_enable {
        broker.topic(asked.topic)?;
        return Ok(None);
    }
    let topics = broker.topics_version();
    let published = broker.publish(caller, [send::decode(request)?].into_iter().collect()).pop();
    let ticket = match published.expect("one answer for one send") {
        Ok(ticket) => ticket,
        // The requester gets it all the same, and it is the requester who waits.
        Err(PublishError::Busy { .. } | PublishError::DiskFull | PublishError::Stopped) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if broker.topics_version() != topics || !broker.is_saved() {
        door.settled(broker.topics_version() != topics).await?;
    }
    send::wait(door, ticket.needs, ticket.end).await;
    Ok(Some(ticket.receipt))
}

/// Hands the reply to the client that waits for it.
async fn push(
    door: &V4,
    caller: &Caller,
    asked: &SendMessage<'_>,
    body: Bytes,
) -> Result<(), Refusal> {
    let refuse = |remark: String| Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    let Some(to) = properties::get(asked.properties, name::REPLY_TO_CLIENT) else {
        let property = name::REPLY_TO_CLIENT;
        return refuse(format!("reply message properties[{property}] is null"));
    };
    let Some(channel) = door.broker.producer(to) else {
        return refuse(format!("push reply message fail, channel of <{to}> not found."));
    };
    let Some(connection) = connection_of(&*channel) else {
        return refuse(format!("push reply message to {to} fail: it speaks another protocol"));
    };
    let now = door.clock.now();
    let mut text = properties::filtered(asked.properties, |_| true);
    properties::append(&mut text, name::PUSH_REPLY_TIME, &now.to_string());
    let header = ReplyMessage {
        producer_group: asked.producer_group,
        topic: asked.topic,
        default_topic: asked.default_topic,
        default_topic_queue_nums: asked.default_topic_queue_nums,
        queue_id: asked.queue_id,
        sys_flag: asked.sys_flag,
        born_timestamp: asked.born_timestamp,
        flag: asked.flag,
        properties: &text,
        reconsume_times: asked.reconsume_times,
        unit_mode: asked.unit_mode,
        born_host: &caller.remote.to_string(),
        store_host: &door.broker.options().store_host.to_string(),
        store_timestamp: now,
    };
    let question = Frame::request(RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT, &header);
    match connection.call(question.with_body(body), PATIENCE).await {
        Ok(answer) if answer.response_code() == ResponseCode::SUCCESS => Ok(()),
        Ok(answer) => {
            let said = answer.remark.as_deref().unwrap_or_default();
            refuse(format!("push reply message to {to} fail: {said}"))
        }
        Err(error) => refuse(format!("push reply message to {to} fail: {error}")),
    }
}
