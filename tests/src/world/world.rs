//! One seed from the first format to the last check.

mod failover;
mod latecomer;

use failover::Failover;
use latecomer::REBUILD_NS;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use palisade::config::Role;
use palisade::shard::Halt;
use palisade_netio::Nanos;
use palisade_wal::Lsn;

use super::agenda::Agenda;
use super::check::{Checks, FullCopy, Seat, Shown, Violation};
use super::faults::{Faults, Step, is_contest};
use super::fleet::{Fleet, Node, Turned};
use super::marker::Marker;
use super::operator::Operator;
use super::registrar::Registrar;
use super::report::{Failure, SeedReport};
use super::settings::{MS, PINS_FEW, SECOND, Settings, Upstream};
use super::switcher::Switcher;
use super::truncation::Truncation;
use super::workload::{Wake, Workload};
use crate::sim::{FaultPlan, Latencies, Random, RingId, Universe};

/// Acknowledgements before the first fault.
const ACKS_BEFORE_FAULT: u64 = 100;
/// What a leader says that keeps no more for a standby.
const NOT_KEPT: &str = "standby-not-kept-for";
/// Until those must have come.
const START_NS: u64 = 60 * SECOND;
/// Until a calm world is well again.
const RECOVER_NS: u64 = 10 * SECOND;
/// Until every replica of a calm world has everything, and has been read.
const CATCH_UP_NS: u64 = 20 * SECOND;
/// Until every stream of a standby comes from the primary again.
const REPARENT_NS: u64 = 5 * SECOND;
/// Turns of shards for each thing that happened; usual is a third of one.
const TURNS_PER_EVENT_MAX: u64 = 3;
/// The shortest run that counts.
const RUN_NS_MIN: u64 = 60 * SECOND;

#[derive(Clone, Copy, Debug)]
enum Entry {
    Wake(Wake),
    Fault(Step),
    Operator,
    Marker,
    Switcher,
    Truncation,
    /// Streams of a standby that fell behind what is kept are to begin anew.
    Rebuild,
    /// The operator of a world with a failover.
    Failover,
}

/// Nodes that a standby fetches from, in the order of its list.
fn upstream_of(upstream: Upstream, fleet: &Fleet, random: &mut Random) -> Vec<usize> {
    let nodes = |cluster: usize| fleet.clusters[cluster].nodes.clone();
    let mut primary = nodes(0);
    let mut standby = nodes(fleet.clusters.len() - 1);
    random.shuffle(&mut primary);
    random.shuffle(&mut standby);
    match upstream {
        Upstream::Primary => primary,
        Upstream::Standby => standby,
        Upstream::Both => [standby, primary].concat(),
    }
}

/// See the [module](self).
pub struct World {
    seed: u64,
    universe: Universe,
    settings: Settings,
    fleet: Fleet,
    workload: Workload,
    faults: Faults,
    checks: Checks,
    operator: Operator,
    marker: Marker,
    switcher: Switcher,
    truncation: Truncation,
    agenda: Agenda<Entry>,
    began: Nanos,
    acks_before_fault: u64,
    turns: u64,
    /// The first segment of each log that does not begin with its first block.
    let_go: BTreeMap<(usize, u16), u64>,
    /// A node said that it keeps no more for a standby.
    not_kept: bool,
    failover: Option<Failover>,
}

impl World {
    /// The world of a seed, before anything runs.
    ///
    /// # Errors
    /// A directory could not be formatted.
    pub fn new(seed: u64) -> Result<World, Violation> {
        World::build(seed, None)
    }

    /// The world of a seed whose primary will be lost.
    ///
    /// # Errors
    /// As [`new`](World::new).
    pub fn with_failover(seed: u64) -> Result<World, Violation> {
        World::build(seed, Some(Failover::new(seed)))
    }

