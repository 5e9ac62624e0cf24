//! The words of an expression, one at a time.
//!
//! As in the original the longest word wins and nothing is looked at before it is needed: what stands behind the first
//! word after a complete condition may be anything. (Java: `SelectorParserTokenManager`)

use super::parser::Problem;

/// What a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    End,
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
    Decimal,
    Float,
    Text,
    Name,
    Equal,
    Unequal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Open,
    Close,
    Comma,
    Plus,
    Minus,
}

const KEYWORDS: [(&str, Kind); 12] = [
    ("NOT", Kind::Not),
    ("AND", Kind::And),
    ("OR", Kind::Or),
    ("BETWEEN", Kind::Between),
    ("IN", Kind::In),
    ("TRUE", Kind::True),
    ("FALSE", Kind::False),
    ("NULL", Kind::Null),
    ("IS", Kind::Is),
    ("CONTAINS", Kind::Contains),
    ("STARTSWITH", Kind::StartsWith),
    ("ENDSWITH", Kind::EndsWith),
];

/// A word and where it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'e> {
    pub(super) kind: Kind,
    pub(super) at: usize,
    /// As it stands in the expression, strings with their quotes.
    pub(super) image: &'e str,
}

/// The rest of an expression.
pub(super) struct Lexer<'e> {
    expression: &'e str,
    at: usize,
}

impl<'e> Lexer<'e> {
    pub(super) fn new(expression: &'e str) -> Lexer<'e> {
        Lexer { expression, at: 0 }
    }

    /// Takes the next word; [`Kind::End`] again and again at the end.
    pub(super) fn next(&mut self) -> Result<Word<'e>, Problem> {
        self.skip_blanks()?;
        let at = self.at;
        let rest = &self.expression[at..];
        let (kind, len) = match rest.as_bytes() {
            [] => (Kind::End, 0),
            [b'<', b'>', ..] => (Kind::Unequal, 2),
            [b'<', b'=', ..] => (Kind::LessOrEqual, 2),
            [b'<', ..] => (Kind::Less, 1),
            [b'>', b'=', ..] => (Kind::GreaterOrEqual, 2),
            [b'>', ..] => (Kind::Greater, 1),
            [b'=', ..] => (Kind::Equal, 1),
            [b'(', ..] => (Kind::Open, 1),
            [b')', ..] => (Kind::Close, 1),
            [b',', ..] => (Kind::Comma, 1),
            [b'+', ..] => (Kind::Plus, 1),
            [b'-', ..] => (Kind::Minus, 1),
            [b'\'', ..] => (Kind::Text, self.text_len(rest)?),
            [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => number(rest.as_bytes()),
            [b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$', ..] => name(rest),
            _ => return Err(self.no_word(rest)),
        };
        self.at += len;
        Ok(Word { kind, at, image: &rest[..len] })
    }

    /// Skips white space and comments. A line comment ends with its line: at the end of the expression `--` is two signs.
    fn skip_blanks(&mut self) -> Result<(), Problem> {
        loop {
            let rest = &self.expression[self.at..];
            self.at += match rest.as_bytes() {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0c, ..] => 1,
                [b'-', b'-', ..] => match rest.find(['\n', '\r']) {
                    Some(end) => end + 1,
                    None => return Ok(()),
                },
                [b'/', b'*', ..] => match rest[2..].find("*/") {
                    Some(end) => end + 4,
                    None => return Err(self.problem("this comment has no end (`*/`)")),
                },
                _ => return Ok(()),
            };
        }
    }

    fn text_len(&self, rest: &str) -> Result<usize, Problem> {
        let mut at = 1;
        while let Some(quote) = rest[at..].find('\'') {
            at += quote + 1;
            if !rest[at..].starts_with('\'') {
                return Ok(at);
            }
            at += 1;
        }
        Err(self.problem("this string has no end (`'`; a quote inside of it is written twice)"))
    }

    fn no_word(&self, rest: &str) -> Problem {
        let first = rest.chars().next().unwrap_or_default();
        let hint = match first {
            '"' => "; strings stand between single quotes",
            '!' => "; unequal is `<>`, negation is NOT",
            '&' => "; conditions are joined by AND",
            '|' => "; conditions are joined by OR",
            '*' | '/' | '%' => "; there is no arithmetic",
            _ => "",
        };
        self.problem(format!("`{}` means nothing here{hint}", first.escape_debug()))
    }

    fn problem(&self, text: impl Into<String>) -> Problem {
        Problem { at: self.at, text: text.into() }
    }
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The longest number; a decimal one is `0`, or begins with another digit and may end with `L`.
fn number(bytes: &[u8]) -> (Kind, usize) {
    let whole = digits(bytes);
    let mut len = whole;
    if bytes.get(len) == Some(&b'.') {
        len += 1 + digits(&bytes[len + 1..]);
    }
    if let [b'e' | b'E', rest @ ..] = &bytes[len..] {
        let sign = usize::from(matches!(rest, [b'+' | b'-', ..]));
        let exponent = digits(&rest[sign..]);
        if exponent > 0 {
            len += 1 + sign + exponent;
        }
    }
    match bytes {
        _ if len > whole => (Kind::Float, len),
        [b'0', ..] => (Kind::Decimal, 1),
        _ => (Kind::Decimal, whole + usize::from(matches!(bytes.get(whole), Some(b'l' | b'L')))),
    }
}

fn name(rest: &str) -> (Kind, usize) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
    let len = rest.bytes().take_while(is_part).count();
    let keyword = KEYWORDS.iter().find(|(keyword, _)| keyword.eq_ignore_ascii_case(&rest[..len]));
    (keyword.map_or(Kind::Name, |(_, kind)| *kind), len)
}
