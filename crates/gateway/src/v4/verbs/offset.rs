//! Offsets: what a group has consumed, and where a queue begins, ends, or was at a time.
//!
//! Java: `ConsumerManageProcessor`, and the offset part of `AdminBrokerProcessor`.

use broker::{
    Boundary, Broker,
    api::{Committed, IfUnknown},
};
use wire::{
    code::ResponseCode,
    frame::Frame,
    header::offset::{
        self as header, GetMaxOffset, OffsetResponse, OneQueue, QueryConsumerOffset, SearchOffset,
        TimestampResponse, UpdateConsumerOffset,
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
pub(crate) fn max(broker: &Broker, request: &Frame) -> Answer {
    let asked: GetMaxOffset<'_> = request.header()?;
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

/// GET_ALL_CONSUMER_OFFSET: the whole table, for a slave.
pub(crate) fn all(broker: &Broker, request: &Frame) -> Answer {
    Ok(with_json(success(request), &broker.all_offsets()))
}
