//! Where a stream's log begins: runs that are let go or copied, and a log as an image tells it.
//!
//! An image leaves out the runs before the begin of its checkpoint. Whoever reads the log from
//! there takes each of them for a hole at first; records that follow say of every one that it was
//! let go, or where its copy stands. A hole that is left in the end is a loss.

use crate::checkpoint::{CHECKPOINT_BOUNDARIES_MAX, CHECKPOINT_EXTENTS_MAX, LogImage};
use crate::group::GroupHeader;
use crate::hole::{Anchor, Hole};
use crate::limits::HOLES_MAX;
use crate::log::{Boundary, Extent, StreamLog, joins};
use crate::lsn::{Ballot, Lsn};
use crate::segment::Place;

impl StreamLog {
    /// The log as a checkpoint says it that began in block `begin`. None while that cannot be
    /// said: bytes are staged for a takeover, are lost or may be, or it would be too long.
    pub fn image(&self, begin: u64) -> Option<LogImage> {
        if !self.can_be_told() {
            return None;
        }
        let since = self.extents.iter().filter(|run| run.place.block >= begin);
        let image = LogImage {
            base: self.base,
            committed: self.committed,
            boundaries: self.boundaries.iter().copied().collect(),
            extents: since.copied().collect(),
            promised: self.promised,
            accepting: self.accepting,
            last_scn: self.last_scn,
        };
        let fits = image.boundaries.len() <= CHECKPOINT_BOUNDARIES_MAX
            && image.extents.len() <= CHECKPOINT_EXTENTS_MAX
            && image.gaps().len() <= HOLES_MAX;
        if !fits {
            return None;
        }
        assert!(image.is_sound(), "what is written will be read");
        assert!(image.end() == self.end(), "an image has the whole log");
        Some(image)
    }

    /// Whether nothing is staged, missing or in doubt, and no base is open: an image says what is,
    /// no more.
    pub fn can_be_told(&self) -> bool {
        let open = self.end().lsn > self.committed.lsn;
        assert!(open || self.bases.is_empty(), "an open base is above the committed position");
        let settled = self.staged.is_none() && self.bases.is_empty();
        settled && !self.unknown && self.is_whole()
    }

    /// The log of an image that was decoded. Its older runs are holes.
    pub fn restore(image: LogImage) -> StreamLog {
        assert!(image.is_sound(), "an image is checked where it is read");
        let (end, gaps) = (image.end(), image.gaps());
        let mut log = StreamLog::starting_at(image.base);
        log.committed = image.committed;
        log.boundaries = image.boundaries.into();
        log.extents = image.extents.into();
        // It may follow a takeover.
        log.split = true;
        (log.promised, log.accepting) = (image.promised, image.accepting);
        log.last_scn = image.last_scn;
        let base = Some(log.base).filter(|base| base.chain != 0);
        for (start, end) in gaps {
            let known = base.filter(|base| base.lsn == start).map(|base| base.chain);
            let chain = log.chain_at(start).or(known);
            let anchor = log.chain_at(end).map_or(Anchor::Unread, Anchor::Chain);
            log.holes.push(Hole { start, chain, end, anchor });
        }
        log.dangling = true;
        log.assert_invariants();
        assert!(log.end() == end, "an image has the whole log");
        log
    }

    /// Everything was replayed: what no record told of is lost.
    pub fn end_replay(&mut self) {
        self.lossy |= !self.is_whole();
        self.dangling = false;
        self.assert_invariants();
        assert!(self.is_whole() || self.is_lossy());
    }

    /// The first block with a run of this stream, staged and moved ones included.
    pub fn oldest_block(&self) -> Option<u64> {
        let staged = self.staged.iter().flat_map(|staged| &staged.extents);
        let moving = self.moving.iter().flat_map(|moving| &moving.extents);
        let runs = self.extents.iter().chain(staged).chain(moving);
        let oldest = runs.map(|run| run.place.block).min();
        assert!(oldest != Some(0), "blocks are numbered from 1");
        oldest
    }

    /// How far the log may begin at most when nothing below `to` is needed: where the chain at the
    /// base is not known, the run before it stays, since the end of its groups tells that.
    pub fn base_within(&self, to: Lsn) -> Lsn {
        let to = to.min(self.committed.lsn);
        let gone = self.extents.partition_point(|run| run.end <= to);
        let first = self.extents.get(gone).map_or(to, |run| run.start.min(to));
        let Some(last) = gone.checked_sub(1).map(|last| self.extents[last]) else { return to };
        assert!(last.end <= to && to <= self.end().lsn, "a run of what is not needed");
        assert!(first <= to, "the first run that is kept holds what is needed");
        // Behind a lost range the chain is told by whoever gives that back.
        let joins = last.end == first && self.holes.is_empty();
        if joins && self.known_chain(first).is_none() { last.start } else { to }
    }

    fn known_chain(&self, lsn: Lsn) -> Option<u64> {
        self.chain_at(lsn).or_else(|| self.starts.chain_at(lsn))
    }

    /// The log was let go up to its base, where a run started that was seen.
    pub fn learn_base(&mut self) {
        let lsn = self.base.lsn;
        assert!(lsn <= self.committed.lsn, "only what is committed is let go");
        if let Some(chain) = self.starts.chain_at(lsn) {
            self.tell_base(Boundary { lsn, chain });
        }
        assert!(self.base.lsn == lsn, "what is known changes no position");
    }

    /// The chain at the base, where it is not known: a record says it.
    pub fn tell_base(&mut self, base: Boundary) {
        if self.base.lsn == base.lsn && self.base.chain == 0 && self.committed.lsn > base.lsn {
            self.base = base;
        }
        assert!(self.base.lsn <= self.committed.lsn, "what is committed is kept");
        self.assert_invariants();
    }

