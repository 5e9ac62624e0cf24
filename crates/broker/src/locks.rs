//! Queue locks: who of a group may consume a queue in order.
//!
//! A lock is a lease: it ends when its holder has not renewed it for the lease time, and then another client of the
//! group may take it. Locks live in memory; after a restart of the broker clients take them again.
//!
//! Invariant: a queue of a group has at most one holder whose lease runs. (Java: `RebalanceLockManager`)

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytestring::ByteString;

/// All locks of the broker. Times are those of the monotonic clock.
pub(crate) struct Locks {
    groups: Mutex<Groups>,
    lease: Duration,
    locks_max: usize,
}

#[derive(Default)]
struct Groups {
    by_name: HashMap<ByteString, HashMap<(ByteString, i32), Lock>>,
    /// Locks of all groups.
    count: usize,
}

struct Lock {
    holder: ByteString,
    renewed_at: Duration,
}

impl Locks {
    pub(crate) fn new(lease: Duration, locks_max: usize) -> Locks {
        Locks { groups: Mutex::default(), lease, locks_max }
    }

    /// Takes or renews the lock of each queue for `client`; says which of them it holds now.
    pub(crate) fn lock<'q>(
        &self,
        now: Duration,
        group: &str,
        client: &str,
        queues: impl IntoIterator<Item = (&'q str, i32)>,
    ) -> Vec<bool> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.count >= self.locks_max {
            groups.release_expired(now, self.lease);
        }
        let Groups { by_name, count } = &mut *groups;
        let name = group;
        let group = by_name.entry(name.into()).or_default();
        let held = queues
            .into_iter()
            .map(|(topic, queue_id)| match group.get_mut(&(topic.into(), queue_id)) {
                Some(lock) if &*lock.holder == client || lock.is_expired(now, self.lease) => {
                    if &*lock.holder != client {
                        lock.holder = client.into();
                    }
                    lock.renewed_at = now;
                    true
                }
                Some(_) => false,
                None if *count >= self.locks_max => false,
                None => {
                    *count += 1;
                    let lock = Lock { holder: client.into(), renewed_at: now };
                    group.insert((topic.into(), queue_id), lock);
                    true
                }
            })
            .collect();
        if group.is_empty() {
            by_name.remove(name);
        }
        held
    }

    /// Gives up the locks among `queues` that `client` holds.
    pub(crate) fn unlock<'q>(
        &self,
        group: &str,
        client: &str,
        queues: impl IntoIterator<Item = (&'q str, i32)>,
    ) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let Groups { by_name, count } = &mut *groups;
        let Some(locks) = by_name.get_mut(group) else { return };
        for (topic, queue_id) in queues {
            let key = (topic.into(), queue_id);
            if locks.get(&key).is_some_and(|lock| &*lock.holder == client) {
                locks.remove(&key);
                *count -= 1;
            }
        }
        if locks.is_empty() {
            by_name.remove(group);
        }
    }

    /// Says whether any client of the group holds a lock: the group consumes in order.
    pub(crate) fn is_any_held(&self, now: Duration, group: &str) -> bool {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups
            .by_name
            .get(group)
            .is_some_and(|locks| locks.values().any(|lock| !lock.is_expired(now, self.lease)))
    }

    /// Forgets the locks whose lease has ended.
    pub(crate) fn release_expired(&self, now: Duration) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.release_expired(now, self.lease);
    }
}

impl Groups {
    fn release_expired(&mut self, now: Duration, lease: Duration) {
        self.by_name.retain(|_, locks| {
            locks.retain(|_, lock| !lock.is_expired(now, lease));
            !locks.is_empty()
        });
        self.count = self.by_name.values().map(HashMap::len).sum();
    }
}

impl Lock {
    fn is_expired(&self, now: Duration, lease: Duration) -> bool {
        now.saturating_sub(self.renewed_at) > lease
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn lock(locks: &Locks, at_s: u64, client: &str, queue_id: i32) -> bool {
        locks.lock(Duration::from_secs(at_s), "g", client, [("t", queue_id)])[0]
    }

    #[test]
    fn a_lock_is_held_until_its_lease_ends() {
        let locks = Locks::new(LEASE, 10);
        assert!(lock(&locks, 0, "a", 0));
        assert!(!lock(&locks, 60, "b", 0), "the lease runs to its last moment");
        assert!(lock(&locks, 61, "b", 0));
        assert!(!lock(&locks, 62, "a", 0));
    }

    #[test]
    fn only_the_holder_unlocks() {
        let locks = Locks::new(LEASE, 10);
        assert!(lock(&locks, 0, "a", 0));
        locks.unlock("g", "b", [("t", 0)]);
        assert!(!lock(&locks, 1, "b", 0));
        locks.unlock("g", "a", [("t", 0)]);
        assert!(lock(&locks, 1, "b", 0));
    }

    #[test]
    fn a_full_table_refuses_new_locks_and_forgets_ended_ones() {
        let locks = Locks::new(LEASE, 2);
        assert!(lock(&locks, 0, "a", 0) && lock(&locks, 10, "a", 1));
        assert!(!lock(&locks, 20, "a", 2));
        assert!(lock(&locks, 61, "a", 2), "the first has ended and makes room");
        assert!(locks.is_any_held(Duration::from_secs(61), "g"));
        assert!(!locks.is_any_held(Duration::from_secs(200), "g"));
    }

    #[test]
    fn a_group_without_locks_leaves_nothing() {
        let locks = Locks::new(LEASE, 1);
        assert!(locks.lock(Duration::ZERO, "empty", "a", []).is_empty());
        assert!(lock(&locks, 0, "a", 0));
        assert_eq!(locks.lock(Duration::ZERO, "late", "a", [("t", 1)]), [false]);
        assert_eq!(locks.groups.lock().unwrap().by_name.len(), 1);
    }

    proptest! {
        /// The table agrees with the plainest model: a list of (queue, holder, renewed at).
        #[test]
        fn a_queue_has_one_holder(steps in prop::collection::vec((0u64..40, 0..3usize, 0..3i32, any::<bool>()), 1..80)) {
            let locks = Locks::new(LEASE, 100);
            let mut model: HashMap<i32, (usize, u64)> = HashMap::new();
            let mut now = 0;
            for (passed, client, queue_id, take) in steps {
                now += passed;
                let name = ["a", "b", "c"][client];
                if take {
                    let free = model.get(&queue_id).is_none_or(|&(holder, at)| holder == client || now - at > 60);
                    if free {
                        model.insert(queue_id, (client, now));
                    }
                    prop_assert_eq!(lock(&locks, now, name, queue_id), free);
                } else {
                    if model.get(&queue_id).is_some_and(|&(holder, _)| holder == client) {
                        model.remove(&queue_id);
                    }
                    locks.unlock("g", name, [("t", queue_id)]);
                }
            }
        }
    }
}
