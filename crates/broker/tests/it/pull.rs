//! Pulling, at once and later.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use broker::api::*;
use bytes::Bytes;
use env::sim::{Crash, SimClock, SimDisk};

use crate::world::{START, World, caller, from, now, records, tagged, to};

fn check(world: &World, offset: i64, status: PullStatus, next: i64, count: u32) {
    let pulled = world.pull(from("t", offset)).unwrap();
    assert_eq!((pulled.status, pulled.next, pulled.count), (status, next, count), "from {offset}");
}

#[test]
fn where_an_offset_lies_decides_status_and_next_offset() {
    let world = World::new();
    world.send(Publish { queue_id: 1, ..to("t") }).unwrap();
    check(&world, 0, PullStatus::NoMessageInQueue, 0, 0);
    check(&world, 5, PullStatus::NoMessageInQueueMoved, 0, 0);
    world.send_many("t", 3, 10);
    check(&world, 0, PullStatus::Found, 3, 3);
    check(&world, 2, PullStatus::Found, 3, 1);
    check(&world, 3, PullStatus::OffsetOverflowOne, 3, 0);
    check(&world, 4, PullStatus::OffsetOverflowBadly, 3, 0);
    check(&world, -1, PullStatus::OffsetTooSmall, 0, 0);
}

#[test]
fn a_pull_returns_at_least_one_message_and_no_more_than_its_limits() {
    let world = World::new();
    world.send_many("t", 40, 10);
    check(&world, 0, PullStatus::Found, 32, 32);
    let count = |count_max| world.pull(Pull { count_max, ..from("t", 0) }).unwrap().count;
    assert_eq!([count(5), count(1), count(0), count(1_000)], [5, 1, 1, 32]);
    world.send_many("big", 5, 100_000);
    assert_eq!(world.pull(from("big", 0)).unwrap().count, 2, "262,144 bytes near the end");
    world.send_many("huge", 2, 300_000);
    assert_eq!(world.pull(from("huge", 0)).unwrap().count, 1);
    // Far from the end of the log: 8 messages or 65,536 bytes.
    let world = World::with(|options| options.memory_bytes = 1_000);
    world.send_many("t", 20, 10);
    world.send_many("other", 1, 2_000);
    check(&world, 0, PullStatus::Found, 8, 8);
}

#[test]
fn an_answer_that_is_little_beside_what_it_was_read_from_is_a_copy() {
    let world = World::new();
    world.send_many("t", 40, 600);
    let few = world.pull(Pull { count_max: 2, ..from("t", 0) }).unwrap();
    assert_eq!((few.count, few.messages.len()), (2, 1));
    let unique = |pulled: &Pulled| pulled.messages.iter().all(Bytes::is_unique);
    assert!(unique(&few), "nothing else is kept alive");
    let many = world.pull(from("t", 0)).unwrap();
    assert!(many.count == 32 && !unique(&many), "slices of the log");
}

#[test]
fn tags_are_compared_on_the_queue() {
    let world = World::new();
    for tag in ["a", "b", "a", "c"] {
        world.send(tagged("t", tag)).unwrap();
    }
    world.send(to("t")).unwrap();
    let pull = |expression: &str, offset| {
        let filter = Filter::Expression { kind: "TAG".into(), expression: expression.into() };
        world.pull(Pull { filter, ..from("t", offset) }).unwrap()
    };
    let pulled = pull("a || c", 0);
    assert_eq!((pulled.status, pulled.next, pulled.count), (PullStatus::Found, 5, 3));
    let pulled = pull("none", 1);
    assert_eq!((pulled.status, pulled.next), (PullStatus::NoMatchedMessage, 5));
}

#[test]
fn a_filtered_pull_looks_at_a_bounded_number_of_entries() {
    let world = World::new();
    world.send_many("t", 900, 1);
    let filter = Filter::Expression { kind: "TAG".into(), expression: "a".into() };
    let pulled = world.pull(Pull { filter, ..from("t", 0) }).unwrap();
    assert_eq!((pulled.status, pulled.next), (PullStatus::NoMatchedMessage, 800));
}

