//! Promises: a candidate asks for them, and chooses the best tail among them.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Kind};

use super::effect::{Effects, HaltReason, StepDownReason};
use super::elect::BallotOf;
use super::member::{Config, NodeKey};
use super::message::{Body, Promise};
use super::replica::{Replica, Role, Then};
use super::takeover::Pending;
use crate::seeded::is_seeded;

/// One ballot that this node asks promises for.
#[derive(Debug)]
pub(super) struct Candidacy {
    pub(super) ballot: Ballot,
    /// Its own promise, until that is durable.
    pub(super) own: Option<Promise>,
    /// Counted and not counted ones.
    pub(super) promises: Vec<(NodeKey, Promise)>,
    /// The best tail is chosen; what it has is being fetched.
    pub(super) chosen: bool,
    /// Highest SCN that a promise names.
    pub(super) scn_floor: u64,
    pub(super) retry_at: Nanos,
    pub(super) give_up_at: Nanos,
}

impl Replica {
    /// The tail of everything that was submitted up to now.
    fn promise_of(&self, ballot: Ballot) -> Promise {
        let log = &self.log;
        assert!(log.accepting() < ballot, "a ballot that was led is promised to nobody");
        assert!(log.promised() == ballot || log.is_unknown(), "promised before it is in the log");
        assert!(log.base().lsn <= log.committed().lsn && log.committed().lsn <= log.end().lsn);
        Promise {
            ballot,
            accepting: log.accepting(),
            end: log.end(),
            committed: log.committed().lsn,
            base: log.base().lsn,
            unknown: log.is_unknown(),
            holes: log.holes().iter().map(|hole| (hole.start, hole.end)).collect(),
            scn: log.last_scn().max(self.floor),
            config: self.config.clone(),
        }
    }

    /// Logs this candidate's own promise; the Prepare leaves when that is durable.
    pub(super) fn promise_itself(&mut self, ballot: Ballot, now: Nanos, fx: &mut Effects) {
        assert!(ballot > self.log.promised(), "promises go up");
        assert!(ballot.is_of(self.me.key()), "a candidate under another's ballot");
        assert!(!self.log.is_unknown(), "what it lost may be what it promises");
        assert!(self.log.is_whole(), "it could not serve what it lost");
        assert!(self.has_record_room(), "more records than may wait");
        self.log.promise(ballot);
        self.round_seen = self.round_seen.max(ballot.round);
        self.pending = None;
        self.fetch = None;
        let own = self.promise_of(ballot);
        assert!(!self.leader.is_some() && self.election_at.is_none());
        self.role = Role::Candidate(Box::new(Candidacy {
            ballot,
            scn_floor: own.scn,
            own: Some(own),
            promises: Vec::new(),
            chosen: false,
            retry_at: now.after(self.tuning.retry_ns),
            give_up_at: now.after(self.tuning.candidacy_ns),
        }));
        self.reason = "asks for promises";
        let end = self.end().lsn;
        self.log_record(Kind::Promise, end, ballot, Vec::new(), Then::Prepare(ballot), fx);
        if is_seeded("candidate_promise_not_durable") {
            self.on_own_promise_durable(ballot, now, fx);
        }
    }

    pub(super) fn on_own_promise_durable(&mut self, ballot: Ballot, now: Nanos, fx: &mut Effects) {
        self.promise_durable = self.promise_durable.max(ballot);
        assert!(ballot.is_of(self.me.key()), "another's promise is answered, not counted");
        assert!(ballot <= self.log.promised(), "the log in memory is ahead of the disk");
        let key = self.me.key();
        let Role::Candidate(candidacy) = &mut self.role else { return };
        if candidacy.ballot != ballot {
            return;
        }
        assert!(!candidacy.chosen, "chose without its own promise");
        let Some(own) = candidacy.own.take() else { return };
        candidacy.promises.push((key, own));
        candidacy.retry_at = now.after(self.tuning.retry_ns);
        self.send_all(&Body::Prepare { ballot }, fx);
        self.choose(now, fx);
    }

