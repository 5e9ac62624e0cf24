//! Pulls that wait for a message: long polling.
//!
//! A pull that found nothing parks on its queue with the offset and the tags that it waits for. The store's dispatcher
//! calls [`Parked::on_dispatch`] once for each queue of a dispatched run; it wakes those whose offset the queue has
//! passed with a message that their tags let through, and moves the others' offset on, so that no entry is compared
//! twice. While nobody waits, a dispatch costs one load. (Java: `PullRequestHoldService`)
//!
//! Invariant: no wake is lost, if whoever parks looks at the queue once more after parking.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering, fence},
    },
};

use store::Queue;
use tokio::sync::Notify;

use crate::{api::TableFull, filter::tag::TagFilter};

const SHARDS: usize = 32;
/// Entries compared with tags in one dispatch; a longer run wakes everybody.
const COMPARED_MAX: usize = 1024;

/// All pulls that wait.
pub(crate) struct Parked {
    /// By the address of the queue's handle, which each waiter keeps alive.
    shards: Vec<Mutex<HashMap<usize, Vec<Arc<Waiter>>>>>,
    count: AtomicUsize,
    parked_max: usize,
}

struct Waiter {
    queue: Arc<Queue>,
    tags: TagFilter,
    /// Entries below were seen by the pull, or did not pass its tags. Changed under the shard's lock only.
    from: Mutex<i64>,
    notify: Notify,
}

/// One pull that waits; dropping it ends the waiting.
pub(crate) struct ParkedPull<'p> {
    parked: &'p Parked,
    waiter: Arc<Waiter>,
}

impl Parked {
    pub(crate) fn new(parked_max: usize) -> Parked {
        Parked {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            parked_max,
        }
    }

    /// Parks a pull that waits for a message at `from` or later. The caller looks at the queue once more before waiting.
    pub(crate) fn park(
        &self,
        queue: &Arc<Queue>,
        from: i64,
        tags: TagFilter,
    ) -> Result<ParkedPull<'_>, TableFull> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.parked_max {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(TableFull {
                table: "waiting pulls",
                max: self.parked_max,
                key: "parkedPullsMax",
            });
        }
        let waiter = Arc::new(Waiter {
            queue: queue.clone(),
            tags,
            from: Mutex::new(from),
            notify: Notify::new(),
        });
        self.shard(queue).entry(key(queue)).or_default().push(waiter.clone());
        fence(Ordering::SeqCst);
        Ok(ParkedPull { parked: self, waiter })
    }

    /// Wakes who waits for a message of `queue`, whether there is one or not.
    pub(crate) fn wake(&self, queue: &Arc<Queue>) {
        let shard = self.shard(queue);
        shard.get(&key(queue)).into_iter().flatten().for_each(|waiter| waiter.notify.notify_one());
    }

    /// Wakes who waits for a message of `queue` below `max_offset`; called by the store's dispatcher.
    pub(crate) fn on_dispatch(&self, queue: &Arc<Queue>, max_offset: i64) {
        // Paired with the fence in `park`: either this sees the count, or who parks sees the queue's new end.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let shard = self.shard(queue);
        let Some(waiters) = shard.get(&key(queue)) else { return };
        let filtered = waiters.iter().filter(|waiter| waiter.tags != TagFilter::All);
        let lowest = filtered.map(|waiter| *waiter.from()).min().unwrap_or(max_offset);
        let mut entries = Vec::new();
        let is_compared = lowest < max_offset
            && (max_offset - lowest) as usize <= COMPARED_MAX
            && queue
                .try_read(lowest, (max_offset - lowest) as usize, &mut entries)
                .is_ok_and(|is_read| is_read);
        for waiter in waiters {
            let mut from = waiter.from();
            if *from >= max_offset {
                continue;
            }
            let unseen = entries.get((*from - lowest).max(0) as usize..).unwrap_or_default();
            let is_wanted = waiter.tags == TagFilter::All
                || !is_compared
                || unseen.iter().any(|entry| waiter.tags.matches(entry.tags_code));
            if is_wanted {
                waiter.notify.notify_one();
            }
            *from = max_offset;
        }
    }

    /// Returns how many pulls wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn shard(&self, queue: &Arc<Queue>) -> MutexGuard<'_, HashMap<usize, Vec<Arc<Waiter>>>> {
        // Handles are allocations: their low bits are equal.
        let shard = &self.shards[(key(queue) >> 6) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    fn from(&self) -> MutexGuard<'_, i64> {
        self.from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ParkedPull<'_> {
    /// Completes when the queue has a message that this pull may want.
    pub(crate) async fn woken(&self) {
        self.waiter.notify.notified().await;
    }
}

impl Drop for ParkedPull<'_> {
    fn drop(&mut self) {
        let queue = &self.waiter.queue;
        let mut shard = self.parked.shard(queue);
        if let Some(waiters) = shard.get_mut(&key(queue)) {
            waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
            if waiters.is_empty() {
                shard.remove(&key(queue));
            }
        }
        self.parked.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn key(queue: &Arc<Queue>) -> usize {
    Arc::as_ptr(queue).addr()
}
