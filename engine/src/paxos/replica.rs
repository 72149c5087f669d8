//! The replica of one stream on one node: dispatches inputs, decides nothing itself.

use std::collections::VecDeque;

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Boundary, GroupHeader, Kind, Lsn, Place, StreamLog};

use super::effect::{Effect, Effects, HaltReason, LogRecord, StepDownReason};
use super::elect::PreVotes;
use super::event::{
    AcceptHead, AcceptVerdict, GroupMark, NoSlot, PeerState, ProposePosition, RefuseReason,
};
use super::fetch::Fetch;
use super::learn::Void;
use super::member::{Config, Me, NodeKey};
use super::message::{Body, Message, Promise, Want};
use super::prepare::Candidacy;
use super::progress::Leadership;
use super::repair::Repair;
use super::takeover::Pending;
use super::tuning::{RECORDS_IN_FLIGHT_MAX, Tuning};

/// One replica. The module describes the order of calls.
#[derive(Debug)]
pub struct Replica {
    pub(super) stream: u64,
    pub(super) me: Me,
    pub(super) config: Config,
    pub(super) log: StreamLog,
    pub(super) tuning: Tuning,
    /// State of the generator of random delays.
    pub(super) jitter: u64,
    pub(super) role: Role,
    /// The leader that is followed, [`Ballot::NONE`] if none.
    pub(super) leader: Ballot,
    /// Nothing is promised away before this.
    pub(super) lease_until: Nanos,
    /// When to ask for pre-votes.
    pub(super) election_at: Option<Nanos>,
    /// Highest round seen anywhere.
    pub(super) round_seen: u64,
    /// Other members that are heard.
    pub(super) up: Vec<NodeKey>,
    /// Records on their way to the disk, and what follows each.
    pub(super) records: VecDeque<(u64, Then)>,
    pub(super) next_record: u64,
    /// Highest promise whose record is durable.
    pub(super) promise_durable: Ballot,
    /// What is durable here, and the ballot under which it counts.
    pub(super) durable: (Ballot, Lsn),
    /// Version of the newest config that is durable here.
    pub(super) config_durable: (Ballot, u64),
    /// A Takeover that waits for its bytes.
    pub(super) pending: Option<Box<Pending>>,
    pub(super) fetch: Option<Fetch>,
    /// Filling a hole of the log.
    pub(super) repair: Option<Box<Repair>>,
    /// What fills holes above the committed position is not durable before that record is; the
    /// lowest of them begins there.
    pub(super) mending: Option<(u64, Lsn)>,
    /// A verdict that `on_stored` must follow: ballot, start, what for.
    pub(super) storing: Option<(Ballot, Lsn, Want)>,
    pub(super) void: Option<Void>,
    /// An Accepted is due at the end of the turn.
    pub(super) accepted_due: bool,
    /// Commit cursor and end of the log that the leader of the accepting ballot named.
    pub(super) leader_commit: Lsn,
    pub(super) leader_end: Lsn,
    /// Last committed position that was logged, and that is durable.
    pub(super) hinted: Lsn,
    pub(super) low: Lsn,
    /// What every member's disk knows to be committed.
    pub(super) held: Lsn,
    pub(super) disk_stalled: bool,
    /// An operator chose it: it keeps what it leads, whoever is preferred.
    pub(super) appointed: bool,
    /// The first position of the log that could not be read from the disk.
    pub(super) damaged: Option<Lsn>,
    /// No SCN at or below it is given by this node, in any stream of its shard.
    pub(super) floor: u64,
    pub(super) halted: Option<HaltReason>,
    /// Why it is in its role, for display.
    pub(super) reason: &'static str,
}

/// What a replica does.
#[derive(Debug)]
pub(super) enum Role {
    Follower,
    PreCandidate(PreVotes),
    Candidate(Box<Candidacy>),
    Leader(Box<Leadership>),
}

