//! Bytes as text: for files that people compare.
//!
//! ```text
//! == name, 40 bytes
//! 0000  50 4c 53 46 ...
//! ```
//!
//! Lines of 16 bytes; those of zeros alone are left out.

use std::fmt::Write;

use super::Sample;

const LINE: usize = 16;

/// The text of samples.
pub fn render(samples: &[Sample]) -> String {
    let mut out = String::new();
    for Sample { name, bytes } in samples {
        // Writing to a String does not fail.
        let _ = writeln!(out, "== {name}, {} bytes", bytes.len());
        for (at, line) in bytes.chunks(LINE).enumerate() {
            if line.iter().any(|&byte| byte != 0) {
                let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                let _ = writeln!(out, "{:04x}  {}", at * LINE, hex.join(" "));
            }
        }
    }
    out
}

/// The names and bytes in a text; none when it is no such text.
pub fn parse(text: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("== ") {
            let (name, len) = head.strip_suffix(" bytes")?.rsplit_once(", ")?;
            found.push((name.to_owned(), vec![0; len.parse().ok()?]));
            continue;
        }
        let (at, hex) = line.split_once("  ")?;
        let at = usize::from_str_radix(at, 16).ok()?;
        let (_, bytes) = found.last_mut()?;
        for (place, byte) in hex.split(' ').enumerate() {
            *bytes.get_mut(at + place)? = u8::from_str_radix(byte, 16).ok()?;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_their_text() {
        let mut bytes = vec![0; 70];
        (bytes[3], bytes[69]) = (0xAB, 1);
        let samples = [Sample::new("one, two", bytes), Sample::new("none", Vec::new())];
        let text = render(&samples);
        assert_eq!(text.lines().count(), 4, "{text}");
        let found = parse(&text).unwrap();
        let same = |(sample, (name, bytes)): (&Sample, &(String, Vec<u8>))| {
            sample.name == *name && sample.bytes == *bytes
        };
        assert!(found.len() == 2 && samples.iter().zip(&found).all(same), "{found:?}");
        assert_eq!(parse("0000  01"), None);
    }
}
