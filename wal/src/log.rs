//! What the WAL remembers of one stream: cursors, the chain, and where its bytes stand.
//!
//! A [`StreamLog`] is changed by logged records only, in log order, so that running and recovering
//! are the same code: what `append` builds up while a node runs, replay builds up again.
//!
//! ```text
//!   base <= committed <= end           the log, one value of the chain at each group's end
//!              start <= staged.end     bytes fetched for a takeover; no part of the log yet
//! ```

use std::collections::VecDeque;

use crate::bases::Bases;
use crate::group::CHAIN_START;
use crate::hole::{Hole, Moving};
use crate::limits::HOLES_MAX;
use crate::lsn::{Ballot, Lsn};
use crate::segment::Place;
use crate::starts::Starts;

/// A run of a stream's bytes in one block: its records of this stream and `ballot` whose LSN is
/// in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First position.
    pub start: Lsn,
    /// First position after the run.
    pub end: Lsn,
    /// The block that holds `start`.
    pub place: Place,
    /// Ballot in the record headers of the run.
    pub ballot: Ballot,
    /// Its records are Moved ones: logged again after the first ones were lost.
    pub moved: bool,
}

/// The end of a group and the chain there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// The position.
    pub lsn: Lsn,
    /// The chain at it.
    pub chain: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    ballot: Ballot,
    start: Lsn,
    /// The chain of the log there, which its first group follows.
    after: Option<u64>,
    pub(crate) extents: Vec<Extent>,
    boundaries: Vec<Boundary>,
    pub(crate) bases: Bases,
}

/// Why a takeover cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeoverRefusal {
    /// Bytes below its end are missing.
    #[error("the log ends at {have}, the takeover at {want}")]
    Missing {
        /// End of what is there.
        have: Lsn,
        /// End of the takeover.
        want: Lsn,
    },
    /// The bytes there are others.
    #[error("the log does not match the takeover at {at}")]
    Mismatch {
        /// End of the takeover.
        at: Lsn,
    },
    /// It would void committed bytes.
    #[error("the takeover ends at {want}, below the committed {committed}")]
    BelowCommitted {
        /// Known committed.
        committed: Lsn,
        /// End of the takeover.
        want: Lsn,
    },
}

/// One stream as its WAL records tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLog {
    pub(crate) base: Boundary,
    pub(crate) committed: Boundary,
    /// Ends of groups above `committed`, the last one being the end of the log.
    pub(crate) boundaries: VecDeque<Boundary>,
    pub(crate) extents: VecDeque<Extent>,
    /// The next group starts an extent of its own (something was voided before it).
    pub(crate) split: bool,
    pub(crate) staged: Option<Box<Staged>>,
    pub(crate) promised: Ballot,
    pub(crate) accepting: Ballot,
    pub(crate) unknown: bool,
    /// Something was lost to corruption at some time.
    pub(crate) lossy: bool,
    /// Promises may be among what was lost since the last takeover.
    pub(crate) hard_state_lost: bool,
    /// In order; none touches another.
    pub(crate) holes: Vec<Hole>,
    /// Of the holes some are what an image did not tell: records that follow do.
    pub(crate) dangling: bool,
    pub(crate) moving: Option<Box<Moving>>,
    pub(crate) last_scn: u64,
    pub(crate) starts: Starts,
    pub(crate) bases: Bases,
}

impl Default for StreamLog {
    fn default() -> StreamLog {
        StreamLog::starting_at(Boundary { lsn: Lsn::ZERO, chain: CHAIN_START })
    }
}

