//! `cargo xtask numbers`: what this machine's disk can do, and what the log makes of it, measured
//! in turns so that a slow minute hits both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::Value;

use super::lane::{Outcome, cargo, root};

/// What is measured, how often and where.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Runs of each case; the median counts
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Length of one run
    #[arg(long, value_name = "S", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Where files and data directories go
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
}

/// Which figure of a case is set against fio's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    /// p50 over the p50 of one durable 4 KiB write.
    Latency,
    /// Payload bandwidth over the best durable bandwidth.
    Bandwidth,
}

/// One line of the table.
struct Case {
    name: &'static str,
    program: Program,
    against: Against,
}

enum Program {
    /// fio with these block size and depth.
    Fio { block: &'static str, depth: &'static str },
    /// `palisade bench` with these arguments.
    Bench(&'static str),
}

/// What one run gave; the names are those of the table's columns.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    per_s: f64,
    mb_per_s: f64,
    p50_us: f64,
    p99_us: f64,
}

const FIO_LATENCY: &str = "fio 4 KiB, 1 in flight";
const FIO_BANDWIDTH: &str = "fio 256 KiB, 4 in flight";

const CASES: [Case; 9] = [
    Case {
        name: FIO_LATENCY,
        program: Program::Fio { block: "4k", depth: "1" },
        against: Against::Latency,
    },
    Case {
        name: FIO_BANDWIDTH,
        program: Program::Fio { block: "256k", depth: "4" },
        against: Against::Bandwidth,
    },
    Case {
        name: "append 512 B, 1 node driven, 1 in flight",
        program: Program::Bench("append --record-bytes 512 --nodes 1 --in-flight 1 --drive"),
        against: Against::Latency,
    },
    Case {
        name: "append 512 B, 1 node, 1 in flight",
        program: Program::Bench("append --record-bytes 512 --nodes 1 --in-flight 1"),
        against: Against::Latency,
    },
    Case {
        name: "append 512 B, 1 node driven, 1024 in flight",
        program: Program::Bench("append --record-bytes 512 --nodes 1 --in-flight 1024 --drive"),
        against: Against::Bandwidth,
    },
    Case {
        name: "append 512 B, 1 node, 1024 in flight",
        program: Program::Bench("append --record-bytes 512 --nodes 1 --in-flight 1024"),
        against: Against::Bandwidth,
    },
    Case {
        name: "append 512 B, 3 nodes, 1 in flight",
        program: Program::Bench("append --record-bytes 512 --nodes 3 --in-flight 1"),
        against: Against::Latency,
    },
    Case {
        name: "append 512 B, 3 nodes, 1024 in flight",
        program: Program::Bench("append --record-bytes 512 --nodes 3 --in-flight 1024"),
        against: Against::Bandwidth,
    },
    Case {
        name: "log alone 4 KiB, 1024 in flight",
        program: Program::Bench("wal --record-bytes 4096 --in-flight 1024"),
        against: Against::Bandwidth,
    },
];

/// Measures everything and prints the table.
pub(crate) fn run(options: &Options) -> Outcome {
    if Command::new("fio").arg("--version").output().is_err() {
        return Outcome::Skipped("fio is not installed".to_owned());
    }
    let build = ["build", "--release", "--package", "palisade-tools", "--bin", "palisade"];
    if let Outcome::Failed(findings) = cargo(&build, &[]) {
        return Outcome::Failed(findings);
    }
    let dir = tempfile::Builder::new().prefix("palisade-numbers-").tempdir_in(&options.dir);
    let dir = match dir {
        Ok(dir) => dir,
        Err(error) => return Outcome::Failed(vec![format!("{}: {error}", options.dir.display())]),
    };
    let mut runs: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    let mut failed = Vec::new();
    for run in 1..=options.runs {
        for case in &CASES {
            eprintln!("run {run} of {}: {}", options.runs, case.name);
            match case.measure(options.seconds, dir.path()) {
                Ok(figures) => runs.entry(case.name).or_default().push(figures),
                Err(why) => failed.push(format!("{}, run {run}: {why}", case.name)),
            }
        }
    }
    print(options, &runs);
    if failed.is_empty() { Outcome::Passed } else { Outcome::Failed(failed) }
}

impl Case {
    fn measure(&self, seconds: u64, dir: &Path) -> Result<Figures, String> {
        let seconds = seconds.to_string();
        match &self.program {
            Program::Fio { block, depth } => {
                let file = dir.join("fio").display().to_string();
                let mut command = Command::new("fio");
                command.args(["--name=dsync", "--size=256m", "--overwrite=1", "--rw=write"]);
                command.args(["--direct=1", "--ioengine=io_uring", "--sync=dsync"]);
                command.args(["--time_based", "--output-format=json", "--lat_percentiles=1"]);
                command.args([format!("--filename={file}"), format!("--bs={block}")]);
                command.args([format!("--iodepth={depth}"), format!("--runtime={seconds}")]);
                fio_figures(&output(&mut command)?).ok_or_else(|| "fio: no such figures".into())
            }
            Program::Bench(arguments) => {
                let mut command = Command::new(program());
                command.arg("bench").args(arguments.split_whitespace());
                command.args(["--seconds", &seconds, "--json"]);
                command.arg("--dir").arg(dir);
                let line = output(&mut command)?;
                bench_figures(&line).ok_or_else(|| "bench: no such figures".into())
            }
        }
    }
}

