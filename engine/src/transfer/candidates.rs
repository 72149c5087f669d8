//! The nodes that a standby's shard may take streams from, and what they said last.
//!
//! Endpoints of the configuration are always there; others are there while somebody who is asked
//! names them. Each is asked once in a while; one question is open at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use palisade_netio::Nanos;
use palisade_wal::Lsn;

use super::facts::{Facts, Path, Place, Pulse, Standing, Wanted};
use super::limits::{
    ASK_STREAMS_MAX, CANDIDATES_MAX, GATHER_NS, HASTE_NS, NAMED_NS, POLL_NS, SILENT_NS,
};
use crate::config::Role;
use crate::control::Term;

/// What a candidate said last of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// When it was asked.
    pub asked: Nanos,
    /// When it answered.
    pub heard: Nanos,
    /// What it is to the stream.
    pub standing: Standing,
    /// It has everything that we had when we asked.
    pub enough: bool,
    /// It receives the stream across a border.
    pub across: bool,
    /// The primary leader's life, as far as it has seen it.
    pub pulse: Pulse,
    /// Since when it shows this pulse.
    pub moved: Nanos,
    /// Who is to receive the stream across, it says.
    pub crosser: u32,
    /// The cluster that the stream's leader ships it to before it acks, it says.
    pub sync: u32,
    /// How the stream comes there.
    pub path: Path,
    /// It was told of a later term of the primary's role than its registry says: what it has may
    /// be what the primary of that term has not.
    pub outranked: bool,
}

#[derive(Clone, Debug)]
struct Open {
    number: u64,
    at: Nanos,
    /// The term that it says.
    known: Term,
    /// Streams without an answer, and where they ended here.
    streams: Vec<(u64, Lsn)>,
}

/// A node that may be an upstream.
#[derive(Clone, Debug)]
pub struct Candidate {
    configured: bool,
    since: Nanos,
    /// When somebody named it last.
    named: Nanos,
    /// Whether it can be asked.
    up: bool,
    open: Option<Open>,
    /// Since when it owes an answer.
    owes: Option<Nanos>,
    due: Nanos,
    /// Streams up to here had their turn.
    cursor: u64,
    /// Who it is, once it answered.
    pub id: Option<(u32, u32)>,
    /// Its shards.
    pub shards: u16,
    /// Where it stands.
    pub region: String,
    /// Role of its cluster.
    pub role: Role,
    streams: BTreeMap<u64, Known>,
}

impl Candidate {
    fn new(configured: bool, now: Nanos) -> Candidate {
        Candidate {
            configured,
            since: now,
            named: now,
            up: false,
            open: None,
            owes: None,
            due: now,
            cursor: 0,
            id: None,
            shards: 1,
            region: String::new(),
            role: Role::Standby,
            streams: BTreeMap::new(),
        }
    }

    /// Whether it can be asked, and answers.
    pub fn answers(&self, now: Nanos) -> bool {
        self.up && self.owes.is_none_or(|since| now.since(since) <= SILENT_NS)
    }

    /// Whether nothing about a stream is to be expected of it soon: it was asked since then and
    /// answered, or cannot be asked although it is known for a while.
    pub fn is_through(&self, stream: u64, since: Nanos, now: Nanos) -> bool {
        match self.up {
            true => self.answered(stream, since),
            false => now.since(self.since) > GATHER_NS,
        }
    }

    /// Whether it was asked about a stream since then, and answered.
    pub fn answered(&self, stream: u64, since: Nanos) -> bool {
        self.streams.get(&stream).is_some_and(|known| known.asked >= since)
    }

    /// What it said of a stream.
    pub fn known(&self, stream: u64) -> Option<&Known> {
        self.streams.get(&stream)
    }

    /// Whether the primary of a later term has another role for its cluster, as far as it said.
    pub fn is_outranked(&self) -> bool {
        self.streams.values().any(|known| known.outranked)
    }

