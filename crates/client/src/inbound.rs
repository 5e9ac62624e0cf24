//! What brokers ask of a client: its consumers' state, new offsets, the end of a transaction, a reply to take.
//!
//! Java: `ClientRemotingProcessor`.

use std::sync::{Arc, Weak};

use remoting::{Handler, Replies};
use tracing::{debug, warn};
use wire::{
    body::progress::{ConsumerStatus, ResetOffsets},
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::{Frame, Kind},
    header::{
        client::{OneConsumer, OneConsumerGroup},
        group::GroupTopic,
        offset::ResetOffset,
        send::ReplyMessage,
        transaction::CheckTransactionState,
    },
    record::{CheckCrc, Record},
};

use crate::{
    client::Core,
    message::{Pushed, ReceivedMessage},
};

/// The side of a connection that answers the server.
pub(crate) struct Inbound {
    core: Weak<Core>,
    address: String,
}

impl Inbound {
    /// Answers the broker at `address` for `core`.
    pub(crate) fn new(core: &Arc<Core>, address: &str) -> Inbound {
        Inbound { core: Arc::downgrade(core), address: address.to_owned() }
    }

    /// Answers that nothing is known: for name servers, which ask nothing.
    pub(crate) fn deaf() -> Inbound {
        Inbound { core: Weak::new(), address: String::new() }
    }
}

impl Handler for Inbound {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for request in run.drain(..) {
            let code = request.request_code();
            let served = match self.core.upgrade() {
                Some(core) => serve(&core, &self.address, &request, replies),
                None => Err("the client has been shut down".to_owned()),
            };
            if let Err(reason) = served {
                debug!(%code, broker = self.address, reason, "a broker's request is not served");
                if request.kind == Kind::Request {
                    let answer = request.respond(ResponseCode::SYSTEM_ERROR).with_remark(reason);
                    replies.push(&answer);
                }
            }
        }
    }
}

fn serve(
    core: &Arc<Core>,
    address: &str,
    request: &Frame,
    replies: &mut Replies,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let no_consumer =
        |group: &str| format!("The Consumer Group <{group}> not exist in this consumer");
    let mut answer = |body: Vec<u8>| {
        if request.kind == Kind::Request {
            replies.push(&request.respond(ResponseCode::SUCCESS).with_body(body));
        }
    };
    match request.request_code() {
        RequestCode::NOTIFY_CONSUMER_IDS_CHANGED => {
            let header: OneConsumerGroup<'_> = request.header().map_err(|error| text(&error))?;
            if let Some(consumer) = core.consumer(header.consumer_group) {
                consumer.rebalance();
            }
            answer(Vec::new());
        }
        RequestCode::RESET_CONSUMER_CLIENT_OFFSET => {
            let header: ResetOffset<'_> = request.header().map_err(|error| text(&error))?;
            let body: ResetOffsets =
                fastjson::decode(&request.body_bytes()).map_err(|error| text(&error))?;
            let consumer = core.consumer(header.group).ok_or_else(|| no_consumer(header.group))?;
            consumer.reset(header.topic, body.offset_table);
            answer(Vec::new());
        }
        RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT => {
            let header: GroupTopic<'_> = request.header().map_err(|error| text(&error))?;
            let consumer = core.consumer(header.group).ok_or_else(|| no_consumer(header.group))?;
            let status = ConsumerStatus {
                message_queue_table: consumer.positions(header.topic),
                ..ConsumerStatus::default()
            };
            answer(fastjson::encode(&status));
        }
        RequestCode::GET_CONSUMER_RUNNING_INFO => {
            let header: OneConsumer<'_> = request.header().map_err(|error| text(&error))?;
            let consumer = core.consumer(header.consumer_group);
            let consumer = consumer.ok_or_else(|| no_consumer(header.consumer_group))?;
            answer(fastjson::encode(&consumer.running_info()));
        }
        RequestCode::CONSUME_MESSAGE_DIRECTLY => {
            let header: OneConsumer<'_> = request.header().map_err(|error| text(&error))?;
            let consumer = core.consumer(header.consumer_group);
            let consumer = consumer.ok_or_else(|| no_consumer(header.consumer_group))?;
            let message = received(core, request, request.ext.get("brokerName"))?;
            let (opaque, codec) = (request.opaque, request.codec);
            replies.later(1, async move {
                let result = consumer.consume(message).await;
                Frame::response(ResponseCode::SUCCESS, opaque, codec)
                    .with_body(fastjson::encode(&result))
            });
        }
        RequestCode::CHECK_TRANSACTION_STATE => {
            let header: CheckTransactionState<'_> =
                request.header().map_err(|error| text(&error))?;
            let message = received(core, request, Some(header.broker_name))?;
            core.check_transaction(address, &header, message);
        }
        RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT => {
            let header: ReplyMessage<'_> = request.header().map_err(|error| text(&error))?;
            let body_bytes_max = core.config.message_bytes_max;
            let body = request.body_bytes();
            let reply = ReceivedMessage::pushed(Pushed { header, body, body_bytes_max });
            core.take_reply(reply);
            answer(Vec::new());
        }
        code => return Err(format!("request code {code} is not supported")),
    }
    Ok(())
}

/// Reads the record in a request's body.
fn received(core: &Core, request: &Frame, broker: Option<&str>) -> Result<ReceivedMessage, String> {
    let body = request.body_bytes();
    let record = Record::decode(&body, CheckCrc::Yes).map_err(|error| {
        warn!(%error, "a broker sent a record that is none");
        error.to_string()
    })?;
    let namespace = &core.config.namespace;
    let queue = wire::body::MessageQueue {
        broker_name: broker.unwrap_or_default().to_owned(),
        queue_id: record.queue_id,
        topic: namespace.strip(record.topic).into_owned(),
    };
    let mut message =
        ReceivedMessage::new(Arc::new(queue), &body, &record, core.config.message_bytes_max);
    message.leave(namespace);
    Ok(message)
}
