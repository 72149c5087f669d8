//! What a standby may show: the replayable SCN.
//!
//! Its upstream says what is closed: t at position x of a stream. That counts once the log here is
//! committed up to x ([`Claims`]). When it counts in every stream of a shard, the shard is
//! *complete* up to the least t: whatever happens, every group with such an SCN is in the log of
//! this cluster. That is a fact about the cluster and not about who leads what, and one number. So
//! each node logs the highest that it found or heard of in one record of its shard, and says so to
//! its peers when that is durable ([`Replayable`]): what a majority has is shown, since every
//! failover hears one of them, and cuts nothing below.
//!
//! Positions need not be logged with it. What is complete up to t ends, in each stream, with the
//! last group whose SCN is at most t, and that is committed: a restart finds it in the log. Floors
//! as a primary asks for (`floor.rs`) would not do. They bind a node for what it gives itself, are
//! above what is closed, and say nothing about what is there of another cluster's log.

use std::collections::{BTreeMap, VecDeque};

use palisade_netio::Nanos;
use palisade_wal::Lsn;
use zerocopy::little_endian::U64;

use super::closed::Closed;
use super::codec::{DecodeError, SCN_MAX, exact, fixed, put};
use super::liveness::PEERS_MAX;
use super::member::{Config, NodeKey};
use crate::seeded::is_seeded;

/// Between two records of what is complete.
pub const REPLAYABLE_NS: u64 = 100_000_000;
/// Until a word that found no room is said again.
const AGAIN_NS: u64 = 50_000_000;
/// Positions of one stream that are waited for.
const CLAIMS_MAX: usize = 32;

fixed! {
    RawComplete: 8 { scn: U64 }
}

/// The sender's disk holds it as a fact: every group with this SCN or a lower one, in every stream
/// of the shard, is committed in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The SCN.
    pub scn: u64,
}

impl Complete {
    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(self.scn <= SCN_MAX, "what the reader insists on");
        put(out, &RawComplete { scn: self.scn.into() });
        assert!(out.len() >= size_of::<RawComplete>());
    }

    /// Reads exactly one encoding.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<Complete, DecodeError> {
        let RawComplete { scn } = exact(bytes)?;
        assert!(bytes.len() == size_of::<RawComplete>(), "exactly one");
        let complete = Complete { scn: scn.get() };
        if complete.scn <= SCN_MAX { Ok(complete) } else { Err(DecodeError::Inconsistent) }
    }
}

/// What is closed in one stream by the word of others, and how much of it counts here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    counted: Closed,
    /// Above the committed position, both numbers growing; at most [`CLAIMS_MAX`].
    waiting: VecDeque<Closed>,
}

impl Claims {
    /// Somebody knows this to be closed.
    pub fn offer(&mut self, closed: Closed) {
        // More is closed below a position that is not higher.
        let says_more = |known: &Closed| known.scn >= closed.scn && known.end <= closed.end;
        let counts = self.counted.scn >= closed.scn;
        if counts || closed.scn > SCN_MAX || self.waiting.iter().any(says_more) {
            return;
        }
        self.waiting.retain(|known| known.scn > closed.scn || known.end < closed.end);
        if self.waiting.len() == CLAIMS_MAX {
            // The first ones are the next to count, and the last one is what counts in the end.
            self.waiting.pop_back();
        }
        let at = self.waiting.partition_point(|known| known.scn < closed.scn);
        self.waiting.insert(at, closed);
        assert!(self.waiting.len() <= CLAIMS_MAX, "more than are kept");
        assert!(self.waiting.iter().is_sorted_by(|a, b| a.scn < b.scn && a.end < b.end));
    }

    /// The log here is committed up to `committed`. Gives what counts.
    pub fn count(&mut self, committed: Lsn) -> Closed {
        let counts = |next: &mut Closed| next.end <= committed || is_seeded("closed_ahead_of_log");
        let before = self.counted.scn;
        while let Some(next) = self.waiting.pop_front_if(counts) {
            self.counted = next;
        }
        assert!(self.counted.scn >= before, "a closed SCN goes up");
        assert!(self.counted.end <= committed || is_seeded("closed_ahead_of_log"));
        self.counted
    }

    /// What counts.
    pub fn counted(&self) -> Closed {
        assert!(self.waiting.front().is_none_or(|next| next.scn > self.counted.scn));
        assert!(self.counted.scn <= SCN_MAX, "an SCN above them all");
        self.counted
    }

