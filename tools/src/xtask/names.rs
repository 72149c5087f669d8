//! What the pages name in backticks is in the code: files, tests, functions, types, constants.

use std::collections::BTreeSet;
use std::path::Path;

use super::source::Source;

/// Pages that speak of the code.
const PAGES: [&str; 6] = [
    "engine/PROTOCOL.md",
    "wal/FORMAT.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "OPERATIONS.md",
    "README.md",
];
/// A name of so many words is the sentence of a test: it has to be a function.
const SENTENCE_WORDS: usize = 5;

/// What there is to name.
struct Known<'a> {
    paths: Vec<&'a str>,
    functions: BTreeSet<&'a str>,
    /// Every word outside of comments, those of strings too: fields of JSON, keys, seeded bugs.
    words: BTreeSet<&'a str>,
}

/// Checks the pages that are there.
pub(crate) fn check(root: &Path, sources: &[Source], findings: &mut Vec<String>) {
    let known = Known::of(sources);
    for page in PAGES {
        if let Ok(text) = std::fs::read_to_string(root.join(page)) {
            known.compare(page, &text, findings);
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl<'a> Known<'a> {
    fn of(sources: &'a [Source]) -> Known<'a> {
        let (mut functions, mut words) = (BTreeSet::new(), BTreeSet::new());
        for line in sources.iter().flat_map(|source| &source.lines) {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let mut before = "";
            for word in line.split(|c| !is_word(c)).filter(|word| !word.is_empty()) {
                if before == "fn" {
                    functions.insert(word);
                }
                words.insert(word);
                before = word;
            }
        }
        Known { paths: sources.iter().map(|s| s.path.as_str()).collect(), functions, words }
    }

    fn compare(&self, page: &str, text: &str, findings: &mut Vec<String>) {
        let mut is_code = false;
        for (at, line) in text.lines().enumerate() {
            if line.starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                for name in line.split('`').skip(1).step_by(2).filter(|name| !self.has(name)) {
                    findings.push(format!("{page}:{}: `{name}` is not in the code", at + 1));
                }
            }
        }
    }

    /// Whether it is there, or not of a shape that must be.
    fn has(&self, name: &str) -> bool {
        if name.ends_with(".rs") && name.chars().all(|c| is_word(c) || "/.".contains(c)) {
            let below = format!("/{name}");
            return self.paths.iter().any(|path| *path == name || path.ends_with(&below));
        }
        let name = name.strip_suffix("()").unwrap_or(name);
        if !name.chars().all(|c| is_word(c) || ":.".contains(c)) {
            return true;
        }
        let last = name.rsplit([':', '.']).next().unwrap_or_default();
        match last.split('_').count() {
            _ if !is_name(last) => true,
            words if words >= SENTENCE_WORDS && is_lower(last) => self.functions.contains(last),
            _ => self.words.contains(last),
        }
    }
}

fn is_lower(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `some_words`, `SOME_WORDS` or `SomeWords`; a single word may be anything.
fn is_name(word: &str) -> bool {
    let parts = word.split('_').count() > 1 && word.split('_').all(|part| !part.is_empty());
    let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let humps = word.chars().filter(char::is_ascii_uppercase).count();
    let starts = |of: fn(&char) -> bool| word.chars().next().is_some_and(|c| of(&c));
    let camel = !word.contains('_') && humps > 1 && word.chars().any(|c| c.is_ascii_lowercase());
    (parts && is_lower(word) && starts(char::is_ascii_lowercase))
        || (parts && word.chars().all(upper) && starts(char::is_ascii_uppercase))
        || (camel && starts(char::is_ascii_uppercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(page: &str) -> Vec<String> {
        let text = "/// a_name_in_a_comment_alone\n\
                    fn a_rule_holds_in_a_test() { on_own_promise() }\n\
                    const ENDS_MAX: usize = 1; struct SomeThing; x(\"failover_ms\");\n";
        let sources = [Source::new("engine/src/paxos/learn.rs".to_owned(), text)];
        let mut findings = Vec::new();
        Known::of(&sources).compare("page.md", page, &mut findings);
        findings
    }

    #[test]
    fn a_page_names_what_is_there() {
        let page = "| `learn.rs` `on_own_promise`, `paxos/learn.rs` |\n\
                    | `a_rule_holds_in_a_test` | `ENDS_MAX` `SomeThing` `any word`\n\
                    `SomeThing::on_own_promise()` `failover_ms` `palisade demo --json`\n\
                    `Takeover`, `sync`\n```\n`no_name_in_code_blocks`\n```\n";
        assert_eq!(findings(page), [""; 0]);
    }

    #[test]
    fn what_is_gone_is_found_where_it_is_named() {
        for gone in [
            "on_no_promise",
            "some/learn.rs",
            "gone.rs",
            "a_rule_that_holds_no_more_at_all",
            "a_name_in_a_comment_alone",
            "ENDS_MIN",
            "OtherThing",
            "SomeThing::on_other_promise()",
        ] {
            let found = findings(&format!("one\n`{gone}`\n"));
            assert_eq!(found, [format!("page.md:2: `{gone}` is not in the code")]);
        }
        // A sentence must be a function; a word of the code is not enough.
        let text = "fn f() { let a_local_of_many_words = 1; }";
        let sources = [Source::new("wal/src/x.rs".to_owned(), text)];
        assert!(!Known::of(&sources).has("a_local_of_many_words"));
    }
}
