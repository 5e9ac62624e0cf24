//! Compression of bodies: zlib when they are sent, whatever clients use when they come.
//!
//! Java: `ZlibCompressor`, `MessageSysFlag`.

use std::{borrow::Cow, io::Write};

use bytes::Bytes;
use flate2::{Compression, write::ZlibEncoder};
use wire::compression::Kind;

/// Compresses `body` at `level`, 1 fast to 9 small; none if that makes it no smaller.
pub(crate) fn deflate(body: &[u8], level: u32) -> Option<(Bytes, i32)> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(body.len() / 2), Compression::new(level));
    encoder.write_all(body).ok()?;
    let deflated = encoder.finish().ok()?;
    (deflated.len() < body.len()).then(|| (deflated.into(), Kind::Zlib.flag()))
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
        let (small, flag) = deflate(&body, 5).expect("it is smaller");
        assert_eq!(inflate(&small, flag, 100_000), Some(body.clone()));
        assert_eq!(inflate(&small, system_flag::COMPRESSED, 100_000), Some(body));
        assert_eq!(inflate(&small, flag, 99_999), None);
        assert_eq!(inflate(&small.slice(..20), flag, 100_000), None);
        assert_eq!(inflate(&small, 0, 100_000), None);
        assert_eq!(deflate(b"a", 5), None);
    }
}
