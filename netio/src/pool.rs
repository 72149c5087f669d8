//! The pool of aligned slots: all memory that the kernel reads from or writes into.
//!
//! One arena per shard, cut into slots by a buddy allocator, so that a slot of up to
//! [`REGISTERED_STEP`] bytes lies within one registered buffer. A slot is counted: its owner holds
//! one reference, every operation in flight pins it, and every [`SlotView`] given to another
//! thread pins it until the view is dropped there. Only the shard frees a slot; views give their
//! pin back on a queue.
//!
//! A slot starts with a head of [`HEAD_BYTES`]. The head belongs to this node alone (views never
//! show it), so it may be rewritten while the body is being sent.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::op::Run;

/// Alignment and smallest size of a slot.
pub const PAGE_BYTES: usize = 4096;
/// Bytes at the start of a slot that hold this node's own header.
pub const HEAD_BYTES: usize = 512;
/// Largest slot: a head and a block of 2 MiB fit.
pub const SLOT_BYTES_MAX: usize = 4 << 20;
/// Size of one buffer registered with the kernel.
pub const REGISTERED_STEP: usize = 256 << 10;

const ORDERS: usize = (SLOT_BYTES_MAX / PAGE_BYTES).trailing_zeros() as usize + 1;
const POISON: u8 = 0xDE;

/// Names a slot of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u32);

/// What a slot is taken for. Each purpose has a quota, so that none can starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// The open batch and writes in flight.
    Write,
    /// Bytes being received.
    Receive,
    /// Recent bytes kept for readers.
    Tail,
    /// Reads from files.
    Read,
}

const PURPOSES: usize = 4;

/// How many bytes each purpose may hold at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// For [`Purpose::Write`].
    pub write: usize,
    /// For [`Purpose::Receive`].
    pub receive: usize,
    /// For [`Purpose::Tail`].
    pub tail: usize,
    /// For [`Purpose::Read`].
    pub read: usize,
}

impl Quotas {
    /// The arena that fits these quotas, rounded for the buddy allocator.
    pub fn arena_bytes(&self) -> usize {
        let sum = self.write + self.receive + self.tail + self.read;
        sum.next_multiple_of(SLOT_BYTES_MAX)
    }
}

#[derive(Clone, Copy, Default)]
struct Slot {
    refs: u32,
    /// Operations and views that read the body.
    readers: u32,
    /// None of them reads beyond this.
    read_upto: u32,
    /// Operations in flight that read or write the head.
    head_pins: u32,
    /// Operations in flight that write into the slot.
    fills: u32,
    order: u8,
    purpose: u8,
}

impl Slot {
    fn note_reader(&mut self, end: u32) {
        self.readers += 1;
        self.read_upto = self.read_upto.max(end);
    }

    fn forget_reader(&mut self) {
        self.readers -= 1;
        if self.readers == 0 {
            self.read_upto = 0;
        }
    }
}

/// Aligned, counted memory for one shard. The [crate] tells the rules.
pub struct Pool {
    memory: Arc<Memory>,
    slots: Vec<Slot>,
    free: [Vec<u32>; ORDERS],
    /// Order of the free block that starts at a page, plus one; 0 where none starts.
    free_order: Vec<u8>,
    returns: Arc<ArrayQueue<SlotId>>,
    used: [usize; PURPOSES],
    quota: [usize; PURPOSES],
    poison: bool,
}

impl Pool {
    /// Maps an arena for `quotas`.
    ///
    /// # Errors
    /// When the kernel refuses the memory.
    pub fn new(quotas: Quotas) -> std::io::Result<Pool> {
        let bytes = quotas.arena_bytes();
        assert!(bytes > 0 && bytes.is_multiple_of(SLOT_BYTES_MAX));
        let pages = bytes / PAGE_BYTES;
        let mut pool = Pool {
            memory: Arc::new(Memory::map(bytes)?),
            slots: vec![Slot::default(); pages],
            free: Default::default(),
            free_order: vec![0; pages],
            // Every view holds a reference of its slot; four views a page at once are plenty,
            // and `view` refuses to make more.
            returns: Arc::new(ArrayQueue::new(pages * 4)),
            used: [0; PURPOSES],
            quota: [quotas.write, quotas.receive, quotas.tail, quotas.read],
            poison: false,
        };
        for page in (0..pages).step_by(SLOT_BYTES_MAX / PAGE_BYTES).rev() {
            pool.put_free(page as u32, ORDERS - 1);
        }
        Ok(pool)
    }

    /// Overwrites slots when they are freed, so that a late reader is seen.
    pub fn poison_freed(&mut self) {
        self.poison = true;
    }

