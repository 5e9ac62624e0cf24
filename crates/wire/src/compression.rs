//! Compressed message bodies, opened: zlib, LZ4 and Zstandard, within a bound.
//!
//! ```text
//! zlib   one stream                                           (Java: `ZlibCompressor`)
//! zstd   frames, one behind the other                         (Java: `ZstdCompressor`)
//! lz4    frames: int 0x184D2204, flags, block size, [long content length], [int dictionary], checksum of these,
//!        blocks (int length, top bit: stored as it is; bytes; [int checksum]), int 0, [int checksum]
//!        all little-endian                                    (Java: `Lz4Compressor`)
//! ```
//! Checksums of LZ4 are not looked at: a record has one of its whole body.
//!
//! Invariant: no more is allocated than the bound and the window that a zstd frame asks for, 8 MiB or the bound.

use std::{borrow::Cow, io::Read};

use bytes::Buf;
use flate2::bufread::ZlibDecoder;
use lz4_flex::block::{self, DecompressError};
use thiserror::Error;

use crate::names::system_flag;

/// How a body is compressed (Java: `CompressionType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// LZ4 frames.
    Lz4,
    /// Zstandard frames.
    Zstd,
    /// A zlib stream.
    Zlib,
}

impl Kind {
    /// Returns the bits of the system flag that say so, [`system_flag::COMPRESSED`] among them.
    pub fn flag(self) -> i32 {
        let kind = match self {
            Kind::Lz4 => 0x100,
            Kind::Zstd => 0x200,
            Kind::Zlib => 0x300,
        };
        system_flag::COMPRESSED | kind
    }
}

/// Why a body cannot be opened.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// The system flag names a compression that there is not.
    #[error("the body is compressed in a way that is not known, {0:#x}")]
    Unknown(i32),
    /// The bytes are not what the system flag says, or torn.
    #[error("the {0:?} body is damaged")]
    Damaged(Kind),
    /// It has more bytes than it may.
    #[error("the {0:?} body has more than {1} bytes when it is opened")]
    TooLong(Kind, usize),
}

