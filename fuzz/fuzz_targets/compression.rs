#![no_main]
//! Compressed bodies of clients, of each kind: what opens keeps to its bound, and a smaller bound refuses it.

use wire::compression::{Kind, open};

const BYTES_MAX: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for kind in [Kind::Lz4, Kind::Zstd, Kind::Zlib] {
        let Ok(opened) = open(kind.flag(), data, BYTES_MAX) else { continue };
        assert!(opened.len() <= BYTES_MAX);
        if let Some(less) = opened.len().checked_sub(1) {
            assert!(open(kind.flag(), data, less).is_err());
        }
    }
});
