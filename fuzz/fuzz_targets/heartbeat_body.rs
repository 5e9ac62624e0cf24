#![no_main]
//! Heartbeats of clients and the other bodies that clients send.

use wire::body::client::{CheckClient, HeartbeatData};
use wire::body::group::{ConsumerOffsetTable, SubscriptionGroupTable};
use wire::body::lock::LockBatch;
use wire::body::topic::{TopicConfigTable, TopicStatsTable};
use wire::fastjson::{decode, encode};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(heartbeat) = decode::<HeartbeatData>(data) {
        assert_eq!(decode::<HeartbeatData>(&encode(&heartbeat)).as_ref(), Ok(&heartbeat));
    }
    if let Ok(lock) = decode::<LockBatch>(data) {
        assert_eq!(decode::<LockBatch>(&encode(&lock)).as_ref(), Ok(&lock));
    }
    let _ = decode::<CheckClient>(data);
    let _ = decode::<TopicConfigTable>(data);
    let _ = decode::<TopicStatsTable>(data);
    let _ = decode::<SubscriptionGroupTable>(data);
    let _ = decode::<ConsumerOffsetTable>(data);
});
