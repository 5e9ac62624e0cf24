//! The broker itself: its configuration and how it is doing.
//!
//! Java: `AdminBrokerProcessor#getBrokerConfig`, `#updateBrokerConfig`, `#getBrokerRuntimeInfo`.

use std::{collections::BTreeMap, fmt::Write};

use broker::{Broker, Kept};
use wire::{
    body::KvTable,
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    header::{
        group::{GetBrokerConfigResponse, ViewStats},
        topic::QueryConsumeQueue,
    },
};

use crate::v4::{
    errors::Refusal,
    session::{Answer, success},
};

use super::with_json;

/// GET_BROKER_CONFIG: the properties text of what is in force.
pub(crate) fn config(broker: &Broker, request: &Frame) -> Answer {
    let mut text = String::new();
    for (key, value) in broker.config() {
        writeln!(text, "{key}={value}").expect("a string takes what is written");
    }
    let version = fastjson::encode(&broker.config_version());
    let header = GetBrokerConfigResponse { version: &String::from_utf8_lossy(&version) };
    Ok(success(request).with_header(&header).with_body(text))
}

/// UPDATE_BROKER_CONFIG: all of the given changes, or none; a remark says when the next start will not have them.
pub(crate) async fn update_config(broker: &Broker, request: &Frame) -> Answer {
    let body = request.body_bytes();
    let text = std::str::from_utf8(&body)
        .map_err(|error| Refusal::body(RequestCode::UPDATE_BROKER_CONFIG, error))?;
    Ok(match broker.update_config(parse_properties(text)).await? {
        Kept::Yes => success(request),
        Kept::No(reason) => {
            success(request).with_remark(format!("changed until the next start: {reason}"))
        }
    })
}

/// VIEW_BROKER_STATS_DATA.
pub(crate) fn stats(broker: &Broker, request: &Frame) -> Answer {
    let asked: ViewStats<'_> = request.header()?;
    let data = broker.stats_data(asked.stats_name, asked.stats_key).ok_or_else(|| {
        let remark = format!("The stats <{}> <{}> not exist", asked.stats_name, asked.stats_key);
        Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
    })?;
    Ok(with_json(success(request), &data))
}

/// GET_BROKER_RUNTIME_INFO.
pub(crate) fn runtime_info(broker: &Broker, request: &Frame) -> Answer {
    Ok(with_json(success(request), &KvTable { table: broker.runtime_info() }))
}

/// GET_TIMER_CHECK_POINT.
pub(crate) fn timer_checkpoint(broker: &Broker, request: &Frame) -> Answer {
    let checkpoint = broker.timer_checkpoint().ok_or_else(|| {
        Refusal::new(
            ResponseCode::SYSTEM_ERROR,
            "The checkpoint is null: timerWheelEnable is false",
        )
    })?;
    Ok(success(request).with_body(checkpoint.to_vec()))
}

/// GET_TIMER_METRICS.
pub(crate) fn timer_metrics(broker: &Broker, request: &Frame) -> Answer {
    let metrics = broker.timer_metrics().ok_or_else(|| {
        let remark = "The timer message store is null: timerWheelEnable is false";
        Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
    })?;
    Ok(with_json(success(request), &*metrics))
}

/// CLEAN_EXPIRED_CONSUMEQUEUE.
pub(crate) async fn clean_queues(broker: &Broker, request: &Frame) -> Answer {
    broker.clean_expired_queues().await?;
    Ok(success(request))
}

/// CLEAN_UNUSED_TOPIC.
pub(crate) async fn clean_topics(broker: &Broker, request: &Frame) -> Answer {
    broker.clean_unused_topics().await?;
    Ok(success(request))
}

/// DELETE_EXPIRED_COMMITLOG.
pub(crate) async fn delete_expired_log(broker: &Broker, request: &Frame) -> Answer {
    broker.delete_expired_log().await;
    Ok(success(request))
}

/// QUERY_CONSUME_QUEUE.
pub(crate) async fn list_queue(broker: &Broker, request: &Frame) -> Answer {
    let asked: QueryConsumeQueue<'_> = request.header()?;
    let QueryConsumeQueue { topic, queue_id, index, count, consumer_group } = asked;
    let listing = broker.list_queue(topic, queue_id, index, count, consumer_group).await?;
    let response = success(request);
    let response = match listing.queue_data {
        Some(_) => response,
        None => response.with_remark(format!("Index {index} of {queue_id}@{topic} is not exist!")),
    };
    Ok(with_json(response, &listing))
}

/// GET_BROKER_HA_STATUS.
pub(crate) fn ha_status(broker: &Broker, request: &Frame) -> Answer {
    Ok(with_json(success(request), &broker.ha_status()))
}

/// GET_BROKER_EPOCH_CACHE: there is no controller, so there are no epochs.
pub(crate) fn epochs() -> Answer {
    Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "this request only for controllerMode "))
}

/// Reads `key=value` lines; blank lines and comments are passed over. Clients send no continued lines and no escapes.
fn parse_properties(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '!']))
        .map(|line| {
            let (key, value) = line.split_once(['=', ':']).unwrap_or((line, ""));
            (key.trim().to_owned(), value.trim().to_owned())
        })
        .collect()
}
