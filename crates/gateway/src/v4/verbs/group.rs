//! Subscription groups: create, delete, show, and how far they have come.
//!
//! Java: `AdminBrokerProcessor`.

use std::{collections::BTreeSet, sync::Arc};

use broker::{Broker, api::StatsOf};
use bytestring::ByteString;
use wire::{
    body::{
        TopicList,
        client::GroupSubscription,
        group::{GroupForbidden, SubscriptionGroupConfig, SubscriptionGroupList},
    },
    frame::Frame,
    header::group::{
        DeleteGroup, GetAllGroupsResponse, GetBrokerConsumeStats, GetConsumeStats, GroupTopic,
        OneGroup, UpdateForbidden,
    },
};

use crate::v4::session::{Answer, success};

use super::{read_body, to_strings, with_json};

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP.
pub(crate) fn create(broker: &Broker, request: &Frame) -> Answer {
    let group: SubscriptionGroupConfig = read_body(request)?;
    broker.create_groups(vec![group])?;
    Ok(success(request))
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST.
pub(crate) fn create_list(broker: &Broker, request: &Frame) -> Answer {
    let asked: SubscriptionGroupList = read_body(request)?;
    broker.create_groups(asked.group_config_list)?;
    Ok(success(request))
}

/// DELETE_SUBSCRIPTIONGROUP.
pub(crate) fn delete(broker: &Broker, request: &Frame) -> Answer {
    let asked: DeleteGroup<'_> = request.header()?;
    broker.delete_group(asked.group_name, asked.clean_offset);
    Ok(success(request))
}

/// GET_SUBSCRIPTIONGROUP_CONFIG.
pub(crate) fn get(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneGroup<'_> = request.header()?;
    Ok(with_json(success(request), &*broker.group(asked.group)?))
}

/// GET_ALL_SUBSCRIPTIONGROUP_CONFIG.
pub(crate) fn all(broker: &Broker, request: &Frame) -> Answer {
    let groups = broker.groups();
    let header = GetAllGroupsResponse {
        total_group_num: i32::try_from(groups.subscription_group_table.len()).ok(),
    };
    Ok(with_json(success(request).with_header(&header), &groups))
}

/// QUERY_TOPICS_BY_CONSUMER.
pub(crate) fn topics(broker: &Broker, request: &Frame) -> Answer {
    let asked: OneGroup<'_> = request.header()?;
    let list = TopicList {
        topic_list: to_strings(broker.topics_of_group(asked.group)),
        broker_addr: Some(broker.options().store_host.to_string()),
    };
    Ok(with_json(success(request), &list))
}

/// UPDATE_AND_GET_GROUP_FORBIDDEN: without `readable` only the second.
pub(crate) fn forbid(broker: &Broker, request: &Frame) -> Answer {
    let asked: UpdateForbidden<'_> = request.header()?;
    if let Some(readable) = asked.readable {
        broker.forbid(asked.group, asked.topic, !readable)?;
    }
    let readable = !broker.is_forbidden(asked.group, asked.topic);
    let (group, topic) = (asked.group.to_owned(), asked.topic.to_owned());
    Ok(with_json(success(request), &GroupForbidden { group, readable, topic }))
}

/// GET_BROKER_CONSUME_STATS: of all groups.
pub(crate) async fn all_consume_stats(broker: &Broker, request: &Frame) -> Answer {
    let asked: GetBrokerConsumeStats = request.header()?;
    Ok(with_json(success(request), &broker.all_consume_stats(asked.is_order).await?))
}

/// QUERY_CONSUME_TIME_SPAN.
pub(crate) async fn time_spans(broker: &Broker, request: &Frame) -> Answer {
    let asked: GroupTopic<'_> = request.header()?;
    Ok(with_json(success(request), &broker.time_spans(asked.group, asked.topic).await?))
}

/// QUERY_SUBSCRIPTION_BY_CONSUMER: without a subscription when the group wants nothing of the topic.
pub(crate) fn subscription(broker: &Broker, request: &Frame) -> Answer {
    let asked: GroupTopic<'_> = request.header()?;
    let subscription = broker.subscription(asked.group, asked.topic);
    let body = GroupSubscription {
        group: asked.group.to_owned(),
        subscription_data: subscription.map(Arc::unwrap_or_clone),
        topic: asked.topic.to_owned(),
    };
    Ok(with_json(success(request), &body))
}

/// GET_CONSUME_STATS: of one topic, of a list separated by `;`, or of all that the group has consumed.
pub(crate) async fn consume_stats(broker: &Broker, request: &Frame) -> Answer {
    let asked: GetConsumeStats<'_> = request.header()?;
    let listed = asked.topic_list.unwrap_or_default().split(';').filter(|topic| !topic.is_empty());
    let listed: BTreeSet<ByteString> = listed.map(ByteString::from).collect();
    let of = match asked.topic.filter(|topic| !topic.trim().is_empty()) {
        _ if !listed.is_empty() => StatsOf::Listed(listed),
        Some(topic) => StatsOf::One(topic.into()),
        None => StatsOf::Consumed,
    };
    Ok(with_json(success(request), &broker.consume_stats(asked.consumer_group, of).await))
}
