//! Numbers as people read them: bytes, counts, spans of time.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// Formats a number of bytes with three digits and a decimal unit.
pub fn bytes(bytes: u64) -> String {
    let mut amount = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // From 999.5 on, three digits would round to 1000: that is 1.00 of the next unit.
    while amount >= 999.5 {
        let Some(next) = units.next() else { break };
        amount /= 1000.0;
        unit = next;
    }
    match amount {
        _ if unit == "B" => format!("{amount} B"),
        amount if amount < 9.995 => format!("{amount:.2} {unit}"),
        amount if amount < 99.95 => format!("{amount:.1} {unit}"),
        amount => format!("{amount:.0} {unit}"),
    }
}

/// Formats a number with its thousands separated by commas.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number of things. The plural of `noun` must be made with an "s".
pub fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", number(count))
}

/// Formats how far `time` is from `now`, for example "3 days ago" or "in 5 minutes".
pub fn distance(time: SystemTime, now: SystemTime) -> String {
    match now.duration_since(time) {
        Ok(past) => format!("{} ago", span(past)),
        Err(future) => format!("in {}", span(future.duration())),
    }
}

/// Formats a time, and how far it is from `now`; "never" for one beyond the year 9999.
pub fn moment(time: SystemTime, now: SystemTime) -> String {
    let mut shown = String::new();
    // The library panics for times before 1970, and fails for those beyond the year 9999.
    let in_range = time >= SystemTime::UNIX_EPOCH
        && write!(shown, "{}", humantime::format_rfc3339_seconds(time)).is_ok();
    if in_range {
        format!("{shown} ({})", distance(time, now))
    } else {
        "never".into()
    }
}

/// Formats a span of time in its largest unit, rounded down.
fn span(span: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [
        (24 * 60 * 60, "day"),
        (60 * 60, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let seconds = span.as_secs();
    let (size, unit) = UNITS
        .into_iter()
        .find(|(size, _)| seconds >= *size)
        .unwrap_or((1, "second"));
    count(seconds / size, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_three_digits() {
        for (amount, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (123_456, "123 kB"),
            (999_600, "1.00 MB"),
            (10_223_616, "10.2 MB"),
            (1_500_000_000_000, "1.50 TB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(amount), shown);
        }
    }

    #[test]
    fn counts_have_their_thousands_set_apart() {
        for (number, shown) in [
            (0, "0 files"),
            (1, "1 file"),
            (999, "999 files"),
            (1000, "1,000 files"),
            (1_234_567, "1,234,567 files"),
        ] {
            assert_eq!(count(number, "file"), shown);
        }
    }

    #[test]
    fn a_moment_is_told_with_its_distance_and_never_beyond_the_last_year() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let shown = moment(SystemTime::UNIX_EPOCH, now);
        assert_eq!(shown, "1970-01-01T00:00:00Z (1 minute ago)");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(moment(far, now), "never");
    }

    #[test]
    fn a_distance_is_told_in_its_largest_unit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: i64| match seconds {
            0.. => now + Duration::from_secs(seconds as u64),
            _ => now - Duration::from_secs(-seconds as u64),
        };
        for (seconds, shown) in [
            (0, "0 seconds ago"),
            (-1, "1 second ago"),
            (59, "in 59 seconds"),
            (-3600, "1 hour ago"),
            (200_000, "in 2 days"),
        ] {
            assert_eq!(distance(at(seconds), now), shown);
        }
    }
}
