//! The shape of Markdown pages: one title each.

use std::path::Path;

/// Folders that hold no pages of ours.
const FOREIGN: [&str; 3] = ["target", ".git", "node_modules"];

/// Checks every page below the top folder.
pub(crate) fn check(root: &Path, findings: &mut Vec<String>) {
    walk(root, root, findings);
}

fn walk(root: &Path, dir: &Path, findings: &mut Vec<String>) {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !FOREIGN.iter().any(|name| path.ends_with(name)))
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(root, &path, findings);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            match std::fs::read_to_string(&path) {
                Ok(text) => judge(&name, &text, findings),
                Err(error) => findings.push(format!("{name}: {error}")),
            }
        }
    }
}

fn judge(name: &str, text: &str, findings: &mut Vec<String>) {
    let (mut is_code, mut titles) = (false, Vec::new());
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code && line.starts_with("# ") {
            titles.push(at + 1);
        }
    }
    match titles[..] {
        [_] => {}
        [] => findings.push(format!("{name}: no title (# ...)")),
        [_, second, ..] => findings.push(format!("{name}:{second}: a second title; use ##")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_one_title() {
        let found = |text: &str| {
            let mut findings = Vec::new();
            judge("page.md", text, &mut findings);
            findings
        };
        assert_eq!(found("# One\n\n## Two\n```\n# a comment of a shell\n```\n"), [""; 0]);
        assert_eq!(found("# One\n# Two\n"), ["page.md:2: a second title; use ##"]);
        assert_eq!(found("## Two\n"), ["page.md: no title (# ...)"]);
    }
}
