//! What administrators look into and clean: entries of queues, the state of replication, what nobody needs any more.
//!
//! (Java: `AdminBrokerProcessor`)

use store::{ExtUnit, Fault};
use wire::{
    body::inspect::{ExtensionUnit, HaStatus, QueueListing, QueueUnit},
    fastjson, names,
};

use crate::{Broker, api::ListError, blocking, filter::tag::is_tag_type};

/// Most entries of a queue in one answer, which leaves it under the size of a frame.
const LISTED_MAX: usize = 10_000;

impl Broker {
    /// Returns up to `count` entries of a queue from an offset on, and what the filter of a group says of them
    /// (QUERY_CONSUME_QUEUE).
    ///
    /// # Errors
    /// See [`ListError`].
    pub async fn list_queue(
        &self,
        topic: &str,
        queue_id: i32,
        from: i64,
        count: i32,
        group: Option<&str>,
    ) -> Result<QueueListing, ListError> {
        let count = usize::try_from(count).ok().filter(|count| *count <= LISTED_MAX);
        let count = count.ok_or(ListError::Count)?;
        let unknown = || ListError::UnknownQueue { topic: topic.into(), queue_id };
        let queue = self.queue(topic, queue_id).ok_or_else(unknown)?;
        self.caught_up().await;
        let mut listing = QueueListing {
            max_queue_index: queue.max_offset(),
            min_queue_index: queue.min_offset(),
            ..QueueListing::default()
        };
        let mut condition = None;
        if let Some(group) = group {
            let subscription = self.subscription(group, topic);
            listing.filter_data = Some(match &subscription {
                None => format!("{group}@{topic} is not online!"),
                Some(_) => {
                    condition = self.inner.filters.get(topic, group);
                    let data = fastjson::encode(&condition.as_ref().map(|found| &found.data));
                    String::from_utf8_lossy(&data).into_owned()
                }
            });
            listing.subscription_data = subscription.map(|found| (*found).clone());
        }
        if !(listing.min_queue_index..listing.max_queue_index).contains(&from) {
            return Ok(listing);
        }
        let read = blocking(move || {
            let (mut entries, mut units) = (Vec::new(), Vec::new());
            queue.read_extended(from, count, &mut entries, &mut units).map(|()| (entries, units))
        });
        let (entries, units) = read.await.map_err(|fault| ListError::Store(fault.to_string()))?;
        let may_match = |unit: &ExtUnit| match &listing.subscription_data {
            None => false,
            Some(tags) if is_tag_type(&tags.expression_type) => {
                tags.sub_string == "*" || tags.code_set.contains(&(unit.tags_code as i32))
            }
            Some(_) => condition.as_ref().is_none_or(|condition| condition.may_match(unit)),
        };
        let listed = entries.iter().zip(units).map(|(entry, unit)| QueueUnit {
            bit_map: unit
                .as_ref()
                .filter(|unit| !unit.bit_map.is_empty())
                .map(|unit| bits_text(&unit.bit_map)),
            eval: unit.as_ref().is_some_and(may_match),
            extend_data_json: unit.as_ref().map(extension_json),
            physic_offset: entry.log_offset as i64,
            physic_size: entry.len as i32,
            tags_code: entry.tags_code,
        });
        let listed = listed.collect();
        listing.queue_data = Some(listed);
        Ok(listing)
    }

    /// Removes the queues of topics that are none: neither in the table, nor the broker's own, nor light queues
    /// (CLEAN_UNUSED_TOPIC). Returns how many topics went.
    ///
    /// # Errors
    /// The disk's.
    pub async fn clean_unused_topics(&self) -> Result<usize, Fault> {
        let broker = self.clone();
        blocking(move || {
            let inner = &*broker.inner;
            // A topic is in the table before it has a queue: whose queue is listed and who is not in the table is gone.
            let mut unused = inner.store.topics_with_queues();
            unused.retain(|topic| {
                inner.topics.find(topic).is_none()
                    && !inner.topics.is_system(topic)
                    && !names::is_light(topic)
            });
            for topic in &unused {
                tracing::info!(topic, "queues of a topic that is none are removed");
                inner.store.remove_topic(topic)?;
            }
            Ok(unused.len())
        })
        .await
    }

    /// Removes files of queues and index that speak of nothing that the log still has (CLEAN_EXPIRED_CONSUMEQUEUE).
    ///
    /// # Errors
    /// The disk's.
    pub async fn clean_expired_queues(&self) -> Result<(), Fault> {
        let store = self.inner.store.clone();
        blocking(move || store.clean_views()).await
    }

    /// Lets log files that are older than `fileReservedTime` go at once, not only in the hours of `deleteWhen`
    /// (DELETE_EXPIRED_COMMITLOG).
    pub async fn delete_expired_log(&self) {
        let store = self.inner.store.clone();
        blocking(move || store.expire_now()).await;
    }

    /// Says whether messages can be stored.
    ///
    /// # Errors
    /// A line that says why not.
    pub fn health(&self) -> Result<(), &'static str> {
        let status = self.inner.store.status();
        if status.is_poisoned {
            return Err("a write or sync of the log failed: look at the disk, then restart\n");
        }
        if status.is_full {
            return Err("the disk is full: messages are refused until there is room\n");
        }
        Ok(())
    }

    /// Returns how replication stands (GET_BROKER_HA_STATUS): a master without slaves.
    pub fn ha_status(&self) -> HaStatus {
        HaStatus {
            master: true,
            master_commit_log_max_offset: self.inner.store.marks().appended.get() as i64,
            ..HaStatus::default()
        }
    }
}

/// The bits of a map, highest first, a line for eight bytes (Java: `BitsArray.toString`).
fn bits_text(map: &[u8]) -> String {
    let mut text = String::with_capacity(map.len() * 8 + map.len() / 8 + 1);
    for (at, byte) in map.iter().enumerate().rev() {
        text.push_str(&format!("{byte:08b}"));
        if at % 8 == 0 {
            text.push('\n');
        }
    }
    text
}

fn extension_json(unit: &ExtUnit) -> String {
    let map = || unit.bit_map.iter().map(|byte| *byte as i8).collect();
    let json = fastjson::encode(&ExtensionUnit {
        bit_map_size: unit.bit_map.len() as i16,
        filter_bit_map: (!unit.bit_map.is_empty()).then(map),
        msg_store_time: unit.stored_at,
        size: unit.byte_len() as i16,
        tags_code: unit.tags_code,
    });
    String::from_utf8_lossy(&json).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_shown_highest_first_and_a_line_for_eight_bytes() {
        assert_eq!(bits_text(&[0b101, 0x80]), "1000000000000101\n");
        let nine = bits_text(&[0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(nine, format!("00000001\n{}\n", "0".repeat(64)));
    }

    #[test]
    fn an_extension_is_shown_as_java_shows_it() {
        let unit = ExtUnit { tags_code: 7, stored_at: 9, bit_map: [0xff_u8, 1][..].into() };
        assert_eq!(
            extension_json(&unit),
            r#"{"bitMapSize":2,"filterBitMap":[-1,1],"msgStoreTime":9,"size":22,"tagsCode":7}"#
        );
    }
}
