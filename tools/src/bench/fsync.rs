//! `bench fsync`: the table of the ways to make a block durable.

use std::time::Duration;

use palisade_netio::{
    BLOCK_BYTES, IN_FLIGHT_MAX, Rig, Sample, SyncPath, Timing, Verdict, allowed_cpus, cases, decide,
};
use serde_json::json;

use super::environment::Environment;
use crate::cli::BenchRun;
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;
use crate::text;

/// Shortest measurement of one case.
const CASE_MIN: Duration = Duration::from_millis(20);
/// Bytes of the file.
const FILE_BYTES: u64 = 32 << 20;
/// CPUs beside which it is measured at most.
const CPUS_MAX: usize = 64;

/// Measures and prints.
pub(super) fn run(options: &BenchRun) -> Result<Exit, Failure> {
    let interrupt = Interrupt::catch()?;
    let dir = super::temporary_dir(&options.dir)?;
    let failed = |error| Failure::io(dir.path().display(), &error);
    let mut rig = Rig::new(dir.path(), FILE_BYTES).map_err(failed)?;
    let mut cpus = allowed_cpus();
    cpus.truncate(CPUS_MAX);
    let in_flight: Vec<usize> = (1..=IN_FLIGHT_MAX).collect();
    let cases = cases(&in_flight, &cpus);
    let each = (Duration::from_secs(options.seconds) / cases.len() as u32).max(CASE_MIN);
    let mut timings = Vec::with_capacity(cases.len());
    for case in cases {
        interrupt.check()?;
        timings.push(rig.measure(case, each).map_err(failed)?);
    }
    let samples: Vec<Sample> = timings.iter().map(Timing::sample).collect();
    let verdict = decide(&samples);
    let Verdict { path, needs } =
        verdict.unwrap_or(Verdict { path: SyncPath::default(), needs: Vec::new() });
    let best = path.as_str();
    if options.json {
        let list: Vec<_> = timings.iter().map(describe).collect();
        let line = json!({"what": "fsync", "block_bytes": BLOCK_BYTES, "cases": list,
            "best": best, "needs_cpus": needs,
            "environment": Environment::of(&options.dir)});
        text::say(format!("{line}\n"))?;
        return Ok(Exit::Ok);
    }
    let head = ["sync path", "in flight", "beside", "per s", "p50 us", "p99 us", "max us"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(timings.iter().map(row));
    let best =
        format!("{best} has the lowest p50 in its worst load: log.sync_path = \"auto\" takes it");
    text::say(format!("{}{best}\n", text::table(&rows)))?;
    if !needs.is_empty() {
        text::say(format!("it needs CPUs that no other thread keeps busy: {needs:?}\n"))?;
    }
    Ok(Exit::Ok)
}

fn us(timing: &Timing, quantile: f64) -> f64 {
    (timing.quantile_ns(quantile) as f64 / 100.0).round() / 10.0
}

fn per_s(timing: &Timing) -> u64 {
    (timing.latencies_ns.len() as f64 / timing.took.as_secs_f64().max(1e-9)) as u64
}

fn row(timing: &Timing) -> Vec<String> {
    let case = &timing.case;
    let beside = case.busy_cpu.map_or("nothing".to_owned(), |cpu| format!("busy CPU {cpu}"));
    let us = |quantile| format!("{:.1}", us(timing, quantile));
    vec![
        case.path.as_str().to_owned(),
        case.in_flight.to_string(),
        beside,
        per_s(timing).to_string(),
        us(0.5),
        us(0.99),
        us(1.0),
    ]
}

fn describe(timing: &Timing) -> serde_json::Value {
    let case = &timing.case;
    json!({"sync_path": case.path.as_str(), "in_flight": case.in_flight,
        "busy_cpu": case.busy_cpu, "per_s": per_s(timing), "p50_us": us(timing, 0.5),
        "p99_us": us(timing, 0.99), "max_us": us(timing, 1.0)})
}
