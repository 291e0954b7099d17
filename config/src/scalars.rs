//! Durations and sizes in configuration files.
//!
//! Each has one form: a whole number and a unit, or a plain number of seconds or bytes. Fractions,
//! sums, spaces and units of a thousand bytes are not accepted, because `10k` would be ambiguous.

use std::fmt;
use std::time::Duration;

/// Parses `250ms`, `30s`, `10m` or `1h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3_600).map(Duration::from_secs),
        _ => None,
    }
}

/// Parses `512B`, `64KiB`, `10MiB` or `1GiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    Some((number.parse().ok()?, unit))
}

/// A duration in the largest unit without a fraction, for messages.
pub(super) struct ShownDuration(pub(super) Duration);

impl fmt::Display for ShownDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            _ if ms == 0 || !ms.is_multiple_of(1_000) => write!(f, "{ms}ms"),
            _ if ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) => write!(f, "{}m", ms / 60_000),
            _ => write!(f, "{}s", ms / 1_000),
        }
    }
}

/// A size in the largest unit without a fraction, for messages.
pub(super) struct ShownSize(pub(super) u64);

impl fmt::Display for ShownSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 > 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_shown_in_one_form() {
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("10m", 600_000), ("1h", 3_600_000), ("0ms", 0)] {
            let parsed = duration(text).unwrap();
            assert_eq!(parsed, Duration::from_millis(ms));
            assert_eq!(ShownDuration(parsed).to_string(), text);
        }
        for text in [
            "",
            "s",
            "10",
            "10 s",
            "1.5s",
            "-1s",
            "+1s",
            "10S",
            "1d",
            "1h30m",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_parsed_and_shown_in_one_form() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("10MiB", 10 << 20), ("1GiB", 1 << 30), ("0B", 0)] {
            assert_eq!(size(text), Some(bytes));
            assert_eq!(ShownSize(bytes).to_string(), text);
        }
        for text in ["", "KiB", "64", "64 KiB", "64KB", "64kib", "1.5MiB", "-1B", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
