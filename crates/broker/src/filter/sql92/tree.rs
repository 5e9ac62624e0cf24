//! The tree of a condition: what it says, and how it is evaluated.
//!
//! Logic has three values. A property is text, and is read as the type that it is compared with; a text that is none of
//! that type raises, which ends the evaluation. (Java: `ComparisonExpression`, `LogicExpression`, `UnaryExpression`)

use std::{cmp::Ordering, fmt};

use super::number;

/// A condition or an operand. Chains of AND and OR are one node: their length is not their depth.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Constant(Constant),
    /// The property in this slot.
    Property(usize),
    /// The property in this slot where a condition stands: text is never true.
    Cast(usize),
    Negate(Box<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>),
    Equal(Box<[Expr; 2]>),
    Order(Order, Box<[Expr; 2]>),
    /// Value, low and high.
    Between(Box<[Expr; 3]>),
    NotBetween(Box<[Expr; 3]>),
    /// Finds no empty text, and nothing in what is no text.
    Search {
        how: Search,
        is_negated: bool,
        operand: Box<Expr>,
        wanted: Box<str>,
    },
    /// The texts are sorted, each once.
    In {
        slot: usize,
        is_negated: bool,
        texts: Box<[Box<str>]>,
    },
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Constant {
    Null,
    Flag(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(Box<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

/// What an operand is for one message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'v> {
    Null,
    Flag(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(&'v str),
}

/// The evaluation ends here: the original throws.
#[derive(Debug)]
pub(super) struct Raised;

/// The properties that a condition names, by slot.
pub(super) struct Message<'v> {
    pub(super) values: &'v [Option<&'v str>],
}

/// The names of the slots.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Names {
    by_slot: Box<[Box<str>]>,
    /// The slots in the order of their names.
    sorted: Box<[usize]>,
}

impl Names {
    /// Names above which they are searched by halves.
    const FEW: usize = 8;

    pub(super) fn new(names: Vec<Box<str>>) -> Names {
        let mut sorted: Vec<usize> = (0..names.len()).collect();
        sorted.sort_unstable_by_key(|slot| &names[*slot]);
        Names { by_slot: names.into(), sorted: sorted.into() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_slot.len()
    }

    pub(super) fn slot(&self, name: &str) -> Option<usize> {
        if self.by_slot.len() <= Self::FEW {
            return self.by_slot.iter().position(|known| **known == *name);
        }
        let found = self.sorted.binary_search_by(|slot| (*self.by_slot[*slot]).cmp(name));
        found.ok().map(|at| self.sorted[at])
    }
}

impl Expr {
    /// Whether it is a condition, and not only an operand.
    pub(super) fn is_condition(&self) -> bool {
        match self {
            Expr::Property(_) | Expr::Negate(_) => false,
            Expr::Constant(constant) => matches!(constant, Constant::Null | Constant::Flag(_)),
            Expr::Cast(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::Equal(_)
            | Expr::Order(..)
            | Expr::Between(_)
            | Expr::NotBetween(_)
            | Expr::Search { .. }
            | Expr::In { .. }
            | Expr::And(_)
            | Expr::Or(_) => true,
        }
    }

    pub(super) fn evaluate<'v>(&'v self, message: &Message<'v>) -> Result<Value<'v>, Raised> {
        Ok(match self {
            Expr::Constant(constant) => constant.value(),
            Expr::Property(slot) => message.values[*slot].map_or(Value::Null, Value::Text),
            Expr::Cast(slot) => message.values[*slot].map_or(Value::Null, |_| Value::Flag(false)),
            Expr::Negate(operand) => match operand.evaluate(message)? {
                Value::Int(number) => Value::Int(number.wrapping_neg()),
                Value::Long(number) => Value::Long(number.wrapping_neg()),
                Value::Double(number) => Value::Double(-number),
                Value::Null | Value::Flag(_) | Value::Text(_) => Value::Null,
            },
            Expr::Not(operand) => match operand.evaluate(message)? {
                Value::Flag(flag) => Value::Flag(!flag),
                other => other,
            },
            Expr::IsNull(operand) => Value::Flag(matches!(operand.evaluate(message)?, Value::Null)),
            Expr::Equal(operands) => {
                let [left, right] =
                    [operands[0].evaluate(message)?, operands[1].evaluate(message)?];
                match (left, right) {
                    (Value::Null, Value::Null) => Value::Flag(true),
                    (Value::Null, _) => Value::Null,
                    (_, Value::Null) => Value::Flag(false),
                    (left, right) => Value::Flag(compare(left, right)?.is_eq()),
                }
            }
            Expr::Order(order, operands) => {
                order.evaluate(operands[0].evaluate(message)?, &operands[1], message)?
            }
            Expr::Between(operands) => {
                let [value, low, high] = &**operands;
                let value = value.evaluate(message)?;
                let low = Order::GreaterOrEqual.evaluate(value, low, message)?;
                if let Value::Flag(false) = low {
                    return Ok(low);
                }
                let high = Order::LessOrEqual.evaluate(value, high, message)?;
                both(low, high, false)
            }
            Expr::NotBetween(operands) => {
                let [value, low, high] = &**operands;
                let value = value.evaluate(message)?;
                let low = Order::Less.evaluate(value, low, message)?;
                if let Value::Flag(true) = low {
                    return Ok(low);
                }
                let high = Order::Greater.evaluate(value, high, message)?;
                both(low, high, true)
            }
            Expr::Search { how, is_negated, operand, wanted } => {
                let operand = operand.evaluate(message)?;
                Value::Flag(match operand {
                    Value::Text(text) if !wanted.is_empty() => {
                        how.finds(text, wanted) != *is_negated
                    }
                    _ => false,
                })
            }
            Expr::In { slot, is_negated, texts } => match message.values[*slot] {
                Some(text) => {
                    let found = texts.binary_search_by(|wanted| (**wanted).cmp(text));
                    Value::Flag(found.is_ok() != *is_negated)
                }
                None => Value::Null,
            },
            Expr::And(conditions) => all(conditions, message, false)?,
            Expr::Or(conditions) => all(conditions, message, true)?,
        })
    }

    /// Writes it so that it is read back as the same tree.
    pub(super) fn write(&self, names: &Names, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |expr| Shown { expr, names };
        let not = |is_negated: &bool| if *is_negated { "NOT " } else { "" };
        match self {
            Expr::Constant(constant) => write!(f, "{constant}"),
            Expr::Property(slot) | Expr::Cast(slot) => f.write_str(&names.by_slot[*slot]),
            Expr::Negate(operand) => write!(f, "(- {})", shown(operand)),
            Expr::Not(operand) => write!(f, "(NOT {})", shown(operand)),
            Expr::IsNull(operand) => write!(f, "({} IS NULL)", shown(operand)),
            Expr::Equal(operands) => {
                write!(f, "({} = {})", shown(&operands[0]), shown(&operands[1]))
            }
            Expr::Order(order, operands) => {
                write!(f, "({} {order} {})", shown(&operands[0]), shown(&operands[1]))
            }
            Expr::Between(operands) | Expr::NotBetween(operands) => {
                let not = not(&matches!(self, Expr::NotBetween(_)));
                let [value, low, high] = operands.each_ref().map(shown);
                write!(f, "({value} {not}BETWEEN {low} AND {high})")
            }
            Expr::Search { how, is_negated, operand, wanted } => {
                let not = not(is_negated);
                write!(f, "({} {not}{how} {})", shown(operand), Quoted(wanted))
            }
            Expr::In { slot, is_negated, texts } => {
                write!(f, "({} {}IN (", names.by_slot[*slot], not(is_negated))?;
                for (at, text) in texts.iter().enumerate() {
                    write!(f, "{}{}", if at > 0 { ", " } else { "" }, Quoted(text))?;
                }
                f.write_str("))")
            }
            Expr::And(conditions) | Expr::Or(conditions) => {
                let word = if matches!(self, Expr::And(_)) { " AND " } else { " OR " };
                for (at, condition) in conditions.iter().enumerate() {
                    write!(f, "{}{}", if at > 0 { word } else { "(" }, shown(condition))?;
                }
                f.write_str(")")
            }
        }
    }
}

/// AND, or OR if `decisive` is true: the first condition with that value decides, and nothing behind it is evaluated.
fn all<'v>(
    conditions: &'v [Expr],
    message: &Message<'v>,
    decisive: bool,
) -> Result<Value<'v>, Raised> {
    let mut sum = Value::Flag(!decisive);
    for condition in conditions {
        sum = both(sum, condition.evaluate(message)?, decisive);
        if matches!(sum, Value::Flag(flag) if flag == decisive) {
            break;
        }
    }
    Ok(sum)
}

fn both<'v>(left: Value<'v>, right: Value<'v>, decisive: bool) -> Value<'v> {
    match (left, right) {
        (Value::Flag(flag), _) | (_, Value::Flag(flag)) if flag == decisive => {
            Value::Flag(decisive)
        }
        (Value::Null, _) | (_, Value::Null) => Value::Null,
        _ => Value::Flag(!decisive),
    }
}

impl Constant {
    fn value(&self) -> Value<'_> {
        match self {
            Constant::Null => Value::Null,
            Constant::Flag(flag) => Value::Flag(*flag),
            Constant::Int(number) => Value::Int(*number),
            Constant::Long(number) => Value::Long(*number),
            Constant::Double(number) => Value::Double(*number),
            Constant::Text(text) => Value::Text(text),
        }
    }

    /// Whether BETWEEN may have these bounds.
    pub(super) fn is_at_most(&self, high: &Constant) -> bool {
        compare(high.value(), self.value()).is_ok_and(Ordering::is_ge)
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Constant::Null => f.write_str("NULL"),
            Constant::Flag(true) => f.write_str("TRUE"),
            Constant::Flag(false) => f.write_str("FALSE"),
            Constant::Int(number) => write!(f, "{number}"),
            Constant::Long(number) => write!(f, "{number}"),
            // With a point or an exponent.
            Constant::Double(number) => write!(f, "{number:?}"),
            Constant::Text(text) => write!(f, "{}", Quoted(text)),
        }
    }
}