    /// Takes a slot of at least `len` bytes, or none when memory or the purpose's quota is used up.
    ///
    /// # Panics
    /// When `len` is 0 or above [`SLOT_BYTES_MAX`].
    pub fn take(&mut self, purpose: Purpose, len: usize) -> Option<SlotId> {
        assert!(len > 0 && len <= SLOT_BYTES_MAX, "slot of {len} bytes");
        let order = order_of(len);
        let bytes = PAGE_BYTES << order;
        if self.used[purpose as usize] + bytes > self.quota[purpose as usize] {
            return None;
        }
        let from = (order..ORDERS).find(|&o| !self.free[o].is_empty())?;
        let page = self.free[from].pop().expect("a free block was found");
        self.free_order[page as usize] = 0;
        for split in (order..from).rev() {
            self.put_free(page + (1 << split), split);
        }
        let slot = &mut self.slots[page as usize];
        assert!(slot.refs == 0, "slot {page} is free and counted");
        *slot = Slot { refs: 1, order: order as u8, purpose: purpose as u8, ..Slot::default() };
        self.used[purpose as usize] += bytes;
        Some(SlotId(page))
    }

    /// Bytes in a slot.
    pub fn capacity(&self, slot: SlotId) -> usize {
        PAGE_BYTES << self.live(slot).order
    }

    /// Owners, operations and views that keep a slot; 1 when nobody but the caller does.
    pub fn owners(&self, slot: SlotId) -> u32 {
        self.live(slot).refs
    }

    /// Whether an operation or a view uses a slot, so that its bytes may not change.
    fn is_shared(&self, slot: SlotId) -> bool {
        let live = self.live(slot);
        live.fills + live.readers + live.head_pins > 0
    }

    /// Bytes that a slot for `len` bytes takes, and counts against its quota.
    ///
    /// # Panics
    /// When `len` is 0 or above [`SLOT_BYTES_MAX`].
    pub fn slot_bytes(len: usize) -> usize {
        assert!(len > 0 && len <= SLOT_BYTES_MAX, "slot of {len} bytes");
        PAGE_BYTES << order_of(len)
    }

    /// Copies the bytes of `from` to the start of the slot `to`.
    ///
    /// # Panics
    /// When `to` is the same slot, too small, or used by anything else, or `from` is being filled.
    pub fn copy(&mut self, from: Run, to: SlotId) {
        self.check(from);
        let (live, len) = (self.live(to), from.len as usize);
        assert!(live.fills == 0 && live.readers == 0 && live.head_pins == 0, "slot is shared");
        assert!(self.live(from.slot).fills == 0, "slot {} is being filled", from.slot.0);
        assert!(from.slot != to && len <= PAGE_BYTES << live.order);
        let source = self.memory.slice(from.slot.start() + from.at as usize, len);
        self.memory.slice_mut(to.start(), len).copy_from_slice(source);
    }

    /// Adds an owner.
    pub fn retain(&mut self, slot: SlotId) {
        self.live_mut(slot).refs += 1;
    }

    /// Gives up one ownership; the slot is free when owners, operations and views are gone.
    pub fn release(&mut self, slot: SlotId) {
        let live = self.live_mut(slot);
        live.refs -= 1;
        if live.refs > 0 {
            return;
        }
        assert!(live.readers == 0 && live.fills == 0 && live.head_pins == 0);
        let (order, purpose) = (live.order as usize, live.purpose as usize);
        self.used[purpose] -= PAGE_BYTES << order;
        if self.poison {
            self.memory.slice_mut(slot.start(), PAGE_BYTES << order).fill(POISON);
        }
        self.put_free(slot.0, order);
    }

    /// Counts a slot to another purpose from now on, whatever that purpose's quota.
    pub fn repurpose(&mut self, slot: SlotId, purpose: Purpose) {
        let live = self.live_mut(slot);
        let bytes = PAGE_BYTES << live.order;
        let old = std::mem::replace(&mut live.purpose, purpose as u8);
        self.used[old as usize] -= bytes;
        self.used[purpose as usize] += bytes;
    }

    /// Bytes held for a purpose.
    pub fn used(&self, purpose: Purpose) -> usize {
        self.used[purpose as usize]
    }

    /// Bytes that a purpose may hold.
    pub fn quota(&self, purpose: Purpose) -> usize {
        self.quota[purpose as usize]
    }

    /// The bytes of a slot.
    ///
    /// # Panics
    /// While an operation writes into the slot.
    pub fn bytes(&self, slot: SlotId) -> &[u8] {
        let live = self.live(slot);
        assert!(live.fills == 0, "slot {} is being filled", slot.0);
        self.memory.slice(slot.start(), PAGE_BYTES << live.order)
    }

