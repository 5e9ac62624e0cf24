//! SQL92 conditions on the properties of messages, as RocketMQ 5.5.0 has them.
//!
//! ```text
//! or         = and { OR and }
//! and        = equality { AND equality }
//! equality   = comparison { (= | <>) comparison | IS [NOT] NULL }
//! comparison = unary { (> | >= | < | <=) unary
//!                    | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) string
//!                    | [NOT] BETWEEN unary AND unary
//!                    | [NOT] IN ( string { , string } ) }
//! unary      = (+ | - | NOT) unary | string | number | TRUE | FALSE | NULL | property | ( or )
//! ```
//! A condition is compiled once and evaluated over the property text of a record as it lies in the log. Its meaning is
//! that of the original's classes, quirks included, since a subscription must select the same messages here: NOT binds
//! tighter than any comparison, a property is text and takes the type of what it is compared with, a text that is no
//! number where one is needed makes the message not match, and whatever follows a complete condition is ignored.
//! (Java: `SelectorParser`, `org.apache.rocketmq.filter.expression`)

mod lexer;
mod number;
mod parser;
mod tree;

use std::fmt;

use smallvec::SmallVec;
use wire::properties;

use self::tree::{Expr, Message, Names, Value};

/// How deep parentheses, signs, NOTs and chains of comparisons may nest; the original's own bound is the stack of its
/// thread.
pub const DEPTH_MAX: usize = 256;

/// A compiled condition.
#[derive(Debug, PartialEq)]
pub struct Condition {
    root: Expr,
    names: Names,
    ignored_from: Option<usize>,
}

/// What a condition says of a message; only [`Verdict::True`] lets it through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    True,
    /// It does not.
    False,
    /// A property that it needs is missing.
    Null,
    /// A property cannot be compared as it asks: the original throws.
    Raised,
}

/// Why an expression is no condition, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong, and what was expected.
    pub problem: String,
    /// Line of the expression, from 1.
    pub line: usize,
    /// Character of the line, from 1.
    pub column: usize,
    /// What of the line is shown, and how many characters of it stand before the place.
    shown: String,
    caret: usize,
}

impl Condition {
    /// Compiles an expression of at most `len_max` bytes.
    ///
    /// # Errors
    /// [`CompileError`] for whatever the original refuses, and for what is longer or deeper than may be.
    pub fn compile(expression: &str, len_max: usize) -> Result<Condition, CompileError> {
        let parsed = match expression.len() > len_max {
            true => Err(parser::Problem {
                at: 0,
                text: format!(
                    "the expression has {} bytes, {len_max} are allowed (`filterExpressionBytesMax`)",
                    expression.len()
                ),
            }),
            false => parser::parse(expression),
        };
        let parsed = parsed.map_err(|problem| CompileError::new(expression, problem))?;
        Ok(Condition {
            root: parsed.root,
            names: Names::new(parsed.names),
            ignored_from: parsed.ignored_from,
        })
    }

    /// Says whether a message with these properties, in their text form ([`wire::properties`]), is wanted.
    pub fn matches(&self, properties: &str) -> bool {
        self.verdict(properties) == Verdict::True
    }

    /// Evaluates the condition.
    pub fn verdict(&self, properties: &str) -> Verdict {
        let mut values: SmallVec<[Option<&str>; 8]> = SmallVec::from_elem(None, self.names.len());
        for (name, value) in properties::iter(properties) {
            if let Some(slot) = self.names.slot(name) {
                values[slot] = Some(value);
            }
        }
        match self.root.evaluate(&Message { values: &values }) {
            Ok(Value::Flag(true)) => Verdict::True,
            Ok(Value::Null) => Verdict::Null,
            Ok(_) => Verdict::False,
            Err(_) => Verdict::Raised,
        }
    }

    /// Returns the byte from which the expression is ignored, if it goes on behind its end: what stands there may have
    /// been meant.
    pub fn ignored_from(&self) -> Option<usize> {
        self.ignored_from
    }
}

/// The condition with every pair of parentheses that its meaning has.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.write(&self.names, f)
    }
}

impl CompileError {
    /// Characters of the line that are shown on either side of the place.
    const AROUND: usize = 40;

    fn new(expression: &str, problem: parser::Problem) -> CompileError {
        let before = &expression[..problem.at];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = expression[line_start..].lines().next().unwrap_or_default();
        let column = before[line_start..].chars().count();
        let skipped = column.saturating_sub(Self::AROUND);
        let shown = line.chars().skip(skipped).take(2 * Self::AROUND);
        CompileError {
            problem: problem.text,
            line: before.matches('\n').count() + 1,
            column: column + 1,
            shown: shown.map(|c| if c.is_control() { ' ' } else { c }).collect(),
            caret: column - skipped,
        }
    }
}

/// Three lines: the problem, the line of the expression, and a caret below the place.
impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CompileError { problem, line, column, shown, caret } = self;
        write!(f, "{problem}, at line {line}, column {column}:\n  {shown}\n  {:caret$}^", "")
    }
}

impl std::error::Error for CompileError {}

#[cfg(test)]
mod tests;
