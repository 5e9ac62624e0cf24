//! The language: a file of scenarios, a scenario of steps, a step of words with its outcome beside it.
//!
//! ```text
//! == Title                                   begins a scenario; headers before the first one hold for all of the file
//! broker KEY=VALUE                           header: a setting of the broker; the value is the rest of the line
//! smoke                                      header: also played on the original whenever a change is checked
//! virtual only: WHY                          header: cannot be played over the wire
//! not on the original: WHY                   header: may fail there or not
//! original RELEASE differs: WHY              header: fails on the original of this release
//! WORDS KEY=VALUE.. with NAME=VALUE.. as X   a step: what is done
//!     => OUTCOME                             behind it, or indented below: what must come of it
//!     original RELEASE => OUTCOME # WHY      what comes of it on the original instead
//! ```
//!
//! `#` with white space before and behind it begins a comment. What the words mean is `verbs`' and `play`'s business, what
//! an outcome means is `outcome`'s.

use std::time::Duration;

use crate::outcome::Expected;

/// What is wrong with a text, or what went wrong at a step.
pub(crate) type Said<T> = Result<T, String>;

/// One scenario of a file.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    /// The file, as it was named.
    pub file: String,
    /// What it proves.
    pub title: String,
    /// Settings of the broker, `KEY=VALUE`, sorted.
    pub broker: Vec<String>,
    /// Whether it belongs to the smoke set.
    pub smoke: bool,
    /// Why it can be played in virtual time only.
    pub virtual_only: Option<String>,
    /// Why it is no use to play it on the original.
    pub ours_only: Option<String>,
    /// The release of the original that fails it, and why.
    pub differs: Option<(String, String)>,
    pub(crate) steps: Vec<Step>,
}

impl Scenario {
    /// Returns its file and title.
    pub fn name(&self) -> String {
        format!("{}: {}", self.file, self.title)
    }
}

/// One step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    /// Its line in the file, from 0.
    pub(crate) line: usize,
    /// Lines below it that belong to its outcome.
    pub(crate) lines_below: usize,
    /// The step as written, without its outcome.
    pub(crate) text: String,
    pub(crate) words: Vec<String>,
    pub(crate) named: Vec<(String, String)>,
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) label: Option<String>,
    /// What must come of it; success when nothing is said.
    pub(crate) outcome: Option<Expected>,
    /// What comes of it on this release of the original instead.
    pub(crate) original: Option<(String, Expected)>,
}

/// A word, or a key with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Word(String),
    Pair { key: String, op: &'static str, value: String },
}

/// Reads the scenarios of a file; an error names the line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Scenario>, String> {
    let mut of_file = Scenario { file: file.to_owned(), ..Scenario::default() };
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = |error: String| format!("{file}:{}: {error}", number + 1);
        let line = without_comment(line);
        if line.trim().is_empty() {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            scenarios.push(Scenario { title: title.trim().to_owned(), ..of_file.clone() });
            continue;
        }
        let is_below = line.starts_with([' ', '\t']);
        let line = line.trim();
        let scenario = scenarios.last_mut().unwrap_or(&mut of_file);
        if is_below && let Some(step) = scenario.steps.last_mut() {
            below(step, line).map_err(at)?;
            step.lines_below = number - step.line;
        } else if header(scenario, line) {
        } else if scenario.title.is_empty() {
            return Err(at("a step before the first `== Title`".to_owned()));
        } else {
            scenario.steps.push(step(number, line).map_err(at)?);
        }
    }
    scenarios.iter_mut().for_each(|scenario| scenario.broker.sort());
    Ok(scenarios)
}

fn header(scenario: &mut Scenario, line: &str) -> bool {
    if let Some(pair) = line.strip_prefix("broker ").filter(|_| scenario.steps.is_empty()) {
        scenario.broker.push(pair.trim().to_owned());
    } else if line == "smoke" {
        scenario.smoke = true;
    } else if let Some(why) = line.strip_prefix("virtual only:") {
        scenario.virtual_only = Some(why.trim().to_owned());
    } else if let Some(why) = line.strip_prefix("not on the original:") {
        scenario.ours_only = Some(why.trim().to_owned());
    } else if let Some((release, why)) =
        line.strip_prefix("original ").and_then(|rest| rest.split_once(" differs:"))
    {
        scenario.differs = Some((release.to_owned(), why.trim().to_owned()));
    } else {
        return false;
    }
    true
}

fn step(line: usize, text: &str) -> Said<Step> {
    let (text, outcome) = match split_outcome(text) {
        Some((text, outcome)) => (text, Some(Expected::parse(outcome)?)),
        None => (text, None),
    };
    let text = text.trim();
    let mut step = Step { line, text: text.to_owned(), outcome, ..Step::default() };
    let mut tokens = tokens(text)?.into_iter().peekable();
    let mut is_property = false;
    while let Some(token) = tokens.next() {
        match token {
            Token::Pair { key, op: "=", value } if is_property => {
                step.properties.push((key, value))
            }
            Token::Pair { key, op: "=", value } => step.named.push((key, value)),
            Token::Pair { key, op, .. } => return Err(format!("`{key}{op}` in a step")),
            Token::Word(word) if word == "with" => is_property = true,
            Token::Word(word) if word == "as" || word == "within" => {
                let Some(Token::Word(next)) = tokens.next() else {
                    return Err(format!("nothing behind `{word}`"));
                };
                if word == "as" {
                    step.label = Some(next);
                } else {
                    step.named.push(("wait".to_owned(), next));
                }
            }
            Token::Word(word) => step.words.push(word),
        }
    }
    Ok(step)
}

