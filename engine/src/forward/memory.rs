//! What the forwarder holds for its readers, counted, so that no number of them and nothing that
//! they do takes more than [`FORWARD_BYTES_MAX`](super::limits::FORWARD_BYTES_MAX). No I/O.
//!
//! Each connection has a few KiB of its own for frames that wait. Large groups go from the memory
//! of a shard to the socket, and nothing is held for who takes them. Of who does not they are
//! copied, so that the shard has its memory back, into one space that all share. While somebody
//! finds no room there, who holds much and acknowledges nothing for a while is ended. What is
//! [compressed](super::compress) is counted by itself, and copied in the same way. Bytes of a
//! sealed segment take no memory here: they go from the file to the socket, and the windows that
//! are mapped are [counted](super::windows) by themselves.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use palisade_netio::Nanos;
use palisade_netio::limits::FRAME_BULK_HEAD_BYTES;

use super::cursor::Source;
use super::limits::{
    ANSWERS_BYTES, CURSOR_BYTES, EXTENT_BYTES, EXTENTS_HELD_MAX, FRAME_BYTES, JOIN_BYTES,
    JOIN_MAPPED_BYTES, OUTPUT_OWN_BYTES, PEERS_BYTES_MAX, READ_BYTES, READER_BYTES,
};
use super::queue::SealedExtent;
use crate::seeded::is_seeded;

/// Whether so many connections fit, and so many cursors beyond one of each connection.
pub(crate) fn admits(readers: usize, more_cursors: u64) -> bool {
    peers_bytes(readers, more_cursors) <= PEERS_BYTES_MAX
}

/// What they take at most, but for what they share.
pub(crate) fn peers_bytes(readers: usize, more_cursors: u64) -> u64 {
    readers as u64 * READER_BYTES + more_cursors * CURSOR_BYTES
}

/// What a frame takes until it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Memory.
    pub(crate) own: u64,
    /// Memory that a copy of its body takes; till then its body is in memory of a shard, or in
    /// that of what is compressed.
    pub(crate) copy: u64,
    /// Whether a sealed segment is leased for it.
    pub(crate) leased: bool,
}

impl Cost {
    /// Of a small frame.
    pub(crate) fn small(len: usize) -> Cost {
        Cost { own: FRAME_BYTES + len as u64, copy: 0, leased: false }
    }

    /// Of a chunk.
    pub(crate) fn chunk(source: &Source, len: u64) -> Cost {
        let (small, copy, leased) = match source {
            Source::Mapped { .. } => (len < JOIN_MAPPED_BYTES as u64, 0, true),
            Source::View { .. } | Source::Compressed(_) => (len < JOIN_BYTES as u64, len, false),
        };
        let own = FRAME_BYTES + FRAME_BULK_HEAD_BYTES as u64;
        if small {
            Cost { own: own + len, copy: 0, leased: false }
        } else {
            Cost { own, copy, leased }
        }
    }
}

/// Gives back what a queue needed when it was longer.
pub(crate) fn trim<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > QUEUE_KEPT && queue.len() < queue.capacity() / 4 {
        queue.shrink_to(queue.len() * 2);
    }
}

/// Places that a queue keeps.
const QUEUE_KEPT: usize = 16;

/// The memory that all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    used: u64,
    max: u64,
    /// Some came back.
    grew: bool,
}

impl Shared {
    pub(crate) fn new(max: u64) -> Shared {
        Shared { used: 0, max, grew: false }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// What may still be taken.
    pub(crate) fn free(&self) -> u64 {
        self.max.saturating_sub(self.used)
    }

    /// Whether some came back since the last call.
    pub(crate) fn take_grew(&mut self) -> bool {
        std::mem::take(&mut self.grew)
    }
}

/// A frame that is not written as a whole.
#[derive(Clone, Copy, Debug)]
struct Frame {
    own: u32,
    copy: u32,
    /// When it was queued.
    since: Coarse,
    leased: bool,
}

/// A time to about a second: there are many frames.
#[derive(Clone, Copy, Debug)]
struct Coarse(u32);

impl Coarse {
    const BITS: u32 = 30;

    fn of(now: Nanos) -> Coarse {
        Coarse(u32::try_from(now.0 >> Coarse::BITS).unwrap_or(u32::MAX))
    }

