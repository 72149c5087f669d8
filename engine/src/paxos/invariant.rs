//! What holds in every replica between two inputs, and of every message that it sends.
//!
//! Only what this code itself keeps true is asserted. What a peer or a disk says is checked where
//! it comes in, and ignored or refused.

use super::elect::{BallotOf, PreVotes};
use super::fetch::Fetch;
use super::message::{Body, Promise, Want};
use super::prepare::Candidacy;
use super::progress::Leadership;
use super::replica::{Replica, Role, Then};
use super::takeover::Pending;
use super::tuning::RECORDS_IN_FLIGHT_MAX;
use crate::seeded::is_any_seeded;

impl Replica {
    /// Holds after every input but a verdict, which its group must follow first.
    pub(super) fn assert_invariants(&self) {
        // With a rule removed, what comes of that is to be found; these would be first.
        if is_any_seeded() {
            return;
        }
        self.assert_cursors();
        self.assert_records();
        self.assert_members();
        assert!(self.storing.is_none(), "the group of the last verdict was not logged");
        match &self.role {
            Role::Follower => {}
            Role::PreCandidate(votes) => self.assert_pre_candidate(votes),
            Role::Candidate(candidacy) => self.assert_candidate(candidacy),
            Role::Leader(led) => self.assert_leader(led),
        }
        if let Some(pending) = &self.pending {
            self.assert_pending(pending);
        }
        if let Some(fetch) = &self.fetch {
            self.assert_fetch(fetch);
        }
        assert!(self.repair.is_none() || !self.log.is_whole(), "repairs what is whole");
        self.assert_idle_where_barred();
    }

    fn assert_cursors(&self) {
        let (log, accepting, promised) = (&self.log, self.log.accepting(), self.log.promised());
        assert!(log.base().lsn <= log.committed().lsn, "the log begins above what is committed");
        assert!(log.committed().lsn <= log.end().lsn, "committed bytes that are not here");
        assert!(accepting <= promised, "accepts {accepting} below the promise {promised}");
        assert!(self.promise_durable <= promised, "a promise is durable that was not made");
        assert!(self.round_seen >= promised.round, "the next candidacy would reuse a round");
        // Durable bytes count under one ballot: a Takeover begins to count anew.
        assert!(self.durable.0 <= accepting, "durable under a ballot that is not accepted");
        assert!(self.durable.0 < accepting || self.durable.1 <= log.end().lsn);
        assert!(self.hinted <= log.committed().lsn, "a hint of what is not committed");
        assert!(self.low <= self.hinted, "a hint is durable that was not logged");
        assert!(self.leader.round <= self.round_seen, "a round that was not noted");
        // A leader may be followed before its Takeover is here, but never one that was outbid.
        assert!(!self.leader.is_some() || self.leader >= promised, "follows an outbid leader");
        if let Some(void) = &self.void {
            assert!(void.ballot == accepting, "a void of another Takeover than the last");
            assert!(void.from <= void.settled_at, "settled before it was voided");
            assert!(void.settled_at <= log.end().lsn, "settled above the end of the log");
        }
    }

