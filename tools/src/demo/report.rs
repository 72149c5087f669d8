//! What the demo prints.

use std::fmt;
use std::time::Duration;

use palisade::control::limits::TIME_MS_DEFAULT;
use palisade::status::UpstreamStatus;
use serde_json::json;

use super::figure::BORDER_RATIO_MAX;
use super::picture::{self, Chain, Link, Node};
use super::stage::{HEALTH_CHECK, NET_TIMEOUT};
use super::verify::Findings;
use crate::exit::Failure;
use crate::text;

/// One node at the end.
#[derive(Clone, Debug)]
pub(crate) struct NodeLine {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) cluster: u32,
    /// Its node in the cluster.
    pub(crate) id: u32,
    /// How its cluster is served; empty for the primary.
    pub(crate) transfer: &'static str,
    /// Where it takes the stream from.
    pub(crate) upstream: Option<UpstreamStatus>,
    pub(crate) role: String,
    pub(crate) records: u64,
    pub(crate) committed_lsn: u64,
    pub(crate) lag_bytes: u64,
    pub(crate) sha256: Option<String>,
}

impl NodeLine {
    fn is_standby(&self) -> bool {
        !self.transfer.is_empty()
    }
}

/// What crossed the border between the regions for a part of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Crossing {
    pub(crate) border_bytes: u64,
    pub(crate) log_bytes: u64,
}

impl Crossing {
    fn ratio(self) -> f64 {
        self.border_bytes as f64 / self.log_bytes.max(1) as f64
    }

    /// One copy: less means that the log came by another way.
    fn is_one_copy(self) -> bool {
        (1.0..=BORDER_RATIO_MAX).contains(&self.ratio())
    }
}

impl fmt::Display for Crossing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = text::size(self.log_bytes);
        write!(f, "{:.3} bytes cross the border for each byte of {log} of log", self.ratio())
    }
}

/// Whether a figure was seen.
#[derive(Clone, Debug)]
pub(crate) enum FigureReport {
    /// Everybody takes from whom it says, and that is what crossed.
    Found(Crossing),
    /// Not in time, and why.
    Missed(String),
}

impl FigureReport {
    fn crossing(&self) -> Option<Crossing> {
        match self {
            FigureReport::Found(crossing) => Some(*crossing),
            FigureReport::Missed(_) => None,
        }
    }

    fn word(&self) -> &'static str {
        verdict(self.crossing().is_some())
    }
}

/// What a switchover did to those who write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    /// The longest time without an ack.
    pub(crate) gap_ms: u64,
    /// How long the command took.
    pub(crate) command_ms: u64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gap { gap_ms, command_ms } = self;
        write!(f, "longest time without an ack {gap_ms} ms, command {command_ms} ms")
    }
}

/// The whole outcome; what a run did not come to know is absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) has_standbys: bool,
    pub(crate) expected: u64,
    pub(crate) acked: u64,
    /// Records that were acked beside the input, in the chapters.
    pub(crate) acked_beside: u64,
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
    pub(crate) mode_ms: Option<u64>,
    pub(crate) degrade_ms: Option<u64>,
    pub(crate) return_ms: Option<u64>,
    /// There, and back.
    pub(crate) switchovers: Option<[Gap; 2]>,
    pub(crate) figure_a: Option<FigureReport>,
    pub(crate) figure_b: Option<FigureReport>,
    pub(crate) seconds: f64,
    pub(crate) stream: Option<u64>,
    pub(crate) input_sha256: Option<String>,
    /// Of figure (a), by the stream of the input.
    pub(crate) nodes: Vec<NodeLine>,
    /// Of figure (b).
    pub(crate) nodes_b: Vec<NodeLine>,
}

impl Report {
    /// Adds what was found wrong with a stream.
    pub(crate) fn add(&mut self, findings: Findings) {
        self.findings.get_or_insert_default().merge(findings);
    }

    /// Whether every promise was kept.
    pub(crate) fn is_ok(&self) -> bool {
        let digests = self.nodes.iter().all(|node| node.sha256 == self.input_sha256);
        let is_clean = self.findings.as_ref().is_some_and(Findings::is_clean);
        let has_all = self.acked == self.expected && self.refused.is_empty();
        let chapters = !self.has_standbys || self.went_through();
        self.error.is_none() && is_clean && has_all && digests && chapters
    }

    /// Whether the chapters that need standbys went as they should.
    fn went_through(&self) -> bool {
        let figures = [&self.figure_a, &self.figure_b].map(Option::as_ref);
        let crossings = figures.map(|figure| figure.and_then(FigureReport::crossing));
        let times = [self.mode_ms, self.degrade_ms, self.return_ms, self.switchover_ms()];
        crossings.iter().all(|crossing| crossing.is_some_and(Crossing::is_one_copy))
            && times.iter().all(Option::is_some)
    }

    /// The higher one of both figures.
    fn border_bytes_ratio(&self) -> Option<f64> {
        let figures = [&self.figure_a, &self.figure_b].into_iter().flatten();
        let ratios = figures.filter_map(|figure| figure.crossing().map(Crossing::ratio));
        ratios.max_by(f64::total_cmp)
    }

    /// The longest time without an ack, over all switchovers.
    fn switchover_ms(&self) -> Option<u64> {
        self.switchovers?.iter().map(|gap| gap.gap_ms).max()
    }
}

