//! From an expression to its tree; what cannot be meant is refused here. (Java: `SelectorParser`)

use std::{collections::HashMap, fmt};

use super::{
    DEPTH_MAX,
    lexer::{Kind, Lexer, Word},
    tree::{Constant, Expr, Order, Quoted, Search},
};

/// What is wrong with an expression, at a byte of it.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) at: usize,
    pub(super) text: String,
}

pub(super) struct Parsed {
    pub(super) root: Expr,
    /// The names of the slots.
    pub(super) names: Vec<Box<str>>,
    /// Where the condition ends, if something follows.
    pub(super) ignored_from: Option<usize>,
}

/// A subtree: where it begins, and how deep it is.
struct Node {
    expr: Expr,
    at: usize,
    depth: usize,
}

struct Parser<'e> {
    lexer: Lexer<'e>,
    word: Word<'e>,
    slots: HashMap<&'e str, usize>,
    names: Vec<Box<str>>,
    /// Parentheses, signs and NOTs that are open.
    open: usize,
}

pub(super) fn parse(expression: &str) -> Result<Parsed, Problem> {
    let mut lexer = Lexer::new(expression);
    let word = lexer.next()?;
    let mut parser = Parser { lexer, word, slots: HashMap::new(), names: Vec::new(), open: 0 };
    let node = parser.or()?;
    let root = parser.condition(node)?.expr;
    let end = parser.word;
    Ok(Parsed {
        root,
        names: parser.names,
        ignored_from: (end.kind != Kind::End).then_some(end.at),
    })
}