    /// The bytes of a slot, to change.
    ///
    /// # Panics
    /// While anything else uses the slot.
    pub fn bytes_mut(&mut self, slot: SlotId) -> &mut [u8] {
        assert!(!self.is_shared(slot), "slot is shared");
        let len = self.capacity(slot);
        self.memory.slice_mut(slot.start(), len)
    }

    /// Two slots at once: the bytes of one, and those of another to change.
    ///
    /// # Panics
    /// When they are the same slot, one is being filled, or the second is shared.
    pub fn pair(&mut self, from: SlotId, to: SlotId) -> (&[u8], &mut [u8]) {
        assert!(from != to, "one slot cannot be read and changed at once");
        let (source, target) = (self.live(from), self.live(to));
        assert!(source.fills == 0, "slot {} is being filled", from.0);
        assert!(!self.is_shared(to), "slot is shared");
        let (source, target) = (PAGE_BYTES << source.order, PAGE_BYTES << target.order);
        (self.memory.slice(from.start(), source), self.memory.slice_mut(to.start(), target))
    }

    /// The bytes of one slot, and those of another from `at` on to change; what stands before may
    /// be in use elsewhere.
    ///
    /// # Panics
    /// When they are the same slot, one is being filled, or somebody reads the second beyond `at`.
    pub fn pair_from(&mut self, from: SlotId, to: SlotId, at: usize) -> (&[u8], &mut [u8]) {
        assert!(from != to, "one slot cannot be read and changed at once");
        let (source, target) = (self.live(from), self.live(to));
        assert!(source.fills == 0 && target.fills == 0, "a slot is being filled");
        assert!(target.read_upto as usize <= at, "somebody reads what is to change");
        let (source, target) = (PAGE_BYTES << source.order, PAGE_BYTES << target.order);
        assert!((HEAD_BYTES..=target).contains(&at), "bytes from {at} of a slot of {target}");
        let bytes = self.memory.slice(from.start(), source);
        (bytes, self.memory.slice_mut(to.start() + at, target - at))
    }

    /// The head of a slot, to change; the body may be in use elsewhere.
    ///
    /// # Panics
    /// While an operation uses the head.
    pub fn head_mut(&mut self, slot: SlotId) -> &mut [u8] {
        let live = self.live(slot);
        assert!(live.fills == 0 && live.head_pins == 0, "the head of the slot is in use");
        self.memory.slice_mut(slot.start(), HEAD_BYTES)
    }

    /// Shows body bytes of a slot to another thread. None when too many views are out.
    ///
    /// # Panics
    /// When `range` reaches into the head or beyond the slot.
    pub fn view(&mut self, slot: SlotId, range: Range<u32>) -> Option<SlotView> {
        let live = self.live(slot);
        let len = PAGE_BYTES << live.order;
        assert!(range.start as usize >= HEAD_BYTES && range.end as usize <= len);
        assert!(range.start <= range.end && live.fills == 0);
        let out: usize = self.slots.len() * 4;
        if live.readers as usize * 4 >= out {
            return None;
        }
        let live = self.live_mut(slot);
        live.refs += 1;
        live.note_reader(range.end);
        Some(SlotView(Arc::new(View {
            memory: self.memory.clone(),
            start: slot.start() + range.start as usize,
            len: (range.end - range.start) as usize,
            slot,
            returns: self.returns.clone(),
        })))
    }

    /// Takes back the pins of views that were dropped elsewhere. Called once a turn.
    pub fn collect(&mut self) {
        while let Some(slot) = self.returns.pop() {
            self.live_mut(slot).forget_reader();
            self.release(slot);
        }
    }

    /// Pins the run for an operation that reads it.
    pub fn pin_read(&mut self, run: Run) {
        self.check(run);
        let live = self.live_mut(run.slot);
        assert!(live.fills == 0, "slot {} is being filled", run.slot.0);
        live.refs += 1;
        live.note_reader(run.at + run.len);
        live.head_pins += u32::from((run.at as usize) < HEAD_BYTES);
    }

    /// Ends [`pin_read`](Pool::pin_read) of the same run.
    pub fn unpin_read(&mut self, run: Run) {
        let live = self.live_mut(run.slot);
        live.forget_reader();
        live.head_pins -= u32::from((run.at as usize) < HEAD_BYTES);
        self.release(run.slot);
    }

    /// Pins the run for an operation that writes into it.
    pub fn pin_fill(&mut self, run: Run) {
        self.check(run);
        let live = self.live_mut(run.slot);
        assert!(live.fills == 0 && live.readers == 0, "slot {} is shared", run.slot.0);
        live.refs += 1;
        live.fills += 1;
    }

