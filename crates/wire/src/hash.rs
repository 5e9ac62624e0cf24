//! Hashes and checksums that Java's files and protocol are built on.
//!
//! They must agree with Java bit for bit: queue entries, index files and clients compare them. What
//! is hashed (which tag, which key) is decided by the caller.

/// `String.hashCode()` of Java: over UTF-16 code units, wrapping.
pub fn java_string_hash(text: &str) -> i32 {
    extend(0, text)
}

/// Tag hash as kept in a consume queue: the Java hash, sign-extended; 0 for no tag
/// (Java: `MessageExtBrokerInner.tagsString2tagsCode`).
pub fn tags_code(tag: &str) -> i64 {
    i64::from(java_string_hash(tag))
}

/// Hash of `topic#key` as kept in an index file: absolute, with `i32::MIN` as 0
/// (Java: `IndexFile.indexKeyHashMethod`).
pub fn index_key_hash(topic: &str, key: &str) -> i32 {
    extend(extend(extend(0, topic), "#"), key).checked_abs().unwrap_or(0)
}

/// Hash of `topic#T#tag`, under which an index file since 5.5.0 also keeps the tag
/// (Java: `IndexService.buildKey` with the index type `T`).
pub fn index_tag_hash(topic: &str, tag: &str) -> i32 {
    extend(extend(extend(0, topic), "#T#"), tag).checked_abs().unwrap_or(0)
}

/// First half of MurmurHash3 x64-128 with seed 0, by which Bloom filters choose their bits
/// (Java: guava's `murmur3_128`, `asLong`).
pub fn murmur3(bytes: &[u8]) -> u64 {
    const C1: u64 = 0x87C3_7B91_1142_53D5;
    const C2: u64 = 0x4CF5_AD43_2745_937F;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        let [k1, k2] = halves(block);
        h1 = (h1 ^ mix1(k1)).rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52DC_E729);
        h2 = (h2 ^ mix2(k2)).rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5AB5);
    }
    let mut last = [0; 16];
    last[..tail.len()].copy_from_slice(tail);
    let [k1, k2] = halves(&last);
    let len = bytes.len() as u64;
    h1 = h1 ^ mix1(k1) ^ len;
    h2 = h2 ^ mix2(k2) ^ len;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

fn halves(block: &[u8; 16]) -> [u64; 2] {
    let (low, high) = block.split_at(8);
    [low, high].map(|half| u64::from_le_bytes(half.try_into().expect("8 bytes")))
}

fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

/// CRC-32 (IEEE) with the top bit cleared, as all of Java's checksums (Java: `UtilAll.crc32`).
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}

fn extend(seed: i32, text: &str) -> i32 {
    if text.is_ascii() {
        extend_ascii(seed, text.as_bytes())
    } else {
        text.encode_utf16().fold(seed, |hash, unit| step(hash, i32::from(unit)))
    }
}

fn step(hash: i32, unit: i32) -> i32 {
    hash.wrapping_mul(31).wrapping_add(unit)
}

/// Takes eight bytes at a time: their products do not wait for each other, which is most of the cost of a long key.
fn extend_ascii(seed: i32, bytes: &[u8]) -> i32 {
    const POWERS: [i32; 9] = {
        let mut powers = [1_i32; 9];
        let mut at = 1;
        while at < powers.len() {
            powers[at] = powers[at - 1].wrapping_mul(31);
            at += 1;
        }
        powers
    };
    let mut eights = bytes.chunks_exact(8);
    let hash = eights.by_ref().fold(seed, |hash, eight| {
        let products = eight.iter().zip(POWERS[..8].iter().rev());
        let sum = products.fold(0_i32, |sum, (byte, power)| {
            sum.wrapping_add(i32::from(*byte).wrapping_mul(*power))
        });
        hash.wrapping_mul(POWERS[8]).wrapping_add(sum)
    });
    eights.remainder().iter().fold(hash, |hash, byte| step(hash, i32::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_java() {
        assert_eq!(java_string_hash(""), 0);
        assert_eq!(java_string_hash("TagA"), 2_598_919);
        assert_eq!(java_string_hash("hello world"), 1_794_106_052);
        assert_eq!(java_string_hash("消息"), 893_927);
        assert_eq!(java_string_hash("😀"), 1_772_899);
        assert_eq!(tags_code("polygenelubricants"), i64::from(i32::MIN));
    }

    #[test]
    fn eight_bytes_at_a_time_give_the_hash_of_one_at_a_time() {
        let text = "7F0000010A0B18B4AAC2000000000001/%RETRY%group";
        for len in 0..=text.len() {
            let one_by_one = text[..len].bytes().fold(0, |hash, byte| step(hash, i32::from(byte)));
            assert_eq!(java_string_hash(&text[..len]), one_by_one);
        }
    }

    #[test]
    fn index_hash_is_never_negative() {
        assert_eq!(index_key_hash("", "x"), java_string_hash("#x"));
        assert_eq!(index_key_hash("T", "k"), java_string_hash("T#k").abs());
        assert_eq!(index_tag_hash("T", "k"), java_string_hash("T#T#k").abs());
        for key in ["a", "hello world hello", "7F0000010A0B18B4AAC2000000000001"] {
            assert!(index_key_hash("TopicTest", key) >= 0);
        }
    }

    #[test]
    fn crc_has_no_sign() {
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926 & 0x7FFF_FFFF);
    }
}