    fn assert_records(&self) {
        // One more than a peer may cause: the own Takeover waits for nobody.
        assert!(self.records.len() <= RECORDS_IN_FLIGHT_MAX + 1, "records pile up");
        if let Some((first, _)) = self.records.front() {
            assert!(first + self.records.len() as u64 == self.next_record, "a record is missing");
        }
        if let Some((id, _)) = self.mending.filter(|_| self.halted.is_none()) {
            let first = self.records.front().map_or(self.next_record, |(first, _)| *first);
            assert!(first <= id && id < self.next_record, "waits for a record that is durable");
        }
        let (accepting, promised) = (self.log.accepting(), self.log.promised());
        for (id, then) in &self.records {
            match then {
                Then::Prepare(ballot) => {
                    assert!(ballot.is_of(self.me.key()), "record {id} promises another's ballot");
                    assert!(*ballot <= promised, "record {id} is ahead of the log in memory");
                }
                Then::Answer(to, promise) => {
                    assert!(*to == promise.ballot.node, "record {id} answers somebody else");
                    assert!(promise.ballot <= promised, "record {id} is ahead of the log");
                }
                Then::TakenOver(ballot, end, _) => {
                    assert!(*ballot <= accepting, "record {id} is ahead of the log in memory");
                    assert!(*ballot < accepting || *end <= self.log.end().lsn);
                }
                Then::Configured(ballot, seq) => {
                    assert!(*ballot <= accepting, "record {id} changes members of no Takeover");
                    assert!((*ballot, *seq) <= self.config.version(), "record {id} is ahead");
                }
                Then::Hinted(upto) => {
                    assert!(*upto <= self.log.committed().lsn, "record {id} is ahead");
                }
                Then::Mended | Then::Nothing => {}
            }
        }
    }

    fn assert_members(&self) {
        let members = &self.config.members;
        assert!(self.config_durable <= self.config.version(), "the disk is ahead");
        assert!(!self.hears(self.me.node), "this node is not its own peer");
        let up = members.iter().filter(|m| self.hears(m.node)).count();
        assert!(up == self.up.len(), "a node is heard twice, or is no member");
        // Two majorities meet, and all members together are one.
        assert!(2 * self.config.majority() > members.len());
        assert!(self.config.majority() <= members.len());
        // Leading and being led by oneself are the same.
        let leads = matches!(self.role, Role::Leader(_));
        assert!(leads == (self.leader.is_some() && self.leader.node == self.me.node));
        // A Takeover of this node waits only while its candidacy fetches.
        let fetches = matches!(&self.role, Role::Candidate(c) if c.chosen);
        let own = self.pending.as_ref().is_some_and(|p| p.ballot.node == self.me.node);
        assert!(fetches == own, "an own Takeover without its candidacy, or the reverse");
    }

    fn assert_pre_candidate(&self, votes: &PreVotes) {
        assert!(votes.ballot.is_of(self.me.key()), "asks in another's name");
        assert!(votes.ballot > self.log.promised(), "asks for what it could not promise itself");
        assert!(votes.granted.contains(&self.me.key()), "asks for what it would not grant");
        let nodes = |node: u32| votes.granted.iter().filter(|key| key.node == node).count();
        assert!(votes.granted.iter().all(|key| nodes(key.node) == 1), "a node granted twice");
        assert!(!self.leader.is_some(), "campaigns against a leader that it follows");
        assert!(self.election_at.is_none(), "a campaign has a timer of its own");
    }

    fn assert_candidate(&self, candidacy: &Candidacy) {
        let ballot = candidacy.ballot;
        assert!(ballot.is_of(self.me.key()), "a candidate under another's ballot");
        assert!(ballot == self.log.promised(), "a candidate of an outbid ballot");
        assert!(ballot > self.log.accepting(), "a candidate of a ballot that was led");
        assert!(!self.leader.is_some() && self.election_at.is_none());
        let under_way = |(_, then): &(u64, Then)| matches!(then, Then::Prepare(b) if *b == ballot);
        let waits = self.records.iter().any(under_way);
        assert!(waits == candidacy.own.is_some(), "its own promise counts before it is durable");
        assert!(waits != (self.promise_durable == ballot));
        assert!(candidacy.chosen == self.pending.is_some(), "a tail is chosen, or it is not");
        assert!(!(candidacy.chosen && waits), "chose without its own promise");
        let promises = &candidacy.promises;
        assert!(promises.len() <= self.config.members.len(), "a member promised twice");
        assert!(promises.iter().all(|(_, p)| p.ballot == ballot), "a promise of another ballot");
        assert!(promises.iter().all(|(_, p)| p.scn <= candidacy.scn_floor));
        let own = promises.iter().any(|(key, _)| *key == self.me.key());
        assert!(own != waits, "its own promise is under way or counted, not both");
    }

