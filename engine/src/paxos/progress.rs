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
        assert!(ballot.is_some() && config.member(ballot.node).is_some());
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
        let known =
            if voter == from.incarnation { &mut member.matched } else { &mut member.shadow };
        *known = Some(known.map_or(upto, |k| k.max(upto)));
    }

    /// The position that a majority holds, once a majority has the Takeover.
    pub(super) fn majority_holds(&self) -> Option<Lsn> {
        let mut held: Vec<Lsn> = self.members.iter().filter_map(|m| m.matched).collect();
        held.sort_unstable();
        let majority = self.members.len() / 2 + 1;
        let at = held.len().checked_sub(majority)?;
        assert!(held[at] >= self.start.lsn);
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
    }
}

impl Progress {
    /// What the member holds, counted or not; `None` without the Takeover.
    pub(super) fn holds(&self) -> Option<Lsn> {
        self.matched.max(self.shadow)
    }
}
