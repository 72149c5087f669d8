//! Seeded bugs: each marked rule of the consensus core and of the transfer is removed by a cfg, and
//! the tests of that module must then fail. They examine the tests, not the code.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use super::lane::root;

/// The cfg values, one per rule, and the module whose tests must find it.
const BUGS: [(&str, &str); 6] = [
    ("candidate_promise_not_durable", "paxos::"),
    ("promise_before_prefix_durable", "paxos::"),
    ("accepting_raised_by_fetch", "paxos::"),
    ("takeover_below_committed", "paxos::"),
    ("commit_of_other_ballot", "paxos::"),
    ("chunk_chain_unchecked", "transfer::"),
];

/// Builds the engine and runs the tests of the module once per bug; all must fail.
pub(crate) fn run(only: &[String]) -> ExitCode {
    let mut missed = 0;
    let wanted = |bug: &str| only.is_empty() || only.iter().any(|name| name == bug);
    for (bug, module) in BUGS.into_iter().filter(|(bug, _)| wanted(bug)) {
        let started = Instant::now();
        match find(bug, module) {
            Ok(true) => println!("FOUND {bug} ({:.1} s)", started.elapsed().as_secs_f64()),
            Ok(false) => {
                println!("MISSED {bug}: the tests pass without the rule");
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

/// Whether the tests fail without the rule.
fn find(bug: &str, module: &str) -> Result<bool, String> {
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
    let status = Command::new(program)
        .args(["--quiet", module])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("the tests: {error}"))?;
    Ok(!status.success())
}

fn executable(message: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    message.get("executable")?.as_str().map(str::to_owned)
}