    fn build(seed: u64, mut failover: Option<Failover>) -> Result<World, Violation> {
        let mut random = Random::new(seed ^ 0x0077_6F72_6C64);
        let mut settings = Settings::draw(&mut random);
        let operator = Operator::new(seed, &mut settings);
        if let Some(failover) = &mut failover {
            failover.shape(&mut settings);
        }
        settings.draw_regions(&mut Random::new(seed ^ 0x0072_6567_696F));
        settings.draw_pins(&mut Random::new(seed ^ 0x7069_6E73));
        settings.draw_compression(&mut Random::new(seed ^ 0x006C_7A34));
        let universe = Universe::new(seed);
        universe.set_latencies(Latencies::swarm(&mut random));
        universe.follow_frames();
        let began = universe.now();
        let mut fleet = Fleet::new(&universe, &settings);
        let mut marker = Marker::new(seed, &settings);
        let mut switcher = Switcher::new(seed, &settings, &marker);
        if failover.is_some() {
            marker.rest();
            switcher.rest();
        }
        fleet.by_hand = marker.is_busy();
        fleet.add_cluster(Role::Primary, settings.nodes, settings.shards, &[])?;
        for standby in &settings.standbys {
            let upstream = upstream_of(standby.upstream, &fleet, &mut random);
            fleet.add_cluster(Role::Standby, standby.nodes, standby.shards, &upstream)?;
        }
        Ok(World {
            seed,
            workload: Workload::new(
                &settings,
                random.bits(),
                match failover {
                    None => Registrar::new(settings.standbys.len(), seed, switcher.is_busy()),
                    Some(_) => Registrar::idle(settings.standbys.len(), seed),
                },
            ),
            faults: match is_contest(seed) {
                true => Faults::draw_contest(random.bits()),
                false => Faults::draw(random.bits()),
            },
            operator,
            marker,
            switcher,
            truncation: Truncation::new(0, true),
            checks: Checks::default(),
            agenda: Agenda::default(),
            universe,
            settings,
            fleet,
            began,
            acks_before_fault: 0,
            turns: 0,
            let_go: BTreeMap::new(),
            not_kept: false,
            failover,
        })
    }

    /// Lives through the whole seed.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn live(&mut self) -> Result<(), Violation> {
        self.begin(&[])?;
        self.suffer()?;
        self.recover()?;
        self.check_copies()?;
        self.check_upstreams()?;
        self.check_sleep()
    }

    /// What it came to so far.
    pub fn report(&self) -> SeedReport {
        let fault_counts = self.faults.counts(&self.universe);
        let simulated_ns = self.universe.now().since(self.began);
        let acks = self.workload.history.acks;
        SeedReport {
            seed: self.seed,
            simulated_ns,
            acks,
            acks_before_fault: self.acks_before_fault,
            shipped: self.fleet.shipped(),
            truncations: self.truncation.truncations,
            let_go: self.let_go.values().sum(),
            trace_hash: self.universe.trace_hash(),
            ok: simulated_ns >= RUN_NS_MIN
                && self.acks_before_fault >= ACKS_BEFORE_FAULT
                && fault_counts.len() >= 3,
            fault_counts,
            steps: self.universe.trace_len(),
            turns: self.turns,
            moved: self.operator.moved,
            marks: self.marker.written,
            gated: self.checks.gated(),
            switchovers: self.fleet.role_epoch() - 1,
            changes: self.workload.registrar.changes,
            forbidden: self.workload.registrar.forbidden,
            failover: self.failover.as_ref().map(|it| it.report).unwrap_or_default(),
        }
    }

    /// What it came to, for who looks into a violation.
    pub fn failure(&self, violation: Violation) -> Failure {
        Failure {
            report: self.report(),
            violation,
            settings: format!("{:?}", self.settings),
            state: self.describe(),
            trace: self.universe.recent_trace(),
        }
    }

    fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (stream, end) in &self.workload.history.acked_end {
            lines.push(format!("stream {stream}: acknowledged up to {end}"));
        }
        lines.push(self.workload.registrar.describe());
        for (at, node) in self.fleet.nodes.iter().enumerate() {
            let Node { cluster, boots, process, .. } = node;
            lines.push(format!("node #{at} of cluster {cluster}: start {boots}, {process:?}"));
            for registry in self.fleet.registries(at).take(1) {
                let standbys: Vec<_> = registry.standbys().map(|s| (s.id, s.hold)).collect();
                let (version, mode) = (registry.version(), registry.mode());
                lines.push(format!("  registry {version}: {standbys:?}, {mode:?}"));
            }
            for stream in self.fleet.streams(node.cluster) {
                let Some(replica) = self.fleet.replica(at, stream) else { continue };
                // A broken invariant may be one of this replica's own.
                let Ok(s) = catch_unwind(AssertUnwindSafe(|| replica.status())) else {
                    lines.push(format!("  stream {stream}: the replica is broken"));
                    continue;
                };
                lines.push(format!(
                    "  stream {stream}: {:?} leader {} promised {} accepting {} up {} committed \
                     {} durable {} end {} ({})",
                    s.role,
                    s.leader,
                    s.promised,
                    s.accepting,
                    s.up,
                    s.committed,
                    s.durable,
                    s.end,
                    self.fleet.transfer(at, stream).unwrap_or(s.reason.to_owned())
                ));
                if let Some(sync) = self.fleet.sync_status(at, stream).filter(|s| s.mark.is_some())
                {
                    lines.push(format!("    {sync:?}"));
                }
            }
        }
        lines
    }
}

