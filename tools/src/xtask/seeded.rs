//! Seeded bugs: each marked rule of the consensus core is removed by a cfg, and a trace that was
//! made for that rule must then fail. They examine the tests, not the code. Whether the random
//! walks find the bug as well is printed; that may hang on a single seed.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use super::lane::root;

/// Where the traces are.
const CASES: &str = "paxos::tests::cases::";
const WALKS: &str = "paxos::tests::walk::";

/// The cfg values, one per rule marked * in the design of the consensus, and the trace of each.
const BUGS: [(&str, &str); 5] = [
    ("candidate_promise_not_durable", "a_candidate_that_forgets_its_promise_has_asked_for_none"),
    ("promise_before_prefix_durable", "a_promise_that_is_forgotten_was_never_heard"),
    ("accepting_raised_by_fetch", "a_candidate_without_the_bytes_of_its_tail_outranks_nobody"),
    ("takeover_below_committed", "a_takeover_that_comes_twice_acts_once"),
    ("commit_of_other_ballot", "a_commit_of_another_ballot_is_ignored"),
];

/// Builds the tests of the consensus core once per bug; its trace must fail in each.
pub(crate) fn run(only: &[String]) -> ExitCode {
    let mut missed = 0;
    let wanted = |bug: &str| only.is_empty() || only.iter().any(|name| name == bug);
    for (bug, case) in BUGS.into_iter().filter(|(bug, _)| wanted(bug)) {
        let started = Instant::now();
        match find(bug, case) {
            Ok((true, by)) => println!("FOUND {bug} by {by} ({:.1} s)", seconds(started)),
            Ok((false, _)) => {
                println!("MISSED {bug}: {case} passes without the rule");
                missed += 1;
            }
            Err(error) => {
                println!("MISSED {bug}: {error}");
                missed += 1;
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// Whether the trace fails without the rule, and what does.
fn find(bug: &str, case: &str) -> Result<(bool, String), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let cfg = format!("seeded_bug=\"{bug}\"");
    let built = Command::new(cargo)
        .args(["rustc", "--quiet", "--package", "palisade", "--lib", "--profile", "test"])
        .args(["--message-format", "json", "--", "--cfg", &cfg])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !built.status.success() {
        return Err(format!("cargo rustc: {}", built.status));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let program = messages.lines().rev().find_map(executable).ok_or("cargo named no test")?;
    let mut failed = failing(Path::new(&program), CASES)?;
    let found = failed.iter().any(|name| name == case);
    let walks = failing(Path::new(&program), WALKS)?.len();
    failed.retain(|name| name != case);
    Ok((found, format!("{case}, {} other cases, {walks} of the walks", failed.len())))
}

/// The tests of this module that fail, by their names in it.
fn failing(program: &Path, module: &str) -> Result<Vec<String>, String> {
    let output = Command::new(program)
        .arg(module)
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("the tests: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = |line: &str| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        name.strip_prefix(module).map(str::to_owned)
    };
    let ran = text.lines().any(|line| line.starts_with("running ") && line != "running 0 tests");
    let names: Vec<String> = text.lines().filter_map(failed).collect();
    if !ran || output.status.success() != names.is_empty() {
        return Err(format!("{module} did not run: {}", output.status));
    }
    Ok(names)
}

fn executable(message: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    message.get("executable")?.as_str().map(str::to_owned)
}