impl StreamLog {
    /// An empty log whose first group will stand at `base`.
    pub fn starting_at(base: Boundary) -> StreamLog {
        assert!(base.lsn.0.is_multiple_of(Lsn::ALIGN), "a log starts at {}", base.lsn);
        StreamLog {
            base,
            committed: base,
            boundaries: VecDeque::new(),
            extents: VecDeque::new(),
            split: false,
            staged: None,
            promised: Ballot::NONE,
            accepting: Ballot::NONE,
            unknown: false,
            lossy: false,
            hard_state_lost: false,
            holes: Vec::new(),
            dangling: false,
            moving: None,
            last_scn: 0,
            starts: Starts::default(),
            bases: Bases::default(),
        }
    }

    /// What holds between two records. Nothing here depends on what a peer or a disk says: it is
    /// how the parts of this struct belong together.
    pub(crate) fn assert_invariants(&self) {
        let (base, committed, end) = (self.base.lsn, self.committed.lsn, self.end().lsn);
        assert!(base <= committed, "base {base} is after committed {committed}");
        assert!(committed <= end, "committed {committed} is after the end {end}");
        assert!(committed > base || self.committed == self.base, "one chain at one position");
        let above = self.boundaries.front();
        assert!(
            above.is_none_or(|first| first.lsn > committed),
            "boundaries stand above committed"
        );
        assert!(above.is_none_or(|first| first.lsn <= end), "boundaries go up");
        assert!(self.accepting <= self.promised, "what is accepted was promised");
        let lost = self.unknown || self.hard_state_lost;
        assert!(!lost || self.lossy, "a tail is unknown after a loss only");
        assert!(self.extents.is_empty() || end > base, "an empty log has no runs");
        let (run, hole) = (self.extents.back(), self.holes.last());
        let ends = run.map(|run| run.end).max(hole.map(|hole| hole.end));
        assert!(ends.is_none_or(|ends| ends == end), "the runs end where the log ends");
        assert!(run.is_none_or(|last| last.start < last.end), "a run holds bytes");
        assert!(hole.is_none() || self.lossy || self.dangling, "a hole is a loss");
        assert!(hole.is_none_or(|last| last.start < last.end), "a hole is a range");
        assert!(self.holes.len() <= HOLES_MAX, "holes are bounded");
        let (run, hole) = (self.extents.front(), self.holes.first());
        let starts = run.map(|run| run.start).into_iter().chain(hole.map(|hole| hole.start)).min();
        assert!(starts.is_none_or(|starts| starts == base), "the runs begin where the log begins");
        let mut bases = self.bases.within(Lsn::ZERO, Lsn::MAX);
        assert!(bases.all(|(start, upto)| committed <= start && start < upto), "bases are open");
        if let Some(staged) = &self.staged {
            staged.assert_invariants();
        }
        if let Some(moving) = &self.moving {
            moving.assert_invariants(base);
        }
    }

    /// Where the log starts on this node.
    pub fn base(&self) -> Boundary {
        self.base
    }

    /// Known committed.
    pub fn committed(&self) -> Boundary {
        self.committed
    }

    /// The end of the log: everything logged here, durable or not.
    pub fn end(&self) -> Boundary {
        self.boundaries.back().copied().unwrap_or(self.committed)
    }

    /// Highest ballot promised.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// Ballot of the last takeover: the one under which the log's bytes count.
    pub fn accepting(&self) -> Ballot {
        self.accepting
    }

    /// Whether bytes or promises may be missing that were there before a corruption. Ends with
    /// the next takeover.
    pub fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// Highest SCN of any group ever logged here, voided and staged ones included, and of those
    /// that a Takeover named.
    pub fn last_scn(&self) -> u64 {
        self.last_scn
    }

    /// The chain at `lsn`, if that is a group boundary at or above the committed one.
    pub fn chain_at(&self, lsn: Lsn) -> Option<u64> {
        if lsn == self.committed.lsn {
            return Some(self.committed.chain);
        }
        let at = self.boundaries.binary_search_by_key(&lsn, |b| b.lsn).ok()?;
        assert!(lsn > self.committed.lsn && lsn <= self.end().lsn, "a boundary of the open part");
        Some(self.boundaries[at].chain)
    }

