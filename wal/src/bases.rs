//! Bases above the committed position. The chain at the end of one is that of the bytes it stands
//! for: a log that has those bytes, or another base there, ends with the same. So where two logs
//! are compared by position and chain, nothing is known of what stands in a base.

use crate::log::{Boundary, StreamLog};
use crate::lsn::{Ballot, Lsn};

/// Their starts and ends, in order. Few logs have any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bases(Option<Box<Ranges>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(Lsn, Lsn)>);

impl Bases {
    pub(crate) fn insert(&mut self, start: Lsn, end: Lsn) {
        assert!(start < end, "a base takes positions");
        let ranges = &mut self.0.get_or_insert_default().0;
        let at = ranges.partition_point(|known| *known < (start, end));
        if ranges.get(at) != Some(&(start, end)) {
            ranges.insert(at, (start, end));
        }
        assert!(ranges.is_sorted(), "in the order of the log");
        assert!(ranges[at] == (start, end), "it is known where it stands");
    }

    /// Those that begin in `[from, upto)`.
    pub(crate) fn within(&self, from: Lsn, upto: Lsn) -> impl Iterator<Item = (Lsn, Lsn)> {
        assert!(self.0.as_ref().is_none_or(|known| known.0.is_sorted()), "in order");
        let ranges = self.0.iter().flat_map(|ranges| ranges.0.iter().copied());
        ranges.filter(move |(start, _)| (from..upto).contains(start))
    }

    pub(crate) fn void_above(&mut self, from: Lsn) {
        self.retain(|(start, _)| start < from);
        assert!(self.within(from, Lsn::MAX).next().is_none(), "one is void");
    }

    pub(crate) fn commit(&mut self, upto: Lsn) {
        self.retain(|(_, end)| end > upto);
        assert!(self.within(Lsn::ZERO, Lsn::MAX).all(|(_, end)| end > upto), "it is committed");
    }

    fn retain(&mut self, keep: impl Fn((Lsn, Lsn)) -> bool) {
        let Some(ranges) = &mut self.0 else { return };
        assert!(!ranges.0.is_empty(), "nothing is no box");
        ranges.0.retain(|range| keep(*range));
        if ranges.0.is_empty() {
            self.0 = None;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        assert!(self.0.as_ref().is_none_or(|ranges| !ranges.0.is_empty()), "nothing is no box");
        self.0.is_none()
    }
}

impl StreamLog {
    /// The group from `start` on that was logged last is a base.
    pub fn mark_base(&mut self, start: Lsn) {
        let end = self.end().lsn;
        assert!(self.find(start).is_some(), "a base that was not logged");
        assert!(self.committed().lsn <= start, "it is not committed before it is logged");
        self.bases.insert(start, end);
        assert!(self.has_open_base(), "it is not committed");
    }

    /// The group from `start` on that was staged last is a base.
    pub fn mark_staged_base(&mut self, start: Lsn) {
        let staged = self.staged.as_mut().expect("a base that was not staged");
        let end = staged.end();
        assert!(start < end, "a base takes positions");
        staged.bases.insert(start, end);
        staged.assert_invariants();
        assert!(!staged.bases.is_empty(), "it is known when it is taken over");
    }

    /// Whether a base is not committed.
    pub fn has_open_base(&self) -> bool {
        let committed = self.committed().lsn;
        let open = self.bases.within(committed, Lsn::MAX).next().is_some();
        assert!(open != self.bases.is_empty(), "a base that is committed is not open");
        open
    }

    /// Up to where the log has every byte above the committed position, and its chain tells which
    /// those are: below the first hole and the first base.
    pub fn proven(&self) -> Boundary {
        let (committed, held) = (self.committed().lsn, self.held());
        let Some((lsn, _)) = self.bases.within(committed, held.lsn).next() else { return held };
        let chain = self.chain_at(lsn).expect("a base begins where a group ends");
        assert!(committed <= lsn && lsn < held.lsn, "a base of the open part");
        assert!(self.has_open_base(), "something is not proven");
        Boundary { lsn, chain }
    }

