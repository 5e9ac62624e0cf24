//! Refusals, bounds, and what the grammar makes of odd texts; the original's verdicts are in `tests/it/sql92.rs`.

use proptest::prelude::*;

use super::*;

const LEN_MAX: usize = 1 << 16;

fn compile(expression: &str) -> Condition {
    Condition::compile(expression, LEN_MAX).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(expression: &str) -> String {
    Condition::compile(expression, LEN_MAX).expect_err(expression).to_string()
}

fn verdict(expression: &str, properties: &[(&str, &str)]) -> Verdict {
    compile(expression).verdict(&properties::from_pairs(properties.iter().copied()))
}

#[test]
fn a_refusal_shows_the_place_and_what_was_expected() {
    assert_eq!(
        refusal("price > 'a'"),
        "'a' has no order; only numbers and properties have, at line 1, column 9:\n  price > 'a'\n          ^"
    );
    assert_eq!(
        refusal("a = 1 OR\n é = "),
        "`é` means nothing here, at line 2, column 2:\n   é = \n   ^"
    );
    assert_eq!(
        refusal("a = 1 AND"),
        "expected a property, a string, a number, TRUE, FALSE, NULL, NOT, `-` or `(`, found the end, at line 1, column 10:\n  a = 1 AND\n           ^"
    );
    let long = format!("{} != 1", "a".repeat(100));
    let lines: Vec<String> = refusal(&long).lines().map(str::to_owned).collect();
    assert_eq!(
        lines[0],
        "`!` means nothing here; unequal is `<>`, negation is NOT, at line 1, column 102:"
    );
    assert_eq!(lines[1].chars().nth(lines[2].len() - 1), Some('!'));
}

#[test]
fn every_refusal_names_its_reason() {
    for (expression, reason) in [
        ("", "found the end"),
        ("a = ", "found the end"),
        ("a == 1", "found `=`"),
        ("a = \"x\"", "single quotes"),
        ("a = 'x", "no end (`'`"),
        ("a /* b", "no end (`*/`)"),
        ("a IS 5", "expected NULL or NOT NULL, found `5`"),
        ("a IS NOT 5", "expected NULL, found `5`"),
        ("a NOT = 5", "behind NOT, found `=`"),
        ("a IN 'x'", "expected `(`"),
        ("a IN ()", "expected a string"),
        ("a IN (1)", "expected a string"),
        ("a IN ('x' 'y')", "expected `,` or `)`"),
        ("5 IN ('x')", "only a property can be IN a list"),
        ("(a = 1", "expected `)`"),
        ("a CONTAINS 5", "expected a string"),
        ("a BETWEEN 1 OR 2", "expected AND"),
        ("a BETWEEN 5 AND 1", "nothing is between 5 and 1"),
        ("a BETWEEN NULL AND 1", "NULL has no order"),
        ("a > TRUE", "TRUE has no order"),
        ("(a = 1) > 5", "a condition has no order"),
        ("a = NULL", "NULL equals nothing"),
        ("TRUE = 1", "TRUE cannot be compared with 1"),
        ("5", "only a value"),
        ("-a", "only a value"),
        ("a = 1 AND 'x'", "only a value"),
        ("NOT 'x'", "only a value"),
        ("a = 9223372036854775808", "greater than 9223372036854775807"),
        ("a = 1e400", "greater than 1.7976931348623157e308"),
        ("a > 0.0", "zero is written 0"),
    ] {
        let refusal = refusal(expression);
        assert!(refusal.contains(reason), "`{expression}`: {refusal}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let nested = |count: usize| format!("{}a = 1{}", "(".repeat(count), ")".repeat(count));
    compile(&nested(DEPTH_MAX));
    for deep in [
        nested(DEPTH_MAX + 1),
        nested(LEN_MAX / 3),
        format!("{}a", "NOT ".repeat(DEPTH_MAX + 1)),
        format!("a{}", " IS NULL".repeat(DEPTH_MAX)),
        format!("a{}", " = b".repeat(LEN_MAX / 5)),
        format!("a{}", " CONTAINS 'x'".repeat(DEPTH_MAX)),
    ] {
        let refusal = refusal(&deep);
        assert!(refusal.contains("deeper than 256"), "{refusal}");
    }
    // A long chain is not deep.
    let chain = format!("a = 1{}", " OR a = 1".repeat(LEN_MAX / 10));
    assert_eq!(compile(&chain).verdict("a\u{1}2\u{2}"), Verdict::False);
    let refusal = Condition::compile("a = 1", 4).unwrap_err();
    assert!(refusal.to_string().contains("`filterExpressionBytesMax`"), "{refusal}");
}

#[test]
fn what_follows_a_condition_is_ignored_and_told() {
    assert_eq!(compile("a = 1 LIKE 'x'").ignored_from(), Some(6));
    assert_eq!(compile("a = 007"), Condition { ignored_from: Some(5), ..compile("a = 0") });
    assert_eq!(compile("a = 1 -- the end").ignored_from(), Some(6));
    assert_eq!(compile("a = 1 -- the end\n /* really */").ignored_from(), None);
}

#[test]
fn the_last_value_of_a_name_counts_however_many_names_there_are() {
    let many: Vec<String> = (0..20).map(|n| format!("p{n} = {n}")).collect();
    let condition = compile(&many.join(" AND "));
    let mut properties = String::from("p7\u{1}0\u{2}other\u{1}x\u{2}");
    for n in (0..20).rev() {
        properties::append(&mut properties, &format!("p{n}"), &n.to_string());
    }
    assert!(condition.matches(&properties));
    properties::append(&mut properties, "p19", "0");
    assert!(!condition.matches(&properties));
}

#[test]
fn not_binds_tighter_than_a_comparison() {
    // (NOT a) = 'x' compares a truth value with a text.
    assert_eq!(verdict("NOT a = 'x'", &[("a", "y")]), Verdict::Raised);
    assert_eq!(verdict("NOT (a = 'x')", &[("a", "y")]), Verdict::True);
    assert_eq!(verdict("a = 1 OR a = 2 AND b = 3", &[("a", "1")]), Verdict::True);
}

#[test]
fn a_negated_bound_is_evaluated_once() {
    // Each level evaluates the level below; twice each would never end.
    let deep = (0..100).fold("a".to_owned(), |inner, _| format!("-({inner} BETWEEN 1 AND 2)"));
    assert_eq!(verdict(&format!("{deep} IS NULL"), &[("a", "1")]), Verdict::True);
}

/// Expressions by the grammar, some of which are refused for what they mean.
fn expression() -> impl Strategy<Value = String> {
    let operand = prop_oneof![
        Just("a".to_owned()),
        "[b-d_$][A-Z0-9]?",
        (0_i64..5_000_000_000).prop_map(|number| number.to_string()),
        (0.001_f64..1e20).prop_map(|number| format!("{number:?}")),
        "'([a-c %é]|''){0,3}'",
        prop::sample::select(vec!["TRUE", "false", "NULL", "'5'", "'1e3'"]).prop_map(str::to_owned),
    ];
    operand.prop_recursive(5, 40, 4, |inner| {
        let operator =
            prop::sample::select(vec!["=", "<>", ">", ">=", "<", "<=", "AND", "or", "AND", "OR"]);
        let word = prop::sample::select(vec![
            "CONTAINS 'a'",
            "NOT startswith 'b'",
            "ENDSWITH 'c'",
            "IS NULL",
            "IS NOT NULL",
            "IN ('a', 'b')",
            "NOT IN ('c')",
            "BETWEEN 1 AND 5",
            "NOT BETWEEN 2.5 AND b",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(l, o, r)| format!("{l} {o} {r}")),
            (inner.clone(), word).prop_map(|(inner, word)| format!("{inner} {word}")),
            inner.clone().prop_map(|inner| format!("({inner})")),
            inner.clone().prop_map(|inner| format!("NOT ({inner})")),
            inner.prop_map(|inner| format!("- {inner}")),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_as_the_same_condition(expression in expression()) {
        if let Ok(condition) = Condition::compile(&expression, LEN_MAX) {
            let written = condition.to_string();
            let again = Condition::compile(&written, LEN_MAX).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(&again.root, &condition.root, "{} became {}", expression, written);
            prop_assert_eq!(&again.names, &condition.names);
        }
    }

    #[test]
    fn any_text_is_a_condition_or_refused(text in "[ab'() 0-9.eE<>=,+*/!\\-\n]{0,40}|.{0,40}", properties in ".{0,40}") {
        match Condition::compile(&text, LEN_MAX) {
            Ok(condition) => drop(condition.verdict(&properties)),
            Err(refusal) => prop_assert!(refusal.to_string().ends_with('^')),
        }
    }
}
