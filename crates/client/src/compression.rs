//! Compression of bodies: zlib both ways, within a bound.
//!
//! Java: `ZlibCompressor`, `MessageSysFlag`. Bodies compressed by LZ4 or ZSTD are left as they are.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use wire::names::system_flag;

/// The compression bits of the system flag: zlib, by the name it has since 5.0.
const ZLIB: i32 = 0x300;

/// Compresses `body` at `level`, 1 fast to 9 small; none if that makes it no smaller.
pub(crate) fn deflate(body: &[u8], level: u32) -> Option<(Bytes, i32)> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(body.len() / 2), Compression::new(level));
    encoder.write_all(body).ok()?;
    let deflated = encoder.finish().ok()?;
    (deflated.len() < body.len()).then(|| (deflated.into(), system_flag::COMPRESSED | ZLIB))
}

/// Decompresses `body`; none if it is not compressed, not by zlib, torn, or longer than `bytes_max` then.
pub(crate) fn inflate(body: &Bytes, sys_flag: i32, bytes_max: usize) -> Option<Bytes> {
    let is_zlib = matches!(sys_flag & system_flag::COMPRESSION_MASK, 0 | ZLIB);
    if sys_flag & system_flag::COMPRESSED == 0 || !is_zlib {
        return None;
    }
    let mut inflated = Vec::new();
    let mut decoder = ZlibDecoder::new(body.as_ref()).take(bytes_max as u64 + 1);
    decoder.read_to_end(&mut inflated).ok()?;
    (inflated.len() <= bytes_max).then(|| inflated.into())
}

#[cfg(test)]
mod tests {
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
