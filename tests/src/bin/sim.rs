//! Runs seeds of the simulated world: one, or fresh ones for some minutes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use palisade_tests::sim::FaultKind;
use palisade_tests::world::{
    FailedOver, Failure, SeedReport, Shipped, is_contest, run_failover, run_late, run_seed,
};

const USAGE: &str = "sim --seed N [--count N] | --minutes M [--from SEED] [--threads 2] \
                     [--keep-going] [--contests] \
                     [--late | --returns | --failover]";
/// Lines of the trace that a failure shows.
const TRACE_LINES: usize = 40;

#[derive(Debug)]
struct Options {
    from: u64,
    count: u64,
    limit: Option<Duration>,
    threads: usize,
    keep_going: bool,
    /// Passes over the seeds of other worlds.
    contests: bool,
    /// Worlds with a standby that comes late (or returns) to logs that are let go, and no others.
    late: Option<bool>,
    /// Worlds whose primary dies, and no others.
    failover: bool,
    trace: usize,
}

fn options() -> Result<Options, String> {
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let fresh = fresh.map_or(0, |since| since.as_secs() * 1_000_000);
    let mut options = Options {
        from: fresh,
        count: u64::MAX,
        limit: None,
        threads: 2,
        keep_going: false,
        contests: false,
        late: None,
        failover: false,
        trace: TRACE_LINES,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut number = || -> Result<f64, String> {
            let value = args.next().ok_or_else(|| format!("{name} needs a number"))?;
            value.parse().map_err(|_| format!("{name} {value}: not a number"))
        };
        match name.as_str() {
            "--seed" => (options.from, options.count) = (number()? as u64, 1),
            "--count" => options.count = number()? as u64,
            "--from" => options.from = number()? as u64,
            "--minutes" => options.limit = Some(Duration::from_secs_f64(number()? * 60.0)),
            "--threads" => options.threads = (number()? as usize).max(1),
            "--trace" => options.trace = number()? as usize,
            "--contests" => options.contests = true,
            "--failover" => options.failover = true,
            "--late" => options.late = Some(false),
            "--returns" => options.late = Some(true),
            "--help" | "-h" => return Err(USAGE.to_string()),
            "--keep-going" => options.keep_going = true,
            other => return Err(format!("{other} means nothing here; {USAGE}")),
        }
    }
    if options.limit.is_none() && options.count == u64::MAX {
        return Err(USAGE.to_string());
    }
    Ok(options)
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    counted: u64,
    failed: Vec<u64>,
    acks: u64,
    simulated_ns: u64,
    shipped: Shipped,
    truncations: u64,
    let_go: u64,
    changes: u64,
    forbidden: u64,
    marks: u64,
    gated: u64,
    switchovers: u64,
    failover: FailedOver,
    faults: BTreeMap<FaultKind, u64>,
}

impl Totals {
    fn add(&mut self, report: &SeedReport) {
        self.seeds += 1;
        self.counted += u64::from(report.ok);
        self.acks += report.acks;
        self.simulated_ns += report.simulated_ns;
        self.shipped.add(report.shipped);
        self.truncations += report.truncations;
        self.let_go += report.let_go;
        self.changes += report.changes;
        self.forbidden += report.forbidden;
        self.marks += report.marks;
        self.gated += report.gated;
        self.switchovers += report.switchovers;
        self.failover.add(report.failover);
        for (kind, count) in &report.fault_counts {
            *self.faults.entry(*kind).or_default() += count;
        }
    }
}

fn show_failure(failure: &Failure, options: &Options) {
    let Failure { report, violation, settings, state, trace } = failure;
    println!("\nseed {} FAILED after {:.3} s simulated", report.seed, seconds(report.simulated_ns));
    println!("{violation}\n");
    let skipped = trace.len().saturating_sub(options.trace);
    trace.iter().skip(skipped).for_each(|line| println!("{line}"));
    println!("{settings}");
    state.iter().for_each(|line| println!("{line}"));
    println!("\nseed {} FAILED: {violation}", report.seed);
    let kind = match options.late {
        None if options.failover => " --failover",
        None => "",
        Some(false) => " --late",
        Some(true) => " --returns",
    };
    let seed = report.seed;
    println!("replay: cargo run --release -p palisade-tests --bin sim -- --seed {seed}{kind}");
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    println!("seeds from {}", options.from);
    std::thread::scope(|scope| {
        for _ in 0..options.threads.min(options.count.min(64) as usize) {
            scope.spawn(|| work(&options, began, &next, &stop, &totals));
        }
    });
    let totals = totals.into_inner().expect("no thread panicked with it");
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!(
        "{} seeds ({} count), {:.0} seeds/min, {:.0} simulated s, {} acks",
        totals.seeds,
        totals.counted,
        totals.seeds as f64 / minutes,
        seconds(totals.simulated_ns),
        totals.acks
    );
    let Shipped { recent, sealed, bytes, plain, compressed } = totals.shipped;
    println!("shipped: {recent} chunks from memory, {sealed} from segments, {bytes} bytes");
    println!("compressed: {plain} bytes of these to {compressed}");
    let (truncations, let_go) = (totals.truncations, totals.let_go);
    println!("recycled: {truncations} truncations, {let_go} segments let go");
    println!("registry: {} changes, {} refused", totals.changes, totals.forbidden);
    println!("sync: {} marks, {} acks waited for a SYNC standby", totals.marks, totals.gated);
    println!("roles: {} role epochs after the first", totals.switchovers);
    let FailedOver { done, lost, stopped, refused } = totals.failover;
    println!("failovers: {done} done, {stopped} stopped, {refused} refused, {lost} acks lost");
    let faults: Vec<String> = totals.faults.iter().map(|(k, n)| format!("{k:?} {n}")).collect();
    println!("faults: {}", faults.join(", "));
    if !totals.failed.is_empty() {
        println!("failed: {:?}", totals.failed);
        return ExitCode::FAILURE;
    }
    if totals.seeds == 0 || totals.counted < totals.seeds {
        println!("failed: a seed that does not count shows nothing");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn work(
    options: &Options,
    began: Instant,
    next: &AtomicU64,
    stop: &AtomicBool,
    totals: &Mutex<Totals>,
) {
    while !stop.load(Ordering::Acquire) {
        let offset = next.fetch_add(1, Ordering::AcqRel);
        let late = options.limit.is_some_and(|limit| began.elapsed() >= limit);
        if offset >= options.count || late {
            return;
        }
        if options.contests && !is_contest(options.from + offset) {
            continue;
        }
        let seed = options.from + offset;
        let result = match options.late.map(|returns| run_late(seed, returns)) {
            None if options.failover => run_failover(seed),
            None => run_seed(seed),
            Some(Ok(None)) => continue,
            Some(Ok(Some(report))) => Ok(report),
            Some(Err(failure)) => Err(failure),
        };
        let mut totals = totals.lock().expect("no thread panicked with it");
        match result {
            Ok(report) => {
                totals.add(&report);
                if options.count <= 16 {
                    println!("{report:?}");
                } else if totals.seeds.is_multiple_of(50) {
                    let rate = totals.seeds as f64 * 60.0 / began.elapsed().as_secs_f64();
                    println!("{} seeds, {rate:.0}/min", totals.seeds);
                }
            }
            Err(failure) => {
                totals.add(&failure.report);
                totals.failed.push(failure.report.seed);
                if options.keep_going {
                    let text = failure.violation.to_string();
                    println!("seed {}: {}", failure.report.seed, text.lines().next().unwrap_or(""));
                } else {
                    show_failure(&failure, options);
                    stop.store(true, Ordering::Release);
                }
            }
        }
    }
}
