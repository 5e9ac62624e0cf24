#![no_main]
//! Records of a commit log: what is read is written and read the same.

use bytes::BytesMut;
use wire::record::{CheckCrc, Head, Record};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Head::read(data);
    let _ = Record::decode(data, CheckCrc::Yes);
    let Ok(record) = Record::decode(data, CheckCrc::No) else { return };
    if record.properties.contains(char::REPLACEMENT_CHARACTER) {
        return;
    }
    let message = record.to_message();
    if message.check_lengths().is_err() {
        return;
    }
    let mut out = BytesMut::new();
    message.encode(record.numbers, record.body_crc, &mut out);
    let again = Record::decode(&out, CheckCrc::No).expect("what was written is read");
    assert_eq!((again.to_message(), again.numbers), (message, record.numbers));
});