impl Order {
    /// Compares what is known of the left with the right, which is evaluated only if there is a left.
    fn evaluate<'v>(
        self,
        left: Value<'v>,
        right: &'v Expr,
        message: &Message<'v>,
    ) -> Result<Value<'v>, Raised> {
        if matches!(left, Value::Null) {
            return Ok(Value::Null);
        }
        let ordering = match (left, right.evaluate(message)?) {
            (_, Value::Null) => return Ok(Value::Null),
            (Value::Text(left), Value::Text(right)) => {
                doubles(number::double(left), number::double(right))?
            }
            (left, right) => compare(left, right)?,
        };
        Ok(Value::Flag(match self {
            Order::Greater => ordering.is_gt(),
            Order::GreaterOrEqual => ordering.is_ge(),
            Order::Less => ordering.is_lt(),
            Order::LessOrEqual => ordering.is_le(),
        }))
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::Greater => ">",
            Order::GreaterOrEqual => ">=",
            Order::Less => "<",
            Order::LessOrEqual => "<=",
        })
    }
}

impl Search {
    fn finds(self, text: &str, wanted: &str) -> bool {
        match self {
            Search::Contains => text.contains(wanted),
            Search::StartsWith => text.starts_with(wanted),
            Search::EndsWith => text.ends_with(wanted),
        }
    }
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Search::Contains => "CONTAINS",
            Search::StartsWith => "STARTSWITH",
            Search::EndsWith => "ENDSWITH",
        })
    }
}