/// The parts of a run.
impl World {
    /// A good day: nodes start but for some, streams are created, the first records are
    /// acknowledged.
    fn begin(&mut self, but: &[usize]) -> Result<(), Violation> {
        for node in (0..self.fleet.nodes.len()).filter(|node| !but.contains(node)) {
            self.fleet.start(node);
        }
        let now = self.universe.now();
        self.agenda.add(now, Entry::Wake(Wake::Creator));
        let deadline = now.after(START_NS);
        while self.workload.wants_streams() {
            self.step_until(deadline, "streams are created")?;
        }
        let now = self.universe.now();
        for wake in self.workload.start() {
            self.agenda.add(now, Entry::Wake(wake));
        }
        let deadline = now.after(START_NS);
        while self.workload.history.acks < ACKS_BEFORE_FAULT {
            self.step_until(deadline, "the first appends are acknowledged")?;
        }
        self.acks_before_fault = self.workload.history.acks;
        let own = self.seed ^ 0x7472_756E_6361_7465;
        self.truncation = Truncation::new(own, self.faults.may_lose_bytes());
        if self.truncation.is_on() {
            self.agenda.add(self.universe.now(), Entry::Truncation);
        }
        Ok(())
    }

    /// Bad days.
    fn suffer(&mut self) -> Result<(), Violation> {
        self.start_faults();
        let end = self.began.after(self.settings.faulty_ns);
        while self.universe.now() < end {
            self.step(end)?;
        }
        Ok(())
    }

    fn start_faults(&mut self) {
        let now = self.universe.now();
        let mut random = Random::new(self.seed ^ 0x0066_6175_6C74);
        self.universe.set_faults(self.faults.plan(FaultPlan::swarm(&mut random)));
        self.agenda.add(now, Entry::Fault(Step::Draw));
        self.agenda.add(now, Entry::Operator);
        if self.marker.is_busy() {
            self.agenda.add(now, Entry::Marker);
        }
        if self.switcher.is_busy() {
            self.agenda.add(now, Entry::Switcher);
        }
    }

    /// Everything ends that disturbs.
    fn calm_down(&mut self) {
        self.faults.over = true;
        self.failover.iter_mut().for_each(|failover| failover.calm = true);
        self.universe.calm();
        let stays = |entry: &Entry| matches!(entry, Entry::Wake(_) | Entry::Rebuild);
        self.agenda.retain(|entry| stays(entry) || matches!(entry, Entry::Failover));
        for node in 0..self.fleet.nodes.len() {
            if self.fleet.nodes[node].process.is_none() {
                self.fleet.start(node);
            }
        }
    }