/// Reads an indented line below a step.
fn below(step: &mut Step, line: &str) -> Said<()> {
    if let Some((head, outcome)) = split_outcome(line)
        && let Some(release) = head.trim().strip_prefix("original ")
    {
        step.original = Some((release.to_owned(), Expected::parse(outcome)?));
        return Ok(());
    }
    let text = line.strip_prefix("=> ").unwrap_or(line);
    match &mut step.outcome {
        Some(outcome) => outcome.extend(text),
        none => {
            *none = Some(Expected::parse(text)?);
            Ok(())
        }
    }
}

/// Splits at the arrow.
pub(crate) fn split_outcome(line: &str) -> Option<(&str, &str)> {
    let at =
        outside_quotes(line).find(|at| line[*at..].starts_with("=>") && starts_word(line, *at))?;
    Some((&line[..at], line[at + 2..].trim()))
}

fn without_comment(line: &str) -> &str {
    let is_comment = |at: &usize| {
        line[*at..].starts_with('#')
            && starts_word(line, *at)
            && line[at + 1..].chars().next().is_none_or(|c| c.is_whitespace() || *at == 0)
    };
    outside_quotes(line).find(is_comment).map_or(line, |at| &line[..at])
}

fn starts_word(line: &str, at: usize) -> bool {
    line[..at].chars().next_back().is_none_or(char::is_whitespace)
}

/// The places of characters that no quotes enclose.
fn outside_quotes(line: &str) -> impl Iterator<Item = usize> {
    let mut quoted = false;
    line.char_indices().filter_map(move |(at, c)| {
        if c == '"' {
            quoted = !quoted;
        }
        (!quoted).then_some(at)
    })
}

/// Splits a text into tokens at white space outside of double quotes; those around a whole word or value are dropped.
pub(crate) fn tokens(text: &str) -> Said<Vec<Token>> {
    let mut words: Vec<String> = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            // kept as a mark, so that what is quoted is no key
            '"' => {
                quoted = !quoted;
                words.last_mut().expect("one is open").push('"');
            }
            c if c.is_whitespace() && !quoted => words.push(String::new()),
            c => words.last_mut().expect("one is open").push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    Ok(words.iter().filter(|word| !word.is_empty()).map(|word| token(word)).collect())
}

fn token(word: &str) -> Token {
    let plain = |text: &str| {
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        inner.unwrap_or(text).to_owned()
    };
    let key_len = word
        .find(|c: char| !(c.is_ascii_alphanumeric() || "_.#-".contains(c)))
        .filter(|len| *len > 0 && word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'));
    if let Some(key_len) = key_len {
        let rest = &word[key_len..];
        for op in [">=", "<=", "!=", "=", "~"] {
            if let Some(value) = rest.strip_prefix(op)
                && !(op == "=" && value.starts_with('>'))
            {
                return Token::Pair { key: word[..key_len].to_owned(), op, value: plain(value) };
            }
        }
    }
    Token::Word(plain(word))
}

/// Reads `10s`, `200ms`, `2m`, `1h`, `3d`.
pub(crate) fn duration(text: &str) -> Said<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("`{text}` is no time: a number with ms, s, m, h or d")),
    };
    let number: u64 = text[..digits].parse().map_err(|_| format!("`{text}` is no time"))?;
    Ok(Duration::from_millis(number * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_into_scenarios_and_steps() {
        let text = "# all of it\nbroker a=1 2\n== One\nsmoke\nsend orders \"a b\" queue=0 with x=\"1 => 2\" as m => ok offset=0  # why\n  original 5.5.0 => NO_PERMISSION # because\npull c orders 0\n  => a\n     b\n\n== Two\nafter 1s\n";
        let scenarios = parse("f", text).unwrap();
        assert_eq!(scenarios.len(), 2);
        let one = &scenarios[0];
        assert!(one.smoke && !scenarios[1].smoke);
        assert_eq!(one.broker, ["a=1 2"]);
        let send = &one.steps[0];
        assert_eq!(send.words, ["send", "orders", "a b"]);
        assert_eq!(send.properties, [("x".to_owned(), "1 => 2".to_owned())]);
        assert_eq!(send.label.as_deref(), Some("m"));
        assert_eq!(send.original.as_ref().unwrap().0, "5.5.0");
        assert_eq!(one.steps[1].lines_below, 2);
    }

    #[test]
    fn what_is_no_language_names_its_line() {
        assert!(parse("f", "send a\n").unwrap_err().starts_with("f:1:"));
        assert!(parse("f", "== T\nsend \"a\n").unwrap_err().starts_with("f:2:"));
        assert!(duration("3 s").is_err() && duration("x").is_err());
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
    }
}
