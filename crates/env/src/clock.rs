//! Time: the wall clock that messages carry, the monotonic clock that timeouts use, and sleeping on the latter.
//!
//! The wall clock may jump either way; the monotonic clock never does. Nothing above decides on one what belongs to the
//! other: store times and retention are wall time, intervals and deadlines are monotonic.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::sim::SimClock;

/// Milliseconds since the Unix epoch, as RocketMQ's records and tables carry them.
pub type Millis = i64;

/// A handle to a clock; cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Real { origin: Instant },
    Sim(SimClock),
}

impl Clock {
    /// Returns the machine's clock.
    pub fn real() -> Clock {
        Clock(Source::Real { origin: Instant::now() })
    }

    /// Returns the wall time in milliseconds since the Unix epoch. It may jump both ways.
    pub fn now(&self) -> Millis {
        match &self.0 {
            Source::Real { .. } => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Source::Sim(clock) => clock.now(),
        }
    }

    /// Returns the time since an arbitrary fixed point; it never runs backwards.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::Real { origin } => origin.elapsed(),
            Source::Sim(clock) => clock.monotonic(),
        }
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.monotonic().saturating_add(duration))
    }

    /// Completes once [`Clock::monotonic`] has reached `deadline`. On the real clock it needs a tokio runtime.
    pub fn sleep_until(&self, deadline: Duration) -> Sleep {
        Sleep(match &self.0 {
            Source::Real { origin } => {
                // A deadline beyond what the platform can count is as good as a century away.
                let at = origin
                    .checked_add(deadline)
                    .unwrap_or_else(|| *origin + Duration::from_secs(100 * 365 * 86_400));
                Sleeping::Real(Box::pin(tokio::time::sleep_until(at.into())))
            }
            Source::Sim(clock) => Sleeping::Sim { clock: clock.clone(), deadline },
        })
    }
}

impl From<SimClock> for Clock {
    fn from(clock: SimClock) -> Clock {
        Clock(Source::Sim(clock))
    }
}

/// The future of [`Clock::sleep_until`].
pub struct Sleep(Sleeping);

enum Sleeping {
    Real(Pin<Box<tokio::time::Sleep>>),
    Sim { clock: SimClock, deadline: Duration },
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Sleeping::Real(sleep) => sleep.as_mut().poll(cx),
            Sleeping::Sim { clock, deadline } => clock.poll_until(*deadline, cx),
        }
    }
}
