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
    /// SCNs that members hold, from their promises.
    pub(super) scn_floor: u64,
    pub(super) retry_at: Nanos,
    pub(super) transfer: Option<Transfer>,
}

/// Leadership on its way to another node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) successor: u32,
    pub(super) give_up_at: Nanos,
}

/// One member under one ballot.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) node: u32,
    /// Whose Accepted counts: the bound one, or the first that was heard under this ballot.
    voter: Option<u64>,
    /// Durable there under the ballot; `None` before its Takeover is.
    matched: Option<Lsn>,
    /// The same of a disk that does not count.
    shadow: Option<Lsn>,
    /// Commit cursor that was sent last.
    pub(super) told: Lsn,
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
        assert!(
            config.members.iter().filter(|m| m.incarnation.is_some()).count() >= config.majority()
        );
        let progress = |m: &super::member::Member| Progress {
            node: m.node,
            voter: m.incarnation,
            matched: None,
            shadow: None,
            told: Lsn::ZERO,
        };
        Leadership {
            ballot,
            start,
            serving: false,
            members: config.members.iter().map(progress).collect(),
            window: VecDeque::new(),
            scn_floor,
            retry_at,
            transfer: None,
        }
    }

    /// Notes that `from` holds everything below `upto` under this ballot.
    pub(super) fn note(&mut self, from: NodeKey, upto: Lsn) {
        assert!(upto >= self.start.lsn);
        let Some(member) = self.members.iter_mut().find(|m| m.node == from.node) else { return };
        let voter = *member.voter.get_or_insert(from.incarnation);
        assert!(member.matched.is_none_or(|held| held >= self.start.lsn));
        let known =
            if voter == from.incarnation { &mut member.matched } else { &mut member.shadow };
        *known = Some(known.map_or(upto, |k| k.max(upto)));
        assert!(known.is_some_and(|held| held >= upto), "a cumulative position went back");
    }

    /// The position that a majority holds, once a majority has the Takeover.
    pub(super) fn majority_holds(&self) -> Option<Lsn> {
        let mut held: Vec<Lsn> = self.members.iter().filter_map(|m| m.matched).collect();
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
        }
        assert!(self.window.front().is_none_or(|&end| end > committed));
        assert!(self.serving || self.window.is_empty(), "a group before its Takeover is agreed");
    }

    /// A group ends at `end`, the one before it at `start`.
    pub(super) fn push(&mut self, start: Lsn, end: Lsn) {
        assert!(start < end, "a group without bytes");
        assert!(self.window.back().is_none_or(|&last| last == start), "a hole in the window");
        assert!(self.window.is_empty() || self.serving);
        self.window.push_back(end);
    }

    /// What is known of the members fits the log that they were counted for.
    pub(super) fn assert_members(&self, config: &Config, committed: Lsn, end: Lsn) {
        assert!(self.members.len() == config.members.len(), "counts in other members");
        assert!(self.members.iter().zip(&config.members).all(|(p, m)| p.node == m.node));
        for member in &self.members {
            let held = [member.matched, member.shadow];
            let fits = |held: &Lsn| (self.start.lsn..=end).contains(held);
            assert!(held.iter().flatten().all(fits), "holds what this ballot does not have");
            assert!(member.told <= committed, "was told of a commit that is none");
            assert!(member.matched.is_none() || member.voter.is_some(), "counted for no disk");
        }
        let hold = |upto: Lsn| self.members.iter().filter(|m| m.matched >= Some(upto)).count();
        assert!(self.serving == (hold(self.start.lsn) >= config.majority()));
        assert!(!self.serving || hold(committed) >= config.majority(), "a minority committed");
    }
}

impl Progress {
    /// What the member holds, counted or not; `None` without the Takeover.
    pub(super) fn holds(&self) -> Option<Lsn> {
        let most = self.matched.max(self.shadow);
        assert!(most.is_none() || self.voter.is_some(), "its first Accepted named a disk");
        most
    }
}
