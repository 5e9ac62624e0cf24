//! Clients: heartbeats, goodbyes, who is in a group; and what the broker tells them unasked.
//!
//! Java: `ClientManageProcessor`, `ConsumerManageProcessor#getConsumerListByGroup`, `Broker2Client`.

use broker::{
    Broker, Session,
    api::{Caller, ClientCommand},
};
use wire::{
    body::{
        ConsumerIdList,
        client::{CheckClient, HeartbeatData},
    },
    code::RequestCode,
    fastjson,
    frame::Frame,
    header::{
        client::{OneConsumerGroup, OneProducerGroup, UnregisterClient},
        offset::ResetOffset,
        transaction::CheckTransactionState,
    },
    id::OffsetId,
    names,
};

use crate::v4::session::{Answer, success};

use super::{offset, read_body, to_strings, with_json};

/// HEART_BEAT, V1 and V2.
pub(crate) fn heartbeat(session: &Session, caller: &Caller, request: &Frame) -> Answer {
    let data: HeartbeatData = read_body(request)?;
    let answer = session.heartbeat(caller, data)?;
    let mut response = success(request);
    response.ext.put("IS_SUPPORT_HEART_BEAT_V2", "true");
    response.ext.put("IS_SUB_CHANGE", if answer.subscription_changed { "true" } else { "false" });
    Ok(response)
}

/// UNREGISTER_CLIENT.
pub(crate) fn unregister(session: &Session, request: &Frame) -> Answer {
    let asked: UnregisterClient<'_> = request.header()?;
    session.unregister(asked.producer_group, asked.consumer_group);
    Ok(success(request))
}

/// CHECK_CLIENT_CONFIG: refuses a subscription that could not be served; without a body there is nothing to check.
pub(crate) fn check(broker: &Broker, request: &Frame) -> Answer {
    if request.body_len() > 0 {
        let asked: CheckClient = read_body(request)?;
        broker.check_subscription(&asked.subscription_data)?;
    }
    Ok(success(request))
}

/// GET_CONSUMER_LIST_BY_GROUP.
pub(crate) fn consumer_ids(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneConsumerGroup<'_> = request.header()?;
    let ids = broker.consumer_ids(asked.consumer_group)?;
    let body = ids.encoded(|ids| {
        fastjson::encode(&ConsumerIdList { consumer_id_list: to_strings(ids.to_vec()) }).into()
    });
    Ok(success(request).with_body(body))
}

/// GET_CONSUMER_CONNECTION_LIST.
pub(crate) fn consumer_connection(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneConsumerGroup<'_> = request.header()?;
    Ok(with_json(success(request), &broker.consumer_connection(asked.consumer_group)?))
}

/// GET_PRODUCER_CONNECTION_LIST.
pub(crate) fn producer_connection(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneProducerGroup<'_> = request.header()?;
    Ok(with_json(success(request), &broker.producer_connection(asked.producer_group)?))
}

/// GET_ALL_PRODUCER_INFO.
pub(crate) fn producers(broker: &Broker, request: &Frame) -> Answer {
    Ok(with_json(success(request), &broker.producers()))
}

/// Makes the frame that tells a client something; it wants no answer.
pub(crate) fn command(command: ClientCommand) -> Frame {
    match command {
        ClientCommand::ConsumersChanged { group } => Frame::oneway(
            RequestCode::NOTIFY_CONSUMER_IDS_CHANGED,
            &OneConsumerGroup { consumer_group: &group },
        ),
        ClientCommand::OffsetsReset(reset) => {
            let header = ResetOffset {
                group: &reset.group,
                topic: &reset.topic,
                timestamp: reset.timestamp,
                ..ResetOffset::default()
            };
            let body = if reset.as_list {
                fastjson::encode(&offset::list(&reset.topic, &reset.broker_name, &reset.offsets))
            } else {
                fastjson::encode(&offset::map(&reset.topic, &reset.broker_name, &reset.offsets))
            };
            Frame::oneway(RequestCode::RESET_CONSUMER_CLIENT_OFFSET, &header).with_body(body)
        }
        ClientCommand::CheckTransaction(check) => {
            let id = OffsetId { host: check.store_host, log_offset: check.log_offset };
            let header = CheckTransactionState {
                topic: names::TRANS_HALF_TOPIC,
                broker_name: &check.broker_name,
                tran_state_table_offset: check.queue_offset,
                commit_log_offset: check.log_offset as i64,
                msg_id: &check.unique_key,
                transaction_id: &check.unique_key,
                offset_msg_id: &id.to_string(),
            };
            Frame::oneway(RequestCode::CHECK_TRANSACTION_STATE, &header)
                .with_body(check.record.clone())
        }
    }
}
