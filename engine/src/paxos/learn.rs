//! What is committed: counted by the leader, learned by the others.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Kind, Lsn};

use super::effect::{Effect, Effects, StepDownReason};
use super::elect::BallotOf;
use super::member::NodeKey;
use super::message::Body;
use super::progress::{Leadership, Progress};
use super::replica::{Replica, Role, Then, hears};
use crate::seeded::is_seeded;

/// Own bytes that a Takeover voided, until that Takeover is known to be on a majority.
#[derive(Clone, Copy, Debug)]
pub(super) struct Void {
    pub(super) from: Lsn,
    pub(super) ballot: Ballot,
    pub(super) settled_at: Lsn,
}

impl Replica {
    pub(super) fn on_accepted(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        (upto, seq): (Lsn, u64),
        (low, committed): (Lsn, Lsn),
        now: Nanos,
        fx: &mut Effects,
    ) {
        if self.leader != ballot {
            self.deny(from, ballot, fx);
            return;
        }
        let Role::Leader(led) = &mut self.role else { return };
        assert!(led.ballot == ballot, "the leader that it follows is itself");
        if upto < led.start.lsn || upto > self.log.end().lsn || seq > self.config.seq {
            return;
        }
        if upto > self.log.committed().lsn && self.log.chain_at(upto).is_none() {
            return; // No group ends there.
        }
        led.note(from, upto, seq);
        led.note_committed(from.node, committed);
        self.note_low(from.node, from.incarnation, low);
        self.progressed(now, fx);
    }

    fn progressed(&mut self, now: Nanos, fx: &mut Effects) {
        self.count(fx);
        self.bind_next(now, fx);
        self.finish_transfer(now, fx);
    }

    /// Something of this node became durable.
    pub(super) fn on_own_progress(&mut self, now: Nanos, fx: &mut Effects) {
        let (key, (ballot, upto)) = (self.me.key(), self.durable);
        let upto = self.counted(upto);
        let seq = self.durable_seq(ballot);
        let Role::Leader(led) = &mut self.role else { return };
        assert!(led.ballot == ballot, "durable under another ballot than it leads");
        assert!(upto <= self.log.end().lsn, "durable beyond the end");
        if !self.config.counts(key) || upto < led.start.lsn {
            return;
        }
        led.note(key, upto, seq);
        self.progressed(now, fx);
    }

    /// Commits what a majority holds under this ballot.
    pub(super) fn count(&mut self, fx: &mut Effects) {
        let Role::Leader(led) = &mut self.role else { return };
        let Some(held) = led.majority_holds() else { return };
        let ballot = led.ballot;
        if !led.serving {
            led.serving = true;
            self.reason = "leads";
            fx.push(Effect::Leading { ballot });
        }
        assert!(held <= self.log.end().lsn, "a majority holds what was never logged");
        self.commit(held, fx);
        assert!(self.log.committed().lsn >= held, "what a majority holds ends with a group");
        self.settle(ballot, held, fx);
        let committed = self.log.committed().lsn;
        if let Role::Leader(led) = &mut self.role {
            led.slide(committed);
        }
    }

    pub(super) fn on_commit(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        (upto, end, held): (Lsn, Lsn, Lsn),
        now: Nanos,
        fx: &mut Effects,
    ) {
        if !ballot.is_of(from) || upto > end || held > upto {
            return;
        }
        self.learn_commit(ballot, upto, fx);
        if self.refuse_ballot(from, ballot, now, fx).is_some() {
            return;
        }
        assert!(self.log.accepting() == ballot, "the end of another log");
        assert!(matches!(self.role, Role::Follower), "is told by another while it leads");
        self.leader_end = self.leader_end.max(end);
        self.learn_held(held);
        self.accepted_due = true;
        self.fetch_missing(now, fx);
    }

    /// The leader of `ballot` says that everything below `upto` is committed.
    pub(super) fn learn_commit(&mut self, ballot: Ballot, upto: Lsn, fx: &mut Effects) {
        let other = ballot != self.log.accepting();
        if other && !is_seeded("commit_of_other_ballot") {
            return; // Its positions are those of another log.
        }
        let leads = matches!(self.role, Role::Leader(_));
        assert!(!leads || other, "a leader counts for itself");
        self.leader_commit = self.leader_commit.max(upto);
        self.commit(upto.min(self.log.end().lsn), fx);
        self.settle(ballot, upto, fx);
    }

    fn commit(&mut self, upto: Lsn, fx: &mut Effects) {
        let (before, end) = (self.log.committed().lsn, self.log.end());
        assert!(self.halted.is_none(), "what halted commits nothing");
        assert!(upto <= end.lsn, "commits what is not here");
        self.log.commit(upto);
        let committed = self.log.committed().lsn;
        assert!(committed >= before, "the commit cursor went back");
        assert!(committed <= upto.max(before), "more than was asked for");
        assert!(self.log.end() == end, "a commit changes no byte");
        if committed == before {
            return;
        }
        fx.push(Effect::Committed { upto: committed });
        let due = committed.since(self.hinted) >= self.tuning.commit_hint_bytes.max(1);
        if due && self.has_record_room() {
            assert!(committed > self.hinted, "the same hint again");
            self.hinted = committed;
            let accepting = self.log.accepting();
            let then = Then::Hinted(committed);
            self.log_record(Kind::CommitHint, committed, accepting, Vec::new(), then, fx);
        }
    }

    /// Own voided bytes are lost for good once the voiding Takeover is on a majority.
    fn settle(&mut self, ballot: Ballot, upto: Lsn, fx: &mut Effects) {
        let Some(void) = self.void else { return };
        assert!(void.ballot == self.log.accepting(), "an earlier void is settled or unknown");
        assert!(void.from <= void.settled_at, "settled before it was voided");
        if void.ballot == ballot && upto >= void.settled_at {
            self.void = None;
            fx.push(Effect::SettledVoid { from: void.from });
        }
    }