/// Prints table, pictures, chapters and verdict; of a run that broke off the verdict alone.
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
            if node.is_standby() { "standby" } else { "primary" }.to_owned(),
            node.role.clone(),
            node.records.to_string(),
            node.committed_lsn.to_string(),
            text::size(node.lag_bytes),
        ]);
    }
    let mut out = text::table(&rows);
    for (name, nodes) in [("figure (a)", &report.nodes), ("figure (b)", &report.nodes_b)] {
        if !nodes.is_empty() {
            out.push_str(&format!("\n{name}\n{}", topology(nodes)));
        }
    }
    if report.has_standbys {
        out.push_str(&format!("\n{}", chapters(report)));
    }
    out.push_str(&format!(
        "acked {} of {}, beside them {}  lost {}  diverged {}  duplicated {}  reordered {}\n",
        report.acked,
        report.expected,
        report.acked_beside,
        findings.lost,
        findings.diverged,
        findings.duplicated,
        findings.reordered
    ));
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

fn known(figure: Option<u64>, unit: &str) -> String {
    figure.map_or("-".to_owned(), |figure| format!("{figure}{unit}"))
}

/// A line for each chapter.
fn chapters(report: &Report) -> String {
    let figure = |figure: &Option<FigureReport>| match figure {
        Some(FigureReport::Found(crossing)) => format!("ok: {crossing}"),
        Some(FigureReport::Missed(why)) => format!("failed: {why}"),
        None => "-".to_owned(),
    };
    let gap = |at: usize| report.switchovers.map_or("-".to_owned(), |gaps| gaps[at].to_string());
    let ms = |time| known(time, " ms");
    let usual = seconds(Duration::from_millis(TIME_MS_DEFAULT.into()));
    let lines = [
        (
            "timers",
            format!(
                "net timeout {}, health check {} of both standbys (usual: {usual} each)",
                seconds(NET_TIMEOUT),
                seconds(HEALTH_CHECK)
            ),
        ),
        ("SIGKILL to the leader", format!("acks go on after {}", ms(report.failover_ms))),
        ("performance -> availability", format!("acks wait for s1 after {}", ms(report.mode_ms))),
        ("SIGSTOP to s1", format!("acks go on without it after {}", ms(report.degrade_ms))),
        ("SIGCONT to s1", format!("acks wait for it again after {}", ms(report.return_ms))),
        ("switchover to s1", gap(0)),
        ("switchover back", gap(1)),
        ("figure (a)", figure(&report.figure_a)),
        ("figure (b)", figure(&report.figure_b)),
    ];
    lines.iter().map(|(what, came)| format!("{what:<28} {came}\n")).collect()
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
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
                   "standby": node.is_standby(), "records": node.records,
                   "committed_lsn": node.committed_lsn, "lag_bytes": node.lag_bytes,
                   "sha256": node.sha256})
        })
        .collect();
    let findings = report.findings.as_ref();
    let thousandths = |value: f64| (value * 1000.0).round() / 1000.0;
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
        "figure_a": report.figure_a.as_ref().map(FigureReport::word),
        "figure_b": report.figure_b.as_ref().map(FigureReport::word),
        "border_bytes_ratio": report.border_bytes_ratio().map(thousandths),
        "degrade_ms": report.degrade_ms,
        "return_ms": report.return_ms,
        "switchover_ms": report.switchover_ms(),
        "timers": {
            "net_timeout_ms": NET_TIMEOUT.as_millis() as u64,
            "health_check_ms": HEALTH_CHECK.as_millis() as u64,
        },
        "reordered": findings.map(|findings| findings.reordered),
        "expected": report.expected,
        "stream": report.stream,
        "seconds": thousandths(report.seconds),
        "input_sha256": report.input_sha256,
        "nodes": nodes,
        "error": report.error,
    })
}

fn topology(nodes: &[NodeLine]) -> String {
    let draw = |node: &NodeLine| Node {
        name: node.name.clone(),
        what: node.role.clone(),
        lag: format!("lag {}", text::size(node.lag_bytes)),
    };
    let mut regions: Vec<(String, Vec<Node>)> = Vec::new();
    for node in nodes.iter().filter(|node| !node.is_standby()) {
        match regions.iter_mut().find(|(name, _)| *name == node.region) {
            Some((_, nodes)) => nodes.push(draw(node)),
            None => regions.push((node.region.clone(), vec![draw(node)])),
        }
    }
    // A standby hangs from the one that it takes from, else from the primary.
    let mut chains: Vec<Chain> = Vec::new();
    for node in nodes.iter().filter(|node| node.is_standby()) {
        let from = node.upstream.unwrap_or_default();
        let is_from = |other: &&NodeLine| other.cluster == from.cluster && other.id == from.node;
        let above = nodes.iter().find(is_from).map_or("nobody", |other| &other.name);
        let how = format!("{} from {above}", node.transfer);
        let (cluster, region) = (node.cluster, node.region.clone());
        let link = Link { how, cluster, region, node: draw(node) };
        let feeds = |chain: &&mut Chain| chain.iter().any(|it| it.cluster == from.cluster);
        match chains.iter_mut().find(feeds) {
            Some(chain) => chain.push(link),
            None => chains.push(vec![link]),
        }
    }
    picture::draw(&regions, &chains)
}
