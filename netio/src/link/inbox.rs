//! Bytes on their way into one link, and the frames in them.

use super::event::{Frame, Framing};
use crate::frame::{FrameError, FrameHead, FrameLimits};
use crate::limits::{
    FIRST_SLOT_BYTES, FRAME_BULK_HEAD_BYTES, FRAME_HEAD_BYTES, INBOX_BYTES, SURPLUS_BYTES_MAX,
};
use crate::op::Run;
use crate::pool::{PAGE_BYTES, Pool, Purpose, SlotId};

/// Where the next bytes of a connection may go.
pub(crate) enum Room {
    /// Here.
    Run(Run),
    /// Nowhere until slots for receiving come free.
    Starved,
    /// Nowhere ever: the frame of so many bytes is above the quota.
    Never(usize),
}

pub(crate) struct Inbox {
    framing: Framing,
    limits: FrameLimits,
    slot: Option<SlotId>,
    filled: u32,
    parsed: u32,
    /// Length of the unfinished frame at `parsed`, once its head is known.
    need: usize,
    /// Slotted: the slot of the last frame given out.
    handed: Option<SlotId>,
    /// Slotted: bytes beyond a frame for which no slot was free.
    spill: Vec<u8>,
}

impl Inbox {
    pub(crate) fn new(framing: Framing) -> Inbox {
        let mut inbox = Inbox {
            framing,
            limits: FrameLimits::ANY,
            slot: None,
            filled: 0,
            parsed: 0,
            need: 0,
            handed: None,
            spill: Vec::new(),
        };
        inbox.set_framing(framing);
        inbox
    }

    /// Changes how the following frames arrive.
    pub(crate) fn set_framing(&mut self, framing: Framing) {
        assert!(self.filled == self.parsed && self.spill.is_empty(), "bytes are waiting");
        self.framing = framing;
        self.limits = match framing {
            Framing::Packed => FrameLimits::ANY,
            Framing::Slotted => FrameLimits::BULK,
            Framing::Exact => FrameLimits::GREETING,
        };
    }

    /// Takes back the slot of the last frame.
    pub(crate) fn release_handed(&mut self, pool: &mut Pool) {
        if let Some(slot) = self.handed.take() {
            pool.release(slot);
        }
    }

    /// Whether bytes wait for a slot before they can be read as frames.
    pub(crate) fn has_spill(&self) -> bool {
        !self.spill.is_empty()
    }

