//! What came of a step, and whether it is what was expected: compared field by field, only as far as something is said.
//!
//! An expectation begins with a code (`ok`, or RocketMQ's name of the refusal), or with the first of its items, which
//! implies success; `nothing` is success or PULL_NOT_FOUND without items. A check belongs to the item before it, and looks
//! at the answer itself where the item has no such field. Behind `with` it looks at the item's properties. The item `*` is
//! any.

use std::collections::BTreeMap;

use wire::code::{RequestCode, ResponseCode};

use crate::script::{Said, Token, tokens};

/// What came of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// `ok`, or the name of the code.
    pub(crate) head: String,
    /// What the answer says besides.
    pub(crate) fields: Fields,
    /// Messages, queues, names: what was asked for.
    pub(crate) items: Vec<Item>,
}

/// Names and values.
pub(crate) type Fields = BTreeMap<String, String>;

/// One thing of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    /// What it is known by: a message's body, a client's name.
    pub(crate) head: String,
    pub(crate) fields: Fields,
    pub(crate) properties: Fields,
}

impl Outcome {
    /// Success with nothing to say.
    pub(crate) fn ok() -> Outcome {
        Outcome { head: "ok".to_owned(), ..Outcome::default() }
    }

    /// Success with one value.
    pub(crate) fn value(value: impl ToString) -> Outcome {
        let item = Item { head: value.to_string(), ..Item::default() };
        Outcome { items: vec![item], ..Outcome::ok() }
    }

    /// Adds items without fields.
    pub(crate) fn with_items(mut self, heads: impl IntoIterator<Item = String>) -> Outcome {
        self.items.extend(heads.into_iter().map(|head| Item { head, ..Item::default() }));
        self
    }
}

/// What must come of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    head: Option<String>,
    any_order: bool,
    /// More items may follow.
    is_open: bool,
    checks: Vec<Check>,
    pub(crate) items: Vec<ExpectedItem>,
    in_properties: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct ExpectedItem {
    head: String,
    checks: Vec<Check>,
}

/// One `key=value` of an expectation.
#[derive(Clone, Debug)]
struct Check {
    of_property: bool,
    key: String,
    op: &'static str,
    value: String,
}

/// The word that expects no items.
const NOTHING: &str = "nothing";

impl Expected {
    pub(crate) fn parse(text: &str) -> Said<Expected> {
        let mut expected = Expected::default();
        expected.extend(text)?;
        Ok(expected)
    }

    /// Reads a further line.
    pub(crate) fn extend(&mut self, text: &str) -> Said<()> {
        for token in tokens(text)? {
            self.take(token);
        }
        Ok(())
    }

    fn take(&mut self, token: Token) {
        let is_first = self.head.is_none() && self.items.is_empty() && self.checks.is_empty();
        match token {
            Token::Pair { key, op, value } => {
                let check = Check { of_property: self.in_properties, key, op, value };
                match self.items.last_mut() {
                    Some(item) => item.checks.push(check),
                    None => self.checks.push(check),
                }
            }
            Token::Word(word) if word == "with" => self.in_properties = true,
            Token::Word(word) if word == "..." => self.is_open = true,
            Token::Word(word) if is_first && word == "any" => {}
            Token::Word(word) if is_first && word == "order:" => self.any_order = true,
            Token::Word(word) if is_first && is_code(&word) => self.head = Some(word),
            Token::Word(head) => {
                self.in_properties = false;
                self.items.push(ExpectedItem { head, checks: Vec::new() });
            }
        }
    }

    /// Replaces what `change` changes of every value and head.
    pub(crate) fn resolved(&self, change: impl Fn(&str) -> Said<String>) -> Said<Expected> {
        let mut resolved = self.clone();
        for check in &mut resolved.checks {
            check.value = change(&check.value)?;
        }
        for item in &mut resolved.items {
            item.head = change(&item.head)?;
            for check in &mut item.checks {
                check.value = change(&check.value)?;
            }
        }
        Ok(resolved)
    }

    /// Whether `got` is what was expected.
    pub(crate) fn is_met_by(&self, got: &Outcome) -> bool {
        let head = self.head.as_deref().unwrap_or("ok");
        if head == NOTHING {
            let found_nothing = got.head == "ok" || got.head == "PULL_NOT_FOUND";
            return found_nothing
                && got.items.is_empty()
                && self.checks.iter().all(|check| check.holds(None, got));
        }
        if got.head != head || !self.checks.iter().all(|check| check.holds(None, got)) {
            return false;
        }
        if self.items.is_empty() {
            return true;
        }
        if got.items.len() < self.items.len()
            || (!self.is_open && got.items.len() > self.items.len())
        {
            return false;
        }
        if !self.any_order {
            return self.items.iter().zip(&got.items).all(|(item, found)| item.fits(found, got));
        }
        let mut left: Vec<&Item> = got.items.iter().collect();
        self.items.iter().all(|item| {
            let at = left.iter().position(|found| item.fits(found, got));
            at.map(|at| left.remove(at)).is_some()
        })
    }

    /// Writes itself, one line for each item.
    pub(crate) fn written(&self) -> Vec<String> {
        let mut lines = vec![self.head.clone().unwrap_or_default()];
        write_checks(&self.checks, &mut lines[0]);
        for item in &self.items {
            let mut line = quoted(&item.head);
            write_checks(&item.checks, &mut line);
            lines.push(line);
        }
        if self.any_order {
            lines[1].insert_str(0, "any order: ");
        }
        if self.is_open {
            lines.push("...".to_owned());
        }
        lines.retain(|line| !line.is_empty());
        lines
    }