    /// The committed boundary and those above it, in order.
    pub fn boundaries(&self) -> impl DoubleEndedIterator<Item = Boundary> {
        std::iter::once(self.committed).chain(self.boundaries.iter().copied())
    }

    /// The run that holds `lsn`, if it is in the log.
    pub fn find(&self, lsn: Lsn) -> Option<&Extent> {
        let after = self.extents.partition_point(|e| e.start <= lsn);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        assert!(extent.start <= lsn, "runs are in order");
        assert!(extent.end <= self.end().lsn, "no run goes beyond the log");
        (lsn < extent.end).then_some(extent)
    }

    /// Runs of the log, in order.
    pub fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.extents.iter()
    }

    /// A promise was logged.
    pub fn promise(&mut self, ballot: Ballot) {
        assert!(ballot >= self.promised, "promise {ballot} below {}", self.promised);
        self.promised = ballot;
        self.assert_invariants();
    }

    /// A group was logged at the end. `end` carries the chain after it.
    ///
    /// # Panics
    /// When it does not stand at the end of the log or its ballot is not the accepting one.
    pub fn append(&mut self, start: Lsn, end: Boundary, ballot: Ballot, scn: u64, place: Place) {
        assert!(start == self.end().lsn, "group at {start}, log ends at {}", self.end().lsn);
        assert!(end.lsn > start, "group from {start} to {}", end.lsn);
        assert!(ballot == self.accepting, "group of {ballot} under {}", self.accepting);
        assert!(!self.unknown, "a log goes on from where it is known");
        self.push_group(start, end, ballot, scn, place);
    }

    pub(crate) fn push_group(
        &mut self,
        start: Lsn,
        end: Boundary,
        ballot: Ballot,
        scn: u64,
        place: Place,
    ) {
        assert!(place.block > 0, "a group stands in a block");
        let above = self.bases.within(start, Lsn::MAX).next();
        assert!(above.is_none(), "a base above the end of the log");
        let gap = self.holes.last().is_some_and(|hole| hole.end == start);
        let (split, before) = (self.split || gap, self.end());
        push_extent(&mut self.extents, (split, gap), start, end.lsn, ballot, place);
        let begins = self.extents.back().is_some_and(|run| run.start == start);
        if begins && before.lsn == start {
            self.starts.push(before);
        }
        self.split = false;
        self.boundaries.push_back(end);
        // A voided group may have had a higher one; the highest ever seen is the safe floor.
        self.last_scn = self.last_scn.max(scn);
        assert!(self.end() == end, "the group ends the log");
        assert!(self.committed.lsn <= start, "a group is not committed before it is logged");
        self.assert_invariants();
    }

    /// A staged group was logged for the takeover under `ballot`. A run for another ballot, or
    /// one that this group does not continue, is forgotten.
    pub fn stage(&mut self, start: Lsn, end: Boundary, ballot: Ballot, scn: u64, place: Place) {
        assert!(end.lsn > start, "group from {start} to {}", end.lsn);
        assert!(ballot.is_some(), "a takeover has a ballot");
        let (before, after) = (self.end(), self.chain_at(start));
        let continues =
            self.staged.as_ref().is_some_and(|s| s.ballot == ballot && s.end() == start);
        if !continues {
            let (extents, boundaries, bases) = (Vec::new(), Vec::new(), Bases::default());
            let fresh = Staged { ballot, start, after, extents, boundaries, bases };
            self.staged = Some(Box::new(fresh));
        }
        let staged = self.staged.as_mut().expect("set above");
        let extent = Extent { start, end: end.lsn, place, ballot, moved: false };
        match staged.extents.last_mut() {
            Some(last) if joins(last, &extent) => last.end = end.lsn,
            _ => staged.extents.push(extent),
        }
        staged.boundaries.push(end);
        assert!(staged.start <= start, "a run goes up");
        // Its takeover may come or not; a floor too high does no harm.
        self.last_scn = self.last_scn.max(scn);
        assert!(self.end() == before, "what is staged is no part of the log");
        assert!(self.staged_end(ballot) == Some(end), "the staged run ends with its last group");
        self.assert_invariants();
    }

    /// End of the run staged for `ballot`.
    pub fn staged_end(&self, ballot: Ballot) -> Option<Boundary> {
        let staged = self.staged.as_ref().filter(|s| s.ballot == ballot)?;
        let end = staged.boundaries.last().copied();
        assert!(end.is_some_and(|end| end.lsn > staged.start), "a staged run holds groups");
        end
    }

    /// Whether a takeover that ends at `end` could be logged now.
    ///
    /// # Errors
    /// What stands in its way.
    pub fn check_takeover(&self, ballot: Ballot, end: Boundary) -> Result<(), TakeoverRefusal> {
        if end.lsn < self.committed.lsn {
            let committed = self.committed.lsn;
            return Err(TakeoverRefusal::BelowCommitted { committed, want: end.lsn });
        }
        if let Some(staged) = self.staged.as_ref().filter(|s| s.ballot == ballot) {
            let found = staged.boundaries.iter().find(|b| b.lsn == end.lsn);
            // What was staged replaces the log from a group on, and committed bytes only by the
            // same ones. A log that lost records may have other groups there, and then it is not
            // known what stands below.
            let joins = match staged.start < self.committed.lsn {
                true => staged.boundaries.contains(&self.committed),
                false => self.chain_at(staged.start).is_some_and(|chain| {
                    // A base would follow any other as well, as far as the chain tells further up.
                    staged.after.is_none_or(|after| after == chain)
                }),
            };
            let blind = self.cuts_blindly(self.void_from(ballot, end));
            if found.is_some_and(|b| b.chain == end.chain) && joins && !blind {
                return Ok(());
            }
        }
        assert!(end.lsn >= self.committed.lsn, "committed bytes are never voided");
        match self.chain_at(end.lsn) {
            Some(chain) if chain == end.chain => match self.void_from(ballot, end) {
                from if self.cuts_blindly(from) => Err(TakeoverRefusal::Mismatch { at: end.lsn }),
                _ => Ok(()),
            },
            None if end.lsn > self.end().lsn => {
                Err(TakeoverRefusal::Missing { have: self.end().lsn, want: end.lsn })
            }
            _ => Err(TakeoverRefusal::Mismatch { at: end.lsn }),
        }
    }

    /// A Takeover was logged: the log is what it names, everything above is void, and what was
    /// staged for it is part of the log.
    ///
    /// # Errors
    /// As [`check_takeover`](StreamLog::check_takeover); nothing is changed then.
    pub fn take_over(&mut self, ballot: Ballot, end: Boundary) -> Result<(), TakeoverRefusal> {
        self.check_takeover(ballot, end)?;
        assert!(ballot >= self.accepting, "takeover {ballot} below {}", self.accepting);
        let void_from = self.void_from(ballot, end);
        let staged =
            self.staged.take().filter(|s| s.ballot == ballot && s.boundaries.contains(&end));
        self.void_above(void_from);
        if let Some(staged) = staged {
            self.adopt(*staged, void_from, end.lsn);
        }
        let above = self.bases.within(end.lsn, Lsn::MAX).next();
        assert!(above.is_none(), "a base above the end of the takeover");
        assert!(self.end() == end, "takeover left {:?}, not {end:?}", self.end());
        assert!(self.committed.lsn <= end.lsn, "committed bytes are never voided");
        self.promised = self.promised.max(ballot);
        self.accepting = ballot;
        (self.unknown, self.hard_state_lost) = (false, false);
        self.split = true;
        assert!(self.staged_end(ballot).is_none(), "what was staged for it is used up");
        assert!(self.promised >= ballot, "a takeover is a promise");
        self.assert_invariants();
        Ok(())
    }

    /// A Takeover named `scn`: those that it was taken over from gave none above, or vouched that
    /// none up to it is given again.
    pub fn raise_scn(&mut self, scn: u64) {
        let before = self.last_scn;
        self.last_scn = before.max(scn);
        assert!(self.last_scn >= before && self.last_scn >= scn, "an SCN goes up");
    }

    /// Everything below `lsn` is committed. Positions that are no boundary above the known
    /// committed one change nothing.
    pub fn commit(&mut self, lsn: Lsn) {
        if lsn <= self.committed.lsn {
            return;
        }
        let Ok(at) = self.boundaries.binary_search_by_key(&lsn, |b| b.lsn) else { return };
        let (before, end) = (self.committed.lsn, self.end());
        self.committed = self.boundaries[at];
        self.boundaries.drain(..=at);
        self.bases.commit(lsn);
        assert!(self.committed.lsn > before, "committed only grows");
        assert!(self.committed.lsn == lsn, "a commit is exact");
        assert!(self.end() == end, "a commit leaves the end where it is");
        self.assert_invariants();
    }

    /// Bytes or promises of this stream may have been lost to corruption: what follows the known
    /// log is not known, and no ballot up to `ceiling` may be promised again.
    pub fn mark_unknown(&mut self, ceiling: Ballot) {
        assert!(ceiling >= self.promised, "a promise is not taken back");
        (self.unknown, self.lossy) = (true, true);
        self.promised = ceiling;
        self.split = true;
        self.assert_invariants();
    }

    /// From where on a takeover replaces the log: where the run staged for it begins, else its
    /// end. A run that begins in a hole below the committed position is used from there on only.
    pub(crate) fn void_from(&self, ballot: Ballot, end: Boundary) -> Lsn {
        let staged = self.staged.as_ref();
        let staged = staged.filter(|s| s.ballot == ballot && s.boundaries.contains(&end));
        assert!(staged.is_none_or(|s| s.start < end.lsn), "a run is used up to one of its groups");
        let from = staged.map_or(end.lsn, |s| s.start.min(end.lsn)).max(self.base.lsn);
        let cuts = |hole: &Hole| hole.start < from && from < hole.end;
        if from < self.committed.lsn && !self.dangling && self.holes.iter().any(cuts) {
            return self.committed.lsn;
        }
        from
    }

    pub(crate) fn void_above(&mut self, lsn: Lsn) {
        self.cut_holes(lsn);
        self.starts.void_above(lsn);
        self.bases.void_above(lsn);
        assert!(self.bases.within(lsn, Lsn::MAX).next().is_none(), "what is void is no base");
        while self.boundaries.back().is_some_and(|b| b.lsn > lsn) {
            self.boundaries.pop_back();
        }
        // Staged bytes may replace committed ones by the same bytes; the cursor stays.
        assert!(lsn >= self.base.lsn, "the base is never voided");
        while self.extents.back().is_some_and(|e| e.start >= lsn) {
            self.extents.pop_back();
        }
        if let Some(last) = self.extents.back_mut() {
            last.end = last.end.min(lsn);
            assert!(last.start < last.end, "an empty run was dropped");
        }
        assert!(self.holes.last().is_none_or(|hole| hole.end <= lsn), "no hole above {lsn}");
        self.split = true;
        assert!(self.end().lsn <= lsn.max(self.committed.lsn), "nothing stands above {lsn}");
    }

    fn adopt(&mut self, staged: Staged, from: Lsn, end: Lsn) {
        assert!(staged.start < end && end <= staged.end(), "the takeover ends in what was staged");
        assert!(from <= self.end().lsn, "what was staged leaves no gap");
        let gap = self.holes.last().is_some_and(|hole| hole.end == from);
        for mut extent in staged.extents {
            if extent.start >= end {
                break;
            }
            if extent.end <= from {
                continue;
            }
            (extent.start, extent.end) = (extent.start.max(from), extent.end.min(end));
            let before = self.extents.back().filter(|_| !(gap && extent.start == from));
            assert!(before.is_none_or(|last| last.end == extent.start), "runs leave no gap");
            self.extents.push_back(extent);
        }
        let above = self.end().lsn;
        let news = staged.boundaries.into_iter().filter(|b| b.lsn > above && b.lsn <= end);
        self.boundaries.extend(news);
        let committed = self.committed.lsn;
        for (start, upto) in staged.bases.within(from.max(committed), end) {
            assert!(upto <= end, "a takeover ends at a group's end");
            self.bases.insert(start, upto);
        }
        assert!(self.end().lsn == end, "the log ends with its takeover");
    }
}