/// A pull under way, polled by hand.
macro_rules! poll {
    ($future:expr) => {
        $future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
}

fn waiting(tags: &str) -> Pull {
    Pull {
        suspend: Some(Duration::from_secs(15)),
        filter: Filter::Expression { kind: "TAG".into(), expression: tags.into() },
        ..from("t", 1)
    }
}

#[test]
fn a_waiting_pull_gets_the_next_message() {
    let world = World::new();
    world.send(to("t")).unwrap();
    let cx = caller();
    let mut pull = pin!(world.broker.pull(&cx, waiting("*")));
    assert!(poll!(pull).is_pending());
    world.send(Publish { queue_id: 1, ..to("t") }).unwrap();
    assert!(poll!(pull).is_pending(), "another queue is none of its business");
    world.send(to("t")).unwrap();
    let Poll::Ready(Ok(pulled)) = poll!(pull) else { panic!("woken") };
    assert_eq!((pulled.status, pulled.next), (PullStatus::Found, 2));
}

#[test]
fn a_waiting_pull_sleeps_through_other_tags_until_its_time_is_over() {
    let world = World::new();
    world.send(to("t")).unwrap();
    let cx = caller();
    let mut pull = pin!(world.broker.pull(&cx, waiting("a")));
    assert!(poll!(pull).is_pending());
    world.send(tagged("t", "b")).unwrap();
    assert!(poll!(pull).is_pending());
    assert_eq!(world.broker.runtime_info()["apogee.waitingPulls"], "1");
    world.clock.advance(Duration::from_secs(15));
    let Poll::Ready(Ok(pulled)) = poll!(pull) else { panic!("its time is over") };
    assert_eq!((pulled.status, pulled.next), (PullStatus::NoMatchedMessage, 2));
    assert_eq!(world.broker.runtime_info()["apogee.waitingPulls"], "0");
}

#[test]
fn waiting_pulls_are_bounded_and_forgotten_when_dropped() {
    let world = World::with(|options| options.parked_pulls_max = 1);
    world.send(to("t")).unwrap();
    let cx = caller();
    {
        let mut first = Box::pin(world.broker.pull(&cx, waiting("*")));
        assert!(poll!(first).is_pending());
        let refused = world.pull(waiting("*")).unwrap_err();
        assert!(matches!(refused, PullError::Full(_)), "{refused}");
    }
    let mut second = pin!(world.broker.pull(&cx, waiting("*")));
    assert!(poll!(second).is_pending());
}

#[test]
fn a_topic_that_vanishes_ends_the_waiting() {
    let world = World::new();
    world.send(to("t")).unwrap();
    let cx = caller();
    let mut pull = pin!(world.broker.pull(&cx, waiting("*")));
    assert!(poll!(pull).is_pending());
    world.broker.delete_topic("t").unwrap();
    world.clock.advance(Duration::from_secs(15));
    assert!(matches!(poll!(pull), Poll::Ready(Err(PullError::UnknownTopic(_)))));
}

#[test]
fn without_long_polling_a_pull_is_held_for_the_short_time() {
    let world = World::with(|options| options.long_polling_enable = false);
    world.send(to("t")).unwrap();
    let cx = caller();
    let mut pull = pin!(world.broker.pull(&cx, waiting("*")));
    assert!(poll!(pull).is_pending());
    world.send(to("t")).unwrap();
    assert!(poll!(pull).is_pending());
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(poll!(pull), Poll::Ready(Ok(Pulled { count: 1, .. }))));
}

#[test]
fn a_pull_commits_on_its_way() {
    let world = World::new();
    world.send_many("t", 3, 1);
    world.pull(Pull { commit: Some(2), ..from("t", 2) }).unwrap();
    let offset = now(world.broker.consumer_offset("g", "t", 0, IfUnknown::First));
    assert_eq!(offset, Ok(2));
}

