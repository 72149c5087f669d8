//! Fuzzing: every target for its part of the time.

use std::process::{Command, ExitCode, Stdio};

use clap::Args;

use super::lane::root;
use super::seeded::build;

/// What is fuzzed, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these targets
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Seconds for all of them together
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// First seed; by default one that no run had before
    #[arg(long)]
    from: Option<u64>,
}

impl Options {
    /// All targets, for so many seconds together.
    pub(crate) fn lasting(seconds: u64) -> Options {
        Options { targets: Vec::new(), seconds, from: None }
    }
}

/// Builds the targets once and runs them; each says how many inputs it had.
pub(crate) fn run(options: &Options) -> ExitCode {
    let package = ["test", "--no-run", "--package", "palisade-tests", "--test", "fuzz"];
    let program = match build(None, "fuzz", &package) {
        Ok(program) => program,
        Err(error) => {
            println!("FAILED to build: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A batch takes one seed, and no target takes a million in a second.
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let from = options.from.unwrap_or(now << 20);
    let mut command = Command::new(&program);
    let listed = match command.args(["--list", "--format", "terse"]).output() {
        Ok(listed) => String::from_utf8_lossy(&listed.stdout).into_owned(),
        Err(error) => {
            println!("FAILED: {}: {error}", program.display());
            return ExitCode::FAILURE;
        }
    };
    let wanted = |name: &&str| {
        let is_target = !name.ends_with("every_format_has_a_target");
        is_target && options.targets.is_empty()
            || options.targets.iter().any(|part| name.contains(part.as_str()))
    };
    let names: Vec<&str> =
        listed.lines().filter_map(|line| line.strip_suffix(": test")).filter(wanted).collect();
    if names.is_empty() {
        println!("no target is named {}; they are\n{listed}", options.targets.join(", "));
        return ExitCode::FAILURE;
    }
    let shares: u64 = names.iter().map(|name| share(name)).sum();
    let time = |name: &str| (options.seconds * 1000 * share(name) / shares).max(1);
    let failed: Vec<&&str> =
        names.iter().filter(|name| !passes(&program, name, time(name), from)).collect();
    println!("{} targets, seeds from {from}, {} failed", names.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Parts of the time that a target gets: an input of a whole log takes a thousand times as long.
fn share(name: &str) -> u64 {
    if name.starts_with("recovery::") { 12 } else { 1 }
}

/// Runs one target. What it says of its inputs is shown; all of it when it fails.
fn passes(program: &std::path::Path, name: &str, each_ms: u64, from: u64) -> bool {
    let output = Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .env("PALISADE_FUZZ_MS", each_ms.to_string())
        .env("PALISADE_FUZZ_FROM", from.to_string())
        .env("RUST_BACKTRACE", "0")
        .current_dir(root().join("tests"))
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("FAILED {name}: {error}");
            return false;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        said.lines()
            .filter(|line| line.contains(" inputs in "))
            .for_each(|line| println!("{line}"));
        return true;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    // Making the input smaller panics again and again: the last one counts.
    let from = errors.rfind("thread '").unwrap_or(0);
    println!("FAILED {name}\n{said}{}", &errors[from..]);
    false
}