    fn assert_leader(&self, led: &Leadership) {
        let (committed, end) = (self.log.committed().lsn, self.log.end().lsn);
        assert!(led.ballot.is_of(self.me.key()), "leads under another's ballot");
        assert!(led.ballot == self.leader, "follows somebody while it leads");
        assert!(led.ballot == self.log.accepting(), "leads a log that is not its own");
        assert!(led.ballot == self.log.promised(), "leads although it promised a higher ballot");
        assert!(led.ballot == self.promise_durable, "leads without a durable promise");
        assert!(led.ballot == self.config.ballot, "counts in members of another ballot");
        assert!(self.pending.is_none() && self.fetch.is_none(), "a leader lacks nothing");
        assert!(self.election_at.is_none(), "a leader waits for no election");
        assert!(led.start.lsn <= end, "the log shrank under its leader");
        // What it serves is committed under this ballot up to its start, and more.
        assert!(!led.serving || led.start.lsn <= committed, "serves above the committed");
        assert!(led.serving || end == led.start.lsn, "a group before its Takeover is agreed");
        let bound = self.tuning.window_groups_bound();
        assert!(led.window.len() <= bound, "more in flight than allowed");
        assert!(led.window.front().is_none_or(|&first| first > committed));
        assert!(led.window.back().is_none_or(|&last| last == end));
        assert!(!led.serving || led.window.is_empty() == (end == committed));
        assert!(led.held_told <= self.held, "said more than all hold");
        assert!(self.held <= committed, "all hold what is not committed");
        assert!(led.window.len() == led.scns.len(), "a group has an SCN");
        if let Some(transfer) = led.transfer {
            assert!(led.serving, "hands over what it does not have yet");
            assert!(self.config.member(transfer.successor).is_some(), "hands over to a stranger");
            assert!(transfer.successor != self.me.node, "hands over to itself");
        }
        led.assert_members(&self.config, committed, end);
    }

    fn assert_pending(&self, pending: &Pending) {
        assert!(pending.ballot > self.log.accepting(), "a Takeover acts once");
        assert!(pending.ballot >= self.log.promised(), "waits for a Takeover that was outbid");
        assert!(pending.config.ballot == pending.ballot, "members of another Takeover");
        assert!(pending.ballot.round <= self.round_seen, "a round that was not noted");
        let staged = self.log.staged_end(pending.ballot).is_some();
        assert!(staged || !pending.run, "goes on with a run that is not there");
    }

    fn assert_fetch(&self, fetch: &Fetch) {
        assert!(fetch.to != self.me.node, "fetches from itself");
        assert!(fetch.next < fetch.upto, "fetches nothing");
        assert!(fetch.upto.since(fetch.next) <= self.tuning.fetch_bytes_max);
        match self.pending.as_ref().filter(|_| fetch.staged) {
            Some(pending) => {
                assert!(fetch.ballot == pending.ballot, "fetches for another Takeover");
                assert!(fetch.to == pending.source, "fetches from who did not promise it");
                assert!(fetch.upto <= pending.end.lsn, "fetches what would be void");
            }
            None => {
                assert!(!fetch.staged, "stages for no Takeover");
                assert!(fetch.ballot == self.log.accepting(), "appends under another ballot");
                assert!(fetch.next == self.log.end().lsn, "leaves a hole, or fetches twice");
            }
        }
    }

    /// Those that may not lead wait without a candidacy; those that halted wait for nothing.
    fn assert_idle_where_barred(&self) {
        let follower = matches!(self.role, Role::Follower);
        assert!(follower || !self.log.is_unknown(), "a candidate with an unknown tail");
        assert!(follower || !self.disk_stalled, "a candidate with a stalled disk");
        // A leader may lose a part while it leads, and repairs it.
        let leads = matches!(self.role, Role::Leader(_));
        assert!(follower || leads || self.log.is_whole(), "a candidate with a hole");
        if self.halted.is_some() {
            assert!(follower, "leads a stream that halted");
            assert!(self.pending.is_none() && self.fetch.is_none());
            assert!(self.next_deadline().is_none(), "a timer of a stream that halted");
        }
    }

