//! Topics: create, delete, show, count.
//!
//! Java: `AdminBrokerProcessor`.

use std::collections::BTreeMap;

use broker::Broker;
use wire::{
    body::{
        GroupList, TopicList,
        topic::{CreateTopicList, TopicConfig, TopicFilterType},
    },
    code::ResponseCode,
    frame::Frame,
    header::topic::{CreateTopic, GetAllTopicConfigResponse, OneTopic},
};

use crate::v4::{
    errors::Refusal,
    session::{Answer, success},
};

use super::{read_body, to_strings, with_json};

/// UPDATE_AND_CREATE_TOPIC.
pub(crate) fn create(broker: &Broker, request: &Frame) -> Answer {
    let asked: CreateTopic<'_> = request.header()?;
    let topic = TopicConfig {
        topic_name: asked.topic.to_owned(),
        read_queue_nums: asked.read_queue_nums,
        write_queue_nums: asked.write_queue_nums,
        perm: asked.perm,
        topic_filter_type: filter_type(asked.topic_filter_type)?,
        topic_sys_flag: asked.topic_sys_flag.unwrap_or(0),
        order: asked.order,
        attributes: parse_attributes(asked.attributes.unwrap_or_default())?,
        ..TopicConfig::default()
    };
    broker.create_topics(vec![topic])?;
    Ok(success(request))
}

/// UPDATE_AND_CREATE_TOPIC_LIST.
pub(crate) fn create_list(broker: &Broker, request: &Frame) -> Answer {
    let asked: CreateTopicList = read_body(request)?;
    broker.create_topics(asked.topic_config_list)?;
    Ok(success(request))
}

/// DELETE_TOPIC_IN_BROKER.
pub(crate) async fn delete(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneTopic<'_> = request.header()?;
    let (broker, topic) = (broker.clone(), asked.topic.to_owned());
    let deleted = tokio::task::spawn_blocking(move || broker.delete_topic(&topic)).await;
    deleted.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    Ok(success(request))
}

/// GET_TOPIC_CONFIG.
pub(crate) fn get(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneTopic<'_> = request.header()?;
    Ok(with_json(success(request), &*broker.topic(asked.topic)?))
}

/// GET_ALL_TOPIC_CONFIG.
pub(crate) fn all(broker: &Broker, request: &Frame) -> Answer {
    let topics = broker.topics();
    let header = GetAllTopicConfigResponse {
        total_topic_num: i32::try_from(topics.topic_config_table.len()).ok(),
    };
    Ok(with_json(success(request).with_header(&header), &topics))
}

/// GET_TOPIC_STATS_INFO.
pub(crate) async fn stats(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneTopic<'_> = request.header()?;
    Ok(with_json(success(request), &broker.topic_stats(asked.topic).await?))
}

/// GET_SYSTEM_TOPIC_LIST_FROM_BROKER.
pub(crate) fn system(broker: &Broker, request: &Frame) -> Answer {
    let list = TopicList { topic_list: to_strings(broker.system_topics()), broker_addr: None };
    Ok(with_json(success(request), &list))
}

/// QUERY_TOPIC_CONSUME_BY_WHO.
pub(crate) fn consumed_by(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneTopic<'_> = request.header()?;
    let group_list = to_strings(broker.groups_of_topic(asked.topic));
    Ok(with_json(success(request), &GroupList { group_list }))
}

/// Reads a filter type by its name; Java refuses what it does not know before it looks at anything else.
fn filter_type(name: &str) -> Result<TopicFilterType, Refusal> {
    let known = [TopicFilterType::SingleTag, TopicFilterType::MultiTag];
    known.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        Refusal::new(
            ResponseCode::SYSTEM_ERROR,
            format!("topicFilterType = [{name}] value invalid; SINGLE_TAG and MULTI_TAG are valid"),
        )
    })
}

/// Reads changes of attributes, `+name=value,-name`; the names keep their signs (Java: `AttributeParser`).
fn parse_attributes(text: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let wrong = |what: String| Refusal::new(ResponseCode::SYSTEM_ERROR, what);
    let mut changes = BTreeMap::new();
    for change in text.split(',').map(str::trim).filter(|change| !change.is_empty()) {
        let (name, value) = match change.split_once('=') {
            Some((name, value)) if name.starts_with('+') => (name, value),
            Some((name, _)) => {
                return Err(wrong(format!(
                    "add/alter attribute format is wrong: {name}; write +{name}=value"
                )));
            }
            None if change.starts_with('-') => (change, ""),
            None => {
                return Err(wrong(format!(
                    "delete attribute format is wrong: {change}; write -{change}"
                )));
            }
        };
        if changes.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(wrong(format!("key duplication: {name}")));
        }
    }
    Ok(changes)
}
