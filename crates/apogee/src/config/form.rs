//! How a key's text becomes a value: one [`Form`] for each kind, which also says what is allowed.
//!
//! Nothing is clamped or guessed: a text that is not of the form, or out of its range, is an error, where the original
//! ignores the line without a word.

use std::{fmt::Display, path::PathBuf, time::Duration};

use store::options::FlushDiskType;

/// A kind of value.
pub(super) trait Form<T> {
    /// Reads a value; `None` when the text is none of this form.
    fn parse(&self, text: &str) -> Option<T>;
    /// Writes a value as a file would have it.
    fn show(&self, value: &T) -> String;
    /// Says what is allowed, for messages and for the reference page.
    fn allowed(&self) -> String;
}

/// `true` or `false`.
pub(super) struct Bool;

impl Form<bool> for Bool {
    fn parse(&self, text: &str) -> Option<bool> {
        // Java: Boolean.parseBoolean takes any case, and anything else for false
        match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn allowed(&self) -> String {
        "true or false".into()
    }
}

/// A whole number within bounds.
pub(super) struct Int(pub(super) i64, pub(super) i64);

impl<T: TryFrom<i64> + Display> Form<T> for Int {
    fn parse(&self, text: &str) -> Option<T> {
        let value: i64 = text.parse().ok()?;
        if value < self.0 || value > self.1 { None } else { T::try_from(value).ok() }
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }

    fn allowed(&self) -> String {
        format!("a number from {} to {}", self.0, self.1)
    }
}

/// One of some numbers.
pub(super) struct OneOf(pub(super) &'static [i64]);

impl Form<i64> for OneOf {
    fn parse(&self, text: &str) -> Option<i64> {
        text.parse().ok().filter(|value| self.0.contains(value))
    }

    fn show(&self, value: &i64) -> String {
        value.to_string()
    }

    fn allowed(&self) -> String {
        let values: Vec<String> = self.0.iter().map(i64::to_string).collect();
        format!("one of {}", values.join(", "))
    }
}

/// A span of time as a number of some unit, within bounds.
pub(super) struct Span(pub(super) Unit, pub(super) u64, pub(super) u64);

/// The unit that a key's number counts.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Millis,
    Seconds,
    Hours,
}

impl Unit {
    fn millis(self) -> u64 {
        match self {
            Unit::Millis => 1,
            Unit::Seconds => 1_000,
            Unit::Hours => 3_600_000,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Unit::Millis => "milliseconds",
            Unit::Seconds => "seconds",
            Unit::Hours => "hours",
        }
    }
}

impl Form<Duration> for Span {
    fn parse(&self, text: &str) -> Option<Duration> {
        let value: u64 = text.parse().ok()?;
        if value < self.1 || value > self.2 {
            return None;
        }
        Some(Duration::from_millis(value.checked_mul(self.0.millis())?))
    }

    fn show(&self, value: &Duration) -> String {
        (value.as_millis() / u128::from(self.0.millis())).to_string()
    }