    /// Nothing disturbs any more; soon all must be well.
    fn recover(&mut self) -> Result<(), Violation> {
        self.marker.calm = true;
        self.calm_down();
        if self.marker.is_busy() {
            self.agenda.add(self.universe.now(), Entry::Marker);
        }
        self.workload.registrar.on_calm();
        let calm = self.universe.now();
        let deadline = calm.after(RECOVER_NS);
        let streams = self.fleet.streams(self.fleet.primary());
        let mut waiting: Vec<u64> = streams.into_iter().filter(|&s| s > 1).collect();
        let clusters = 0..self.fleet.clusters.len();
        let all = |at| self.fleet.streams(at).into_iter().map(move |stream| (at, stream));
        let mut leaderless: Vec<(usize, u64)> = clusters.flat_map(all).collect();
        // Clients go on, so that every stream that they know gets new records; then they end.
        let probes = self.workload.history.attempts.len();
        loop {
            leaderless.retain(|&(at, stream)| self.fleet.leader(at, stream).is_none());
            let history = &self.workload.history;
            for attempt in history.attempts[probes..].iter().filter(|a| a.told.is_some()) {
                let record = &history.records[attempt.record];
                waiting.retain(|&stream| stream != record.stream || record.acked.is_none());
            }
            if waiting.is_empty() && leaderless.is_empty() {
                break;
            }
            self.workload.probe(&waiting, &self.fleet, self.universe.now());
            let what = || {
                format!("(cluster, stream) without leader {leaderless:?}, no append {waiting:?}")
            };
            let next = deadline.min(self.universe.now().after(20 * MS));
            if self.universe.now() >= deadline {
                return Err(Violation::new("liveness", what()));
            }
            while self.universe.now() < next {
                self.step(next)?;
            }
        }
        self.agenda.retain(|entry| !matches!(entry, Entry::Wake(Wake::Client(_))));
        for who in self.workload.drain() {
            self.agenda.add(self.universe.now(), Entry::Wake(who));
        }
        let deadline = deadline.max(self.universe.now()).after(RECOVER_NS);
        while !self.workload.is_settled(&self.fleet) || !self.switcher.is_settled(&self.fleet) {
            if self.universe.now() >= deadline {
                return Err(Violation::new("liveness", self.workload.unsettled()));
            }
            self.step(deadline)?;
        }
        self.check_upstreams()
    }

    fn step_until(&mut self, deadline: Nanos, what: &str) -> Result<(), Violation> {
        if self.universe.now() >= deadline {
            return Err(Violation::new("liveness", format!("until {what} it takes too long")));
        }
        self.step(deadline)
    }
}

/// Steps.
impl World {
    /// Moves on to what happens next, or to `limit`.
    fn step(&mut self, limit: Nanos) -> Result<(), Violation> {
        let next = [self.universe.next_event(), self.agenda.next()].into_iter().flatten().min();
        let now = self.universe.now();
        self.universe.advance_to(next.unwrap_or(limit).min(limit).max(now));
        let now = self.universe.now();
        while let Some(entry) = self.agenda.take(now) {
            self.act(entry, now)?;
        }
        for ring in self.universe.due() {
            self.turn(ring)?;
        }
        self.watch_failover()?;
        for (attempt, told) in self.workload.take_outcomes(&self.fleet, &mut self.checks)? {
            self.check_told(attempt, told)?;
            let code = u64::from(told == super::history::Told::Acked);
            self.universe.note("told", [attempt as u64, code, 0]);
        }
        Ok(())
    }

