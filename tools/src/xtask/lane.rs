//! Running lanes and saying how they ended.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// How a lane ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It holds.
    Passed,
    /// It does not; each line is one finding.
    Failed(Vec<String>),
    /// It cannot run here, and why; for lanes that need what a machine may lack.
    Skipped(String),
}

/// A named check.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) run: fn() -> Outcome,
}

/// Runs lanes in order; fails when one failed.
pub(crate) fn run_all<'a>(lanes: impl Iterator<Item = &'a Lane>, keep_going: bool) -> ExitCode {
    let mut failed = false;
    let mut skipped = 0;
    for lane in lanes {
        match run_one(lane.name, lane.run) {
            Outcome::Passed => {}
            Outcome::Skipped(_) => skipped += 1,
            Outcome::Failed(_) => {
                failed = true;
                if !keep_going {
                    break;
                }
            }
        }
    }
    println!("skipped lanes: {skipped}");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs one thing and says how it ended.
pub(crate) fn run_one(name: &str, run: impl FnOnce() -> Outcome) -> Outcome {
    let started = Instant::now();
    println!("RUN {name}");
    let outcome = run();
    match &outcome {
        Outcome::Passed => println!("PASSED {name} ({:.1} s)", started.elapsed().as_secs_f64()),
        Outcome::Skipped(why) => println!("SKIPPED {name}: {why}"),
        Outcome::Failed(findings) => {
            findings.iter().for_each(|finding| println!("  {finding}"));
            println!("FAILED {name}: {} findings", findings.len().max(1));
        }
    }
    outcome
}

/// The top folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(PathBuf::from).unwrap_or(own)
}

/// Runs cargo in the top folder with some environment variables set.
pub(crate) fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command.envs(environment.iter().copied());
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(vec![format!("cargo {}: {status}", arguments.join(" "))]),
        Err(error) => Outcome::Failed(vec![format!("cargo: {error}")]),
    }
}
