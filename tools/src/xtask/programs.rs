//! `cargo test --workspace` needs no program that a machine with a Rust toolchain may lack.

use super::source::Source;

/// Programs that tests may start: a shell, and what coreutils has.
const THERE: [&str; 4] = ["sh", "cp", "cat", "true"];
/// Programs that start others, as the first word of a line of words.
const LAUNCHERS: [&str; 9] =
    ["strace", "setpriv", "prlimit", "taskset", "unshare", "gdb", "perf", "ip", "sudo"];
/// The target that is left out; see tools/Cargo.toml.
const LEFT_OUT: &str = "tools/tests/machine/";

/// Checks one file, if it is a test by its place.
pub(crate) fn check(source: &Source, findings: &mut Vec<String>) {
    if !source.is_test() || source.path.starts_with(LEFT_OUT) {
        return;
    }
    for (at, line) in source.lines.iter().enumerate() {
        let is_code = source.code.get(at).is_some_and(|code| !code.trim().is_empty());
        let strings = line.split('"').skip(1).step_by(2).filter(|_| is_code);
        for text in strings {
            let first = text.split(' ').next().unwrap_or_default();
            let started = line.contains(&format!("Command::new(\"{text}\")"));
            if LAUNCHERS.contains(&first) || (started && !THERE.contains(&text)) {
                let path = &source.path;
                findings.push(format!("{path}:{}: {first}: move it to {LEFT_OUT}", at + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&Source::new(path.to_owned(), text), &mut findings);
        findings
    }

    #[test]
    fn a_test_starts_what_every_machine_has() {
        let launcher = "fn f() { words(\"strace -f -o /dev/null\") }\n// \"strace\" is no code\n";
        let place = "tools/tests/processes/machine.rs";
        assert_eq!(
            findings(place, launcher),
            [format!("{place}:1: strace: move it to {LEFT_OUT}")]
        );
        assert_eq!(findings("tools/tests/machine/limits.rs", launcher), [""; 0]);
        assert_eq!(findings("tools/src/xtask/machine.rs", launcher), [""; 0]);
        assert_eq!(findings(place, "fn f() { Command::new(\"fio\"); }").len(), 1);
        assert_eq!(findings(place, "fn f() { Command::new(\"sh\"); }"), [""; 0]);
    }
}
