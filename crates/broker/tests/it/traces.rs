//! Traces that the broker writes itself: that they do not breed, and survive a stop.

use std::time::Duration;

use broker::{Options, api::*};

use crate::world::{World, batch, from, records, to};

const TRACES: &str = "MY_TRACES";

fn tracing(options: &mut Options) {
    options.server_trace = true;
    options.trace_topic_name = TRACES.into();
}

/// The records of traces so far, each with its kind, and how many messages they take.
fn traces(world: &World) -> (Vec<String>, usize) {
    let messages =
        records(&world.pull(Pull { group: "TOOLS_CONSUMER".into(), ..from(TRACES, 0) }).unwrap());
    let text: String = messages.iter().map(|(body, ..)| body.as_str()).collect();
    let kinds = text.split_terminator('\u{2}').map(|record| record.split('\u{1}').next().unwrap());
    (kinds.map(str::to_owned).collect(), messages.len())
}

#[test]
fn reading_and_committing_traces_leaves_none() {
    let world = World::with(tracing);
    world.send(to("t")).unwrap();
    world.pull(from("t", 0)).unwrap();
    world.broker.commit_offset("g", "t", 0, 1).unwrap();
    for _ in 0..5 {
        world.pass(Duration::from_secs(1));
        world.pull(from(TRACES, 0)).unwrap();
        world.broker.commit_offset("g", TRACES, 0, 1).unwrap();
    }
    assert_eq!(traces(&world), (["Pub", "SubBefore", "SubAfter"].map(str::to_owned).into(), 1));
}

#[test]
fn a_stop_writes_what_waits() {
    let world = World::with(tracing);
    world.send(Publish { payload: batch(&["a", "b"]), ..to("t") }).unwrap();
    let world = world.restart();
    assert_eq!(traces(&world), (["Pub", "Pub"].map(str::to_owned).into(), 1));
}

#[test]
fn nothing_is_traced_twice_and_what_its_consumer_traces_not_at_all() {
    let world = World::new();
    world.send(to("t")).unwrap();
    let world = world.restart_with(tracing);
    world.pull(from("t", 0)).unwrap();
    world.broker.commit_offset("g", "t", 0, 1).unwrap();
    world.send(to("t")).unwrap();
    world.pull(from("t", 1)).unwrap();
    world.broker.commit_offset("g", "t", 0, 2).unwrap();
    world.broker.commit_offset("g", "t", 0, 2).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(traces(&world).0, ["Pub", "SubBefore", "SubAfter"]);
}

#[test]
fn a_message_of_traces_is_no_longer_than_a_message_may_be() {
    let world = World::with(|options| {
        tracing(options);
        options.max_message_size = 400;
    });
    for _ in 0..10 {
        world.send(to("t")).unwrap();
    }
    world.pass(Duration::from_secs(1));
    let (kinds, messages) = traces(&world);
    assert_eq!(kinds.len(), 10);
    assert!(messages > 1, "{messages}");
}