/// What follows when a record is durable.
#[derive(Debug)]
pub(super) enum Then {
    Prepare(Ballot),
    Answer(u32, Promise),
    /// End of a Takeover, and the number of its config.
    TakenOver(Ballot, Lsn, u64),
    Configured(Ballot, u64),
    /// What it says is committed.
    Hinted(Lsn),
    /// What filled a hole is durable.
    Mended,
    Nothing,
}

impl Replica {
    /// A message came in. `from` is who the handshake of the link says it is.
    pub fn on_message(&mut self, from: NodeKey, message: &Message, now: Nanos, fx: &mut Effects) {
        if message.stream != self.stream || !self.is_peer(from) {
            return;
        }
        assert!(self.storing.is_none(), "the group of the last verdict was not logged");
        if self.halted.is_some() {
            if let Body::Refuse { ballot, .. } | Body::Accepted { ballot, .. } = &message.body {
                self.deny(from, *ballot, fx);
            }
            return;
        }
        match &message.body {
            Body::PreVote { ballot } => self.on_pre_vote(from, *ballot, now, fx),
            Body::PreVoteReply { ballot, granted, promised, leader } => {
                self.on_pre_vote_reply(from, *ballot, *granted, *promised, *leader, now, fx);
            }
            Body::Prepare { ballot } => self.on_prepare(from, *ballot, now, fx),
            Body::Promise(promise) => self.on_promise(from, promise, now, fx),
            Body::Refuse { ballot, promised, no_takeover } => {
                self.on_refuse(from, *ballot, *promised, *no_takeover, now, fx);
            }
            Body::Takeover { ballot, end, scn, config } => {
                self.on_takeover(from, *ballot, (*end, *scn), config, now, fx);
            }
            Body::Accepted { ballot, upto, seq, low, committed } => {
                self.on_accepted(from, *ballot, (*upto, *seq), (*low, *committed), now, fx);
            }
            Body::Commit { ballot, upto, end, held } => {
                self.on_commit(from, *ballot, (*upto, *end, *held), now, fx);
            }
            Body::Fetch(request) => self.on_fetch(from, request, fx),
            Body::StepDown { ballot, successor, appointed } => {
                self.on_step_down(from, *ballot, (*successor, *appointed), now, fx);
            }
        }
        self.assert_invariants();
    }

    /// Whether that is another member.
    fn is_peer(&self, from: NodeKey) -> bool {
        from.node != self.me.node && self.config.member(from.node).is_some()
    }

    /// The block with the record `id` is durable, and so is everything logged before it.
    pub fn on_durable(&mut self, id: u64, now: Nanos, fx: &mut Effects) {
        assert!(id < self.next_record, "record {id} was never asked for");
        while self.records.front().is_some_and(|(first, _)| *first <= id) {
            let (id, then) = self.records.pop_front().expect("seen above");
            if self.halted.is_some() {
                continue;
            }
            match then {
                Then::Prepare(ballot) => self.on_own_promise_durable(ballot, now, fx),
                Then::Answer(to, promise) => {
                    assert!(promise.ballot <= self.log.promised(), "memory is ahead of the disk");
                    self.promise_durable = self.promise_durable.max(promise.ballot);
                    self.send(to, Body::Promise(promise), fx);
                }
                Then::TakenOver(ballot, end, seq) => {
                    self.config_durable = self.config_durable.max((ballot, seq));
                    self.on_group_durable(ballot, end, now, fx);
                }
                Then::Configured(ballot, seq) => self.on_config_durable(ballot, seq, now, fx),
                Then::Hinted(upto) => self.on_hint_durable(upto),
                Then::Mended => self.on_mended_durable(id, now, fx),
                Then::Nothing => {}
            }
        }
        assert!(self.records.front().is_none_or(|(next, _)| *next > id), "durable in order");
        self.assert_invariants();
    }

