//! What operators ask about the configuration before they start anything: what a key means and who sets it, what is
//! wrong with a file, and what differs from the defaults.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::{KEYS, Layers, Loaded, Origin, keys};

/// Says of each key what it means, what is allowed, and what it is here. A word that is no key lists the keys that it
/// is part of.
///
/// # Errors
/// A layer that cannot be read, or a word that is part of no key.
pub(crate) fn explain(layers: &Layers, words: &[String]) -> Result<String> {
    let (loaded, defaults) = (layers.load()?, layers.defaults());
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push('\n');
        }
        if let Some(key) = KEYS.iter().find(|key| key.name.eq_ignore_ascii_case(word)) {
            let whose = if key.origin == Origin::Own { "Apogee's own" } else { "RocketMQ's" };
            let here = (key.show)(&loaded.settings);
            let by = loaded.said.get(key.name).map(|by| format!("  ({by})")).unwrap_or_default();
            let live = broker::live_keys().any(|(live, _)| live == key.name);
            let changes = if live { "while the broker runs, too" } else { "with a start only" };
            write!(
                text,
                "{name}  ({whose})\n  {doc}\n  allowed  {allowed}\n  default  {default}\n  here     {here}{by}\n  changes  {changes}\n",
                name = key.name,
                doc = key.doc,
                allowed = (key.allowed)(),
                default = (key.show)(&defaults),
            )?;
        } else if keys::is_original(word) {
            writeln!(text, "{word}  (RocketMQ's)\n  It is accepted, and has no effect here.")?;
        } else {
            let part = word.to_ascii_lowercase();
            let is_part = |name: &&str| name.to_ascii_lowercase().contains(&part);
            let found: Vec<&str> = KEYS.iter().map(|key| key.name).filter(is_part).collect();
            if found.is_empty() {
                bail!("`{word}` is no key and part of none; `apogee config` prints them all");
            }
            writeln!(text, "`{word}` is part of {}", found.join(", "))?;
        }
    }
    Ok(text)
}

/// Says everything that is wrong with property files, which are read as a broker would, and what has no effect.
///
/// # Errors
/// With the same text, if something is wrong: a value that is not allowed, or a key that nobody knows.
pub(crate) fn check(layers: &Layers) -> Result<String> {
    // Only the files count, not who asks.
    let layers = Layers { environment: Vec::new(), ..layers.clone() };
    let mut loaded = Loaded::new(layers.defaults());
    let mut text = String::new();
    let (mut wrong, mut set) = (0, 0);
    for said in layers.said()? {
        match loaded.take(&said.key, &said.value, &said.at) {
            Ok(()) => set += 1,
            Err(problem) => {
                wrong += 1;
                writeln!(text, "{problem}")?;
            }
        }
    }
    for ignored in &loaded.ignored {
        set -= 1;
        let (at, key) = (&ignored.at, &ignored.key);
        if ignored.original {
            writeln!(text, "{at}: {key} is RocketMQ's and has no effect here")?;
        } else {
            wrong += 1;
            writeln!(text, "{at}: `{key}` is no key of ours or of RocketMQ's; is it misspelt?")?;
        }
    }
    if wrong > 0 {
        bail!("{wrong} wrong, {set} taken\n{}", text.trim_end());
    }
    writeln!(text, "nothing wrong, {set} taken")?;
    Ok(text)
}

/// Lists the keys that are not what they are by default, and who said so.
///
/// # Errors
/// A layer that cannot be read.
pub(crate) fn diff(layers: &Layers) -> Result<String> {
    let (loaded, defaults) = (layers.load()?, layers.defaults());
    let mut text = String::new();
    for key in KEYS {
        let (here, default) = ((key.show)(&loaded.settings), (key.show)(&defaults));
        if here != default {
            let by = loaded.said.get(key.name).map(|by| format!(", {by}")).unwrap_or_default();
            writeln!(text, "{}={here}  (default: {default}{by})", key.name)?;
        }
    }
    Ok(text)
}