/// Compares two values of which neither is null (Java: `ComparisonExpression.__compare`).
fn compare(left: Value<'_>, right: Value<'_>) -> Result<Ordering, Raised> {
    let int = |text| number::int(text).ok_or(Raised);
    let long = |text| number::long(text).ok_or(Raised);
    Ok(match (left, right) {
        (Value::Flag(left), Value::Flag(right)) => left.cmp(&right),
        (Value::Int(left), Value::Int(right)) => left.cmp(&right),
        (Value::Long(left), Value::Long(right)) => left.cmp(&right),
        (Value::Int(left), Value::Long(right)) => i64::from(left).cmp(&right),
        (Value::Long(left), Value::Int(right)) => left.cmp(&i64::from(right)),
        (Value::Double(left), Value::Double(right)) => doubles(Some(left), Some(right))?,
        (Value::Int(left), Value::Double(right)) => doubles(Some(left.into()), Some(right))?,
        (Value::Double(left), Value::Int(right)) => doubles(Some(left), Some(right.into()))?,
        (Value::Long(left), Value::Double(right)) => doubles(Some(left as f64), Some(right))?,
        (Value::Double(left), Value::Long(right)) => doubles(Some(left), Some(right as f64))?,
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        (Value::Text(left), Value::Int(right)) => int(left)?.cmp(&right),
        (Value::Int(left), Value::Text(right)) => left.cmp(&int(right)?),
        (Value::Text(left), Value::Long(right)) => long(left)?.cmp(&right),
        (Value::Long(left), Value::Text(right)) => left.cmp(&long(right)?),
        (Value::Text(left), Value::Double(right)) => doubles(number::double(left), Some(right))?,
        (Value::Double(left), Value::Text(right)) => doubles(Some(left), number::double(right))?,
        (Value::Text(left), Value::Flag(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        // The original casts the wrong side.
        (Value::Flag(_), Value::Text(_)) => return Err(Raised),
        (Value::Flag(_), Value::Int(_) | Value::Long(_) | Value::Double(_))
        | (Value::Int(_) | Value::Long(_) | Value::Double(_), Value::Flag(_))
        | (Value::Null, _)
        | (_, Value::Null) => Ordering::Less,
    })
}

/// Java's order of doubles: -0 below 0, NaN above all.
fn doubles(left: Option<f64>, right: Option<f64>) -> Result<Ordering, Raised> {
    let plain = |number: f64| if number.is_nan() { f64::NAN.copysign(1.0) } else { number };
    let (left, right) = left.zip(right).ok_or(Raised)?;
    Ok(plain(left).total_cmp(&plain(right)))
}

struct Shown<'a> {
    expr: &'a Expr,
    names: &'a Names,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.write(self.names, f)
    }
}

/// A text between quotes, its own quotes doubled.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0.replace('\'', "''"))
    }
}
