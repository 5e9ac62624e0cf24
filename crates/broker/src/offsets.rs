//! How far each group has consumed each queue.
//!
//! Three numbers for a queue of a group: *committed* (what consumers say, persisted), *pulled* (where the next pull
//! begins, in memory) and *reset* (where an administrator wants the next pull to begin; wins over the others until a
//! pull has taken it). Offsets are a map in shards by group; `consumerOffset.json` is a snapshot of the committed ones,
//! taken when something has changed.
//!
//! Invariant: only what a consumer has committed is persisted. (Java: `ConsumerOffsetManager`)

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytestring::ByteString;

use crate::api::TableFull;

const SHARDS: usize = 64;

/// Offsets of all groups.
pub(crate) struct Offsets {
    shards: Vec<Mutex<Shard>>,
    count: AtomicUsize,
    changed: AtomicBool,
    /// Something was refused for lack of room.
    refused: AtomicBool,
    offsets_max: usize,
}

/// group → topic → queue → progress
type Shard = HashMap<ByteString, HashMap<ByteString, BTreeMap<i32, Progress>>>;

/// The committed offsets as `consumerOffset.json` holds them: `topic@group` → queue → offset.
pub(crate) type OffsetTable = BTreeMap<String, BTreeMap<i32, i64>>;

#[derive(Clone, Copy, Default)]
struct Progress {
    committed: Option<i64>,
    pulled: Option<i64>,
    reset: Option<i64>,
}

impl Offsets {
    /// Takes over the offsets of a table; of keys that are no `topic@group` it knows nothing.
    pub(crate) fn new(table: &OffsetTable, offsets_max: usize) -> Offsets {
        let offsets = Offsets {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            changed: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            // What was stored is kept, even if the bound has been lowered since.
            offsets_max: offsets_max.max(table.values().map(BTreeMap::len).sum()),
        };
        for (key, queues) in table {
            let Some((topic, group)) = split_key(key) else { continue };
            for (queue_id, offset) in queues {
                offsets
                    .with_progress(group, topic, *queue_id, |at| at.committed = Some(*offset))
                    .expect("the bound is at least what the table holds");
            }
        }
        offsets
    }