    pub(super) fn on_prepare(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        now: Nanos,
        fx: &mut Effects,
    ) {
        if !ballot.is_of(from) || !self.config.counts(from) {
            return;
        }
        assert!(from.node != self.me.node && self.halted.is_none());
        let promised = self.log.promised();
        if self.log.is_unknown() {
            self.answer_unknown(from, ballot, fx);
            return;
        }
        if ballot == promised {
            // Asked again: the log cannot have grown since, but by its own Takeover.
            if self.promise_durable >= ballot && self.log.accepting() < ballot {
                self.send(from.node, Body::Promise(self.promise_of(ballot)), fx);
            }
            return;
        }
        if ballot < promised || !self.may_grant(from, now) {
            self.refuse(from.node, ballot, fx);
            return;
        }
        if self.has_record_room() {
            self.grant(from, ballot, now, fx);
        }
    }

    /// Nobody counts an unknown tail, so that nothing need be promised; but the candidate learns
    /// why, and which rounds are used up.
    fn answer_unknown(&mut self, to: NodeKey, ballot: Ballot, fx: &mut Effects) {
        assert!(self.log.is_unknown(), "a known tail is promised");
        assert!(ballot.is_of(to), "answers who did not ask");
        if self.is_used_up(ballot) {
            self.refuse(to.node, ballot, fx);
        } else {
            self.send(to.node, Body::Promise(self.promise_of(ballot)), fx);
        }
    }

    /// Whether nothing of `ballot` is taken here any more. While the tail is unknown, that is also
    /// so for the highest ballot itself: what was accepted under it before may be lost.
    pub(super) fn is_used_up(&self, ballot: Ballot) -> bool {
        let promised = self.log.promised();
        ballot < promised || (self.log.is_unknown() && ballot == promised)
    }

    /// Says that `ballot` is used up, and which one would not be.
    pub(super) fn refuse(&self, to: u32, ballot: Ballot, fx: &mut Effects) {
        let mut promised = self.log.promised();
        assert!(self.is_used_up(ballot) || !self.log.is_unknown());
        assert!(ballot.node == to, "refuses who did not ask");
        if self.log.is_unknown() {
            promised = Ballot { node: u32::MAX, incarnation: u64::MAX, ..promised };
        }
        self.send(to, Body::Refuse { ballot, promised, no_takeover: false }, fx);
    }

    /// Logs a promise; it leaves with the tail of now, when that is durable.
    fn grant(&mut self, to: NodeKey, ballot: Ballot, now: Nanos, fx: &mut Effects) {
        assert!(ballot > self.log.promised(), "promises go up");
        assert!(ballot.is_of(to) && !self.log.is_unknown(), "a tail that it does not know");
        assert!(self.has_record_room(), "more records than may wait");
        self.step_down(StepDownReason::HigherBallot, fx);
        self.unfollow(fx);
        self.reason = "promised";
        self.round_seen = self.round_seen.max(ballot.round);
        self.pending = None;
        self.fetch = None;
        self.log.promise(ballot);
        assert!(!self.leader.is_some() && matches!(self.role, Role::Follower));
        let promise = self.promise_of(ballot);
        if is_seeded("promise_before_prefix_durable") {
            self.send(to.node, Body::Promise(promise.clone()), fx);
        }
        let end = self.end().lsn;
        let then = Then::Answer(to.node, promise);
        self.log_record(Kind::Promise, end, ballot, Vec::new(), then, fx);
        self.schedule_election(now, self.tuning.election_ns);
    }

    pub(super) fn on_promise(
        &mut self,
        from: NodeKey,
        promise: &Promise,
        now: Nanos,
        fx: &mut Effects,
    ) {
        let Role::Candidate(candidacy) = &mut self.role else { return };
        let heard = candidacy.promises.iter().any(|(key, _)| *key == from);
        if candidacy.ballot != promise.ballot || candidacy.chosen || heard {
            return;
        }
        // A member has one disk at a time: the newest answer stands for the node.
        candidacy.promises.retain(|(key, _)| key.node != from.node);
        candidacy.promises.push((from, promise.clone()));
        candidacy.scn_floor = candidacy.scn_floor.max(promise.scn);
        assert!(candidacy.promises.len() <= self.config.members.len(), "a member has one voice");
        assert!(from.node != self.me.node, "its own promise comes from its disk");
        self.choose(now, fx);
    }

