//! The story of a run: start, append, kill, restart, catch up, judge.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use palisade::client::{Client, ClientOptions, ReadOptions};
use palisade::config::{Role, TimingConfig};
use palisade::status::{ReplicaRole, Status};
use sha2::{Digest, Sha256};

use super::cluster::NodeProcess;
use super::input::{Input, hex};
use super::ledger::Ledger;
use super::load;
use super::report::{NodeLine, Report};
use super::verify::{NodeLog, Seen, digest, verify};
use super::{Cluster, Layout, Place};
use crate::cli::{Demo, RECORDS_DEFAULT};
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;
use crate::status::parse;

/// A run of as many generated records as usual ends by itself within this time.
const RUN_MAX: Duration = Duration::from_secs(38);
/// Bytes per second that a run of files may count on beyond that.
const INPUT_BYTES_PER_S: u64 = 4 << 20;
/// Records per second that a run of more generated records may count on beyond that.
const RECORDS_PER_S: u64 = 20_000;
/// How often bringing up a cluster is tried: somebody may take a port in between.
const STARTS_MAX: usize = 3;
/// How long one request to one node may take.
const ASK_MAX: Duration = Duration::from_secs(2);
/// How long the first leader may take.
const FIRST_LEADER_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at a node.
const POLL: Duration = Duration::from_millis(5);
/// Space of a node beside the input.
const LOG_BYTES_MIN: u64 = 1 << 30;

/// Runs everything and reports; children are gone when it returns. What kept it from a judgement
/// is in the report.
pub(super) fn tell(options: &Demo, dir: &Path, interrupt: &Interrupt) -> Report {
    let (started, mut report) = (Instant::now(), Report::default());
    if let Err(failure) = perform(options, dir, interrupt, started, &mut report) {
        report.error = Some(failure.text);
    }
    report.seconds = started.elapsed().as_secs_f64();
    report
}

fn perform(
    options: &Demo,
    dir: &Path,
    interrupt: &Interrupt,
    started: Instant,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut input = match &options.input {
        Some(path) => Input::files(path)?,
        None => Input::Generated { seed: options.seed, records: options.records },
    };
    report.expected = input.records();
    let deadline = started + time_for(&input);
    let mut run = Run::start(options, &input, dir, interrupt, deadline)?;
    report.stream = Some(run.stream);
    let result = run.play(&mut input, report);
    run.note(report);
    result
}

/// How long a run of this input may take.
fn time_for(input: &Input) -> Duration {
    let extra = match input {
        Input::Generated { records, .. } => records.saturating_sub(RECORDS_DEFAULT) / RECORDS_PER_S,
        Input::Files(_) => input.bytes() / INPUT_BYTES_PER_S,
    };
    RUN_MAX + Duration::from_secs(extra)
}

struct Run<'a> {
    interrupt: &'a Interrupt,
    deadline: Instant,
    primary: Cluster,
    standby: Option<Cluster>,
    stream: u64,
    records: u64,
    ledger: Arc<Ledger>,
    bar: ProgressBar,
    load_started: Instant,
    failover_ms: Option<u64>,
    appends_per_s: Option<u64>,
    /// It was said that a node runs with unregistered buffers.
    said_unregistered: bool,
}