impl Staged {
    pub(crate) fn end(&self) -> Lsn {
        self.boundaries.last().map_or(self.start, |b| b.lsn)
    }

    pub(crate) fn assert_invariants(&self) {
        assert!(self.ballot.is_some(), "a takeover has a ballot");
        assert!(self.start < self.end(), "a staged run holds groups");
        assert!(self.extents.first().is_some_and(|first| first.start == self.start));
        assert!(self.extents.last().is_some_and(|last| last.end == self.end()));
        assert!(self.extents.len() <= self.boundaries.len(), "a run holds groups");
        assert!(self.boundaries.first().is_some_and(|first| first.lsn > self.start));
        let mut bases = self.bases.within(Lsn::ZERO, Lsn::MAX);
        assert!(bases.all(|(start, end)| self.start <= start && end <= self.end()));
    }
}

/// Whether a run goes on with the next one. Copies stand in records of another kind: a run is of
/// one kind, also where both are in one block.
pub(crate) fn joins(last: &Extent, next: &Extent) -> bool {
    assert!(last.start < last.end && next.start < next.end, "a run holds bytes");
    assert!(last.end <= next.start, "runs go up");
    let same = (last.ballot, last.place, last.moved) == (next.ballot, next.place, next.moved);
    same && last.end == next.start
}

