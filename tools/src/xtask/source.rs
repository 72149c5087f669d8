//! The Rust sources of the workspace, with comments and strings told apart from code.

use std::path::{Path, PathBuf};

/// Folders that hold crates.
const CRATES: [&str; 6] = ["netio", "wal", "engine", "bench", "tests", "tools"];

/// One source file.
pub(crate) struct Source {
    /// Path below the top folder, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) lines: Vec<String>,
    /// The same lines with comments and the insides of strings blanked out.
    pub(crate) code: Vec<String>,
}

/// Every Rust file of every crate, sorted.
pub(crate) fn all(root: &Path) -> std::io::Result<Vec<Source>> {
    let mut paths = Vec::new();
    for name in CRATES {
        let dir = root.join(name);
        if dir.is_dir() {
            walk(&dir, &mut paths)?;
        }
    }
    paths.sort();
    let read = |path: &PathBuf| -> std::io::Result<Source> {
        let text = std::fs::read_to_string(path)?;
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
        Ok(Source::new(name, &text))
    };
    paths.iter().map(read).collect()
}

fn walk(dir: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, paths)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

impl Source {
    /// A file with this text.
    pub(crate) fn new(path: String, text: &str) -> Source {
        let code = blank(text);
        Source {
            path,
            lines: text.lines().map(str::to_owned).collect(),
            code: code.lines().map(str::to_owned).collect(),
        }
    }

    /// Whether the file is a test by its place.
    pub(crate) fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.starts_with("tests/")
    }

    /// Lines of code before the tests at the end of the file, numbered from 1.
    pub(crate) fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        let marks = self.code.iter().position(|line| line.trim() == "#[cfg(test)]");
        let end = marks.unwrap_or(self.code.len());
        let numbered = self.code[..end].iter().enumerate();
        numbered.map(|(at, line)| (at + 1, line.as_str()))
    }
}

/// Replaces comments and the insides of strings and characters by spaces.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => comment_end(&chars, at),
            '"' => string_end(&chars, at),
            'r' if raw_hashes(&chars, at).is_some() => raw_end(&chars, at),
            '\'' => char_end(&chars, at),
            _ => at + 1,
        };
        let plain = end == at + 1;
        for &c in &chars[at..end] {
            out.push(if plain || c == '\n' { c } else { ' ' });
        }
        at = end;
    }
    out
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |len| at + len)
}

fn comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut here = at;
    while here < chars.len() {
        match (chars[here], chars.get(here + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                here += 1;
                continue;
            }
        }
        here += 2;
        if depth == 0 {
            return here;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut here = at + 1;
    while here < chars.len() {
        match chars[here] {
            '\\' => here += 2,
            '"' => return here + 1,
            _ => here += 1,
        }
    }
    chars.len()
}

/// Hashes of a raw string that starts here.
fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let byte_prefix = at > 0 && chars[at - 1] == 'b';
    if inside_word && !byte_prefix {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn raw_end(chars: &[char], at: usize) -> usize {
    let hashes = raw_hashes(chars, at).unwrap_or(0);
    let mut here = at + hashes + 2;
    while here < chars.len() {
        let closing = chars[here + 1..].iter().take(hashes).filter(|&&c| c == '#').count();
        if chars[here] == '"' && closing == hashes {
            return here + 1 + hashes;
        }
        here += 1;
    }
    chars.len()
}

/// A character literal, or just the mark of a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            let close = chars[at + 3..].iter().position(|&c| c == '\'');
            close.map_or(at + 1, |len| at + 3 + len + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        let text = "let a = \"unsafe \\\" {\"; // unsafe\nlet c = '{'; let r = r#\"un\"safe\"#;\n";
        let source = Source::new("x.rs".to_owned(), text);
        assert!(source.code.iter().all(|line| !line.contains("unsafe") && !line.contains('{')));
        assert!(source.code[1].contains("let r ="));
        let lifetime = Source::new("x.rs".to_owned(), "fn f<'a>(x: &'a str) { g('\\n') }");
        assert!(lifetime.code[0].contains("fn f<'a>(x: &'a str) {"));
        let nested = Source::new("x.rs".to_owned(), "/* a /* b */ unsafe */ code");
        assert_eq!(nested.code[0].trim(), "code");
    }
}
