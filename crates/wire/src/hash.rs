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
