//! Fetching groups: those that a follower missed, and those that a Takeover needs.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, GroupHeader, Lsn};

use super::codec::SCN_MAX;
use super::effect::{Effect, Effects, HaltReason};
use super::event::{AcceptHead, AcceptVerdict, RefuseReason};
use super::member::NodeKey;
use super::message::{Body, FetchRequest, Want};
use super::replica::{Replica, Role};

/// The one fetch in flight.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) to: u32,
    pub(super) ballot: Ballot,
    /// The next group that is expected begins here.
    pub(super) next: Lsn,
    pub(super) upto: Lsn,
    pub(super) staged: bool,
    pub(super) retry_at: Nanos,
}

impl Replica {
    fn ask(&mut self, fetch: Fetch, fx: &mut Effects) {
        assert!(fetch.next < fetch.upto, "asks for nothing");
        assert!(!matches!(self.role, Role::Leader(_)), "a leader lacks nothing");
        let most = fetch.next.0.saturating_add(self.tuning.fetch_bytes_max);
        let upto = fetch.upto.min(Lsn(most));
        assert!(fetch.next < upto, "at least one group fits a fetch");
        let want = if fetch.staged { Want::Staged } else { Want::Next };
        let (ballot, from) = (fetch.ballot, fetch.next);
        self.send(fetch.to, Body::Fetch(FetchRequest { ballot, from, upto, want }), fx);
        self.fetch = Some(Fetch { upto, ..fetch });
    }

    /// Asks for what the waiting Takeover lacks.
    pub(super) fn fetch_staged(&mut self, now: Nanos, fx: &mut Effects) {
        let Some(pending) = &self.pending else { return };
        let (to, ballot, end) = (pending.source, pending.ballot, pending.end.lsn);
        let staged = self.log.staged_end(ballot).filter(|_| pending.run);
        // What stands in a base of this log the chain at its end does not tell.
        let own = self.log.proven().lsn;
        let next = match staged {
            Some(staged) => staged.lsn,
            None if own < end && !pending.from_committed => own,
            None => self.log.committed().lsn,
        };
        if next >= end || to == self.me.node {
            // Whoever named this end cannot have meant this log.
            self.reason = "the log does not match the takeover";
            if matches!(self.role, Role::Candidate(_)) {
                self.give_up("the log does not match its own takeover", now, fx);
            }
            return;
        }
        let retry_at = now.after(self.tuning.retry_ns);
        self.ask(Fetch { to, ballot, next, upto: end, staged: true, retry_at }, fx);
    }

    /// Asks the leader for what is missing below its end.
    pub(super) fn fetch_missing(&mut self, now: Nanos, fx: &mut Effects) {
        let (ballot, next, upto) = (self.log.accepting(), self.log.end().lsn, self.leader_end);
        if upto <= next || self.fetch.is_some() || ballot.node == self.me.node {
            return;
        }
        assert!(ballot.is_some(), "no leader named an end under no ballot");
        assert!(!matches!(self.role, Role::Candidate(_)), "the log grows under a promise");
        let retry_at = now.after(self.tuning.retry_ns);
        self.ask(Fetch { to: ballot.node, ballot, next, upto, staged: false, retry_at }, fx);
    }

    pub(super) fn on_fetch_timeout(&mut self, now: Nanos, fx: &mut Effects) {
        let Some(fetch) = self.fetch.take() else { return };
        assert!(fetch.retry_at <= now, "timed out early");
        assert!(fetch.next < fetch.upto, "was over");
        if fetch.staged {
            self.fetch_staged(now, fx);
        } else if self.leader == self.log.accepting() {
            self.fetch_missing(now, fx);
        }
    }

    /// A group of the fetch was stored or was there: goes on, or ends.
    pub(super) fn fetched(&mut self, end: Lsn, now: Nanos, fx: &mut Effects) {
        let retry_at = now.after(self.tuning.retry_ns);
        let Some(fetch) = &mut self.fetch else { return };
        assert!(fetch.next < fetch.upto && fetch.to != self.me.node);
        assert!(self.halted.is_none(), "what halted fetches nothing");
        fetch.next = fetch.next.max(end);
        fetch.retry_at = retry_at;
        let (staged, done) = (fetch.staged, fetch.next >= fetch.upto);
        if let Role::Candidate(candidacy) = &mut self.role {
            candidacy.give_up_at = now.after(self.tuning.candidacy_ns);
        }
        if !done {
            return;
        }
        self.fetch = None;
        if staged {
            self.advance_takeover(now, fx);
        } else {
            self.fetch_missing(now, fx);
        }
    }

