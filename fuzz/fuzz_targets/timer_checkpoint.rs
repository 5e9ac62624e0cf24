#![no_main]
//! The page of `timercheck`: what is read is written, and read the same; a flipped bit of ours is noticed.

use store::timer::checkpoint::{JAVA_BYTES, OwnTimerCheckpoint, TimerCheckpoint};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(check) = TimerCheckpoint::decode(data) else {
        assert!(data.len() < JAVA_BYTES);
        return;
    };
    assert_eq!(check.java_bytes(), data[..JAVA_BYTES]);
    assert_eq!(TimerCheckpoint::decode(&check.encode()), Some(check));
    // Few pages have the right CRC: the same with a part of our own.
    let log_end = check.log_synced as u64;
    let own = OwnTimerCheckpoint { log_end, precision: check.version[0].max(1) };
    let mut page = TimerCheckpoint { own: Some(own), ..check }.encode();
    assert_eq!(TimerCheckpoint::decode(&page).and_then(|read| read.own), Some(own));
    page[data.len() % JAVA_BYTES] ^= 1;
    assert_eq!(TimerCheckpoint::decode(&page).and_then(|read| read.own), None);
});
