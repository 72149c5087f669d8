//! What a run measured.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use super::environment::Environment;
use crate::cli::BenchLoad;
use crate::exit::{Exit, Failure};

/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// The figures of one run.
#[derive(Debug)]
pub(crate) struct Measured {
    what: &'static str,
    nodes: u32,
    streams: u32,
    record_bytes: u32,
    in_flight: u32,
    /// Nanoseconds per append.
    latency: Histogram<u64>,
    /// How long it was measured.
    pub(crate) took: Duration,
    /// CPU time of everything that took part, in microseconds.
    pub(crate) cpu_us: u64,
    /// Where and by what.
    pub(crate) environment: Environment,
}

impl Measured {
    /// Nothing measured yet.
    pub(crate) fn new(
        what: &'static str,
        nodes: u32,
        load: &BenchLoad,
    ) -> Result<Measured, Failure> {
        let latency = Histogram::new_with_max(LATENCY_US_MAX * 1000, 3);
        Ok(Measured {
            what,
            nodes,
            streams: load.streams,
            record_bytes: load.record_bytes,
            in_flight: load.in_flight,
            latency: latency.map_err(|e| Failure::new(Exit::Invariant, e.to_string()))?,
            took: Duration::ZERO,
            cpu_us: 0,
            environment: Environment::of(&load.dir),
        })
    }

    /// So many appends took so long each.
    pub(crate) fn record(&mut self, took: Duration, count: u64) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record_n(ns.max(1), count);
    }

    fn per_s(&self) -> f64 {
        self.latency.len() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn us(&self, quantile: f64) -> f64 {
        let ns = self.latency.value_at_quantile(quantile) as f64;
        (ns / 100.0).round() / 10.0
    }

    /// The line of the contract.
    pub(crate) fn json(&self) -> String {
        let tenth = |value: f64| (value * 10.0).round() / 10.0;
        let cpu = self.cpu_us as f64 / self.latency.len().max(1) as f64;
        json!({
            "what": self.what, "nodes": self.nodes, "streams": self.streams,
            "record_bytes": self.record_bytes, "in_flight": self.in_flight,
            "per_s": self.per_s().round() as u64,
            "mb_per_s": tenth(self.per_s() * f64::from(self.record_bytes) / 1e6),
            "p50_us": self.us(0.5), "p90_us": self.us(0.9), "p99_us": self.us(0.99),
            "p999_us": self.us(0.999), "max_us": self.us(1.0),
            "cpu_us_per_append": (cpu * 1000.0).round() / 1000.0,
            "environment": self.environment,
        })
        .to_string()
    }

    /// The same for people.
    pub(crate) fn text(&self) -> String {
        format!(
            "{} nodes {} streams {} record {} B in flight {}\n{:.0} /s  {:.1} MB/s\n\
             p50 {} us  p90 {} us  p99 {} us  p99.9 {} us  max {} us\ncpu {:.2} us per append",
            self.what,
            self.nodes,
            self.streams,
            self.record_bytes,
            self.in_flight,
            self.per_s(),
            self.per_s() * f64::from(self.record_bytes) / 1e6,
            self.us(0.5),
            self.us(0.9),
            self.us(0.99),
            self.us(0.999),
            self.us(1.0),
            self.cpu_us as f64 / self.latency.len().max(1) as f64
        )
    }
}