    /// Takes the best tail of a majority of members with known tails.
    fn choose(&mut self, now: Nanos, fx: &mut Effects) {
        let Role::Candidate(candidacy) = &self.role else { return };
        let ballot = candidacy.ballot;
        assert!(!candidacy.chosen && self.pending.is_none(), "chooses twice");
        assert!(ballot == self.log.promised(), "chooses for an outbid ballot");
        let mut config = &self.config;
        for (_, promise) in &candidacy.promises {
            if promise.config.version() > config.version() {
                config = &promise.config;
            }
        }
        let counted = candidacy.promises.iter().filter(|(k, p)| config.counts(*k) && !p.unknown);
        let counted: Vec<&(NodeKey, Promise)> = counted.collect();
        let voters: Vec<NodeKey> = counted.iter().map(|(key, _)| *key).collect();
        let own = voters.contains(&self.me.key());
        if candidacy.own.is_some() || !own || !config.is_quorum(voters.iter().copied()) {
            return;
        }
        let committed = counted.iter().map(|(_, p)| p.committed).max().unwrap_or_default();
        let Some((voters, source, best)) = self.best_of(config, &counted) else {
            self.reason = "the best tail has a lost range: waits until it is repaired, or others";
            return;
        };
        assert!(voters.len() >= config.majority(), "chooses among fewer than a majority");
        let end = best.end;
        let yields = best.base > self.log.end().lsn;
        let config = config.stamped(ballot, &voters);
        let (scn, give_up_at) = (candidacy.scn_floor, now.after(self.tuning.candidacy_ns));
        if let Role::Candidate(candidacy) = &mut self.role {
            (candidacy.chosen, candidacy.give_up_at) = (true, give_up_at);
        }
        if end.lsn < committed {
            self.halt(HaltReason::TailBelowCommitted { end: end.lsn, committed }, fx);
        } else if yields {
            self.yield_to(source, now, fx);
        } else {
            self.reason = "fetches what its log lacks";
            self.pending =
                Some(Box::new(Pending::new(ballot, (end, scn), config, source, &self.log)));
            self.advance_takeover(now, fx);
        }
    }

    /// The best tail of a majority, from whom this log can be made whole, and that majority. A
    /// tail whose lost ranges may be needed is left out where the others are enough: of what none
    /// of them has nothing can be committed.
    fn best_of<'a>(
        &self,
        config: &Config,
        counted: &[&'a (NodeKey, Promise)],
    ) -> Option<(Vec<NodeKey>, u32, &'a Promise)> {
        let (accepting, end) = (self.log.accepting(), self.log.proven().lsn);
        let committed = self.log.committed().lsn;
        let serves = |promise: &Promise| {
            // Under one ballot the shorter log is a part of the longer one.
            let from = if promise.accepting == accepting { end } else { committed };
            promise.holes.last().is_none_or(|(_, upto)| *upto <= from)
        };
        let rank = |p: &Promise| (p.accepting, p.end.lsn);
        let best = |among: &[&'a (NodeKey, Promise)]| {
            let key = |(key, p): &&&(NodeKey, Promise)| {
                (rank(p), p.holes.is_empty(), key.node == self.me.node)
            };
            let (key, promise) = among.iter().max_by_key(key).expect("a majority is not empty");
            assert!(among.iter().all(|(_, p)| rank(p) <= rank(promise)), "a better tail");
            (key.node, promise)
        };
        let keys = |among: &[&(NodeKey, Promise)]| -> Vec<NodeKey> {
            among.iter().map(|(key, _)| *key).collect()
        };
        let (source, promise) = best(counted);
        if serves(promise) {
            return Some((keys(counted), source, promise));
        }
        let whole: Vec<_> = counted.iter().filter(|(_, p)| serves(p)).copied().collect();
        let voters = keys(&whole);
        assert!(voters.contains(&self.me.key()), "a candidate is whole");
        if !config.is_quorum(voters.iter().copied()) {
            return None;
        }
        let (source, promise) = best(&whole);
        Some((voters, source, promise))
    }

