//! The five watermarks of the log: numbers that only rise, and those who wait for them.
//!
//! A [`Mark`] is an offset with everything before it having happened: appended ≥ written ≥ synced, confirmed by replicas,
//! dispatched to views. Waiting costs nothing while nobody waits: an advance is one store and one load.
//!
//! Invariant: a mark never falls while the store is open, and once poisoned it never rises again. Waiters of one mark are
//! woken in the order of their offsets.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use env::Wake;

use crate::fault::Poisoned;

/// The watermarks of one log.
#[derive(Default)]
pub struct Marks {
    /// Everything before it has its number and lies in the tail.
    pub appended: Mark,
    /// Everything before it was handed to the operating system: it survives the process.
    pub written: Mark,
    /// Everything before it was synced: it survives the machine.
    pub synced: Mark,
    /// Everything before it is held by the replicas that have to hold it; without replicas it follows `written`.
    pub confirmed: Mark,
    /// Everything before it is in the views: visible to readers.
    pub dispatched: Mark,
}

impl Marks {
    /// Sets the marks to what recovery found: the log ends at `end`, views have what is before `applied`.
    pub(crate) fn starting_at(applied: u64, end: u64) -> Marks {
        let marks = Marks::default();
        marks.dispatched.advance(applied);
        for mark in [&marks.appended, &marks.written, &marks.synced, &marks.confirmed] {
            mark.advance(end);
        }
        marks
    }

    /// Ends all waiting with an error: the log failed.
    pub(crate) fn poison(&self) {
        self.all().into_iter().for_each(Mark::poison);
    }

    fn all(&self) -> [&Mark; 5] {
        [&self.appended, &self.written, &self.synced, &self.confirmed, &self.dispatched]
    }
}

/// One watermark.
#[derive(Default)]
pub struct Mark {
    value: AtomicU64,
    poisoned: AtomicBool,
    /// Length of `waiters`, readable without its lock.
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
    /// The worker that works up to this mark.
    follower: OnceLock<Wake>,
}

#[derive(Default)]
struct Waiters {
    by_offset: BTreeMap<(u64, u64), Waker>,
    next_id: u64,
}

impl Mark {
    /// Returns the offset before which everything has happened.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Completes when the mark has reached `offset`, or the log was poisoned before it did.
    pub fn wait_for(&self, offset: u64) -> WaitFor<'_> {
        WaitFor { mark: self, offset, id: None }
    }

    /// Raises the mark to `offset`; a lower or equal one changes nothing, nor does any once the mark is poisoned.
    pub(crate) fn advance(&self, offset: u64) {
        if self.poisoned.load(Ordering::Relaxed) {
            return;
        }
        // SeqCst pairs with `WaitFor::poll`: either it sees the new value or this sees its registration.
        if self.value.fetch_max(offset, Ordering::SeqCst) >= offset {
            return;
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_up_to(offset);
        }
        if let Some(follower) = self.follower.get() {
            follower.wake();
        }
    }

    /// Names the worker that is roused on each advance; a mark has one.
    pub(crate) fn follow(&self, wake: Wake) {
        assert!(self.follower.set(wake).is_ok(), "a mark has one follower");
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::SeqCst);
        self.wake_up_to(u64::MAX);
    }

    fn wake_up_to(&self, offset: u64) {
        let woken = {
            let mut waiters = self.waiters();
            let later = waiters.by_offset.split_off(&(offset, u64::MAX));
            let woken = std::mem::replace(&mut waiters.by_offset, later);
            self.waiting.store(waiters.by_offset.len(), Ordering::SeqCst);
            woken
        };
        woken.into_values().for_each(Waker::wake);
    }

    fn outcome(&self, offset: u64) -> Option<Result<(), Poisoned>> {
        if self.value.load(Ordering::SeqCst) >= offset {
            Some(Ok(()))
        } else if self.poisoned.load(Ordering::SeqCst) {
            Some(Err(Poisoned))
        } else {
            None
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The future of [`Mark::wait_for`]; dropping it forgets the wait.
pub struct WaitFor<'a> {
    mark: &'a Mark,
    offset: u64,
    id: Option<u64>,
}

impl Future for WaitFor<'_> {
    type Output = Result<(), Poisoned>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.mark.outcome(self.offset) {
            return Poll::Ready(outcome);
        }
        let mut waiters = self.mark.waiters();
        let id = self.id.unwrap_or_else(|| {
            waiters.next_id += 1;
            waiters.next_id
        });
        self.id = Some(id);
        waiters.by_offset.insert((self.offset, id), cx.waker().clone());
        self.mark.waiting.store(waiters.by_offset.len(), Ordering::SeqCst);
        drop(waiters);
        // The mark may have passed between the first look and the registration; then nobody may have been woken.
        match self.mark.outcome(self.offset) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl Drop for WaitFor<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut waiters = self.mark.waiters();
        waiters.by_offset.remove(&(self.offset, id));
        self.mark.waiting.store(waiters.by_offset.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{Arc, atomic::AtomicUsize},
        task::Wake as _,
    };

    use super::*;

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_waiter_is_woken_when_its_offset_is_reached_and_not_before() {
        let mark = Mark::default();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut near = pin!(mark.wait_for(10));
        let mut far = pin!(mark.wait_for(20));
        assert!(near.as_mut().poll(&mut cx).is_pending());
        assert!(far.as_mut().poll(&mut cx).is_pending());
        mark.advance(9);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        mark.advance(10);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(near.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
        assert!(far.as_mut().poll(&mut cx).is_pending());
        assert_eq!(mark.waiting.load(Ordering::SeqCst), 1);
        mark.poison();
        assert_eq!(far.as_mut().poll(&mut cx), Poll::Ready(Err(Poisoned)));
        count.wake();
    }

    #[test]
    fn a_dropped_waiter_is_forgotten() {
        let mark = Mark::default();
        let mut cx = Context::from_waker(Waker::noop());
        {
            let mut wait = pin!(mark.wait_for(10));
            assert!(wait.as_mut().poll(&mut cx).is_pending());
            assert_eq!(mark.waiting.load(Ordering::SeqCst), 1);
        }
        assert_eq!(mark.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_mark_never_falls() {
        let mark = Mark::default();
        mark.advance(5);
        mark.advance(3);
        assert_eq!(mark.get(), 5);
    }

    #[test]
    fn a_poisoned_mark_never_rises() {
        let mark = Mark::default();
        mark.advance(5);
        mark.poison();
        mark.advance(9);
        assert_eq!(mark.get(), 5);
    }
}
