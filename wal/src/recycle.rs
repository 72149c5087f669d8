//! Where the log begins: which segments hold nothing that anybody needs any more.
//!
//! A log begins at the begin of a checkpoint. Segments wholly before it may be reused when four
//! things hold, and [`Recycler`] is where they are put together:
//!
//! 1. The checkpoint is complete and durable, so that every stream's state is told behind its
//!    begin. So is a later one: should the first rot, the second tells the same.
//! 2. No live run of any stream stands in a block before its begin. Whoever moves a base or a run
//!    out of the way logs that first, and what was appended up to then is durable.
//! 3. Nobody reads the segments (the owner says up to which none is leased).
//! 4. The header of the segment that reuses a file says where the log begins, before a block of
//!    the old file is overwritten; segments are reused oldest first.

use std::collections::VecDeque;

use crate::segment::Place;
use crate::writer::SegmentFacts;

/// Checkpoints that are remembered; older ones are of no use to who has newer ones.
const CHECKPOINTS_MAX: usize = 64;

const _: () = assert!(CHECKPOINTS_MAX >= 3, "one to begin at, one behind it, one to wait for");

/// Where a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogStart {
    /// No segment below this is part of the log.
    pub segment: u64,
    /// No block below this is part of the log. 0 in a log that begins with its first block.
    pub block: u64,
}

impl LogStart {
    /// The first block that is due.
    pub fn first_due(&self) -> u64 {
        assert!((self.segment == 0) == (self.block == 0), "a block stands in a segment");
        self.block.max(1)
    }
}

/// A checkpoint whose end has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Complete {
    begin: LogStart,
    /// The block of its end.
    end: u64,
}

/// The checkpoints of a log, and what they allow to be let go.
#[derive(Debug, Default)]
pub struct Recycler {
    /// Oldest first.
    complete: VecDeque<Complete>,
    /// The begin of one that has no end yet.
    open: Option<LogStart>,
    /// A start that holds once this block is durable.
    wanted: Option<(LogStart, u64)>,
    start: LogStart,
}

impl Recycler {
    /// For a log that begins at `start`.
    pub fn new(start: LogStart) -> Recycler {
        assert!(start.first_due() > 0, "blocks are numbered from 1");
        Recycler { start, ..Recycler::default() }
    }

    fn assert_invariants(&self) {
        let ends = self.complete.iter().map(|one| one.end);
        assert!(ends.is_sorted(), "checkpoints do not overlap");
        assert!(self.complete.iter().all(|one| one.begin.block <= one.end));
        let first = self.complete.front();
        assert!(first.is_none_or(|one| one.begin >= self.start), "let go below a checkpoint");
        let last = self.complete.back().map_or(0, |one| one.end);
        assert!(self.open.is_none_or(|open| open.block >= last), "one checkpoint at a time");
        assert!(self.wanted.is_none_or(|(start, _)| start > self.start), "a log is let go once");
        assert!(self.complete.len() <= CHECKPOINTS_MAX, "what is remembered is bounded");
    }

    /// The log was read, and begins at `start`.
    pub fn on_recovered(&mut self, start: LogStart) {
        assert!(self.start == LogStart::default(), "a log is read once");
        self.abandon();
        self.start = start;
        self.complete.retain(|one| one.begin >= start);
        self.assert_invariants();
    }

    /// How many checkpoints are complete.
    pub fn complete(&self) -> usize {
        assert!(self.complete.len() <= CHECKPOINTS_MAX, "what is remembered is bounded");
        self.complete.len()
    }

    /// Where the log begins.
    pub fn start(&self) -> LogStart {
        self.start
    }

    /// The begin of a checkpoint has this place. One that had no end is forgotten.
    pub fn on_begin(&mut self, place: Place) {
        assert!(place.block > 0 && place.segment > 0, "a checkpoint stands in a block");
        assert!(self.open.is_none_or(|open| open.block <= place.block), "checkpoints go up");
        self.open = Some(LogStart { segment: place.segment, block: place.block });
        self.assert_invariants();
    }

    /// The checkpoint that is open goes no further.
    pub fn abandon(&mut self) {
        self.open = None;
        assert!(!self.is_open(), "nothing is left of it");
    }

    /// Something that was in the log is lost: checkpoints that began before say of it what was.
    /// What is let go is let go below those that begin from now on.
    pub fn forget(&mut self) {
        self.abandon();
        (self.complete, self.wanted) = (VecDeque::new(), None);
        assert!(self.complete() == 0 && !self.is_open());
        self.assert_invariants();
    }

