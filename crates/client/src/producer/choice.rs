//! Which queue is next: round and round, past brokers that failed or were slow lately.
//!
//! Java: `MQFaultStrategy`, `LatencyFaultToleranceImpl`; the steps of latency and the times of avoidance are the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use env::Clock;
use wire::body::MessageQueue;

/// How slow an answer is, and how long its broker is then avoided, in ms.
const STEPS: [(u64, u64); 5] =
    [(550, 2_000), (1_800, 5_000), (3_000, 6_000), (5_000, 10_000), (15_000, 30_000)];
/// A failure counts as an answer this slow.
const FAILURE: Duration = Duration::from_secs(10);

/// What is known against brokers.
pub(crate) struct Faults {
    clock: Clock,
    enabled: bool,
    /// Until when each is avoided; only of brokers that are, so it is as short as the list of brokers.
    avoided: Mutex<HashMap<String, Duration>>,
}

impl Faults {
    pub(crate) fn new(clock: Clock, enabled: bool) -> Faults {
        Faults { clock, enabled, avoided: Mutex::default() }
    }

    /// Notes how an attempt at a broker went.
    pub(crate) fn note(&self, broker: &str, took: Duration, failed: bool) {
        if !self.enabled {
            return;
        }
        let took = if failed { took.max(FAILURE) } else { took };
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let step = STEPS.iter().rev().find(|(latency, _)| millis >= *latency);
        let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        match step {
            Some((_, avoid)) => {
                let until = self.clock.monotonic() + Duration::from_millis(*avoid);
                avoided.insert(broker.to_owned(), until);
            }
            None if avoided.is_empty() => {}
            None => drop(avoided.remove(broker)),
        }
    }

    /// Chooses from `queues` the first from `first` on whose broker is not avoided and not `failed_broker`; if there is
    /// none, one of another broker than that; if there is none either, any.
    pub(crate) fn choose<'a>(
        &self,
        queues: &'a [Arc<MessageQueue>],
        first: usize,
        failed_broker: Option<&str>,
    ) -> Option<&'a Arc<MessageQueue>> {
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        let now = if avoided.is_empty() { Duration::ZERO } else { self.clock.monotonic() };
        let is_avoided = |broker: &str| avoided.get(broker).is_some_and(|until| *until > now);
        let round = || (0..queues.len()).map(|at| &queues[(first + at) % queues.len()]);
        let other = |queue: &&Arc<MessageQueue>| Some(queue.broker_name.as_str()) != failed_broker;
        round()
            .filter(other)
            .find(|queue| !is_avoided(&queue.broker_name))
            .or_else(|| round().find(other))
            .or_else(|| round().next())
    }
}

#[cfg(test)]
mod tests {
    use env::sim::SimClock;

    use super::*;

    #[test]
    fn brokers_that_failed_are_avoided_for_a_while_unless_nothing_else_is_left() {
        let clock = SimClock::new(0);
        let faults = Faults::new(clock.clone().into(), true);
        let queue = |broker: &str| {
            Arc::new(MessageQueue { broker_name: broker.to_owned(), ..MessageQueue::default() })
        };
        let queues = [queue("a"), queue("b"), queue("c")];
        let chosen =
            |first, failed| faults.choose(&queues, first, failed).map(|q| q.broker_name.clone());
        assert_eq!(chosen(4, None).as_deref(), Some("b"));
        assert_eq!(chosen(4, Some("b")).as_deref(), Some("c"));
        faults.note("c", Duration::ZERO, true);
        assert_eq!(chosen(4, Some("b")).as_deref(), Some("a"));
        faults.note("a", Duration::from_millis(600), false);
        assert_eq!(
            chosen(4, Some("b")).as_deref(),
            Some("c"),
            "avoided, but not the one that failed just now"
        );
        clock.advance(Duration::from_secs(2));
        assert_eq!(chosen(4, Some("b")).as_deref(), Some("a"));
        clock.advance(Duration::from_secs(8));
        assert_eq!(chosen(4, Some("b")).as_deref(), Some("c"));
        assert_eq!(
            faults.choose(&queues[..1], 0, Some("a")).map(|q| q.broker_name.as_str()),
            Some("a")
        );
        assert_eq!(faults.choose(&[], 0, None), None);
    }
}
