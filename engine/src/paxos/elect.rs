//! Election: pre-votes, leases and the timers around them. Nothing here is needed for safety.

use palisade_netio::Nanos;
use palisade_wal::Ballot;

use super::codec::ROUND_MAX;
use super::effect::{Effect, Effects, StepDownReason};
use super::member::{MEMBERS_MAX, NodeKey};
use super::message::Body;
use super::replica::{Replica, Role};

/// A question to all members: would you promise this?
#[derive(Debug)]
pub(super) struct PreVotes {
    pub(super) ballot: Ballot,
    /// One disk per node, this one first.
    pub(super) granted: Vec<NodeKey>,
    give_up_at: Nanos,
}

impl Replica {
    /// Asks for pre-votes, if this member could lead.
    pub(super) fn campaign(&mut self, now: Nanos, fx: &mut Effects) {
        assert!(self.halted.is_none(), "what halted leads nothing");
        assert!(!matches!(self.role, Role::Leader(_) | Role::Candidate(_)));
        self.election_at = None;
        if !self.config.counts(self.me.key()) {
            self.reason = "this disk is not a member's";
            return;
        }
        if self.disk_stalled || self.log.is_unknown() {
            self.reason = if self.disk_stalled { "the disk stalls" } else { "unknown tail" };
            return;
        }
        if !self.log.is_whole() {
            self.reason = "a part of its log is lost: asks other members for it";
            return;
        }
        let round = self.round_seen.max(self.log.promised().round).saturating_add(1);
        if round > ROUND_MAX {
            self.reason = "the rounds are used up";
            return;
        }
        let key = self.me.key();
        let ballot = Ballot { round, node: key.node, incarnation: key.incarnation };
        assert!(ballot > self.log.promised(), "rounds never wrap");
        assert!(ballot > self.config.ballot, "members cannot be stamped with it");
        self.unfollow(fx);
        let give_up_at = now.after(self.tuning.retry_ns);
        self.role = Role::PreCandidate(PreVotes { ballot, granted: vec![key], give_up_at });
        self.reason = "asks whether it would be elected";
        self.send_all(&Body::PreVote { ballot }, fx);
        self.count_pre_votes(now, fx);
    }

    fn count_pre_votes(&mut self, now: Nanos, fx: &mut Effects) {
        let Role::PreCandidate(votes) = &self.role else { return };
        if !self.config.is_quorum(votes.granted.iter().copied()) {
            return;
        }
        let ballot = votes.ballot;
        assert!(ballot.is_of(self.me.key()), "counts votes for another");
        assert!(votes.granted.len() >= self.config.majority(), "a quorum of fewer");
        // Its own vote is under a lease like every other.
        if now < self.lease_until || ballot <= self.log.promised() || !self.has_record_room() {
            self.role = Role::Follower;
            self.schedule_election(now.max(self.lease_until), 0);
            return;
        }
        self.promise_itself(ballot, now, fx);
    }

