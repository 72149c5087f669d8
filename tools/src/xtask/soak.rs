//! Long runs: what `.ci/run` does for minutes, for hours.

use std::process::ExitCode;

use clap::Args;

use super::lane::{Outcome, cargo, run_one};
use super::{fuzz, seeded};

/// For how long, and what of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these parts: worlds, contests, histories, fuzz, seeded-bugs
    #[arg(value_name = "PART")]
    parts: Vec<String>,
    /// Minutes for all parts together, but for the seeded bugs, which take what they need
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

/// A part: its name, its share of the time in percent, and what it does for so many seconds.
type Part = (&'static str, u64, fn(u64) -> Outcome);

const PARTS: [Part; 5] = [
    ("worlds", 50, worlds),
    ("contests", 20, contests),
    ("histories", 15, histories),
    ("fuzz", 15, fuzz),
    ("seeded-bugs", 0, |_| outcome("seeded-bugs", seeded::run(&[]))),
];

/// Runs part after part, all of them although one fails.
pub(crate) fn run(options: &Options) -> ExitCode {
    let names = PARTS.map(|(name, ..)| name);
    if let Some(name) = options.parts.iter().find(|name| !names.contains(&name.as_str())) {
        eprintln!("unknown part {name}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let wanted = |name: &str| options.parts.is_empty() || options.parts.iter().any(|p| p == name);
    let parts = PARTS.iter().filter(|(name, ..)| wanted(name));
    let shares: u64 = parts.clone().map(|(_, share, _)| share).sum();
    let mut failed = Vec::new();
    for (name, share, part) in parts {
        let seconds = (options.minutes * 60 * share / shares.max(1)).max(1);
        if let Outcome::Failed(_) = run_one(name, || part(seconds)) {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        println!("soak: nothing failed");
        return ExitCode::SUCCESS;
    }
    println!("soak: failed in {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Fresh seeds of the simulated world. Every failure says how to replay it.
fn simulator(seconds: u64, more: &[&str]) -> Outcome {
    let minutes = format!("{:.2}", seconds as f64 / 60.0);
    let sim = ["run", "--release", "--package", "palisade-tests", "--bin", "sim", "--"];
    let how = ["--minutes", &minutes, "--keep-going"];
    cargo(&[&sim[..], &how, more].concat(), &[])
}

fn worlds(seconds: u64) -> Outcome {
    simulator(seconds, &[])
}

fn contests(seconds: u64) -> Outcome {
    simulator(seconds, &["--contests"])
}

/// Real processes that are killed while a history is taken of them.
fn histories(seconds: u64) -> Outcome {
    let test = ["test", "--package", "palisade-tools", "--test", "processes", "history"];
    cargo(&test, &[("PALISADE_HISTORY_SECONDS", &seconds.to_string())])
}

fn fuzz(seconds: u64) -> Outcome {
    outcome("fuzz", fuzz::run(&fuzz::Options::lasting(seconds)))
}

fn outcome(what: &str, code: ExitCode) -> Outcome {
    if code == ExitCode::SUCCESS { Outcome::Passed } else { Outcome::Failed(vec![what.to_owned()]) }
}
