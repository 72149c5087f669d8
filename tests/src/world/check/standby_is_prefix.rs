//! What is committed anywhere is a prefix of what primaries committed: the same chain at the same
//! group ends, and never more. A standby's log holds no more than that either, committed there or
//! not: only committed groups leave a cluster. The role may go from cluster to cluster: what two
//! of them commit as primaries is one log.
//!
//! The chain at the end of a group stands for all bytes below it. Every log of a primary is looked
//! at while its groups are not committed yet, so that the ends in between are known too when a
//! commit covers several.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use palisade_wal::{Boundary, CHAIN_START, Lsn, StreamLog};

use super::{Fork, Seat, Violation};

const NAME: &str = "standby_is_prefix";
const START: Boundary = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };

#[derive(Default)]
struct Stream {
    /// Group ends in any log of a primary, each with the end before it, and whose it was.
    logged: BTreeMap<(Lsn, u64), (Boundary, usize)>,
    /// Chains at the group ends that a primary committed.
    committed: BTreeMap<Lsn, u64>,
}

/// Group ends of each stream of the primary, and the log ends of the replicas of standbys.
#[derive(Default)]
pub(super) struct StandbyIsPrefix {
    streams: BTreeMap<u64, Stream>,
    ends: BTreeMap<(usize, u64), Boundary>,
}

impl StandbyIsPrefix {
    /// Looks at a log after a turn.
    pub(super) fn on_turn(
        &mut self,
        seat: Seat,
        acts: bool,
        log: &StreamLog,
    ) -> Result<(), Violation> {
        if !acts {
            return self.on_standby(seat, log.end());
        }
        let stream = self.streams.entry(seat.stream).or_default();
        let mut ends = log.boundaries().rev().peekable();
        while let (Some(end), Some(before)) = (ends.next(), ends.peek()) {
            // What a hole held has ends of its own.
            if log.hole_at(before.lsn).is_some() {
                continue;
            }
            // Who logged it first wrote it: the next primary has it from there.
            match stream.logged.entry((end.lsn, end.chain)) {
                Entry::Occupied(_) => break,
                Entry::Vacant(entry) => entry.insert((*before, seat.cluster)),
            };
        }
        Ok(())
    }

    /// What the lost primary committed above a fork is no prefix of anything.
    pub(super) fn on_fork(&mut self, fork: Fork) {
        let Some(stream) = self.streams.get_mut(&fork.stream) else { return };
        stream.committed.retain(|lsn, _| *lsn <= fork.at);
        stream.logged.retain(|(lsn, _), (_, by)| *lsn <= fork.at || *by != fork.lost);
    }

    /// Streams that a primary has, but the system stream.
    pub(super) fn streams(&self) -> Vec<u64> {
        self.streams.keys().copied().filter(|stream| *stream > 0).collect()
    }

    fn on_standby(&mut self, seat: Seat, end: Boundary) -> Result<(), Violation> {
        let known = self.ends.insert((seat.node, seat.stream), end);
        if known == Some(end) || end == START || self.is_own(seat, end) {
            return Ok(());
        }
        self.check(seat, end, "has a log")
    }

    /// Whether a leader of the same cluster logged it as a primary: a follower need not have heard
    /// that its cluster is one, or was one until now.
    pub(super) fn is_own(&self, seat: Seat, end: Boundary) -> bool {
        let logged = self.streams.get(&seat.stream).map(|stream| &stream.logged);
        let by = logged.and_then(|logged| logged.get(&(end.lsn, end.chain)));
        by.is_some_and(|(_, cluster)| *cluster == seat.cluster)
    }

    /// Whether a leader of the same cluster logged a group with this end as a primary.
    pub(super) fn wrote(&self, seat: Seat, end: Lsn) -> bool {
        let logged = self.streams.get(&seat.stream).map(|stream| &stream.logged);
        let mut at_end = logged.into_iter().flat_map(|it| it.range((end, 0)..=(end, u64::MAX)));
        at_end.any(|(_, (_, cluster))| *cluster == seat.cluster)
    }

    /// Looks at a committed end that moved; `own`: of a group of the same cluster.
    pub(super) fn on_committed(
        &mut self,
        seat: Seat,
        own: bool,
        at: Boundary,
    ) -> Result<(), Violation> {
        if own {
            self.streams.entry(seat.stream).or_default().commit(at);
        }
        self.check(seat, at, "committed")
    }

    fn check(&self, seat: Seat, at: Boundary, what: &str) -> Result<(), Violation> {
        if seat.stream == 0 {
            // The system stream is each cluster's own.
            return Ok(());
        }
        let none = Stream::default();
        let stream = self.streams.get(&seat.stream).unwrap_or(&none);
        let known = stream.committed.get(&at.lsn);
        if known == Some(&at.chain) {
            return Ok(());
        }
        let highest = stream.committed.last_key_value().map_or(Lsn::ZERO, |(lsn, _)| *lsn);
        let why = match known {
            Some(_) => "another one than the primary committed".to_string(),
            None if at.lsn > highest => format!("above {highest}, all that the primary committed"),
            None => "where no committed group of a primary ends".to_string(),
        };
        Err(Violation::new(NAME, format!("{seat} {what} up to {}, {why}", at.lsn)))
    }
}

impl Stream {
    /// Everything up to a group end is committed by the primary cluster.
    fn commit(&mut self, at: Boundary) {
        let mut end = at;
        while end != START && !self.committed.contains_key(&end.lsn) {
            self.committed.insert(end.lsn, end.chain);
            let Some(before) = self.logged.get(&(end.lsn, end.chain)) else { return };
            end = before.0;
        }
    }
}
