//! The choice of upstreams, driven: questions to candidates and their answers, and what this node
//! answers when it is asked itself.

use std::net::SocketAddr;

use palisade_netio::{DownReason, Frame, Nanos, Outgoing, Ring};
use palisade_wal::Lsn;

use crate::config::Role;
use crate::kinds::{KIND_BEAT, KIND_FACTS};
use crate::paxos::Member;
use crate::shard::Shard;
use crate::shard::net::Duty;
use crate::shard::stream::StreamState;
use crate::transfer::candidates::Asking;
use crate::transfer::facts::{Path, Place, Pulse, Standing, StreamFacts};
use crate::transfer::limits::{PLACES_MAX, PULSE_NS};
use crate::transfer::{Advice, Chooser, Facts, Me, Question, State};

/// State of a stream's transfer, for status.
pub(crate) struct Transfer {
    pub(crate) state: &'static str,
    pub(crate) since: Nanos,
    pub(crate) reason: String,
    pub(crate) action: &'static str,
}

impl<R: Ring> Shard<R> {
    /// Who chooses upstreams; there from the first stream on that is led here.
    pub(crate) fn chooser(&mut self) -> &mut Chooser {
        if self.imports.chooser.is_none() {
            let (config, seed) = (&self.config, self.io.ring.random());
            let me = Me {
                cluster: config.cluster,
                node: config.node,
                region: config.region.clone(),
                home: config.upstream_region.clone(),
                fixed: config.upstream_override,
                named: 0,
            };
            let (known, now) = (self.known_term(), self.io.now);
            let mut chooser = Chooser::new(me, &self.config.upstream, seed, now);
            chooser.on_term(known, now);
            self.imports.chooser = Some(chooser);
            // The registry was told before, for instance to a follower, or at its last start.
            self.choose_upstreams();
        }
        self.imports.chooser.as_mut().expect("made just now, or before")
    }

    /// The operator may have named another standby as the upstream, or none any more; the primary
    /// may be another one.
    pub(crate) fn choose_upstreams(&mut self) {
        let named = self.registry.standby(self.me.cluster).map_or(0, |own| own.upstream);
        let nodes = self.registry.standby(named).into_iter().chain(self.other_primary());
        let nodes = nodes.chain(self.heard_primary());
        let nodes = nodes.flat_map(|cluster| &cluster.endpoints);
        let nodes: Vec<SocketAddr> = nodes.filter_map(|endpoint| endpoint.parse().ok()).collect();
        let all = [&self.config.upstream[..], &nodes].concat();
        let now = self.io.now;
        if let Some(chooser) = &mut self.imports.chooser {
            chooser.on_named(named, &all, now);
        }
    }

    /// Who hands the role over hears at once who has taken it up: at a SYNC level acks wait for it.
    pub(crate) fn expect_primary(&mut self) {
        let (now, moves) = (self.io.now, self.is_handing_over());
        if let Some(chooser) = self.imports.chooser.as_mut().filter(|_| moves) {
            chooser.hurry(now);
        }
    }

    /// Asks candidates, and acts on what the chooser wants.
    pub(crate) fn run_choices(&mut self) {
        let now = self.io.now;
        let (imports, streams) = (&mut self.imports, &self.streams);
        let Some(chooser) = &mut imports.chooser else { return };
        let end = |stream: u64| {
            streams.get(&stream).map_or(Lsn::ZERO, |state| state.replica.log().end().lsn)
        };
        chooser.on_time(now, end, &mut imports.advice);
        self.take_advice();
    }

    fn take_advice(&mut self) {
        for advice in std::mem::take(&mut self.imports.advice) {
            match advice {
                Advice::Connect(addr) => {
                    let conn = self.dial_reader(addr, Duty::Candidate(addr));
                    self.imports.candidates.insert(addr, conn);
                }
                Advice::Disconnect(addr) => {
                    if let Some(conn) = self.imports.candidates.remove(&addr) {
                        let io = &mut self.io;
                        self.net.close(&mut io.ring, &mut io.pool, conn);
                    }
                }
                Advice::Ask(asking) => self.ask(asking),
                Advice::Switch { stream, to } => self.feed_from(stream, to),
            }
        }
    }

    fn ask(&mut self, asking: Asking) {
        let Asking { addr, number, known, mut streams } = asking;
        for wanted in &mut streams {
            // What is committed a majority of this cluster has for good.
            let state = self.streams.get(&wanted.stream);
            wanted.has = state.map_or(Lsn::ZERO, |state| state.replica.log().committed().lsn);
        }
        let first = streams.first().and_then(|wanted| self.streams.get(&wanted.stream));
        let own = first.and_then(|state| state.replica.config().member(self.me.node));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let from = Place {
            cluster: self.me.cluster,
            node: self.me.node,
            region: self.config.region.clone(),
            addr: own.and_then(|member| member.addr.parse().ok()).unwrap_or(nowhere),
        };
        let frame = Question { number, from, known, streams }.encode();
        let conn = self.imports.candidates.get(&addr);
        let Some(conn) = conn.and_then(|conn| self.net.conns.get_mut(conn)) else { return };
        let io = &mut self.io;
        // What finds no room is asked again.
        let _ = conn.link.send(&mut io.ring, &mut io.pool, Outgoing::inline(frame));
    }

