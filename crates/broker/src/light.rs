//! Light queues: named `%LMQ%...`, without a topic of their own; a message goes to those that it names, too.
//!
//! A producer names them in `INNER_MULTI_DISPATCH`, the store numbers the message in each, and consumers read `%LMQ%...` as
//! a topic of one queue. Groups whose name begins so need no configuration either.
//! (Java: `LmqDispatch`, `LmqTopicConfigManager`, `LmqSubscriptionGroupManager`, `LmqConsumerOffsetManager`)
//!
//! Invariant: there are no more of them than `maxLmqConsumeQueueNum`, unless the store had more when it was opened.

use std::sync::{Arc, Mutex, PoisonError};

use store::{Draft, Queue, Store};
use wire::{
    body::group::ConsumerOffsetTable,
    names,
    properties::{self, name},
};

use crate::{
    Broker, Options,
    api::{PublishError, TableFull},
    offsets::OffsetTable,
};

/// Bytes of the offset in a light queue, with its separator.
const OFFSET_BYTES_MAX: usize = 20;

/// How many light queues there are.
pub(crate) struct Lights {
    store: Store,
    count: Mutex<usize>,
    queues_max: usize,
}

impl Lights {
    pub(crate) fn new(store: &Store, options: &Options) -> Lights {
        let count = Mutex::new(store.count_queues(names::is_light));
        Lights { store: store.clone(), count, queues_max: options.max_lmq_consume_queue_num }
    }

    /// Counts again, after some were removed.
    pub(crate) fn recount(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = self.store.count_queues(names::is_light);
    }

    /// Returns a light queue, made if there is none.
    pub(crate) fn queue(&self, name: &str) -> Result<Arc<Queue>, TableFull> {
        if let Some(queue) = self.store.find_queue(name, 0) {
            return Ok(queue);
        }
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.find_queue(name, 0).is_none() {
            if *count >= self.queues_max {
                let (table, key) = ("light queues", "maxLmqConsumeQueueNum");
                return Err(TableFull { table, max: self.queues_max, key });
            }
            *count += 1;
        }
        Ok(self.store.queue(name, 0))
    }
}

impl Broker {
    /// As [`Broker::lighten`], for a message that was accepted before and is due now: light queues that there are too many
    /// of do not keep it from its own.
    pub(crate) fn lighten_due(&self, draft: Draft) -> Draft {
        let options = self.inner.options.read();
        match options.serves_light_queues() {
            true => self.lighten(&options, draft.clone()).unwrap_or(draft),
            false => draft,
        }
    }

    /// Has a message go to the light queues that it names, if they are served and its topic lets it.
    pub(crate) fn lighten(&self, options: &Options, draft: Draft) -> Result<Draft, PublishError> {
        if !options.serves_light_queues() || !names::allows_light(&draft.message.topic) {
            return Ok(draft);
        }
        let text = &draft.message.properties;
        let Some(list) = properties::get(text, name::INNER_MULTI_DISPATCH) else {
            return Ok(draft);
        };
        let illegal = |problem: String| {
            let property = name::INNER_MULTI_DISPATCH;
            Err(PublishError::IllegalMessage(format!("{property} names {problem}")))
        };
        let named: Vec<&str> = list.split(names::LMQ_SEPARATOR).collect();
        let len = text.len() + name::INNER_MULTI_QUEUE_OFFSET.len() + 2;
        if len + named.len() * OFFSET_BYTES_MAX > properties::LEN_MAX {
            return illegal(format!("{} queues, too many for their offsets to fit", named.len()));
        }
        for (at, queue) in named.iter().enumerate() {
            if !names::is_light(queue) {
                return illegal(format!(
                    "`{queue}`, which does not begin with {}",
                    names::LMQ_PREFIX
                ));
            }
            if let Err(bad) = names::check_topic(queue) {
                return illegal(format!("`{queue}`: {bad}"));
            }
            if named[..at].contains(queue) {
                return illegal(format!("`{queue}` twice"));
            }
        }
        let lights = named.iter().map(|queue| self.inner.lights.queue(queue));
        let lights = lights.collect::<Result<Vec<_>, _>>()?;
        Ok(draft.with_lights(lights))
    }
}

impl Options {
    /// Whether messages go to the light queues that they name.
    pub fn serves_light_queues(&self) -> bool {
        self.enable_lmq && self.enable_multi_dispatch
    }

    /// Name of the file with the offsets of groups.
    pub(crate) fn offset_file(&self) -> &'static str {
        if self.enable_lmq { "lmqConsumerOffset.json" } else { "consumerOffset.json" }
    }
}

/// Takes the offsets of light groups in light queues out of the table of the others, as `lmqConsumerOffset.json` has them.
pub(crate) fn split_light(table: &mut ConsumerOffsetTable) {
    let is_light = |key: &str| {
        key.split_once('@')
            .is_some_and(|(topic, group)| names::is_light(topic) && names::is_light(group))
    };
    let (lights, others): (OffsetTable, OffsetTable) =
        std::mem::take(&mut table.offset_table).into_iter().partition(|(key, _)| is_light(key));
    table.offset_table = others;
    let lights = lights.into_iter().filter_map(|(key, queues)| Some((key, *queues.get(&0)?)));
    table.lmq_offset_table = Some(lights.collect());
}

/// Returns all offsets of a table, those of light groups among them.
pub(crate) fn joined_offsets(table: &ConsumerOffsetTable) -> OffsetTable {
    let mut offsets = table.offset_table.clone();
    for (key, offset) in table.lmq_offset_table.iter().flatten() {
        offsets.entry(key.clone()).or_default().insert(0, *offset);
    }
    offsets
}
