//! Light queues: their bound, their offsets' file, and that half of the switch does nothing.

use std::time::Duration;

use broker::{Options, api::*};

use crate::world::{World, batch, from, records, to};

fn serving(options: &mut Options) {
    options.enable_lmq = true;
    options.enable_multi_dispatch = true;
    options.max_lmq_consume_queue_num = 3;
}

fn naming(queues: &str) -> Publish {
    let properties = format!("UNIQ_KEY\u{1}u\u{2}INNER_MULTI_DISPATCH\u{1}{queues}\u{2}");
    Publish { properties: properties.into(), ..to("t") }
}

fn count(world: &World, queue: &str) -> usize {
    world.pull(from(queue, 0)).map_or(0, |pulled| pulled.count as usize)
}

#[test]
fn there_are_no_more_light_queues_than_may_be() {
    let world = World::with(serving);
    world.send(naming("%LMQ%a,%LMQ%b")).unwrap();
    assert!(matches!(world.send(naming("%LMQ%c,%LMQ%d")), Err(PublishError::Full(_))));
    assert!(world.pull(from("%LMQ%e", 0)).is_err(), "a reader does not make one either");
    assert!(world.send(to("%LMQ%e")).is_err(), "nor does one who sends to it");
    let world = world.restart();
    assert!(world.send(naming("%LMQ%a,%LMQ%c")).is_ok());
    assert!(world.send(naming("%LMQ%d")).is_err());
    world.broker.delete_topic("%LMQ%c").unwrap();
    assert!(world.send(naming("%LMQ%d")).is_ok());
    assert_eq!(count(&world, "%LMQ%a"), 2);
}

#[test]
fn offsets_of_light_groups_have_their_own_table_and_the_others_are_taken_over() {
    let world = World::new();
    world.send(to("t")).unwrap();
    world.pull(from("t", 0)).unwrap();
    world.broker.commit_offset("g", "t", 0, 1).unwrap();
    let world = world.restart_with(serving);
    assert_eq!(world.broker.all_offsets().offset_table["t@g"][&0], 1);
    world.send(naming("%LMQ%a")).unwrap();
    world.broker.commit_offset("%LMQ%g", "%LMQ%a", 0, 1).unwrap();
    world.pass(Duration::from_secs(10));
    let file = world.file("lmqConsumerOffset.json");
    assert!(file.contains("\"lmqOffsetTable\":{\n\t\t\"%LMQ%a@%LMQ%g\":1\n\t}"), "{file}");
    assert!(file.contains("\"t@g\""), "{file}");
    let world = world.restart();
    let offset = world.broker.all_offsets().lmq_offset_table.unwrap()["%LMQ%a@%LMQ%g"];
    assert_eq!(offset, 1);
}

#[test]
fn without_both_switches_messages_go_nowhere_else() {
    for is_lmq in [true, false] {
        let world = World::with(|options| {
            options.enable_lmq = is_lmq;
            options.enable_multi_dispatch = !is_lmq;
        });
        world.send(naming("%LMQ%a")).unwrap();
        assert_eq!(count(&world, "%LMQ%a"), 0);
        assert_eq!(records(&world.pull(from("t", 0)).unwrap()).len(), 1);
    }
}

#[test]
fn only_the_store_numbers_in_light_queues() {
    let world = World::with(serving);
    let forged = "UNIQ_KEY\u{1}u\u{2}INNER_MULTI_DISPATCH\u{1}%LMQ%a\u{2}INNER_MULTI_QUEUE_OFFSET\u{1}9\u{2}";
    world.send(Publish { properties: forged.into(), ..to("t") }).unwrap();
    let mut bytes = bytes::BytesMut::new();
    wire::batch::append(&mut bytes, 0, b"x", forged);
    world.send(Publish { payload: Payload::Batch(bytes.freeze()), ..to("t") }).unwrap();
    world.send(Publish { payload: batch(&["y"]), ..to("t") }).unwrap();
    assert_eq!(world.broker.max_offset("%LMQ%a", 0), 1);
    let (_, _, properties) = records(&world.pull(from("t", 1)).unwrap()).swap_remove(0);
    assert!(!properties.contains("INNER_MULTI_QUEUE_OFFSET"), "{properties}");
}