impl Run<'_> {
    fn start<'a>(
        options: &Demo,
        input: &Input,
        dir: &Path,
        interrupt: &'a Interrupt,
        deadline: Instant,
    ) -> Result<Run<'a>, Failure> {
        let bar = ProgressBar::new(input.records());
        let style = ProgressStyle::with_template("{msg:<32} [{bar:30}] {pos}/{len} {per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let log_bytes_max = LOG_BYTES_MIN.max(input.bytes().saturating_mul(4));
        let zero_copy = options.zero_copy;
        let primary = Layout {
            zero_copy,
            id: 1,
            name: "demo",
            role: Role::Primary,
            places: vec![place("sh1", "SH"), place("sh2", "SH"), place("hz1", "HZ")],
            upstream: Vec::new(),
            log_bytes_max,
            timing: TimingConfig::default(),
        };
        say(&bar, "starting three nodes: sh1 and sh2 in SH, hz1 in HZ");
        let primary = bring_up(&primary, dir, interrupt)?;
        let standby = match options.no_standby {
            true => None,
            false => {
                say(&bar, "starting a standby cluster: one node in HZ");
                let layout = Layout {
                    zero_copy,
                    id: 2,
                    name: "demo-standby",
                    role: Role::Standby,
                    places: vec![place("standby", "HZ")],
                    upstream: primary.nodes.iter().map(NodeProcess::addr).collect(),
                    log_bytes_max,
                    timing: TimingConfig::default(),
                };
                Some(bring_up(&layout, dir, interrupt)?)
            }
        };
        let settings = ClientOptions { cluster: primary.id, timeout: FIRST_LEADER_MAX };
        let mut client = Client::new(&primary.endpoints(), settings)?;
        let streams = client.create_streams(1)?;
        let Some(&stream) = streams.first() else {
            return Err(Failure::new(Exit::Failed, "the cluster created no stream"));
        };
        wait_votes(&primary, stream, interrupt)?;
        let records = input.records();
        Ok(Run {
            interrupt,
            deadline,
            primary,
            standby,
            stream,
            records,
            ledger: Arc::new(Ledger::new(part(records, 2, 5))),
            bar,
            load_started: Instant::now(),
            failover_ms: None,
            appends_per_s: None,
            said_unregistered: false,
        })
    }

    fn play(&mut self, input: &mut Input, report: &mut Report) -> Result<(), Failure> {
        self.say_unregistered();
        let load = self.start_load(input)?;
        self.kill_and_restart()?;
        // The kernel may have allowed a node more or less than in its first life.
        self.say_unregistered();
        self.finish_load(load, input)?;
        report.standby_caught_up_ms = self.catch_up()?;
        self.judge(input, report)
    }

    /// Says once for all nodes that the kernel lets them register too little memory.
    fn say_unregistered(&mut self) {
        let nodes = self.primary.nodes.iter().chain(self.standby.iter().flat_map(|s| &s.nodes));
        let mut notices = nodes.filter_map(|node| Some((node.place.name, node.notice()?)));
        let Some((name, notice)) = notices.next().filter(|_| !self.said_unregistered) else {
            return;
        };
        // Above the bar, where it stays.
        let text = format!("node {name}, and maybe others: {notice}");
        self.bar.suspend(|| eprintln!("{text}"));
        self.said_unregistered = true;
    }

    /// Writes down what is known, however the run ended.
    fn note(&self, report: &mut Report) {
        self.bar.finish_and_clear();
        let state = self.ledger.lock();
        report.acked = state.acked.len() as u64;
        report.refused = state.refused.clone();
        report.failover_ms = self.failover_ms;
        report.appends_per_s = self.appends_per_s;
        let quantile = |q| (!state.latency.is_empty()).then(|| state.latency.value_at_quantile(q));
        (report.p50_us, report.p99_us) = (quantile(0.5), quantile(0.99));
    }

    /// Starts the thread that appends; it ends by itself when the process does.
    fn start_load(&mut self, input: &mut Input) -> Result<JoinHandle<Input>, Failure> {
        let (nodes, cluster) = (self.primary.endpoints(), self.primary.id);
        let (stream, ledger) = (self.stream, Arc::clone(&self.ledger));
        let placeholder = Input::Generated { seed: 0, records: 0 };
        let mut input = std::mem::replace(input, placeholder);
        self.load_started = Instant::now();
        let work = move || {
            // Why it failed is in the ledger.
            let _ = load::run(&nodes, cluster, stream, &mut input, &ledger);
            input
        };
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(work);
        thread.map_err(|error| Failure::io("load thread", &error))
    }

    fn kill_and_restart(&mut self) -> Result<(), Failure> {
        let records = self.records;
        self.wait_acked(part(records, 1, 3), "a third of the records")?;
        let rate = part(records, 1, 3) as f64 / self.load_started.elapsed().as_secs_f64();
        self.appends_per_s = Some(rate as u64);
        let victim = self.kill_leader()?;
        self.ledger.open_gate(part(records, 1, 2));
        self.wait_acked(part(records, 9, 20), "acks under the new leader")?;
        say(&self.bar, &format!("restarting {}", self.name_of(victim)));
        let interrupt = self.interrupt;
        if let Some(node) = self.primary.node(victim) {
            node.spawn()?;
        }
        self.ledger.open_gate(part(records, 2, 3));
        if let Some(node) = self.primary.node(victim) {
            node.wait_ready(interrupt)?;
        }
        self.wait_acked(part(records, 3, 5), "acks beside the restarted node")?;
        if let Some(standby) = self.standby.as_mut().and_then(|cluster| cluster.node(1)) {
            say(&self.bar, "SIGKILL to the standby");
            standby.kill();
        }
        self.ledger.open_gate(part(records, 5, 6));
        self.wait_acked(part(records, 3, 4), "acks without the standby")?;
        if let Some(standby) = self.standby.as_mut().and_then(|cluster| cluster.node(1)) {
            say(&self.bar, "restarting the standby");
            standby.spawn()?;
            self.ledger.open_gate(u64::MAX);
            standby.wait_ready(interrupt)?;
        }
        self.ledger.open_gate(u64::MAX);
        Ok(())
    }

    /// Kills the node that acked last and waits for an ack by another one.
    fn kill_leader(&mut self) -> Result<u32, Failure> {
        let acker = self.ledger.lock().acker;
        let Some((leader, _)) = acker else {
            return Err(Failure::new(Exit::Failed, "nobody acked anything"));
        };
        say(&self.bar, &format!("SIGKILL to the leader, {}", self.name_of(leader)));
        let Some(node) = self.primary.node(leader) else {
            let text = format!("node {leader} acked but is no member");
            return Err(Failure::new(Exit::Failed, text));
        };
        let killed = Instant::now();
        node.kill();
        if part(self.records, 9, 20) <= part(self.records, 2, 5) {
            // So few records that none is left to ask a new leader with.
            self.failover_ms = Some(self.wait_other_leader(leader, killed)?);
            return Ok(leader);
        }
        self.ledger.open_gate(part(self.records, 9, 20));
        let new = |state: &super::ledger::State| {
            state.acker.filter(|(node, since)| *node != leader && *since > killed)
        };
        let wait = self.ledger.wait_for("a new leader", self.deadline, self.interrupt, new);
        let (next, at) = wait?;
        let failover_ms = at.duration_since(killed).as_millis() as u64;
        self.failover_ms = Some(failover_ms);
        let text = format!("{} acks after {failover_ms} ms", self.name_of(next));
        say(&self.bar, &text);
        Ok(leader)
    }

    /// Waits until another node says that it leads; how long after the kill.
    fn wait_other_leader(&self, old: u32, killed: Instant) -> Result<u64, Failure> {
        loop {
            self.interrupt.check()?;
            for node in self.primary.nodes.iter().filter(|node| node.id != old) {
                let status = ask_status(node, self.primary.id).ok();
                let stream = status.as_ref().and_then(|status| status.stream(self.stream));
                if stream.is_some_and(|stream| stream.role == ReplicaRole::Leader) {
                    return Ok(killed.elapsed().as_millis() as u64);
                }
            }
            if Instant::now() >= self.deadline {
                return Err(Failure::new(Exit::Failed, "out of time while waiting for a leader"));
            }
            std::thread::park_timeout(POLL);
        }
    }

    fn name_of(&self, id: u32) -> String {
        let node = self.primary.nodes.iter().find(|node| node.id == id);
        node.map_or(format!("node {id}"), |node| node.place.name.to_owned())
    }

    fn wait_acked(&self, count: u64, what: &str) -> Result<(), Failure> {
        let bar = &self.bar;
        self.ledger.wait_for(what, self.deadline, self.interrupt, |state| {
            let acked = state.acked.len() as u64;
            bar.set_position(acked);
            (acked >= count).then_some(())
        })
    }

    fn finish_load(&mut self, load: JoinHandle<Input>, input: &mut Input) -> Result<(), Failure> {
        loop {
            self.interrupt.check()?;
            let (acked, ended) = {
                let state = self.ledger.lock();
                (state.acked.len() as u64, state.ended)
            };
            self.bar.set_position(acked);
            if ended {
                break;
            }
            if Instant::now() >= self.deadline {
                let text = format!("out of time with {acked} of {} acked", self.records);
                return Err(Failure::new(Exit::Failed, text));
            }
            std::thread::park_timeout(POLL);
        }
        let ended = load.join();
        *input = ended.map_err(|_| Failure::new(Exit::Invariant, "the load panicked"))?;
        Ok(())
    }

    /// Waits until every node has and shows every acked byte; how long the standby took.
    fn catch_up(&mut self) -> Result<Option<u64>, Failure> {
        let (end, last_ack) = {
            let state = self.ledger.lock();
            let end = state.acked.iter().map(|ack| ack.end_lsn).max().unwrap_or(0);
            (end, state.last_ack.unwrap_or(self.load_started))
        };
        let mut took = None;
        if let Some(standby) = &self.standby {
            say(&self.bar, "waiting for the standby");
            for node in &standby.nodes {
                self.wait_committed(node, standby.id, end)?;
            }
            took = Some(last_ack.elapsed().as_millis() as u64);
        }
        for node in &self.primary.nodes {
            self.wait_committed(node, self.primary.id, end)?;
        }
        Ok(took)
    }

    fn wait_committed(&self, node: &NodeProcess, cluster: u32, end: u64) -> Result<(), Failure> {
        loop {
            self.interrupt.check()?;
            let status = ask_status(node, cluster);
            let stream = status.as_ref().ok().and_then(|status| status.stream(self.stream));
            let committed = stream.map_or(0, |stream| stream.committed_lsn);
            // A standby shows what is closed in all streams, which is a moment after it arrived.
            let shown = stream.zip(status.as_ref().ok()).is_some_and(|(stream, status)| {
                cluster == self.primary.id || stream.scn <= status.cluster.sync_scn
            });
            if committed >= end && shown {
                return Ok(());
            }
            if Instant::now() >= self.deadline {
                let why = match (&status, stream) {
                    (Err(failure), _) => failure.to_string(),
                    (Ok(_), Some(stream)) => format!("{stream:?}"),
                    (Ok(_), None) => "it has no such stream".to_owned(),
                };
                let text = format!("{} stays at {committed} of {end}: {why}", node.place.name);
                say(&self.bar, &text);
                // What it lacks is counted as lost.
                return Ok(());
            }
            std::thread::park_timeout(POLL);
        }
    }

    /// Compares what was acked with what every node returns.
    fn judge(&mut self, input: &Input, report: &mut Report) -> Result<(), Failure> {
        say(&self.bar, "reading every node");
        let (mut logs, mut lines) = (Vec::new(), Vec::new());
        report.input_sha256 = input.sha256();
        let clusters = [Some(&self.primary), self.standby.as_ref()];
        for (at, cluster) in clusters.into_iter().flatten().enumerate() {
            for node in &cluster.nodes {
                self.interrupt.check()?;
                // Only files have a digest that people compare.
                let hasher = report.input_sha256.is_some().then(Sha256::new);
                let (log, sha256) = read_all(node, cluster.id, self.stream, hasher)?;
                let mut line = node_line(node, cluster.id, self.stream, at > 0)?;
                line.records = log.records.len() as u64;
                line.sha256 = sha256;
                logs.push(log);
                lines.push(line);
            }
        }
        let end = lines.iter().map(|line| line.committed_lsn).max().unwrap_or(0);
        lines.iter_mut().for_each(|line| line.lag_bytes = end - line.committed_lsn);
        report.nodes = lines;
        report.findings = Some(verify(&self.ledger.lock().acked, &logs));
        Ok(())
    }
}

