//! The pages of the formats and the golden files name each other by hash: when bytes change, their
//! page has to be looked at.

use std::path::Path;

use sha2::{Digest, Sha256};

/// The committed bytes of every format.
const FOLDER: &str = "tests/golden";
/// The pages that describe them, each in a table of lines `| file | hash |`.
const PAGES: [&str; 2] = ["wal/FORMAT.md", "engine/PROTOCOL.md"];
/// So many letters of a hash tell files apart.
const LETTERS: usize = 16;

/// Compares the tables with the files, if there are any.
pub(crate) fn check(root: &Path, findings: &mut Vec<String>) {
    let entries = std::fs::read_dir(root.join(FOLDER)).into_iter().flatten().flatten();
    let mut files: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let bytes = std::fs::read(entry.path()).ok()?;
            Some((entry.file_name().into_string().ok()?, hash(&bytes)))
        })
        .collect();
    files.sort();
    let pages: Vec<(&str, String)> = PAGES
        .iter()
        .filter_map(|page| Some((*page, std::fs::read_to_string(root.join(page)).ok()?)))
        .collect();
    compare(&files, &pages, findings);
}

fn hash(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(LETTERS).map(letter).collect()
}

fn letter(digit: u8) -> char {
    char::from_digit(digit.into(), 16).expect("half of a byte")
}

/// The file and the hash that a line of a page names.
fn named(line: &str) -> Option<(&str, &str)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let path = cells.next()?.trim_matches('`');
    Some((path.strip_prefix(FOLDER)?.strip_prefix('/')?, cells.next()?.trim_matches('`')))
}

fn compare(files: &[(String, String)], pages: &[(&str, String)], findings: &mut Vec<String>) {
    for (file, hash) in files {
        let rows: Vec<(&str, &str)> = pages
            .iter()
            .flat_map(|(page, text)| text.lines().filter_map(named).map(move |row| (*page, row)))
            .filter(|(_, (name, _))| name == file)
            .map(|(page, (_, told))| (page, told))
            .collect();
        match rows[..] {
            [] => findings.push(format!("{FOLDER}/{file}: no page has it: {}", PAGES.join(", "))),
            [(page, told)] if told != hash => findings.push(format!(
                "{page}: {FOLDER}/{file} has changed: say here what is different, and its hash \
                 {hash}"
            )),
            [_] => {}
            [_, ..] => findings.push(format!("{FOLDER}/{file}: named more than once")),
        }
    }
    for (page, text) in pages {
        for (name, _) in text.lines().filter_map(named) {
            if !files.iter().any(|(file, _)| file == name) {
                findings.push(format!("{page}: {FOLDER}/{name} is not there"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_hash_of_each_file_once() {
        let files = [("a.txt".to_owned(), hash(b"bytes"))];
        let found = |rows: &str| {
            let mut findings = Vec::new();
            compare(&files, &[("page.md", rows.to_owned())], &mut findings);
            findings.len()
        };
        let row = format!("| `tests/golden/a.txt` | `{}` | a |\n", hash(b"bytes"));
        assert_eq!(hash(b"bytes").len(), LETTERS);
        assert_eq!(found(&row), 0);
        assert_eq!(found(&row.replace('a', "b")), 2, "one is not there, one has no page");
        assert_eq!(found(&row.repeat(2)), 1);
        assert_eq!(found("| `tests/golden/a.txt` | `0000000000000000` | a |"), 1);
    }
}
