//! What is promised, and the tests that show it: each one that the protocol's page names is there.

use std::path::Path;

const PAGE: &str = "engine/PROTOCOL.md";
/// Where the table is.
const SECTION: &str = "## What is promised, sentence by sentence";

/// Looks for every test that the table names.
pub(crate) fn check(root: &Path, findings: &mut Vec<String>) {
    match std::fs::read_to_string(root.join(PAGE)) {
        Ok(page) => judge(&page, |file| std::fs::read_to_string(root.join(file)).ok(), findings),
        Err(error) => findings.push(format!("{PAGE}: {error}")),
    }
}

fn judge(page: &str, read: impl Fn(&str) -> Option<String>, findings: &mut Vec<String>) {
    let section = page.lines().skip_while(|line| *line != SECTION).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let rows = section.filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut count = 0;
    for row in rows {
        count += 1;
        // Between back ticks, every second part.
        let named: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let [file, test] = named[..] else {
            findings.push(format!("{PAGE}: {row}: a file and a test of it"));
            continue;
        };
        let is_there = read(file).is_some_and(|text| text.contains(&format!("fn {test}(")));
        if !is_there {
            findings.push(format!("{PAGE}: no test {test} in {file}"));
        }
    }
    if count == 0 {
        findings.push(format!("{PAGE}: no row below {SECTION:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_named_is_there() {
        let found = |row: &str| {
            let mut findings = Vec::new();
            let page = format!("{SECTION}\n\n| sentence | shown by |\n|---|---|\n{row}\n## Next\n");
            let read = |file: &str| (file == "a.rs").then(|| "fn shows_it() {}".to_owned());
            judge(&page, read, &mut findings);
            findings.len()
        };
        assert_eq!(found("| so it is | `a.rs` `shows_it` |"), 0);
        assert_eq!(found("| so it is | `a.rs` `shows` |"), 1);
        assert_eq!(found("| so it is | `b.rs` `shows_it` |"), 1);
        assert_eq!(found("| so it is | `a.rs` |"), 1);
        assert_eq!(found(""), 1);
    }
}
