//! Holes: ranges of a stream's log that were logged here and that the disk does not give back.
//!
//! What stood in a hole is not known here, but it is settled: the chain at its end is, by itself
//! or by the group that follows. Groups that lead to that chain are the very same bytes, whoever
//! has them. They are logged again as Moved records, and count once they fill the hole.

use crate::bases::Bases;
use crate::group::GroupHeader;
use crate::limits::HOLES_MAX;
use crate::log::{Boundary, Extent, StreamLog, TakeoverRefusal, joins};
use crate::lsn::{Ballot, Lsn};
use crate::segment::Place;
use zerocopy::IntoBytes;

/// What tells the chain at the end of a hole.
#[derive(Clone, Debug)]
pub enum Anchor {
    /// It is known.
    Chain(u64),
    /// The group that begins there: its header follows that chain and no other.
    Next(Box<GroupHeader>),
    /// That group, which is still to be read. It proves nothing before.
    Unread,
}

impl PartialEq for Anchor {
    fn eq(&self, other: &Anchor) -> bool {
        match (self, other) {
            (Anchor::Chain(one), Anchor::Chain(two)) => one == two,
            (Anchor::Next(one), Anchor::Next(two)) => one.as_bytes() == two.as_bytes(),
            (Anchor::Unread, Anchor::Unread) => true,
            _ => false,
        }
    }
}

impl Eq for Anchor {}

/// A range of the log whose bytes are lost here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First position: a group began there.
    pub start: Lsn,
    /// The chain there, where it is known.
    pub chain: Option<u64>,
    /// First position after it.
    pub end: Lsn,
    /// What proves groups that end there.
    pub anchor: Anchor,
}

impl Hole {
    /// Whether groups with this chain at the end of the hole are those that stood here.
    pub fn is_proven_by(&self, chain: u64) -> bool {
        match &self.anchor {
            Anchor::Chain(known) => *known == chain,
            Anchor::Next(header) => header.follows(chain),
            Anchor::Unread => false,
        }
    }
}

/// Groups logged again, from the start of a hole on. No part of the log before they fill it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    pub(crate) start: Lsn,
    end: Boundary,
    pub(crate) extents: Vec<Extent>,
    boundaries: Vec<Boundary>,
    bases: Bases,
}

impl Moving {
    pub(crate) fn assert_invariants(&self, base: Lsn) {
        let (first, last) = (self.extents.first(), self.extents.last());
        assert!(self.start >= base, "a run of what was let go");
        assert!(self.start < self.end.lsn, "a run holds groups");
        assert!(first.is_some_and(|first| first.start == self.start), "a run begins elsewhere");
        assert!(last.is_some_and(|last| last.end == self.end.lsn), "a run ends elsewhere");
        assert!(self.boundaries.last().is_none_or(|last| last.lsn <= self.end.lsn));
        let mut bases = self.bases.within(Lsn::ZERO, Lsn::MAX);
        assert!(bases.all(|(start, end)| self.start <= start && end <= self.end.lsn));
    }
}

const _: () = assert!(HOLES_MAX >= 2, "a group may be put into the middle of a hole");

impl StreamLog {
    /// The holes, in order.
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// Whether every byte of the log is there, as far as it is known.
    pub fn is_whole(&self) -> bool {
        self.holes.is_empty()
    }

    /// The hole that holds `lsn`.
    pub fn hole_at(&self, lsn: Lsn) -> Option<&Hole> {
        let after = self.holes.partition_point(|hole| hole.start <= lsn);
        let hole = self.holes.get(after.checked_sub(1)?)?;
        assert!(hole.start <= lsn, "holes are in order");
        (lsn < hole.end).then_some(hole)
    }

    /// Up to where every byte above the committed position is there. Holes below that position
    /// are of no concern to agreement.
    pub fn held(&self) -> Boundary {
        let committed = self.committed();
        let open = self.holes.iter().find(|hole| hole.end > committed.lsn);
        let Some(open) = open else { return self.end() };
        let lsn = open.start.max(committed.lsn);
        assert!(lsn < self.end().lsn, "a hole is a part of the log");
        let chain = self.chain_at(lsn).expect("a hole above the committed begins at a boundary");
        Boundary { lsn, chain }
    }