    /// What this replica may say now, and to whom.
    pub(super) fn assert_message(&self, to: u32, body: &Body) {
        // With a rule removed, what comes of that is to be found; these would be first.
        if is_any_seeded() {
            return;
        }
        let (log, promised) = (&self.log, self.log.promised());
        assert!(to != self.me.node, "a message to itself");
        assert!(self.halted.is_none() || matches!(body, Body::StepDown { .. }));
        match body {
            Body::PreVote { ballot } => {
                assert!(ballot.is_of(self.me.key()) && *ballot > promised);
            }
            Body::PreVoteReply { ballot, granted, .. } => {
                assert!(ballot.node == to, "answers somebody else");
                assert!(!granted || *ballot > promised, "grants what it could not promise");
                assert!(!granted || !log.is_unknown(), "grants with an unknown tail");
            }
            Body::Prepare { ballot } => {
                assert!(ballot.is_of(self.me.key()) && *ballot == promised);
                assert!(self.promise_durable == *ballot, "asks before its own is durable");
            }
            Body::Promise(promise) => self.assert_promise(to, promise),
            Body::Refuse { ballot, promised: said, no_takeover } => {
                assert!(ballot.node == to, "refuses somebody else's ballot");
                assert!(*said >= promised, "says less than it promised");
                assert!(!no_takeover || log.accepting() < *ballot, "has that Takeover");
            }
            Body::Takeover { ballot, end, scn, config } => {
                let led = self.led().expect("only a leader says its Takeover");
                assert!(led.ballot == *ballot && led.start == *end, "a Takeover of another");
                assert!(led.scn_floor == *scn, "the floor of another Takeover");
                assert!(config.ballot == *ballot, "members of another ballot");
            }
            Body::Accepted { ballot, upto, seq, low, committed } => {
                assert!(low <= committed, "its disk knows more than it does");
                assert!(*committed == log.committed().lsn, "says another end than its own");
                assert!((*ballot, *seq) <= self.config.version(), "has a config of the future");
                assert!(*ballot == log.accepting() && ballot.node == to);
                assert!(*upto <= log.end().lsn, "accepts what is not here");
            }
            Body::Commit { ballot, upto, end, held } => {
                assert!(*held <= *upto, "all hold what is not committed");
                let led = self.led().expect("only a leader commits");
                assert!(led.ballot == *ballot && led.serving, "commits before it serves");
                assert!(*upto <= *end && *end == log.end().lsn);
            }
            Body::Fetch(request) => {
                assert!(request.from < request.upto, "asks for nothing");
                let staged = request.want == Want::Staged;
                assert!(staged == (request.ballot > log.accepting()));
            }
            Body::StepDown { ballot, successor, appointed } => {
                assert!(successor.is_some() || !appointed, "nobody was chosen");
                assert!(ballot.is_of(self.me.key()), "ends another's leadership");
                assert!(*successor != Some(self.me.node), "hands over to itself");
            }
        }
    }

    fn assert_promise(&self, to: u32, promise: &Promise) {
        assert!(promise.ballot.node == to, "answers somebody else");
        assert!(promise.accepting < promise.ballot, "promises a ballot that was led");
        assert!(promise.base <= promise.committed && promise.committed <= promise.end.lsn);
        if !promise.unknown {
            // It may have promised more since. It may not have lost this.
            assert!(promise.ballot <= self.log.promised(), "a promise that it did not make");
            assert!(promise.ballot <= self.promise_durable, "a promise that may be forgotten");
        }
    }

    fn led(&self) -> Option<&Leadership> {
        match &self.role {
            Role::Leader(led) => Some(led),
            _ => None,
        }
    }
}
