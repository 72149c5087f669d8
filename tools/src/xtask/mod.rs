//! Lanes: a lane is a named check that passes, fails, or is skipped with a reason.

mod budget;
mod deny;
mod docs;
mod fuzz;
mod golden;
mod lane;
mod licence;
mod machine;
mod memory;
mod names;
mod namespaces;
mod newcomer;
mod numbers;
mod operations;
mod pages;
mod programs;
mod promises;
mod purity;
mod seeded;
mod shape;
mod soak;
mod source;
mod tidy;
mod toolchain;
mod unsafety;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use lane::{Lane, Outcome, cargo, run_all, run_one};

/// Developer commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that has to pass: format, tidy, licences, clippy, documentation, tests
    Check {
        /// Only these lanes
        #[arg(value_name = "LANE")]
        lanes: Vec<String>,
        /// Go on after a lane failed
        #[arg(long)]
        keep_going: bool,
    },
    /// Format, and apply what clippy suggests
    Fix,
    /// Compare with fio on this machine: one table in Markdown
    Numbers(numbers::Options),
    /// Lanes that need a special machine or root; each prints SKIPPED where it cannot run
    Machine {
        /// Only these lanes
        #[arg(value_name = "LANE")]
        lanes: Vec<String>,
    },
    /// The crate with `unsafe` under Miri and the address sanitizer
    #[command(visible_alias = "miri")]
    Memory {
        /// Only these lanes
        #[arg(value_name = "LANE")]
        lanes: Vec<String>,
    },
    /// Every fuzz target for a part of the time; a failure says how to replay it
    Fuzz(fuzz::Options),
    /// Long runs: fresh worlds, contests, histories of killed processes, fuzzing, seeded bugs
    Soak(soak::Options),
    /// Removes each marked rule of the consensus core in turn; the tests must find every one
    SeededBugs {
        /// Only these bugs
        #[arg(value_name = "BUG")]
        bugs: Vec<String>,
    },
}

/// The lanes of `check`, cheapest first.
const CHECK: [Lane; 7] = [
    Lane { name: "toolchain", run: toolchain::run },
    Lane { name: "fmt", run: || cargo(&["fmt", "--all", "--check"], &[]) },
    Lane { name: "tidy", run: tidy::run },
    Lane { name: "deny", run: deny::run },
    Lane { name: "clippy", run: clippy },
    Lane { name: "docs", run: documentation },
    Lane { name: "test", run: || cargo(&["test", "--workspace"], &[]) },
];

fn clippy() -> Outcome {
    let all = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    // A target that `cargo test` leaves out is not among "all".
    let machine = ["clippy", "--package", "palisade-tools", "--test", "machine"];
    match cargo(&all, &[]) {
        Outcome::Passed => cargo(&[&machine[..], &["--", "-D", "warnings"]].concat(), &[]),
        other => other,
    }
}

fn clippy_fix() -> Outcome {
    let arguments = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty"];
    cargo(&arguments, &[])
}

fn documentation() -> Outcome {
    // Private items are documented too, so a link to one works.
    let strict = [("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links")];
    cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"], &strict)
}

/// Runs the lanes of these names, or all where none is named.
fn run_named(all: &[Lane], names: &[String], keep_going: bool) -> ExitCode {
    if let Some(name) = names.iter().find(|name| !all.iter().any(|lane| lane.name == **name)) {
        let known: Vec<_> = all.iter().map(|lane| lane.name).collect();
        eprintln!("unknown lane {name}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let wanted = |lane: &&Lane| names.is_empty() || names.iter().any(|name| name == lane.name);
    run_all(all.iter().filter(wanted), keep_going)
}

/// Reads the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Check { lanes, keep_going } => run_named(&CHECK, &lanes, keep_going),
        Command::Numbers(options) => match run_one("numbers", || numbers::run(&options)) {
            Outcome::Failed(_) => ExitCode::FAILURE,
            Outcome::Passed | Outcome::Skipped(_) => ExitCode::SUCCESS,
        },
        Command::Machine { lanes } if lanes.is_empty() => run_all(machine::LANES.iter(), true),
        Command::Machine { lanes } => {
            let all = [&machine::LANES[..], &machine::LONG_LANES[..]].concat();
            run_named(&all, &lanes, true)
        }
        Command::Memory { lanes } => run_named(&memory::LANES, &lanes, true),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::SeededBugs { bugs } => seeded::run(&bugs),
        Command::Fix => {
            let lanes = [
                Lane { name: "fmt", run: || cargo(&["fmt", "--all"], &[]) },
                Lane { name: "clippy", run: clippy_fix },
                Lane { name: "fmt", run: || cargo(&["fmt", "--all"], &[]) },
            ];
            run_all(lanes.iter(), false)
        }
    }
}
