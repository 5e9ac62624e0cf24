#![no_main]
//! Expressions: each is refused or written so that it is read back with the same verdict on any properties.

use broker::filter::sql92::{Condition, DEPTH_MAX};

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    let (expression, properties) = input;
    let len_max = 1 << 12;
    match Condition::compile(expression, len_max) {
        Err(refusal) => assert!(refusal.to_string().ends_with('^')),
        Ok(condition) => {
            let written = condition.to_string();
            let again = match Condition::compile(&written, usize::MAX) {
                Ok(again) => again,
                // All its parentheses are written: they may be too many.
                Err(refusal) if refusal.problem.contains(&DEPTH_MAX.to_string()) => return,
                Err(refusal) => panic!("{refusal}"),
            };
            assert_eq!(again.to_string(), written);
            assert_eq!(again.verdict(properties), condition.verdict(properties));
        }
    }
});