impl<'e> Parser<'e> {
    fn or(&mut self) -> Result<Node, Problem> {
        self.chain(Kind::Or, Self::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Node, Problem> {
        self.chain(Kind::And, Self::equality, Expr::And)
    }

    /// Reads `part`s with `word` between them.
    fn chain(
        &mut self,
        word: Kind,
        part: fn(&mut Self) -> Result<Node, Problem>,
        join: fn(Vec<Expr>) -> Expr,
    ) -> Result<Node, Problem> {
        let first = part(self)?;
        if self.word.kind != word {
            return Ok(first);
        }
        let Node { expr, at, mut depth } = self.condition(first)?;
        let mut parts = vec![expr];
        while self.word.kind == word {
            self.advance()?;
            let node = part(self)?;
            let node = self.condition(node)?;
            depth = depth.max(node.depth);
            parts.push(node.expr);
        }
        node(join(parts), at, depth)
    }

    fn equality(&mut self) -> Result<Node, Problem> {
        let mut left = self.comparison()?;
        loop {
            let Node { at, depth, .. } = left;
            left = match self.word.kind {
                Kind::Equal => self.equal(left)?,
                Kind::Unequal => {
                    let equal = self.equal(left)?;
                    node(Expr::Not(Box::new(equal.expr)), at, equal.depth)?
                }
                Kind::Is => {
                    self.advance()?;
                    let is_negated = self.word.kind == Kind::Not;
                    if is_negated {
                        self.advance()?;
                    }
                    self.expect(Kind::Null, if is_negated { "NULL" } else { "NULL or NOT NULL" })?;
                    let is_null = node(Expr::IsNull(Box::new(left.expr)), at, depth)?;
                    match is_negated {
                        true => node(Expr::Not(Box::new(is_null.expr)), at, is_null.depth)?,
                        false => is_null,
                    }
                }
                _ => return Ok(left),
            };
        }
    }

    fn equal(&mut self, left: Node) -> Result<Node, Problem> {
        self.advance()?;
        let right = self.comparison()?;
        for operand in [&left, &right] {
            if matches!(operand.expr, Expr::Constant(Constant::Null)) {
                return Err(operand.problem("NULL equals nothing; say IS NULL or IS NOT NULL"));
            }
        }
        if let [Expr::Constant(flag @ Constant::Flag(_)), Expr::Constant(other)] =
            [&left.expr, &right.expr]
            && !matches!(other, Constant::Flag(_))
        {
            return Err(right.problem(format!("{flag} cannot be compared with {other}")));
        }
        let (at, depth) = (left.at, left.depth.max(right.depth));
        node(Expr::Equal(Box::new([left.expr, right.expr])), at, depth)
    }

    fn comparison(&mut self) -> Result<Node, Problem> {
        let mut left = self.unary()?;
        loop {
            left = match self.word.kind {
                Kind::Greater => self.order(left, Order::Greater)?,
                Kind::GreaterOrEqual => self.order(left, Order::GreaterOrEqual)?,
                Kind::Less => self.order(left, Order::Less)?,
                Kind::LessOrEqual => self.order(left, Order::LessOrEqual)?,
                Kind::Not => {
                    self.advance()?;
                    self.predicate(left, true)?
                }
                Kind::Contains | Kind::StartsWith | Kind::EndsWith | Kind::Between | Kind::In => {
                    self.predicate(left, false)?
                }
                _ => return Ok(left),
            };
        }
    }

    fn order(&mut self, left: Node, order: Order) -> Result<Node, Problem> {
        self.advance()?;
        let right = self.unary()?;
        check_ordered(&left)?;
        check_ordered(&right)?;
        let (at, depth) = (left.at, left.depth.max(right.depth));
        node(Expr::Order(order, Box::new([left.expr, right.expr])), at, depth)
    }

    /// Reads what may have NOT before it.
    fn predicate(&mut self, left: Node, is_negated: bool) -> Result<Node, Problem> {
        match self.word.kind {
            Kind::Contains => self.search(left, Search::Contains, is_negated),
            Kind::StartsWith => self.search(left, Search::StartsWith, is_negated),
            Kind::EndsWith => self.search(left, Search::EndsWith, is_negated),
            Kind::Between => self.between(left, is_negated),
            Kind::In => self.within(left, is_negated),
            _ => Err(self.expected("IN, BETWEEN, CONTAINS, STARTSWITH or ENDSWITH behind NOT")),
        }
    }

    fn search(&mut self, left: Node, how: Search, is_negated: bool) -> Result<Node, Problem> {
        self.advance()?;
        let wanted = self.text()?;
        let operand = Box::new(left.expr);
        node(Expr::Search { how, is_negated, operand, wanted }, left.at, left.depth)
    }

    fn between(&mut self, value: Node, is_negated: bool) -> Result<Node, Problem> {
        self.advance()?;
        let low = self.unary()?;
        self.expect(Kind::And, "AND and the upper bound")?;
        let high = self.unary()?;
        for operand in [&value, &low, &high] {
            check_ordered(operand)?;
        }
        if let ([Expr::Constant(least), Expr::Constant(most)], false) =
            ([&low.expr, &high.expr], is_negated)
            && !least.is_at_most(most)
        {
            let text =
                format!("nothing is between {least} and {most}: the lower bound comes first");
            return Err(high.problem(text));
        }
        let depth = value.depth.max(low.depth).max(high.depth);
        let at = value.at;
        let operands = Box::new([value.expr, low.expr, high.expr]);
        let expr = if is_negated { Expr::NotBetween(operands) } else { Expr::Between(operands) };
        node(expr, at, depth)
    }

    fn within(&mut self, left: Node, is_negated: bool) -> Result<Node, Problem> {
        self.advance()?;
        self.expect(Kind::Open, "`(` and the strings of IN")?;
        let mut texts = vec![self.text()?];
        while self.word.kind == Kind::Comma {
            self.advance()?;
            texts.push(self.text()?);
        }
        self.expect(Kind::Close, "`,` or `)`")?;
        let Expr::Property(slot) = left.expr else {
            return Err(left.problem("only a property can be IN a list"));
        };
        texts.sort_unstable();
        texts.dedup();
        node(Expr::In { slot, is_negated, texts: texts.into() }, left.at, left.depth)
    }

    fn unary(&mut self) -> Result<Node, Problem> {
        let Word { kind, at, .. } = self.word;
        if !matches!(kind, Kind::Plus | Kind::Minus | Kind::Not) {
            return self.primary();
        }
        self.enter()?;
        let operand = self.unary()?;
        self.open -= 1;
        match kind {
            Kind::Minus => node(Expr::Negate(Box::new(operand.expr)), at, operand.depth),
            Kind::Not => {
                let operand = self.condition(operand)?;
                node(Expr::Not(Box::new(operand.expr)), at, operand.depth)
            }
            _ => Ok(operand),
        }
    }

    fn primary(&mut self) -> Result<Node, Problem> {
        let Word { kind, at, image } = self.word;
        let constant = match kind {
            Kind::Text => Constant::Text(unquoted(image)),
            Kind::Decimal => decimal(image).map_err(|text| Problem { at, text })?,
            Kind::Float => float(image).map_err(|text| Problem { at, text })?,
            Kind::True => Constant::Flag(true),
            Kind::False => Constant::Flag(false),
            Kind::Null => Constant::Null,
            Kind::Name => {
                let slot = *self.slots.entry(image).or_insert_with(|| {
                    self.names.push(image.into());
                    self.names.len() - 1
                });
                self.advance()?;
                return node(Expr::Property(slot), at, 0);
            }
            Kind::Open => {
                self.enter()?;
                let inner = self.or()?;
                self.open -= 1;
                self.expect(Kind::Close, "`)`, or AND or OR and another condition")?;
                return Ok(Node { at, ..inner });
            }
            _ => {
                return Err(self.expected(
                    "a property, a string, a number, TRUE, FALSE, NULL, NOT, `-` or `(`",
                ));
            }
        };
        self.advance()?;
        node(Expr::Constant(constant), at, 0)
    }

    /// Makes a node a condition.
    fn condition(&self, node: Node) -> Result<Node, Problem> {
        match node.expr {
            Expr::Property(slot) => Ok(Node { expr: Expr::Cast(slot), ..node }),
            ref expr if expr.is_condition() => Ok(node),
            _ => Err(node.problem("a condition is expected here, this is only a value")),
        }
    }

    /// Takes the present word, which opens something, and the next.
    fn enter(&mut self) -> Result<(), Problem> {
        self.open += 1;
        if self.open > DEPTH_MAX {
            return Err(too_deep(self.word.at));
        }
        self.advance()
    }

    fn text(&mut self) -> Result<Box<str>, Problem> {
        let text = unquoted(self.word.image);
        self.expect(Kind::Text, "a string between single quotes")?;
        Ok(text)
    }

    fn expect(&mut self, kind: Kind, what: &str) -> Result<(), Problem> {
        if self.word.kind != kind {
            return Err(self.expected(what));
        }
        self.advance()
    }

    fn expected(&self, what: &str) -> Problem {
        let Word { kind, at, image } = self.word;
        let found = match kind {
            Kind::End => "the end".to_owned(),
            _ => format!("`{}`", Shortened(image)),
        };
        Problem { at, text: format!("expected {what}, found {found}") }
    }

    fn advance(&mut self) -> Result<(), Problem> {
        self.word = self.lexer.next()?;
        Ok(())
    }
}

impl Node {
    fn problem(&self, text: impl Into<String>) -> Problem {
        Problem { at: self.at, text: text.into() }
    }
}

/// Makes a node over children of a depth.
fn node(expr: Expr, at: usize, depth: usize) -> Result<Node, Problem> {
    if depth >= DEPTH_MAX { Err(too_deep(at)) } else { Ok(Node { expr, at, depth: depth + 1 }) }
}

fn too_deep(at: usize) -> Problem {
    Problem { at, text: format!("the expression nests deeper than {DEPTH_MAX}") }
}

/// Only numbers and properties have an order.
fn check_ordered(operand: &Node) -> Result<(), Problem> {
    let what = match &operand.expr {
        Expr::Constant(Constant::Int(_) | Constant::Long(_) | Constant::Double(_)) => return Ok(()),
        Expr::Constant(Constant::Text(text)) => Shortened(&Quoted(text).to_string()).to_string(),
        Expr::Constant(constant) => constant.to_string(),
        expr if expr.is_condition() => "a condition".to_owned(),
        _ => return Ok(()),
    };
    Err(operand.problem(format!("{what} has no order; only numbers and properties have")))
}

fn unquoted(image: &str) -> Box<str> {
    let inside = image.strip_prefix('\'').and_then(|image| image.strip_suffix('\''));
    inside.unwrap_or_default().replace("''", "'").into()
}

fn decimal(image: &str) -> Result<Constant, String> {
    let number: i64 = image
        .trim_end_matches(['l', 'L'])
        .parse()
        .map_err(|_| format!("{} is greater than {}", Shortened(image), i64::MAX))?;
    Ok(i32::try_from(number).map_or(Constant::Long(number), Constant::Int))
}

fn float(image: &str) -> Result<Constant, String> {
    let number: f64 = image.parse().map_err(|_| format!("{} is no number", Shortened(image)))?;
    if number.is_infinite() {
        return Err(format!("{} is greater than {:?}", Shortened(image), f64::MAX));
    }
    // The original's own bound: `0.0` is refused there, too.
    if number == 0.0 {
        return Err(format!("{} is less than 4.9E-324; zero is written 0", Shortened(image)));
    }
    Ok(Constant::Double(number))
}

/// A word of the expression, cut if it is long.
struct Shortened<'e>(&'e str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(30) {
            Some((end, _)) => write!(f, "{}...", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}