    /// Ends [`pin_fill`](Pool::pin_fill) of the same run.
    pub fn unpin_fill(&mut self, run: Run) {
        self.live_mut(run.slot).fills -= 1;
        self.release(run.slot);
    }

    /// What the kernel sees of a run that is pinned for reading.
    pub fn pinned(&self, run: Run) -> &[u8] {
        self.check(run);
        assert!(self.live(run.slot).readers > 0, "slot {} is not pinned", run.slot.0);
        self.memory.slice(run.slot.start() + run.at as usize, run.len as usize)
    }

    /// Writes what the kernel would write into a run that is pinned to be filled.
    ///
    /// # Panics
    /// When the run is not pinned by [`pin_fill`](Pool::pin_fill) or `data` is longer.
    pub fn fill(&mut self, run: Run, data: &[u8]) {
        self.check(run);
        assert!(self.live(run.slot).fills > 0 && data.len() <= run.len as usize);
        self.memory.slice_mut(run.slot.start() + run.at as usize, data.len()).copy_from_slice(data);
    }

    /// Address of a run, for the kernel.
    pub(crate) fn address(&self, run: Run) -> *mut u8 {
        self.check(run);
        self.memory.address(run.slot.start() + run.at as usize)
    }

    /// Where a run lies: the registered step, if it lies within one.
    pub(crate) fn step(&self, run: Run) -> Option<u16> {
        let start = run.slot.start() + run.at as usize;
        let first = start / REGISTERED_STEP;
        let last = (start + run.len as usize - 1) / REGISTERED_STEP;
        (first == last && run.len > 0).then_some(first as u16)
    }

    /// The arena, for registration.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn check(&self, run: Run) {
        let len = PAGE_BYTES << self.live(run.slot).order;
        assert!(run.at as usize + run.len as usize <= len, "run beyond its slot");
    }

    fn live(&self, slot: SlotId) -> &Slot {
        let live = &self.slots[slot.0 as usize];
        assert!(live.refs > 0, "slot {} is free", slot.0);
        live
    }

    fn live_mut(&mut self, slot: SlotId) -> &mut Slot {
        let live = &mut self.slots[slot.0 as usize];
        assert!(live.refs > 0, "slot {} is free", slot.0);
        live
    }

    /// Frees a block and joins it with its buddies.
    fn put_free(&mut self, mut page: u32, mut order: usize) {
        while order < ORDERS - 1 {
            let buddy = page ^ (1 << order);
            if self.free_order[buddy as usize] != order as u8 + 1 {
                break;
            }
            let at = self.free[order].iter().rposition(|&p| p == buddy);
            self.free[order].swap_remove(at.expect("a free block is in its list"));
            self.free_order[buddy as usize] = 0;
            page = page.min(buddy);
            order += 1;
        }
        self.free_order[page as usize] = order as u8 + 1;
        self.free[order].push(page);
    }
}

impl SlotId {
    fn start(self) -> usize {
        self.0 as usize * PAGE_BYTES
    }
}

fn order_of(len: usize) -> usize {
    len.div_ceil(PAGE_BYTES).next_power_of_two().trailing_zeros() as usize
}

/// Body bytes of a slot, readable on any thread. The slot stays as it is until the last clone is
/// dropped.
#[derive(Clone)]
pub struct SlotView(Arc<View>);

struct View {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
    slot: SlotId,
    returns: Arc<ArrayQueue<SlotId>>,
}

impl std::ops::Deref for SlotView {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.memory.slice(self.0.start, self.0.len)
    }
}

impl std::fmt::Debug for SlotView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlotView({} bytes of slot {})", self.0.len, self.0.slot.0)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // The queue holds more entries than views can be out, so this never fails while the
        // pool lives; after the pool is gone nobody needs the pin.
        let _ = self.returns.push(self.slot);
    }
}