    /// Whether a checkpoint began and has no end.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The begin of the checkpoint that is open.
    pub fn open(&self) -> Option<LogStart> {
        self.open
    }

    /// The end of the open checkpoint stands in `block`.
    pub fn on_end(&mut self, block: u64) {
        let begin = self.open.take().expect("a checkpoint begins before it ends");
        assert!(begin.block <= block, "a checkpoint ends behind its begin");
        assert!(begin >= self.start, "a checkpoint of what was let go");
        if self.complete.len() == CHECKPOINTS_MAX {
            // The oldest may be the one that old runs still allow; the log may begin at the wanted
            // one before long. The one behind them goes.
            let wanted = self.wanted.map(|(start, _)| start);
            let is_wanted = wanted == self.complete.get(1).map(|one| one.begin);
            let gone = self.complete.remove(1 + usize::from(is_wanted));
            assert!(gone.is_some_and(|gone| Some(gone.begin) != wanted), "it is still needed");
        }
        self.complete.push_back(Complete { begin, end: block });
        self.assert_invariants();
    }

    /// The newest complete checkpoint that is durable.
    pub fn newest(&self, durable: u64) -> Option<LogStart> {
        let whole = self.complete.iter().rev().find(|one| one.end <= durable)?;
        assert!(whole.begin.block <= durable, "a durable end has a durable begin");
        assert!(whole.begin >= self.start, "the log is read from a begin on that is let go");
        Some(whole.begin)
    }

    /// Every live run of every stream stands in block `oldest` or later (none: there are no
    /// runs), as of everything up to block `appended`.
    pub fn on_live(&mut self, oldest: Option<u64>, appended: u64, durable: u64) {
        assert!(durable <= appended, "only what has a place is durable");
        if self.wanted.is_some() {
            return;
        }
        let whole: Vec<&Complete> = self.complete.iter().filter(|one| one.end <= durable).collect();
        let Some((_, allowed)) = whole.split_last() else { return };
        let clear = |one: &&&Complete| oldest.is_none_or(|oldest| one.begin.block <= oldest);
        let Some(best) = allowed.iter().rev().find(clear) else { return };
        assert!(oldest.is_none_or(|oldest| best.begin.block <= oldest), "a live run is let go");
        if best.begin > self.start && best.begin.segment > self.start.segment {
            self.wanted = Some((best.begin, appended));
        }
        self.assert_invariants();
    }

    /// A new start of the log, once what allowed it is durable. Oldest checkpoints that nobody can
    /// begin at any more are forgotten.
    pub fn poll_start(&mut self, durable: u64) -> Option<LogStart> {
        let (start, needs) = self.wanted?;
        if durable < needs {
            return None;
        }
        self.wanted = None;
        assert!(needs >= start.block, "what allows a start stands behind it");
        assert!(start > self.start, "a log is let go once");
        let later = self.complete.iter().filter(|one| one.begin > start && one.end <= durable);
        assert!(later.count() > 0, "two complete checkpoints stand behind what is let go");
        self.start = start;
        self.complete.retain(|one| one.begin >= start);
        assert!(self.complete.front().is_some_and(|one| one.begin == start));
        self.assert_invariants();
        Some(start)
    }
}

/// What a writer may reuse. The point of no return: a file that is taken here is overwritten.
#[derive(Debug)]
pub(crate) struct LetGo {
    start: LogStart,
    /// Nobody reads the files of segments below this.
    free_below: u64,
}

impl LetGo {
    /// After a start: nobody reads what was no part of the log before.
    pub(crate) fn new(start: LogStart) -> LetGo {
        assert!(start.first_due() > 0, "blocks are numbered from 1");
        LetGo { start, free_below: start.segment }
    }

    pub(crate) fn start(&self) -> LogStart {
        assert!(self.free_below <= self.start.segment, "a file of the log is not free");
        self.start
    }

    pub(crate) fn advance(&mut self, start: LogStart, free_below: u64) {
        assert!(start >= self.start, "what was let go does not come back");
        assert!(free_below <= start.segment, "a file of the log is not free");
        self.start = start;
        self.free_below = self.free_below.max(free_below);
        assert!(self.free_below <= self.start.segment, "a file of the log is free");
    }

    /// How many of the first of `sealed` are free. `open`: the oldest one whose file is open.
    pub(crate) fn free(&self, sealed: &[SegmentFacts], open: Option<u64>) -> usize {
        assert!(sealed.is_sorted_by_key(|facts| facts.seq), "oldest first");
        let below = open.map_or(self.free_below, |open| self.free_below.min(open));
        assert!(below <= self.start.segment, "every live run stands in a later segment");
        sealed.partition_point(|facts| facts.seq < below)
    }

