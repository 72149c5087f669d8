//! Lines, files and functions have a size; some words do not stay.

use super::source::Source;

/// Characters of a line.
const LINE_CHARS_MAX: usize = 100;
/// Lines of a file.
const FILE_LINES_MAX: usize = 1000;
/// Lines of a function, signature and braces included.
const FUNCTION_LINES_MAX: usize = 70;
/// What must not be committed; `(word, why)`.
const BANNED: [(&str, &str); 4] = [
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
    ("dbg!", "remove it"),
    ("#[ignore", "repair the test or delete it"),
];
/// Names that fit every module say nothing of any.
const BANNED_MODULES: [&str; 7] =
    ["common", "impls", "manager", "misc", "util", "utils", "helpers"];
/// The same in comments too; split so that this file passes.
const BANNED_ANYWHERE: [&str; 3] = [concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK:")];

/// Checks one file.
pub(crate) fn check(source: &Source, findings: &mut Vec<String>) {
    let path = &source.path;
    if source.lines.len() > FILE_LINES_MAX {
        findings.push(format!("{path}: {} lines, at most {FILE_LINES_MAX}", source.lines.len()));
    }
    for (at, line) in source.lines.iter().enumerate() {
        let number = at + 1;
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            findings.push(format!("{path}:{number}: {chars} characters, at most {LINE_CHARS_MAX}"));
        }
        for word in BANNED_ANYWHERE.iter().filter(|word| line.contains(**word)) {
            findings.push(format!("{path}:{number}: {word}"));
        }
    }
    for (at, line) in source.code.iter().enumerate() {
        for (word, why) in BANNED.iter().filter(|(word, _)| line.contains(word)) {
            findings.push(format!("{path}:{}: {word}: {why}", at + 1));
        }
    }
    let stem = path.strip_suffix(".rs").unwrap_or(path).trim_end_matches("/mod");
    let stem = stem.rsplit('/').next().unwrap_or_default();
    let declared = source.code.iter().enumerate().filter_map(|(at, line)| {
        let (_, rest) = line.split_once("mod ").filter(|(before, _)| is_visibility(before))?;
        Some((at + 1, rest.split([';', ' ', '{']).next().unwrap_or_default()))
    });
    for (number, name) in declared.chain([(1, stem)]) {
        if BANNED_MODULES.contains(&name) {
            findings.push(format!("{path}:{number}: mod {name}: name it after what it holds"));
        }
    }
    for (number, name, lines) in functions(source) {
        if lines > FUNCTION_LINES_MAX {
            let most = FUNCTION_LINES_MAX;
            findings.push(format!("{path}:{number}: fn {name} has {lines} lines, at most {most}"));
        }
    }
}

/// What may stand before the word `mod`.
fn is_visibility(before: &str) -> bool {
    let before = before.trim();
    before.is_empty() || before.starts_with("pub") || before.ends_with(']')
}

/// Line, name and length of each function with a body.
fn functions(source: &Source) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        let Some(name) = declared(line) else { continue };
        if let Some(end) = body_end(&source.code[at..]) {
            found.push((at + 1, name, end + 1));
        }
    }
    found
}

/// The name of a function that is declared on this line.
fn declared(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    words.by_ref().find(|word| *word == "fn")?;
    let name: String =
        words.next()?.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    // `fn(...)` is a type.
    (!name.is_empty()).then_some(name)
}

/// The line, counted from the declaration, on which the body closes.
fn body_end(lines: &[String]) -> Option<usize> {
    let (mut braces, mut brackets) = (0i32, 0i32);
    for (at, line) in lines.iter().enumerate() {
        for c in line.chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                // A declaration without a body.
                ';' if braces == 0 && brackets == 0 => return None,
                '{' => braces += 1,
                '}' => {
                    braces -= 1;
                    if braces == 0 {
                        return Some(at);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("wal/src/x.rs".to_owned(), text)
    }

    #[test]
    fn functions_are_measured_and_declarations_are_not() {
        let text = "trait T {\n    fn a(x: [u8; 4]);\n    fn b() {\n        x()\n    }\n}\n";
        let found = functions(&source(text));
        assert_eq!(found, [(3, "b".to_owned(), 3)]);
        let long = format!("fn long() {{\n{}}}\n", "    x();\n".repeat(69));
        let mut findings = Vec::new();
        check(&source(&long), &mut findings);
        assert_eq!(findings, ["wal/src/x.rs:1: fn long has 71 lines, at most 70"]);
    }

    #[test]
    fn long_lines_and_leftovers_are_found() {
        let mut findings = Vec::new();
        let text = format!("fn f() {{ todo!() }}\n// {}\n", "x".repeat(98));
        check(&source(&text), &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
        findings.clear();
        check(&source("const A: &str = \"todo!\";\n"), &mut findings);
        assert!(findings.is_empty());
    }

    #[test]
    fn a_module_is_named_after_what_it_holds() {
        for name in BANNED_MODULES {
            for text in [format!("mod {name};\n"), format!("pub(crate) mod {name} {{\n}}\n")] {
                let mut findings = Vec::new();
                check(&source(&text), &mut findings);
                assert_eq!(findings.len(), 1, "{text}: {findings:?}");
            }
            for path in [format!("wal/src/{name}.rs"), format!("wal/src/{name}/mod.rs")] {
                let mut findings = Vec::new();
                check(&Source::new(path, ""), &mut findings);
                assert_eq!(findings.len(), 1, "{name}: {findings:?}");
            }
        }
        let mut findings = Vec::new();
        check(&source("mod utilities; mod commons;\n// mod util;\n"), &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
    }
}
