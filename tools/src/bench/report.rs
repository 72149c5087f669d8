//! What a run measured.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use super::environment::Environment;
use super::sendfile::Bare;
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
    /// CPU time of everything that took part, in microseconds; of forwarding: of the node alone.
    pub(crate) cpu_us: u64,
    /// Bytes that were forwarded, where that is what was measured; latencies are then those of
    /// records at the end of the stream.
    pub(crate) forwarded: Option<u64>,
    /// How much the resident memory of the node grew at most since nobody read, in bytes.
    pub(crate) memory_grew: Option<u64>,
    /// What forwarding is compared with.
    pub(crate) bare: Option<Bare>,
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
            forwarded: None,
            memory_grew: None,
            bare: None,
            environment: Environment::of(&load.run.dir),
        })
    }

    /// So many appends took so long each.
    pub(crate) fn record(&mut self, took: Duration, count: u64) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record_n(ns.max(1), count);
    }

    /// Records: those whose latency was taken, or as many as the forwarded bytes would hold.
    fn records(&self) -> f64 {
        match self.forwarded {
            Some(bytes) => bytes as f64 / f64::from(self.record_bytes),
            None => self.latency.len() as f64,
        }
    }

    fn per_s(&self) -> f64 {
        self.records() / self.took.as_secs_f64().max(1e-9)
    }

    fn cpu_us_each(&self) -> f64 {
        self.cpu_us as f64 / self.records().max(1.0)
    }

    /// CPU seconds of the node for a GiB that it forwarded.
    fn cpu_s_per_gib(&self) -> Option<f64> {
        let gib = self.forwarded? as f64 / f64::from(1 << 30);
        Some(self.cpu_us as f64 / 1e6 / gib.max(1e-9))
    }

    fn us(&self, quantile: f64) -> f64 {
        let ns = self.latency.value_at_quantile(quantile) as f64;
        (ns / 100.0).round() / 10.0
    }

    /// The line of the contract.
    pub(crate) fn json(&self) -> String {
        let tenth = |value: f64| (value * 10.0).round() / 10.0;
        let mut line = json!({
            "what": self.what, "nodes": self.nodes, "streams": self.streams,
            "record_bytes": self.record_bytes, "in_flight": self.in_flight,
            "per_s": self.per_s().round() as u64,
            "mb_per_s": tenth(self.per_s() * f64::from(self.record_bytes) / 1e6),
            "p50_us": self.us(0.5), "p90_us": self.us(0.9), "p99_us": self.us(0.99),
            "p999_us": self.us(0.999), "max_us": self.us(1.0),
            "cpu_us_per_append": (self.cpu_us_each() * 1000.0).round() / 1000.0,
            "environment": self.environment,
        });
        if let (Some(cpu), Some(bare)) = (self.cpu_s_per_gib(), self.bare) {
            let more = line.as_object_mut().expect("made of fields");
            let rounded = |value: f64| ((value * 1000.0).round() / 1000.0).into();
            more.insert("cpu_s_per_gib".to_owned(), rounded(cpu));
            more.insert("sendfile_mb_per_s".to_owned(), rounded(bare.bytes_per_s / 1e6));
            more.insert("sendfile_cpu_s_per_gib".to_owned(), rounded(bare.cpu_s_per_gib));
        }
        if let Some(grew) = self.memory_grew {
            let more = line.as_object_mut().expect("made of fields");
            more.insert("memory_growth_mib".to_owned(), tenth(mib(grew)).into());
        }
        line.to_string()
    }

    /// The same for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
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
            self.cpu_us_each()
        );
        if let (Some(cpu), Some(bare)) = (self.cpu_s_per_gib(), self.bare) {
            text += &format!(
                "\nthe latencies are those of records at the end of the stream\n\
                 node: {cpu:.3} CPU s per GiB; bare sendfile: {:.1} MB/s, {:.3} CPU s per GiB",
                bare.bytes_per_s / 1e6,
                bare.cpu_s_per_gib
            );
        }
        if let Some(grew) = self.memory_grew {
            text += &format!("\nthe node's resident memory grew by {:.1} MiB at most", mib(grew));
        }
        text
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