    /// Whether something counts when more is committed.
    pub fn is_waiting(&self) -> bool {
        assert!(self.waiting.len() <= CLAIMS_MAX, "more than are kept");
        assert!(self.counted.scn <= SCN_MAX, "an SCN above them all");
        !self.waiting.is_empty()
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayableEffect {
    /// Append a Closed record, then say [`Replayable::on_durable`] when it is.
    Log {
        /// What is complete.
        scn: u64,
    },
    /// Send this to the same shard of that node, or say [`Replayable::on_lost`].
    Say {
        /// The node.
        to: u32,
        /// The word.
        complete: Complete,
    },
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    key: NodeKey,
    linked: bool,
    /// What its disk holds, by its word.
    said: u64,
    /// What it was told on this link.
    told: u64,
}

/// What is complete in a shard, and on how many disks that is durable.
#[derive(Debug)]
pub struct Replayable {
    me: NodeKey,
    /// The highest that was found here, or heard of.
    known: u64,
    /// The highest in the log, and the highest there that is durable.
    logged: u64,
    durable: u64,
    /// Durable on a majority, as far as is known here.
    held: u64,
    next_at: Nanos,
    again_at: Option<Nanos>,
    peers: BTreeMap<u32, Peer>,
}

impl Replayable {
    /// Nothing is known to be complete.
    pub fn new(me: NodeKey) -> Replayable {
        Replayable {
            me,
            known: 0,
            logged: 0,
            durable: 0,
            held: 0,
            next_at: Nanos(0),
            again_at: None,
            peers: BTreeMap::new(),
        }
    }

    /// A record of the log said so.
    pub fn on_replayed(&mut self, scn: u64) {
        assert!(self.peers.is_empty(), "replayed after the start");
        self.known = self.known.max(scn.min(SCN_MAX));
        (self.logged, self.durable) = (self.known, self.known);
        assert!(self.logged >= scn.min(SCN_MAX), "what a record says is logged");
        self.assert_invariants();
    }

    /// Every stream here is complete up to `scn`.
    pub fn on_complete(&mut self, scn: u64) {
        assert!(scn <= SCN_MAX, "an SCN above them all");
        self.known = self.known.max(scn);
        assert!(self.known >= scn, "found, and not known");
        self.assert_invariants();
    }

    /// The record with this SCN is durable.
    pub fn on_durable(&mut self, scn: u64) {
        assert!(scn <= self.logged, "durable before it is logged");
        self.durable = self.durable.max(scn);
        assert!(self.durable >= scn, "durable, and not counted");
        self.assert_invariants();
    }

    /// The links to a node are up: it is told what is durable here.
    pub fn on_link_up(&mut self, key: NodeKey) {
        assert!(key.node != self.me.node, "its own peer");
        let known = self.peers.get(&key.node).filter(|peer| peer.key == key);
        let said = known.map_or(0, |peer| peer.said);
        self.peers.insert(key.node, Peer { key, linked: true, said, told: 0 });
        assert!(self.peers.len() <= PEERS_MAX, "more peers than there may be");
        assert!(said <= self.known, "said, and not known");
    }

    /// The links to a node are down. What it said stays true.
    pub fn on_link_down(&mut self, node: u32) {
        if let Some(peer) = self.peers.get_mut(&node) {
            (peer.linked, peer.told) = (false, 0);
        }
        assert!(self.peers.get(&node).is_none_or(|peer| !peer.linked), "still told");
        assert!(node != self.me.node, "its own peer");
    }

    /// A word could not be sent.
    pub fn on_lost(&mut self, node: u32, now: Nanos) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.told = 0;
            self.again_at = Some(now.after(AGAIN_NS));
        }
        let again = self.again_at.is_some() || !self.peers.contains_key(&node);
        assert!(again, "lost, and not said again");
        assert!(node != self.me.node, "its own peer");
    }

    /// A peer says what its disk holds.
    pub fn on_said(&mut self, from: NodeKey, complete: Complete) {
        let Some(peer) = self.peers.get_mut(&from.node).filter(|peer| peer.key == from) else {
            return;
        };
        peer.said = peer.said.max(complete.scn);
        // A fact is one whoever found it.
        self.known = self.known.max(complete.scn);
        assert!(self.known >= complete.scn, "heard of, and not known");
        self.assert_invariants();
    }