    /// The next whole frame. No receive may be in flight.
    pub(crate) fn next_frame(&mut self, pool: &mut Pool) -> Result<Option<Frame>, FrameError> {
        self.release_handed(pool);
        self.unspill(pool);
        let Some(slot) = self.slot else {
            return Ok(None);
        };
        let at = self.parsed as usize;
        let bytes = &pool.bytes(slot)[at..self.filled as usize];
        let head = match FrameHead::parse(bytes, &self.limits) {
            Ok(head) => head,
            Err(FrameError::Short { need }) => {
                self.need = need;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (start, len) = (usize::from(head.head_len), head.frame_len());
        self.need = len;
        let Some(body) = bytes.get(start..len) else {
            return Ok(None);
        };
        head.check_body(body)?;
        self.need = 0;
        let run = |from: usize, len: usize| Run { slot, at: (at + from) as u32, len: len as u32 };
        let frame = Frame {
            head,
            slot,
            prefix: run(FRAME_HEAD_BYTES, start - FRAME_HEAD_BYTES),
            body: run(start, len - start),
        };
        self.parsed += len as u32;
        if self.framing == Framing::Slotted {
            self.hand_over(pool, slot);
        }
        Ok(Some(frame))
    }

    /// Where the next receive goes. No receive may be in flight, and [`Inbox::next_frame`] has
    /// given all there was.
    pub(crate) fn room(&mut self, pool: &mut Pool) -> Room {
        if self.has_spill() {
            return Room::Starved;
        }
        let least = match self.framing {
            Framing::Packed => INBOX_BYTES,
            Framing::Slotted => FIRST_SLOT_BYTES,
            Framing::Exact => PAGE_BYTES,
        };
        let wanted = self.need.max(least);
        let bytes = Pool::slot_bytes(wanted);
        // While a frame moves to a bigger slot, both are held.
        let held = self.slot.map_or(0, |slot| pool.capacity(slot));
        let moving = if self.filled > self.parsed && held < bytes { held } else { 0 };
        if bytes + moving > pool.quota(Purpose::Receive) {
            return Room::Never(self.need);
        }
        let Some(slot) = self.place(pool, wanted, bytes) else {
            return Room::Starved;
        };
        let capacity = pool.capacity(slot);
        let end = match self.framing {
            Framing::Packed => capacity,
            Framing::Slotted => {
                (self.need.max(FRAME_BULK_HEAD_BYTES) + SURPLUS_BYTES_MAX).min(capacity)
            }
            Framing::Exact => self.need.max(FRAME_HEAD_BYTES),
        };
        Room::Run(Run { slot, at: self.filled, len: end as u32 - self.filled })
    }

    /// A receive into the room put `bytes` there.
    pub(crate) fn received(&mut self, bytes: u32) {
        self.filled += bytes;
    }

    /// Forgets everything, for the next connection.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        self.release_handed(pool);
        if let Some(slot) = self.slot.take() {
            pool.release(slot);
        }
        (self.filled, self.parsed, self.need) = (0, 0, 0);
        self.spill.clear();
    }

    /// A slot for `wanted` bytes that starts with what is not yet parsed.
    fn place(&mut self, pool: &mut Pool, wanted: usize, bytes: usize) -> Option<SlotId> {
        let rest = self.filled - self.parsed;
        if let Some(slot) = self.slot {
            let alone = pool.owners(slot) == 1;
            let capacity = pool.capacity(slot);
            if alone && capacity >= wanted && (rest > 0 || capacity == bytes) {
                if self.parsed > 0 && rest > 0 {
                    let (from, to) = (self.parsed as usize, self.filled as usize);
                    pool.bytes_mut(slot).copy_within(from..to, 0);
                }
                (self.filled, self.parsed) = (rest, 0);
                return Some(slot);
            }
            if rest == 0 {
                // Before the new one is taken, or a tight quota would refuse it.
                pool.release(slot);
                self.slot = None;
            }
        }
        let next = pool.take(Purpose::Receive, wanted)?;
        if let Some(old) = self.slot {
            pool.copy(Run { slot: old, at: self.parsed, len: rest }, next);
            pool.release(old);
        }
        self.slot = Some(next);
        (self.filled, self.parsed) = (rest, 0);
        Some(next)
    }

    /// Slotted: parts the slot of a whole frame from the bytes beyond it.
    fn hand_over(&mut self, pool: &mut Pool, slot: SlotId) {
        let (end, filled) = (self.parsed as usize, self.filled as usize);
        assert!(filled - end <= FIRST_SLOT_BYTES, "more surplus than was asked for");
        self.spill.extend_from_slice(&pool.bytes(slot)[end..filled]);
        let page_end = end.next_multiple_of(PAGE_BYTES);
        pool.bytes_mut(slot)[end..page_end].fill(0);
        self.handed = Some(slot);
        self.slot = None;
        (self.filled, self.parsed) = (0, 0);
        self.unspill(pool);
    }

    fn unspill(&mut self, pool: &mut Pool) {
        if self.spill.is_empty() {
            return;
        }
        assert!(self.slot.is_none(), "spilt bytes come before those in a slot");
        let Some(slot) = pool.take(Purpose::Receive, FIRST_SLOT_BYTES) else {
            return;
        };
        pool.bytes_mut(slot)[..self.spill.len()].copy_from_slice(&self.spill);
        self.slot = Some(slot);
        self.filled = self.spill.len() as u32;
        self.spill.clear();
    }
}
