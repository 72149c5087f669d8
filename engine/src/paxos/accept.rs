//! The data path: groups that this leader made, and groups that came from a leader.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use super::effect::Effects;
use super::elect::BallotOf;
use super::event::{AcceptHead, AcceptVerdict, GroupMark, NoSlot, ProposePosition, RefuseReason};
use super::fetch::is_sound;
use super::member::NodeKey;
use super::message::{Body, Want};
use super::replica::{Replica, Role};

impl Replica {
    pub(super) fn propose_position(&self) -> Result<ProposePosition, NoSlot> {
        if self.halted.is_some() {
            return Err(NoSlot::Halted);
        }
        let led = match &self.role {
            Role::Leader(led) if led.serving => led,
            _ => return Err(NoSlot::NotLeading(self.leader)),
        };
        assert!(led.ballot == self.log.accepting(), "groups would count under another ballot");
        assert!(led.ballot == self.log.promised(), "no group follows a promise to another");
        if led.transfer.is_some() {
            return Err(NoSlot::Transferring);
        }
        let end = self.log.end();
        let open = end.lsn.since(self.log.committed().lsn);
        assert!(led.window.is_empty() == (open == 0), "what is open is in the window");
        // Nothing stands on a base that a majority may not have.
        let full = open >= self.tuning.window_bytes_max || self.log.has_open_base();
        if full || led.window.len() >= self.tuning.window_groups_max {
            return Err(NoSlot::Busy);
        }
        let scn_floor = self.scn_floor();
        assert!(scn_floor >= self.log.last_scn(), "an SCN would go backwards");
        assert!(end.lsn.0.is_multiple_of(Lsn::ALIGN), "a group begins aligned");
        let (ballot, lsn, chain_before) = (led.ballot, end.lsn, end.chain);
        Ok(ProposePosition { ballot, lsn, chain_before, scn_floor })
    }

    pub(super) fn propose(&mut self, mark: GroupMark, now: Nanos) {
        let idle = self.log.end().lsn == self.log.committed().lsn;
        let retry_ns = self.tuning.retry_ns;
        let Role::Leader(led) = &mut self.role else { panic!("a group of no leader") };
        assert!(led.serving, "a group before its takeover is on a majority");
        assert!(led.transfer.is_none(), "a group that the successor may miss");
        assert!(led.window.len() < self.tuning.window_groups_bound(), "the window was full");
        self.log.append(mark.start, mark.end, led.ballot, mark.scn, mark.place);
        if mark.base {
            self.log.mark_base(mark.start);
        }
        led.push(mark.start, mark.end.lsn, mark.scn);
        assert!(self.log.end() == mark.end, "the next group follows this one");
        if idle {
            led.retry_at = now.after(retry_ns);
        }
    }

    /// A group of the leader of the accepting ballot, as it was made or fetched.
    pub(super) fn accept(
        &mut self,
        from: NodeKey,
        head: &AcceptHead<'_>,
        now: Nanos,
        fx: &mut Effects,
    ) -> AcceptVerdict {
        assert!(self.halted.is_none() && self.storing.is_none(), "the last verdict is open");
        if head.ballot.is_of(from) {
            self.learn_commit(head.ballot, head.commit, fx);
        }
        if let Some(refusal) = self.refuse_ballot(from, head.ballot, now, fx) {
            return AcceptVerdict::Refuse(refusal);
        }
        assert!(self.log.accepting() == head.ballot, "its Takeover is logged");
        assert!(self.log.promised() == head.ballot, "nothing higher is promised");
        if !is_sound(head.header, self.stream) {
            return AcceptVerdict::Refuse(RefuseReason::ChainMismatch);
        }
        let (start, end) = (head.header.lsn(), self.log.end());
        self.leader_end = self.leader_end.max(head.header.end());
        if head.header.end() <= end.lsn {
            self.accepted_due = true;
            return AcceptVerdict::Duplicate;
        }
        if start > end.lsn {
            self.fetch_missing(now, fx);
            return AcceptVerdict::Refuse(RefuseReason::Gap);
        }
        if start < end.lsn || !head.header.follows(end.chain) {
            return AcceptVerdict::Refuse(RefuseReason::ChainMismatch);
        }
        assert!(start == end.lsn && self.leader == head.ballot, "the leader's next group");
        self.storing = Some((head.ballot, start, Want::Next));
        AcceptVerdict::Store
    }

    /// Why nothing of `ballot` is taken now, after telling its leader.
    pub(super) fn refuse_ballot(
        &mut self,
        from: NodeKey,
        ballot: Ballot,
        now: Nanos,
        fx: &mut Effects,
    ) -> Option<RefuseReason> {
        if !ballot.is_of(from) || from.node == self.me.node {
            return Some(RefuseReason::Unasked);
        }
        let promised = self.log.promised();
        if self.is_used_up(ballot) {
            self.refuse(from.node, ballot, fx);
            return Some(RefuseReason::OldBallot);
        }
        self.follow(ballot, now, fx);
        assert!(self.leader == ballot, "what it takes groups from, it follows");
        if self.log.accepting() == ballot {
            return None;
        }
        assert!(self.log.accepting() < ballot, "a ballot below the accepting one is used up");
        if self.pending.as_ref().is_none_or(|p| p.ballot != ballot) {
            let refuse = Body::Refuse { ballot, promised, no_takeover: true };
            self.send(from.node, refuse, fx);
        }
        Some(RefuseReason::NoTakeover)
    }

    pub(super) fn stored(&mut self, mark: GroupMark, now: Nanos, fx: &mut Effects) {
        let Some((ballot, start, want)) = self.storing.take() else {
            panic!("a group without a verdict")
        };
        assert!(want != Want::Lost, "a group that fills a hole");
        let staged = want == Want::Staged;
        assert!(start == mark.start, "another group than that of the verdict");
        assert!(mark.start < mark.end.lsn, "a group without bytes");
        let before = (self.log.end(), self.log.accepting());
        if staged {
            self.log.stage(mark.start, mark.end, ballot, mark.scn, mark.place);
            if mark.base {
                self.log.mark_staged_base(mark.start);
            }
            assert!(self.log.staged_end(ballot) == Some(mark.end), "the run ends with it");
            assert!((self.log.end(), self.log.accepting()) == before, "staged bytes count already");
        } else {
            self.log.append(mark.start, mark.end, ballot, mark.scn, mark.place);
            if mark.base {
                self.log.mark_base(mark.start);
            }
            assert!(self.log.end() == mark.end && self.log.accepting() == ballot);
            let cursor = self.leader_commit;
            self.learn_commit(ballot, cursor, fx);
        }
        if self.fetch.as_ref().is_some_and(|f| f.staged == staged) {
            self.fetched(mark.end.lsn, now, fx);
        }
    }
}