fn push_extent(
    extents: &mut VecDeque<Extent>,
    (split, gap): (bool, bool),
    start: Lsn,
    end: Lsn,
    ballot: Ballot,
    place: Place,
) {
    assert!(start < end, "a run holds bytes");
    assert!(gap || extents.back().is_none_or(|last| last.end == start), "runs leave no gap");
    let next = Extent { start, end, place, ballot, moved: false };
    match extents.back_mut() {
        Some(last) if !split && joins(last, &next) => last.end = end,
        _ => extents.push_back(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: 1, incarnation: 1 }
    }

    fn at(lsn: u64, chain: u64) -> Boundary {
        Boundary { lsn: Lsn(lsn), chain }
    }

    fn place(offset: u64) -> Place {
        Place { segment: 1, offset, block: offset / 4096, len: 4096 }
    }

    fn led(round: u64) -> StreamLog {
        let mut log = StreamLog::default();
        log.promise(ballot(round));
        log.take_over(ballot(round), at(0, CHAIN_START)).unwrap();
        log
    }

    #[test]
    fn a_takeover_voids_what_stands_above_its_end() {
        let mut log = led(1);
        log.append(Lsn(0), at(100 * 8, 11), ballot(1), 1, place(4096));
        log.append(Lsn(800), at(1600, 12), ballot(1), 2, place(8192));
        log.take_over(ballot(2), at(800, 11)).unwrap();
        assert_eq!(log.end(), at(800, 11));
        assert!(log.find(Lsn(800)).is_none());
        log.append(Lsn(800), at(1600, 13), ballot(2), 2, place(12288));
        assert_eq!(log.find(Lsn(808)).unwrap().place, place(12288));
        assert_eq!(log.find(Lsn(8)).unwrap().place, place(4096));
    }

    #[test]
    fn staged_bytes_count_only_from_their_takeover_on() {
        let mut log = led(1);
        log.append(Lsn(0), at(800, 11), ballot(1), 1, place(4096));
        log.append(Lsn(800), at(1600, 12), ballot(1), 2, place(8192));
        log.stage(Lsn(800), at(1608, 22), ballot(3), 3, place(12288));
        log.stage(Lsn(1608), at(2400, 23), ballot(3), 4, place(16384));
        assert_eq!((log.end(), log.accepting()), (at(1600, 12), ballot(1)));
        assert_eq!(log.find(Lsn(808)).unwrap().ballot, ballot(1));
        log.take_over(ballot(3), at(2400, 23)).unwrap();
        assert_eq!((log.end(), log.accepting()), (at(2400, 23), ballot(3)));
        assert_eq!(log.find(Lsn(808)).unwrap().ballot, ballot(3));
        assert_eq!(log.find(Lsn(2000)).unwrap().end, Lsn(2400));
        assert_eq!(log.last_scn(), 4);
    }

    #[test]
    fn a_takeover_without_its_bytes_is_refused() {
        let mut log = led(1);
        log.append(Lsn(0), at(800, 11), ballot(1), 1, place(4096));
        log.commit(Lsn(800));
        let missing = TakeoverRefusal::Missing { have: Lsn(800), want: Lsn(1600) };
        assert_eq!(log.take_over(ballot(2), at(1600, 9)), Err(missing));
        let refusal = TakeoverRefusal::Mismatch { at: Lsn(800) };
        assert_eq!(log.take_over(ballot(2), at(800, 99)), Err(refusal));
        let refusal = TakeoverRefusal::BelowCommitted { committed: Lsn(800), want: Lsn(0) };
        assert_eq!(log.take_over(ballot(2), at(0, CHAIN_START)), Err(refusal));
        assert_eq!(log.accepting(), ballot(1));
    }

    /// After a loss a log may end in groups that were voided by a record that is gone.
    #[test]
    fn a_staged_run_that_starts_inside_a_group_is_refused() {
        let mut log = led(1);
        log.append(Lsn(0), at(800, 11), ballot(1), 1, place(4096));
        log.append(Lsn(800), at(1600, 12), ballot(1), 2, place(8192));
        log.mark_unknown(ballot(1));
        log.stage(Lsn(1200), at(2400, 23), ballot(3), 3, place(12288));
        let refusal = TakeoverRefusal::Missing { have: Lsn(1600), want: Lsn(2400) };
        assert_eq!(log.take_over(ballot(3), at(2400, 23)), Err(refusal));
        assert_eq!((log.end(), log.is_unknown()), (at(1600, 12), true));
    }

    #[test]
    fn committed_bytes_are_staged_again_only_as_they_are() {
        for (chain, taken) in [(12, Ok(())), (22, Err(TakeoverRefusal::Mismatch { at: Lsn(1600) }))]
        {
            let mut log = led(1);
            log.append(Lsn(0), at(800, 11), ballot(1), 1, place(4096));
            log.append(Lsn(800), at(1600, 12), ballot(1), 2, place(8192));
            log.stage(Lsn(800), at(1600, chain), ballot(3), 3, place(12288));
            log.commit(Lsn(1600));
            assert_eq!(log.take_over(ballot(3), at(1600, chain)), taken);
            assert_eq!(log.end(), at(1600, 12));
        }
    }

    #[test]
    fn a_run_staged_for_another_ballot_is_forgotten() {
        let mut log = led(1);
        log.stage(Lsn(0), at(800, 5), ballot(2), 1, place(4096));
        log.stage(Lsn(0), at(808, 6), ballot(3), 1, place(8192));
        assert_eq!(log.staged_end(ballot(2)), None);
        assert!(log.take_over(ballot(2), at(800, 5)).is_err());
        log.take_over(ballot(3), at(808, 6)).unwrap();
        assert_eq!(log.end(), at(808, 6));
    }
}