    /// A group came for the Takeover that waits.
    pub(super) fn accept_staged(
        &mut self,
        from: NodeKey,
        head: &AcceptHead<'_>,
        now: Nanos,
        fx: &mut Effects,
    ) -> AcceptVerdict {
        let asked = self.fetch.as_ref().is_some_and(|f| f.staged && f.to == from.node);
        let Some(pending) = self.pending.as_mut().filter(|p| asked && p.ballot == head.ballot)
        else {
            return AcceptVerdict::Refuse(RefuseReason::Unasked);
        };
        assert!(self.storing.is_none(), "the last verdict is open");
        assert!(self.log.accepting() < head.ballot, "what is staged is not taken over");
        assert!(self.log.promised() <= head.ballot, "a promise ends the Takeovers below it");
        if !is_sound(head.header, self.stream) {
            return AcceptVerdict::Refuse(RefuseReason::ChainMismatch);
        }
        let (start, end, chain) = (head.header.lsn(), head.header.end(), head.header.chain.get());
        let staged = self.log.staged_end(head.ballot).filter(|_| pending.run);
        // What stands above a hole or in a base is fetched again with it.
        let held = self.log.proven().lsn;
        let known = end <= held && self.log.chain_at(end) == Some(chain);
        let follows = match staged {
            Some(staged) if end <= staged.lsn => return AcceptVerdict::Duplicate,
            Some(staged) if staged.lsn < start => return AcceptVerdict::Refuse(RefuseReason::Gap),
            Some(staged) => staged.lsn == start && head.header.follows(staged.chain),
            None if end <= self.log.committed().lsn || known => {
                self.fetched(end, now, fx);
                return AcceptVerdict::Duplicate;
            }
            None if start > held => return AcceptVerdict::Refuse(RefuseReason::Gap),
            None => self.log.chain_at(start).is_some_and(|chain| head.header.follows(chain)),
        };
        if !follows || end > pending.end.lsn {
            let committed = self.log.committed().lsn;
            if staged.is_none() && !follows && start <= committed {
                // Not the tail, but what is committed here, is not what the leader has.
                let ballot = head.ballot;
                self.halt(HaltReason::CommittedMismatch { ballot, committed }, fx);
                return AcceptVerdict::Refuse(RefuseReason::Halted);
            }
            // The tails part further down than was hoped.
            if pending.from_committed && !pending.run {
                return AcceptVerdict::Refuse(RefuseReason::ChainMismatch);
            }
            (pending.run, pending.run_start, pending.from_committed) = (false, None, true);
            self.fetch_staged(now, fx);
            return AcceptVerdict::Refuse(RefuseReason::ChainMismatch);
        }
        assert!(start < end && end <= pending.end.lsn, "bytes that would be void");
        if !pending.run {
            (pending.run, pending.run_start) = (true, Some(start));
        }
        self.storing = Some((head.ballot, start, Want::Staged));
        AcceptVerdict::StoreStaged
    }

    pub(super) fn on_fetch(&mut self, from: NodeKey, request: &FetchRequest, fx: &mut Effects) {
        let log = &self.log;
        let upto = request.upto.min(log.end().lsn);
        let there = log.base().lsn <= request.from && request.from < upto;
        let held = log.find(request.from).is_some();
        assert!(self.halted.is_none(), "what halted serves nobody");
        if there && held && self.may_serve(request.ballot, request.want) {
            let (ballot, want) = (request.ballot, request.want);
            assert!(upto <= log.end().lsn && from.node != self.me.node);
            fx.push(Effect::Serve { to: from.node, ballot, from: request.from, upto, want });
        }
    }

    /// Whether groups read from this log now may be sent under an earlier `Serve` with these
    /// values: asked again after each read from the disk.
    ///
    /// The log does not change between a promise and its Takeover, so that a candidate may fetch
    /// the tail that was promised to it; everyone else fetches from the leader. What fills a hole
    /// is proven by the chain there, whoever it comes from.
    pub fn may_serve(&self, ballot: Ballot, want: Want) -> bool {
        let taken_over = self.log.accepting() == ballot;
        match want {
            Want::Next => taken_over,
            Want::Staged => taken_over || (self.log.promised() == ballot && !self.log.is_unknown()),
            Want::Lost => true,
        }
    }
}

/// Whether the numbers of a header make sense in this stream.
pub(super) fn is_sound(header: &GroupHeader, stream: u64) -> bool {
    let (start, end) = (header.lsn(), header.end());
    let aligned = start.0.is_multiple_of(Lsn::ALIGN) && end.0.is_multiple_of(Lsn::ALIGN);
    let scn = header.scn.get() <= SCN_MAX;
    header.stream.get() == stream && aligned && scn && start < end && end < Lsn::MAX
}
