#![no_main]
//! Registrations of brokers, deflated and as JSON.

use wire::body::register::RegisterBrokerBody;
use wire::code::version;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = RegisterBrokerBody::inflate(data, version::OURS, 1 << 20);
    if let Ok(body) = RegisterBrokerBody::decode(data) {
        let _ = RegisterBrokerBody::inflate(&body.deflate(), version::OURS, 1 << 24);
    }
});
