//! What must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use palisade_wal::{Ballot, Boundary, GroupHeader, Lsn};

use super::super::Closed;
use super::node::{Node, Record, takeover_of};
use crate::seeded::is_seeded;

#[derive(Default)]
pub(super) struct Oracle {
    /// End and chain of the committed group at each position, and the lowest ballot under which
    /// it was seen to be committed.
    committed: BTreeMap<Lsn, (Boundary, Ballot)>,
    takeovers: BTreeMap<Ballot, Boundary>,
    led: BTreeSet<Ballot>,
    /// Takeovers logged.
    pub(super) elections: u64,
    /// What was said to be closed: no group from the position on has the SCN or a lower one.
    closed: BTreeMap<Lsn, u64>,
    scns: BTreeMap<Lsn, u64>,
    /// What each node once had durable under each ballot.
    durable: BTreeMap<(u32, Ballot), Lsn>,
    /// Highest position that anybody has called committed.
    said: Lsn,
}

impl Oracle {
    pub(super) fn committed_end(&self) -> Lsn {
        self.committed.last_key_value().map_or(Lsn::ZERO, |(_, (end, _))| end.lsn)
    }

    pub(super) fn on_durable(&mut self, node: u32, record: &Record) {
        let (ballot, upto) = match record {
            Record::Group { header, ballot, staged: false } => (*ballot, header.end()),
            Record::State(state) if takeover_of(state).is_some() => (state.ballot, state.lsn),
            _ => return,
        };
        let known = self.durable.entry((node, ballot)).or_default();
        *known = upto.max(*known);
    }

    /// A ballot names one log.
    pub(super) fn on_takeover(&mut self, ballot: Ballot, end: Boundary) {
        self.elections += 1;
        if is_seeded("accepting_raised_by_fetch") {
            return; // It would be found by its own record, before it does harm.
        }
        let first = *self.takeovers.entry(ballot).or_insert(end);
        assert_eq!(first, end, "two takeovers under {ballot}");
    }

    /// A ballot is led once, by a log that has everything committed under lower ones. (A leader
    /// whose disk was slow may begin when a higher ballot is led already. It commits nothing.)
    pub(super) fn on_leading(&mut self, ballot: Ballot, node: &Node) {
        assert!(self.led.insert(ballot), "{ballot} is led twice");
        let log = node.replica.as_ref().unwrap().log();
        let earlier = self.committed.values().filter(|(_, under)| *under < ballot);
        let upto = earlier.map(|(end, _)| end.lsn).max().unwrap_or_default();
        assert!(log.end().lsn >= upto, "{ballot} lacks committed groups");
        // It was whole at its Takeover. What it lost since it can repair.
        for header in node.groups_of(log).iter().filter(|group| group.end() <= upto) {
            self.check(header);
        }
    }

    /// A leader says what is closed.
    pub(super) fn on_closed(&mut self, closed: Closed) {
        assert!(closed.end <= self.said, "closed above what is committed");
        let above = self.scns.range(closed.end..).find(|(_, scn)| **scn <= closed.scn);
        assert!(above.is_none(), "{closed:?}, but {above:?} is committed");
        let known = self.closed.entry(closed.end).or_default();
        *known = closed.scn.max(*known);
    }

    /// Highest SCN that is closed.
    pub(super) fn closed(&self) -> u64 {
        self.closed.values().copied().max().unwrap_or(0)
    }

    /// Highest SCN that is committed.
    pub(super) fn last_scn(&self) -> u64 {
        self.scns.values().copied().max().unwrap_or(0)
    }

    fn check_closed(&mut self, header: &GroupHeader) {
        let (lsn, scn) = (header.lsn(), header.scn.get());
        if self.scns.insert(lsn, scn) == Some(scn) {
            return;
        }
        let broken = self.closed.range(..=lsn).find(|(_, closed)| **closed >= scn);
        assert!(broken.is_none(), "{scn} is committed at {lsn}, but {broken:?} was closed");
    }

    fn check(&self, header: &GroupHeader) {
        let end = Boundary { lsn: header.end(), chain: header.chain.get() };
        let known = self.committed.get(&header.lsn());
        assert!(known.is_none_or(|(k, _)| *k == end), "two values committed at {}", header.lsn());
    }

    pub(super) fn on_committed(&mut self, node: &Node, leads: Option<Ballot>, upto: Lsn) {
        let under = node.replica.as_ref().unwrap().log().accepting();
        let log = node.replica.as_ref().unwrap().log();
        // Some of the groups below may be lost there.
        self.said = self.said.max(upto);
        let groups = node.groups_of(log);
        for header in groups.into_iter().filter(|group| group.end() <= upto) {
            self.check(&header);
            self.check_closed(&header);
            let end = Boundary { lsn: header.end(), chain: header.chain.get() };
            let known = self.committed.entry(header.lsn()).or_insert((end, under));
            known.1 = known.1.min(under);
        }
        let Some(ballot) = leads else { return };
        let holds = |n: u32| self.durable.get(&(n, ballot)).is_some_and(|&held| held >= upto);
        let members = &node.first.members;
        let held = members.iter().filter(|m| holds(m.node)).count();
        assert!(held >= node.first.majority(), "{upto} committed by {held} under {ballot}");
    }
}
