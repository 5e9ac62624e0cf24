//! Finding bytes eight at a time, and writing numbers: what headers and properties spend most of their time on.

const ONES: u64 = u64::from_le_bytes([1; 8]);
const TOPS: u64 = ONES << 7;

/// A mark in the top bit of each byte of `word` below `limit` (at most 128); the lowest mark is
/// true, those above it may not be.
#[inline(always)]
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word & TOPS
}

/// As [`below`], for the bytes that are `byte`.
#[inline(always)]
fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

/// Index of the first byte that is `one` or `other`, or the length.
#[inline(always)]
pub(crate) fn find_either(bytes: &[u8], one: u8, other: u8) -> usize {
    find(bytes, |word| equal(word, one) | equal(word, other), |byte| byte == one || byte == other)
}

/// Index of the first byte that JSON strings escape, or the length.
#[inline(always)]
pub(crate) fn find_escaped(bytes: &[u8]) -> usize {
    let of_word = |word| below(word, b' ') | equal(word, b'"') | equal(word, b'\\');
    find(bytes, of_word, |byte| byte < b' ' || byte == b'"' || byte == b'\\')
}

#[inline(always)]
fn find(bytes: &[u8], in_word: impl Fn(u64) -> u64, is_hit: impl Fn(u8) -> bool) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let hits = in_word(u64::from_le_bytes(*chunk));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let tail = bytes[at..].iter().position(|byte| is_hit(*byte));
    tail.map_or(bytes.len(), |tail| at + tail)
}

/// A number in decimal, without the formatting machinery.
pub(crate) struct Decimal {
    digits: [u8; 20],
    at: usize,
}

impl Decimal {
    pub(crate) fn of(number: i64) -> Decimal {
        let mut decimal = Decimal { digits: [0; 20], at: 20 };
        let mut rest = number.unsigned_abs();
        loop {
            decimal.push(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            decimal.push(b'-');
        }
        decimal
    }

    fn push(&mut self, digit: u8) {
        self.at -= 1;
        self.digits[self.at] = digit;
    }

    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("digits are ASCII")
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.at..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_are_written_as_they_are_formatted(number: i64) {
            let (ours, formatted) = (Decimal::of(number), number.to_string());
            prop_assert_eq!(ours.as_str(), formatted);
        }

        #[test]
        fn finds_what_a_plain_search_finds(bytes in prop::collection::vec(0u8..4, 0..40), high: Vec<u8>) {
            let shifted = bytes.iter().map(|byte| byte + 31).collect();
            for bytes in [bytes, high, shifted] {
                let plain = bytes.iter().position(|byte| matches!(byte, 1 | 3));
                prop_assert_eq!(find_either(&bytes, 1, 3), plain.unwrap_or(bytes.len()));
                let plain = bytes.iter().position(|byte| matches!(byte, 0..32 | b'"' | b'\\'));
                prop_assert_eq!(find_escaped(&bytes), plain.unwrap_or(bytes.len()));
            }
        }
    }
}