    /// Sets who is ahead of a queue's end back to it, since else they would miss what comes next there; returns how many
    /// there were.
    pub(crate) fn cut(&self, end: impl Fn(&str, i32) -> i64) -> usize {
        let mut cut = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (topic, queues) in shard.values_mut().flatten() {
                for (queue_id, at) in queues {
                    let Some(committed) = &mut at.committed else { continue };
                    let end = end(topic, *queue_id);
                    if *committed > end {
                        *committed = end;
                        cut += 1;
                    }
                }
            }
        }
        if cut > 0 {
            self.changed.store(true, Ordering::Release);
        }
        cut
    }

    /// Returns the offset to consume from: a pending reset, or what was committed last.
    pub(crate) fn query(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let at = self.progress(group, topic, queue_id)?;
        // Some client may commit a negative offset: it means none.
        at.reset.or(at.committed).filter(|offset| *offset >= 0)
    }

    /// Returns where the group pulls next, if it has pulled since the broker started, else [`Offsets::query`].
    pub(crate) fn query_pulled(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let at = self.progress(group, topic, queue_id)?;
        at.pulled.or(at.reset).or(at.committed).filter(|offset| *offset >= 0)
    }

    /// Says whether a reset waits for a pull.
    pub(crate) fn is_reset(&self, group: &str, topic: &str, queue_id: i32) -> bool {
        self.progress(group, topic, queue_id).is_some_and(|at| at.reset.is_some())
    }

    /// Stores what a consumer has committed, also when that is less than before.
    pub(crate) fn commit(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        offset: i64,
    ) -> Result<(), TableFull> {
        let before =
            self.with_progress(group, topic, queue_id, |at| at.committed.replace(offset))?;
        if before != Some(offset) {
            self.changed.store(true, Ordering::Release);
        }
        if before.is_some_and(|before| offset < before) {
            tracing::warn!(group, topic, queue_id, offset, before, "consumer offset goes back");
        }
        Ok(())
    }

    /// Notes where the group pulls next; forgotten when the table is full.
    pub(crate) fn note_pulled(&self, group: &str, topic: &str, queue_id: i32, next: i64) {
        let _ = self.with_progress(group, topic, queue_id, |at| at.pulled = Some(next));
    }

    /// Sets where the next pull of the group shall begin.
    pub(crate) fn reset(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        offset: i64,
    ) -> Result<(), TableFull> {
        self.changed.store(true, Ordering::Release);
        self.with_progress(group, topic, queue_id, |at| {
            *at = Progress { committed: Some(offset), pulled: None, reset: Some(offset) };
        })
    }

    /// Takes the pending reset of a queue, so that it is answered once.
    pub(crate) fn take_reset(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let mut shard = self.shard(group);
        shard.get_mut(group)?.get_mut(topic)?.get_mut(&queue_id)?.reset.take()
    }

    /// Returns what the slowest group has committed of a queue; none when no group consumes it.
    pub(crate) fn lowest(&self, topic: &str, queue_id: i32) -> Option<i64> {
        let lowest_of = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let queues = shard.values().filter_map(|topics| topics.get(topic)?.get(&queue_id));
            queues.filter_map(|at| at.committed).min()
        };
        self.shards.iter().filter_map(lowest_of).min()
    }

    /// Returns the topics of which the group has committed an offset.
    pub(crate) fn topics_of(&self, group: &str) -> Vec<ByteString> {
        let shard = self.shard(group);
        let topics = shard.get(group).into_iter().flatten();
        topics.filter(|(_, queues)| any_committed(queues)).map(|(topic, _)| topic.clone()).collect()
    }

    /// Returns the groups that have committed an offset of the topic.
    pub(crate) fn groups_of(&self, topic: &str) -> Vec<ByteString> {
        let mut groups = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (group, topics) in &*shard {
                if topics.get(topic).is_some_and(any_committed) {
                    groups.push(group.clone());
                }
            }
        }
        groups
    }

    /// Returns what a group has committed of a topic.
    pub(crate) fn committed(&self, group: &str, topic: &str) -> Vec<(i32, i64)> {
        let shard = self.shard(group);
        let queues = shard.get(group).and_then(|topics| topics.get(topic));
        let committed = |(id, at): (&i32, &Progress)| Some((*id, at.committed?));
        queues.into_iter().flatten().filter_map(committed).collect()
    }

    /// Gives `to` what `from` has committed of a topic, in place of its own; nothing if that is nothing.
    pub(crate) fn copy(&self, from: &str, to: &str, topic: &str) -> Result<(), TableFull> {
        let copied = self.committed(from, topic);
        if copied.is_empty() || from == to {
            return Ok(());
        }
        self.remove(to, topic);
        copied.into_iter().try_for_each(|(id, offset)| self.commit(to, topic, id, offset))
    }

    /// Says whether anything was refused for lack of room since the last call.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }

    /// Returns the groups with the topics that anything is known of, committed or not.
    pub(crate) fn keys(&self) -> Vec<(ByteString, ByteString)> {
        let mut keys = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (group, topics) in &*shard {
                keys.extend(topics.keys().map(|topic| (group.clone(), topic.clone())));
            }
        }
        keys
    }

    /// Forgets a group's offsets of a topic.
    pub(crate) fn remove(&self, group: &str, topic: &str) {
        let removed = self.shard(group).get_mut(group).and_then(|topics| topics.remove(topic));
        self.forget(removed);
    }

    /// Forgets all offsets of a group.
    pub(crate) fn remove_group(&self, group: &str) {
        let removed = self.shard(group).remove(group);
        self.forget(removed.into_iter().flat_map(HashMap::into_values));
    }

    /// Forgets all groups' offsets of a topic.
    pub(crate) fn remove_topic(&self, topic: &str) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let removed: Vec<_> =
                shard.values_mut().filter_map(|topics| topics.remove(topic)).collect();
            drop(shard);
            self.forget(removed);
        }
    }

    /// Returns the committed offsets if any has changed since the last call.
    pub(crate) fn snapshot_if_changed(&self) -> Option<OffsetTable> {
        self.changed.swap(false, Ordering::AcqRel).then(|| self.snapshot())
    }

    /// Returns the committed offsets.
    pub(crate) fn snapshot(&self) -> OffsetTable {
        let mut table = OffsetTable::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (group, topics) in &*shard {
                for (topic, queues) in topics {
                    let queues: BTreeMap<i32, i64> = queues
                        .iter()
                        .filter_map(|(queue_id, at)| Some((*queue_id, at.committed?)))
                        .collect();
                    if !queues.is_empty() {
                        table.insert(format!("{topic}@{group}"), queues);
                    }
                }
            }
        }
        table
    }

    fn shard(&self, group: &str) -> MutexGuard<'_, Shard> {
        let mut hasher = DefaultHasher::new();
        group.hash(&mut hasher);
        let shard = &self.shards[hasher.finish() as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, group: &str, topic: &str, queue_id: i32) -> Option<Progress> {
        self.shard(group).get(group)?.get(topic)?.get(&queue_id).copied()
    }

    /// Runs `change` on the progress of the queue, which is created if there is room. Names are copied only then.
    fn with_progress<R>(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        change: impl FnOnce(&mut Progress) -> R,
    ) -> Result<R, TableFull> {
        let mut shard = self.shard(group);
        let known = shard.get_mut(group).and_then(|topics| topics.get_mut(topic));
        if let Some(at) = known.and_then(|queues| queues.get_mut(&queue_id)) {
            return Ok(change(at));
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.offsets_max {
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.refused.store(true, Ordering::Relaxed);
            return Err(TableFull {
                table: "consumer offsets",
                max: self.offsets_max,
                key: "offsetsMax",
            });
        }
        let topics = shard.entry(group.into()).or_default();
        Ok(change(topics.entry(topic.into()).or_default().entry(queue_id).or_default()))
    }

    fn forget(&self, removed: impl IntoIterator<Item = BTreeMap<i32, Progress>>) {
        let count: usize = removed.into_iter().map(|queues| queues.len()).sum();
        if count > 0 {
            self.count.fetch_sub(count, Ordering::Relaxed);
            self.changed.store(true, Ordering::Release);
        }
    }
}

