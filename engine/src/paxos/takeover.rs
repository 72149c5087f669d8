//! Takeovers: from a ballot on, the log is what its Takeover names.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Boundary, Kind, Lsn, StreamLog, TakeoverRefusal};

use super::effect::{Effect, Effects, HaltReason};
use super::elect::BallotOf;
use super::learn::Void;
use super::member::{Config, NodeKey, TakeoverBody};
use super::message::Body;
use super::progress::Leadership;
use super::replica::{Replica, Role, Then};
use crate::seeded::is_seeded;

/// A Takeover that waits for every byte up to its end.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) ballot: Ballot,
    pub(super) end: Boundary,
    /// Highest SCN that its promises named.
    pub(super) scn: u64,
    pub(super) config: Config,
    /// Who has the bytes.
    pub(super) source: u32,
    /// The run staged for the ballot is good as far as it goes; else it is begun again.
    pub(super) run: bool,
    /// Where that run begins, as far as known since the last restart.
    pub(super) run_start: Option<Lsn>,
    /// The own tail was found to be another one: fetch from the committed position.
    pub(super) from_committed: bool,
}

impl Pending {
    pub(super) fn new(
        ballot: Ballot,
        (end, scn): (Boundary, u64),
        config: Config,
        source: u32,
        log: &StreamLog,
    ) -> Pending {
        assert!(ballot >= log.promised(), "a Takeover that was outbid");
        assert!(ballot > log.accepting() || is_seeded("takeover_below_committed"));
        assert!(config.ballot == ballot, "members of another Takeover");
        let run = log.staged_end(ballot).is_some();
        Pending { ballot, end, scn, config, source, run, run_start: None, from_committed: false }
    }
}

impl Replica {
    pub(super) fn on_takeover(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        (end, scn): (Boundary, u64),
        config: &Config,
        now: Nanos,
        fx: &mut Effects,
    ) {
        if !ballot.is_of(from) || config.ballot != ballot || !config.counts(from) {
            return;
        }
        if self.is_used_up(ballot) {
            self.refuse(from.node, ballot, fx);
            return;
        }
        self.follow(ballot, now, fx);
        assert!(self.leader == ballot && matches!(self.role, Role::Follower));
        let acts_again = is_seeded("takeover_below_committed");
        if self.log.accepting() == ballot && !acts_again {
            // It acts once: what was appended above its end since then stays.
            self.adopt(config, fx);
            self.accepted_due = true;
            return;
        }
        assert!(self.log.accepting() < ballot || acts_again, "a lower one was refused");
        if self.pending.as_ref().is_none_or(|p| p.ballot < ballot) {
            let pending = Pending::new(ballot, (end, scn), config.clone(), from.node, &self.log);
            self.pending = Some(Box::new(pending));
            self.fetch = None;
        } else if self.fetch.is_some() {
            return;
        }
        self.advance_takeover(now, fx);
    }

    /// Logs the Takeover that waits, or fetches what is missing for it.
    pub(super) fn advance_takeover(&mut self, now: Nanos, fx: &mut Effects) {
        let room = self.has_record_room();
        let Some(pending) = &self.pending else { return };
        let (ballot, end) = (pending.ballot, pending.end);
        assert!(self.halted.is_none(), "a stream that halted takes nothing over");
        assert!(ballot >= self.log.promised(), "a promise ends the Takeovers below it");
        let committed = self.log.committed();
        if end.lsn == committed.lsn && end.chain != committed.chain {
            let committed = committed.lsn;
            self.halt(HaltReason::CommittedMismatch { ballot, committed }, fx);
            return;
        }
        // An own tail is what it is; another's is compared by the chain at its end.
        let held = match pending.source == self.me.node {
            true => self.log.is_held_for(ballot, end),
            false => self.log.is_proven_for(ballot, end),
        };
        match self.log.check_takeover(ballot, end) {
            // Every byte above the committed is there, and is the one that the leader has, or its
            // Accepted would say too much.
            Ok(()) if !held => self.fetch_instead(now, fx),
            Ok(()) if ballot.node == self.me.node || room => {
                self.take_over(now, fx);
            }
            Ok(()) => {} // The leader says it again.
            Err(TakeoverRefusal::BelowCommitted { .. })
                if is_seeded("takeover_below_committed") =>
            {
                self.pending = None;
            }
            Err(TakeoverRefusal::BelowCommitted { committed, .. }) => {
                let end = end.lsn;
                self.halt(HaltReason::TakeoverBelowCommitted { ballot, end, committed }, fx);
            }
            Err(TakeoverRefusal::Missing { .. } | TakeoverRefusal::Mismatch { .. }) => {
                self.fetch_instead(now, fx);
            }
        }
    }