    /// The link for questions to a node is up, or down; it is dialled again by itself.
    pub(crate) fn on_candidate_link(&mut self, conn: u32, up: bool) {
        let Some(Duty::Candidate(addr)) = self.net.conns.get(&conn).map(|conn| &conn.duty) else {
            return;
        };
        let (addr, now) = (*addr, self.io.now);
        if self.imports.candidates.get(&addr) == Some(&conn) {
            self.imports.chooser.iter_mut().for_each(|chooser| chooser.on_link(addr, up, now));
        }
    }

    /// A node answered.
    pub(crate) fn on_candidate_frame(&mut self, conn: u32, addr: SocketAddr, frame: &Frame) {
        if self.imports.candidates.get(&addr) != Some(&conn) || frame.head.kind == KIND_BEAT {
            return;
        }
        let run = frame.body;
        let bytes = &self.io.pool.bytes(frame.slot)[run.at as usize..(run.at + run.len) as usize];
        let facts = (frame.head.kind == KIND_FACTS).then(|| Facts::parse(&frame.head, bytes));
        if let Some(Ok(facts)) = &facts {
            self.note_term(facts.known.max(facts.own));
        }
        let now = self.io.now;
        let imports = &mut self.imports;
        let Some(chooser) = &mut imports.chooser else { return };
        if let Some(Ok(facts)) = facts {
            chooser.on_facts(addr, &facts, now, &mut imports.advice);
            self.take_advice();
            self.note_answer(addr);
            let (by, own) = ((facts.cluster, facts.node), self.me.cluster);
            let is_outranked = self.chooser().is_outranked(addr);
            for said in &facts.streams {
                if !self.streams.get(&said.stream).is_some_and(|state| state.leading) {
                    continue;
                }
                if is_outranked {
                    self.leave_outranked(said.stream, by.0);
                    continue;
                }
                let (epoch, round) = (said.pulse.epoch, said.pulse.round);
                if said.sync == own {
                    self.on_leader_seen(said.stream, by, epoch, round);
                } else {
                    self.on_other_seen(said.stream, by, epoch, round);
                }
            }
            return;
        }
        chooser.on_broken(addr, now);
        imports.candidates.remove(&addr);
        let io = &mut self.io;
        self.net.close(&mut io.ring, &mut io.pool, conn);
    }

    /// What a leader of this shard counts as its pulse.
    pub(crate) fn own_pulse(&self) -> u64 {
        self.io.now.0 / PULSE_NS
    }

    /// What this shard answers a standby.
    pub(crate) fn facts_for(&mut self, question: &Question) -> Facts {
        let now = self.io.now;
        self.on_needs(question);
        let (own, known) = self.on_told(question);
        let (streams, region) = (&self.streams, &self.config.region);
        let leads = |stream: u64| {
            streams.get(&stream).is_some_and(|state| {
                state.role == Role::Primary && state.replica.serving().is_some()
            })
        };
        self.imports.arbiter.on_asked(question, region, now, leads);
        let role = self.source_role();
        let stream = |stream: u64| self.stream_facts(stream, &question.from.region);
        Facts {
            number: question.number,
            cluster: self.me.cluster,
            node: self.me.node,
            shards: self.me.shards,
            role,
            region: region.clone(),
            own,
            known,
            streams: question.streams.iter().map(|wanted| stream(wanted.stream)).collect(),
            places: self.places(question.from.cluster),
        }
    }

    fn stream_facts(&self, stream: u64, region: &str) -> StreamFacts {
        let nothing = StreamFacts {
            stream,
            committed: Lsn::ZERO,
            standing: Standing::Absent,
            across: false,
            pulse: Pulse::default(),
            crosser: 0,
            sync: 0,
            path: Path::default(),
        };
        let Some(state) = self.streams.get(&stream) else { return nothing };
        let log = state.replica.log();
        if state.halted.is_some() || state.replica.damaged().is_some() || log.is_unknown() {
            return nothing;
        }
        if state.role == Role::Standby && self.is_refused(stream) {
            // Who fetches from here would wait for ever, and never hear that it is no longer
            // registered either.
            return nothing;
        }
        let leads = state.replica.serving().is_some();
        let standing = if leads { Standing::Leader } else { Standing::Follower };
        // Who asks gets what is released, and no more: of a standby too, which may not be sure that
        // it is one. What readers of a standby are not shown yet other clusters get.
        let facts = StreamFacts { committed: state.gate.released(), standing, ..nothing };
        match (state.role, &self.imports.chooser) {
            (Role::Primary, _) => StreamFacts {
                pulse: self.pulse(state),
                crosser: self.imports.arbiter.crosser(stream, region, self.shipped_to(stream)),
                sync: self.sync_target(state).filter(|_| leads).unwrap_or(0),
                ..facts
            },
            (Role::Standby, Some(chooser)) if leads => StreamFacts {
                across: chooser.across(stream),
                pulse: chooser.pulse(stream).max(self.shipped_pulse(stream)),
                path: chooser.path(stream),
                ..facts
            },
            (Role::Standby, _) => facts,
        }
    }