/// Returns a body as the producer gave it to its client; one that is not compressed as it is.
///
/// # Errors
/// [`OpenError`], when it has more than `bytes_max` bytes then, too.
pub fn open(sys_flag: i32, body: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>, OpenError> {
    if sys_flag & system_flag::COMPRESSED == 0 {
        return Ok(Cow::Borrowed(body));
    }
    let (kind, opened) = match sys_flag & system_flag::COMPRESSION_MASK {
        0x100 => (Kind::Lz4, open_lz4(body, bytes_max)?),
        0x200 => (Kind::Zstd, open_zstd(body, bytes_max)?),
        // Old clients know zlib only.
        0 | 0x300 => (Kind::Zlib, read(ZlibDecoder::new(body), Kind::Zlib, bytes_max)?),
        unknown => return Err(OpenError::Unknown(unknown)),
    };
    let is_too_long = opened.len() > bytes_max;
    if is_too_long { Err(OpenError::TooLong(kind, bytes_max)) } else { Ok(Cow::Owned(opened)) }
}

/// Reads what `opening` has, and not much more than may be.
fn read(opening: impl Read, kind: Kind, bytes_max: usize) -> Result<Vec<u8>, OpenError> {
    let mut opened = Vec::new();
    let mut bounded = opening.take((bytes_max as u64).saturating_add(1));
    bounded.read_to_end(&mut opened).map_err(|_| OpenError::Damaged(kind))?;
    Ok(opened)
}

/// Windows that a decoder takes at least, as the format advises: 8 MiB. A client that streams asks for more than it fills.
const ZSTD_WINDOW_LOG: u32 = 23;

fn open_zstd(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, OpenError> {
    let damaged = |_| OpenError::Damaged(Kind::Zstd);
    let mut opening = zstd::Decoder::with_buffer(body).map_err(damaged)?;
    let window_log = bytes_max.max(1).ilog2().clamp(ZSTD_WINDOW_LOG, 27);
    opening.window_log_max(window_log).map_err(damaged)?;
    read(opening, Kind::Zstd, bytes_max)
}

const LZ4_MAGIC: u32 = 0x184D_2204;
/// How far a block refers back to those before it.
const LZ4_WINDOW: usize = 64 << 10;
/// No byte of a block stands for more than so many.
const LZ4_RATIO_MAX: usize = 255;

fn open_lz4(mut body: &[u8], bytes_max: usize) -> Result<Vec<u8>, OpenError> {
    let mut opened = Vec::new();
    while !body.is_empty() {
        open_lz4_frame(&mut body, &mut opened, bytes_max)?;
    }
    Ok(opened)
}

/// Appends one frame, which `body` begins with, and takes it off.
fn open_lz4_frame(
    body: &mut &[u8],
    opened: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(), OpenError> {
    let damaged = || OpenError::Damaged(Kind::Lz4);
    let too_long = || OpenError::TooLong(Kind::Lz4, bytes_max);
    let is_start = body.try_get_u32_le().is_ok_and(|magic| magic == LZ4_MAGIC);
    let flags = body.try_get_u8().map_err(|_| damaged())?;
    let block_max = match body.try_get_u8().map_err(|_| damaged())? >> 4 & 7 {
        size @ 4..=7 => 1usize << (8 + 2 * size),
        _ => return Err(damaged()),
    };
    let has = |bit: u8| flags & bit != 0;
    // Version 1, and no dictionary, which nobody could give us.
    if !is_start || flags >> 6 != 1 || has(0x01) {
        return Err(damaged());
    }
    skip(body, if has(0x08) { 8 + 1 } else { 1 })?;
    let frame_start = opened.len();
    loop {
        let word = body.try_get_u32_le().map_err(|_| damaged())?;
        if word == 0 {
            return skip(body, if has(0x04) { 4 } else { 0 });
        }
        let (len, is_stored) = ((word & 0x7FFF_FFFF) as usize, word >> 31 == 1);
        if len > block_max {
            return Err(damaged());
        }
        let block = body.split_off(..len).ok_or_else(damaged)?;
        skip(body, if has(0x10) { 4 } else { 0 })?;
        let (start, left) = (opened.len(), bytes_max - opened.len());
        if is_stored {
            if len > left {
                return Err(too_long());
            }
            opened.extend_from_slice(block);
            continue;
        }
        let room = block_max.min(len * LZ4_RATIO_MAX);
        opened.resize(start + room.min(left), 0);
        let (before, fresh) = opened.split_at_mut(start);
        let is_independent = has(0x20);
        let window =
            if is_independent { start } else { frame_start.max(start.saturating_sub(LZ4_WINDOW)) };
        match block::decompress_into_with_dict(block, fresh, &before[window..]) {
            Ok(len) => opened.truncate(start + len),
            Err(DecompressError::OutputTooSmall { .. }) if room > left => return Err(too_long()),
            Err(_) => return Err(damaged()),
        }
    }
}

fn skip(body: &mut &[u8], count: usize) -> Result<(), OpenError> {
    body.split_off(..count).map(drop).ok_or(OpenError::Damaged(Kind::Lz4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the original's `CompressorFactory` makes of this text at level 5.
    fn originals() -> [(Kind, &'static [u8]); 3] {
        [
            (Kind::Lz4, include_bytes!("../../../fixtures/compression/body.lz4")),
            (Kind::Zstd, include_bytes!("../../../fixtures/compression/body.zstd")),
            (Kind::Zlib, include_bytes!("../../../fixtures/compression/body.zlib")),
        ]
    }

    fn text() -> Vec<u8> {
        (0..2_000).flat_map(|line| format!("line {line} of the body\n").into_bytes()).collect()
    }

    #[test]
    fn bodies_that_the_original_compressed_come_back() {
        for (kind, body) in originals() {
            let opened = open(kind.flag(), body, text().len());
            assert!(opened.as_deref() == Ok(&*text()), "{kind:?}");
        }
        let (_, zlib) = originals()[2];
        let of_old_client = open(system_flag::COMPRESSED, zlib, usize::MAX);
        assert!(of_old_client.as_deref() == Ok(&*text()));
        assert_eq!(open(0, b"as it is", 0).as_deref(), Ok(&b"as it is"[..]));
    }

    #[test]
    fn a_body_that_is_too_long_or_torn_or_of_an_unknown_kind_is_refused() {
        for (kind, body) in originals() {
            let len_max = text().len() - 1;
            assert_eq!(open(kind.flag(), body, len_max), Err(OpenError::TooLong(kind, len_max)));
            assert!(open(kind.flag(), body, 0).is_err());
            for len in [1, 3, 7, 20, body.len() / 2] {
                let torn = open(kind.flag(), &body[..len], usize::MAX);
                assert_eq!(torn, Err(OpenError::Damaged(kind)), "{len}");
            }
        }
        assert_eq!(open(0x701, b"", 9), Err(OpenError::Unknown(0x700)));
    }

    #[test]
    fn lz4_blocks_may_be_stored_and_refer_to_those_before() {
        let word = |word: u32| word.to_le_bytes();
        let mut body = [&word(LZ4_MAGIC)[..], &[0x5C, 0x40], &[0; 8], &[0]].concat();
        body.extend([&word(1 << 31 | 4)[..], b"abcd", &[0; 4]].concat());
        // A match of four bytes, four back, and a literal.
        body.extend([&word(5)[..], &[0x00, 4, 0, 0x10, b'e'], &[0; 4]].concat());
        body.extend([word(0), word(0)].concat());
        assert_eq!(open(0x101, &body, 9).as_deref(), Ok(&b"abcdabcde"[..]));
        assert_eq!(open(0x101, &body, 8), Err(OpenError::TooLong(Kind::Lz4, 8)));
    }
}
