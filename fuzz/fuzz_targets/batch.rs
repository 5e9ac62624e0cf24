#![no_main]
//! Batch bodies of clients: the items that are read are written the same.

use bytes::BytesMut;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let items: Result<Vec<_>, _> = wire::batch::iter(data.to_vec().into()).collect();
    let Ok(items) = items else { return };
    let mut out = BytesMut::new();
    for item in &items {
        wire::batch::append(&mut out, item.flag, &item.body, &item.properties);
    }
    let again: Result<Vec<_>, _> = wire::batch::iter(out.freeze()).collect();
    assert_eq!(again.as_ref(), Ok(&items));
});
