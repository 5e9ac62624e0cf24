#![no_main]
//! The text of properties: each pair that is read is found by name, and normalising is idempotent.

use wire::properties;

libfuzzer_sys::fuzz_target!(|text: &str| {
    for (name, _) in properties::iter(text) {
        assert!(properties::get(text, name).is_some());
    }
    let normal = properties::filtered(text, |_| true);
    assert!(properties::iter(&normal).eq(properties::iter(text)));
    assert_eq!(properties::filtered(&normal, |_| true), normal);
});
