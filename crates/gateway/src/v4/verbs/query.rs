//! Finding messages: by log offset, by key.
//!
//! Java: `QueryMessageProcessor`.

use broker::Broker;
use wire::{
    code::ResponseCode,
    frame::Frame,
    header::send::{QueryMessage, QueryMessageResponse, ViewMessage},
};

use crate::v4::session::{Answer, success};

/// Answers to a query by unique key when it does not matter how many were asked for (Java: `defaultQueryMaxNum`).
const UNIQUE_KEY_MAX: usize = 32;

/// Most messages that one query returns, whatever it asks for (Java: `maxMsgsNumBatch`).
const QUERY_MAX: usize = 64;

/// VIEW_MESSAGE_BY_ID.
pub(crate) async fn by_id(broker: &Broker, request: &Frame) -> Answer {
    let asked: ViewMessage<'_> = request.header()?;
    Ok(success(request).with_body(broker.message_at(asked.offset).await?))
}

/// QUERY_MESSAGE, by key or by unique key.
pub(crate) async fn by_key(broker: &Broker, request: &Frame) -> Answer {
    let asked: QueryMessage<'_> = request.header()?;
    let unique = request.ext.get("_UNIQUE_KEY_QUERY") == Some("true");
    let count_max = if unique {
        UNIQUE_KEY_MAX
    } else {
        usize::try_from(asked.max_num).unwrap_or(0).min(QUERY_MAX)
    };
    let found = broker
        .messages_with_key(
            asked.topic,
            asked.key,
            count_max,
            asked.begin_timestamp,
            asked.end_timestamp,
        )
        .await?;
    let header = QueryMessageResponse {
        index_last_update_timestamp: found.indexed_until,
        index_last_update_phyoffset: found.indexed_offset,
    };
    if found.records.is_empty() {
        let response = request.respond(ResponseCode::QUERY_NOT_FOUND).with_header(&header);
        return Ok(response.with_remark("can not find message, maybe time range not correct"));
    }
    let mut response = success(request).with_header(&header);
    response.body.extend(found.records);
    Ok(response)
}
