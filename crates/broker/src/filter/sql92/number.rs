//! Numbers in texts, as Java reads them.
//!
//! What `Integer.valueOf`, `Long.valueOf` and `Double.valueOf` take is taken, with the same value; `None` is their
//! `NumberFormatException`.

/// Zeros of the decimal digits of the basic plane (Java: `Character.digit`, JDK 17).
const ZEROS: [u16; 37] = [
    0x0030, 0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6,
    0x0D66, 0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80,
    0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0,
    0xFF10,
];

/// Reads an `int`: a sign and digits, and nothing else.
pub(super) fn int(text: &str) -> Option<i32> {
    long(text)?.try_into().ok()
}

/// Reads a `long`: a sign and digits, and nothing else.
pub(super) fn long(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    // Downwards, where there is room for one more.
    let negative = digits
        .chars()
        .try_fold(0_i64, |number, c| number.checked_mul(10)?.checked_sub(digit(c)?))?;
    if is_negative { Some(negative) } else { negative.checked_neg() }
}

fn digit(c: char) -> Option<i64> {
    if c.is_ascii() {
        return c.to_digit(10).map(i64::from);
    }
    let c = u16::try_from(u32::from(c)).ok()?;
    let zero = ZEROS[..ZEROS.partition_point(|zero| *zero <= c)].last()?;
    Some(i64::from(c - zero)).filter(|digit| *digit < 10)
}

/// Reads a `double`: decimal, hexadecimal (`0x1.8p3`), `NaN` or `Infinity`, with blanks around it.
pub(super) fn double(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c| c <= ' ');
    let (sign, unsigned) = match text.as_bytes() {
        [b'-', ..] => (-1.0, &text[1..]),
        [b'+', ..] => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let magnitude = match unsigned.as_bytes() {
        b"NaN" => return Some(f64::NAN),
        b"Infinity" => f64::INFINITY,
        [b'0', b'x' | b'X', rest @ ..] => hexadecimal(without_suffix(rest))?,
        bytes => decimal(without_suffix(bytes))?,
    };
    Some(sign * magnitude)
}

/// Without the letter that says which type is meant; it means nothing.
fn without_suffix(bytes: &[u8]) -> &[u8] {
    match bytes {
        [number @ .., b'f' | b'F' | b'd' | b'D'] => number,
        _ => bytes,
    }
}

fn decimal(bytes: &[u8]) -> Option<f64> {
    // Rust reads more words than Java, and no other numbers.
    let is_number = matches!(bytes.first()?, b'0'..=b'9' | b'.');
    let text = std::str::from_utf8(bytes).ok()?;
    if is_number { text.parse().ok() } else { None }
}

/// Digits with at most one point, `p`, and a decimal exponent.
fn hexadecimal(bytes: &[u8]) -> Option<f64> {
    let p = bytes.iter().position(|byte| matches!(byte, b'p' | b'P'))?;
    let (digits, exponent) = (&bytes[..p], &bytes[p + 1..]);
    let (mut mantissa, mut scale, mut is_fraction, mut has_digit) = (0_u64, 0_i64, false, false);
    for byte in digits {
        if *byte == b'.' {
            if std::mem::replace(&mut is_fraction, true) {
                return None;
            }
            continue;
        }
        let digit = u64::from(char::from(*byte).to_digit(16)?);
        has_digit = true;
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | digit;
            scale -= if is_fraction { 4 } else { 0 };
        } else {
            // Below what a double holds; only whether anything is there counts, for rounding.
            mantissa |= u64::from(digit != 0);
            scale += if is_fraction { 0 } else { 4 };
        }
    }
    let (is_negative, exponent) = match exponent {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if !has_digit || exponent.is_empty() || !exponent.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let far =
        exponent.iter().fold(0_i64, |sum, byte| (sum * 10 + i64::from(byte - b'0')).min(1 << 40));
    Some(scaled(mantissa, scale + if is_negative { -far } else { far }))
}

/// `mantissa` × 2^`exponent`, rounded to the nearest double, to the even one of two.
fn scaled(mantissa: u64, exponent: i64) -> f64 {
    if mantissa == 0 {
        return 0.0;
    }
    let shift = mantissa.leading_zeros();
    let (mantissa, exponent) = (mantissa << shift, exponent - i64::from(shift));
    // The value is 1.x × 2^power.
    let power = exponent + 63;
    if power > 1023 {
        return f64::INFINITY;
    }
    // 53 bits are kept, fewer below the smallest normal number.
    let dropped = 11 + (-1022 - power).max(0);
    if dropped > 64 {
        return 0.0;
    }
    let wide = u128::from(mantissa);
    let (kept, rest, half) =
        ((wide >> dropped) as u64, wide & ((1 << dropped) - 1), 1_u128 << (dropped - 1));
    let rounded = kept + u64::from(rest > half || rest == half && kept & 1 == 1);
    // Carries go where they belong: a fraction that overflows raises the exponent by one.
    let biased = (power.max(-1022) + 1022) as u64;
    f64::from_bits((biased << 52) + rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_as_java_reads_them() {
        for (text, number) in [
            ("5", Some(5)),
            ("+5", Some(5)),
            ("-2147483648", Some(i32::MIN)),
            ("0000000000000000000000000007", Some(7)),
            ("٥٦", Some(56)),
            ("１２", Some(12)),
            ("2147483648", None),
            (" 5", None),
            ("5.0", None),
            ("5L", None),
            ("-", None),
            ("+-5", None),
            ("", None),
            ("𝟓", None),
            ("½", None),
        ] {
            assert_eq!(int(text), number, "{text}");
        }
        assert_eq!(long("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(long("9223372036854775808"), None);
    }

    #[test]
    fn fractions_are_read_as_java_reads_them() {
        for (text, number) in [
            ("5", Some(5.0)),
            (" +.5e1f\t", Some(5.0)),
            ("1.D", Some(1.0)),
            ("-1e-400", Some(-0.0)),
            ("1e400", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("0x1.8p3", Some(12.0)),
            ("-0X.8P1d", Some(-1.0)),
            ("0x1p-1074", Some(5e-324)),
            ("0x1p-1075", Some(0.0)),
            ("0x1.8p-1075", Some(5e-324)),
            ("0x1.fffffffffffff8p1023", Some(f64::INFINITY)),
            ("0x1.fffffffffffff7ffffffffp1023", Some(f64::MAX)),
            ("0x10000000000000000000000p-88", Some(1.0)),
            ("0x1p99999999999999999999", Some(f64::INFINITY)),
            ("0x1", None),
            ("0x.p1", None),
            ("0x1p", None),
            ("infinity", None),
            ("inf", None),
            ("nan", None),
            ("1e", None),
            (".", None),
            ("1ff", None),
            ("1_000", None),
            ("٥", None),
            ("", None),
        ] {
            assert_eq!(double(text).map(f64::to_bits), number.map(f64::to_bits), "{text}");
        }
        assert!(double("+NaN").is_some_and(f64::is_nan));
        assert_eq!(double("NaNf"), None);
    }
}