#[test]
fn a_reset_is_taken_by_the_next_pull() {
    let world = World::new();
    world.send_many("t", 5, 1);
    world.pull(from("t", 0)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reset = |queue_id, to| runtime.block_on(world.broker.reset_offsets("g", "t", queue_id, to));
    assert_eq!(reset(Some(0), ResetTo::Offset(2)).unwrap()[&0], 2);
    assert_eq!(world.broker.commit_offset("g", "t", 0, 5), Ok(Committed::Reset));
    check(&world, 5, PullStatus::OffsetReset, 2, 0);
    check(&world, 2, PullStatus::Found, 5, 3);
    assert_eq!(world.broker.commit_offset("g", "t", 0, 5), Ok(Committed::Stored));
    let far = reset(Some(0), ResetTo::Offset(7));
    assert!(matches!(far, Err(ResetError::OutOfRange { max: 5, .. })), "one behind the end may be");
}

#[test]
fn what_a_pull_may_not_do_is_refused() {
    let world = World::new();
    world.send(to("t")).unwrap();
    let refused = |world: &World, request: Pull| world.pull(request).unwrap_err();
    let sql = Filter::Expression { kind: "SQL92".into(), expression: "a > 1".into() };
    let cases = [
        (Pull { topic: "none".into(), ..from("t", 0) }, "not exist", None),
        (Pull { group: "a b".into(), ..from("t", 0) }, "does not exist", None),
        (Pull { queue_id: 4, ..from("t", 0) }, "queueId[4] is illegal", None),
        (Pull { queue_id: -1, ..from("t", 0) }, "queueId[-1] is illegal", None),
        (Pull { filter: sql, ..from("t", 0) }, "by SQL92", None),
        (Pull { filter: Filter::Registered, ..from("t", 0) }, "group info not exist", None),
    ];
    for (request, expected, forbidden) in cases {
        let refusal = refused(&world, request);
        assert!(refusal.to_string().contains(expected), "`{refusal}` says `{expected}`");
        assert_eq!(refusal.forbidden_type(), forbidden);
    }
    let mut group = (*world.broker.group("g").unwrap()).clone();
    group.consume_enable = false;
    world.broker.create_groups(vec![group]).unwrap();
    assert_eq!(refused(&world, from("t", 0)).forbidden_type(), Some(2));
    let world = World::with(|options| options.broker_permission = 2);
    assert_eq!(refused(&world, from("t", 0)).forbidden_type(), Some(1));
}

#[test]
fn records_come_back_as_they_were_stored_after_a_restart() {
    let world = World::new();
    world.send(tagged("t", "a")).unwrap();
    let before = records(&world.pull(from("t", 0)).unwrap());
    let world = world.restart();
    assert_eq!(records(&world.pull(from("t", 0)).unwrap()), before);
}

#[test]
fn a_group_that_is_ahead_of_what_a_power_cut_left_gets_what_comes_next() {
    let mut lost = 0;
    for seed in 0..16 {
        let clock = SimClock::new(START);
        let world = World::on(clock.clone(), SimDisk::new(seed, clock), |_| {});
        world.send_many("t", 3, 10);
        world.pass(Duration::from_secs(1));
        for _ in 0..5 {
            // Written and visible, and not synced.
            world.send(to("t")).unwrap();
        }
        assert_eq!(world.broker.max_offset("t", 0), 8);
        // The group is created by its first pull.
        world.pull(from("t", 0)).unwrap();
        world.broker.commit_offset("g", "t", 0, 8).unwrap();
        world.clock.advance(Duration::from_secs(5));
        world.broker.tick();
        let world = world.crash(Crash::Power);
        let end = world.broker.max_offset("t", 0);
        let committed = |world: &World| {
            now(world.broker.consumer_offset("g", "t", 0, IfUnknown::NotFound)).unwrap()
        };
        assert!((3..=8).contains(&end), "{end}");
        assert_eq!(committed(&world), end, "seed {seed}");
        lost += usize::from(end < 8);
        // It is in the file, too.
        assert_eq!(committed(&world.restart()), end);
    }
    assert!(lost > 0, "some power cut takes something");
}
