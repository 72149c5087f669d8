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

use crate::group::CHAIN_START;
use crate::lsn::{Ballot, Lsn};
use crate::segment::Place;

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
struct Staged {
    ballot: Ballot,
    start: Lsn,
    extents: Vec<Extent>,
    boundaries: Vec<Boundary>,
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
    base: Boundary,
    committed: Boundary,
    /// Ends of groups above `committed`, the last one being the end of the log.
    boundaries: VecDeque<Boundary>,
    extents: VecDeque<Extent>,
    /// The next group starts an extent of its own (something was voided before it).
    split: bool,
    staged: Option<Staged>,
    promised: Ballot,
    accepting: Ballot,
    unknown: bool,
    last_scn: u64,
}

impl Default for StreamLog {
    fn default() -> StreamLog {
        StreamLog::starting_at(Boundary { lsn: Lsn::ZERO, chain: CHAIN_START })
    }
}

impl StreamLog {
    /// An empty log whose first group will stand at `base`.
    pub fn starting_at(base: Boundary) -> StreamLog {
        assert!(base.lsn.0.is_multiple_of(Lsn::ALIGN));
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
            last_scn: 0,
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

    /// Highest SCN of any group ever logged here, voided and staged ones included.
    pub fn last_scn(&self) -> u64 {
        self.last_scn
    }

    /// The chain at `lsn`, if that is a group boundary at or above the committed one.
    pub fn chain_at(&self, lsn: Lsn) -> Option<u64> {
        if lsn == self.committed.lsn {
            return Some(self.committed.chain);
        }
        let at = self.boundaries.binary_search_by_key(&lsn, |b| b.lsn).ok()?;
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
    }

    /// A group was logged at the end. `end` carries the chain after it.
    ///
    /// # Panics
    /// When it does not stand at the end of the log or its ballot is not the accepting one.
    pub fn append(&mut self, start: Lsn, end: Boundary, ballot: Ballot, scn: u64, place: Place) {
        assert!(start == self.end().lsn, "group at {start}, log ends at {}", self.end().lsn);
        assert!(end.lsn > start && ballot == self.accepting);
        push_extent(&mut self.extents, self.split, start, end.lsn, ballot, place);
        self.split = false;
        self.boundaries.push_back(end);
        // A voided group may have had a higher one; the highest ever seen is the safe floor.
        self.last_scn = self.last_scn.max(scn);
    }

    /// A staged group was logged for the takeover under `ballot`. A run for another ballot, or
    /// one that this group does not continue, is forgotten.
    pub fn stage(&mut self, start: Lsn, end: Boundary, ballot: Ballot, scn: u64, place: Place) {
        assert!(end.lsn > start && ballot.is_some());
        let continues =
            self.staged.as_ref().is_some_and(|s| s.ballot == ballot && s.end() == start);
        if !continues {
            self.staged =
                Some(Staged { ballot, start, extents: Vec::new(), boundaries: Vec::new() });
        }
        let staged = self.staged.as_mut().expect("set above");
        let extent = Extent { start, end: end.lsn, place, ballot };
        match staged.extents.last_mut() {
            Some(last) if joins(last, false, start, ballot, place) => last.end = end.lsn,
            _ => staged.extents.push(extent),
        }
        staged.boundaries.push(end);
        // Its takeover may come or not; a floor too high does no harm.
        self.last_scn = self.last_scn.max(scn);
    }

    /// End of the run staged for `ballot`.
    pub fn staged_end(&self, ballot: Ballot) -> Option<Boundary> {
        let staged = self.staged.as_ref().filter(|s| s.ballot == ballot)?;
        staged.boundaries.last().copied()
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
            if found.is_some_and(|b| b.chain == end.chain) && staged.start <= self.end().lsn {
                return Ok(());
            }
        }
        match self.chain_at(end.lsn) {
            Some(chain) if chain == end.chain => Ok(()),
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
        let staged =
            self.staged.take().filter(|s| s.ballot == ballot && s.boundaries.contains(&end));
        let void_from = staged.as_ref().map_or(end.lsn, |s| s.start.min(end.lsn));
        self.void_above(void_from.max(self.base.lsn));
        if let Some(staged) = staged {
            self.adopt(staged, end.lsn);
        }
        assert!(self.end() == end, "takeover left {:?}, not {end:?}", self.end());
        self.promised = self.promised.max(ballot);
        self.accepting = ballot;
        self.unknown = false;
        self.split = true;
        Ok(())
    }

    /// Everything below `lsn` is committed. Positions that are no boundary above the known
    /// committed one change nothing.
    pub fn commit(&mut self, lsn: Lsn) {
        if lsn <= self.committed.lsn {
            return;
        }
        let Ok(at) = self.boundaries.binary_search_by_key(&lsn, |b| b.lsn) else { return };
        self.committed = self.boundaries[at];
        self.boundaries.drain(..=at);
        assert!(self.end().lsn >= self.committed.lsn);
    }

    /// Bytes or promises of this stream may have been lost to corruption: what follows the known
    /// log is not known, and no ballot up to `ceiling` may be promised again.
    pub fn mark_unknown(&mut self, ceiling: Ballot) {
        assert!(ceiling >= self.promised);
        self.unknown = true;
        self.promised = ceiling;
        self.split = true;
    }

    fn void_above(&mut self, lsn: Lsn) {
        while self.boundaries.back().is_some_and(|b| b.lsn > lsn) {
            self.boundaries.pop_back();
        }
        // Staged bytes may replace committed ones by the same bytes; the cursor stays.
        while self.extents.back().is_some_and(|e| e.start >= lsn) {
            self.extents.pop_back();
        }
        if let Some(last) = self.extents.back_mut() {
            last.end = last.end.min(lsn);
        }
        self.split = true;
    }

    fn adopt(&mut self, staged: Staged, end: Lsn) {
        for mut extent in staged.extents {
            if extent.start >= end {
                break;
            }
            extent.end = extent.end.min(end);
            self.extents.push_back(extent);
        }
        let above = self.end().lsn;
        let news = staged.boundaries.into_iter().filter(|b| b.lsn > above && b.lsn <= end);
        self.boundaries.extend(news);
    }
}

impl Staged {
    fn end(&self) -> Lsn {
        self.boundaries.last().map_or(self.start, |b| b.lsn)
    }
}

fn joins(last: &Extent, split: bool, start: Lsn, ballot: Ballot, place: Place) -> bool {
    !split && last.end == start && last.ballot == ballot && last.place == place
}

fn push_extent(
    extents: &mut VecDeque<Extent>,
    split: bool,
    start: Lsn,
    end: Lsn,
    ballot: Ballot,
    place: Place,
) {
    match extents.back_mut() {
        Some(last) if joins(last, split, start, ballot, place) => last.end = end,
        _ => extents.push_back(Extent { start, end, place, ballot }),
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