    /// Whether a takeover that may be logged leaves no hole above the committed position.
    pub fn is_held_for(&self, ballot: Ballot, end: Boundary) -> bool {
        let void = self.void_from(ballot, end);
        let committed = self.committed().lsn;
        // One that ends below the committed position is asked about, and never logged.
        assert!(void <= end.lsn.max(committed), "nothing above the end of a takeover is kept");
        assert!(void >= self.base().lsn, "the base is never voided");
        !self.holes.iter().any(|hole| hole.start < void && hole.end.min(void) > committed)
    }

    /// Records of this stream that followed those replayed so far are lost: what follows the
    /// known log is not known until a later record tells.
    pub fn lose_tail(&mut self, hard_state: bool) {
        self.unknown = true;
        self.split = true;
        self.lossy = true;
        self.hard_state_lost |= hard_state;
        assert!(self.is_unknown() && self.is_lossy());
        self.assert_invariants();
    }

    /// Groups that were staged are lost: their takeover will not find its bytes.
    pub fn lose_staged(&mut self) {
        self.lossy = true;
        self.assert_invariants();
    }

    /// Whether anything of this stream was lost since its first record: what does not fit then is
    /// a loss too.
    pub fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// Whether promises may be among what was lost since the last takeover.
    pub fn lost_hard_state(&self) -> bool {
        self.hard_state_lost
    }

    /// A group follows a loss. It was logged under the accepting ballot: no takeover and no
    /// promise can stand between, so that the log goes on, with a hole where groups are missing.
    /// False when it proves nothing.
    pub fn resume(&mut self, header: &GroupHeader, ballot: Ballot, place: Place) -> bool {
        let (start, before) = (header.lsn(), self.end());
        let same = ballot == self.accepting() && ballot == self.promised() && ballot.is_some();
        if !self.unknown || self.hard_state_lost || !same || start < before.lsn {
            return false;
        }
        if start == before.lsn && !header.follows(before.chain) {
            return false;
        }
        self.unknown = false;
        if start > before.lsn {
            let (anchor, chain) = (Anchor::Next(Box::new(*header)), Some(before.chain));
            self.add_hole(Hole { start: before.lsn, chain, end: start, anchor });
        }
        let end = Boundary { lsn: header.end(), chain: header.chain.get() };
        self.push_group(start, end, ballot, header.scn.get(), place);
        if header.is_base() {
            self.mark_base(start);
            assert!(self.proven().lsn <= start, "what stands in it is not proven");
        }
        self.fill();
        assert!(!self.is_unknown() && self.end() == end, "the log goes on");
        true
    }

    /// A takeover was replayed over a log that lost the bytes below its end. They were there when
    /// it was logged: the log is what it names, and all that is not known to be committed is a
    /// hole.
    ///
    /// # Errors
    /// It ends at or below the committed position, or nothing was ever lost.
    pub fn take_over_lost(&mut self, ballot: Ballot, end: Boundary) -> Result<(), TakeoverRefusal> {
        let committed = self.committed();
        if !self.lossy || end.lsn <= committed.lsn {
            self.check_takeover(ballot, end)?;
            return Err(TakeoverRefusal::Mismatch { at: end.lsn });
        }
        assert!(ballot >= self.promised(), "takeover {ballot} below {}", self.promised());
        self.staged = None;
        let known = self.end();
        // Groups that were logged again from the known end on may lead to that very chain: then
        // it is all there, and what stands below the known end is what stood there.
        let touches = self.holes.last().is_some_and(|hole| hole.end == known.lsn);
        // One hole too many is joined with another one, and then no run fills it.
        let alone = !touches && self.holes.len() < HOLES_MAX;
        let moved = self.moved_end(known.lsn) == Some(end) && self.unknown && alone;
        let from = if moved { known } else { committed };
        let run = self.moving.take().filter(|run| moved || run.end.lsn <= from.lsn);
        self.void_above(from.lsn);
        self.moving = run;
        self.boundaries.push_back(end);
        let (start, chain) = (from.lsn, Some(from.chain));
        self.add_hole(Hole { start, chain, end: end.lsn, anchor: Anchor::Chain(end.chain) });
        let filled = self.fill();
        assert!(filled == moved, "only a run that ends there fills it");
        (self.promised, self.accepting) = (ballot, ballot);
        (self.unknown, self.hard_state_lost) = (false, false);
        assert!(self.end() == end && self.committed() == committed);
        self.assert_invariants();
        Ok(())
    }