/// The release build of the program.
fn program() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    root().join(target.unwrap_or_else(|| "target".into())).join("release/palisade")
}

fn output(command: &mut Command) -> Result<Value, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, text.trim()));
    }
    // fio may write a note before its JSON.
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.find('{').map_or("", |at| &text[at..]);
    serde_json::from_str(json).map_err(|error| error.to_string())
}

fn fio_figures(json: &Value) -> Option<Figures> {
    let write = &json["jobs"][0]["write"];
    // From the submission on: what a caller waits for.
    let percentile = |name: &str| Some(write["lat_ns"]["percentile"][name].as_f64()? / 1000.0);
    Some(Figures {
        per_s: write["iops"].as_f64()?,
        mb_per_s: write["bw_bytes"].as_f64()? / 1e6,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
    })
}

fn bench_figures(json: &Value) -> Option<Figures> {
    let number = |name: &str| json[name].as_f64();
    Some(Figures {
        per_s: number("per_s")?,
        mb_per_s: number("mb_per_s")?,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
    })
}

/// The median of each figure by itself.
fn median(runs: &[Figures]) -> Figures {
    let middle = |of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        match values.len() {
            0 => 0.0,
            count if count % 2 == 1 => values[half],
            _ => (values[half - 1] + values[half]) / 2.0,
        }
    };
    Figures {
        per_s: middle(|f| f.per_s),
        mb_per_s: middle(|f| f.mb_per_s),
        p50_us: middle(|f| f.p50_us),
        p99_us: middle(|f| f.p99_us),
    }
}

fn print(options: &Options, runs: &BTreeMap<&str, Vec<Figures>>) {
    let of = |name: &str| runs.get(name).map(|runs| median(runs));
    let (latency, bandwidth) = (of(FIO_LATENCY), of(FIO_BANDWIDTH));
    println!("{}\n", machine());
    println!(
        "Medians of {} runs of {} s each; durable writes only.\n",
        options.runs, options.seconds
    );
    println!("| case | per s | MB/s | p50 us | p99 us | beside fio |");
    println!("|---|---:|---:|---:|---:|---|");
    for case in &CASES {
        let Some(own) = of(case.name) else {
            println!("| {} | failed | | | | |", case.name);
            continue;
        };
        let ratio = match case.against {
            Against::Latency => latency.map(|fio| (own.p50_us / fio.p50_us, "x p50")),
            Against::Bandwidth => bandwidth.map(|fio| (own.mb_per_s / fio.mb_per_s, "x MB/s")),
        };
        let ratio = ratio.map_or(String::new(), |(ratio, what)| format!("{ratio:.2} {what}"));
        println!(
            "| {} | {:.0} | {:.1} | {:.1} | {:.1} | {ratio} |",
            case.name, own.per_s, own.mb_per_s, own.p50_us, own.p99_us
        );
    }
    println!();
}

/// CPU, kernel and commit: without them a number says nothing.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = cpus.lines().filter_map(|line| line.strip_prefix("model name"));
    let models: Vec<&str> = models.map(|rest| rest.trim_start_matches(['\t', ' ', ':'])).collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let changed = git(&["status", "--porcelain"]).is_some_and(|text| !text.is_empty());
    format!(
        "Machine: {} x {}, Linux {}, commit {commit}{}, load {} at the end",
        models.len().max(1),
        models.first().unwrap_or(&"unknown CPU"),
        kernel.trim(),
        if changed { " with changes" } else { "" },
        load.split_whitespace().next().unwrap_or("unknown")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(per_s: f64) -> Figures {
        Figures { per_s, ..Figures::default() }
    }

    #[test]
    fn one_slow_run_does_not_move_the_median() {
        assert_eq!(median(&[run(9.0), run(1.0), run(10.0)]).per_s, 9.0);
        assert_eq!(median(&[run(9.0), run(10.0)]).per_s, 9.5);
    }

    #[test]
    fn figures_are_read_from_both_programs() {
        let fio = serde_json::json!({"jobs": [{"write": {"iops": 2.0, "bw_bytes": 3_000_000,
            "lat_ns": {"percentile": {"50.000000": 4000, "99.000000": 5000}}}}]});
        let found = fio_figures(&fio).expect("figures");
        let all = [found.per_s, found.mb_per_s, found.p50_us, found.p99_us];
        assert_eq!(all, [2.0, 3.0, 4.0, 5.0]);
        assert!(bench_figures(&serde_json::json!({"per_s": 1})).is_none());
    }
}