    fn act(&mut self, entry: Entry, now: Nanos) -> Result<(), Violation> {
        match entry {
            Entry::Wake(who) => {
                let next = self.workload.wake(who, now, &self.fleet, &mut self.checks)?;
                let again = who != Wake::Creator || self.workload.wants_streams();
                if again {
                    self.agenda.add(next, Entry::Wake(who));
                }
            }
            Entry::Marker => {
                let next = self.marker.wake(now, &mut self.fleet);
                self.agenda.add(next, Entry::Marker);
            }
            Entry::Switcher => {
                let next = self.switcher.wake(now, &self.fleet);
                self.agenda.add(next, Entry::Switcher);
            }
            Entry::Operator => {
                if let Some(next) = self.operator.wake(now, &self.fleet)? {
                    self.agenda.add(next, Entry::Operator);
                }
            }
            Entry::Failover => {
                let failover = self.failover.as_mut().expect("a world with a failover");
                let next = failover.wake(now, &self.fleet)?;
                self.agenda.add(next, Entry::Failover);
            }
            Entry::Rebuild => {
                self.rebuild_last();
                self.agenda.add(now.after(REBUILD_NS), Entry::Rebuild);
            }
            Entry::Truncation => {
                let workload = &self.workload;
                self.truncation.wake(&self.fleet, |stream| workload.read_upto(stream));
                let next = self.truncation.next(now);
                self.agenda.add(next, Entry::Truncation);
            }
            Entry::Fault(Step::Draw) => {
                let blow = self.faults.draw_blow(&self.fleet);
                self.agenda.add(now, Entry::Fault(Step::Strike(blow)));
                let next = self.faults.next_draw(now);
                self.agenda.add(next, Entry::Fault(Step::Draw));
            }
            Entry::Fault(Step::Strike(blow)) => {
                for (at, step) in self.faults.strike(blow, &self.universe, &mut self.fleet) {
                    self.agenda.add(at, Entry::Fault(step));
                }
            }
            Entry::Fault(Step::Revive(node)) => {
                if self.fleet.nodes[node].process.is_none() {
                    self.fleet.start(node);
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, ring: RingId) -> Result<(), Violation> {
        self.turns += 1;
        let Some((node, turned)) = self.fleet.turn(ring) else { return Ok(()) };
        if let Turned::Halted(halt) = turned {
            return self.on_halt(node, halt);
        }
        let Some(shard) = self.fleet.shard(ring) else { return Ok(()) };
        let (cluster, boot) = (self.fleet.nodes[node].cluster, self.fleet.nodes[node].boots);
        for (code, text) in shard.alarms() {
            // Hosts here have addresses of a network.
            let usual = ["disk-stalled", "peer-disk-slow", "insecure-network"];
            self.not_kept |= code == NOT_KEPT;
            let few = code == NOT_KEPT && self.settings.pin_bytes_max == PINS_FEW;
            let excused = usual.contains(&code)
                || few
                || code == NOT_KEPT && self.faults.may_fill_disks()
                || code == "log-full" && self.faults.may_fill_disks()
                || code == "failover-stopped" && self.failover.is_some()
                || self.faults.may_spoil_reads(node, &self.fleet);
            if !excused {
                let text = format!("node #{node}, start {boot}: {code}: {text}");
                return Err(Violation::new("alarm", text));
            }
        }
        let (start, number) = (shard.log_start().segment, shard.identity().shard);
        if start > 0 {
            self.let_go.insert((node, number), start - 1);
        }
        let mut blows = Vec::new();
        for replica in shard.replicas() {
            let seat = Seat { cluster, node, boot, stream: replica.stream() };
            let seized = shard.seizes_at(seat.stream);
            let acts = shard.acts(seat.stream) || seized.is_some();
            if let Some(failover) = self.failover.as_mut().filter(|_| acts && seat.cluster > 0)
                && let Some(status) = shard.sync_status(seat.stream)
                && let Some(fork) = failover.fork(seat.stream, replica.serving(), &status, seized)
            {
                self.checks.on_fork(fork)?;
            }
            let raised = self.checks.on_turn(seat, acts, replica)?;
            if acts && let Some(status) = shard.sync_status(replica.stream()) {
                let logged = shard.logged_marks(replica.stream()).collect();
                let accepting = replica.log().accepting();
                self.checks.on_sync_status(seat, accepting, &status, logged);
            }
            let (scn, upto) = (shard.replayable_scn(), shard.shown(replica.stream()));
            let counted = shard.counted(replica.stream());
            let acts = !shard.is_limited(replica.stream());
            self.checks.on_shown(seat, Shown { acts, scn, upto, counted })?;
            if let Some(closed) = shard.closed(replica.stream()) {
                self.checks.on_closed(seat, closed)?;
            }
            for (id, ballot) in replica.promisers() {
                let promiser = self.fleet.clusters[cluster].nodes[id as usize - 1];
                self.checks.on_counted(promiser, replica.stream(), ballot);
            }
            if raised != Default::default() {
                let now = self.universe.now();
                blows.extend(self.faults.on_raised(node, raised, now, &self.fleet));
            }
        }
        for (at, blow) in blows {
            self.agenda.add(at, Entry::Fault(Step::Strike(blow)));
        }
        Ok(())
    }

    /// A shard stopped by itself: its node is gone until it is started again.
    fn on_halt(&mut self, node: usize, halt: Halt) -> Result<(), Violation> {
        let excused =
            matches!(halt, Halt::Poisoned(_) | Halt::Io(_)) && self.faults.may_stop_nodes();
        if !excused {
            let boot = self.fleet.nodes[node].boots;
            let text = format!("node #{node}, start {boot}: {halt:?}");
            return Err(Violation::new("halt", text));
        }
        self.fleet.kill(node);
        let now = self.universe.now();
        let at = self.faults.revival(now);
        self.agenda.add(at, Entry::Fault(Step::Revive(node)));
        Ok(())
    }
}

/// The end.
impl World {
    /// Waits until every replica has everything, reads all of it and checks it.
    fn check_copies(&mut self) -> Result<(), Violation> {
        // Who came late, or fell behind again, may have to be built anew still.
        self.agenda.retain(|entry| matches!(entry, Entry::Rebuild));
        let deadline = self.universe.now().after(CATCH_UP_NS);
        for stream in self.fleet.streams(self.fleet.primary()) {
            while !self.is_level(stream) {
                if self.universe.now() >= deadline {
                    let text = format!("stream {stream} does not become the same everywhere");
                    return Err(Violation::new("liveness", text));
                }
                self.step(deadline)?;
            }
        }
        self.await_closed()?;
        let mut copies = Vec::new();
        for node in 0..self.fleet.nodes.len() {
            for stream in self.fleet.streams(self.fleet.nodes[node].cluster) {
                copies.push(self.copy(node, stream, deadline)?);
            }
        }
        self.workload.registrar.at_end(&self.fleet)?;
        self.checks.at_end(&self.workload.history, &copies)
    }

    /// Waits until every node of the primary knows that every group is closed.
    fn await_closed(&mut self) -> Result<(), Violation> {
        let deadline = self.universe.now().after(CATCH_UP_NS);
        let primary = self.fleet.primary();
        for stream in self.fleet.streams(primary).into_iter().filter(|stream| *stream > 0) {
            while !self.is_closed(stream) {
                if self.universe.now() >= deadline {
                    let known: Vec<_> = (self.fleet.clusters[primary].nodes.iter())
                        .map(|node| self.fleet.closed(*node, stream))
                        .collect();
                    let text = format!("stream {stream} is not closed to its end: {known:?}");
                    return Err(Violation::new("liveness", text));
                }
                self.step(deadline)?;
            }
        }
        Ok(())
    }

    fn is_closed(&self, stream: u64) -> bool {
        let primary = self.fleet.primary();
        let nodes = &self.fleet.clusters[primary].nodes;
        let Some(leader) = self.fleet.leader(primary, stream) else { return false };
        let Some(last) = self.fleet.replica(leader, stream) else { return false };
        let (scn, end) = (last.log().last_scn(), last.log().end().lsn);
        nodes.iter().all(|node| {
            self.fleet.closed(*node, stream).is_some_and(|c| c.scn >= scn && c.end == end)
        })
    }

    /// In a calm world every stream of a standby comes from the primary before long, and by way of
    /// no cluster twice.
    fn check_upstreams(&mut self) -> Result<(), Violation> {
        let deadline = self.universe.now().after(REPARENT_NS);
        loop {
            let stray = self.strays();
            if stray.is_empty() {
                return Ok(());
            }
            if self.universe.now() >= deadline {
                let text = format!("(cluster, stream, its ways) {stray:?}");
                return Err(Violation::new("upstream_tree", text));
            }
            self.step(deadline)?;
        }
    }

    /// Streams of standbys that do not come from the primary: cluster, stream, and the clusters
    /// that they come through.
    fn strays(&self) -> Vec<(usize, u64, Vec<usize>)> {
        let mut strays = Vec::new();
        let primary = self.fleet.primary();
        for cluster in (0..self.fleet.clusters.len()).filter(|at| *at != primary) {
            for stream in self.fleet.streams(cluster).into_iter().filter(|&stream| stream > 0) {
                let mut way = vec![cluster];
                while let Some((from, _)) = self.fleet.upstream(way[way.len() - 1], stream) {
                    way.push(from);
                    if from == primary || way.len() > self.fleet.clusters.len() {
                        break;
                    }
                }
                if way.last() != Some(&primary) {
                    strays.push((cluster, stream, way));
                }
            }
        }
        strays
    }

    /// A shard with nothing to do sleeps: turns follow from what happened.
    fn check_sleep(&self) -> Result<(), Violation> {
        let (turns, happened) = (self.turns, self.universe.trace_len());
        if turns <= TURNS_PER_EVENT_MAX * happened {
            return Ok(());
        }
        Err(Violation::new("shards_sleep", format!("{turns} turns for {happened} events")))
    }

    /// Whether a stream is committed up to the same position on all nodes that have it, of all
    /// clusters but for the system stream, and every range that was lost is there again.
    fn is_level(&self, stream: u64) -> bool {
        let committed = |node: usize| {
            let log = self.fleet.replica(node, stream)?.log();
            let (status, committed) = (self.fleet.sync_status(node, stream)?, log.committed());
            (log.is_whole() && status.released == committed.lsn).then_some(committed)
        };
        let alive = |node: &usize| !self.fleet.is_lost(self.fleet.nodes[*node].cluster);
        let base = (0..self.fleet.nodes.len()).find(alive).expect("somebody is left");
        let first = committed(base);
        let is_same = |(node, known): (usize, &Node)| {
            let at = if stream == 0 { self.fleet.clusters[known.cluster].nodes[0] } else { base };
            committed(node).is_some() && committed(node) == committed(at)
        };
        let mut all = self.fleet.nodes.iter().enumerate().filter(|(node, _)| alive(node));
        first.is_some() && all.all(is_same)
    }

    /// What a node has of a stream, and what was archived before it was truncated.
    fn copy(&mut self, node: usize, stream: u64, deadline: Nanos) -> Result<FullCopy, Violation> {
        let known = &self.fleet.nodes[node];
        let seat = Seat { cluster: known.cluster, node, boot: known.boots, stream };
        let unreadable = |why: &str| Violation::new("readable", format!("{seat}: {why}"));
        let (records, mut from) = self.truncation.archived(stream);
        let mut copy = FullCopy { seat, committed: Lsn::ZERO, records };
        loop {
            let port = self.fleet.port(node, stream).ok_or_else(|| unreadable("down"))?;
            let answer = port.read(stream, from).map_err(|e| unreadable(&e.to_string()))?;
            let part = loop {
                match answer.try_take() {
                    Some(Ok(part)) => break part,
                    Some(Err(error)) => return Err(unreadable(&error.to_string())),
                    None if self.universe.now() >= deadline => {
                        return Err(unreadable("no answer"));
                    }
                    None => self.step(deadline)?,
                }
            };
            let done = part.next == from && part.records.is_empty();
            (from, copy.committed) = (part.next, part.committed);
            copy.records.extend(part.records);
            if done {
                return Ok(copy);
            }
        }
    }
}
