//! Lanes: a lane is a named check that passes, fails, or is skipped with a reason.

mod docs;
mod lane;
mod machine;
mod numbers;
mod operations;
mod purity;
mod seeded;
mod shape;
mod source;
mod tidy;
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
    /// Everything that has to pass: format, clippy, documentation, tidy, tests
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
    /// Removes each marked rule of the consensus core in turn; the tests must find every one
    SeededBugs {
        /// Only these bugs
        #[arg(value_name = "BUG")]
        bugs: Vec<String>,
    },
}

/// The lanes of `check`, cheapest first.
const CHECK: [Lane; 5] = [
    Lane { name: "fmt", run: || cargo(&["fmt", "--all", "--check"], &[]) },
    Lane { name: "tidy", run: tidy::run },
    Lane { name: "clippy", run: clippy },
    Lane { name: "docs", run: documentation },
    Lane { name: "test", run: || cargo(&["test", "--workspace"], &[]) },
];

fn clippy() -> Outcome {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])
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

/// Reads the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Check { lanes, keep_going } => {
            let unknown = lanes.iter().find(|name| !CHECK.iter().any(|lane| lane.name == *name));
            if let Some(name) = unknown {
                let known: Vec<_> = CHECK.iter().map(|lane| lane.name).collect();
                eprintln!("unknown lane {name}; there are {}", known.join(", "));
                return ExitCode::from(2);
            }
            let wanted = |lane: &&Lane| lanes.is_empty() || lanes.iter().any(|n| n == lane.name);
            run_all(CHECK.iter().filter(wanted), keep_going)
        }
        Command::Numbers(options) => match run_one("numbers", || numbers::run(&options)) {
            Outcome::Failed(_) => ExitCode::FAILURE,
            Outcome::Passed | Outcome::Skipped(_) => ExitCode::SUCCESS,
        },
        Command::Machine { lanes } => {
            let wanted = |lane: &&Lane| lanes.is_empty() || lanes.iter().any(|n| n == lane.name);
            run_all(machine::LANES.iter().filter(wanted), true)
        }
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