    /// The runs in `[start, end)` cannot be read from the disk any more. False when no runs begin
    /// and end there now.
    pub fn open_hole(&mut self, start: Lsn, end: Lsn, anchor: Anchor) -> bool {
        let begins = self.find(start).is_some_and(|extent| extent.start == start);
        let next = self.find(end).map(|extent| extent.start);
        let ends = next == Some(end) || end == self.end().lsn || self.hole_at(end).is_some();
        if !begins || !ends || end <= start {
            return false;
        }
        let (chain, before) = (self.chain_at(start), self.end());
        self.extents.retain(|extent| extent.end <= start || extent.start >= end);
        (self.split, self.lossy) = (true, true);
        self.add_hole(Hole { start, chain, end, anchor });
        assert!(self.find(start).is_none() && self.hole_at(start).is_some());
        assert!(self.end() == before, "a loss leaves the end where it is");
        self.assert_invariants();
        true
    }

    /// Whether voiding the log from `lsn` on would cut a hole where the chain is not known.
    pub(crate) fn cuts_blindly(&self, lsn: Lsn) -> bool {
        let inside = self.hole_at(lsn).is_some_and(|hole| hole.start < lsn);
        let told_later = self.dangling && lsn < self.committed().lsn;
        inside && !told_later && self.chain_at(lsn).is_none()
    }

    /// Puts a hole in its place, one with those that it touches, and no more than there may be.
    fn add_hole(&mut self, hole: Hole) {
        assert!(hole.start < hole.end, "a hole from {} to {}", hole.start, hole.end);
        let at = self.holes.partition_point(|known| known.start < hole.start);
        self.holes.insert(at, hole);
        let mut at = 1;
        while at < self.holes.len() {
            assert!(self.holes[at - 1].start < self.holes[at].start, "holes are in order");
            let touches = self.holes[at - 1].end >= self.holes[at].start;
            if touches || self.holes.len() > HOLES_MAX && at + 1 == self.holes.len() {
                self.join_holes(at);
            } else {
                at += 1;
            }
        }
        assert!(self.holes.len() <= HOLES_MAX, "holes are bounded");
    }

    /// Makes one of the hole at `at` and the one before it; what stands between is lost with them.
    fn join_holes(&mut self, at: usize) {
        let next = self.holes.remove(at);
        let first = &mut self.holes[at - 1];
        assert!(first.start < next.start, "holes are in order");
        if next.end > first.end {
            (first.end, first.anchor) = (next.end, next.anchor);
        }
        let (start, end) = (first.start, first.end);
        assert!(start < next.end && next.end <= end, "a hole that was joined is in the other");
        self.extents.retain(|extent| extent.end <= start || extent.start >= end);
        self.split = true;
    }

    /// What was logged above `lsn` is void, and so are the holes there. `lsn` is a boundary.
    pub(crate) fn cut_holes(&mut self, lsn: Lsn) {
        let chain = self.chain_at(lsn);
        while self.holes.last().is_some_and(|hole| hole.start >= lsn) {
            self.holes.pop();
        }
        if let Some(hole) = self.holes.last_mut().filter(|hole| hole.end > lsn) {
            assert!(chain.is_some() || self.dangling, "a hole is cut at a boundary");
            (hole.end, hole.anchor) = (lsn, chain.map_or(Anchor::Unread, Anchor::Chain));
            assert!(hole.start < hole.end, "a hole from {} to {}", hole.start, hole.end);
        }
        self.moving = self.moving.take().filter(|moving| moving.end.lsn <= lsn);
    }

    /// End of the run that was logged again from `start` on.
    pub fn moved_end(&self, start: Lsn) -> Option<Boundary> {
        let moving = self.moving.as_ref().filter(|moving| moving.start == start)?;
        assert!(moving.start < moving.end.lsn, "a run holds groups");
        Some(moving.end)
    }

    /// Whether a group that was logged again goes on with the run, or begins one where records
    /// are lost.
    pub fn takes_moved(&self, header: &GroupHeader) -> bool {
        let start = header.lsn();
        let goes_on = self.moving.as_ref().map(|moving| moving.end);
        if goes_on.is_some_and(|end| end.lsn == start && header.follows(end.chain)) {
            return true;
        }
        let end = self.end();
        if self.unknown && end.lsn == start && header.follows(end.chain) {
            return true;
        }
        let begins = self.holes.iter().find(|hole| hole.start == start);
        begins.is_some_and(|hole| hole.chain.is_none_or(|chain| header.follows(chain)))
    }

