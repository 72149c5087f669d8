//! What decides has no I/O, no clock, no thread and no randomness.

use super::source::Source;

/// Folders whose production code is pure.
const PURE: [&str; 5] = [
    "wal/src/",
    "engine/src/control",
    "engine/src/paxos",
    "engine/src/stream",
    "engine/src/transfer",
];
/// What must not be named there.
const IMPURE: [&str; 12] = [
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::thread",
    "std::io::Read",
    "std::io::Write",
    "Instant",
    "SystemTime",
    "rand::",
    "getrandom",
    "thread_local!",
    "RandomState",
];

/// Checks one file.
pub(crate) fn check(source: &Source, findings: &mut Vec<String>) {
    if source.is_test() || !PURE.iter().any(|folder| source.path.starts_with(folder)) {
        return;
    }
    for (number, line) in source.production() {
        for name in IMPURE.iter().filter(|name| line.contains(**name)) {
            findings.push(format!("{}:{number}: {name} in the pure core", source.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_is_pure_and_its_tests_need_not_be() {
        let findings = |path: &str, text: &str| {
            let mut findings = Vec::new();
            check(&Source::new(path.to_owned(), text), &mut findings);
            findings.len()
        };
        assert_eq!(findings("wal/src/x.rs", "use std::fs::File;"), 1);
        assert_eq!(findings("engine/src/shard/x.rs", "use std::fs::File;"), 0);
        assert_eq!(findings("wal/src/x.rs", "#[cfg(test)]\nmod tests { use std::fs::File; }"), 0);
        assert_eq!(findings("engine/src/paxos/tests/x.rs", "use std::fs::File;"), 0);
    }
}
