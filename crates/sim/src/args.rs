//! The words and parameters of a step, with references to messages and instants put in.
//!
//! A parameter that no verb has asked for when the step is over was misspelt, and fails the step.

use std::{cell::RefCell, collections::BTreeSet, str::FromStr, time::Duration};

use crate::{
    play::Play,
    script::{Said, Step, duration},
};

/// What stands in a step, with `$references` put in.
pub(crate) struct Args {
    pub(crate) words: Vec<String>,
    pub(crate) named: Vec<(String, String)>,
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) label: Option<String>,
    used: RefCell<BTreeSet<String>>,
}

impl Play<'_> {
    /// Replaces `$name.field` and `$instant`, both with `+10s` or `-1` behind them.
    pub(crate) fn resolve(&self, text: &str) -> Said<String> {
        let Some(at) = text.find('$') else { return Ok(text.to_owned()) };
        let rest = &text[at + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name_len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, mut rest) = rest.split_at(name_len);
        let mut field = "value";
        if let Some(behind) = rest.strip_prefix('.') {
            let len = behind.find(|c| !is_name(c)).unwrap_or(behind.len());
            (field, rest) = behind.split_at(len);
        }
        let value = self.known(name)?.get(field);
        let mut value = value.ok_or_else(|| format!("`{name}` has no `{field}`"))?.clone();
        if let Some(by) = rest.strip_prefix(['+', '-']) {
            let len = by.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(by.len());
            let (by, behind) = by.split_at(len);
            let by = by.parse().or_else(|_| duration(by).map(|time| time.as_millis() as i64))?;
            let sum = |number: i64| if rest.starts_with('-') { number - by } else { number + by };
            value =
                value.parse().map(sum).map_err(|_| format!("`{value}` is no number"))?.to_string();
            rest = behind;
        }
        Ok(format!("{}{value}{}", &text[..at], self.resolve(rest)?))
    }

    /// Reads a step at the moment it is played.
    pub(crate) fn args(&self, step: &Step) -> Said<Args> {
        let pairs = |pairs: &[(String, String)]| -> Said<Vec<(String, String)>> {
            pairs.iter().map(|(key, value)| Ok((key.clone(), self.resolve(value)?))).collect()
        };
        Ok(Args {
            words: step.words.iter().map(|word| self.resolve(word)).collect::<Said<_>>()?,
            named: pairs(&step.named)?,
            properties: pairs(&step.properties)?,
            label: step.label.clone(),
            used: RefCell::default(),
        })
    }
}

impl Args {
    /// The step behind the first words.
    pub(crate) fn behind(mut self, words: usize) -> Args {
        self.words.drain(..words);
        self
    }

    /// The value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.used.borrow_mut().insert(key.to_owned());
        self.named.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A parameter that is a number.
    pub(crate) fn number<T: FromStr>(&self, key: &str, default: T) -> Said<T> {
        self.get(key).map_or(Ok(default), |text| number(text))
    }

    /// A parameter that is a time.
    pub(crate) fn time(&self, key: &str) -> Said<Option<Duration>> {
        self.get(key).map(duration).transpose()
    }

    /// The parameters that nobody has asked for, for steps that take any.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        let used = std::mem::take(&mut *self.used.borrow_mut());
        let all = self.named.iter().map(|(key, _)| key.clone()).collect();
        *self.used.borrow_mut() = all;
        self.named
            .iter()
            .filter(move |(key, _)| !used.contains(key))
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Fails when a parameter was not asked for.
    pub(crate) fn check_used(&self) -> Said<()> {
        let used = self.used.borrow();
        match self.named.iter().find(|(key, _)| !used.contains(key) && key != "wait") {
            Some((key, _)) => Err(format!("this step knows no `{key}=`")),
            None => Ok(()),
        }
    }
}

pub(crate) fn number<T: FromStr>(text: &str) -> Said<T> {
    text.parse().map_err(|_| format!("`{text}` is no number here"))
}

/// `x*127` is a hundred and twenty-seven x.
pub(crate) fn repeated(text: &str) -> String {
    match text.rsplit_once('*') {
        Some((unit, count)) if !unit.is_empty() => match count.parse() {
            Ok(count) => unit.repeat(count),
            Err(_) => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}
