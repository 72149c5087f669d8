//! What a leader knows of its members.

use std::collections::VecDeque;

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Boundary, Lsn};

use super::member::{Config, NodeKey};

/// One ballot that this node leads, from its Takeover on.
#[derive(Debug)]
pub(super) struct Leadership {
    pub(super) ballot: Ballot,
    /// End of the Takeover: all below is from before.
    pub(super) start: Boundary,
    /// The Takeover is on a majority.
    pub(super) serving: bool,
    pub(super) members: Vec<Progress>,
    /// Ends of own groups above the committed position.
    pub(super) window: VecDeque<Lsn>,
    /// Their SCNs.
    pub(super) scns: VecDeque<u64>,
    /// SCNs that members hold, from their promises.
    pub(super) scn_floor: u64,
    pub(super) retry_at: Nanos,
    pub(super) transfer: Option<Transfer>,
    /// What all members hold, as the others were told.
    pub(super) held_told: Lsn,
}

/// Leadership on its way to another node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) successor: u32,
    /// An operator chose it.
    pub(super) appointed: bool,
    pub(super) give_up_at: Nanos,
}

/// One member under one ballot.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) node: u32,
    /// The disk whose Accepted counts; until a Config binds the member, none does.
    bound: Option<u64>,
    /// What is durable there; `None` before its Takeover is.
    matched: Option<Held>,
    /// The same of a disk that does not count, and which one that is.
    shadow: Option<(u64, Held)>,
    /// Commit cursor that was sent last.
    pub(super) told: Lsn,
    /// Commit cursor that it answered with last; a node that starts again may know less.
    pub(super) knows: Lsn,
    /// Its disk knows that everything below is committed, as far as it said under this ballot.
    low: Lsn,
}

/// What a disk holds under one ballot.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Every group below.
    upto: Lsn,
    /// The config with this number.
    seq: u64,
}

impl Held {
    fn max(self, other: Held) -> Held {
        Held { upto: self.upto.max(other.upto), seq: self.seq.max(other.seq) }
    }
}

impl Leadership {
    pub(super) fn new(
        ballot: Ballot,
        start: Boundary,
        config: &Config,
        scn_floor: u64,
        retry_at: Nanos,
    ) -> Leadership {
        assert!(ballot.is_some() && config.ballot == ballot, "members of another ballot");
        let leader = config.member(ballot.node).and_then(|m| m.incarnation);
        assert!(leader == Some(ballot.incarnation), "its own promise bound it");
        assert!(config.is_bound(), "its promise majority is bound");
        let progress = |m: &super::member::Member| Progress {
            node: m.node,
            bound: m.incarnation,
            matched: None,
            shadow: None,
            told: Lsn::ZERO,
            knows: Lsn::ZERO,
            low: Lsn::ZERO,
        };
        Leadership {
            ballot,
            start,
            serving: false,
            members: config.members.iter().map(progress).collect(),
            window: VecDeque::new(),
            scns: VecDeque::new(),
            scn_floor,
            retry_at,
            transfer: None,
            held_told: Lsn::ZERO,
        }
    }

    /// Notes that `from` holds everything below `upto` under this ballot, and its config `seq`.
    pub(super) fn note(&mut self, from: NodeKey, upto: Lsn, seq: u64) {
        assert!(upto >= self.start.lsn);
        let Some(member) = self.members.iter_mut().find(|m| m.node == from.node) else { return };
        assert!(member.matched.is_none_or(|held| held.upto >= self.start.lsn));
        let held = Held { upto, seq };
        if member.bound == Some(from.incarnation) {
            let known = member.matched.map_or(held, |known| known.max(held));
            assert!(known.upto >= upto && known.seq >= seq, "what is held stays held");
            member.matched = Some(known);
            return;
        }
        let known = member.shadow.filter(|(disk, _)| *disk == from.incarnation);
        member.shadow = Some((from.incarnation, known.map_or(held, |(_, k)| k.max(held))));
    }

    /// Notes the commit cursor that a member answered with.
    pub(super) fn note_committed(&mut self, node: u32, committed: Lsn) {
        if let Some(member) = self.members.iter_mut().find(|m| m.node == node) {
            member.knows = committed;
        }
    }

    /// Notes what the disk that counts knows to be committed.
    pub(super) fn note_low(&mut self, node: u32, incarnation: u64, low: Lsn) {
        let bound = |m: &&mut Progress| m.node == node && m.bound == Some(incarnation);
        if let Some(member) = self.members.iter_mut().find(bound) {
            assert!(member.matched.is_some(), "it accepted before");
            assert!(node != self.ballot.node, "what a leader knows is not told to it");
            member.low = low;
        }
    }

    /// The lowest of what the disks know; `low` is that of `me`.
    pub(super) fn lowest(&self, me: u32, low: Lsn) -> Lsn {
        assert!(self.members.iter().any(|m| m.node == me), "a leader is a member");
        let lows = self.members.iter().map(|m| if m.node == me { low } else { m.low });
        lows.min().unwrap_or_default()
    }