    pub(super) fn on_pre_vote(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        now: Nanos,
        fx: &mut Effects,
    ) {
        if !ballot.is_of(from) {
            return;
        }
        let promised = self.log.promised();
        let granted = ballot > promised && !self.log.is_unknown() && self.may_grant(from, now);
        assert!(from.node != self.me.node, "it asks itself for nothing");
        assert!(!granted || !matches!(self.role, Role::Leader(_)), "a leader elects another");
        let leader = self.leader;
        self.send(from.node, Body::PreVoteReply { ballot, granted, promised, leader }, fx);
        self.remind(from.node, fx);
        // Somebody misses a leader.
        if leader.node != from.node {
            self.probe(fx);
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn on_pre_vote_reply(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        granted: bool,
        promised: Ballot,
        leader: Ballot,
        now: Nanos,
        fx: &mut Effects,
    ) {
        let Role::PreCandidate(votes) = &mut self.role else { return };
        if votes.ballot != ballot {
            return;
        }
        self.round_seen = self.round_seen.max(promised.round);
        assert!(votes.granted[0] == self.me.key(), "it asked itself first");
        assert!(from.node != self.me.node, "it answers itself");
        if granted && !votes.granted.contains(&from) {
            // A member has one disk at a time.
            votes.granted.retain(|key| key.node != from.node);
            votes.granted.push(from);
            self.count_pre_votes(now, fx);
        } else if !granted && leader.is_some() && leader.node != self.me.node {
            self.reason = "others follow a leader";
        }
    }

    /// Whether the lease of the leader, or of the time before a restart, is over for `from`.
    pub(super) fn may_grant(&self, from: NodeKey, now: Nanos) -> bool {
        if !self.config.counts(from) || matches!(self.role, Role::Leader(_)) {
            return false;
        }
        assert!(from.node != self.me.node, "it asks itself for nothing");
        assert!(!self.leader.is_some() || self.leader.node != self.me.node);
        let holder_asks = self.leader.is_some() && self.leader.node == from.node;
        let held = self.leader.is_some() && self.hears(self.leader.node);
        holder_asks || (!held && now >= self.lease_until)
    }

    /// The next pre-vote: after `at`, by rank, and by chance.
    pub(super) fn schedule_election(&mut self, at: Nanos, extra_ns: u64) {
        assert!(matches!(self.role, Role::Follower), "has a timer of its own");
        assert!(self.halted.is_none(), "what halted waits for nothing");
        let rank_ns = self.rank() * self.tuning.rank_step_ns;
        let jitter_ns = self.random_below(self.tuning.election_jitter_ns);
        assert!(jitter_ns < self.tuning.election_jitter_ns, "later than a member may come");
        self.election_at = Some(at.after(rank_ns + jitter_ns + extra_ns));
    }

    /// How many members should be asked before this one: those of the leader's region come
    /// first, then the order of the members.
    fn rank(&self) -> u64 {
        let home = self.config.member(self.log.accepting().node).map(|m| m.region.as_str());
        let key = |node: u32, region: &str, at: usize| (Some(region) != home, at, node);
        let place = |node: u32| self.config.members.iter().position(|m| m.node == node);
        let Some(mine) = place(self.me.node) else { return 0 };
        let own = key(self.me.node, &self.me.region, mine);
        let others = self.config.members.iter().enumerate();
        let rank = others.filter(|(at, m)| key(m.node, &m.region, *at) < own).count();
        assert!(rank < MEMBERS_MAX, "as many before it as there may be members");
        rank as u64
    }

    /// Follows the leader of `ballot`.
    pub(super) fn follow(&mut self, ballot: Ballot, now: Nanos, fx: &mut Effects) {
        assert!(ballot >= self.log.promised(), "follows a leader that was outbid");
        assert!(ballot.node != self.me.node, "follows itself");
        assert!(self.halted.is_none(), "what halted follows nobody");
        self.round_seen = self.round_seen.max(ballot.round);
        if !matches!(self.role, Role::Follower) {
            self.step_down(StepDownReason::HigherBallot, fx);
        }
        self.appointed = false;
        if self.hears(ballot.node) {
            self.election_at = None;
        } else if self.leader != ballot || self.election_at.is_none() {
            self.lease_until = now.after(self.tuning.election_ns);
            self.schedule_election(self.lease_until, self.tuning.election_ns);
        }
        if self.leader != ballot {
            self.leader = ballot;
            self.reason = "follows";
            fx.push(Effect::Leader { ballot });
        }
        assert!(matches!(self.role, Role::Follower) && self.round_seen >= ballot.round);
    }

    /// Forgets the leader.
    pub(super) fn unfollow(&mut self, fx: &mut Effects) {
        assert!(!matches!(self.role, Role::Leader(_)), "a leader ends by stepping down");
        if self.leader.is_some() {
            self.leader = Ballot::NONE;
            fx.push(Effect::Leader { ballot: Ballot::NONE });
        }
    }

    /// Asks the node that is followed whether it still leads; if not, it steps down.
    fn probe(&self, fx: &mut Effects) {
        let (ballot, promised) = (self.leader, self.log.promised());
        if ballot.is_some() && ballot.node != self.me.node {
            assert!(ballot >= promised, "follows a leader that was outbid");
            assert!(!matches!(self.role, Role::Leader(_)), "follows while it leads");
            self.send(ballot.node, Body::Refuse { ballot, promised, no_takeover: false }, fx);
        }
    }

    pub(super) fn on_peer_up(&mut self, node: u32, fx: &mut Effects) {
        assert!(self.hears(node) && node != self.me.node);
        assert!(self.halted.is_none(), "what halted hears nobody");
        if self.leader.is_some() && self.leader.node == node {
            self.election_at = None;
            self.probe(fx);
        }
        self.remind(node, fx);
    }

    pub(super) fn on_peer_down(
        &mut self,
        node: u32,
        lease_until: Nanos,
        now: Nanos,
        fx: &mut Effects,
    ) {
        assert!(!self.hears(node) && node != self.me.node);
        assert!(self.halted.is_none(), "what halted misses nobody");
        if matches!(self.role, Role::Leader(_)) {
            self.check_quorum(now, fx);
        } else if self.leader.is_some() && self.leader.node == node {
            self.lease_until = lease_until;
            self.unfollow(fx);
            self.reason = "the leader is not heard";
            self.schedule_election(now, 0);
        }
    }

    /// A leader goes on while it hears disks that can decide with its own.
    pub(super) fn check_quorum(&mut self, now: Nanos, fx: &mut Effects) {
        let own = self.me.key();
        assert!(self.up.len() < self.config.members.len(), "hears more than there are");
        assert!(matches!(self.role, Role::Leader(_)), "only a leader has to be heard");
        if !self.config.is_quorum(self.up.iter().copied().chain([own])) {
            self.abdicate(StepDownReason::NoQuorum, None, now, fx);
        }
    }

    /// When [`on_time`](Replica::on_time) wants to be called; never for an idle stream.
    pub fn next_deadline(&self) -> Option<Nanos> {
        if self.halted.is_some() {
            return None;
        }
        let follows = matches!(self.role, Role::Follower);
        assert!(follows || self.election_at.is_none(), "only a follower waits for an election");
        let role = match &self.role {
            Role::Follower => self.election_at,
            Role::PreCandidate(votes) => Some(votes.give_up_at),
            Role::Candidate(candidacy) => Some(candidacy.retry_at.min(candidacy.give_up_at)),
            Role::Leader(led) => {
                let retry = self.is_behind(led).then_some(led.retry_at);
                let transfer = led.transfer.map(|t| t.give_up_at);
                retry.into_iter().chain(transfer).min()
            }
        };
        let fetch = self.fetch.as_ref().map(|f| f.retry_at);
        role.into_iter().chain(fetch).chain(self.repair_deadline()).min()
    }

    /// A deadline may have passed.
    pub fn on_time(&mut self, now: Nanos, fx: &mut Effects) {
        if self.halted.is_some() {
            return;
        }
        if self.fetch.as_ref().is_some_and(|f| f.retry_at <= now) {
            self.on_fetch_timeout(now, fx);
        }
        self.mend(now, fx);
        match &mut self.role {
            Role::Follower => {
                if self.election_at.is_some_and(|at| at <= now) {
                    self.unfollow(fx);
                    self.campaign(now, fx);
                }
            }
            Role::PreCandidate(votes) => {
                if votes.give_up_at <= now {
                    self.role = Role::Follower;
                    self.schedule_election(now.max(self.lease_until), 0);
                }
            }
            Role::Candidate(_) => self.on_candidacy_time(now, fx),
            Role::Leader(led) => {
                assert!(led.ballot == self.leader, "follows somebody while it leads");
                if led.transfer.is_some_and(|t| t.give_up_at <= now) {
                    led.transfer = None;
                }
                if led.retry_at <= now {
                    led.retry_at = now.after(self.tuning.retry_ns);
                    self.remind_all(fx);
                }
            }
        }
        let next = self.next_deadline();
        assert!(next.is_none_or(|at| at >= now), "a deadline passed and nothing came of it");
        self.assert_invariants();
    }
}

/// Whose ballot it is.
pub(super) trait BallotOf {
    fn is_of(&self, key: NodeKey) -> bool;
}

impl BallotOf for Ballot {
    fn is_of(&self, key: NodeKey) -> bool {
        self.node == key.node && self.incarnation == key.incarnation
    }
}