fn place(name: &'static str, region: &'static str) -> Place {
    Place { name, region }
}

fn part(whole: u64, numerator: u64, denominator: u64) -> u64 {
    (whole * numerator / denominator).max(1)
}

fn say(bar: &ProgressBar, text: &str) {
    bar.set_message(text.to_owned());
    if bar.is_hidden() {
        eprintln!("{text}");
    }
}

fn bring_up(layout: &Layout, dir: &Path, interrupt: &Interrupt) -> Result<Cluster, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let failure = match Cluster::start(layout, dir, interrupt) {
            Ok(cluster) => return Ok(cluster),
            Err(failure) => failure,
        };
        if tries == STARTS_MAX || interrupt.is_set() {
            return Err(failure);
        }
        for place in &layout.places {
            let home = dir.join(place.name);
            std::fs::remove_dir_all(&home).map_err(|error| Failure::io(home.display(), &error))?;
        }
    }
}

/// Waits until every node says that all members vote on the streams: a member whose disk no leader
/// has named yet does not, and the others could not do without the first leader.
fn wait_votes(cluster: &Cluster, stream: u64, interrupt: &Interrupt) -> Result<(), Failure> {
    let deadline = Instant::now() + FIRST_LEADER_MAX;
    for node in &cluster.nodes {
        loop {
            interrupt.check()?;
            let status = ask_status(node, cluster.id);
            let votes = |status: &Status| {
                let led = status.streams.iter().filter(|seen| seen.ballot.node != 0);
                status.stream(stream).is_some()
                    && led.filter(|seen| seen.learners.is_empty()).count() == status.streams.len()
            };
            if status.as_ref().is_ok_and(votes) {
                break;
            }
            if Instant::now() >= deadline {
                let name = node.place.name;
                let text = format!("{name} does not take part in every stream: {status:?}");
                return Err(Failure::new(Exit::Failed, text));
            }
            std::thread::park_timeout(POLL);
        }
    }
    Ok(())
}