    /// The commit cursor that this leader's next frame carries.
    pub fn commit_cursor(&self) -> Option<(Ballot, Lsn)> {
        match &self.role {
            Role::Leader(led) if led.serving => {
                assert!(led.ballot == self.log.accepting(), "a cursor of another log");
                assert!(led.start.lsn <= self.log.committed().lsn, "serves what is not agreed");
                Some((led.ballot, self.log.committed().lsn))
            }
            _ => None,
        }
    }

    /// A frame with groups and the commit cursor went to `to` in this turn.
    pub fn on_commit_carried(&mut self, to: u32) {
        let committed = self.log.committed().lsn;
        assert!(to != self.me.node, "a frame to itself");
        let Role::Leader(led) = &mut self.role else { return };
        if let Some(member) = led.members.iter_mut().find(|m| m.node == to) {
            assert!(member.told <= committed, "was told of a commit that is none");
            member.told = committed;
        }
    }

    /// The end of a turn: at most one Accepted, and a Commit for those that no frame carried the
    /// cursor to. Cheap when nothing happened.
    pub fn on_turn_end(&mut self, now: Nanos, fx: &mut Effects) {
        if self.halted.is_some() {
            return;
        }
        self.assert_invariants();
        if std::mem::take(&mut self.accepted_due) {
            let (ballot, upto) = self.durable;
            let upto = self.counted(upto);
            let other = ballot.is_some() && ballot.node != self.me.node;
            if other && ballot == self.log.accepting() {
                let seq = self.durable_seq(ballot);
                let (low, committed) = (self.asks_from(), self.log.committed().lsn);
                let body = Body::Accepted { ballot, upto, seq, low, committed };
                self.send(ballot.node, body, fx);
            }
        }
        let Some((ballot, upto)) = self.commit_cursor() else { return };
        let (me, end, retry_ns) = (self.me.node, self.log.end().lsn, self.tuning.retry_ns);
        let held = self.held;
        let Role::Leader(led) = &mut self.role else { return };
        assert!(led.ballot == ballot && upto <= end, "says what another leader committed");
        let mut late = Vec::new();
        for member in led.members.iter_mut().filter(|m| m.node != me && m.told < upto) {
            if member.holds().is_some() && hears(&self.up, member.node) {
                member.told = upto;
                late.push(member.node);
            }
        }
        if !late.is_empty() {
            led.retry_at = led.retry_at.max(now.after(retry_ns / 2));
        }
        for node in late {
            self.send(node, Body::Commit { ballot, upto, end, held }, fx);
        }
        self.tell_held(fx);
    }

    /// Whether a member that is heard lacks something.
    pub(super) fn is_behind(&self, led: &Leadership) -> bool {
        assert!(led.ballot == self.log.accepting(), "compares with the end of another log");
        led.members.iter().any(|m| hears(&self.up, m.node) && self.lacks(m))
    }

    fn lacks(&self, member: &Progress) -> bool {
        let (end, committed) = (self.log.end().lsn, self.log.committed().lsn);
        assert!(member.holds().is_none_or(|held| held <= end), "holds more than there is");
        assert!(member.told <= committed, "was told of a commit that is none");
        let ends_early = member.holds().is_none_or(|held| held < end);
        // What says that something is committed may be lost, and a stream may fall idle.
        ends_early || member.knows < committed || !member.has_config(self.config.seq)
    }

    /// Says again where this leader stands, to those that lack something.
    pub(super) fn remind_all(&self, fx: &mut Effects) {
        let Role::Leader(led) = &self.role else { return };
        let end = self.log.end().lsn;
        assert!(led.start.lsn <= end, "the log shrank under its leader");
        assert!(self.halted.is_none(), "what halted reminds nobody");
        for member in led.members.iter().filter(|m| hears(&self.up, m.node) && self.lacks(m)) {
            self.remind(member.node, fx);
        }
    }

    /// Says where this leader stands.
    pub(super) fn remind(&self, node: u32, fx: &mut Effects) {
        let Role::Leader(led) = &self.role else { return };
        let Some(member) = led.member(node).filter(|_| node != self.me.node) else { return };
        assert!(led.ballot == self.log.accepting(), "leads a log that is not its own");
        assert!(led.serving || self.log.end() == led.start, "a group before it serves");
        let (ballot, upto) = (led.ballot, self.log.committed().lsn);
        if member.holds().is_none() || !led.serving || !member.has_config(self.config.seq) {
            let config = self.config.clone();
            let (end, scn) = (led.start, led.scn_floor);
            self.send(node, Body::Takeover { ballot, end, scn, config }, fx);
        }
        if member.holds().is_some() && led.serving {
            let (end, held) = (self.log.end().lsn, self.held);
            self.send(node, Body::Commit { ballot, upto, end, held }, fx);
        }
    }

    /// Steps down for the successor once that has everything.
    pub(super) fn finish_transfer(&mut self, now: Nanos, fx: &mut Effects) {
        let Role::Leader(led) = &self.role else { return };
        let Some(transfer) = led.transfer else { return };
        assert!(led.serving && transfer.successor != self.me.node);
        let held = led.member(transfer.successor).and_then(|m| m.holds());
        assert!(held.is_none_or(|held| held <= self.log.end().lsn), "holds more than there is");
        if held.is_some_and(|held| held == self.log.end().lsn) {
            self.abdicate(StepDownReason::Transfer, Some(transfer.successor), now, fx);
        }
    }
}
