//! Finding bytes, eight at a time: what headers and properties spend most of their time on.

/// Index of the first byte that is `one` or `other`, or the length.
#[inline(always)]
pub(crate) fn find_either(bytes: &[u8], one: u8, other: u8) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    // The lowest top bit of the result marks the lowest zero byte of `word`.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let hits = zeros(word ^ (ONES * u64::from(one))) | zeros(word ^ (ONES * u64::from(other)));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let tail = bytes[at..].iter().position(|byte| *byte == one || *byte == other);
    tail.map_or(bytes.len(), |tail| at + tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_plain_search_finds(bytes in prop::collection::vec(0u8..4, 0..40), high: Vec<u8>) {
            for bytes in [bytes, high] {
                let plain = bytes.iter().position(|byte| matches!(byte, 1 | 3));
                prop_assert_eq!(find_either(&bytes, 1, 3), plain.unwrap_or(bytes.len()));
            }
        }
    }
}