/// The mapped arena. Which part may be read or written when is decided by [`Pool`].
pub(crate) struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the arena is plain memory. `Pool` (one thread, `&mut`) is the only one to write it, and
// never a range that a view shows: `bytes_mut` and `pin_fill` require that there are no views,
// `head_mut` writes only the head, which no view shows, `pair_from` only what is behind all views.
unsafe impl Send for Memory {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for Memory {}

impl Memory {
    fn map(len: usize) -> std::io::Result<Memory> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let base = NonNull::new(base.cast::<u8>()).expect("mmap gives no null");
        Ok(Memory { base, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn address(&self, start: usize) -> *mut u8 {
        assert!(start <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.base.as_ptr().add(start) }
    }

    fn slice(&self, start: usize, len: usize) -> &[u8] {
        assert!(start + len <= self.len);
        // SAFETY: in bounds and initialised (anonymous pages are zero). Nobody writes the range
        // meanwhile, by the rules of `Pool` stated at `Send`.
        unsafe { std::slice::from_raw_parts(self.address(start), len) }
    }

    #[allow(clippy::mut_from_ref)]
    fn slice_mut(&self, start: usize, len: usize) -> &mut [u8] {
        assert!(start + len <= self.len);
        // SAFETY: in bounds; only `Pool` calls this, from `&mut self`, after checking that no
        // operation and no view uses the range.
        unsafe { std::slice::from_raw_parts_mut(self.address(start), len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`; the last `Arc` is gone, so no slice of it lives, and the
        // ring was drained before its pool was dropped.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        let each = 4 << 20;
        Pool::new(Quotas { write: each, receive: each, tail: each, read: each }).unwrap()
    }

    #[test]
    fn slots_are_aligned_disjoint_and_joined_again() {
        let mut pool = pool();
        let mut held = Vec::new();
        for (i, len) in [1, 4096, 4097, 100_000, 1 << 20].into_iter().enumerate() {
            let slot = pool.take(Purpose::Write, len).unwrap();
            pool.bytes_mut(slot).fill(i as u8 + 1);
            held.push((slot, i as u8 + 1));
        }
        for &(slot, mark) in &held {
            assert!(pool.bytes(slot).iter().all(|&b| b == mark));
            assert_eq!(pool.bytes(slot).as_ptr() as usize % PAGE_BYTES, 0);
        }
        held.into_iter().for_each(|(slot, _)| pool.release(slot));
        assert_eq!(pool.used(Purpose::Write), 0);
        assert!(pool.take(Purpose::Write, SLOT_BYTES_MAX).is_some());
    }

    #[test]
    fn a_quota_stops_one_purpose_only() {
        let mut pool = pool();
        assert!(pool.take(Purpose::Read, SLOT_BYTES_MAX).is_some());
        assert!(pool.take(Purpose::Read, 1).is_none());
        assert!(pool.take(Purpose::Write, 1).is_some());
    }

    #[test]
    fn a_view_keeps_its_slot_until_it_is_dropped_elsewhere() {
        let mut pool = pool();
        pool.poison_freed();
        let slot = pool.take(Purpose::Tail, 8192).unwrap();
        pool.bytes_mut(slot).fill(7);
        let view = pool.view(slot, 512..8192).unwrap();
        pool.release(slot);
        pool.head_mut(slot).fill(1);
        assert_eq!(pool.used(Purpose::Tail), 8192);
        std::thread::spawn(move || assert!(view.iter().all(|&b| b == 7))).join().unwrap();
        pool.collect();
        assert_eq!(pool.used(Purpose::Tail), 0);
    }

    #[test]
    #[should_panic(expected = "slot is shared")]
    fn a_slot_in_flight_is_not_changed() {
        let mut pool = pool();
        let slot = pool.take(Purpose::Write, 4096).unwrap();
        pool.pin_read(Run { slot, at: 0, len: 4096 });
        pool.bytes_mut(slot);
    }

    #[test]
    fn what_is_behind_all_readers_of_a_slot_may_change() {
        let mut pool = pool();
        let (from, to) = (pool.take(Purpose::Write, 4096), pool.take(Purpose::Write, 4096));
        let (from, to) = (from.unwrap(), to.unwrap());
        pool.bytes_mut(from).fill(3);
        pool.bytes_mut(to).fill(1);
        let run = Run { slot: to, at: 512, len: 1000 };
        pool.pin_read(run);
        let (bytes, free) = pool.pair_from(from, to, 1512);
        free[..100].copy_from_slice(&bytes[..100]);
        assert!(pool.pinned(run).iter().all(|&b| b == 1));
        pool.unpin_read(run);
        assert_eq!(pool.bytes(to)[1511..1513], [1, 3]);
        // Nobody reads it any more.
        pool.pair_from(from, to, 512).1.fill(2);
    }

    #[test]
    #[should_panic(expected = "somebody reads what is to change")]
    fn what_a_view_shows_is_not_changed() {
        let mut pool = pool();
        let (from, to) = (pool.take(Purpose::Write, 4096), pool.take(Purpose::Write, 4096));
        let (from, to) = (from.unwrap(), to.unwrap());
        let _view = pool.view(to, 512..1520).unwrap();
        pool.pair_from(from, to, 1512);
    }
}
