//! Times what a condition costs for a message: `cargo bench -p broker -- [part of a line]`.
//!
//! Each line is the best of several rounds in nanoseconds per call, so that a neighbour's noise does not count. It
//! asserts nothing; `docs/performance.md` quotes it.

#![allow(clippy::print_stdout, reason = "a benchmark reports to whoever runs it")]

use std::{hint::black_box, time::Instant};

use broker::filter::{code::CodeFilter, sql92::Condition};
use bytes::BytesMut;
use wire::{
    properties,
    record::{CheckCrc, Message, Numbers, Record},
};

const ROUNDS: usize = 300;
const CALLS: u32 = 500;

fn main() {
    let properties = properties::from_pairs([
        ("region", "eu-west-1"),
        ("price", "129.95"),
        ("quantity", "12"),
        ("customer", "customer-4711"),
        ("express", "true"),
        ("UNIQ_KEY", "0A0B18B4BEEF18B4AAC200000007000100000000"),
        ("WAIT", "true"),
        ("TAGS", "TagA"),
        ("KEYS", "order-4711"),
        ("CLUSTER", "DefaultCluster"),
        ("MSG_REGION", "DefaultRegion"),
        ("TRACE_ON", "true"),
    ]);
    let record = record(&properties);
    for (what, expression) in [
        ("one comparison", "quantity > 10"),
        (
            "three comparisons",
            "quantity > 10 AND region = 'eu-west-1' AND price BETWEEN 100.0 AND 200.5",
        ),
        (
            "ten terms",
            "(region IN ('eu-west-1', 'eu-west-2', 'us-east-1') OR region IS NULL) AND quantity >= 5 AND price < 1000.0 AND express = TRUE AND customer STARTSWITH 'customer-' AND customer NOT CONTAINS 'test' AND TAGS <> 'TagB' AND NOT (KEYS ENDSWITH '0') AND coupon IS NULL",
        ),
    ] {
        let condition = Condition::compile(expression, 1 << 16).expect("a good expression");
        assert!(condition.matches(&properties), "{expression}");
        time(&format!("{what}, on the properties"), || condition.matches(&properties));
        time(&format!("{what}, on the record of 1 KiB"), || {
            Record::decode(&record, CheckCrc::No)
                .is_ok_and(|record| condition.matches(&record.properties))
        });
        time(&format!("{what}, compiling"), || Condition::compile(expression, 1 << 16).is_ok());
    }
    code_filters(&properties);
}

/// What a code filter costs: a module that says yes, and the example over a body of 1 KiB.
fn code_filters(properties: &str) {
    let limits = broker::Options::default().code_filter_limits();
    let yes = r#"(module (memory (export "memory") 1)
        (func (export "alloc") (param i32) (result i32) (i32.const 1024))
        (func (export "filter") (param i32 i32 i32 i32) (result i32) (i32.const 1)))"#;
    let yes = wat::parse_str(yes).expect("parses");
    let example = include_bytes!("../../../fixtures/filters/example.wasm");
    let body = [b'x'; 1024];
    for (what, module) in [("a module that says yes", &yes[..]), ("the example", &example[..])] {
        let filter = CodeFilter::load(module, limits).expect("a good module");
        time(&format!("{what}, on a body of 1 KiB"), || filter.passes(properties, &body).is_ok());
    }
}

fn record(properties: &str) -> BytesMut {
    let message = Message {
        topic: "TopicTest".into(),
        queue_id: 2,
        flag: 0,
        sys_flag: 0,
        born_at: 1_700_000_000_000,
        born_host: ([10, 0, 0, 1], 50_000).into(),
        store_host: ([10, 0, 0, 2], 10_911).into(),
        reconsume_times: 0,
        prepared_offset: 0,
        body: vec![b'x'; 1024].into(),
        properties: properties.into(),
    };
    let mut out = BytesMut::new();
    message.encode(Numbers { queue_offset: 1, log_offset: 2, stored_at: 3 }, 0, &mut out);
    out
}

fn time<T>(what: &str, mut call: impl FnMut() -> T) {
    if std::env::args().skip(1).any(|wanted| !wanted.starts_with('-') && !what.contains(&wanted)) {
        return;
    }
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            black_box(call());
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    println!("{best:8.1} ns  {what}");
}
