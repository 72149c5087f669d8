//! Worlds with a failover: the primary dies for good while a SYNC standby has all that was acked,
//! and an operator lets that standby take its role, again and again, whatever goes wrong there.
//!
//! The primary is the first cluster of the world, the SYNC standby the second, and where there is a
//! third it is an ASYNC one. That is only in MAXIMUM PROTECTION: when the level fell before the
//! primary died, an ASYNC standby may have more than the next primary, and stays behind.

use std::collections::BTreeMap;

use palisade::control::{Controlled, Mode, Phase, Request, Settings as Given};
use palisade::shard::Answer;
use palisade::shard::sync::{Mark, Marked, SyncStatus};
use palisade::status::Transfer;
use palisade::{Error, ErrorKind, Protection};
use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use super::{Entry, World};
use crate::sim::Random;
use crate::world::check::{Fork, Violation};
use crate::world::faults::{Blow, Step};
use crate::world::fleet::Fleet;
use crate::world::history::Told;
use crate::world::registrar::add;
use crate::world::report::FailedOver;
use crate::world::settings::{MS, SECOND, Settings, Standby, Upstream, pick};

/// Index of the cluster that dies.
const LOST: usize = 0;
/// Index of the one that takes its role.
const TARGET: usize = 1;
/// The stream with the registry.
const CATALOGUE: u64 = 1;
/// Until the level is what the mode asks for, in a calm world.
const RISE_NS: u64 = 60 * SECOND;
/// So long it may be away before the primary dies, until the world calms down for it.
const WELL_NS: u64 = 15 * SECOND;
/// Faults go on so long after the death of the primary.
const AFTER_NS: u64 = 20 * SECOND;
/// Until the standby has the role, in a calm world.
const TAKEN_NS: u64 = 15 * SECOND;

/// The operator of such a world, and what it has seen. Draws from a source of its own.
pub(super) struct Failover {
    random: Random,
    mode: Protection,
    /// How the primary is to be served afterwards, where that is said.
    primary: Option<Transfer>,
    /// From the first fault until the primary may die.
    dies_ns: u64,
    /// From then on until the operator asks.
    asks_ns: u64,
    asks_from: Nanos,
    waiting: Option<Answer<Controlled>>,
    /// What went on when it was looked last.
    phase: Option<Phase>,
    /// The primary may have acked alone when it died.
    fell: bool,
    /// Where streams go on, as the newest leader of each has it.
    forks: BTreeMap<u64, (Ballot, Lsn)>,
    /// Every stream has its FENCE.
    begun: bool,
    served: bool,
    /// Faults are over.
    pub(super) calm: bool,
    pub(super) report: FailedOver,
}

impl Failover {
    pub(super) fn new(seed: u64) -> Failover {
        let mut random = Random::new(seed ^ 0x6661_696C_6F76_6572);
        let mode = pick(&mut random, &[Protection::Protection, Protection::Availability]);
        let primary = pick(&mut random, &[None, Some(Transfer::Sync), Some(Transfer::Async)]);
        let dies_ns = random.between(MS, 25 * SECOND);
        let asks_ns = pick(&mut random, &[MS, 300 * MS, 5 * SECOND]);
        Failover {
            mode,
            primary,
            dies_ns,
            asks_ns: random.between(1, asks_ns),
            random,
            asks_from: Nanos(u64::MAX),
            waiting: None,
            phase: None,
            fell: false,
            calm: false,
            forks: BTreeMap::new(),
            begun: false,
            served: false,
            report: FailedOver::default(),
        }
    }

    /// The clusters that such a world has.
    pub(super) fn shape(&mut self, settings: &mut Settings) {
        let random = &mut self.random;
        let protects = self.mode == Protection::Protection;
        let (nodes, shards) = (pick(random, &[1, 3, 3]), pick(random, &[1, 1, 2]));
        let mut standbys = vec![Standby { nodes, shards, upstream: Upstream::Primary }];
        if protects && random.coin() {
            let (nodes, shards) = (pick(random, &[1, 3]), pick(random, &[1, 2]));
            standbys.push(Standby { nodes, shards, upstream: Upstream::Both });
        }
        settings.standbys = standbys;
        if !protects {
            // One that is acked and lost would be another stream at the next primary.
            settings.late_streams = 0;
        }
    }