    fn age_ns(self, now: Nanos) -> u64 {
        now.0.saturating_sub(u64::from(self.0 + 1) << Coarse::BITS)
    }
}

/// What is on its way to one connection.
#[derive(Debug)]
pub(crate) struct Output {
    /// Bytes to be written, wherever they stand.
    bytes: u64,
    frames: VecDeque<Frame>,
    /// Sums over the frames.
    held: u64,
    in_shard: u64,
    /// Reads of segments whose results come here.
    reads: u64,
    /// When it was last seen to take a byte, or the first one was queued.
    moved: Nanos,
    /// Bytes written so far, how many of them its peer had acknowledged when that was looked at,
    /// and when that was.
    written: u64,
    acknowledged: u64,
    looked: Nanos,
    /// The socket takes no more.
    blocked: bool,
    /// What it says is not read: there is no room for the answers.
    deaf: bool,
}

impl Output {
    pub(crate) fn new(now: Nanos) -> Output {
        Output {
            bytes: 0,
            frames: VecDeque::new(),
            held: 0,
            in_shard: 0,
            reads: 0,
            moved: now,
            written: 0,
            acknowledged: 0,
            looked: Nanos(0),
            blocked: false,
            deaf: false,
        }
    }

    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// How long it has taken nothing of what waits.
    pub(crate) fn stalled_ns(&self, now: Nanos) -> u64 {
        if self.bytes == 0 { 0 } else { now.since(self.moved) }
    }

    /// How long what waits for it has kept a segment, or memory of a shard.
    pub(crate) fn pinned_ns(&self, now: Nanos) -> u64 {
        let pins = |frame: &&Frame| frame.leased || frame.copy > 0;
        self.frames.iter().find(pins).map_or(0, |frame| frame.since.age_ns(now))
    }

    /// Whether it gets another turn: it takes its bytes, few are on the way, and another chunk fits
    /// into its own memory.
    pub(crate) fn has_room(&self, bytes_max: u64) -> bool {
        let own = self.load() + self.in_shard + READ_BYTES <= OUTPUT_OWN_BYTES;
        !self.blocked && (self.bytes < bytes_max && own || is_seeded("queue_unbounded"))
    }

    /// Whether a small frame of this cost may be queued now.
    pub(crate) fn fits(&self, cost: u64, shared: &Shared) -> bool {
        self.lacks(cost) <= shared.free()
    }

    /// Whether it may without memory that others share.
    pub(crate) fn fits_alone(&self, cost: u64) -> bool {
        self.load() + cost <= OUTPUT_OWN_BYTES
    }

    /// Shared memory that another so many bytes need.
    fn lacks(&self, cost: u64) -> u64 {
        let beyond = (self.load() + cost).saturating_sub(OUTPUT_OWN_BYTES);
        beyond - self.excess().min(beyond)
    }

    /// Shared memory that it was refused.
    pub(crate) fn refused(&self) -> u64 {
        let copies = if self.blocked { self.in_shard } else { 0 };
        self.lacks(copies.max(if self.deaf { ANSWERS_BYTES } else { 0 }))
    }

    /// Whether others may need what it holds: shared memory, or a shard's.
    pub(crate) fn presses(&self) -> bool {
        self.excess() > 0 || self.blocked && self.in_shard > 0
    }

    /// Whether what it says next can be answered.
    pub(crate) fn listens(&mut self, shared: &Shared) -> bool {
        self.deaf = !self.fits(ANSWERS_BYTES, shared);
        !self.deaf
    }

    /// So many of the bytes that were written are not acknowledged by its peer yet.
    pub(crate) fn on_probed(&mut self, unacknowledged: u64, now: Nanos) {
        let acknowledged = self.written.saturating_sub(unacknowledged);
        if acknowledged > self.acknowledged {
            (self.acknowledged, self.moved) = (acknowledged, now);
        }
        self.looked = now;
    }

    /// How long it has acknowledged nothing, if that was looked at within so much time.
    pub(crate) fn idle_ns(&self, now: Nanos, within: u64) -> Option<u64> {
        (now.since(self.looked) <= within).then(|| self.stalled_ns(now))
    }

