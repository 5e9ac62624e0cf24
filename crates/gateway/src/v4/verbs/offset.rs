//! Offsets: what a group has consumed, and where a queue begins, ends, or was at a time.
//!
//! Java: `ConsumerManageProcessor`, and the offset part of `AdminBrokerProcessor`.

use std::collections::BTreeMap;

use broker::{
    Boundary, Broker,
    api::{Committed, IfUnknown, ResetTo},
};
use wire::{
    body::{
        MessageQueue,
        progress::{CorrectionOffsets, QueueOffset, ResetOffsetList, ResetOffsets},
    },
    code::{Language, ResponseCode},
    frame::Frame,
    header::offset::{
        self as header, CloneOffset, GetMaxOffset, OffsetResponse, OneQueue, QueryConsumerOffset,
        QueryCorrectionOffset, ResetOffset, SearchOffset, TimestampResponse, UpdateConsumerOffset,
    },
};

use crate::v4::{
    errors::Refusal,
    session::{Answer, success},
};

use super::with_json;

/// QUERY_CONSUMER_OFFSET.
pub(crate) async fn query(broker: &Broker, request: &Frame) -> Answer {
    let asked: QueryConsumerOffset<'_> = request.header()?;
    let if_unknown = match asked.set_zero_if_not_found {
        Some(false) => IfUnknown::NotFound,
        Some(true) | None => IfUnknown::First,
    };
    let offset = broker
        .consumer_offset(asked.consumer_group, asked.topic, asked.queue_id, if_unknown)
        .await?;
    Ok(success(request).with_header(&OffsetResponse { offset }))
}

/// UPDATE_CONSUMER_OFFSET; clients send it oneway.
pub(crate) fn commit(broker: &Broker, request: &Frame) -> Answer {
    let asked: UpdateConsumerOffset<'_> = request.header()?;
    let missing = |field: &str| {
        Refusal::new(
            ResponseCode::INVALID_PARAMETER,
            format!("{field} is null, topic is {}", asked.topic),
        )
    };
    let queue_id = asked.queue_id.ok_or_else(|| missing("QueueId"))?;
    let offset = asked.commit_offset.ok_or_else(|| missing("Offset"))?;
    let committed = broker.commit_offset(asked.consumer_group, asked.topic, queue_id, offset)?;
    Ok(match committed {
        Committed::Stored => success(request),
        Committed::Reset => success(request).with_remark("Offset has been previously reset"),
    })
}

/// SEARCH_OFFSET_BY_TIMESTAMP.
pub(crate) async fn at_time(broker: &Broker, request: &Frame) -> Answer {
    let asked: SearchOffset<'_> = request.header()?;
    let boundary = match asked.boundary_type {
        header::Boundary::Upper => Boundary::Upper,
        header::Boundary::Lower => Boundary::Lower,
    };
    let offset = broker.offset_at(asked.topic, asked.queue_id, asked.timestamp, boundary).await?;
    Ok(success(request).with_header(&OffsetResponse { offset }))
}

/// GET_MAX_OFFSET.
pub(crate) async fn max(broker: &Broker, request: &Frame) -> Answer {
    let asked: GetMaxOffset<'_> = request.header()?;
    broker.caught_up().await;
    let offset = broker.max_offset(asked.topic, asked.queue_id);
    Ok(success(request).with_header(&OffsetResponse { offset }))
}

/// GET_MIN_OFFSET.
pub(crate) fn min(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneQueue<'_> = request.header()?;
    let offset = broker.min_offset(asked.topic, asked.queue_id);
    Ok(success(request).with_header(&OffsetResponse { offset }))
}

/// GET_EARLIEST_MSG_STORETIME: -1 when the queue is empty.
pub(crate) async fn earliest_store_time(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneQueue<'_> = request.header()?;
    let timestamp = broker.earliest_store_time(asked.topic, asked.queue_id).await;
    Ok(success(request).with_header(&TimestampResponse { timestamp }))
}

/// INVOKE_BROKER_TO_RESET_OFFSET: the next pulls are told, or the connected consumers now.
pub(crate) async fn reset(broker: &Broker, request: &Frame) -> Answer {
    let ResetOffset { group, topic, queue_id, offset, timestamp, is_force } = request.header()?;
    let options = broker.options();
    let offsets = if options.use_server_side_reset_offset {
        let queue_id = (queue_id >= 0).then_some(queue_id);
        let to = match offset.filter(|offset| *offset != -1 && queue_id.is_some()) {
            Some(offset) => ResetTo::Offset(offset),
            None if timestamp < 0 => ResetTo::End,
            None => ResetTo::Time(timestamp),
        };
        broker.reset_offsets(group, topic, queue_id, to).await?
    } else {
        // Tools that call themselves C++ ask on behalf of clients of old, which do not say what they are.
        let as_list = request.language == Language::CPP;
        broker.push_offsets(group, topic, timestamp, is_force, as_list).await?
    };
    Ok(with_json(success(request), &map(topic, &options.broker_name, &offsets)))
}

/// The offsets of a topic's queues as most clients read them.
pub(crate) fn map(topic: &str, broker_name: &str, offsets: &BTreeMap<i32, i64>) -> ResetOffsets {
    let queue = |id: i32| MessageQueue {
        broker_name: broker_name.to_owned(),
        queue_id: id,
        topic: topic.to_owned(),
    };
    let offset_table = offsets.iter().map(|(id, offset)| (queue(*id), *offset)).collect();
    ResetOffsets { offset_table }
}

/// The same as clients in C++ read it.
pub(crate) fn list(
    topic: &str,
    broker_name: &str,
    offsets: &BTreeMap<i32, i64>,
) -> ResetOffsetList {
    let queue = |(id, offset): (&i32, &i64)| QueueOffset {
        broker_name: broker_name.to_owned(),
        offset: *offset,
        queue_id: *id,
        topic: topic.to_owned(),
    };
    ResetOffsetList { offset_table: offsets.iter().map(queue).collect() }
}

/// CLONE_GROUP_OFFSET.
pub(crate) fn clone(broker: &Broker, request: &Frame) -> Answer {
    let asked: CloneOffset<'_> = request.header()?;
    let topic = asked.topic.filter(|topic| !topic.trim().is_empty());
    broker.clone_offsets(asked.src_group, asked.dest_group, topic, asked.offline)?;
    Ok(success(request))
}

/// QUERY_CORRECTION_OFFSET.
pub(crate) fn slowest(broker: &Broker, request: &Frame) -> Answer {
    let asked: QueryCorrectionOffset<'_> = request.header()?;
    let but: Vec<&str> = asked.filter_groups.unwrap_or_default().split(',').collect();
    let correction_offsets = broker.slowest_offsets(asked.topic, &but, asked.compare_group);
    Ok(with_json(success(request), &CorrectionOffsets { correction_offsets }))
}

/// GET_ALL_DELAY_OFFSET: the whole table, for a slave.
pub(crate) fn delays(broker: &Broker, request: &Frame) -> Answer {
    Ok(with_json(success(request), &*broker.delay_offsets()))
}

/// GET_ALL_CONSUMER_OFFSET: the whole table, for a slave.
pub(crate) fn all(broker: &Broker, request: &Frame) -> Answer {
    Ok(with_json(success(request), &broker.all_offsets()))
}
