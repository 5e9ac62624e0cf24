//! Attributes of topics and groups: settings by name that an administrator sets with `+key` and removes with `-key`.
//!
//! What came with a request are changes; what is stored has bare keys. Only attributes that 5.5.0 has are taken, with the
//! values that it takes.
//! (Java: `AttributeUtil.alterCurrentAttributes`, `TopicAttributes`, `SubscriptionGroupAttributes`)

use std::collections::{BTreeMap, HashSet};

/// Attributes by name.
pub(crate) type Attributes = BTreeMap<String, String>;

/// An attribute that may be set.
pub(crate) struct Attribute {
    name: &'static str,
    /// Whether it may change once its owner exists.
    is_changeable: bool,
    values: Values,
}

enum Values {
    OneOf(&'static [&'static str]),
    From(i64),
    Any,
}

/// Attributes of topics. The type of a topic's messages is for doors and clients to keep to: like the original, the broker
/// takes any.
pub(crate) const TOPIC: [Attribute; 5] = [
    attribute("queue.type", false, Values::OneOf(&["SimpleCQ", "BatchCQ"])),
    attribute("cleanup.policy", false, Values::OneOf(&["DELETE", "COMPACTION"])),
    attribute(
        MESSAGE_TYPE,
        true,
        Values::OneOf(&[
            "UNSPECIFIED",
            "NORMAL",
            "FIFO",
            "DELAY",
            "TRANSACTION",
            "PRIORITY",
            "LITE",
            MIXED,
        ]),
    ),
    attribute("reserve.time", true, Values::From(-1)),
    attribute("lite.topic.expiration", true, Values::From(-1)),
];

const MESSAGE_TYPE: &str = "message.type";
const MIXED: &str = "MIXED";

/// Says whether changes make a topic one of messages of any type (Java: `enableMixedMessageType`).
pub(crate) fn makes_mixed(changes: &Attributes) -> bool {
    changes.iter().any(|(key, value)| {
        key.strip_prefix('+').is_some_and(|key| key == MESSAGE_TYPE) && value == MIXED
    })
}

/// Attributes of subscription groups.
pub(crate) const GROUP: [Attribute; 8] = [
    attribute("priority.factor", true, Values::From(0)),
    attribute("lite.bind.topic", true, Values::Any),
    attribute("lite.sub.model", true, Values::Any),
    attribute("lite.sub.reset.offset.exclusive", true, Values::OneOf(&["true", "false"])),
    attribute("lite.sub.reset.offset.unsubscribe", true, Values::OneOf(&["true", "false"])),
    attribute("lite.sub.client.quota", true, Values::From(-1)),
    attribute("lite.sub.client.max.event.cnt", true, Values::From(10)),
    attribute("lite.sub.wildcard", true, Values::Any),
];

const fn attribute(name: &'static str, is_changeable: bool, values: Values) -> Attribute {
    Attribute { name, is_changeable, values }
}

/// Applies changes to the attributes of something that exists, or of something new; says what is wrong with them.
pub(crate) fn alter(
    known: &[Attribute],
    current: Option<&Attributes>,
    changes: &Attributes,
) -> Result<Attributes, String> {
    let mut altered = current.cloned().unwrap_or_default();
    let mut seen = HashSet::new();
    for (signed, value) in changes {
        let key = signed.get(1..).unwrap_or_default();
        if key.is_empty() || key.contains(['+', '-']) {
            return Err("kv string format wrong.".into());
        }
        if !seen.insert(key) {
            return Err(format!("alter duplication key. key: {key}"));
        }
        let sets = signed.starts_with('+');
        match current {
            None if !sets => {
                return Err(format!(
                    "only add attribute is supported while creating topic. key: {key}"
                ));
            }
            Some(_) if !sets && !signed.starts_with('-') => {
                return Err(format!("wrong format key: {key}"));
            }
            Some(current) if !sets && !current.contains_key(key) => {
                return Err(format!("attempt to delete a nonexistent key: {key}"));
            }
            Some(_) | None => {}
        }
        let Some(attribute) = known.iter().find(|attribute| attribute.name == key) else {
            return Err(format!("unsupported key: {key}"));
        };
        if current.is_some() && !attribute.is_changeable {
            return Err(format!("attempt to update an unchangeable attribute. key: {key}"));
        }
        if sets {
            attribute.check(value)?;
            altered.insert(key.to_owned(), value.clone());
        } else {
            altered.remove(key);
        }
    }
    Ok(altered)
}

impl Attribute {
    fn check(&self, value: &str) -> Result<(), String> {
        let expected = match self.values {
            Values::Any => return Ok(()),
            Values::OneOf(values) if values.contains(&value) => return Ok(()),
            Values::From(least) if value.parse::<i64>().is_ok_and(|number| number >= least) => {
                return Ok(());
            }
            Values::OneOf(values) => values.join(", "),
            Values::From(least) => format!("a number from {least}"),
        };
        let name = self.name;
        Err(format!(
            "value `{value}` of attribute {name} is not one that this broker serves: {expected}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn check(
        current: Option<&[(&str, &str)]>,
        changes: &[(&str, &str)],
        expected: Result<&[(&str, &str)], &str>,
    ) {
        let current = current.map(attributes);
        match (alter(&TOPIC, current.as_ref(), &attributes(changes)), expected) {
            (Ok(altered), Ok(expected)) => assert_eq!(altered, attributes(expected)),
            (Err(problem), Err(expected)) => {
                assert!(problem.contains(expected), "`{problem}` says `{expected}`");
            }
            (outcome, expected) => panic!("{outcome:?}, not {expected:?}"),
        }
    }

    #[test]
    fn changes_set_and_remove_by_their_sign() {
        check(None, &[("+message.type", "FIFO")], Ok(&[("message.type", "FIFO")]));
        check(Some(&[("message.type", "FIFO")]), &[], Ok(&[("message.type", "FIFO")]));
        check(Some(&[("message.type", "FIFO")]), &[("-message.type", "")], Ok(&[]));
        check(Some(&[]), &[("+reserve.time", "-1")], Ok(&[("reserve.time", "-1")]));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        check(None, &[("é", "")], Err("format wrong"));
        check(None, &[("-message.type", "")], Err("only add"));
        check(Some(&[]), &[("message.type", "FIFO")], Err("wrong format"));
        check(Some(&[]), &[("-message.type", "")], Err("nonexistent"));
        check(None, &[("+a", "1")], Err("unsupported key"));
        check(None, &[("+queue.type", "RocksDBCQ")], Err("SimpleCQ"));
        check(Some(&[]), &[("+queue.type", "SimpleCQ")], Err("unchangeable"));
        check(None, &[("+reserve.time", "x")], Err("a number from -1"));
    }
}