    /// Acts: when to act again.
    pub(super) fn wake(&mut self, now: Nanos, fleet: &Fleet) -> Result<Nanos, Violation> {
        if let Some(answer) = self.waiting.take() {
            match answer.try_take() {
                // Who asked a node that died hears nothing.
                None if self.random.below(8) > 0 => self.waiting = Some(answer),
                Some(Err(error)) if self.asks_from <= now => self.hear(&error, fleet)?,
                _ => {}
            }
        }
        if self.waiting.is_none() {
            self.waiting = match fleet.is_lost(LOST) {
                false => self.raise(fleet),
                true if self.asks_from <= now && !self.served => self.ask(fleet),
                true => None,
            };
        }
        Ok(now.after(self.random.between(10 * MS, SECOND)))
    }

    fn hear(&mut self, error: &Error, fleet: &Fleet) -> Result<(), Violation> {
        let Some(mode) = newest(fleet, TARGET) else { return Ok(()) };
        let id = fleet.clusters[TARGET].id;
        let may = mode.seizable(id).is_some() || mode.office.holder == id;
        let would_lose = error.to_string().contains("would-lose");
        if error.kind() != ErrorKind::Forbidden || may || !would_lose {
            return Ok(());
        }
        self.report.refused = 1;
        match self.fell {
            true => Ok(()),
            false => {
                Err(Violation::new("failover_goes_on", format!("refused: {error}, at {mode:?}")))
            }
        }
    }

    /// Asks the primary for what is missing for its SYNC level.
    fn raise(&mut self, fleet: &Fleet) -> Option<Answer<Controlled>> {
        let leader = fleet.leader(LOST, CATALOGUE)?;
        let registry = fleet.registries(leader).next()?;
        let lacks = |at: &usize| registry.standby(fleet.clusters[*at].id).is_none();
        let lacks = (TARGET..fleet.clusters.len()).find(lacks);
        let request = match (lacks, self.primary) {
            (Some(TARGET), _) => {
                let mut request = add(fleet, fleet.clusters[TARGET].id, Transfer::Sync);
                if let Request::Add { settings, .. } = &mut request {
                    let ms = |random: &mut Random| Some(pick(random, &[500, 2000, 5000]));
                    let net_timeout_ms = ms(&mut self.random);
                    let health_check_ms = ms(&mut self.random);
                    *settings = Given { net_timeout_ms, health_check_ms, ..settings.clone() };
                }
                request
            }
            (Some(at), _) => add(fleet, fleet.clusters[at].id, Transfer::Async),
            (None, Some(transfer)) if registry.primary().is_none() => {
                Request::SetPrimary { transfer }
            }
            (None, _) if registry.mode().mode != self.mode => {
                Request::SetMode { mode: self.mode, force: false }
            }
            (None, _) => return None,
        };
        fleet.port(leader, CATALOGUE)?.control(request).ok()
    }

    fn ask(&mut self, fleet: &Fleet) -> Option<Answer<Controlled>> {
        let nodes = &fleet.clusters[TARGET].nodes;
        let any = pick(&mut self.random, nodes);
        let leader = fleet.leader(TARGET, CATALOGUE).filter(|_| self.random.below(8) > 0);
        let allow_loss = self.mode != Protection::Protection;
        let port = fleet.port(leader.unwrap_or(any), CATALOGUE)?;
        port.control(Request::Failover { allow_loss }).ok()
    }

    /// A replica of the next primary: where its stream goes on from, when that is news.
    pub(super) fn fork(
        &mut self,
        stream: u64,
        serving: Option<Ballot>,
        status: &SyncStatus,
        seized: Option<Lsn>,
    ) -> Option<Fork> {
        let (ballot, last) = (serving?, status.mark);
        let fence = last.filter(|last| last.mark.is_fence());
        let without = matches!(fence, Some(Marked { mark: Mark::Fence { held_by: 0, .. }, .. }));
        self.report.stopped |= u64::from(without);
        // The catalogue goes on with what says that the role is taken.
        let at = if stream == CATALOGUE { seized } else { fence.map(|fence| fence.start) }?;
        let known = self.forks.get(&stream).copied();
        if known.is_some_and(|(newest, _)| newest >= ballot) {
            return None;
        }
        self.forks.insert(stream, (ballot, at));
        let is_news = known.is_none_or(|(_, before)| before != at);
        is_news.then(|| self.fork_at(stream, at))
    }

