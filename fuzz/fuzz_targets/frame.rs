#![no_main]
//! Frames off a socket: split, decoded, and written again the same in both codecs.

use bytes::BytesMut;
use wire::frame::{FRAME_BYTES_MAX, Frame};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(bytes)) = Frame::split(&mut buffer, FRAME_BYTES_MAX) {
        let Ok(frame) = Frame::decode(bytes) else { continue };
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        let again = Frame::split(&mut out, FRAME_BYTES_MAX * 8).expect("whole").expect("whole");
        let again = Frame::decode(again).expect("what was written is read");
        assert_eq!((again.code, again.opaque, again.kind), (frame.code, frame.opaque, frame.kind));
        assert_eq!(again.ext, frame.ext);
    }
});