fn any_committed(queues: &BTreeMap<i32, Progress>) -> bool {
    queues.values().any(|at| at.committed.is_some())
}

/// Splits `topic@group`; neither holds an `@`.
fn split_key(key: &str) -> Option<(&str, &str)> {
    key.split_once('@').filter(|(_, group)| !group.contains('@'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_committed_offsets_are_persisted() {
        let offsets = Offsets::new(&OffsetTable::new(), 10);
        offsets.note_pulled("g", "t", 0, 7);
        assert_eq!(offsets.snapshot_if_changed(), None);
        assert_eq!(offsets.query("g", "t", 0), None);
        assert_eq!(offsets.query_pulled("g", "t", 0), Some(7));
        assert!(offsets.topics_of("g").is_empty() && offsets.groups_of("t").is_empty());
        offsets.commit("g", "t", 0, 5).unwrap();
        let table = offsets.snapshot_if_changed().expect("a commit is a change");
        assert_eq!(table, OffsetTable::from([("t@g".to_owned(), BTreeMap::from([(0, 5)]))]));
        offsets.commit("g", "t", 0, 5).unwrap();
        assert_eq!(offsets.snapshot_if_changed(), None, "the same offset again is no change");
    }

    #[test]
    fn a_reset_wins_until_it_is_taken() {
        let offsets = Offsets::new(&OffsetTable::new(), 10);
        offsets.commit("g", "t", 0, 50).unwrap();
        offsets.reset("g", "t", 0, 3).unwrap();
        assert!(offsets.is_reset("g", "t", 0));
        assert_eq!(offsets.query("g", "t", 0), Some(3));
        assert_eq!(offsets.take_reset("g", "t", 0), Some(3));
        assert_eq!(offsets.take_reset("g", "t", 0), None);
        assert_eq!(offsets.query("g", "t", 0), Some(3));
    }

    #[test]
    fn a_full_table_still_moves_what_it_holds() {
        let offsets = Offsets::new(&OffsetTable::new(), 1);
        offsets.commit("g", "t", 0, 1).unwrap();
        assert!(offsets.commit("g", "t", 1, 1).is_err());
        offsets.commit("g", "t", 0, 2).unwrap();
        offsets.remove_topic("t");
        offsets.commit("g", "t", 1, 1).unwrap();
    }

    #[test]
    fn retention_may_pass_what_the_slowest_group_has_consumed() {
        let offsets = Offsets::new(&OffsetTable::new(), 10);
        for (group, queue_id, offset) in [("a", 0, 9), ("b", 0, 4), ("b", 1, 6)] {
            offsets.commit(group, "t", queue_id, offset).unwrap();
        }
        assert_eq!(offsets.lowest("t", 0), Some(4));
        assert_eq!(offsets.lowest("t", 1), Some(6));
        assert_eq!(offsets.lowest("t", 2), None);
    }

    proptest! {
        /// A table survives any commits and removals as a plain map would, also through a restart.
        #[test]
        fn offsets_agree_with_a_map(steps in prop::collection::vec((0..4usize, 0..3usize, 0..3i32, 0..100i64, 0..10u8), 1..100)) {
            let names = ["a", "b", "c", "d"];
            let mut offsets = Offsets::new(&OffsetTable::new(), 1_000);
            let mut model: BTreeMap<(usize, usize, i32), i64> = BTreeMap::new();
            for (group, topic, queue_id, offset, what) in steps {
                match what {
                    0 => { offsets.remove_group(names[group]); model.retain(|key, _| key.0 != group); }
                    1 => { offsets.remove_topic(names[topic]); model.retain(|key, _| key.1 != topic); }
                    2 => offsets = Offsets::new(&offsets.snapshot(), 1_000),
                    _ => {
                        offsets.commit(names[group], names[topic], queue_id, offset).unwrap();
                        model.insert((group, topic, queue_id), offset);
                    }
                }
                for (key, committed) in &model {
                    prop_assert_eq!(offsets.query(names[key.0], names[key.1], key.2), Some(*committed));
                }
                prop_assert_eq!(offsets.snapshot().values().map(BTreeMap::len).sum::<usize>(), model.len());
            }
        }
    }
}