    fn take(&mut self, facts: &Facts, now: Nanos) {
        let id = (facts.cluster, facts.node);
        if self.id.is_some_and(|old| old != id) {
            self.streams.clear();
        }
        self.id = Some(id);
        self.shards = facts.shards;
        self.region = facts.region.clone();
        // A shard without streams does not know the role of its cluster.
        if facts.streams.iter().any(|said| said.standing != Standing::Absent) {
            self.role = facts.role;
        }
        let Some(open) = self.open.as_mut().filter(|open| open.number == facts.number) else {
            return;
        };
        self.owes = None;
        for said in &facts.streams {
            let Some(at) = open.streams.iter().position(|&(stream, _)| stream == said.stream)
            else {
                continue;
            };
            let (stream, end) = open.streams.swap_remove(at);
            let old = self.streams.get(&stream);
            let moved = match old {
                Some(old) if said.pulse <= old.pulse => old.moved,
                _ => now,
            };
            let known = Known {
                asked: open.at,
                heard: now,
                standing: said.standing,
                enough: said.committed >= end,
                across: said.across,
                pulse: said.pulse.max(old.map(|old| old.pulse).unwrap_or_default()),
                moved,
                crosser: said.crosser,
                sync: said.sync,
                path: said.path,
                outranked: open.known.outranks(facts.own),
            };
            self.streams.insert(stream, known);
        }
        if open.streams.is_empty() {
            self.open = None;
        } else {
            self.owes = Some(open.at);
        }
    }
}

/// All of them, by address.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    known: BTreeMap<SocketAddr, Candidate>,
    number: u64,
    /// The highest term of the primary's role that is known here.
    term: Term,
    /// They are asked more often until then.
    hasty_until: Nanos,
}

/// A question that is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Whom.
    pub addr: SocketAddr,
    /// Comes back in the answers.
    pub number: u64,
    /// The highest term of the primary's role that is known here.
    pub known: Term,
    /// About what.
    pub streams: Vec<Wanted>,
}

impl Candidates {
    /// These are always asked.
    pub fn configure(&mut self, endpoints: &[SocketAddr], now: Nanos) {
        for candidate in self.known.values_mut() {
            candidate.configured = false;
        }
        for &addr in endpoints.iter().take(CANDIDATES_MAX) {
            self.known.entry(addr).or_insert_with(|| Candidate::new(true, now)).configured = true;
        }
    }

    /// This one too.
    pub fn configure_fixed(&mut self, fixed: Option<SocketAddr>, now: Nanos) {
        if let Some(addr) = fixed {
            self.known.entry(addr).or_insert_with(|| Candidate::new(true, now)).configured = true;
        }
    }