    /// Does what is due.
    pub fn on_time(&mut self, now: Nanos, config: &Config, fx: &mut Vec<ReplayableEffect>) {
        if self.known > self.logged && self.durable == self.logged && now >= self.next_at {
            self.logged = self.known;
            self.next_at = now.after(REPLAYABLE_NS);
            fx.push(ReplayableEffect::Log { scn: self.logged });
        }
        if self.again_at.is_none_or(|at| at <= now) {
            self.again_at = None;
            for (&to, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.linked) {
                if peer.told < self.durable {
                    peer.told = self.durable;
                    fx.push(ReplayableEffect::Say { to, complete: Complete { scn: self.durable } });
                }
            }
        }
        self.held = self.held.max(self.on_majority(config));
        let told = |peer: &Peer| peer.told <= self.durable;
        assert!(self.peers.values().all(told), "told what is not durable");
        self.assert_invariants();
    }

    /// When [`on_time`](Replayable::on_time) is due, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let log = self.known > self.logged && self.durable == self.logged;
        log.then_some(self.next_at).into_iter().chain(self.again_at).min()
    }

    fn on_majority(&self, config: &Config) -> u64 {
        let bound = config.members.iter().filter_map(|member| {
            member.incarnation.map(|incarnation| NodeKey { node: member.node, incarnation })
        });
        let said = |key: NodeKey| match self.peers.get(&key.node) {
            _ if key == self.me => self.durable,
            Some(peer) if peer.key == key => peer.said,
            _ => 0,
        };
        let mut said: Vec<u64> = bound.map(said).collect();
        said.sort_unstable();
        let at = said.len().checked_sub(config.majority());
        let held = at.and_then(|at| said.get(at)).copied().unwrap_or(0);
        assert!(held <= self.known, "held by others and not heard of");
        assert!(held <= SCN_MAX, "an SCN above them all");
        held
    }

    /// The highest in the log.
    pub fn logged(&self) -> u64 {
        assert!(self.durable <= self.logged, "durable before it is logged");
        assert!(self.logged <= self.known, "logged what is not known");
        self.logged
    }

    /// The highest that was found here, or heard of: what a majority holds is among what a majority
    /// knows.
    pub fn known(&self) -> u64 {
        assert!(self.known >= self.held, "held by others and not heard of");
        assert!(self.known <= SCN_MAX, "an SCN above them all");
        self.known
    }

    /// What is durable on a majority: up to there the shard shows its streams.
    pub fn held(&self) -> u64 {
        assert!(self.held <= self.known, "held by others and not heard of");
        assert!(self.held <= SCN_MAX, "an SCN above them all");
        self.held
    }

    fn assert_invariants(&self) {
        assert!(self.durable <= self.logged, "durable before it is logged");
        assert!(self.logged <= self.known, "logged what is not known");
        assert!(self.held <= self.known, "held by others and not heard of");
        assert!(self.known <= SCN_MAX, "an SCN above them all");
        assert!(self.peers.values().all(|peer| peer.said <= self.known));
    }
}

#[cfg(test)]
mod tests {
    use palisade_wal::Ballot;

    use super::*;
    use crate::paxos::Member;

    fn at(scn: u64, end: u64) -> Closed {
        Closed { scn, end: Lsn(end) }
    }

    fn key(node: u32) -> NodeKey {
        NodeKey { node, incarnation: u64::from(node) + 10 }
    }

    fn three() -> Config {
        let member = |node| Member {
            node,
            incarnation: Some(u64::from(node) + 10),
            addr: String::new(),
            region: String::new(),
        };
        let members = (1..=3).map(member).collect();
        Config { ballot: Ballot::NONE, seq: 1, at: Lsn::ZERO, members }
    }

    fn due(replayable: &mut Replayable, now: u64) -> Vec<ReplayableEffect> {
        let mut fx = Vec::new();
        replayable.on_time(Nanos(now), &three(), &mut fx);
        fx
    }

    #[test]
    fn a_closed_scn_counts_when_the_log_has_the_position() {
        let mut claims = Claims::default();
        claims.offer(at(10, 64));
        assert_eq!((claims.count(Lsn(56)), claims.is_waiting()), (Closed::default(), true));
        claims.offer(at(20, 128));
        claims.offer(at(15, 200));
        assert_eq!(claims.count(Lsn(64)), at(10, 64));
        assert_eq!(claims.count(Lsn(512)), at(20, 128));
        claims.offer(at(30, 128));
        assert_eq!(claims.count(Lsn(512)), at(30, 128), "an idle stream is closed further");
        assert!(!claims.is_waiting());
    }

