//! Java's `.properties` syntax, as `java.util.Properties.load` reads it.
//!
//! A logical line may go on after a backslash at the end of a natural one; `#` and `!` begin comments; the key ends at
//! the first `=`, `:` or blank that is not escaped; `\t \n \r \f \uXXXX` are characters, any other escaped one is itself.
//! Text is UTF-8 (Java: ISO 8859-1, which differs only beyond ASCII).

use std::ops::Range;

/// One key with its value and the line where it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) value: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

/// Reads all pairs, in their order; a key that comes twice is there twice.
pub(crate) fn parse(text: &str) -> Vec<Pair> {
    logical_lines(text).into_iter().map(|(pair, _)| pair).collect()
}

/// Returns `text` with another value of a key: in place of the last one that it has, or else at its end. Neither key nor
/// value may need an escape.
pub(crate) fn with(text: &str, key: &str, value: &str) -> String {
    match logical_lines(text).into_iter().rfind(|(pair, _)| pair.key == key) {
        Some((_, span)) => {
            format!("{}{key}={value}{}", &text[..span.start], &text[span.end..])
        }
        None if text.is_empty() || text.ends_with('\n') => format!("{text}{key}={value}\n"),
        None => format!("{text}\n{key}={value}\n"),
    }
}

/// Reads all pairs, each with the bytes of its lines, without the end of the last one.
fn logical_lines(text: &str) -> Vec<(Pair, Range<usize>)> {
    let mut pairs = Vec::new();
    let mut end = 0;
    let lines = text.split_inclusive('\n').map(|natural| {
        let start = end;
        end += natural.len();
        let natural = natural.strip_suffix('\n').unwrap_or(natural);
        let natural = natural.strip_suffix('\r').unwrap_or(natural);
        (start, natural)
    });
    let mut lines = lines.enumerate();
    while let Some((at, (begin, natural))) = lines.next() {
        let start = natural.trim_start_matches(BLANKS);
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut span = begin..begin + natural.len();
        let mut logical = start.to_owned();
        while ends_escaped(&logical) {
            logical.pop();
            let Some((_, (begin, next))) = lines.next() else { break };
            span.end = begin + next.len();
            logical.push_str(next.trim_start_matches(BLANKS));
        }
        let (key, value) = split(&logical);
        let pair = Pair { key: unescape(key), value: unescape(value), line: at + 1 };
        pairs.push((pair, span));
    }
    pairs
}

const BLANKS: [char; 3] = [' ', '\t', '\u{c}'];

/// Whether an odd number of backslashes ends the line: the last one is not itself escaped.
fn ends_escaped(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Splits a logical line at the end of its key; blanks around the first `=` or `:` belong to neither side.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || BLANKS.contains(&c));
        escaped = c == '\\' && !escaped;
        ends
    });
    let Some(end) = end else { return (line, "") };
    let rest = line[end..].trim_start_matches(BLANKS);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start_matches(BLANKS))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = rest.clone().take(4).collect();
                match u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4) {
                    Some(code) => {
                        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                        rest.nth(3);
                    }
                    None => out.push('u'),
                }
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str, usize)]) {
        let found = parse(text);
        let found: Vec<_> =
            found.iter().map(|p| (p.key.as_str(), p.value.as_str(), p.line)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn keys_end_at_the_first_sign_or_blank_that_is_not_escaped() {
        check(
            "a=1\nb : 2\nc 3\nd\ne==5",
            &[("a", "1", 1), ("b", "2", 2), ("c", "3", 3), ("d", "", 4), ("e", "=5", 5)],
        );
        check(r"k\:e\=y\ x = v\=w", &[("k:e=y x", "v=w", 1)]);
    }

    #[test]
    fn comments_and_blank_lines_are_no_pairs() {
        check("# a=1\n\n  ! b=2\n  c=3\r\n", &[("c", "3", 4)]);
    }

    #[test]
    fn a_line_goes_on_after_a_backslash_that_is_not_escaped() {
        check("a=1\\\n   2\nb=x\\\\\nc=\\\n", &[("a", "12", 1), ("b", "x\\", 3), ("c", "", 4)]);
    }

    #[test]
    fn only_the_line_of_a_changed_key_changes() {
        assert_eq!(with("# c\r\na = 1\\\n  2\r\nb=1\n", "a", "3"), "# c\r\na=3\r\nb=1\n");
        assert_eq!(with("a=1\n a:2", "a", "3"), "a=1\na=3", "the last one is in force");
        assert_eq!(with("b=1", "a", "3"), "b=1\na=3\n");
        assert_eq!(with("#a=1\n", "a", "3"), "#a=1\na=3\n");
    }

    #[test]
    fn escapes_are_what_java_takes_them_for() {
        check(r"a=\t\n\u0041\u00e9\q\uXY", &[("a", "\t\nAéquXY", 1)]);
    }
}