    /// Each with its address.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &Candidate)> {
        self.known.iter().map(|(addr, candidate)| (*addr, candidate))
    }

    /// The one at an address.
    pub fn get(&self, addr: SocketAddr) -> Option<&Candidate> {
        self.known.get(&addr)
    }

    /// Somebody named these nodes. `own` are this cluster's, which is no upstream.
    pub fn on_named(&mut self, places: &[Place], own: u32, now: Nanos) {
        for place in places.iter().filter(|it| it.cluster != own && it.addr.port() != 0) {
            let full = self.known.len() >= CANDIDATES_MAX;
            match self.known.get_mut(&place.addr) {
                Some(candidate) => candidate.named = now,
                None if full => {}
                None => {
                    self.known.insert(place.addr, Candidate::new(false, now));
                }
            }
        }
    }

    /// Nodes that nobody names any more, and that nobody uses, are gone. Gives them.
    pub fn forget(&mut self, used: &BTreeSet<SocketAddr>, now: Nanos) -> Vec<SocketAddr> {
        let gone = |(addr, candidate): (&SocketAddr, &Candidate)| {
            let wanted = candidate.configured || used.contains(addr);
            (!wanted && now.since(candidate.named) > NAMED_NS).then_some(*addr)
        };
        let gone: Vec<SocketAddr> = self.known.iter().filter_map(gone).collect();
        gone.iter().for_each(|addr| drop(self.known.remove(addr)));
        gone
    }

    /// It can be asked, or not any more.
    pub fn on_link(&mut self, addr: SocketAddr, up: bool, now: Nanos) {
        let Some(candidate) = self.known.get_mut(&addr) else { return };
        candidate.up = up;
        (candidate.open, candidate.owes, candidate.due) = (None, None, now);
    }

    /// It answered.
    pub fn on_facts(&mut self, addr: SocketAddr, facts: &Facts, now: Nanos) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            candidate.take(facts, now);
        }
    }

    /// The highest term of the primary's role that is known here: questions say it.
    pub fn on_term(&mut self, term: Term) {
        assert!(term >= self.term, "what was heard of is not forgotten");
        self.term = term;
    }

    /// A stream is not led here any more.
    pub fn drop_stream(&mut self, stream: u64) {
        for candidate in self.known.values_mut() {
            candidate.streams.remove(&stream);
        }
    }

    /// One of them will be another than it was, soon: they are asked now, and often until then.
    pub fn hurry(&mut self, now: Nanos, until: Nanos) {
        self.hasty_until = until;
        self.known.values_mut().for_each(|candidate| candidate.due = now);
    }

    /// Questions that are due. `streams` are led here, with what their questions say and with
    /// since when an answer is wanted; `end` says where their logs end. Those that wait are
    /// `urgent`: whoever has not answered yet is asked at once.
    pub fn ask(
        &mut self,
        now: Nanos,
        streams: &BTreeMap<u64, (Wanted, Nanos)>,
        urgent: &BTreeSet<u64>,
        end: impl Fn(u64) -> Lsn,
    ) -> Vec<Asking> {
        let (mut asking, hasty) = (Vec::new(), now < self.hasty_until);
        let pause = if hasty { HASTE_NS } else { POLL_NS };
        for (&addr, candidate) in &mut self.known {
            let overdue = candidate.open.as_ref().is_some_and(|o| now.since(o.at) >= SILENT_NS);
            let busy = candidate.open.is_some() && !overdue;
            if !candidate.up || busy || streams.is_empty() {
                continue;
            }
            let waits = |stream: &u64| {
                streams.get(stream).is_some_and(|(_, since)| !candidate.answered(*stream, *since))
            };
            if candidate.due > now && !urgent.iter().any(waits) {
                continue;
            }
            let chosen = candidate.turn(streams);
            self.number += 1;
            let open = chosen.iter().map(|wanted| (wanted.stream, end(wanted.stream))).collect();
            let (number, known) = (self.number, self.term);
            candidate.open = Some(Open { number, at: now, known, streams: open });
            candidate.owes.get_or_insert(now);
            candidate.due = now.after(pause);
            asking.push(Asking { addr, number, known, streams: chosen });
        }
        asking
    }

    /// When a question is due, or the lack of an answer counts.
    pub fn next_time(&self) -> Option<Nanos> {
        let times =
            self.known.values().filter(|candidate| candidate.up).map(|candidate| match &candidate
                .open
            {
                Some(open) => candidate.due.max(open.at.after(SILENT_NS + 1)),
                None => candidate.due,
            });
        times.min()
    }
}