    /// Fetches what the Takeover that waits lacks.
    fn fetch_instead(&mut self, now: Nanos, fx: &mut Effects) {
        let Some(pending) = &mut self.pending else { return };
        let staged = self.log.staged_end(pending.ballot).filter(|_| pending.run);
        if staged.is_some_and(|s| s.lsn >= pending.end.lsn) {
            pending.run = false;
            pending.from_committed = true;
        }
        if is_seeded("accepting_raised_by_fetch") {
            self.accept_early(fx);
        }
        self.fetch_staged(now, fx);
    }

    /// What must never be: the accepting ballot of a Takeover whose bytes are not all there.
    fn accept_early(&mut self, fx: &mut Effects) {
        let Some(pending) = &self.pending else { return };
        let (ballot, config, own) = (pending.ballot, pending.config.clone(), self.log.end());
        if self.log.accepting() < ballot && self.log.take_over(ballot, own).is_ok() {
            self.config = config.clone();
            let body = TakeoverBody { chain: own.chain, scn: 0, config }.encode();
            self.log_record(Kind::Takeover, own.lsn, ballot, body, Then::Nothing, fx);
        }
    }

    fn take_over(&mut self, now: Nanos, fx: &mut Effects) {
        let pending = self.pending.take().expect("seen by the caller");
        let (ballot, end) = (pending.ballot, pending.end);
        let (before, committed) = (self.log.end(), self.log.committed());
        assert!(self.log.accepting() < ballot || is_seeded("takeover_below_committed"));
        assert!(committed.lsn <= end.lsn, "committed bytes would be void");
        // What the own base held is void, though the chains behind both are the same.
        let replaced = self.log.has_open_base() && pending.run_start.is_some();
        let common = match self.log.chain_at(end.lsn) {
            Some(chain) if chain == end.chain && !replaced => end.lsn,
            // A run may begin below what was committed since: the same bytes stand there.
            _ => pending.run_start.map_or(committed.lsn, |start| start.max(committed.lsn)),
        };
        assert!(common <= end.lsn, "the logs part below the end, or not at all");
        let taken = self.log.take_over(ballot, end);
        assert!(taken.is_ok(), "checked before: {taken:?}");
        assert!(self.log.accepting() == ballot && self.log.promised() == ballot);
        assert!(self.log.end() == end, "the log is what the Takeover names");
        assert!(self.log.committed() == committed, "a Takeover commits nothing by itself");
        self.log.raise_scn(pending.scn);
        self.config = pending.config;
        let config = &self.config;
        self.up.retain(|key| config.member(key.node).is_some());
        self.fetch = None;
        self.storing = None;
        (self.leader_commit, self.leader_end) = (Lsn::ZERO, end.lsn);
        let (chain, scn) = (end.chain, pending.scn);
        let body = TakeoverBody { chain, scn, config: self.config.clone() }.encode();
        let then = Then::TakenOver(ballot, end.lsn, self.config.seq);
        self.log_record(Kind::Takeover, end.lsn, ballot, body, then, fx);
        if let Some(void) = self.void.take() {
            fx.push(Effect::UnsettledVoid { from: void.from });
        }
        if replaced || self.log.chain_at(before.lsn) != Some(before.chain) {
            assert!(common >= committed.lsn, "committed bytes are said to be void");
            self.void = Some(Void { from: common, ballot, settled_at: end.lsn });
            fx.push(Effect::Voided { from: common });
        }
        self.mend_soon(now, fx);
        if ballot.is_of(self.me.key()) {
            self.reconfirm(ballot, end, now, fx);
        } else if self.leader.is_some() && self.leader < ballot {
            // An earlier leader was heard again while the bytes came.
            self.follow(ballot, now, fx);
        }
    }

    /// The own Takeover is logged: it is on its way to a majority.
    fn reconfirm(&mut self, ballot: Ballot, end: Boundary, now: Nanos, fx: &mut Effects) {
        let Role::Candidate(candidacy) = &self.role else {
            unreachable!("an own Takeover waits only while its candidacy lasts");
        };
        assert!(candidacy.ballot == ballot, "another candidacy than its Takeover's");
        assert!(candidacy.chosen, "a Takeover of no chosen tail");
        assert!(self.log.is_whole(), "leads without a part of the log");
        assert!(self.promise_durable == ballot, "leads without a durable promise");
        assert!(!self.leader.is_some(), "leads against a leader that it follows");
        let scn_floor = candidacy.scn_floor;
        let retry_at = now.after(self.tuning.retry_ns);
        let led = Leadership::new(ballot, end, &self.config, scn_floor, retry_at);
        self.role = Role::Leader(Box::new(led));
        self.reason = "its takeover is on its way to a majority";
        self.leader = ballot;
        // Whoever led before said it, and may have said anything. A leader counts for itself.
        self.held = self.held.min(self.log.committed().lsn);
        fx.push(Effect::Leader { ballot });
        assert!(self.config.ballot == ballot, "its members are stamped with its ballot");
        let scn = scn_floor;
        let takeover = Body::Takeover { ballot, end, scn, config: self.config.clone() };
        self.send_all(&takeover, fx);
    }
}