    /// A disk that has the Takeover, of a member that is not bound.
    pub(super) fn unbound(&self) -> Option<NodeKey> {
        let mut unbound = self.members.iter().filter(|m| m.bound.is_none());
        assert!(unbound.clone().all(|m| m.matched.is_none()), "counted for no disk");
        unbound.find_map(|m| m.shadow.map(|(incarnation, _)| NodeKey { node: m.node, incarnation }))
    }

    /// Counts what `disk` holds from now on.
    pub(super) fn bind(&mut self, disk: NodeKey) {
        let member = self.members.iter_mut().find(|m| m.node == disk.node).expect("a member");
        assert!(member.bound.is_none() && member.matched.is_none(), "bound twice");
        assert!(self.serving, "a change of members before the Takeover is on a majority");
        member.bound = Some(disk.incarnation);
        member.matched = member.shadow.take().map(|(_, held)| held);
        assert!(member.matched.is_some(), "bound to a disk that was not heard");
    }

    /// Whether a majority holds the config `seq`.
    pub(super) fn is_agreed(&self, seq: u64) -> bool {
        let holds = |m: &&Progress| m.matched.is_some_and(|held| held.seq >= seq);
        self.members.iter().filter(holds).count() > self.members.len() / 2
    }

    /// The position that a majority holds, once a majority has the Takeover.
    pub(super) fn majority_holds(&self) -> Option<Lsn> {
        let matched = self.members.iter().filter_map(|m| m.matched);
        let mut held: Vec<Lsn> = matched.map(|held| held.upto).collect();
        held.sort_unstable();
        let majority = self.members.len() / 2 + 1;
        assert!(held.len() <= self.members.len(), "a member counts once");
        let at = held.len().checked_sub(majority)?;
        assert!(held[at] >= self.start.lsn, "no Takeover there");
        assert!(held[at..].len() == majority, "less than a majority holds it");
        Some(held[at])
    }

    pub(super) fn member(&self, node: u32) -> Option<&Progress> {
        self.members.iter().find(|m| m.node == node)
    }

    /// Forgets own groups that are committed now.
    pub(super) fn slide(&mut self, committed: Lsn) {
        while self.window.front().is_some_and(|&end| end <= committed) {
            self.window.pop_front();
            self.scns.pop_front();
        }
        assert!(self.window.len() == self.scns.len(), "a group has an SCN");
        assert!(!self.serving || committed >= self.start.lsn, "serves what is not agreed");
        assert!(self.window.front().is_none_or(|&end| end > committed));
        assert!(self.serving || self.window.is_empty(), "a group before its Takeover is agreed");
    }

    /// A group ends at `end`, the one before it at `start`.
    pub(super) fn push(&mut self, start: Lsn, end: Lsn, scn: u64) {
        assert!(start < end, "a group without bytes");
        assert!(self.window.back().is_none_or(|&last| last == start), "a hole in the window");
        assert!(self.window.is_empty() || self.serving);
        self.window.push_back(end);
        self.scns.push_back(scn);
    }

    /// What is known of the members fits the log that they were counted for.
    pub(super) fn assert_members(&self, config: &Config, committed: Lsn, end: Lsn) {
        assert!(self.members.len() == config.members.len(), "counts in other members");
        assert!(self.members.iter().zip(&config.members).all(|(p, m)| p.node == m.node));
        for (member, known) in self.members.iter().zip(&config.members) {
            let held = [member.matched, member.shadow.map(|(_, held)| held)];
            let fits =
                |held: &Held| (self.start.lsn..=end).contains(&held.upto) && held.seq <= config.seq;
            assert!(held.iter().flatten().all(fits), "holds what this ballot does not have");
            assert!(member.told <= committed, "was told of a commit that is none");
            assert!(member.low <= committed, "its disk knows of a commit that is none");
            assert!(member.bound == known.incarnation, "counts another disk than the bound one");
            assert!(member.matched.is_none() || member.bound.is_some(), "counted for no disk");
        }
        let matched = |m: &Progress| m.matched.map(|held| held.upto);
        let hold = |upto: Lsn| self.members.iter().filter(|m| matched(m) >= Some(upto)).count();
        assert!(self.serving == (hold(self.start.lsn) >= config.majority()));
        assert!(!self.serving || hold(committed) >= config.majority(), "a minority committed");
    }
}

impl Progress {
    /// What the member holds, counted or not; `None` without the Takeover.
    fn most(&self) -> Option<Held> {
        let shadow = self.shadow.map(|(_, held)| held);
        assert!(self.matched.is_none() || self.bound.is_some(), "counted for no disk");
        let counts = self.shadow.is_some_and(|(disk, _)| self.bound == Some(disk));
        assert!(!counts, "what a disk holds counts, or it does not");
        self.matched.into_iter().chain(shadow).reduce(Held::max)
    }

    /// Up to where the member has the log, counted or not; `None` without the Takeover.
    pub(super) fn holds(&self) -> Option<Lsn> {
        self.most().map(|held| held.upto)
    }

    /// Whether the member has the config `seq`, counted or not.
    pub(super) fn has_config(&self, seq: u64) -> bool {
        self.most().is_some_and(|held| held.seq >= seq)
    }
}