impl Candidate {
    /// The streams of its next question: first those that wait for an answer, then the others in
    /// turns.
    fn turn(&mut self, streams: &BTreeMap<u64, (Wanted, Nanos)>) -> Vec<Wanted> {
        let waits = |(stream, (wanted, since)): (&u64, &(Wanted, Nanos))| {
            (!self.answered(*stream, *since)).then_some(*wanted)
        };
        let mut chosen: Vec<Wanted> =
            streams.iter().filter_map(waits).take(ASK_STREAMS_MAX).collect();
        let first: BTreeSet<u64> = chosen.iter().map(|wanted| wanted.stream).collect();
        let after = streams.range(self.cursor.saturating_add(1)..);
        let round = after.chain(streams.range(..=self.cursor)).map(|(_, (wanted, _))| *wanted);
        for wanted in round {
            if chosen.len() == ASK_STREAMS_MAX {
                break;
            }
            if !first.contains(&wanted.stream) {
                self.cursor = wanted.stream;
                chosen.push(wanted);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::facts::StreamFacts;

    const MS: u64 = 1_000_000;

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn led(count: u64, since: Nanos) -> BTreeMap<u64, (Wanted, Nanos)> {
        (2..2 + count)
            .map(|stream| (stream, (Wanted { stream, across: false, has: Lsn::ZERO }, since)))
            .collect()
    }

    fn said(stream: u64, committed: u64, count: u64) -> StreamFacts {
        StreamFacts {
            stream,
            committed: Lsn(committed),
            standing: Standing::Follower,
            across: false,
            pulse: Pulse { epoch: 1, round: 1, count },
            crosser: 0,
            sync: 0,
            path: Path::default(),
        }
    }

    fn facts(number: u64, streams: Vec<StreamFacts>) -> Facts {
        let (role, region) = (Role::Primary, "sh".into());
        let (own, known, places) = (Term { epoch: 1, cluster: 1 }, Term::NONE, Vec::new());
        Facts { number, cluster: 1, node: 1, shards: 1, role, region, own, known, streams, places }
    }

    fn asked(port: u16) -> Candidates {
        let mut candidates = Candidates::default();
        candidates.configure(&[addr(port)], Nanos(0));
        candidates.on_link(addr(port), true, Nanos(0));
        candidates
    }

    #[test]
    fn enough_is_judged_by_where_the_log_ended_when_it_was_asked() {
        let mut candidates = asked(1);
        let asking = candidates.ask(Nanos(5), &led(2, Nanos(0)), &BTreeSet::new(), |_| Lsn(64));
        assert_eq!((asking.len(), asking[0].streams.len()), (1, 2));
        let number = asking[0].number;
        // Two shards answer; until both did, the node owes an answer.
        candidates.on_facts(addr(1), &facts(number, vec![said(2, 64, 1)]), Nanos(9));
        let late = Nanos(5 + SILENT_NS + 1);
        assert!(!candidates.get(addr(1)).unwrap().answers(late));
        candidates.on_facts(addr(1), &facts(number, vec![said(3, 56, 1), said(9, 0, 1)]), Nanos(9));
        let candidate = candidates.get(addr(1)).unwrap();
        assert!(candidate.answers(late) && candidate.known(9).is_none());
        assert!(candidate.known(2).unwrap().enough && !candidate.known(3).unwrap().enough);
        // Answers to older questions say who it is, and nothing of streams.
        candidates.on_facts(addr(1), &facts(number, vec![said(3, 64, 1)]), Nanos(10));
        assert!(!candidates.get(addr(1)).unwrap().known(3).unwrap().enough);
    }

    #[test]
    fn a_shard_without_streams_says_nothing_of_the_role() {
        let mut candidates = asked(1);
        let asking = candidates.ask(Nanos(5), &led(2, Nanos(0)), &BTreeSet::new(), |_| Lsn(0));
        let number = asking[0].number;
        candidates.on_facts(addr(1), &facts(number, vec![said(2, 0, 1)]), Nanos(6));
        let absent = StreamFacts { standing: Standing::Absent, ..said(3, 0, 0) };
        let empty = Facts { role: Role::Standby, ..facts(number, vec![absent]) };
        candidates.on_facts(addr(1), &empty, Nanos(7));
        assert_eq!(candidates.get(addr(1)).unwrap().role, Role::Primary);
    }

    #[test]
    fn a_pulse_moves_when_it_grows_and_at_no_other_time() {
        let mut candidates = asked(1);
        let mut now = Nanos(0);
        for (count, moved) in [(7, 0), (7, 0), (6, 0), (8, 3), (8, 3)] {
            let asking = candidates.ask(now, &led(1, Nanos(0)), &BTreeSet::new(), |_| Lsn(0));
            let facts = facts(asking[0].number, vec![said(2, 0, count)]);
            candidates.on_facts(addr(1), &facts, now);
            let known = *candidates.get(addr(1)).unwrap().known(2).unwrap();
            assert_eq!(known.moved, Nanos(moved * POLL_NS), "at {now:?}");
            assert!(known.pulse.count >= count);
            now = now.after(POLL_NS);
        }
    }

    #[test]
    fn every_stream_has_its_turn_and_those_that_wait_come_first() {
        let mut candidates = asked(1);
        let (many, mut now) = (3 * ASK_STREAMS_MAX as u64, Nanos(1));
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let asking =
                candidates.ask(now, &led(many, Nanos(1)), &BTreeSet::new(), |_| Lsn(0)).remove(0);
            assert_eq!(asking.streams.len(), ASK_STREAMS_MAX);
            seen.extend(asking.streams.iter().map(|wanted| wanted.stream));
            let all = asking.streams.iter().map(|wanted| said(wanted.stream, 0, 1)).collect();
            candidates.on_facts(addr(1), &facts(asking.number, all), now);
            now = now.after(POLL_NS);
        }
        assert_eq!(seen.len() as u64, many);
        let mut streams = led(many, Nanos(1));
        streams.get_mut(&200).unwrap().1 = now;
        for _ in 0..2 {
            let asking = candidates.ask(now, &streams, &BTreeSet::new(), |_| Lsn(0)).remove(0);
            assert_eq!(asking.streams[0].stream, 200);
            candidates.on_link(addr(1), true, now);
        }
    }

    /// Who handed the role over at a SYNC level has acks wait for what it hears.
    #[test]
    fn while_the_role_moves_everybody_is_asked_often() {
        let mut candidates = asked(1);
        let ask = |candidates: &mut Candidates, now: Nanos| {
            let asking = candidates.ask(now, &led(1, Nanos(0)), &BTreeSet::new(), |_| Lsn(0));
            for asking in &asking {
                let all = vec![said(2, 0, 1)];
                candidates.on_facts(addr(1), &facts(asking.number, all), now);
            }
            asking.len()
        };
        assert_eq!(ask(&mut candidates, Nanos(0)), 1);
        let until = Nanos(100 * MS);
        candidates.hurry(Nanos(MS), until);
        let asked: Vec<u64> =
            (1..=1000).filter(|ms| ask(&mut candidates, Nanos(ms * MS)) > 0).collect();
        assert_eq!(asked, [1, 21, 41, 61, 81, 101]);
    }

    #[test]
    fn an_open_question_is_asked_anew_when_the_answer_is_late() {
        let mut candidates = asked(1);
        let ask = |candidates: &mut Candidates, ms: u64| {
            candidates.ask(Nanos(ms * MS), &led(1, Nanos(0)), &BTreeSet::new(), |_| Lsn(0)).len()
        };
        assert_eq!(ask(&mut candidates, 0), 1);
        assert_eq!(ask(&mut candidates, 1100), 0, "it is open");
        assert!(candidates.get(addr(1)).unwrap().answers(Nanos(1500 * MS)));
        assert_eq!(ask(&mut candidates, 1600), 1);
        let candidate = candidates.get(addr(1)).unwrap();
        assert!(!candidate.answers(Nanos(1600 * MS)), "a new question forgives nothing");
        assert_eq!(candidates.next_time(), Some(Nanos(3100 * MS + 1)));
    }

    #[test]
    fn who_is_named_is_known_while_it_is_named_or_used() {
        let mut candidates = asked(1);
        let place = |cluster, port| {
            let (node, region) = (1, "hz".into());
            Place { cluster, node, region, addr: addr(port) }
        };
        candidates.on_named(&[place(2, 2), place(3, 3), place(9, 4)], 9, Nanos(0));
        assert_eq!(candidates.iter().count(), 3, "our own cluster is none");
        let used = BTreeSet::from([addr(3)]);
        let late = Nanos(NAMED_NS + 1);
        assert_eq!(candidates.forget(&used, Nanos(NAMED_NS)), []);
        assert_eq!(candidates.forget(&used, late), [addr(2)]);
        assert_eq!(candidates.forget(&BTreeSet::new(), late), [addr(3)]);
        assert_eq!(candidates.forget(&BTreeSet::new(), late), [], "that one is configured");
        let many: Vec<Place> = (10..100).map(|port| place(2, port)).collect();
        candidates.on_named(&many, 9, late);
        assert_eq!(candidates.iter().count(), CANDIDATES_MAX);
    }
}
