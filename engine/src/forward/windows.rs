//! Which windows of mapped segments are in memory: a bounded number, and the one that was used
//! longest ago goes first. No I/O.

use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::rc::{Rc, Weak};

use super::limits::{AHEADS_MAX, PREFAULT_BYTES, WINDOWS_MAX};
use super::maps::Mapped;

/// A part of a segment to be read from the disk, once others gave their memory back.
#[derive(Debug)]
pub struct Warming<M> {
    /// The segment.
    pub mapped: Rc<Mapped<M>>,
    /// Whole windows of it.
    pub range: Range<usize>,
    /// What is in memory no longer: first this goes, then the range comes.
    pub give_back: Vec<(Rc<Mapped<M>>, Range<usize>)>,
    ahead: bool,
}

#[derive(Debug)]
struct Window<M> {
    /// A segment that nobody maps any more takes no memory.
    mapped: Weak<Mapped<M>>,
    number: usize,
    /// Reads of it that are on their way.
    coming: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Windows<M> {
    /// The one that was used longest ago first.
    known: VecDeque<Window<M>>,
    /// Reads ahead on their way.
    aheads: usize,
}

impl<M> Default for Windows<M> {
    fn default() -> Windows<M> {
        Windows { known: VecDeque::new(), aheads: 0 }
    }
}

impl<M: Deref<Target = [u8]>> Windows<M> {
    /// The windows of the block at `offset` are used.
    pub(crate) fn touch(&mut self, mapped: &Rc<Mapped<M>>, offset: u64) {
        for number in mapped.windows(offset) {
            if let Some(at) = self.position(mapped, number) {
                self.known.make_contiguous()[at..].rotate_left(1);
            }
        }
    }

    /// The part that a read of these windows needs.
    pub(crate) fn warm(&mut self, mapped: Rc<Mapped<M>>, range: Range<usize>) -> Warming<M> {
        self.begin(mapped, range, false)
    }

    /// The window behind those of the block at `offset`, if it is there, nobody reads it yet,
    /// and few others are read ahead.
    pub(crate) fn ahead(&mut self, mapped: &Rc<Mapped<M>>, offset: u64) -> Option<Warming<M>> {
        let number = mapped.windows(offset).end;
        let start = number * PREFAULT_BYTES;
        let wanted = start < mapped.map.len() && self.position(mapped, number).is_none();
        (wanted && self.aheads < AHEADS_MAX).then(|| {
            self.aheads += 1;
            self.begin(mapped.clone(), start..start + PREFAULT_BYTES, true)
        })
    }

    /// A part was read, or could not be.
    pub(crate) fn on_warmed(&mut self, warming: &Warming<M>, read: bool) {
        self.aheads -= usize::from(warming.ahead);
        for number in numbers(&warming.range) {
            let at = self.position(&warming.mapped, number).expect("what comes stays known");
            self.known[at].coming -= 1;
            if read {
                warming.mapped.set_warm(number);
            } else if self.known[at].coming == 0 {
                warming.mapped.set_cold(number);
                self.known.remove(at);
            }
        }
    }

    /// Bytes of segments that are in memory, or on their way.
    pub(crate) fn bytes(&self) -> u64 {
        let live = self.known.iter().filter(|window| window.mapped.strong_count() > 0);
        (live.count() * PREFAULT_BYTES) as u64
    }

    fn begin(&mut self, mapped: Rc<Mapped<M>>, range: Range<usize>, ahead: bool) -> Warming<M> {
        for number in numbers(&range) {
            let coming = match self.position(&mapped, number).and_then(|at| self.known.remove(at)) {
                Some(window) => window.coming + 1,
                None => 1,
            };
            self.known.push_back(Window { mapped: Rc::downgrade(&mapped), number, coming });
        }
        self.known.retain(|window| window.mapped.strong_count() > 0);
        let mut give_back = Vec::new();
        while self.known.len() > WINDOWS_MAX {
            let at = self.known.iter().position(|window| window.coming == 0);
            let at = at.expect("what is on its way is less than all");
            let Some(window) = self.known.remove(at) else { break };
            let Some(old) = window.mapped.upgrade() else { continue };
            let start = window.number * PREFAULT_BYTES;
            old.set_cold(window.number);
            give_back.push((old, start..start + PREFAULT_BYTES));
        }
        Warming { mapped, range, give_back, ahead }
    }

