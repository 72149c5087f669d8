//! The code map names every module, and only modules that are there.

use std::path::Path;

use super::source::Source;

/// The page with the code map.
const MAP: &str = "ARCHITECTURE.md";

/// Checks the code map, if the page is there.
pub(crate) fn check(root: &Path, sources: &[Source], findings: &mut Vec<String>) {
    let Ok(map) = std::fs::read_to_string(root.join(MAP)) else { return };
    compare(&map, sources, findings);
}

fn compare(map: &str, sources: &[Source], findings: &mut Vec<String>) {
    for source in sources {
        if let Some(module) = module(&source.path)
            && !map.contains(&module)
        {
            findings.push(format!("{MAP}: does not name {module}"));
        }
    }
    for (at, line) in map.lines().enumerate() {
        for named in line.split('`').skip(1).step_by(2).filter(|name| is_module(name)) {
            let there = |source: &Source| {
                source.path == *named || source.path.starts_with(&format!("{named}/"))
            };
            let folder = named.strip_suffix('/');
            let holds = |source: &Source| {
                folder.is_some_and(|folder| source.path.starts_with(&format!("{folder}/")))
            };
            if !sources.iter().any(|source| there(source) || holds(source)) {
                findings.push(format!("{MAP}:{}: {named} is not there", at + 1));
            }
        }
    }
}

/// The top module of a crate's file: `wal/src/writer.rs`, `engine/src/paxos`.
fn module(path: &str) -> Option<String> {
    let mut parts = path.split('/');
    let (krate, src, first) = (parts.next()?, parts.next()?, parts.next()?);
    let core = matches!(krate, "netio" | "wal" | "engine" | "tools");
    (core && src == "src" && first != "lib.rs" && first != "bin")
        .then(|| format!("{krate}/src/{first}"))
}

fn is_module(name: &str) -> bool {
    let mut parts = name.split('/');
    let krate = parts.next().unwrap_or_default();
    ["netio", "wal", "engine", "bench", "tests", "tools"].contains(&krate)
        && parts.next() == Some("src")
        && !name.contains(['*', ' ', '{'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_and_the_modules_name_each_other() {
        let source = |path: &str| Source::new(path.to_owned(), "");
        let sources = [source("wal/src/writer.rs"), source("engine/src/paxos/replica.rs")];
        let mut findings = Vec::new();
        compare("`wal/src/writer.rs` and `engine/src/paxos`", &sources, &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
        compare("`wal/src/gone.rs`", &sources, &mut findings);
        assert_eq!(findings.len(), 3, "{findings:?}");
    }
}