    /// What would have been right instead: the same fields, with the values of `got`.
    pub(crate) fn corrected(&self, got: &Outcome) -> Expected {
        let correct = |checks: &[Check], item: Option<&Item>| -> Vec<Check> {
            checks.iter().map(|check| check.corrected(item, got)).collect()
        };
        let items = got.items.iter().enumerate().map(|(at, item)| {
            let like = self.items.get(at).or_else(|| self.items.last());
            let checks = like.map(|like| correct(&like.checks, Some(item))).unwrap_or_default();
            ExpectedItem { head: item.head.clone(), checks }
        });
        let says_no_items = self.items.is_empty() && self.head.as_deref() != Some(NOTHING);
        let head = match got.head.as_str() {
            "ok" if says_no_items => Some("ok"),
            "ok" if !got.items.is_empty() => None,
            "ok" => Some(NOTHING),
            head => Some(head),
        };
        Expected {
            head: head.map(str::to_owned),
            checks: correct(&self.checks, None),
            items: if says_no_items { Vec::new() } else { items.collect() },
            any_order: self.any_order && !says_no_items && !got.items.is_empty(),
            ..Expected::default()
        }
    }
}

fn write_checks(checks: &[Check], line: &mut String) {
    let mut in_properties = false;
    for Check { of_property, key, op, value } in checks {
        if *of_property && !in_properties {
            in_properties = true;
            line.push_str(" with");
        }
        *line += &format!(" {key}{op}{}", quoted(value));
    }
}

impl ExpectedItem {
    fn fits(&self, found: &Item, got: &Outcome) -> bool {
        ["*", &found.head].contains(&&*self.head)
            && self.checks.iter().all(|check| check.holds(Some(found), got))
    }
}

impl Check {
    fn look<'a>(&self, item: Option<&'a Item>, got: &'a Outcome) -> Option<&'a str> {
        let found = if self.of_property {
            item.and_then(|item| item.properties.get(&self.key))
        } else {
            let of_item = item.and_then(|item| item.fields.get(&self.key));
            of_item.or_else(|| got.fields.get(&self.key))
        };
        found.map(String::as_str)
    }

    fn corrected(&self, item: Option<&Item>, got: &Outcome) -> Check {
        if self.holds(item, got) {
            return self.clone();
        }
        let value = self.look(item, got).unwrap_or("none").to_owned();
        Check { op: "=", value, ..self.clone() }
    }

    fn holds(&self, item: Option<&Item>, got: &Outcome) -> bool {
        let found = self.look(item, got);
        let Some(found) = found else { return self.value == "none" && self.op == "=" };
        match self.op {
            "=" => self.value == "*" || self.value == found,
            "!=" => self.value != found,
            "~" => found.contains(&self.value),
            op => match (number(found), number(&self.value)) {
                (Some(found), Some(bound)) if op == ">=" => found >= bound,
                (Some(found), Some(bound)) => found <= bound,
                (_, _) => false,
            },
        }
    }
}

/// A number, or a time in milliseconds.
fn number(text: &str) -> Option<i64> {
    let time = || crate::script::duration(text).ok()?.as_millis().try_into().ok();
    text.parse().ok().or_else(time)
}

fn is_code(word: &str) -> bool {
    matches!(word, "ok" | NOTHING | "CLOSED" | "TIMEOUT")
        || ResponseCode::ALL.iter().any(|code| code.name() == Some(word))
        // what came to a client that should have received nothing
        || RequestCode::ALL.iter().any(|code| code.name() == Some(word))
}

pub(crate) fn quoted(text: &str) -> String {
    let needs = text.is_empty() || text.contains(char::is_whitespace);
    if needs { format!("\"{text}\"") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(head: &str, offset: i64) -> Item {
        let fields = [("offset".to_owned(), offset.to_string())].into();
        let properties = [("color".to_owned(), "red".to_owned())].into();
        Item { head: head.to_owned(), fields, properties }
    }

    fn got() -> Outcome {
        let fields = [("next".to_owned(), "2".to_owned())].into();
        Outcome { fields, items: vec![item("a", 0), item("b", 1)], ..Outcome::ok() }
    }

    fn met(text: &str) -> bool {
        Expected::parse(text).unwrap().is_met_by(&got())
    }

    #[test]
    fn only_what_is_written_is_compared() {
        for text in [
            "ok",
            "a b",
            "a offset=0 with color=red b next=2",
            "any order: b a",
            "a ...",
            "ok next>=1 next<=2s next~2 other=none",
            "a offset=* b offset!=7",
            "* offset=0 b",
        ] {
            assert!(met(text), "{text}");
        }
        for text in ["nothing", "a", "b a", "a b c", "a offset=1 b", "TOPIC_NOT_EXIST", "ok next=3"]
        {
            assert!(!met(text), "{text}");
        }
        assert!(Expected::parse("nothing").unwrap().is_met_by(&Outcome::ok()));
    }

    #[test]
    fn an_outcome_is_written_in_the_shape_of_the_expectation() {
        let corrected =
            |text: &str, got: &Outcome| Expected::parse(text).unwrap().corrected(got).written();
        let lines = corrected("x offset=9 with color=blue", &got());
        assert_eq!(lines, ["a offset=0 with color=red", "b offset=1 with color=red"]);
        assert_eq!(corrected("a b", &Outcome::ok()), ["nothing"]);
        assert_eq!(corrected("ok next=3", &got()), ["ok next=2"]);
    }
}
