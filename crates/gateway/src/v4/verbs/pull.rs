//! Pulls: what a consumer gets is the stored records themselves, as slices of the log.
//!
//! Every pull is parked: if there are messages the future is ready when it is first polled, and its answer leaves in the
//! run's own write; if not, it waits in the broker for as long as the client allows.
//!
//! Java: `PullMessageProcessor`, `DefaultPullMessageResultHandler`.

use std::time::Duration;

use broker::api::{Filter, Pull, PullError, PullOutcome, Pulled};
use bytestring::ByteString;
use remoting::Replies;
use wire::{
    code::{RequestCode, ResponseCode},
    ext::Ext,
    frame::{Body, Frame, Kind},
    header::pull::{PullMessage, PullMessageResponse},
    names::pull_flag,
};

use crate::v4::{
    errors::Refusal,
    session::{Session, answers, refuse},
};

/// PULL_MESSAGE and LITE_PULL_MESSAGE.
pub(crate) fn pull(session: &Session, request: Frame, replies: &mut Replies) {
    let asked = match decode(&request) {
        Ok(asked) => asked,
        Err(refusal) => {
            if request.kind == Kind::Request {
                replies.push(&refuse(&request, refusal));
            }
            return;
        }
    };
    let caller = session.caller(&request);
    let broker = session.door.broker.clone();
    let inquiry = session.inquiry.clone();
    // A long poll keeps nothing of the buffer that it came in, which may have come with a megabyte of sends.
    let request = Frame { ext: Ext::default(), body: Body::new(), remark: None, ..request };
    let begun = broker.begin_pull(&caller, &asked);
    replies.park(async move {
        let mut outcome = match begun {
            Ok(plan) => broker.finish_pull(&caller, plan, asked.clone()).await,
            Err(error) => Err(error),
        };
        if matches!(outcome, Err(PullError::SubscriptionNotLatest | PullError::FilterDataNotLatest))
            && inquiry.learn(&broker, &asked.group).await
        {
            // What it carries may be out of date by now.
            outcome = broker.pull(&caller, Pull { commit: None, ..asked }).await;
        }
        let answer = match outcome {
            Ok(pulled) => pulled_response(&request, pulled),
            Err(error) => refusal(&request, error),
        };
        answers(&request, Ok(answer))
    });
}

/// Reads a pull; its strings are copies, since it may wait.
fn decode(request: &Frame) -> Result<Pull, Refusal> {
    let asked: PullMessage<'_> = request.header()?;
    let is_set = |flag| asked.sys_flag & flag != 0;
    let timeout = Duration::from_millis(asked.suspend_timeout_millis.max(0).unsigned_abs());
    Ok(Pull {
        group: ByteString::from(asked.consumer_group),
        topic: ByteString::from(asked.topic),
        queue_id: asked.queue_id,
        offset: asked.queue_offset,
        count_max: asked.max_msg_nums,
        commit: is_set(pull_flag::COMMIT_OFFSET).then_some(asked.commit_offset),
        suspend: is_set(pull_flag::SUSPEND).then_some(timeout),
        filter: if is_set(pull_flag::SUBSCRIPTION) {
            Filter::Expression {
                kind: ByteString::from(asked.expression_type.unwrap_or_default()),
                expression: ByteString::from(asked.subscription.unwrap_or_default()),
            }
        } else {
            Filter::Registered
        },
        subscription_version: asked.sub_version,
        lite: request.request_code() == RequestCode::LITE_PULL_MESSAGE,
    })
}

fn pulled_response(request: &Frame, pulled: Pulled) -> Frame {
    let code = match pulled.status.outcome() {
        PullOutcome::Found => ResponseCode::SUCCESS,
        PullOutcome::NotFound => ResponseCode::PULL_NOT_FOUND,
        PullOutcome::RetryNow => ResponseCode::PULL_RETRY_IMMEDIATELY,
        PullOutcome::OffsetMoved => ResponseCode::PULL_OFFSET_MOVED,
    };
    let header = PullMessageResponse {
        suggest_which_broker_id: pulled.suggested_broker,
        next_begin_offset: pulled.next,
        min_offset: pulled.min,
        max_offset: pulled.max,
        topic_sys_flag: Some(pulled.topic_sys_flag),
        group_sys_flag: Some(pulled.group_sys_flag),
        ..PullMessageResponse::default()
    };
    let mut response = request.respond(code).with_header(&header);
    response.remark = Some(pulled.status.name().into());
    response.body = pulled.messages.into();
    response
}

fn refusal(request: &Frame, error: PullError) -> Frame {
    let forbidden_type = error.forbidden_type();
    let mut response = refuse(request, error.into());
    if let Some(forbidden_type) = forbidden_type {
        response.ext.put("forbiddenType", &forbidden_type.to_string());
    }
    response
}
