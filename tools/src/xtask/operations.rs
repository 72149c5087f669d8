//! OPERATIONS.md has an entry for each state, alarm and exit code, and for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::source::Source;

/// The page for operators.
const PAGE: &str = "OPERATIONS.md";
/// The sections, each with the calls whose first string names an entry.
const SECTIONS: [(&str, &[&str]); 3] = [
    ("## Exit codes", &[]),
    ("## States of a stream", &["words(\"", "State::"]),
    ("## Alarms", &["alarm(\"", "code: \""]),
];

/// Checks the page, if it is there.
pub(crate) fn check(root: &Path, sources: &[Source], findings: &mut Vec<String>) {
    let Ok(page) = std::fs::read_to_string(root.join(PAGE)) else { return };
    compare(&page, sources, findings);
}

fn compare(page: &str, sources: &[Source], findings: &mut Vec<String>) {
    let there = entries(page);
    for (section, marks) in SECTIONS {
        let there = there.get(section).cloned().unwrap_or_default();
        let wanted = match marks {
            [] => exit_codes(sources),
            marks => named(sources, marks),
        };
        for code in wanted.difference(&there) {
            findings.push(format!("{PAGE}: {section} has no entry for `{code}`"));
        }
        for code in there.difference(&wanted) {
            findings.push(format!("{PAGE}: {section} has an entry for `{code}`, which is gone"));
        }
    }
}

/// The entries of each section.
fn entries(page: &str) -> BTreeMap<&str, BTreeSet<String>> {
    let mut all = BTreeMap::<&str, BTreeSet<String>>::new();
    let mut section = "";
    for line in page.lines() {
        if line.starts_with("## ") {
            section = line;
        } else if let Some(code) = line.strip_prefix("### `").and_then(|l| l.strip_suffix('`')) {
            all.entry(section).or_default().insert(code.to_owned());
        }
    }
    all
}

/// What the engine names after one of `marks`.
fn named(sources: &[Source], marks: &[&str]) -> BTreeSet<String> {
    let engine = sources.iter().filter(|source| source.path.starts_with("engine/src/"));
    let lines = engine.flat_map(|source| {
        source.production().map(|(number, _)| source.lines[number - 1].as_str())
    });
    lines.flat_map(|line| marks.iter().filter_map(|mark| code_after(line, mark))).collect()
}

/// The code in a line such as `words("normal", ..)` or `State::Wait => "wait",`.
fn code_after(line: &str, mark: &str) -> Option<String> {
    let (_, rest) = line.split_once(mark)?;
    let rest = match mark.strip_suffix('"') {
        Some(_) => rest,
        None => rest.split_once("=> \"")?.1,
    };
    let (code, _) = rest.split_once('"')?;
    let is_code = |c: char| c.is_ascii_lowercase() || c == '-';
    (!code.is_empty() && code.chars().all(is_code)).then(|| code.to_owned())
}

/// The numbers of the program's `Exit`.
fn exit_codes(sources: &[Source]) -> BTreeSet<String> {
    let source = sources.iter().filter(|source| source.path == "tools/src/exit.rs");
    let lines = source.flat_map(|source| &source.code);
    let codes = lines.filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "));
    codes.map(|(_, code)| code.to_owned()).filter(|c| c.parse::<u8>().is_ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(page: &str) -> Vec<String> {
        let source = |path: &str, text: &str| Source::new(path.to_owned(), text);
        let sources = [
            source("tools/src/exit.rs", "enum Exit {\n    Ok = 0,\n}\n"),
            source("engine/src/a.rs", "words(\"normal\", \"\");\nState::Wait => \"wait\",\n"),
            source("engine/src/b.rs", "self.alarm(\"log-full\", text);\n"),
        ];
        let mut findings = Vec::new();
        compare(page, &sources, &mut findings);
        findings
    }

    #[test]
    fn each_code_has_one_entry() {
        let page = "## Exit codes\n### `0`\n## States of a stream\n### `normal`\n### `wait`\n\
                    ## Alarms\n### `log-full`\n";
        assert_eq!(findings(page), [""; 0]);
        let (missing, gone) = (page.replace("### `wait`\n", ""), page.replace("wait", "waits"));
        assert_eq!((findings(&missing).len(), findings(&gone).len()), (1, 2));
        assert_eq!(findings("").len(), 4);
    }
}
