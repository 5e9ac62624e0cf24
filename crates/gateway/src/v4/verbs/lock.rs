//! Queue locks of orderly consumers.
//!
//! Java: `AdminBrokerProcessor#lockBatchMQ`, `#unlockBatchMQ`.

use broker::Broker;
use wire::{
    body::lock::{LockBatch, LockBatchResponse},
    frame::Frame,
};

use crate::v4::session::{Answer, success};

use super::{read_body, with_json};

/// LOCK_BATCH_MQ: the answer lists what the client holds now.
pub(crate) fn lock(broker: &Broker, request: &Frame) -> Answer {
    let asked: LockBatch = read_body(request)?;
    let held = broker.lock_queues(&asked.consumer_group, &asked.client_id, asked.mq_set)?;
    Ok(with_json(success(request), &LockBatchResponse { lock_ok_mq_set: held }))
}

/// UNLOCK_BATCH_MQ; clients send it oneway too.
pub(crate) fn unlock(broker: &Broker, request: &Frame) -> Answer {
    let asked: LockBatch = read_body(request)?;
    broker.unlock_queues(&asked.consumer_group, &asked.client_id, &asked.mq_set);
    Ok(success(request))
}