    /// Groups logged under `ballot` (not the staged ones) are durable up to `upto`.
    pub fn on_group_durable(&mut self, ballot: Ballot, upto: Lsn, now: Nanos, fx: &mut Effects) {
        if ballot != self.log.accepting() || self.halted.is_some() {
            return; // Voided since, or counted with the Takeover that came since.
        }
        assert!(upto <= self.log.end().lsn, "durable {upto} beyond {}", self.log.end().lsn);
        let known = if self.durable.0 == ballot { self.durable.1 } else { Lsn::ZERO };
        assert!(self.durable.0 <= ballot, "durable under a ballot that is not accepted yet");
        self.durable = (ballot, known.max(upto));
        assert!(self.durable.1 >= known && self.durable.1 <= self.log.end().lsn);
        self.accepted_due = true;
        self.on_own_progress(now, fx);
    }

    /// Where this leader's next group stands. Nothing else may be given to the replica between
    /// this and the [`on_proposed`](Replica::on_proposed) of that group.
    ///
    /// # Errors
    /// Why there is no place now.
    pub fn leader_slot(&self) -> Result<ProposePosition, NoSlot> {
        self.propose_position()
    }

    /// As [`leader_slot`](Replica::leader_slot), for a group made by another cluster: it must
    /// stand at `lsn` and follow `chain_before`; only its record header carries `ballot`.
    ///
    /// # Errors
    /// Why there is no place now.
    pub fn import_position(&self) -> Result<ProposePosition, NoSlot> {
        self.propose_position()
    }

    /// This leader's group was logged at its slot, and goes to every peer in this turn.
    ///
    /// # Panics
    /// When it is not the group that the slot was given for.
    pub fn on_proposed(&mut self, mark: GroupMark, now: Nanos) {
        assert!(self.halted.is_none() && self.storing.is_none());
        self.propose(mark, now);
        assert!(matches!(self.role, Role::Leader(_)), "a group of who does not lead");
        self.assert_invariants();
    }

    /// A group came from the leader. What to do with it.
    pub fn on_accept(
        &mut self,
        from: NodeKey,
        head: &AcceptHead<'_>,
        now: Nanos,
        fx: &mut Effects,
    ) -> AcceptVerdict {
        assert!(head.want == Want::Next, "a leader stages nothing");
        assert!(self.storing.is_none(), "the group of the last verdict was not logged");
        match self.halted {
            Some(_) => AcceptVerdict::Refuse(RefuseReason::Halted),
            None if !self.is_peer(from) => AcceptVerdict::Refuse(RefuseReason::Unasked),
            None => self.accept(from, head, now, fx),
        }
    }

    /// A group came that was fetched from `from`. What to do with it.
    pub fn on_fetched(
        &mut self,
        from: NodeKey,
        head: &AcceptHead<'_>,
        now: Nanos,
        fx: &mut Effects,
    ) -> AcceptVerdict {
        match self.halted {
            Some(_) => AcceptVerdict::Refuse(RefuseReason::Halted),
            None if !self.is_peer(from) => AcceptVerdict::Refuse(RefuseReason::Unasked),
            None => match head.want {
                Want::Next => self.accept(from, head, now, fx),
                Want::Staged => self.accept_staged(from, head, now, fx),
                Want::Lost => self.accept_moved(from, head, now),
            },
        }
    }

    /// The group of the last verdict was logged as that verdict said.
    ///
    /// # Panics
    /// When it is another group.
    pub fn on_stored(&mut self, mark: GroupMark, now: Nanos, fx: &mut Effects) {
        self.stored(mark, now, fx);
        assert!(self.storing.is_none(), "a verdict is followed once");
        self.assert_invariants();
    }

    /// The same for a group whose verdict was
    /// [`StoreMoved`](AcceptVerdict::StoreMoved).
    ///
    /// # Panics
    /// When it is another group.
    pub fn on_moved(&mut self, header: &GroupHeader, place: Place, now: Nanos, fx: &mut Effects) {
        self.moved(header, place, now, fx);
        self.assert_invariants();
    }