    /// Takes the oldest segment. FORMAT.md, "Reuse", says why nobody needs it.
    pub(crate) fn take(&self, sealed: &mut Vec<SegmentFacts>) -> u64 {
        let taken = sealed.remove(0);
        assert!(taken.sealed, "only a complete segment is reused");
        assert!(taken.seq < self.start.segment, "every live run stands in a later segment");
        assert!(taken.seq < self.free_below, "nobody reads it");
        assert!(sealed.iter().all(|facts| facts.seq > taken.seq), "oldest first");
        taken.seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: u64, block: u64) -> Place {
        Place { segment, offset: 4096, block, len: 4096 }
    }

    fn start(segment: u64, block: u64) -> Option<LogStart> {
        Some(LogStart { segment, block })
    }

    /// Checkpoints of three blocks at the beginning of segments 2, 3 and 4.
    fn three() -> Recycler {
        let mut recycler = Recycler::default();
        for segment in [2, 3, 4] {
            recycler.on_begin(place(segment, segment * 10));
            recycler.on_end(segment * 10 + 2);
        }
        recycler
    }

    #[test]
    fn nothing_is_let_go_below_fewer_than_two_complete_checkpoints() {
        let mut recycler = Recycler::default();
        recycler.on_begin(place(2, 20));
        recycler.on_end(22);
        recycler.on_begin(place(3, 30));
        recycler.on_live(None, 31, 31);
        assert_eq!(recycler.poll_start(31), None, "the second has no end");
        recycler.on_end(32);
        recycler.on_live(None, 32, 31);
        assert_eq!(recycler.poll_start(31), None, "its end is not durable");
        recycler.on_live(None, 32, 32);
        assert_eq!(recycler.poll_start(32), start(2, 20));
        assert_eq!(recycler.start(), LogStart { segment: 2, block: 20 });
    }

    #[test]
    fn a_live_run_holds_everything_from_its_block_on() {
        for (oldest, allowed) in [
            (Some(19), None),
            (Some(20), start(2, 20)),
            (Some(29), start(2, 20)),
            (Some(30), start(3, 30)),
            (Some(45), start(3, 30)),
            (None, start(3, 30)),
        ] {
            let mut recycler = three();
            recycler.on_live(oldest, 50, 50);
            assert_eq!(recycler.poll_start(50), allowed, "{oldest:?}");
        }
    }

    #[test]
    fn what_allowed_it_is_durable_first() {
        let mut recycler = three();
        recycler.on_live(None, 50, 45);
        assert_eq!(recycler.poll_start(49), None);
        assert_eq!(recycler.poll_start(50), start(3, 30));
        assert_eq!(recycler.poll_start(50), None, "once");
    }

    #[test]
    fn after_a_loss_nothing_is_let_go_below_older_checkpoints() {
        let mut recycler = three();
        recycler.on_live(None, 50, 45);
        recycler.forget();
        recycler.on_live(None, 60, 60);
        assert_eq!(recycler.poll_start(60), None);
        for segment in [6, 7] {
            recycler.on_begin(place(segment, segment * 10));
            recycler.on_end(segment * 10 + 2);
        }
        recycler.on_live(None, 80, 80);
        assert_eq!(recycler.poll_start(80), start(6, 60));
    }

    #[test]
    fn the_checkpoint_that_a_log_is_about_to_begin_at_is_not_forgotten() {
        let mut recycler = Recycler::default();
        let checkpoint = |recycler: &mut Recycler, segment: u64| {
            recycler.on_begin(place(segment, segment * 10));
            recycler.on_end(segment * 10 + 1);
        };
        let last = CHECKPOINTS_MAX as u64;
        (1..=last).for_each(|segment| checkpoint(&mut recycler, segment));
        recycler.on_live(Some(25), 5000, 4000);
        (last + 1..last + 9).for_each(|segment| checkpoint(&mut recycler, segment));
        assert_eq!(recycler.complete(), CHECKPOINTS_MAX);
        assert_eq!(recycler.poll_start(5000), start(2, 20));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recycler = Recycler::default();
        for segment in 1..500 {
            recycler.on_begin(place(segment, segment * 10));
            recycler.on_end(segment * 10 + 1);
        }
        assert_eq!(recycler.complete.len(), CHECKPOINTS_MAX);
        recycler.on_live(Some(15), 5000, 5000);
        assert_eq!(recycler.poll_start(5000), start(1, 10), "the oldest is kept for old runs");
    }
}
