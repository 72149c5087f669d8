//! What the forwarder holds for its readers, counted, so that no number of them and nothing that
//! they do takes more than [`FORWARD_BYTES_MAX`](super::limits::FORWARD_BYTES_MAX). No I/O.
//!
//! Each connection has a few KiB of its own for frames that wait. Large groups go from the memory
//! of a shard to the socket, and nothing is held for who takes them. Of who does not they are
//! copied, so that the shard has its memory back, into one space that all share; who finds no room
//! there, and takes nothing for a while either, is ended. Bytes of a sealed segment take no memory
//! here: they go from the file to the socket, and the windows that are mapped are
//! [counted](super::windows) by themselves.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use palisade_netio::Nanos;
use palisade_netio::limits::FRAME_BULK_HEAD_BYTES;

use super::cursor::Source;
use super::limits::{
    CURSOR_BYTES, EXTENT_BYTES, EXTENTS_HELD_MAX, FRAME_BYTES, JOIN_BYTES, JOIN_MAPPED_BYTES,
    OUTPUT_OWN_BYTES, PEERS_BYTES_MAX, READ_BYTES, READER_BYTES,
};
use super::queue::SealedExtent;

/// Whether so many connections fit, and so many cursors beyond one of each connection.
pub(crate) fn admits(readers: usize, more_cursors: u64) -> bool {
    peers_bytes(readers, more_cursors) <= PEERS_BYTES_MAX
}

/// What they take at most, but for what they share.
pub(crate) fn peers_bytes(readers: usize, more_cursors: u64) -> u64 {
    readers as u64 * READER_BYTES + more_cursors * CURSOR_BYTES
}

/// Memory that a chunk takes until it is written, and what it takes more if it has to be copied.
pub(crate) fn chunk_cost(source: &Source, len: u64) -> (u64, u64) {
    let (small, copied) = match source {
        Source::Mapped { .. } => (len < JOIN_MAPPED_BYTES as u64, 0),
        Source::View { .. } => (len < JOIN_BYTES as u64, len),
    };
    let head = FRAME_BYTES + FRAME_BULK_HEAD_BYTES as u64;
    if small { (head + len, 0) } else { (head, copied) }
}

/// The memory that all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    used: u64,
    max: u64,
}

impl Shared {
    pub(crate) fn new(max: u64) -> Shared {
        Shared { used: 0, max }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// What may still be taken.
    fn free(&self) -> u64 {
        self.max.saturating_sub(self.used)
    }
}

/// What is on its way to one connection.
#[derive(Debug)]
pub(crate) struct Output {
    /// Bytes to be written, wherever they stand.
    bytes: u64,
    /// Memory of each frame that is not written as a whole, and what a copy of its body takes.
    frames: VecDeque<(u32, u32)>,
    /// The sums of both.
    held: u64,
    in_shard: u64,
    /// Reads of segments whose results come here.
    reads: u64,
    /// When a byte was taken last, or the first one queued.
    moved: Nanos,
    /// The socket takes no more.
    blocked: bool,
}

impl Output {
    pub(crate) fn new(now: Nanos) -> Output {
        let frames = VecDeque::new();
        Output { bytes: 0, frames, held: 0, in_shard: 0, reads: 0, moved: now, blocked: false }
    }

    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// How long it has taken nothing of what waits.
    pub(crate) fn stalled_ns(&self, now: Nanos) -> u64 {
        if self.bytes == 0 { 0 } else { now.since(self.moved) }
    }

    /// Whether it gets another turn: it takes its bytes, few are on the way, and another chunk fits
    /// into its own memory.
    pub(crate) fn has_room(&self, bytes_max: u64) -> bool {
        let own = self.load() + self.in_shard + READ_BYTES <= OUTPUT_OWN_BYTES;
        !self.blocked && self.bytes < bytes_max && own
    }

    /// Whether a small frame of this cost may be queued now.
    pub(crate) fn fits(&self, cost: u64, shared: &Shared) -> bool {
        let beyond = (self.load() + cost).saturating_sub(OUTPUT_OWN_BYTES);
        beyond - self.excess().min(beyond) <= shared.free()
    }

    /// Whether others may need what it holds: shared memory, or a shard's.
    pub(crate) fn presses(&self) -> bool {
        self.excess() > 0 || self.blocked && self.in_shard > 0
    }

    /// The socket takes no more. Whether what waits is to be copied: there is room for that.
    pub(crate) fn on_blocked(&mut self, shared: &mut Shared) -> bool {
        self.blocked = true;
        if !self.fits(self.in_shard, shared) {
            return false;
        }
        self.change(shared, |output| {
            output.held += std::mem::take(&mut output.in_shard);
            output.frames.iter_mut().for_each(|(own, copy)| *own += std::mem::take(copy));
        });
        true
    }

    /// Something is read for it.
    pub(crate) fn begin_read(&mut self, shared: &mut Shared) {
        self.change(shared, |output| output.reads += 1);
    }

