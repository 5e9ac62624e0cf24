//! Compression of bodies, when they are sent and when they come.
//!
//! Java: `ZlibCompressor`, `Lz4Compressor`, `ZstdCompressor`, `MessageSysFlag`.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use bytes::Bytes;
use flate2::{Compression, write::ZlibEncoder};
use lz4_flex::frame::FrameEncoder;
use wire::compression::Kind;

/// Compresses `body` at `level`, 1 fast to 9 small; none if that makes it no smaller.
pub(crate) fn deflate(body: &[u8], kind: Kind, level: u32) -> Option<(Bytes, i32)> {
    let room = Vec::with_capacity(body.len() / 2);
    let deflated = match kind {
        Kind::Zlib => {
            let mut encoder = ZlibEncoder::new(room, Compression::new(level));
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        // It has one level.
        Kind::Lz4 => {
            let mut encoder = FrameEncoder::new(room);
            encoder.write_all(body).and_then(|()| encoder.finish().map_err(io::Error::other))
        }
        Kind::Zstd => zstd::bulk::compress(body, level as i32),
    };
    let deflated = deflated.ok()?;
    (deflated.len() < body.len()).then(|| (deflated.into(), kind.flag()))
}

/// Decompresses `body`; none if it is not compressed, torn, or longer than `bytes_max` then.
pub(crate) fn inflate(body: &Bytes, sys_flag: i32, bytes_max: usize) -> Option<Bytes> {
    match wire::compression::open(sys_flag, body, bytes_max) {
        Ok(Cow::Owned(opened)) => Some(opened.into()),
        Ok(Cow::Borrowed(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use wire::names::system_flag;

    use super::*;

    #[test]
    fn bodies_come_back_and_bombs_do_not_go_off() {
        let body = Bytes::from(vec![7; 100_000]);
        for kind in [Kind::Zlib, Kind::Lz4, Kind::Zstd] {
            let (small, flag) = deflate(&body, kind, 5).expect("it is smaller");
            assert_eq!(flag, kind.flag());
            assert_eq!(inflate(&small, flag, 100_000), Some(body.clone()), "{kind:?}");
            assert_eq!(inflate(&small, flag, 99_999), None);
            assert_eq!(inflate(&small.slice(..small.len() / 2), flag, 100_000), None);
            assert_eq!(inflate(&small, 0, 100_000), None);
            assert_eq!(deflate(b"a", kind, 5), None);
        }
        let (small, _) = deflate(&body, Kind::Zlib, 5).expect("it is smaller");
        assert_eq!(inflate(&small, system_flag::COMPRESSED, 100_000), Some(body), "of old clients");
    }
}