    /// Whether whoever a stream is fetched from wants no connection with this cluster; of a stream
    /// that nobody serves, whether anybody does not.
    fn is_refused(&self, stream: u64) -> bool {
        let Some(from) = self.imports.fed.get(&stream) else { return self.refusal().is_some() };
        let report = self.feed_report(stream);
        report.is_some_and(|report| report.state == State::SourceRefuses)
            || self.refused_by(*from).is_some()
    }

    /// What a candidate says who wants no connection with this cluster.
    fn refusal(&self) -> Option<String> {
        self.imports.candidates.keys().find_map(|addr| self.refused_by(*addr))
    }

    /// Asked of the link: it tells of a refusal once, however often it is refused, also when the
    /// one for fetching was up meanwhile.
    fn refused_by(&self, addr: SocketAddr) -> Option<String> {
        let link = &self.net.conns.get(self.imports.candidates.get(&addr)?)?.link;
        match link.last_reason() {
            Some(DownReason::Refused(refusal)) if !link.is_up() => {
                Some(format!("{addr} refuses: {}", refusal.text()))
            }
            _ => None,
        }
    }

    /// The pulse of a stream's leader, as far as it is known at the primary.
    fn pulse(&self, state: &StreamState) -> Pulse {
        let epoch = self.role_epoch;
        if let Some(ballot) = state.replica.serving() {
            return Pulse { epoch, round: ballot.round, count: self.own_pulse() };
        }
        let leader = state.replica.leader();
        let peer = self.net.peers.get(&leader.node).filter(|_| leader.node != self.me.node);
        let round = leader.round.max(state.replica.log().accepting().round);
        Pulse { epoch, round, count: peer.map_or(0, |peer| peer.pulse) }
    }

    /// Nodes of this cluster, and those that ask here; not those of who asks now.
    fn places(&self, asker: u32) -> Vec<Place> {
        let members = self.streams.values().next().map(|state| &state.replica.config().members);
        let others = members.into_iter().flatten().filter(|member| member.node != self.me.node);
        let place = |member: &Member| {
            let (cluster, region) = (self.me.cluster, member.region.clone());
            Some(Place { cluster, node: member.node, region, addr: member.addr.parse().ok()? })
        };
        let asked = self.imports.arbiter.places([self.me.cluster, asker], self.io.now);
        others.filter_map(place).chain(asked.cloned()).take(PLACES_MAX).collect()
    }

    /// State, reason and action of a stream's transfer, for status.
    pub(crate) fn import_state(&self, stream: u64) -> Option<Transfer> {
        let chooser = self.imports.chooser.as_ref()?;
        if let Some((_, since)) = self.shipper(stream) {
            let (state, reason) = (State::Sync, "the primary leader ships it before it acks");
            let (state, action) = (state.name(), state.action());
            return Some(Transfer { state, since, reason: reason.to_owned(), action });
        }
        let report = self.feed_report(stream);
        let comes = report.as_ref().is_some_and(|report| report.state == State::Sync);
        if let Some((base, since)) = self.gap(stream).filter(|_| !comes) {
            let reason = format!(
                "the primary's leader begins at LSN {base}, and nobody brings what is before"
            );
            let (state, action) = (State::SourceHasAGap.name(), State::SourceHasAGap.action());
            return Some(Transfer { state, since, reason, action });
        }
        let Some(report) = report else {
            let (state, since, reason) = chooser.waiting(stream, self.io.now)?;
            let (state, reason) = match self.refusal() {
                Some(refusal) => (State::SourceRefuses, refusal),
                None => (state, reason),
            };
            return Some(Transfer { state: state.name(), since, reason, action: state.action() });
        };
        let chosen = chooser.taken(stream).map_or(String::new(), |taken| {
            let before = taken.after.map(|why| format!("; the one before: {}", why.reason()));
            format!("{}{}", taken.rank.reason(), before.unwrap_or_default())
        });
        let left = chooser.ending(stream);
        // Nobody else serves it, maybe because this cluster may not be served.
        let refusal = left.and_then(|_| self.refusal());
        let (state, reason) = match (report.state, left, refusal) {
            (State::Sync, None, _) => (State::Sync, chosen),
            (
                State::Sync | State::Wait | State::CheckNetwork | State::SourceBehind,
                _,
                Some(refusal),
            ) => (State::SourceRefuses, refusal),
            (State::Sync, Some(why), None) => {
                (State::Wait, format!("to be left: {}", why.reason()))
            }
            (state, ..) => (state, format!("{}; chosen as {chosen}", report.reason)),
        };
        let (since, action) = (report.since, state.action());
        Some(Transfer { state: state.name(), since, reason, action })
    }
}
