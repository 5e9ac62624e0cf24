#![no_main]
//! Header structs out of ext fields: what was read is written and read the same.

use wire::frame::Frame;
use wire::header::{namesrv, offset, pull, send, topic};

/// Reads the frame as each header, writes that and reads it again.
macro_rules! round_trips {
    ($frame:ident: $($header:ty),*) => {$(
        if let Ok(header) = $frame.header::<$header>() {
            let mut ext = wire::ext::Ext::default();
            ext.put_header(&header);
            assert_eq!(ext.header::<$header>().as_ref(), Ok(&header));
        }
    )*};
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(frame) = Frame::decode(data.to_vec().into()) else { return };
    round_trips!(frame: send::SendMessage<'_>, send::SendMessageResponse<'_>, pull::PullMessage<'_>,
        pull::PullMessageResponse, offset::SearchOffset<'_>, topic::CreateTopic<'_>,
        namesrv::RegisterBroker<'_>, namesrv::BrokerHeartbeat<'_>);
});
