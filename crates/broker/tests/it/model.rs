//! The broker against the plainest model of itself: a list of messages for each queue.

use std::collections::BTreeMap;

use broker::api::*;
use proptest::prelude::*;

use crate::world::{World, batch, from, now, records, to};

#[derive(Debug, Clone)]
enum Step {
    /// Sends this many messages with a tag to a queue, as a batch if there are several.
    Send {
        queue: i32,
        tag: u8,
        count: usize,
    },
    /// Pulls from a queue, all tags or one.
    Pull {
        queue: i32,
        from: i64,
        count_max: i32,
        tag: Option<u8>,
    },
    Commit {
        queue: i32,
        offset: i64,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..3i32;
    prop_oneof![
        6 => (queue.clone(), 0..3u8, 1..5usize).prop_map(|(queue, tag, count)| Step::Send { queue, tag, count }),
        6 => (queue.clone(), -1..30i64, 1..40i32, prop::option::of(0..3u8))
            .prop_map(|(queue, from, count_max, tag)| Step::Pull { queue, from, count_max, tag }),
        2 => (queue, 0..30i64).prop_map(|(queue, offset)| Step::Commit { queue, offset }),
        1 => Just(Step::Restart),
    ]
}

/// What the model knows of a message: its body, and its tag if it has one.
type Model = BTreeMap<i32, Vec<(String, Option<u8>)>>;

fn tags(tag: Option<u8>) -> Filter {
    let expression = tag.map_or_else(|| "*".into(), |tag| format!("t{tag}"));
    Filter::Expression { kind: "TAG".into(), expression: expression.into() }
}

fn check_pull(
    world: &World,
    model: &Model,
    queue: i32,
    offset: i64,
    count_max: i32,
    tag: Option<u8>,
) {
    let request = Pull { queue_id: queue, count_max, filter: tags(tag), ..from("t", offset) };
    let pulled = world.pull(request).expect("nothing forbids it");
    let stored = model.get(&queue).map_or(&[][..], Vec::as_slice);
    let end = stored.len() as i64;
    let expected = match () {
        () if end == 0 && offset != 0 => (PullStatus::NoMessageInQueueMoved, 0),
        () if end == 0 => (PullStatus::NoMessageInQueue, 0),
        () if offset < 0 => (PullStatus::OffsetTooSmall, 0),
        () if offset == end => (PullStatus::OffsetOverflowOne, end),
        () if offset > end => (PullStatus::OffsetOverflowBadly, end),
        () => {
            let wanted = |one: &(String, Option<u8>)| tag.is_none() || one.1 == tag;
            let bodies: Vec<&String> = stored[offset as usize..]
                .iter()
                .filter(|one| wanted(one))
                .map(|one| &one.0)
                .collect();
            let got: Vec<String> = records(&pulled).into_iter().map(|(body, ..)| body).collect();
            let most = (count_max.min(32) as usize).min(bodies.len());
            assert_eq!(got.iter().collect::<Vec<_>>(), bodies[..most], "the first that are wanted");
            // Everything between two pulls was looked at: nothing wanted is skipped.
            let passed =
                stored[offset as usize..pulled.next as usize].iter().filter(|one| wanted(one));
            assert_eq!(passed.count(), got.len());
            let status =
                if got.is_empty() { PullStatus::NoMatchedMessage } else { PullStatus::Found };
            (status, pulled.next)
        }
    };
    assert_eq!((pulled.status, pulled.next), expected);
    assert_eq!((pulled.min, pulled.max), (0, end));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_pulled_is_what_was_sent_in_its_order(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let (mut model, mut committed): (Model, BTreeMap<i32, i64>) = Default::default();
        world.send(Publish { queue_id: 3, ..to("t") }).expect("the topic is created");
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { queue, tag, count } => {
                    let bodies: Vec<String> = (0..count).map(|at| format!("{number}.{at}")).collect();
                    let stored = model.entry(queue).or_default();
                    let first = stored.len() as i64;
                    let item = if count > 1 {
                        stored.extend(bodies.iter().map(|body| (body.clone(), None)));
                        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
                        Publish { payload: batch(&bodies), queue_id: queue, ..to("t") }
                    } else {
                        stored.push((bodies[0].clone(), Some(tag)));
                        let properties = format!("UNIQ_KEY\u{1}u\u{2}TAGS\u{1}t{tag}\u{2}");
                        let payload = Payload::One(bodies[0].clone().into());
                        Publish { properties: properties.into(), payload, queue_id: queue, ..to("t") }
                    };
                    let receipt = world.send(item).expect("accepted");
                    prop_assert_eq!((receipt.queue_offset, receipt.log_offsets.len()), (first, count));
                }
                Step::Pull { queue, from, count_max, tag } => {
                    check_pull(&world, &model, queue, from, count_max, tag);
                }
                Step::Commit { queue, offset } => {
                    world.pull(from("t", 0)).expect("the group is created");
                    world.broker.commit_offset("g", "t", queue, offset).expect("both exist");
                    committed.insert(queue, offset);
                }
                Step::Restart => world = world.restart(),
            }
            for (queue, offset) in &committed {
                let known = now(world.broker.consumer_offset("g", "t", *queue, IfUnknown::NotFound));
                prop_assert_eq!(known, Ok(*offset));
            }
        }
    }
}