    /// Nothing below `to` is needed any more: runs and holes that end there or before are dropped,
    /// and the log begins with the first that is left. At most the committed position; a lower one
    /// than before changes nothing.
    pub fn truncate(&mut self, to: Lsn) {
        assert!(to <= self.committed.lsn, "truncated to {to}, above {}", self.committed.lsn);
        let end = self.end();
        while self.extents.front().is_some_and(|run| run.end <= to) {
            self.extents.pop_front();
        }
        self.holes.retain(|hole| hole.end > to);
        let run = self.extents.front().map(|run| run.start);
        let hole = self.holes.first().map(|hole| hole.start);
        let first = run.into_iter().chain(hole).min().unwrap_or(to).min(to);
        if first > self.base.lsn {
            let chain = self.chain_at(first).unwrap_or(0);
            self.base = Boundary { lsn: first, chain };
            self.starts.drop_below(first);
        }
        let base = self.base.lsn;
        self.moving = self.moving.take().filter(|moving| moving.start >= base);
        assert!(base <= self.committed.lsn, "a log begins where it is committed");
        assert!(self.end() == end, "a truncation leaves the end where it is");
        self.assert_invariants();
    }

    /// A committed group was logged again as it stands in the log, where it was logged under
    /// `ballot`. False when it is no part of the log any more, or others are.
    pub fn relocate(&mut self, header: &GroupHeader, ballot: Ballot, place: Place) -> bool {
        let (start, end) = (header.lsn(), header.end());
        assert!(start < end && place.block > 0, "a copy is a run");
        if start < self.base.lsn || end > self.committed.lsn {
            return false;
        }
        let end_before = self.end();
        let taken = match self.holes.iter().position(|hole| hole.start < end && hole.end > start) {
            Some(at) => self.refill(at, header),
            None => self.make_way(start, end, ballot),
        };
        if !taken {
            return false;
        }
        let mut after = self.extents.split_off(self.extents.partition_point(|r| r.start < start));
        assert!(self.extents.back().is_none_or(|last| last.end <= start), "on a run before it");
        assert!(after.front().is_none_or(|next| next.start >= end), "a copy on a run after it");
        let copy = Extent { start, end, place, ballot, moved: true };
        match self.extents.back_mut() {
            Some(last) if joins(last, &copy) => last.end = end,
            _ => self.extents.push_back(copy),
        }
        self.extents.append(&mut after);
        assert!(self.find(start).is_some_and(|run| run.place == place), "the copy counts");
        assert!(self.end() == end_before, "a copy is nothing new");
        self.assert_invariants();
        true
    }

    /// Takes `[start, end)` out of the runs. False when they are of another ballot.
    fn make_way(&mut self, start: Lsn, end: Lsn, ballot: Ballot) -> bool {
        let known = |run: &&Extent| run.end > start && run.start < end;
        if !self.extents.iter().filter(known).all(|run| run.ballot == ballot) {
            return false;
        }
        let mut after = self.extents.split_off(self.extents.partition_point(|r| r.end <= start));
        if let Some(first) = after.front().filter(|run| run.start < start) {
            self.extents.push_back(Extent { end: start, ..*first });
        }
        while after.front().is_some_and(|run| run.end <= end) {
            after.pop_front();
        }
        if let Some(first) = after.front_mut() {
            first.start = first.start.max(end);
        }
        self.extents.append(&mut after);
        assert!(!self.extents.iter().any(|run| known(&run)), "its place is free");
        true
    }

    /// Takes a group out of the hole at `at`. False when it cannot have stood there.
    fn refill(&mut self, at: usize, header: &GroupHeader) -> bool {
        let (start, end) = (header.lsn(), header.end());
        let hole = self.holes[at].clone();
        let within = hole.start <= start && end <= hole.end;
        let follows = start > hole.start || hole.chain.is_none_or(|chain| header.follows(chain));
        let last = end == hole.end && hole.anchor != Anchor::Unread;
        let leads = !last || hole.is_proven_by(header.chain.get());
        let splits = usize::from(start > hole.start && end < hole.end);
        if !within || !follows || !leads || self.holes.len() + splits > HOLES_MAX {
            return false;
        }
        let next = Anchor::Next(Box::new(*header));
        let before = Hole { end: start, anchor: next, ..hole.clone() };
        let after = Hole { start: end, chain: Some(header.chain.get()), ..hole };
        let parts = [before, after].into_iter().filter(|part| part.start < part.end);
        self.holes.splice(at..=at, parts);
        assert!(self.holes.first().is_none_or(|hole| hole.start >= self.base.lsn));
        // A run that began there is to begin elsewhere.
        self.moving = None;
        assert!(self.hole_at(start).is_none() && self.holes.len() <= HOLES_MAX);
        true
    }

    /// The group after a hole was read. False when there is no such hole.
    pub fn tell_anchor(&mut self, header: &GroupHeader) -> bool {
        let end = self.end().lsn;
        let hole = self.holes.iter_mut().find(|hole| hole.end == header.lsn());
        assert!(hole.as_ref().is_none_or(|hole| hole.end <= end), "a hole is a part of the log");
        let Some(hole) = hole.filter(|hole| hole.anchor == Anchor::Unread) else { return false };
        assert!(hole.start < hole.end, "a hole is a range");
        hole.anchor = Anchor::Next(Box::new(*header));
        self.assert_invariants();
        true
    }
}

#[cfg(test)]
mod tests;