    fn fork_at(&self, stream: u64, at: Lsn) -> Fork {
        Fork { stream, at, lost: LOST, taker: TARGET, may_lose: self.fell }
    }

    /// Nothing more comes of it: what was acked alone is missing, and the standby knows.
    fn is_over(&self) -> bool {
        self.report.refused + self.report.stopped > 0
    }
}

/// Mode and role as the newest registry of a cluster has them committed.
fn newest(fleet: &Fleet, cluster: usize) -> Option<Mode> {
    let nodes = fleet.clusters[cluster].nodes.iter();
    let registries = nodes.filter_map(|node| fleet.registries(*node).next());
    registries.map(|registry| registry.mode()).max_by_key(|mode| mode.epoch)
}

impl World {
    /// Lives through the whole seed, the primary dying on the way.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn live_failover(&mut self) -> Result<(), Violation> {
        self.begin(&[])?;
        self.agenda.add(self.universe.now(), Entry::Failover);
        self.await_level(RISE_NS)?;
        self.start_faults();
        let dies = self.universe.now().after(self.operated().dies_ns);
        while self.universe.now() < dies {
            self.step(dies)?;
        }
        let deadline = dies.after(WELL_NS);
        while !self.is_protected() && self.universe.now() < deadline {
            self.step(deadline)?;
        }
        if !self.is_protected() {
            self.calm_down();
            self.await_level(RISE_NS)?;
            self.start_faults();
        }
        self.lose_primary();
        let end = self.universe.now().after(AFTER_NS);
        let end = end.max(self.began.after(self.settings.faulty_ns));
        while self.universe.now() < end {
            self.step(end)?;
        }
        self.calm_down();
        let deadline = self.universe.now().after(TAKEN_NS);
        while !self.operated().served && !self.operated().is_over() {
            self.step_until(deadline, "a standby takes the role")?;
        }
        if !self.operated().served {
            return self.check_stopped();
        }
        self.recover()?;
        self.check_copies()?;
        self.check_upstreams()?;
        self.check_sleep()
    }

    fn operated(&self) -> &Failover {
        self.failover.as_ref().expect("a world with a failover")
    }

    fn await_level(&mut self, ns: u64) -> Result<(), Violation> {
        let deadline = self.universe.now().after(ns);
        while !self.is_protected() {
            self.step_until(deadline, "the SYNC standby is at the level of the mode")?;
        }
        Ok(())
    }

    /// Whether the standby knows that acks wait for it.
    fn is_protected(&self) -> bool {
        let Some(mode) = newest(&self.fleet, TARGET) else { return false };
        let asked = self.operated().mode;
        let is_marked = |stream: u64| {
            let leader = self.fleet.leader(TARGET, stream)?;
            let standing = self.fleet.sync_status(leader, stream)?.standing?;
            Some(standing.mark == mode.mark)
        };
        let streams = self.fleet.streams(TARGET);
        mode.is_steady()
            && (mode.mode, mode.level) == (asked, asked)
            && mode.mark.cluster() == Some(self.fleet.clusters[TARGET].id)
            && streams.into_iter().filter(|s| *s >= CATALOGUE).all(|s| is_marked(s) != Some(false))
    }

    /// Every node of the primary dies, and none comes back.
    fn lose_primary(&mut self) {
        let nodes = self.fleet.clusters[LOST].nodes.clone();
        let up = nodes.iter().all(|node| self.fleet.nodes[*node].process.is_some());
        let epoch = |cluster| newest(&self.fleet, cluster).map(|mode: Mode| mode.epoch);
        let same = up && epoch(LOST) == epoch(TARGET);
        let now = self.universe.now();
        self.fleet.lose(LOST);
        self.universe.note("lost", [LOST as u64, u64::from(same), 0]);
        let failover = self.failover.as_mut().expect("a world with a failover");
        failover.fell = failover.mode != Protection::Protection && !same;
        failover.asks_from = now.after(failover.asks_ns);
    }

    /// Looks at the standby after its turns.
    pub(super) fn watch_failover(&mut self) -> Result<(), Violation> {
        let Some(failover) = &mut self.failover else { return Ok(()) };
        let mode = newest(&self.fleet, TARGET).filter(|_| self.fleet.is_lost(LOST));
        let id = self.fleet.clusters[TARGET].id;
        let Some(mode) = mode.filter(|mode| mode.office.holder == id) else { return Ok(()) };
        if failover.report.stopped > 0 && !failover.fell {
            let text = format!("a FENCE says that something is missing, at {mode:?}");
            return Err(Violation::new("failover_goes_on", text));
        }
        if failover.phase.replace(mode.phase) != Some(mode.phase) {
            self.strike_moment(mode.phase);
        }
        let failover = self.failover.as_mut().expect("it is one");
        failover.served |= mode.is_steady();
        failover.report.done = u64::from(failover.served);
        let begins = mode.phase != Phase::Seizing && !std::mem::replace(&mut failover.begun, true);
        if begins { self.settle_forks() } else { Ok(()) }
    }

    /// Something happens to the next primary just when its role moves on.
    fn strike_moment(&mut self, phase: Phase) {
        let failover = self.failover.as_mut().expect("a world with a failover");
        let random = &mut failover.random;
        if failover.calm || phase == Phase::Steady || random.coin() {
            return;
        }
        let node = pick(random, &self.fleet.clusters[TARGET].nodes);
        let node = self.fleet.leader(TARGET, CATALOGUE).filter(|_| random.coin()).unwrap_or(node);
        let blows = [Blow::Kill(node), Blow::PowerCut(node), Blow::Blackout(node)];
        let blow = pick(random, &blows);
        let after = pick(random, &[MS / 10, MS, 20 * MS]);
        let at = self.universe.now().after(random.below(after));
        self.agenda.add(at, Entry::Fault(Step::Strike(blow)));
    }

    /// All forks are final: nothing that was acked may stand above them, unless the primary acked
    /// alone.
    fn settle_forks(&mut self) -> Result<(), Violation> {
        let failover = self.failover.as_mut().expect("a world with a failover");
        for stream in self.checks.streams() {
            let fork = failover.forks.get(&stream).map_or(Lsn::ZERO, |(_, at)| *at);
            let of_none = !failover.forks.contains_key(&stream);
            let fork = failover.fork_at(stream, fork);
            if of_none {
                // It was not created, as far as this cluster knows.
                self.checks.on_fork(fork)?;
            }
            let lost = self.workload.history.lose(stream, fork.at);
            for (record, acked) in &lost {
                if !failover.fell || Mode::is_sync(acked.level) {
                    let text = format!(
                        "stream {stream} goes on at {}, without record {record}, acknowledged as \
                         {acked:?}",
                        fork.at
                    );
                    return Err(Violation::new("acked_survives", text));
                }
            }
            failover.report.lost += lost.len() as u64;
            if failover.fell {
                self.workload.forget(stream, fork.at, &lost);
            }
        }
        Ok(())
    }

    /// Nobody is told anything good by a primary that does not serve yet, and nothing new stands
    /// below the forks.
    pub(super) fn check_told(&self, attempt: usize, told: Told) -> Result<(), Violation> {
        let Some(failover) = &self.failover else { return Ok(()) };
        let history = &self.workload.history;
        let node = history.attempts[attempt].node;
        let record = &history.records[history.attempts[attempt].record];
        let there = self.fleet.nodes[node].cluster == TARGET;
        let Some(acked) = record.acked.filter(|_| told == Told::Acked && there) else {
            return Ok(());
        };
        let fork = failover.forks.get(&record.stream).map(|(_, at)| *at);
        // A producer may ask again for what stands below.
        let again = record.producer != 0 && fork.is_none_or(|fork| acked.end_lsn <= fork);
        if again || failover.served && fork.is_none_or(|fork| acked.lsn > fork) {
            return Ok(());
        }
        let text = format!(
            "node #{node} acknowledged {acked:?} of stream {}, which goes on at {fork:?}; serves: \
             {}",
            record.stream, failover.served
        );
        Err(Violation::new("role_epochs", text))
    }

    /// A failover that would lose something came to nothing: the standby is no primary.
    fn check_stopped(&self) -> Result<(), Violation> {
        let mode = newest(&self.fleet, TARGET);
        let serves = |mode: Mode| {
            mode.office.holder == self.fleet.clusters[TARGET].id && mode.phase != Phase::Seizing
        };
        match mode {
            Some(mode) if serves(mode) => {
                Err(Violation::new("failover_stops", format!("it went on to {mode:?}")))
            }
            _ => Ok(()),
        }
    }
}
