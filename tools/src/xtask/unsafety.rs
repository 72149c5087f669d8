//! `unsafe` lives in netio, and each use says why it is sound.

use super::source::Source;

/// Lines above an `unsafe` in which its reason may stand.
const REASON_LINES_MAX: usize = 6;

/// Checks one file.
pub(crate) fn check(source: &Source, findings: &mut Vec<String>) {
    let path = &source.path;
    for (at, line) in source.code.iter().enumerate() {
        if !has_word(line, "unsafe") {
            continue;
        }
        if !path.starts_with("netio/") {
            findings.push(format!("{path}:{}: unsafe outside of netio", at + 1));
        } else if !has_reason(source, at) {
            findings.push(format!("{path}:{}: unsafe without a SAFETY comment", at + 1));
        }
    }
    let is_crate = path.ends_with("/src/lib.rs") && !path.starts_with("netio/");
    if is_crate && !source.lines.iter().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
        findings.push(format!("{path}: forbid unsafe code in this crate"));
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let mut parts = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    parts.any(|part| part == word)
}

fn has_reason(source: &Source, at: usize) -> bool {
    let from = at.saturating_sub(REASON_LINES_MAX);
    let lines = &source.lines[from..=at];
    lines.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_needs_the_right_crate_and_a_reason() {
        let findings = |path: &str, text: &str| {
            let mut findings = Vec::new();
            check(&Source::new(path.to_owned(), text), &mut findings);
            findings.len()
        };
        assert_eq!(findings("wal/src/x.rs", "unsafe { f() }"), 1);
        assert_eq!(findings("netio/src/x.rs", "unsafe { f() }"), 1);
        assert_eq!(findings("netio/src/x.rs", "// SAFETY: it is.\nunsafe { f() }"), 0);
        assert_eq!(findings("wal/src/x.rs", "// unsafe\nlet unsafely = 1;"), 0);
        assert_eq!(findings("wal/src/lib.rs", ""), 1);
    }
}