fn client_of(node: &NodeProcess, cluster: u32) -> Result<Client, Failure> {
    let options = ClientOptions { cluster, timeout: ASK_MAX };
    Ok(Client::new(&[node.addr().to_string()], options)?)
}

fn ask_status(node: &NodeProcess, cluster: u32) -> Result<Status, Failure> {
    parse(&client_of(node, cluster)?.status_json()?)
}

fn node_line(
    node: &NodeProcess,
    cluster: u32,
    stream: u64,
    is_standby: bool,
) -> Result<NodeLine, Failure> {
    let status = ask_status(node, cluster)?;
    let stream = status.stream(stream);
    let role = match stream.map(|stream| stream.role) {
        Some(ReplicaRole::Leader) => "leader",
        Some(ReplicaRole::Follower) => "follower",
        Some(ReplicaRole::Candidate) => "candidate",
        Some(ReplicaRole::Learner) => "learner",
        None => "absent",
    };
    Ok(NodeLine {
        name: node.place.name.to_owned(),
        region: node.place.region.to_owned(),
        is_standby,
        role: role.to_owned(),
        records: 0,
        committed_lsn: stream.map_or(0, |stream| stream.committed_lsn),
        lag_bytes: 0,
        sha256: None,
    })
}

/// Everything that a node returns, and the digest of all its bytes end to end if it is wanted.
fn read_all(
    node: &NodeProcess,
    cluster: u32,
    stream: u64,
    mut hasher: Option<Sha256>,
) -> Result<(NodeLog, Option<String>), Failure> {
    let mut records = Vec::new();
    let settings = ReadOptions { stream, from: 0, to: None, follow: false, timeout: ASK_MAX * 2 };
    let mut client = client_of(node, cluster)?;
    let read = client.read(&settings, &mut |record| {
        if let Some(hasher) = &mut hasher {
            hasher.update(record.payload);
        }
        records.push(Seen {
            lsn: record.lsn,
            end_lsn: record.end_lsn,
            producer: record.producer,
            sequence: record.sequence,
            digest: digest(record.payload),
        });
        ControlFlow::Continue(())
    });
    read.map_err(|error| {
        let failure = Failure::from(error);
        Failure::new(Exit::Failed, format!("reading {}: {failure}", node.place.name))
    })?;
    let log = NodeLog { name: node.place.name.to_owned(), records };
    Ok((log, hasher.map(|hasher| hex(&hasher.finalize()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_records_have_more_time_and_the_usual_ones_end_within_40_seconds() {
        let time = |records| time_for(&Input::Generated { seed: 1, records });
        assert!(time(RECORDS_DEFAULT) < Duration::from_secs(40));
        assert_eq!(time(100), time(RECORDS_DEFAULT));
        // At the pace of a slow machine, 20,000 records in a second.
        assert!(time(5_000_000) > Duration::from_secs(250), "{:?}", time(5_000_000));
    }
}
