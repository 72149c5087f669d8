//! `bench fsync`: the table of the ways to make a block durable.

use std::time::Duration;

use serde_json::json;

use super::barrier::{BLOCK_BYTES, Rig, Timing, best, cases};
use crate::cli::BenchFsync;
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;
use crate::text;

/// Shortest measurement of one case.
const CASE_MIN: Duration = Duration::from_millis(20);

/// Measures and prints.
pub(super) fn run(options: &BenchFsync) -> Result<Exit, Failure> {
    let interrupt = Interrupt::catch()?;
    let dir = super::temporary_dir(&options.dir)?;
    let failed = |error| Failure::io(dir.path().display(), &error);
    let mut rig = Rig::new(dir.path()).map_err(failed)?;
    let cases = cases();
    let each = (Duration::from_secs(options.seconds) / cases.len() as u32).max(CASE_MIN);
    let mut timings = Vec::with_capacity(cases.len());
    for case in cases {
        interrupt.check()?;
        timings.push(rig.measure(case, each).map_err(failed)?);
    }
    let best = best(&timings).map_or("none", |barrier| barrier.name());
    if options.json {
        let list: Vec<_> = timings.iter().map(describe).collect();
        let line = json!({"what": "fsync", "block_bytes": BLOCK_BYTES, "cases": list,
            "best": best});
        text::say(format!("{line}\n"))?;
        return Ok(Exit::Ok);
    }
    let head = ["barrier", "in flight", "beside", "per s", "p50 us", "p99 us", "max us"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(timings.iter().map(row));
    let table = text::table(&rows);
    text::say(format!("{table}best by p50 beside a busy thread, one in flight: {best}\n"))?;
    Ok(Exit::Ok)
}

fn us(timing: &Timing, quantile: f64) -> f64 {
    (timing.latency.value_at_quantile(quantile) as f64 / 100.0).round() / 10.0
}

fn per_s(timing: &Timing) -> u64 {
    (timing.latency.len() as f64 / timing.took.as_secs_f64().max(1e-9)) as u64
}

fn row(timing: &Timing) -> Vec<String> {
    let case = &timing.case;
    let beside = case.busy_cpu.map_or("nothing".to_owned(), |cpu| format!("busy CPU {cpu}"));
    let us = |quantile| format!("{:.1}", us(timing, quantile));
    vec![
        case.barrier.name().to_owned(),
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
    json!({"barrier": case.barrier.name(), "in_flight": case.in_flight,
        "busy_cpu": case.busy_cpu, "per_s": per_s(timing), "p50_us": us(timing, 0.5),
        "p99_us": us(timing, 0.99), "max_us": us(timing, 1.0)})
}