    fn allowed(&self) -> String {
        format!("{} from {} to {}", self.0.name(), self.1, self.2)
    }
}

/// Any text; `Some` unless empty where the field is optional.
pub(super) struct Text;

impl Form<String> for Text {
    fn parse(&self, text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn allowed(&self) -> String {
        "text".into()
    }
}

impl Form<Option<String>> for Text {
    fn parse(&self, text: &str) -> Option<Option<String>> {
        Some((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self, value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }

    fn allowed(&self) -> String {
        "text".into()
    }
}

/// A name that becomes part of topic names and paths' neighbours: letters, digits and a few signs.
pub(super) struct Name;

impl Form<String> for Name {
    fn parse(&self, text: &str) -> Option<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "%_-|.".contains(c);
        (!text.is_empty() && text.len() <= 127 && text.chars().all(allowed))
            .then(|| text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn allowed(&self) -> String {
        "1 to 127 of letters, digits, `%`, `_`, `-`, `|`, `.`".into()
    }
}

/// Words separated by one sign.
pub(super) struct Words(pub(super) char);

impl<T: From<String> + Clone + Into<PathBuf>> Form<Vec<T>> for Words {
    fn parse(&self, text: &str) -> Option<Vec<T>> {
        Some(words(text, self.0).map(|word| T::from(word.to_owned())).collect())
    }

    fn show(&self, value: &Vec<T>) -> String {
        let words: Vec<String> = value
            .iter()
            .map(|word| Into::<PathBuf>::into(word.clone()).display().to_string())
            .collect();
        words.join(&self.0.to_string())
    }

    fn allowed(&self) -> String {
        format!("words separated by `{}`", self.0)
    }
}

fn words(text: &str, sign: char) -> impl Iterator<Item = &str> {
    text.split(sign).map(str::trim).filter(|word| !word.is_empty())
}

/// A path.
pub(super) struct Path;

impl Form<PathBuf> for Path {
    fn parse(&self, text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn show(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }

    fn allowed(&self) -> String {
        "a path".into()
    }
}

impl Form<Option<PathBuf>> for Path {
    fn parse(&self, text: &str) -> Option<Option<PathBuf>> {
        Some(Some(text).filter(|text| !text.is_empty()).map(PathBuf::from))
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        value.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }

    fn allowed(&self) -> String {
        "a path".into()
    }
}

/// One of some words, each with its value.
pub(super) struct Chosen<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Form<T> for Chosen<T> {
    fn parse(&self, text: &str) -> Option<T> {
        let chosen = self.0.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        chosen.map(|(_, value)| *value)
    }

    fn show(&self, value: &T) -> String {
        let word = self.0.iter().find(|(_, known)| known == value).map(|(word, _)| *word);
        word.unwrap_or_default().to_owned()
    }

    fn allowed(&self) -> String {
        let words: Vec<&str> = self.0.iter().map(|(word, _)| *word).collect();
        format!("one of {}", words.join(", "))
    }
}

/// `ASYNC_FLUSH` or `SYNC_FLUSH`.
pub(super) struct Flush;

impl Form<FlushDiskType> for Flush {
    fn parse(&self, text: &str) -> Option<FlushDiskType> {
        match text {
            "ASYNC_FLUSH" => Some(FlushDiskType::AsyncFlush),
            "SYNC_FLUSH" => Some(FlushDiskType::SyncFlush),
            _ => None,
        }
    }

    fn show(&self, value: &FlushDiskType) -> String {
        match value {
            FlushDiskType::AsyncFlush => "ASYNC_FLUSH".into(),
            FlushDiskType::SyncFlush => "SYNC_FLUSH".into(),
        }
    }

    fn allowed(&self) -> String {
        "ASYNC_FLUSH or SYNC_FLUSH".into()
    }
}

/// A release of RocketMQ.
pub(super) struct ReadableBy;

impl Form<broker::Release> for ReadableBy {
    fn parse(&self, text: &str) -> Option<broker::Release> {
        text.parse().ok()
    }

    fn show(&self, value: &broker::Release) -> String {
        value.to_string()
    }

    fn allowed(&self) -> String {
        "5.5.0 or 4.9.7".into()
    }
}

/// Hours of the day, separated by `;`.
pub(super) struct HoursOfDay;

impl Form<Vec<u8>> for HoursOfDay {
    fn parse(&self, text: &str) -> Option<Vec<u8>> {
        words(text, ';').map(|word| word.parse().ok().filter(|hour| *hour < 24)).collect()
    }

    fn show(&self, value: &Vec<u8>) -> String {
        let hours: Vec<String> = value.iter().map(|hour| format!("{hour:02}")).collect();
        hours.join(";")
    }

    fn allowed(&self) -> String {
        "hours from 00 to 23 separated by `;`".into()
    }
}

/// Levels of delay in milliseconds, as `1s 5s 1m`.
pub(super) struct DelayLevels;

impl Form<Vec<i64>> for DelayLevels {
    fn parse(&self, text: &str) -> Option<Vec<i64>> {
        broker::parse_delay_levels(text).ok().filter(|levels| levels.len() <= 1_000)
    }

    fn show(&self, value: &Vec<i64>) -> String {
        let show = |millis: &i64| {
            let units = [(86_400_000, 'd'), (3_600_000, 'h'), (60_000, 'm'), (1_000, 's')];
            let (unit, sign) =
                units.iter().find(|(unit, _)| millis % unit == 0).copied().unwrap_or((1_000, 's'));
            format!("{}{sign}", millis / unit)
        };
        value.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    fn allowed(&self) -> String {
        "numbers with a unit `s`, `m`, `h` or `d`, separated by blanks".into()
    }
}

/// A port, or nothing.
pub(super) struct Port;

impl Form<Option<u16>> for Port {
    fn parse(&self, text: &str) -> Option<Option<u16>> {
        text.parse().ok().map(Some)
    }

    fn show(&self, value: &Option<u16>) -> String {
        value.map(|port| port.to_string()).unwrap_or_default()
    }

    fn allowed(&self) -> String {
        "a port from 0 to 65535".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        let levels = broker::parse_delay_levels(broker::DELAY_LEVELS).unwrap();
        assert_eq!(DelayLevels.show(&levels), broker::DELAY_LEVELS.replace("60m", "1h"));
        assert_eq!(DelayLevels.parse(&DelayLevels.show(&levels)), Some(levels));
        assert_eq!(HoursOfDay.show(&HoursOfDay.parse("4; 16").unwrap()), "04;16");
        let paths: Vec<PathBuf> = Words(',').parse("/a, /b").unwrap();
        assert_eq!(Words(',').show(&paths), "/a,/b");
    }

    #[test]
    fn nothing_out_of_range_is_taken() {
        assert_eq!(Form::<u32>::parse(&Int(1, 10), "11"), None);
        assert_eq!(Form::<u32>::parse(&Int(1, 10), " 5"), None);
        assert_eq!(Span(Unit::Hours, 1, 5).parse("6"), None);
        assert_eq!(HoursOfDay.parse("24"), None);
        assert_eq!(Bool.parse("yes"), None);
        assert_eq!(Port.parse("70000"), None);
        assert_eq!(Name.parse("a/b"), None);
    }
}
