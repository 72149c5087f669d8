//! What the demo prints.

use serde_json::json;

use super::picture::{self, Node};
use super::verify::Findings;
use crate::exit::Failure;
use crate::text;

/// One node at the end.
#[derive(Clone, Debug)]
pub(crate) struct NodeLine {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) is_standby: bool,
    pub(crate) role: String,
    pub(crate) records: u64,
    pub(crate) committed_lsn: u64,
    pub(crate) lag_bytes: u64,
    pub(crate) sha256: Option<String>,
}

/// The whole outcome; what a run did not come to know is absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) expected: u64,
    pub(crate) acked: u64,
    /// The judgement.
    pub(crate) findings: Option<Findings>,
    /// Why there is none.
    pub(crate) error: Option<String>,
    pub(crate) refused: Vec<String>,
    pub(crate) failover_ms: Option<u64>,
    pub(crate) standby_caught_up_ms: Option<u64>,
    pub(crate) appends_per_s: Option<u64>,
    pub(crate) p50_us: Option<u64>,
    pub(crate) p99_us: Option<u64>,
    pub(crate) seconds: f64,
    pub(crate) stream: Option<u64>,
    pub(crate) input_sha256: Option<String>,
    pub(crate) nodes: Vec<NodeLine>,
}

impl Report {
    /// Whether every promise was kept.
    pub(crate) fn is_ok(&self) -> bool {
        let digests = self.nodes.iter().all(|node| node.sha256 == self.input_sha256);
        let is_clean = self.findings.as_ref().is_some_and(Findings::is_clean);
        self.error.is_none() && is_clean && self.acked == self.expected && digests
    }
}

/// Prints table, picture and verdict; of a run that broke off the verdict alone.
pub(crate) fn print(report: &Report, as_json: bool) -> Result<(), Failure> {
    let mut out = match &report.findings {
        Some(findings) => page(report, findings),
        None => String::new(),
    };
    out.push_str(&match as_json {
        true => format!("{}\n", verdict_json(report)),
        false => format!("verdict: {}\n", verdict(report.is_ok())),
    });
    // Who started it may have read enough.
    text::say(out).map(drop)
}

fn page(report: &Report, findings: &Findings) -> String {
    let head = ["node", "region", "cluster", "role", "records", "committed", "lag"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for node in &report.nodes {
        rows.push(vec![
            node.name.clone(),
            node.region.clone(),
            if node.is_standby { "standby" } else { "primary" }.to_owned(),
            node.role.clone(),
            node.records.to_string(),
            node.committed_lsn.to_string(),
            text::size(node.lag_bytes),
        ]);
    }
    let mut out = format!("{}\n{}\n", text::table(&rows), topology(report));
    out.push_str(&format!(
        "acked {} of {}  lost {}  diverged {}  duplicated {}  reordered {}\n",
        report.acked,
        report.expected,
        findings.lost,
        findings.diverged,
        findings.duplicated,
        findings.reordered
    ));
    let known = |figure: Option<u64>, unit: &str| {
        figure.map_or("-".to_owned(), |figure| format!("{figure}{unit}"))
    };
    out.push_str(&format!(
        "failover {}  standby caught up {}  appends/s {}  p50 {}  p99 {}  took {:.1} s\n",
        known(report.failover_ms, " ms"),
        known(report.standby_caught_up_ms, " ms"),
        known(report.appends_per_s, ""),
        known(report.p50_us, " us"),
        known(report.p99_us, " us"),
        report.seconds
    ));
    if let Some(sha256) = &report.input_sha256 {
        out.push_str(&format!("input sha256 {sha256}\n"));
    }
    for line in findings.examples.iter().chain(&report.refused) {
        out.push_str(&format!("  {line}\n"));
    }
    out
}

fn verdict(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

fn verdict_json(report: &Report) -> serde_json::Value {
    let nodes: Vec<_> = report
        .nodes
        .iter()
        .map(|node| {
            json!({"name": node.name, "region": node.region, "role": node.role,
                   "standby": node.is_standby, "records": node.records,
                   "committed_lsn": node.committed_lsn, "lag_bytes": node.lag_bytes,
                   "sha256": node.sha256})
        })
        .collect();
    let findings = report.findings.as_ref();
    json!({
        "verdict": verdict(report.is_ok()),
        "acked": report.acked,
        "lost": findings.map(|findings| findings.lost),
        "diverged": findings.map(|findings| findings.diverged),
        "duplicated": findings.map(|findings| findings.duplicated),
        "failover_ms": report.failover_ms,
        "standby_caught_up_ms": report.standby_caught_up_ms,
        "appends_per_s": report.appends_per_s,
        "p50_us": report.p50_us,
        "p99_us": report.p99_us,
        "reordered": findings.map(|findings| findings.reordered),
        "expected": report.expected,
        "stream": report.stream,
        "seconds": (report.seconds * 1000.0).round() / 1000.0,
        "input_sha256": report.input_sha256,
        "nodes": nodes,
        "error": report.error,
    })
}

fn topology(report: &Report) -> String {
    let draw = |node: &NodeLine| Node {
        name: node.name.clone(),
        what: node.role.clone(),
        lag: format!("lag {}", text::size(node.lag_bytes)),
    };
    let mut regions: Vec<(String, Vec<Node>)> = Vec::new();
    for node in report.nodes.iter().filter(|node| !node.is_standby) {
        match regions.iter_mut().find(|(name, _)| *name == node.region) {
            Some((_, nodes)) => nodes.push(draw(node)),
            None => regions.push((node.region.clone(), vec![draw(node)])),
        }
    }
    let standby = report.nodes.iter().find(|node| node.is_standby);
    let standby = standby.map(|node| (node.region.clone(), draw(node)));
    picture::draw(&regions, standby.as_ref())
}
