#![no_main]
//! Any JSON of fastjson's dialect: what is read is written and read the same.

use wire::fastjson::{Value, decode, encode, encode_pretty};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(value) = decode::<Value>(data) else { return };
    // Null members are left out when written, so the second reading is the one to keep.
    let Ok(value) = decode::<Value>(&encode(&value)) else { panic!("what was written is read") };
    assert_eq!(decode::<Value>(&encode(&value)).as_ref(), Ok(&value));
    assert_eq!(decode::<Value>(&encode_pretty(&value)).as_ref(), Ok(&value));
});
