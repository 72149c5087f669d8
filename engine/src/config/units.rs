//! Sizes and times as people write them: `128MiB`, `50ms`.

use std::time::Duration;

const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const TIMES: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Reads a size in bytes: a whole number and B, KiB, MiB, GiB or TiB. `None` otherwise.
pub fn parse_size(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// Reads a time: a whole number and us, ms, s, m, h or d. `None` otherwise.
pub fn parse_time(text: &str) -> Option<Duration> {
    scaled(text, &TIMES).map(Duration::from_micros)
}

/// The shortest exact form of a size.
pub fn format_size(bytes: u64) -> String {
    shortest(bytes, &SIZES, "0B")
}

/// The shortest exact form of a time, in whole microseconds.
pub fn format_time(time: Duration) -> String {
    shortest(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), &TIMES, "0s")
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn shortest(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    if value == 0 {
        return zero.to_owned();
    }
    let (name, factor) =
        units.iter().find(|(_, factor)| value.is_multiple_of(*factor)).unwrap_or(&("", 1));
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_back() {
        for text in ["0B", "1B", "1KiB", "1025B", "128MiB", "10GiB", "3TiB"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
        for text in ["0s", "50ms", "1s", "90s", "2m", "3h", "7d", "5us"] {
            assert_eq!(format_time(parse_time(text).unwrap()), text);
        }
        assert_eq!(parse_size("1 MiB"), Some(1 << 20));
    }

    #[test]
    fn other_units_signs_and_overflow_are_refused() {
        for text in ["", "12", "12XB", "12MB", "-1B", "1.5GiB", "MiB", "99999999999TiB", "1 kib"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        for text in ["", "50", "ms", "50 sec", "-1s", "1.5s", "999999999999999d"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
