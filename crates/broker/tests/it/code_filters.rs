//! Modules that an administrator attached: who gets what, and that they fail closed.

use std::time::Duration;

use broker::{Options, api::*};
use bytes::Bytes;

use crate::world::{World, from, records, tagged, to};

/// Lets bodies through that begin with this letter; a body that begins with `!` breaks it.
fn module(letter: char) -> Vec<u8> {
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (func (export "alloc") (param i32) (result i32) (i32.const 256))
            (func (export "filter") (param i32 i32 i32 i32) (result i32)
                (if (i32.eq (i32.load8_u (local.get 2)) (i32.const 33)) (then unreachable))
                (i32.eq (i32.load8_u (local.get 2)) (i32.const {}))))"#,
        letter as u32
    );
    wat::parse_str(text).unwrap()
}

fn send(world: &World, bodies: &[&'static str]) {
    for body in bodies {
        let payload = Payload::One(Bytes::from_static(body.as_bytes()));
        world.send(Publish { payload, ..to("t") }).unwrap();
    }
}

fn got(world: &World, group: &str, topic: &str) -> Vec<String> {
    let pulled = world.pull(Pull { group: group.into(), ..from(topic, 0) }).unwrap();
    records(&pulled).into_iter().map(|(body, ..)| body).collect()
}

fn attach(world: &World, pair: &str, module: &[u8]) {
    world.put_file(&format!("filters/{pair}.wasm"), module);
    world.pass(Duration::from_secs(1));
}

#[test]
fn a_group_gets_what_its_module_lets_through_and_others_get_all() {
    let world = World::new();
    send(&world, &["a1", "b1", "a2"]);
    assert_eq!(got(&world, "g", "t"), ["a1", "b1", "a2"]);
    attach(&world, "t@g", &module('a'));
    assert_eq!(got(&world, "g", "t"), ["a1", "a2"]);
    assert_eq!(got(&world, "h", "t"), ["a1", "b1", "a2"]);
    attach(&world, "t@g", &module('b'));
    assert_eq!(got(&world, "g", "t"), ["b1"]);
    let world = world.restart();
    assert_eq!(got(&world, "g", "t"), ["b1"]);
    world.remove_file("filters/t@g.wasm");
    world.pass(Duration::from_secs(1));
    assert_eq!(got(&world, "g", "t"), ["a1", "b1", "a2"]);
}

#[test]
fn what_the_group_subscribes_to_counts_too() {
    let world = World::new();
    for tag in ["x", "y"] {
        world.send(tagged("t", tag)).unwrap();
    }
    attach(&world, "t@g", &module('b'));
    let filter = Filter::Expression { kind: "TAG".into(), expression: "y".into() };
    let pulled = world.pull(Pull { filter, ..from("t", 0) }).unwrap();
    assert_eq!((pulled.count, pulled.next), (1, 2));
}

#[test]
fn a_message_without_a_verdict_is_not_delivered_and_counted() {
    let world = World::new();
    let errors = |world: &World| world.broker.runtime_info()["apogee.codeFilterErrors"].clone();
    attach(&world, "t@g", &module('a'));
    send(&world, &["a1", "!", "a2"]);
    assert_eq!(got(&world, "g", "t"), ["a1", "a2"]);
    assert_eq!(errors(&world), "1");
    attach(&world, "t@g", b"no module");
    assert_eq!(got(&world, "g", "t"), [""; 0]);
    assert_eq!(errors(&world), "4");
    assert_eq!(world.broker.runtime_info()["apogee.codeFilters"], "1");
}

#[test]
fn more_modules_than_may_be_let_nothing_through() {
    let world = World::with(|options: &mut Options| options.code_filters_max = 1);
    send(&world, &["a1"]);
    attach(&world, "t@g", &module('a'));
    attach(&world, "t@h", &module('a'));
    assert_eq!(got(&world, "g", "t"), ["a1"]);
    assert_eq!(got(&world, "h", "t"), [""; 0]);
    // As soon as there is room the other one is in force.
    world.remove_file("filters/t@g.wasm");
    world.pass(Duration::from_secs(1));
    assert_eq!(got(&world, "h", "t"), ["a1"]);
}

#[test]
fn a_module_whose_file_cannot_be_read_is_tried_again() {
    let world = World::new();
    send(&world, &["a1"]);
    world.put_file("filters/t@g.wasm", &module('a'));
    world.disk.fail_reads(true);
    world.clock.advance(Duration::from_secs(1));
    while world.broker.tick() {}
    world.disk.fail_reads(false);
    assert_eq!(got(&world, "g", "t"), [""; 0]);
    world.pass(Duration::from_secs(1));
    assert_eq!(got(&world, "g", "t"), ["a1"]);
}

#[test]
fn a_module_sees_the_body_as_it_was_before_its_client_compressed_it() {
    let world = World::new();
    // The body of all three is text that begins with `line 0`.
    attach(&world, "t@g", &module('l'));
    attach(&world, "t@h", &module('x'));
    for (flag, packed) in [
        (0x1, &include_bytes!("../../../../fixtures/compression/body.zlib")[..]),
        (0x101, include_bytes!("../../../../fixtures/compression/body.lz4")),
        (0x201, include_bytes!("../../../../fixtures/compression/body.zstd")),
        (0x301, include_bytes!("../../../../fixtures/compression/body.zlib")),
        (0x201, b"line that is not compressed"),
        (0x401, b"line of a kind that is not known"),
    ] {
        let payload = Payload::One(Bytes::from_static(packed));
        world.send(Publish { payload, sys_flag: flag, ..to("t") }).unwrap();
    }
    let count = |group: &str| {
        let pulled = world.pull(Pull { group: group.into(), ..from("t", 0) }).unwrap();
        (pulled.count, pulled.next)
    };
    assert_eq!((count("g"), count("h")), ((4, 6), (0, 6)));
    assert_eq!(world.broker.runtime_info()["apogee.codeFilterErrors"], "4");
}
