//! The differential test of conditions: the original's verdicts on hundreds of expressions.

use broker::filter::sql92::{Condition, Verdict};
use wire::properties;

/// Reads the escapes of the file, which are Java's.
fn unescape(text: &str) -> String {
    let mut units = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => chars.next().expect("an escape is whole"),
            _ => {
                units.extend(c.encode_utf16(&mut [0; 2]).iter());
                continue;
            }
        };
        units.push(match c {
            'u' => {
                let digits: String = chars.by_ref().take(4).collect();
                u16::from_str_radix(&digits, 16).expect("four digits")
            }
            't' => 9,
            'n' => 10,
            'f' => 12,
            'r' => 13,
            other => other as u16,
        });
    }
    String::from_utf16(&units).expect("pairs of surrogates are whole")
}

#[test]
fn conditions_say_of_messages_what_the_original_says() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/sql92/verdicts-5.5.0.txt");
    let text = std::fs::read_to_string(file).expect("the fixture is there");
    let mut messages = Vec::new();
    let (mut expressions, mut refused, mut different) = (0, 0, Vec::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (verdicts, expression) = line.split_once('\t').unwrap_or((line, ""));
        if verdicts == "map" {
            let mut message = String::new();
            for pair in expression.split('\t').filter(|pair| !pair.is_empty()) {
                let (name, value) = pair.split_once('=').expect("a property is NAME=VALUE");
                properties::append(&mut message, &unescape(name), &unescape(value));
            }
            messages.push(message);
            continue;
        }
        let ours = match Condition::compile(&unescape(expression), 1 << 16) {
            Ok(condition) => messages
                .iter()
                .map(|message| match condition.verdict(message) {
                    Verdict::True => 'T',
                    Verdict::False => 'F',
                    Verdict::Null => 'N',
                    Verdict::Raised => 'E',
                })
                .collect(),
            Err(_) => "refused".to_owned(),
        };
        expressions += 1;
        refused += usize::from(ours == "refused");
        if ours != verdicts {
            different.push(format!("{expression}\n  original {verdicts}\n  ours     {ours}"));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    assert!(
        messages.len() >= 16 && expressions >= 800 && refused < expressions / 2,
        "enough of all"
    );
}
