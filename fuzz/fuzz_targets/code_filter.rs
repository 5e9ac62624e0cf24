#![no_main]
//! Modules: any bytes are refused or loaded, and a loaded one ends within its bounds, with a verdict or without.

use broker::filter::code::{CodeFilter, Limits};

libfuzzer_sys::fuzz_target!(|input: (&[u8], &str, &[u8])| {
    let (module, properties, body) = input;
    let limits = Limits {
        module_bytes_max: 1 << 16,
        fuel_max: 100_000,
        memory_bytes_max: 1 << 20,
        filters_max: 1,
    };
    if let Ok(filter) = CodeFilter::load(module, limits) {
        let verdict = |filter: &CodeFilter| filter.passes(properties, body).ok();
        assert_eq!(verdict(&filter), verdict(&filter), "a message has one verdict");
    }
});
