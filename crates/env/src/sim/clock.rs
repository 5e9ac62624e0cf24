//! A clock that stands still until the test moves it.
//!
//! Time passes ([`SimClock::advance`]) on both clocks together and wakes the sleepers that it passes; a jump
//! ([`SimClock::jump`]) moves the wall clock alone, either way, as an operator or NTP does.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::Millis;

/// A clock moved by hand; cheap to clone, all clones are one clock.
#[derive(Clone)]
pub struct SimClock(Arc<Mutex<State>>);

struct State {
    wall: Millis,
    monotonic: Duration,
    sleepers: Vec<(Duration, Waker)>,
}

impl SimClock {
    /// Returns a clock that stands at the wall time `now`.
    pub fn new(now: Millis) -> SimClock {
        SimClock(Arc::new(Mutex::new(State {
            wall: now,
            monotonic: Duration::ZERO,
            sleepers: Vec::new(),
        })))
    }

    /// Lets time pass on both clocks and wakes those whose deadline it reaches.
    pub fn advance(&self, duration: Duration) {
        let woken = {
            let mut state = self.state();
            state.monotonic += duration;
            state.wall += i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
            let now = state.monotonic;
            let (woken, asleep) =
                state.sleepers.drain(..).partition(|(deadline, _)| *deadline <= now);
            state.sleepers = asleep;
            woken
        };
        let woken: Vec<(Duration, Waker)> = woken;
        woken.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Moves the wall clock alone by `by` milliseconds, forwards or backwards.
    pub fn jump(&self, by: Millis) {
        self.state().wall += by;
    }

    /// Returns the wall time.
    pub fn now(&self) -> Millis {
        self.state().wall
    }

    /// Returns the monotonic time, which starts at zero.
    pub fn monotonic(&self) -> Duration {
        self.state().monotonic
    }

    pub(crate) fn poll_until(&self, deadline: Duration, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.monotonic >= deadline {
            return Poll::Ready(());
        }
        if !state.sleepers.iter().any(|(at, waker)| *at == deadline && waker.will_wake(cx.waker()))
        {
            state.sleepers.push((deadline, cx.waker().clone()));
        }
        Poll::Pending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