    /// The socket takes no more. Whether what waits is to be copied: there is room for that.
    pub(crate) fn on_blocked(&mut self, shared: &mut Shared) -> bool {
        self.blocked = true;
        if !self.fits(self.in_shard, shared) {
            return false;
        }
        self.change(shared, |output| {
            output.held += std::mem::take(&mut output.in_shard);
            output.frames.iter_mut().for_each(|frame| frame.own += std::mem::take(&mut frame.copy));
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

    /// A frame of so many bytes is on its way.
    pub(crate) fn queue(&mut self, bytes: u64, cost: Cost, now: Nanos, shared: &mut Shared) {
        if self.bytes == 0 {
            self.moved = now;
        }
        self.bytes += bytes;
        let small = |bytes| u32::try_from(bytes).expect("frames are bounded");
        let (own, copy) = (small(cost.own), small(cost.copy));
        self.frames.push_back(Frame { own, copy, since: Coarse::of(now), leased: cost.leased });
        self.in_shard += cost.copy;
        self.change(shared, |output| output.held += cost.own);
    }

    /// So many bytes were written, the last ones of so many frames.
    pub(crate) fn on_sent(&mut self, bytes: u64, frames: usize, now: Nanos, shared: &mut Shared) {
        assert!(bytes <= self.bytes && frames <= self.frames.len());
        self.bytes -= bytes;
        self.written += bytes;
        self.moved = now;
        self.blocked = false;
        let sums = |(a, b): (u64, u64), frame: Frame| {
            (a + u64::from(frame.own), b + u64::from(frame.copy))
        };
        let (own, copies) = self.frames.drain(..frames).fold((0, 0), sums);
        trim(&mut self.frames);
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
        let after = self.excess();
        shared.used = shared.used - before + after;
        shared.grew |= after < before;
    }
}

/// Places for extents of all cursors.
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
        let left = EXTENTS_HELD_MAX.saturating_sub(self.count.0.get()).max(1);
        self.list = extents.take(left).cloned().collect();
        self.list.shrink_to_fit();
        self.count.0.set(self.count.0.get() + self.list.capacity());
    }

    pub(crate) fn front(&self) -> Option<&SealedExtent> {
        self.list.front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn pop_front(&mut self) {
        self.list.pop_front();
        if self.list.is_empty() {
            self.clear();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.count.0.set(self.count.0.get() - self.list.capacity());
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

    /// A large body in memory of a shard.
    fn large(copy: u64) -> Cost {
        Cost { own: 700, copy, leased: false }
    }

    #[test]
    fn what_one_holds_beyond_its_own_is_shared_and_comes_back() {
        let mut shared = Shared::new(1 << 20);
        let (mut one, mut other) = (Output::new(Nanos(0)), Output::new(Nanos(0)));
        one.queue(1 << 20, large(1 << 20), Nanos(5), &mut shared);
        assert!(!one.presses() && !one.has_room(u64::MAX), "one large body at a time");
        assert!(one.on_blocked(&mut shared) && one.presses());
        assert_eq!(shared.used(), 700 + (1 << 20) - OUTPUT_OWN_BYTES);
        assert_eq!(one.stalled_ns(Nanos(9)), 4);
        // Nobody else is kept from its own, and a large body that is not copied waits.
        other.queue(10, large(0), Nanos(5), &mut shared);
        assert!(other.has_room(11) && other.fits(OUTPUT_OWN_BYTES - 700, &shared));
        other.queue(1 << 20, large(1 << 20), Nanos(5), &mut shared);
        assert!(!other.on_blocked(&mut shared) && other.presses());
        assert!(other.load() == 1400 && other.refused() > shared.free());
        one.on_sent(1 << 20, 1, Nanos(7), &mut shared);
        assert_eq!((one.load(), one.frames(), shared.used()), (0, 0, 0));
        assert!(shared.take_grew() && other.refused() <= shared.free());
        assert!(one.has_room(1) && other.on_blocked(&mut shared));
        other.begin_read(&mut shared);
        other.end_read(&mut shared);
        other.release(&mut shared);
        assert_eq!(shared.used(), 0);
    }

    #[test]
    fn who_acknowledges_moves_whatever_the_socket_takes() {
        let (mut shared, mut output) = (Shared::new(0), Output::new(Nanos(0)));
        output.queue(100, Cost::small(100), Nanos(0), &mut shared);
        output.on_sent(60, 0, Nanos(10), &mut shared);
        assert_eq!((output.stalled_ns(Nanos(30)), output.idle_ns(Nanos(30), 5)), (20, None));
        output.on_probed(60, Nanos(30));
        assert_eq!(output.idle_ns(Nanos(31), 5), Some(21), "it has acknowledged nothing");
        output.on_probed(59, Nanos(40));
        output.on_probed(59, Nanos(45));
        assert_eq!(output.idle_ns(Nanos(50), 5), Some(10));
        assert_eq!(output.idle_ns(Nanos(51), 5), None, "nobody looked since");
    }

    #[test]
    fn a_frame_that_waits_is_as_old_as_it_is_and_a_queue_that_was_long_is_not_kept() {
        let (mut shared, mut output) = (Shared::new(1 << 30), Output::new(Nanos(0)));
        let (leased, second) = (Cost { leased: true, ..large(0) }, 1 << Coarse::BITS);
        (0..10_000).for_each(|_| output.queue(1, large(0), Nanos(0), &mut shared));
        output.queue(1, leased, Nanos(5 * second), &mut shared);
        assert_eq!(output.pinned_ns(Nanos(60 * second)), 54 * second);
        output.on_sent(10_000, 10_000, Nanos(0), &mut shared);
        assert!(output.frames.capacity() <= QUEUE_KEPT, "{}", output.frames.capacity());
        assert_eq!(output.pinned_ns(Nanos(60 * second)), 54 * second);
        output.on_sent(1, 1, Nanos(0), &mut shared);
        assert_eq!(output.pinned_ns(Nanos(60 * second)), 0);
    }
}
