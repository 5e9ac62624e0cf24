#![no_main]
//! Texts of offset message ids.

use wire::id::OffsetId;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(id) = OffsetId::parse(text) {
        assert_eq!(id.to_string(), text.to_ascii_uppercase());
    }
});