    /// Whether a staged group that is replayed goes on with its run, or begins one. A run may begin
    /// below what an image knew to be committed, in what it did not tell: a start had forgotten
    /// that. Its takeover takes it if it leads to what is committed.
    pub fn takes_staged(&self, header: &GroupHeader, ballot: Ballot) -> bool {
        let start = header.lsn();
        let before = self.staged_end(ballot).filter(|end| end.lsn == start).map(|end| end.chain);
        let mut chains = before.into_iter().chain(self.chain_at(start));
        if before.is_some() || chains.clone().any(|chain| header.follows(chain)) {
            return chains.any(|chain| header.follows(chain));
        }
        let untold = self.dangling && start < self.committed().lsn;
        let hole = self.hole_at(start).filter(|_| untold);
        hole.is_some_and(|hole| {
            assert!(hole.start <= start && start < hole.end, "a run begins in what is not told");
            let chain = hole.chain.filter(|_| hole.start == start);
            chain.is_none_or(|chain| header.follows(chain))
        })
    }

    /// A group was logged again, as [`takes_moved`](StreamLog::takes_moved) allows: the run goes
    /// on, or begins anew. True when that fills a hole.
    pub fn move_in(&mut self, header: &GroupHeader, ballot: Ballot, place: Place) -> bool {
        let start = header.lsn();
        let end = Boundary { lsn: header.end(), chain: header.chain.get() };
        assert!(end.lsn > start, "group from {start} to {}", end.lsn);
        assert!(self.takes_moved(header), "a group at {start} that fills nothing");
        let anew = self.holes.iter().any(|hole| hole.start == start);
        let goes_on = self.moving.as_ref().is_some_and(|moving| moving.end.lsn == start);
        if anew || !goes_on {
            let (extents, boundaries, bases) = (Vec::new(), Vec::new(), Bases::default());
            self.moving = Some(Box::new(Moving { start, end, extents, boundaries, bases }));
        }
        let committed = self.committed().lsn;
        let moving = self.moving.as_mut().expect("set above");
        moving.end = end;
        let extent = Extent { start, end: end.lsn, place, ballot, moved: true };
        match moving.extents.last_mut() {
            Some(last) if joins(last, &extent) => last.end = end.lsn,
            _ => moving.extents.push(extent),
        }
        if end.lsn > committed {
            moving.boundaries.push(end);
            if header.is_base() {
                moving.bases.insert(start, end.lsn);
            }
        }
        self.last_scn = self.last_scn.max(header.scn.get());
        let filled = self.fill();
        assert!(!filled || self.moving.is_none(), "a run that fills a hole is used up");
        self.assert_invariants();
        filled
    }

    /// Puts the run that was logged again into the hole that it fills.
    fn fill(&mut self) -> bool {
        let Some(moving) = &self.moving else { return false };
        let fills = |hole: &Hole| hole.start == moving.start && hole.end == moving.end.lsn;
        let Some(at) = self.holes.iter().position(fills) else { return false };
        if !self.holes[at].is_proven_by(moving.end.chain) {
            return false;
        }
        let moving = self.moving.take().expect("seen above");
        let (end, committed) = (self.end(), self.committed().lsn);
        let hole = self.holes.remove(at);
        assert!(hole.end <= end.lsn, "a hole is a part of the log");
        let below = self.extents.partition_point(|extent| extent.start < hole.start);
        let above = self.extents.split_off(below);
        self.extents.extend(moving.extents);
        self.extents.extend(above);
        for (start, upto) in moving.bases.within(committed, end.lsn) {
            assert!(hole.start <= start && upto <= hole.end, "a run stays within its hole");
            self.bases.insert(start, upto);
        }
        let news = moving.boundaries.into_iter().filter(|b| b.lsn > committed && b.lsn < end.lsn);
        self.boundaries.extend(news);
        self.boundaries.make_contiguous().sort_unstable_by_key(|boundary| boundary.lsn);
        let mut last = None;
        self.boundaries.retain(|boundary| last.replace(boundary.lsn) != Some(boundary.lsn));
        assert!(self.end() == end, "what fills a hole changes nothing else");
        assert!(self.find(hole.start).is_some() && self.hole_at(hole.start).is_none());
        true
    }
}

#[cfg(test)]
pub(crate) mod tests;