    /// Whether a takeover of another log, which may be logged, keeps nothing of this one that the
    /// chain at its end does not prove: no hole and no base above the committed position.
    pub fn is_proven_for(&self, ballot: Ballot, end: Boundary) -> bool {
        let (committed, void) = (self.committed().lsn, self.void_from(ballot, end));
        assert!(void >= self.base().lsn, "the base is never voided");
        self.is_held_for(ballot, end) && self.bases.within(committed, void).next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::CHAIN_START;
    use crate::segment::Place;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: 1, incarnation: 1 }
    }

    fn at(lsn: u64, chain: u64) -> Boundary {
        Boundary { lsn: Lsn(lsn), chain }
    }

    fn place(block: u64) -> Place {
        Place { segment: 1, offset: block * 4096, block, len: 4096 }
    }

    /// A group up to 800, which is committed, another up to 1600, and a base up to 8000.
    fn based() -> StreamLog {
        let mut log = StreamLog::default();
        log.promise(ballot(1));
        log.take_over(ballot(1), at(0, CHAIN_START)).unwrap();
        log.append(Lsn(0), at(800, 11), ballot(1), 1, place(1));
        log.append(Lsn(800), at(1600, 12), ballot(1), 2, place(2));
        log.append(Lsn(1600), at(8000, 13), ballot(1), 3, place(3));
        log.mark_base(Lsn(1600));
        log.commit(Lsn(800));
        log
    }

    #[test]
    fn an_open_base_proves_nothing_until_it_is_committed() {
        let mut log = based();
        assert_eq!((log.held(), log.proven()), (at(8000, 13), at(1600, 12)));
        assert!(log.is_held_for(ballot(2), at(8000, 13)));
        assert!(!log.is_proven_for(ballot(2), at(8000, 13)), "another log may end so too");
        assert!(log.is_proven_for(ballot(2), at(1600, 12)), "the base is void then");
        assert!(log.has_open_base() && log.image(0).is_none());
        log.commit(Lsn(8000));
        assert!(!log.has_open_base());
        assert_eq!(log.proven(), at(8000, 13));
        assert!(log.image(0).is_some());
    }

    #[test]
    fn a_takeover_voids_a_base_and_brings_the_one_that_was_staged() {
        let mut log = based();
        log.stage(Lsn(1600), at(8000, 13), ballot(2), 4, place(4));
        log.mark_staged_base(Lsn(1600));
        assert!(log.is_proven_for(ballot(2), at(8000, 13)), "all that is open is replaced");
        assert_eq!(log.find(Lsn(1600)).unwrap().place, place(3), "until then it stays");
        log.take_over(ballot(2), at(8000, 13)).unwrap();
        assert_eq!(log.find(Lsn(1600)).unwrap().place, place(4));
        assert_eq!(log.proven(), at(1600, 12), "it is a base again");
        log.stage(Lsn(1600), at(2400, 14), ballot(3), 5, place(5));
        log.stage(Lsn(2400), at(8000, 13), ballot(3), 5, place(6));
        log.take_over(ballot(3), at(8000, 13)).unwrap();
        assert_eq!((log.proven(), log.held()), (at(8000, 13), at(8000, 13)));
        log.take_over(ballot(4), at(1600, 12)).unwrap();
        assert_eq!(log.proven(), at(1600, 12));
    }

    /// What was staged is for the log that was there then.
    #[test]
    fn a_staged_base_joins_the_log_that_it_was_made_for() {
        let mut log = based();
        log.take_over(ballot(2), at(1600, 12)).unwrap();
        log.stage(Lsn(1600), at(8000, 13), ballot(5), 4, place(4));
        log.mark_staged_base(Lsn(1600));
        let mut other = log.clone();
        assert_eq!(log.take_over(ballot(5), at(8000, 13)), Ok(()));
        other.boundaries[0].chain = 99;
        assert!(other.take_over(ballot(5), at(8000, 13)).is_err());
    }
}
