//! Times and spans as they are typed.

use std::time::Duration;

use env::Clock;
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The first message that is there.
    First,
    /// What comes from now on.
    Last,
    /// This offset in each queue.
    Offset(i64),
    /// The first message stored at this time or later, in ms since the epoch.
    Time(i64),
}

/// Reads where to begin in a queue: `first`, `last`, `offset:N`, a moment, or how long ago.
pub(super) fn from(text: &str) -> Result<From, String> {
    match text {
        "first" => return Ok(From::First),
        "last" | "now" => return Ok(From::Last),
        _ => {}
    }
    if let Some(offset) = text.strip_prefix("offset:") {
        let offset = offset.parse().ok().filter(|offset| *offset >= 0);
        return offset.map(From::Offset).ok_or_else(|| "an offset counts from 0".to_owned());
    }
    if let Ok(ago) = span(text) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(From::Time(Clock::real().now().saturating_sub(ago)));
    }
    moment(text).map(From::Time).map_err(|_| {
        "it is `first`, `last`, `offset:N`, a time as 2026-11-23T10:30, or how long ago as 15m"
            .to_owned()
    })
}

/// Reads where a group begins: as [`from`], without offsets.
pub(super) fn group_from(text: &str) -> Result<From, String> {
    match from(text)? {
        From::Offset(_) => Err("a group begins at `first`, `last` or a time".to_owned()),
        place => Ok(place),
    }
}

/// Reads a moment, in ms since the epoch: just that, RFC 3339, or local time.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<u64>() {
        return i64::try_from(ms).map_err(|error| error.to_string());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment.as_millisecond());
    }
    let local = text.parse::<DateTime>().and_then(|local| local.to_zoned(TimeZone::system()));
    local.map(|zoned| zoned.timestamp().as_millisecond()).map_err(|_| {
        "a time is ms since the epoch, 2026-11-23T10:30:00Z, or local as 2026-11-23T10:30"
            .to_owned()
    })
}

/// Reads a span: `500ms`, `10s`, `1h30m`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let span = text.parse::<SignedDuration>().ok();
    let span = span.and_then(|span| Duration::try_from(span).ok());
    span.ok_or_else(|| "a span is a number with its unit, as 500ms, 10s or 1h30m".to_owned())
}

/// Writes a time in ms since the epoch.
pub(super) fn shown(epoch_ms: i64) -> String {
    match Timestamp::from_millisecond(epoch_ms) {
        Ok(moment) => format!("{moment:.3}"),
        Err(_) => epoch_ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_programs_write_them() {
        assert_eq!(moment("1790000000123"), Ok(1_790_000_000_123));
        assert_eq!(moment("2026-11-23T10:30:00Z"), Ok(1_795_429_800_000));
        assert_eq!(moment("2026-11-23T10:30:00+01:00"), Ok(1_795_426_200_000));
        let local = moment("2026-11-23 10:30").expect("local time");
        assert!((local - 1_795_429_800_000).abs() <= 14 * 3_600_000);
        assert_eq!(moment("2026-11-23").expect("a day") % 60_000, 0);
        assert!(moment("tomorrow").is_err() && moment("-5").is_err());
        assert_eq!(shown(1_795_429_800_007), "2026-11-23T10:30:00.007Z");
    }

    #[test]
    fn places_to_begin_at_are_read() {
        assert_eq!(from("first"), Ok(From::First));
        assert_eq!(from("offset:17"), Ok(From::Offset(17)));
        assert_eq!(from("1790000000123"), Ok(From::Time(1_790_000_000_123)));
        let now = Clock::real().now();
        assert!(
            matches!(from("15m"), Ok(From::Time(at)) if (1..=15 * 60_000 + now - at).contains(&900_000))
        );
        for wrong in ["offset:-1", "offset:", "", "-15m", "soon"] {
            assert!(from(wrong).is_err(), "{wrong}");
        }
        assert!(group_from("offset:1").is_err());
    }
}
