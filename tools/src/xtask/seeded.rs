//! Seeded bugs: each marked rule of the consensus core and of the transfer is removed by a cfg,
//! and a trace that was made for that rule must then fail. They examine the tests, not the code.
//! Which other tests find the bug is printed; for a random walk that may hang on a single seed.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use super::lane::root;

/// A rule that can be switched off.
struct Bug {
    /// Value of the cfg.
    cfg: &'static str,
    /// The trace that must fail without the rule.
    trace: &'static str,
    /// Other tests that may find it.
    others: &'static str,
}

const BUGS: [Bug; 6] = [
    Bug {
        cfg: "candidate_promise_not_durable",
        trace: "paxos::tests::cases::a_candidate_that_forgets_its_promise_has_asked_for_none",
        others: "paxos::tests::walk::",
    },
    Bug {
        cfg: "promise_before_prefix_durable",
        trace: "paxos::tests::cases::a_promise_that_is_forgotten_was_never_heard",
        others: "paxos::tests::walk::",
    },
    Bug {
        cfg: "accepting_raised_by_fetch",
        trace: "paxos::tests::cases::a_candidate_without_the_bytes_of_its_tail_outranks_nobody",
        others: "paxos::tests::walk::",
    },
    Bug {
        cfg: "takeover_below_committed",
        trace: "paxos::tests::cases::a_takeover_that_comes_twice_acts_once",
        others: "paxos::tests::walk::",
    },
    Bug {
        cfg: "commit_of_other_ballot",
        trace: "paxos::tests::cases::a_commit_of_another_ballot_is_ignored",
        others: "paxos::tests::walk::",
    },
    Bug {
        cfg: "chunk_chain_unchecked",
        trace: "transfer::receiver_tests::a_chunk_is_checked_whole",
        others: "transfer::",
    },
];

/// Builds the tests of the consensus core once per bug; its trace must fail in each.
pub(crate) fn run(only: &[String]) -> ExitCode {
    let mut missed = 0;
    let wanted = |bug: &Bug| only.is_empty() || only.iter().any(|name| name == bug.cfg);
    for bug in BUGS.iter().filter(|bug| wanted(bug)) {
        let (started, name) = (Instant::now(), bug.cfg);
        match find(bug) {
            Ok((true, others)) => {
                let took = started.elapsed().as_secs_f64();
                println!("FOUND {name} by {} and {others} others ({took:.1} s)", bug.trace);
            }
            Ok((false, others)) => {
                println!(
                    "MISSED {name}: {} passes without the rule; {others} others fail",
                    bug.trace
                );
                missed += 1;
            }
            Err(error) => {
                println!("MISSED {name}: {error}");
                missed += 1;
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the trace fails without the rule, and how many other tests do.
fn find(bug: &Bug) -> Result<(bool, usize), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let cfg = format!("seeded_bug=\"{}\"", bug.cfg);
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
    let program = Path::new(&program);
    let found = !failing(program, bug.trace)?.is_empty();
    let others = failing(program, bug.others)?.into_iter().filter(|name| name != bug.trace);
    Ok((found, others.count()))
}

/// The tests of this name, or in this module, that fail.
fn failing(program: &Path, tests: &str) -> Result<Vec<String>, String> {
    let output = Command::new(program)
        .arg(tests)
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("the tests: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed =
        |line: &str| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned);
    let ran = text.lines().any(|line| line.starts_with("running ") && line != "running 0 tests");
    let names: Vec<String> = text.lines().filter_map(failed).collect();
    if !ran || output.status.success() != names.is_empty() {
        return Err(format!("{tests} did not run: {}", output.status));
    }
    Ok(names)
}

fn executable(message: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    message.get("executable")?.as_str().map(str::to_owned)
}