    /// Ends a candidacy that another member can win and this one cannot: nobody has for it what
    /// stands below the base of the best tail.
    fn yield_to(&mut self, better: u32, now: Nanos, fx: &mut Effects) {
        let Role::Candidate(candidacy) = &self.role else { return };
        assert!(better != self.me.node, "yields to itself");
        assert!(candidacy.chosen, "yields before it knows who is better");
        let ballot = candidacy.ballot;
        self.send_all(&Body::StepDown { ballot, successor: Some(better), appointed: false }, fx);
        self.give_up("the best tail begins above this log", now, fx);
    }

    /// Ends a candidacy, and tries again after a while.
    pub(super) fn give_up(&mut self, reason: &'static str, now: Nanos, fx: &mut Effects) {
        assert!(matches!(self.role, Role::Candidate(_)), "gives up what it did not ask for");
        self.step_down(StepDownReason::TimedOut, fx);
        self.reason = reason;
        assert!(self.pending.is_none() && self.fetch.is_none(), "fetches for a lost candidacy");
        let extra_ns = self.random_below(self.tuning.election_ns);
        self.schedule_election(now.max(self.lease_until), extra_ns);
    }

    pub(super) fn on_candidacy_time(&mut self, now: Nanos, fx: &mut Effects) {
        let Role::Candidate(candidacy) = &mut self.role else { return };
        if candidacy.give_up_at <= now {
            self.give_up("the candidacy went nowhere", now, fx);
            return;
        }
        if candidacy.retry_at > now {
            return;
        }
        candidacy.retry_at = now.after(self.tuning.retry_ns);
        if candidacy.own.is_some() || candidacy.chosen {
            return;
        }
        let ballot = candidacy.ballot;
        assert!(self.promise_durable == ballot, "asks before its own is durable");
        assert!(candidacy.retry_at > now, "asks again and again");
        let heard: Vec<u32> = candidacy.promises.iter().map(|(key, _)| key.node).collect();
        for member in self.config.members.iter().filter(|m| !heard.contains(&m.node)) {
            self.send(member.node, Body::Prepare { ballot }, fx);
        }
    }

    pub(super) fn on_refuse(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        promised: Ballot,
        no_takeover: bool,
        now: Nanos,
        fx: &mut Effects,
    ) {
        let mine = match &self.role {
            Role::Candidate(candidacy) => candidacy.ballot,
            Role::Leader(led) => led.ballot,
            Role::Follower | Role::PreCandidate(_) => Ballot::NONE,
        };
        self.round_seen = self.round_seen.max(promised.round);
        if ballot != mine {
            self.deny(from, ballot, fx);
            return;
        }
        // Who is bound to another disk disturbs nobody; who is not bound yet has to be won.
        let unbound = self.config.member(from.node).is_some_and(|m| m.incarnation.is_none());
        if !self.config.counts(from) && !unbound && !no_takeover {
            return;
        }
        match &self.role {
            Role::Candidate(candidacy) if promised > ballot && !candidacy.chosen => {
                self.give_up("a higher ballot is promised", now, fx);
            }
            // A member that promised more is lost for this ballot. A higher one wins it back.
            Role::Leader(_) if promised > ballot => {
                self.step_down(StepDownReason::HigherBallot, fx);
                assert!(self.round_seen >= promised.round, "its next ballot would be refused");
                self.lease_until = now;
                self.campaign(now, fx);
            }
            Role::Leader(led) if no_takeover => {
                assert!(led.ballot == self.config.ballot, "counts in members of another ballot");
                let (end, scn, config) = (led.start, led.scn_floor, self.config.clone());
                self.send(from.node, Body::Takeover { ballot, end, scn, config }, fx);
            }
            _ => {}
        }
    }

    /// Tells a follower of an own ballot of the past that nobody leads it.
    pub(super) fn deny(&self, to: NodeKey, ballot: Ballot, fx: &mut Effects) {
        assert!(to.node != self.me.node, "it denies nothing to itself");
        let leads = self.leader == ballot && self.halted.is_none();
        if ballot.is_of(self.me.key()) && !leads {
            assert!(!matches!(&self.role, Role::Leader(led) if led.ballot == ballot));
            self.send(to.node, Body::StepDown { ballot, successor: None, appointed: false }, fx);
        }
    }
}