    /// A read for it ended.
    pub(crate) fn end_read(&mut self, shared: &mut Shared) {
        assert!(self.reads > 0, "a read ends once");
        self.change(shared, |output| output.reads -= 1);
    }

    /// A frame is on its way; what it takes, and what a copy of its body would take.
    pub(crate) fn queue(
        &mut self,
        bytes: u64,
        (own, copy): (u64, u64),
        now: Nanos,
        shared: &mut Shared,
    ) {
        if self.bytes == 0 {
            self.moved = now;
        }
        self.bytes += bytes;
        let cost = |bytes| u32::try_from(bytes).expect("frames are bounded");
        self.frames.push_back((cost(own), cost(copy)));
        self.in_shard += copy;
        self.change(shared, |output| output.held += own);
    }

    /// So many bytes were written, the last ones of so many frames.
    pub(crate) fn on_sent(&mut self, bytes: u64, frames: usize, now: Nanos, shared: &mut Shared) {
        assert!(bytes <= self.bytes && frames <= self.frames.len());
        self.bytes -= bytes;
        self.moved = now;
        self.blocked = false;
        let sums = |(a, b): (u64, u64), (own, copy)| (a + u64::from(own), b + u64::from(copy));
        let (own, copies) = self.frames.drain(..frames).fold((0, 0), sums);
        self.in_shard -= copies;
        self.change(shared, |output| output.held -= own);
    }

    /// The connection is gone.
    pub(crate) fn release(&mut self, shared: &mut Shared) {
        self.change(shared, |output| {
            output.frames.clear();
            (output.held, output.in_shard, output.reads, output.bytes) = (0, 0, 0, 0);
        });
    }

    /// What it holds, with room for what is being read for it.
    pub(crate) fn load(&self) -> u64 {
        self.held + self.reads * READ_BYTES
    }

    fn excess(&self) -> u64 {
        self.load().saturating_sub(OUTPUT_OWN_BYTES)
    }

    fn change(&mut self, shared: &mut Shared, change: impl FnOnce(&mut Output)) {
        let before = self.excess();
        change(self);
        shared.used = shared.used - before + self.excess();
    }
}

/// Extents of all cursors.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExtentCount(Rc<Cell<usize>>);

impl ExtentCount {
    /// Bytes that they take beyond the one that each cursor has room for.
    pub(crate) fn bytes(&self, cursors: u64) -> u64 {
        (self.0.get() as u64).saturating_sub(cursors) * EXTENT_BYTES
    }
}

/// Where the next bytes of a cursor stand, with their leases. A cursor always keeps one; more, as
/// long as all cursors together do not keep too many.
#[derive(Debug)]
pub(crate) struct Extents {
    list: VecDeque<SealedExtent>,
    count: ExtentCount,
}

impl Extents {
    pub(crate) fn new(count: ExtentCount) -> Extents {
        Extents { list: VecDeque::new(), count }
    }

    pub(crate) fn set<'a>(&mut self, extents: impl Iterator<Item = &'a SealedExtent>) {
        self.clear();
        for extent in extents {
            let held = self.count.0.get();
            if !self.list.is_empty() && held >= EXTENTS_HELD_MAX {
                break;
            }
            self.list.push_back(extent.clone());
            self.count.0.set(held + 1);
        }
    }

    pub(crate) fn front(&self) -> Option<&SealedExtent> {
        self.list.front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn pop_front(&mut self) {
        if self.list.pop_front().is_some() {
            self.count.0.set(self.count.0.get() - 1);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.count.0.set(self.count.0.get() - self.list.len());
        self.list = VecDeque::new();
    }
}

impl Drop for Extents {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_holds_beyond_its_own_is_shared_and_comes_back() {
        let mut shared = Shared::new(1 << 20);
        let (mut one, mut other) = (Output::new(Nanos(0)), Output::new(Nanos(0)));
        one.queue(1 << 20, (700, 1 << 20), Nanos(5), &mut shared);
        assert!(!one.presses() && !one.has_room(u64::MAX), "one large body at a time");
        assert!(one.on_blocked(&mut shared) && one.presses());
        assert_eq!(shared.used(), 700 + (1 << 20) - OUTPUT_OWN_BYTES);
        assert_eq!(one.stalled_ns(Nanos(9)), 4);
        // Nobody else is kept from its own, and a large body that is not copied waits.
        other.queue(10, (700, 0), Nanos(5), &mut shared);
        assert!(other.has_room(11) && other.fits(OUTPUT_OWN_BYTES - 700, &shared));
        other.queue(1 << 20, (700, 1 << 20), Nanos(5), &mut shared);
        assert!(!other.on_blocked(&mut shared) && other.presses());
        assert_eq!(other.load(), 1400);
        one.on_sent(1 << 20, 1, Nanos(7), &mut shared);
        assert_eq!((one.load(), one.frames(), shared.used()), (0, 0, 0));
        assert!(one.has_room(1) && other.on_blocked(&mut shared));
        other.begin_read(&mut shared);
        other.end_read(&mut shared);
        other.release(&mut shared);
        assert_eq!(shared.used(), 0);
    }
}