    /// A member is heard again, on the disk that its handshake named, or not any more.
    pub fn on_peer(&mut self, peer: NodeKey, state: PeerState, now: Nanos, fx: &mut Effects) {
        let node = peer.node;
        if self.halted.is_some() || self.config.member(node).is_none() || node == self.me.node {
            return;
        }
        let replaced = self.up.iter().any(|key| key.node == node && *key != peer);
        self.up.retain(|key| key.node != node);
        match state {
            PeerState::Up => {
                self.up.push(peer);
                self.on_peer_up(node, fx);
                if replaced && matches!(self.role, Role::Leader(_)) {
                    self.check_quorum(now, fx);
                }
            }
            PeerState::Down { lease_until } => self.on_peer_down(node, lease_until, now, fx),
        }
        if state.is_up() {
            self.mend_soon(now, fx);
        }
        assert!(self.hears(node) == state.is_up(), "heard, and not heard");
        self.assert_invariants();
    }

    /// Whether `node` is heard, counted or not.
    pub(super) fn hears(&self, node: u32) -> bool {
        hears(&self.up, node)
    }

    /// The log as the WAL remembers it.
    pub fn log(&self) -> &StreamLog {
        &self.log
    }

    /// The newest members known.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The leader that is known, [`Ballot::NONE`] if none.
    pub fn leader(&self) -> Ballot {
        self.leader
    }

    /// The stream.
    pub fn stream(&self) -> u64 {
        self.stream
    }

    pub(super) fn send(&self, to: u32, body: Body, fx: &mut Effects) {
        self.assert_message(to, &body);
        fx.push(Effect::Send { to, message: Message { stream: self.stream, body } });
    }

    pub(super) fn send_all(&self, body: &Body, fx: &mut Effects) {
        let own = matches!(
            body,
            Body::PreVote { .. }
                | Body::Prepare { .. }
                | Body::Takeover { .. }
                | Body::StepDown { .. }
        );
        assert!(own, "answers go to who asked");
        assert!(self.halted.is_none(), "what halted asks for nothing");
        for member in self.config.members.iter().filter(|m| m.node != self.me.node) {
            self.send(member.node, body.clone(), fx);
        }
    }

    pub(super) fn log_record(
        &mut self,
        kind: Kind,
        at: Lsn,
        ballot: Ballot,
        body: Vec<u8>,
        then: Then,
        fx: &mut Effects,
    ) {
        let id = self.next_record;
        assert!(self.halted.is_none(), "a stream that halted logs nothing");
        assert!(ballot <= self.log.promised(), "memory is never behind the disk");
        assert!(self.records.back().is_none_or(|(last, _)| *last + 1 == id));
        assert!(at <= self.log.end().lsn, "a record of what is not here");
        let promise = matches!(then, Then::Prepare(_) | Then::Answer(..));
        assert!(promise == (kind == Kind::Promise), "a promise is told when it is durable");
        let bare = matches!(kind, Kind::Promise | Kind::CommitHint);
        assert!(body.is_empty() == bare, "{kind:?} with a body of another");
        self.next_record += 1;
        self.records.push_back((id, then));
        fx.push(Effect::Log(LogRecord { id, kind, lsn: at, ballot, body }));
    }

    /// Whether a record may be asked for by a peer now.
    pub(super) fn has_record_room(&self) -> bool {
        self.records.len() < RECORDS_IN_FLIGHT_MAX
    }

    pub(super) fn halt(&mut self, reason: HaltReason, fx: &mut Effects) {
        assert!(self.halted.is_none(), "halts once");
        self.step_down(StepDownReason::Halted, fx);
        assert!(matches!(self.role, Role::Follower), "leads a stream that halted");
        self.halted = Some(reason);
        self.reason = "halted: the protocol was broken";
        self.election_at = None;
        self.pending = None;
        self.fetch = None;
        self.repair = None;
        fx.push(Effect::Halt { reason });
    }

    pub(super) fn end(&self) -> Boundary {
        self.log.end()
    }

    /// A random delay below `limit`, from splitmix64.
    pub(super) fn random_below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "no delay is below nothing");
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Whether a disk of `node` is among those that are heard.
pub(super) fn hears(up: &[NodeKey], node: u32) -> bool {
    up.iter().any(|key| key.node == node)
}