    fn position(&self, mapped: &Rc<Mapped<M>>, number: usize) -> Option<usize> {
        let same = |window: &Window<M>| std::ptr::eq(window.mapped.as_ptr(), Rc::as_ptr(mapped));
        self.known.iter().position(|window| window.number == number && same(window))
    }
}

fn numbers(range: &Range<usize>) -> Range<usize> {
    range.start / PREFAULT_BYTES..range.end / PREFAULT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::queue::{Lease, SealedExtent};
    use crate::forward::testlog::{BALLOT, EXPECT};
    use palisade_wal::Lsn;

    fn segment(windows: usize) -> Rc<Mapped<Vec<u8>>> {
        let path = std::path::Path::new("sealed").into();
        let (start, end) = (Lsn(0), Lsn(8));
        let (lease, ballot) = (Lease::new(), BALLOT);
        let extent = SealedExtent { path, lease, expect: EXPECT, start, end, ballot };
        Rc::new(Mapped::new(vec![0; windows * PREFAULT_BYTES], &extent))
    }

    fn range(first: usize) -> Range<usize> {
        first * PREFAULT_BYTES..(first + 2) * PREFAULT_BYTES
    }

    #[test]
    fn the_window_used_longest_ago_goes_and_none_that_comes() {
        let (mapped, mut windows) = (segment(100), Windows::default());
        for first in (0..WINDOWS_MAX).step_by(2) {
            let warming = windows.warm(mapped.clone(), range(first));
            assert!(warming.give_back.is_empty());
            windows.on_warmed(&warming, true);
        }
        assert_eq!(windows.bytes(), (WINDOWS_MAX * PREFAULT_BYTES) as u64);
        windows.touch(&mapped, 0);
        let coming = windows.warm(mapped.clone(), range(2));
        let warming = windows.warm(mapped.clone(), range(50));
        let gone: Vec<usize> = warming.give_back.iter().map(|(_, range)| range.start).collect();
        assert_eq!(gone, [4 * PREFAULT_BYTES, 5 * PREFAULT_BYTES], "0 was used, 2 comes");
        assert!(mapped.cold(4 * PREFAULT_BYTES as u64).is_some());
        assert!(mapped.cold(0).is_none());
        windows.on_warmed(&warming, false);
        assert!(mapped.cold(50 * PREFAULT_BYTES as u64).is_some());
        windows.on_warmed(&coming, true);
        assert_eq!(windows.bytes(), ((WINDOWS_MAX - 2) * PREFAULT_BYTES) as u64);
        drop((coming, warming, mapped));
        assert_eq!(windows.bytes(), 0, "nobody maps it");
    }

    #[test]
    fn few_are_read_ahead_and_none_twice_or_behind_the_end() {
        let (mapped, mut windows) = (segment(30), Windows::default());
        let first = windows.ahead(&mapped, 0).unwrap();
        assert!(windows.ahead(&mapped, 0).is_none());
        assert!(windows.ahead(&mapped, 28 * PREFAULT_BYTES as u64).is_none());
        let at = |window: usize| (window * PREFAULT_BYTES) as u64;
        let more: Vec<_> =
            (1..20).filter_map(|window| windows.ahead(&mapped, at(window))).collect();
        assert_eq!(more.len(), AHEADS_MAX - 1);
        windows.on_warmed(&first, true);
        assert!(windows.ahead(&mapped, at(20)).is_some());
    }
}