    /// A standby that is held back knows what is closed where it stops, after it heard of more.
    #[test]
    fn less_that_counts_sooner_is_not_held_up_by_more() {
        let mut claims = Claims::default();
        claims.offer(at(50, 512));
        claims.offer(at(30, 128));
        claims.offer(at(20, 128));
        claims.offer(at(40, 600));
        assert_eq!(claims.count(Lsn(128)), at(30, 128));
        claims.offer(at(10, 128));
        assert_eq!(claims.count(Lsn(256)), at(30, 128), "a closed SCN goes up");
        assert_eq!(claims.count(Lsn(512)), at(50, 512));
    }

    #[test]
    fn a_log_that_never_catches_up_with_what_is_said_counts_what_it_has() {
        let mut claims = Claims::default();
        let mut last = 0;
        for round in 1..1000 {
            claims.offer(at(round, round * 8));
            let counted = claims.count(Lsn(round.saturating_sub(40) * 8));
            assert!(counted.scn >= last && counted.scn + 80 > round, "{counted:?} in {round}");
            last = counted.scn;
        }
        assert_eq!(claims.count(Lsn(8000)), at(999, 7992));
    }

    #[test]
    fn what_a_majority_holds_is_shown_and_nothing_more() {
        let mut one = Replayable::new(key(1));
        one.on_link_up(key(2));
        one.on_link_up(key(3));
        one.on_complete(7);
        assert_eq!(due(&mut one, 1), [ReplayableEffect::Log { scn: 7 }]);
        assert_eq!((due(&mut one, 2), one.held()), (Vec::new(), 0), "in the log is not durable");
        one.on_durable(7);
        let say = |to| ReplayableEffect::Say { to, complete: Complete { scn: 7 } };
        assert_eq!((due(&mut one, 3), one.held()), (vec![say(2), say(3)], 0), "one disk of three");
        // Another disk of the node is another member.
        one.on_said(NodeKey { node: 2, incarnation: 1 }, Complete { scn: 9 });
        assert_eq!((due(&mut one, 4), one.held()), (Vec::new(), 0));
        one.on_said(key(2), Complete { scn: 6 });
        assert_eq!((due(&mut one, 5), one.held()), (Vec::new(), 6));
        one.on_link_down(2);
        assert_eq!((due(&mut one, 6), one.held()), (Vec::new(), 6), "it stays true");
        one.on_link_up(key(2));
        assert_eq!(due(&mut one, 7), [say(2)], "it may have lost the word");
        assert_eq!(one.next_deadline(), None, "quiet");
    }

    #[test]
    fn who_hears_of_it_holds_it_too_and_one_record_goes_for_a_while() {
        let mut one = Replayable::new(key(1));
        one.on_link_up(key(2));
        one.on_said(key(2), Complete { scn: 50 });
        assert_eq!(due(&mut one, 1), [ReplayableEffect::Log { scn: 50 }]);
        one.on_durable(50);
        assert_eq!((due(&mut one, 2).len(), one.held()), (1, 50));
        one.on_complete(60);
        assert_eq!(due(&mut one, 3), []);
        assert_eq!(one.next_deadline(), Some(Nanos(1 + REPLAYABLE_NS)));
        assert_eq!(due(&mut one, 1 + REPLAYABLE_NS), [ReplayableEffect::Log { scn: 60 }]);
        let mut again = Replayable::new(key(1));
        again.on_replayed(60);
        assert_eq!((again.logged(), due(&mut again, 1), again.held()), (60, Vec::new(), 0));
    }

    #[test]
    fn a_word_without_room_is_said_again() {
        let mut one = Replayable::new(key(1));
        one.on_replayed(5);
        one.on_link_up(key(2));
        assert_eq!(due(&mut one, 1).len(), 1);
        one.on_lost(2, Nanos(1));
        assert_eq!(
            (due(&mut one, 2), one.next_deadline()),
            (Vec::new(), Some(Nanos(1 + AGAIN_NS)))
        );
        assert_eq!(due(&mut one, 1 + AGAIN_NS).len(), 1);
        let mut bytes = Vec::new();
        Complete { scn: 5 }.encode_into(&mut bytes);
        assert_eq!(Complete::decode(&bytes), Ok(Complete { scn: 5 }));
        assert!(Complete::decode(&bytes[1..]).is_err() && Complete::decode(&[255; 8]).is_err());
    }
}
